//! How far each source of writes has come, so that a load or a consumer goes on where it stopped.
//!
//! It does not know what a position means to its source.

use std::collections::HashMap;

use crate::history::record::SourceKind;
use crate::time::ArrivalTime;

/// The newest position of one source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Position {
    /// In the source's own words.
    pub(super) position: Box<[u8]>,
    /// When the write that carried it arrived.
    pub(super) arrival: ArrivalTime,
}

/// The newest position of every source but idempotency keys.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Positions(HashMap<(u8, Box<[u8]>), Position>);

impl Positions {
    /// How far the source has come, if anything of it was ever written.
    pub(super) fn get(&self, kind: SourceKind, id: &[u8]) -> Option<&Position> {
        self.0.get(&(kind.code(), id.into()))
    }

    /// Takes up a newer position.
    pub(super) fn set(
        &mut self,
        kind: SourceKind,
        id: &[u8],
        position: &[u8],
        arrival: ArrivalTime,
    ) {
        let position = Position { position: position.into(), arrival };
        self.0.insert((kind.code(), id.into()), position);
    }

    /// As bytes, for the control snapshot.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        for ((kind, id), position) in &self.0 {
            out.push(*kind);
            out.extend_from_slice(&position.arrival.micros().to_le_bytes());
            for part in [id, &position.position] {
                let length = u16::try_from(part.len()).expect("bounded when it was written");
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(part);
            }
        }
    }

    /// Reads back what [`Self::encode`] wrote and moves `bytes` past it; none if they are not that.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (count, mut rest) = bytes.split_first_chunk::<4>()?;
        let mut positions = Self::default();
        for _ in 0..u32::from_le_bytes(*count) {
            let (kind, after) = rest.split_first()?;
            let (arrival, after) = after.split_first_chunk::<8>()?;
            let (id, after) = part(after)?;
            let (position, after) = part(after)?;
            let arrival = ArrivalTime::from_micros(i64::from_le_bytes(*arrival));
            let position = Position { position: position.into(), arrival };
            positions.0.insert((*kind, id.into()), position);
            rest = after;
        }
        *bytes = rest;
        Some(positions)
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_le_bytes(*length).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_as_written() {
        let mut positions = Positions::default();
        let at = ArrivalTime::from_micros;
        positions.set(SourceKind::Load, b"file", b"10", at(1));
        positions.set(SourceKind::Load, b"file", b"20", at(2));
        positions.set(SourceKind::Kafka, b"file", b"", at(3));
        let mut bytes = Vec::new();
        positions.encode(&mut bytes);
        bytes.push(9);
        let mut rest = bytes.as_slice();
        assert_eq!(Positions::decode(&mut rest), Some(positions.clone()));
        assert_eq!(rest, [9]);
        assert_eq!(positions.get(SourceKind::Load, b"file").unwrap().position[..], *b"20");
        assert!(Positions::decode(&mut &bytes[..bytes.len() - 2]).is_none());
    }
}
