//! Reads rows of many entity keys of a sealed file: where keys and instants come in order, each
//! block once and from front to back.
//!
//! It does not know the cache that single reads share; what passes here would drive out all else.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::cursor::{Shelf, Standing, fence_of};
use super::fences::{Fences, Place};
use super::file::SealedFile;
use super::rows::Rows;
use crate::history::ReadError;
use crate::ids::{Sequence, Slot, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Blocks kept for walks back in time, which begin where the last one began or a little later.
const KEPT: usize = 4;

/// Stands on a row of a sealed file, or on none.
pub struct Lane {
    shelf: OwnShelf,
    section: usize,
    /// Where the block it looked into last stands, and that block.
    fence: Option<(Arc<Fences>, usize)>,
    block: Option<Arc<Rows>>,
    /// Which key of the block it looked at last, and where that one's rows are.
    key: usize,
    rows: Range<usize>,
    row: Option<usize>,
}

/// One walk back in time from where a lane stands.
pub struct Walk(Standing);

impl Lane {
    /// Begins with the rows of `view`; none if the file has none.
    pub fn open(file: &Arc<SealedFile>, view: ViewId) -> Option<Self> {
        let section = file.section_of(view)?;
        let shelf = OwnShelf {
            file: file.clone(),
            fences: None,
            kept: Default::default(),
            ahead: Ahead::default(),
        };
        Some(Self { shelf, section, fence: None, block: None, key: 0, rows: 0..0, row: None })
    }

    /// Moves to the newest row of `key` below `below`, or to none if there is none. `same` says
    /// that the key is that of the last time.
    ///
    /// # Errors
    /// The disk failed, or a block is not what was written.
    pub fn seek(
        &mut self,
        key: &[u8],
        below: (EventTime, Sequence),
        same: bool,
    ) -> Result<(), ReadError> {
        if self.seek_in_block(key, below, same) {
            return Ok(());
        }
        self.row = None;
        self.block = self.next_block(key, below)?;
        self.key = 0;
        self.rows = 0..0;
        // The row before all that are not below is in this block, or there is none of the key.
        let Some(block) = &self.block else { return Ok(()) };
        self.key = block.first_key_from(0, key);
        if self.key < block.keys() && block.key(self.key) == key {
            self.rows = block.rows_at(self.key);
            let row = block.first_row_from(self.rows.start, &self.rows, below);
            self.row = (row > self.rows.start).then(|| row - 1);
        }
        Ok(())
    }

    /// The block that may have it: mostly the next one or a near one.
    fn next_block(
        &mut self,
        key: &[u8],
        below: (EventTime, Sequence),
    ) -> Result<Option<Arc<Rows>>, ReadError> {
        let near = |(fences, at): &(Arc<Fences>, usize)| fences.before_from(*at, key, below);
        match (self.fence.as_ref().and_then(near), &mut self.fence) {
            (Some(near), Some((_, at))) => *at = near,
            _ => self.fence = fence_of(&mut self.shelf, self.section, key, below)?,
        }
        let Some((fences, at)) = &self.fence else { return Ok(None) };
        self.shelf.rows(fences, *at).map(Some)
    }

    /// The same where the block it looked into last can tell; else false.
    fn seek_in_block(&mut self, key: &[u8], below: (EventTime, Sequence), same: bool) -> bool {
        let Some(block) = &self.block else { return false };
        let keys = block.keys();
        if !same {
            let follows = self.key < keys && block.key(self.key) <= key;
            self.key = block.first_key_from(if follows { self.key } else { 0 }, key);
            self.row = None;
            self.rows = 0..0;
            if self.key == keys {
                return false;
            }
            if block.key(self.key) != key {
                // Between two keys of one block there is no other.
                return self.key > 0;
            }
            self.rows = block.rows_at(self.key);
        }
        if self.rows.is_empty() {
            // Not in this block. Between two keys of one block there is no other.
            return self.key > 0 && self.key < keys && block.key(self.key) > key;
        }
        let from = match self.row {
            Some(row) if block.order(row) < below => row + 1,
            _ => self.rows.start,
        };
        let row = block.first_row_from(from, &self.rows, below);
        self.row = (row > self.rows.start).then(|| row - 1);
        // Its rows may begin in an earlier block, or go on in a later one.
        let begins_before = row == self.rows.start && self.key == 0;
        let goes_on = row == self.rows.end && self.key + 1 == keys;
        !begins_before && !goes_on
    }

    /// What its row is sorted by; none if it stands on none.
    pub fn order(&self) -> Option<(EventTime, Sequence)> {
        self.at().map(|(block, row)| block.order(row))
    }

    /// When its row arrived, and its archived features.
    pub fn current(&self) -> Option<(ArrivalTime, &[u8])> {
        self.at().map(|(block, row)| (block.arrival(row), block.archive(row)))
    }

    fn at(&self) -> Option<(&Rows, usize)> {
        Some((self.block.as_deref()?, self.row?))
    }

    /// Begins to walk back from its row, if it stands on one; it stays there.
    pub fn walk(&self) -> Option<Walk> {
        let (block, rows) = (self.block.clone()?, self.rows.clone());
        Some(Walk(Standing { section: self.section, block, rows, row: self.row? }))
    }

    /// Moves a walk of this lane on, as [`super::Cursor::back`] does.
    ///
    /// # Errors
    /// As [`Self::seek`].
    pub fn back(
        &mut self,
        walk: &mut Walk,
        key: &[u8],
        missing: Option<&[Slot]>,
    ) -> Result<bool, ReadError> {
        walk.0.back(&mut self.shelf, key, missing)
    }
}

impl Walk {
    /// What its row is sorted by.
    pub fn order(&self) -> (EventTime, Sequence) {
        self.0.order()
    }

    /// When its row arrived, and its archived features.
    pub fn current(&self) -> (ArrivalTime, &[u8]) {
        (self.0.arrival(), self.0.archive())
    }
}

/// The last few blocks that were read.
struct OwnShelf {
    file: Arc<SealedFile>,
    fences: Option<(u64, Arc<Fences>)>,
    /// By offset, the last one first.
    kept: [Option<(u64, Arc<Rows>)>; KEPT],
    ahead: Ahead,
}

/// What was read of the file at once. Where most blocks are asked for, one read for many of them
/// costs a fraction of as many reads; where few are, only these are read.
#[derive(Default)]
struct Ahead {
    offset: u64,
    bytes: Bytes,
}

/// Bytes that are read at once at most.
const AHEAD_BYTES: usize = 64 << 10;
/// Bytes between two blocks over which it pays to read on.
const GAP_BYTES: u64 = 8 << 10;

impl Ahead {
    /// The bytes of a block.
    fn block(&mut self, file: &SealedFile, place: Place) -> Result<Bytes, ReadError> {
        let Place { offset, length } = place;
        let end = self.offset + self.bytes.len() as u64;
        if offset < self.offset || offset.saturating_add(length as u64) > end {
            let follows = (self.offset..=end.saturating_add(GAP_BYTES)).contains(&offset);
            let most = if follows { AHEAD_BYTES.min(2 * self.bytes.len()) } else { 0 };
            let left = file.entry().bytes.saturating_sub(offset);
            let most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.bytes = file.read(Place { offset, length: length.max(most) })?;
            self.offset = offset;
        }
        let from = (offset - self.offset) as usize;
        let to = self.bytes.len().min(from + length);
        Ok(self.bytes.slice(from..to))
    }
}

impl Shelf for OwnShelf {
    fn file(&self) -> &SealedFile {
        &self.file
    }

    fn rows(&mut self, fences: &Fences, index: usize) -> Result<Arc<Rows>, ReadError> {
        let place = fences.place(index);
        let found = self.kept.iter().flatten().find(|(offset, _)| *offset == place.offset);
        if let Some((_, rows)) = found {
            return Ok(rows.clone());
        }
        let block = self.ahead.block(&self.file, place)?;
        let rows = Arc::new(self.file.rows_in(fences, index, block)?);
        self.kept.rotate_right(1);
        self.kept[0] = Some((place.offset, rows.clone()));
        Ok(rows)
    }

    fn fences(&mut self, section: usize, index: usize) -> Result<Arc<Fences>, ReadError> {
        let section = self.file.section(section);
        let place = section.root.place(index);
        match &self.fences {
            Some((offset, fences)) if *offset == place.offset => Ok(fences.clone()),
            _ => {
                let fences = Arc::new(self.file.read_fences(section, index)?);
                self.fences = Some((place.offset, fences.clone()));
                Ok(fences)
            }
        }
    }
}
