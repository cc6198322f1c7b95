//! A disk in memory that remembers what was synced, so that tests can cut the power, and that
//! fails when told to.
//!
//! It does not know what any file is for; it models sectors of 512 bytes and names.

mod node;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::node::Node;
use super::{Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, Entry, Operation};

/// A disk in memory; clones share it.
///
/// After a failed sync the written data can still be read but is not on the disk, and the next
/// sync succeeds all the same, as on Linux; `drop_cache` shows what is really there.
#[derive(Clone, Default)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
}

/// An operation that is to fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which operation; none counts every one.
    pub operation: Option<Operation>,
    /// Which of them, the next being 1.
    pub nth: u64,
    /// All later ones fail too, until [`FakeDisk::heal`].
    pub lasting: bool,
    /// With which error: [`DiskErrorKind::Full`] or [`DiskErrorKind::Io`].
    pub error: DiskErrorKind,
}

/// Something a power cut decides about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// A name created, renamed or removed since its directory was synced: the how many-th.
    Name(usize),
    /// The length of a file.
    Length(u64),
    /// A sector of a file, written since the file was synced.
    Sector(u64, usize),
}

/// What became of it. In a sector only the bytes that the writes changed are ever at stake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// As it was at the last sync.
    Lost,
    /// As it was written.
    Kept,
    /// Of a sector, one part is new, the other old; the number decides where and which.
    Torn(u64),
    /// Of a sector, what was changed is zeros.
    Zeroed,
}

#[derive(Default)]
struct State {
    /// Copied on writing, so that a moment of the whole disk costs little.
    files: BTreeMap<u64, Arc<Node>>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    free: Option<u64>,
    counts: HashMap<Operation, u64>,
    /// What the disk was before each change, if it is watched.
    moments: Option<Vec<FakeDisk>>,
    /// Syncs that say they succeeded and do nothing.
    ignored: Vec<Operation>,
}

#[derive(Clone)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

impl NameChange {
    fn touches(&self, directory: &Path) -> bool {
        let inside = |path: &Path| path.parent() == Some(directory);
        match self {
            Self::Create(path, _) | Self::Remove(path) => inside(path),
            Self::Rename(from, to, _) => inside(from) || inside(to),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, file) => {
                names.insert(path, file);
            }
            Self::Rename(from, to, file) => {
                names.remove(&from);
                names.insert(to, file);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

impl FakeDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk after a power cut in which nothing unsynced survived. This one stays as it is.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_by(|_| Fate::Lost)
    }

    /// The disk after a power cut in which each unsynced sector and each unsynced name survived
    /// or not by the toss of a coin that `seed` decides.
    #[must_use]
    pub fn crash_seeded(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        self.crash_by(move |_| if random.next() & 1 == 1 { Fate::Kept } else { Fate::Lost })
    }

    /// The disk after a power cut in which `fate` decides about everything that was not synced.
    #[must_use]
    pub fn crash_by(&self, mut fate: impl FnMut(Doubt) -> Fate) -> Self {
        let state = self.lock();
        let mut names = state.durable_names.clone();
        for (index, change) in state.pending.iter().enumerate() {
            if fate(Doubt::Name(index)) != Fate::Lost {
                change.clone().apply(&mut names);
            }
        }
        let files = names.values().filter_map(|&number| {
            let node = state.files.get(&number)?;
            let settled = node.is_settled();
            let after = if settled { node.clone() } else { node.crashed(number, &mut fate).into() };
            Some((number, after))
        });
        let after = State {
            files: files.collect(),
            next_file: state.next_file,
            durable_names: names.clone(),
            names,
            directories: state.directories.clone(),
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// Everything a power cut would decide about now, if every name survived.
    pub fn doubts(&self) -> Vec<Doubt> {
        let state = self.lock();
        let mut doubts: Vec<Doubt> = (0..state.pending.len()).map(Doubt::Name).collect();
        for number in state.names.values() {
            let Some(node) = state.files.get(number) else { continue };
            if node.durable_length != node.data.len() {
                doubts.push(Doubt::Length(*number));
            }
            doubts.extend(node.unsynced.keys().map(|sector| Doubt::Sector(*number, *sector)));
        }
        doubts
    }

    /// From now on keeps what the disk is before each operation that changes something.
    pub fn watch(&self) {
        self.lock().moments = Some(Vec::new());
    }

    /// What the disk was before each change since the last call, and what it is now.
    pub fn take_moments(&self) -> Vec<Self> {
        let mut state = self.lock();
        let now = state.image();
        let mut moments = state.moments.as_mut().map(std::mem::take).unwrap_or_default();
        moments.push(now);
        moments
    }

    /// Makes syncs of one kind do nothing and say that they succeeded, to see who notices.
    pub fn ignore(&self, sync: Operation) {
        self.lock().ignored.push(sync);
    }

    /// A hash of all names and contents.
    pub fn fingerprint(&self) -> u64 {
        let state = self.lock();
        let mut hasher = DefaultHasher::new();
        for (name, number) in &state.names {
            name.hash(&mut hasher);
            let data = state.files.get(number).map(|node| *blake3::hash(&node.data).as_bytes());
            data.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Makes an operation fail.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Forgets every fault.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Makes the disk say that this is what is free.
    pub fn say_free(&self, bytes: u64) {
        self.lock().free = Some(bytes);
    }

    /// How often an operation was asked for.
    pub fn count(&self, operation: Operation) -> u64 {
        self.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// How many operations of any kind were asked for.
    pub fn count_all(&self) -> u64 {
        self.lock().counts.values().sum()
    }

    /// Changes bytes behind everybody's back, on the disk and in the cache, as damage would.
    ///
    /// # Panics
    /// No such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let number = *state.names.get(path).expect("the test named a file that exists");
        let node = state.files.get_mut(&number).expect("every name has a file");
        let node = Arc::make_mut(node);
        change(&mut node.data);
        node.sync();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while holding it has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, number: u64, path: &Path) -> Arc<dyn DiskFile> {
        Arc::new(FakeFile { disk: self.clone(), number, path: path.to_owned() })
    }
}

impl State {
    fn begin(&mut self, operation: Operation, path: &Path) -> Result<(), DiskError> {
        *self.counts.entry(operation).or_default() += 1;
        if changes(operation) && self.moments.is_some() {
            let now = self.image();
            self.moments.get_or_insert_default().push(now);
        }
        let mut failure = None;
        self.faults.retain_mut(|fault| {
            if fault.operation.is_some_and(|wanted| wanted != operation) {
                return true;
            }
            fault.nth = fault.nth.saturating_sub(1);
            if fault.nth > 0 {
                return true;
            }
            failure = Some(fault.error);
            fault.lasting
        });
        match failure {
            None => Ok(()),
            Some(DiskErrorKind::Full) => Err(DiskError::new(operation, path, Errno::NOSPC)),
            Some(_) => Err(DiskError::new(operation, path, Errno::IO)),
        }
    }

    /// The disk as it is, for itself: without locks, faults and watching.
    fn image(&self) -> FakeDisk {
        let image = Self {
            files: self.files.clone(),
            next_file: self.next_file,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            pending: self.pending.clone(),
            directories: self.directories.clone(),
            ..Self::default()
        };
        FakeDisk { state: Arc::new(Mutex::new(image)) }
    }

    fn find(&self, operation: Operation, path: &Path) -> Result<u64, DiskError> {
        let missing = || DiskError::new(operation, path, Errno::NOENT);
        self.names.get(path).copied().ok_or_else(missing)
    }

    fn change_name(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.pending.push(change);
    }
}

/// Whether an operation can change what a power cut leaves.
fn changes(operation: Operation) -> bool {
    !matches!(
        operation,
        Operation::Open
            | Operation::Read
            | Operation::Length
            | Operation::List
            | Operation::Lock
            | Operation::Free
    )
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Create, path)?;
        if state.names.contains_key(path) || state.directories.contains(path) {
            return Err(DiskError::new(Operation::Create, path, Errno::EXIST));
        }
        if !state.directories.contains(super::parent(path)) {
            return Err(DiskError::new(Operation::Create, path, Errno::NOENT));
        }
        let number = state.next_file;
        state.next_file += 1;
        state.files.insert(number, Arc::default());
        state.change_name(NameChange::Create(path.to_owned(), number));
        Ok(self.file(number, path))
    }

    fn open_read(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Open, path)?;
        let number = state.find(Operation::Open, path)?;
        Ok(self.file(number, path))
    }

    fn open_write(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Rename, from)?;
        let number = state.find(Operation::Rename, from)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Link, from)?;
        let number = state.find(Operation::Link, from)?;
        if state.names.contains_key(to) || state.directories.contains(to) {
            return Err(DiskError::new(Operation::Link, to, Errno::EXIST));
        }
        state.change_name(NameChange::Create(to.to_owned(), number));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Remove, path)?;
        state.find(Operation::Remove, path)?;
        state.change_name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Remove, path)?;
        let inside = state.names.keys().filter(|name| name.starts_with(path));
        for name in inside.cloned().collect::<Vec<_>>() {
            state.change_name(NameChange::Remove(name));
        }
        state.directories.retain(|directory| !directory.starts_with(path));
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, DiskError> {
        let mut state = self.lock();
        state.begin(Operation::List, path)?;
        if !state.directories.contains(path) {
            return Err(DiskError::new(Operation::List, path, Errno::NOENT));
        }
        let name = |entry: &Path| entry.file_name().map(|name| name.to_string_lossy().into_owned());
        let inside = |entry: &Path| entry.parent() == Some(path);
        let files =
            state.names.iter().filter(|(entry, _)| inside(entry)).filter_map(|(entry, n)| {
                let length = state.files.get(n).map_or(0, |node| node.data.len() as u64);
                Some(Entry { name: name(entry)?, directory: false, length })
            });
        let directories = state.directories.iter().filter(|entry| inside(entry));
        let directories = directories
            .filter_map(|entry| Some(Entry { name: name(entry)?, directory: true, length: 0 }));
        let mut entries: Vec<Entry> = files.chain(directories).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.begin(Operation::CreateDir, path)?;
        state.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.begin(Operation::SyncDir, path)?;
        if state.ignored.contains(&Operation::SyncDir) {
            return Ok(());
        }
        let pending = std::mem::take(&mut state.pending);
        for change in pending {
            if change.touches(path) {
                change.apply(&mut state.durable_names);
            } else {
                state.pending.push(change);
            }
        }
        Ok(())
    }

    fn free(&self, directory: &Path) -> Result<u64, DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Free, directory)?;
        if !state.directories.contains(directory) {
            return Err(DiskError::new(Operation::Free, directory, Errno::NOENT));
        }
        Ok(state.free.unwrap_or(u64::MAX))
    }

    fn lock_exclusive(&self, path: &Path) -> Result<DiskLock, DiskError> {
        let mut state = self.lock();
        state.begin(Operation::Lock, path)?;
        if !state.locked.insert(path.to_owned()) {
            return Err(DiskError::new(Operation::Lock, path, Errno::WOULDBLOCK));
        }
        Ok(DiskLock::new(FakeLock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct FakeLock {
    disk: FakeDisk,
    path: PathBuf,
}

impl Drop for FakeLock {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.path);
    }
}

struct FakeFile {
    disk: FakeDisk,
    number: u64,
    path: PathBuf,
}

impl FakeFile {
    fn with<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut Arc<Node>, bool) -> T,
    ) -> Result<T, DiskError> {
        let mut state = self.disk.lock();
        let begun = state.begin(operation, &self.path);
        // A removed file lives on for whoever has it open.
        let node = state.files.entry(self.number).or_default();
        match begun {
            Ok(()) => Ok(act(node, true)),
            Err(error) => {
                act(node, false);
                Err(error)
            }
        }
    }
}

impl DiskFile for FakeFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        self.with(Operation::Read, |node, _| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(node.data.len());
            let read = buffer.len().min(node.data.len() - start);
            buffer[..read].copy_from_slice(&node.data[start..start + read]);
            read
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.with(Operation::Write, |node, healthy| {
            // A write that fails may have got half way.
            let bytes = if healthy { bytes } else { &bytes[..bytes.len() / 2] };
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(bytes.len());
            let node = Arc::make_mut(node);
            node.dirty(start, end);
            if node.data.len() < end {
                node.resize(end);
            }
            node.data[start..end].copy_from_slice(bytes);
        })
    }

    fn preallocate(&self, length: u64) -> Result<(), DiskError> {
        self.with(Operation::Preallocate, |node, healthy| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if healthy && node.data.len() < length {
                Arc::make_mut(node).resize(length);
            }
        })
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.with(Operation::Truncate, |node, healthy| {
            if healthy {
                Arc::make_mut(node).resize(usize::try_from(length).unwrap_or(usize::MAX));
            }
        })
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let ignored = self.disk.lock().ignored.contains(&Operation::SyncData);
        self.with(Operation::SyncData, |node, healthy| {
            let node = Arc::make_mut(node);
            if ignored {
                return;
            }
            if healthy {
                node.sync();
            } else {
                let unsynced = std::mem::take(&mut node.unsynced);
                node.lost.extend(unsynced);
            }
        })
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.with(Operation::Length, |node, _| node.data.len() as u64)
    }

    fn drop_cache(&self) -> Result<(), DiskError> {
        self.with(Operation::DropCache, |node, _| {
            let node = Arc::make_mut(node);
            let lost = std::mem::take(&mut node.lost);
            Node::put_back(&mut node.data, &lost);
        })
    }
}

/// A small seeded generator (SplitMix64), so that a crash can be repeated from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
