//! The order in which labels are looked up: by entity key, then by time.
//!
//! It does not know what is looked up.

use std::cmp::Ordering;
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use super::labels::Labels;
use crate::time::EventTime;

/// A label on its way into order. Comparing two mostly takes no look at the keys themselves.
#[derive(Clone, Copy)]
struct Entry {
    /// The part of the key behind what all keys begin with.
    part: u64,
    time: EventTime,
    label: u32,
}

/// Labels of which a thread sorts no fewer.
const LEAST: usize = 16_384;

/// Labels in order. They lie all over memory, so what is needed of each to look it up is taken
/// along.
#[derive(Default)]
pub(super) struct Ordered {
    pub(super) labels: Vec<u32>,
    pub(super) times: Vec<EventTime>,
    /// Whether the key is another than that of the label before.
    pub(super) turns: Vec<bool>,
}

/// Labels by the key of one role, then by time. Up to so many `threads` sort.
pub(super) fn by_key_and_time(labels: &Labels<'_>, role: usize, threads: usize) -> Ordered {
    let order = &Order::of(labels, role);
    let each = labels.count().div_ceil(threads).max(LEAST);
    let runs = thread::scope(|scope| {
        let run = |from| from..labels.count().min(from + each);
        let froms = (each..labels.count()).step_by(each);
        let beside: Vec<_> =
            froms.map(|from| scope.spawn(move || order.sorted(run(from)))).collect();
        let mut runs = vec![order.sorted(run(0))];
        let sorted = beside.into_iter().map(|thread| thread.join());
        runs.extend(sorted.map(|run| run.unwrap_or_else(|panic| resume_unwind(panic))));
        runs
    });
    order.merged(&runs)
}

/// How labels are compared.
struct Order<'a> {
    labels: &'a Labels<'a>,
    role: usize,
    /// How many bytes all keys begin with.
    shared: usize,
    /// The part of a key tells all of it.
    told_by_part: bool,
}

impl<'a> Order<'a> {
    fn of(labels: &'a Labels<'a>, role: usize) -> Self {
        let mut keys = (0..labels.count()).map(|label| labels.key(label, role));
        let first = keys.next().unwrap_or_default();
        let (mut shared, mut of_one_length) = (first.len(), true);
        for key in keys {
            shared = alike(&first[..shared], key);
            of_one_length &= key.len() == first.len();
        }
        let told_by_part = of_one_length && first.len() - shared <= size_of::<u64>();
        Self { labels, role, shared, told_by_part }
    }

    fn key(&self, label: u32) -> &[u8] {
        self.labels.key(label as usize, self.role)
    }

    fn entry(&self, label: usize) -> Entry {
        let key = &self.key(label as u32)[self.shared..];
        let mut part = [0; size_of::<u64>()];
        let length = key.len().min(part.len());
        part[..length].copy_from_slice(&key[..length]);
        let time = self.labels.times()[label];
        Entry { part: u64::from_be_bytes(part), time, label: label as u32 }
    }

    fn compare_keys(&self, one: &Entry, other: &Entry) -> Ordering {
        one.part.cmp(&other.part).then_with(|| match self.told_by_part {
            true => Ordering::Equal,
            false => self.key(one.label).cmp(self.key(other.label)),
        })
    }

    fn compare(&self, one: &Entry, other: &Entry) -> Ordering {
        self.compare_keys(one, other).then_with(|| one.time.cmp(&other.time))
    }

    fn sorted(&self, labels: Range<usize>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = labels.map(|label| self.entry(label)).collect();
        entries.sort_unstable_by(|one, other| self.compare(one, other));
        entries
    }

    /// The labels of runs that are in order.
    fn merged(&self, runs: &[Vec<Entry>]) -> Ordered {
        let labels = runs.iter().map(Vec::len).sum();
        let mut ordered = Ordered {
            labels: Vec::with_capacity(labels),
            times: Vec::with_capacity(labels),
            turns: Vec::with_capacity(labels),
        };
        let mut runs: Vec<&[Entry]> = runs.iter().map(Vec::as_slice).collect();
        let mut before = None;
        loop {
            let left = runs.iter_mut().filter(|run| !run.is_empty());
            let next = left.min_by(|one, other| self.compare(&one[0], &other[0]));
            let Some(run) = next else { return ordered };
            let entry = run[0];
            *run = &run[1..];
            let same = |before| self.compare_keys(&before, &entry).is_eq();
            ordered.turns.push(!before.is_some_and(same));
            ordered.labels.push(entry.label);
            ordered.times.push(entry.time);
            before = Some(entry);
        }
    }
}

fn alike(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lookup::Batch;
    use crate::engine::training::labels::Chunk;

    #[test]
    fn labels_come_by_key_and_then_by_time() {
        let check = |keys: &[&[u8]]| {
            let mut chunk = Chunk { first: 0, keys: Batch::new(2), times: Vec::new() };
            for (label, key) in keys.iter().enumerate() {
                chunk.keys.push_row(&[b"other", key]);
                chunk.times.push(EventTime::from_micros((label as i64 * 7) % 5));
            }
            for from in 0..=keys.len() {
                let labels = chunk.labels(from..keys.len());
                let place = |label: &u32| from + *label as usize;
                let key = |label: &u32| (keys[place(label)], chunk.times[place(label)]);
                let all = 0..labels.count() as u32;
                let mut expected: Vec<_> = all.map(|label| key(&label)).collect();
                expected.sort_unstable();
                let (order, middle) = (Order::of(&labels, 1), labels.count() / 2);
                let runs = [order.sorted(0..middle), order.sorted(middle..labels.count())];
                for ordered in [by_key_and_time(&labels, 1, 2), order.merged(&runs)] {
                    let found: Vec<_> = ordered.labels.iter().map(key).collect();
                    assert_eq!(found, expected);
                    let times: Vec<_> = expected.iter().map(|(_, time)| *time).collect();
                    assert_eq!(ordered.times, times);
                    let turn = |at: usize| at == 0 || expected[at].0 != expected[at - 1].0;
                    let turns: Vec<_> = (0..expected.len()).map(turn).collect();
                    assert_eq!(ordered.turns, turns);
                }
            }
        };
        check(&[]);
        check(&[b"one"]);
        check(&[b"same", b"same", b"same", b"same"]);
        check(&[&[0, 0, 0, 9], &[0, 0, 0, 1], &[0, 0, 1, 0], &[0, 0, 0, 9]]);
        check(&[b"shared and long 2", b"shared and long 10", b"shared and long 1", b"shared"]);
        check(&[b"k\0", b"k", b"k\0\0", b"k\0", b"k"]);
    }
}
