//! Says in words what is in any file of a data directory or of a backup.
//!
//! It does not know the formats: each store describes its own files.

use std::path::Path;

use crate::checkpoint;
use crate::disk::{self, Disk};
use crate::engine::control;
use crate::history::backup::Marker;
use crate::history::inspect::{self, InspectError};
use crate::history::manifest::Manifest;

/// Describes a file, a line for each thing in it. Damage is described, not refused.
///
/// # Errors
/// The file cannot be read, or is none of ours.
pub fn describe(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, InspectError> {
    let described = inspect::describe(disk, path);
    let bytes = disk::read_whole(disk, path)?;
    match described {
        Err(InspectError::Unknown) => {}
        described => return Ok([described?, of_control(&bytes)].concat()),
    }
    let known = checkpoint::describe(&bytes)
        .or_else(|| Marker::describe(&bytes))
        .or_else(|| by_name(path, bytes.len()));
    known.ok_or(InspectError::Unknown)
}

/// What the control snapshot of a manifest holds; nothing if the bytes are no manifest with one.
fn of_control(bytes: &[u8]) -> Vec<String> {
    let snapshot = Manifest::decode(bytes).ok().and_then(|manifest| manifest.control);
    match snapshot.map(|snapshot| control::decode(&snapshot.bytes)) {
        None => Vec::new(),
        Some(Err(error)) => vec![format!("unreadable: {error}")],
        Some(Ok(control)) => control.describe(),
    }
}

/// Files that say nothing by themselves.
fn by_name(path: &Path, bytes: usize) -> Option<Vec<String>> {
    let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    if name(path)? == "LOCK" && bytes == 0 {
        return Some(vec![
            "lock, always empty: whoever uses the directory holds it locked".to_owned(),
        ]);
    }
    path.ancestors().skip(1).find_map(|directory| {
        let name = name(directory)?;
        let number = |prefix: &str| name.strip_prefix(prefix)?.parse::<u64>().ok();
        let of = match (number("gen-"), number("cold-")) {
            (Some(number), _) => format!("checkpoint generation {number}"),
            (_, Some(number)) => format!("the disk tier, tree {number}"),
            (None, None) => return None,
        };
        Some(vec![
            format!("a file of sled, {bytes} bytes, which only sled reads: part of {of}"),
            "derived from history; larder verify checks it, a start rebuilds it".to_owned(),
        ])
    })
}
