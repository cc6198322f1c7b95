//! A store held as it is at one durable sequence: its manifest, and its files open, so that none of
//! them goes away while it is copied.
//!
//! It does not know where they are copied to.

use std::path::Path;
use std::sync::Arc;

use super::marker::{Marker, MarkerFile};
use crate::disk::{self, Disk, DiskError, DiskErrorKind, DiskFile, DiskLock};
use crate::history::manifest::{LoadError, Manifest, SegmentEntry};
use crate::history::open::{OpenError, check_chain, check_header, ends_early};
use crate::history::sealed::{self, Blocks, OpenSealedError, SealedEntry, SealedFile};
use crate::history::segment::{self, Segment};
use crate::history::writer::{WriteError, Writer};
use crate::history::{Damage, History, manifest};
use crate::ids::Sequence;

/// Memory for blocks where what is held is read as history.
const CACHE_BYTES: u64 = 16 << 20;

/// A store at one sequence.
#[derive(Clone)]
pub struct Pinned {
    /// What names the files.
    pub manifest: Manifest,
    /// All files of history, of which the last segment ends at `sequence`.
    pub files: Vec<PinnedFile>,
    /// Everything up to here is in them, and durable.
    pub sequence: Sequence,
}

/// A file that is held.
#[derive(Clone)]
pub struct PinnedFile {
    /// Its name in `history/`.
    pub name: String,
    /// How much of it counts.
    pub bytes: u64,
    /// A sealed file, which is never changed.
    pub sealed: bool,
    /// The file itself, open.
    pub file: Arc<dyn DiskFile>,
}

/// Why a store cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The writer refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is damaged, missing, in use or of a newer release.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no store.
    #[error("{} is no data directory", path.display())]
    Missing {
        /// The directory.
        path: std::path::PathBuf,
    },
}

impl History {
    /// For reading what is held, and nothing after it.
    ///
    /// # Errors
    /// A file is damaged, or of a newer release.
    pub fn of_pinned(pinned: &Pinned) -> Result<Self, OpenError> {
        let manifest = &pinned.manifest;
        check_chain(manifest, Path::new(""))?;
        let find = |name: String| {
            let file = pinned.files.iter().find(|file| file.name == name);
            file.ok_or_else(|| OpenError::Missing { path: name.into() })
        };
        let blocks = Arc::new(Blocks::new(CACHE_BYTES));
        let open = |entry: &SealedEntry| {
            let file = find(sealed::name_of(entry.number))?.file.clone();
            let path = file.path().to_owned();
            match SealedFile::open(file, manifest.store, *entry, blocks.clone()) {
                Ok(file) => Ok(Arc::new(file)),
                Err(OpenSealedError::Disk(error)) => Err(OpenError::Disk(error)),
                Err(OpenSealedError::Damaged(damage)) => Err(OpenError::Damaged(damage)),
                Err(OpenSealedError::Newer(reason)) => Err(OpenError::Newer { path, reason }),
            }
        };
        let sealed: Result<Vec<_>, OpenError> = manifest.sealed.iter().map(open).collect();
        let mut after = Sequence::ZERO;
        let open = |entry: &SegmentEntry| {
            let name = segment::path(Path::new(""), entry.first);
            let PinnedFile { file, bytes, .. } = find(name.display().to_string())?;
            let mut head = [0; segment::HEADER_BYTES];
            let read = file.read_at(&mut head, 0)?;
            check_header(file.path(), &head[..read], entry.first, manifest.store)?;
            let segment = Segment::new((after, entry.first), file.clone(), *bytes);
            if let Some(last) = entry.last {
                segment.close(last);
                after = last;
            }
            Ok(Arc::new(segment))
        };
        let segments: Result<Vec<_>, OpenError> = manifest.segments.iter().map(open).collect();
        Ok(Self::new(manifest.store, segments?, sealed?, &manifest.floors, pinned.sequence, &[]))
    }
}

impl Writer {
    /// Makes everything written durable and holds it. The writer may go on at once.
    ///
    /// # Errors
    /// The sync failed, or a file cannot be opened.
    pub fn pin(&mut self) -> Result<Pinned, Unfit> {
        self.sync()?;
        let manifest = Manifest { last_arrival: self.last_arrival, ..self.manifest.clone() };
        let end = self.segment.end();
        let files = open_files(self.disk.as_ref(), &self.directory, &manifest, end)?;
        Ok(Pinned { manifest, files, sequence: self.last() })
    }
}

/// Holds a whole backup, which nobody changes.
///
/// # Errors
/// It is damaged, or of a newer release.
pub fn pin_backup(disk: &dyn Disk, path: &Path, marker: &Marker) -> Result<Pinned, Unfit> {
    let manifest = load(disk, path)?;
    let last = manifest.segments.last().map(|open| segment::path(Path::new(""), open.first));
    let is_last = |file: &&MarkerFile| last.as_deref() == Some(Path::new(&file.name));
    let end = marker.files.iter().find(is_last).map_or(0, |file| file.bytes);
    let files = open_files(disk, &path.join("history"), &manifest, end)?;
    Ok(Pinned { manifest, files, sequence: marker.sequence })
}

fn load(disk: &dyn Disk, root: &Path) -> Result<Manifest, Unfit> {
    let load = Manifest::load(disk, root).map_err(|error| match error {
        LoadError::Disk(error) => Unfit::Disk(error),
        LoadError::Bytes(error) => {
            let path = manifest::path(root);
            OpenError::Damaged(Damage { path, offset: 0, reason: error.to_string() }).into()
        }
    });
    load?.ok_or_else(|| Unfit::Missing { path: root.to_owned() })
}

/// Holds a data directory that no server uses, which stays locked as long as the lock is kept.
///
/// # Errors
/// It is in use, damaged, or of a newer release.
pub fn pin_directory(disk: &dyn Disk, root: &Path) -> Result<(Pinned, DiskLock), Unfit> {
    load(disk, root)?;
    let lock = disk.lock_exclusive(&root.join("LOCK")).map_err(|error| match error.kind() {
        DiskErrorKind::Locked => Unfit::Open(OpenError::Locked { path: root.to_owned() }),
        _ => error.into(),
    })?;
    // Only now nobody replaces it.
    let mut manifest = load(disk, root)?;
    check_chain(&manifest, root)?;
    let directory = root.join("history");
    let (end, sequence) = match manifest.segments.last() {
        None => (0, manifest.sealed.last().map_or(Sequence::ZERO, |entry| entry.last)),
        Some(entry) => {
            let path = segment::path(&directory, entry.first);
            // What is read is on the device, and nothing that only the page cache has is held.
            disk.open_write(&path)?.sync_data()?;
            disk.open_read(&path)?.drop_cache()?;
            let file = disk.open_read(&path)?;
            let mut head = [0; segment::HEADER_BYTES];
            let read = file.read_at(&mut head, 0)?;
            let header = check_header(&path, &head[..read], entry.first, manifest.store)?;
            let found = match segment::examine_sound(file.as_ref(), &header)? {
                Some(found) => found,
                None => segment::examine(&disk::read_all(file.as_ref())?, &header, |_, _| {}),
            };
            if let Some(fault) =
                found.fault.filter(|fault| fault.newer || fault.durable_by.is_some())
            {
                let (offset, reason) = (found.end as u64, fault.reason);
                return Err(OpenError::Damaged(Damage { path, offset, reason }).into());
            }
            if let Some(reason) = ends_early(found.last, &manifest) {
                let offset = found.end as u64;
                return Err(OpenError::Damaged(Damage { path, offset, reason }).into());
            }
            manifest.last_arrival = found.last_arrival.unwrap_or(manifest.last_arrival);
            (found.end as u64, found.last)
        }
    };
    let files = open_files(disk, &directory, &manifest, end)?;
    Ok((Pinned { manifest, files, sequence }, lock))
}

/// Opens what the manifest names; the last segment counts up to `end`.
fn open_files(
    disk: &dyn Disk,
    directory: &Path,
    manifest: &Manifest,
    end: u64,
) -> Result<Vec<PinnedFile>, DiskError> {
    let mut files = Vec::with_capacity(manifest.sealed.len() + manifest.segments.len());
    let mut add = |path: &Path, bytes: Option<u64>, sealed: bool| {
        let file = disk.open_read(path)?;
        let bytes = bytes.map_or_else(|| file.length(), Ok)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        files.push(PinnedFile { name, bytes, sealed, file });
        Ok::<(), DiskError>(())
    };
    for entry in &manifest.sealed {
        add(&sealed::path(directory, entry.number), Some(entry.bytes), true)?;
    }
    for entry in &manifest.segments {
        let bytes = if entry.last.is_none() { Some(end) } else { None };
        add(&segment::path(directory, entry.first), bytes, false)?;
    }
    Ok(files)
}
