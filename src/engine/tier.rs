//! Wires the disk tier of `online` to the store that `checkpoint` keeps in sled.
//!
//! It does not know rows; it passes bytes from one to the other.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::{SledTier, TierError};
use crate::disk::Disk;
use crate::engine::stores::OpenTier;
use crate::ids::{Sequence, StoreId};
use crate::online::{ColdError, ColdRow, ColdStore, DiskTier, TierLimits};

/// Where the tier lies and what it must belong to.
pub(super) struct TierPlace {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) store: StoreId,
    pub(super) history_end: Sequence,
    pub(super) limits: TierLimits,
}

/// Opens the tier when the first view asks for it. One that cannot be opened answers nothing, so
/// that history does.
pub(super) fn opener(place: TierPlace) -> OpenTier {
    Box::new(move || {
        let TierPlace { disk, directory, store, history_end, limits } = &place;
        match SledTier::open(disk.clone(), directory, *store, *history_end) {
            Ok((tier, opened)) => {
                if let Some(reason) = opened.reset {
                    tracing::warn!(reason, "set the disk tier aside; history rebuilds it");
                }
                DiskTier::new(Box::new(Wired(tier)), opened.moved, *limits)
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::error!(reason, "the disk tier cannot be opened; history answers for it");
                DiskTier::new(Box::new(Unavailable { reason }), Sequence::ZERO, *limits)
            }
        }
    })
}

struct Wired(SledTier);

fn store(error: TierError) -> ColdError {
    ColdError::Store { reason: error.to_string() }
}

impl ColdStore for Wired {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        self.0.get(key).map_err(store)
    }

    fn put_batch(&self, rows: &[ColdRow], highest: Sequence) -> Result<(), ColdError> {
        self.0.put_batch(rows, highest).map_err(store)
    }

    fn flush(&self, moved: Sequence) -> Result<(), ColdError> {
        self.0.flush(moved).map_err(store)
    }

    fn remove_some(&self, prefix: &[u8]) -> Result<bool, ColdError> {
        self.0.remove_some(prefix).map_err(store)
    }

    fn first_key(&self, from: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        self.0.first_key(from).map_err(store)
    }

    fn destroy(&self) -> Result<(), ColdError> {
        self.0.destroy().map_err(store)
    }

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

/// Stands in for a tier that cannot be opened.
struct Unavailable {
    reason: String,
}

impl Unavailable {
    fn refuse<T>(&self) -> Result<T, ColdError> {
        Err(ColdError::Store { reason: self.reason.clone() })
    }
}

impl ColdStore for Unavailable {
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        self.refuse()
    }

    fn put_batch(&self, _rows: &[ColdRow], _highest: Sequence) -> Result<(), ColdError> {
        self.refuse()
    }

    fn flush(&self, _moved: Sequence) -> Result<(), ColdError> {
        self.refuse()
    }

    fn remove_some(&self, _prefix: &[u8]) -> Result<bool, ColdError> {
        self.refuse()
    }

    fn first_key(&self, _from: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        self.refuse()
    }

    fn destroy(&self) -> Result<(), ColdError> {
        self.refuse()
    }

    fn bytes(&self) -> u64 {
        0
    }
}
