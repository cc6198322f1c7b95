//! Reads of history as of an instant: the rows of an entity key from there back in time, out of the
//! sealed files and the rest of the log.
//!
//! It does not know what a row means, nor where in a file rows stand; it merges what they give.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use super::bounds::{Bounds, ErasedRows};
use super::index::{Index, LogRows, Part};
use super::sealed::{Cursor, Scan, SealedFile};
use super::segment::Segment;
use super::{History, ReadError};
use crate::ids::{Sequence, Slot, ViewId};
use crate::time::{ArrivalTime, EventTime};

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

/// Is shown rows.
pub trait Visit {
    /// Sees one row; breaks when it has seen enough.
    fn row(&mut self, row: RowAt<'_>) -> ControlFlow<()>;

    /// The features it still looks for: rows that have none of them may be left out. None if it is
    /// to see every row.
    fn missing(&self) -> Option<&[Slot]> {
        None
    }
}

impl<F: FnMut(RowAt<'_>) -> ControlFlow<()>> Visit for F {
    fn row(&mut self, row: RowAt<'_>) -> ControlFlow<()> {
        self(row)
    }
}

/// History up to a sequence and an arrival time, for any number of reads. Sealing and merging
/// beside it change nothing in it: it holds the files it reads.
pub struct AsOf {
    sealed: Arc<[Arc<SealedFile>]>,
    parts: Vec<Arc<Part>>,
    upto: Sequence,
    known_at: ArrivalTime,
    bounds: Arc<Bounds>,
}

impl History {
    /// History up to `upto` and no further than what is written, with what arrived up to
    /// `known_at`, if that is given. Reads what was written since the last as-of read.
    ///
    /// # Errors
    /// The disk failed, or a segment of the log is damaged: then there is no as-of read at all
    /// until the damage is mended, since the rows behind it are not known.
    pub fn as_of(&self, upto: Sequence, known_at: Option<ArrivalTime>) -> Result<AsOf, ReadError> {
        // Files are rewritten by bounds that are in force, so the files of a moment go with the
        // bounds of that moment.
        loop {
            let bounds = self.bounds();
            let as_of = self.snapshot(upto, known_at, &bounds)?;
            if Arc::ptr_eq(&bounds, &self.bounds()) {
                return Ok(as_of);
            }
        }
    }

    fn snapshot(
        &self,
        upto: Sequence,
        known_at: Option<ArrivalTime>,
        bounds: &Arc<Bounds>,
    ) -> Result<AsOf, ReadError> {
        let upto = upto.min(self.written());
        let snapshot = |index: &Index| AsOf {
            sealed: index.sealed().clone(),
            parts: index.parts().to_vec(),
            upto,
            known_at: known_at.unwrap_or(ArrivalTime::MAX),
            bounds: bounds.clone(),
        };
        let index = self.read_index();
        if index.covers(upto) {
            return Ok(snapshot(&index));
        }
        drop(index);
        let mut index = self.write_index();
        index.read_on(self)?;
        Ok(snapshot(&index))
    }

    /// Takes up a sealed file that the manifest names now, in the place of `removed` ones.
    pub fn publish(&self, added: Arc<SealedFile>, removed: &[u64]) {
        let before = self.sealed();
        self.write_index().publish(added, removed);
        let is_removed = |file: &&Arc<SealedFile>| removed.contains(&file.entry().number);
        before.iter().filter(is_removed).for_each(|file| self.let_go(file));
    }

    /// Takes up the files of a load up to `last`, and the segment that follows it.
    pub(super) fn take_load(
        &self,
        loaded: &[Arc<SealedFile>],
        emptied: Option<Sequence>,
        (last, next): (Sequence, &Arc<Segment>),
    ) {
        // Whoever reads the log and the files sees both as before, or both as after.
        let mut index = self.write_index();
        self.replace_segment(emptied, next.clone());
        index.take_load(loaded, emptied, next);
        self.written.store(last.0, Ordering::Release);
        self.durable.store(last.0, Ordering::Release);
    }

    /// The sealed files in the order of their sequences.
    pub fn sealed(&self) -> Arc<[Arc<SealedFile>]> {
        self.read_index().sealed().clone()
    }

    /// Every row up to here is in a sealed file.
    pub fn sealed_upto(&self) -> Sequence {
        self.read_index().sealed_upto()
    }

    fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsOf {
    /// The sequence it goes up to.
    pub fn upto(&self) -> Sequence {
        self.upto
    }

    /// Whether it may have rows of `view` with an event time from the first to the second.
    pub fn may_have(&self, view: ViewId, (from, to): (EventTime, EventTime)) -> bool {
        let facts = |file: &Arc<SealedFile>| file.facts(view);
        let may =
            self.sealed.iter().filter_map(facts).any(|facts| {
                facts.first <= self.upto && facts.oldest <= to && facts.newest >= from
            });
        may || self.parts.iter().any(|part| part.has(view))
    }

    pub(super) fn known_at(&self) -> ArrivalTime {
        self.known_at
    }

    pub(super) fn sealed_files(&self) -> impl Iterator<Item = &Arc<SealedFile>> {
        self.sealed.iter()
    }

    pub(super) fn log_parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.parts.iter()
    }

    /// The last sequence that a sealed file has.
    pub fn last_sealed(&self) -> Sequence {
        self.sealed.last().map_or(Sequence::ZERO, |file| file.entry().last)
    }

    /// The event time below which it may lack rows of `view`: what is asked of it as of before
    /// then, or known by before then, it cannot answer.
    pub fn floor(&self, view: ViewId) -> Option<EventTime> {
        self.bounds.floor(view)
    }

    /// Whether no row of `view` is to be seen any more, because it was dropped with them.
    pub fn is_erased(&self, view: ViewId) -> bool {
        self.bounds.is_erased(view, self.upto)
    }

    /// Rows of `key` below this sequence are erased, and are not to be seen.
    pub(super) fn erased_below(&self, view: ViewId, key: &[u8]) -> Sequence {
        self.bounds.erased_below(view, key)
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
        visit: &mut dyn Visit,
    ) -> Result<(), ReadError> {
        let erased_below = self.erased_below(view, key);
        let mut walk = Walk { view, key, at, erased_below, archive: Vec::new() };
        let mut candidates = self.candidates(&walk);
        // The candidate that may have the newest row of all.
        while let Some(best) = (0..candidates.len()).max_by_key(|&index| candidates[index].order) {
            let candidate = &mut candidates[best];
            if candidate.is_sought() && self.sees(candidate, &walk) {
                let shown = walk.show(candidate, visit)?;
                if shown.is_break() {
                    return Ok(());
                }
            }
            if !walk.advance(candidate, visit.missing())? {
                candidates.swap_remove(best);
            }
        }
        Ok(())
    }

    fn candidates(&self, walk: &Walk<'_>) -> Vec<Candidate> {
        let mut candidates = Vec::with_capacity(self.sealed.len() + self.parts.len());
        for file in self.sealed.iter() {
            let Some(facts) = file.facts(walk.view) else { continue };
            let too_late = facts.oldest > walk.at
                || facts.first > self.upto
                || facts.first_arrival > self.known_at;
            if !too_late {
                let order = (facts.newest.min(walk.at), Sequence::MAX);
                candidates.push(Candidate { order, rows: Rows::Unsought(file.clone()) });
            }
        }
        let below = (walk.at, Sequence::MAX);
        for part in &self.parts {
            let rows = LogRows::seek(part, walk.view, walk.key, below, self.upto);
            if let Some(rows) = rows
                && let Some(order) = rows.order()
            {
                candidates.push(Candidate { order, rows: Rows::Log(rows) });
            }
        }
        candidates
    }

    fn sees(&self, candidate: &Candidate, walk: &Walk<'_>) -> bool {
        candidate.order.1 <= self.upto
            && candidate.order.1 >= walk.erased_below
            && candidate.arrival().is_some_and(|arrival| arrival <= self.known_at)
    }

    /// Shows `visit` every key of a view that has a row, some of them more than once, until it
    /// breaks.
    ///
    /// # Errors
    /// The disk failed, or a block is not what was written.
    pub fn each_key(
        &self,
        view: ViewId,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let ErasedRows { all_below, keys: erased } = self.bounds.erased_rows(view);
        if all_below.is_some() {
            // No row comes behind that.
            return Ok(());
        }
        let mut of_others = |key: &[u8]| match erased.contains_key(key) {
            true => ControlFlow::Continue(()),
            false => visit(key),
        };
        for file in self.sealed.iter() {
            let Some(mut scan) = Scan::start(file, view)? else { continue };
            while let Some(row) = scan.current() {
                if of_others(row.key).is_break() {
                    return Ok(());
                }
                scan.next_key()?;
            }
        }
        for part in &self.parts {
            if part.each_key(view, &mut of_others).is_break() {
                return Ok(());
            }
        }
        // Of a key that was erased it takes a row to know that there is one again.
        for key in erased.keys() {
            let mut found = false;
            let mut seen = |_: RowAt<'_>| {
                found = true;
                ControlFlow::Break(())
            };
            self.rows_before(view, key, EventTime::MAX, &mut seen)?;
            if found && visit(key).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Rows of the key from one place, and the greatest order the next of them can have.
struct Candidate {
    order: (EventTime, Sequence),
    rows: Rows,
}

enum Rows {
    /// Not looked into yet: other places may have all that is needed.
    Unsought(Arc<SealedFile>),
    Sealed(Cursor),
    Log(LogRows),
}

impl Candidate {
    fn is_sought(&self) -> bool {
        !matches!(self.rows, Rows::Unsought(_))
    }

    fn arrival(&self) -> Option<ArrivalTime> {
        match &self.rows {
            Rows::Unsought(_) => None,
            Rows::Sealed(cursor) => Some(cursor.arrival()),
            Rows::Log(rows) => rows.arrival(),
        }
    }
}

/// One walk back in time.
struct Walk<'a> {
    view: ViewId,
    key: &'a [u8],
    at: EventTime,
    /// Earlier rows are erased.
    erased_below: Sequence,
    archive: Vec<u8>,
}

impl Walk<'_> {
    fn show(
        &mut self,
        candidate: &Candidate,
        visit: &mut dyn Visit,
    ) -> Result<ControlFlow<()>, ReadError> {
        let (event_time, sequence) = candidate.order;
        let arrival = candidate.arrival().unwrap_or(ArrivalTime::MIN);
        let archive = match &candidate.rows {
            Rows::Unsought(_) => return Ok(ControlFlow::Continue(())),
            Rows::Sealed(cursor) => cursor.current(self.key).archive,
            Rows::Log(rows) => {
                rows.read(&mut self.archive)?;
                &self.archive
            }
        };
        Ok(visit.row(RowAt { event_time, sequence, arrival, archive }))
    }

    /// Moves a candidate to its next row; false if it has none.
    fn advance(
        &self,
        candidate: &mut Candidate,
        missing: Option<&[Slot]>,
    ) -> Result<bool, ReadError> {
        let (view, key) = (self.view, self.key);
        match &mut candidate.rows {
            Rows::Unsought(file) => {
                let Some(cursor) = Cursor::seek(file, view, key, (self.at, Sequence::MAX))? else {
                    return Ok(false);
                };
                candidate.order = cursor.order();
                candidate.rows = Rows::Sealed(cursor);
                Ok(true)
            }
            Rows::Sealed(cursor) => {
                let more = cursor.back(key, missing)?;
                candidate.order = cursor.order();
                Ok(more)
            }
            Rows::Log(rows) => {
                let more = rows.back(view, key);
                candidate.order = rows.order().unwrap_or(candidate.order);
                Ok(more)
            }
        }
    }
}
