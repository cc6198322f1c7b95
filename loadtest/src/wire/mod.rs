//! What travels: requests as each protocol has them, where an answer ends, and whether it is right.
//!
//! It does not know sockets or clocks.

pub(crate) mod check;
pub(crate) mod http;
pub(crate) mod request;
pub(crate) mod resp;

/// How far an answer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More bytes have to come.
    Partial,
    /// It is there, this long.
    Whole(Answer),
    /// It is no answer.
    Broken(&'static str),
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its bytes, head included.
    pub(crate) length: usize,
    /// Where its body begins.
    pub(crate) body: usize,
    /// HTTP's; an error of Redis is [`resp::REFUSED`].
    pub(crate) status: u16,
    /// The connection ends with it.
    pub(crate) last: bool,
}

/// Finds where answers end, in either protocol.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    Http(http::Reader),
    Resp(resp::Reader),
}

impl Reader {
    /// Looks at all bytes of the answer that have come so far.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Progress {
        match self {
            Self::Http(reader) => reader.read(bytes),
            Self::Resp(reader) => reader.read(bytes),
        }
    }

    /// Begins the next answer.
    pub(crate) fn begin(&mut self, replies: usize) {
        match self {
            Self::Http(reader) => reader.begin(),
            Self::Resp(reader) => reader.begin(replies),
        }
    }
}
