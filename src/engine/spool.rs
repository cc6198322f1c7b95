//! Files that receive uploads before they are read; they live no longer than what is done with
//! them, and there are only so many.
//!
//! It does not know what is in them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::engine::error::Problem;
use crate::metrics::Code;

/// Uploads that may be under way at once; each may be as long as `limits.load_bytes`.
const UPLOADS: usize = 8;

/// The directory of the spool files.
pub(super) struct Spools {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    next: AtomicU64,
    places: Arc<Semaphore>,
}

impl Spools {
    /// Starts with an empty directory: what an earlier run left is of no use.
    pub(super) fn open(disk: Arc<dyn Disk>, directory: PathBuf) -> Result<Self, DiskError> {
        disk.remove_dir_all(&directory)?;
        disk.create_dir_all(&directory)?;
        let places = Arc::new(Semaphore::new(UPLOADS));
        Ok(Self { disk, directory, next: AtomicU64::new(0), places })
    }

    pub(super) fn create(&self) -> Result<Spool, Problem> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{UPLOADS} uploads are under way; no more at a time");
            Problem::new(Code::Overloaded, detail)
        })?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self
            .disk
            .create(&self.directory.join(format!("upload-{number}")))
            .map_err(|error| refused(&error))?;
        // The name is not needed: without it the file goes when its last handle does.
        self.disk.remove(file.path()).map_err(|error| refused(&error))?;
        Ok(Spool { file, length: 0, _place: place })
    }
}

/// An upload as it arrives.
pub struct Spool {
    file: Arc<dyn DiskFile>,
    length: u64,
    /// Given back when it is finished or dropped.
    _place: OwnedSemaphorePermit,
}

impl Spool {
    /// Appends a part. Blocking.
    ///
    /// # Errors
    /// `DISK_FULL`, or the disk failed.
    pub fn write(&mut self, part: &[u8]) -> Result<(), Problem> {
        self.file.write_at(part, self.length).map_err(|error| refused(&error))?;
        self.length += part.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The complete file, for whoever has the turn to work on it.
    pub fn finish(self) -> Arc<dyn DiskFile> {
        self.file
    }
}

fn refused(error: &DiskError) -> Problem {
    let code = match error.kind() {
        DiskErrorKind::Full => Code::DiskFull,
        _ => Code::Internal,
    };
    Problem::new(code, format!("the upload cannot be kept: {error}"))
}
