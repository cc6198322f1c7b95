//! Finds where an HTTP/1.1 answer ends, and its status.
//!
//! It does not know what the body means. Only answers with a content length are understood, which
//! is what servers of small JSON documents send.

use memchr::{memchr, memmem};

use crate::wire::{Answer, Progress};

/// Longest head of an answer, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// Remembers the head while the body comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    head: Option<Answer>,
}

impl Reader {
    pub(crate) fn begin(&mut self) {
        self.head = None;
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) -> Progress {
        let answer = match &self.head {
            Some(answer) => answer,
            None => match head(bytes) {
                Ok(Some(answer)) => self.head.insert(answer),
                Ok(None) if bytes.len() > HEAD_BYTES => return Progress::Broken("endless head"),
                Ok(None) => return Progress::Partial,
                Err(broken) => return Progress::Broken(broken),
            },
        };
        if bytes.len() < answer.length {
            return Progress::Partial;
        }
        if bytes.len() > answer.length {
            return Progress::Broken("bytes beyond the answer");
        }
        Progress::Whole(answer.clone())
    }
}

fn head(bytes: &[u8]) -> Result<Option<Answer>, &'static str> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 ") && !head.starts_with(b"HTTP/1.0 ") {
        return Err("no status line");
    }
    let digits = head.get(9..12).ok_or("no status")?;
    let status = number(digits).ok_or("no status")?;
    let (mut length, mut last) = (None, false);
    let mut rest = after_line(head);
    while !rest.is_empty() {
        let line_end = memchr(b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..line_end];
        if let Some(value) = value(line, b"content-length:") {
            length = number(value.trim_ascii());
        } else if let Some(value) = value(line, b"connection:") {
            last = value.trim_ascii().eq_ignore_ascii_case(b"close");
        }
        rest = after_line(rest);
    }
    let body = end + 4;
    let length = body + length.ok_or("no content length")?;
    Ok(Some(Answer { length, body, status: status as u16, last }))
}

fn after_line(text: &[u8]) -> &[u8] {
    memchr(b'\n', text).map_or(&[], |end| &text[end + 1..])
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_their_length_says_however_they_are_cut() {
        let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for cut in 0..text.len() {
            let mut reader = Reader::default();
            assert_eq!(reader.read(&text[..cut]), Progress::Partial, "{cut}");
            let Progress::Whole(answer) = reader.read(text) else { panic!("{cut}") };
            assert_eq!((answer.status, &text[answer.body..]), (404, &b"hello"[..]));
            assert!(!answer.last);
        }
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let check = |text: &[u8], expected: &str| match Reader::default().read(text) {
            Progress::Broken(why) => assert_eq!(why, expected),
            other => panic!("{other:?}"),
        };
        check(b"SSH-2.0\r\n\r\n", "no status line");
        check(b"HTTP/1.1 abc\r\n\r\n", "no status");
        check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "no content length");
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", "bytes beyond the answer");
        check(&[b'x'; HEAD_BYTES + 1], "endless head");
        let close = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(Reader::default().read(close), Progress::Whole(answer) if answer.last));
    }
}
