//! The features of a chunk of labels, gathered from history key by key on threads of their own.
//!
//! It does not know files of labels or of features.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat, take};

use super::labels::Chunk;
use super::order::by_key_and_time;
use super::{Known, Training};
use crate::archive::{ArchiveError, RowRef};
use crate::engine::answer_columns::{AnswerColumn, Include};
use crate::engine::as_of::{self, damaged};
use crate::engine::error::Problem;
use crate::engine::lookup::judge;
use crate::engine::retention::BelowFloor;
use crate::engine::shared::Shared;
use crate::history::as_of::{AsOf as HistoryAsOf, RowAt, Visit};
use crate::history::sweep::Sweep;
use crate::ids::{Sequence, Slot};
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::registry::plan::Column;
use crate::time::{ArrivalTime, EventTime};
use crate::value::cell::CellRef;

/// Threads that gather for one training set at most.
const THREADS: usize = 8;
/// Labels of one part of the work.
const PART_LABELS: usize = 32_768;
/// Labels after which progress is told.
const TOLD_LABELS: usize = 2048;

/// How far a training set has come.
pub(super) struct Work<'a> {
    labels: u64,
    /// Each label is looked up once in each of them.
    sources: u64,
    /// Labels looked up, over all sources.
    done: AtomicU64,
    tell: &'a (dyn Fn(u64, u64) + Sync),
}

impl<'a> Work<'a> {
    pub(super) fn new(labels: u64, sources: usize, tell: &'a (dyn Fn(u64, u64) + Sync)) -> Self {
        Self { labels, sources: sources.max(1) as u64, done: AtomicU64::new(0), tell }
    }

    fn did(&self, labels: usize) {
        let labels = labels as u64;
        let done = self.done.fetch_add(labels, Ordering::Relaxed) + labels;
        (self.tell)(done / self.sources, self.labels);
    }
}

/// Gathers features.
pub(super) struct Gather<'a> {
    history: HistoryAsOf,
    registry: Arc<Registry>,
    training: &'a Training,
    work: &'a Work<'a>,
}

/// One view for one role, with the labels in the order they are looked up.
struct Source<'a> {
    view: &'a View,
    role: usize,
    columns: Vec<&'a Column>,
    order: &'a [u32],
}

impl<'a> Gather<'a> {
    pub(super) fn new(
        shared: &Shared,
        training: &'a Training,
        work: &'a Work<'a>,
    ) -> Result<Self, Problem> {
        let known_at = match training.known {
            Known::At(known_at) => Some(known_at),
            Known::Now | Known::AtLabelTime => None,
        };
        let history = as_of::visible(shared, known_at)?;
        Ok(Self { history, registry: shared.registry.load_full(), training, work })
    }

    /// The columns of every feature of the plan, in its order, each with what is included of it
    /// behind; a row for each label.
    pub(super) fn features(&self, chunk: &Chunk) -> Result<Vec<ArrayRef>, Problem> {
        let plan = &self.training.plan.plan;
        let mut of_column: Vec<Vec<ArrayRef>> = vec![Vec::new(); plan.columns.len()];
        for (index, source) in plan.sources.iter().enumerate() {
            let columns = plan.columns.iter().enumerate();
            let (places, columns): (Vec<usize>, Vec<&Column>) =
                columns.filter(|(_, column)| column.source == index).unzip();
            // The view may have gained features since the plan was compiled.
            let view = self.registry.view(source.view.id).unwrap_or(&source.view);
            self.check_floor(chunk, view)?;
            let order = by_key_and_time(chunk, source.role);
            let source = Source { view, role: source.role, columns, order: &order };
            let parts = self.gather(chunk, &source)?;
            let arrays = back_in_place(parts, &order)?;
            let each = arrays.len() / places.len().max(1);
            let mut arrays = arrays.into_iter();
            for place in places {
                of_column[place] = arrays.by_ref().take(each).collect();
            }
        }
        Ok(of_column.into_iter().flatten().collect())
    }

    /// Refuses labels from before what retention keeps of `view`.
    fn check_floor(&self, chunk: &Chunk, view: &View) -> Result<(), Problem> {
        if self.history.floor(view.id).is_none() {
            return Ok(());
        }
        let known_at = match self.training.known {
            Known::At(known_at) => Some(known_at),
            Known::Now | Known::AtLabelTime => None,
        };
        for (label, at) in chunk.times.iter().enumerate() {
            if let Some(below) = BelowFloor::check(&self.history, view, *at, known_at) {
                return Err(below.refusal(&self.registry, view, chunk.first + label));
            }
        }
        Ok(())
    }

    /// The columns of a source, part by part in the order of the source.
    fn gather(&self, chunk: &Chunk, source: &Source<'_>) -> Result<Vec<Vec<ArrayRef>>, Problem> {
        let parts = source.order.len().div_ceil(PART_LABELS);
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done: Mutex<Vec<(usize, Vec<ArrayRef>)>> = Mutex::new(Vec::with_capacity(parts));
        let work = || -> Result<(), Problem> {
            let mut sweep = self.history.sweep(source.view.id);
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts || failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let from = part * PART_LABELS;
                let labels = from..source.order.len().min(from + PART_LABELS);
                let arrays = self
                    .gather_part(&mut sweep, chunk, source, labels)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                done.lock().unwrap_or_else(PoisonError::into_inner).push((part, arrays));
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        thread::scope(|scope| {
            let spawn = |_| {
                thread::Builder::new().name("larder-train".to_owned()).spawn_scoped(scope, work)
            };
            let spawned: Vec<_> = (1..threads.min(parts)).filter_map(|n| spawn(n).ok()).collect();
            let mut outcome = work();
            for thread in spawned {
                let joined = thread.join().unwrap_or_else(|_| {
                    Err(Problem::new(Code::Internal, "a thread that gathers features failed"))
                });
                outcome = outcome.and(joined);
            }
            outcome
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(part, _)| *part);
        Ok(done.into_iter().map(|(_, arrays)| arrays).collect())
    }

    fn gather_part(
        &self,
        sweep: &mut Sweep<'_>,
        chunk: &Chunk,
        source: &Source<'_>,
        labels: Range<usize>,
    ) -> Result<Vec<ArrayRef>, Problem> {
        let mut seen = Seen::new(source, labels.len(), self.training.include);
        for some in source.order[labels].chunks(TOLD_LABELS) {
            for &label in some {
                let label = label as usize;
                let at = chunk.times[label];
                let known_at = match self.training.known {
                    Known::AtLabelTime => ArrivalTime::from_micros(at.micros()),
                    Known::Now | Known::At(_) => ArrivalTime::MAX,
                };
                seen.begin(at);
                let key = chunk.keys.key(label, source.role);
                let rows = sweep.rows_before(key, (at, known_at), &mut seen);
                rows.map_err(|error| damaged(&error))?;
                seen.end()?;
            }
            self.work.did(some.len());
        }
        Ok(seen.columns.iter_mut().flat_map(AnswerColumn::finish).collect())
    }
}

/// Puts the rows of parts that follow an order back where the labels have them.
fn back_in_place(parts: Vec<Vec<ArrayRef>>, order: &[u32]) -> Result<Vec<ArrayRef>, Problem> {
    let failed =
        |error| Problem::new(Code::Internal, format!("features cannot be joined: {error}"));
    let mut places = vec![0; order.len()];
    for (at, label) in order.iter().enumerate() {
        places[*label as usize] = at as u32;
    }
    let places = UInt32Array::from(places);
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let columns = parts.first().map_or(0, ExactSizeIterator::len);
    (0..columns)
        .map(|_| {
            let of_parts: Vec<ArrayRef> = parts.iter_mut().filter_map(Iterator::next).collect();
            let of_parts: Vec<_> = of_parts.iter().map(AsRef::as_ref).collect();
            let joined = concat(&of_parts).map_err(failed)?;
            take(&joined, &places, None).map_err(failed)
        })
        .collect()
}

/// What is seen of one label after another.
struct Seen<'a> {
    source: &'a Source<'a>,
    wanted: Vec<Slot>,
    columns: Vec<AnswerColumn>,
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
    fn new(source: &'a Source<'a>, labels: usize, include: Include) -> Self {
        let mut wanted: Vec<Slot> = source.columns.iter().map(|column| column.slot).collect();
        wanted.sort_unstable_by_key(|slot| slot.0);
        wanted.dedup();
        let build = |column: &&Column| AnswerColumn::new(column.feature_type, labels, include);
        Self {
            columns: source.columns.iter().map(build).collect(),
            source,
            missing: wanted.clone(),
            wanted,
            at: EventTime::MIN,
            is_answered: false,
            rows: Vec::new(),
            archives: Vec::new(),
            unfit: None,
        }
    }

    fn begin(&mut self, at: EventTime) {
        self.at = at;
        self.is_answered = false;
        self.missing.clone_from(&self.wanted);
        self.rows.clear();
        self.archives.clear();
    }

    fn take(&mut self, row: RowAt<'_>) -> Result<(), ArchiveError> {
        let layout = self.source.view.layout();
        let cells = RowRef::access(row.archive)?;
        cells.check(layout)?;
        let has = |slot: &Slot| cells.has(usize::from(slot.0));
        if self.rows.is_empty() && self.wanted.iter().all(has) {
            for (column, built) in self.source.columns.iter().zip(&mut self.columns) {
                let cell = || cells.cell(layout, column.slot);
                built.push(&judge(column, Some(row.event_time), cell, self.at));
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
    fn end(&mut self) -> Result<(), Problem> {
        if let Some((sequence, error)) = self.unfit.take() {
            let detail = format!("row {sequence} of history: {error}");
            return Err(Problem::new(Code::Internal, detail));
        }
        if self.is_answered {
            return Ok(());
        }
        let layout = self.source.view.layout();
        let read = |(time, bytes): &(EventTime, Range<usize>)| {
            let cells = RowRef::access(&self.archives[bytes.clone()]);
            (*time, cells.expect("it was checked when it was seen"))
        };
        let rows: Vec<_> = self.rows.iter().map(read).collect();
        for (column, built) in self.source.columns.iter().zip(&mut self.columns) {
            let slot = usize::from(column.slot.0);
            // The newest that says anything of the feature, as a merge of all would have it.
            let newest = rows.iter().find(|(_, cells)| cells.has(slot));
            let cell =
                || newest.map_or(CellRef::Absent, |(_, cells)| cells.cell(layout, column.slot));
            built.push(&judge(column, newest.map(|(time, _)| *time), cell, self.at));
        }
        Ok(())
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
