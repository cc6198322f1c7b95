//! Sets up a data directory from a backup: verified before and after, with an epoch of its own, and
//! never over anything.
//!
//! It does not know how a backup was made, nor what is to be written behind it.

use std::path::{Path, PathBuf};

use super::backup::{self, Backups, EPOCH_JUMP, Marker, MarkerError, MarkerFile, checksum_of};
use super::manifest::{self, LoadError, Manifest};
use super::record::{self, EncodedRequest};
use super::segment;
use super::verify::{Finding, InUse, verify};
use crate::disk::{self as files, Disk, DiskError, DiskErrorKind};
use crate::frame::{self, FrameHeader, FrameKind};
use crate::ids::{Epoch, Sequence};
use crate::time::ArrivalTime;

/// One of so many parts of the epochs that are left is what a restore draws from.
const EPOCHS_SHARED: u32 = 128;

/// A backup that is to be restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its directory.
    pub path: PathBuf,
    /// What it says of itself.
    pub marker: Marker,
}

/// What is written behind what is restored.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a> {
    /// The records.
    pub request: &'a EncodedRequest,
    /// When they arrive; not before what was there.
    pub arrival: ArrivalTime,
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The backup.
    pub from: PathBuf,
    /// The last sequence there is now.
    pub sequence: Sequence,
    /// Bytes of history.
    pub bytes: u64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No backup is there.
    #[error("{} is no whole backup and holds none", path.display())]
    NoBackup {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// One of the backups there has a marker that cannot be read, and may be the newest.
    #[error("{} has a backup that cannot be read ({error}); name the one to restore", path.display())]
    Unclear {
        /// The directory of backups.
        path: PathBuf,
        /// What is wrong with that one.
        error: MarkerError,
    },
    /// The backups there are of several stores.
    #[error(
        "{} has backups of several stores, such as {} and {}; name the one to restore",
        path.display(), backups[0].display(), backups[1].display()
    )]
    Several {
        /// The directory of backups.
        path: PathBuf,
        /// The newest of one store, and one of another.
        backups: Box<[PathBuf; 2]>,
    },
    /// Something is there already.
    #[error("{} is not empty; restore into a directory that is not there or empty", path.display())]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
    },
    /// The marker is damaged.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] LoadError),
    /// A file is not what the marker says.
    #[error("{} is not the file that was backed up", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The backup, or what was restored, does not verify.
    #[error("{} does not verify", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        findings: Vec<Finding>,
    },
    /// The machine gave no random bytes for the epoch.
    #[error("no random bytes for an epoch: {0}")]
    Random(getrandom::Error),
    /// Epochs are counted in 32 bits.
    #[error(
        "{} has epoch {epoch}, and no later one is left for a restore: the store was restored too \
         often, each time from a backup of the one restored before; the backup is whole, so \
         export it (larder export --data) and load that into a new store", path.display()
    )]
    Epochs {
        /// The backup.
        path: PathBuf,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The backup of the highest epoch is not of the store that was backed up last.
    #[error(
        "{} has backups of one store that went several ways since a restore: {} is the furthest, \
         and {} was taken last; name the one to restore",
        path.display(), backups[0].display(), backups[1].display()
    )]
    Pasts {
        /// The directory of backups.
        path: PathBuf,
        /// The furthest, and the one taken last.
        backups: Box<[PathBuf; 2]>,
    },
}

/// Restores a backup to `data`, with what is `added` behind it. `progress` hears what is done and
/// how much there is.
///
/// # Errors
/// See [`RestoreError`]. What was copied until then stays: it is no data directory, and is not
/// taken for one.
pub fn restore(
    disk: &dyn Disk,
    Chosen { path: from, marker }: &Chosen,
    data: &Path,
    added: Option<Added<'_>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Restored, RestoreError> {
    refuse_unless_empty(disk, data)?;
    // It is read to be verified, then to be copied, and the copy is read.
    let total = 3 * marker.files.iter().map(|file| file.bytes).sum::<u64>();
    let mut done = 0;
    check(disk, from, &mut |part, _| progress(part, total))?;
    let manifest = Manifest::load(disk, from)?;
    let manifest = manifest.ok_or_else(|| RestoreError::NoBackup { path: from.clone() })?;
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(RestoreError::Random)?;
    let [jumps, starts, past @ ..] = random;
    let epoch = later_epoch(manifest.epoch, [jumps, starts])
        .ok_or_else(|| RestoreError::Epochs { path: from.clone(), epoch: manifest.epoch })?;
    // 0 is that of a store that was never restored.
    let manifest = Manifest { epoch, past: u16::from_le_bytes(past).max(1), ..manifest };
    let directory = data.join("history");
    disk.create_dir_all(&directory)?;
    let _lock = disk.lock_exclusive(&data.join("LOCK"))?;
    // Segments first: as long as there are some and no manifest, no server starts here.
    let is_log = |file: &&MarkerFile| file.name.ends_with(".log");
    let (log, sealed): (Vec<_>, Vec<_>) = marker.files.iter().partition(is_log);
    for some in [log, sealed] {
        for file in some {
            copy(disk, &from.join("history"), &directory, file)?;
            done += file.bytes;
            progress(total / 3 + done, total);
        }
        disk.sync_dir(&directory)?;
    }
    let sequence = match added {
        Some(added) => append(disk, &directory, &manifest, marker, added)?,
        None => marker.sequence,
    };
    manifest.save(disk, data)?;
    // What was added is read with the rest.
    let checked =
        check(disk, data, &mut |part, _| progress((total / 3 * 2 + part).min(total), total));
    if let Err(error) = checked {
        // What is damaged must not be served.
        files::remove_if_there(disk, &manifest::path(data))?;
        disk.sync_dir(data)?;
        return Err(error);
    }
    progress(total, total);
    Ok(Restored { from: from.clone(), sequence, bytes: done })
}

/// Writes a frame behind the log, which is not named by a manifest yet. Returns its last sequence.
fn append(
    disk: &dyn Disk,
    directory: &Path,
    manifest: &Manifest,
    marker: &Marker,
    Added { request, arrival }: Added<'_>,
) -> Result<Sequence, RestoreError> {
    // Without a log there never was a row that anything could be said of.
    let Some(last) = manifest.segments.last() else { return Ok(marker.sequence) };
    let file = disk.open_write(&segment::path(directory, last.first))?;
    let mut frame = vec![0; frame::HEADER_BYTES];
    record::encode_payload(&[request], &mut frame);
    let header = FrameHeader {
        kind: FrameKind::Writes,
        store: manifest.store,
        epoch: manifest.epoch,
        first: marker.sequence.next(),
        count: request.count(),
        arrival: arrival.max(manifest.last_arrival),
        durable: marker.sequence,
    };
    frame::seal(&header, &mut frame);
    file.write_at(&frame, file.length()?)?;
    file.sync_data()?;
    Ok(header.last())
}

/// Refuses a directory in which something is.
///
/// # Errors
/// [`RestoreError::NotEmpty`], or the disk failed.
pub fn refuse_unless_empty(disk: &dyn Disk, data: &Path) -> Result<(), RestoreError> {
    match disk.list(data) {
        Ok(entries) if entries.is_empty() => Ok(()),
        Ok(_) => Err(RestoreError::NotEmpty { path: data.to_owned() }),
        Err(error) if error.kind() == DiskErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The backup at `from`, or the furthest in that directory.
///
/// # Errors
/// There is none, or it is not clear which that is.
pub fn find(disk: &dyn Disk, from: &Path) -> Result<Chosen, RestoreError> {
    match Marker::load(disk, from) {
        Ok(marker) => return Ok(Chosen { path: from.to_owned(), marker }),
        Err(MarkerError::Disk(error)) if error.kind() == DiskErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let path = from.to_owned();
    let Backups { whole, unreadable } = match backup::backups(disk, from) {
        Err(error) if error.kind() == DiskErrorKind::NotFound => {
            return Err(RestoreError::NoBackup { path });
        }
        backups => backups?,
    };
    if let Some((_, error)) = unreadable.into_iter().next() {
        return Err(RestoreError::Unclear { path, error });
    }
    let Some((first, marker)) = whole.first() else { return Err(RestoreError::NoBackup { path }) };
    let both = |other: &Path| Box::new([first.clone(), other.to_owned()]);
    if let Some((other, _)) = whole.iter().find(|(_, other)| other.store != marker.store) {
        return Err(RestoreError::Several { path, backups: both(other) });
    }
    match whole.iter().rev().max_by_key(|(_, marker)| marker.taken) {
        Some((last, other)) if !other.is_of_the_same_past(marker) => {
            Err(RestoreError::Pasts { path, backups: both(last) })
        }
        _ => Ok(Chosen { path: first.clone(), marker: marker.clone() }),
    }
}

fn check(
    disk: &dyn Disk,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), RestoreError> {
    let findings = verify(disk, path, InUse::No, progress).findings;
    let findings: Vec<Finding> = findings.into_iter().filter(|f| f.kind.is_fatal()).collect();
    match findings.is_empty() {
        true => Ok(()),
        false => Err(RestoreError::Damaged { path: path.to_owned(), findings }),
    }
}

/// Further than the store it was taken from gets by starts, and most likely another than that of
/// any other restore: sequence and epoch together are never used twice. None if there is no such
/// epoch, or it would leave no room for starts.
fn later_epoch(epoch: Epoch, random: [u8; 2]) -> Option<Epoch> {
    // Epochs are counted in 32 bits. Each restore takes a small part of what is left, so that a
    // store can be restored, backed up and restored again many hundred times.
    let left = (u32::MAX - epoch.0) / EPOCH_JUMP;
    let most = (left / EPOCHS_SHARED).clamp(1, 1 << u8::BITS);
    let [jumps, starts] = random.map(u32::from);
    // Two restores of one backup are mostly further from each other than starts lead, too.
    let further = EPOCH_JUMP * (1 + 2 * (jumps % most)) + starts;
    epoch.0.checked_add(further).filter(|later| u32::MAX - later >= EPOCH_JUMP).map(Epoch)
}

fn copy(disk: &dyn Disk, from: &Path, to: &Path, file: &MarkerFile) -> Result<(), RestoreError> {
    let path = from.join(&file.name);
    let source = disk.open_read(&path)?;
    let copy = disk.create(&to.join(&file.name))?;
    let mut buffer = vec![0; backup::PART_BYTES];
    let mut at = 0;
    while at < file.bytes {
        let part = &mut buffer[..(file.bytes - at).min(backup::PART_BYTES as u64) as usize];
        let read = source.read_at(part, at)?;
        if read == 0 {
            return Err(RestoreError::Changed { path });
        }
        copy.write_at(&part[..read], at)?;
        at += read as u64;
    }
    copy.sync_data()?;
    if checksum_of(copy.as_ref(), file.bytes)? != file.crc || source.length()? != file.bytes {
        return Err(RestoreError::Changed { path });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundreds_of_restores_one_behind_another_find_an_epoch() {
        let (mut epoch, mut restores) = (Epoch(1), 0);
        let later = |epoch| (0..=u8::MAX).filter_map(move |jumps| later_epoch(epoch, [jumps, 255]));
        while let Some(latest) = later(epoch).max() {
            assert!(later(epoch).min().is_some_and(|first| first.0 - epoch.0 >= EPOCH_JUMP));
            assert!(u32::MAX - latest.0 >= EPOCH_JUMP, "it can be started often");
            (epoch, restores) = (latest, restores + 1);
        }
        assert!(restores > 500, "{restores}");
        // Two of one backup mostly do not get there by starts either.
        let [a, b] = [3, 4].map(|jumps| later_epoch(Epoch(1), [jumps, 0]).unwrap().0);
        assert_eq!(b - a, 2 * EPOCH_JUMP);
    }
}
