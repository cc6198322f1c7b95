//! Answers "then": the features as they stood at given instants, from history alone, with nothing
//! from the future.
//!
//! It does not know the online map; what is newer, fresh or a default is decided by the same code
//! as for "now".

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::archive::{ArchiveError, Encoder, RowRef};
use crate::engine::cold::slots_of_sources;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Answer, Batch, LookupPlan, answer_row, state};
use crate::engine::retention::BelowFloor;
use crate::engine::shared::Shared;
use crate::history::ReadError;
use crate::history::as_of::{AsOf as HistoryAsOf, RowAt, Visit};
use crate::ids::{Sequence, Slot};
use crate::metrics::Code;
use crate::recency::{Origin, Status};
use crate::registry::model::View;
use crate::time::{ArrivalTime, EventTime};
use crate::value::layout::Layout;

/// What is asked of history.
pub struct AsOf {
    /// The features.
    pub plan: Arc<LookupPlan>,
    /// The entity keys.
    pub batch: Batch,
    /// The instant of each row; nothing that happened later is seen.
    pub times: Vec<EventTime>,
    /// If given, nothing that arrived later is seen either.
    pub known_at: Option<ArrivalTime>,
    /// Where retention may have taken what is asked, say so of the cell rather than refuse all.
    pub allow_truncated: bool,
}

/// The answers of an as-of read.
pub struct AsOfAnswers {
    ask: AsOf,
    /// Row by row, one state per source of the plan.
    states: Vec<Option<Vec<u8>>>,
    /// The states that retention may have taken rows from, by their place among all, in order.
    truncated: Vec<usize>,
}

impl AsOfAnswers {
    /// Gives the answers of these rows in order: row, column, answer.
    pub fn answer(&self, rows: Range<usize>, mut emit: impl FnMut(usize, usize, Answer<'_>)) {
        let plan = &self.ask.plan.plan;
        let sources = plan.sources.len();
        for row in rows {
            let bytes = &self.states[row * sources..(row + 1) * sources];
            let states: Vec<_> = bytes.iter().map(|bytes| bytes.as_deref().map(state)).collect();
            let now = self.ask.times[row];
            answer_row(plan, &states, now, |column, answer| {
                let place = row * sources + plan.columns[column].source;
                let is_truncated = self.truncated.binary_search(&place).is_ok();
                emit(row, column, if is_truncated { TRUNCATED } else { answer });
            });
        }
    }
}

/// The answer where retention may have taken what was asked: nobody knows what stood there, so no
/// default stands in.
pub(super) const TRUNCATED: Answer<'static> =
    Answer { status: Status::BelowRetentionFloor, value: None, defaulted: false, event_time: None };

/// Reads the states history held at the instants asked. Blocking.
pub(super) fn read(shared: &Shared, ask: AsOf, deadline: Deadline) -> Result<AsOfAnswers, Problem> {
    let plan = &ask.plan.plan;
    let wanted = slots_of_sources(&ask.plan);
    let mut fold = Fold::new(shared, ask.known_at)?;
    let mut truncated = Vec::new();
    let mut states = Vec::with_capacity(ask.batch.rows() * plan.sources.len());
    let registry = shared.registry.load();
    for row in 0..ask.batch.rows() {
        deadline.check()?;
        for (source, wanted) in plan.sources.iter().zip(&wanted) {
            let key = ask.batch.key(row, source.role);
            // The view may have gained features since the plan was compiled.
            let view = registry.view(source.view.id).unwrap_or(&source.view);
            let at = ask.times[row];
            match BelowFloor::check(&fold.history, view, at, ask.known_at) {
                None => states.push(fold.state_at(view, key, at, wanted)?),
                Some(_) if ask.allow_truncated => {
                    truncated.push(states.len());
                    states.push(None);
                }
                Some(below) => {
                    let mut refusal = below.refusal(&registry, view, row);
                    refusal.detail += "; \"allow_truncated\":true answers the other cells";
                    return Err(refusal);
                }
            }
        }
    }
    Ok(AsOfAnswers { ask, states, truncated })
}

/// History as far as it is visible, with what arrived up to `known_at`.
pub(super) fn visible(
    shared: &Shared,
    known_at: Option<ArrivalTime>,
) -> Result<HistoryAsOf, Problem> {
    loop {
        let upto = shared.visible();
        let history = shared.history.as_of(upto, known_at).map_err(|error| damaged(&error))?;
        // A file that was sealed since may lack a row because of a newer one beyond `upto`.
        if history.last_sealed() <= upto {
            return Ok(history);
        }
    }
}

/// Folds the rows of history into states.
pub(super) struct Fold {
    history: HistoryAsOf,
    encoder: Encoder,
}

impl Fold {
    /// Sees the visible rows that arrived up to `known_at`.
    pub(super) fn new(shared: &Shared, known_at: Option<ArrivalTime>) -> Result<Self, Problem> {
        Ok(Self { history: visible(shared, known_at)?, encoder: Encoder::default() })
    }

    /// The state of `key` at `at`, complete in the `wanted` slots.
    pub(super) fn state_at(
        &mut self,
        view: &View,
        key: &[u8],
        at: EventTime,
        wanted: &[Slot],
    ) -> Result<Option<Vec<u8>>, Problem> {
        let mut folding = Folding {
            layout: view.layout(),
            encoder: &mut self.encoder,
            folded: None,
            missing: wanted.to_vec(),
            unfit: None,
        };
        let rows = self.history.rows_before(view.id, key, at, &mut folding);
        rows.map_err(|error| damaged(&error))?;
        match folding.unfit {
            None => Ok(folding.folded),
            Some((sequence, error)) => {
                let detail = format!("row {sequence} of history: {error}");
                Err(Problem::new(Code::Internal, detail))
            }
        }
    }
}

/// The state of one key on its way.
struct Folding<'a> {
    layout: &'a Layout,
    encoder: &'a mut Encoder,
    folded: Option<Vec<u8>>,
    /// Slots without a cell so far.
    missing: Vec<Slot>,
    /// A row that is not what its view says.
    unfit: Option<(Sequence, ArchiveError)>,
}

impl Folding<'_> {
    fn merge(&mut self, row: RowAt<'_>) -> Result<(), ArchiveError> {
        let cells = RowRef::access(row.archive)?;
        cells.check(self.layout)?;
        let from = Origin { event_time: row.event_time, sequence: row.sequence };
        let before = self.folded.as_deref().map(state);
        if let Some(merged) = self.encoder.merge(self.layout, before, cells, from) {
            let merged = self.folded.insert(merged);
            let state = state(merged);
            self.missing.retain(|slot| state.origin(*slot).is_none());
        }
        Ok(())
    }
}

impl Visit for Folding<'_> {
    fn row(&mut self, row: RowAt<'_>) -> ControlFlow<()> {
        if let Err(error) = self.merge(row) {
            self.unfit = Some((row.sequence, error));
            return ControlFlow::Break(());
        }
        if self.missing.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn missing(&self) -> Option<&[Slot]> {
        (!self.missing.is_empty()).then_some(&self.missing)
    }
}

pub(super) fn damaged(error: &ReadError) -> Problem {
    tracing::error!(%error, "history cannot be read");
    Problem::new(Code::Internal, format!("history cannot be read: {error}"))
}
