//! Where the rows of each entity key stand in the log, so that reads as of an instant need no scan.
//!
//! It does not know what a row means, and the writer does not know of it: it reads the log itself,
//! from the first as-of read on, and each read brings it up to date. Sealed segments replace it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use super::record::{Record, RecordError};
use super::replay::{LoggedFrame, Position};
use super::segment::Segment;
use super::{History, ReadError};
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Rows looked up at once, so that the lock is not held while the disk is read.
const BATCH: usize = 8;

type Keys = HashMap<Box<[u8]>, Versions, foldhash::fast::RandomState>;

#[derive(Default)]
pub(super) struct Index {
    views: HashMap<ViewId, Keys, foldhash::fast::RandomState>,
    segments: Vec<Arc<Segment>>,
    frames: Vec<FrameEnd>,
    position: Option<Position>,
}

/// The last sequence of a frame and when it arrived; both only grow.
#[derive(Clone, Copy)]
struct FrameEnd {
    last: Sequence,
    arrival: ArrivalTime,
}

/// One row in the log.
#[derive(Clone, Copy)]
struct Entry {
    event_time: EventTime,
    sequence: Sequence,
    /// Its place in [`Index::segments`].
    segment: u32,
    /// Where its archive begins in the segment; segments are at most a little over 1 GiB.
    offset: u32,
    length: u32,
    /// CRC-32C of its archive, taken from a frame whose own was right.
    crc: u32,
}

impl Entry {
    fn order(&self) -> (EventTime, Sequence) {
        (self.event_time, self.sequence)
    }
}

/// The rows of one key. Invariant: the first `sorted` are in order.
#[derive(Default)]
struct Versions {
    entries: Vec<Entry>,
    sorted: usize,
}

impl Versions {
    fn push(&mut self, entry: Entry) {
        let follows = self.entries.last().is_none_or(|last| last.order() < entry.order());
        if self.is_sorted() && follows {
            self.sorted += 1;
        }
        self.entries.push(entry);
    }

    fn is_sorted(&self) -> bool {
        self.sorted == self.entries.len()
    }

    /// Costs little when what came late is not very late: only what it overtakes is moved.
    fn sort(&mut self) {
        let (before, late) = self.entries.split_at_mut(self.sorted);
        late.sort_unstable_by_key(Entry::order);
        if let Some(least) = late.first().map(Entry::order) {
            let from = before.partition_point(|entry| entry.order() < least);
            // Two runs in order, which the stable sort only merges.
            self.entries[from..].sort_by_key(Entry::order);
        }
        self.sorted = self.entries.len();
    }
}

/// A row found by an as-of read.
#[derive(Clone, Copy, Debug)]
pub struct RowAt<'a> {
    /// When it happened.
    pub event_time: EventTime,
    /// Its position in history.
    pub sequence: Sequence,
    /// When it was accepted.
    pub arrival: ArrivalTime,
    /// Its archived features.
    pub archive: &'a [u8],
}

/// History up to a sequence, for any number of reads.
#[derive(Clone, Copy)]
pub struct AsOf<'a> {
    history: &'a History,
    upto: Sequence,
}

impl History {
    /// History up to `upto` and no further than what is written. Reads what was written since the
    /// last as-of read; the first one reads the whole log.
    ///
    /// # Errors
    /// The disk failed, or a segment is damaged: then there is no as-of read at all until the
    /// damage is mended, since the rows behind it are not known.
    pub fn as_of(&self, upto: Sequence) -> Result<AsOf<'_>, ReadError> {
        let upto = upto.min(self.written());
        if !self.read_index().covers(upto) {
            let mut index = self.write_index();
            let Some(mut position) = index.position.or_else(|| self.beginning()) else {
                return Ok(AsOf { history: self, upto });
            };
            let scanned = self.scan(&mut position, |frame| index.add(frame));
            index.position = Some(position);
            scanned?;
        }
        Ok(AsOf { history: self, upto })
    }

    /// The highest sequence written that arrived at or before `known_at`: the last of a frame,
    /// or 0.
    ///
    /// # Errors
    /// As [`Self::as_of`].
    pub fn sequence_at(&self, known_at: ArrivalTime) -> Result<Sequence, ReadError> {
        self.as_of(Sequence::MAX)?;
        let index = self.read_index();
        let after = index.frames.partition_point(|frame| frame.arrival <= known_at);
        Ok(after.checked_sub(1).map_or(Sequence::ZERO, |at| index.frames[at].last))
    }

    fn beginning(&self) -> Option<Position> {
        self.segment_of(Sequence::ZERO).map(|segment| Position::start_of(&segment))
    }

    fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsOf<'_> {
    /// The sequence it goes up to.
    pub fn upto(&self) -> Sequence {
        self.upto
    }

    /// Shows `visit` the rows of `key` with an event time at or before `at`, the newest by (event
    /// time, sequence) first, until it breaks.
    ///
    /// # Errors
    /// The disk failed, or a row is not what was written.
    pub fn rows_before(
        &self,
        view: ViewId,
        key: &[u8],
        at: EventTime,
        visit: &mut dyn FnMut(RowAt<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut batch: Vec<Found> = Vec::new();
        let mut archive: Vec<u8> = Vec::new();
        // The order of the last row shown; all that follow lie below it.
        let mut below = (at, Sequence::MAX);
        loop {
            batch.clear();
            self.find(view, key, below, &mut batch);
            for found in &batch {
                let Entry { event_time, sequence, .. } = found.entry;
                found.read(&mut archive)?;
                let row = RowAt { event_time, sequence, arrival: found.arrival, archive: &archive };
                if visit(row).is_break() {
                    return Ok(());
                }
                below = found.entry.order();
            }
            if batch.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Shows `visit` every key of a view that has a row.
    pub fn each_key(&self, view: ViewId, mut visit: impl FnMut(&[u8])) {
        let index = self.history.read_index();
        if let Some(keys) = index.views.get(&view) {
            keys.keys().for_each(|key| visit(key));
        }
    }

    /// Adds up to [`BATCH`] rows below `below` to `batch`, the newest first.
    fn find(&self, view: ViewId, key: &[u8], below: (EventTime, Sequence), batch: &mut Vec<Found>) {
        let index = self.history.read_index();
        let Some(versions) = index.versions(view, key) else { return };
        if versions.is_sorted() {
            return index.collect(versions, below, self.upto, batch);
        }
        drop(index);
        let mut index = self.history.write_index();
        if let Some(versions) = index.views.get_mut(&view).and_then(|keys| keys.get_mut(key)) {
            versions.sort();
        }
        let index = RwLockWriteGuard::downgrade(index);
        if let Some(versions) = index.versions(view, key) {
            index.collect(versions, below, self.upto, batch);
        }
    }
}

/// A row to be read, taken out of the index.
struct Found {
    entry: Entry,
    segment: Arc<Segment>,
    arrival: ArrivalTime,
}

impl Found {
    fn read(&self, archive: &mut Vec<u8>) -> Result<(), ReadError> {
        let offset = u64::from(self.entry.offset);
        archive.resize(self.entry.length as usize, 0);
        let read = self.segment.file().read_at(archive, offset)?;
        if read < archive.len() || crc32c::crc32c(archive) != self.entry.crc {
            let sequence = self.entry.sequence;
            let reason = format!("row of sequence {sequence} is not what was written");
            return Err(self.segment.damage(offset, reason).into());
        }
        Ok(())
    }
}

impl Index {
    fn covers(&self, upto: Sequence) -> bool {
        upto == Sequence::ZERO || self.position.is_some_and(|position| position.next > upto)
    }

    fn versions(&self, view: ViewId, key: &[u8]) -> Option<&Versions> {
        self.views.get(&view)?.get(key)
    }

    fn collect(
        &self,
        versions: &Versions,
        below: (EventTime, Sequence),
        upto: Sequence,
        batch: &mut Vec<Found>,
    ) {
        let end = versions.entries.partition_point(|entry| entry.order() < below);
        let newest = versions.entries[..end].iter().rev();
        let seen = newest.filter(|entry| entry.sequence <= upto).take(BATCH);
        batch.extend(seen.map(|&entry| Found {
            entry,
            segment: self.segments[entry.segment as usize].clone(),
            arrival: self.arrival_of(entry.sequence),
        }));
    }

    fn arrival_of(&self, sequence: Sequence) -> ArrivalTime {
        let at = self.frames.partition_point(|frame| frame.last < sequence);
        self.frames.get(at).map_or(ArrivalTime::MIN, |frame| frame.arrival)
    }

    fn add(&mut self, frame: &LoggedFrame<'_>) -> Result<(), ReadError> {
        // All of a frame or nothing, so that a repeated try adds no row twice.
        check(frame).map_err(|error| frame.unreadable(&error))?;
        let segment = self.segment_number(frame.segment);
        let payload = frame.offset + crate::frame::HEADER_BYTES as u64;
        // An archive is a part of the payload: how far apart they begin is where it stands in it.
        let start = frame.payload.as_ptr() as usize;
        for request in frame.requests().into_iter().flatten().flatten() {
            for (sequence, record) in request.records().flatten() {
                let Record::Row(row) = record else { continue };
                let inside = row.archive.as_ptr() as usize - start;
                let keys = self.views.entry(row.view).or_default();
                let entry = Entry {
                    event_time: row.event_time,
                    sequence,
                    segment,
                    offset: (payload + inside as u64) as u32,
                    length: row.archive.len() as u32,
                    crc: crc32c::crc32c(row.archive),
                };
                match keys.get_mut(row.key) {
                    Some(versions) => versions.push(entry),
                    None => keys.entry(row.key.into()).or_default().push(entry),
                }
            }
        }
        self.frames.push(FrameEnd { last: frame.header.last(), arrival: frame.header.arrival });
        Ok(())
    }

    fn segment_number(&mut self, segment: &Arc<Segment>) -> u32 {
        let same = |last: &Arc<Segment>| last.first() == segment.first();
        if !self.segments.last().is_some_and(same) {
            self.segments.push(segment.clone());
        }
        self.segments.len() as u32 - 1
    }
}

fn check(frame: &LoggedFrame<'_>) -> Result<(), RecordError> {
    for request in frame.requests()? {
        for record in request?.records() {
            record?;
        }
    }
    Ok(())
}
