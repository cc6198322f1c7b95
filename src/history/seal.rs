//! Rewrites closed segments of the log into sealed files, few large sealed files out of many small
//! ones, and those anew of which much has fallen below a floor.
//!
//! It does not know the manifest: a file it made counts once the writer has named it there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::History;
use super::ReadError;
use super::base::Base;
use super::bounds::Bounds;
use super::compaction::{Extent, to_compact};
use super::gathered::Gathered;
use super::pace::Pace;
use super::record::{Record, RecordError, Row};
use super::replay::{LoggedFrame, Position, scan_segment};
use super::sealed::{
    self, Blocks, BuildError, Builder, Cursor, Head, Lift, RowIn, Scan, SealedEntry, SealedFile,
    SectionFacts,
};
use super::segment::Segment;
use super::writer::SEGMENT_BYTES_MAX;
use crate::disk::{self, Disk};
use crate::ids::{Sequence, ViewId};
use crate::time::EventTime;

/// Files of about one size that are merged into one.
const MERGED: usize = 8;

/// What a merge leaves free on the disk: the next segments of the log.
const LEFT_FREE: u64 = SEGMENT_BYTES_MAX;

/// Makes sealed files.
pub struct Sealer {
    pub(super) history: Arc<History>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) blocks: Arc<Blocks>,
    /// Files that could not be removed.
    unremoved: Mutex<Vec<PathBuf>>,
}

/// A sealed file to be made.
pub enum Task {
    /// Of a closed segment of the log, and its last sequence.
    Seal(Arc<Segment>, Sequence),
    /// Of sealed files that follow one another, at least one.
    Rewrite(Box<[Arc<SealedFile>]>),
}

/// A sealed file that is complete, and the files whose place it takes.
pub struct Made {
    /// The new file, open.
    pub file: Arc<SealedFile>,
    /// The numbers of the files it replaces; none if it replaces a part of the log.
    pub replaces: Vec<u64>,
    /// Rows that were not taken over: erased, or below a floor and not of the base.
    pub dropped: u64,
}

impl Sealer {
    pub(super) fn new(
        history: Arc<History>,
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        blocks: Arc<Blocks>,
    ) -> Self {
        Self { history, disk, directory, blocks, unremoved: Mutex::default() }
    }

    /// The oldest closed segment that is not sealed; none if there is none.
    pub fn next_to_seal(&self) -> Option<Task> {
        let next = self.history.sealed_upto().next();
        let segment = self.history.segment_of(next)?;
        let last = segment.closed().filter(|_| segment.first() == next)?;
        Some(Task::Seal(segment, last))
    }

    /// Files of about one size that follow one another, if there are many; none if not.
    pub fn next_to_merge(&self) -> Option<Task> {
        let files = self.history.sealed();
        // What a load put behind a part of the log that is not sealed yet waits for that.
        let follow =
            |a: &Arc<SealedFile>, b: &Arc<SealedFile>| a.entry().last.next() == b.entry().first;
        files.chunk_by(follow).rev().find_map(|files| {
            let sizes: Vec<u64> = files.iter().map(|file| file.entry().bytes).collect();
            to_merge(&sizes).map(|run| Task::Rewrite(files[run].into()))
        })
    }

    /// Files over the same event times, if it pays to make them one while nothing is written; none
    /// if not.
    pub fn next_to_compact(&self) -> Option<Task> {
        let files = self.history.sealed();
        let extents: Vec<Extent> = files.iter().map(|file| Extent::of(file)).collect();
        to_compact(&extents).map(|run| Task::Rewrite(files[run].into()))
    }

    /// A file of which much has fallen below a floor; none if there is none.
    pub fn next_to_thin(&self) -> Option<Task> {
        let bounds = self.history.bounds();
        let files = self.history.sealed();
        let file = files.iter().find(|file| is_worth_thinning(file, &bounds))?;
        Some(Task::Rewrite([file.clone()].into()))
    }

    /// Does it; the file counts once the manifest names it.
    ///
    /// # Errors
    /// The disk failed or has no room, what is read is damaged, or the work was to be given up.
    pub fn make(&self, task: &Task, pace: &mut dyn Pace) -> Result<Made, BuildError> {
        let bounds = self.history.bounds();
        match task {
            Task::Seal(segment, last) => {
                let rows = gather(&self.history, segment, pace)?;
                let covers = (segment.first(), *last);
                let (file, dropped) = self.build(covers, pace, |to| write(&rows, &bounds, to))?;
                Ok(Made { file, replaces: Vec::new(), dropped })
            }
            Task::Rewrite(files) => {
                let needed = files.iter().map(|file| bytes_to_keep(file, &bounds)).sum();
                self.find_room(needed, LEFT_FREE)?;
                let replaces = files.iter().map(|file| file.entry().number).collect();
                let covers = (files[0].entry().first, files[files.len() - 1].entry().last);
                let (file, dropped) = self.build(covers, pace, |to| merge(files, &bounds, to))?;
                Ok(Made { file, replaces, dropped })
            }
        }
    }

    /// A merged file stands beside those it replaces until it counts. A disk that it filled up
    /// would refuse writes, again and again.
    pub(super) fn find_room(&self, needed: u64, kept: u64) -> Result<(), BuildError> {
        let free = self.disk.free(&self.directory)?;
        match free.checked_sub(needed) {
            Some(left) if left >= kept => Ok(()),
            _ => Err(BuildError::NoRoom { needed, free, kept }),
        }
    }

    /// Removes the file with this number, which the manifest does not name. What cannot be removed
    /// is tried again by [`Self::all_removed`] and at the next start.
    pub fn remove(&self, number: u64) {
        self.remove_file(sealed::path(&self.directory, number));
    }

    /// Removes a segment of the log, which the manifest does not name.
    pub fn remove_segment(&self, first: Sequence) {
        self.remove_file(super::segment::path(&self.directory, first));
    }

    pub(super) fn remove_file(&self, path: PathBuf) {
        if disk::remove_if_there(self.disk.as_ref(), &path).is_err() {
            self.unremoved.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        }
    }

    /// Whether every file that was to be removed is gone.
    pub fn all_removed(&self) -> bool {
        let mut unremoved = self.unremoved.lock().unwrap_or_else(PoisonError::into_inner);
        unremoved.retain(|path| disk::remove_if_there(self.disk.as_ref(), path).is_err());
        unremoved.is_empty()
    }

    /// Makes the file durable, under its name, and opens it.
    pub(super) fn build(
        &self,
        (first, last): (Sequence, Sequence),
        pace: &mut dyn Pace,
        write: impl FnOnce(&mut Builder<'_>) -> Result<u64, BuildError>,
    ) -> Result<(Arc<SealedFile>, u64), BuildError> {
        let disk = self.disk.as_ref();
        let number = self.history.next_number.fetch_add(1, Ordering::Relaxed);
        let path = sealed::path(&self.directory, number);
        let temporary = disk::temporary_name(&path);
        let store = self.history.store();
        let head = Head { store, number, first, last };
        let built = (|| {
            let mut builder = Builder::new(disk.create(&temporary)?, head, &mut *pace);
            let dropped = write(&mut builder)?;
            let bytes = builder.finish()?;
            disk.rename(&temporary, &path)?;
            disk.sync_dir(&self.directory)?;
            let entry = SealedEntry { number, first, last, bytes, lift: Lift::default() };
            let sealed = self.open(entry)?;
            read_back(&sealed, pace)?;
            Ok((sealed, dropped))
        })();
        built.inspect_err(|_| {
            self.remove_file(temporary);
            self.remove(number);
        })
    }

    /// Opens a sealed file, which is read from the device.
    pub(super) fn open(&self, entry: SealedEntry) -> Result<Arc<SealedFile>, BuildError> {
        let file = self.disk.open_read(&sealed::path(&self.directory, entry.number))?;
        file.drop_cache()?;
        let sealed = SealedFile::open(file, self.history.store(), entry, self.blocks.clone());
        sealed.map(Arc::new).map_err(|error| BuildError::ReadBack(error.to_string()))
    }
}

/// Reads every block of a new file from the device: what it replaces is removed one day.
pub(super) fn read_back(file: &Arc<SealedFile>, pace: &mut dyn Pace) -> Result<(), BuildError> {
    for facts in file.sections() {
        let mut rows = 0;
        let mut scan = Scan::start(file, facts.view)?;
        while let Some(scan) = &mut scan
            && scan.current().is_some()
        {
            rows += 1;
            scan.advance()?;
            let bytes = scan.take_bytes();
            if bytes > 0 && !pace.worked(bytes) {
                return Err(BuildError::Interrupted);
            }
        }
        if rows != facts.rows {
            let reason = format!("view {} has {rows} rows, not {}", facts.view, facts.rows);
            return Err(BuildError::ReadBack(reason));
        }
    }
    Ok(())
}

/// Which files to merge, the oldest first, by their sizes. Size-tiered: a file is of tier `n` if it
/// is up to 8 times as large as one of tier `n - 1`; as soon as 8 that follow one another are of
/// one tier, they become one. So a read meets at most 7 files of each tier, and a row is rewritten
/// once or twice per tier. A small file before a large one counts as large, or it would stay there.
pub(super) fn to_merge(sizes: &[u64]) -> Option<std::ops::Range<usize>> {
    let tier = |bytes: u64| (bytes / TIER_BYTES).checked_ilog(MERGED as u64).map_or(0, |t| t + 1);
    let (mut highest, mut run) = (0, 0);
    let mut found = None;
    for (index, &bytes) in sizes.iter().enumerate().rev() {
        let of_this = tier(bytes).max(highest);
        run = if of_this == highest { run + 1 } else { 1 };
        highest = of_this;
        // The smaller, hence the newer, come first: they cost less.
        if run >= MERGED && found.is_none() {
            found = Some(highest);
        }
        if found == Some(highest) {
            let oldest_is_next = index == 0 || tier(sizes[index - 1]) > highest;
            if oldest_is_next {
                return Some(index..index + MERGED);
            }
        }
    }
    None
}

/// Files up to this size are of the lowest tier.
const TIER_BYTES: u64 = 128 << 20;

/// The rows of one segment, sorted. Memory is that of the segment.
fn gather(
    history: &History,
    segment: &Arc<Segment>,
    pace: &mut dyn Pace,
) -> Result<Gathered, BuildError> {
    let mut gathered = Gathered::default();
    let mut position = Position::start_of(segment);
    scan_segment(history, segment, &mut position, &mut |frame| {
        add_frame(&mut gathered, frame).map_err(|error| frame.unreadable(&error))?;
        match pace.worked(frame.payload.len() as u64) {
            true => Ok::<(), BuildError>(()),
            false => Err(BuildError::Interrupted),
        }
    })?;
    let whole = segment.closed().is_some_and(|last| position.next == last.next());
    if !whole {
        let reason = format!("ends at sequence {}, too early", position.next.0 - 1);
        return Err(BuildError::Read(segment.damage(position.offset, reason).into()));
    }
    gathered.sort();
    Ok(gathered)
}

fn add_frame(gathered: &mut Gathered, frame: &LoggedFrame<'_>) -> Result<(), RecordError> {
    let arrival = frame.header.arrival;
    for request in frame.requests()? {
        for record in request?.records() {
            let (sequence, Record::Row(row)) = record? else { continue };
            let Row { view, event_time, key, archive } = row;
            let row = RowIn { key, event_time, sequence, arrival, archive };
            gathered.push(view, &row, |out| out.extend_from_slice(archive));
        }
    }
    Ok(())
}

/// Writes the rows that stay and says how many were left out.
fn write(
    gathered: &Gathered,
    bounds: &Arc<Bounds>,
    builder: &mut Builder<'_>,
) -> Result<u64, BuildError> {
    let mut dropped = 0;
    for section in gathered.views() {
        let mut base = Base::new(bounds.clone(), section.view());
        builder.start(section.view(), section.slots()?, base.floor())?;
        for row in section.rows() {
            base.row(&row, &mut |row| builder.row(row))?;
        }
        base.end(&mut |row| builder.row(row))?;
        dropped += base.dropped();
    }
    Ok(dropped)
}

/// Writes the rows of all `files` in order and says how many were left out. Memory is a block of
/// each. What is erased as a whole is not even read.
pub(super) fn merge(
    files: &[Arc<SealedFile>],
    bounds: &Arc<Bounds>,
    builder: &mut Builder<'_>,
) -> Result<u64, BuildError> {
    let mut dropped = 0;
    let mut views: BTreeMap<ViewId, (usize, Vec<&Arc<SealedFile>>)> = BTreeMap::new();
    for file in files {
        for facts in file.sections() {
            if bounds.is_erased(facts.view, facts.last) {
                dropped += facts.rows;
                continue;
            }
            let (slots, files) = views.entry(facts.view).or_default();
            *slots = facts.slots.max(*slots);
            files.push(file);
        }
    }
    for (view, (slots, files)) in views {
        let mut base = Base::new(bounds.clone(), view);
        builder.start(view, slots, base.floor())?;
        let mut scans = Vec::new();
        for file in files {
            scans.extend(Scan::start(file, view)?);
        }
        while let Some(least) = least(&scans) {
            let scan = &mut scans[least];
            if let Some(row) = scan.current() {
                base.row(&row, &mut |row| builder.row(row))?;
            }
            scan.advance()?;
            builder.read(scan.take_bytes())?;
        }
        base.end(&mut |row| builder.row(row))?;
        dropped += base.dropped();
    }
    Ok(dropped)
}

/// Whether a file has rows that are erased.
///
/// # Errors
/// The disk failed, or a block is not what was written.
pub fn holds_erased(file: &Arc<SealedFile>, bounds: &Bounds) -> Result<bool, ReadError> {
    for facts in file.sections() {
        let erased = bounds.erased_rows(facts.view);
        if erased.all_below.is_some_and(|below| facts.first < below) {
            return Ok(true);
        }
        for (key, below) in erased.keys {
            let newest = (EventTime::MAX, Sequence::MAX);
            let mut cursor = match facts.first < below {
                true => Cursor::seek(file, facts.view, &key, newest)?,
                false => None,
            };
            while let Some(found) = &mut cursor {
                if found.order().1 < below {
                    return Ok(true);
                }
                if !found.back(&key, None)? {
                    cursor = None;
                }
            }
        }
    }
    Ok(false)
}

/// Bytes of a file without those of views that are erased: a view may be dropped with its rows
/// because there is no room.
fn bytes_to_keep(file: &SealedFile, bounds: &Bounds) -> u64 {
    let goes = file.sizes().filter(|(facts, _)| bounds.is_erased(facts.view, facts.last));
    file.entry().bytes.saturating_sub(goes.map(|(_, bytes)| bytes).sum())
}

/// Whether a quarter of a file's rows may go.
fn is_worth_thinning(file: &SealedFile, bounds: &Bounds) -> bool {
    let (mut rows, mut may_go) = (0, 0);
    for facts in file.sections() {
        rows += facts.rows;
        may_go += bounds.floor(facts.view).map_or(0, |floor| rows_that_may_go(&facts, floor));
    }
    may_go > 0 && may_go >= rows / 4
}

/// About how many rows of a section have a successor below `floor`, from what its facts say.
///
/// A row counts from when it has happened and arrived; between the first and the last that did,
/// rows are taken to be spread evenly. What the file was thinned out by already is not counted
/// again, so it is not rewritten before the floor has moved on over a quarter of its rows.
fn rows_that_may_go(facts: &SectionFacts, floor: EventTime) -> u64 {
    let begins = facts.oldest.max(facts.first_arrival.as_event_time());
    let begins = facts.floor.map_or(begins, |thinned| thinned.max(begins));
    let ends = facts.newest.max(facts.last_arrival.as_event_time());
    if floor <= begins {
        return 0;
    }
    let open = facts.rows - facts.settled.min(facts.rows);
    let fallen = match floor > ends {
        true => open,
        false => {
            let share = floor.since(begins).seconds() / ends.since(begins).seconds();
            (open as f64 * share.min(1.0)) as u64
        }
    };
    // Of each key at least one row stays.
    fallen.min((facts.settled + fallen).saturating_sub(facts.keys))
}

/// The scan that stands on the row that comes first.
fn least(scans: &[Scan]) -> Option<usize> {
    let order = |scan: &usize| {
        let row = scans[*scan].current();
        row.map(|row| (row.key, row.event_time, row.sequence))
    };
    (0..scans.len()).filter(|scan| order(scan).is_some()).min_by(|a, b| order(a).cmp(&order(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_files_of_a_tier_become_one() {
        const MIB: u64 = 1 << 20;
        assert_eq!(to_merge(&[]), None);
        assert_eq!(to_merge(&[60 * MIB; 7]), None);
        assert_eq!(to_merge(&[60 * MIB; 9]), Some(0..8));
        let mut sizes = vec![500 * MIB, 60 * MIB];
        sizes.extend([MIB; 7]);
        assert_eq!(to_merge(&sizes), Some(1..9));
        // Seven small ones behind eight of the next tier: those eight first, the small ones stay.
        let mut sizes = vec![500 * MIB; 8];
        sizes.extend([MIB; 7]);
        assert_eq!(to_merge(&sizes), Some(0..8));
        sizes.push(MIB);
        assert_eq!(to_merge(&sizes), Some(8..16));
        // What stands before a larger one counts as one like it.
        let mut sizes = vec![MIB; 4];
        sizes.push(2000 * MIB);
        sizes.extend([MIB; 4]);
        assert_eq!(to_merge(&sizes), None);
        sizes.splice(0..0, [2000 * MIB; 3]);
        assert_eq!(to_merge(&sizes), Some(0..8));
    }

    #[test]
    fn a_growing_history_keeps_few_files_and_rewrites_little() {
        let (mut sizes, mut written): (Vec<u64>, u64) = (Vec::new(), 0);
        for _ in 0..5000 {
            sizes.push(60 << 20);
            while let Some(run) = to_merge(&sizes) {
                let merged = sizes[run.clone()].iter().sum();
                written += merged;
                sizes.splice(run, [merged]);
            }
            assert!(sizes.len() <= 35, "{} files", sizes.len());
        }
        let total: u64 = sizes.iter().sum();
        assert!(written <= 5 * total, "{} times", written / total);
    }
}
