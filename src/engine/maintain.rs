//! Work beside the requests: copies the online map to the checkpoint every so often, moves rows of
//! the disk tier out of memory, and rebuilds that tier after a loss.
//!
//! It does not know how a checkpoint or the tier is stored; it decides when something is done.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::engine::apply::{Applier, ApplyError};
use crate::engine::error::Problem;
use crate::engine::queue::{Job, Queue};
use crate::engine::scrub::Scrubber;
use crate::engine::seal::{KeptCheckpoints, Sealing, Work};
use crate::engine::shared::Shared;
use crate::engine::stop::Stop;
use crate::engine::stores::SharedTier;
use crate::history::ReadError;
use crate::history::record::{Record, Row};
use crate::history::replay::{LoggedFrame, Replayed};
use crate::history::sealed::RowIn;
use crate::ids::{Sequence, ViewId};
use crate::metrics::{Metrics, WritesState};
use crate::priority::{self, Manner};
use crate::registry::model::Tier;
use crate::time::{Span, Stopwatch};

/// How often rows of the disk tier are moved out of memory.
const MOVE_EVERY: Duration = Duration::from_millis(200);

/// Rows written to a checkpoint under one pin of their map.
const ROWS_PER_PIN: usize = 1024;

/// How long a thread that is to end may show no progress before it is left behind: sled may hang,
/// and history has everything. Making tens of GiB durable on a slow disk takes minutes.
const STOP_PATIENCE: Duration = Duration::from_secs(300);

/// How long a thread that panicked rests before it begins anew.
const AFTER_PANIC: Duration = Duration::from_secs(10);

/// What a thread does until it is stopped. A panic ends one run; the next one is to find nothing
/// half done that it would believe.
type Run = dyn Fn(&Stop, &Progress) + Send;

/// The threads beside the writer.
pub(super) struct Maintenance {
    threads: Vec<Worker>,
}

struct Worker {
    name: &'static str,
    stop: Stopper,
    thread: JoinHandle<()>,
    /// Disconnected when the thread ends; a message says that it got on.
    progress: Receiver<()>,
}

/// Tells a thread to end when it is dropped.
struct Stopper(Arc<Stop>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.tell();
    }
}

/// Copies the online map to the checkpoint every so often.
pub(super) struct Checkpointer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) checkpoints: Arc<dyn Checkpoint>,
    pub(super) kept: Arc<KeptCheckpoints>,
    pub(super) interval: Span,
}

/// Tells whoever waits for a thread that it gets on.
struct Progress(Sender<()>);

impl Progress {
    fn made(&self) {
        // One message waiting says it all.
        let _ = self.0.try_send(());
    }
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
    /// Starts the threads.
    pub(super) fn start(
        shared: Arc<Shared>,
        checkpointer: Checkpointer,
        sealing: Sealing,
        scrubber: Scrubber,
    ) -> io::Result<Self> {
        let sealing = Arc::new(sealing);
        let merging = sealing.clone();
        let (low, idle) = (priority::low, priority::idle);
        let metrics = shared.metrics.clone();
        let spawn =
            |name, priority, work: Box<Run>| spawn((name, priority), &metrics, AFTER_PANIC, work);
        let move_rows = move |stop: &Stop, progress: &Progress| {
            let _guard = TierGuard(&shared);
            move_rows(&shared, stop, progress);
        };
        let checkpoint = move |stop: &Stop, progress: &Progress| checkpointer.run(stop, progress);
        let threads = vec![
            spawn("larder-mover", low, Box::new(move_rows))?,
            spawn("larder-checkpoint", low, Box::new(checkpoint))?,
            spawn("larder-seal", low, Box::new(move |stop, _| sealing.run(Work::Seal, stop)))?,
            spawn("larder-merge", low, Box::new(move |stop, _| merging.run(Work::Merge, stop)))?,
            spawn("larder-scrub", idle, Box::new(move |stop, _| scrubber.run(stop)))?,
        ];
        Ok(Self { threads })
    }

    /// Moves what waits, makes a last checkpoint and ends. A thread that hangs is left behind.
    pub(super) fn stop(self) {
        for worker in self.threads {
            let name = worker.name;
            if !worker.stop(STOP_PATIENCE) {
                tracing::error!(
                    thread = name,
                    "left behind after {STOP_PATIENCE:?} without progress; the next start replays \
                     from history what it would have saved"
                );
            }
        }
    }
}

impl Worker {
    /// Returns whether the thread ended.
    fn stop(self, patience: Duration) -> bool {
        let Self { stop, thread, progress, .. } = self;
        drop(stop);
        loop {
            match progress.recv_timeout(patience) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let _ = thread.join();
        true
    }
}

/// Starts a thread that does `work`, again and again `after_panic` where it panics.
fn spawn(
    (name, priority): (&'static str, fn()),
    metrics: &Arc<Metrics>,
    after_panic: Duration,
    work: Box<Run>,
) -> io::Result<Worker> {
    let stop = Arc::<Stop>::default();
    let stopped = stop.clone();
    let (made, progress) = bounded(1);
    let metrics = metrics.clone();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        priority();
        let progress = Progress(made);
        while catch_unwind(AssertUnwindSafe(|| work(&stopped, &progress))).is_err() {
            metrics.background_panics.increment();
            tracing::error!(thread = name, "panicked; it begins anew in {after_panic:?}");
            if stopped.is_told_within(after_panic) {
                return;
            }
        }
    })?;
    Ok(Worker { name, stop: Stopper(stop), thread, progress })
}

/// After a panic nobody knows what the disk tier holds, so it is rebuilt.
struct TierGuard<'a>(&'a Shared);

impl Drop for TierGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(tier) = self.0.stores.tier()
        {
            tier.broke("the thread that moves its rows panicked");
        }
    }
}

/// Keeps the overlay of the disk tier small, removes the rows of dropped views, and rebuilds the
/// tier where it failed.
fn move_rows(shared: &Shared, stop: &Stop, progress: &Progress) {
    let mut failures = Pause::default();
    let (mut stopping, mut looked_for_leftovers) = (false, false);
    while !stopping {
        stopping = stop.is_told_within(MOVE_EVERY);
        shared.pins.tidy();
        if let Some(tier) = shared.stores.tier() {
            if tier.is_broken() && !stopping && failures.may_try() {
                match rebuild(shared, tier, stop) {
                    true => failures = Pause::default(),
                    false => failures.lengthen(),
                }
            }
            while tier.move_some(|| shared.history.durable()) > 0 {
                progress.made();
            }
            if !stopping {
                if !std::mem::replace(&mut looked_for_leftovers, true) {
                    tier.drop_leftovers(|view| lives_on_disk(shared, view));
                }
                tier.remove_dropped(|| stop.is_told());
            }
        }
    }
}

fn lives_on_disk(shared: &Shared, view: ViewId) -> bool {
    let registry = shared.registry.load();
    registry.view(view).is_some_and(|view| view.online && view.tier == Tier::Disk)
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
fn rebuild(shared: &Shared, tier: &SharedTier, stop: &Stop) -> bool {
    let watch = Stopwatch::start();
    tier.start_rebuild();
    if tier.is_broken() {
        return false;
    }
    let applier = Applier::default();
    let mut rebuild = Rebuild { shared, tier, stop, applier, revision: None, put: 0 };
    match shared.history.replay_after(Sequence::ZERO).run(&mut rebuild) {
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

/// The disk tier while it is rebuilt.
struct Rebuild<'a> {
    shared: &'a Shared,
    tier: &'a SharedTier,
    stop: &'a Stop,
    applier: Applier,
    /// The registry that the applier has taken up.
    revision: Option<u64>,
    /// Rows of sealed files so far.
    put: u64,
}

impl Rebuild<'_> {
    /// Whether to go on, and with which views.
    fn check(&mut self) -> Result<(), RebuildError> {
        if self.tier.is_broken() || self.stop.is_told() {
            return Err(RebuildError::Interrupted);
        }
        let registry = self.shared.registry.load();
        if self.revision != Some(registry.revision()) {
            self.revision = Some(registry.revision());
            self.applier = Applier::default();
            self.applier.take_up(&registry, &self.shared.stores);
        }
        Ok(())
    }

    fn put(&mut self, row: &Row<'_>, sequence: Sequence) -> Result<(), RebuildError> {
        let erased_below = || self.shared.history.bounds().erased_below(row.view, row.key);
        if self.applier.is_on_disk(row.view) && sequence >= erased_below() {
            self.applier.apply(row, sequence, false)?;
            // Looked at again behind the row: an erasure beside this either is seen here, or comes
            // to the state later and takes the row out itself.
            let below = erased_below();
            if sequence < below {
                self.applier.erase(row.view, row.key, below);
            }
        }
        Ok(())
    }
}

impl Replayed<RebuildError> for Rebuild<'_> {
    fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), RebuildError> {
        if self.put.is_multiple_of(ROWS_PER_PIN as u64) {
            self.check()?;
            self.tier.relieve(|| self.shared.history.durable());
        }
        self.put += 1;
        let RowIn { event_time, key, archive, sequence, .. } = *row;
        self.put(&Row { view, event_time, key, archive }, sequence)
    }

    fn frame(&mut self, frame: &LoggedFrame<'_>) -> Result<(), RebuildError> {
        self.check()?;
        let unreadable = |error| frame.unreadable(&error);
        for request in frame.requests().map_err(unreadable)? {
            for record in request.map_err(unreadable)?.records() {
                if let (sequence, Record::Row(row)) = record.map_err(unreadable)? {
                    self.put(&row, sequence)?;
                }
            }
        }
        self.tier.relieve(|| self.shared.history.durable());
        Ok(())
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
    fn run(&self, stop: &Stop, progress: &Progress) {
        let manner = Manner::giving_way(1);
        loop {
            if stop.is_told_within(self.interval.to_std()) {
                return self.save_if_changed(progress);
            }
            manner.run(|| self.save_if_changed(progress));
        }
    }

    fn save_if_changed(&self, progress: &Progress) {
        let stopped = self.shared.metrics.writes() == WritesState::Stopped;
        if stopped || !self.kept.are_behind(self.shared.online_upto()) {
            return;
        }
        let metrics = &self.shared.metrics;
        let watch = Stopwatch::start();
        match self.save(progress) {
            Ok(covered) => {
                self.kept.completed(covered);
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

    fn save(&self, progress: &Progress) -> Result<Sequence, MaintainError> {
        let covered = self.shared.online_upto();
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
                progress.made();
            }
        }
        // Before the checkpoint counts, what is in it must be durable in history, and its
        // definitions in the manifest.
        self.queue.ask(Job::SaveControl)?;
        // Only now: a group that was being applied during the scan has been numbered since.
        generation.finish(self.shared.visible())?;
        if let Some(tier) = self.shared.stores.tier() {
            tier.save_mark(|| self.shared.history.durable());
        }
        Ok(covered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Clock, SystemClock};

    #[test]
    fn a_thread_that_hangs_is_left_behind_and_one_that_gets_on_is_not() {
        let metrics = Metrics::new(SystemClock.now());
        let spawn = |name, work: Box<Run>| {
            spawn((name, priority::idle), &metrics, AFTER_PANIC, work).unwrap()
        };
        let hanging = spawn(
            "hangs",
            Box::new(|_, _| {
                loop {
                    thread::park();
                }
            }),
        );
        assert!(!hanging.stop(Duration::from_millis(50)));
        let busy = spawn(
            "busy",
            Box::new(|stop, progress| {
                assert!(stop.is_told_within(Duration::from_secs(60)));
                (0..100_000).for_each(|_| progress.made());
            }),
        );
        assert!(busy.stop(Duration::from_secs(60)));
        let ended = spawn("ended", Box::new(|_, _| {}));
        assert!(ended.stop(Duration::from_secs(60)));
    }

    #[test]
    fn a_thread_that_nobody_keeps_ends() {
        let waits =
            |stop: &Stop, _: &Progress| assert!(stop.is_told_within(Duration::from_secs(3600)));
        let metrics = Metrics::new(SystemClock.now());
        let of = ("waits", priority::idle as fn());
        let Worker { stop, progress, .. } =
            spawn(of, &metrics, AFTER_PANIC, Box::new(waits)).unwrap();
        drop(stop);
        let ended = progress.recv_timeout(Duration::from_secs(60));
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_panic_is_counted_and_ends_no_thread() {
        let metrics = Metrics::new(SystemClock.now());
        let (say, said) = bounded(10);
        let work = move |_: &Stop, _: &Progress| {
            say.send(()).unwrap();
            panic!("on purpose");
        };
        let of = ("panics", priority::idle as fn());
        let worker = spawn(of, &metrics, Duration::from_millis(1), Box::new(work)).unwrap();
        for _ in 0..3 {
            said.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        assert!(metrics.background_panics.get() >= 2);
        drop(said);
        assert!(worker.stop(Duration::from_secs(60)));
    }
}
