//! What is seen of one label after another: its rows, the newest first, until all that is wanted is
//! known.
//!
//! It does not know where rows come from, nor which thread it runs on.

use std::ops::{ControlFlow, Range};

use arrow::array::ArrayRef;

use crate::archive::{ArchiveError, RowRef};
use crate::engine::answer_columns::{AnswerColumn, Include};
use crate::engine::as_of::TRUNCATED;
use crate::engine::error::Problem;
use crate::engine::lookup::judge;
use crate::history::as_of::{RowAt, Visit};
use crate::ids::{Sequence, Slot};
use crate::metrics::Code;
use crate::registry::model::View;
use crate::registry::plan::Column;
use crate::time::EventTime;
use crate::value::cell::CellRef;

/// Builds the columns of one view for one role.
pub(super) struct Seen<'a> {
    view: &'a View,
    of_plan: &'a [&'a Column],
    wanted: Vec<Slot>,
    columns: Vec<AnswerColumn>,
    /// Bytes of the values so far that have no fixed width.
    bytes: usize,
    at: EventTime,
    /// The row that had all that is wanted was answered from.
    is_answered: bool,
    /// Slots without a cell so far.
    missing: Vec<Slot>,
    /// The rows that had something, the newest first, and their bytes.
    rows: Vec<(EventTime, Range<usize>)>,
    archives: Vec<u8>,
    /// A row that is not what its view says.
    unfit: Option<(Sequence, ArchiveError)>,
}

impl<'a> Seen<'a> {
    /// For so many labels.
    pub(super) fn new(
        view: &'a View,
        of_plan: &'a [&'a Column],
        labels: usize,
        include: Include,
    ) -> Self {
        let mut wanted: Vec<Slot> = of_plan.iter().map(|column| column.slot).collect();
        wanted.sort_unstable_by_key(|slot| slot.0);
        wanted.dedup();
        let build =
            |column: &&Column| AnswerColumn::new(column.place.feature_type, labels, include);
        Self {
            columns: of_plan.iter().map(build).collect(),
            view,
            of_plan,
            missing: wanted.clone(),
            wanted,
            bytes: 0,
            at: EventTime::MIN,
            is_answered: false,
            rows: Vec::new(),
            archives: Vec::new(),
            unfit: None,
        }
    }

    /// Begins with the label of that instant.
    pub(super) fn begin(&mut self, at: EventTime) {
        self.at = at;
        self.is_answered = false;
        self.missing.clone_from(&self.wanted);
        self.rows.clear();
        self.archives.clear();
    }

    /// Answers a label of which nobody knows any more what stood there.
    pub(super) fn truncated(&mut self) {
        self.columns.iter_mut().for_each(|built| built.push(&TRUNCATED));
    }

    fn take(&mut self, row: RowAt<'_>) -> Result<(), ArchiveError> {
        let layout = self.view.layout();
        let cells = RowRef::access(row.archive)?;
        cells.check(layout)?;
        let has = |slot: &Slot| cells.has(usize::from(slot.0));
        if self.rows.is_empty() && self.wanted.iter().all(has) {
            for (column, built) in self.of_plan.iter().zip(&mut self.columns) {
                let cell = || cells.cell_at(column.place, column.slot);
                let answer = judge(column, Some(row.event_time), cell, self.at);
                self.bytes += answer.value.map_or(0, |value| value.loose_bytes());
                built.push(&answer);
            }
            self.is_answered = true;
            self.missing.clear();
            return Ok(());
        }
        let before = self.missing.len();
        self.missing.retain(|slot| !has(slot));
        if self.missing.len() < before {
            let start = self.archives.len();
            self.archives.extend_from_slice(row.archive);
            self.rows.push((row.event_time, start..self.archives.len()));
        }
        Ok(())
    }

    /// Answers the label from the rows that were seen.
    pub(super) fn end(&mut self) -> Result<(), Problem> {
        if let Some((sequence, error)) = self.unfit.take() {
            let detail = format!("row {sequence} of history: {error}");
            return Err(Problem::new(Code::Internal, detail));
        }
        if self.is_answered {
            return Ok(());
        }
        let read = |(time, bytes): &(EventTime, Range<usize>)| {
            let cells = RowRef::access(&self.archives[bytes.clone()]);
            (*time, cells.expect("it was checked when it was seen"))
        };
        let rows: Vec<_> = self.rows.iter().map(read).collect();
        for (column, built) in self.of_plan.iter().zip(&mut self.columns) {
            let slot = usize::from(column.slot.0);
            // The newest that says anything of the feature, as a merge of all would have it.
            let newest = rows.iter().find(|(_, cells)| cells.has(slot));
            let cell = || {
                newest
                    .map_or(CellRef::Absent, |(_, cells)| cells.cell_at(column.place, column.slot))
            };
            let answer = judge(column, newest.map(|(time, _)| *time), cell, self.at);
            self.bytes += answer.value.map_or(0, |value| value.loose_bytes());
            built.push(&answer);
        }
        Ok(())
    }

    /// The bytes of values without a fixed width since this was asked last.
    pub(super) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    /// The columns of the plan, each with what is included of it behind.
    pub(super) fn finish(mut self) -> Vec<ArrayRef> {
        self.columns.iter_mut().flat_map(AnswerColumn::finish).collect()
    }
}

impl Visit for Seen<'_> {
    fn row(&mut self, row: RowAt<'_>) -> ControlFlow<()> {
        let sequence = row.sequence;
        if let Err(error) = self.take(row) {
            self.unfit = Some((sequence, error));
            return ControlFlow::Break(());
        }
        if self.missing.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn missing(&self) -> Option<&[Slot]> {
        (!self.missing.is_empty()).then_some(&self.missing)
    }
}
