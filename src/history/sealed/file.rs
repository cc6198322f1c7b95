//! An open sealed file: its head and footer are in memory, its blocks are read when needed and
//! checked before they are used.
//!
//! It does not know which files belong together; that is the manifest's to say.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::cache::{Block, Blocks};
use super::entry::{Lift, SealedEntry};
use super::fences::{self, Fences, Place};
use super::footer::{self, HEAD_BYTES, Head, HeadError, Section, SectionFacts, TAIL_BYTES};
use super::rows::{self, Rows};
use crate::disk::{DiskError, DiskFile};
use crate::history::{Damage, ReadError};
use crate::ids::{StoreId, ViewId};

/// A sealed file, shared by all who read it; never changed.
pub struct SealedFile {
    entry: SealedEntry,
    store: StoreId,
    file: Arc<dyn DiskFile>,
    blocks: Arc<Blocks>,
    /// What the cache calls it.
    cached_as: u64,
    sections: Vec<Section>,
}

/// Why a sealed file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSealedError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Written by a later release.
    #[error("{0}")]
    Newer(String),
}

impl SealedFile {
    /// Opens the file that the manifest describes by `entry`. Reads its head and footer only.
    ///
    /// # Errors
    /// The disk failed, or what was read is not what was written.
    pub fn open(
        file: Arc<dyn DiskFile>,
        store: StoreId,
        entry: SealedEntry,
        blocks: Arc<Blocks>,
    ) -> Result<Self, OpenSealedError> {
        let cached_as = blocks.number_file();
        let mut this = Self { entry, store, file, blocks, cached_as, sections: Vec::new() };
        (this.sections, _) = this.read_footer()?;
        Ok(this)
    }

    /// The same file with a place in history; what stands in it had none.
    pub fn lifted(&self, lift: Lift) -> Self {
        let SealedEntry { first, last, .. } = self.entry;
        let (first, last) = (lift.of(first), lift.of(last));
        Self {
            entry: SealedEntry { first, last, lift, ..self.entry },
            store: self.store,
            file: self.file.clone(),
            // What is in the cache is not lifted.
            cached_as: self.blocks.number_file(),
            blocks: self.blocks.clone(),
            sections: self.sections.iter().map(|section| section.lifted(lift)).collect(),
        }
    }

    /// Reads head, tail and footer from the disk: the sections, and where the footer is.
    pub(super) fn read_footer(&self) -> Result<(Vec<Section>, Place), OpenSealedError> {
        let head = self.check_head()?;
        let length = self.file.length()?;
        if length != self.entry.bytes {
            let reason = format!("is {length} bytes, the manifest says {}", self.entry.bytes);
            return Err(self.damage(length.min(self.entry.bytes), reason).into());
        }
        let at = length.saturating_sub(TAIL_BYTES as u64);
        let mut tail = [0; TAIL_BYTES];
        let read = self.file.read_at(&mut tail, at)?;
        let (offset, length) = footer::decode_tail(&head, at, &tail[..read])
            .ok_or_else(|| self.damage(at, "the tail is not what was written"))?;
        let place = Place { offset, length };
        let bytes = self.read_checked(place).map_err(|error| match error {
            ReadError::Disk(error) => OpenSealedError::Disk(error),
            ReadError::Damaged(damage) => OpenSealedError::Damaged(damage),
        })?;
        let sections = footer::decode_footer(&bytes, offset, self.entry.lift)
            .ok_or_else(|| self.damage(offset, "the footer contradicts itself"))?;
        Ok((sections, place))
    }

    /// Its bytes, for whoever copies it.
    pub(in crate::history) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    fn check_head(&self) -> Result<Head, OpenSealedError> {
        let mut bytes = [0; HEAD_BYTES];
        let read = self.file.read_at(&mut bytes, 0)?;
        let head = match Head::decode(&bytes[..read]) {
            Ok(head) => head,
            Err(error @ HeadError::Newer { .. }) => {
                return Err(OpenSealedError::Newer(error.to_string()));
            }
            Err(error) => return Err(self.damage(0, error.to_string()).into()),
        };
        let SealedEntry { number, first, last, lift, .. } = self.entry;
        let (first, last) = (lift.without(first), lift.without(last));
        if head != (Head { store: self.store, number, first, last }) {
            let reason = format!(
                "is file {} of store {} with sequences {} to {}, the manifest says file {number} \
                 of store {} with {first} to {last}",
                head.number, head.store, head.first, head.last, self.store
            );
            return Err(self.damage(0, reason).into());
        }
        Ok(head)
    }

    /// What the manifest says of it.
    pub fn entry(&self) -> SealedEntry {
        self.entry
    }

    /// What is in it, view by view.
    pub fn sections(&self) -> impl Iterator<Item = SectionFacts> {
        self.sections.iter().map(|section| section.facts)
    }

    /// What is in it, view by view, and the bytes that each takes.
    pub fn sizes(&self) -> impl Iterator<Item = (SectionFacts, u64)> {
        self.sections.iter().map(|section| (section.facts, section.bytes()))
    }

    /// What is known of the rows of a view; none if there are none.
    pub fn facts(&self, view: ViewId) -> Option<SectionFacts> {
        self.section_of(view).map(|section| self.sections[section].facts)
    }

    /// Where the rows of a view are among the sections.
    pub(super) fn section_of(&self, view: ViewId) -> Option<usize> {
        self.sections.binary_search_by_key(&view, |section| section.facts.view).ok()
    }

    pub(super) fn section(&self, index: usize) -> &Section {
        &self.sections[index]
    }

    pub(super) fn damage(&self, offset: u64, reason: impl Into<String>) -> Damage {
        Damage { path: self.file.path().to_owned(), offset, reason: reason.into() }
    }

    /// The block of rows that entry `index` of `fences` leads to, from memory if it is there.
    pub(super) fn rows(&self, fences: &Fences, index: usize) -> Result<Arc<Rows>, ReadError> {
        let place = fences.place(index);
        if let Some(Block::Rows(rows)) = self.blocks.get(self.cached_as, place.offset) {
            return Ok(rows);
        }
        let rows = Arc::new(self.read_rows(fences, index)?);
        self.blocks.put(self.cached_as, place.offset, Block::Rows(rows.clone()));
        Ok(rows)
    }

    /// The block of fences that entry `index` of a section's root leads to, from memory if it is
    /// there.
    pub(super) fn fences(&self, section: usize, index: usize) -> Result<Arc<Fences>, ReadError> {
        let section = self.section(section);
        let place = section.root.place(index);
        if let Some(Block::Fences(fences)) = self.blocks.get(self.cached_as, place.offset) {
            return Ok(fences);
        }
        let fences = Arc::new(self.read_fences(section, index)?);
        self.blocks.put(self.cached_as, place.offset, Block::Fences(fences.clone()));
        Ok(fences)
    }

    /// The same from the disk.
    pub(super) fn read_rows(&self, fences: &Fences, index: usize) -> Result<Rows, ReadError> {
        self.rows_in(fences, index, self.read(fences.place(index))?)
    }

    /// The rows of a block that was read.
    pub(super) fn rows_in(
        &self,
        fences: &Fences,
        index: usize,
        block: Bytes,
    ) -> Result<Rows, ReadError> {
        let place = fences.place(index);
        self.check(place, &block)?;
        let right = block.get(4) == Some(&rows::KIND);
        let rows = right.then(|| Rows::read(block, self.entry.lift)).flatten();
        let rows = rows.ok_or_else(|| self.damage(place.offset, "the block contradicts itself"))?;
        if rows.first_row() != fences.row(index) {
            let (says, found) = (fences.row(index), rows.first_row());
            let reason = format!("the block begins with row {found}, its fence says {says}");
            return Err(self.damage(place.offset, reason).into());
        }
        Ok(rows)
    }

    /// The same from the disk.
    pub(super) fn read_fences(&self, section: &Section, index: usize) -> Result<Fences, ReadError> {
        let place = section.root.place(index);
        let block = self.read_checked(place)?;
        let right = block.get(4) == Some(&fences::KIND);
        let fences = right.then(|| Fences::read(block, self.entry.lift)).flatten();
        let fences =
            fences.ok_or_else(|| self.damage(place.offset, "the block contradicts itself"))?;
        let Range { start, end } = section.range(index);
        if !fences.lie_within(start, end) {
            let reason = format!("the fences lead to blocks not between bytes {start} and {end}");
            return Err(self.damage(place.offset, reason).into());
        }
        Ok(fences)
    }

    fn read_checked(&self, place: Place) -> Result<Bytes, ReadError> {
        let block = self.read(place)?;
        self.check(place, &block)?;
        Ok(block)
    }

    /// Reads what stands there as it is, or less where the file ends before that.
    pub(super) fn read(&self, place: Place) -> Result<Bytes, ReadError> {
        let Place { offset, length } = place;
        if length < 5 || place.end().is_none_or(|end| end > self.entry.bytes) {
            return Err(self.damage(offset, "a block reaches past the end of the file").into());
        }
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }

    fn check(&self, place: Place, block: &[u8]) -> Result<(), ReadError> {
        let Place { offset, length } = place;
        let is_right = |(crc, rest): (&[u8; 4], &[u8])| {
            let right = footer::checksum(self.store, self.entry.number, offset, rest);
            *crc == right.to_le_bytes()
        };
        if block.len() < length || !block.split_first_chunk().is_some_and(is_right) {
            return Err(self.damage(offset, "the block is not what was written").into());
        }
        Ok(())
    }
}
