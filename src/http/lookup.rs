//! Runs a lookup, now or as of an instant, so that each door only has to write the answers.
//!
//! It does not know how requests or answers are written.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::as_of::{AsOf, AsOfAnswers};
use crate::engine::cold::ColdStates;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Answer, Batch, LookupPlan, Outcome};
use crate::ids::Sequence;
use crate::registry::resolve::Purpose;
use crate::time::{ArrivalTime, EventTime};

/// Values answered in one go: about a quarter of a millisecond.
const VALUES_AT_ONCE: usize = 16_384;

/// Which instants are asked about.
pub(super) enum When {
    /// This moment.
    Now,
    /// One instant for every row.
    At { at: EventTime, allow_truncated: bool },
    /// An instant per row, and what had arrived by then or by another one.
    Each { times: Vec<EventTime>, known_at: Option<ArrivalTime>, allow_truncated: bool },
}

impl When {
    /// What the plan is for.
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Now => Purpose::Online,
            Self::At { .. } | Self::Each { .. } => Purpose::AsOf,
        }
    }
}

/// A lookup whose rows are at hand.
pub(super) struct Found<'p> {
    /// The instant it holds at; for many instants, now.
    pub(super) at: EventTime,
    plan: &'p LookupPlan,
    rows: usize,
    source: Source,
}

enum Source {
    Memory(Batch),
    Disk(Arc<Batch>, ColdStates),
    History(Box<AsOfAnswers>),
}

/// Brings the rows to hand.
///
/// # Errors
/// The deadline passed while rows were read from disk or history, or history cannot be read.
pub(super) async fn find<'p>(
    engine: &Arc<Engine>,
    plan: &'p Arc<LookupPlan>,
    batch: Batch,
    when: When,
    deadline: Deadline,
) -> Result<Found<'p>, Problem> {
    let rows = batch.rows();
    let (at, times, known_at, allow_truncated) = match when {
        When::Now => {
            let source = if plan.has_disk_tier() {
                let batch = Arc::new(batch);
                let cold = Box::pin(engine.fetch_cold(plan, &batch, deadline)).await;
                // What could not be read in time looks like what was never written.
                deadline.check()?;
                Source::Disk(batch, cold)
            } else {
                Source::Memory(batch)
            };
            return Ok(Found { at: engine.now(), plan, rows, source });
        }
        When::At { at, allow_truncated } => (at, vec![at; rows], None, allow_truncated),
        When::Each { times, known_at, allow_truncated } => {
            (engine.now(), times, known_at, allow_truncated)
        }
    };
    let ask = AsOf { plan: Arc::clone(plan), batch, times, known_at, allow_truncated };
    let answers = Box::pin(engine.as_of(ask, deadline)).await?;
    Ok(Found { at, plan, rows, source: Source::History(Box::new(answers)) })
}

/// Waits until `sequence` is visible, if one is named.
pub(super) async fn wait_for(
    engine: &Engine,
    sequence: Option<Sequence>,
    deadline: Deadline,
) -> Result<(), Problem> {
    match sequence {
        Some(sequence) => engine.wait_for(sequence, deadline).await,
        None => Ok(()),
    }
}

impl Found<'_> {
    /// How it went.
    pub(super) fn outcome(&self) -> Outcome {
        match &self.source {
            Source::Memory(_) => ColdStates::none().outcome(),
            Source::Disk(_, cold) => cold.outcome(),
            Source::History(_) => {
                Outcome { cache_hit: false, fallback: false, fallback_reason: None }
            }
        }
    }

    /// Gives every answer in order: row, column, answer. Lets other requests of the thread go on
    /// between some thousands.
    pub(super) async fn for_each(&self, mut emit: impl FnMut(usize, usize, &Answer<'_>)) {
        let step = (VALUES_AT_ONCE / self.plan.plan.columns.len().max(1)).max(1);
        for first in (0..self.rows).step_by(step) {
            if first > 0 {
                tokio::task::yield_now().await;
            }
            let some = first..self.rows.min(first + step);
            let emit = |row, column, answer: Answer<'_>| emit(row, column, &answer);
            match &self.source {
                Source::Memory(batch) => {
                    self.plan.answer(batch, some, &ColdStates::none(), self.at, emit);
                }
                Source::Disk(batch, cold) => {
                    self.plan.answer(batch, some, cold, self.at, emit);
                }
                Source::History(answers) => answers.answer(some, emit),
            }
        }
    }
}
