//! Where the online state of each view lives: in memory, or on disk behind a bounded overlay.
//!
//! It does not know what a state says.

use std::sync::Arc;

use crate::ids::ViewId;
use crate::online::{Online, ViewMap};
use crate::registry::model::{Tier, View};

/// The store of one view.
#[derive(Clone)]
pub(super) enum Store {
    /// Every row in memory.
    Memory(Arc<ViewMap>),
}

/// A store that could not be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum StoreError {}

/// The stores of all views.
#[derive(Default)]
pub(super) struct Stores {
    pub(super) online: Online,
}

impl Stores {
    /// The store of `view`, created empty if there is none yet.
    pub(super) fn of(&self, view: &View) -> Store {
        match view.tier {
            Tier::Memory | Tier::Disk => Store::Memory(self.online.view(view.id)),
        }
    }

    /// Lets go of every view that is not wanted.
    pub(super) fn keep_only(&self, wanted: impl Fn(ViewId) -> bool) {
        for (view, _) in self.online.views() {
            if !wanted(view) {
                self.online.drop_view(view);
            }
        }
    }

    /// Rows per view.
    pub(super) fn rows(&self) -> Vec<(ViewId, u64)> {
        self.online.views().into_iter().map(|(view, map)| (view, map.len() as u64)).collect()
    }
}

impl Store {
    /// Replaces the state of `key` by what `change` makes of it; none changes nothing. Returns
    /// whether it did.
    pub(super) fn update(
        &self,
        key: &[u8],
        change: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Memory(map) => {
                let map = map.pin();
                let changed = change(map.get(key));
                if let Some(state) = &changed {
                    map.put(key, state);
                }
                Ok(changed.is_some())
            }
        }
    }

    /// A copy of the state of `key`.
    pub(super) fn copy(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Memory(map) => Ok(map.pin().get(key).map(<[u8]>::to_vec)),
        }
    }

    /// Gives every key that has a state.
    pub(super) fn each_key(&self, visit: &mut impl FnMut(&[u8])) -> Result<(), StoreError> {
        match self {
            Self::Memory(map) => map.pin().iter().for_each(|(key, _)| visit(key)),
        }
        Ok(())
    }
}
