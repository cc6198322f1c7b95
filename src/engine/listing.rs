//! Lists the entities that have a row.
//!
//! It does not know features; it walks the rows of an entity's views.

use std::collections::{BTreeSet, HashSet};

use crate::engine::error::Problem;
use crate::engine::shared::Shared;
use crate::engine::stores::Store;
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

/// Between the parts of a key in a cursor; no JSON string of a join key is sorted wrongly by it.
const PART_SEPARATOR: char = '\u{1f}';

/// The entities whose first key part starts with `prefix`, after `cursor`, at most `limit`.
pub(super) fn page(
    shared: &Shared,
    entity: &EntityType,
    prefix: &str,
    limit: usize,
    cursor: Option<&str>,
) -> Result<EntityPage, Problem> {
    let types = entity.key_types();
    let mut kept: BTreeSet<String> = BTreeSet::new();
    each_key(shared, entity.id, |bytes| {
        let Some(parts) = key::parts(&types, bytes) else { return };
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let text = parts.join(&PART_SEPARATOR.to_string());
        let after = cursor.is_none_or(|cursor| text.as_str() > cursor);
        if !after || !text.starts_with(prefix) {
            return;
        }
        kept.insert(text);
        if kept.len() > limit + 1 {
            kept.pop_last();
        }
    })?;
    let more = kept.len() > limit;
    if more {
        kept.pop_last();
    }
    let next_cursor = kept.last().filter(|_| more).cloned();
    let split = |text: String| text.split(PART_SEPARATOR).map(str::to_owned).collect();
    Ok(EntityPage { ids: kept.into_iter().map(split).collect(), next_cursor })
}

/// How many entities have a row in any view.
pub(super) fn count(shared: &Shared, entity: EntityTypeId) -> Result<u64, Problem> {
    let mut keys: HashSet<Box<[u8]>, foldhash::fast::RandomState> = HashSet::default();
    each_key(shared, entity, |key| {
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
    mut visit: impl FnMut(&[u8]),
) -> Result<(), Problem> {
    let registry = shared.registry.load();
    for view in registry.all_views().filter(|view| view.entity == entity && view.online) {
        match shared.stores.of(view) {
            Store::Memory(map) => map.pin().iter().for_each(|(key, _)| visit(key)),
            Store::Disk(..) => {
                let history = shared.history.as_of(shared.visible()).map_err(|error| {
                    Problem::new(Code::Internal, format!("history cannot be read: {error}"))
                })?;
                history.each_key(view.id, &mut visit);
            }
        }
    }
    Ok(())
}
