//! An index of blocks: for each of them its first row, its number and where it lies, so that one
//! binary search finds the block of a row.
//!
//! It does not know whether the blocks it points to hold rows or further fences.

use bytes::Bytes;

use super::BLOCK_BYTES;
use super::column::{self, Column};
use super::entry::Lift;
use super::search::first_not_below;
use crate::ids::Sequence;
use crate::time::EventTime;

pub(super) const KIND: u8 = 2;
/// Checksum, kind, nothing, entries.
const HEAD: usize = 4 + 1 + 3 + 4;
const ENTRY_BYTES: usize = 40;
/// A block ends when it is longer than that and has so many fences, or is longer than
/// [`BLOCK_BYTES`].
const SHORT_BYTES: usize = BLOCK_BYTES / 2;
const SHORT_LEAST: usize = 16;

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Place {
    /// Where the next block may begin.
    pub(super) fn end(self) -> Option<u64> {
        self.offset.checked_add(self.length as u64)
    }
}

/// Of a block its first row, and where it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fence {
    pub(super) key: Vec<u8>,
    pub(super) order: (EventTime, Sequence),
    /// The number of that row in its section.
    pub(super) row: u64,
    pub(super) place: Place,
}

/// Collects fences.
#[derive(Default)]
pub(super) struct FencesBuilder {
    fences: Vec<Fence>,
    bytes: usize,
}

impl FencesBuilder {
    pub(super) fn push(&mut self, fence: Fence) {
        self.bytes += fence.key.len() + ENTRY_BYTES;
        self.fences.push(fence);
    }

    pub(super) fn first(&self) -> Option<&Fence> {
        self.fences.first()
    }

    /// Whether the next fence is to be in the next block. Short blocks are read and checked in less
    /// time, where each label of a training set needs another; but the root, which is kept in
    /// memory, has an entry for each.
    pub(super) fn is_full(&self) -> bool {
        let has_enough = self.bytes > SHORT_BYTES && self.fences.len() >= SHORT_LEAST;
        has_enough || self.bytes > BLOCK_BYTES
    }

    /// Appends the block to `out`, with room for its checksum, and begins the next.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 4]);
        out.push(KIND);
        out.extend_from_slice(&[0; 3]);
        out.extend_from_slice(&(self.fences.len() as u32).to_le_bytes());
        let mut end = 0;
        let mut ends = |fence: &Fence| {
            end += fence.key.len() as u64;
            end
        };
        let numbers = |of: &mut dyn FnMut(&Fence) -> u64| -> Vec<u64> {
            self.fences.iter().map(of).collect()
        };
        column::encode(&numbers(&mut ends), out);
        column::encode(&numbers(&mut |fence| column::ordered_time(fence.order.0)), out);
        column::encode(&numbers(&mut |fence| fence.order.1.0), out);
        column::encode(&numbers(&mut |fence| fence.row), out);
        column::encode(&numbers(&mut |fence| fence.place.offset), out);
        column::encode(&numbers(&mut |fence| fence.place.length as u64), out);
        self.fences.iter().for_each(|fence| out.extend_from_slice(&fence.key));
        *self = Self::default();
    }
}

/// A block of fences, its checksum and its inner lengths found right.
#[derive(Debug)]
pub(super) struct Fences {
    block: Bytes,
    count: usize,
    key_ends: Column,
    times: Column,
    sequences: Column,
    rows: Column,
    offsets: Column,
    lengths: Column,
    keys_at: usize,
}

impl Fences {
    /// Reads a block whose checksum is right, of a file that is lifted; none if its lengths
    /// contradict each other, which means a bug.
    pub(super) fn read(block: Bytes, lift: Lift) -> Option<Self> {
        let head: &[u8; HEAD] = block.first_chunk()?;
        let count = u32::from_le_bytes(head[8..12].try_into().ok()?) as usize;
        let mut at = HEAD;
        let mut find = || Column::find(&block, &mut at, count);
        let key_ends = find()?;
        let (times, sequences, rows) = (find()?, find()?, find()?);
        let (offsets, lengths) = (find()?, find()?);
        let sequences = sequences.lifted(lift.sequences);
        let this =
            Self { count, key_ends, times, sequences, rows, offsets, lengths, keys_at: at, block };
        // In this order, so that there are no more entries than the block has bytes.
        let whole = count > 0
            && this.is_in_order()
            && this.key_ends.ends_at(&this.block, count, this.block.len() - at);
        whole.then_some(this)
    }

    /// The same of the file lifted further.
    pub(super) fn lifted(&self, lift: Lift) -> Self {
        let sequences = self.sequences.lifted(lift.sequences);
        Self { block: self.block.clone(), sequences, ..*self }
    }

    /// Whether each block lies behind the one before, and so do its rows. What reads block after
    /// block comes to an end by that.
    fn is_in_order(&self) -> bool {
        // Each number is read once: a label of a sparse training set has a block to itself.
        let (mut row, mut place) = (self.row(0), self.place(0));
        (1..self.count).all(|index| {
            let (row_before, before) = (row, place);
            (row, place) = (self.row(index), self.place(index));
            let end = before.end().filter(|_| before.length > 0);
            row_before < row && end.is_some_and(|end| end <= place.offset)
        })
    }

    /// Whether all the blocks lie between two places of the file.
    pub(super) fn lie_within(&self, start: u64, end: u64) -> bool {
        self.place(0).offset >= start && self.end().is_some_and(|last| last <= end)
    }

    /// Where the last of the blocks ends.
    pub(super) fn end(&self) -> Option<u64> {
        self.place(self.count - 1).end()
    }

    /// Blocks it points to, at least one.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Bytes it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.block.len()
    }

    /// The key of the first row of a block.
    pub(super) fn key(&self, index: usize) -> &[u8] {
        let part = self.key_ends.part(&self.block, index);
        &self.block[self.keys_at + part.start..self.keys_at + part.end]
    }

    /// What the first row of a block is sorted by within its key.
    pub(super) fn order(&self, index: usize) -> (EventTime, Sequence) {
        let time = column::micros(self.times.get(&self.block, index));
        (EventTime::from_micros(time), Sequence(self.sequences.get(&self.block, index)))
    }

    /// The number of the first row of a block in its section.
    pub(super) fn row(&self, index: usize) -> u64 {
        self.rows.get(&self.block, index)
    }

    /// Where a block lies.
    pub(super) fn place(&self, index: usize) -> Place {
        let length = self.lengths.get(&self.block, index) as usize;
        Place { offset: self.offsets.get(&self.block, index), length }
    }

    /// The last block that begins before the row of `key` with that order would stand.
    pub(super) fn before(&self, key: &[u8], below: (EventTime, Sequence)) -> Option<usize> {
        self.last(|index| self.begins_before(index, key, below))
    }

    /// The same, sought from the block at `from` on, which may be it. None unless there is a later
    /// block here that begins behind the row: only then can no other fences know better.
    pub(super) fn before_from(
        &self,
        from: usize,
        key: &[u8],
        below: (EventTime, Sequence),
    ) -> Option<usize> {
        let after =
            first_not_below(from, self.count, |index| self.begins_before(index, key, below));
        (after > from && after < self.count).then(|| after - 1)
    }

    fn begins_before(&self, index: usize, key: &[u8], below: (EventTime, Sequence)) -> bool {
        match self.key(index).cmp(key) {
            std::cmp::Ordering::Equal => self.order(index) < below,
            unequal => unequal.is_lt(),
        }
    }

    /// The block that holds the row with a number.
    pub(super) fn of_row(&self, row: u64) -> Option<usize> {
        self.last(|index| self.row(index) <= row)
    }

    fn last(&self, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if holds(middle) { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_some_fences_however_long_their_keys_are_and_is_short_where_they_are() {
        let fences_of = |key_bytes: usize| {
            let mut fences = FencesBuilder::default();
            while !fences.is_full() {
                fences.push(Fence {
                    key: vec![b'k'; key_bytes],
                    order: (EventTime::MIN, Sequence::ZERO),
                    row: 0,
                    place: Place { offset: 0, length: 1 },
                });
            }
            fences.fences.len()
        };
        assert_eq!([8, 24, 60, 200, 1024, 9000].map(fences_of), [43, 33, 21, 16, 4, 1]);
    }
}
