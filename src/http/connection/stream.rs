//! The bytes of one connection: reports when they come and go, and says in the words of this
//! server what hyper refuses on its own, since hyper has only an empty 400 or 431 for it.
//!
//! It does not know what the bytes say, save that one answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use crate::engine::error::Problem;
use crate::http::connection::activity::Activity;
use crate::http::connection::{HEAD_BYTES, HEADERS};
use crate::http::problem;
use crate::metrics::{Code, Metrics};

/// A stream that is watched.
pub(super) struct Watched<I> {
    io: I,
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
    /// What is left to send of a refusal that replaces hyper's; once there is one, hyper sends
    /// nothing more.
    refusal: Option<Bytes>,
    /// The peer has been told that nothing more comes.
    shut: bool,
}

impl<I: Read + Write + Unpin> Watched<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>, metrics: Arc<Metrics>) -> Self {
        Self { io, activity, metrics, refusal: None, shut: false }
    }

    /// Whether `bytes` are a refusal of hyper's own, which then is replaced. An answer of this
    /// server is never taken for one: while one is owed, nothing is replaced.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if !self.activity.owes_nothing() {
            return false;
        }
        let Some(problem) = refusal(bytes) else { return false };
        self.metrics.error(problem.code);
        self.activity.refused();
        self.refusal = Some(Bytes::from(problem::alone(&problem)));
        true
    }

    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.refusal.as_mut().filter(|rest| !rest.is_empty()) {
            let sent = ready!(Pin::new(&mut self.io).poll_write(context, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the peer still sends until it goes: closing before would reset the connection,
    /// and perhaps the answer with it.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(context, buffer.unfilled()))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_sent(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.activity.sent(bytes);
        }
        polled
    }
}

/// What to say instead of these bytes, if they are a whole answer without a body that refuses.
fn refusal(bytes: &[u8]) -> Option<Problem> {
    let status = bytes.strip_prefix(b"HTTP/1.")?.get(1..5)?;
    let text = std::str::from_utf8(bytes.strip_suffix(b"\r\n\r\n")?).ok()?;
    if !text.lines().any(|line| line == "content-length: 0") {
        return None;
    }
    match status {
        b" 414" | b" 431" => {
            let detail = format!(
                "the head of the request has more than {HEAD_BYTES} bytes or {HEADERS} headers"
            );
            Some(Problem::new(Code::LimitExceeded, detail))
        }
        [b' ', b'4', ..] => {
            let detail = "the head of the request cannot be read as HTTP/1.1";
            Some(Problem::new(Code::MalformedRequest, detail))
        }
        _ => None,
    }
}

impl<I: Read + Unpin> Read for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.activity.received();
        }
        polled
    }
}

impl<I: Read + Write + Unpin> Write for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.poll_sent(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(context))?;
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(context))?;
        if !self.shut {
            ready!(Pin::new(&mut self.io).poll_shutdown(context))?;
            self.shut = true;
        }
        if self.refusal.is_some() { self.poll_rest(context) } else { Poll::Ready(Ok(())) }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal has no body, so hyper writes it in one piece.
        if let [head] = bytes
            && self.replaces(head)
        {
            return Poll::Ready(Ok(head.len()));
        }
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.poll_sent(polled)
    }
}
