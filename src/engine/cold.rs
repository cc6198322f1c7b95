//! Rows of the disk tier, fetched before a lookup answers from memory; where the tier cannot give
//! one, history does.
//!
//! It does not know how an answer is put together.

use std::sync::Arc;

use crate::engine::as_of::Fold;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Batch, LookupPlan, Outcome};
use crate::engine::pool::Pool;
use crate::engine::shared::Shared;
use crate::engine::stores::{SharedTier, Store};
use crate::ids::{Slot, ViewId};
use crate::metrics::{Code, DiskSource};
use crate::online::{ColdError, HotRead, Source};
use crate::time::{EventTime, Span};

/// The states a lookup needs from disk-tier views.
#[derive(Default)]
pub struct ColdStates {
    sources: usize,
    /// Row by row, one per source of the plan.
    states: Vec<Option<Arc<[u8]>>>,
    read_disk: bool,
    /// Neither the tier nor history gave some state.
    incomplete: bool,
    /// What failed.
    reason: Option<String>,
}

/// One state to be read: its place among the states, its row and its source.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    source: usize,
}

impl ColdStates {
    /// For a plan without disk-tier views.
    pub fn none() -> Self {
        Self::default()
    }

    pub(super) fn state(&self, row: usize, source: usize) -> Option<&[u8]> {
        self.states.get(row * self.sources + source)?.as_deref()
    }

    /// How the lookup that read them went.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            cache_hit: !self.read_disk,
            fallback: self.incomplete,
            fallback_reason: self.reason.clone(),
        }
    }

    fn set(&mut self, place: Place, state: Option<Arc<[u8]>>) {
        self.states[place.row * self.sources + place.source] = state;
    }
}

/// What fetching needs.
pub(super) struct Fetch<'a> {
    pub(super) shared: &'a Arc<Shared>,
    /// Threads that read the tier.
    pub(super) cold_reads: &'a Pool,
    /// Threads that read history.
    pub(super) history_reads: &'a Pool,
    /// How long the tier may take before history is asked.
    pub(super) patience: Span,
    pub(super) deadline: Deadline,
}

impl Fetch<'_> {
    /// Fetches what `plan` needs for `batch`.
    ///
    /// A failure of the tier is answered from history and said so; only a failure of both leaves a
    /// state out, and says that too.
    pub(super) async fn run(self, plan: &Arc<LookupPlan>, batch: &Arc<Batch>) -> ColdStates {
        let sources = plan.stores.len();
        let mut states = ColdStates {
            sources,
            states: vec![None; batch.rows() * sources],
            ..ColdStates::default()
        };
        let (mut cold, mut failed) = (Vec::new(), Vec::new());
        self.read_hot(plan, batch, &mut states, &mut cold, &mut failed);
        if !cold.is_empty() {
            states.read_disk = true;
            self.read_cold(plan, batch, cold, &mut states, &mut failed).await;
        }
        if !failed.is_empty() {
            states.read_disk = true;
            self.read_history(plan, batch, failed, &mut states).await;
        }
        states
    }

    fn read_hot(
        &self,
        plan: &LookupPlan,
        batch: &Batch,
        states: &mut ColdStates,
        cold: &mut Vec<Place>,
        failed: &mut Vec<Place>,
    ) {
        let metrics = &self.shared.metrics;
        for row in 0..batch.rows() {
            for (source, store) in plan.stores.iter().enumerate() {
                let Store::Disk(tier, view) = store else { continue };
                let place = Place { row, source };
                match tier.get_hot(*view, batch.key(row, plan.plan.sources[source].role)) {
                    HotRead::Found(state, found) => {
                        metrics.disk_read(disk_source(found), 1);
                        states.set(place, state);
                    }
                    HotRead::NeedsCold => cold.push(place),
                    HotRead::Rebuilding => {
                        states.reason = Some("the disk tier is being rebuilt".to_owned());
                        failed.push(place);
                    }
                }
            }
        }
    }

    async fn read_cold(
        &self,
        plan: &Arc<LookupPlan>,
        batch: &Arc<Batch>,
        cold: Vec<Place>,
        states: &mut ColdStates,
        failed: &mut Vec<Place>,
    ) {
        let (plan, batch, shared) = (plan.clone(), batch.clone(), self.shared.clone());
        let wanted = cold.clone();
        let patience = Deadline::after(self.patience.min(self.deadline.left()));
        let read = move || -> Vec<_> {
            let read = |place: &Place| {
                let Store::Disk(tier, view) = &plan.stores[place.source] else { return Ok(None) };
                let key = batch.key(place.row, plan.plan.sources[place.source].role);
                read_one(&shared, tier, *view, key)
            };
            wanted.iter().map(read).collect()
        };
        match self.cold_reads.run(patience, read).await {
            Ok(found) => {
                for (place, found) in cold.into_iter().zip(found) {
                    match found {
                        Ok(state) => states.set(place, state),
                        Err(reason) => {
                            states.reason = Some(reason);
                            failed.push(place);
                        }
                    }
                }
            }
            Err(problem) => {
                states.reason = Some(match problem.code {
                    Code::DeadlineExceeded => {
                        format!("the disk tier took longer than {}", self.patience)
                    }
                    _ => problem.detail,
                });
                failed.extend(cold);
            }
        }
    }

    async fn read_history(
        &self,
        plan: &Arc<LookupPlan>,
        batch: &Arc<Batch>,
        places: Vec<Place>,
        states: &mut ColdStates,
    ) {
        let metrics = &self.shared.metrics;
        metrics.disk_read(DiskSource::History, places.len() as u64);
        let (plan, batch, shared) = (plan.clone(), batch.clone(), self.shared.clone());
        let (wanted, deadline) = (places.clone(), self.deadline);
        let read = move || -> Result<Vec<_>, Problem> {
            let mut fold = Fold::new(&shared, None)?;
            let slots = slots_of_sources(&plan);
            let registry = shared.registry.load();
            let read = |place: &Place| {
                let source = &plan.plan.sources[place.source];
                let key = batch.key(place.row, source.role);
                let view = registry.view(source.view.id).unwrap_or(&source.view);
                deadline.check()?;
                fold.state_at(view, key, EventTime::MAX, &slots[place.source])
            };
            wanted.iter().map(read).collect()
        };
        match self.history_reads.run(self.deadline, read).await.and_then(|found| found) {
            Ok(found) => {
                for (place, state) in places.into_iter().zip(found) {
                    states.set(place, state.map(Into::into));
                }
            }
            Err(problem) => {
                let before = states.reason.take().unwrap_or_default();
                states.incomplete = true;
                states.reason = Some(format!("{before}; history did not answer: {problem}"));
            }
        }
    }
}

fn read_one(
    shared: &Shared,
    tier: &SharedTier,
    view: ViewId,
    key: &[u8],
) -> Result<Option<Arc<[u8]>>, String> {
    match tier.tier.get_cold(view, key) {
        Ok((state, source)) => {
            shared.metrics.disk_read(disk_source(source), 1);
            Ok(state)
        }
        Err(error) => {
            let reason = error.to_string();
            if error != ColdError::Rebuilding {
                tier.broke(&reason);
            }
            Err(reason)
        }
    }
}

/// The slots that the columns of each source of a plan read.
pub(super) fn slots_of_sources(plan: &LookupPlan) -> Vec<Vec<Slot>> {
    let plan = &plan.plan;
    let slots = |source: usize| {
        let columns = plan.columns.iter().filter(|column| column.source == source);
        columns.map(|column| column.slot).collect()
    };
    (0..plan.sources.len()).map(slots).collect()
}

fn disk_source(source: Source) -> DiskSource {
    match source {
        Source::Overlay => DiskSource::Overlay,
        Source::Cache => DiskSource::Cache,
        Source::Cold => DiskSource::Store,
    }
}
