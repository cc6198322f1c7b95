//! The cold store of the disk tier in sled: `cold-<n>/`, and a file `mark` that says what it holds.
//!
//! It does not know views or states; keys and values are bytes. Its methods are those the online
//! tier asks of a cold store, which `engine` wires together.
//!
//! # What a crash leaves
//!
//! A batch carries its number under the empty key, in the same atomic write. Before a batch is
//! written the mark says how new its rows are; after it is durable the mark says its number. On
//! opening, a tree whose number is below the mark's has lost what was durable, and a mark ahead of
//! history belongs to another past: both are destroyed, and rebuilt from history.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{door, load};
use crate::disk::{self, Disk, DiskError, DiskErrorKind};
use crate::ids::{Sequence, StoreId};

/// sled's own cache; what is hot is cached above.
const CACHE_BYTES: u64 = 64 << 20;
/// sled's default, fit for values of a few hundred bytes.
const SEGMENT_BYTES: usize = 512 << 10;
/// Under which every batch leaves its number; no row has an empty key.
const BATCH_KEY: &[u8] = b"";
/// Rows removed in one write when a view is dropped.
const REMOVED_AT_ONCE: usize = 1000;

/// A key, and its value or none to remove it.
pub type TierRow = (Arc<[u8]>, Option<Vec<u8>>);

/// Rows of the disk tier.
pub struct SledTier {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// None where the last attempt to begin anew failed.
    tree: RwLock<Option<sled::Db>>,
    mark: Mutex<Mark>,
}

/// What [`SledTier::open`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierOpened {
    /// Every row up to here is there; replay starts after it.
    pub moved: Sequence,
    /// Why what was there had to go, if it had to; `moved` is zero then.
    pub reset: Option<String>,
}

/// A tier that is to be destroyed and rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The disk refused.
    #[error("{0}")]
    Disk(#[from] DiskError),
    /// sled refused, or panicked.
    #[error("{0}")]
    Store(String),
}

impl SledTier {
    /// Opens the tier in `directory`, under a watchdog. What is odd, of another store or ahead of
    /// `history_end` is destroyed, and the tier begins empty.
    ///
    /// `disk` must be the real one, for sled does not go through it.
    ///
    /// # Errors
    /// Not even an empty tier can be made.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: impl Into<PathBuf>,
        store: StoreId,
        history_end: Sequence,
    ) -> Result<(Self, TierOpened), TierError> {
        let directory = directory.into();
        disk.create_dir_all(&directory)?;
        let found = find(&*disk, &directory, store, history_end);
        let (tree, mark, reset) = match found {
            Ok(Some((tree, mark))) => (Some(tree), mark, None),
            Ok(None) => (None, Mark::empty(store), None),
            Err(reason) => (None, Mark::empty(store), Some(reason)),
        };
        let opened = TierOpened { moved: mark.moved, reset };
        let fresh = tree.is_none();
        let tier = Self { disk, directory, tree: RwLock::new(tree), mark: Mutex::new(mark) };
        if fresh {
            tier.destroy()?;
        }
        Ok((tier, opened))
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// sled's.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TierError> {
        let tree = self.tree()?;
        let value = door::guarded(|| tree.get(key)).map_err(TierError::Store)?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Puts values, or removes keys that have none: all, or after a crash none. Nothing in the
    /// tier is newer than `highest`, which must be durable in history.
    ///
    /// # Errors
    /// The disk's or sled's.
    pub fn put_batch(&self, rows: &[TierRow], highest: Sequence) -> Result<(), TierError> {
        let tree = self.tree()?;
        let mut mark = self.mark();
        if highest > mark.highest {
            mark.highest = highest;
            // The mark must not claim a batch that is not durable yet.
            self.write_mark(&Mark { batch: mark.flushed, ..*mark })?;
        }
        mark.batch += 1;
        let mut batch = sled::Batch::default();
        batch.insert(BATCH_KEY, &mark.batch.to_le_bytes());
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        door::guarded(|| tree.apply_batch(batch)).map_err(TierError::Store)
    }

    /// Makes every batch durable, and then the mark that every row up to `moved` is there.
    ///
    /// # Errors
    /// The disk's or sled's.
    pub fn flush(&self, moved: Sequence) -> Result<(), TierError> {
        let tree = self.tree()?;
        let mut mark = self.mark();
        if mark.batch > mark.flushed {
            door::guarded(|| tree.flush()).map_err(TierError::Store)?;
            door::sync_under(&*self.disk, &self.path(mark.number))?;
            mark.flushed = mark.batch;
        }
        mark.moved = moved;
        self.write_mark(&mark)
    }

    /// Removes some keys that begin with `prefix`, which is not empty; returns whether more are
    /// left.
    ///
    /// # Errors
    /// sled's.
    pub fn remove_some(&self, prefix: &[u8]) -> Result<bool, TierError> {
        let tree = self.tree()?;
        let remove_some = || {
            let mut batch = sled::Batch::default();
            let mut removed = 0;
            for key in tree.scan_prefix(prefix).keys().take(REMOVED_AT_ONCE) {
                batch.remove(key?);
                removed += 1;
            }
            tree.apply_batch(batch)?;
            Ok(removed)
        };
        let removed = door::guarded(remove_some).map_err(TierError::Store)?;
        Ok(removed == REMOVED_AT_ONCE)
    }

    /// The first key at or after `from`, which is not empty.
    ///
    /// # Errors
    /// sled's.
    pub fn first_key(&self, from: &[u8]) -> Result<Option<Vec<u8>>, TierError> {
        let tree = self.tree()?;
        let first = || tree.range(from..).keys().next().transpose();
        let first = door::guarded(first).map_err(TierError::Store)?;
        Ok(first.map(|key| key.to_vec()))
    }

    /// Removes everything and begins anew.
    ///
    /// # Errors
    /// The disk's or sled's; until it succeeds every other call fails.
    pub fn destroy(&self) -> Result<(), TierError> {
        let mut mark = self.mark();
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        // Closing may panic too.
        let old = tree.take();
        let _ = door::guarded(move || {
            drop(old);
            Ok(())
        });
        disk::remove_if_there(&*self.disk, &self.directory.join("mark"))?;
        self.disk.sync_dir(&self.directory)?;
        let mut number = mark.number;
        for entry in self.disk.list(&self.directory)? {
            if let Some(old) = number_of(&entry.name) {
                number = number.max(old);
                self.disk.remove_dir_all(&self.directory.join(&entry.name))?;
            }
        }
        // A new number, for a sled left hanging may still write to the directory it had.
        *mark = Mark { number: number + 1, ..Mark::empty(mark.store) };
        let path = self.path(mark.number);
        self.disk.create_dir_all(&path)?;
        let opened = door::guarded(|| door::open(&path, CACHE_BYTES, SEGMENT_BYTES));
        *tree = Some(opened.map_err(TierError::Store)?);
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        let size = self
            .tree()
            .and_then(|tree| door::guarded(|| tree.size_on_disk()).map_err(TierError::Store));
        size.unwrap_or(0)
    }

    fn tree(&self) -> Result<sled::Db, TierError> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        tree.clone().ok_or_else(|| TierError::Store("the tier could not be begun anew".into()))
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, number: u64) -> PathBuf {
        cold_path(&self.directory, number)
    }

    fn write_mark(&self, mark: &Mark) -> Result<(), TierError> {
        Ok(disk::replace(&*self.disk, &self.directory.join("mark"), &mark.encode())?)
    }
}

fn cold_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("cold-{number}"))
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("cold-")?.parse().ok()
}

/// Whether what is in `directory` can be used as it stands; nothing there can. Reads the mark and
/// opens the tree, under a watchdog; removes nothing, though sled may tidy up its own files.
///
/// # Errors
/// Why it cannot.
pub fn check(
    disk: &dyn Disk,
    directory: &Path,
    store: StoreId,
    history_end: Sequence,
) -> Result<(), String> {
    find(disk, directory, store, history_end).map(drop)
}

/// The tree the mark names; none where there is no mark, hence nothing to rely on.
fn find(
    disk: &dyn Disk,
    directory: &Path,
    store: StoreId,
    history_end: Sequence,
) -> Result<Option<(sled::Db, Mark)>, String> {
    let bytes = match disk::read_whole(disk, &directory.join("mark")) {
        Err(error) if error.kind() == DiskErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| error.to_string())?,
    };
    let mut mark = Mark::decode(&bytes)?;
    if mark.store != store {
        return Err(format!("belongs to store {}, not {store}", mark.store));
    }
    let reaches = mark.highest.max(mark.moved);
    if reaches > history_end {
        return Err(format!("reaches sequence {reaches}, history ends at {history_end}"));
    }
    let path = cold_path(directory, mark.number);
    let patience = door::patience(disk, &path).map_err(|error| error.to_string())?;
    let (tree, batch) = load::within(patience, move || {
        let open = || {
            let tree = door::open(&path, CACHE_BYTES, SEGMENT_BYTES)?;
            let batch = tree.get(BATCH_KEY)?;
            Ok((tree, batch))
        };
        open().map_err(|error: sled::Error| error.to_string())
    })?;
    let batch = match batch {
        None => 0,
        Some(batch) => <[u8; 8]>::try_from(&batch[..]).map_or(0, u64::from_le_bytes),
    };
    if batch < mark.batch {
        return Err(format!("holds batch {batch}, but {} was made durable", mark.batch));
    }
    mark.batch = batch;
    Ok(Some((tree, mark)))
}

pub(super) const MAGIC: [u8; 8] = *b"LARDTIER";
const FORMAT: u32 = 1;
const BYTES: usize = 8 + 4 + 16 + 4 * 8 + 4;

/// The file `mark`. Little-endian: magic, format (u32), store id (16 bytes), number of the
/// directory, moved, highest, batch (u64 each), CRC-32C over all before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) store: StoreId,
    pub(super) number: u64,
    pub(super) moved: Sequence,
    pub(super) highest: Sequence,
    /// The last batch written.
    pub(super) batch: u64,
    /// The last batch known durable; in the file it is the only one.
    flushed: u64,
}

impl Mark {
    fn empty(store: StoreId) -> Self {
        let [moved, highest] = [Sequence::ZERO; 2];
        Self { store, number: 0, moved, highest, batch: 0, flushed: 0 }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        for number in [self.number, self.moved.0, self.highest.0, self.flushed] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>().filter(|_| bytes.len() == BYTES)
        else {
            return Err(format!("mark has {} bytes, not {BYTES}", bytes.len()));
        };
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err("mark fails its checksum".into());
        }
        let (head, numbers) = body.split_at(8 + 4 + 16);
        if head[..8] != MAGIC || head[8..12] != FORMAT.to_le_bytes() {
            return Err("mark has a format of another release".into());
        }
        let store = StoreId(std::array::from_fn(|index| head[12 + index]));
        let mut numbers = numbers
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks of eight")));
        let [number, moved, highest, flushed] =
            std::array::from_fn(|_| numbers.next().expect("length was checked"));
        let [moved, highest] = [moved, highest].map(Sequence);
        Ok(Self { store, number, moved, highest, batch: flushed, flushed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::real::RealDisk;

    const STORE: StoreId = StoreId([1; 16]);

    fn open(root: &Path, history_end: u64) -> (SledTier, TierOpened) {
        let directory = root.join("tier");
        SledTier::open(Arc::new(RealDisk), directory, STORE, Sequence(history_end)).unwrap()
    }

    fn row(key: &str, value: Option<&str>) -> TierRow {
        (key.as_bytes().into(), value.map(|value| value.as_bytes().to_vec()))
    }

    fn filled(root: &Path) {
        let (tier, opened) = open(root, 0);
        assert_eq!(opened, TierOpened { moved: Sequence::ZERO, reset: None });
        tier.put_batch(&[row("1a", Some("x")), row("2b", Some("y"))], Sequence(5)).unwrap();
        tier.flush(Sequence(4)).unwrap();
        tier.put_batch(&[row("1a", None), row("1c", Some("z"))], Sequence(7)).unwrap();
        tier.flush(Sequence(7)).unwrap();
    }

    fn get(tier: &SledTier, key: &str) -> Option<String> {
        tier.get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn what_was_flushed_is_there_again() {
        let root = tempfile::tempdir().unwrap();
        filled(root.path());
        let (tier, opened) = open(root.path(), 7);
        assert_eq!(opened, TierOpened { moved: Sequence(7), reset: None });
        assert_eq!(get(&tier, "1a"), None);
        assert_eq!(get(&tier, "1c").unwrap(), "z");
        assert_eq!(tier.first_key(b"1").unwrap().as_deref(), Some(&b"1c"[..]));
        assert!(!tier.remove_some(b"1").unwrap());
        assert_eq!(tier.first_key(b"1").unwrap().as_deref(), Some(&b"2b"[..]));
        assert_eq!(tier.first_key(b"3").unwrap(), None);
        assert_eq!((get(&tier, "1c"), get(&tier, "2b").unwrap().as_str()), (None, "y"));
        assert!(tier.bytes() > 0);
        tier.destroy().unwrap();
        assert_eq!(get(&tier, "2b"), None);
        tier.put_batch(&[row("9", Some("new"))], Sequence(8)).unwrap();
        tier.flush(Sequence(8)).unwrap();
        drop(tier);
        assert_eq!(get(&open(root.path(), 8).0, "9").unwrap(), "new");
    }

    #[test]
    fn a_dropped_view_of_many_rows_goes_whole() {
        let root = tempfile::tempdir().unwrap();
        let (tier, _) = open(root.path(), 0);
        let rows: Vec<_> = (0..2500).map(|n| row(&format!("1{n}"), Some("x"))).collect();
        tier.put_batch(&rows, Sequence(1)).unwrap();
        assert!(tier.remove_some(b"1").unwrap(), "not all at once");
        while tier.remove_some(b"1").unwrap() {}
        assert!(rows.iter().all(|(key, _)| tier.get(key).unwrap().is_none()));
    }

    /// Damages what `filled` left; the tier must begin empty and say why.
    fn check(damage: impl FnOnce(&Path), store: StoreId, history_end: u64, reason: &str) {
        let root = tempfile::tempdir().unwrap();
        filled(root.path());
        let directory = root.path().join("tier");
        damage(&directory);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (tier, opened) = SledTier::open(disk, directory, store, Sequence(history_end)).unwrap();
        assert_eq!(opened.moved, Sequence::ZERO);
        let said = opened.reset.unwrap_or_default();
        assert!(said.contains(reason), "{said}, not {reason}");
        assert_eq!(get(&tier, "2b"), None);
        tier.put_batch(&[row("2b", Some("again"))], Sequence(1)).unwrap();
        assert_eq!(get(&tier, "2b").unwrap(), "again");
    }

    #[test]
    fn whatever_is_odd_begins_empty() {
        let nothing = |_: &Path| {};
        check(nothing, StoreId([2; 16]), 7, "belongs to store 0101");
        check(nothing, STORE, 6, "reaches sequence 7, history ends at 6");
        let no_mark = |path: &Path| RealDisk.remove(&path.join("mark")).unwrap();
        check(no_mark, STORE, 7, "");
        let flipped_mark = |path: &Path| {
            let file = RealDisk.open_write(&path.join("mark")).unwrap();
            file.write_at(&[0xff], 30).unwrap();
        };
        check(flipped_mark, STORE, 7, "mark fails its checksum");
        let no_tree = |path: &Path| RealDisk.remove_dir_all(&path.join("cold-1")).unwrap();
        check(no_tree, STORE, 7, "cannot list");
        let empty_tree = |path: &Path| {
            RealDisk.remove_dir_all(&path.join("cold-1")).unwrap();
            RealDisk.create_dir_all(&path.join("cold-1")).unwrap();
        };
        check(empty_tree, STORE, 7, "holds batch 0, but 2 was made durable");
    }
}
