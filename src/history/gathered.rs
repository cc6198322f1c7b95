//! Rows gathered in memory and sorted, on their way into a sealed file.
//!
//! It does not know where they come from, nor which of them stay.

use std::cmp::Ordering;

use super::sealed::{BuildError, RowIn};
use crate::archive::RowRef;
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// What a row takes beside its key and its archive.
const ROW_BYTES: usize = size_of::<Gathering>();

/// A row that stands in [`Gathered::bytes`], key before archive.
#[derive(Clone, Copy)]
struct Gathering {
    /// The first bytes of the key, which mostly tell two keys apart.
    prefix: u64,
    at: usize,
    event_time: EventTime,
    sequence: Sequence,
    arrival: ArrivalTime,
    view: ViewId,
    key: u32,
    archive: u32,
}

/// Rows, in order once [`Self::sort`] was called.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    rows: Vec<Gathering>,
}

impl Gathered {
    /// Adds a row of `view`, of which `write` appends the archive.
    pub(super) fn push(&mut self, view: ViewId, row: &RowIn<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let RowIn { key, event_time, sequence, arrival, .. } = *row;
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        write(&mut self.bytes);
        let archive = self.bytes.len() - at - key.len();
        self.rows.push(Gathering {
            prefix: prefix(key),
            at,
            event_time,
            sequence,
            arrival,
            view,
            key: key.len() as u32,
            archive: archive as u32,
        });
    }

    /// The archive of the last row.
    pub(super) fn last_archive(&self) -> &[u8] {
        self.rows.last().map_or(&[], |row| self.row(row).archive)
    }

    /// Rows in it.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes it takes.
    pub(super) fn memory(&self) -> usize {
        self.bytes.len() + self.rows.len() * ROW_BYTES
    }

    /// Forgets all rows and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }

    /// Sorts by view, key, event time and sequence.
    pub(super) fn sort(&mut self) {
        let Self { bytes, rows } = self;
        rows.sort_unstable_by(|a, b| {
            let by_key = || match a.prefix.cmp(&b.prefix) {
                Ordering::Equal if a.key == b.key && a.key <= 8 => Ordering::Equal,
                Ordering::Equal => key_of(bytes, a).cmp(key_of(bytes, b)),
                unequal => unequal,
            };
            let by_time = || (a.event_time, a.sequence).cmp(&(b.event_time, b.sequence));
            a.view.cmp(&b.view).then_with(by_key).then_with(by_time)
        });
    }

    /// Leaves out the rows that `goes` says, which is asked in order.
    ///
    /// # Errors
    /// Its own.
    pub(super) fn leave_out<E>(
        &mut self,
        mut goes: impl FnMut(&RowIn<'_>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut stay = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            stay.push(!goes(&self.row(row))?);
        }
        let mut stay = stay.into_iter();
        self.rows.retain(|_| stay.next().unwrap_or(true));
        Ok(())
    }

    /// Numbers the rows anew from `first` on, in the order of their sequences, which stand between
    /// `from` and `to`.
    pub(super) fn renumber(&mut self, (from, to): (Sequence, Sequence), first: Sequence) {
        let mut there = vec![0_u32; (to.0 + 1 - from.0) as usize];
        for row in &self.rows {
            there[(row.sequence.0 - from.0) as usize] = 1;
        }
        let mut before = 0;
        for place in &mut there {
            before += std::mem::replace(place, before);
        }
        for row in &mut self.rows {
            let rank = there[(row.sequence.0 - from.0) as usize];
            row.sequence = Sequence(first.0 + u64::from(rank));
        }
    }

    /// The rows of each view.
    pub(super) fn views(&self) -> impl Iterator<Item = Section<'_>> {
        let of_one_view = self.rows.chunk_by(|a, b| a.view == b.view);
        of_one_view.map(|rows| Section { gathered: self, rows })
    }

    fn row(&self, row: &Gathering) -> RowIn<'_> {
        let (key, rest) = self.bytes[row.at..].split_at(row.key as usize);
        RowIn {
            key,
            event_time: row.event_time,
            sequence: row.sequence,
            arrival: row.arrival,
            archive: &rest[..row.archive as usize],
        }
    }
}

/// The first bytes of a key as a number of the same order.
fn prefix(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut first = [0; 8];
            first[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(first)
        }
    }
}

fn key_of<'a>(bytes: &'a [u8], row: &Gathering) -> &'a [u8] {
    &bytes[row.at..row.at + row.key as usize]
}

/// The rows of one view; at least one.
#[derive(Clone, Copy)]
pub(super) struct Section<'g> {
    gathered: &'g Gathered,
    rows: &'g [Gathering],
}

impl<'g> Section<'g> {
    pub(super) fn view(&self) -> ViewId {
        self.rows[0].view
    }

    pub(super) fn rows(self) -> impl Iterator<Item = RowIn<'g>> {
        self.rows.iter().map(move |row| self.gathered.row(row))
    }

    /// Features its rows have at most.
    ///
    /// # Errors
    /// A row is none.
    pub(super) fn slots(&self) -> Result<usize, BuildError> {
        let mut slots = 0;
        for row in self.rows() {
            let cells = RowRef::access(row.archive)
                .map_err(|source| BuildError::Row { sequence: row.sequence, source })?;
            slots = slots.max(cells.slots());
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::Random;

    type Row = (u32, Vec<u8>, i64, u64);

    fn gather(rows: &[Row]) -> Gathered {
        let mut gathered = Gathered::default();
        for (view, key, time, sequence) in rows {
            let row = RowIn {
                key,
                event_time: EventTime::from_micros(*time),
                sequence: Sequence(*sequence),
                arrival: ArrivalTime::MIN,
                archive: &[],
            };
            gathered.push(ViewId(*view), &row, |out| out.extend_from_slice(key));
        }
        gathered
    }

    fn all(gathered: &Gathered) -> Vec<Row> {
        let mut found = Vec::new();
        for section in gathered.views() {
            for row in section.rows() {
                assert_eq!(row.archive, row.key);
                let time = row.event_time.micros();
                found.push((section.view().0, row.key.to_vec(), time, row.sequence.0));
            }
        }
        found
    }

    #[test]
    fn rows_come_out_in_order_whatever_their_keys() {
        for seed in 0..200 {
            let mut random = Random::seeded(seed);
            let mut rows: Vec<Row> = (0..random.below(200))
                .map(|at| {
                    // Zeros, so that short keys and long ones have one prefix.
                    let key = (0..random.below(12)).map(|_| random.below(2) as u8).collect();
                    (random.below(2) as u32, key, random.below(4) as i64, 10 + at)
                })
                .collect();
            let mut gathered = gather(&rows);
            gathered.sort();
            rows.sort();
            assert_eq!(all(&gathered), rows, "seed {seed}");
            let goes = |row: &RowIn<'_>| Ok::<bool, ()>(row.sequence.0.is_multiple_of(3));
            gathered.leave_out(goes).unwrap();
            rows.retain(|row| row.3 % 3 != 0);
            gathered.renumber((Sequence(10), Sequence(300)), Sequence(1000));
            let mut left: Vec<u64> = rows.iter().map(|row| row.3).collect();
            left.sort_unstable();
            for row in &mut rows {
                row.3 = 1000 + left.iter().position(|at| *at == row.3).unwrap() as u64;
            }
            assert_eq!(all(&gathered), rows, "seed {seed}");
        }
    }

    #[test]
    fn it_can_be_filled_again() {
        let rows = [(1, vec![1], 1, 1), (1, vec![2], 2, 2)];
        let mut gathered = gather(&rows);
        assert_eq!((gathered.last_archive(), gathered.len()), (&[2][..], 2));
        gathered.clear();
        assert_eq!((gathered.memory(), gathered.last_archive()), (0, &[][..]));
    }
}
