//! What a sealed file says of itself: the head at its start, the footer that lists its sections,
//! and the tail that says where the footer is.
//!
//! It does not know what is in the blocks.

use std::ops::Range;

use super::column::{micros, ordered};
use super::entry::Lift;
use super::fences::Fences;
use crate::ids::{Sequence, StoreId, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// The first bytes of every sealed file.
pub const MAGIC: [u8; 4] = *b"LSLD";
const TAIL_MAGIC: [u8; 4] = *b"LSLT";
const FORMAT: u16 = 1;
pub(super) const HEAD_BYTES: usize = 64;
pub(super) const TAIL_BYTES: usize = 32;
const CRC_AT: usize = 60;
/// The kind of the footer among blocks.
const KIND: u8 = 3;
/// A section of the rows of one view; there may be others one day.
const VIEW_ROWS: u8 = 1;
/// Rows as `rows` lays them out.
const ENCODING: u8 = 1;
/// The same, of which those below a floor were thinned out; the head says the floor.
const THINNED: u8 = 2;
const FOOTER_HEAD: usize = 4 + 1 + 3 + 4;
const SECTION_HEAD: usize = 1 + 1 + 2 + 4 + 8 * 8 + 4;
/// What follows the head of a section that was thinned out.
const FLOOR_BYTES: usize = 8 + 8;

/// The checksum of bytes that stand at `offset` of a file: the same bytes elsewhere have another.
pub(super) fn checksum(store: StoreId, number: u64, offset: u64, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&store.0);
    let crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

/// What stands at the start of a sealed file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The store it belongs to.
    pub store: StoreId,
    /// Its number.
    pub number: u64,
    /// The first sequence it covers.
    pub first: Sequence,
    /// The last sequence it covers.
    pub last: Sequence,
}

impl Head {
    /// Its bytes on disk.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.store.0);
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.last.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the head at the start of a sealed file.
    ///
    /// # Errors
    /// There is none that this release can read.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or(HeadError::Short)?;
        if head[..4] != MAGIC {
            return Err(HeadError::Magic);
        }
        if head[CRC_AT..] != crc32c::crc32c(&head[..CRC_AT]).to_le_bytes() {
            return Err(HeadError::Checksum);
        }
        let format = u16::from_le_bytes([head[4], head[5]]);
        if format != FORMAT {
            return Err(HeadError::Newer { format });
        }
        let mut store = [0; 16];
        store.copy_from_slice(&head[8..24]);
        Ok(Self {
            store: StoreId(store),
            number: number(head, 24),
            first: Sequence(number(head, 32)),
            last: Sequence(number(head, 40)),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Why a file is no sealed file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// Too short.
    #[error("shorter than the head of a sealed file")]
    Short,
    /// Another kind of file.
    #[error("does not begin as a sealed file does")]
    Magic,
    /// Damaged.
    #[error("checksum of the head does not match")]
    Checksum,
    /// Written by a later release.
    #[error("sealed file format {format} is newer than this release knows ({FORMAT})")]
    Newer {
        /// Its format.
        format: u16,
    },
}

/// The last bytes of the file: where the footer is.
pub(super) fn encode_tail(head: &Head, at: u64, footer_at: u64) -> [u8; TAIL_BYTES] {
    let mut bytes = [0; TAIL_BYTES];
    bytes[28..].copy_from_slice(&TAIL_MAGIC);
    bytes[8..16].copy_from_slice(&footer_at.to_le_bytes());
    bytes[16..24].copy_from_slice(&(at - footer_at).to_le_bytes());
    let crc = checksum(head.store, head.number, at, &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Where the footer of a file is: offset and length; none if the tail, which stands at `at`, is
/// damaged.
pub(super) fn decode_tail(head: &Head, at: u64, bytes: &[u8]) -> Option<(u64, usize)> {
    let tail: &[u8; TAIL_BYTES] = bytes.try_into().ok()?;
    let crc = checksum(head.store, head.number, at, &tail[4..]);
    if tail[..4] != crc.to_le_bytes() || tail[28..] != TAIL_MAGIC {
        return None;
    }
    let (offset, length) = (number(tail, 8), number(tail, 16));
    (offset.checked_add(length)? == at).then_some((offset, usize::try_from(length).ok()?))
}

/// The rows of one view in a file.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) facts: SectionFacts,
    /// Of each block of fences, its first row.
    pub(super) root: Fences,
    /// Where its first block lies, behind those of the section before.
    start: u64,
}

impl Section {
    /// Where the blocks lie that entry `index` of the root's fences lead to: behind those of the
    /// entry before, and before the fences themselves. So no block belongs to two.
    pub(super) fn range(&self, index: usize) -> Range<u64> {
        let before = index.checked_sub(1).and_then(|before| self.root.place(before).end());
        before.unwrap_or(self.start)..self.root.place(index).offset
    }

    /// Bytes of its blocks.
    pub(super) fn bytes(&self) -> u64 {
        // The last block of fences ends the section.
        self.root.end().map_or(0, |end| end - self.start)
    }
}

impl Section {
    /// The same of the file lifted.
    pub(super) fn lifted(&self, lift: Lift) -> Self {
        Self { facts: self.facts.lifted(lift), root: self.root.lifted(lift), start: self.start }
    }
}

/// What is known of a section without reading a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionFacts {
    /// The view its rows belong to.
    pub view: ViewId,
    /// Features its rows have at most.
    pub slots: usize,
    /// Its rows.
    pub rows: u64,
    /// Its entity keys.
    pub keys: u64,
    /// The earliest event time,
    pub oldest: EventTime,
    /// and the latest.
    pub newest: EventTime,
    /// The lowest sequence,
    pub first: Sequence,
    /// and the highest.
    pub last: Sequence,
    /// The earliest arrival,
    pub first_arrival: ArrivalTime,
    /// and the latest.
    pub last_arrival: ArrivalTime,
    /// The floor below which only the base was kept; none if every row was.
    pub floor: Option<EventTime>,
    /// Rows that happened and arrived below that floor, hence belong to the base.
    pub settled: u64,
}

impl SectionFacts {
    fn lifted(self, lift: Lift) -> Self {
        Self {
            first: lift.of(self.first),
            last: lift.of(self.last),
            first_arrival: lift.arrival.unwrap_or(self.first_arrival),
            last_arrival: lift.arrival.unwrap_or(self.last_arrival),
            ..self
        }
    }
}

/// Appends the head of a footer, with room for its checksum.
pub(super) fn encode_footer_head(sections: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
    out.push(KIND);
    out.extend_from_slice(&[0; 3]);
    out.extend_from_slice(&(sections as u32).to_le_bytes());
}

/// Appends what a footer says of one section.
pub(super) fn encode_section(facts: &SectionFacts, root: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[VIEW_ROWS, if facts.floor.is_some() { THINNED } else { ENCODING }]);
    out.extend_from_slice(&(facts.slots as u16).to_le_bytes());
    out.extend_from_slice(&facts.view.0.to_le_bytes());
    for number in [
        facts.rows,
        facts.keys,
        ordered(facts.oldest.micros()),
        ordered(facts.newest.micros()),
        facts.first.0,
        facts.last.0,
        ordered(facts.first_arrival.micros()),
        ordered(facts.last_arrival.micros()),
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(root.len() as u32).to_le_bytes());
    if let Some(floor) = facts.floor {
        out.extend_from_slice(&ordered(floor.micros()).to_le_bytes());
        out.extend_from_slice(&facts.settled.to_le_bytes());
    }
    out.extend_from_slice(root);
}

/// Reads a footer whose checksum is right and which stands at `at`, of a file that is lifted. None
/// if what it says contradicts itself or it holds a kind of section that this release does not
/// know.
pub(super) fn decode_footer(footer: &[u8], at: u64, lift: Lift) -> Option<Vec<Section>> {
    let (head, mut rest) = footer.split_first_chunk::<FOOTER_HEAD>()?;
    let count = u32::from_le_bytes(head[8..12].try_into().ok()?);
    let mut sections: Vec<Section> = Vec::new();
    let mut start = HEAD_BYTES as u64;
    for _ in 0..count {
        let (head, mut after) = rest.split_first_chunk::<SECTION_HEAD>()?;
        let (mut floor, mut settled) = (None, 0);
        match head[..2] {
            [VIEW_ROWS, ENCODING] => {}
            [VIEW_ROWS, THINNED] => {
                let (said, behind) = after.split_first_chunk::<FLOOR_BYTES>()?;
                floor = Some(EventTime::from_micros(micros(number(said, 0))));
                settled = number(said, 8);
                after = behind;
            }
            _ => return None,
        }
        let word = |index: usize| number(head, 8 + 8 * index);
        let time = |index: usize| micros(word(index));
        let facts = SectionFacts {
            slots: usize::from(u16::from_le_bytes([head[2], head[3]])),
            view: ViewId(u32::from_le_bytes(head[4..8].try_into().ok()?)),
            rows: word(0),
            keys: word(1),
            oldest: EventTime::from_micros(time(2)),
            newest: EventTime::from_micros(time(3)),
            first: Sequence(word(4)),
            last: Sequence(word(5)),
            first_arrival: ArrivalTime::from_micros(time(6)),
            last_arrival: ArrivalTime::from_micros(time(7)),
            floor,
            settled,
        };
        let length = u32::from_le_bytes(head[72..76].try_into().ok()?) as usize;
        let (root, after) = after.split_at_checked(length)?;
        let root =
            Fences::read(root.to_vec().into(), lift).filter(|root| root.lie_within(start, at))?;
        let end = root.end()?;
        sections.push(Section { facts: facts.lifted(lift), root, start });
        (start, rest) = (end, after);
    }
    let sorted = sections.is_sorted_by(|a, b| a.facts.view < b.facts.view);
    (rest.is_empty() && sorted && footer[4] == KIND).then_some(sections)
}
