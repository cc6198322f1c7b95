//! One row of the online map: an entity key and a state in a single allocation.
//!
//! It does not know what a state says.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// Longest key, in bytes; `limits.key_bytes` lies far below.
pub(super) const KEY_BYTES: usize = 0x7fff;

/// Key length in one byte up to 127 or in two, then the key, then the state. The one-byte form
/// keeps the common row of 50 floats within 448 bytes, a size class of the allocator.
pub(super) struct Row(Box<[u8]>);

impl Row {
    pub(super) fn new(key: &[u8], state: &[u8]) -> Self {
        assert!(key.len() <= KEY_BYTES, "entity key of {} bytes", key.len());
        let prefix = if key.len() < 0x80 { 1 } else { 2 };
        let mut bytes = Vec::with_capacity(prefix + key.len() + state.len());
        if prefix == 2 {
            bytes.push(0x80 | high_byte(key.len()));
        }
        bytes.push(low_byte(key.len()));
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(state);
        Self(bytes.into_boxed_slice())
    }

    pub(super) fn key(&self) -> &[u8] {
        self.split().0
    }

    pub(super) fn state(&self) -> &[u8] {
        self.split().1
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let first = usize::from(self.0[0]);
        if first < 0x80 {
            return self.0[1..].split_at(first);
        }
        self.0[2..].split_at((first & 0x7f) << 8 | usize::from(self.0[1]))
    }
}

fn high_byte(length: usize) -> u8 {
    length.to_be_bytes()[size_of::<usize>() - 2]
}

fn low_byte(length: usize) -> u8 {
    length.to_be_bytes()[size_of::<usize>() - 1]
}

// A row is found by its key alone.
impl Borrow<[u8]> for Row {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Hash for Row {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Row {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_state_come_back_at_every_length() {
        for length in [0, 1, 9, 126, 127, 128, 129, 255, 256, 1024, KEY_BYTES] {
            let key = vec![0xff; length];
            for state in [&b""[..], b"s", &[0x80; 435]] {
                let row = Row::new(&key, state);
                assert_eq!(row.key(), key, "key of {length}");
                assert_eq!(row.state(), state, "key of {length}");
                let prefix = if length < 128 { 1 } else { 2 };
                assert_eq!(row.0.len(), prefix + length + state.len());
            }
        }
    }
}
