//! How many bytes rows take on disk, view by view.
//!
//! It does not know memory, nor what views are called.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::Record;
use super::replay::{Position, scan_segment};
use super::segment::Segment;
use super::{History, ReadError};
use crate::ids::ViewId;

/// Bytes of the log that are looked at.
const SAMPLE_BYTES: u64 = 1 << 20;

/// Rows, and the bytes they take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// How many.
    pub rows: u64,
    /// How long.
    pub bytes: u64,
}

/// Ends the sample.
enum Ended {
    Enough,
    Read,
}

impl From<ReadError> for Ended {
    fn from(_: ReadError) -> Self {
        Self::Read
    }
}

impl History {
    /// The rows of each view in sealed files, and the bytes they take there with their index.
    pub fn sealed_sizes(&self) -> BTreeMap<ViewId, Size> {
        let mut sizes: BTreeMap<ViewId, Size> = BTreeMap::new();
        for file in self.sealed().iter() {
            for (facts, bytes) in file.sizes() {
                let size = sizes.entry(facts.view).or_default();
                size.rows += facts.rows;
                size.bytes += bytes;
            }
        }
        sizes
    }

    /// The same of the first MiB of the newest segment of the log that has rows. What cannot be
    /// read is left out.
    pub fn log_sample(&self) -> BTreeMap<ViewId, Size> {
        let segments = self.segments();
        let sample = |segment: &Arc<Segment>| self.sample(segment);
        segments.iter().rev().map(sample).find(|sizes| !sizes.is_empty()).unwrap_or_default()
    }

    fn sample(&self, segment: &Arc<Segment>) -> BTreeMap<ViewId, Size> {
        let mut sizes: BTreeMap<ViewId, Size> = BTreeMap::new();
        let mut position = Position::start_of(segment);
        let read = scan_segment(self, segment, &mut position, &mut |frame| {
            let requests = frame.requests().map_err(|error| frame.unreadable(&error))?;
            for request in requests.flatten() {
                for (_, record) in request.records().flatten() {
                    if let Record::Row(row) = record {
                        let size = sizes.entry(row.view).or_default();
                        size.rows += 1;
                        size.bytes += row.logged_bytes() as u64;
                    }
                }
            }
            match frame.offset < SAMPLE_BYTES {
                true => Ok(()),
                false => Err(Ended::Enough),
            }
        });
        match read {
            Ok(()) | Err(Ended::Enough | Ended::Read) => sizes,
        }
    }
}
