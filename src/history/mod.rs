//! The truth: an append-only log of every accepted row and control record, and reads of it as of
//! any instant.
//!
//! It does not know what rows mean: keys, archives and control records are bytes to it.

pub mod record;

pub mod segment;

pub mod manifest;

pub mod open;

pub mod writer;

pub mod replay;

pub mod pace;

pub mod sealed;

pub mod index;

pub mod inspect;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::disk::DiskError;
use crate::ids::{Sequence, StoreId};
use index::Index;
use segment::Segment;

/// The reading side of history; shared, and never in the writer's way.
pub struct History {
    store: StoreId,
    segments: RwLock<Vec<Arc<Segment>>>,
    written: AtomicU64,
    durable: AtomicU64,
    index: RwLock<Index>,
}

impl History {
    fn new(store: StoreId, segments: Vec<Arc<Segment>>, last: Sequence) -> Self {
        Self {
            store,
            segments: RwLock::new(segments),
            written: AtomicU64::new(last.0),
            durable: AtomicU64::new(last.0),
            index: RwLock::default(),
        }
    }

    /// The store's identity.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// The last sequence written; not yet durable where it is above [`Self::durable`].
    pub fn written(&self) -> Sequence {
        Sequence(self.written.load(Ordering::Acquire))
    }

    /// The last sequence known to be durable. Nothing derived may pass it.
    pub fn durable(&self) -> Sequence {
        Sequence(self.durable.load(Ordering::Acquire))
    }

    /// The segment whose first sequence is the highest at or below `sequence`; the first of all
    /// if none is.
    fn segment_of(&self, sequence: Sequence) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.first() <= sequence);
        segments.get(after.saturating_sub(1)).cloned()
    }

    fn push_segment(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }
}

/// Bytes on disk that are not what was written there. Nothing is answered around them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {reason}", path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

/// Why history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A segment is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
}
