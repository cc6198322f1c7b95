//! Compares everything in a sealed file with everything else in it, to the last byte.
//!
//! It does not know the manifest or the log, nor what a feature means.

use super::fences::{Fences, Place};
use super::file::{OpenSealedError, SealedFile};
use super::footer::{HEAD_BYTES, Section, SectionFacts};
use super::rows::{Has, Rows};
use crate::archive::RowRef;
use crate::history::pace::Pace;
use crate::history::{Damage, ReadError};
use crate::ids::{Sequence, Slot, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Faults reported of one file; more say nothing new.
const FAULTS: usize = 100;

/// Something in a sealed file that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedFault {
    /// Where and what.
    pub damage: Damage,
    /// The view whose rows cannot be read there; none if it is the whole file's.
    pub view: Option<ViewId>,
}

/// Reads the whole file, past the cache. What is wrong is added to `faults`; false means that the
/// work was given up.
pub fn check(file: &SealedFile, pace: &mut dyn Pace, faults: &mut Vec<SealedFault>) -> bool {
    let (sections, footer) = match file.read_footer() {
        Ok(found) => found,
        Err(error) => {
            let damage = match error {
                OpenSealedError::Damaged(damage) => damage,
                error => file.damage(0, error.to_string()),
            };
            faults.push(SealedFault { damage, view: None });
            return true;
        }
    };
    let mut checking = Checking { file, pace, faults: Vec::new(), places: vec![footer] };
    let finished = sections.iter().all(|section| checking.section(section, footer));
    if finished && checking.faults.is_empty() {
        checking.check_places();
    }
    faults.append(&mut checking.faults);
    finished
}

struct Checking<'a> {
    file: &'a SealedFile,
    pace: &'a mut dyn Pace,
    faults: Vec<SealedFault>,
    /// Every block that something points to.
    places: Vec<Place>,
}

/// What was seen of a section so far.
struct Seen {
    facts: SectionFacts,
    /// The row before, if it could be read.
    key: Option<Vec<u8>>,
    order: (EventTime, Sequence),
    /// For each slot the row after the last of the key that has it; none where rows of the key
    /// could not be read.
    present_before: Option<Vec<u64>>,
    /// A part could not be read, so the facts cannot be compared.
    has_holes: bool,
}

impl Seen {
    fn new(of: &SectionFacts) -> Self {
        let facts = SectionFacts {
            rows: 0,
            keys: 0,
            oldest: EventTime::MAX,
            newest: EventTime::MIN,
            first: Sequence::MAX,
            last: Sequence::ZERO,
            first_arrival: ArrivalTime::MAX,
            last_arrival: ArrivalTime::MIN,
            ..*of
        };
        let order = (EventTime::MIN, Sequence::ZERO);
        let present_before = Some(vec![0; of.slots]);
        Self { facts, key: None, order, present_before, has_holes: false }
    }

    fn skip(&mut self) {
        self.has_holes = true;
        self.key = None;
        self.present_before = None;
    }
}

impl Checking<'_> {
    /// False means that the work was given up.
    fn section(&mut self, section: &Section, footer: Place) -> bool {
        let view = section.facts.view;
        let mut seen = Seen::new(&section.facts);
        for index in 0..section.root.len() {
            let place = section.root.place(index);
            self.places.push(place);
            if self.faults.len() > FAULTS || !self.pace.worked(place.length as u64) {
                return self.faults.len() > FAULTS;
            }
            let fences = match self.file.read_fences(section, index) {
                Ok(fences) => fences,
                Err(error) => {
                    let end = match index + 1 < section.root.len() {
                        true => section.root.row(index + 1),
                        false => section.facts.rows,
                    };
                    self.unreadable(&error, place, view, section.root.row(index)..end);
                    seen.skip();
                    continue;
                }
            };
            if !is_first(&section.root, index, &fences) {
                self.fault(place, view, "the fences begin elsewhere than the footer says");
            }
            let next = (index + 1 < section.root.len()).then(|| section.root.row(index + 1));
            let end = next.unwrap_or(section.facts.rows);
            if !self.blocks(&fences, view, end, &mut seen) {
                return false;
            }
        }
        if !seen.has_holes && seen.facts != section.facts {
            let (says, found) = (section.facts, seen.facts);
            let reason = format!("the footer says {says:?} of the view, its rows say {found:?}");
            self.fault(footer, view, &reason);
        }
        true
    }

    /// Checks the blocks of rows that `fences` point to, of which the last ends before row `end`.
    fn blocks(&mut self, fences: &Fences, view: ViewId, end: u64, seen: &mut Seen) -> bool {
        for index in 0..fences.len() {
            let place = fences.place(index);
            self.places.push(place);
            if !self.pace.worked(place.length as u64) {
                return false;
            }
            match self.file.read_rows(fences, index) {
                Ok(rows) => {
                    let begins = (rows.key(0), rows.order(0));
                    if begins != (fences.key(index), fences.order(index)) {
                        self.fault(place, view, "the rows begin elsewhere than their fence says");
                        seen.skip();
                    }
                    if let Err(reason) = self.rows(&rows, seen) {
                        self.fault(place, view, &reason);
                        seen.skip();
                    }
                }
                Err(error) => {
                    let next = (index + 1 < fences.len()).then(|| fences.row(index + 1));
                    let end = next.unwrap_or(end);
                    self.unreadable(&error, place, view, fences.row(index)..end);
                    seen.skip();
                }
            }
        }
        true
    }

    fn rows(&self, rows: &Rows, seen: &mut Seen) -> Result<(), String> {
        if !seen.has_holes && rows.first_row() != seen.facts.rows {
            return Err(format!(
                "it begins with row {}, not {}",
                rows.first_row(),
                seen.facts.rows
            ));
        }
        for key in 0..rows.keys() {
            let name = rows.key(key);
            let goes_on = key == 0 && seen.key.as_deref() == Some(name);
            if !goes_on {
                if seen.key.as_deref().is_some_and(|before| before >= name) {
                    return Err("its keys are out of order".to_owned());
                }
                // The first key behind a hole may have rows in it.
                let may_go_on = key == 0 && seen.key.is_none() && seen.has_holes;
                seen.present_before = (!may_go_on).then(|| vec![0; seen.facts.slots]);
                seen.key = Some(name.to_vec());
                seen.order = (EventTime::MIN, Sequence::ZERO);
                seen.facts.keys += 1;
            }
            for row in rows.rows_at(key) {
                self.row(rows, row, seen)?;
            }
        }
        Ok(())
    }

    fn row(&self, rows: &Rows, row: usize, seen: &mut Seen) -> Result<(), String> {
        let (order, arrival) = (rows.order(row), rows.arrival(row));
        let (event_time, sequence) = order;
        let number = rows.first_row() + row as u64;
        let entry = self.file.entry();
        if seen.order.1 != Sequence::ZERO && order <= seen.order {
            return Err(format!("row {number} is out of order"));
        }
        if !(entry.first..=entry.last).contains(&sequence) {
            let (first, last) = (entry.first, entry.last);
            return Err(format!("row {number} has sequence {sequence}, not {first} to {last}"));
        }
        let cells = RowRef::access(rows.archive(row))
            .map_err(|error| format!("row {number} of sequence {sequence}: {error}"))?;
        if cells.slots() > seen.facts.slots {
            return Err(format!("row {number} has more features than its section"));
        }
        if let Some(before) = &mut seen.present_before {
            for (slot, before) in before.iter_mut().enumerate() {
                let says = rows.has(row, Slot(slot as u16));
                let expected = match (cells.has(slot), *before) {
                    (true, _) => Has::Itself,
                    (false, 0) => Has::Never,
                    (false, before) => Has::Before(number + 1 - before),
                };
                if says != expected {
                    let found = format!("{says:?}, not {expected:?}");
                    return Err(format!("feature {slot} of row {number} is said to be {found}"));
                }
                if cells.has(slot) {
                    *before = number + 1;
                }
            }
        }
        seen.order = order;
        let facts = &mut seen.facts;
        facts.rows += 1;
        facts.oldest = facts.oldest.min(event_time);
        facts.newest = facts.newest.max(event_time);
        facts.first = facts.first.min(sequence);
        facts.last = facts.last.max(sequence);
        facts.first_arrival = facts.first_arrival.min(arrival);
        facts.last_arrival = facts.last_arrival.max(arrival);
        Ok(())
    }

    /// Every byte between head and tail belongs to one block.
    fn check_places(&mut self) {
        self.places.sort_by_key(|place| place.offset);
        let mut at = HEAD_BYTES as u64;
        for place in &self.places {
            if place.offset != at {
                let reason = format!("bytes from {at} to {} belong to no block", place.offset);
                let damage = self.file.damage(at, reason);
                self.faults.push(SealedFault { damage, view: None });
                return;
            }
            at += place.length as u64;
        }
    }

    fn fault(&mut self, place: Place, view: ViewId, reason: &str) {
        let damage = self.file.damage(place.offset, reason);
        self.faults.push(SealedFault { damage, view: Some(view) });
    }

    fn unreadable(
        &mut self,
        error: &ReadError,
        place: Place,
        view: ViewId,
        rows: std::ops::Range<u64>,
    ) {
        let reason = match error {
            ReadError::Damaged(damage) => damage.reason.clone(),
            ReadError::Disk(error) => error.to_string(),
        };
        let count = rows.end.saturating_sub(rows.start);
        self.fault(place, view, &format!("{reason}; {count} rows from row {} on", rows.start));
    }
}

/// Whether `fences` begin where entry `index` of the footer's fences says.
fn is_first(root: &Fences, index: usize, fences: &Fences) -> bool {
    fences.row(0) == root.row(index)
        && fences.key(0) == root.key(index)
        && fences.order(0) == root.order(index)
}
