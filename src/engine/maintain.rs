//! Work beside the requests: copies the online map to the checkpoint every so often, moves rows of
//! the disk tier out of memory, and rebuilds that tier after a loss.
//!
//! It does not know how a checkpoint or the tier is stored; it decides when something is done.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::oneshot;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::engine::apply::{Applier, ApplyError};
use crate::engine::error::Problem;
use crate::engine::queue::{Job, Queue, stopped};
use crate::engine::shared::Shared;
use crate::engine::stores::SharedTier;
use crate::history::ReadError;
use crate::history::record::Record;
use crate::ids::Sequence;
use crate::metrics::WritesState;
use crate::time::{Span, Stopwatch};

/// How often rows of the disk tier are moved out of memory.
const MOVE_EVERY: Duration = Duration::from_millis(200);

/// Rows written to a checkpoint under one pin of their map.
const ROWS_PER_PIN: usize = 1024;

/// The threads beside the writer.
pub(super) struct Maintenance {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
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
        let mover = shared.clone();
        let mut checkpointer = Checkpointer { shared, queue, checkpoints, covered };
        let threads = vec![
            spawn("larder-mover", move |stop| move_rows(&mover, stop))?,
            spawn("larder-checkpoint", move |stop| checkpointer.run(interval, stop))?,
        ];
        Ok(Self { threads })
    }

    /// Moves what waits, makes a last checkpoint and ends.
    pub(super) fn stop(self) {
        for (stop, thread) in self.threads {
            // A thread may have ended by itself; then there is nothing to stop.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

fn spawn(
    name: &str,
    work: impl FnOnce(&Receiver<()>) + Send + 'static,
) -> io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = bounded(1);
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(error) = rustix::process::nice(10) {
            tracing::debug!(%error, "a maintenance thread keeps its normal priority");
        }
        work(&stopped);
    })?;
    Ok((stop, thread))
}

/// Keeps the overlay of the disk tier small, and rebuilds the tier where it failed.
fn move_rows(shared: &Shared, stop: &Receiver<()>) {
    let mut failures = Pause::default();
    let mut stopping = false;
    while !stopping {
        stopping = !matches!(stop.recv_timeout(MOVE_EVERY), Err(RecvTimeoutError::Timeout));
        if let Some(tier) = shared.stores.tier() {
            if tier.is_broken() && !stopping && failures.may_try() {
                match rebuild(shared, tier, stop) {
                    true => failures = Pause::default(),
                    false => failures.lengthen(),
                }
            }
            while tier.move_some(|| shared.history.durable()) > 0 {}
        }
    }
}

/// Grows with every rebuild that fails, so that a disk that cannot be mended is not kept busy.
#[derive(Default)]
struct Pause {
    since: Option<(Stopwatch, Duration)>,
}

impl Pause {
    fn may_try(&self) -> bool {
        self.since.is_none_or(|(failed, pause)| failed.elapsed() >= pause)
    }

    fn lengthen(&mut self) {
        let before = self.since.map_or(Duration::from_millis(500), |(_, pause)| pause);
        self.since = Some((Stopwatch::start(), (before * 2).min(Duration::from_secs(60))));
    }
}

/// Empties the tier and puts every row of history again, beside the writer, which puts new ones.
/// Returns whether the tier holds everything now.
fn rebuild(shared: &Shared, tier: &SharedTier, stop: &Receiver<()>) -> bool {
    let watch = Stopwatch::start();
    tier.start_rebuild();
    if tier.is_broken() {
        return false;
    }
    let mut applier = Applier::default();
    let mut revision = None;
    let replayed = shared.history.replay::<RebuildError>(Sequence::ZERO, |frame| {
        if tier.is_broken() || !stop.is_empty() {
            return Err(RebuildError::Interrupted);
        }
        let registry = shared.registry.load();
        if revision != Some(registry.revision()) {
            revision = Some(registry.revision());
            applier = Applier::default();
            applier.take_up(&registry, &shared.stores);
        }
        let unreadable = |error| frame.unreadable(&error);
        for request in frame.requests().map_err(unreadable)? {
            for record in request.map_err(unreadable)?.records() {
                if let (sequence, Record::Row(row)) = record.map_err(unreadable)?
                    && applier.is_on_disk(row.view)
                {
                    applier.apply(&row, sequence, false)?;
                }
            }
        }
        tier.relieve(|| shared.history.durable());
        Ok(())
    });
    match replayed {
        Ok(()) if !tier.is_broken() => {
            tier.tier.finish_rebuild();
            let took_ms = watch.elapsed().as_millis() as u64;
            tracing::info!(took_ms, "the disk tier is rebuilt");
            true
        }
        Ok(()) => false,
        Err(error) => {
            tracing::warn!(%error, "the disk tier is not rebuilt yet; history goes on answering");
            tier.broke("its rebuild did not come to its end");
            false
        }
    }
}

/// Why the disk tier cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
enum RebuildError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Row(#[from] ApplyError),
    #[error("the server stops, or the tier failed again")]
    Interrupted,
}

impl Checkpointer {
    fn run(&mut self, interval: Span, stop: &Receiver<()>) {
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
        let stopped = self.shared.metrics.writes() == WritesState::Stopped;
        if stopped || self.shared.visible() == self.covered {
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
            // Keys first: while a pin is held, rows that are replaced meanwhile stay in memory.
            let keys: Vec<Box<[u8]>> = map.pin().iter().map(|(key, _)| key.into()).collect();
            for some in keys.chunks(ROWS_PER_PIN) {
                let map = map.pin();
                for key in some {
                    if let Some(state) = map.get(key) {
                        generation.add(view, key, state)?;
                    }
                }
            }
        }
        // Before the checkpoint counts, what is in it must be durable in history, and its
        // definitions in the manifest.
        self.ask(Job::SaveControl)?;
        // Only now: a group that was being applied during the scan has been numbered since.
        generation.finish(self.shared.visible())?;
        Ok(covered)
    }

    fn ask(&self, job: impl FnOnce(super::queue::Reply<()>) -> Job) -> Result<(), Problem> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(job(reply))?;
        answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))
    }
}
