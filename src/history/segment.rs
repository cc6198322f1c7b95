//! One file of the log: a header, then frames, then zeros.
//!
//! It does not know which segments belong together; that is the manifest's to say.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::Damage;
use crate::disk::{DiskError, DiskFile};
use crate::frame::{self, Frame, FrameError, FrameHeader, FrameKind};
use crate::ids::{Epoch, Sequence, StoreId};
use crate::time::ArrivalTime;

/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a segment in memory at once where it is sound, or one frame if that is longer.
const PART_BYTES: usize = 4 << 20;

pub(super) const MAGIC: [u8; 4] = *b"LSEG";
const FORMAT: u16 = 1;
const CRC_AT: usize = 60;

/// An open segment, shared by the writer and readers.
pub struct Segment {
    first: Sequence,
    file: Arc<dyn DiskFile>,
    /// Frames end here or before; moved on by the writer after each frame.
    end: AtomicU64,
    /// The last sequence in it, once nothing more will be added.
    closed: OnceLock<Sequence>,
    /// The last sequence of the log before it, as far as that is there. What is between was loaded
    /// past the log.
    after: Sequence,
}

impl Segment {
    pub(super) fn new(
        (after, first): (Sequence, Sequence),
        file: Arc<dyn DiskFile>,
        end: u64,
    ) -> Self {
        Self { first, file, end: AtomicU64::new(end), closed: OnceLock::new(), after }
    }

    /// The sequence of its first record.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// Read it before [`Self::end`], which is final once this is known.
    pub(super) fn closed(&self) -> Option<Sequence> {
        self.closed.get().copied()
    }

    /// The last sequence of the log before it.
    pub(super) fn after(&self) -> Sequence {
        self.after
    }

    pub(super) fn close(&self, last: Sequence) {
        // A segment is closed once, by the one writer.
        let _ = self.closed.set(last);
    }

    pub(super) fn damage(&self, offset: u64, reason: impl Into<String>) -> Damage {
        Damage { path: self.path().to_owned(), offset, reason: reason.into() }
    }
}

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// The start of the server that created it.
    pub epoch: Epoch,
    /// The sequence of its first record.
    pub first: Sequence,
}

impl SegmentHeader {
    /// Its bytes on disk.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.store.0);
        bytes[24..28].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of a segment.
    ///
    /// # Errors
    /// There is none that this release can read.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(HeaderError::Short)?;
        if head[..4] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let crc = crc32c::crc32c(&head[..CRC_AT]);
        if head[CRC_AT..] != crc.to_le_bytes() {
            return Err(HeaderError::Checksum);
        }
        let format = u16::from_le_bytes([head[4], head[5]]);
        if format != FORMAT {
            return Err(HeaderError::Newer { format });
        }
        let mut store = [0; 16];
        store.copy_from_slice(&head[8..24]);
        let mut epoch = [0; 4];
        epoch.copy_from_slice(&head[24..28]);
        let mut first = [0; 8];
        first.copy_from_slice(&head[32..40]);
        Ok(Self {
            store: StoreId(store),
            epoch: Epoch(u32::from_le_bytes(epoch)),
            first: Sequence(u64::from_le_bytes(first)),
        })
    }
}

/// Why a file is no segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Too short.
    #[error("shorter than a segment header")]
    Short,
    /// Another kind of file.
    #[error("does not begin as a segment does")]
    Magic,
    /// Damaged.
    #[error("segment header checksum does not match")]
    Checksum,
    /// Written by a later release.
    #[error("segment format {format} is newer than this release knows ({FORMAT})")]
    Newer {
        /// Its format.
        format: u16,
    },
}

/// The path of the segment whose first sequence is `first`.
pub fn path(directory: &Path, first: Sequence) -> PathBuf {
    directory.join(format!("{:020}.log", first.0))
}

/// The first sequence that the name of a complete segment states; none for other names.
pub fn first_of_name(name: &str) -> Option<Sequence> {
    let digits = name.strip_suffix(".log")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().map(Sequence) } else { None }
}

/// What the frames of a segment were found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examined {
    /// The whole frames from the start on end here.
    pub end: usize,
    /// The last sequence in them, or the one before the segment.
    pub last: Sequence,
    /// The arrival time of the last frame.
    pub last_arrival: Option<ArrivalTime>,
    /// The highest durable mark in them.
    pub marked: Sequence,
    /// The highest epoch in them.
    pub epoch: Epoch,
    /// What stands behind them, if it is not zeros.
    pub fault: Option<Fault>,
}

impl Examined {
    fn begin(header: &SegmentHeader) -> Self {
        Self {
            end: HEADER_BYTES,
            last: Sequence(header.first.0.saturating_sub(1)),
            last_arrival: None,
            marked: Sequence::ZERO,
            epoch: header.epoch,
            fault: None,
        }
    }

    fn add(&mut self, frame: &Frame<'_>) {
        self.end += frame.length();
        self.last = frame.header.last();
        self.last_arrival = Some(frame.header.arrival);
        self.marked = self.marked.max(frame.header.durable);
        self.epoch = frame.header.epoch;
    }
}

/// Bytes after the last whole frame that are not zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What is wrong with them.
    pub reason: String,
    /// A frame of a later release, which must not be cut.
    pub newer: bool,
    /// The offset of a later frame that shows they were durable once, hence damaged since.
    pub durable_by: Option<usize>,
}

/// Reads the frames of a whole segment, of which the header is known to be right, and applies the
/// tail rule: what follows the whole frames was torn by a crash, unless a later whole frame's
/// durable mark reaches it, or follows on from what came before it.
pub fn examine(
    bytes: &[u8],
    header: &SegmentHeader,
    mut each: impl FnMut(usize, &FrameHeader),
) -> Examined {
    let mut found = Examined::begin(header);
    let fault = loop {
        let rest = bytes.get(found.end..).unwrap_or_default();
        match frame::decode(rest, header.store) {
            Ok(frame) => match continues(&found, &frame.header) {
                Ok(()) => {
                    each(found.end, &frame.header);
                    found.add(&frame);
                }
                Err(reason) => break (reason, false),
            },
            Err(FrameError::End) => {
                if is_zeros(rest) {
                    return found;
                }
                break ("zeros with more bytes behind them".to_owned(), false);
            }
            Err(error) => break (error.to_string(), matches!(error, FrameError::Newer { .. })),
        }
    };
    let next = found.last.next();
    let durable_by = frame::find_valid_after(bytes, found.end, header.store)
        .find(|(_, frame)| frame.header.durable >= next || frame.header.first <= next)
        .map(|(offset, _)| offset);
    let (reason, newer) = fault;
    found.fault = Some(Fault { reason, newer, durable_by });
    found
}

/// As [`examine`], of the segment's file, a part of it in memory at a time. None where something
/// else than zeros follows the whole frames: what that is takes all of it at once to tell.
pub(super) fn examine_sound(
    file: &dyn DiskFile,
    header: &SegmentHeader,
) -> Result<Option<Examined>, DiskError> {
    let mut found = Examined::begin(header);
    let (mut part, mut wanted) = (Vec::new(), PART_BYTES);
    loop {
        part.resize(wanted, 0);
        let read = file.read_at(&mut part, found.end as u64)?;
        let (rest, is_last) = (&part[..read], read < wanted);
        let mut at = 0;
        let ended = loop {
            match frame::decode(&rest[at..], header.store) {
                Ok(frame) if continues(&found, &frame.header).is_ok() => {
                    at += frame.length();
                    found.add(&frame);
                }
                Ok(_) => return Ok(None),
                Err(error) => break error,
            }
        };
        wanted = match ended {
            FrameError::Incomplete { needed } if !is_last => needed.max(PART_BYTES),
            FrameError::End if is_last || at < read => {
                let sound = zeros_from(file, found.end as u64, &mut part)?;
                return Ok(sound.then_some(found));
            }
            FrameError::End => PART_BYTES,
            _ => return Ok(None),
        };
    }
}

/// Whether nothing but zeros stands in `file` from `offset` on.
fn zeros_from(file: &dyn DiskFile, offset: u64, part: &mut [u8]) -> Result<bool, DiskError> {
    let mut offset = offset;
    loop {
        let read = file.read_at(part, offset)?;
        if !is_zeros(&part[..read]) {
            return Ok(false);
        }
        if read < part.len() {
            return Ok(true);
        }
        offset += read as u64;
    }
}

/// Compares whole pages, since a byte at a time the tail of an empty segment takes as long as
/// opening everything else.
fn is_zeros(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

fn continues(found: &Examined, header: &FrameHeader) -> Result<(), String> {
    let next = found.last.next();
    if header.first != next {
        return Err(format!("frame begins at sequence {}, expected {next}", header.first));
    }
    if header.epoch < found.epoch {
        return Err(format!("frame of epoch {} after one of {}", header.epoch, found.epoch));
    }
    if (header.kind == FrameKind::Mark) != (header.count == 0) {
        return Err(format!("frame with {} records of the wrong kind", header.count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::disk::fake::FakeDisk;

    const HEADER: SegmentHeader =
        SegmentHeader { store: StoreId([7; 16]), epoch: Epoch(3), first: Sequence(100) };

    #[test]
    fn the_header_reads_back_and_every_flipped_bit_is_noticed() {
        let good = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&good), Ok(HEADER));
        assert_eq!(SegmentHeader::decode(&good[..63]), Err(HeaderError::Short));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
        let mut newer = good;
        newer[4] = 9;
        let crc = crc32c::crc32c(&newer[..CRC_AT]);
        newer[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(HeaderError::Newer { format: 9 }));
    }

    #[test]
    fn names_state_the_first_sequence() {
        let path = path(Path::new("/h"), Sequence(42));
        assert_eq!(path, Path::new("/h/00000000000000000042.log"));
        assert_eq!(first_of_name("00000000000000000042.log"), Some(Sequence(42)));
        for other in
            ["42.log", "00000000000000000042.log.tmp", "MANIFEST", "+0000000000000000042.log"]
        {
            assert_eq!(first_of_name(other), None, "{other}");
        }
    }

    fn frame(first: u64, count: u32, durable: u64) -> Vec<u8> {
        let kind = if count == 0 { FrameKind::Mark } else { FrameKind::Writes };
        let header = FrameHeader {
            kind,
            store: HEADER.store,
            epoch: Epoch(3),
            first: Sequence(first),
            count,
            arrival: ArrivalTime::from_micros(first as i64),
            durable: Sequence(durable),
        };
        let mut bytes = vec![b'x'; frame::HEADER_BYTES + 10 * count as usize];
        frame::seal(&header, &mut bytes);
        bytes
    }

    /// Joins frames, of which the one at `broken` is damaged, and returns what is found.
    fn with_damage(frames: &[Vec<u8>], broken: usize) -> Examined {
        let mut bytes = HEADER.encode().to_vec();
        for (number, frame) in frames.iter().enumerate() {
            let at = bytes.len();
            bytes.extend_from_slice(frame);
            if number == broken {
                bytes[at + 40] ^= 1;
            }
        }
        bytes.resize(bytes.len() + 300, 0);
        let found = examine(&bytes, &HEADER, |_, _| {});
        assert_eq!(sound(&bytes), Some(found.clone()).filter(|found| found.fault.is_none()));
        found
    }

    fn sound(bytes: &[u8]) -> Option<Examined> {
        let disk = FakeDisk::new();
        disk.create_dir_all(Path::new("/h")).unwrap();
        let file = disk.create(Path::new("/h/segment")).unwrap();
        file.write_at(bytes, 0).unwrap();
        examine_sound(file.as_ref(), &HEADER).unwrap()
    }

    #[test]
    fn a_sound_segment_is_examined_part_by_part() {
        let mut bytes = HEADER.encode().to_vec();
        let mut check = |first: u64, count: u32, zeros: usize| {
            bytes.extend_from_slice(&frame(first, count, 99));
            let end = bytes.len();
            bytes.resize(end + zeros, 0);
            let found = examine(&bytes, &HEADER, |_, _| {});
            assert_eq!(found.last, Sequence(first + u64::from(count) - 1));
            assert_eq!(sound(&bytes), Some(found), "frame at {first}");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_eq!(sound(&bytes), None, "frame at {first}");
            bytes.truncate(end);
            bytes[last.min(end - 1)] ^= u8::from(zeros == 0);
        };
        // Shorter than a part, over its end, longer than one, and with zeros over several.
        check(100, 1, 0);
        check(101, 1, 100);
        check(102, 300_000, 0);
        check(300_102, 300_000, 7);
        check(600_102, 1_000_000, 0);
        check(1_600_102, 1, 3 * PART_BYTES);
    }

    #[test]
    fn the_tail_rule_tells_torn_from_damaged() {
        let check = |frames: &[Vec<u8>], broken: usize, last: u64, damaged: bool| {
            let found = with_damage(frames, broken);
            assert_eq!(found.last, Sequence(last));
            let fault = found.fault.unwrap();
            assert_eq!(fault.durable_by.is_some(), damaged, "{fault:?}");
        };
        let all = [frame(100, 2, 99), frame(102, 1, 101), frame(103, 0, 102)];
        // The last frame: torn.
        check(&all[..2], 1, 101, false);
        // A later frame says it was durable.
        check(&all[..2], 0, 99, true);
        check(&all, 1, 101, true);
        // Unsynced frames behind it, as in the mode that syncs at intervals: torn.
        let unsynced = [frame(100, 2, 99), frame(102, 1, 99), frame(103, 4, 99)];
        check(&unsynced, 0, 99, false);
        check(&unsynced, 1, 101, false);
        // A mark is synced before anything follows it, so what follows proves it was there.
        let marked = [frame(100, 2, 99), frame(102, 0, 101), frame(102, 1, 101)];
        check(&marked, 1, 101, true);
        // Nothing follows the mark.
        check(&marked[..2], 1, 101, false);
    }

    #[test]
    fn whole_frames_and_zeros_have_no_fault() {
        let found = with_damage(&[frame(100, 2, 99), frame(102, 0, 101)], 9);
        assert_eq!((found.last, found.marked), (Sequence(101), Sequence(101)));
        assert_eq!(found.fault, None);
        assert_eq!(found.last_arrival, Some(ArrivalTime::from_micros(102)));
    }

    #[test]
    fn one_byte_anywhere_in_the_tail_is_a_fault() {
        let whole = [&HEADER.encode()[..], &frame(100, 2, 99)].concat();
        let end = whole.len();
        let length = end + 3 * 4096 + 7;
        for at in (end + 64..length).step_by(61).chain([length - 1]) {
            let mut bytes = whole.clone();
            bytes.resize(length, 0);
            assert_eq!(examine(&bytes, &HEADER, |_, _| {}).fault, None);
            bytes[at] = 1;
            let found = examine(&bytes, &HEADER, |_, _| {});
            assert!(found.fault.is_some_and(|fault| fault.reason.contains("zeros")), "{at}");
            assert_eq!(found.end, end);
        }
    }

    #[test]
    fn frames_out_of_order_are_damage() {
        let found = with_damage(&[frame(100, 2, 99), frame(100, 2, 99)], 9);
        let fault = found.fault.unwrap();
        assert_eq!(fault.reason, "frame begins at sequence 100, expected 102");
        assert!(fault.durable_by.is_some());
    }
}
