//! Backups: a store up to a durable sequence, copied file by file into a directory of its own,
//! which counts once its marker says so.
//!
//! It does not know where the bytes come from: another machine, or a directory nobody uses.

mod marker;

mod pinned;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::manifest::{self, Manifest};
use super::verify::{self, Finding, FindingKind, InUse};
use super::{Damage, sealed, segment};
use crate::disk::{self, Disk, DiskError, DiskErrorKind, DiskFile, DiskLock};
use crate::ids::Sequence;
use crate::time::ArrivalTime;

pub use marker::{EPOCH_JUMP, Marker, MarkerError, MarkerFile, marker_path};
pub use pinned::{Pinned, PinnedFile, Unfit, pin_backup, pin_directory};

/// Bytes asked of the source at once.
pub const PART_BYTES: usize = 1 << 20;
/// Bytes at the start and the end of a sealed file that are compared before an earlier copy is
/// taken for it: its head, its footer.
const COMPARED_BYTES: u64 = 64 << 10;

/// A backup that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its directory.
    pub path: PathBuf,
    /// Everything up to here is in it.
    pub sequence: Sequence,
    /// Bytes that were copied.
    pub copied: u64,
    /// Bytes that an earlier backup has too, and that are kept once.
    pub reused: u64,
}

/// Why no backup was made; nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another backup into the same directory is under way.
    #[error("another backup into {} is under way", path.display())]
    Busy {
        /// The directory of backups.
        path: PathBuf,
    },
    /// The store could not be read, or the disk of the backup failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file of the store ends too early.
    #[error("{} of the store ends too early", path.display())]
    Short {
        /// The file.
        path: PathBuf,
    },
    /// What was copied is damaged, so either the store is or the copy went wrong.
    #[error("what was copied does not verify; run larder verify on the store")]
    Damaged(Vec<Finding>),
}

/// Makes a backup of what is held in a new directory under `to`. `progress` hears the bytes done
/// and those there are.
///
/// # Errors
/// See [`BackupError`]; earlier backups stand.
pub fn take(
    disk: &dyn Disk,
    pinned: &Pinned,
    to: &Path,
    taken: ArrivalTime,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Taken, BackupError> {
    disk.create_dir_all(to)?;
    let _lock = lock(disk, to)?;
    let earlier = backups(disk, to)?.whole;
    remove_halves(disk, to)?;
    let path = to.join(name_of(taken, pinned.sequence));
    let total = pinned.files.iter().map(|file| file.bytes).sum();
    let mut copy = Copy {
        disk,
        pinned,
        path: path.clone(),
        earlier,
        marker: Marker::of(pinned, taken),
        fresh: BTreeSet::new(),
        copied: 0,
        reused: 0,
        progress: &mut |done| progress(done, total),
    };
    match copy.run() {
        Ok(()) => {
            let Copy { copied, reused, .. } = copy;
            Ok(Taken { path, sequence: pinned.sequence, copied, reused })
        }
        Err(error) => {
            // Without a marker it counts for nothing; the next backup removes what is left.
            let _ = disk.remove_dir_all(&path);
            Err(error)
        }
    }
}

fn lock(disk: &dyn Disk, to: &Path) -> Result<DiskLock, BackupError> {
    disk.lock_exclusive(&to.join("LOCK")).map_err(|error| match error.kind() {
        DiskErrorKind::Locked => BackupError::Busy { path: to.to_owned() },
        _ => error.into(),
    })
}

/// Sorts by time; has no character that a shell or a file system minds.
fn name_of(taken: ArrivalTime, sequence: Sequence) -> String {
    let time: String = taken.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{time}-{sequence}")
}

/// Whether a directory has a name that [`name_of`] gives.
fn is_name(name: &str) -> bool {
    let Some((time, sequence)) = name.split_once("Z-") else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    time.split_once('T')
        .is_some_and(|(day, time)| digits(day) && day.len() == 8 && time.split('.').all(digits))
        && digits(sequence)
}

/// Whether a name is that of a file of history, and of nothing else.
pub fn is_file_name(name: &str) -> bool {
    segment::first_of_name(name).is_some() || sealed::number_of_name(name).is_some()
}

/// What lies in a directory of backups.
#[derive(Debug, Default)]
pub struct Backups {
    /// Those that are whole by their own word, the furthest first: by epoch and sequence, since a
    /// clock may have gone back.
    pub whole: Vec<(PathBuf, Marker)>,
    /// Those whose marker cannot be read.
    pub unreadable: Vec<(PathBuf, MarkerError)>,
}

/// The backups under `to`.
///
/// # Errors
/// The disk's, where the directory cannot be listed.
pub fn backups(disk: &dyn Disk, to: &Path) -> Result<Backups, DiskError> {
    let mut found = Backups::default();
    for entry in disk.list(to)?.into_iter().filter(|entry| entry.directory) {
        let path = to.join(&entry.name);
        match Marker::load(disk, &path) {
            Ok(marker) => found.whole.push((path, marker)),
            Err(MarkerError::Disk(error)) if error.kind() == DiskErrorKind::NotFound => {}
            // Something else may be called so, or lie where we may not look.
            Err(_) if !is_name(&entry.name) && !is_there(disk, &manifest::path(&path)) => {}
            Err(error) => found.unreadable.push((path, error)),
        }
    }
    found.whole.sort_by_key(|(_, marker)| {
        std::cmp::Reverse((marker.epoch, marker.sequence, marker.taken))
    });
    found.unreadable.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn is_there(disk: &dyn Disk, path: &Path) -> bool {
    disk.open_read(path).is_ok()
}

/// Removes what interrupted backups left: directories with a name of ours and without a marker.
fn remove_halves(disk: &dyn Disk, to: &Path) -> Result<(), DiskError> {
    for entry in disk.list(to)? {
        let path = to.join(&entry.name);
        if entry.directory && is_name(&entry.name) && !is_marked(disk, &path)? {
            disk.remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn is_marked(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    match disk.open_read(&marker_path(path)) {
        Err(error) if error.kind() == DiskErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true),
    }
}

struct Copy<'a> {
    disk: &'a dyn Disk,
    pinned: &'a Pinned,
    path: PathBuf,
    earlier: Vec<(PathBuf, Marker)>,
    marker: Marker,
    /// The files that were copied, not reused.
    fresh: BTreeSet<PathBuf>,
    copied: u64,
    reused: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Copy<'_> {
    fn run(&mut self) -> Result<(), BackupError> {
        let directory = self.path.join("history");
        self.disk.create_dir_all(&directory)?;
        let pinned = self.pinned;
        for file in &pinned.files {
            let crc = match self.reuse(file, &directory)? {
                Some(crc) => {
                    self.reused += file.bytes;
                    crc
                }
                None => self.copy(file, &directory)?,
            };
            let MarkerFile { name, bytes, .. } = MarkerFile::of(file, crc);
            self.marker.files.push(MarkerFile { name, bytes, crc });
            (self.progress)(self.copied + self.reused);
        }
        self.disk.sync_dir(&directory)?;
        let manifest: &Manifest = &pinned.manifest;
        manifest.save(self.disk, &self.path)?;
        self.fresh.insert(manifest::path(&self.path));
        self.verify()?;
        self.marker.save(self.disk, &self.path)?;
        Ok(self.disk.sync_dir(disk::parent(&self.path))?)
    }

    /// Gives an earlier backup's copy of a sealed file a second name. Returns its checksum; none
    /// if no earlier one has it or the file system cannot do that.
    fn reuse(&self, file: &PinnedFile, directory: &Path) -> Result<Option<u32>, BackupError> {
        if !file.sealed {
            return Ok(None);
        }
        for (path, marker) in &self.earlier {
            if !marker.is_of_the_same_past(&self.marker) {
                continue;
            }
            let same = |had: &&MarkerFile| had.name == file.name && had.bytes == file.bytes;
            let Some(had) = marker.files.iter().find(same) else { continue };
            let old = path.join("history").join(&file.name);
            if self.is_alike(file, &old)?
                && self.is_sound(&old, had)
                && self.disk.link(&old, &directory.join(&file.name)).is_ok()
            {
                return Ok(Some(had.crc));
            }
        }
        Ok(None)
    }

    /// Whether the earlier copy has the same head and footer; one that cannot be read has not.
    fn is_alike(&self, file: &PinnedFile, old: &Path) -> Result<bool, BackupError> {
        let Ok(old) = self.disk.open_read(old) else { return Ok(false) };
        let length = file.bytes.min(COMPARED_BYTES);
        for offset in [0, file.bytes - length] {
            let (mut ours, mut theirs) = (vec![0; length as usize], vec![0; length as usize]);
            read_exact(file, offset, &mut ours)?;
            let read = old.read_at(&mut theirs, offset);
            if !read.is_ok_and(|read| read as u64 == length) || ours != theirs {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the earlier copy still is what was copied: no backup counts on bytes that nobody
    /// looked at.
    fn is_sound(&self, old: &Path, had: &MarkerFile) -> bool {
        let Ok(old) = self.disk.open_read(old) else { return false };
        // Where the memory of it cannot be dropped it is read all the same.
        let _ = old.drop_cache();
        checksum_of(old.as_ref(), had.bytes).is_ok_and(|crc| crc == had.crc)
    }

    fn copy(&mut self, file: &PinnedFile, directory: &Path) -> Result<u32, BackupError> {
        let path = directory.join(&file.name);
        let to = self.disk.create(&path)?;
        let mut buffer = vec![0; PART_BYTES];
        let (mut at, mut crc) = (0, 0);
        while at < file.bytes {
            let part = &mut buffer[..(file.bytes - at).min(PART_BYTES as u64) as usize];
            read_exact(file, at, part)?;
            crc = crc32c::crc32c_append(crc, part);
            to.write_at(part, at)?;
            at += part.len() as u64;
            self.copied += part.len() as u64;
            (self.progress)(self.copied + self.reused);
        }
        to.sync_data()?;
        self.fresh.insert(path);
        Ok(crc)
    }

    /// Reads what was copied from the device and checks every byte of it.
    fn verify(&self) -> Result<(), BackupError> {
        let verified = verify::verify_only(
            self.disk,
            &self.path,
            InUse::No,
            Some(&self.fresh),
            &mut |_, _| {},
        );
        let fatal = |finding: &Finding| finding.kind.is_fatal();
        let findings: Vec<Finding> = verified.findings.into_iter().filter(fatal).collect();
        if !findings.is_empty() {
            return Err(BackupError::Damaged(findings));
        }
        match verified.last == self.pinned.sequence {
            true => Ok(()),
            false => Err(BackupError::Short { path: self.path.clone() }),
        }
    }
}

fn read_exact(file: &PinnedFile, offset: u64, buffer: &mut [u8]) -> Result<(), BackupError> {
    match file.file.read_at(buffer, offset)? == buffer.len() {
        true => Ok(()),
        false => Err(BackupError::Short { path: file.file.path().to_owned() }),
    }
}

/// What a backup's own marker says against it; nothing if `path` is no backup. Its files are
/// checked by [`verify::verify`], like those of any store.
pub fn check_marker(disk: &dyn Disk, path: &Path) -> Vec<Finding> {
    let find = |path: PathBuf, reason: String| {
        let damage = Damage { path, offset: 0, reason };
        Finding { kind: FindingKind::Damage, damage, view: None, sequences: None }
    };
    let marker = match Marker::load(disk, path) {
        Ok(marker) => marker,
        Err(MarkerError::Disk(error)) if error.kind() == DiskErrorKind::NotFound => {
            return Vec::new();
        }
        Err(MarkerError::Damaged { path, reason }) => {
            return vec![find(path, format!("is not what was written: {reason}"))];
        }
        Err(error) => return vec![find(marker_path(path), error.to_string())],
    };
    let check = |file: &MarkerFile| {
        let path = path.join("history").join(&file.name);
        let length = disk.open_read(&path).and_then(|file| file.length());
        match length {
            // Of the log, a torn end looks as after a crash: that nothing was torn off when it was
            // copied, only its checksum says. Sealed files check themselves.
            Ok(length) if length == file.bytes => {
                let is_log = segment::first_of_name(&file.name).is_some();
                let found = disk.open_read(&path).and_then(|log| checksum_of(log.as_ref(), length));
                match found {
                    Ok(crc) if !is_log || crc == file.crc => None,
                    Ok(crc) => {
                        let said = file.crc;
                        let reason = format!(
                            "its checksum is {crc:08x}, the backup's marker says {said:08x}"
                        );
                        Some(find(path, reason))
                    }
                    Err(error) => Some(find(path, error.to_string())),
                }
            }
            Ok(length) => {
                let reason = format!("is {length} bytes, the backup's marker says {}", file.bytes);
                Some(find(path, reason))
            }
            Err(error) => Some(find(path, error.to_string())),
        }
    };
    marker.files.iter().filter_map(check).collect()
}

/// The CRC-32C of the first `bytes` of a file.
pub(super) fn checksum_of(file: &dyn DiskFile, bytes: u64) -> Result<u32, DiskError> {
    let mut buffer = vec![0; PART_BYTES];
    let (mut at, mut crc) = (0, 0);
    while at < bytes {
        let part = &mut buffer[..(bytes - at).min(PART_BYTES as u64) as usize];
        let read = file.read_at(part, at)?;
        if read == 0 {
            break;
        }
        crc = crc32c::crc32c_append(crc, &part[..read]);
        at += read as u64;
    }
    Ok(crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_again() {
        let taken = ArrivalTime::from_micros(1_795_273_445_123_456);
        let name = name_of(taken, Sequence(4711));
        assert!(name.ends_with("Z-4711") && is_name(&name), "{name}");
        assert!(is_name(&name_of(ArrivalTime::from_micros(1_795_273_445_000_000), Sequence(0))));
        for other in ["data", "20261121", "20261121T150405Z-", "T-Z-1", "20261121T1504Z-x"] {
            assert!(!is_name(other), "{other}");
        }
    }
}
