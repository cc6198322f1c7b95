//! Remembers what writes with an idempotency key were answered, so that a repeat writes nothing.
//!
//! It does not know HTTP headers, nor how the keys reach history; `write` puts them into frames and
//! `open` brings them back.

use std::collections::{HashMap, VecDeque};

use crate::engine::error::Problem;
use crate::history::record::Source;
use crate::ids::{ProjectId, Sequence};
use crate::metrics::Code;
use crate::time::{ArrivalTime, Span};

/// How long a key is remembered.
const KEPT: Span = Span::from_seconds(24 * 3600);
/// Bytes of the position of a write's source: hash of the content, rows superseded.
const POSITION_BYTES: usize = 16 + 8;
/// Bytes of an encoded entry before its key.
const HEAD: usize = 4 + 16 + 8 + 8 + 8 + 8 + 2;

/// What the caller sent beside a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Idempotency {
    /// The caller's key; the same within one project means the same write.
    pub key: String,
    /// A hash of what was sent, so that another write under the same key is noticed.
    pub content: [u8; 16],
}

/// What the first write of a key was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct First {
    pub(super) content: [u8; 16],
    pub(super) arrival: ArrivalTime,
    pub(super) accepted: u64,
    pub(super) superseded: u64,
    pub(super) sequence: Sequence,
}

/// The keys of the last 24 hours. Only the writer thread has it.
#[derive(Default)]
pub(super) struct IdempotencyTable {
    first: HashMap<(ProjectId, Box<str>), First>,
    by_age: VecDeque<(ArrivalTime, ProjectId, Box<str>)>,
}

impl IdempotencyTable {
    /// What a key's first write was answered, if that is less than 24 hours before `now`.
    pub(super) fn get(&self, project: ProjectId, key: &str, now: ArrivalTime) -> Option<First> {
        let first = self.first.get(&(project, Box::from(key)))?;
        (now.since(first.arrival) < KEPT).then_some(*first)
    }

    /// Number of keys held.
    pub(super) fn len(&self) -> usize {
        self.first.len()
    }

    /// Remembers the answer to a key's first write.
    pub(super) fn insert(&mut self, project: ProjectId, key: &str, first: First) {
        self.forget_expired(first.arrival);
        self.first.insert((project, key.into()), first);
        self.by_age.push_back((first.arrival, project, key.into()));
    }

    /// Forgets keys that are no longer honoured at `now`.
    pub(super) fn forget_expired(&mut self, now: ArrivalTime) {
        let earliest = now.minus(KEPT);
        while let Some((arrival, ..)) = self.by_age.front()
            && *arrival <= earliest
        {
            if let Some((arrival, project, key)) = self.by_age.pop_front() {
                let entry = (project, key);
                // A key may have been used again since.
                if self.first.get(&entry).is_some_and(|first| first.arrival == arrival) {
                    self.first.remove(&entry);
                }
            }
        }
    }

    /// All keys as bytes, for the control snapshot; oldest first.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for (arrival, project, key) in &self.by_age {
            let entry = (*project, key.clone());
            let Some(first) = self.first.get(&entry).filter(|first| first.arrival == *arrival)
            else {
                continue;
            };
            out.extend_from_slice(&project.0.to_le_bytes());
            out.extend_from_slice(&first.content);
            out.extend_from_slice(&first.arrival.micros().to_le_bytes());
            out.extend_from_slice(&first.accepted.to_le_bytes());
            out.extend_from_slice(&first.superseded.to_le_bytes());
            out.extend_from_slice(&first.sequence.0.to_le_bytes());
            let length = u16::try_from(key.len()).expect("keys are bounded at the door");
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(key.as_bytes());
        }
    }

    /// Reads back what [`Self::encode`] wrote; none if the bytes are not that.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut table = Self::default();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
            let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8"));
            let length = u16::from_le_bytes([head[HEAD - 2], head[HEAD - 1]]);
            let (key, rest) = rest.split_at_checked(length.into())?;
            let project = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
            let first = First {
                content: head[4..20].try_into().expect("sixteen bytes"),
                arrival: ArrivalTime::from_micros(number(20).cast_signed()),
                accepted: number(28),
                superseded: number(36),
                sequence: Sequence(number(44)),
            };
            table.insert(ProjectId(project), std::str::from_utf8(key).ok()?, first);
            bytes = rest;
        }
        Some(table)
    }
}

/// The source of a write with an idempotency key, as history keeps it: the project and the key;
/// the hash of the content and how many rows of the first write were superseded.
pub(super) fn encode_source(
    project: ProjectId,
    idempotency: &Idempotency,
    superseded: u64,
) -> (Vec<u8>, [u8; POSITION_BYTES]) {
    let mut id = project.0.to_le_bytes().to_vec();
    id.extend_from_slice(idempotency.key.as_bytes());
    let mut position = [0; POSITION_BYTES];
    position[..16].copy_from_slice(&idempotency.content);
    position[16..].copy_from_slice(&superseded.to_le_bytes());
    (id, position)
}

/// Reads what [`encode_source`] wrote: project, key, hash of the content, rows superseded.
pub(super) fn decode_source(source: Source<'_>) -> Option<(ProjectId, &str, [u8; 16], u64)> {
    let (project, key) = source.id.split_first_chunk::<4>()?;
    let position: &[u8; POSITION_BYTES] = source.position.try_into().ok()?;
    let (content, superseded) = position.split_first_chunk::<16>()?;
    Some((
        ProjectId(u32::from_le_bytes(*project)),
        std::str::from_utf8(key).ok()?,
        *content,
        u64::from_le_bytes(superseded.try_into().ok()?),
    ))
}

/// A key that comes again with another content.
pub(super) fn mismatch(key: &str) -> Problem {
    let detail =
        format!("the idempotency key \"{key}\" was used for another request; use a new one");
    Problem::new(Code::IdempotencyMismatch, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seconds: i64, sequence: u64) -> First {
        First {
            content: [7; 16],
            arrival: ArrivalTime::from_micros(seconds * 1_000_000),
            accepted: 3,
            superseded: 1,
            sequence: Sequence(sequence),
        }
    }

    #[test]
    fn keys_are_kept_for_a_day_per_project() {
        let mut table = IdempotencyTable::default();
        let at = |seconds: i64| ArrivalTime::from_micros(seconds * 1_000_000);
        table.insert(ProjectId(0), "a", first(0, 1));
        table.insert(ProjectId(1), "a", first(10, 2));
        let get = |table: &IdempotencyTable, project, now| {
            table.get(ProjectId(project), "a", at(now)).map(|first| first.sequence.0)
        };
        assert_eq!(get(&table, 0, 86_399), Some(1));
        assert_eq!(get(&table, 0, 86_400), None);
        assert_eq!(get(&table, 1, 86_400), Some(2));
        assert_eq!(get(&table, 2, 20), None);
        table.forget_expired(at(86_405));
        assert_eq!(table.len(), 1, "a full table makes room by time alone");
        table.insert(ProjectId(0), "a", first(86_405, 9));
        assert_eq!(table.len(), 2);
        assert_eq!(get(&table, 0, 86_500), Some(9));
    }

    #[test]
    fn the_table_reads_back_as_written() {
        let mut table = IdempotencyTable::default();
        for n in 0..5 {
            table.insert(ProjectId(n), "clé", first(n.into(), u64::from(n) + 1));
        }
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        let read = IdempotencyTable::decode(&bytes).unwrap();
        assert_eq!(read.first, table.first);
        assert!(IdempotencyTable::decode(&bytes[..bytes.len() - 1]).is_none());
    }
}
