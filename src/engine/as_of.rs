//! Answers "then": the features as they stood at given instants, from history alone, with nothing
//! from the future.
//!
//! It does not know the online map; what is newer, fresh or a default is decided by the same code
//! as for "now".

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::archive::{Encoder, RowRef};
use crate::engine::cold::slots_of_sources;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Answer, Batch, LookupPlan, answer_row, state};
use crate::engine::shared::Shared;
use crate::history::index::{AsOf as HistoryAsOf, RowAt};
use crate::history::{History, ReadError};
use crate::ids::{Sequence, Slot};
use crate::metrics::Code;
use crate::recency::Origin;
use crate::registry::model::View;
use crate::time::{ArrivalTime, EventTime};

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
}

/// The answers of an as-of read.
pub struct AsOfAnswers {
    ask: AsOf,
    /// Row by row, one state per source of the plan.
    states: Vec<Option<Vec<u8>>>,
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
            answer_row(plan, &states, now, |column, answer| emit(row, column, answer));
        }
    }
}

/// Reads the states history held at the instants asked. Blocking.
pub(super) fn read(shared: &Shared, ask: AsOf, deadline: Deadline) -> Result<AsOfAnswers, Problem> {
    let mut upto = shared.visible();
    if let Some(known_at) = ask.known_at {
        upto = upto.min(shared.history.sequence_at(known_at).map_err(|error| damaged(&error))?);
    }
    let plan = &ask.plan.plan;
    let wanted = slots_of_sources(&ask.plan);
    let mut fold = Fold::new(&shared.history, upto)?;
    let mut states = Vec::with_capacity(ask.batch.rows() * plan.sources.len());
    let registry = shared.registry.load();
    for row in 0..ask.batch.rows() {
        deadline.check()?;
        for (source, wanted) in plan.sources.iter().zip(&wanted) {
            let key = ask.batch.key(row, source.role);
            // The view may have gained features since the plan was compiled.
            let view = registry.view(source.view.id).unwrap_or(&source.view);
            states.push(fold.state_at(view, key, ask.times[row], wanted)?);
        }
    }
    Ok(AsOfAnswers { ask, states })
}

/// Folds the rows of history into states.
pub(super) struct Fold<'h> {
    history: HistoryAsOf<'h>,
    encoder: Encoder,
}

impl<'h> Fold<'h> {
    /// Sees the rows up to the sequence `upto`.
    pub(super) fn new(history: &'h History, upto: Sequence) -> Result<Self, Problem> {
        let history = history.as_of(upto).map_err(|error| damaged(&error))?;
        Ok(Self { history, encoder: Encoder::default() })
    }

    /// The state of `key` at `at`, complete in the `wanted` slots.
    pub(super) fn state_at(
        &mut self,
        view: &View,
        key: &[u8],
        at: EventTime,
        wanted: &[Slot],
    ) -> Result<Option<Vec<u8>>, Problem> {
        let layout = view.layout();
        let mut folded: Option<Vec<u8>> = None;
        let mut unfit = None;
        let encoder = &mut self.encoder;
        let mut visit = |row: RowAt<'_>| {
            let cells = match RowRef::access(row.archive) {
                Ok(cells) => match cells.check(layout) {
                    Ok(()) => cells,
                    Err(error) => {
                        unfit = Some((row.sequence, error));
                        return ControlFlow::Break(());
                    }
                },
                Err(error) => {
                    unfit = Some((row.sequence, error));
                    return ControlFlow::Break(());
                }
            };
            let from = Origin { event_time: row.event_time, sequence: row.sequence };
            let merged = encoder.merge(layout, folded.as_deref().map(state), cells, from);
            folded = merged.or(folded.take());
            let complete = folded
                .as_deref()
                .map(state)
                .is_some_and(|state| wanted.iter().all(|slot| state.origin(*slot).is_some()));
            if complete { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        self.history.rows_before(view.id, key, at, &mut visit).map_err(|error| damaged(&error))?;
        match unfit {
            None => Ok(folded),
            Some((sequence, error)) => {
                let detail = format!("row {sequence} of history: {error}");
                Err(Problem::new(Code::Internal, detail))
            }
        }
    }
}

fn damaged(error: &ReadError) -> Problem {
    tracing::error!(%error, "history cannot be read");
    Problem::new(Code::Internal, format!("history cannot be read: {error}"))
}
