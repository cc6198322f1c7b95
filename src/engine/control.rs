//! The control snapshot: what the manifest keeps so that no segment has to be kept for it.
//!
//! It does not know how the registry or the idempotency table encode themselves.

use crate::engine::idempotency::IdempotencyTable;
use crate::history::manifest::ControlSnapshot;
use crate::ids::Sequence;
use crate::registry::Registry;
use crate::registry::record::{ApplyError, RecordError, decode_snapshot, encode_snapshot};

/// The format this release writes.
const FORMAT: u16 = 1;
const HEAD: usize = 2 + 8 + 4;

/// A snapshot that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Written by a newer release.
    #[error("control snapshot has format {found}, this release reads up to {FORMAT}")]
    Newer {
        /// Its format number.
        found: u16,
    },
    /// Shorter than it says; its checksum is right, so this is a bug.
    #[error("control snapshot of {bytes} bytes is cut short")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// The definitions in it cannot be read.
    #[error("control snapshot: {0}")]
    Registry(#[from] RecordError),
    /// The definitions in it contradict each other.
    #[error("control snapshot: {0}")]
    Definitions(#[from] ApplyError),
}

/// What a snapshot holds.
pub(super) struct Control {
    pub(super) registry: Registry,
    pub(super) registry_sequence: Sequence,
    pub(super) idempotency: IdempotencyTable,
}

/// The state of an empty store.
impl Default for Control {
    fn default() -> Self {
        Self {
            registry: Registry::new(),
            registry_sequence: Sequence::ZERO,
            idempotency: IdempotencyTable::default(),
        }
    }
}

/// Format, sequence of the last definition change, length of the registry, registry, keys.
pub(super) fn encode(
    registry: &Registry,
    registry_sequence: Sequence,
    idempotency: &IdempotencyTable,
    covers: Sequence,
) -> ControlSnapshot {
    let definitions = encode_snapshot(&registry.to_snapshot());
    let length = u32::try_from(definitions.len()).expect("definitions are far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEAD + definitions.len());
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&registry_sequence.0.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&definitions);
    idempotency.encode(&mut bytes);
    ControlSnapshot { covers, bytes: bytes.into() }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Control, ControlError> {
    let short = || ControlError::Short { bytes: bytes.len() };
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(short)?;
    let found = u16::from_le_bytes([head[0], head[1]]);
    if found != FORMAT {
        return Err(ControlError::Newer { found });
    }
    let registry_sequence = u64::from_le_bytes(head[2..10].try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(head[10..].try_into().expect("four bytes"));
    let (definitions, keys) = rest.split_at_checked(length as usize).ok_or_else(short)?;
    Ok(Control {
        registry: Registry::from_snapshot(&decode_snapshot(definitions)?)?,
        registry_sequence: Sequence(registry_sequence),
        idempotency: IdempotencyTable::decode(keys).ok_or_else(short)?,
    })
}
