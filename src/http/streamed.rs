//! An answer that is sent while it is made, by a thread of its own.
//!
//! It does not know what is in it, nor how the work gives way to lookups.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use crate::engine::error::Problem;
use crate::http::call::{AnswerBody, whole};
use crate::metrics::Code;

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait until the caller takes them.
const PIECES: usize = 4;

type Piece = Result<Bytes, BoxError>;

/// The last piece: an answer that just stops is not whole.
const END: Bytes = Bytes::new();

/// Has `make` write an answer; returns as soon as the first of it is there.
///
/// # Errors
/// What `make` says, if that is before anything was sent. What it says later breaks the answer off,
/// which the caller sees: it lacks its end.
pub(super) async fn make(
    make: impl FnOnce(Pieces) -> Result<(), Problem> + Send + 'static,
) -> Result<AnswerBody, Problem> {
    let (sender, mut receiver) = channel::<Piece>(PIECES);
    let ends = sender.clone();
    let pieces = Pieces { sender, piece: Vec::with_capacity(PIECE_BYTES) };
    let (say, said) = oneshot::channel();
    let making = move || {
        let made = make(pieces);
        // Where nothing was sent yet, the problem itself is the answer.
        let _ = ends.blocking_send(made.clone().map(|()| END).map_err(Into::into));
        let _ = say.send(made);
    };
    let started = thread::Builder::new().name("larder-answer".to_owned()).spawn(making);
    let failed = || Problem::new(Code::Internal, "the answer cannot be made");
    started.map_err(|_| failed())?;
    match receiver.recv().await {
        Some(Ok(first)) if !first.is_empty() => {
            // A short answer is sent as a whole, and says how long it is.
            let next = if first.len() < PIECE_BYTES { receiver.recv().await } else { None };
            match next {
                Some(Ok(end)) if end.is_empty() => Ok(whole(first)),
                next => {
                    let ready = [Some(Ok(first)), next].into_iter().flatten().collect();
                    Ok(AnswerBody::Right(Body::new(Rest { ready, receiver })))
                }
            }
        }
        _ => {
            let made = said.await.unwrap_or_else(|_| Err(failed()));
            made.map(|()| whole(Vec::new()))
        }
    }
}

/// Where the answer is written.
pub(super) struct Pieces {
    sender: Sender<Piece>,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the caller has gone"))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

/// The answer as it is made.
struct Rest {
    ready: VecDeque<Piece>,
    receiver: Receiver<Piece>,
}

impl HttpBody for Rest {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match self.ready.pop_front() {
            Some(piece) => Poll::Ready(Some(piece)),
            None => self.receiver.poll_recv(context),
        };
        polled.map(|piece| match piece {
            Some(Ok(piece)) if piece.is_empty() => None,
            Some(piece) => Some(piece.map(Frame::data)),
            None => Some(Err("the answer broke off".into())),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn failed() -> Problem {
        Problem::new(Code::Internal, "on purpose")
    }

    #[tokio::test]
    async fn what_is_written_arrives_and_a_failure_breaks_it_off() {
        let long = vec![7; 5 * PIECE_BYTES + 3];
        let written = long.clone();
        let whole = make(move |mut pieces| {
            pieces.write_all(&written).and_then(|()| pieces.flush()).map_err(|_| failed())
        });
        let found = whole.await.unwrap().collect().await.unwrap().to_bytes();
        assert_eq!(found.as_ref(), long);
        let broken = make(move |mut pieces| {
            pieces.write_all(&long).map_err(|_| failed())?;
            Err(failed())
        });
        assert!(broken.await.unwrap().collect().await.is_err());
    }

    #[tokio::test]
    async fn a_failure_before_anything_was_sent_is_the_answer() {
        let refused = make(|mut pieces| {
            pieces.write_all(b"not much").map_err(|_| failed())?;
            Err(failed())
        });
        assert_eq!(refused.await.unwrap_err(), failed());
    }

    #[tokio::test]
    async fn a_caller_that_goes_ends_the_work() {
        let (said, heard) = std::sync::mpsc::channel();
        let endless = make(move |mut pieces| {
            loop {
                if let Err(error) = pieces.write_all(&[0; PIECE_BYTES]) {
                    said.send(error.kind()).unwrap();
                    return Err(failed());
                }
            }
        });
        drop(endless.await.unwrap());
        let heard = tokio::task::spawn_blocking(move || heard.recv().unwrap()).await;
        assert_eq!(heard.unwrap(), io::ErrorKind::BrokenPipe);
    }
}
