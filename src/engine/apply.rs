//! Brings accepted rows into the online stores: the only way there, for live writes and for replay
//! alike.
//!
//! It does not know whether a row was just written or is being recovered; what a state already
//! covers changes nothing twice.

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::{ArchiveError, Encoder, RowRef, StateRef};
use crate::engine::lookup::state;
use crate::engine::stores::{Erasing, Store, Stores};
use crate::history::record::Row;
use crate::ids::{Sequence, ViewId};
use crate::recency::Origin;
use crate::registry::Registry;
use crate::registry::model::View;

/// What a row did to the online state of its entity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Applied {
    /// At least one feature is newer now.
    Changed,
    /// Newer values are there, or it was applied before.
    Superseded,
    /// Its view has no online state, or is no longer there.
    NotOnline,
}

/// Why a row could not be applied: it is not what its view's layout says.
#[derive(Debug, thiserror::Error)]
#[error("row {sequence} of view {view}: {source}")]
pub(super) struct ApplyError {
    /// Its place in history.
    sequence: Sequence,
    /// Its view.
    view: ViewId,
    /// What is wrong.
    source: ArchiveError,
}

/// The registered views with their stores, and the buffers to merge rows in.
#[derive(Default)]
pub(super) struct Applier {
    encoder: Encoder,
    targets: HashMap<ViewId, Target>,
}

struct Target {
    view: Arc<View>,
    store: Option<Store>,
}

impl Applier {
    /// Takes up the views of `registry`, and lets go of the stores of those it no longer has, or
    /// no longer has online. `online` never becomes true again, so nothing is missed.
    pub(super) fn take_up(&mut self, registry: &Registry, stores: &Stores) {
        let stored = self.targets.iter().filter(|(_, target)| target.store.is_some());
        for (view, _) in stored {
            if registry.view(*view).is_none_or(|view| !view.online) {
                stores.drop_view(*view);
            }
        }
        self.targets = registry
            .all_views()
            .map(|view| {
                let store = view.online.then(|| stores.of(view));
                (view.id, Target { view: view.clone(), store })
            })
            .collect();
    }

    /// Merges one row into the state of its entity. `checked` rows were encoded by this process;
    /// others are checked against their view first.
    pub(super) fn apply(
        &mut self,
        row: &Row<'_>,
        sequence: Sequence,
        checked: bool,
    ) -> Result<Applied, ApplyError> {
        let Some(Target { view, store: Some(store) }) = self.targets.get(&row.view) else {
            return Ok(Applied::NotOnline);
        };
        let archive = |source| ApplyError { sequence, view: row.view, source };
        let cells = RowRef::access(row.archive).map_err(archive)?;
        if !checked {
            cells.check(view.layout()).map_err(archive)?;
        }
        let from = Origin { event_time: row.event_time, sequence };
        let encoder = &mut self.encoder;
        let mut stale = false;
        let changed = store.update(row.key, |old| {
            let old = old.map(state);
            // A rebuild of the disk tier may know an older registry than the writer beside it.
            stale = old.is_some_and(|old| old.slots() > view.layout().len());
            if stale { None } else { encoder.merge(view.layout(), old, cells, from) }
        });
        if stale {
            let reason = "its entity's state has features that this registry does not know";
            return Err(archive(ArchiveError::Unfit { reason }));
        }
        Ok(if changed { Applied::Changed } else { Applied::Superseded })
    }

    /// Takes what rows below a sequence brought out of the state of `key`.
    pub(super) fn erase(&mut self, view: ViewId, key: &[u8], below: Sequence) {
        let Some(Target { view, store: Some(store) }) = self.targets.get(&view) else { return };
        let encoder = &mut self.encoder;
        store.erase(key, below, |old| {
            let old = state(old);
            if old.oldest_sequence() >= below {
                return Erasing::Nothing;
            }
            encoder.without(view.layout(), old, below).map_or(Erasing::All, Erasing::To)
        });
    }

    /// Whether rows of `view` lie on disk.
    pub(super) fn is_on_disk(&self, view: ViewId) -> bool {
        let store = self.targets.get(&view).and_then(|target| target.store.as_ref());
        matches!(store, Some(Store::Disk(..)))
    }

    /// How many rows of each request would be superseded if they were applied one after another.
    /// Each row comes with the index of its request and the sequence it will have.
    pub(super) fn preview<'a>(
        &mut self,
        rows: impl Iterator<Item = (usize, Row<'a>, Sequence)>,
        requests: usize,
    ) -> Result<Vec<u64>, ApplyError> {
        let mut ahead: HashMap<(ViewId, &'a [u8]), Vec<u8>> = HashMap::new();
        let mut superseded = vec![0; requests];
        for (request, row, sequence) in rows {
            let Some(Target { view, store: Some(store) }) = self.targets.get(&row.view) else {
                continue;
            };
            let archive = |source| ApplyError { sequence, view: row.view, source };
            let cells = RowRef::access(row.archive).map_err(archive)?;
            let from = Origin { event_time: row.event_time, sequence };
            let entity = (row.view, row.key);
            let stored;
            let old: Option<StateRef<'_>> = match ahead.get(&entity) {
                Some(state_ahead) => Some(state(state_ahead)),
                None => {
                    stored = store.copy(row.key);
                    stored.as_deref().map(state)
                }
            };
            match self.encoder.merge(view.layout(), old, cells, from) {
                Some(merged) => {
                    ahead.insert(entity, merged);
                }
                None => superseded[request] += 1,
            }
        }
        Ok(superseded)
    }
}
