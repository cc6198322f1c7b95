//! Reading history from front to back: the log in long reads, each frame checked before it is used,
//! and between frames what only sealed files have.
//!
//! It does not know who reads: recovery and the index do the same.

use std::sync::Arc;

use super::record::{self, RecordError, Requests};
use super::sealed::{RowIn, Scan, SealedFile};
use super::segment::{self, Segment};
use super::{History, ReadError};
use crate::frame::{self, FrameError, FrameHeader, FrameKind};
use crate::ids::{Sequence, ViewId};

/// Bytes asked of the disk at once.
const CHUNK_BYTES: u64 = 4 << 20;

/// A frame of requests, read from the log and found whole.
#[derive(Clone, Copy)]
pub struct LoggedFrame<'a> {
    /// What it says of itself.
    pub header: FrameHeader,
    pub(super) payload: &'a [u8],
    pub(super) segment: &'a Arc<Segment>,
    pub(super) offset: u64,
}

impl<'a> LoggedFrame<'a> {
    /// Its requests in order; their records have the sequences from `header.first` on.
    ///
    /// # Errors
    /// The payload is of a newer format.
    pub fn requests(&self) -> Result<Requests<'a>, RecordError> {
        record::decode_payload(self.payload, self.header.first)
    }

    /// The error that says where a record that cannot be decoded stands.
    pub fn unreadable(&self, error: &RecordError) -> ReadError {
        self.segment.damage(self.offset, error.to_string()).into()
    }
}

/// How far the log was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The first sequence of the segment.
    pub(super) segment: Sequence,
    /// Where the next frame begins in it.
    pub(super) offset: u64,
    /// The sequence the next frame begins with.
    pub(super) next: Sequence,
}

impl Position {
    pub(super) fn start_of(segment: &Segment) -> Self {
        let first = segment.first();
        Self { segment: first, offset: segment::HEADER_BYTES as u64, next: first }
    }
}

/// History from a sequence on, held so that nothing of it goes away while it is read.
pub struct Replay<'h> {
    history: &'h History,
    after: Sequence,
    /// Taken before the sealed files: what was let go of until then is in those.
    segments: Vec<Arc<Segment>>,
    sealed: Arc<[Arc<SealedFile>]>,
}

impl History {
    /// Holds what there is above `after`.
    pub fn replay_after(&self, after: Sequence) -> Replay<'_> {
        let segments = self.segments();
        Replay { history: self, after, segments, sealed: self.sealed() }
    }

    /// Gives `each` the frames of the log that hold a sequence above `after`, as
    /// [`Replay::frames`] does.
    ///
    /// # Errors
    /// As there.
    pub fn replay<E: From<ReadError>>(
        &self,
        after: Sequence,
        each: impl FnMut(&LoggedFrame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.replay_after(after).frames(each)
    }

    /// Reads on from `position`, which moves past each frame that `each` took. `held_segments` are
    /// read even if history has let go of them.
    pub(super) fn scan<E: From<ReadError>>(
        &self,
        held_segments: &[Arc<Segment>],
        position: &mut Position,
        mut each: impl FnMut(&LoggedFrame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let is_it = |segment: &&Arc<Segment>| segment.first() == position.segment;
            let held = held_segments.iter().find(is_it).cloned();
            let Some(segment) = held.or_else(|| self.segment_of(position.segment)) else {
                return Ok(());
            };
            if segment.first() != position.segment {
                let reason = format!("follows segment {}, which is gone", position.segment);
                return Err(ReadError::from(segment.damage(0, reason)).into());
            }
            let closed = segment.closed();
            scan_segment(self, &segment, position, &mut each)?;
            let Some(last) = closed else { return Ok(()) };
            check_end(&segment, position, last)?;
            // What it follows tells whether it is the next one, or that has gone.
            let held = held_segments.iter().find(|held| held.first() > segment.first());
            let behind = self.segment_behind(segment.first());
            let next = held.into_iter().chain(&behind).min_by_key(|next| next.first());
            match next {
                Some(next) if next.after() == last => *position = Position::start_of(next),
                Some(next) => {
                    let reason = format!("follows segment {}, which is gone", last.next());
                    return Err(ReadError::from(next.damage(0, reason)).into());
                }
                None => return Ok(()),
            }
        }
    }
}

fn check_end(segment: &Segment, position: &Position, last: Sequence) -> Result<(), ReadError> {
    if position.next == last.next() {
        return Ok(());
    }
    let found = position.next.0 - 1;
    let reason = format!("ends at sequence {found}, the manifest says {last}");
    Err(segment.damage(position.offset, reason).into())
}

/// Takes what history holds.
pub trait Replayed<E> {
    /// Takes a row that is not in the log, of a view.
    ///
    /// # Errors
    /// It refuses the row.
    fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), E>;

    /// Takes a frame of the log, which may begin at or below the sequence asked for.
    ///
    /// # Errors
    /// It refuses the frame.
    fn frame(&mut self, frame: &LoggedFrame<'_>) -> Result<(), E>;
}

impl Replay<'_> {
    /// The first sequence that is in the log.
    pub fn log_begins(&self) -> Sequence {
        self.segments.first().map_or(Sequence(1), |segment| segment.first())
    }

    /// Gives `to` everything above the sequence asked for, in order: the frames of the log, and
    /// before and between them the rows that are no longer in the log or never were. Such rows that
    /// no frame parts come file by file, by entity key, so in no order of sequences; there is no
    /// control record between them, and what is done with them must not depend on their order.
    ///
    /// What is written and loaded meanwhile is not given, or only in part.
    ///
    /// # Errors
    /// The disk failed, a file is damaged, or `to` refused.
    pub fn run<E: From<ReadError>>(&self, to: &mut impl Replayed<E>) -> Result<(), E> {
        let mut next = self.after.next();
        for segment in &self.segments {
            self.rows_between((next, segment.first()), to)?;
            next = next.max(segment.first());
            let closed = segment.closed();
            if closed.is_some_and(|last| last < next) {
                continue;
            }
            let mut position = Position::start_of(segment);
            let mut each = |frame: &LoggedFrame<'_>| match frame.header.last() > self.after {
                true => to.frame(frame),
                false => Ok(()),
            };
            scan_segment(self.history, segment, &mut position, &mut each)?;
            if let Some(last) = closed {
                check_end(segment, &position, last)?;
            }
            next = position.next;
        }
        Ok(())
    }

    /// The rows from the first sequence on and before the second. A merged file may reach from
    /// before the log far into it: it is not read for what the log has.
    fn rows_between<E: From<ReadError>>(
        &self,
        (first, end): (Sequence, Sequence),
        to: &mut impl Replayed<E>,
    ) -> Result<(), E> {
        if first >= end {
            return Ok(());
        }
        for file in self.sealed.iter() {
            for facts in file.sections() {
                if facts.first >= end || facts.last < first {
                    continue;
                }
                let Some(mut scan) = Scan::start(file, facts.view)? else { continue };
                while let Some(row) = scan.current() {
                    if row.sequence >= first && row.sequence < end {
                        to.row(facts.view, &row)?;
                    }
                    scan.advance()?;
                }
            }
        }
        Ok(())
    }

    /// Gives `each` the frames that hold a sequence above the one asked for, in order, up to what
    /// is written when the end is reached. The first frame may begin at or below it.
    ///
    /// # Errors
    /// The disk failed, a segment is damaged, or `each` refused.
    pub fn frames<E: From<ReadError>>(
        &self,
        mut each: impl FnMut(&LoggedFrame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let next = self.after.next();
        let after = self.segments.partition_point(|segment| segment.first() <= next);
        let Some(segment) = self.segments.get(after.saturating_sub(1)) else { return Ok(()) };
        let mut position = Position::start_of(segment);
        self.history.scan(&self.segments, &mut position, |frame| {
            match frame.header.last() > self.after {
                true => each(frame),
                false => Ok(()),
            }
        })
    }
}

/// Reads the frames of one segment from `position` on.
pub(super) fn scan_segment<E: From<ReadError>>(
    history: &History,
    segment: &Arc<Segment>,
    position: &mut Position,
    each: &mut impl FnMut(&LoggedFrame<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let end = segment.end();
    let mut window = Window { start: position.offset, bytes: Vec::new() };
    while position.offset < end {
        window.ensure(segment, position.offset, frame::HEADER_BYTES, end)?;
        let mut decoded = frame::decode(window.from(position.offset), history.store());
        if let Err(FrameError::Incomplete { needed }) = decoded {
            window.ensure(segment, position.offset, needed, end)?;
            decoded = frame::decode(window.from(position.offset), history.store());
        }
        let refuse =
            |reason: String| Err(E::from(ReadError::from(segment.damage(position.offset, reason))));
        let frame = match decoded {
            Ok(frame) => frame,
            // The rest of a closed segment; the caller checks that it ended where it should.
            Err(FrameError::End) if segment.closed().is_some() => return Ok(()),
            Err(error) => return refuse(error.to_string()),
        };
        let header = frame.header;
        if header.first != position.next {
            let expected = position.next;
            return refuse(format!("frame begins at sequence {}, not {expected}", header.first));
        }
        if header.kind == FrameKind::Writes {
            let offset = position.offset;
            each(&LoggedFrame { header, payload: frame.payload, segment, offset })?;
        }
        position.offset += frame.length() as u64;
        position.next = header.last().next();
    }
    Ok(())
}

/// A part of a segment in memory.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn from(&self, offset: u64) -> &[u8] {
        self.bytes.get((offset - self.start) as usize..).unwrap_or_default()
    }

    /// Reads on until `needed` bytes from `offset` are there, or all up to `end`.
    fn ensure(
        &mut self,
        segment: &Segment,
        offset: u64,
        needed: usize,
        end: u64,
    ) -> Result<(), ReadError> {
        let left = end - offset;
        if self.from(offset).len() as u64 >= left.min(needed as u64) {
            return Ok(());
        }
        self.bytes.drain(..(offset - self.start) as usize);
        self.start = offset;
        let had = self.bytes.len();
        // `needed` comes from a header not yet checked, but `left` is real.
        let wanted = left.min(CHUNK_BYTES.max(needed as u64)) as usize;
        self.bytes.resize(wanted, 0);
        let read = segment.file().read_at(&mut self.bytes[had..], offset + had as u64)?;
        if had + read < wanted {
            let at = offset + (had + read) as u64;
            return Err(segment.damage(at, "the file ends before its frames do").into());
        }
        Ok(())
    }
}
