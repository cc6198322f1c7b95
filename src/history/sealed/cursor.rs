//! Walks the rows of one entity key in a sealed file, from an instant back in time.
//!
//! It does not know which features are wanted until it is asked for the next row; then it jumps
//! over the rows that have none of them.

use std::ops::Range;
use std::sync::Arc;

use super::entry::RowIn;
use super::fences::Fences;
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
        let block = file.rows(&fences, index)?;
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

    /// What entry `index` of `fences` leads to.
    fn rows(&mut self, fences: &Fences, index: usize) -> Result<Arc<Rows>, ReadError>;

    /// What entry `index` of the root of a section leads to.
    fn fences(&mut self, section: usize, index: usize) -> Result<Arc<Fences>, ReadError>;
}

/// From the cache all readers share.
struct Shared<'a>(&'a SealedFile);

impl Shelf for Shared<'_> {
    fn file(&self) -> &SealedFile {
        self.0
    }

    fn rows(&mut self, fences: &Fences, index: usize) -> Result<Arc<Rows>, ReadError> {
        self.0.rows(fences, index)
    }

    fn fences(&mut self, section: usize, index: usize) -> Result<Arc<Fences>, ReadError> {
        self.0.fences(section, index)
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
    let Some(index) = root.before(key, below) else { return Ok(None) };
    let fences = shelf.fences(section, index)?;
    let index = fences.before(key, below);
    Ok(index.map(|index| (fences, index)))
}

/// The fences of the block that holds the row with a number, and its place among them.
fn block_of(
    shelf: &mut impl Shelf,
    section: usize,
    number: u64,
) -> Result<Option<(Arc<Fences>, usize)>, ReadError> {
    let root = &shelf.file().section(section).root;
    let Some(index) = root.of_row(number) else { return Ok(None) };
    let fences = shelf.fences(section, index)?;
    let index = fences.of_row(number);
    Ok(index.map(|index| (fences, index)))
}

/// How far to go back.
struct Step {
    rows: u64,
    /// The file says that there is a row of the key.
    is_jump: bool,
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
        let Some(Step { rows, is_jump }) = self.step(missing) else { return Ok(false) };
        if let Ok(rows) = usize::try_from(rows)
            && rows <= self.row - self.rows.start
        {
            self.row -= rows;
            return Ok(true);
        }
        let number = self.block.first_row() + self.row as u64;
        // The rows of the key go on in an earlier block only if they begin this one.
        if let Some(number) = number.checked_sub(rows).filter(|_| self.rows.start == 0)
            && let Some(standing) = Self::at(shelf, self.section, key, number)?
        {
            *self = standing;
            return Ok(true);
        }
        match is_jump {
            // The row before may be of another key.
            false => Ok(false),
            true => {
                let reason = format!("row {number} says that its key has one {rows} rows before");
                let block = block_of(shelf, self.section, number)?;
                let offset = block.map_or(0, |(fences, index)| fences.place(index).offset);
                Err(shelf.file().damage(offset, reason).into())
            }
        }
    }

    /// The row with a number, if it is one of `key`. It is one that was counted, in a block that
    /// lies where no other does; so whoever goes from each row to one of a lower number comes to
    /// an end.
    fn at(
        shelf: &mut impl Shelf,
        section: usize,
        key: &[u8],
        number: u64,
    ) -> Result<Option<Self>, ReadError> {
        let Some((fences, index)) = block_of(shelf, section, number)? else { return Ok(None) };
        let block = shelf.rows(&fences, index)?;
        let Some(rows) = block.rows_of(key) else { return Ok(None) };
        let row = number.checked_sub(block.first_row()).and_then(|row| usize::try_from(row).ok());
        let row = row.filter(|row| rows.contains(row));
        Ok(row.map(|row| Self { section, block, rows, row }))
    }

    /// How far to go back; none if no earlier row has what is missing.
    fn step(&self, missing: Option<&[Slot]>) -> Option<Step> {
        let Some(missing) = missing else { return Some(Step { rows: 1, is_jump: false }) };
        let steps = missing.iter().filter_map(|slot| match self.block.has(self.row, *slot) {
            // It was not to be seen here; the row before may have it too.
            Has::Itself => Some(Step { rows: 1, is_jump: false }),
            Has::Before(rows) => Some(Step { rows, is_jump: true }),
            Has::Never => None,
        });
        steps.min_by_key(|step| step.rows)
    }
}
