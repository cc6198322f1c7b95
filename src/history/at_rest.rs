//! What of history is at rest while a server runs, and reading it again to see whether it is still
//! what was written.
//!
//! It does not know when that is done, nor what becomes of the damage that is found.

use std::path::Path;
use std::sync::Arc;

use super::pace::Pace;
use super::record::RecordError;
use super::replay::{LoggedFrame, Position, scan_segment};
use super::sealed::{self, SealedFile};
use super::segment::Segment;
use super::{Damage, History, ReadError};

/// A file of history that is not written any more.
pub enum AtRest {
    /// A sealed file.
    Sealed(Arc<SealedFile>),
    /// A closed segment of the log.
    Segment(Arc<Segment>),
}

impl History {
    /// Every file that is not written any more.
    pub fn at_rest(&self) -> Vec<AtRest> {
        let segments = self.segments().into_iter().filter(|segment| segment.closed().is_some());
        let sealed = self.sealed();
        let sealed = sealed.iter().cloned().map(AtRest::Sealed);
        sealed.chain(segments.map(AtRest::Segment)).collect()
    }
}

impl AtRest {
    /// Its file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Sealed(file) => file.file().path(),
            Self::Segment(segment) => segment.path(),
        }
    }

    /// Its length, as far as it is known.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Sealed(file) => file.entry().bytes,
            Self::Segment(segment) => segment.end(),
        }
    }

    /// Reads all of it from the device, and says what is damaged; none if the work was given up, or
    /// the file was removed meanwhile: its bytes stay for as long as it is held.
    pub fn check(&self, history: &History, pace: &mut dyn Pace) -> Option<Vec<Damage>> {
        let pace = &mut WhileThere { pace, history, file: self, unasked: ASKED_BYTES };
        let file = match self {
            Self::Sealed(file) => file.file().as_ref(),
            Self::Segment(segment) => segment.file(),
        };
        // Where the memory of it cannot be dropped it is read all the same. Afterwards it goes
        // again: most of history is seldom read, and would take the place of what is.
        let _ = file.drop_cache();
        let found = match self {
            Self::Sealed(file) => {
                let mut faults = Vec::new();
                let finished = sealed::check(file, pace, &mut faults);
                finished.then(|| faults.into_iter().map(|fault| fault.damage).collect())
            }
            Self::Segment(segment) => check_segment(history, segment, pace),
        };
        let _ = file.drop_cache();
        found
    }

    fn is_of(&self, history: &History) -> bool {
        match self {
            Self::Sealed(file) => {
                let number = file.entry().number;
                history.sealed().iter().any(|there| there.entry().number == number)
            }
            Self::Segment(segment) => {
                history.segments().iter().any(|there| there.first() == segment.first())
            }
        }
    }
}

/// Bytes read before it is asked whether the file is still of history: who reads is idle, and holds
/// a lock for that which others may wait for.
const ASKED_BYTES: u64 = 4 << 20;

/// Gives up reading a file that is of history no more.
struct WhileThere<'a> {
    pace: &'a mut dyn Pace,
    history: &'a History,
    file: &'a AtRest,
    /// Bytes read since it was asked.
    unasked: u64,
}

impl Pace for WhileThere<'_> {
    fn worked(&mut self, bytes: u64) -> bool {
        self.unasked = self.unasked.saturating_add(bytes);
        let goes_on = self.pace.worked(bytes);
        if self.unasked < ASKED_BYTES {
            return goes_on;
        }
        self.unasked = 0;
        goes_on && self.file.is_of(self.history)
    }
}

/// Why a segment was not read to its end.
enum Ended {
    Read(ReadError),
    GivenUp,
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

fn check_segment(
    history: &History,
    segment: &Arc<Segment>,
    pace: &mut dyn Pace,
) -> Option<Vec<Damage>> {
    let mut position = Position::start_of(segment);
    let read = scan_segment(history, segment, &mut position, &mut |frame| {
        check_frame(frame).map_err(|error| Ended::Read(frame.unreadable(&error)))?;
        match pace.worked(frame.payload.len() as u64) {
            true => Ok(()),
            false => Err(Ended::GivenUp),
        }
    });
    let last = segment.closed()?;
    let damage = match read {
        Ok(()) if position.next == last.next() => return Some(Vec::new()),
        Ok(()) => {
            let found = position.next.0 - 1;
            let reason = format!("ends at sequence {found}, the manifest says {last}");
            segment.damage(position.offset, reason)
        }
        Err(Ended::GivenUp) => return None,
        Err(Ended::Read(ReadError::Damaged(damage))) => damage,
        Err(Ended::Read(ReadError::Disk(error))) => {
            segment.damage(position.offset, error.to_string())
        }
    };
    Some(vec![damage])
}

fn check_frame(frame: &LoggedFrame<'_>) -> Result<(), RecordError> {
    for request in frame.requests()? {
        request?.records().try_for_each(|record| record.map(drop))?;
    }
    Ok(())
}
