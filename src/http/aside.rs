//! Threads for what takes long, so that those of the doors go on answering lookups.
//!
//! It does not know what is done there.

use std::future::Future;

use crate::engine::error::Problem;
use crate::http::call::Answered;
use crate::metrics::Code;

/// Bodies up to here are read on the thread they came to: it takes less than a millisecond.
pub(super) const QUICK_BYTES: usize = 64 << 10;

/// Does work that takes long on a thread that answers no lookups.
pub(super) async fn off_the_lookups<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Problem::new(Code::Draining, "the server is shutting down")),
    }
}

/// Answers a request whose body of so many bytes is there; if it is large, on a thread that
/// answers no lookups.
pub(super) async fn answer(
    body_bytes: usize,
    answering: impl Future<Output = Answered> + Send + 'static,
) -> Answered {
    if body_bytes <= QUICK_BYTES {
        return answering.await;
    }
    let runtime = tokio::runtime::Handle::current();
    off_the_lookups(move || runtime.block_on(answering)).await
}
