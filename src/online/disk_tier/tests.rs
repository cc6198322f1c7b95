//! The disk tier against a cold store in memory that forgets at a crash.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

/// A cold store in memory that forgets at a crash what was not flushed, or some of it.
#[derive(Default)]
struct Memory {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    mark: u64,
    highest: u64,
    gets: usize,
    broken: bool,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Memory>>);

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }

    fn check(memory: &Memory) -> Result<(), ColdError> {
        if memory.broken { Err(ColdError::Store { reason: "broken".into() }) } else { Ok(()) }
    }

    fn tier(&self, limits: TierLimits) -> DiskTier {
        let moved = Sequence(self.memory().mark);
        DiskTier::new(Box::new(self.clone()), moved, limits)
    }
}

impl ColdStore for Shared {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        let mut memory = self.memory();
        Self::check(&memory)?;
        memory.gets += 1;
        Ok(memory.rows.get(key).cloned())
    }

    fn put_batch(&self, rows: &[ColdRow], highest: Sequence) -> Result<(), ColdError> {
        let mut memory = self.memory();
        Self::check(&memory)?;
        memory.highest = memory.highest.max(highest.0);
        for (key, value) in rows {
            match value {
                Some(value) => memory.rows.insert(key.to_vec(), value.clone()),
                None => memory.rows.remove(&key[..]),
            };
        }
        Ok(())
    }

    fn flush(&self, moved: Sequence) -> Result<(), ColdError> {
        let mut memory = self.memory();
        Self::check(&memory)?;
        memory.durable = memory.rows.clone();
        memory.mark = moved.0;
        Ok(())
    }

    fn remove_some(&self, prefix: &[u8]) -> Result<bool, ColdError> {
        let mut memory = self.memory();
        Self::check(&memory)?;
        let first = memory.rows.keys().find(|key| key.starts_with(prefix)).cloned();
        Ok(first.is_some_and(|key| memory.rows.remove(&key).is_some()))
    }

    fn first_key(&self, from: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        let memory = self.memory();
        Self::check(&memory)?;
        Ok(memory.rows.keys().find(|key| key.as_slice() >= from).cloned())
    }

    fn destroy(&self) -> Result<(), ColdError> {
        *self.memory() = Memory::default();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.memory().rows.values().map(|value| value.len() as u64).sum()
    }
}

const VIEW: ViewId = ViewId(1);
const ROOMY: TierLimits = TierLimits { overlay: 1 << 20, cache: 1 << 20 };
const NO_CACHE: TierLimits = TierLimits { overlay: 1 << 20, cache: 0 };

fn read(tier: &DiskTier, key: &[u8]) -> (Option<Vec<u8>>, Source) {
    let (state, source) = match tier.get_hot(VIEW, key) {
        HotRead::Found(state, source) => (state, source),
        HotRead::NeedsCold => tier.get_cold(VIEW, key).unwrap(),
        HotRead::Rebuilding => panic!("not rebuilding"),
    };
    (state.map(|state| state.to_vec()), source)
}

fn put(tier: &DiskTier, key: &[u8], sequence: u64, state: &[u8]) {
    assert_eq!(tier.put(VIEW, key, Sequence(sequence), state), Room::Left);
    tier.applied(Sequence(sequence));
}

#[test]
fn a_row_goes_from_overlay_to_cold_to_cache() {
    let cold = Shared::default();
    let tier = cold.tier(ROOMY);
    put(&tier, b"k", 5, b"one");
    let one = Some(b"one".to_vec());
    assert_eq!(read(&tier, b"k"), (one.clone(), Source::Overlay));
    let moved = tier.move_some(10, |durable| durable == Sequence(5)).unwrap();
    assert_eq!(moved, Moved { rows: 1, covered: Sequence(5) });
    assert_eq!(tier.waiting(), (0, 0));
    assert_eq!(read(&tier, b"k"), (one.clone(), Source::Cold));
    assert_eq!(read(&tier, b"k"), (one.clone(), Source::Cache));
    assert!(tier.invalidate(VIEW, b"k"));
    assert!(!tier.invalidate(VIEW, b"k"));
    assert_eq!(read(&tier, b"k"), (one, Source::Cold));
    assert_eq!(read(&tier, b"none"), (None, Source::Cold));
    assert_eq!(read(&tier, b"none"), (None, Source::Cache), "absence is cached too");
    assert!(!tier.invalidate(VIEW, b"none"), "it is no copy");
    assert_eq!(read(&tier, b"none"), (None, Source::Cold), "but forgotten");

    put(&tier, b"k", 6, b"two");
    put(&tier, b"none", 7, b"some");
    assert!(tier.invalidate(VIEW, b"k"), "the old copy");
    assert_eq!(read(&tier, b"k"), (Some(b"two".to_vec()), Source::Overlay));
    tier.move_some(10, |_| true).unwrap();
    assert_eq!(read(&tier, b"none"), (Some(b"some".to_vec()), Source::Cache));
    let _ = tier.remove(VIEW, b"none", Sequence(8));
    assert_eq!(read(&tier, b"none"), (None, Source::Overlay));
    tier.move_some(10, |_| true).unwrap();
    assert_eq!(read(&tier, b"none").0, None);
    assert!(!cold.memory().rows.contains_key(&cold::key_of(VIEW, b"none")));
}

#[test]
fn the_mark_follows_what_was_moved_and_never_passes_what_waits_or_is_not_durable() {
    let cold = Shared::default();
    let tier = cold.tier(ROOMY);
    for sequence in 1..=10 {
        put(&tier, &[sequence as u8], sequence, b"s");
    }
    tier.applied(Sequence(20));
    assert_eq!(tier.move_some(4, |_| false).unwrap().rows, 0, "history is not durable");
    assert_eq!((cold.memory().rows.len(), tier.waiting().0), (0, 10));
    let moved = |most| tier.move_some(most, |_| true).unwrap().covered.0;
    assert_eq!(moved(4), 4);
    assert_eq!(moved(4), 8);
    assert_eq!(moved(4), 20, "nothing waits: all that was applied");
    tier.applied(Sequence(30));
    assert_eq!(moved(4), 20, "others' rows are no reason to write it");
    assert_eq!(tier.save_mark(|_| true).unwrap(), Moved { rows: 0, covered: Sequence(30) });
    let memory = cold.memory();
    assert_eq!((memory.mark, memory.highest), (30, 20));
}

#[test]
fn a_frozen_mark_passes_no_older_row_that_came_after_a_newer_one() {
    let shared = Shared::default();
    let tier = shared.tier(ROOMY);
    let moves = || tier.move_some(10, |_| true).unwrap().covered.0;
    put(&tier, b"a", 1, b"a1");
    tier.applied(Sequence(1));
    assert_eq!(moves(), 1);
    // Rows 2 to 9 are there to be put; rows from 10 on come before them.
    tier.freeze_mark();
    put(&tier, b"a", 10, b"a10");
    tier.applied(Sequence(10));
    assert_eq!(moves(), 1, "what was moved is not marked");
    put(&tier, b"b", 11, b"b11");
    // Row 5, which the state of `b` has beside row 11.
    put(&tier, b"b", 11, b"b11 and b5");
    tier.applied(Sequence(11));
    tier.thaw_mark(Sequence(11));
    put(&tier, b"c", 13, b"c13");
    tier.applied(Sequence(13));
    assert_eq!(tier.save_mark(|_| true).unwrap().covered.0, 1, "row 5 waits");
    assert_eq!(tier.move_some(1, |_| true).unwrap().covered.0, 12, "only row 13 waits");
    assert_eq!(moves(), 13);
    let memory = shared.memory();
    assert!(memory.durable[&cold::key_of(VIEW, b"b")].ends_with(b"b11 and b5"));
}

#[test]
fn a_full_overlay_says_so_and_a_failed_move_loses_nothing() {
    let cold = Shared::default();
    let tier = cold.tier(TierLimits { overlay: 1000, cache: 1000 });
    assert_eq!(tier.put(VIEW, b"a", Sequence(1), &[0; 500]), Room::Left);
    assert_eq!(tier.put(VIEW, b"b", Sequence(2), &[0; 500]), Room::Full);
    cold.memory().broken = true;
    assert!(tier.move_some(10, |_| true).is_err());
    assert_eq!(tier.waiting().0, 2);
    assert_eq!(read(&tier, b"a"), (Some(vec![0; 500]), Source::Overlay));
    assert!(tier.get_cold(VIEW, b"c").is_err());
    cold.memory().broken = false;
    assert_eq!(tier.move_some(10, |_| true).unwrap().rows, 2);
    assert_eq!(tier.put(VIEW, b"c", Sequence(3), &[0; 500]), Room::Left);
}

#[test]
fn a_damaged_value_is_an_error_and_a_rebuild_hides_everything() {
    let cold = Shared::default();
    let tier = cold.tier(ROOMY);
    put(&tier, b"k", 1, b"state");
    tier.move_some(10, |_| true).unwrap();
    cold.memory().rows.values_mut().next().unwrap()[13] ^= 1;
    assert_eq!(tier.get_cold(VIEW, b"k"), Err(ColdError::Damaged { bytes: 17 }));
    assert!(tier.get_for_write(VIEW, b"k").is_err());

    put(&tier, b"waiting", 2, b"state");
    tier.start_rebuild().unwrap();
    assert_eq!(tier.get_hot(VIEW, b"waiting"), HotRead::Rebuilding);
    assert_eq!(tier.get_cold(VIEW, b"k"), Err(ColdError::Rebuilding));
    assert_eq!(tier.get_for_write(VIEW, b"k"), Ok(None));
    put(&tier, b"new", 3, b"newest");
    put(&tier, b"k", 1, b"state");
    assert_eq!(tier.move_some(1, |_| true).unwrap().covered, Sequence::ZERO, "no mark yet");
    put(&tier, b"waiting", 2, b"state");
    tier.finish_rebuild();
    assert_eq!(tier.move_some(1, |_| true).unwrap().covered, Sequence::ZERO, "some still waits");
    assert_eq!(tier.move_some(9, |_| true).unwrap().covered, Sequence(3));
    for (key, state) in [("k", "state"), ("waiting", "state"), ("new", "newest")] {
        assert_eq!(read(&tier, key.as_bytes()).0.unwrap(), state.as_bytes());
    }
}

#[test]
fn a_crash_after_a_rebuild_loses_no_old_row_that_came_after_a_new_one() {
    let cold = Shared::default();
    let tier = cold.tier(ROOMY);
    tier.start_rebuild().unwrap();
    tier.applied(Sequence(9));
    // Sealed files give the rows of a key by event time: that of sequence 7 before that of 2.
    put(&tier, b"k", 7, b"of 7");
    tier.move_some(9, |_| true).unwrap();
    put(&tier, b"k", 7, b"of 7 and 2");
    put(&tier, b"other", 3, b"of 3");
    tier.finish_rebuild();
    for most in [1, 1, 1] {
        tier.move_some(most, |_| true).unwrap();
        let memory = cold.memory();
        let moved = memory.durable.get(&cold::key_of(VIEW, b"k"));
        let whole = moved.is_some_and(|value| value.ends_with(b"of 7 and 2"));
        assert!(whole || memory.mark < 2, "a restart would not replay sequence 2");
    }
    assert_eq!(cold.memory().mark, 9);
}

#[test]
fn a_dropped_view_is_gone_and_its_neighbours_are_not() {
    let cold = Shared::default();
    let tier = cold.tier(ROOMY);
    for (sequence, view) in (1..).zip([1, 2, 3]) {
        let _ = tier.put(ViewId(view), b"moved", Sequence(sequence), b"s");
        let _ = tier.put(ViewId(view), b"moved too", Sequence(sequence), b"s");
    }
    tier.move_some(10, |_| true).unwrap();
    for (sequence, view) in (4..).zip([1, 2, 3]) {
        let _ = tier.put(ViewId(view), b"waits", Sequence(sequence), b"s");
        tier.get_cold(ViewId(view), b"moved").unwrap();
    }
    let views = || tier.views_in_cold().unwrap().iter().map(|view| view.0).collect::<Vec<_>>();
    assert_eq!(views(), [1, 2, 3]);
    assert_eq!(tier.drop_view(ViewId(2), || true), Ok(false));
    assert_eq!(views(), [1, 2, 3], "stopped before its end");
    assert_eq!(tier.drop_view(ViewId(2), || false), Ok(true));
    assert_eq!(views(), [1, 3]);
    for view in [1, 2, 3] {
        for key in ["moved", "moved too", "waits"] {
            let state = tier.get_for_write(ViewId(view), key.as_bytes()).unwrap();
            assert_eq!(state.is_some(), view != 2, "view {view}, {key}");
        }
    }
    assert_eq!(tier.waiting().0, 2);
}

/// A writer, a mover, an invalidator and readers over few keys: no read is older than what was
/// acknowledged when it began, nor than one before it.
#[test]
fn no_read_is_older_than_what_was_acknowledged() {
    const KEYS: usize = 8;
    for limits in [ROOMY, NO_CACHE, TierLimits { overlay: 1 << 20, cache: 900 }] {
        let tier = Shared::default().tier(limits);
        let acknowledged: [AtomicU64; KEYS] = std::array::from_fn(|_| AtomicU64::new(0));
        let done = AtomicBool::new(false);
        let hits = AtomicUsize::new(0);
        let (tier, acknowledged, done, hits) = (&tier, &acknowledged, &done, &hits);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut round = 0_usize;
                    while !done.load(Ordering::Relaxed) {
                        round += 1;
                        let key = round * 7 % KEYS;
                        let least = acknowledged[key].load(Ordering::Acquire);
                        let (state, source) = read(tier, &[key as u8]);
                        let found =
                            state.map_or(0, |state| u64::from_le_bytes(state.try_into().unwrap()));
                        assert!(found >= least, "{found} < {least} from {source:?}");
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(move || {
                let mut round = 0_usize;
                while !done.load(Ordering::Relaxed) {
                    tier.move_some(3, |_| true).unwrap();
                    round += 1;
                    if round.is_multiple_of(5) {
                        tier.invalidate(VIEW, &[(round % KEYS) as u8]);
                    }
                }
            });
            for sequence in 1..=60_000_u64 {
                let key = (sequence.wrapping_mul(0x9e37_79b9) >> 7) as usize % KEYS;
                put(tier, &[key as u8], sequence, &sequence.to_le_bytes());
                acknowledged[key].store(sequence, Ordering::Release);
                if sequence.is_multiple_of(16) {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(hits.load(Ordering::Relaxed) > 100);
        while tier.waiting().0 > 0 {
            tier.move_some(100, |_| true).unwrap();
        }
        for (key, last) in acknowledged.iter().enumerate() {
            let state = read(tier, &[key as u8]).0.unwrap();
            assert_eq!(u64::from_le_bytes(state.try_into().unwrap()), last.load(Ordering::Relaxed));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Remove(u8),
    Get(u8),
    Move(usize),
    Invalidate(u8),
    /// The flag says whether what was not flushed is lost.
    Reopen(bool),
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12_u8, any::<u16>()).prop_map(|(key, length)| Step::Put(key, length % 400)),
        1 => (0..12_u8).prop_map(Step::Remove),
        6 => (0..12_u8).prop_map(Step::Get),
        3 => (1..6_usize).prop_map(Step::Move),
        1 => (0..12_u8).prop_map(Step::Invalidate),
        1 => any::<bool>().prop_map(Step::Reopen),
        1 => Just(Step::Rebuild),
    ]
}

proptest! {
    /// Against a map, with history as a list: a restart replays what the mark does not cover.
    #[test]
    fn behaves_as_a_map(steps in proptest::collection::vec(step(), 1..120)) {
        let cold = Shared::default();
        let limits = TierLimits { overlay: 3000, cache: 2500 };
        let mut tier = cold.tier(limits);
        let mut history: Vec<(u8, Option<Vec<u8>>)> = Vec::new();
        let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let replay = |tier: &DiskTier, history: &[(u8, Option<Vec<u8>>)], from: u64| {
            for (sequence, (key, state)) in (1..).zip(history).skip(from as usize) {
                let room = match state {
                    Some(state) => tier.put(VIEW, &[*key], Sequence(sequence), state),
                    None => tier.remove(VIEW, &[*key], Sequence(sequence)),
                };
                tier.applied(Sequence(sequence));
                if room == Room::Full {
                    tier.move_some(usize::MAX, |_| true).unwrap();
                }
            }
        };
        for step in steps {
            let end = history.len() as u64;
            match step {
                Step::Put(key, length) => {
                    let state = vec![key ^ length as u8; usize::from(length)];
                    history.push((key, Some(state.clone())));
                    model.insert(key, state);
                    replay(&tier, &history, end);
                }
                Step::Remove(key) => {
                    history.push((key, None));
                    model.remove(&key);
                    replay(&tier, &history, end);
                }
                Step::Get(key) => {
                    prop_assert_eq!(&read(&tier, &[key]).0, &model.get(&key).cloned());
                    let for_write = tier.get_for_write(VIEW, &[key]).unwrap();
                    let for_write = for_write.map(|state| state.to_vec());
                    prop_assert_eq!(&for_write, &model.get(&key).cloned());
                }
                Step::Move(most) => {
                    let moved = tier.move_some(most, |durable| durable.0 <= end).unwrap();
                    prop_assert!(moved.covered.0 <= end);
                }
                Step::Invalidate(key) => {
                    tier.invalidate(VIEW, &[key]);
                }
                Step::Reopen(crash) => {
                    drop(tier);
                    if crash {
                        let mut memory = cold.memory();
                        memory.rows = memory.durable.clone();
                    }
                    let mark = cold.memory().mark;
                    tier = cold.tier(limits);
                    replay(&tier, &history, mark);
                }
                Step::Rebuild => {
                    tier.start_rebuild().unwrap();
                    replay(&tier, &history, 0);
                    tier.finish_rebuild();
                }
            }
        }
        for key in 0..12 {
            prop_assert_eq!(&read(&tier, &[key]).0, &model.get(&key).cloned());
        }
    }
}
