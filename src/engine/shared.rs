//! What the engine's callers, its writer and its maintenance threads all see.
//!
//! It does not know what any of them does with it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::engine::backup::Pins;
use crate::engine::erase::Erasures;
use crate::engine::load::Committed;
use crate::engine::positions::{Position, Positions};
use crate::engine::scrub::Damages;
use crate::engine::stores::Stores;
use crate::engine::writes::Durability;
use crate::history::History;
use crate::history::bulk::Identity;
use crate::history::record::SourceKind;
use crate::ids::{Sequence, ViewId};
use crate::limits::Limits;
use crate::metrics::{Metrics, WritesState};
use crate::registry::Registry;
use crate::time::{ArrivalTime, Clock, EventTime, Span};

/// The shared state. The writer thread publishes; everybody else reads.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) durability: Durability,
    pub(super) sync_interval: Span,
    pub(super) accept_clock: bool,
    /// Bytes a second that work beside the requests may read.
    pub(super) maintenance_rate: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: ArcSwap<Registry>,
    pub(super) stores: Stores,
    pub(super) history: Arc<History>,
    /// The last sequence that is applied, hence visible.
    pub(super) visible: watch::Sender<Sequence>,
    /// How long the bytes of what is erased may stay.
    pub(super) erase_within: Span,
    last_arrival: AtomicI64,
    positions: Mutex<Positions>,
    erasures: Mutex<Erasures>,
    /// Loads that are visible and not all online.
    held: Mutex<Vec<Arc<Committed>>>,
    /// Loads are to stop.
    stopping: AtomicBool,
    /// The turn to load: one runs at a time.
    pub(super) loads: Arc<Semaphore>,
    /// What is held for backups.
    pub(super) pins: Pins,
    /// What is known to be damaged.
    pub(super) damages: Damages,
}

/// What [`Shared`] is made of.
pub(super) struct Parts {
    pub(super) limits: Limits,
    pub(super) durability: Durability,
    pub(super) sync_interval: Span,
    pub(super) accept_clock: bool,
    /// Bytes a second that work beside the requests may read.
    pub(super) maintenance_rate: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: Registry,
    pub(super) stores: Stores,
    pub(super) history: Arc<History>,
    pub(super) last_sequence: Sequence,
    pub(super) last_arrival: ArrivalTime,
    pub(super) positions: Positions,
    pub(super) erasures: Erasures,
    pub(super) erase_within: Span,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            limits: parts.limits,
            durability: parts.durability,
            sync_interval: parts.sync_interval,
            accept_clock: parts.accept_clock,
            maintenance_rate: parts.maintenance_rate,
            clock: parts.clock,
            metrics: parts.metrics,
            registry: ArcSwap::from_pointee(parts.registry),
            stores: parts.stores,
            history: parts.history,
            visible: watch::Sender::new(parts.last_sequence),
            last_arrival: AtomicI64::new(parts.last_arrival.micros()),
            positions: Mutex::new(parts.positions),
            erasures: Mutex::new(parts.erasures),
            held: Mutex::default(),
            stopping: AtomicBool::new(false),
            loads: Arc::new(Semaphore::new(1)),
            erase_within: parts.erase_within,
            pins: Pins::default(),
            damages: Damages::default(),
        }
    }

    /// Now, for lookups: never before an event that is visible, even if the clock stepped back.
    pub(super) fn now(&self) -> EventTime {
        self.clock.now().max(self.last_arrival()).as_event_time()
    }

    /// When the newest of what is visible arrived.
    pub(super) fn last_arrival(&self) -> ArrivalTime {
        ArrivalTime::from_micros(self.last_arrival.load(Ordering::Acquire))
    }

    /// Whether the clock stands so far before the last arrival that writes are refused.
    pub(super) fn clock_is_behind(&self, last_arrival: ArrivalTime) -> bool {
        let latest = self.clock.now().plus(self.limits.max_future);
        !self.accept_clock && latest < last_arrival
    }

    /// Whether writes would be accepted now. What the clock has to do with it is asked of the
    /// clock, since nobody may have written since it was set.
    pub(super) fn writes_now(&self) -> WritesState {
        let said = self.metrics.writes();
        if !matches!(said, WritesState::Open | WritesState::ClockBehind) {
            return said;
        }
        // Not noted in the metrics: the writer may just be noting there that writes have ended.
        match self.clock_is_behind(self.last_arrival()) {
            true => WritesState::ClockBehind,
            false => WritesState::Open,
        }
    }

    /// Makes everything up to `last` visible.
    pub(super) fn advance(&self, last: Sequence, arrival: ArrivalTime) {
        self.last_arrival.store(arrival.micros(), Ordering::Release);
        self.visible.send_replace(last);
    }

    /// How far a source of writes has come.
    pub(super) fn position(&self, kind: SourceKind, id: &[u8]) -> Option<Position> {
        self.positions().get(kind, id).cloned()
    }

    /// Every row up to here is online: what is copied from there from now on covers it. A load is
    /// visible before it is online.
    pub(super) fn online_upto(&self) -> Sequence {
        // Whoever makes a load visible has held it before.
        let visible = self.visible();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = |load: &Arc<Committed>| Sequence(load.first.0.saturating_sub(1));
        held.iter().map(before).min().map_or(visible, |before| before.min(visible))
    }

    /// Says that a load is about to be visible and is not online.
    pub(super) fn hold(&self, load: Arc<Committed>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(load);
        if let Some(tier) = self.stores.tier() {
            tier.tier.freeze_mark();
        }
    }

    /// The load with this identity, if it is visible and not all online.
    pub(super) fn held(&self, identity: &Identity) -> Option<Arc<Committed>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|load| load.identity == *identity).cloned()
    }

    /// Says that it is online now.
    pub(super) fn release(&self, load: &Committed) {
        self.release_those(|held| held.identity == load.identity);
    }

    /// Says that nothing of a view needs to come online any more.
    pub(super) fn release_of(&self, view: ViewId) {
        self.release_those(|held| held.view == view);
    }

    fn release_those(&self, goes: impl Fn(&Committed) -> bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.len();
        held.retain(|load| !goes(load));
        let was_last = held.is_empty() && before > 0;
        if let Some(tier) = self.stores.tier().filter(|_| was_last) {
            tier.tier.thaw_mark(self.visible());
        }
    }

    /// Has loads under way stop, and no other begin.
    pub(super) fn stop_loads(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether they are to.
    pub(super) fn loads_stop(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// How far every source of writes has come; only the writer changes it.
    pub(super) fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was erased; only the writer changes it.
    pub(super) fn erasures(&self) -> MutexGuard<'_, Erasures> {
        self.erasures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last visible sequence.
    pub(super) fn visible(&self) -> Sequence {
        *self.visible.borrow()
    }
}
