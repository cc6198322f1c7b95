//! Every number the server publishes: its name, its unit, what it means, and where it is kept.
//!
//! It does not know who counts or who asks; it is passed in as an `Arc` and reads no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use crate::time::{ArrivalTime, Span};

pub mod code;
pub mod histogram;
pub mod render;
pub mod route;
pub mod stats;

pub use code::Code;
pub use render::ViewRows;
pub use route::Route;
pub use stats::Stats;

use histogram::{Bounds, Histograms, SHARDS, shard};

/// Latencies are kept in nanoseconds, told apart from 64 ns to a minute.
const LATENCY: Bounds = Bounds { low: 64, high: 60_000_000_000 };
/// Requests per sync are kept exactly up to 256 and within 1 % above.
const GROUP: Bounds = Bounds { low: 1, high: 1_000_000 };
/// Status classes from 1xx to 5xx.
const CLASSES: usize = 5;

/// A number that only grows; threads that count at once do not disturb each other.
pub struct Counter([CachePadded<AtomicU64>; SHARDS]);

impl Counter {
    fn new() -> Self {
        Self(std::array::from_fn(|_| CachePadded::default()))
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        if count == 0 {
            return;
        }
        self.0[shard()].fetch_add(count, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }
}

/// A number that goes up and down.
pub struct Gauge(AtomicU64);

impl Gauge {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Replaces it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Replaces it by a length of time; for gauges that are kept in microseconds.
    pub fn set_span(&self, span: Span) {
        self.set(u64::try_from(span.micros()).unwrap_or(0));
    }

    /// Replaces it by an instant; for gauges that are kept in microseconds.
    pub fn set_time(&self, time: ArrivalTime) {
        self.set(u64::try_from(time.micros()).unwrap_or(0));
    }

    /// Adds `count`; says what it was before.
    pub fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed)
    }

    /// Takes `count` away; every call matches an [`Gauge::add`] before it.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the server's writer can do at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WritesState {
    /// Nothing yet: recovering or draining.
    Closed,
    /// Accepts writes.
    Open,
    /// The disk is full.
    Full,
    /// The clock stands too far behind the last arrival.
    ClockBehind,
    /// A sync failed; only a restart helps.
    Stopped,
}

impl WritesState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Closed, Self::Open, Self::Full, Self::ClockBehind, Self::Stopped];

    /// Its name in labels, in statistics and in `/ready`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Full => "full",
            Self::ClockBehind => "clock_behind",
            Self::Stopped => "stopped",
        }
    }
}

/// Where a lookup of the disk tier found its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskSource {
    /// The overlay of rows not yet moved to disk.
    Overlay,
    /// The cache of hot rows.
    Cache,
    /// The tier's own store on disk.
    Store,
    /// History, as of now, because the store failed or was too slow.
    History,
}

impl DiskSource {
    /// Every source, fastest first.
    pub const ALL: [Self; 4] = [Self::Overlay, Self::Cache, Self::Store, Self::History];

    /// Its name in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Cache => "cache",
            Self::Store => "store",
            Self::History => "history",
        }
    }
}

/// How a plain number is kept, which decides how it is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    Counter,
    Gauge,
    /// A gauge kept in microseconds and published in seconds.
    Micros,
}

/// A plain number: everything that is to be said about it.
pub(crate) struct Plain {
    pub(crate) name: &'static str,
    pub(crate) kept: Kept,
    pub(crate) help: &'static str,
    pub(crate) read: fn(&Metrics) -> u64,
}

macro_rules! plain {
    ($($field:ident: $type:ident $kept:ident $name:literal $help:literal,)*) => {
        /// All of the server's numbers. One per server, shared by `Arc`.
        ///
        /// The public fields are the numbers without labels; the others have methods.
        pub struct Metrics {
            $(#[doc = $help] pub $field: $type,)*
            started: ArrivalTime,
            requests: Box<[[Counter; CLASSES]]>,
            errors: Box<[Counter]>,
            disk_reads: Box<[Counter]>,
            writes: AtomicU8,
            latencies: Histograms,
            syncs: Histograms,
            groups: Histograms,
        }

        impl Metrics {
            /// All numbers at zero, for a server that started at `started`.
            pub fn new(started: ArrivalTime) -> Arc<Self> {
                Arc::new(Self {
                    $($field: $type::new(),)*
                    started,
                    requests: (Route::ALL.iter())
                        .map(|_| std::array::from_fn(|_| Counter::new()))
                        .collect(),
                    errors: Code::ALL.iter().map(|_| Counter::new()).collect(),
                    disk_reads: DiskSource::ALL.iter().map(|_| Counter::new()).collect(),
                    writes: AtomicU8::new(WritesState::Closed as u8),
                    latencies: Histograms::new(Route::ALL.len(), LATENCY),
                    syncs: Histograms::new(1, LATENCY),
                    groups: Histograms::new(1, GROUP),
                })
            }
        }

        /// The numbers without labels, in the order they are published.
        pub(crate) const PLAIN: &[Plain] = &[
            $(Plain { name: $name, kept: Kept::$kept, help: $help, read: |m| m.$field.get() },)*
        ];
    };
}

plain! {
    rows_accepted: Counter Counter "larder_rows_accepted_total"
        "Rows written to history.",
    rows_superseded: Counter Counter "larder_rows_superseded_total"
        "Rows kept in history that changed nothing online because newer ones were there.",
    idempotent_repeats: Counter Counter "larder_idempotent_repeats_total"
        "Writes answered with the result of an earlier one of the same idempotency key.",
    frames: Counter Counter "larder_history_frames_total"
        "Frames appended to history.",
    history_written_bytes: Counter Counter "larder_history_written_bytes_total"
        "Bytes appended to history.",
    queue_full: Counter Counter "larder_write_queue_full_total"
        "Writes refused because the write queue was full.",
    queue_bytes: Gauge Gauge "larder_write_queue_bytes"
        "Bytes of writes waiting for the writer.",
    queue_requests: Gauge Gauge "larder_write_queue_requests"
        "Requests waiting for the writer.",
    sequence_written: Gauge Gauge "larder_sequence_written"
        "Last sequence appended to history.",
    sequence_durable: Gauge Gauge "larder_sequence_durable"
        "Last sequence known to be on disk.",
    idempotency_keys: Gauge Gauge "larder_idempotency_keys"
        "Idempotency keys remembered.",
    features_asked: Counter Counter "larder_lookup_features_total"
        "Feature values asked for by lookups.",
    features_missing: Counter Counter "larder_lookup_features_missing_total"
        "Feature values that were missing, null or expired.",
    features_defaulted: Counter Counter "larder_lookup_features_defaulted_total"
        "Feature values answered with the default of the feature.",
    lookups_fallen_back: Counter Counter "larder_lookup_fallbacks_total"
        "Lookups in which a default or history stood in because something failed.",
    recovery_time: Gauge Micros "larder_recovery_seconds"
        "Time the last start took until the server was ready.",
    recovery_checkpoint_time: Gauge Micros "larder_recovery_checkpoint_seconds"
        "Part of the recovery spent on reading the checkpoint.",
    recovery_history_time: Gauge Micros "larder_recovery_history_seconds"
        "Part of the recovery spent on replaying history.",
    recovery_checkpoint_rows: Gauge Gauge "larder_recovery_checkpoint_rows"
        "Rows the last start took from the checkpoint.",
    recovery_history_rows: Gauge Gauge "larder_recovery_history_rows"
        "Rows the last start replayed from history.",
    checkpoints: Counter Counter "larder_checkpoints_total"
        "Checkpoints completed.",
    checkpoint_failures: Counter Counter "larder_checkpoint_failures_total"
        "Checkpoints that failed; recovery is slower, nothing is lost.",
    checkpoint_sequence: Gauge Gauge "larder_checkpoint_sequence"
        "Sequence the newest checkpoint covers.",
    checkpoint_completed: Gauge Micros "larder_checkpoint_completed_timestamp_seconds"
        "When the newest checkpoint was completed, as Unix time; 0 if there is none.",
    sealed_files: Gauge Gauge "larder_history_sealed_files"
        "Sealed files of history.",
    sealed_bytes: Gauge Gauge "larder_history_sealed_bytes"
        "Bytes in sealed files of history.",
    sequence_sealed: Gauge Gauge "larder_sequence_sealed"
        "Last sequence that is in a sealed file.",
    log_segments: Gauge Gauge "larder_history_log_segments"
        "Segments of the log of history that are still there.",
    seals: Counter Counter "larder_history_seals_total"
        "Segments of the log that were sealed.",
    merges: Counter Counter "larder_history_merges_total"
        "Times that sealed files were merged into one.",
    rewrites: Counter Counter "larder_history_rewrites_total"
        "Times that one sealed file was rewritten without rows that retention or erasure took.",
    rows_dropped: Counter Counter "larder_history_rows_dropped_total"
        "Rows that retention or erasure took out of history for good.",
    seal_failures: Counter Counter "larder_history_seal_failures_total"
        "Times that sealing or merging failed; it is tried again, nothing is lost.",
    sealing_time: Gauge Micros "larder_history_sealing_seconds"
        "Time spent on sealing since start, waiting for its I/O budget included.",
    merging_time: Gauge Micros "larder_history_merging_seconds"
        "Time spent on merging since start, waiting for its I/O budget included.",
    erasures_pending: Gauge Gauge "larder_erasures_pending"
        "Erasures of which bytes may be left.",
    erasures_overdue: Gauge Gauge "larder_erasures_overdue"
        "Erasures of which bytes may be left past their deadline.",
    erasures_done: Counter Counter "larder_erasures_done_total"
        "Erasures of which the last byte went since start.",
    background_panics: Counter Counter "larder_background_panics_total"
        "Times that a thread beside the requests panicked, which is a bug; the log says which, and \
         it begins anew.",
    scrubs: Counter Counter "larder_scrubs_total"
        "Times that everything at rest was read and checked.",
    scrubbed_bytes: Counter Counter "larder_scrubbed_bytes_total"
        "Bytes at rest that were read and checked.",
    scrub_completed: Gauge Micros "larder_scrub_completed_timestamp_seconds"
        "When everything at rest was last read and checked, as Unix time; 0 if it was not yet.",
    damaged_files: Gauge Gauge "larder_damaged_files"
        "Files of history that were found damaged on the disk; any above 0 wants a look.",
    connections_open: Gauge Gauge "larder_connections_open"
        "Open connections to the API, those beyond `limits.connections` that are being refused \
         included.",
    connections_accepted: Counter Counter "larder_connections_accepted_total"
        "Connections to the API accepted.",
    connections_refused: Counter Counter "larder_connections_refused_total"
        "Connections to the API refused because `limits.connections` were open; the first 256 \
         beyond get a 503.",
    operations_open: Gauge Gauge "larder_operations_connections_open"
        "Open connections to the operations listener.",
    operations_accepted: Counter Counter "larder_operations_connections_accepted_total"
        "Connections to the operations listener accepted.",
    operations_refused: Counter Counter "larder_operations_connections_refused_total"
        "Connections to the operations listener refused because 64 were open.",
    held_body_bytes: Gauge Gauge "larder_held_body_bytes"
        "Bytes of request bodies held, over all connections; `limits.held_body_bytes` bounds them.",
}

impl Metrics {
    /// A request of `route` was answered with `status` after `elapsed`.
    pub fn request(&self, route: Route, status: u16, elapsed: Duration, now: ArrivalTime) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        self.requests[route as usize][class].increment();
        self.latencies.record(route as usize, nanos(elapsed), now);
    }

    /// A request was refused with `code`.
    pub fn error(&self, code: Code) {
        self.errors[code as usize].increment();
    }

    /// A group of `requests` became durable by one sync that took `elapsed`.
    pub fn sync(&self, requests: u64, elapsed: Duration, now: ArrivalTime) {
        self.syncs.record(0, nanos(elapsed), now);
        self.groups.record(0, requests, now);
    }

    /// `rows` of the disk tier were read from `source`.
    pub fn disk_read(&self, source: DiskSource, rows: u64) {
        self.disk_reads[source as usize].add(rows);
    }

    /// The writer's state changed.
    pub fn set_writes(&self, state: WritesState) {
        self.writes.store(state as u8, Ordering::Relaxed);
    }

    /// The writer's state.
    pub fn writes(&self) -> WritesState {
        let now = self.writes.load(Ordering::Relaxed);
        WritesState::ALL.into_iter().find(|s| *s as u8 == now).unwrap_or(WritesState::Closed)
    }

    /// When the server started.
    pub fn started(&self) -> ArrivalTime {
        self.started
    }
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
