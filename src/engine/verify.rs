//! Checks a data directory at rest, history and what is derived from it, and puts names to what is
//! found.
//!
//! It does not know how findings are shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{self, SledCheckpoint};
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskLock};
use crate::engine::control;
use crate::history::backup;
use crate::history::verify::{self, Finding, InUse, Verified};
use crate::ids::{Sequence, StoreId};
use crate::registry::Registry;
use crate::registry::record::decode_change;

/// What was found in a data directory.
#[derive(Debug)]
pub struct Report {
    /// What is not as it should be in history, which is the truth.
    pub findings: Vec<Named>,
    /// What is not as it should be in what is derived from history; a start rebuilds it.
    pub derived: Vec<Derived>,
    /// Whether a server has the directory: what it was writing was not looked at.
    pub in_use: bool,
    /// Files of history read.
    pub files: u64,
    /// Bytes of history read.
    pub bytes: u64,
    /// The last sequence found.
    pub last: Sequence,
}

/// Something found, with the name of the view it affects.
#[derive(Debug)]
pub struct Named {
    /// What was found.
    pub finding: Finding,
    /// The view, as definitions write it, or its number where no definition could be read.
    pub view: Option<String>,
}

/// A copy of the online map that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Derived {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Report {
    /// Whether something acknowledged is damaged, gone, or only for a newer release to read.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|named| named.finding.kind.is_fatal())
    }
}

/// Reads all of the data directory `root`. `progress` hears the bytes of history done and those
/// there are.
///
/// # Errors
/// The lock cannot be asked for.
pub fn run(
    disk: &Arc<dyn Disk>,
    root: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, DiskError> {
    let (in_use, _lock) = lock(disk.as_ref(), root)?;
    let verified = verify::verify(disk.as_ref(), root, in_use, progress);
    let registry = registry(&verified);
    let store = verified.manifest.as_ref().map(|manifest| manifest.store);
    let derived = match store {
        Some(store) if in_use == InUse::No => check_derived(disk, root, store, verified.last),
        _ => Vec::new(),
    };
    let Verified { findings, files, bytes, last, .. } = verified;
    let name = |finding: Finding| {
        let named = finding.view.map(|id| match registry.view(id) {
            Some(view) => view.declared_name(),
            None => format!("number {id}"),
        });
        Named { finding, view: named }
    };
    let marker = backup::check_marker(disk.as_ref(), root);
    let findings = findings.into_iter().chain(marker).map(name).collect();
    Ok(Report { findings, derived, in_use: in_use == InUse::ByServer, files, bytes, last })
}

/// Takes the lock if there is one; a directory without it, such as a backup, is left without.
fn lock(disk: &dyn Disk, root: &Path) -> Result<(InUse, Option<DiskLock>), DiskError> {
    let path = root.join("LOCK");
    match disk.open_read(&path) {
        Err(error) if error.kind() == DiskErrorKind::NotFound => return Ok((InUse::No, None)),
        opened => drop(opened?),
    }
    match disk.lock_exclusive(&path) {
        Ok(lock) => Ok((InUse::No, Some(lock))),
        Err(error) if error.kind() == DiskErrorKind::Locked => Ok((InUse::ByServer, None)),
        Err(error) => Err(error),
    }
}

/// The definitions as far as they can be read; they serve only to name views.
fn registry(verified: &Verified) -> Registry {
    let snapshot = verified.manifest.as_ref().and_then(|manifest| manifest.control.as_ref());
    let control = snapshot.and_then(|control| control::decode(&control.bytes).ok());
    let mut registry = control.map(|control| control.registry).unwrap_or_default();
    for (_, bytes) in &verified.controls {
        if let Ok(change) = decode_change(bytes) {
            // A gap in the log leaves changes that do not fit.
            let _ = registry.apply(&change);
        }
    }
    registry
}

fn check_derived(
    disk: &Arc<dyn Disk>,
    root: &Path,
    store: StoreId,
    last: Sequence,
) -> Vec<Derived> {
    let mut derived = Vec::new();
    let checkpoints = SledCheckpoint::new(disk.clone(), root.join("checkpoint"));
    for (path, reason) in checkpoints.check(store, last) {
        derived.push(Derived { path, reason });
    }
    let path = root.join("disk");
    if let Err(reason) = checkpoint::check_tier(disk.as_ref(), &path, store, last) {
        derived.push(Derived { path, reason });
    }
    derived
}
