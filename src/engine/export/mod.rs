//! History as Parquet files by view and day, for every engine that reads those: all of it the first
//! time, then only what came since.
//!
//! It does not know whose history it is given, nor what the files are read for.

mod ledger;

mod parts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Disk, DiskError, DiskErrorKind};
use crate::engine::export::ledger::{Ledger, LedgerError};
use crate::engine::export::parts::{PartError, Parts};
use crate::engine::known::{Known, KnownError};
use crate::history::backup::Pinned;
use crate::history::bounds::Bounds;
use crate::history::open::OpenError;
use crate::history::record::{Record, Row};
use crate::history::replay::{LoggedFrame, Replayed};
use crate::history::sealed::RowIn;
use crate::history::{History, ReadError};
use crate::ids::{Sequence, ViewId};
use crate::registry::resolve::ResolveError;

const README: &str = include_str!("README.md");

/// Memory for rows on their way, where nothing else is said.
pub const MEMORY_BYTES: usize = 128 << 20;

/// What is exported, and with how much memory.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions<'a> {
    /// The project whose views are exported.
    pub project: &'a str,
    /// Bytes of rows gathered before the fullest file is written.
    pub memory_bytes: usize,
}

/// What an export did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// The sequence after which this export began.
    pub after: Sequence,
    /// Everything up to here is there now.
    pub sequence: Sequence,
    /// Rows written.
    pub rows: u64,
    /// Files written.
    pub files: usize,
}

/// Why nothing new is in the directory. What was there before is.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Another export into the directory is under way.
    #[error("another export into {} is under way", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds something else.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// History cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// History cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The definitions cannot be read.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// There is no such project.
    #[error(transparent)]
    Project(#[from] ResolveError),
    /// A file cannot be written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Writes the rows in `pinned` that `to` does not have yet. `progress` hears the rows
/// written so far.
///
/// # Errors
/// See [`ExportError`].
pub fn export(
    pinned: &Pinned,
    options: ExportOptions<'_>,
    disk: &dyn Disk,
    to: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, ExportError> {
    let project = options.project;
    disk.create_dir_all(to)?;
    let _lock = disk.lock_exclusive(&to.join("_lock")).map_err(|error| match error.kind() {
        DiskErrorKind::Locked => ExportError::Busy { path: to.to_owned() },
        _ => error.into(),
    })?;
    let ledger = Ledger::open(disk, to, pinned, project)?;
    let after = ledger.sequence();
    let sequence = pinned.sequence;
    if after == sequence {
        return Ok(Exported { after, sequence, rows: 0, files: 0 });
    }
    let history = History::of_pinned(pinned)?;
    let Known { registry, erasures } = Known::read(pinned, &history)?;
    history.set_erased(erasures.erased());
    let project_id = registry.project_named(project)?;
    let views = registry.all_views().filter(|view| view.project == project_id && view.offline);
    let views: Vec<_> = views.cloned().collect();
    let directories = ledger.views().clone();
    let sequences = (after.next(), sequence);
    let mut parts = Parts::new(disk, to, sequences, directories, options.memory_bytes)?;
    for view in &views {
        parts.add_view(view, registry.entity_of(view));
    }
    let mut rows = Rows { parts, erased: history.bounds(), after, progress };
    history.replay_after(after).run(&mut rows)?;
    let (rows, made) = rows.parts.finish()?;
    disk::replace(disk, &to.join("README.md"), README.as_bytes())?;
    let files = made.0.len();
    ledger.commit(disk, sequence, made)?;
    Ok(Exported { after, sequence, rows, files })
}

/// Rows on their way into files, but those that are erased.
struct Rows<'a> {
    parts: Parts<'a>,
    erased: Arc<Bounds>,
    /// What is there already ends here.
    after: Sequence,
    progress: &'a mut dyn FnMut(u64),
}

impl Rows<'_> {
    fn add(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), PartError> {
        match row.sequence < self.erased.erased_below(view, row.key) {
            true => Ok(()),
            false => self.parts.row(view, row),
        }
    }
}

impl Replayed<ExportError> for Rows<'_> {
    fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), ExportError> {
        self.add(view, row)?;
        (self.progress)(self.parts.rows());
        Ok(())
    }

    fn frame(&mut self, frame: &LoggedFrame<'_>) -> Result<(), ExportError> {
        let unreadable = |error| ExportError::from(frame.unreadable(&error));
        for request in frame.requests().map_err(unreadable)? {
            for record in request.map_err(unreadable)?.records() {
                let (sequence, Record::Row(row)) = record.map_err(unreadable)? else { continue };
                if sequence > self.after {
                    let Row { view, event_time, key, archive } = row;
                    let arrival = frame.header.arrival;
                    self.add(view, &RowIn { key, event_time, sequence, arrival, archive })?;
                }
            }
        }
        (self.progress)(self.parts.rows());
        Ok(())
    }
}
