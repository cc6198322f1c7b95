//! The control record of an erasure: what is to be forgotten, and by when.
//!
//! It does not know which erasures there are.

use crate::history::History;
use crate::ids::{EntityTypeId, ProjectId, Sequence, ViewId};
use crate::time::ArrivalTime;

/// The format number of the control record that erases an entity; that of a definition change is
/// another,
const OF_ENTITY: u16 = 2;
/// and so is that of one that erases whole views.
const OF_VIEWS: u16 = 3;

/// Rows that were written before are to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Erase {
    /// Whose they are.
    pub(in crate::engine) project: ProjectId,
    /// By when no byte of them is to be left.
    pub(in crate::engine) deadline: ArrivalTime,
    /// Those of one entity key; none where the views go with all their rows, the records that drop
    /// them coming next.
    pub(in crate::engine) whom: Option<Whom>,
    /// The views that may have such rows: those of the entity, and dropped ones, of which nobody
    /// knows any more whose they were.
    pub(in crate::engine) views: Vec<ViewId>,
}

/// An entity key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Whom {
    pub(in crate::engine) entity: EntityTypeId,
    pub(in crate::engine) key: Box<[u8]>,
}

impl Erase {
    /// Its control record: format (u16), project (u32), entity (u32), deadline (i64), length and
    /// bytes of the key (u32), number of views and their ids (u32); entity and key only if it is of
    /// one.
    pub(in crate::engine) fn encode(&self) -> Vec<u8> {
        let format = if self.whom.is_some() { OF_ENTITY } else { OF_VIEWS };
        let mut bytes = format.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.project.0.to_le_bytes());
        if let Some(Whom { entity, .. }) = &self.whom {
            bytes.extend_from_slice(&entity.0.to_le_bytes());
        }
        bytes.extend_from_slice(&self.deadline.micros().to_le_bytes());
        if let Some(Whom { key, .. }) = &self.whom {
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
        }
        bytes.extend_from_slice(&(self.views.len() as u32).to_le_bytes());
        for view in &self.views {
            bytes.extend_from_slice(&view.0.to_le_bytes());
        }
        bytes
    }

    /// Reads a control record; none if it is another kind of one.
    pub(in crate::engine) fn decode(record: &[u8]) -> Option<Self> {
        let mut reader = Reader(record);
        let is_of_entity = match u16::from_le_bytes(reader.array()?) {
            OF_ENTITY => true,
            OF_VIEWS => false,
            _ => return None,
        };
        let project = ProjectId(reader.small()?);
        let (deadline, whom) = match is_of_entity {
            true => {
                let entity = EntityTypeId(reader.small()?);
                let deadline = reader.time()?;
                (deadline, Some(Whom { entity, key: reader.bytes()?.into() }))
            }
            false => (reader.time()?, None),
        };
        let views = (0..reader.small()?).map(|_| reader.small().map(ViewId));
        let views = views.collect::<Option<_>>()?;
        reader.0.is_empty().then_some(Self { project, deadline, whom, views })
    }

    /// Hides the rows from reads of history; `sequence` is that of the record.
    pub(in crate::engine) fn hide(&self, history: &History, sequence: Sequence) {
        match &self.whom {
            Some(Whom { key, .. }) => history.erase(&self.views, key, sequence),
            None => history.erase_views(&self.views, sequence),
        }
    }
}

/// What is left to be read of some bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn sequence(&mut self) -> Option<Sequence> {
        self.array().map(u64::from_le_bytes).map(Sequence)
    }

    pub(super) fn time(&mut self) -> Option<ArrivalTime> {
        self.array().map(i64::from_le_bytes).map(ArrivalTime::from_micros)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(bytes)
    }
}
