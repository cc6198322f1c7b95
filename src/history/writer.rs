//! The one place that appends to the log: frames, syncs, marks and new segments.
//!
//! It does not know when to sync or how to group requests; that is the engine's decision.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::History;
use super::chain;
use super::manifest::{ControlSnapshot, Manifest, RetentionFloor, SegmentEntry};
use super::record::{self, EncodedRequest};
use super::seal::Sealer;
use super::sealed::{BuildError, SealedEntry};
use super::segment::{self, Segment, SegmentHeader};
use crate::disk::{self, Disk, DiskError, DiskErrorKind, DiskLock, Operation};
use crate::frame::{self, FrameHeader, FrameKind};
use crate::ids::{Epoch, Sequence};
use crate::time::ArrivalTime;

/// A frame buffer larger than this is given back after its frame.
const BUFFER_BYTES_KEPT: usize = 16 << 20;

/// Longest segment that may be asked for, in bytes; offsets in it stay within 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Sizes, so that tests can reach every border.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of a segment in bytes, set aside at once; at most [`SEGMENT_BYTES_MAX`]. A frame
    /// that is longer gets a segment of its own length.
    pub segment_bytes: u64,
    /// Memory for blocks of sealed files, in bytes.
    pub block_cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, block_cache_bytes: 64 << 20 }
    }
}

/// Where one group of requests was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The sequence of the first record of the first request.
    pub first: Sequence,
    /// The sequence of the last record of the last request.
    pub last: Sequence,
    /// The arrival time of all of them.
    pub arrival: ArrivalTime,
    /// Bytes written.
    pub bytes: usize,
}

/// The writing side of history; there is one per data directory, which it keeps locked.
pub struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) root: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) options: Options,
    pub(super) history: Arc<History>,
    pub(super) manifest: Manifest,
    pub(super) segment: Arc<Segment>,
    /// The length set aside for the segment.
    pub(super) capacity: u64,
    pub(super) last_arrival: ArrivalTime,
    /// The highest sequence that a frame on disk says is durable.
    pub(super) marked: Sequence,
    /// Frames were written since the last sync.
    pub(super) unsynced: bool,
    pub(super) poisoned: Option<String>,
    pub(super) buffer: Vec<u8>,
    pub(super) _lock: DiskLock,
}

impl Writer {
    /// The epoch all its frames carry.
    pub fn epoch(&self) -> Epoch {
        self.manifest.epoch
    }

    /// The last sequence written.
    pub fn last(&self) -> Sequence {
        self.history.written()
    }

    /// Whether writes have ended until the next start.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    /// Whether [`Self::roll`] must come before requests of `bytes` in all can be appended.
    pub fn needs_roll(&self, bytes: usize) -> bool {
        self.segment.end() + room_for(bytes) > self.capacity
    }

    /// Writes one frame that holds `requests`, at least one, without making it durable.
    ///
    /// `arrival` is that of all of them; if it lies before that of the frame before, that one
    /// counts. No event time may lie after it: see [`EncodedRequest::cap_event_times`].
    ///
    /// # Errors
    /// * [`WriteError::NeedsRoll`]: call [`Self::roll`] first.
    /// * [`WriteError::Full`]: undone; may be tried again.
    /// * [`WriteError::TooLarge`]: put them in several frames.
    /// * [`WriteError::Failed`], [`WriteError::Poisoned`]: writes have ended.
    ///
    /// # Panics
    /// `requests` is empty.
    pub fn append(
        &mut self,
        requests: &[&EncodedRequest],
        arrival: ArrivalTime,
    ) -> Result<Appended, WriteError> {
        assert!(!requests.is_empty(), "a frame of writes holds at least one request");
        self.refuse_if_poisoned()?;
        let bytes: usize = requests.iter().map(|request| request.length()).sum();
        let count: u64 = requests.iter().map(|request| u64::from(request.count())).sum();
        let payload = record::payload_length(bytes);
        let count = match u32::try_from(count) {
            Ok(count) if payload <= frame::PAYLOAD_BYTES_MAX => count,
            _ => return Err(WriteError::TooLarge { bytes: payload }),
        };
        if self.needs_roll(bytes) {
            return Err(WriteError::NeedsRoll);
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.buffer.clear();
        self.buffer.resize(frame::HEADER_BYTES, 0);
        record::encode_payload(requests, &mut self.buffer);
        let first = self.last().next();
        self.write_frame(FrameKind::Writes, count)?;
        let last = Sequence(first.0 + u64::from(count) - 1);
        self.history.written.store(last.0, Ordering::Release);
        let bytes = self.buffer.len();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(Appended { first, last, arrival: self.last_arrival, bytes })
    }

    /// Makes all frames written so far durable.
    ///
    /// # Errors
    /// The disk failed: writes have ended, since nobody can know what it kept.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        self.refuse_if_poisoned()?;
        if self.unsynced {
            if let Err(error) = self.segment.file().sync_data() {
                return Err(self.poison(error));
            }
            self.unsynced = false;
            self.history.durable.store(self.last().0, Ordering::Release);
        }
        Ok(())
    }

    /// Writes and syncs a frame that says everything before it is durable, unless one says so
    /// already. Called when no write came for up to a second, so that damage to the last frame can
    /// be told from a torn write later on. Says whether it wrote one.
    ///
    /// # Errors
    /// As [`Self::append`] and [`Self::sync`].
    pub fn mark(&mut self) -> Result<bool, WriteError> {
        self.sync()?;
        if self.marked >= self.last() {
            return Ok(false);
        }
        self.buffer.clear();
        self.buffer.resize(frame::HEADER_BYTES, 0);
        self.write_frame(FrameKind::Mark, 0)?;
        self.sync()?;
        Ok(true)
    }

    /// Closes the segment and begins one that has room for requests of `bytes` in all. With
    /// `control`, the manifest takes it on in the same step.
    ///
    /// # Errors
    /// * [`WriteError::Full`]: undone; may be tried again.
    /// * [`WriteError::Failed`], [`WriteError::Poisoned`]: writes have ended.
    pub fn roll(
        &mut self,
        control: Option<ControlSnapshot>,
        bytes: usize,
    ) -> Result<(), WriteError> {
        self.sync()?;
        let last = self.last();
        if last < self.segment.first() {
            return self.grow(bytes);
        }
        let needed = segment::HEADER_BYTES as u64 + room_for(bytes);
        let capacity = self.options.segment_bytes.max(needed);
        let header =
            SegmentHeader { store: self.history.store(), epoch: self.epoch(), first: last.next() };
        let path = segment::path(&self.directory, header.first);
        let next = match create(self.disk.as_ref(), &path, (&header, last), capacity) {
            Ok(next) => next,
            Err(error) => return Err(self.undo_roll(&path, error)),
        };
        let mut manifest = self.manifest.clone();
        if let Some(open) = manifest.segments.last_mut() {
            open.last = Some(last);
        }
        manifest.segments.push(SegmentEntry { first: header.first, last: None });
        if let Err(error) = self.save(manifest, control) {
            return Err(self.undo_roll(&path, error));
        }
        self.segment.close(last);
        self.segment = Arc::new(next);
        self.history.push_segment(self.segment.clone());
        self.capacity = capacity;
        // The manifest says now what a mark would say.
        self.marked = last;
        Ok(())
    }

    /// Replaces the control snapshot in the manifest.
    ///
    /// # Errors
    /// * [`WriteError::Full`]: undone; may be tried again.
    /// * [`WriteError::Failed`], [`WriteError::Poisoned`]: writes have ended.
    pub fn save_control(&mut self, control: ControlSnapshot) -> Result<(), WriteError> {
        self.sync()?;
        self.replace_manifest(self.manifest.clone(), Some(control))
    }

    fn replace_manifest(
        &mut self,
        manifest: Manifest,
        control: Option<ControlSnapshot>,
    ) -> Result<(), WriteError> {
        self.refuse_if_poisoned()?;
        match self.save(manifest, control) {
            Ok(()) => Ok(()),
            Err(error) if passes(&error) => Err(WriteError::Full(error)),
            Err(error) => Err(self.poison(error)),
        }
    }

    /// Names a sealed file in the manifest, in the place of `removed` ones or behind all. What the
    /// file goes by, such as an erasure, is made durable first.
    ///
    /// # Errors
    /// * [`WriteError::Full`]: undone; may be tried again.
    /// * [`WriteError::Failed`], [`WriteError::Poisoned`]: writes have ended, and nobody can know
    ///   whether the file is named: neither it nor those it replaces may be removed.
    pub fn name_sealed(&mut self, added: SealedEntry, removed: &[u64]) -> Result<(), WriteError> {
        self.sync()?;
        let mut manifest = self.manifest.clone();
        manifest.sealed.retain(|entry| !removed.contains(&entry.number));
        let at = manifest.sealed.partition_point(|entry| entry.first < added.first);
        manifest.sealed.insert(at, added);
        self.replace_manifest(manifest, None)
    }

    /// Replaces the retention floors. Only then may a file be rewritten by them. The definitions
    /// they follow from are made durable first.
    ///
    /// # Errors
    /// As [`Self::name_sealed`].
    pub fn set_floors(&mut self, floors: Vec<RetentionFloor>) -> Result<(), WriteError> {
        self.sync()?;
        self.replace_manifest(Manifest { floors, ..self.manifest.clone() }, None)
    }

    /// Strikes the segments from the manifest that are sealed, whose control records are in the
    /// control snapshot, and that end at or before `upto`. Returns the first sequence of each that
    /// is not named and that readers still have, also where an earlier time came to nothing before
    /// they were told; the files may be removed now.
    ///
    /// # Errors
    /// As [`Self::name_sealed`].
    pub fn strike_segments(&mut self, upto: Sequence) -> Result<Vec<Sequence>, WriteError> {
        let sealed = chain::sealed_upto(&self.manifest.sealed);
        let snapshot = self.manifest.control.as_ref();
        let controlled = snapshot.map_or(Sequence::ZERO, |control| control.covers);
        let upto = upto.min(sealed).min(controlled);
        let goes = |entry: &SegmentEntry| entry.last.is_some_and(|last| last <= upto);
        let mut manifest = self.manifest.clone();
        manifest.segments.retain(|entry| !goes(entry));
        if manifest.segments.len() < self.manifest.segments.len() {
            self.replace_manifest(manifest, None)?;
        }
        let named = &self.manifest.segments;
        let is_named = |first: &Sequence| named.iter().any(|entry| entry.first == *first);
        let known = self.history.segments();
        Ok(known.iter().map(|segment| segment.first()).filter(|first| !is_named(first)).collect())
    }

    /// Has readers know the sealed files that the manifest names and no others, where whoever had
    /// one named came to nothing before they were told.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn settle(&self, sealer: &Sealer) -> Result<(), BuildError> {
        let (named, known) = (&self.manifest.sealed, self.history.sealed());
        let is_named = |number: &u64| named.iter().any(|entry| entry.number == *number);
        let numbers = known.iter().map(|file| file.entry().number);
        let gone: Vec<u64> = numbers.filter(|number| !is_named(number)).collect();
        for entry in named {
            if known.iter().all(|file| file.entry().number != entry.number) {
                self.history.publish(sealer.open(*entry)?, &gone);
            }
        }
        Ok(())
    }

    pub(super) fn save(
        &mut self,
        mut manifest: Manifest,
        control: Option<ControlSnapshot>,
    ) -> Result<(), DiskError> {
        manifest.last_arrival = self.last_arrival;
        manifest.control = control.or(manifest.control);
        manifest.save(self.disk.as_ref(), &self.root)?;
        self.manifest = manifest;
        Ok(())
    }

    /// A segment without a record cannot be followed by another, which would have the same name.
    fn grow(&mut self, bytes: usize) -> Result<(), WriteError> {
        let needed = self.segment.end() + room_for(bytes);
        match self.segment.file().preallocate(needed) {
            Ok(()) => {}
            Err(error) if passes(&error) => return Err(WriteError::Full(error)),
            Err(error) => return Err(self.poison(error)),
        }
        if let Err(error) = self.segment.file().sync_data() {
            return Err(self.poison(error));
        }
        self.capacity = self.capacity.max(needed);
        Ok(())
    }

    fn write_frame(&mut self, kind: FrameKind, count: u32) -> Result<(), WriteError> {
        let header = FrameHeader {
            kind,
            store: self.history.store(),
            epoch: self.epoch(),
            first: self.last().next(),
            count,
            arrival: self.last_arrival,
            durable: self.history.durable(),
        };
        frame::seal(&header, &mut self.buffer);
        let offset = self.segment.end();
        if let Err(error) = self.segment.file().write_at(&self.buffer, offset) {
            return Err(self.undo_write(offset, error));
        }
        self.segment.set_end(offset + self.buffer.len() as u64);
        self.marked = self.marked.max(header.durable);
        self.unsynced = true;
        Ok(())
    }

    /// Takes back a frame of which any part may have been written.
    fn undo_write(&mut self, offset: u64, error: DiskError) -> WriteError {
        if !passes(&error) {
            return self.poison(error);
        }
        let file = self.segment.file();
        match file.truncate(offset).and_then(|()| file.truncate(self.capacity)) {
            Ok(()) => WriteError::Full(error),
            Err(undoing) => self.poison(undoing),
        }
    }

    pub(super) fn undo_roll(&mut self, path: &std::path::Path, error: DiskError) -> WriteError {
        if !passes(&error) {
            return self.poison(error);
        }
        // The manifest does not name it; what remains is removed by the next try or start.
        let _ = disk::remove_if_there(self.disk.as_ref(), path);
        WriteError::Full(error)
    }

    fn refuse_if_poisoned(&self) -> Result<(), WriteError> {
        match &self.poisoned {
            None => Ok(()),
            Some(cause) => Err(WriteError::Poisoned { cause: cause.clone() }),
        }
    }

    fn poison(&mut self, error: DiskError) -> WriteError {
        self.poisoned = Some(error.to_string());
        WriteError::Failed(error)
    }
}

/// Whether freeing space helps. A directory's sync is never repeated: nobody knows what it kept.
fn passes(error: &DiskError) -> bool {
    error.kind() == DiskErrorKind::Full && error.operation() != Operation::SyncDir
}

/// What a frame with requests of `bytes` in all needs, with the mark that may follow it.
fn room_for(bytes: usize) -> u64 {
    (frame::HEADER_BYTES + record::payload_length(bytes) + frame::HEADER_BYTES) as u64
}

/// Creates a segment without frames and makes it durable. The log before it ends with `after`.
pub(super) fn create(
    disk: &dyn Disk,
    path: &std::path::Path,
    (header, after): (&SegmentHeader, Sequence),
    capacity: u64,
) -> Result<Segment, DiskError> {
    disk::remove_if_there(disk, path)?;
    let file = disk.create(path)?;
    file.preallocate(capacity)?;
    file.write_at(&header.encode(), 0)?;
    file.sync_data()?;
    disk.sync_dir(disk::parent(path))?;
    Ok(Segment::new((after, header.first), file, segment::HEADER_BYTES as u64))
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no space; nothing changed, and the next write may succeed.
    #[error("disk is full: {0}")]
    Full(DiskError),
    /// The segment has no room for the frame.
    #[error("segment is full; a new one must be begun first")]
    NeedsRoll,
    /// More than fits in a frame.
    #[error("frame of {bytes} bytes, limit is {}", frame::PAYLOAD_BYTES_MAX)]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The disk failed; writes have ended until the next start.
    #[error("writes have ended until restart: {0}")]
    Failed(DiskError),
    /// The disk failed earlier.
    #[error("writes have ended until restart: {cause}")]
    Poisoned {
        /// What failed.
        cause: String,
    },
}
