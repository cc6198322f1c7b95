//! Reads a section of a sealed file from front to back, past the cache.
//!
//! It does not know what the rows are read for.

use std::sync::Arc;

use super::entry::RowIn;
use super::fences::Fences;
use super::file::SealedFile;
use super::rows::Rows;
use crate::history::ReadError;
use crate::ids::ViewId;

/// Stands on a row of a view, or behind the last.
pub struct Scan {
    file: Arc<SealedFile>,
    section: usize,
    /// The next blocks to be read.
    next_fences: usize,
    next_rows: usize,
    fences: Option<Fences>,
    rows: Option<Rows>,
    /// The row it stands on, and which key of the block that has.
    row: usize,
    key: usize,
    bytes: u64,
}

impl Scan {
    /// Begins with the first row of `view`; none if the file has no row of it.
    ///
    /// # Errors
    /// The disk failed, or a block is not what was written.
    pub fn start(file: &Arc<SealedFile>, view: ViewId) -> Result<Option<Self>, ReadError> {
        let Some(section) = file.section_of(view) else { return Ok(None) };
        let mut scan = Self {
            file: file.clone(),
            section,
            next_fences: 0,
            next_rows: 0,
            fences: None,
            rows: None,
            row: 0,
            key: 0,
            bytes: 0,
        };
        scan.next_block()?;
        Ok(Some(scan))
    }

    /// The row it stands on; none behind the last.
    pub fn current(&self) -> Option<RowIn<'_>> {
        let rows = self.rows.as_ref()?;
        let (event_time, sequence) = rows.order(self.row);
        let (arrival, archive) = (rows.arrival(self.row), rows.archive(self.row));
        Some(RowIn { key: rows.key(self.key), event_time, sequence, arrival, archive })
    }

    /// Moves to the next row.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn advance(&mut self) -> Result<(), ReadError> {
        let Some(rows) = &self.rows else { return Ok(()) };
        self.row += 1;
        if self.row < rows.rows_at(self.key).end {
            return Ok(());
        }
        self.key += 1;
        if self.row < rows.len() { Ok(()) } else { self.next_block() }
    }

    /// Moves to the newest row of the key it stands on, as far as that is in the same block.
    pub fn last_of_key(&mut self) {
        if let Some(rows) = &self.rows {
            self.row = rows.rows_at(self.key).end - 1;
        }
    }

    /// Moves to the first row in a block of the next key; a key that goes on in another block comes
    /// again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn next_key(&mut self) -> Result<(), ReadError> {
        self.last_of_key();
        self.advance()
    }

    /// Bytes read since this was last asked.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    fn next_block(&mut self) -> Result<(), ReadError> {
        self.rows = None;
        (self.row, self.key) = (0, 0);
        let section = self.file.section(self.section);
        loop {
            if let Some(fences) = self.fences.as_ref().filter(|f| self.next_rows < f.len()) {
                self.rows = Some(self.file.read_rows(fences, self.next_rows)?);
                self.bytes += fences.place(self.next_rows).length as u64;
                self.next_rows += 1;
                return Ok(());
            } else if self.next_fences < section.root.len() {
                self.fences = Some(self.file.read_fences(section, self.next_fences)?);
                self.bytes += section.root.place(self.next_fences).length as u64;
                self.next_fences += 1;
                self.next_rows = 0;
            } else {
                return Ok(());
            }
        }
    }
}
