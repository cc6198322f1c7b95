//! What a store that is held knew at its end: its definitions and its erasures.
//!
//! It does not know what they are asked for.

use crate::engine::control::{self, Control, ControlError};
use crate::engine::erase::{Erase, Erasures};
use crate::history::backup::Pinned;
use crate::history::record::Record;
use crate::history::{History, ReadError};
use crate::ids::Sequence;
use crate::registry::Registry;
use crate::registry::record::decode_change;

/// Definitions and erasures.
pub(super) struct Known {
    pub(super) registry: Registry,
    pub(super) erasures: Erasures,
}

/// Why they cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// History cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The definitions cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Known {
    /// Reads them from the control snapshot and from the log after it. `history` is that of
    /// `pinned`.
    pub(super) fn read(pinned: &Pinned, history: &History) -> Result<Self, KnownError> {
        let snapshot = pinned.manifest.control.as_ref();
        let control = snapshot.map(|control| control::decode(&control.bytes)).transpose()?;
        let covers = snapshot.map_or(Sequence::ZERO, |control| control.covers);
        let Control { registry, erasures, .. } = control.unwrap_or_default();
        let mut known = Self { registry, erasures };
        history.replay(covers, |frame| {
            let unreadable = |error| KnownError::from(frame.unreadable(&error));
            for request in frame.requests().map_err(unreadable)? {
                for record in request.map_err(unreadable)?.records() {
                    if let (sequence, Record::Control(bytes)) = record.map_err(unreadable)?
                        && sequence > covers
                    {
                        if let Some(erase) = Erase::decode(bytes) {
                            known.erasures.add(erase, sequence, frame.header.arrival);
                            continue;
                        }
                        let change = decode_change(bytes).map_err(ControlError::from)?;
                        known.registry.apply(&change).map_err(ControlError::from)?;
                    }
                }
            }
            Ok::<(), KnownError>(())
        })?;
        Ok(known)
    }
}
