//! The envelope of one group of writes in a log segment: a hand-written header and a checksum.
//!
//! It does not know what the payload means, nor in which file a frame lies.

use crate::ids::{Epoch, Sequence, StoreId};
use crate::time::ArrivalTime;

/// Bytes before the payload, in this and every later header format.
pub const HEADER_BYTES: usize = 64;

/// Largest payload, in bytes; offsets inside a segment stay within 32 bits.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"LFRM";
const FORMAT: u16 = 1;
const PAYLOAD_LENGTH_AT: usize = 56;
const CRC_AT: usize = 60;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Accepted requests.
    Writes,
    /// Nothing; it is there for its durable mark.
    Mark,
}

/// All that a frame says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What it carries.
    pub kind: FrameKind,
    /// The store it belongs to.
    pub store: StoreId,
    /// The start of the server that wrote it.
    pub epoch: Epoch,
    /// The sequence of its first record; of a mark, the one the next frame will have.
    pub first: Sequence,
    /// Its records; 0 in a mark.
    pub count: u32,
    /// When all of it was accepted.
    pub arrival: ArrivalTime,
    /// The highest sequence known to be durable when it was written.
    pub durable: Sequence,
}

impl FrameHeader {
    /// The sequence of its last record; of a mark, that of the last record before it.
    pub fn last(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.count)).saturating_sub(1))
    }
}

/// A frame whose checksum was found right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it says of itself.
    pub header: FrameHeader,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Header and payload, in bytes.
    pub fn length(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Why there is no frame to be had from some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Nothing was ever written here: the header is zeros or there are no bytes.
    #[error("nothing written")]
    End,
    /// The bytes stop before the frame does. The length is not yet checked against anything but
    /// [`PAYLOAD_BYTES_MAX`].
    #[error("frame needs {needed} bytes")]
    Incomplete {
        /// Bytes needed from the start of the frame.
        needed: usize,
    },
    /// Does not begin as a frame does.
    #[error("frame does not begin with its magic bytes")]
    Magic,
    /// Belongs elsewhere.
    #[error("frame belongs to store {found}")]
    OtherStore {
        /// The store it names.
        found: StoreId,
    },
    /// Longer than any frame may be.
    #[error("frame payload of {length} bytes, limit is {PAYLOAD_BYTES_MAX}")]
    TooLong {
        /// The length it names.
        length: usize,
    },
    /// Header or payload is not what was written.
    #[error("frame checksum is {found:08x}, its bytes give {actual:08x}")]
    Checksum {
        /// The checksum in the header.
        found: u32,
        /// That of the bytes.
        actual: u32,
    },
    /// Whole, but of a format or kind that only a later release writes.
    #[error("frame format {format} kind {kind} is newer than this release knows (format {FORMAT})")]
    Newer {
        /// The header format.
        format: u16,
        /// The kind.
        kind: u8,
    },
}

/// Puts a frame's header before its payload, which stands in `frame` from [`HEADER_BYTES`] on.
///
/// # Panics
/// `frame` is shorter than a header, or the payload longer than [`PAYLOAD_BYTES_MAX`]: the caller
/// has checked both.
pub fn seal(header: &FrameHeader, frame: &mut [u8]) {
    let length = frame.len() - HEADER_BYTES;
    assert!(length <= PAYLOAD_BYTES_MAX, "frame payload of {length} bytes");
    let (head, payload) = frame.split_at_mut(HEADER_BYTES);
    head[..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    head[6] = match header.kind {
        FrameKind::Writes => 1,
        FrameKind::Mark => 2,
    };
    head[7] = 0;
    head[8..24].copy_from_slice(&header.store.0);
    head[24..28].copy_from_slice(&header.epoch.0.to_le_bytes());
    head[28..32].copy_from_slice(&header.count.to_le_bytes());
    head[32..40].copy_from_slice(&header.first.0.to_le_bytes());
    head[40..48].copy_from_slice(&header.arrival.micros().to_le_bytes());
    head[48..56].copy_from_slice(&header.durable.0.to_le_bytes());
    head[PAYLOAD_LENGTH_AT..CRC_AT].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = checksum(head, payload);
    head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frame at the start of `bytes`, which may go on after it. Checks the length, then the
/// checksum, then the meaning.
///
/// # Errors
/// There is no whole frame of `store` there; see [`FrameError`].
pub fn decode(bytes: &[u8], store: StoreId) -> Result<Frame<'_>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(match bytes.iter().all(|&byte| byte == 0) {
            true => FrameError::End,
            false => FrameError::Incomplete { needed: HEADER_BYTES },
        });
    };
    if head[..4] != MAGIC {
        let blank = head.iter().all(|&byte| byte == 0);
        return Err(if blank { FrameError::End } else { FrameError::Magic });
    }
    let found = StoreId(array(head, 8));
    if found != store {
        return Err(FrameError::OtherStore { found });
    }
    let length = u32::from_le_bytes(array(head, PAYLOAD_LENGTH_AT)) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong { length });
    }
    let Some(payload) = rest.get(..length) else {
        return Err(FrameError::Incomplete { needed: HEADER_BYTES + length });
    };
    let found = u32::from_le_bytes(array(head, CRC_AT));
    let actual = checksum(head, payload);
    if found != actual {
        return Err(FrameError::Checksum { found, actual });
    }
    let format = u16::from_le_bytes(array(head, 4));
    let kind = match (format, head[6]) {
        (FORMAT, 1) => FrameKind::Writes,
        (FORMAT, 2) => FrameKind::Mark,
        (_, kind) => return Err(FrameError::Newer { format, kind }),
    };
    let header = FrameHeader {
        kind,
        store,
        epoch: Epoch(u32::from_le_bytes(array(head, 24))),
        count: u32::from_le_bytes(array(head, 28)),
        first: Sequence(u64::from_le_bytes(array(head, 32))),
        arrival: ArrivalTime::from_micros(i64::from_le_bytes(array(head, 40))),
        durable: Sequence(u64::from_le_bytes(array(head, 48))),
    };
    Ok(Frame { header, payload })
}

/// The whole frames of `store` that lie anywhere in `bytes` at or after `from`, each with its
/// offset. Looks at every byte, since after damage nothing says where a frame begins.
pub fn find_valid_after(
    bytes: &[u8],
    from: usize,
    store: StoreId,
) -> impl Iterator<Item = (usize, Frame<'_>)> {
    let mut at = from.min(bytes.len());
    std::iter::from_fn(move || {
        loop {
            let next = bytes[at..].windows(4).position(|window| window == MAGIC)?;
            let offset = at + next;
            match decode(&bytes[offset..], store) {
                Ok(frame) => {
                    at = offset + frame.length();
                    return Some((offset, frame));
                }
                Err(_) => at = offset + 1,
            }
        }
    })
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), payload)
}

fn array<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId(*b"0123456789abcdef");

    fn example() -> Vec<u8> {
        let header = FrameHeader {
            kind: FrameKind::Writes,
            store: STORE,
            epoch: Epoch(7),
            first: Sequence(41),
            count: 2,
            arrival: ArrivalTime::from_micros(1_769_860_800_000_000),
            durable: Sequence(40),
        };
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(b"payload");
        seal(&header, &mut frame);
        frame
    }

    #[test]
    fn the_bytes_are_what_they_always_were() {
        let hex: String = example().iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "4c46524d",                         // magic
            "0100",                             // format
            "01",                               // kind
            "00",                               // reserved
            "30313233343536373839616263646566", // store
            "07000000",                         // epoch
            "02000000",                         // count
            "2900000000000000",                 // first
            "003049d4ad490600",                 // arrival
            "2800000000000000",                 // durable
            "07000000",                         // payload length
            "1cf36ad8",                         // CRC-32C of all but itself
            "7061796c6f6164",
        );
        assert_eq!(hex, golden);
    }

    #[test]
    fn reads_back_what_was_sealed() {
        let mut bytes = example();
        let length = bytes.len();
        bytes.extend_from_slice(b"what follows");
        let frame = decode(&bytes, STORE).unwrap();
        assert_eq!(frame.payload, b"payload");
        assert_eq!(frame.length(), length);
        assert_eq!((frame.header.first, frame.header.last()), (Sequence(41), Sequence(42)));
        assert_eq!(frame.header.epoch, Epoch(7));
        assert_eq!(frame.header.durable, Sequence(40));
        assert_eq!(frame.header.arrival.micros(), 1_769_860_800_000_000);
    }

    #[test]
    fn a_frame_at_the_end_of_all_numbers_has_a_last_sequence() {
        let header = FrameHeader {
            kind: FrameKind::Writes,
            store: StoreId([7; 16]),
            epoch: Epoch(1),
            first: Sequence(u64::MAX),
            count: 5,
            arrival: ArrivalTime::from_micros(1),
            durable: Sequence(1),
        };
        assert_eq!(header.last(), Sequence(u64::MAX - 1));
        assert_eq!(header.first.plus(5), Sequence(u64::MAX));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = example();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, STORE).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_shortened_frame_is_noticed() {
        let good = example();
        for length in 1..good.len() {
            let error = decode(&good[..length], STORE).unwrap_err();
            assert!(matches!(error, FrameError::Incomplete { .. }), "{length}: {error}");
        }
        assert_eq!(decode(&[], STORE), Err(FrameError::End));
        assert_eq!(decode(&[0; 20], STORE), Err(FrameError::End));
        assert_eq!(decode(&[0; 200], STORE), Err(FrameError::End));
    }

    #[test]
    fn refuses_what_is_not_its_own() {
        let other = StoreId([1; 16]);
        assert_eq!(decode(&example(), other), Err(FrameError::OtherStore { found: STORE }));
        let mut long = example();
        long[PAYLOAD_LENGTH_AT..CRC_AT].copy_from_slice(&u32::MAX.to_le_bytes());
        let length = u32::MAX as usize;
        assert_eq!(decode(&long, STORE), Err(FrameError::TooLong { length }));
        let mut newer = example();
        newer[4] = 2;
        let crc = checksum(&newer[..HEADER_BYTES], &newer[HEADER_BYTES..]);
        newer[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&newer, STORE), Err(FrameError::Newer { format: 2, kind: 1 }));
    }

    #[test]
    fn finds_frames_behind_damage() {
        let frame = example();
        let mut bytes = b"LFRMgarbageLFRM".to_vec();
        let first = bytes.len();
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(b"LFR");
        let second = bytes.len();
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&frame[..30]);
        let offsets: Vec<usize> = find_valid_after(&bytes, 1, STORE).map(|found| found.0).collect();
        assert_eq!(offsets, [first, second]);
        let offsets: Vec<usize> =
            find_valid_after(&bytes, first + 1, STORE).map(|found| found.0).collect();
        assert_eq!(offsets, [second]);
    }
}
