//! Lists the entities that have a row.
//!
//! It does not know features; it walks the rows of an entity's views.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use crate::engine::as_of;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::shared::Shared;
use crate::engine::stores::Store;
use crate::history::ReadError;
use crate::ids::EntityTypeId;
use crate::metrics::Code;
use crate::registry::model::EntityType;
use crate::value::key;

/// One page of entities, in the order of their keys' text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityPage {
    /// The parts of each key.
    pub ids: Vec<Vec<String>>,
    /// Where the next page begins, if there is one.
    pub next_cursor: Option<String>,
}

/// Which page of entities is asked for.
pub(super) struct PageAsk<'a> {
    /// What the first key part starts with.
    pub(super) prefix: &'a str,
    /// Entities at most.
    pub(super) limit: usize,
    /// Where the page begins, as the page before said.
    pub(super) cursor: Option<&'a str>,
    pub(super) deadline: Deadline,
}

/// One page of the entities that have a row.
pub(super) fn page(
    shared: &Shared,
    entity: &EntityType,
    ask: PageAsk<'_>,
) -> Result<EntityPage, Problem> {
    let types = entity.key_types();
    let after: Option<Vec<String>> =
        ask.cursor.map(serde_json::from_str).transpose().map_err(|_| {
            Problem::new(Code::MalformedRequest, "the cursor is not one that a page gave")
        })?;
    let mut kept: BTreeSet<Vec<String>> = BTreeSet::new();
    each_key(shared, entity.id, ask.deadline, |bytes| {
        let Some(parts) = key::parts(&types, bytes) else { return };
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let wanted = parts.first().is_some_and(|first| first.starts_with(ask.prefix));
        if !wanted || after.as_ref().is_some_and(|after| parts <= *after) {
            return;
        }
        kept.insert(parts);
        if kept.len() > ask.limit + 1 {
            kept.pop_last();
        }
    })?;
    let more = kept.len() > ask.limit;
    if more {
        kept.pop_last();
    }
    let cursor = |last: &Vec<String>| {
        serde_json::to_string(last).expect("texts can always be written as JSON")
    };
    let next_cursor = kept.last().filter(|_| more).map(cursor);
    Ok(EntityPage { ids: kept.into_iter().collect(), next_cursor })
}

/// How many entities have a row in any view.
pub(super) fn count(
    shared: &Shared,
    entity: EntityTypeId,
    deadline: Deadline,
) -> Result<u64, Problem> {
    let mut keys: HashSet<Box<[u8]>, foldhash::fast::RandomState> = HashSet::default();
    each_key(shared, entity, deadline, |key| {
        if !keys.contains(key) {
            keys.insert(key.into());
        }
    })?;
    Ok(keys.len() as u64)
}

/// Every key that has a row: from the map, or from history for views whose rows lie on disk.
fn each_key(
    shared: &Shared,
    entity: EntityTypeId,
    deadline: Deadline,
    mut visit: impl FnMut(&[u8]),
) -> Result<(), Problem> {
    let registry = shared.registry.load();
    // Asking the time for every key would cost more than the key.
    let mut visited: u32 = 0;
    let mut passed = Ok(());
    let mut visit = |key: &[u8]| {
        visited = visited.wrapping_add(1);
        if visited.is_multiple_of(4096) && passed.is_ok() {
            passed = deadline.check();
        }
        if passed.is_err() {
            return ControlFlow::Break(());
        }
        visit(key);
        ControlFlow::Continue(())
    };
    for view in registry.all_views().filter(|view| view.entity == entity && view.online) {
        match shared.stores.of(view) {
            Store::Memory(map) => {
                // Broken off or not, `passed` says it.
                let _ = map.pin().iter().try_for_each(|(key, _)| visit(key));
            }
            Store::Disk(..) => {
                let damaged = |error: ReadError| {
                    Problem::new(Code::Internal, format!("history cannot be read: {error}"))
                };
                let history = as_of::visible(shared, None)?;
                history.each_key(view.id, &mut visit).map_err(damaged)?;
            }
        }
    }
    passed
}
