//! Copies of the online map on disk that make a restart fast; the only place that names sled.
//!
//! It does not know what a state says, nor history: it is never the only copy of anything, and
//! whatever is odd about it is set aside and rebuilt from history.

mod block;

mod door;

mod load;

mod sled_checkpoint;

mod sled_tier;

mod watermark;

mod describe;

use crate::ids::{Sequence, StoreId, ViewId};

pub use describe::describe;
pub use sled_checkpoint::SledCheckpoint;
pub use sled_tier::{SledTier, TierError, TierOpened, TierRow, check as check_tier};
pub use watermark::Watermark;

/// Somewhere to keep copies of the online map: the two newest finished ones are kept.
pub trait Checkpoint: Send + Sync {
    /// Begins a new generation. `covered` is the last sequence applied to the map before the scan
    /// that feeds it began: every state in it is that new or newer.
    ///
    /// # Errors
    /// The disk or the store behind it refused; earlier generations stand.
    fn begin(
        &self,
        store: StoreId,
        covered: Sequence,
    ) -> Result<Box<dyn CheckpointWriter>, CheckpointError>;

    /// Hands every row of the newest whole generation to `sink`, from up to two threads. A
    /// generation that is odd, of another store, ahead of `history_end` or too slow is set aside
    /// (its directory removed) after [`Sink::clear`], and the one before it is tried.
    fn load(&self, store: StoreId, history_end: Sequence, sink: &dyn Sink) -> Load;

    /// The finished generations there are, newest first, by their own word. History may drop only
    /// what all of them cover.
    ///
    /// # Errors
    /// The disk's.
    fn generations(&self) -> Result<Vec<Watermark>, CheckpointError>;

    /// Removes everything.
    ///
    /// # Errors
    /// The disk's.
    fn destroy(&self) -> Result<(), CheckpointError>;
}

/// A generation being written, one at a time. Dropped unfinished, it is removed by the next one.
pub trait CheckpointWriter: Send {
    /// Adds one row.
    ///
    /// # Errors
    /// The disk or the store behind it refused; the generation is lost.
    fn add(&mut self, view: ViewId, key: &[u8], state: &[u8]) -> Result<(), CheckpointError>;

    /// Makes it durable, then declares it whole. `highest` is a durable sequence that no state in
    /// it is newer than, such as the last one applied when the scan ended.
    ///
    /// # Errors
    /// The disk or the store behind it refused; the generation is lost, earlier ones stand.
    fn finish(self: Box<Self>, highest: Sequence) -> Result<Watermark, CheckpointError>;
}

/// Key and state.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// Who takes the rows of a checkpoint.
pub trait Sink: Sync {
    /// Says that about this many rows of `view` will come, before the first row does.
    fn expect(&self, view: ViewId, rows: u64);

    /// Takes rows of one view. Called from up to two threads at once, never twice at once for one
    /// key unless the entity was erased and written again while the checkpoint was made.
    ///
    /// # Errors
    /// Why these bytes are no states of that view; the generation is then set aside.
    fn rows(&self, view: ViewId, rows: &[Row<'_>]) -> Result<(), String>;

    /// Forgets every row taken so far.
    fn clear(&self);
}

/// What became of a load.
#[derive(Debug)]
pub struct Load {
    /// What was loaded; none where no generation was fit.
    pub loaded: Option<Watermark>,
    /// What was not fit, newest first.
    pub set_aside: Vec<SetAside>,
}

/// A generation that was not fit, and is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAside {
    /// Its number; 0 where not even the directory could be listed.
    pub generation: u64,
    /// Why.
    pub reason: String,
}

/// A checkpoint that could not be made. History is unharmed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error("checkpoint: {0}")]
    Disk(#[from] crate::disk::DiskError),
    /// sled refused, or panicked.
    #[error("checkpoint generation {generation}: {reason}")]
    Store {
        /// Which generation.
        generation: u64,
        /// What it said.
        reason: String,
    },
}
