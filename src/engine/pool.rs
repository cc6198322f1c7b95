//! A few threads of their own for work that reads files, so that none of it runs on a thread that
//! answers lookups.
//!
//! It does not know what the work is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam::channel::{Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::metrics::Code;

type Work = Box<dyn FnOnce() + Send>;

/// A bounded queue of work and the threads that do it. They end when the pool is dropped.
pub(super) struct Pool {
    name: &'static str,
    queue: Sender<Work>,
}

impl Pool {
    /// Starts `threads` threads behind a queue of `waiting` places.
    pub(super) fn start(name: &'static str, threads: usize, waiting: usize) -> Self {
        let (queue, work) = bounded::<Work>(waiting);
        for number in 0..threads {
            let work = work.clone();
            let spawned = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || work.iter().for_each(|work| work()));
            if let Err(error) = spawned {
                tracing::error!(name, %error, "cannot start a thread of the pool");
            }
        }
        Self { name, queue }
    }

    /// Does `work` on one of the threads and waits for it, at most until `deadline`. Work whose
    /// deadline passed in the queue is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let guarded: Work = Box::new(move || {
            if !deadline.remaining().is_zero() && !reply.is_closed() {
                // A panic must cost one request, not the thread.
                let _ = reply.send(catch_unwind(AssertUnwindSafe(work)).ok());
            }
        });
        match self.queue.try_send(guarded) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let detail = format!("too many reads are waiting for the {} threads", self.name);
                return Err(Problem::new(Code::Overloaded, detail));
            }
            Err(TrySendError::Disconnected(_)) => {
                return Err(Problem::new(Code::Draining, "the server is shutting down"));
            }
        }
        match deadline.bound(answer).await? {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Problem::new(Code::Internal, "the read failed; nothing was written")),
            Err(_) => Err(Problem::deadline_exceeded()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let pool = Pool::start("test", 1, 4);
        let deadline = || Deadline::after(Span::from_seconds(10));
        let failed = pool.run(deadline(), || panic!("on purpose")).await;
        assert_eq!(failed.map(|(): ()| ()).unwrap_err().code, Code::Internal);
        assert_eq!(pool.run(deadline(), || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_full_queue_and_a_passed_deadline_answer_at_once() {
        let pool = Pool::start("test", 1, 1);
        let soon = || Deadline::after(Span::from_micros(20_000));
        let (release, held) = crossbeam::channel::bounded::<()>(0);
        let (begun, begins) = crossbeam::channel::bounded::<()>(1);
        let busy = move || {
            let _ = begun.send(());
            let _ = held.recv();
        };
        assert_eq!(pool.run(soon(), busy).await.unwrap_err().code, Code::DeadlineExceeded);
        begins.recv().unwrap();
        assert_eq!(pool.run(soon(), || ()).await.unwrap_err().code, Code::DeadlineExceeded);
        assert_eq!(pool.run(soon(), || ()).await.unwrap_err().code, Code::Overloaded);
        drop(release);
    }
}
