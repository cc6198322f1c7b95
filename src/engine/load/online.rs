//! Brings a load online: the newest row of each entity, through the one writer, a few at a time, so
//! that pushes go on beside it.
//!
//! It does not know whether a row is the newest of all; `apply` keeps what is newer.
//!
//! All rows of a load have the same features, so only the newest of an entity can change what is
//! online. Until all are applied, no checkpoint may say that it covers them, nor the mark of the
//! disk tier: a crash in between leaves them to be replayed from history.

use super::{Committed, Loader};
use crate::engine::apply::Applied;
use crate::engine::as_of::damaged;
use crate::engine::error::Problem;
use crate::engine::queue::Job;
use crate::engine::write::Writer;
use crate::history::ReadError;
use crate::history::bulk::{Identity, newest_rows};
use crate::history::record::Row;
use crate::history::sealed::RowIn;
use crate::ids::{Sequence, ViewId};
use crate::metrics::Code;
use crate::time::EventTime;

/// Rows applied at once: some milliseconds at most, for which pushes wait.
const SLICE_ROWS: usize = 1024;
/// Bytes after which a slice ends earlier.
const SLICE_BYTES: usize = 1 << 20;

/// Rows of a load on their way to the writer.
pub(in crate::engine) struct LoadedRows {
    view: ViewId,
    bytes: Vec<u8>,
    rows: Vec<LoadedRow>,
}

/// A row that stands in `bytes`, key before archive.
struct LoadedRow {
    event_time: EventTime,
    sequence: Sequence,
    key: usize,
    archive: usize,
}

impl LoadedRows {
    fn new(view: ViewId) -> Self {
        Self { view, bytes: Vec::new(), rows: Vec::new() }
    }

    fn push(&mut self, row: &RowIn<'_>) {
        let RowIn { key, event_time, sequence, archive, .. } = *row;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(archive);
        let (key, archive) = (key.len(), archive.len());
        self.rows.push(LoadedRow { event_time, sequence, key, archive });
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= SLICE_ROWS || self.bytes.len() >= SLICE_BYTES
    }
}

/// Applies rows of a load, on the writer thread, and says how many changed something.
pub(in crate::engine) fn apply(writer: &mut Writer, loaded: &LoadedRows) -> Result<u64, Problem> {
    let view = loaded.view;
    let bounds = writer.shared.history.bounds();
    let (mut rest, mut changed) = (loaded.bytes.as_slice(), 0);
    for row in &loaded.rows {
        let (key, after) = rest.split_at(row.key);
        let (archive, after) = after.split_at(row.archive);
        rest = after;
        if row.sequence < bounds.erased_below(view, key) {
            continue;
        }
        let LoadedRow { event_time, sequence, .. } = *row;
        let applied =
            writer.applier.apply(&Row { view, event_time, key, archive }, sequence, false);
        match applied {
            Ok(applied) => changed += u64::from(applied == Applied::Changed),
            Err(error) => return Err(Problem::new(Code::Internal, error.to_string())),
        }
    }
    writer.make_room_in_the_tier(writer.history.last());
    Ok(changed)
}

/// Why not all rows were brought online.
enum Ended {
    Read(ReadError),
    Refused(Problem),
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Loader {
    /// Brings a load online that is not there yet, and says how many of its rows are not, because
    /// newer ones are. If not all can be brought, the same load may be given again.
    pub(super) fn bring_online(&self, load: &Identity) -> Result<u64, Problem> {
        let Some(committed) = self.shared.held(load) else { return Ok(0) };
        let changed = self.apply_newest(&committed).map_err(|mut problem| {
            problem.detail +=
                "; the file is in history, but not all online: load it again, or start again";
            tracing::error!(view = self.view.declared_name(), %problem, "a load is not all online");
            problem
        })?;
        self.shared.release(&committed);
        Ok(committed.rows - changed.min(committed.rows))
    }

    /// Applies the newest row of each entity, and says how many changed something.
    fn apply_newest(&self, committed: &Committed) -> Result<u64, Problem> {
        let mut slice = LoadedRows::new(self.view.id);
        let mut changed = 0;
        let mut each = |row: &RowIn<'_>| {
            slice.push(row);
            if slice.is_full() {
                let full = std::mem::replace(&mut slice, LoadedRows::new(self.view.id));
                changed += self.apply(full).map_err(Ended::Refused)?;
            }
            Ok(())
        };
        newest_rows(&committed.files, self.view.id, &mut each).map_err(|ended| match ended {
            Ended::Read(error) => damaged(&error),
            Ended::Refused(problem) => problem,
        })?;
        Ok(changed + self.apply(slice)?)
    }

    fn apply(&self, rows: LoadedRows) -> Result<u64, Problem> {
        self.queue.ask(|reply| Job::ApplyLoaded(rows, reply))
    }
}
