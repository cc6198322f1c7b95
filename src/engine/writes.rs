//! What callers hand to the writer: rows checked and encoded in their own task, and what they get
//! back.
//!
//! It does not know the writer thread, nor where the rows came from.

use std::sync::Arc;

use crate::archive::Encoder;
use crate::engine::error::Problem;
use crate::history::record::{EncodedRequest, RecordError, RequestBuilder, Row, Source};
use crate::ids::{Sequence, Slot, ViewId};
use crate::limits::Limits;
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::time::EventTime;
use crate::value::cell::CellRef;

/// When an acknowledged write is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Before it is acknowledged: survives a power cut.
    Sync,
    /// Within `storage.sync_interval`: a power cut may lose that much.
    Interval,
    /// When the operating system writes it back: survives a crash of the process only.
    Os,
}

impl Durability {
    /// Every mode, the strongest first.
    pub const ALL: [Self; 3] = [Self::Sync, Self::Interval, Self::Os];

    /// The name in the configuration and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Interval => "interval",
            Self::Os => "os",
        }
    }
}

/// What became of an accepted write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Rows written to history.
    pub accepted: u64,
    /// Of these, the rows that change nothing online because newer ones are there.
    pub superseded: u64,
    /// The sequence of the last row.
    pub sequence: Sequence,
    /// When the write is on disk.
    pub durability: Durability,
}

/// A row past `limits.row_bytes`, a key past `limits.key_bytes`, or a request that has grown past
/// `limits.queue_bytes`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the {what} has {bytes} bytes, the limit {limit_name} is {limit}")]
pub struct RowTooLarge {
    /// The row, its key, or the request as a whole.
    pub what: &'static str,
    /// Its size.
    pub bytes: usize,
    /// The configuration key of the limit.
    pub limit_name: &'static str,
    /// The most there may be.
    pub limit: usize,
}

impl From<RowTooLarge> for Problem {
    fn from(error: RowTooLarge) -> Self {
        Self::new(Code::LimitExceeded, error.to_string())
    }
}

/// Rows of one request, written all or none. Made against one registry; the writer checks again
/// if that has changed since.
pub struct WriteBatch {
    request: RequestBuilder,
    encoder: Encoder,
    view: Option<Arc<View>>,
    views: Vec<ViewId>,
    archive: Vec<u8>,
    rows: usize,
    row_bytes: usize,
    key_bytes: usize,
    queue_bytes: usize,
    pub(super) revision: u64,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new(registry: &Registry, limits: &Limits) -> Self {
        Self::from_source(registry, limits, None).expect("no source cannot be too long")
    }

    /// An empty batch whose source stands in history beside it.
    ///
    /// # Errors
    /// The source's id or position is 64 KiB or longer.
    pub(super) fn from_source(
        registry: &Registry,
        limits: &Limits,
        source: Option<Source<'_>>,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            request: RequestBuilder::new(source)?,
            encoder: Encoder::default(),
            view: None,
            views: Vec::new(),
            archive: Vec::new(),
            rows: 0,
            row_bytes: limits.row_bytes,
            key_bytes: limits.key_bytes,
            queue_bytes: limits.queue_bytes,
            revision: registry.revision(),
        })
    }

    /// Begins a row of `view` in which every feature is absent.
    pub fn start(&mut self, view: &Arc<View>) {
        if !self.views.contains(&view.id) {
            self.views.push(view.id);
        }
        self.encoder.start(view.layout());
        if self.view.as_ref().is_none_or(|before| before.id != view.id) {
            self.view = Some(view.clone());
        }
    }

    /// Sets one feature of the row, at most once; the cell is of the feature's type.
    ///
    /// # Panics
    /// If no row was begun, or its view has no such slot.
    pub fn set(&mut self, slot: Slot, cell: CellRef<'_>) {
        let view = self.view.as_ref().expect("a row was begun");
        self.encoder.set(view.layout(), slot, cell);
    }

    /// Ends the row. Without an event time it happened when it arrives.
    ///
    /// # Errors
    /// The row or its key is past its limit.
    ///
    /// # Panics
    /// If no row was begun.
    pub fn end(&mut self, key: &[u8], event_time: Option<EventTime>) -> Result<(), RowTooLarge> {
        let view = self.view.as_ref().expect("a row was begun");
        self.archive.clear();
        self.encoder.finish_row(&mut self.archive);
        let check = |what, bytes, limit_name, limit| {
            let error = RowTooLarge { what, bytes, limit_name, limit };
            if bytes > limit { Err(error) } else { Ok(()) }
        };
        check("entity key", key.len(), "limits.key_bytes", self.key_bytes)?;
        check("row", self.archive.len(), "limits.row_bytes", self.row_bytes)?;
        let request = self.request.length() + key.len() + self.archive.len();
        check("request, encoded,", request, "limits.queue_bytes", self.queue_bytes)?;
        self.request.row(&Row {
            view: view.id,
            event_time: event_time.unwrap_or(EventTime::MAX),
            key,
            archive: &self.archive,
        });
        self.rows += 1;
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes so far, as they will stand in history.
    pub fn bytes(&self) -> usize {
        self.request.length()
    }

    pub(super) fn finish(self) -> Result<(EncodedRequest, Vec<ViewId>), RecordError> {
        Ok((self.request.finish()?, self.views))
    }
}
