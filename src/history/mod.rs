//! The truth: an append-only log of every accepted row and control record, the sealed files it is
//! rewritten into, and reads of both as of any instant.
//!
//! It does not know what rows mean: keys and control records are bytes to it, and of an archive it
//! knows only which features are in it.

pub mod record;

pub mod segment;

pub mod manifest;

pub mod open;

pub mod writer;

pub mod replay;

pub mod pace;

pub mod sealed;

pub mod bounds;

mod base;

mod chain;

mod gathered;

mod index;

pub mod as_of;

pub mod sweep;

pub mod seal;

mod compaction;

pub mod bulk;

pub mod inspect;

pub mod verify;

pub mod backup;

pub mod restore;

pub mod at_rest;

pub mod sizes;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::disk::DiskError;
use crate::ids::{Sequence, StoreId, ViewId};
use bounds::{Bounds, Erased};
use index::Index;
use manifest::RetentionFloor;
use sealed::SealedFile;
use segment::Segment;

/// The reading side of history; shared, and never in the writer's way.
pub struct History {
    store: StoreId,
    segments: RwLock<Vec<Arc<Segment>>>,
    written: AtomicU64,
    durable: AtomicU64,
    index: RwLock<Index>,
    /// The number of the next sealed file.
    next_number: AtomicU64,
    bounds: RwLock<Arc<Bounds>>,
    /// Files that are of history no more, but that somebody may still read.
    let_go: Mutex<Vec<Weak<dyn Any + Send + Sync>>>,
}

impl History {
    fn new(
        store: StoreId,
        segments: Vec<Arc<Segment>>,
        sealed: Vec<Arc<SealedFile>>,
        floors: &[RetentionFloor],
        last: Sequence,
        staged: &[u64],
    ) -> Self {
        let mut bounds = Bounds::default();
        bounds.set_floors(floors);
        let numbers = sealed.iter().map(|file| file.entry().number);
        let highest = numbers.chain(staged.iter().copied()).max();
        Self {
            store,
            segments: RwLock::new(segments),
            written: AtomicU64::new(last.0),
            durable: AtomicU64::new(last.0),
            index: RwLock::new(Index::new(sealed)),
            next_number: AtomicU64::new(highest.map_or(1, |highest| highest + 1)),
            bounds: RwLock::new(Arc::new(bounds)),
            let_go: Mutex::default(),
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

    /// The segment of the log that comes behind the one which begins at `first`.
    fn segment_behind(&self, first: Sequence) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let behind = segments.partition_point(|segment| segment.first() <= first);
        segments.get(behind).cloned()
    }

    /// The segments of the log, the oldest first.
    fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first sequence that is in the log.
    pub fn log_begins(&self) -> Sequence {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.first().map_or(Sequence(1), |segment| segment.first())
    }

    /// The first sequence that is, or will be, in the segment being written.
    pub fn open_begins(&self) -> Sequence {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.last().map_or(Sequence(1), |segment| segment.first())
    }

    /// Segments of the log.
    pub fn log_segments(&self) -> usize {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether some segment of the log ends at or before `upto`.
    pub fn log_has_segment_within(&self, upto: Sequence) -> bool {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.first().is_some_and(|segment| segment.closed().is_some_and(|last| last <= upto))
    }

    /// Lets go of the segments of the log up to the one that begins at `last`; the manifest no
    /// longer names them.
    pub fn forget_segments(&self, last: Sequence) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        for segment in segments.extract_if(.., |segment| segment.first() <= last) {
            self.let_go(&segment);
        }
    }

    /// A file is of history no more. Removed, its bytes stay until the last who reads it is done.
    fn let_go<T: Any + Send + Sync>(&self, file: &Arc<T>) {
        let file: Weak<T> = Arc::downgrade(file);
        let mut let_go = self.let_go.lock().unwrap_or_else(PoisonError::into_inner);
        let_go.retain(|file| file.strong_count() > 0);
        let_go.push(file);
    }

    /// Whether nobody reads a file any more that is no longer of history.
    pub fn is_all_let_go(&self) -> bool {
        let mut let_go = self.let_go.lock().unwrap_or_else(PoisonError::into_inner);
        let_go.retain(|file| file.strong_count() > 0);
        let_go.is_empty()
    }

    /// The names of the files that are of history now.
    pub fn file_names(&self) -> HashSet<String> {
        let sealed = self.sealed();
        let sealed = sealed.iter().map(|file| sealed::name_of(file.entry().number));
        let segments = self.segments();
        let name = |segment: &Arc<Segment>| {
            segment.path().file_name().map(|name| name.to_string_lossy().into_owned())
        };
        sealed.chain(segments.iter().filter_map(name)).collect()
    }

    /// What may no longer be seen, as it stands.
    pub fn bounds(&self) -> Arc<Bounds> {
        self.bounds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the floors in force that the manifest has.
    pub fn set_floors(&self, floors: &[RetentionFloor]) {
        self.change_bounds(|bounds| bounds.set_floors(floors));
    }

    /// Hides the rows of `key` in `views` below a sequence, from reads that run too.
    pub fn erase(&self, views: &[ViewId], key: &[u8], below: Sequence) {
        self.bounds().erase(views, key, below);
    }

    /// Hides the rows of `views` below a sequence, from reads that run too.
    pub fn erase_views(&self, views: &[ViewId], below: Sequence) {
        self.bounds().erase_views(views, below);
    }

    /// Hides these rows and no others any more, of which none is left.
    pub fn set_erased(&self, erased: Erased) {
        self.change_bounds(|bounds| bounds.set_erased(erased));
    }

    fn change_bounds(&self, change: impl FnOnce(&mut Bounds)) {
        let mut bounds = self.bounds.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Bounds::clone(&bounds);
        change(&mut changed);
        *bounds = Arc::new(changed);
    }

    fn push_segment(&self, segment: Arc<Segment>) {
        self.replace_segment(None, segment);
    }

    /// Takes up the segment that is written from now on, in the place of one that had no record
    /// or behind all.
    fn replace_segment(&self, emptied: Option<Sequence>, next: Arc<Segment>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.retain(|segment| Some(segment.first()) != emptied);
        segments.push(next);
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
