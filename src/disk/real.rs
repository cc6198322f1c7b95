//! The machine's file system behind the [`Disk`] trait.
//!
//! It does not know about crashes; what survives one is the kernel's business.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use super::{Disk, DiskError, DiskFile, DiskLock, Entry, Operation, parent};

/// Bytes read or written with one call at most: a kernel may not look who else wants the core
/// before all of them are copied (large folios), and where memory has to come from a host first,
/// 256 KiB that are written keep a lookup waiting for 0.6 ms.
const CALL_BYTES: usize = 32 << 10;

/// The file system of this machine.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

struct RealFile {
    path: PathBuf,
    file: File,
}

fn open(
    options: &OpenOptions,
    operation: Operation,
    path: &Path,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    let file = options.open(path).map_err(|error| DiskError::new(operation, path, error))?;
    Ok(Arc::new(RealFile { path: path.to_owned(), file }))
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        open(&options, Operation::Create, path)
    }

    fn open_read(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        open(File::options().read(true), Operation::Open, path)
    }

    fn open_write(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        open(File::options().read(true).write(true), Operation::Open, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        fs::rename(from, to).map_err(|error| DiskError::new(Operation::Rename, from, error))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        fs::hard_link(from, to).map_err(|error| DiskError::new(Operation::Link, to, error))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        fs::remove_file(path).map_err(|error| DiskError::new(Operation::Remove, path, error))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DiskError::new(Operation::Remove, path, error))
            }
            _ => Ok(()),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, DiskError> {
        let refuse = |error| DiskError::new(Operation::List, path, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(refuse)? {
            let entry = entry.map_err(refuse)?;
            let about = entry.metadata().map_err(refuse)?;
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                directory: about.is_dir(),
                length: if about.is_dir() { 0 } else { about.len() },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        match fs::metadata(path) {
            Ok(about) if about.is_dir() => return Ok(()),
            Ok(_) => {
                let taken = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(DiskError::new(Operation::CreateDir, path, taken));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DiskError::new(Operation::CreateDir, path, error));
            }
            Err(_) => {}
        }
        self.create_dir_all(parent(path))?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(DiskError::new(Operation::CreateDir, path, error))
            }
            _ => self.sync_dir(parent(path)),
        }
    }

    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| DiskError::new(Operation::SyncDir, path, error))
    }

    fn free(&self, directory: &Path) -> Result<u64, DiskError> {
        let about = rustix::fs::statvfs(directory)
            .map_err(|error| DiskError::new(Operation::Free, directory, error))?;
        // A file system without a size of its own counts no blocks.
        Ok(match about.f_blocks {
            0 => u64::MAX,
            _ => about.f_bavail.saturating_mul(about.f_frsize),
        })
    }

    fn lock_exclusive(&self, path: &Path) -> Result<DiskLock, DiskError> {
        let refuse = |error| DiskError::new(Operation::Lock, path, error);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => Ok(DiskLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(refuse(io::ErrorKind::WouldBlock.into())),
            Err(TryLockError::Error(error)) => Err(refuse(error)),
        }
    }
}

impl RealFile {
    fn refuse(&self, operation: Operation, error: impl Into<io::Error>) -> DiskError {
        DiskError::new(operation, &self.path, error)
    }
}

impl DiskFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let end = buffer.len().min(filled + CALL_BYTES);
            match self.file.read_at(&mut buffer[filled..end], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.refuse(Operation::Read, error)),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let calls = bytes.chunks(CALL_BYTES).zip((offset..).step_by(CALL_BYTES));
        for (bytes, offset) in calls {
            let written = self.file.write_all_at(bytes, offset);
            written.map_err(|error| self.refuse(Operation::Write, error))?;
        }
        Ok(())
    }

    fn preallocate(&self, length: u64) -> Result<(), DiskError> {
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // Where space cannot be set aside the zeros are at least there; a full disk then
                // shows at the write instead.
                Err(Errno::OPNOTSUPP) => {
                    if self.length()? >= length {
                        return Ok(());
                    }
                    return self.truncate(length);
                }
                Err(error) => return Err(self.refuse(Operation::Preallocate, error)),
            }
        }
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.file.set_len(length).map_err(|error| self.refuse(Operation::Truncate, error))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| self.refuse(Operation::SyncData, error))
    }

    fn length(&self) -> Result<u64, DiskError> {
        let about = self.file.metadata();
        about.map(|about| about.len()).map_err(|error| self.refuse(Operation::Length, error))
    }

    fn drop_cache(&self) -> Result<(), DiskError> {
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)
            .map_err(|error| self.refuse(Operation::DropCache, error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data/history");
        RealDisk.create_dir_all(&dir).unwrap();
        RealDisk.create(&dir.join("file")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(dir.parent().unwrap()), 0o700);
        assert_eq!(mode(&dir.join("file")), 0o600);
    }

    #[test]
    fn what_takes_several_calls_is_written_whole() {
        let root = tempfile::tempdir().unwrap();
        let file = RealDisk.create(&root.path().join("file")).unwrap();
        let bytes: Vec<u8> = (0..3 * CALL_BYTES + 5).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, CALL_BYTES - 1, CALL_BYTES, CALL_BYTES + 1, bytes.len()] {
            file.truncate(0).unwrap();
            file.write_at(&bytes[..length], 7).unwrap();
            let mut read = vec![0; length + 1];
            assert_eq!(file.read_at(&mut read, 7).unwrap(), length);
            assert_eq!(read[..length], bytes[..length]);
        }
    }

    #[test]
    fn preallocation_takes_space_at_once() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        RealDisk.create(&path).unwrap().preallocate(1 << 20).unwrap();
        let about = fs::metadata(&path).unwrap();
        assert_eq!(about.len(), 1 << 20);
        assert!(about.blocks() * 512 >= 1 << 20, "{} blocks", about.blocks());
    }
}
