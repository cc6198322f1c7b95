//! Finds where the replies of Redis (RESP2) to a pipeline end.
//!
//! It does not know commands.

use memchr::memchr;

use crate::wire::{Answer, Progress};

/// Stands for the status of a pipeline with an error among its replies.
pub(crate) const REFUSED: u16 = 600;
/// Stands for the status of one without.
const FINE: u16 = 200;

/// Counts replies as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    replies: usize,
    at: usize,
    /// Elements the array under way still lacks.
    elements: usize,
    refused: bool,
}

/// One element of a reply, as it lies in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    Array(usize),
    Text(&'a [u8]),
    Nil,
    Number(i64),
    Simple,
    Error,
}

impl Reader {
    pub(crate) fn begin(&mut self, replies: usize) {
        *self = Self { replies, ..Self::default() };
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) -> Progress {
        while self.replies > 0 {
            let (element, length) = match element(&bytes[self.at..]) {
                Ok(Some(found)) => found,
                Ok(None) => return Progress::Partial,
                Err(broken) => return Progress::Broken(broken),
            };
            self.at += length;
            match element {
                Element::Array(elements) if elements > 0 && self.elements == 0 => {
                    self.elements = elements;
                    continue;
                }
                Element::Array(elements) if elements > 0 => {
                    return Progress::Broken("arrays within arrays");
                }
                Element::Error => self.refused = true,
                _ => {}
            }
            self.elements = self.elements.saturating_sub(1);
            if self.elements == 0 {
                self.replies -= 1;
            }
        }
        if bytes.len() > self.at {
            return Progress::Broken("bytes beyond the replies");
        }
        let status = if self.refused { REFUSED } else { FINE };
        Progress::Whole(Answer { length: self.at, body: 0, status, last: false })
    }
}

/// The element at the beginning of `bytes` and its length; none if it is not all there.
pub(crate) fn element(bytes: &[u8]) -> Result<Option<(Element<'_>, usize)>, &'static str> {
    let Some(end) = memchr(b'\n', bytes) else { return Ok(None) };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("a line without its end")?;
    let (kind, rest) = line.split_first().ok_or("an empty line")?;
    let after = end + 1;
    let count = || number(rest).ok_or("no number");
    let found = match kind {
        b'+' => (Element::Simple, after),
        b'-' => (Element::Error, after),
        b':' => (Element::Number(count()?), after),
        b'*' => (Element::Array(usize::try_from(count()?).unwrap_or(0)), after),
        b'$' => match usize::try_from(count()?) {
            Err(_) => (Element::Nil, after),
            Ok(length) if bytes.len() < after + length + 2 => return Ok(None),
            Ok(length) => (Element::Text(&bytes[after..after + length]), after + length + 2),
        },
        _ => return Err("no reply of Redis"),
    };
    Ok(Some(found))
}

/// Digits without the detour over text: this runs for every value.
fn number(text: &[u8]) -> Option<i64> {
    let (sign, digits) = text.strip_prefix(b"-").map_or((1, text), |digits| (-1, digits));
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut sum = 0;
    for digit in digits {
        sum = sum * 10 + i64::from(digit.checked_sub(b'0').filter(|value| *value < 10)?);
    }
    Some(sign * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_end_with_their_last_reply_however_they_are_cut() {
        let text = b"*2\r\n$2\r\nab\r\n$-1\r\n:7\r\n*0\r\n*1\r\n$0\r\n\r\n";
        for cut in 0..text.len() {
            let mut reader = Reader::default();
            reader.begin(4);
            assert_eq!(reader.read(&text[..cut]), Progress::Partial, "{cut}");
            let Progress::Whole(answer) = reader.read(text) else { panic!("{cut}") };
            assert_eq!((answer.length, answer.status), (text.len(), FINE));
        }
    }

    #[test]
    fn errors_and_nonsense_are_said() {
        let check = |text: &[u8], expected: Result<u16, &str>| {
            let mut reader = Reader::default();
            reader.begin(1);
            match (reader.read(text), expected) {
                (Progress::Whole(answer), Ok(status)) => assert_eq!(answer.status, status),
                (Progress::Broken(why), Err(expected)) => assert_eq!(why, expected),
                (found, _) => panic!("{found:?}"),
            }
        };
        check(b"-ERR no\r\n", Ok(REFUSED));
        check(b"+OK\r\n", Ok(FINE));
        check(b"+OK\r\n+OK\r\n", Err("bytes beyond the replies"));
        check(b"HTTP/1.1\r\n", Err("no reply of Redis"));
        check(b"*x\r\n", Err("no number"));
        check(b"+OK\n", Err("a line without its end"));
    }
}
