//! Blocks of sealed files kept in memory, up to a number of bytes.
//!
//! It does not know files or checksums: what is put here has been checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::BLOCK_BYTES;
use super::fences::Fences;
use super::rows::Rows;

/// What the cache takes for a block beside its bytes.
const ENTRY_BYTES: u64 = 200;

/// A checked block.
#[derive(Clone, Debug)]
pub(super) enum Block {
    Rows(Arc<Rows>),
    Fences(Arc<Fences>),
}

/// A file as the cache knows it, and where the block stands in it.
type Key = (u64, u64);

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Key, Block> for Weigh {
    fn weight(&self, _: &Key, block: &Block) -> u64 {
        let bytes = match block {
            Block::Rows(rows) => rows.bytes(),
            Block::Fences(fences) => fences.bytes(),
        };
        bytes as u64 + ENTRY_BYTES
    }
}

/// The blocks in memory, of all files of a store.
pub struct Blocks {
    cache: Cache<Key, Block, Weigh, RandomState>,
    files: AtomicU64,
}

impl Blocks {
    /// Keeps up to `bytes`.
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        let lifecycle = DefaultLifecycle::default();
        let cache = Cache::with(items.max(1), bytes, Weigh, RandomState::default(), lifecycle);
        Self { cache, files: AtomicU64::new(0) }
    }

    /// A number for a file that was opened; never given again.
    pub(super) fn number_file(&self) -> u64 {
        self.files.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, file: u64, offset: u64) -> Option<Block> {
        self.cache.get(&(file, offset))
    }

    pub(super) fn put(&self, file: u64, offset: u64, block: Block) {
        self.cache.insert((file, offset), block);
    }
}
