//! The only place that touches files: a small trait with a real and a fake implementation.
//!
//! It does not know what the bytes mean, nor which files belong to whom.

pub mod real;

pub mod fake;

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system, or what a test takes for one. Passed in as `Arc<dyn Disk>`.
///
/// What survives a crash: data after [`DiskFile::sync_data`]; a created, renamed or removed name
/// after [`Disk::sync_dir`] of its directory; a directory as soon as [`Disk::create_dir_all`]
/// returns.
pub trait Disk: Send + Sync {
    /// Creates a file for reading and writing, mode 0600; refuses if the name is taken.
    ///
    /// # Errors
    /// The operating system's.
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], or the operating system's.
    fn open_read(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], or the operating system's.
    fn open_write(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Renames a file over whatever has the new name.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Gives a file a second name, which must be free; both names then mean the same bytes.
    ///
    /// # Errors
    /// The operating system's, where the file system cannot do that among others.
    fn link(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], or the operating system's.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Removes a directory with everything in it; one that is not there is no error.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError>;

    /// What a directory holds, sorted by name.
    ///
    /// # Errors
    /// [`DiskErrorKind::NotFound`], or the operating system's.
    fn list(&self, path: &Path) -> Result<Vec<Entry>, DiskError>;

    /// Creates a directory and its parents, mode 0700, and makes them durable; those that exist
    /// are left alone.
    ///
    /// # Errors
    /// The operating system's.
    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError>;

    /// Makes names created, renamed or removed in a directory durable.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_dir(&self, path: &Path) -> Result<(), DiskError>;

    /// Bytes that can still be written to the file system of a directory; the greatest number where
    /// it does not say.
    ///
    /// # Errors
    /// The operating system's.
    fn free(&self, directory: &Path) -> Result<u64, DiskError>;

    /// Creates the file if needed and locks it for this process alone until the lock is dropped.
    ///
    /// # Errors
    /// [`DiskErrorKind::Locked`] if another holds it, or the operating system's.
    fn lock_exclusive(&self, path: &Path) -> Result<DiskLock, DiskError>;
}

/// An open file; every read and write names its offset.
pub trait DiskFile: Send + Sync {
    /// The name it was opened by.
    fn path(&self) -> &Path;

    /// Fills `buffer` from `offset`; less only where the file ends. Returns the bytes read.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError>;

    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    ///
    /// # Errors
    /// [`DiskErrorKind::Full`], or the operating system's.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError>;

    /// Makes the file at least `length` bytes long, zeros at its end, with space set aside for
    /// them where the file system can do that.
    ///
    /// # Errors
    /// [`DiskErrorKind::Full`], or the operating system's.
    fn preallocate(&self, length: u64) -> Result<(), DiskError>;

    /// Makes the file exactly `length` bytes long.
    ///
    /// # Errors
    /// The operating system's.
    fn truncate(&self, length: u64) -> Result<(), DiskError>;

    /// Makes data and length durable. After an error nothing written since the last success may
    /// be relied on, whatever a later call says.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_data(&self) -> Result<(), DiskError>;

    /// The length in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn length(&self) -> Result<u64, DiskError>;

    /// Drops what the operating system remembers of the file, so that the next read comes from
    /// the device.
    ///
    /// # Errors
    /// The operating system's.
    fn drop_cache(&self) -> Result<(), DiskError>;
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The last part of the path; what is not UTF-8 is replaced.
    pub name: String,
    /// A directory, not a file.
    pub directory: bool,
    /// Bytes in a file; 0 for a directory.
    pub length: u64,
}

/// Held while a directory is locked; dropping it lets go.
pub struct DiskLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl DiskLock {
    fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

/// Reads a whole file.
///
/// # Errors
/// [`DiskErrorKind::NotFound`], or the operating system's.
pub fn read_whole(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = disk.open_read(path)?;
    read_all(file.as_ref())
}

/// Reads all of an open file.
///
/// # Errors
/// The operating system's.
pub fn read_all(file: &dyn DiskFile) -> Result<Vec<u8>, DiskError> {
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file as a whole: after a crash it holds the old bytes or the new ones. Written
/// beside it as `<name>.tmp`, synced, renamed, directory synced.
///
/// # Errors
/// The operating system's; up to the rename the old bytes stand and the new ones are removed.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = temporary_name(path);
    remove_if_there(disk, &temporary)?;
    let written = disk.create(&temporary).and_then(|file| {
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        disk.rename(&temporary, path)
    });
    if let Err(error) = written {
        // What remains under the temporary name is removed by the next replacement.
        let _ = remove_if_there(disk, &temporary);
        return Err(error);
    }
    disk.sync_dir(parent(path))
}

/// The name a file has until it is complete.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Removes a file that may not be there.
///
/// # Errors
/// The operating system's, other than that it is not there.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if error.kind() != DiskErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directory a path lies in; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A place in a file that moves with each read or write, for streaming in or out.
pub struct Stream {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl Stream {
    /// Starts at `offset`.
    pub fn new(file: Arc<dyn DiskFile>, offset: u64) -> Self {
        Self { file, offset }
    }

    /// Where the next read or write happens.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Nothing is held back; it is durable only after [`DiskFile::sync_data`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was done to a file when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// Creating a file.
    Create,
    /// Opening a file.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Setting space aside.
    Preallocate,
    /// Changing the length.
    Truncate,
    /// Making data durable.
    SyncData,
    /// Making names durable.
    SyncDir,
    /// Asking for the length.
    Length,
    /// Dropping the operating system's copy.
    DropCache,
    /// Renaming.
    Rename,
    /// Giving a second name.
    Link,
    /// Removing.
    Remove,
    /// Listing a directory.
    List,
    /// Creating a directory.
    CreateDir,
    /// Locking.
    Lock,
    /// Asking for free space.
    Free,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Preallocate => "preallocate",
            Self::Truncate => "truncate",
            Self::SyncData => "sync",
            Self::SyncDir => "sync directory",
            Self::Length => "get length of",
            Self::DropCache => "drop cache of",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Remove => "remove",
            Self::List => "list",
            Self::CreateDir => "create directory",
            Self::Lock => "lock",
            Self::Free => "get free space of",
        })
    }
}

/// A file operation that failed, with what it was and on which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct DiskError {
    operation: Operation,
    path: PathBuf,
    source: io::Error,
}

impl DiskError {
    fn new(operation: Operation, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.to_owned(), source: source.into() }
    }

    /// Of a file that is read otherwise than through a [`Disk`], such as over a network.
    pub fn reading(path: &Path, source: io::Error) -> Self {
        Self::new(Operation::Read, path, source)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> DiskErrorKind {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::Full,
            io::ErrorKind::NotFound => DiskErrorKind::NotFound,
            io::ErrorKind::WouldBlock if self.operation == Operation::Lock => DiskErrorKind::Locked,
            _ => DiskErrorKind::Io,
        }
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// To which path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// The failures callers tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// No space left, or over quota; may pass when space is freed.
    Full,
    /// No such file or directory.
    NotFound,
    /// Another process holds the lock.
    Locked,
    /// Anything else.
    Io,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Both disks do the same, so what holds on the fake one holds on the real one.
    fn check_contract(disk: &dyn Disk, root: &Path) {
        let dir = root.join("a/b");
        disk.create_dir_all(&dir).unwrap();
        disk.create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        assert_eq!(disk.open_read(&path).err().unwrap().kind(), DiskErrorKind::NotFound);
        let file = disk.create(&path).unwrap();
        assert!(disk.create(&path).is_err(), "the name is taken");
        file.write_at(b"hello", 3).unwrap();
        let mut buffer = [9; 10];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 8);
        assert_eq!(&buffer[..8], b"\0\0\0hello");
        file.preallocate(4).unwrap();
        assert_eq!(file.length().unwrap(), 8, "preallocation never shortens");
        file.preallocate(1000).unwrap();
        assert_eq!(file.length().unwrap(), 1000);
        file.truncate(5).unwrap();
        file.sync_data().unwrap();
        file.drop_cache().unwrap();
        assert_eq!(read_whole(disk, &path).unwrap(), b"\0\0\0he");

        assert!(disk.free(&dir).unwrap() > 0);
        assert!(disk.free(&dir.join("none")).is_err());

        replace(disk, &dir.join("whole"), b"one").unwrap();
        replace(disk, &dir.join("whole"), b"two").unwrap();
        assert_eq!(read_whole(disk, &dir.join("whole")).unwrap(), b"two");
        let entry = |name: &str, length| Entry { name: name.into(), directory: false, length };
        assert_eq!(disk.list(&dir).unwrap(), [entry("file", 5), entry("whole", 3)]);
        let above = Entry { name: "b".into(), directory: true, length: 0 };
        assert_eq!(disk.list(&root.join("a")).unwrap(), [above]);

        disk.link(&path, &dir.join("second")).unwrap();
        assert!(disk.link(&path, &dir.join("second")).is_err(), "the name is taken");
        disk.rename(&path, &dir.join("moved")).unwrap();
        disk.remove(&dir.join("moved")).unwrap();
        assert_eq!(read_whole(disk, &dir.join("second")).unwrap(), b"\0\0\0he");
        disk.remove(&dir.join("second")).unwrap();
        assert_eq!(disk.remove(&path).err().unwrap().kind(), DiskErrorKind::NotFound);
        remove_if_there(disk, &path).unwrap();

        let mut out = Stream::new(disk.create(&path).unwrap(), 0);
        out.write_all(b"streamed").unwrap();
        assert_eq!(out.offset(), 8);
        let mut text = String::new();
        Stream::new(disk.open_read(&path).unwrap(), 2).read_to_string(&mut text).unwrap();
        assert_eq!(text, "reamed");

        let lock = disk.lock_exclusive(&root.join("LOCK")).unwrap();
        let second = disk.lock_exclusive(&root.join("LOCK")).err().unwrap();
        assert_eq!(second.kind(), DiskErrorKind::Locked);
        drop(lock);
        disk.lock_exclusive(&root.join("LOCK")).unwrap();

        disk.remove_dir_all(&root.join("a")).unwrap();
        disk.remove_dir_all(&root.join("a")).unwrap();
        assert_eq!(disk.list(&dir).err().unwrap().kind(), DiskErrorKind::NotFound);
    }

    #[test]
    fn both_disks_keep_the_contract() {
        let root = tempfile::tempdir().unwrap();
        check_contract(&real::RealDisk, root.path());
        check_contract(&fake::FakeDisk::new(), Path::new("/data"));
    }

    #[test]
    fn an_error_names_operation_and_path() {
        let error = real::RealDisk.open_read(Path::new("/no/such")).err().unwrap();
        assert!(error.to_string().starts_with("cannot open /no/such: "), "{error}");
        assert_eq!(error.operation(), Operation::Open);
        assert_eq!(error.path(), Path::new("/no/such"));
    }
}
