//! What an export directory says of itself: whose history it holds, up to which sequence, where
//! each view lies, and which files still have to get their names.
//!
//! It does not know what is in the files.
//!
//! An export counts from the moment the ledger with its files is durable. Until then they lie in
//! `_unfinished`, where nobody looks; afterwards they are given their names, by this export or, if
//! it was interrupted, by the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk, DiskError, DiskErrorKind};
use crate::history::backup::{EPOCH_JUMP, Pinned};
use crate::ids::{Sequence, ViewId};
use crate::registry::model::View;

const FORMAT: u32 = 1;

/// A file that is complete: where it is, and where it belongs, both below the export directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Move {
    pub(super) from: String,
    pub(super) to: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    store: String,
    epoch: u32,
    #[serde(default)]
    past: u16,
    project: String,
    sequence: u64,
    #[serde(default)]
    views: Directories,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moves: Vec<Move>,
}

/// Which view lies in which directory, by its name and the view's id: a view that was dropped and
/// defined anew is another one, with other columns perhaps.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Directories(BTreeMap<String, ViewId>);

impl Directories {
    /// The name of the directory of a view: as the view is called, and where another one had that
    /// name before, with its id.
    pub(super) fn of(&mut self, view: &View) -> String {
        let known = self.0.iter().find(|(_, id)| **id == view.id);
        if let Some((name, _)) = known {
            return name.clone();
        }
        let mut name = view.declared_name();
        if self.0.contains_key(&name) {
            // No view is called so.
            name = format!("{name}~{}", view.id);
        }
        self.0.insert(name.clone(), view.id);
        name
    }
}

/// Why a directory cannot take an export.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The ledger cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The ledger.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It holds something else.
    #[error("{} holds {holds}, not {asked}; export into another directory", path.display())]
    Other {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        holds: String,
        /// What was to be put there.
        asked: String,
    },
}

/// The ledger of an export directory.
pub(super) struct Ledger {
    directory: PathBuf,
    content: Content,
}

fn path(directory: &Path) -> PathBuf {
    directory.join("_export.json")
}

/// Where files lie until they count.
pub(super) fn unfinished(directory: &Path) -> PathBuf {
    directory.join("_unfinished")
}

impl Ledger {
    /// Reads the ledger of `directory`, finishes what an interrupted export left, and holds that
    /// it is of the same history.
    pub(super) fn open(
        disk: &dyn Disk,
        directory: &Path,
        pinned: &Pinned,
        project: &str,
    ) -> Result<Self, LedgerError> {
        let manifest = &pinned.manifest;
        let now = Content {
            format: FORMAT,
            store: manifest.store.to_string(),
            epoch: manifest.epoch.0,
            past: manifest.past,
            project: project.to_owned(),
            sequence: 0,
            views: Directories::default(),
            moves: Vec::new(),
        };
        let path = path(directory);
        let bytes = match disk::read_whole(disk, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == DiskErrorKind::NotFound => {
                disk.remove_dir_all(&unfinished(directory))?;
                return Ok(Self { directory: directory.to_owned(), content: now });
            }
            Err(error) => return Err(error.into()),
        };
        let unreadable = |reason: String| LedgerError::Unreadable { path: path.clone(), reason };
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if content.format != FORMAT {
            let reason = format!("it has format {}, this release knows {FORMAT}", content.format);
            return Err(unreadable(reason));
        }
        let mut ledger = Self { directory: directory.to_owned(), content };
        ledger.finish(disk)?;
        ledger.refuse_others(&now, pinned.sequence)?;
        ledger.content.epoch = now.epoch;
        Ok(ledger)
    }

    fn refuse_others(&self, now: &Content, sequence: Sequence) -> Result<(), LedgerError> {
        let Content { store, epoch, past, project, sequence: had, .. } = &self.content;
        let other = |holds: String, asked: String| {
            Err(LedgerError::Other { path: self.directory.clone(), holds, asked })
        };
        if *store != now.store {
            return other(format!("history of store {store}"), format!("of {}", now.store));
        }
        if *project != now.project {
            return other(format!("project {project}"), now.project.clone());
        }
        let starts = now.epoch.checked_sub(*epoch);
        let is_other_past = *past != now.past || starts.is_none_or(|starts| starts >= EPOCH_JUMP);
        if is_other_past || *had > sequence.0 {
            let asked = format!("sequence {sequence} of epoch {}, restored from", now.epoch);
            let asked = format!("{asked} a backup");
            return other(format!("history up to sequence {had} of epoch {epoch}"), asked);
        }
        Ok(())
    }

    /// Everything up to here is in the directory.
    pub(super) fn sequence(&self) -> Sequence {
        Sequence(self.content.sequence)
    }

    /// Where views lie.
    pub(super) fn views(&self) -> &Directories {
        &self.content.views
    }

    /// Makes files count, which lie complete and durable in `_unfinished`.
    pub(super) fn commit(
        mut self,
        disk: &dyn Disk,
        sequence: Sequence,
        (moves, views): (Vec<Move>, Directories),
    ) -> Result<(), LedgerError> {
        for to in self.directories(&moves) {
            disk.create_dir_all(&to)?;
        }
        self.content.sequence = sequence.0;
        self.content.moves = moves;
        self.content.views = views;
        self.save(disk)?;
        self.finish(disk)
    }

    fn directories(&self, moves: &[Move]) -> BTreeSet<PathBuf> {
        let directory = |to: &Move| disk::parent(&self.directory.join(&to.to)).to_owned();
        moves.iter().map(directory).collect()
    }

    /// Gives files that count their names.
    fn finish(&mut self, disk: &dyn Disk) -> Result<(), LedgerError> {
        let moves = std::mem::take(&mut self.content.moves);
        for Move { from, to } in &moves {
            match disk.rename(&self.directory.join(from), &self.directory.join(to)) {
                // An interrupted export had got to this one.
                Err(error) if error.kind() == DiskErrorKind::NotFound => {
                    disk.open_read(&self.directory.join(to))?;
                }
                renamed => renamed?,
            }
        }
        for directory in self.directories(&moves) {
            disk.sync_dir(&directory)?;
        }
        if !moves.is_empty() {
            self.save(disk)?;
        }
        Ok(disk.remove_dir_all(&unfinished(&self.directory))?)
    }

    fn save(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        let json = serde_json::to_vec_pretty(&self.content).expect("texts and numbers are JSON");
        disk::replace(disk, &path(&self.directory), &json)
    }
}
