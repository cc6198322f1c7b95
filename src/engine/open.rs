//! Recovery: checkpoint into the map, history's tail through the same `apply`, then the threads
//! start.
//!
//! It does not know the doors; whoever calls it opens them when it returns.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::archive::StateRef;
use crate::checkpoint::{Checkpoint, Row as CheckpointRow, Sink, SledCheckpoint};
use crate::disk::{Disk, DiskError};
use crate::engine::apply::{Applier, ApplyError};
use crate::engine::control::{self, Control, ControlError};
use crate::engine::erase::Erase;
use crate::engine::idempotency::{First, decode_source};
use crate::engine::maintain::{Checkpointer, Maintenance};
use crate::engine::queue;
use crate::engine::scrub::Scrubber;
use crate::engine::seal::{KeptCheckpoints, SealOptions, Sealing};
use crate::engine::shared::{Parts, Shared};
use crate::engine::spool::Spools;
use crate::engine::stores::{Store, Stores};
use crate::engine::tier::{self, TierPlace};
use crate::engine::write::Writer;
use crate::engine::writes::Durability;
use crate::engine::{Engine, Running};
use crate::history::bounds::Bounds;
use crate::history::bulk::Identity;
use crate::history::open::Opened;
use crate::history::record::{Record, RecordError, Request, Row, Source, SourceKind};
use crate::history::replay::{LoggedFrame, Replayed};
use crate::history::sealed::RowIn;
use crate::history::{self, History, ReadError};
use crate::ids::{Sequence, ViewId};
use crate::limits::Limits;
use crate::metrics::{Metrics, WritesState};
use crate::online::{Online, TierLimits};
use crate::priority::Manner;
use crate::registry::Registry;
use crate::registry::model::{Tier, View};
use crate::registry::record::{self as control_record, decode_change};
use crate::time::{ArrivalTime, Clock, Span, Stopwatch};

/// Where and how a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// The most a power cut may lose in [`Durability::Interval`].
    pub sync_interval: Span,
    /// Size of a log segment in bytes.
    pub segment_bytes: u64,
    /// How the log is sealed, and how what is sealed is read.
    pub seal: SealOptions,
    /// How often the online map is copied to the checkpoint.
    pub checkpoint_interval: Span,
    /// Memory of the disk tier, in bytes.
    pub tier_limits: TierLimits,
    /// How long a lookup waits for the disk tier before history answers.
    pub read_deadline: Span,
    /// Accept writes although the clock stands before the last arrival.
    pub accept_clock: bool,
    /// Everything's bounds.
    pub limits: Limits,
}

/// Why a store cannot be opened. Nothing was changed except what recovery may always do again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// History refused.
    #[error(transparent)]
    History(#[from] history::open::OpenError),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// History cannot be read on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The definitions kept beside history cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A definition change in history cannot be read.
    #[error("definition change at sequence {sequence}: {source}")]
    ControlRecord {
        /// Its place.
        sequence: Sequence,
        /// What is wrong.
        source: control_record::RecordError,
    },
    /// A definition change in history contradicts those before it.
    #[error("definition change at sequence {sequence}: {source}")]
    Change {
        /// Its place.
        sequence: Sequence,
        /// What is wrong.
        source: control_record::ApplyError,
    },
    /// A row in history does not fit its view.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A thread cannot be started.
    #[error("cannot start the {name} thread: {reason}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system says.
        reason: String,
    },
}

/// A row in history that cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("history holds a row that cannot be applied: {0}")]
pub struct RowError(String);

impl From<ApplyError> for OpenError {
    fn from(error: ApplyError) -> Self {
        Self::Row(RowError(error.to_string()))
    }
}

/// Opens the store and starts its threads. Blocking; takes as long as recovery takes.
///
/// # Errors
/// The directory is locked, damaged, or of a newer release.
pub fn open(
    options: Options,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) -> Result<Arc<Engine>, OpenError> {
    let watch = Stopwatch::start();
    let history_options = history::writer::Options {
        segment_bytes: options.segment_bytes,
        block_cache_bytes: options.seal.block_cache_bytes,
    };
    let opened = history::open::open(disk.clone(), &options.data_dir, history_options)?;
    report_cut(&opened);
    let spools = Spools::open(disk.clone(), options.data_dir.join("spool"))?;
    let checkpoints: Arc<dyn Checkpoint> =
        Arc::new(SledCheckpoint::new(disk.clone(), options.data_dir.join("checkpoint")));
    let tier_directory = options.data_dir.join("disk");
    let place = TierPlace {
        disk: disk.clone(),
        directory: tier_directory.clone(),
        store: opened.store,
        history_end: opened.last_sequence,
        limits: options.tier_limits,
    };
    let stores = Stores::new(tier::opener(place));
    let mut recovery = Recovery::begin(&opened, stores)?;
    let covered = recovery.load_checkpoint(checkpoints.as_ref(), &opened, &metrics);
    recovery.replay(&opened.reader, covered, &metrics)?;

    let Recovery { stores, control, mut applier, .. } = recovery;
    if stores.tier().is_none() {
        // What dropped views left there.
        if let Err(error) = disk.remove_dir_all(&tier_directory) {
            tracing::warn!(%error, "rows of dropped views stay on the disk");
        }
    }
    applier.take_up(&control.registry, &stores);
    let is_history = |load: &Identity| control.positions.get(SourceKind::Load, load).is_some();
    if let Err(error) = opened.sealer.end_load_that(is_history) {
        tracing::warn!(%error, "the ledger of a load stays, and perhaps files that nobody needs");
    }
    let last_arrival = opened.last_arrival.unwrap_or(ArrivalTime::MIN);
    let shared = Arc::new(Shared::new(Parts {
        limits: options.limits.clone(),
        durability: options.durability,
        sync_interval: options.sync_interval,
        accept_clock: options.accept_clock,
        maintenance_rate: options.seal.bytes_per_second,
        clock,
        metrics: metrics.clone(),
        registry: control.registry,
        stores,
        history: opened.reader,
        last_sequence: opened.last_sequence,
        last_arrival,
        positions: control.positions,
        erasures: control.erasures,
        erase_within: options.seal.erase_within,
    }));
    let (queue, waiting) = queue::queue(&options.limits, &metrics);
    let queue = Arc::new(queue);
    let writer = Writer {
        shared: shared.clone(),
        history: opened.writer,
        applier,
        idempotency: control.idempotency,
        registry_sequence: control.registry_sequence,
        last_arrival,
        last_sync: Stopwatch::start(),
        // What recovery kept may not be marked yet.
        unmarked: true,
    };
    let writer = crate::engine::write::start(writer, waiting)
        .map_err(|error| OpenError::Thread { name: "writer", reason: error.to_string() })?;
    let kept = Arc::new(KeptCheckpoints::new(covered));
    let sealing = Sealing {
        shared: shared.clone(),
        queue: queue.clone(),
        sealer: opened.sealer.clone(),
        kept: kept.clone(),
        options: options.seal,
        since: watch,
        // Sealing and merging go on beside each other.
        manner: Manner::giving_way(2),
        installing: Mutex::default(),
    };
    let checkpointer = Checkpointer {
        shared: shared.clone(),
        queue: queue.clone(),
        checkpoints,
        kept,
        interval: options.checkpoint_interval,
    };
    let scrubber = Scrubber {
        shared: shared.clone(),
        disk,
        root: options.data_dir,
        every: options.seal.scrub_every,
    };
    let maintenance = Maintenance::start(shared.clone(), checkpointer, sealing, scrubber)
        .map_err(|error| OpenError::Thread { name: "checkpoint", reason: error.to_string() })?;
    metrics.erasures_pending.set(shared.erasures().pending().count() as u64);
    metrics.sequence_written.set(opened.last_sequence.0);
    metrics.sequence_durable.set(opened.last_sequence.0);
    let behind = shared.clock_is_behind(last_arrival);
    metrics.set_writes(if behind { WritesState::ClockBehind } else { WritesState::Open });
    let elapsed = Span::from_std(watch.elapsed());
    metrics.recovery_time.set_span(elapsed);
    let running = Running { writer, maintenance };
    let queue = (queue, opened.sealer);
    Ok(Engine::assemble(shared, queue, running, spools, options.read_deadline, elapsed))
}

fn report_cut(opened: &Opened) {
    if let Some(cut) = &opened.cut {
        tracing::warn!(
            segment = %cut.path.display(),
            offset = cut.offset,
            reason = %cut.reason,
            "cut an unfinished write from the end of history; it was never acknowledged"
        );
    }
}

/// What is rebuilt.
struct Recovery {
    stores: Stores,
    control: Control,
    /// The last sequence whose control records are in `control`.
    covers: Sequence,
    applier: Applier,
    /// What is erased, as far as it was met.
    bounds: Arc<Bounds>,
    /// The last sequence whose rows the disk tier holds, once there is one.
    moved: Option<Sequence>,
    rows: u64,
}

impl Recovery {
    fn begin(opened: &Opened, stores: Stores) -> Result<Self, OpenError> {
        let (control, covers) = match &opened.control {
            Some(snapshot) => (control::decode(&snapshot.bytes)?, snapshot.covers),
            None => (Control::default(), Sequence::ZERO),
        };
        let mut applier = Applier::default();
        applier.take_up(&control.registry, &stores);
        opened.reader.set_erased(control.erasures.erased());
        let bounds = opened.reader.bounds();
        Ok(Self { stores, control, covers, applier, bounds, moved: None, rows: 0 })
    }

    /// Fills the map from the newest checkpoint that is whole; returns the sequence it covers.
    fn load_checkpoint(
        &self,
        checkpoints: &dyn Checkpoint,
        opened: &Opened,
        metrics: &Metrics,
    ) -> Sequence {
        let watch = Stopwatch::start();
        let sink = MapSink::new(&self.control.registry, &self.stores);
        let load = checkpoints.load(opened.store, opened.last_sequence, &sink);
        for aside in &load.set_aside {
            tracing::warn!(
                generation = aside.generation,
                reason = %aside.reason,
                "set a checkpoint aside; history rebuilds what it held"
            );
        }
        metrics.recovery_checkpoint_time.set_span(Span::from_std(watch.elapsed()));
        match load.loaded {
            Some(loaded) => {
                metrics.recovery_checkpoint_rows.set(loaded.rows);
                metrics.checkpoint_sequence.set(loaded.covered.0);
                // Rows of views defined after the control snapshot were not taken.
                loaded.covered.min(self.covers)
            }
            None => Sequence::ZERO,
        }
    }

    /// Applies what neither the checkpoint nor the control snapshot covers.
    fn replay(
        &mut self,
        history: &History,
        covered: Sequence,
        metrics: &Metrics,
    ) -> Result<(), OpenError> {
        let watch = Stopwatch::start();
        let mut from = covered;
        if let Some(tier) = self.stores.tier() {
            let moved = tier.tier.moved();
            let log_begins = history.replay_after(Sequence::ZERO).log_begins();
            let is_empty = moved == Sequence::ZERO && history.written() > Sequence::ZERO;
            if is_empty || moved.next() < log_begins {
                // Putting every row again would keep the doors closed: it is done beside them.
                tier.broke("it is empty, was set aside, or ends before the log begins");
                self.moved = Some(Sequence::MAX);
            } else {
                self.moved = Some(moved);
                from = from.min(moved);
            }
        }
        let mut replaying = Replaying { recovery: self, history, covered, out_of_order: false };
        history.replay_after(from).run(&mut replaying)?;
        let out_of_order = replaying.out_of_order;
        if let Some(tier) = self.stores.tier() {
            tier.tier.applied(history.written());
            if out_of_order {
                tier.tier.thaw_mark(history.written());
            }
        }
        metrics.recovery_history_time.set_span(Span::from_std(watch.elapsed()));
        metrics.recovery_history_rows.set(self.rows);
        Ok(())
    }

    fn frame(
        &mut self,
        history: &History,
        frame: &LoggedFrame<'_>,
        covered: Sequence,
    ) -> Result<(), OpenError> {
        let unreadable = |error: RecordError| OpenError::from(frame.unreadable(&error));
        for request in frame.requests().map_err(unreadable)? {
            let request = request.map_err(unreadable)?;
            for record in request.records() {
                match record.map_err(unreadable)? {
                    (sequence, Record::Row(row)) => self.row(&row, sequence, covered)?,
                    (sequence, Record::Control(bytes)) => match Erase::decode(bytes) {
                        Some(erase) => {
                            let arrival = frame.header.arrival;
                            self.erase(history, erase, sequence, arrival);
                        }
                        None if sequence > self.covers => self.change(sequence, bytes)?,
                        None => {}
                    },
                }
            }
            if request.last() > self.covers {
                self.remember(&request, frame.header.arrival);
            }
        }
        Ok(())
    }

    /// Applies a row that neither the checkpoint covers nor, where it lies there, the disk tier.
    fn row(
        &mut self,
        row: &Row<'_>,
        sequence: Sequence,
        covered: Sequence,
    ) -> Result<(), OpenError> {
        let covered = match self.applier.is_on_disk(row.view) {
            true => self.moved(),
            false => covered,
        };
        let erased_below = self.bounds.erased_below(row.view, row.key);
        match sequence > covered && sequence >= erased_below {
            true => self.apply(row, sequence),
            false => Ok(()),
        }
    }

    fn apply(&mut self, row: &Row<'_>, sequence: Sequence) -> Result<(), OpenError> {
        match (self.applier.apply(row, sequence, false), self.stores.tier()) {
            (Ok(_), _) => self.rows += 1,
            // The tier was put together anew after definitions that come later in history, and was
            // not done: it begins once more, beside the doors.
            (Err(error), Some(tier)) if self.applier.is_on_disk(row.view) => {
                tier.broke(&error.to_string());
                self.moved = Some(Sequence::MAX);
            }
            (Err(error), _) => return Err(error.into()),
        }
        Ok(())
    }

    /// Erases again, also what the control snapshot knows: the checkpoint may be older than that.
    fn erase(&mut self, history: &History, erase: Erase, sequence: Sequence, at: ArrivalTime) {
        if let Some(whom) = &erase.whom {
            for view in &erase.views {
                self.applier.erase(*view, &whom.key, sequence);
            }
        }
        if sequence > self.covers {
            erase.hide(history, sequence);
            self.control.erasures.add(erase, sequence, at);
        }
    }

    /// The first view with rows on disk may come with the replay itself.
    fn moved(&mut self) -> Sequence {
        let stores = &self.stores;
        let moved = || stores.tier().map_or(Sequence::MAX, |tier| tier.tier.moved());
        *self.moved.get_or_insert_with(moved)
    }

    fn change(&mut self, sequence: Sequence, bytes: &[u8]) -> Result<(), OpenError> {
        let change =
            decode_change(bytes).map_err(|source| OpenError::ControlRecord { sequence, source })?;
        self.control
            .registry
            .apply(&change)
            .map_err(|source| OpenError::Change { sequence, source })?;
        self.control.registry_sequence = sequence;
        self.applier.take_up(&self.control.registry, &self.stores);
        Ok(())
    }

    fn remember(&mut self, request: &Request<'_>, arrival: ArrivalTime) {
        let Some(source) = request.source else { return };
        if source.kind != SourceKind::Idempotency {
            let Source { kind, id, position } = source;
            self.control.positions.set(kind, id, position, arrival);
        } else if let Some((project, key, content, superseded)) = decode_source(source) {
            let first = First {
                content,
                arrival,
                accepted: request.count.into(),
                superseded,
                sequence: request.last(),
            };
            self.control.idempotency.insert(project, key, first);
        }
    }
}

/// Takes what neither the checkpoint nor the control snapshot covers.
struct Replaying<'a> {
    recovery: &'a mut Recovery,
    history: &'a History,
    covered: Sequence,
    /// Rows came that were not in the order of their sequences.
    out_of_order: bool,
}

impl Replaying<'_> {
    fn relieve_tier(&self) {
        if let Some(tier) = self.recovery.stores.tier() {
            tier.relieve(|| self.history.durable());
        }
    }
}

impl Replayed<OpenError> for Replaying<'_> {
    fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), OpenError> {
        let RowIn { event_time, key, archive, sequence, .. } = *row;
        // Sealed rows come by key: some of those to come lie below others that were put.
        self.out_of_order = true;
        if let Some(tier) = self.recovery.stores.tier() {
            tier.tier.freeze_mark();
        }
        self.recovery.row(&Row { view, event_time, key, archive }, sequence, self.covered)?;
        self.relieve_tier();
        Ok(())
    }

    fn frame(&mut self, frame: &LoggedFrame<'_>) -> Result<(), OpenError> {
        self.recovery.frame(self.history, frame, self.covered)?;
        self.relieve_tier();
        Ok(())
    }
}

/// Takes rows of a checkpoint into the map.
struct MapSink<'a> {
    views: HashMap<ViewId, (&'a View, Store), foldhash::fast::RandomState>,
    online: &'a Online,
}

impl<'a> MapSink<'a> {
    fn new(registry: &'a Registry, stores: &'a Stores) -> Self {
        let in_memory = |view: &&Arc<View>| view.online && view.tier == Tier::Memory;
        let views = registry.all_views().filter(in_memory);
        let views = views.map(|view| (view.id, (&**view, stores.of(view)))).collect();
        Self { views, online: &stores.online }
    }
}

impl Sink for MapSink<'_> {
    fn expect(&self, view: ViewId, rows: u64) {
        if let Some((_, Store::Memory(map))) = self.views.get(&view) {
            map.reserve(rows);
        }
    }

    fn rows(&self, view: ViewId, rows: &[CheckpointRow<'_>]) -> Result<(), String> {
        // A view that came or went after the control snapshot is rebuilt from history.
        let Some((view, store)) = self.views.get(&view) else { return Ok(()) };
        let Store::Memory(map) = store else {
            return Err("a row of the disk tier".to_owned());
        };
        for (_, state) in rows {
            StateRef::access(state)
                .and_then(|state| state.check(view.layout()))
                .map_err(|error| error.to_string())?;
        }
        map.pin().put_all(rows);
        Ok(())
    }

    fn clear(&self) {
        self.online.clear();
    }
}
