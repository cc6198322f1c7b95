//! Writes a sealed file from rows that come in order, a slice at a time.
//!
//! It does not know where the rows come from, nor when the file counts: the manifest says that.

use std::sync::Arc;

use super::BLOCK_BYTES;
use super::entry::RowIn;
use super::fences::{Fence, FencesBuilder, Place};
use super::footer::{self, HEAD_BYTES, Head, SectionFacts};
use super::rows::RowsBuilder;
use crate::archive::{ArchiveError, RowRef};
use crate::disk::{DiskError, DiskFile};
use crate::history::ReadError;
use crate::history::pace::Pace;
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Bytes written at once.
const SLICE_BYTES: usize = 256 << 10;
/// Bytes after which what was written is made durable, so that no sync is long: one of the writer
/// of the log may have to wait for it.
const SYNC_BYTES: u64 = 4 << 20;

/// Why a sealed file was not completed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The rows cannot be read where they are.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A row is no row.
    #[error("row {sequence}: {source}")]
    Row {
        /// Its place in history.
        sequence: Sequence,
        /// What is wrong.
        source: ArchiveError,
    },
    /// The file that was just written cannot be read back.
    #[error("sealed file cannot be read back: {0}")]
    ReadBack(String),
    /// The file would leave the log too little room on the disk.
    #[error("{needed} bytes of disk are needed; {free} are free, {kept} of them for the log")]
    NoRoom {
        /// About its length.
        needed: u64,
        /// What is free.
        free: u64,
        /// What must stay free.
        kept: u64,
    },
    /// The work was to be given up.
    #[error("interrupted")]
    Interrupted,
}

/// A sealed file on its way.
pub struct Builder<'p> {
    file: Arc<dyn DiskFile>,
    head: Head,
    pace: &'p mut dyn Pace,
    /// What is not written yet, and where it goes.
    buffer: Vec<u8>,
    buffer_at: u64,
    unsynced: u64,
    rows: RowsBuilder,
    /// The first row of the block being filled.
    first_key: Vec<u8>,
    first_order: (EventTime, Sequence),
    fences: FencesBuilder,
    root: FencesBuilder,
    facts: Option<SectionFacts>,
    sections: usize,
    footer: Vec<u8>,
}

impl<'p> Builder<'p> {
    /// Begins in an empty file.
    pub fn new(file: Arc<dyn DiskFile>, head: Head, pace: &'p mut dyn Pace) -> Self {
        Self {
            file,
            head,
            pace,
            buffer: head.encode().to_vec(),
            buffer_at: 0,
            unsynced: 0,
            rows: RowsBuilder::new(0),
            first_key: Vec::new(),
            first_order: (EventTime::MIN, Sequence::ZERO),
            fences: FencesBuilder::default(),
            root: FencesBuilder::default(),
            facts: None,
            sections: 0,
            footer: Vec::new(),
        }
    }

    /// Begins the rows of `view`, which have at most `slots` features. Views come in order. With
    /// `floor`, those below it are only the base.
    ///
    /// # Errors
    /// The disk failed, or the work was to be given up.
    pub fn start(
        &mut self,
        view: ViewId,
        slots: usize,
        floor: Option<EventTime>,
    ) -> Result<(), BuildError> {
        self.end_section()?;
        self.rows = RowsBuilder::new(slots);
        self.facts = Some(SectionFacts {
            view,
            slots,
            rows: 0,
            keys: 0,
            oldest: EventTime::MAX,
            newest: EventTime::MIN,
            first: Sequence::MAX,
            last: Sequence::ZERO,
            first_arrival: ArrivalTime::MAX,
            last_arrival: ArrivalTime::MIN,
            floor,
            settled: 0,
        });
        Ok(())
    }

    /// Adds a row of the view that was started. They come by key, event time and sequence.
    ///
    /// # Errors
    /// The archive is none, the disk failed, or the work was to be given up.
    pub fn row(&mut self, row: &RowIn<'_>) -> Result<(), BuildError> {
        let cells = RowRef::access(row.archive)
            .map_err(|source| BuildError::Row { sequence: row.sequence, source })?;
        if self.rows.rows() > 0 && self.rows.length() + row.archive.len() > BLOCK_BYTES {
            self.end_block()?;
        }
        if self.rows.rows() == 0 {
            self.first_key.clear();
            self.first_key.extend_from_slice(row.key);
            self.first_order = (row.event_time, row.sequence);
        }
        let is_new = self.rows.push(row, cells);
        if let Some(facts) = &mut self.facts {
            facts.rows += 1;
            facts.keys += u64::from(is_new);
            facts.oldest = facts.oldest.min(row.event_time);
            facts.newest = facts.newest.max(row.event_time);
            facts.first = facts.first.min(row.sequence);
            facts.last = facts.last.max(row.sequence);
            facts.first_arrival = facts.first_arrival.min(row.arrival);
            facts.last_arrival = facts.last_arrival.max(row.arrival);
            let settles = row.event_time.max(row.arrival.as_event_time());
            facts.settled += u64::from(facts.floor.is_some_and(|floor| settles < floor));
        }
        Ok(())
    }

    /// Says that `bytes` were read for the rows that were added.
    ///
    /// # Errors
    /// The work was to be given up.
    pub fn read(&mut self, bytes: u64) -> Result<(), BuildError> {
        match bytes == 0 || self.pace.worked(bytes) {
            true => Ok(()),
            false => Err(BuildError::Interrupted),
        }
    }

    /// Completes the file and makes its bytes durable. Returns its length.
    ///
    /// # Errors
    /// The disk failed, or the work was to be given up.
    pub fn finish(mut self) -> Result<u64, BuildError> {
        self.end_section()?;
        let sections = std::mem::take(&mut self.footer);
        let mut footer = Vec::with_capacity(sections.len() + 16);
        footer::encode_footer_head(self.sections, &mut footer);
        footer.extend_from_slice(&sections);
        let place = self.append_block(footer)?;
        let at = self.at();
        self.buffer.extend_from_slice(&footer::encode_tail(&self.head, at, place.offset));
        self.write()?;
        self.file.sync_data()?;
        Ok(self.at())
    }

    /// Where the next byte goes.
    fn at(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    fn end_block(&mut self) -> Result<(), BuildError> {
        if self.rows.rows() == 0 {
            return Ok(());
        }
        let row = self.rows.first_row();
        let mut block = Vec::with_capacity(2 * BLOCK_BYTES);
        self.rows.finish(&mut block);
        let place = self.append_block(block)?;
        let key = std::mem::take(&mut self.first_key);
        self.fences.push(Fence { key, order: self.first_order, row, place });
        if self.fences.is_full() { self.end_fences() } else { Ok(()) }
    }

    fn end_fences(&mut self) -> Result<(), BuildError> {
        let Some(first) = self.fences.first().cloned() else { return Ok(()) };
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        self.fences.finish(&mut block);
        let place = self.append_block(block)?;
        self.root.push(Fence { place, ..first });
        Ok(())
    }

    fn end_section(&mut self) -> Result<(), BuildError> {
        self.end_block()?;
        self.end_fences()?;
        let Some(facts) = self.facts.take().filter(|facts| facts.rows > 0) else { return Ok(()) };
        let mut root = Vec::new();
        self.root.finish(&mut root);
        footer::encode_section(&facts, &root, &mut self.footer);
        self.sections += 1;
        Ok(())
    }

    fn append_block(&mut self, mut block: Vec<u8>) -> Result<Place, BuildError> {
        let place = Place { offset: self.at(), length: block.len() };
        let Head { store, number, .. } = self.head;
        let crc = footer::checksum(store, number, place.offset, &block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        self.buffer.append(&mut block);
        if self.buffer.len() >= SLICE_BYTES {
            self.write()?;
        }
        Ok(place)
    }

    fn write(&mut self) -> Result<(), BuildError> {
        let bytes = self.buffer.len() as u64;
        self.file.write_at(&self.buffer, self.buffer_at)?;
        self.buffer_at += bytes;
        self.buffer.clear();
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        if self.pace.worked(bytes) { Ok(()) } else { Err(BuildError::Interrupted) }
    }
}

const _: () = assert!(HEAD_BYTES < SLICE_BYTES);
