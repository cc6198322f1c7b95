//! The online map: per view, the current state of every entity, read without locks.
//!
//! It does not know what a state says, which of two wins, or where either came from: the engine
//! decides, this keeps.
//!
//! A view lives either in memory ([`ViewMap`]) or, with `tier = "disk"`, in a [`DiskTier`].

mod cold;

mod disk_tier;

mod overlay;

mod row;

use std::sync::Arc;

use foldhash::fast::RandomState;
use papaya::{Guard, HashMap, HashMapRef, LocalGuard};

use crate::ids::ViewId;
use row::Row;

pub use cold::{ColdError, ColdRow, ColdStore};
pub use disk_tier::{DiskTier, HotRead, Moved, Room, Source, TierLimits, TierState};

/// New rows after which a map hands back what it outgrew. Else papaya's former tables, together as
/// large as the current one, wait until some rows are replaced.
const ROWS_BETWEEN_FLUSHES: usize = 4096;

/// The views held in memory.
#[derive(Default)]
pub struct Online {
    views: HashMap<ViewId, Arc<ViewMap>, RandomState>,
}

impl Online {
    /// The map of `view`, created empty if there is none yet.
    pub fn view(&self, view: ViewId) -> Arc<ViewMap> {
        Arc::clone(self.views.pin().get_or_insert_with(view, Arc::default))
    }

    /// The map of `view`, if anything was ever put there.
    pub fn get(&self, view: ViewId) -> Option<Arc<ViewMap>> {
        self.views.pin().get(&view).map(Arc::clone)
    }

    /// Forgets `view`. Whoever still holds its map keeps it alive until then.
    pub fn drop_view(&self, view: ViewId) {
        self.views.pin().remove(&view);
    }

    /// Forgets every row. The maps stay, so that whoever holds one goes on filling it.
    pub fn clear(&self) {
        self.views.pin().values().for_each(|map| map.clear());
    }

    /// Every view and its map, ordered by id.
    pub fn views(&self) -> Vec<(ViewId, Arc<ViewMap>)> {
        let mut views: Vec<_> =
            self.views.pin().iter().map(|(view, map)| (*view, Arc::clone(map))).collect();
        views.sort_by_key(|(view, _)| *view);
        views
    }

    /// Entities in all views together.
    pub fn len(&self) -> usize {
        self.views.pin().values().map(|map| map.len()).sum()
    }

    /// Whether no view holds anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The states of one view by entity key. One thread writes (or several, each its own keys) while
/// any number read; no read waits, locks or allocates.
#[derive(Default)]
pub struct ViewMap {
    /// Key and state are one allocation and both sit in papaya's key, with nothing as the value:
    /// its insert over an equal key puts the new key in place (a test below holds it to that).
    rows: HashMap<Row, (), RandomState>,
}

impl ViewMap {
    /// Holds what is read in place until the guard is dropped. Keep it short: as long as one lives,
    /// replaced rows cannot be freed.
    pub fn pin(&self) -> Pinned<'_> {
        Pinned { rows: self.rows.pin() }
    }

    /// Makes room for `rows` more, so that the table does not grow through all its sizes, moving
    /// every row each time.
    pub fn reserve(&self, rows: u64) {
        self.rows.pin().reserve(usize::try_from(rows).unwrap_or(usize::MAX));
    }

    /// Forgets every row; nobody writes meanwhile.
    pub fn clear(&self) {
        self.rows.pin().clear();
    }

    /// Entities.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no entity.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A [`ViewMap`] under a guard: what it lends stays readable, replaced or not, while this lives.
pub struct Pinned<'m> {
    rows: HashMapRef<'m, Row, (), RandomState, LocalGuard<'m>>,
}

impl Pinned<'_> {
    /// The state of `key`, in place.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.rows.get_key_value(key).map(|(row, ())| row.state())
    }

    /// Forgets the state of `key`. Who holds it reads on.
    pub fn remove(&self, key: &[u8]) {
        self.rows.remove(key);
    }

    /// Puts the state of `key`, in place of the one before. A reader sees either as a whole.
    ///
    /// # Panics
    /// If the key is longer than 32,767 bytes.
    pub fn put(&self, key: &[u8], state: &[u8]) {
        let row = Row::new(key, state);
        if self.rows.insert(row, ()).is_none()
            && self.rows.len().is_multiple_of(ROWS_BETWEEN_FLUSHES)
        {
            self.flush();
        }
    }

    /// As [`Self::put`] of each, and counts the rows only once: the count is kept in parts that
    /// every thread's rows change.
    pub fn put_all(&self, rows: &[(&[u8], &[u8])]) {
        let before = self.rows.len();
        for (key, state) in rows {
            self.rows.insert(Row::new(key, state), ());
        }
        if self.rows.len() / ROWS_BETWEEN_FLUSHES != before / ROWS_BETWEEN_FLUSHES {
            self.flush();
        }
    }

    fn flush(&self) {
        self.rows.map().guard().flush();
    }

    /// Every key and state. Beside concurrent writes each entity appears once, in a state it had
    /// while this ran.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.rows.keys().map(|row| (row.key(), row.state()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_put_over_an_equal_key_replaces_key_and_state() {
        let map = ViewMap::default();
        let pinned = map.pin();
        pinned.put(b"k", b"old");
        let before = pinned.get(b"k").unwrap();
        pinned.put(b"k", b"newer");
        assert_eq!(pinned.get(b"k"), Some(&b"newer"[..]));
        assert_eq!(before, b"old", "what was lent stays as it was");
        assert_eq!(map.len(), 1);
        map.clear();
        assert_eq!((pinned.get(b"k"), map.len()), (None, 0));
    }

    #[test]
    fn rows_put_together_are_put_one_after_the_other() {
        let map = ViewMap::default();
        map.reserve(10_000);
        let keys: Vec<[u8; 4]> = (0..10_000_u32).map(u32::to_be_bytes).collect();
        let rows: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (&key[..], &key[2..])).collect();
        rows.chunks(37).for_each(|rows| map.pin().put_all(rows));
        map.pin().put_all(&[(&keys[7], b"old"), (&keys[7], b"new")]);
        assert_eq!(map.len(), 10_000);
        assert_eq!(map.pin().get(&keys[7]), Some(&b"new"[..]));
        assert_eq!(map.pin().get(&keys[9_999]), Some(&keys[9_999][2..]));
    }

    #[test]
    fn views_are_kept_apart_and_can_be_dropped() {
        let online = Online::default();
        online.view(ViewId(2)).pin().put(b"k", b"two");
        online.view(ViewId(1)).pin().put(b"k", b"one");
        assert!(online.get(ViewId(3)).is_none());
        assert_eq!(online.len(), 2);
        let ids: Vec<_> = online.views().iter().map(|(view, _)| view.0).collect();
        assert_eq!(ids, [1, 2]);
        let held = online.view(ViewId(2));
        online.drop_view(ViewId(2));
        assert!(online.get(ViewId(2)).is_none());
        assert_eq!(held.pin().get(b"k"), Some(&b"two"[..]));
        let held = online.view(ViewId(1));
        online.clear();
        assert!(online.is_empty());
        assert!(held.is_empty());
        held.pin().put(b"k", b"again");
        assert_eq!(online.len(), 1, "a map that is held stays one of the views");
    }

    /// Readers and a scanner beside a writer that replaces and grows: no torn row, no step back,
    /// nothing twice in a scan.
    #[test]
    fn reads_and_scans_run_beside_writes() {
        const KEYS: u32 = 2_000;
        let map = ViewMap::default();
        let done = AtomicBool::new(false);
        let state = |round: u32| [round.to_le_bytes(), round.to_le_bytes()].concat();
        let round_of = |state: &[u8]| {
            let (left, right) = state.split_at(4);
            assert_eq!(left, right, "torn");
            u32::from_le_bytes(left.try_into().unwrap())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut last = vec![0; KEYS as usize];
                while !done.load(Ordering::Relaxed) {
                    for key in 0..KEYS {
                        let pinned = map.pin();
                        if let Some(state) = pinned.get(&key.to_be_bytes()) {
                            let round = round_of(state);
                            assert!(round >= last[key as usize], "stepped back");
                            last[key as usize] = round;
                        }
                    }
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut seen = vec![false; KEYS as usize];
                    for (key, state) in map.pin().iter() {
                        round_of(state);
                        let key = u32::from_be_bytes(key.try_into().unwrap());
                        let twice = std::mem::replace(&mut seen[key as usize], true);
                        assert!(!twice, "{key} twice in one scan");
                    }
                }
            });
            for round in 1..200_u32 {
                for key in 0..KEYS {
                    map.pin().put(&key.to_be_bytes(), &state(round));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(map.pin().iter().count(), map.len());
    }
}
