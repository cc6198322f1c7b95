//! The name of one request, given by the caller or made up, that logs and answers carry.
//!
//! It does not know requests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header it comes and goes in.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a caller, in bytes.
const LONGEST: usize = 128;

/// The caller's id if it is short printable ASCII, else a new one.
pub(super) fn of(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(&HEADER).filter(|value| {
        let bytes = value.as_bytes();
        let printable = bytes.iter().all(|byte| byte.is_ascii_graphic());
        !bytes.is_empty() && bytes.len() <= LONGEST && printable
    });
    given.cloned().unwrap_or_else(new)
}

/// The id as text.
pub(super) fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or("")
}

/// A new id: 8 hex digits for this start of the server, 8 that count.
pub(super) fn new() -> HeaderValue {
    static START: OnceLock<u32> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let start = START.get_or_init(|| {
        let mut bytes = [0; 4];
        // Without randomness ids of two starts may be alike, which costs only clarity.
        let _ = getrandom::fill(&mut bytes);
        u32::from_le_bytes(bytes)
    });
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let number = u64::from(*start) << 32 | count & u64::from(u32::MAX);
    let digit = |place: usize| b"0123456789abcdef"[(number >> (60 - 4 * place) & 15) as usize];
    let digits: [u8; 16] = std::array::from_fn(digit);
    HeaderValue::from_bytes(&digits).expect("hex digits are a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_ids_are_kept_and_others_replaced() {
        let check = |given: &[u8], kept: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(given).unwrap());
            assert_eq!(of(&headers).as_bytes() == given, kept, "{given:?}");
        };
        check(b"abc-123", true);
        check(&[b'x'; 128], true);
        check(&[b'x'; 129], false);
        check(b"", false);
        check(b"a b", false);
        check(b"caf\xe9", false);
        let (first, second) = (of(&HeaderMap::new()), of(&HeaderMap::new()));
        let number = |id: &HeaderValue| u64::from_str_radix(text(id), 16).unwrap();
        assert_eq!((text(&first).len(), number(&first) < number(&second)), (16, true));
    }
}
