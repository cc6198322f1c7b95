//! Loads past the log: the rows of a file go into sealed files that no manifest names yet, a ledger
//! lets the same load go on with them after a crash, and one new manifest makes them history.
//!
//! It does not know where the rows come from, nor what the engine counts of them.
//!
//! # Why nothing of a load is seen before all of it
//!
//! The files of a load hold sequences from 1 on, since nobody knows yet which they will be. They
//! are made durable one after another; the ledger names those that are. The writer then takes the
//! next sequences for all of them and replaces the manifest once: the segment being written is
//! closed before them, they are named with what is to be added to their sequences, a new segment
//! begins behind them, and the control snapshot says that the load was done. So after a crash there
//! is either the manifest before, in which nothing names them but the ledger, or the one behind.

use std::path::Path;
use std::sync::Arc;

use super::ReadError;
use super::gathered::Gathered;
use super::manifest::{ControlSnapshot, Manifest, SegmentEntry};
use super::pace::Pace;
use super::seal::{Sealer, merge, read_back, to_merge};
use super::sealed::{
    self, BuildError, Lift, OpenSealedError, RowIn, Scan, SealedEntry, SealedFile, SectionFacts,
};
use super::segment::{self, SegmentHeader};
use super::writer::{self, WriteError, Writer};
use crate::disk::{self, Disk, DiskError, DiskErrorKind};
use crate::ids::{Sequence, StoreId, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// The name of the ledger in `history/`.
pub(super) const LEDGER: &str = "LOAD";
pub(super) const MAGIC: [u8; 4] = *b"LLDG";
const FORMAT: u16 = 1;
/// Magic, format, nothing, store, identity, number of parts.
const HEAD: usize = 4 + 2 + 2 + 16 + 32 + 4;
const PART_WORDS: usize = 6;

/// Memory for the rows of one file of a load; those decoded at once that reach beyond it are the
/// last ones there.
pub const PART_BYTES: usize = 64 << 20;
/// Files of a load at most, where there is room to merge some: all are open until it is history,
/// and longer until they are merged.
const FILES_MAX: usize = 64;
/// What a load leaves free on the disk: some segments of the log.
const LEFT_FREE: u64 = 128 << 20;

/// Which load it is: the same file, read the same way, into the same view.
pub type Identity = [u8; 32];

/// How far a load has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Rows of the source that need not be read again.
    pub consumed: u64,
    /// What the engine counted of them.
    pub counts: [u64; 2],
}

/// Rows of a load that become one sealed file.
pub struct Part {
    view: ViewId,
    rows: Gathered,
    pushed: u64,
}

impl Part {
    /// None yet, of `view`.
    pub fn new(view: ViewId) -> Self {
        Self { view, rows: Gathered::default(), pushed: 0 }
    }

    /// Adds the next row. `write` appends its archive. Without an arrival it arrives when the load
    /// becomes history.
    pub fn push(
        &mut self,
        key: &[u8],
        (event_time, arrival): (EventTime, Option<ArrivalTime>),
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.pushed += 1;
        let (sequence, arrival) = (Sequence(self.pushed), arrival.unwrap_or(ArrivalTime::MIN));
        self.rows.push(
            self.view,
            &RowIn { key, event_time, sequence, arrival, archive: &[] },
            write,
        );
    }

    /// The archive of the row that was added last.
    pub fn last_archive(&self) -> &[u8] {
        self.rows.last_archive()
    }

    /// Whether it takes as much memory as it may.
    pub fn is_full(&self) -> bool {
        self.rows.memory() >= PART_BYTES
    }

    /// Whether no row is in it.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// Its earliest and its latest event time; none without rows.
    pub fn times(&self) -> Option<(EventTime, EventTime)> {
        let times = || self.rows.views().flat_map(|rows| rows.rows()).map(|row| row.event_time);
        times().min().zip(times().max())
    }

    /// Sorts the rows by key and time, and leaves out those that `goes` says, which is asked in
    /// that order.
    ///
    /// # Errors
    /// Its own.
    pub fn leave_out<E>(
        &mut self,
        goes: impl FnMut(&RowIn<'_>) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.rows.sort();
        self.rows.leave_out(goes)
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.pushed = 0;
    }
}

/// A sealed file of a load, as the ledger names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LedgerPart {
    number: u64,
    bytes: u64,
    rows: u64,
    /// How far the load had come behind it.
    tally: Tally,
}

impl LedgerPart {
    fn of(file: &SealedFile, tally: Tally) -> Self {
        let SealedEntry { number, first, last, bytes, .. } = file.entry();
        Self { number, bytes, rows: last.0 - first.0 + 1, tally }
    }
}

/// What a load has made durable.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ledger {
    identity: Identity,
    parts: Vec<LedgerPart>,
}

impl Ledger {
    /// The ledger in `directory`; none if there is none that is whole and of this store.
    fn load(disk: &dyn Disk, directory: &Path, store: StoreId) -> Result<Option<Self>, DiskError> {
        match disk::read_whole(disk, &directory.join(LEDGER)) {
            Ok(bytes) => Ok(Self::decode(&bytes, store)),
            Err(error) if error.kind() == DiskErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Magic, format, store, identity, number of parts; of each its number, bytes, rows, rows of
    /// the source up to its end, two counts; a checksum.
    fn encode(&self, store: StoreId) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&store.0);
        bytes.extend_from_slice(&self.identity);
        bytes.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for LedgerPart { number, bytes: length, rows, tally } in &self.parts {
            let Tally { consumed, counts: [first, second] } = *tally;
            for word in [*number, *length, *rows, consumed, first, second] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], store: StoreId) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        let (head, parts) = bytes.split_first_chunk::<HEAD>()?;
        let right = crc32c::crc32c(bytes).to_le_bytes() == *crc
            && head[..4] == MAGIC
            && head[4..6] == FORMAT.to_le_bytes()
            && head[8..24] == store.0;
        let (words, rest) = parts.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (parts, more) = words.as_chunks::<PART_WORDS>();
        let part = |&[number, bytes, rows, consumed, first, second]: &[u64; PART_WORDS]| {
            let tally = Tally { consumed, counts: [first, second] };
            LedgerPart { number, bytes, rows, tally }
        };
        let identity = head[24..56].try_into().ok()?;
        let parts: Vec<LedgerPart> = parts.iter().map(part).collect();
        let said = u32::from_le_bytes(head[56..].try_into().ok()?) as usize;
        let whole = rest.is_empty() && more.is_empty() && said == parts.len();
        (right && whole).then_some(Self { identity, parts })
    }
}

/// Says in words what is in a ledger.
pub(super) fn describe(bytes: &[u8]) -> Vec<String> {
    let store = bytes.get(8..24).and_then(|store| store.try_into().ok()).map(StoreId);
    let ledger = store.and_then(|store| Ledger::decode(bytes, store).map(|ledger| (store, ledger)));
    let Some((store, Ledger { identity, parts })) = ledger else {
        return vec!["ledger of a load, unreadable: it is not what was written".to_owned()];
    };
    let identity: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut lines =
        vec![format!("unfinished load of store {store}"), format!("identity {identity}")];
    for LedgerPart { number, bytes, rows, tally } in parts {
        let (name, upto) = (sealed::name_of(number), tally.consumed);
        lines.push(format!("sealed {name}: {rows} rows, {bytes} bytes, row {upto} of the file"));
    }
    lines
}

/// The numbers of the files that an interrupted load left and may go on with.
pub(super) fn staged(
    disk: &dyn Disk,
    directory: &Path,
    manifest: &Manifest,
) -> Result<Vec<u64>, DiskError> {
    let parts = Ledger::load(disk, directory, manifest.store)?.map(|ledger| ledger.parts);
    Ok(parts.unwrap_or_default().iter().map(|part| part.number).collect())
}

/// A load on its way.
pub struct Staging<'s> {
    sealer: &'s Sealer,
    ledger: Ledger,
    files: Vec<Arc<SealedFile>>,
}

impl Sealer {
    /// Begins a load, or goes on with it: what of it was made durable before is read and counts.
    /// What another load left is removed.
    ///
    /// # Errors
    /// The disk failed, or the work was to be given up.
    pub fn stage(
        &self,
        identity: &Identity,
        pace: &mut dyn Pace,
    ) -> Result<Staging<'_>, BuildError> {
        let found = Ledger::load(self.disk.as_ref(), &self.directory, self.history.store())?;
        let ledger = Ledger { identity: *identity, parts: Vec::new() };
        let mut staging = Staging { sealer: self, ledger, files: Vec::new() };
        match found {
            Some(found) if found.identity == *identity && !self.is_history(&found) => {
                staging.go_on(&found, pace)?;
            }
            Some(found) => self.end_load(&found)?,
            None => {}
        }
        Ok(staging)
    }

    /// Ends the load of which there is a ledger, if `is_history` says that it is: a crash may have
    /// come between. Else the ledger would keep files that are merged away.
    ///
    /// # Errors
    /// The disk failed.
    pub fn end_load_that(
        &self,
        is_history: impl FnOnce(&Identity) -> bool,
    ) -> Result<(), DiskError> {
        match Ledger::load(self.disk.as_ref(), &self.directory, self.history.store())? {
            Some(ledger) if is_history(&ledger.identity) => self.end_load(&ledger),
            _ => Ok(()),
        }
    }

    /// Removes the ledger first, for nothing may name a file that is not there; then those of its
    /// files that are not of history.
    fn end_load(&self, ledger: &Ledger) -> Result<(), DiskError> {
        let disk = self.disk.as_ref();
        disk::remove_if_there(disk, &self.directory.join(LEDGER))?;
        disk.sync_dir(&self.directory)?;
        let unnamed = ledger.parts.iter().filter(|part| !self.is_live(part));
        unnamed.for_each(|part| self.remove(part.number));
        Ok(())
    }

    /// A ledger may have outlived its load.
    fn is_history(&self, ledger: &Ledger) -> bool {
        ledger.parts.iter().any(|part| self.is_live(part))
    }

    fn is_live(&self, part: &LedgerPart) -> bool {
        self.history.sealed().iter().any(|file| file.entry().number == part.number)
    }

    /// Opens a file of a load and reads all of it; none if it is not what was written.
    fn open_staged(
        &self,
        part: &LedgerPart,
        before: u64,
        pace: &mut dyn Pace,
    ) -> Result<Option<Arc<SealedFile>>, BuildError> {
        let file = match self.disk.open_read(&sealed::path(&self.directory, part.number)) {
            Ok(file) => file,
            Err(error) if error.kind() == DiskErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (first, last) = (Sequence(before + 1), Sequence(before + part.rows));
        let LedgerPart { number, bytes, .. } = *part;
        let entry = SealedEntry { number, first, last, bytes, lift: Lift::default() };
        let blocks = self.blocks.clone();
        let file = match SealedFile::open(file, self.history.store(), entry, blocks) {
            Ok(file) => Arc::new(file),
            Err(OpenSealedError::Disk(error)) => return Err(error.into()),
            Err(OpenSealedError::Damaged(_) | OpenSealedError::Newer(_)) => return Ok(None),
        };
        match read_back(&file, pace) {
            Ok(()) => Ok(Some(file)),
            Err(BuildError::Read(ReadError::Damaged(_)) | BuildError::ReadBack(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Staging<'_> {
    /// How far it has come.
    pub fn tally(&self) -> Tally {
        self.ledger.parts.last().map_or(Tally::default(), |part| part.tally)
    }

    /// Rows that are durable.
    pub fn rows(&self) -> u64 {
        self.files.last().map_or(0, |file| file.entry().last.0)
    }

    fn go_on(&mut self, found: &Ledger, pace: &mut dyn Pace) -> Result<(), BuildError> {
        for part in &found.parts {
            let Some(file) = self.sealer.open_staged(part, self.rows(), pace)? else { break };
            self.files.push(file);
            self.ledger.parts.push(*part);
        }
        let (_, unfit) = found.parts.split_at(self.files.len());
        if !unfit.is_empty() {
            self.save(&self.ledger)?;
            unfit.iter().for_each(|part| self.sealer.remove(part.number));
        }
        Ok(())
    }

    fn save(&self, ledger: &Ledger) -> Result<(), DiskError> {
        let Sealer { disk, directory, history, .. } = self.sealer;
        let bytes = ledger.encode(history.store());
        disk::replace(disk.as_ref(), &directory.join(LEDGER), &bytes)
    }

    /// Makes the rows of `part`, of which there is one at least, durable, and takes them out of it.
    /// `tally` is how far the load has come with them.
    ///
    /// # Errors
    /// The disk failed or has no room, or the work was to be given up.
    pub fn add(
        &mut self,
        part: &mut Part,
        tally: Tally,
        pace: &mut dyn Pace,
    ) -> Result<(), BuildError> {
        let (before, rows) = (self.rows(), part.rows.len() as u64);
        self.sealer.find_room(part.rows.memory() as u64, LEFT_FREE)?;
        part.rows.sort();
        let all = (Sequence(1), Sequence(part.pushed));
        part.rows.renumber(all, Sequence(before + 1));
        let covers = (Sequence(before + 1), Sequence(before + rows));
        let (file, _) = self.sealer.build(covers, pace, |builder| {
            for section in part.rows.views() {
                builder.start(section.view(), section.slots()?, None)?;
                section.rows().try_for_each(|row| builder.row(&row))?;
            }
            Ok(0)
        })?;
        self.ledger.parts.push(LedgerPart::of(&file, tally));
        self.files.push(file);
        part.clear();
        self.save(&self.ledger)?;
        self.merge(pace)
    }

    /// Makes one file of some of about one size, as long as there are too many. Size-tiered, so a
    /// row is rewritten once if the load makes less than some 30 GB.
    fn merge(&mut self, pace: &mut dyn Pace) -> Result<(), BuildError> {
        while self.files.len() > FILES_MAX {
            let sizes: Vec<u64> = self.ledger.parts.iter().map(|part| part.bytes).collect();
            let Some(run) = to_merge(&sizes) else { break };
            match self.sealer.find_room(sizes[run.clone()].iter().sum(), LEFT_FREE) {
                // The load itself may still fit, with more files open.
                Err(BuildError::NoRoom { .. }) => break,
                found => found?,
            }
            let (files, last) = (&self.files[run.clone()], self.ledger.parts[run.end - 1]);
            let covers = (files[0].entry().first, files[files.len() - 1].entry().last);
            // What is erased or below a floor in history has nothing to do with these sequences.
            let bounds = Arc::default();
            let (file, _) = self.sealer.build(covers, pace, |to| merge(files, &bounds, to))?;
            let mut ledger = self.ledger.clone();
            let part = LedgerPart::of(&file, last.tally);
            let replaced: Vec<_> = ledger.parts.splice(run.clone(), [part]).collect();
            self.save(&ledger).inspect_err(|error| {
                // Else nobody knows which ledger is there, and the files of both stay.
                if error.kind() == DiskErrorKind::Full {
                    self.sealer.remove(part.number);
                }
            })?;
            self.ledger = ledger;
            self.files.splice(run, [file]);
            replaced.iter().for_each(|part| self.sealer.remove(part.number));
        }
        Ok(())
    }

    /// Ends it: what has not become history is removed.
    ///
    /// # Errors
    /// The disk failed; what is left the next load or start removes.
    pub fn end(self) -> Result<(), DiskError> {
        self.sealer.end_load(&self.ledger)
    }

    /// All of it, for the writer.
    pub fn staged(&self) -> Staged {
        Staged { files: self.files.clone() }
    }
}

/// A load that is durable as a whole and not history yet; it has a row at least.
pub struct Staged {
    files: Vec<Arc<SealedFile>>,
}

impl Staged {
    /// Its rows.
    pub fn rows(&self) -> u64 {
        self.files.last().map_or(0, |file| file.entry().last.0)
    }

    /// When the last row happened or, if it says that itself, arrived.
    pub fn latest(&self) -> ArrivalTime {
        let sections = self.files.iter().flat_map(|file| file.sections());
        let latest = |facts: SectionFacts| {
            facts.last_arrival.max(ArrivalTime::from_micros(facts.newest.micros()))
        };
        sections.map(latest).max().unwrap_or(ArrivalTime::MIN)
    }
}

/// When the rows of a load arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadArrival {
    /// When the load becomes history.
    pub now: ArrivalTime,
    /// The rows say it themselves; else they arrive now.
    pub by_row: bool,
}

impl Writer {
    /// Makes a load history, with the next sequences, all at once and durable. `control` covers the
    /// last of them. Returns the files, with their place in history.
    ///
    /// # Errors
    /// * [`WriteError::Full`]: undone; may be tried again.
    /// * [`WriteError::Failed`], [`WriteError::Poisoned`]: writes have ended, and nobody can know
    ///   whether it is history: its files must stay.
    pub fn commit_load(
        &mut self,
        staged: &Staged,
        arrival: LoadArrival,
        control: ControlSnapshot,
    ) -> Result<Vec<Arc<SealedFile>>, WriteError> {
        self.sync()?;
        let before = self.last();
        let last = Sequence(before.0 + staged.rows());
        let lift = Lift { sequences: before.0, arrival: (!arrival.by_row).then_some(arrival.now) };
        let files: Vec<Arc<SealedFile>> =
            staged.files.iter().map(|file| Arc::new(file.lifted(lift))).collect();
        let header =
            SegmentHeader { store: self.history.store(), epoch: self.epoch(), first: last.next() };
        let path = segment::path(&self.directory, header.first);
        let capacity = self.options.segment_bytes;
        // A segment without a record would be followed by one that begins where it does.
        let emptied = Some(self.segment.first()).filter(|first| before < *first);
        let after = if emptied.is_some() { self.segment.after() } else { before };
        let next = match writer::create(self.disk.as_ref(), &path, (&header, after), capacity) {
            Ok(next) => Arc::new(next),
            Err(error) => return Err(self.undo_roll(&path, error)),
        };
        let mut manifest = self.manifest.clone();
        match manifest.segments.last_mut() {
            Some(open) if emptied.is_none() => open.last = Some(before),
            _ => drop(manifest.segments.pop()),
        }
        manifest.segments.push(SegmentEntry { first: header.first, last: None });
        manifest.sealed.extend(files.iter().map(|file| file.entry()));
        let arrived_before = self.last_arrival;
        self.last_arrival = arrived_before.max(arrival.now);
        if let Err(error) = self.save(manifest, Some(control)) {
            self.last_arrival = arrived_before;
            return Err(self.undo_roll(&path, error));
        }
        self.history.take_load(&files, emptied, (last, &next));
        self.segment.close(before);
        let replaced = std::mem::replace(&mut self.segment, next);
        self.capacity = capacity;
        // The manifest says now what a mark would say.
        self.marked = last;
        if emptied.is_some() {
            // What cannot be removed is not named, and goes at the next start.
            let _ = disk::remove_if_there(self.disk.as_ref(), replaced.path());
        }
        Ok(files)
    }
}

/// Shows `each` the newest row of every key of `view` in these files, by key.
///
/// # Errors
/// The disk failed, a block is not what was written, or `each` refused.
pub fn newest_rows<E: From<ReadError>>(
    files: &[Arc<SealedFile>],
    view: ViewId,
    each: &mut dyn FnMut(&RowIn<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut scans = Vec::with_capacity(files.len());
    for file in files {
        scans.extend(Scan::start(file, view)?);
    }
    scans.iter_mut().for_each(Scan::last_of_key);
    let (mut key, mut archive) = (Vec::new(), Vec::new());
    while let Some(least) = scans.iter().filter_map(|scan| scan.current().map(|row| row.key)).min()
    {
        key.clear();
        key.extend_from_slice(least);
        let mut newest: Option<(EventTime, Sequence, ArrivalTime)> = None;
        for scan in &mut scans {
            while let Some(row) = scan.current().filter(|row| row.key == key) {
                let order = (row.event_time, row.sequence, row.arrival);
                if newest < Some(order) {
                    newest = Some(order);
                    archive.clear();
                    archive.extend_from_slice(row.archive);
                }
                scan.advance()?;
                scan.last_of_key();
            }
        }
        if let Some((event_time, sequence, arrival)) = newest {
            each(&RowIn { key: &key, event_time, sequence, arrival, archive: &archive })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_reads_back_and_every_flipped_bit_is_noticed() {
        let store = StoreId(*b"0123456789abcdef");
        let part = |number| {
            let tally = Tally { consumed: number * 70, counts: [number, 2] };
            LedgerPart { number, bytes: 900, rows: number * 60, tally }
        };
        let ledger = Ledger { identity: [7; 32], parts: vec![part(3), part(5)] };
        let bytes = ledger.encode(store);
        assert_eq!(Ledger::decode(&bytes, store), Some(ledger));
        assert_eq!(Ledger::decode(&bytes, StoreId([1; 16])), None, "of another store");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Ledger::decode(&bad, store), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Ledger::decode(&bytes[..length], store), None, "{length}");
        }
    }
}
