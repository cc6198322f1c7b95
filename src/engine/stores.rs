//! Where the online state of each view lives: in memory, or on disk behind a bounded overlay.
//!
//! It does not know what a state says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::archive::StateRef;
use crate::ids::{Sequence, ViewId};
use crate::online::{DiskTier, HotRead, Online, Room, ViewMap};
use crate::registry::model::{Tier, View};

/// Rows moved to the disk tier's store in one go.
const MOVE_ROWS: usize = 4096;

/// Opens the disk tier, the first time a view asks for it.
pub(super) type OpenTier = Box<dyn Fn() -> DiskTier + Send + Sync>;

/// The stores of all views.
pub(super) struct Stores {
    pub(super) online: Online,
    tier: OnceLock<Arc<SharedTier>>,
    open_tier: OpenTier,
}

/// The disk tier, with what the engine needs to know beside it.
pub(super) struct SharedTier {
    pub(super) tier: DiskTier,
    /// Held while a state is read, merged and put back: the writer and a rebuild both do that.
    updates: Mutex<()>,
    /// Something went wrong; the maintenance thread empties it and puts every row again.
    broken: AtomicBool,
    /// Views whose rows the maintenance thread is to remove.
    dropped: Mutex<Vec<ViewId>>,
}

/// The store of one view.
#[derive(Clone)]
pub(super) enum Store {
    /// Every row in memory.
    Memory(Arc<ViewMap>),
    /// Rows on disk, the hot ones in memory.
    Disk(Arc<SharedTier>, ViewId),
}

impl Stores {
    /// Empty stores; `open_tier` is called if a view has its rows on disk.
    pub(super) fn new(open_tier: OpenTier) -> Self {
        Self { online: Online::default(), tier: OnceLock::new(), open_tier }
    }

    /// The store of `view`, created empty if there is none yet.
    pub(super) fn of(&self, view: &View) -> Store {
        match view.tier {
            Tier::Memory => Store::Memory(self.online.view(view.id)),
            Tier::Disk => {
                let open = || {
                    let tier = (self.open_tier)();
                    Arc::new(SharedTier {
                        tier,
                        updates: Mutex::new(()),
                        broken: AtomicBool::new(false),
                        dropped: Mutex::default(),
                    })
                };
                Store::Disk(self.tier.get_or_init(open).clone(), view.id)
            }
        }
    }

    /// The disk tier, if a view has its rows there.
    pub(super) fn tier(&self) -> Option<&Arc<SharedTier>> {
        self.tier.get()
    }

    /// Lets go of a view. Rows it has on disk are removed later, since that may take long.
    pub(super) fn drop_view(&self, view: ViewId) {
        self.online.drop_view(view);
        if let Some(tier) = self.tier() {
            tier.dropped().push(view);
        }
    }

    /// Rows per view that is held in memory.
    pub(super) fn rows(&self) -> Vec<(ViewId, u64)> {
        self.online.views().into_iter().map(|(view, map)| (view, map.len() as u64)).collect()
    }
}

impl Store {
    /// Replaces the state of `key` by what `change` makes of it; none changes nothing. Returns
    /// whether it did. A disk tier that fails is rebuilt from history, which has the row already.
    pub(super) fn update(
        &self,
        key: &[u8],
        change: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> bool {
        match self {
            Self::Memory(map) => {
                let map = map.pin();
                let changed = change(map.get(key));
                if let Some(state) = &changed {
                    map.put(key, state);
                }
                changed.is_some()
            }
            Self::Disk(tier, view) => tier.update(*view, key, change),
        }
    }

    /// Takes out of the state of `key` what `change` says; `sequence` is that of the record that
    /// wants it.
    pub(super) fn erase(
        &self,
        key: &[u8],
        sequence: Sequence,
        change: impl FnOnce(&[u8]) -> Erasing,
    ) {
        match self {
            Self::Memory(map) => {
                let map = map.pin();
                match map.get(key).map_or(Erasing::Nothing, change) {
                    Erasing::Nothing => {}
                    Erasing::To(state) => map.put(key, &state),
                    Erasing::All => map.remove(key),
                }
            }
            Self::Disk(tier, view) => tier.erase(*view, key, sequence, change),
        }
    }

    /// A copy of the state of `key`, as far as it can be read.
    pub(super) fn copy(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Memory(map) => map.pin().get(key).map(<[u8]>::to_vec),
            Self::Disk(tier, view) => match tier.tier.get_for_write(*view, key) {
                Ok(state) => state.map(|state| state.to_vec()),
                Err(error) => {
                    tier.broke(&error.to_string());
                    None
                }
            },
        }
    }
}

/// What an erasure does to a state.
pub(super) enum Erasing {
    /// It is newer as a whole.
    Nothing,
    /// This much of it is newer.
    To(Vec<u8>),
    /// Nothing of it is.
    All,
}

impl SharedTier {
    fn erase(
        &self,
        view: ViewId,
        key: &[u8],
        sequence: Sequence,
        change: impl FnOnce(&[u8]) -> Erasing,
    ) {
        let _held = self.lock();
        if self.is_broken() {
            // The rebuild leaves out what is erased.
            return;
        }
        let old = match self.tier.get_for_write(view, key) {
            Ok(old) => old,
            Err(error) => return self.broke(&error.to_string()),
        };
        let (Room::Left | Room::Full) = match old.as_deref().map_or(Erasing::Nothing, change) {
            Erasing::Nothing => return,
            Erasing::To(state) => self.tier.put(view, key, sequence, &state),
            Erasing::All => self.tier.remove(view, key, sequence),
        };
    }

    /// Has the tier emptied and every row put again, so that its files hold nothing from before.
    pub(super) fn renew(&self) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            tracing::info!("the disk tier begins anew without what was erased; history answers");
        }
    }

    fn update(
        &self,
        view: ViewId,
        key: &[u8],
        change: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> bool {
        let _held = self.lock();
        if self.is_broken() {
            // History has the row; the rebuild will put it.
            return true;
        }
        let old = match self.tier.get_for_write(view, key) {
            Ok(old) => old,
            Err(error) => {
                self.broke(&error.to_string());
                return true;
            }
        };
        let Some(state) = change(old.as_deref()) else { return false };
        let sequence = StateRef::access(&state).map_or(Sequence::ZERO, StateRef::sequence);
        // Room is made between groups, where everything applied is known to be in history.
        let (Room::Left | Room::Full) = self.tier.put(view, key, sequence, &state);
        true
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads without the disk.
    pub(super) fn get_hot(&self, view: ViewId, key: &[u8]) -> HotRead {
        match self.is_broken() {
            true => HotRead::Rebuilding,
            false => self.tier.get_hot(view, key),
        }
    }

    /// Moves rows to the disk while more wait than may. `durable` is the last sequence history
    /// holds durably.
    pub(super) fn relieve(&self, durable: impl Fn() -> Sequence) {
        while self.tier.is_over() && self.move_some(&durable) > 0 {}
    }

    /// Moves the rows that waited longest; returns how many.
    pub(super) fn move_some(&self, durable: impl Fn() -> Sequence) -> usize {
        if self.is_broken() {
            return 0;
        }
        match self.tier.move_some(MOVE_ROWS, |highest| highest <= durable()) {
            Ok(moved) => moved.rows,
            Err(error) => {
                self.broke(&error.to_string());
                0
            }
        }
    }

    /// Lets the next start replay only what came after now, although nothing was moved.
    pub(super) fn save_mark(&self, durable: impl Fn() -> Sequence) {
        if !self.is_broken()
            && let Err(error) = self.tier.save_mark(|highest| highest <= durable())
        {
            self.broke(&error.to_string());
        }
    }

    fn dropped(&self) -> MutexGuard<'_, Vec<ViewId>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the rows of views removed that are there but do not live: their removal was interrupted
    /// by the end of an earlier run.
    pub(super) fn drop_leftovers(&self, lives: impl Fn(ViewId) -> bool) {
        if self.is_broken() {
            return;
        }
        match self.tier.views_in_cold() {
            Ok(views) => self.dropped().extend(views.into_iter().filter(|view| !lives(*view))),
            Err(error) => self.broke(&error.to_string()),
        }
    }

    /// Removes the rows of dropped views, until `stop` says so.
    pub(super) fn remove_dropped(&self, stop: impl Fn() -> bool) {
        let dropped = std::mem::take(&mut *self.dropped());
        for view in dropped {
            // A broken tier is emptied and gets the rows of views that live.
            if self.is_broken() || stop() {
                return;
            }
            if let Err(error) = self.tier.drop_view(view, &stop) {
                self.broke(&error.to_string());
            }
        }
    }

    /// From now on history answers, until the tier is rebuilt.
    pub(super) fn broke(&self, reason: &str) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            tracing::error!(
                reason,
                "the disk tier failed and is rebuilt; history answers meanwhile"
            );
        }
    }

    /// Whether it waits to be rebuilt.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Empties it; every row has to be put again. History answers until `finish_rebuild`.
    pub(super) fn start_rebuild(&self) {
        let _held = self.lock();
        if let Err(error) = self.tier.start_rebuild() {
            tracing::error!(%error, "the disk tier cannot be emptied; history goes on answering");
            return;
        }
        self.broken.store(false, Ordering::SeqCst);
    }
}
