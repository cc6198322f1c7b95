//! HDR histograms that many threads record into, over windows of time and since start.
//!
//! It does not know what is measured nor in which unit, and takes the time from its caller.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam::utils::CachePadded;
use hdrhistogram::Histogram;

use crate::time::ArrivalTime;

/// Threads are spread over this many shards; more threads than shards share, and stay correct.
pub(super) const SHARDS: usize = 16;
/// Two digits are an error of at most 1 %, and 12 KiB instead of 100 KiB a histogram.
const DIGITS: u8 = 2;
/// Length of a slot of the ring. A window is the slot under way and enough whole ones.
const SLOT_MICROS: i64 = 5_000_000;
/// Five minutes of slots, the one under way, and one for a clock a little ahead of the reader's.
const RING: i64 = 62;

/// The number of the shard of the current thread, below [`SHARDS`].
pub(super) fn shard() -> usize {
    // Threads take numbers in turn, so that a server's few workers never share a shard.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    MINE.with(|mine| *mine)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A histogram is whole after every call on it, so a panic elsewhere leaves nothing torn.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stretch of time a summary covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// Since the server started.
    Start,
    /// The last 10 seconds, and up to 5 more.
    TenSeconds,
    /// The last minute, and up to 5 seconds more.
    Minute,
    /// The last 5 minutes, and up to 5 seconds more.
    FiveMinutes,
}

impl Window {
    /// Every window, in the order summaries are given.
    pub const ALL: [Self; 4] = [Self::Start, Self::TenSeconds, Self::Minute, Self::FiveMinutes];

    /// Its name in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::TenSeconds => "10s",
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
        }
    }

    const fn slots(self) -> i64 {
        match self {
            Self::Start => RING,
            Self::TenSeconds => 2,
            Self::Minute => 12,
            Self::FiveMinutes => 60,
        }
    }
}

/// The quantiles of one window, in the unit that was recorded; all 0 when nothing was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many values were recorded.
    pub count: u64,
    /// [`QUANTILES`] in their order, the last being the maximum.
    pub quantiles: [u64; QUANTILES.len()],
}

/// The quantiles that are published.
pub const QUANTILES: [f64; 6] = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0];

/// Everything known about one series at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// A summary for each of [`Window::ALL`].
    pub windows: [Summary; 4],
    /// Sum of all values since start.
    pub sum: u64,
    /// How many values since start were at most each of the bounds asked for.
    pub at_most: Vec<u64>,
}

/// The smallest difference and the largest value a set of histograms tells apart.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Values closer than this may count as equal.
    pub low: u64,
    /// Larger values count as this one.
    pub high: u64,
}

impl Bounds {
    fn histogram<C: hdrhistogram::Counter>(self) -> Histogram<C> {
        Histogram::new_with_bounds(self.low, self.high, DIGITS)
            .expect("low is at least 1 and high at least twice low: both are constants")
    }
}

/// A fixed number of series, each with its windows.
///
/// Memory is bounded: a series that was ever used takes 12 KiB per thread shard and at most
/// 800 KiB for its windows; one that never was takes nothing.
pub struct Histograms {
    bounds: Bounds,
    shards: Box<[CachePadded<Shard>]>,
    past: Box<[Mutex<Past>]>,
}

/// A place for each series; those never used stay empty.
type Shard = Box<[Mutex<Option<Recent>>]>;

/// What one shard recorded since it was last folded into the past.
struct Recent {
    slot: i64,
    sum: u64,
    histogram: Histogram<u32>,
}

#[derive(Default)]
struct Past {
    total: Option<Histogram<u64>>,
    sum: u64,
    /// At most [`RING`] entries, at the place `slot % RING`.
    ring: Vec<Option<Slot>>,
}

struct Slot {
    number: i64,
    histogram: Histogram<u32>,
}

impl Histograms {
    /// `series` empty series of values within `bounds`.
    pub fn new(series: usize, bounds: Bounds) -> Self {
        let shard = || CachePadded::new((0..series).map(|_| Mutex::new(None)).collect());
        Self {
            bounds,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            past: (0..series).map(|_| Mutex::default()).collect(),
        }
    }

    /// Records `value` in `series` at `now`. Waits for nobody but a reader under way, and for
    /// that at most as long as it takes to copy one histogram.
    pub fn record(&self, series: usize, value: u64, now: ArrivalTime) {
        let slot = slot_of(now);
        let mut guard = lock(&self.shards[shard()][series]);
        let recent = guard.get_or_insert_with(|| Recent {
            slot,
            sum: 0,
            histogram: self.bounds.histogram(),
        });
        if recent.slot != slot {
            self.fold(series, recent, slot);
            recent.slot = slot;
        }
        recent.histogram.saturating_record(value);
        recent.sum = recent.sum.saturating_add(value);
    }

    /// Merges what all threads recorded in `series` and sums it up as of `now`; counts since
    /// start come for each of `bounds`, which ascend.
    pub fn snapshot(&self, series: usize, now: ArrivalTime, bounds: &[u64]) -> Snapshot {
        let now_slot = slot_of(now);
        for shard in &self.shards {
            if let Some(recent) = lock(&shard[series]).as_mut() {
                self.fold(series, recent, now_slot);
            }
        }
        let past = lock(&self.past[series]);
        let Some(total) = &past.total else {
            return Snapshot { at_most: vec![0; bounds.len()], ..Snapshot::default() };
        };
        let mut merged: Histogram<u64> = self.bounds.histogram();
        let windows = Window::ALL.map(|window| {
            if window == Window::Start {
                return summarize(total);
            }
            merged.clear();
            let covered = now_slot - window.slots()..=now_slot + 1;
            for slot in past.ring.iter().flatten().filter(|slot| covered.contains(&slot.number)) {
                widen(&mut merged, &slot.histogram);
            }
            summarize(&merged)
        });
        Snapshot { windows, sum: past.sum, at_most: count_at_most(total, bounds) }
    }

    /// Moves what a shard holds into the past and leaves it empty.
    fn fold(&self, series: usize, recent: &mut Recent, now_slot: i64) {
        if recent.histogram.is_empty() {
            return;
        }
        let mut past = lock(&self.past[series]);
        past.sum = past.sum.saturating_add(recent.sum);
        widen(past.total.get_or_insert_with(|| self.bounds.histogram()), &recent.histogram);
        // The wall clock may have stepped: what then lies outside the ring counts since start only.
        if (-1..RING - 1).contains(&(now_slot - recent.slot)) {
            let place = usize::try_from(recent.slot.rem_euclid(RING)).unwrap_or(0);
            if past.ring.len() <= place {
                past.ring.resize_with(place + 1, || None);
            }
            let slot = past.ring[place].get_or_insert_with(|| Slot {
                number: recent.slot,
                histogram: self.bounds.histogram(),
            });
            if slot.number != recent.slot {
                slot.number = recent.slot;
                slot.histogram.clear();
            }
            slot.histogram
                .add(&recent.histogram)
                .expect("both histograms have the bounds of this set");
        }
        recent.histogram.clear();
        recent.sum = 0;
    }
}

fn slot_of(now: ArrivalTime) -> i64 {
    now.micros().div_euclid(SLOT_MICROS)
}

/// Counts since start outgrow 32 bits; `Histogram::add` takes its own counter type only.
fn widen(into: &mut Histogram<u64>, from: &Histogram<u32>) {
    for value in from.iter_recorded() {
        into.saturating_record_n(value.value_iterated_to(), value.count_at_value().into());
    }
}

fn summarize(histogram: &Histogram<u64>) -> Summary {
    Summary {
        count: histogram.len(),
        quantiles: QUANTILES.map(|quantile| histogram.value_at_quantile(quantile)),
    }
}

fn count_at_most(histogram: &Histogram<u64>, bounds: &[u64]) -> Vec<u64> {
    let mut counts = vec![0; bounds.len()];
    for value in histogram.iter_recorded() {
        let first = bounds.partition_point(|bound| *bound < value.value_iterated_to());
        for count in &mut counts[first..] {
            *count += value.count_at_value();
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { low: 64, high: 60_000_000_000 };

    fn at(seconds: i64) -> ArrivalTime {
        ArrivalTime::from_micros(1_800_000_000_000_000 + seconds * 1_000_000)
    }

    fn counts(histograms: &Histograms, seconds: i64) -> [u64; 4] {
        histograms.snapshot(0, at(seconds), &[]).windows.map(|window| window.count)
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let histograms = Histograms::new(1, BOUNDS);
        for i in 1..=10_000_u64 {
            histograms.record(0, i * 1_000, at(0));
        }
        let snapshot = histograms.snapshot(0, at(0), &[1_000, 1_000_000, 60_000_000_000]);
        assert_eq!(snapshot.sum, 10_000 * 10_001 / 2 * 1_000);
        let expected = [5_000_000, 9_000_000, 9_500_000, 9_900_000, 9_990_000, 10_000_000];
        for window in &snapshot.windows {
            assert_eq!(window.count, 10_000);
            for (found, expected) in window.quantiles.into_iter().zip(expected) {
                assert!(found.abs_diff(expected) * 100 <= expected, "{found} {expected}");
            }
        }
        assert!(snapshot.at_most[1].abs_diff(1_000) <= 10, "{:?}", snapshot.at_most);
        assert_eq!(snapshot.at_most[2], 10_000);
    }

    #[test]
    fn values_leave_the_windows_as_time_passes() {
        let histograms = Histograms::new(1, BOUNDS);
        histograms.record(0, 1_000, at(0));
        assert_eq!(counts(&histograms, 0), [1, 1, 1, 1]);
        assert_eq!(counts(&histograms, 14), [1, 1, 1, 1]);
        assert_eq!(counts(&histograms, 15), [1, 0, 1, 1]);
        histograms.record(0, 2_000, at(61));
        assert_eq!(counts(&histograms, 64), [2, 1, 2, 2]);
        assert_eq!(counts(&histograms, 65), [2, 1, 1, 2]);
        assert_eq!(counts(&histograms, 304), [2, 0, 0, 2]);
        assert_eq!(counts(&histograms, 305), [2, 0, 0, 1]);
        assert_eq!(counts(&histograms, 400), [2, 0, 0, 0]);
        // The ring comes round to the place of the first value.
        histograms.record(0, 3_000, at(62 * 5));
        assert_eq!(counts(&histograms, 62 * 5), [3, 1, 1, 2]);
    }

    #[test]
    fn what_an_idle_thread_recorded_long_ago_is_no_news() {
        let histograms = Histograms::new(1, BOUNDS);
        histograms.record(0, 1_000, at(0));
        histograms.record(0, 1_000, at(10_000));
        assert_eq!(counts(&histograms, 10_000), [2, 1, 1, 1]);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_stop_the_windows() {
        let histograms = Histograms::new(1, BOUNDS);
        histograms.record(0, 1_000, at(100_000));
        histograms.record(0, 1_000, at(0));
        assert_eq!(counts(&histograms, 0), [2, 1, 1, 1]);
    }

    #[test]
    fn no_value_is_lost_between_threads_and_readers() {
        let histograms = Histograms::new(1, BOUNDS);
        std::thread::scope(|scope| {
            for thread in 0..20 {
                let histograms = &histograms;
                scope.spawn(move || {
                    for i in 0..5_000 {
                        histograms.record(0, 1_000 + thread, at(i / 500));
                    }
                });
            }
            for i in 0..100 {
                histograms.snapshot(0, at(i / 10), &[]);
            }
        });
        assert_eq!(counts(&histograms, 9), [100_000; 4]);
    }

    #[test]
    fn values_out_of_bounds_count_as_the_bound() {
        let histograms = Histograms::new(1, BOUNDS);
        histograms.record(0, 0, at(0));
        histograms.record(0, u64::MAX, at(0));
        let window = histograms.snapshot(0, at(0), &[]).windows[0];
        assert_eq!(window.count, 2);
        assert!(window.quantiles[5].abs_diff(BOUNDS.high) * 100 <= BOUNDS.high);
    }
}
