//! What may no longer be seen of history: event times below which rows may be gone, and the rows
//! of an entity key that were erased.
//!
//! It does not know why; retention and erasure are the engine's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use super::manifest::RetentionFloor;
use crate::ids::{Sequence, ViewId};
use crate::time::EventTime;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Of a view, the keys whose rows below a sequence are erased.
pub type ErasedKeys = Map<Box<[u8]>, Sequence>;

/// The erased keys of each view.
pub type Erased = Map<ViewId, ErasedKeys>;

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
    fn add(&self, views: &[ViewId], key: &[u8], below: Sequence) {
        let mut erased = self.erased.write().unwrap_or_else(PoisonError::into_inner);
        for view in views {
            erased.entry(*view).or_default().insert(key.into(), below);
        }
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
        self.erased.add(views, key, below);
        self.replaced
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|hidden| hidden.add(views, key, below));
    }

    /// The event time below which rows of `view` may be gone.
    pub fn floor(&self, view: ViewId) -> Option<EventTime> {
        self.floors.get(&view).copied()
    }

    /// The keys of `view` that have erased rows.
    pub fn erased_keys(&self, view: ViewId) -> ErasedKeys {
        self.erased().get(&view).cloned().unwrap_or_default()
    }

    /// Rows of `key` below this sequence are erased.
    pub fn erased_below(&self, view: ViewId, key: &[u8]) -> Sequence {
        if !self.erased.any.load(Ordering::SeqCst) {
            return Sequence::ZERO;
        }
        let erased = self.erased();
        let keys = erased.get(&view);
        keys.and_then(|keys| keys.get(key)).copied().unwrap_or(Sequence::ZERO)
    }

    fn erased(&self) -> RwLockReadGuard<'_, Erased> {
        self.erased.erased.read().unwrap_or_else(PoisonError::into_inner)
    }
}
