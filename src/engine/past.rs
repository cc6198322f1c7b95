//! A store that is only read, as it is held at one sequence: its history and its definitions.
//!
//! It does not know the online map, nor that anybody writes.

use std::io::Write;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::engine::as_of::damaged;
use crate::engine::error::Problem;
use crate::engine::known::{Known, KnownError};
use crate::engine::training::{Trainer, Training};
use crate::history::History;
use crate::history::backup::Pinned;
use crate::history::open::OpenError;
use crate::ids::Sequence;
use crate::limits::Limits;
use crate::priority::Manner;
use crate::registry::Registry;

/// History and definitions up to a sequence.
pub struct Past {
    history: History,
    registry: Arc<Registry>,
    upto: Sequence,
}

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// History cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The definitions cannot be read.
    #[error(transparent)]
    Known(#[from] KnownError),
}

impl Past {
    /// Reads what is held. What was erased by then is hidden.
    ///
    /// # Errors
    /// A file is damaged, or of a newer release.
    pub fn of(pinned: &Pinned) -> Result<Self, PastError> {
        let history = History::of_pinned(pinned)?;
        let Known { registry, erasures } = Known::read(pinned, &history)?;
        history.set_erased(erasures.erased());
        Ok(Self { history, registry: Arc::new(registry), upto: pinned.sequence })
    }

    /// The definitions.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Makes a training set; see [`crate::engine::Engine::train`].
    ///
    /// # Errors
    /// As there.
    pub fn train(
        &self,
        (training, limits): (&Training, &Limits),
        labels: Arc<dyn DiskFile>,
        out: impl Write + Send,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), Problem> {
        let history = || {
            let history = self.history.as_of(self.upto, training.known_at());
            Ok((history.map_err(|error| damaged(&error))?, self.registry.clone()))
        };
        let manner = &Manner::normal();
        Trainer { history, limits, training, manner, file: labels, progress }.run(out)
    }
}
