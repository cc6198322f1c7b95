//! Answers "now" from memory: plan, online rows, recency and defaults, in the order asked.
//!
//! It does not know how an answer is written, nor reads files: rows of the disk tier are fetched
//! first, by `cold`.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::archive::StateRef;
use crate::engine::cold::ColdStates;
use crate::engine::stores::{Store, Stores};
use crate::ids::ProjectId;
use crate::recency::{Status, is_fresh};
use crate::registry::plan::{Ask, Column, Plan, What};
use crate::time::EventTime;
use crate::value::cell::{CellRef, ValueRef};

/// A [`Plan`] with the maps it reads, compiled once per request shape.
pub struct LookupPlan {
    /// The names and places.
    pub plan: Arc<Plan>,
    /// One per source of the plan.
    pub(super) stores: Vec<Store>,
}

impl LookupPlan {
    pub(super) fn new(plan: Plan, stores: &Stores) -> Self {
        let stores = plan.sources.iter().map(|source| stores.of(&source.view)).collect();
        Self { plan: Arc::new(plan), stores }
    }

    /// Whether a view of it lies on disk, so that `fetch_cold` has to run first.
    pub fn has_disk_tier(&self) -> bool {
        self.stores.iter().any(|store| matches!(store, Store::Disk(..)))
    }

    /// Answers these rows of `batch` as of `now`, row by row, columns in the plan's order. Reads
    /// memory only and never blocks.
    pub fn answer(
        &self,
        batch: &Batch,
        rows: Range<usize>,
        cold: &ColdStates,
        now: EventTime,
        mut emit: impl FnMut(usize, usize, Answer<'_>),
    ) {
        let pinned: SmallVec<[_; 2]> = self
            .stores
            .iter()
            .map(|store| match store {
                Store::Memory(map) => Some(map.pin()),
                Store::Disk(..) => None,
            })
            .collect();
        let sources = &self.plan.sources;
        let mut states: SmallVec<[_; 4]> = SmallVec::new();
        states.reserve(sources.len() * rows.len().min(ROWS_AT_ONCE));
        for first in rows.clone().step_by(ROWS_AT_ONCE) {
            let some = first..rows.end.min(first + ROWS_AT_ONCE);
            states.clear();
            for row in some.clone() {
                for (index, source) in sources.iter().enumerate() {
                    let bytes = match &pinned[index] {
                        Some(map) => map.get(batch.key(row, source.role)),
                        None => cold.state(row, index),
                    };
                    states.push(bytes.map(state));
                }
            }
            for (row, states) in some.zip(states.chunks(sources.len().max(1))) {
                answer_row(&self.plan, states, now, |column, answer| emit(row, column, answer));
            }
        }
    }
}

/// Rows found before the first of them is answered. They lie all over memory, and a processor
/// waits for several at once only where nothing else stands between them.
const ROWS_AT_ONCE: usize = 16;

/// Bytes of an encoded key that is a number, or a short text.
const SHORT_KEY: usize = 16;

/// The entity keys of a lookup: per row one encoded key for each role of the plan, in its order.
#[derive(Clone, Debug)]
pub struct Batch {
    roles: usize,
    bytes: Vec<u8>,
    /// Where each key ends, row by row.
    ends: Vec<usize>,
}

impl Batch {
    /// An empty batch for a plan with `roles` roles.
    pub fn new(roles: usize) -> Self {
        Self { roles, bytes: Vec::new(), ends: Vec::new() }
    }

    /// An empty batch with room for so many rows of short keys.
    pub fn with_capacity(roles: usize, rows: usize) -> Self {
        let keys = roles.saturating_mul(rows);
        let bytes = Vec::with_capacity(keys.saturating_mul(SHORT_KEY));
        Self { roles, bytes, ends: Vec::with_capacity(keys) }
    }

    /// Makes room for so many more rows like those that are there, and for no more.
    pub(super) fn reserve(&mut self, rows: usize) {
        let each = self.bytes.len().div_ceil(self.rows().max(1));
        self.bytes.reserve_exact(rows.saturating_mul(each));
        self.ends.reserve_exact(rows.saturating_mul(self.roles));
    }

    /// Adds the next key of the row under way, as `write` appends it: one for each role, in order.
    ///
    /// # Errors
    /// What `write` says; the batch is then as it was.
    pub fn push_key<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        write(&mut self.bytes).inspect_err(|_| self.bytes.truncate(start))?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If there is not one key per role.
    pub fn push_row(&mut self, keys: &[&[u8]]) {
        assert_eq!(keys.len(), self.roles, "one key per role");
        for key in keys {
            self.bytes.extend_from_slice(key);
            self.ends.push(self.bytes.len());
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ends.len().checked_div(self.roles).unwrap_or(0)
    }

    /// Bytes of all keys.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn key(&self, row: usize, role: usize) -> &[u8] {
        let index = row * self.roles + role;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// What became of one feature of one row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answer<'a> {
    /// What was found.
    pub status: Status,
    /// The value; where it is missing, null or expired the feature's default.
    pub value: Option<ValueRef<'a>>,
    /// Whether `value` is the default.
    pub defaulted: bool,
    /// When the value, null or expired value happened.
    pub event_time: Option<EventTime>,
}

/// How a lookup went as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Nothing was read from disk.
    pub cache_hit: bool,
    /// At least one default stands in because something failed, not because it was missing.
    pub fallback: bool,
    /// What failed, where history or defaults stood in.
    pub fallback_reason: Option<String>,
}

/// Reads a state that was checked when it entered the store.
pub(super) fn state(bytes: &[u8]) -> StateRef<'_> {
    StateRef::access(bytes).expect("states are checked when they enter a store")
}

/// Answers the columns of one row from the state of each source.
pub(super) fn answer_row(
    plan: &Plan,
    states: &[Option<StateRef<'_>>],
    now: EventTime,
    mut emit: impl FnMut(usize, Answer<'_>),
) {
    for (index, column) in plan.columns.iter().enumerate() {
        emit(index, answer_column(column, states[column.source].as_ref(), now));
    }
}

#[inline]
fn answer_column<'a>(
    column: &'a Column,
    state: Option<&StateRef<'a>>,
    now: EventTime,
) -> Answer<'a> {
    let origin = state.and_then(|state| state.origin(column.slot));
    let event_time = origin.map(|origin| origin.event_time);
    let cell = || state.map_or(CellRef::Absent, |state| state.cell_at(column.place, column.slot));
    judge(column, event_time, cell, now)
}

/// Answers a column from the newest cell of its feature and when that happened: the one definition
/// of status, freshness and default, shared by lookup, as-of and training.
#[inline]
pub(super) fn judge<'a>(
    column: &'a Column,
    event_time: Option<EventTime>,
    cell: impl FnOnce() -> CellRef<'a>,
    now: EventTime,
) -> Answer<'a> {
    let status = match event_time {
        None => Status::NotFound,
        Some(time) if !is_fresh(time, now, column.ttl) => Status::OutsideMaxAge,
        Some(_) => match cell() {
            CellRef::Value(value) => {
                let (status, value) = (Status::Present, Some(value));
                return Answer { status, value, defaulted: false, event_time };
            }
            CellRef::Null => Status::NullValue,
            CellRef::Absent => Status::NotFound,
        },
    };
    let value = column.default.as_ref().map(|default| default.borrowed());
    Answer { status, value, defaulted: value.is_some(), event_time }
}

/// The bytes a plan is found by: everything that decides how it compiles, but the registry.
pub(super) fn shape(project: ProjectId, ask: &Ask<'_>) -> Box<[u8]> {
    let mut shape = project.0.to_le_bytes().to_vec();
    shape.push(ask.purpose as u8);
    let names: &[&str] = match &ask.what {
        What::Features(names) => names,
        What::Service(name) => std::slice::from_ref(name),
    };
    shape.push(u8::from(matches!(ask.what, What::Service(_))));
    shape.push(u8::from(ask.entity_type.is_some()));
    for name in ask.entity_type.iter().chain(names) {
        shape.extend_from_slice(&name.len().to_le_bytes());
        shape.extend_from_slice(name.as_bytes());
    }
    shape.into()
}

/// The plans the doors asked for, by shape.
pub(super) type Plans = quick_cache::sync::Cache<Box<[u8]>, Arc<LookupPlan>>;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan that asks for nothing.
    pub(crate) fn plan(revision: u64) -> LookupPlan {
        let plan = Plan { revision, roles: vec![], sources: vec![], columns: vec![] };
        LookupPlan { plan: Arc::new(plan), stores: vec![] }
    }
}
