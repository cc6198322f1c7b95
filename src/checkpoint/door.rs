//! How sled is opened, called and made durable.
//!
//! It does not know what is kept there. sled 0.34 panics where it should fail, may hang on damaged
//! files, keeps its lock for a moment after it was closed, and does not sync what it flushes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::load::said;
use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::priority;

/// The least time sled may be silent before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);
/// One second of patience more for each.
const PATIENCE_BYTES: u64 = 100 << 20;
/// How often, and how far apart, a locked directory is tried: 5 s in all.
const LOCK_TRIES: usize = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Opens what is at `path`; nothing there is an empty tree. `segment_bytes` is a power of two, and
/// always the same for one directory.
///
/// The threads that sled starts for itself inherit the priority of the one that opens: without one
/// of their own, writing a checkpoint would take the core from lookups.
pub(super) fn open(path: &Path, cache_bytes: u64, segment_bytes: usize) -> sled::Result<sled::Db> {
    thread::scope(|scope| {
        let opening = scope.spawn(|| {
            priority::idle();
            open_here(path, cache_bytes, segment_bytes)
        });
        opening.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn open_here(path: &Path, cache_bytes: u64, segment_bytes: usize) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::LowSpace)
        .segment_size(segment_bytes);
    for _ in 1..LOCK_TRIES {
        match config.open() {
            // Threads of an instance closed a moment ago may hold it still.
            Err(sled::Error::Io(error)) if error.to_string().contains("acquire lock") => {
                thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
    config.open()
}

/// Runs a call into sled; a panic is an error like any other.
pub(super) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("sled panicked: {}", said(panic))),
    }
}

/// How long sled may be silent over what is at `path`.
pub(super) fn patience(disk: &dyn Disk, path: &Path) -> Result<Duration, DiskError> {
    let bytes = bytes_under(disk, path)?;
    Ok(PATIENCE + Duration::from_secs(bytes / PATIENCE_BYTES))
}

fn bytes_under(disk: &dyn Disk, path: &Path) -> Result<u64, DiskError> {
    let mut bytes = 0;
    for entry in disk.list(path)? {
        let inner = path.join(&entry.name);
        bytes += if entry.directory { bytes_under(disk, &inner)? } else { entry.length };
    }
    Ok(bytes)
}

/// sled's `flush` does not make its file durable, nor any of its names: this does.
pub(super) fn sync_under(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    for entry in disk.list(path)? {
        let inner = path.join(&entry.name);
        if entry.directory {
            sync_under(disk, &inner)?;
            continue;
        }
        match disk.open_write(&inner) {
            Ok(file) => file.sync_data()?,
            // sled removed it meanwhile, so nothing hangs on it.
            Err(error) if error.kind() == DiskErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    disk.sync_dir(path)
}
