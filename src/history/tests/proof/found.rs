//! What a start found of rows that may go, against all that were written.
//!
//! It does not know which rows went; it says of each missing one whether it may be missing.

use std::collections::BTreeSet;

use super::bounds::{DROPPED, Erasures, Item, KEYS};
use crate::disk::read_whole;
use crate::history::sealed::Scan;
use crate::history::tests::bounds::{MARK, SLOTS, Whole, naive, see};
use crate::history::tests::*;

/// What a start found of what must be there.
pub(super) struct Found<'a> {
    pub(super) root: &'static str,
    /// What was written up to where the start found an end.
    pub(super) items: &'a [Item],
    pub(super) floor: i64,
    pub(super) erasures: Erasures,
    /// About the last arrival.
    pub(super) now: i64,
}

impl Found<'_> {
    /// Whether of some erasure it was said that no byte is left.
    pub(super) fn has_done(&self) -> bool {
        self.erasures.values().any(|(_, done)| *done)
    }

    fn is_erased(&self, row: &Whole) -> bool {
        let mut later = self.erasures.range(row.sequence..);
        later.any(|(_, (gone, _))| gone.covers(row))
    }

    fn rows(&self) -> impl Iterator<Item = &Whole> {
        self.items.iter().filter_map(|item| match item {
            Item::Row(row, _) => Some(row),
            Item::Erase(_) => None,
        })
    }

    /// The rule itself: a row may be gone if it is erased, or lies below the floor and for each
    /// feature it has there is a newer row with it that happened and arrived below the floor.
    fn may_be_gone(&self, row: &Whole) -> bool {
        if self.is_erased(row) {
            return true;
        }
        let successor = |other: &&Whole| {
            (other.view, other.key) == (row.view, row.key)
                && (other.time, other.sequence) > (row.time, row.sequence)
                && other.time.max(other.arrival) < self.floor
                && !self.is_erased(other)
        };
        let successors: Vec<&Whole> = self.rows().filter(successor).collect();
        let mut has = (0..SLOTS).filter(|slot| row.has[*slot]);
        row.view == VIEW
            && row.time < self.floor
            && !successors.is_empty()
            && has.all(|slot| successors.iter().any(|other| other.has[slot]))
    }

    /// Every row in sealed files and log is one that was written, and each that is missing may be.
    pub(super) fn check_rows(&self, history: &History) -> Result<(), String> {
        let mut next = 1;
        for file in history.sealed().iter() {
            let entry = file.entry();
            if entry.first.0 != next {
                return Err(format!("a sealed file begins with {}, not {next}", entry.first));
            }
            next = entry.last.0 + 1;
            let mut there = BTreeSet::new();
            for facts in file.sections() {
                let mut scan = Scan::start(file, facts.view).map_err(|error| error.to_string())?;
                while let Some(scan) = &mut scan
                    && let Some(row) = scan.current()
                {
                    let times = (row.event_time.micros(), row.arrival.micros());
                    let found = (facts.view, row.key[0], times);
                    self.check_row(row.sequence.0, found, row.archive)?;
                    there.insert(row.sequence.0);
                    scan.advance().map_err(|error| error.to_string())?;
                }
            }
            let of_file = self.rows().filter(|row| (entry.first.0..next).contains(&row.sequence));
            let mut missing = of_file.filter(|row| !there.contains(&row.sequence));
            if let Some(row) = missing.find(|row| !self.may_be_gone(row)) {
                return Err(format!("{row:?} is not in its file, floor {}", self.floor));
            }
        }
        let mut there = BTreeSet::new();
        for (sequence, (view, key), times, archive) in rows_of_log(history)? {
            self.check_row(sequence, (view, key, times), &archive)?;
            there.insert(sequence);
        }
        let mut of_log = self.rows().filter(|row| row.sequence >= next);
        match of_log.find(|row| !there.contains(&row.sequence)) {
            Some(row) => Err(format!("{row:?} is not in the log")),
            None => Ok(()),
        }
    }

    fn check_row(
        &self,
        sequence: u64,
        found: (ViewId, u8, (i64, i64)),
        archive: &[u8],
    ) -> Result<(), String> {
        match self.items.get(sequence as usize - 1) {
            Some(Item::Row(row, wanted))
                if found == (row.view, row.key, (row.time, row.arrival))
                    && archive == &wanted[..] =>
            {
                Ok(())
            }
            _ => Err(format!("row {sequence} is {found:?}, which was never written")),
        }
    }

    /// Compares a read as of a random instant that is not refused with looking at each row.
    pub(super) fn ask(&self, history: &History, random: &mut Random) -> Result<(), String> {
        // One that stays, and of those that are dropped any that there may be by now.
        let view = match random.below(3) {
            0 => ViewId(u32::from(DROPPED) + random.below(3) as u32),
            _ => VIEW,
        };
        let from = self.floor.max(-5);
        let ahead = (self.now + 10 - from).max(1) as u64;
        let key = random.below(KEYS) as u8;
        let time = from + random.below(ahead) as i64;
        let known_at = match random.below(2) {
            0 => i64::MAX,
            _ => from + random.below(ahead) as i64,
        };
        let rows = self.rows().filter(|row| row.view == view && !self.is_erased(row));
        let rows: Vec<Whole> = rows.cloned().collect();
        let (state, seen) = see(history, (view, key), time, known_at)?;
        let wanted = naive(&rows, key, time, known_at);
        let asked =
            format!("view {view} key {key} at {time} known at {known_at}, floor {}", self.floor);
        if state != wanted {
            return Err(format!("{asked}: {state:?}, not {wanted:?}"));
        }
        let is_left = |sequence: &u64| rows.iter().any(|row| row.sequence == *sequence);
        match seen.iter().find(|sequence| !is_left(sequence)) {
            Some(sequence) => Err(format!("{asked}: shows row {sequence}, which is erased")),
            None => Ok(()),
        }
    }

    /// No file has bytes of a row whose erasure was said to be done.
    pub(super) fn check_bytes(&self, disk: &FakeDisk) -> Result<(), String> {
        let directory = Path::new(self.root).join("history");
        let told = |error: crate::disk::DiskError| error.to_string();
        for entry in disk.list(&directory).map_err(told)? {
            let bytes = read_whole(disk, &directory.join(&entry.name)).map_err(told)?;
            for sequence in marked(&bytes) {
                let Some(Item::Row(row, _)) = self.items.get(sequence as usize - 1) else {
                    continue;
                };
                let mut later = self.erasures.range(sequence..);
                let done = later.find(|(_, (gone, _))| gone.covers(row));
                if let Some((erasure, (_, true))) = done {
                    let name = &entry.name;
                    return Err(format!("{name} has row {sequence}, erased by {erasure}"));
                }
            }
        }
        Ok(())
    }
}

/// The sequences of rows whose archives are anywhere in these bytes.
fn marked(bytes: &[u8]) -> impl Iterator<Item = u64> {
    // The last bytes of the mark, which no sequence here reaches.
    let mark = MARK.to_le_bytes();
    let found = memchr::memmem::find_iter(bytes, &mark[5..]).collect::<Vec<_>>().into_iter();
    found.filter_map(|at| {
        let value = bytes.get(at.checked_sub(5)?..)?.first_chunk()?;
        u64::try_from(i64::from_le_bytes(*value) - MARK).ok().filter(|sequence| *sequence > 0)
    })
}

/// A row as (sequence, view and key, event time and arrival, archive).
type Logged = (u64, (ViewId, u8), (i64, i64), Vec<u8>);

pub(super) fn rows_of_log(history: &History) -> Result<Vec<Logged>, String> {
    let mut rows = Vec::new();
    let read = history.replay(Sequence::ZERO, |frame| {
        let arrival = frame.header.arrival.micros();
        for request in frame.requests().map_err(|error| frame.unreadable(&error))? {
            let request = request.map_err(|error| frame.unreadable(&error))?;
            for record in request.records() {
                let record = record.map_err(|error| frame.unreadable(&error))?;
                let (sequence, Record::Row(row)) = record else { continue };
                let (of, time) = ((row.view, row.key[0]), row.event_time.micros());
                rows.push((sequence.0, of, (time, arrival), row.archive.to_vec()));
            }
        }
        Ok::<(), ReadError>(())
    });
    read.map_err(|error| error.to_string())?;
    Ok(rows)
}
