//! A block of rows: keys, times, sequences and arrivals in columns, presence apart, then the
//! archived rows.
//!
//! It does not know the file around it; where it stands is a part of its checksum.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;

use super::column::{self, Column};
use super::entry::{Lift, RowIn};
use super::search::first_not_below;
use crate::archive::RowRef;
use crate::ids::{Sequence, Slot};
use crate::time::{ArrivalTime, EventTime};

pub(super) const KIND: u8 = 1;
/// Some row lacks a feature, so that presence is written down.
const HAS_GAPS: u8 = 1;
/// Checksum, kind, flags, slots, rows, keys, number of the first row.
const HEAD: usize = 4 + 1 + 1 + 2 + 4 + 4 + 8;
/// What a row takes beside its archive, about.
const ROW_BYTES: usize = 16;

/// Collects the rows of one block after another of one view.
pub(super) struct RowsBuilder {
    slots: usize,
    first_row: u64,
    keys: Vec<u8>,
    key_ends: Vec<u64>,
    row_ends: Vec<u64>,
    times: Vec<u64>,
    sequences: Vec<u64>,
    arrivals: Vec<u64>,
    archives: Vec<u8>,
    archive_ends: Vec<u64>,
    presence: Vec<u8>,
    gap_ends: Vec<u64>,
    gaps: Vec<u64>,
    /// The key of the row before, and for each slot the row after its last present cell.
    key: Vec<u8>,
    present_before: Vec<u64>,
}

impl RowsBuilder {
    /// For rows of a view that have at most `slots` features.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            first_row: 0,
            keys: Vec::new(),
            key_ends: Vec::new(),
            row_ends: Vec::new(),
            times: Vec::new(),
            sequences: Vec::new(),
            arrivals: Vec::new(),
            archives: Vec::new(),
            archive_ends: Vec::new(),
            presence: Vec::new(),
            gap_ends: Vec::new(),
            gaps: Vec::new(),
            key: Vec::new(),
            present_before: vec![0; slots],
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.times.len()
    }

    /// The number of the next row in its section.
    pub(super) fn next_row(&self) -> u64 {
        self.first_row + self.rows() as u64
    }

    /// The number of the first row of the block.
    pub(super) fn first_row(&self) -> u64 {
        self.first_row
    }

    /// About how long the block is.
    pub(super) fn length(&self) -> usize {
        self.archives.len() + self.keys.len() + self.presence.len() + ROW_BYTES * self.rows()
    }

    /// Adds the row that follows; `cells` is its archive. Says whether its key is a new one.
    pub(super) fn push(&mut self, row: &RowIn<'_>, cells: RowRef<'_>) -> bool {
        let is_new = self.next_row() == 0 || self.key != row.key;
        if is_new {
            self.key.clear();
            self.key.extend_from_slice(row.key);
            self.present_before.fill(0);
        }
        if is_new || self.rows() == 0 {
            self.keys.extend_from_slice(row.key);
            self.key_ends.push(self.keys.len() as u64);
            self.row_ends.push(0);
        }
        self.note_presence(cells);
        self.times.push(column::ordered_time(row.event_time));
        self.sequences.push(row.sequence.0);
        self.arrivals.push(column::ordered(row.arrival.micros()));
        self.archives.extend_from_slice(row.archive);
        self.archive_ends.push(self.archives.len() as u64);
        let rows = self.rows() as u64;
        if let Some(end) = self.row_ends.last_mut() {
            *end = rows;
        }
        is_new
    }

    fn note_presence(&mut self, cells: RowRef<'_>) {
        let after = self.next_row() + 1;
        let at = self.presence.len();
        self.presence.resize(at + self.slots.div_ceil(8), 0);
        for slot in 0..self.slots {
            if cells.has(slot) {
                self.presence[at + slot / 8] |= 1 << (slot % 8);
                self.present_before[slot] = after;
            } else {
                let before = self.present_before[slot];
                self.gaps.push(if before == 0 { 0 } else { after - before });
            }
        }
        self.gap_ends.push(self.gaps.len() as u64);
    }

    /// Appends the block to `out`, with room for its checksum, and begins the next.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let gaps = !self.gaps.is_empty();
        out.extend_from_slice(&[0; 4]);
        out.push(KIND);
        out.push(if gaps { HAS_GAPS } else { 0 });
        out.extend_from_slice(&(self.slots as u16).to_le_bytes());
        out.extend_from_slice(&(self.rows() as u32).to_le_bytes());
        out.extend_from_slice(&(self.key_ends.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.first_row.to_le_bytes());
        for numbers in [
            &self.key_ends,
            &self.row_ends,
            &self.times,
            &self.sequences,
            &self.arrivals,
            &self.archive_ends,
        ] {
            column::encode(numbers, out);
        }
        if gaps {
            column::encode(&self.gap_ends, out);
            column::encode(&self.gaps, out);
            out.extend_from_slice(&self.presence);
        }
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&self.archives);
        self.first_row = self.next_row();
        for numbers in [
            &mut self.key_ends,
            &mut self.row_ends,
            &mut self.times,
            &mut self.sequences,
            &mut self.arrivals,
            &mut self.archive_ends,
            &mut self.gap_ends,
            &mut self.gaps,
        ] {
            numbers.clear();
        }
        for bytes in [&mut self.keys, &mut self.archives, &mut self.presence] {
            bytes.clear();
        }
    }
}

/// A block of rows, its checksum and its inner lengths found right.
#[derive(Debug)]
pub(super) struct Rows {
    block: Bytes,
    slots: usize,
    rows: usize,
    keys: usize,
    first_row: u64,
    key_ends: Column,
    row_ends: Column,
    times: Column,
    sequences: Column,
    arrivals: Column,
    archive_ends: Column,
    gaps: Option<Gaps>,
    keys_at: usize,
    archives_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Gaps {
    ends: Column,
    distances: Column,
    presence_at: usize,
}

/// Which earlier row of its key has a feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Has {
    /// The row itself.
    Itself,
    /// The one so many rows before it.
    Before(u64),
    /// None before it.
    Never,
}

impl Rows {
    /// Reads a block whose checksum is right, of a file that is lifted; none if its lengths
    /// contradict each other, which means a bug.
    pub(super) fn read(block: Bytes, lift: Lift) -> Option<Self> {
        let head: &[u8; HEAD] = block.first_chunk()?;
        let flags = head[5];
        let slots = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let rows = u32::from_le_bytes(head[8..12].try_into().ok()?) as usize;
        let keys = u32::from_le_bytes(head[12..16].try_into().ok()?) as usize;
        let first_row = u64::from_le_bytes(head[16..24].try_into().ok()?);
        let mut at = HEAD;
        let mut find = |count: usize| Column::find(&block, &mut at, count);
        let (key_ends, row_ends) = (find(keys)?, find(keys)?);
        let (times, sequences, arrivals) = (find(rows)?, find(rows)?, find(rows)?);
        let archive_ends = find(rows)?;
        let last = |column: Column, count: usize| match count {
            0 => Some(0),
            count => usize::try_from(column.get(&block, count - 1)).ok(),
        };
        let gaps = match flags {
            0 => None,
            HAS_GAPS => {
                let ends = Column::find(&block, &mut at, rows)?;
                let count = last(ends, rows)?;
                let distances = Column::find(&block, &mut at, count)?;
                let presence_at = at;
                at = at.checked_add(rows.checked_mul(slots.div_ceil(8))?)?;
                Some((Gaps { ends, distances, presence_at }, count))
            }
            _ => return None,
        };
        let keys_at = at;
        let archives_at = at.checked_add(last(key_ends, keys)?)?;
        let end = archives_at.checked_add(last(archive_ends, rows)?)?;
        // Every row has an archive and every key a row. Looked at in this order, so that there are
        // no more of either than the block has bytes.
        let whole = end == block.len()
            && keys > 0
            && first_row.checked_add(rows as u64).is_some()
            && archive_ends.rises_to(&block, rows, end - archives_at)
            && row_ends.rises_to(&block, keys, rows)
            && key_ends.ends_at(&block, keys, archives_at - keys_at)
            && gaps.is_none_or(|(gaps, count)| gaps.ends.ends_at(&block, rows, count));
        whole.then_some(Self {
            slots,
            rows,
            keys,
            first_row,
            key_ends,
            row_ends,
            times,
            sequences: sequences.lifted(lift.sequences),
            arrivals: lift
                .arrival
                .map_or(arrivals, |arrival| Column::constant(column::ordered(arrival.micros()))),
            archive_ends,
            gaps: gaps.map(|(gaps, _)| gaps),
            keys_at,
            archives_at,
            block,
        })
    }

    /// Rows in the block, at least one.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Bytes it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.block.len()
    }

    /// The number of its first row in its section.
    pub(super) fn first_row(&self) -> u64 {
        self.first_row
    }

    /// One of its keys; they are in order.
    pub(super) fn key(&self, index: usize) -> &[u8] {
        let part = self.key_ends.part(&self.block, index);
        &self.block[self.keys_at + part.start..self.keys_at + part.end]
    }

    /// Number of its keys.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// The rows of `key`; none if there is none here.
    pub(super) fn rows_of(&self, key: &[u8]) -> Option<Range<usize>> {
        let index = self.first_key_from(0, key);
        (index < self.keys && self.key(index) == key).then(|| self.rows_at(index))
    }

    /// The first of its keys from `low` on that is not below `key`; their number if all are. Looks
    /// near `low` first.
    pub(super) fn first_key_from(&self, low: usize, key: &[u8]) -> usize {
        first_not_below(low, self.keys, |index| self.key(index) < key)
    }

    /// The first row of `rows`, from `low` on, whose order is not below `below`; their end if all
    /// are. Looks near `low` first.
    pub(super) fn first_row_from(
        &self,
        low: usize,
        rows: &Range<usize>,
        below: (EventTime, Sequence),
    ) -> usize {
        let time = column::ordered_time(below.0);
        first_not_below(low, rows.end, |row| match self.times.get(&self.block, row).cmp(&time) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.sequences.get(&self.block, row) < below.1.0,
        })
    }

    /// The rows of one of its keys.
    pub(super) fn rows_at(&self, key: usize) -> Range<usize> {
        self.row_ends.part(&self.block, key)
    }

    /// What rows are sorted by within their key.
    pub(super) fn order(&self, row: usize) -> (EventTime, Sequence) {
        let time = column::micros(self.times.get(&self.block, row));
        (EventTime::from_micros(time), Sequence(self.sequences.get(&self.block, row)))
    }

    /// When a row arrived.
    pub(super) fn arrival(&self, row: usize) -> ArrivalTime {
        ArrivalTime::from_micros(column::micros(self.arrivals.get(&self.block, row)))
    }

    /// The archived features of a row.
    pub(super) fn archive(&self, row: usize) -> &[u8] {
        let part = self.archive_ends.part(&self.block, row);
        &self.block[self.archives_at + part.start..self.archives_at + part.end]
    }

    /// Which row of the key has the feature of `slot`, seen from `row`.
    pub(super) fn has(&self, row: usize, slot: Slot) -> Has {
        let slot = usize::from(slot.0);
        if slot >= self.slots {
            return Has::Never;
        }
        let Some(gaps) = self.gaps else { return Has::Itself };
        let width = self.slots.div_ceil(8);
        let bits = &self.block[gaps.presence_at + row * width..][..width];
        if bits[slot / 8] >> (slot % 8) & 1 == 1 {
            return Has::Itself;
        }
        let present: u32 = bits[..slot / 8].iter().map(|byte| byte.count_ones()).sum();
        let below = bits[slot / 8] & ((1u16 << (slot % 8)) - 1) as u8;
        let absent_before = slot - (present + below.count_ones()) as usize;
        let gap = gaps.ends.part(&self.block, row).nth(absent_before);
        match gap.map(|gap| gaps.distances.get(&self.block, gap)) {
            None | Some(0) => Has::Never,
            Some(distance) => Has::Before(distance),
        }
    }
}
