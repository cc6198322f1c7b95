//! Opening a data directory: lock, manifest, tail rule, a new epoch.
//!
//! It does not know what the records mean; applying them is the engine's business.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backup;
use super::bulk;
use super::chain;
use super::manifest::{self, ControlSnapshot, LoadError, Manifest, ManifestError, SegmentEntry};
use super::seal::Sealer;
use super::sealed::{self, Blocks, OpenSealedError, SealedEntry, SealedFile};
use super::segment::{self, Examined, HeaderError, Segment, SegmentHeader};
use super::writer::{self, Options, SEGMENT_BYTES_MAX, Writer};
use super::{Damage, History};
use crate::disk::{self, Disk, DiskError, DiskErrorKind, DiskFile};
use crate::frame;
use crate::ids::{Epoch, Sequence, StoreId};
use crate::time::ArrivalTime;

/// A store, open for writing and reading.
pub struct Opened {
    /// The writing side.
    pub writer: Writer,
    /// The reading side.
    pub reader: Arc<History>,
    /// Makes sealed files, in the background.
    pub sealer: Arc<Sealer>,
    /// The control state, to which the control records after it are to be applied.
    pub control: Option<ControlSnapshot>,
    /// The last sequence in history; 0 if it is empty.
    pub last_sequence: Sequence,
    /// The arrival time of the last frame; none if there never was one.
    pub last_arrival: Option<ArrivalTime>,
    /// What was cut from the end, torn by a crash.
    pub cut: Option<Cut>,
    /// This start.
    pub epoch: Epoch,
    /// The store's identity.
    pub store: StoreId,
}

/// An unfinished write that a crash left at the end of the log; it was never acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The segment.
    pub path: PathBuf,
    /// Where the whole frames end.
    pub offset: u64,
    /// What stood there.
    pub reason: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unfinished write cut from {} at byte {}: ", self.path.display(), self.offset)?;
        f.write_str(&self.reason)
    }
}

/// Opens the data directory `root`, which is created if it is not there.
///
/// # Errors
/// * [`OpenError::Locked`]: another process serves it.
/// * [`OpenError::Backup`]: it is no data directory.
/// * [`OpenError::Damaged`], [`OpenError::Missing`], [`OpenError::ManifestMissing`]: acknowledged
///   data is damaged or gone; restore a backup.
/// * [`OpenError::Newer`]: use a newer release.
/// * [`OpenError::Disk`], [`OpenError::Random`]: the machine failed.
pub fn open(disk: Arc<dyn Disk>, root: &Path, options: Options) -> Result<Opened, OpenError> {
    let directory = root.join("history");
    match disk.open_read(&backup::marker_path(root)) {
        Ok(_) => return Err(OpenError::Backup { path: root.to_owned() }),
        Err(error) if error.kind() == DiskErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let segment_bytes = options.segment_bytes.min(SEGMENT_BYTES_MAX);
    let options = Options { segment_bytes, ..options };
    disk.create_dir_all(&directory)?;
    let lock = disk.lock_exclusive(&root.join("LOCK")).map_err(|error| match error.kind() {
        DiskErrorKind::Locked => OpenError::Locked { path: root.to_owned() },
        _ => OpenError::Disk(error),
    })?;
    let mut manifest = match load_manifest(disk.as_ref(), root)? {
        Some(manifest) => {
            if manifest.segments.is_empty() {
                // The last start may have ended before the name of the first manifest was durable:
                // a segment must not outlive it.
                manifest.save(disk.as_ref(), root)?;
            }
            manifest
        }
        None => create_store(disk.as_ref(), root, &directory)?,
    };
    check_chain(&manifest, root)?;
    let staged = bulk::staged(disk.as_ref(), &directory, &manifest)?;
    remove_rubbish(disk.as_ref(), root, &directory, (&manifest, &staged))?;
    let place = Place { disk: disk.as_ref(), root, directory: &directory, options };
    let tail = match manifest.segments.last() {
        Some(entry) => place.recover_last(entry, &manifest)?,
        None => place.first_segment(&mut manifest)?,
    };
    let mut segments = place.open_closed(&manifest)?;
    segments.push(tail.segment.clone());
    let blocks = Arc::new(Blocks::new(options.block_cache_bytes));
    let sealed = place.open_sealed(&manifest, &blocks)?;

    let found = &tail.found;
    manifest.epoch = Epoch(manifest.epoch.0 + 1);
    manifest.last_arrival = found.last_arrival.unwrap_or(manifest.last_arrival);
    manifest.save(disk.as_ref(), root)?;
    let store = manifest.store;
    let history =
        Arc::new(History::new(store, segments, sealed, &manifest.floors, found.last, &staged));
    let last_arrival = manifest.last_arrival;
    Ok(Opened {
        sealer: Arc::new(Sealer::new(history.clone(), disk.clone(), directory.clone(), blocks)),
        reader: history.clone(),
        control: manifest.control.clone(),
        last_sequence: found.last,
        last_arrival: (last_arrival != ArrivalTime::MIN).then_some(last_arrival),
        cut: tail.cut,
        epoch: manifest.epoch,
        store,
        writer: Writer {
            disk,
            root: root.to_owned(),
            directory,
            options,
            history,
            manifest,
            segment: tail.segment,
            capacity: tail.capacity,
            last_arrival,
            marked: found.marked,
            unsynced: false,
            poisoned: None,
            buffer: Vec::new(),
            _lock: lock,
        },
    })
}

fn load_manifest(disk: &dyn Disk, root: &Path) -> Result<Option<Manifest>, OpenError> {
    let path = manifest::path(root);
    Manifest::load(disk, root).map_err(|error| match error {
        LoadError::Disk(error) => OpenError::Disk(error),
        LoadError::Bytes(error @ ManifestError::Newer { .. }) => {
            OpenError::Newer { path, reason: error.to_string() }
        }
        LoadError::Bytes(error) => Damage { path, offset: 0, reason: error.to_string() }.into(),
    })
}

/// The first manifest names no file, so that whatever a crash leaves behind it is rubbish.
fn create_store(disk: &dyn Disk, root: &Path, directory: &Path) -> Result<Manifest, OpenError> {
    let entries = disk.list(directory)?;
    if entries.iter().any(|entry| segment::first_of_name(&entry.name).is_some()) {
        let path = manifest::path(root);
        return Err(OpenError::ManifestMissing { path, directory: directory.to_owned() });
    }
    let mut store = [0; 16];
    getrandom::fill(&mut store).map_err(OpenError::Random)?;
    let manifest = Manifest {
        store: StoreId(store),
        epoch: Epoch(0),
        past: 0,
        last_arrival: ArrivalTime::MIN,
        segments: Vec::new(),
        floors: Vec::new(),
        sealed: Vec::new(),
        control: None,
    };
    manifest.save(disk, root)?;
    Ok(manifest)
}

/// What is wrong where history ends at `last` and the manifest knows of more; none if it does not.
pub(super) fn ends_early(last: Sequence, manifest: &Manifest) -> Option<String> {
    let covers = manifest.control.as_ref()?.covers;
    (last < covers).then(|| format!("ends at sequence {last}, {covers} was durable"))
}

pub(super) fn check_chain(manifest: &Manifest, root: &Path) -> Result<(), OpenError> {
    match chain::fault(&manifest.segments, &manifest.sealed) {
        Some(reason) => {
            Err(OpenError::Damaged(Damage { path: manifest::path(root), offset: 0, reason }))
        }
        None => Ok(()),
    }
}

/// Removes files of ours that the manifest does not name, but those `staged` for a load that may
/// go on. One behind the last named segment that holds frames is no rubbish: then the manifest is
/// not the latest one.
fn remove_rubbish(
    disk: &dyn Disk,
    root: &Path,
    directory: &Path,
    (manifest, staged): (&Manifest, &[u64]),
) -> Result<(), OpenError> {
    let newest = manifest.segments.last().map_or(Sequence::ZERO, |entry| entry.first);
    let (mut unfinished, mut unnamed) = (Vec::new(), Vec::new());
    for entry in disk.list(directory)? {
        let path = directory.join(&entry.name);
        if let Some(number) = sealed::number_of_name(&entry.name) {
            let is_named = manifest.sealed.iter().any(|named| named.number == number);
            if !is_named && !staged.contains(&number) {
                unnamed.push(path);
            }
        } else if let Some(first) = segment::first_of_name(&entry.name) {
            if manifest.segments.iter().any(|named| named.first == first) {
                continue;
            }
            if first > newest && holds_frames(disk, &path, manifest.store)? {
                let reason = "holds frames, but the manifest does not name it".to_owned();
                return Err(Damage { path, offset: 0, reason }.into());
            }
            unnamed.push(path);
        } else if entry.name.strip_suffix(".tmp").is_some_and(|name| {
            segment::first_of_name(name).is_some()
                || sealed::number_of_name(name).is_some()
                || name == bulk::LEDGER
        }) {
            unfinished.push(path);
        }
    }
    for path in &unfinished {
        disk::remove_if_there(disk, path)?;
    }
    if !unnamed.is_empty() {
        // The last run may have ended before the name of this manifest was durable. The one on the
        // device may still name these files: they go only once it cannot come back.
        manifest.save(disk, root)?;
    }
    for path in &unnamed {
        disk::remove_if_there(disk, path)?;
    }
    if unfinished.len() + unnamed.len() > 0 {
        disk.sync_dir(directory)?;
    }
    Ok(())
}

fn holds_frames(disk: &dyn Disk, path: &Path, store: StoreId) -> Result<bool, OpenError> {
    let bytes = disk::read_whole(disk, path)?;
    Ok(frame::find_valid_after(&bytes, segment::HEADER_BYTES, store).next().is_some())
}

struct Place<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    directory: &'a Path,
    options: Options,
}

struct Tail {
    segment: Arc<Segment>,
    capacity: u64,
    found: Examined,
    cut: Option<Cut>,
}

impl Place<'_> {
    fn first_segment(&self, manifest: &mut Manifest) -> Result<Tail, OpenError> {
        let epoch = Epoch(manifest.epoch.0 + 1);
        let header = SegmentHeader { store: manifest.store, epoch, first: Sequence(1) };
        let path = segment::path(self.directory, header.first);
        let capacity = self.options.segment_bytes;
        let segment =
            Arc::new(writer::create(self.disk, &path, (&header, Sequence::ZERO), capacity)?);
        manifest.segments.push(SegmentEntry { first: header.first, last: None });
        let found = segment::examine(&[], &header, |_, _| {});
        Ok(Tail { segment, capacity, found, cut: None })
    }

    /// Reads the last segment from the device, applies the tail rule, and writes what is whole
    /// anew: after a failed sync the cache may hold pages that the device does not.
    fn recover_last(&self, entry: &SegmentEntry, manifest: &Manifest) -> Result<Tail, OpenError> {
        let path = segment::path(self.directory, entry.first);
        let file = self.disk.open_read(&path).map_err(missing)?;
        file.drop_cache()?;
        let bytes = disk::read_all(file.as_ref())?;
        drop(file);
        let header = check_header(&path, &bytes, entry.first, manifest.store)?;
        let found = segment::examine(&bytes, &header, |_, _| {});
        let damaged = |reason: String| {
            OpenError::Damaged(Damage { path: path.clone(), offset: found.end as u64, reason })
        };
        let cut = match &found.fault {
            None => None,
            Some(fault) if fault.newer => {
                return Err(OpenError::Newer { path, reason: fault.reason.clone() });
            }
            Some(fault) => {
                if let Some(later) = fault.durable_by {
                    let reason = &fault.reason;
                    let proof = "shows that it was durable, so it is no unfinished write";
                    return Err(damaged(format!("{reason}; the frame at byte {later} {proof}")));
                }
                let reason = fault.reason.clone();
                Some(Cut { path: path.clone(), offset: found.end as u64, reason })
            }
        };
        if let Some(reason) = ends_early(found.last, manifest) {
            return Err(damaged(reason));
        }
        if found.epoch > manifest.epoch {
            let reason = format!(
                "segment {} is of epoch {}, later than the manifest's {}",
                entry.first, found.epoch, manifest.epoch
            );
            return Err(Damage { path: manifest::path(self.root), offset: 0, reason }.into());
        }
        let (file, capacity) = self.rewrite(&path, &bytes[..found.end])?;
        let before = manifest.segments.iter().rev().find_map(|before| before.last);
        let after = before.unwrap_or(Sequence::ZERO);
        let segment = Segment::new((after, entry.first), file, found.end as u64);
        let segment = Arc::new(segment);
        Ok(Tail { segment, capacity, found, cut })
    }

    fn rewrite(&self, path: &Path, whole: &[u8]) -> Result<(Arc<dyn DiskFile>, u64), OpenError> {
        let temporary = disk::temporary_name(path);
        disk::remove_if_there(self.disk, &temporary)?;
        let file = self.disk.create(&temporary)?;
        let mut capacity = self.options.segment_bytes.max(whole.len() as u64);
        match file.preallocate(capacity) {
            Ok(()) => {}
            // A full disk must not keep the store from being read; writes will find it full.
            Err(error) if error.kind() == DiskErrorKind::Full => capacity = whole.len() as u64,
            Err(error) => return Err(error.into()),
        }
        file.write_at(whole, 0)?;
        file.truncate(capacity)?;
        file.sync_data()?;
        self.disk.rename(&temporary, path)?;
        self.disk.sync_dir(self.directory)?;
        Ok((self.disk.open_write(path)?, capacity))
    }

    fn open_sealed(
        &self,
        manifest: &Manifest,
        blocks: &Arc<Blocks>,
    ) -> Result<Vec<Arc<SealedFile>>, OpenError> {
        let open = |entry: &SealedEntry| {
            let path = sealed::path(self.directory, entry.number);
            let file = self.disk.open_read(&path).map_err(missing)?;
            match SealedFile::open(file, manifest.store, *entry, blocks.clone()) {
                Ok(file) => Ok(Arc::new(file)),
                Err(OpenSealedError::Disk(error)) => Err(OpenError::Disk(error)),
                Err(OpenSealedError::Damaged(damage)) => Err(OpenError::Damaged(damage)),
                Err(OpenSealedError::Newer(reason)) => Err(OpenError::Newer { path, reason }),
            }
        };
        manifest.sealed.iter().map(open).collect()
    }

    fn open_closed(&self, manifest: &Manifest) -> Result<Vec<Arc<Segment>>, OpenError> {
        let mut after = Sequence::ZERO;
        let closed = manifest.segments.iter().filter_map(|entry| Some((entry.first, entry.last?)));
        closed
            .map(|(first, last)| {
                let path = segment::path(self.directory, first);
                let file = self.disk.open_read(&path).map_err(missing)?;
                let mut bytes = [0; segment::HEADER_BYTES];
                let read = file.read_at(&mut bytes, 0)?;
                check_header(&path, &bytes[..read], first, manifest.store)?;
                let end = file.length()?;
                let segment = Segment::new((after, first), file, end);
                segment.close(last);
                after = last;
                Ok(Arc::new(segment))
            })
            .collect()
    }
}

fn missing(error: DiskError) -> OpenError {
    match error.kind() {
        DiskErrorKind::NotFound => OpenError::Missing { path: error.path().to_owned() },
        _ => OpenError::Disk(error),
    }
}

pub(super) fn check_header(
    path: &Path,
    bytes: &[u8],
    first: Sequence,
    store: StoreId,
) -> Result<SegmentHeader, OpenError> {
    let path = path.to_owned();
    let header = match SegmentHeader::decode(bytes) {
        Ok(header) => header,
        Err(error @ HeaderError::Newer { .. }) => {
            return Err(OpenError::Newer { path, reason: error.to_string() });
        }
        Err(error) => {
            return Err(Damage { path, offset: 0, reason: error.to_string() }.into());
        }
    };
    if header.store != store {
        let reason = format!("belongs to store {}, this one is {store}", header.store);
        return Err(Damage { path, offset: 0, reason }.into());
    }
    if header.first != first {
        let reason = format!("begins at sequence {}, its name says {first}", header.first);
        return Err(Damage { path, offset: 0, reason }.into());
    }
    Ok(header)
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {} is in use by another process", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// It is a backup: serving it would change it, and give sequences that its store has given.
    #[error("{} is a backup; larder restore makes a data directory of it", path.display())]
    Backup {
        /// The backup.
        path: PathBuf,
    },
    /// Acknowledged data is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A live file is gone.
    #[error("{} is missing, the manifest names it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Segments without a manifest.
    #[error("{} is missing, but {} holds segments", path.display(), directory.display())]
    ManifestMissing {
        /// Where the manifest should be.
        path: PathBuf,
        /// Where the segments are.
        directory: PathBuf,
    },
    /// Written by a later release.
    #[error("{} needs a newer release: {reason}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What about it is newer.
        reason: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The machine gave no random bytes for the store's identity.
    #[error("no random bytes for a store id: {0}")]
    Random(getrandom::Error),
}
