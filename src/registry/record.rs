//! Changes to definitions as history keeps them: what they say and their bytes.
//!
//! It does not know what a change does; that is `Registry::apply`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{EntityTypeId, ProjectId, ServiceId, ViewId};
use crate::registry::NextIds;
use crate::registry::model::{EntityType, Service, View};

/// The format written; JSON behind it, so that later versions can add fields.
const FORMAT: u16 = 1;

/// One change to the registry.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Adds a project.
    PutProject(ProjectRecord),
    /// Adds an entity, or alters what may be altered of it.
    PutEntity(Box<EntityType>),
    /// Adds a version of a view, or alters what may be altered of it.
    PutView(Box<View>),
    /// Adds a service or replaces its features.
    PutService(Box<Service>),
    /// Says what a bare view name means.
    SetDefaultVersion(DefaultVersion),
    /// Removes an entity without views.
    DropEntity {
        /// Which.
        id: EntityTypeId,
    },
    /// Removes a version of a view.
    DropView {
        /// Which.
        id: ViewId,
    },
    /// Removes a service.
    DropService {
        /// Which.
        id: ServiceId,
    },
}

/// A project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// Given once, never reused.
    pub id: ProjectId,
    /// Unique.
    pub name: String,
}

/// What a bare view name means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DefaultVersion {
    /// The view's project.
    pub project: ProjectId,
    /// The bare name.
    pub view: String,
    /// The version it means.
    pub version: u32,
}

/// Every definition, for the control snapshot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Changes made so far.
    pub revision: u64,
    /// The ids not yet given.
    pub next: NextIds,
    /// By name.
    pub projects: Vec<ProjectRecord>,
    /// By id.
    pub entities: Vec<EntityType>,
    /// By id.
    pub views: Vec<View>,
    /// One per view name.
    pub default_versions: Vec<DefaultVersion>,
    /// By id.
    pub services: Vec<Service>,
}

/// Why a change cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// The name or id belongs to another definition, or the change would give old rows another
    /// meaning.
    #[error("{what} contradicts what is defined")]
    Conflict {
        /// What the change is about.
        what: String,
    },
    /// The id was given before.
    #[error("{what} has an id that was given before")]
    IdReused {
        /// What the change is about.
        what: String,
    },
    /// It needs something that is not defined.
    #[error("{what} is not defined")]
    Missing {
        /// What is needed.
        what: String,
    },
    /// Something else needs what would be dropped.
    #[error("{what} is used by {by}")]
    InUse {
        /// What would be dropped.
        what: String,
        /// What needs it.
        by: String,
    },
}

/// Bytes that are no control record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a later version.
    #[error("control record has format {found}, this version reads format {FORMAT}")]
    Format {
        /// The number found.
        found: u16,
    },
    /// Shorter than the format number.
    #[error("control record of {bytes} bytes is too short")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// The JSON behind the format number says something else.
    #[error("control record is malformed: {reason}")]
    Malformed {
        /// What serde says.
        reason: String,
    },
}

/// The bytes of a change: the format number (`u16`, little-endian), then JSON.
pub fn encode_change(change: &Change) -> Vec<u8> {
    encode(change)
}

/// Reads [`encode_change`]; fields it does not know are ignored.
///
/// # Errors
/// Another format, or malformed.
pub fn decode_change(bytes: &[u8]) -> Result<Change, RecordError> {
    decode(bytes)
}

/// The bytes of a snapshot, framed as those of a change.
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    encode(snapshot)
}

/// Reads [`encode_snapshot`]; fields it does not know are ignored.
///
/// # Errors
/// Another format, or malformed.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Snapshot, RecordError> {
    decode(bytes)
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = FORMAT.to_le_bytes().to_vec();
    serde_json::to_writer(&mut bytes, record).expect("definitions are JSON and memory takes them");
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    let Some((format, json)) = bytes.split_first_chunk::<2>() else {
        return Err(RecordError::Short { bytes: bytes.len() });
    };
    let found = u16::from_le_bytes(*format);
    if found != FORMAT {
        return Err(RecordError::Format { found });
    }
    serde_json::from_slice(json).map_err(|e| RecordError::Malformed { reason: e.to_string() })
}
