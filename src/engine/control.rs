//! The control snapshot: what the manifest keeps so that no segment has to be kept for it.
//!
//! It does not know how the registry or the idempotency table encode themselves.

use std::sync::Arc;

use crate::engine::erase::Erasures;
use crate::engine::idempotency::IdempotencyTable;
use crate::engine::positions::Positions;
use crate::ids::Sequence;
use crate::registry::Registry;
use crate::registry::record::{ApplyError, RecordError, decode_snapshot, encode_snapshot};

/// The format with erasures of whole views.
const FORMAT: u16 = 4;
/// The format with erasures of which some are no longer remembered, still written while none is of
/// a whole view.
const OF_ENTITIES: u16 = 3;
/// The format with all erasures, still written while all are remembered.
const REMEMBERED: u16 = 2;
/// The format without erasures, still written while there never was one.
const UNERASED: u16 = 1;
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
    pub(super) positions: Positions,
    pub(super) erasures: Erasures,
    pub(super) idempotency: IdempotencyTable,
}

impl Control {
    /// Says in words what it holds, a line for each thing.
    pub(super) fn describe(&self) -> Vec<String> {
        let Self { registry, registry_sequence, erasures, idempotency, .. } = self;
        let mut lines = vec![format!("definitions of sequence {registry_sequence}")];
        for view in registry.all_views() {
            let project = registry.project_name(view.project).unwrap_or_default();
            let (id, name, entity) = (view.id, view.declared_name(), registry.entity_of(view));
            let of = format!("of entity {} in project {project}", entity.name);
            lines.push(format!("view {id} is {name}, {of}, {} features", view.features.len()));
        }
        let pending = erasures.pending().count();
        lines.push(format!("{pending} erasures pending, {} done", erasures.done()));
        lines.push(format!("{} idempotency keys", idempotency.len()));
        lines
    }
}

/// The state of an empty store.
impl Default for Control {
    fn default() -> Self {
        Self {
            registry: Registry::new(),
            registry_sequence: Sequence::ZERO,
            positions: Positions::default(),
            erasures: Erasures::default(),
            idempotency: IdempotencyTable::default(),
        }
    }
}

/// Format, sequence of the last definition change, length of the registry, registry, positions,
/// erasures, keys.
pub(super) fn encode(
    registry: &Registry,
    registry_sequence: Sequence,
    positions: &Positions,
    erasures: &Erasures,
    idempotency: &IdempotencyTable,
) -> Arc<[u8]> {
    let definitions = encode_snapshot(&registry.to_snapshot());
    let length = u32::try_from(definitions.len()).expect("definitions are far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEAD + definitions.len());
    let format = match erasures.dropped() {
        _ if erasures.has_views() => FORMAT,
        Some(_) => OF_ENTITIES,
        None if erasures.is_empty() => UNERASED,
        None => REMEMBERED,
    };
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(&registry_sequence.0.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&definitions);
    positions.encode(&mut bytes);
    if format != UNERASED {
        erasures.encode(&mut bytes);
    }
    idempotency.encode(&mut bytes);
    bytes.into()
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Control, ControlError> {
    let short = || ControlError::Short { bytes: bytes.len() };
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(short)?;
    let found = u16::from_le_bytes([head[0], head[1]]);
    if !(UNERASED..=FORMAT).contains(&found) {
        return Err(ControlError::Newer { found });
    }
    let registry_sequence = u64::from_le_bytes(head[2..10].try_into().expect("eight bytes"));
    let length = u32::from_le_bytes(head[10..].try_into().expect("four bytes"));
    let (definitions, mut keys) = rest.split_at_checked(length as usize).ok_or_else(short)?;
    let positions = Positions::decode(&mut keys).ok_or_else(short)?;
    let erasures = match found {
        UNERASED => Erasures::default(),
        _ => Erasures::decode(&mut keys, found >= OF_ENTITIES).ok_or_else(short)?,
    };
    Ok(Control {
        registry: Registry::from_snapshot(&decode_snapshot(definitions)?)?,
        registry_sequence: Sequence(registry_sequence),
        positions,
        erasures,
        idempotency: IdempotencyTable::decode(keys).ok_or_else(short)?,
    })
}
