//! Work beside the requests: copies the online map to the checkpoint every so often.
//!
//! It does not know how a checkpoint is stored; it decides when one is made and what it covers.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::oneshot;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::engine::error::Problem;
use crate::engine::queue::{Job, Queue, stopped};
use crate::engine::shared::Shared;
use crate::ids::Sequence;
use crate::time::{Span, Stopwatch};

/// The checkpoint thread.
pub(super) struct Maintenance {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

struct Checkpointer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    checkpoints: Arc<dyn Checkpoint>,
    /// What the newest checkpoint covers.
    covered: Sequence,
}

/// Why a checkpoint was not made; history rebuilds what it would have held.
#[derive(Debug, thiserror::Error)]
enum MaintainError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Writer(#[from] Problem),
}

impl Maintenance {
    /// Starts the thread. `covered` is what the checkpoint that was loaded covers.
    pub(super) fn start(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        checkpoints: Arc<dyn Checkpoint>,
        covered: Sequence,
        interval: Span,
    ) -> io::Result<Self> {
        let (stop, stopped) = bounded(1);
        let mut checkpointer = Checkpointer { shared, queue, checkpoints, covered };
        let thread = thread::Builder::new()
            .name("larder-checkpoint".to_owned())
            .spawn(move || checkpointer.run(interval, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Makes a last checkpoint and ends.
    pub(super) fn stop(self) {
        // The thread may have ended by itself; then there is nothing to stop.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

impl Checkpointer {
    fn run(&mut self, interval: Span, stop: &Receiver<()>) {
        if let Err(error) = rustix::process::nice(10) {
            tracing::debug!(%error, "the checkpoint thread keeps its normal priority");
        }
        loop {
            let stopping = match stop.recv_timeout(interval.to_std()) {
                Err(RecvTimeoutError::Timeout) => false,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            };
            self.save_if_changed();
            if stopping {
                return;
            }
        }
    }

    fn save_if_changed(&mut self) {
        if self.shared.visible() == self.covered {
            return;
        }
        let metrics = &self.shared.metrics;
        let watch = Stopwatch::start();
        match self.save() {
            Ok(covered) => {
                self.covered = covered;
                metrics.checkpoints.increment();
                metrics.checkpoint_sequence.set(covered.0);
                metrics.checkpoint_completed.set_time(self.shared.clock.now());
                let took_ms = watch.elapsed().as_millis() as u64;
                tracing::info!(sequence = covered.0, took_ms, "checkpoint completed");
            }
            Err(error) => {
                metrics.checkpoint_failures.increment();
                tracing::warn!(%error, "checkpoint failed; a restart replays more of history");
            }
        }
    }

    fn save(&self) -> Result<Sequence, MaintainError> {
        let covered = self.shared.visible();
        let mut generation = self.checkpoints.begin(self.shared.history.store(), covered)?;
        for (view, map) in self.shared.stores.online.views() {
            let map = map.pin();
            for (key, state) in map.iter() {
                generation.add(view, key, state)?;
            }
        }
        let highest = self.shared.visible();
        // What is in the checkpoint must be durable in history, and its definitions in the manifest,
        // before the checkpoint counts.
        self.ask(Job::SaveControl)?;
        generation.finish(highest)?;
        Ok(covered)
    }

    fn ask(&self, job: impl FnOnce(super::queue::Reply<()>) -> Job) -> Result<(), Problem> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(job(reply))?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }
}
