//! Walks the rows of one entity key in a sealed file, from an instant back in time.
//!
//! It does not know which features are wanted until it is asked for the next row; then it jumps
//! over the rows that have none of them.

use std::ops::Range;
use std::sync::Arc;

use super::entry::RowIn;
use super::fences::{Fences, Place};
use super::file::SealedFile;
use super::rows::{Has, Rows};
use crate::history::ReadError;
use crate::ids::{Sequence, Slot, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Stands on a row.
pub struct Cursor {
    file: Arc<SealedFile>,
    standing: Standing,
}

impl Cursor {
    /// Finds the newest row of `key` below `below` in the order of (event time, sequence).
    ///
    /// # Errors
    /// The disk failed, or a block is not what was written.
    pub fn seek(
        file: &Arc<SealedFile>,
        view: ViewId,
        key: &[u8],
        below: (EventTime, Sequence),
    ) -> Result<Option<Self>, ReadError> {
        let Some(section) = file.section_of(view) else { return Ok(None) };
        let Some((fences, index)) = fence_of(&mut Shared(file), section, key, below)? else {
            return Ok(None);
        };
        let block = file.rows(fences.place(index))?;
        // The row before all that are not below is in this block, or there is none of the key.
        let Some(rows) = block.rows_of(key) else { return Ok(None) };
        let row = block.first_row_from(rows.start, &rows, below);
        if row == rows.start {
            return Ok(None);
        }
        let standing = Standing { section, block, rows, row: row - 1 };
        Ok(Some(Self { file: file.clone(), standing }))
    }

    /// What its row is sorted by.
    pub fn order(&self) -> (EventTime, Sequence) {
        self.standing.order()
    }

    /// When its row arrived.
    pub fn arrival(&self) -> ArrivalTime {
        self.standing.arrival()
    }

    /// Its row; `key` is the one it was sought by.
    pub fn current<'a>(&'a self, key: &'a [u8]) -> RowIn<'a> {
        let (event_time, sequence) = self.order();
        let archive = self.standing.archive();
        RowIn { key, event_time, sequence, arrival: self.arrival(), archive }
    }

    /// Moves to the next older row of the key, or, with `missing`, to the next that has one of
    /// these features. False if there is none.
    ///
    /// # Errors
    /// As [`Self::seek`].
    pub fn back(&mut self, key: &[u8], missing: Option<&[Slot]>) -> Result<bool, ReadError> {
        self.standing.back(&mut Shared(&self.file), key, missing)
    }
}

/// Where the blocks of a file come from.
pub(super) trait Shelf {
    fn file(&self) -> &SealedFile;

    fn rows(&mut self, place: Place) -> Result<Arc<Rows>, ReadError>;

    fn fences(&mut self, place: Place) -> Result<Arc<Fences>, ReadError>;
}

/// From the cache all readers share.
struct Shared<'a>(&'a SealedFile);

impl Shelf for Shared<'_> {
    fn file(&self) -> &SealedFile {
        self.0
    }

    fn rows(&mut self, place: Place) -> Result<Arc<Rows>, ReadError> {
        self.0.rows(place)
    }

    fn fences(&mut self, place: Place) -> Result<Arc<Fences>, ReadError> {
        self.0.fences(place)
    }
}

/// The fences of the block in which the newest row of `key` below `below` is, if there is such a
/// row, and its place among them.
pub(super) fn fence_of(
    shelf: &mut impl Shelf,
    section: usize,
    key: &[u8],
    below: (EventTime, Sequence),
) -> Result<Option<(Arc<Fences>, usize)>, ReadError> {
    let root = &shelf.file().section(section).root;
    let Some(place) = root.before(key, below).map(|index| root.place(index)) else {
        return Ok(None);
    };
    let fences = shelf.fences(place)?;
    let index = fences.before(key, below);
    Ok(index.map(|index| (fences, index)))
}

/// A row of a block, and the rows of its key there.
#[derive(Clone)]
pub(super) struct Standing {
    pub(super) section: usize,
    pub(super) block: Arc<Rows>,
    /// The rows of the key in the block.
    pub(super) rows: Range<usize>,
    /// The row it stands on.
    pub(super) row: usize,
}

impl Standing {
    pub(super) fn order(&self) -> (EventTime, Sequence) {
        self.block.order(self.row)
    }

    pub(super) fn arrival(&self) -> ArrivalTime {
        self.block.arrival(self.row)
    }

    pub(super) fn archive(&self) -> &[u8] {
        self.block.archive(self.row)
    }

    /// See [`Cursor::back`].
    pub(super) fn back(
        &mut self,
        shelf: &mut impl Shelf,
        key: &[u8],
        missing: Option<&[Slot]>,
    ) -> Result<bool, ReadError> {
        let Some(step) = self.step(missing) else { return Ok(false) };
        if let Ok(step) = usize::try_from(step)
            && step <= self.row - self.rows.start
        {
            self.row -= step;
            return Ok(true);
        }
        // The rows of the key go on in an earlier block only if they begin this one.
        if self.rows.start > 0 {
            return Ok(false);
        }
        let number = self.block.first_row().checked_add(self.row as u64);
        let Some(number) = number.and_then(|number| number.checked_sub(step)) else {
            return Ok(false);
        };
        let root = &shelf.file().section(self.section).root;
        let Some(place) = root.of_row(number).map(|index| root.place(index)) else {
            return Ok(false);
        };
        let fences = shelf.fences(place)?;
        let Some(index) = fences.of_row(number) else { return Ok(false) };
        let place = fences.place(index);
        let block = shelf.rows(place)?;
        let Some(rows) = block.rows_of(key) else { return Ok(false) };
        let row = number.checked_sub(block.first_row()).and_then(|row| usize::try_from(row).ok());
        let Some(row) = row.filter(|row| rows.contains(row)) else {
            // A step of one row may lead to another key; a jump never does.
            let damage = || shelf.file().damage(place.offset, "a jump leads to another key");
            return if step == 1 { Ok(false) } else { Err(damage().into()) };
        };
        self.block = block;
        self.rows = rows;
        self.row = row;
        Ok(true)
    }

    /// How many rows to go back; none if no earlier row has what is missing.
    fn step(&self, missing: Option<&[Slot]>) -> Option<u64> {
        let Some(missing) = missing else { return Some(1) };
        let steps = missing.iter().filter_map(|slot| match self.block.has(self.row, *slot) {
            // It was not to be seen here; the row before may have it too.
            Has::Itself => Some(1),
            // A distance of nothing, which only a bug writes, would never end.
            Has::Before(distance) => Some(distance.max(1)),
            Has::Never => None,
        });
        steps.min()
    }
}
