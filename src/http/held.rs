//! Counts the bytes of request bodies that are held at once, over all connections, and refuses
//! those beyond the limit.
//!
//! It does not know what bodies are for, nor waits for room.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::error::Problem;
use crate::limits::Limits;
use crate::metrics::{Code, Metrics};

/// Counts `bytes` of a body; whoever does so gives them back.
///
/// # Errors
/// `OVERLOADED` past `limits.held_body_bytes`; then nothing is counted.
pub(super) fn hold(limits: &Limits, metrics: &Metrics, bytes: usize) -> Result<(), Problem> {
    let (bytes, limit) = (bytes as u64, limits.held_body_bytes);
    let before = metrics.held_body_bytes.add(bytes);
    if before.saturating_add(bytes) <= limit {
        return Ok(());
    }
    metrics.held_body_bytes.subtract(bytes);
    let detail = format!(
        "{before} bytes of request bodies are held and {bytes} more came, the limit \
         limits.held_body_bytes is {limit}"
    );
    Err(Problem::new(Code::Overloaded, detail))
}

/// Bytes of one body, counted until this is dropped.
pub(super) struct Held {
    metrics: Arc<Metrics>,
    bytes: u64,
}

impl Held {
    /// Nothing yet.
    pub(super) fn nothing(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), bytes: 0 }
    }

    /// Counts `bytes` more.
    ///
    /// # Errors
    /// Those of [`hold`].
    pub(super) fn add(&mut self, limits: &Limits, bytes: usize) -> Result<(), Problem> {
        hold(limits, &self.metrics, bytes)?;
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Gives all of it back.
    pub(super) fn release(&mut self) {
        self.metrics.held_body_bytes.subtract(std::mem::take(&mut self.bytes));
    }

    /// A body that is counted for as long as anything of it is kept.
    pub(super) fn with(self, body: Vec<u8>) -> Bytes {
        Bytes::from_owner(Body { body, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

struct Body {
    body: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Clock, SystemClock};

    #[test]
    fn what_is_held_is_counted_until_the_last_of_it_is_dropped() {
        let limits = Limits { held_body_bytes: 10, ..Limits::default() };
        let metrics = Metrics::new(SystemClock.now());
        let held = || metrics.held_body_bytes.get();
        let mut first = Held::nothing(&metrics);
        first.add(&limits, 6).unwrap();
        first.add(&limits, 1).unwrap();
        let mut second = Held::nothing(&metrics);
        let problem = second.add(&limits, 4).unwrap_err();
        assert_eq!((problem.code, problem.retry_after), (Code::Overloaded, Some(1)));
        let said = "7 bytes of request bodies are held and 4 more came, the limit \
                    limits.held_body_bytes is 10";
        assert_eq!(problem.detail, said);
        second.add(&limits, 3).unwrap();
        assert_eq!(held(), 10);
        let body = first.with(b"1234567".to_vec());
        let part = body.slice(1..2);
        drop(body);
        assert_eq!((part.as_ref(), held()), (b"2".as_slice(), 10));
        drop(part);
        assert_eq!(held(), 3);
        drop(second);
        assert_eq!(held(), 0);
    }
}
