//! Views whose states lie on disk: new rows wait in memory, the hot ones are cached.
//!
//! It does not know the store below it, history, or threads: the engine calls the mover, reads
//! the cold store where blocking is allowed, and answers from history where this cannot.
//!
//! # Why no read is older than what was acknowledged
//!
//! A row is put into the overlay before it is acknowledged, and readers look there first. The
//! mover (1) puts it into the cold store, (2) replaces a cached copy and counts up the number of
//! its stripe, (3) takes it out of the overlay unless it was replaced meanwhile. A reader that
//! begins after the acknowledgement and misses the overlay thus comes after (3): the cold store
//! has the row, and the cache has it or nothing. What is left is a slow reader that got an older
//! row from the cold store before (1) and caches it after (2). It notes the stripe's number before
//! it reads, and caches under the stripe's lock only if the number is still the same: it cached
//! before (2), which then replaces its copy, or it sees another number and caches nothing.
//!
//! A row that is removed and put again, or dropped with its view, goes the same way.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::cold::{self, ColdError, ColdRow, ColdStore};
use super::overlay::{Overlay, Taken};
use crate::ids::{Sequence, ViewId};

/// Locks that order cache fills against the mover; one is held for a moment, never over a read.
const STRIPES: usize = 64;
/// For sizing the cache: what a row of a common view takes.
const TYPICAL_ROW_BYTES: u64 = 512;
/// What the cache takes for an entry beside key and state.
const CACHE_ENTRY_BYTES: u64 = 100;

/// A state of the disk tier, or that there is none.
pub type TierState = Option<Arc<[u8]>>;

/// The disk tier: one for all views that have it. One thread writes; any number read.
pub struct DiskTier {
    cold: Box<dyn ColdStore>,
    overlay: Overlay,
    overlay_limit: u64,
    cache: Cache<Arc<[u8]>, Cached, Weigh, RandomState>,
    stripes: [Mutex<u64>; STRIPES],
    stripe_hasher: RandomState,
    /// Held by whoever moves; the last mark made durable.
    mover: Mutex<Sequence>,
    applied: AtomicU64,
    rebuilding: AtomicBool,
    /// The mark stays while a put waits whose first row is at or below this; 0 where it may move.
    frozen: AtomicU64,
}

#[derive(Clone)]
struct Cached {
    sequence: Sequence,
    /// That there is none is worth remembering too.
    state: TierState,
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Arc<[u8]>, Cached> for Weigh {
    fn weight(&self, key: &Arc<[u8]>, cached: &Cached) -> u64 {
        let state = cached.state.as_ref().map_or(0, |state| state.len());
        (key.len() + state) as u64 + CACHE_ENTRY_BYTES
    }
}

/// Bounds of a disk tier, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TierLimits {
    /// Rows that wait to be moved. Past it [`DiskTier::put`] asks for a move.
    pub overlay: u64,
    /// Rows kept in memory because they are read.
    pub cache: u64,
}

/// Where a read of the disk tier found its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// Among rows not moved yet.
    Overlay,
    /// In the cache.
    Cache,
    /// In the cold store.
    Cold,
}

/// What a read without the disk gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HotRead {
    /// The current state, or that there is none.
    Found(TierState, Source),
    /// The cold store must be asked: [`DiskTier::get_cold`].
    NeedsCold,
    /// The tier does not hold everything; history answers.
    Rebuilding,
}

/// Whether the overlay has room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Room {
    /// It has.
    Left,
    /// It is over its bound: move before the next put.
    Full,
}

/// What a move did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Rows that went to the cold store.
    pub rows: usize,
    /// Every row up to here is there, durably; a restart replays from the next.
    pub covered: Sequence,
}

impl DiskTier {
    /// A tier over `cold`, in which every row up to `moved` lies.
    pub fn new(cold: Box<dyn ColdStore>, moved: Sequence, limits: TierLimits) -> Self {
        let items = usize::try_from(limits.cache / TYPICAL_ROW_BYTES).unwrap_or(usize::MAX);
        let lifecycle = DefaultLifecycle::default();
        Self {
            cold,
            overlay: Overlay::new(),
            overlay_limit: limits.overlay,
            cache: Cache::with(items, limits.cache, Weigh, RandomState::default(), lifecycle),
            stripes: std::array::from_fn(|_| Mutex::new(0)),
            stripe_hasher: RandomState::default(),
            mover: Mutex::new(moved),
            applied: AtomicU64::new(moved.0),
            rebuilding: AtomicBool::new(false),
            frozen: AtomicU64::new(0),
        }
    }

    /// Reads without the disk and without waiting for it.
    pub fn get_hot(&self, view: ViewId, key: &[u8]) -> HotRead {
        if self.is_rebuilding() {
            return HotRead::Rebuilding;
        }
        self.look_up(&cold::key_of(view, key))
    }

    fn look_up(&self, key: &[u8]) -> HotRead {
        if let Some(waiting) = self.overlay.get(key) {
            return HotRead::Found(waiting.state, Source::Overlay);
        }
        match self.cache.get(key) {
            Some(cached) => HotRead::Found(cached.state, Source::Cache),
            None => HotRead::NeedsCold,
        }
    }

    /// Reads from the cold store after [`HotRead::NeedsCold`], and caches what it finds. Blocks as
    /// long as the store does.
    ///
    /// # Errors
    /// The store's, a value that is not what was written, or that the tier is being rebuilt;
    /// history answers then.
    pub fn get_cold(&self, view: ViewId, key: &[u8]) -> Result<(TierState, Source), ColdError> {
        if self.is_rebuilding() {
            return Err(ColdError::Rebuilding);
        }
        let found = self.read_cold(&cold::key_of(view, key))?;
        // A rebuild that began meanwhile may have emptied the store under this read.
        if self.is_rebuilding() { Err(ColdError::Rebuilding) } else { Ok(found) }
    }

    fn read_cold(&self, key: &[u8]) -> Result<(TierState, Source), ColdError> {
        let noted = *self.stripe(key);
        let value = self.cold.get(key)?;
        let cached = match value {
            Some(value) => {
                let (sequence, state) = cold::decode(key, &value)?;
                Cached { sequence, state: Some(state) }
            }
            None => Cached { sequence: Sequence::ZERO, state: None },
        };
        let state = cached.state.clone();
        let stripe = self.stripe(key);
        if *stripe == noted {
            self.fill(key.into(), cached);
        }
        drop(stripe);
        // Not needed for what was acknowledged before this read began, but newer is better.
        match self.overlay.get(key) {
            Some(waiting) => Ok((waiting.state, Source::Overlay)),
            None => Ok((state, Source::Cold)),
        }
    }

    /// Called under the stripe's lock. Never replaces a row by an older one.
    fn fill(&self, key: Arc<[u8]>, cached: Cached) {
        let newer = self.cache.peek(&*key).is_some_and(|there| there.sequence > cached.sequence);
        if !newer {
            self.cache.insert(key, cached);
        }
    }

    /// The current state, for the writer to merge a row into. Blocks as [`Self::get_cold`]; beside
    /// a rebuild it is the state as far as it is rebuilt.
    ///
    /// # Errors
    /// The store's, or a value that is not what was written.
    pub fn get_for_write(&self, view: ViewId, key: &[u8]) -> Result<TierState, ColdError> {
        let key = cold::key_of(view, key);
        match self.look_up(&key) {
            HotRead::Found(state, _) => Ok(state),
            HotRead::NeedsCold | HotRead::Rebuilding => Ok(self.read_cold(&key)?.0),
        }
    }

    /// Puts the state of `key`, whose newest row has `sequence`. Sequences never decrease, except
    /// while rebuilding.
    pub fn put(&self, view: ViewId, key: &[u8], sequence: Sequence, state: &[u8]) -> Room {
        self.put_or_remove(view, key, sequence, Some(state.into()))
    }

    /// Removes `key`; `sequence` is that of the record that says so.
    pub fn remove(&self, view: ViewId, key: &[u8], sequence: Sequence) -> Room {
        self.put_or_remove(view, key, sequence, None)
    }

    fn put_or_remove(
        &self,
        view: ViewId,
        key: &[u8],
        sequence: Sequence,
        state: TierState,
    ) -> Room {
        // Beside a rebuild a state may gain a row far older than its newest: nothing is covered
        // before all that was put meanwhile was moved.
        let since = if self.is_rebuilding() { Sequence::ZERO } else { sequence };
        self.overlay.put(cold::key_of(view, key).into(), (since, sequence), state);
        if self.is_over() { Room::Full } else { Room::Left }
    }

    /// Says that every row up to `sequence` was put, also those of other views.
    pub fn applied(&self, sequence: Sequence) {
        self.applied.fetch_max(sequence.0, Ordering::Release);
    }

    /// Has the mark stay where it is: rows are to be put whose sequences lie below those of others
    /// that were put.
    pub fn freeze_mark(&self) {
        self.frozen.store(u64::MAX, Ordering::SeqCst);
    }

    /// Says that all of these were put. The mark may move again as soon as what was put up to
    /// `last`, the last sequence applied, has been moved.
    pub fn thaw_mark(&self, last: Sequence) {
        // A row that came to one being moved waits for the next move as if it were one further on.
        self.frozen.store(last.next().0, Ordering::SeqCst);
    }

    fn is_frozen(&self) -> bool {
        let frozen = self.frozen.load(Ordering::SeqCst);
        let waits = || self.overlay.first_waiting().is_some_and(|first| first.0 <= frozen);
        if frozen == 0 || frozen == u64::MAX || waits() {
            return frozen != 0;
        }
        // Unless it was frozen anew meanwhile.
        self.frozen.compare_exchange(frozen, 0, Ordering::SeqCst, Ordering::SeqCst).is_err()
    }

    /// Moves up to `most` rows, the oldest first, into the cold store and makes them durable.
    /// `make_durable` is asked, before anything is written, to make history durable up to a
    /// sequence; where it says false nothing is moved. Where nothing waits, the mark is left as it
    /// is, so that writes to other views cost no sync here: [`Self::save_mark`] moves it on.
    ///
    /// # Errors
    /// The store's; the rows stay where they were, and the engine rebuilds the tier.
    pub fn move_some(
        &self,
        most: usize,
        make_durable: impl FnOnce(Sequence) -> bool,
    ) -> Result<Moved, ColdError> {
        let mark = self.mover.lock().unwrap_or_else(PoisonError::into_inner);
        // A store without a mark counts as empty at the next start.
        if self.overlay.len() == 0 && *mark > Sequence::ZERO {
            return Ok(Moved { rows: 0, covered: *mark });
        }
        self.move_and_mark(mark, most, make_durable)
    }

    /// Moves the mark on to what was applied, as far as nothing waits; else a tier that is not
    /// written to would make every restart replay from its last row.
    ///
    /// # Errors
    /// As [`Self::move_some`].
    pub fn save_mark(
        &self,
        make_durable: impl FnOnce(Sequence) -> bool,
    ) -> Result<Moved, ColdError> {
        let mark = self.mover.lock().unwrap_or_else(PoisonError::into_inner);
        self.move_and_mark(mark, 0, make_durable)
    }

    fn move_and_mark(
        &self,
        mut mark: MutexGuard<'_, Sequence>,
        most: usize,
        make_durable: impl FnOnce(Sequence) -> bool,
    ) -> Result<Moved, ColdError> {
        // Read before the queue: what was applied by now has been put by now.
        let applied = Sequence(self.applied.load(Ordering::Acquire));
        let taken = self.overlay.take(most);
        let highest =
            taken.iter().map(|row| row.waiting.sequence).max().unwrap_or(*mark).max(applied);
        let idle = taken.is_empty() && applied <= *mark;
        if idle || !make_durable(highest) {
            self.overlay.put_back(taken);
            return Ok(Moved { rows: 0, covered: *mark });
        }
        let rows = taken.len();
        if rows > 0 {
            self.write(taken, highest)?;
        }
        if self.is_rebuilding() || self.is_frozen() {
            return Ok(Moved { rows, covered: *mark });
        }
        let covered = match self.overlay.first_waiting() {
            Some(first) => Sequence(first.0.saturating_sub(1)).min(highest),
            None => applied,
        };
        if covered > *mark || rows > 0 {
            let covered = covered.max(*mark);
            self.cold.flush(covered)?;
            *mark = covered;
        }
        Ok(Moved { rows, covered: *mark })
    }

    /// Steps (1) to (3) of the argument above.
    fn write(&self, taken: Vec<Taken>, highest: Sequence) -> Result<(), ColdError> {
        let value = |row: &Taken| {
            let sequence = row.waiting.sequence;
            row.waiting.state.as_deref().map(|state| cold::encode(&row.key, sequence, state))
        };
        let batch: Vec<ColdRow> =
            taken.iter().map(|row| (Arc::clone(&row.key), value(row))).collect();
        if let Err(error) = self.cold.put_batch(&batch, highest) {
            self.overlay.put_back(taken);
            return Err(error);
        }
        for row in taken {
            let (sequence, state) = (row.waiting.sequence, row.waiting.state.clone());
            let mut stripe = self.stripe(&row.key);
            *stripe += 1;
            // Only what is read is worth a place in the cache.
            if self.cache.contains_key(&*row.key) {
                self.cache.insert(Arc::clone(&row.key), Cached { sequence, state });
            }
            drop(stripe);
            self.overlay.done(row);
        }
        Ok(())
    }

    fn stripe(&self, key: &[u8]) -> MutexGuard<'_, u64> {
        let hash = self.stripe_hasher.hash_one(key);
        let index = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        self.stripes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the cached copy of `key`, so that the next read comes from the cold store. What waits
    /// to be moved is not touched. Returns whether there was one; that there is no row may be
    /// cached too and is forgotten with it, but is no copy.
    pub fn invalidate(&self, view: ViewId, key: &[u8]) -> bool {
        let removed = self.cache.remove(&cold::key_of(view, key)[..]);
        removed.is_some_and(|(_, cached)| cached.state.is_some())
    }

    /// Forgets a view for good, a few rows at a time, so that nobody who has to move waits long.
    /// Its id is never used again and nothing is put for it any more. Ends early, returning false,
    /// once `stop` says so.
    ///
    /// # Errors
    /// The store's.
    pub fn drop_view(&self, view: ViewId, stop: impl Fn() -> bool) -> Result<bool, ColdError> {
        let prefix = cold::key_of(view, b"");
        self.overlay.forget(&prefix);
        self.cache.retain(|key, _| !key.starts_with(&prefix));
        while !stop() {
            let moving = self.mover.lock().unwrap_or_else(PoisonError::into_inner);
            // A row of it may have been on its way when it was forgotten; it is there by now.
            let more = self.cold.remove_some(&prefix)?;
            drop(moving);
            if !more {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The views that have rows in the cold store, by their ids.
    ///
    /// # Errors
    /// The store's.
    pub fn views_in_cold(&self) -> Result<Vec<ViewId>, ColdError> {
        let mut views = Vec::new();
        let mut next = Some(ViewId(0));
        while let Some(from) = next
            && let Some(key) = self.cold.first_key(&cold::key_of(from, b""))?
        {
            let view = cold::view_of(&key)?;
            views.push(view);
            next = view.0.checked_add(1).map(ViewId);
        }
        Ok(views)
    }

    /// Empties the tier after a loss. From now on history answers reads, while the engine puts
    /// every row of it again, in any order, beside new ones.
    ///
    /// # Errors
    /// The store cannot even be emptied; the tier stays as one that is being rebuilt.
    pub fn start_rebuild(&self) -> Result<(), ColdError> {
        self.rebuilding.store(true, Ordering::SeqCst);
        let mut mark = self.mover.lock().unwrap_or_else(PoisonError::into_inner);
        *mark = Sequence::ZERO;
        let destroyed = self.cold.destroy();
        self.overlay.forget(b"");
        for stripe in &self.stripes {
            *stripe.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.cache.clear();
        destroyed
    }

    /// Says that every row of history was put again. Moves leave their mark again as soon as all of
    /// it has been moved.
    pub fn finish_rebuild(&self) {
        self.rebuilding.store(false, Ordering::SeqCst);
    }

    /// Whether history answers reads for now.
    pub fn is_rebuilding(&self) -> bool {
        self.rebuilding.load(Ordering::SeqCst)
    }

    /// Whether more waits to be moved than may.
    pub fn is_over(&self) -> bool {
        self.overlay.bytes() > self.overlay_limit
    }

    /// The last sequence up to which every row is in the store, durably.
    pub fn moved(&self) -> Sequence {
        *self.mover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows that wait to be moved, and about how many bytes they take.
    pub fn waiting(&self) -> (usize, u64) {
        (self.overlay.len(), self.overlay.bytes())
    }

    /// Bytes of the cache in use.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Bytes of the cold store on disk.
    pub fn cold_bytes(&self) -> u64 {
        self.cold.bytes()
    }
}

#[cfg(test)]
mod tests;
