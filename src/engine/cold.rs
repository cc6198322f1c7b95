//! Rows of the disk tier, fetched before a lookup answers from memory.
//!
//! It does not know how an answer is put together.

/// The states a lookup needs from disk-tier views.
#[derive(Default)]
pub struct ColdStates {}

impl ColdStates {
    /// For a plan without disk-tier views.
    pub fn none() -> Self {
        Self::default()
    }

    pub(super) fn state(&self, _row: usize, _source: usize) -> Option<&[u8]> {
        None
    }

    pub(super) fn read_disk(&self) -> bool {
        false
    }

    pub(super) fn fallback(&self) -> Option<String> {
        None
    }
}
