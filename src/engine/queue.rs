//! The bounded queue in front of the writer thread, and what waits in it.
//!
//! It does not know what the writer does with a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::engine::define::{DefineJob, Defined};
use crate::engine::erase::{EraseJob, Erasure};
use crate::engine::error::Problem;
use crate::engine::idempotency::Idempotency;
use crate::engine::load::{Committed, LoadJob, LoadedRows};
use crate::engine::seal::ManifestChange;
use crate::engine::writes::Accepted;
use crate::history::backup::Pinned;
use crate::history::record::EncodedRequest;
use crate::ids::{ProjectId, Sequence, ViewId};
use crate::limits::Limits;
use crate::metrics::{Code, Metrics};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// What the writer is asked to do.
pub(super) enum Job {
    /// Write rows.
    Write(WriteJob),
    /// Change definitions.
    Define(DefineJob, Reply<Defined>),
    /// Erase an entity.
    Erase(EraseJob, Reply<Erasure>),
    /// Make everything written durable and write the manifest with a new control snapshot,
    /// because a checkpoint is about to count.
    SaveControl(Reply<()>),
    /// Make a load history.
    Load(LoadJob, Reply<Arc<Committed>>),
    /// Bring rows of a load online; the answer is how many changed something.
    ApplyLoaded(LoadedRows, Reply<u64>),
    /// Replace the manifest, because history was sealed; the answer names the segments of the log
    /// that were struck from it.
    ChangeManifest(ManifestChange, Reply<Vec<Sequence>>),
    /// Make everything written durable and hold it for a backup.
    Pin(Reply<Pinned>),
    /// Sync and end.
    Stop,
}

/// One request's rows.
pub(super) struct WriteJob {
    pub(super) request: EncodedRequest,
    pub(super) project: ProjectId,
    /// The registry the rows were checked against.
    pub(super) revision: u64,
    pub(super) views: Vec<ViewId>,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) reply: Reply<Accepted>,
}

/// The callers' end.
pub(super) struct Queue {
    jobs: Sender<Job>,
    /// The writer's end once more: what is left there when the writer is gone is dropped, so that
    /// nobody waits for an answer that cannot come.
    left_over: Receiver<Job>,
    closed: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
    bytes_limit: usize,
    requests_limit: usize,
    metrics: Arc<Metrics>,
}

/// The writer's end.
pub(super) struct Waiting {
    pub(super) jobs: Receiver<Job>,
    closed: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// Both ends of a queue with the limits of the configuration.
pub(super) fn queue(limits: &Limits, metrics: &Arc<Metrics>) -> (Queue, Waiting) {
    let (sender, receiver) = bounded(limits.queue_requests);
    let bytes = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(AtomicBool::new(false));
    let queue = Queue {
        jobs: sender,
        left_over: receiver.clone(),
        closed: closed.clone(),
        bytes: bytes.clone(),
        bytes_limit: limits.queue_bytes,
        requests_limit: limits.queue_requests,
        metrics: metrics.clone(),
    };
    (queue, Waiting { jobs: receiver, closed, bytes, metrics: metrics.clone() })
}

impl Queue {
    /// Puts rows into the queue, without waiting for a place; refuses them where there is none.
    pub(super) fn write(&self, job: WriteJob) -> Result<(), Problem> {
        let length = job.request.length();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        // A request larger than the whole budget is let in when nothing else waits.
        if before > 0 && before + length > self.bytes_limit {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            let waiting = format!("{before} bytes of writes are waiting");
            return Err(self.full(&waiting, "limits.queue_bytes", self.bytes_limit));
        }
        self.metrics.queue_requests.add(1);
        match self.jobs.try_send(Job::Write(job)) {
            Ok(()) => {
                self.metrics.queue_bytes.set(self.bytes.load(Ordering::Relaxed) as u64);
                self.drop_if_closed();
                Ok(())
            }
            Err(error) => {
                self.bytes.fetch_sub(length, Ordering::Relaxed);
                self.metrics.queue_requests.subtract(1);
                Err(match error {
                    TrySendError::Full(_) => {
                        let waiting = format!("{} requests are waiting", self.requests_limit);
                        self.full(&waiting, "limits.queue_requests", self.requests_limit)
                    }
                    TrySendError::Disconnected(_) => stopped(),
                })
            }
        }
    }

    fn full(&self, waiting: &str, limit_name: &str, limit: usize) -> Problem {
        self.metrics.queue_full.increment();
        let detail = format!("{waiting} for the disk, the limit {limit_name} is {limit}");
        Problem::new(Code::QueueFull, detail)
    }

    /// Puts any other job into the queue, waiting for a place; those are few. It may block, so it
    /// is called on threads that may.
    pub(super) fn send(&self, job: Job) -> Result<(), Problem> {
        self.jobs.send(job).map_err(|_| stopped())?;
        self.drop_if_closed();
        Ok(())
    }

    /// The same, and waits for the answer.
    pub(super) fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.send(job(reply))?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }

    fn drop_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) {
            while self.left_over.try_recv().is_ok() {}
        }
    }
}

impl Waiting {
    /// Says that the writer takes no more, and drops what waits.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        while self.jobs.try_recv().is_ok() {}
    }

    /// Gives back the place of rows that left the queue.
    pub(super) fn left(&self, job: &WriteJob) {
        let length = job.request.length();
        let before = self.bytes.fetch_sub(length, Ordering::Relaxed);
        self.metrics.queue_bytes.set(before.saturating_sub(length) as u64);
        self.metrics.queue_requests.subtract(1);
    }
}

/// The writer is gone.
pub(super) fn stopped() -> Problem {
    Problem::new(
        Code::WritesStopped,
        "writes have stopped until a restart; a write in flight was not acknowledged and may or \
         may not be there",
    )
}
