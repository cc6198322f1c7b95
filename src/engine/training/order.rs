//! The order in which labels are looked up: by entity key, then by time.
//!
//! It does not know what is looked up.

use std::cmp::Ordering;

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

/// Labels by the key of one role, then by time.
pub(super) fn by_key_and_time(labels: &Labels<'_>, role: usize) -> Vec<u32> {
    let (count, times) = (labels.count(), labels.times());
    let key = |label: u32| labels.key(label as usize, role);
    let all = (0..count).map(|label| labels.key(label, role));
    let shared = all.reduce(|one, other| &one[..alike(one, other)]).map_or(0, <[u8]>::len);
    let mut longest = 0;
    let entry = |label: usize| {
        let key = &labels.key(label, role)[shared..];
        longest = longest.max(key.len());
        let mut part = [0; 8];
        let length = key.len().min(part.len());
        part[..length].copy_from_slice(&key[..length]);
        Entry { part: u64::from_be_bytes(part), time: times[label], label: label as u32 }
    };
    let mut entries: Vec<Entry> = (0..count).map(entry).collect();
    let told_by_part = longest <= 8 && all_of_one_length(labels, role);
    entries.sort_unstable_by(|one, other| {
        let keys = one.part.cmp(&other.part).then_with(|| match told_by_part {
            true => Ordering::Equal,
            false => key(one.label).cmp(key(other.label)),
        });
        keys.then_with(|| one.time.cmp(&other.time))
    });
    entries.into_iter().map(|entry| entry.label).collect()
}

fn alike(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn all_of_one_length(labels: &Labels<'_>, role: usize) -> bool {
    let length = |label: usize| labels.key(label, role).len();
    (1..labels.count()).all(|label| length(label) == length(0))
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
                let found: Vec<_> = by_key_and_time(&labels, 1).iter().map(key).collect();
                let all = 0..labels.count() as u32;
                let mut expected: Vec<_> = all.map(|label| key(&label)).collect();
                expected.sort_unstable();
                assert_eq!(found, expected);
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
