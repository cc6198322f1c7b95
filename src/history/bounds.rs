//! What may no longer be seen of history: event times below which rows may be gone, and the rows
//! of an entity key, or of a whole view, that were erased.
//!
//! It does not know why; retention and erasure are the engine's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use super::manifest::RetentionFloor;
use crate::ids::{Sequence, ViewId};
use crate::time::EventTime;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What of each view is erased.
pub type Erased = Map<ViewId, ErasedRows>;

/// What of a view is erased.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ErasedRows {
    /// Every row below this sequence, if one is named: the view was dropped with its rows, and none
    /// comes any more.
    pub all_below: Option<Sequence>,
    /// Of a key, the rows below its sequence.
    pub keys: Map<Box<[u8]>, Sequence>,
}

/// Both kinds of bounds. Whoever holds them goes on hiding what they hid, though nothing of it may
/// be left by now; what is erased meanwhile is hidden from it too.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    floors: Arc<Map<ViewId, EventTime>>,
    erased: Arc<Hidden>,
    /// What was hidden before, which reads that run may hold still.
    replaced: Vec<Weak<Hidden>>,
}

#[derive(Debug, Default)]
struct Hidden {
    /// Whether there is any: a restart asks for every row.
    any: AtomicBool,
    erased: RwLock<Erased>,
}

impl Hidden {
    fn add(&self, views: &[ViewId], add: impl Fn(&mut ErasedRows)) {
        let mut erased = self.erased.write().unwrap_or_else(PoisonError::into_inner);
        views.iter().for_each(|view| add(erased.entry(*view).or_default()));
        self.any.store(true, Ordering::SeqCst);
    }
}

impl Bounds {
    /// Replaces the floors.
    pub fn set_floors(&mut self, floors: &[RetentionFloor]) {
        self.floors = Arc::new(floors.iter().map(|entry| (entry.view, entry.floor)).collect());
    }

    pub(super) fn set_erased(&mut self, erased: Erased) {
        let any = AtomicBool::new(!erased.is_empty());
        self.replaced.retain(|hidden| hidden.strong_count() > 0);
        self.replaced.push(Arc::downgrade(&self.erased));
        self.erased = Arc::new(Hidden { any, erased: RwLock::new(erased) });
    }

    pub(super) fn erase(&self, views: &[ViewId], key: &[u8], below: Sequence) {
        self.add(views, |erased| {
            erased.keys.insert(key.into(), below);
        });
    }

    pub(super) fn erase_views(&self, views: &[ViewId], below: Sequence) {
        self.add(views, |erased| erased.all_below = Some(below));
    }

    fn add(&self, views: &[ViewId], add: impl Fn(&mut ErasedRows)) {
        self.erased.add(views, &add);
        let replaced = self.replaced.iter().filter_map(Weak::upgrade);
        replaced.for_each(|hidden| hidden.add(views, &add));
    }

    /// The event time below which rows of `view` may be gone.
    pub fn floor(&self, view: ViewId) -> Option<EventTime> {
        self.floors.get(&view).copied()
    }

    /// What of `view` is erased.
    pub fn erased_rows(&self, view: ViewId) -> ErasedRows {
        self.erased().get(&view).cloned().unwrap_or_default()
    }

    /// Whether all rows of `view` up to a sequence are erased, because the view is.
    pub(super) fn is_erased(&self, view: ViewId, upto: Sequence) -> bool {
        let below = self.erased().get(&view).and_then(|erased| erased.all_below);
        below.is_some_and(|below| upto < below)
    }

    /// Rows of `key` below this sequence are erased.
    pub fn erased_below(&self, view: ViewId, key: &[u8]) -> Sequence {
        if !self.erased.any.load(Ordering::SeqCst) {
            return Sequence::ZERO;
        }
        let erased = self.erased();
        let of_view = erased.get(&view);
        let below = of_view.and_then(|erased| erased.all_below.max(erased.keys.get(key).copied()));
        below.unwrap_or(Sequence::ZERO)
    }

    fn erased(&self) -> RwLockReadGuard<'_, Erased> {
        self.erased.erased.read().unwrap_or_else(PoisonError::into_inner)
    }
}
