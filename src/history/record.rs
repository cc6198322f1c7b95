//! What a frame carries: requests, each with an optional source, made of rows and control records.
//!
//! It does not know what an archived row or a control record means; both are bytes here.

use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// The payload format this release writes.
const FORMAT: u16 = 1;
const PREAMBLE_BYTES: usize = 8;
const ROW: u8 = 1;
const CONTROL: u8 = 2;

/// Where a request came from, so that it is not accepted twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source<'a> {
    /// What kind of source.
    pub kind: SourceKind,
    /// Which one: the idempotency key, the topic and partition, the file.
    pub id: &'a [u8],
    /// How far in it; empty where there is no order.
    pub position: &'a [u8],
}

/// The kinds of source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SourceKind {
    /// An idempotency key of a caller.
    Idempotency,
    /// A partition of a Kafka topic.
    Kafka,
    /// A file that is loaded.
    Load,
    /// Another server.
    Peer,
}

impl SourceKind {
    /// Its number in history.
    pub fn code(self) -> u8 {
        match self {
            Self::Idempotency => 1,
            Self::Kafka => 2,
            Self::Load => 3,
            Self::Peer => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Idempotency),
            2 => Some(Self::Kafka),
            3 => Some(Self::Load),
            4 => Some(Self::Peer),
            _ => None,
        }
    }
}

/// The features of one view for one entity key at one event time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    /// The version of the view it belongs to.
    pub view: ViewId,
    /// When it happened.
    pub event_time: EventTime,
    /// The encoded entity key.
    pub key: &'a [u8],
    /// The archived features.
    pub archive: &'a [u8],
}

impl Row<'_> {
    /// Bytes it takes in a request.
    pub fn logged_bytes(&self) -> usize {
        1 + 4 + 8 + 4 + 4 + self.key.len() + self.archive.len()
    }
}

/// One accepted thing; each has a sequence of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A row of features.
    Row(Row<'a>),
    /// A change of definitions or the like; it carries a format number of its own.
    Control(&'a [u8]),
}

/// Encodes one request, row by row, in the task of whoever sends it.
#[derive(Debug)]
pub struct RequestBuilder {
    bytes: Vec<u8>,
    count_at: usize,
    count: u32,
    /// Where the event time of each row stands.
    times: Vec<u32>,
    latest: EventTime,
    /// As `latest`, without those left out.
    latest_given: EventTime,
}

impl RequestBuilder {
    /// An empty request.
    ///
    /// # Errors
    /// The source's id or position is 64 KiB or longer.
    pub fn new(source: Option<Source<'_>>) -> Result<Self, RecordError> {
        let mut bytes = vec![0; 4];
        match source {
            None => bytes.push(0),
            Some(source) => {
                bytes.push(source.kind.code());
                for part in [source.id, source.position] {
                    let refuse = |_| RecordError::SourceTooLong { length: part.len() };
                    let length = u16::try_from(part.len()).map_err(refuse)?;
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(part);
                }
            }
        }
        let count_at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        let (latest, latest_given) = (EventTime::MIN, EventTime::MIN);
        Ok(Self { bytes, count_at, count: 0, times: Vec::new(), latest, latest_given })
    }

    /// Adds a row. An event time that was left out is [`EventTime::MAX`].
    pub fn row(&mut self, row: &Row<'_>) {
        self.bytes.push(ROW);
        self.bytes.extend_from_slice(&row.view.0.to_le_bytes());
        self.times.push(self.bytes.len() as u32);
        self.latest = self.latest.max(row.event_time);
        if row.event_time != EventTime::MAX {
            self.latest_given = self.latest_given.max(row.event_time);
        }
        self.bytes.extend_from_slice(&row.event_time.micros().to_le_bytes());
        self.bytes.extend_from_slice(&(row.key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(row.archive.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(row.key);
        self.bytes.extend_from_slice(row.archive);
        self.count += 1;
    }

    /// Adds a control record.
    pub fn control(&mut self, record: &[u8]) {
        self.bytes.push(CONTROL);
        self.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(record);
        self.count += 1;
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Completes the request.
    ///
    /// # Errors
    /// It is longer than a frame may be, or holds nothing.
    pub fn finish(mut self) -> Result<EncodedRequest, RecordError> {
        if self.count == 0 {
            return Err(RecordError::Empty);
        }
        let length = self.bytes.len();
        if length + PREAMBLE_BYTES > crate::frame::PAYLOAD_BYTES_MAX {
            return Err(RecordError::RequestTooLong { length });
        }
        self.bytes[..4].copy_from_slice(&(length as u32 - 4).to_le_bytes());
        self.bytes[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_le_bytes());
        let Self { bytes, count, times, latest, latest_given, .. } = self;
        Ok(EncodedRequest { bytes, count, times, latest, latest_given })
    }
}

/// A request ready to be written.
///
/// Invariant: `bytes` is one request as [`RequestBuilder`] wrote it.
#[derive(Debug)]
pub struct EncodedRequest {
    bytes: Vec<u8>,
    count: u32,
    times: Vec<u32>,
    latest: EventTime,
    latest_given: EventTime,
}

impl EncodedRequest {
    /// Its records, at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The latest event time that its sender gave; [`EventTime::MIN`] if there is none.
    pub fn latest_given(&self) -> EventTime {
        self.latest_given
    }

    /// Sets every event time that lies after `arrival`, or was left out, to `arrival`. Costs
    /// nothing where none does.
    pub fn cap_event_times(&mut self, arrival: ArrivalTime) {
        let cap = arrival.as_event_time();
        if self.latest <= cap {
            return;
        }
        for &at in &self.times {
            let place = &mut self.bytes[at as usize..at as usize + 8];
            let mut time = [0; 8];
            time.copy_from_slice(place);
            if i64::from_le_bytes(time) > cap.micros() {
                place.copy_from_slice(&cap.micros().to_le_bytes());
            }
        }
        self.latest = cap;
    }

    /// Says where the request came from.
    ///
    /// # Errors
    /// The source's id or position is 64 KiB or longer.
    ///
    /// # Panics
    /// If it was said before.
    pub fn set_source(&mut self, source: Source<'_>) -> Result<(), RecordError> {
        assert_eq!(self.bytes[4], 0, "the source of a request is set once");
        let head = RequestBuilder::new(Some(source))?;
        let head = &head.bytes[4..head.count_at];
        let added = head.len() - 1;
        self.bytes.splice(4..5, head.iter().copied());
        self.times.iter_mut().for_each(|at| *at += added as u32);
        let length = self.bytes.len() as u32 - 4;
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// Reads it back, as if its first record had the sequence `first`.
    ///
    /// # Errors
    /// None for what [`RequestBuilder`] made.
    pub fn decode(&self, first: Sequence) -> Result<Request<'_>, RecordError> {
        Cursor { bytes: &self.bytes, at: 0 }.request(first)
    }
}

/// Appends the payload made of `requests` to `out`.
pub fn encode_payload(requests: &[&EncodedRequest], out: &mut Vec<u8>) {
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(requests.len() as u32).to_le_bytes());
    for request in requests {
        out.extend_from_slice(&request.bytes);
    }
}

/// The payload's length in bytes for requests of `bytes` in all.
pub fn payload_length(bytes: usize) -> usize {
    PREAMBLE_BYTES + bytes
}

/// Reads a frame's payload whose first record has the sequence `first`.
///
/// # Errors
/// It is of a newer format, or shorter than any payload. Its checksum is right, so this and every
/// error while iterating means a bug or a newer release.
pub fn decode_payload(payload: &[u8], first: Sequence) -> Result<Requests<'_>, RecordError> {
    let mut cursor = Cursor { bytes: payload, at: 0 };
    let format = u16::from_le_bytes(cursor.array()?);
    if format != FORMAT {
        return Err(RecordError::Newer { format });
    }
    cursor.array::<2>()?;
    let left = u32::from_le_bytes(cursor.array()?);
    Ok(Requests { cursor, left, next: first })
}

/// The requests of one frame, in order.
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    cursor: Cursor<'a>,
    left: u32,
    next: Sequence,
}

impl<'a> Iterator for Requests<'a> {
    type Item = Result<Request<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return self.cursor.end().map(Err);
        }
        self.left -= 1;
        let request = self.cursor.request(self.next);
        match &request {
            Ok(request) => self.next = self.next.plus(u64::from(request.count)),
            Err(_) => {
                self.left = 0;
                self.cursor.give_up();
            }
        }
        Some(request)
    }
}

/// One request of a frame.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Where it came from.
    pub source: Option<Source<'a>>,
    /// The sequence of its first record.
    pub first: Sequence,
    /// Its records.
    pub count: u32,
    records: Cursor<'a>,
}

impl<'a> Request<'a> {
    /// The sequence of its last record.
    pub fn last(&self) -> Sequence {
        Sequence((self.first.0 + u64::from(self.count)).saturating_sub(1))
    }

    /// Its records in order, each with its sequence.
    pub fn records(&self) -> Records<'a> {
        Records { cursor: self.records.clone(), left: self.count, next: self.first }
    }
}

/// The records of one request, in order, each with its sequence.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: u32,
    next: Sequence,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Sequence, Record<'a>), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return self.cursor.end().map(Err);
        }
        self.left -= 1;
        let sequence = self.next;
        self.next = self.next.next();
        match self.cursor.record() {
            Ok(record) => Some(Ok((sequence, record))),
            Err(error) => {
                self.left = 0;
                self.cursor.give_up();
                Some(Err(error))
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Reads nothing more.
    fn give_up(&mut self) {
        self.at = self.bytes.len();
    }

    /// What is wrong where nothing more should come, once.
    fn end(&mut self) -> Option<RecordError> {
        let is_over = self.at == self.bytes.len();
        self.give_up();
        (!is_over).then_some(RecordError::LeftOver)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let at = self.at;
        let end = at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(RecordError::Short { at, needed: length })?;
        self.at = end;
        Ok(&self.bytes[at..end])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn length(&mut self) -> Result<usize, RecordError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn request(&mut self, first: Sequence) -> Result<Request<'a>, RecordError> {
        let length = self.length()?;
        let mut inside = Cursor { bytes: self.take(length)?, at: 0 };
        let source = match u8::from_le_bytes(inside.array()?) {
            0 => None,
            code => {
                let kind =
                    SourceKind::from_code(code).ok_or(RecordError::UnknownSource { code })?;
                let length = usize::from(u16::from_le_bytes(inside.array()?));
                let id = inside.take(length)?;
                let length = usize::from(u16::from_le_bytes(inside.array()?));
                let position = inside.take(length)?;
                Some(Source { kind, id, position })
            }
        };
        let count = u32::from_le_bytes(inside.array()?);
        Ok(Request { source, first, count, records: inside })
    }

    fn record(&mut self) -> Result<Record<'a>, RecordError> {
        match u8::from_le_bytes(self.array()?) {
            ROW => {
                let view = ViewId(u32::from_le_bytes(self.array()?));
                let event_time = EventTime::from_micros(i64::from_le_bytes(self.array()?));
                let key_length = self.length()?;
                let archive_length = self.length()?;
                let key = self.take(key_length)?;
                let archive = self.take(archive_length)?;
                Ok(Record::Row(Row { view, event_time, key, archive }))
            }
            CONTROL => {
                let length = self.length()?;
                Ok(Record::Control(self.take(length)?))
            }
            code => Err(RecordError::UnknownRecord { code }),
        }
    }
}

/// Why requests cannot be encoded or decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// A request without a record.
    #[error("request holds no record")]
    Empty,
    /// A request that fits in no frame.
    #[error("request is {length} bytes, limit is {}", crate::frame::PAYLOAD_BYTES_MAX)]
    RequestTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A source whose id or position cannot be written down.
    #[error("source id or position is {length} bytes, limit is 65535")]
    SourceTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Written by a later release.
    #[error("payload format {format} is newer than this release knows ({FORMAT})")]
    Newer {
        /// Its format.
        format: u16,
    },
    /// The bytes stop in the middle.
    #[error("{needed} bytes needed at byte {at}, past the end")]
    Short {
        /// Where.
        at: usize,
        /// How many are needed there.
        needed: usize,
    },
    /// There is more than was announced.
    #[error("bytes are left over after the last one announced")]
    LeftOver,
    /// A kind of source of a later release.
    #[error("source kind {code} is unknown")]
    UnknownSource {
        /// Its number.
        code: u8,
    },
    /// A kind of record of a later release.
    #[error("record kind {code} is unknown")]
    UnknownRecord {
        /// Its number.
        code: u8,
    },
}

#[cfg(test)]
mod tests;
