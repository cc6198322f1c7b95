//! Sealing beside the requests: closed segments of the log become sealed files, many sealed files
//! become few, and segments that nobody needs any more are removed, within an I/O budget.
//!
//! It does not know the bytes of a sealed file; it decides when one is made and when it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::engine::erase;
use crate::engine::error::Problem;
use crate::engine::forget::Forgetting;
use crate::engine::queue::{Job, Queue};
use crate::engine::retention;
use crate::engine::shared::Shared;
use crate::engine::stop::Stop;
use crate::engine::write::Writer;
use crate::history::manifest::RetentionFloor;
use crate::history::pace::Pace;
use crate::history::seal::{Made, Sealer, Task};
use crate::history::sealed::{BuildError, SealedEntry};
use crate::history::{History, ReadError};
use crate::ids::Sequence;
use crate::metrics::{Code, Gauge, WritesState};
use crate::priority::Manner;
use crate::time::{ArrivalTime, Span, Stopwatch};

/// How long nothing must have been written for files over the same times to be made one.
const QUIET: Duration = Duration::from_secs(30);
/// What the budget may fall behind before it is counted anew, so that a pause is not made up for by
/// a burst.
const BURST: Duration = Duration::from_millis(100);

/// How sealing and merging go, and how sealed files are read and read again.
#[derive(Clone, Copy, Debug)]
pub struct SealOptions {
    /// Memory for blocks of sealed files, in bytes.
    pub block_cache_bytes: u64,
    /// How often it is looked for something to do.
    pub interval: Span,
    /// Bytes read and written a second at most, by sealing and by merging each.
    pub bytes_per_second: u64,
    /// How long the bytes of an erased entity may stay.
    pub erase_within: Span,
    /// In what time everything at rest is read once.
    pub scrub_every: Span,
}

impl Default for SealOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 << 20,
            interval: Span::from_micros(200_000),
            bytes_per_second: 64 << 20,
            erase_within: Span::from_seconds(7 * 86_400),
            scrub_every: Span::from_seconds(7 * 86_400),
        }
    }
}

/// A change of the manifest, made by the writer, which owns it.
pub(super) enum ManifestChange {
    /// Name a sealed file, in the place of those with these numbers.
    NameSealed(SealedEntry, Vec<u64>),
    /// Strike the segments of the log that are not needed any more and end at or before this.
    StrikeSegments(Sequence),
    /// Move retention floors.
    SetFloors(Vec<RetentionFloor>),
    /// Close the segment of the log that is written.
    CloseSegment,
    /// Say of all erasures up to this one that no byte is left.
    FinishErasures(Sequence),
    /// Change nothing: have readers know the sealed files that are named, and no others.
    Settle(Arc<Sealer>),
}

/// Makes the change. The answer is the first sequence of each segment that is struck and that
/// readers still have.
pub(super) fn change_manifest(
    writer: &mut Writer,
    change: ManifestChange,
) -> Result<Vec<Sequence>, Problem> {
    let changed = match change {
        ManifestChange::NameSealed(added, removed) => {
            writer.history.name_sealed(added, &removed).map(|()| Vec::new())
        }
        ManifestChange::StrikeSegments(upto) => writer.history.strike_segments(upto),
        ManifestChange::SetFloors(floors) => writer.history.set_floors(floors).map(|()| Vec::new()),
        ManifestChange::CloseSegment => writer.history.roll(None, 0).map(|()| Vec::new()),
        ManifestChange::FinishErasures(upto) => {
            return erase::finish(writer, upto).map(|()| Vec::new());
        }
        ManifestChange::Settle(sealer) => {
            let settled = writer.history.settle(&sealer).map(|()| Vec::new());
            return settled.map_err(|error| Problem::new(Code::Internal, error.to_string()));
        }
    };
    changed.map_err(|error| writer.refused(&error))
}

/// What both generations of the checkpoint that are kept cover.
#[derive(Debug)]
pub(super) struct KeptCheckpoints {
    newest: AtomicU64,
    all: AtomicU64,
    /// What all should cover, though nothing was written since.
    wanted: AtomicU64,
}

impl KeptCheckpoints {
    /// After a start that loaded a checkpoint which covers `loaded`; what the one before it covers
    /// is not known.
    pub(super) fn new(loaded: Sequence) -> Self {
        let [all, wanted] = [0, 0].map(AtomicU64::new);
        Self { newest: AtomicU64::new(loaded.0), all, wanted }
    }

    /// What the newest covers.
    pub(super) fn newest(&self) -> Sequence {
        Sequence(self.newest.load(Ordering::Acquire))
    }

    /// Another one was completed, and the one before the last removed.
    pub(super) fn completed(&self, covered: Sequence) {
        let before = self.newest.swap(covered.0, Ordering::AcqRel);
        self.all.store(before.min(covered.0), Ordering::Release);
    }

    /// What both cover.
    pub(super) fn all(&self) -> Sequence {
        Sequence(self.all.load(Ordering::Acquire))
    }

    /// Has checkpoints made until both cover `sequence`.
    pub(super) fn want(&self, sequence: Sequence) {
        self.wanted.fetch_max(sequence.0, Ordering::AcqRel);
    }

    /// Whether there would be a use for another one that covers `visible`.
    pub(super) fn are_behind(&self, visible: Sequence) -> bool {
        visible != self.newest()
            || self.all.load(Ordering::Acquire) < self.wanted.load(Ordering::Acquire)
    }
}

/// What sealing needs.
pub(super) struct Sealing {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) kept: Arc<KeptCheckpoints>,
    pub(super) options: SealOptions,
    /// Runs since the start.
    pub(super) since: Stopwatch,
    /// Files are made in idle time, but for what was kept waiting.
    pub(super) manner: Manner,
    /// Held while a file is put in place, with its number and those of the files it replaces. A
    /// panic there, which poisons it, leaves open whether readers know of all that the manifest
    /// names: what would be made next could stand there twice.
    pub(super) installing: Mutex<Vec<u64>>,
}

/// Why nothing came of it; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Writer(#[from] Problem),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Since when nothing was written.
struct Quiet {
    written: Sequence,
    since: Stopwatch,
}

impl Quiet {
    fn new(written: Sequence) -> Self {
        Self { written, since: Stopwatch::start() }
    }

    fn is_quiet(&mut self, written: Sequence) -> bool {
        if written != self.written {
            *self = Self::new(written);
        }
        self.since.elapsed() > QUIET
    }
}

/// Gives work up when something is written.
struct WhileQuiet<'b, 's> {
    budget: &'b mut Budget<'s>,
    history: &'b History,
    written: Sequence,
}

impl Pace for WhileQuiet<'_, '_> {
    fn worked(&mut self, bytes: u64) -> bool {
        self.history.written() == self.written && self.budget.worked(bytes)
    }
}

/// One of the two things done with sealed files.
#[derive(Clone, Copy)]
pub(super) enum Work {
    Seal,
    Merge,
}

impl Sealing {
    /// Works until it is told to stop.
    pub(super) fn run(&self, work: Work, stop: &Stop) {
        let mut budget = Budget::new(self.options.bytes_per_second, stop);
        let (mut pause, least) = (Duration::ZERO, Duration::from_secs(1));
        let mut forgetting = Forgetting::default();
        let mut quiet = Quiet::new(self.shared.history.written());
        let interval = self.options.interval.to_std();
        self.publish_numbers();
        loop {
            match self.work(work, &mut budget, (&mut forgetting, &mut quiet)) {
                Ok(()) => pause = Duration::ZERO,
                Err(SealError::Build(BuildError::Interrupted)) => return,
                Err(error) => {
                    self.shared.metrics.seal_failures.increment();
                    tracing::warn!(%error, "history is not sealed further; it is tried again");
                    pause = (pause * 2).clamp(least, Duration::from_secs(60));
                }
            }
            if !budget.waits(interval.max(pause)) {
                return;
            }
        }
    }

    fn work(
        &self,
        work: Work,
        budget: &mut Budget<'_>,
        (forgetting, quiet): (&mut Forgetting, &mut Quiet),
    ) -> Result<(), SealError> {
        let metrics = &self.shared.metrics;
        drop(self.settled()?);
        match work {
            Work::Seal => {
                self.make_all(&metrics.sealing_time, Sealer::next_to_seal, budget)?;
                self.strike_segments()?;
                // Loads bring files of their own.
                self.publish_numbers();
                Ok(())
            }
            Work::Merge if metrics.writes() == WritesState::Stopped => Ok(()),
            Work::Merge => {
                self.move_floors()?;
                let busy = &metrics.merging_time;
                let merged = self.make_all(busy, Sealer::next_to_merge, budget);
                // What cannot be merged, for want of room perhaps, must not keep rows here that are
                // to go.
                let thinned = self.make_all(busy, Sealer::next_to_thin, budget);
                let compacted = self.compact(quiet, budget);
                merged.and(thinned).and(compacted).and(self.forget(forgetting, budget))
            }
        }
    }

    /// Makes files and puts them in place until there is nothing to make.
    fn make_all(
        &self,
        busy: &Gauge,
        next: fn(&Sealer) -> Option<Task>,
        budget: &mut Budget<'_>,
    ) -> Result<(), SealError> {
        while self.shared.metrics.writes() != WritesState::Stopped {
            let watch = Stopwatch::start();
            let Some(task) = next(&self.sealer) else { break };
            let made = self.make(&task, budget);
            add_time(busy, watch);
            made?;
            self.publish_numbers();
        }
        Ok(())
    }

    /// Makes a file and puts it in place.
    pub(super) fn make(&self, task: &Task, budget: &mut Budget<'_>) -> Result<Made, SealError> {
        let made = self.manner.run(|| self.sealer.make(task, budget))?;
        self.install(&made)?;
        Ok(made)
    }

    /// Makes files over the same times one while it is quiet; what is under way is given up when it
    /// no longer is, or there is no room for it.
    fn compact(&self, quiet: &mut Quiet, budget: &mut Budget<'_>) -> Result<(), SealError> {
        let history = &self.shared.history;
        while quiet.is_quiet(history.written())
            && let Some(task) = self.sealer.next_to_compact()
        {
            let watch = Stopwatch::start();
            let mut pace = WhileQuiet { budget, history, written: quiet.written };
            let made = self.manner.run(|| self.sealer.make(&task, &mut pace));
            add_time(&self.shared.metrics.merging_time, watch);
            match made {
                Err(BuildError::NoRoom { .. }) => return Ok(()),
                Err(BuildError::Interrupted) if history.written() != quiet.written => {}
                made => self.install(&made?)?,
            }
            self.publish_numbers();
        }
        Ok(())
    }

    /// Nobody puts a file in place as long as this is held, and readers know of all that were.
    fn settled(&self) -> Result<MutexGuard<'_, Vec<u64>>, Problem> {
        match self.installing.lock() {
            Ok(settled) => Ok(settled),
            Err(poisoned) => {
                let settled = poisoned.into_inner();
                self.change(ManifestChange::Settle(self.sealer.clone()))?;
                let known = self.shared.history.sealed();
                for number in settled.iter() {
                    if known.iter().all(|file| file.entry().number != *number) {
                        self.sealer.remove(*number);
                    }
                }
                self.installing.clear_poison();
                tracing::info!("sealing and merging go on after a panic");
                Ok(settled)
            }
        }
    }

    /// The file counts from the moment the manifest names it; then readers are told, and what it
    /// replaces is removed. Whoever reads that goes on reading it.
    fn install(&self, made: &Made) -> Result<(), SealError> {
        let mut installing = self.settled()?;
        let (entry, replaces) = (made.file.entry(), made.replaces.clone());
        *installing = [&made.replaces[..], &[entry.number]].concat();
        if let Err(problem) = self.change(ManifestChange::NameSealed(entry, replaces)) {
            // Else nobody can know whether the manifest names it.
            if problem.code == Code::DiskFull {
                self.sealer.remove(entry.number);
            }
            return Err(problem.into());
        }
        self.shared.history.publish(made.file.clone(), &made.replaces);
        made.replaces.iter().for_each(|number| self.sealer.remove(*number));
        let metrics = &self.shared.metrics;
        metrics.rows_dropped.add(made.dropped);
        match made.replaces.len() {
            0 => metrics.seals.increment(),
            1 => metrics.rewrites.increment(),
            _ => metrics.merges.increment(),
        }
        Ok(())
    }

    /// Moves the retention floors that have a step to go: saved first, then refused below, and
    /// only then rewritten by.
    fn move_floors(&self) -> Result<(), SealError> {
        let (shared, bounds) = (&self.shared, self.shared.history.bounds());
        let (last, up) = (shared.last_arrival(), Span::from_std(self.since.elapsed()));
        if last == ArrivalTime::MIN {
            // Nothing has arrived.
            return Ok(());
        }
        let now = retention::counted_from(shared.clock.now(), last, up);
        if let Some(floors) = retention::floors_due(&shared.registry.load(), &bounds, now) {
            self.change(ManifestChange::SetFloors(floors.clone()))?;
            shared.history.set_floors(&floors);
        }
        Ok(())
    }

    /// Removes the segments of the log that no restart needs: sealed, and covered by whatever a
    /// restart begins with.
    fn strike_segments(&self) -> Result<(), SealError> {
        let shared = &self.shared;
        let sealed = shared.history.sealed_upto();
        if shared.history.log_has_segment_within(sealed) {
            // Where no more is written nobody else would ask for the second checkpoint.
            self.kept.want(sealed);
        }
        let mut upto = self.kept.all().min(sealed);
        if let Some(tier) = shared.stores.tier() {
            let moved = if tier.is_broken() { Sequence::ZERO } else { tier.tier.moved() };
            upto = upto.min(moved);
        }
        if !shared.history.log_has_segment_within(upto) {
            return Ok(());
        }
        let struck = self.change(ManifestChange::StrikeSegments(upto))?;
        if let Some(last) = struck.last() {
            // Gone before it is forgotten: whoever looks whether bytes are left looks at what is
            // not forgotten.
            struck.iter().for_each(|first| self.sealer.remove_segment(*first));
            shared.history.forget_segments(*last);
            self.publish_numbers();
        }
        Ok(())
    }

    pub(super) fn change(&self, change: ManifestChange) -> Result<Vec<Sequence>, Problem> {
        self.queue.ask(|reply| Job::ChangeManifest(change, reply))
    }

    fn publish_numbers(&self) {
        let (metrics, history) = (&self.shared.metrics, &self.shared.history);
        let files = history.sealed();
        metrics.sealed_files.set(files.len() as u64);
        metrics.sealed_bytes.set(files.iter().map(|file| file.entry().bytes).sum());
        metrics.sequence_sealed.set(history.sealed_upto().0);
        metrics.log_segments.set(history.log_segments() as u64);
    }
}

fn add_time(gauge: &Gauge, watch: Stopwatch) {
    gauge.add(watch.elapsed().as_micros() as u64);
}

/// Lets so many bytes through a second.
pub(super) struct Budget<'s> {
    bytes_per_second: u64,
    stop: &'s Stop,
    since: Stopwatch,
    bytes: u64,
}

impl<'s> Budget<'s> {
    pub(super) fn new(bytes_per_second: u64, stop: &'s Stop) -> Self {
        Self { bytes_per_second, stop, since: Stopwatch::start(), bytes: 0 }
    }

    /// Waits; false if it was told to stop.
    pub(super) fn waits(&self, time: Duration) -> bool {
        !self.stop.is_told_within(time)
    }
}

impl Pace for Budget<'_> {
    fn worked(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / self.bytes_per_second as f64);
        let elapsed = self.since.elapsed();
        if elapsed > due + BURST {
            (self.since, self.bytes) = (Stopwatch::start(), 0);
        }
        self.waits(due.saturating_sub(elapsed))
    }
}
