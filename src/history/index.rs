//! Where the rows of each entity key stand in the part of the log that is not sealed yet.
//!
//! It does not know what a row means, and the writer does not know of it: it reads the log itself,
//! when somebody asks, segment by segment; what gets sealed is let go as a whole.

mod keyed;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::keyed::{Entry, KeyedRows, Versions};
use super::chain;
use super::record::{Record, RecordError};
use super::replay::{LoggedFrame, Position};
use super::sealed::{SealedEntry, SealedFile};
use super::segment::Segment;
use super::{History, ReadError};
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Rows looked up at once, so that the lock is not held while the disk is read.
const BATCH: usize = 8;

/// The sealed files, and an index of each segment behind them that was read.
pub(super) struct Index {
    /// In the order of their sequences; what is between them is in the log.
    sealed: Arc<[Arc<SealedFile>]>,
    /// Every row up to here is in a sealed file.
    upto: Sequence,
    parts: Vec<Arc<Part>>,
    position: Option<Position>,
}

/// The rows of one segment.
pub(super) struct Part {
    segment: Arc<Segment>,
    rows: RwLock<PartRows>,
}

#[derive(Default)]
struct PartRows {
    views: HashMap<ViewId, KeyedRows, foldhash::fast::RandomState>,
    frames: Vec<FrameEnd>,
}

/// The last sequence of a frame and when it arrived; both only grow.
#[derive(Clone, Copy)]
struct FrameEnd {
    last: Sequence,
    arrival: ArrivalTime,
}

impl Index {
    pub(super) fn new(sealed: Vec<Arc<SealedFile>>) -> Self {
        let upto = end_of(&sealed);
        Self { sealed: sealed.into(), upto, parts: Vec::new(), position: None }
    }

    /// Every row up to here is in a sealed file.
    pub(super) fn sealed_upto(&self) -> Sequence {
        self.upto
    }

    pub(super) fn sealed(&self) -> &Arc<[Arc<SealedFile>]> {
        &self.sealed
    }

    pub(super) fn parts(&self) -> &[Arc<Part>] {
        &self.parts
    }

    pub(super) fn covers(&self, upto: Sequence) -> bool {
        upto <= self.sealed_upto() || self.position.is_some_and(|position| position.next > upto)
    }

    /// Reads the log on from where it was read to.
    pub(super) fn read_on(&mut self, history: &History) -> Result<(), ReadError> {
        let beginning = || {
            let segment = history.segment_of(self.sealed_upto().next())?;
            Some(Position::start_of(&segment))
        };
        let Some(mut position) = self.position.or_else(beginning) else { return Ok(()) };
        let scanned = history.scan(&[], &mut position, |frame| self.add(frame));
        self.position = Some(position);
        scanned
    }

    /// Takes up a sealed file in the place of `removed` ones, or behind all.
    pub(super) fn publish(&mut self, added: Arc<SealedFile>, removed: &[u64]) {
        let stays = |file: &&Arc<SealedFile>| !removed.contains(&file.entry().number);
        let mut files: Vec<_> = self.sealed.iter().filter(stays).cloned().collect();
        let at = files.partition_point(|file| file.entry().first < added.entry().first);
        files.insert(at, added);
        self.replace(files);
    }

    /// Takes up the files of a load, which lie behind all there is. `emptied` is the segment that
    /// was written and had no record, and which `next` replaces.
    pub(super) fn take_load(
        &mut self,
        loaded: &[Arc<SealedFile>],
        emptied: Option<Sequence>,
        next: &Segment,
    ) {
        if let Some(position) = &mut self.position
            && Some(position.segment) == emptied
        {
            *position = Position::start_of(next);
        }
        self.replace(self.sealed.iter().chain(loaded).cloned().collect());
    }

    fn replace(&mut self, files: Vec<Arc<SealedFile>>) {
        self.upto = end_of(&files);
        self.sealed = files.into();
        let upto = self.upto;
        self.parts.retain(|part| part.segment.first() > upto);
        self.position = self.position.filter(|position| position.segment > upto);
    }

    fn add(&mut self, frame: &LoggedFrame<'_>) -> Result<(), ReadError> {
        // All of a frame or nothing, so that a repeated try adds no row twice.
        check(frame).map_err(|error| frame.unreadable(&error))?;
        let same = |last: &&Arc<Part>| last.segment.first() == frame.segment.first();
        let part = match self.parts.last().filter(same) {
            Some(part) => part.clone(),
            None => {
                let part = Part { segment: frame.segment.clone(), rows: RwLock::default() };
                self.parts.push(Arc::new(part));
                self.parts[self.parts.len() - 1].clone()
            }
        };
        part.write().add(frame);
        Ok(())
    }
}

fn end_of(files: &[Arc<SealedFile>]) -> Sequence {
    let entries: Vec<SealedEntry> = files.iter().map(|file| file.entry()).collect();
    chain::sealed_upto(&entries)
}

fn check(frame: &LoggedFrame<'_>) -> Result<(), RecordError> {
    for request in frame.requests()? {
        for record in request?.records() {
            record?;
        }
    }
    Ok(())
}

impl PartRows {
    fn add(&mut self, frame: &LoggedFrame<'_>) {
        let payload = frame.offset + crate::frame::HEADER_BYTES as u64;
        // An archive is a part of the payload: how far apart they begin is where it stands in it.
        let start = frame.payload.as_ptr() as usize;
        for request in frame.requests().into_iter().flatten().flatten() {
            for (sequence, record) in request.records().flatten() {
                let Record::Row(row) = record else { continue };
                let inside = row.archive.as_ptr() as usize - start;
                let entry = Entry {
                    event_time: row.event_time,
                    sequence,
                    offset: (payload + inside as u64) as u32,
                    length: row.archive.len() as u32,
                    crc: crc32c::crc32c(row.archive),
                };
                self.views.entry(row.view).or_default().push(row.key, entry);
            }
        }
        self.frames.push(FrameEnd { last: frame.header.last(), arrival: frame.header.arrival });
    }

    fn versions(&self, view: ViewId, key: &[u8]) -> Option<Versions<'_>> {
        self.views.get(&view)?.of(key)
    }

    fn collect(
        &self,
        versions: &[Entry],
        below: (EventTime, Sequence),
        (upto, most): (Sequence, usize),
        batch: &mut Vec<Found>,
    ) {
        let end = versions.partition_point(|entry| entry.order() < below);
        let newest = versions[..end].iter().rev();
        let seen = newest.filter(|entry| entry.sequence <= upto).take(most);
        let arrival_of = |entry: &Entry| {
            let at = self.frames.partition_point(|frame| frame.last < entry.sequence);
            self.frames.get(at).map_or(ArrivalTime::MIN, |frame| frame.arrival)
        };
        batch.extend(seen.map(|&entry| Found { entry, arrival: arrival_of(&entry) }));
        // The newest last, from where they are taken.
        batch.reverse();
    }
}

impl Part {
    fn read(&self) -> RwLockReadGuard<'_, PartRows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, PartRows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has a row of `view`.
    pub(super) fn has(&self, view: ViewId) -> bool {
        self.read().views.contains_key(&view)
    }

    /// Shows `visit` every key of a view that has a row, until it breaks.
    pub(super) fn each_key(
        &self,
        view: ViewId,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self.read().views.get(&view) {
            Some(rows) => rows.keys().try_for_each(visit),
            None => ControlFlow::Continue(()),
        }
    }

    /// Puts up to `most` rows below `below` and up to the sequence `upto` into `batch`, the newest
    /// last.
    fn find(
        &self,
        (view, key): (ViewId, &[u8]),
        below: (EventTime, Sequence),
        (upto, most): (Sequence, usize),
        batch: &mut Vec<Found>,
    ) {
        let rows = self.read();
        match rows.versions(view, key) {
            None => return,
            Some(Versions::Sorted(versions)) => {
                return rows.collect(versions, below, (upto, most), batch);
            }
            Some(Versions::Unsorted) => drop(rows),
        }
        let mut rows = self.write();
        if let Some(of_view) = rows.views.get_mut(&view) {
            of_view.sort(key);
        }
        let rows = RwLockWriteGuard::downgrade(rows);
        if let Some(Versions::Sorted(versions)) = rows.versions(view, key) {
            rows.collect(versions, below, (upto, most), batch);
        }
    }

    fn read_archive(&self, entry: &Entry, archive: &mut Vec<u8>) -> Result<(), ReadError> {
        let (segment, offset) = (&self.segment, u64::from(entry.offset));
        archive.resize(entry.length as usize, 0);
        let read = segment.file().read_at(archive, offset)?;
        if read < archive.len() || crc32c::crc32c(archive) != entry.crc {
            let sequence = entry.sequence;
            let reason = format!("row of sequence {sequence} is not what was written");
            return Err(segment.damage(offset, reason).into());
        }
        Ok(())
    }
}

/// A row to be read, taken out of the index.
struct Found {
    entry: Entry,
    arrival: ArrivalTime,
}

/// The rows of one key in one segment, from an instant back in time.
pub(super) struct LogRows {
    part: Arc<Part>,
    upto: Sequence,
    /// The newest last.
    batch: Vec<Found>,
    /// There may be more behind the batch.
    more: bool,
}

impl LogRows {
    /// Finds the newest row of `key` below `below` up to the sequence `upto`; none if there is
    /// none.
    pub(super) fn seek(
        part: &Arc<Part>,
        view: ViewId,
        key: &[u8],
        below: (EventTime, Sequence),
        upto: Sequence,
    ) -> Option<Self> {
        let mut rows = Self { part: part.clone(), upto, batch: Vec::new(), more: true };
        rows.fill(view, key, below).then_some(rows)
    }

    fn fill(&mut self, view: ViewId, key: &[u8], below: (EventTime, Sequence)) -> bool {
        self.part.find((view, key), below, (self.upto, BATCH), &mut self.batch);
        self.more = self.batch.len() == BATCH;
        !self.batch.is_empty()
    }

    /// What its row is sorted by; none behind the last.
    pub(super) fn order(&self) -> Option<(EventTime, Sequence)> {
        self.batch.last().map(|found| found.entry.order())
    }

    /// When its row arrived; none behind the last.
    pub(super) fn arrival(&self) -> Option<ArrivalTime> {
        self.batch.last().map(|found| found.arrival)
    }

    /// Moves to the next older row; false if there is none.
    pub(super) fn back(&mut self, view: ViewId, key: &[u8]) -> bool {
        match self.batch.pop() {
            Some(passed) if self.batch.is_empty() && self.more => {
                self.fill(view, key, passed.entry.order())
            }
            _ => !self.batch.is_empty(),
        }
    }

    /// Reads the archive of its row.
    pub(super) fn read(&self, archive: &mut Vec<u8>) -> Result<(), ReadError> {
        match self.batch.last() {
            Some(found) => self.part.read_archive(&found.entry, archive),
            None => Ok(()),
        }
    }
}

/// The rows of one key after another in one segment, each key looked up once if its instants come
/// together.
pub(super) struct LogLane {
    part: Arc<Part>,
    view: ViewId,
    upto: Sequence,
    /// All rows of the key, the newest last.
    rows: Vec<Found>,
    /// Rows up to and with the one it stands on.
    at: usize,
}

impl LogLane {
    pub(super) fn new(part: &Arc<Part>, view: ViewId, upto: Sequence) -> Self {
        Self { part: part.clone(), view, upto, rows: Vec::new(), at: 0 }
    }

    /// Moves to the newest row of `key` below `below`. `same` says that the key is that of the last
    /// time.
    pub(super) fn seek(&mut self, key: &[u8], below: (EventTime, Sequence), same: bool) {
        if !same {
            self.rows.clear();
            let everything = (EventTime::MAX, Sequence::MAX);
            let all = (self.upto, usize::MAX);
            self.part.find((self.view, key), everything, all, &mut self.rows);
        }
        self.at = self.rows.partition_point(|found| found.entry.order() < below);
    }

    fn found(&self) -> Option<&Found> {
        self.rows.get(self.at.checked_sub(1)?)
    }

    /// As [`LogRows::order`].
    pub(super) fn order(&self) -> Option<(EventTime, Sequence)> {
        self.found().map(|found| found.entry.order())
    }

    /// As [`LogRows::arrival`].
    pub(super) fn arrival(&self) -> Option<ArrivalTime> {
        self.found().map(|found| found.arrival)
    }

    /// Moves to the next older row.
    pub(super) fn back(&mut self) {
        self.at = self.at.saturating_sub(1);
    }

    /// As [`LogRows::read`].
    pub(super) fn read(&self, archive: &mut Vec<u8>) -> Result<(), ReadError> {
        match self.found() {
            Some(found) => self.part.read_archive(&found.entry, archive),
            None => Ok(()),
        }
    }
}
