//! Rows of one view in one segment of the log, by entity key.
//!
//! It does not know segments, nor who reads the rows.

use std::collections::HashMap;
use std::ops::Range;

use smallvec::SmallVec;

use crate::ids::Sequence;
use crate::time::EventTime;

/// One row in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) event_time: EventTime,
    pub(super) sequence: Sequence,
    /// Where its archive begins in the segment; segments are at most a little over 1 GiB.
    pub(super) offset: u32,
    pub(super) length: u32,
    /// CRC-32C of its archive, taken from a frame whose own was right.
    pub(super) crc: u32,
}

impl Entry {
    pub(super) fn order(&self) -> (EventTime, Sequence) {
        (self.event_time, self.sequence)
    }
}

/// Bytes of a key that are kept beside its rows; a longer one lies apart.
const KEY_BYTES: usize = 16;

/// The rows. Those of a key lie in a block of their own, so that hundreds of thousands of keys are
/// not as many allocations, and taken down as quickly.
#[derive(Default)]
pub(super) struct KeyedRows {
    keys: HashMap<SmallVec<[u8; KEY_BYTES]>, Block, foldhash::fast::RandomState>,
    blocks: Vec<Entry>,
}

/// Where the rows of a key are. A block has room for a power of two; a full one is left for another
/// of twice the room, so those that were left take less than those that hold rows.
#[derive(Clone, Copy, Default)]
struct Block {
    start: u32,
    rows: u32,
    /// So many of the first are in order.
    sorted: u32,
}

/// The rows of a key, if they can be searched.
pub(super) enum Versions<'a> {
    /// In order.
    Sorted(&'a [Entry]),
    /// [`KeyedRows::sort`] comes first.
    Unsorted,
}

impl Block {
    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.rows as usize
    }

    fn is_sorted(self) -> bool {
        self.sorted == self.rows
    }

    fn is_full(self) -> bool {
        self.rows == 0 || self.rows.is_power_of_two()
    }
}

impl KeyedRows {
    /// Adds a row that was written behind all that are here.
    pub(super) fn push(&mut self, key: &[u8], entry: Entry) {
        let block = match self.keys.get_mut(key) {
            Some(block) => block,
            None => self.keys.entry(key.into()).or_default(),
        };
        let range = block.range();
        let last = self.blocks[range.clone()].last();
        let follows = last.is_none_or(|last| last.order() < entry.order());
        block.sorted += u32::from(block.is_sorted() && follows);
        if block.is_full() {
            block.start = self.blocks.len() as u32;
            self.blocks.extend_from_within(range.clone());
            // Twice the room; what is not a row yet may say anything.
            self.blocks.resize(self.blocks.len() + range.len().max(1), entry);
        }
        block.rows += 1;
        self.blocks[block.range().end - 1] = entry;
    }

    /// The rows of a key; none if it has none.
    pub(super) fn of(&self, key: &[u8]) -> Option<Versions<'_>> {
        let block = self.keys.get(key)?;
        Some(match block.is_sorted() {
            true => Versions::Sorted(&self.blocks[block.range()]),
            false => Versions::Unsorted,
        })
    }

    /// Every key that has a row.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.keys().map(SmallVec::as_slice)
    }

    /// Brings the rows of a key in order. Costs little when what came late is not very late: only
    /// what it overtakes is moved.
    pub(super) fn sort(&mut self, key: &[u8]) {
        let Some(block) = self.keys.get_mut(key) else { return };
        let rows = &mut self.blocks[block.range()];
        let (before, late) = rows.split_at_mut(block.sorted as usize);
        late.sort_unstable_by_key(Entry::order);
        if let Some(least) = late.first().map(Entry::order) {
            let from = before.partition_point(|entry| entry.order() < least);
            // Two runs in order, which the stable sort only merges.
            rows[from..].sort_by_key(Entry::order);
        }
        block.sorted = block.rows;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn rows_are_found_by_key_and_in_order() {
        let (mut rows, mut naive) = (KeyedRows::default(), BTreeMap::new());
        let mut random = 7_u64;
        for number in 1..=20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few keys have most of the rows, and some are long.
            let key = (random >> 33) % (1 + (random >> 50) % 900);
            let key = format!("{key}").repeat(1 + key as usize % 9).into_bytes();
            let late = if number % 3 == 0 { (random >> 20) % 5_000 } else { 0 };
            let event_time = EventTime::from_micros(number.saturating_sub(late) as i64);
            let [offset, length] = [number as u32; 2];
            let entry = Entry { event_time, sequence: Sequence(number), offset, length, crc: 0 };
            rows.push(&key, entry);
            naive.entry(key.clone()).or_insert_with(Vec::new).push(entry);
            if number % 7 == 0 {
                check(&mut rows, &key, &naive[&key]);
            }
        }
        for (key, expected) in &naive {
            check(&mut rows, key, expected);
        }
        let keys: BTreeMap<_, _> = rows.keys().map(|key| (key, ())).collect();
        assert!(keys.into_keys().eq(naive.keys().map(Vec::as_slice)));
        assert!(rows.of(b"unknown").is_none());
        let room = rows.blocks.len();
        assert!(room <= 3 * 20_000, "room for {room} rows");
    }

    fn check(rows: &mut KeyedRows, key: &[u8], pushed: &[Entry]) {
        let mut expected = pushed.to_vec();
        expected.sort_by_key(Entry::order);
        if let Some(Versions::Unsorted) = rows.of(key) {
            rows.sort(key);
        }
        assert!(matches!(rows.of(key), Some(Versions::Sorted(found)) if found == expected));
    }
}
