//! The file that names every live file of the store, and holds what must outlive old segments.
//!
//! It does not know what the control snapshot means; the bytes are the engine's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain;
use super::sealed::{Lift, SealedEntry};
use crate::disk::{self, Disk, DiskError, DiskErrorKind};
use crate::ids::{Epoch, Sequence, StoreId, ViewId};
use crate::time::{ArrivalTime, EventTime};

pub(super) const MAGIC: [u8; 4] = *b"LMAN";
/// With loads past the log: sealed files may be lifted, and may follow what is only in the log.
const FORMAT: u16 = 4;
/// With floors, by which sealed files may have been thinned out; still written where nothing was
/// loaded past the log, or all of that was merged.
const UNLIFTED: u16 = 3;
/// The format without floors, still written where there are none.
const FLOORLESS: u16 = 2;
/// The format without sealed files.
const UNSEALED: u16 = 1;
const HEADER_BYTES: usize = 40;
const CRC_AT: usize = 36;

/// What stands in the manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The store's identity.
    pub store: StoreId,
    /// The latest start of the server.
    pub epoch: Epoch,
    /// Drawn by chance at each restore, so that two that were restored from one backup are told
    /// apart; 0 before the first.
    pub past: u16,
    /// The latest arrival time when it was written.
    pub last_arrival: ArrivalTime,
    /// The live segments in order; all but the last are closed.
    pub segments: Vec<SegmentEntry>,
    /// The sealed files in the order of their sequences; what they hold may still stand in segments
    /// too, and what is between them does.
    pub sealed: Vec<SealedEntry>,
    /// Below what event time rows of a view may be gone.
    pub floors: Vec<RetentionFloor>,
    /// The state of the control records up to a sequence.
    pub control: Option<ControlSnapshot>,
}

/// A live segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEntry {
    /// The sequence of its first record, which also names its file.
    pub first: Sequence,
    /// The sequence of its last record; none while it is written.
    pub last: Option<Sequence>,
}

/// The event time below which rows of a view are no longer kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetentionFloor {
    /// The version of the view.
    pub view: ViewId,
    /// As-of reads below it are refused.
    pub floor: EventTime,
}

/// What all control records up to a sequence amount to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlSnapshot {
    /// The last sequence it covers.
    pub covers: Sequence,
    /// Its content, with a format number of its own.
    pub bytes: Arc<[u8]>,
}

/// Where the manifest of a data directory is.
pub fn path(root: &Path) -> PathBuf {
    root.join("MANIFEST")
}

impl Manifest {
    /// Reads the manifest of a data directory; none if there is no such file.
    ///
    /// # Errors
    /// The disk failed, or the file is damaged or newer than this release.
    pub fn load(disk: &dyn Disk, root: &Path) -> Result<Option<Self>, LoadError> {
        match disk::read_whole(disk, &path(root)) {
            Ok(bytes) => Ok(Some(Self::decode(&bytes)?)),
            Err(error) if error.kind() == DiskErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the manifest of a data directory.
    ///
    /// # Errors
    /// The disk failed; unless it was the directory's sync, the old manifest stands.
    pub fn save(&self, disk: &dyn Disk, root: &Path) -> Result<(), DiskError> {
        disk::replace(disk, &path(root), &self.encode())
    }

    /// The oldest format that can say all of it: what older releases can read, they can.
    fn format(&self) -> u16 {
        let is_lifted = |entry: &SealedEntry| entry.lift != Lift::default();
        if !chain::is_plain(&self.segments, &self.sealed) || self.sealed.iter().any(is_lifted) {
            return FORMAT;
        }
        if self.floors.is_empty() { FLOORLESS } else { UNLIFTED }
    }

    /// Its bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let format = self.format();
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(&self.last_arrival.micros().to_le_bytes());
        bytes.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for entry in &self.segments {
            bytes.extend_from_slice(&entry.first.0.to_le_bytes());
            bytes.push(u8::from(entry.last.is_some()));
            bytes.extend_from_slice(&entry.last.unwrap_or(Sequence::ZERO).0.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.floors.len() as u32).to_le_bytes());
        for entry in &self.floors {
            bytes.extend_from_slice(&entry.view.0.to_le_bytes());
            bytes.extend_from_slice(&entry.floor.micros().to_le_bytes());
        }
        bytes.extend_from_slice(&(self.sealed.len() as u32).to_le_bytes());
        for entry in &self.sealed {
            for number in [entry.number, entry.first.0, entry.last.0, entry.bytes] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            if format == FORMAT {
                bytes.extend_from_slice(&entry.lift.sequences.to_le_bytes());
                bytes.push(u8::from(entry.lift.arrival.is_some()));
                let arrival = entry.lift.arrival.map_or(0, ArrivalTime::micros);
                bytes.extend_from_slice(&arrival.to_le_bytes());
            }
        }
        bytes.push(u8::from(self.control.is_some()));
        if let Some(control) = &self.control {
            bytes.extend_from_slice(&control.covers.0.to_le_bytes());
            bytes.extend_from_slice(&(control.bytes.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&control.bytes);
        }
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&format.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.past.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.store.0);
        bytes[24..28].copy_from_slice(&self.epoch.0.to_le_bytes());
        let length = (bytes.len() - HEADER_BYTES) as u64;
        bytes[28..CRC_AT].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it from its bytes.
    ///
    /// # Errors
    /// It is damaged, or newer than this release.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() < HEADER_BYTES {
            return Err(ManifestError::Short { at: bytes.len() });
        }
        if bytes[..4] != MAGIC {
            return Err(ManifestError::Magic);
        }
        let found = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
        let actual = checksum(bytes);
        if found != actual {
            return Err(ManifestError::Checksum { found, actual });
        }
        let mut reader = Reader { bytes, at: 4 };
        let format = u16::from_le_bytes(reader.array()?);
        if ![UNSEALED, FLOORLESS, UNLIFTED, FORMAT].contains(&format) {
            return Err(ManifestError::Newer { format });
        }
        let past = u16::from_le_bytes(reader.array()?);
        let store = StoreId(reader.array()?);
        let epoch = Epoch(u32::from_le_bytes(reader.array()?));
        let length = reader.number()?;
        if length != (bytes.len() - HEADER_BYTES) as u64 {
            return Err(ManifestError::Short { at: bytes.len() });
        }
        reader.at = HEADER_BYTES;
        let last_arrival = ArrivalTime::from_micros(i64::from_le_bytes(reader.array()?));
        let mut segments = Vec::new();
        for _ in 0..u32::from_le_bytes(reader.array()?) {
            let first = Sequence(reader.number()?);
            let [closed] = reader.array()?;
            let last = Sequence(reader.number()?);
            segments.push(SegmentEntry { first, last: (closed != 0).then_some(last) });
        }
        let mut floors = Vec::new();
        for _ in 0..u32::from_le_bytes(reader.array()?) {
            let view = ViewId(u32::from_le_bytes(reader.array()?));
            let floor = EventTime::from_micros(i64::from_le_bytes(reader.array()?));
            floors.push(RetentionFloor { view, floor });
        }
        let mut sealed = Vec::new();
        let count = if format == UNSEALED { 0 } else { u32::from_le_bytes(reader.array()?) };
        for _ in 0..count {
            sealed.push(SealedEntry {
                number: reader.number()?,
                first: Sequence(reader.number()?),
                last: Sequence(reader.number()?),
                bytes: reader.number()?,
                lift: if format == FORMAT { reader.lift()? } else { Lift::default() },
            });
        }
        let [present] = reader.array()?;
        let control = match present {
            0 => None,
            _ => {
                let covers = Sequence(reader.number()?);
                let length = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
                Some(ControlSnapshot { covers, bytes: reader.take(length)?.into() })
            }
        };
        if reader.at != bytes.len() {
            return Err(ManifestError::LeftOver { at: reader.at });
        }
        Ok(Self { store, epoch, past, last_arrival, segments, floors, sealed, control })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ManifestError> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(ManifestError::Short { at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, ManifestError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn lift(&mut self) -> Result<Lift, ManifestError> {
        let sequences = self.number()?;
        let [said] = self.array()?;
        let arrival = ArrivalTime::from_micros(i64::from_le_bytes(self.array()?));
        Ok(Lift { sequences, arrival: (said != 0).then_some(arrival) })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[HEADER_BYTES..])
}

/// Why a manifest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its bytes are not a manifest.
    #[error(transparent)]
    Bytes(#[from] ManifestError),
}

/// Why bytes are not a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    /// Another kind of file.
    #[error("does not begin as a manifest does")]
    Magic,
    /// Damaged.
    #[error("manifest checksum is {found:08x}, its bytes give {actual:08x}")]
    Checksum {
        /// The checksum in it.
        found: u32,
        /// That of its bytes.
        actual: u32,
    },
    /// Written by a later release.
    #[error("manifest format {format} is newer than this release knows ({FORMAT})")]
    Newer {
        /// Its format.
        format: u16,
    },
    /// Stops in the middle.
    #[error("manifest ends too early, at byte {at}")]
    Short {
        /// Where.
        at: usize,
    },
    /// Goes on after its end.
    #[error("manifest goes on after its end at byte {at}")]
    LeftOver {
        /// Where it should end.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        Manifest {
            store: StoreId(*b"0123456789abcdef"),
            epoch: Epoch(5),
            past: 0,
            last_arrival: ArrivalTime::from_micros(77),
            segments: vec![
                SegmentEntry { first: Sequence(1), last: Some(Sequence(9)) },
                SegmentEntry { first: Sequence(10), last: None },
            ],
            floors: vec![RetentionFloor { view: ViewId(2), floor: EventTime::from_micros(-3) }],
            sealed: vec![SealedEntry {
                number: 3,
                first: Sequence(1),
                last: Sequence(9),
                bytes: 700,
                lift: Lift::default(),
            }],
            control: Some(ControlSnapshot {
                covers: Sequence(8),
                bytes: b"state".as_slice().into(),
            }),
        }
    }

    #[test]
    fn reads_back_what_was_written() {
        let bare = Manifest {
            segments: vec![],
            floors: vec![],
            sealed: vec![],
            control: None,
            ..example()
        };
        let restored = Manifest { past: 0xA1B2, ..example() };
        for manifest in [example(), loaded(), bare, restored] {
            assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }

    /// The example after a load of three rows, which came while its open segment was empty.
    fn loaded() -> Manifest {
        let mut manifest = example();
        manifest.segments[1].first = Sequence(13);
        for (number, arrival) in [(4, Some(ArrivalTime::from_micros(77))), (5, None)] {
            let (first, last) = if number == 4 { (10, 11) } else { (12, 12) };
            manifest.sealed.push(SealedEntry {
                number,
                first: Sequence(first),
                last: Sequence(last),
                bytes: 200,
                lift: Lift { sequences: 9, arrival },
            });
        }
        manifest
    }

    #[test]
    fn the_bytes_of_a_load_are_what_they_always_were() {
        let bytes = loaded().encode();
        assert_eq!(bytes[4], 4);
        let sealed: String = bytes[HEADER_BYTES + 62..][..151].iter().map(hex).collect();
        let golden = concat!(
            "03000000", // sealed files: number, first and last sequence, length, lift
            "0300000000000000010000000000000009000000000000",
            "00bc02000000000000",
            "0000000000000000000000000000000000",
            "04000000000000000a000000000000000b00000000000000c800000000000000",
            "0900000000000000014d00000000000000",
            "05000000000000000c000000000000000c00000000000000c800000000000000",
            "0900000000000000000000000000000000",
        );
        assert_eq!(sealed, golden);
        // Without lifts the gap in the log still takes the format.
        let mut merged = loaded();
        merged.sealed.iter_mut().for_each(|entry| entry.lift = Lift::default());
        assert_eq!(merged.encode()[4], 4);
        assert_eq!(example().encode()[4], 3);
    }

    fn hex(byte: &u8) -> String {
        format!("{byte:02x}")
    }

    #[test]
    fn the_bytes_are_what_they_always_were() {
        let written: String = example().encode().iter().map(hex).collect();
        let golden = concat!(
            "4c4d414e",                         // magic
            "03000000",                         // format, past
            "30313233343536373839616263646566", // store
            "05000000",                         // epoch
            "7800000000000000",                 // length of what follows the header
            "91d202b6",                         // CRC-32C of all but itself
            "4d00000000000000",                 // last arrival
            "02000000",                         // segments
            "0100000000000000010900000000000000",
            "0a00000000000000000000000000000000",
            "01000000", // floors
            "02000000fdffffffffffffff",
            "01000000", // sealed files: number, first and last sequence, length
            "0300000000000000010000000000000009000000000000",
            "00bc02000000000000",
            "01", // control snapshot
            "080000000000000005000000000000007374617465",
        );
        assert_eq!(written, golden);
    }

    #[test]
    fn a_manifest_of_the_second_format_is_read() {
        let mut bytes = example().encode();
        bytes[4] = 2;
        bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&[0x36, 0x40, 0x88, 0x31]);
        assert_eq!(Manifest::decode(&bytes), Ok(example()));
        let floorless = Manifest { floors: vec![], ..example() };
        assert_eq!(floorless.encode()[4], 2, "what older releases can read, they can");
    }

    #[test]
    fn a_manifest_of_the_first_format_is_read() {
        let golden = concat!(
            "4c4d414e01000000303132333435363738396162636465660500000054000000",
            "00000000d5e9a2814d0000000000000002000000010000000000000001090000",
            "00000000000a000000000000000000000000000000000100000002000000fdff",
            "ffffffffffff01080000000000000005000000000000007374617465",
        );
        let digits = |at: usize| u8::from_str_radix(&golden[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..golden.len()).step_by(2).map(digits).collect();
        assert_eq!(Manifest::decode(&bytes), Ok(Manifest { sealed: vec![], ..example() }));
    }

    #[test]
    fn every_flipped_bit_and_every_shortening_is_noticed() {
        let good = example().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Manifest::decode(&good[..length]).is_err(), "{length}");
        }
        let mut newer = good;
        newer[4] = 5;
        let crc = checksum(&newer);
        newer[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Manifest::decode(&newer), Err(ManifestError::Newer { format: 5 }));
    }
}
