//! Checkpoints kept in sled: a directory `gen-<n>` each, declared whole by a file `gen-<n>.done`.
//!
//! It does not know what a state says, nor trust sled: what sled returns is checked against what
//! was written, and what sled calls flushed is synced again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::block::Builder;
use super::door;
use super::load::{self, Blocks};
use super::{Checkpoint, CheckpointError, CheckpointWriter, Load, Row, SetAside, Sink, Watermark};
use crate::disk::{self, Disk, DiskError, DiskErrorKind};
use crate::ids::{Sequence, StoreId, ViewId};

/// Finished generations kept.
const KEPT: usize = 2;
/// sled reads and writes a generation once, in order: a cache beyond the pages at hand is wasted.
const CACHE_BYTES: u64 = 32 << 20;
/// How often each block is touched, so that sled lets go of others; see [`touch`].
const TOUCHES: usize = 8;
/// A page of up to 17 blocks must stay under a quarter of this, else sled puts each page into a
/// file of its own. sled writes a segment with one call, which no lookup on the same core can
/// interrupt where the kernel does not preempt itself: 2 MiB held one up for 5 ms.
const SEGMENT_BYTES: usize = 512 << 10;

/// Keeps checkpoints under one directory. One generation is written at a time.
pub struct SledCheckpoint {
    place: Place,
    /// The greatest number used since the start. Never used again: a sled that was left hanging
    /// may still write to the directory it had.
    last: AtomicU64,
}

impl SledCheckpoint {
    /// Keeps checkpoints in `directory`, which is created at the first.
    ///
    /// `disk` must be the real one, for sled does not go through it.
    pub fn new(disk: Arc<dyn Disk>, directory: impl Into<PathBuf>) -> Self {
        let place = Place { disk, directory: directory.into() };
        Self { place, last: AtomicU64::new(0) }
    }

    /// Reads every generation and says of each that is not fit why, and where it is. Removes
    /// nothing; sled may tidy up its own files.
    pub fn check(&self, store: StoreId, history_end: Sequence) -> Vec<(PathBuf, String)> {
        let place = &self.place;
        let numbers = match place.numbers() {
            Ok(numbers) => numbers,
            Err(error) => return vec![(place.directory.clone(), error.to_string())],
        };
        let check = |number: u64| {
            let checked = place.load_one(number, store, history_end, &Nobody);
            checked.err().map(|reason| (place.path(number), reason))
        };
        numbers.into_iter().filter_map(check).collect()
    }
}

/// The directory, and what can be said of it without sled.
#[derive(Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl Place {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("gen-{number}"))
    }

    fn done_path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("gen-{number}.done"))
    }

    /// Numbers in use, finished or not, newest first.
    fn numbers(&self) -> Result<Vec<u64>, DiskError> {
        let entries = match self.disk.list(&self.directory) {
            Err(error) if error.kind() == DiskErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut numbers: Vec<u64> = entries
            .iter()
            .filter_map(|entry| {
                let rest = entry.name.strip_prefix("gen-")?;
                rest.split('.').next()?.parse().ok()
            })
            .collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.dedup();
        Ok(numbers)
    }

    fn watermark(&self, number: u64) -> Result<Watermark, String> {
        let bytes = disk::read_whole(&*self.disk, &self.done_path(number));
        let watermark = match bytes {
            Ok(bytes) => Watermark::decode(&bytes)?,
            Err(error) if error.kind() == DiskErrorKind::NotFound => {
                return Err("was never finished".into());
            }
            Err(error) => return Err(error.to_string()),
        };
        if watermark.generation != number {
            return Err(format!("watermark is that of generation {}", watermark.generation));
        }
        Ok(watermark)
    }

    /// First it is no longer whole, then it is gone.
    fn remove(&self, number: u64) -> Result<(), DiskError> {
        let done = self.done_path(number);
        disk::remove_if_there(&*self.disk, &disk::temporary_name(&done))?;
        disk::remove_if_there(&*self.disk, &done)?;
        self.disk.sync_dir(&self.directory)?;
        self.disk.remove_dir_all(&self.path(number))
    }

    fn finished(&self) -> Result<Vec<Watermark>, DiskError> {
        let numbers = self.numbers()?;
        Ok(numbers.into_iter().filter_map(|number| self.watermark(number).ok()).collect())
    }

    fn load_one(
        &self,
        number: u64,
        store: StoreId,
        history_end: Sequence,
        sink: &dyn Sink,
    ) -> Result<Watermark, String> {
        let watermark = self.watermark(number)?;
        if watermark.store != store {
            return Err(format!("belongs to store {}, not {store}", watermark.store));
        }
        if watermark.highest.max(watermark.covered) > history_end {
            return Err(format!(
                "reaches sequence {}, history ends at {history_end}",
                watermark.highest.max(watermark.covered)
            ));
        }
        self.read(&watermark, sink)?;
        Ok(watermark)
    }

    fn read(&self, watermark: &Watermark, sink: &dyn Sink) -> Result<(), String> {
        let path = self.path(watermark.generation);
        let patience = door::patience(&*self.disk, &path).map_err(|error| error.to_string())?;
        let open = move || {
            let tree = door::open(&path, CACHE_BYTES, SEGMENT_BYTES);
            tree.map(Tree).map_err(|error| error.to_string())
        };
        load::load(watermark, patience, open, sink)
    }
}

impl Checkpoint for SledCheckpoint {
    fn begin(
        &self,
        store: StoreId,
        covered: Sequence,
    ) -> Result<Box<dyn CheckpointWriter>, CheckpointError> {
        let place = self.place.clone();
        place.disk.create_dir_all(&place.directory)?;
        let numbers = place.numbers()?;
        for number in &numbers {
            if place.watermark(*number).is_err() {
                place.remove(*number)?;
            }
        }
        let newest = numbers.first().copied().unwrap_or(0);
        let generation = newest.max(self.last.load(Ordering::Relaxed)) + 1;
        self.last.store(generation, Ordering::Relaxed);
        let path = place.path(generation);
        place.disk.create_dir_all(&path)?;
        let tree = guarded(generation, || door::open(&path, CACHE_BYTES, SEGMENT_BYTES))?;
        Ok(Box::new(Writer {
            place,
            tree,
            block: Builder::new(),
            hash: blake3::Hasher::new(),
            views: BTreeMap::new(),
            watermark: Watermark {
                store,
                generation,
                covered,
                highest: covered,
                rows: 0,
                blocks: 0,
                views: Vec::new(),
                hash: [0; 32],
            },
        }))
    }

    fn load(&self, store: StoreId, history_end: Sequence, sink: &dyn Sink) -> Load {
        let mut load = Load { loaded: None, set_aside: Vec::new() };
        let numbers = match self.place.numbers() {
            Ok(numbers) => numbers,
            Err(error) => {
                load.set_aside.push(SetAside { generation: 0, reason: error.to_string() });
                return load;
            }
        };
        for generation in numbers {
            self.last.fetch_max(generation, Ordering::Relaxed);
            match self.place.load_one(generation, store, history_end, sink) {
                Ok(watermark) => {
                    load.loaded = Some(watermark);
                    break;
                }
                Err(mut reason) => {
                    sink.clear();
                    if let Err(error) = self.place.remove(generation) {
                        reason = format!("{reason}; {error}");
                    }
                    load.set_aside.push(SetAside { generation, reason });
                }
            }
        }
        load
    }

    fn generations(&self) -> Result<Vec<Watermark>, CheckpointError> {
        Ok(self.place.finished()?)
    }

    fn destroy(&self) -> Result<(), CheckpointError> {
        for number in self.place.numbers()? {
            self.last.fetch_max(number, Ordering::Relaxed);
            self.place.remove(number)?;
        }
        Ok(())
    }
}

fn guarded<T>(
    generation: u64,
    call: impl FnOnce() -> sled::Result<T>,
) -> Result<T, CheckpointError> {
    door::guarded(call).map_err(|reason| CheckpointError::Store { generation, reason })
}

/// sled keeps 256 lists of the pages it holds, and looks into one for pages to let go of after
/// every 64 uses of its own. Used once each, all pages of a generation would stay in memory beside
/// the map; with the 8 blocks or more that a page holds, each page makes sled look once.
fn touch(tree: &sled::Db, key: [u8; 8]) -> sled::Result<()> {
    (0..TOUCHES).try_for_each(|_| tree.contains_key(key).map(drop))
}

struct Tree(sled::Db);

impl Blocks for Tree {
    type Bytes = sled::IVec;

    fn read(
        &self,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, sled::IVec) -> bool,
    ) -> Result<(), String> {
        for number in from..to {
            let key = number.to_be_bytes();
            let block = self.0.get(key).map_err(|error| error.to_string())?;
            let block = block.ok_or_else(|| format!("block {number} is missing"))?;
            touch(&self.0, key).map_err(|error| error.to_string())?;
            if !each(number, block) {
                break;
            }
        }
        Ok(())
    }
}

struct Writer {
    place: Place,
    tree: sled::Db,
    block: Builder,
    hash: blake3::Hasher,
    views: BTreeMap<ViewId, u64>,
    /// What was written so far.
    watermark: Watermark,
}

impl Writer {
    fn write_block(&mut self) -> Result<(), CheckpointError> {
        let number = self.watermark.blocks;
        let block = self.block.finish(number);
        let (tree, key) = (&self.tree, number.to_be_bytes());
        guarded(self.watermark.generation, || {
            tree.insert(key, block.bytes)?;
            touch(tree, key)
        })?;
        self.hash.update(&block.crc.to_le_bytes());
        self.watermark.rows += u64::from(block.rows);
        self.watermark.blocks += 1;
        self.block.clear();
        Ok(())
    }
}

impl CheckpointWriter for Writer {
    fn add(&mut self, view: ViewId, key: &[u8], state: &[u8]) -> Result<(), CheckpointError> {
        self.block.add(view, key, state);
        *self.views.entry(view).or_default() += 1;
        if self.block.is_full() { self.write_block() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>, highest: Sequence) -> Result<Watermark, CheckpointError> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let Self { place, tree, hash, views, mut watermark, .. } = *self;
        let number = watermark.generation;
        watermark.highest = highest;
        watermark.hash = *hash.finalize().as_bytes();
        watermark.views = views.into_iter().collect();
        guarded(number, || {
            tree.flush()?;
            drop(tree);
            Ok(())
        })?;
        // Reading it back proves it, and leaves a snapshot with which sled opens far faster.
        place
            .read(&watermark, &Nobody)
            .map_err(|reason| CheckpointError::Store { generation: number, reason })?;
        door::sync_under(&*place.disk, &place.path(number))?;
        disk::replace(&*place.disk, &place.done_path(number), &watermark.encode())?;
        for old in place.finished()?.iter().skip(KEPT) {
            place.remove(old.generation)?;
        }
        Ok(watermark)
    }
}

struct Nobody;

impl Sink for Nobody {
    fn expect(&self, _view: ViewId, _rows: u64) {}

    fn rows(&self, _view: ViewId, _rows: &[Row<'_>]) -> Result<(), String> {
        Ok(())
    }

    fn clear(&self) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::disk::DiskFile;
    use crate::disk::real::RealDisk;

    const STORE: StoreId = StoreId([1; 16]);

    #[derive(Default)]
    struct Rows {
        rows: Mutex<BTreeMap<Key, Vec<u8>>>,
        expected: Mutex<Vec<(u32, u64)>>,
    }

    type Key = (u32, Vec<u8>);

    impl Sink for Rows {
        fn expect(&self, view: ViewId, rows: u64) {
            assert!(self.rows.lock().unwrap().is_empty(), "before the first row");
            self.expected.lock().unwrap().push((view.0, rows));
        }

        fn rows(&self, view: ViewId, some: &[Row<'_>]) -> Result<(), String> {
            let some = some.iter().map(|(key, state)| ((view.0, key.to_vec()), state.to_vec()));
            self.rows.lock().unwrap().extend(some);
            Ok(())
        }

        fn clear(&self) {
            self.rows.lock().unwrap().clear();
            self.expected.lock().unwrap().clear();
        }
    }

    struct Bed {
        root: tempfile::TempDir,
        checkpoint: SledCheckpoint,
    }

    impl Bed {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let checkpoint =
                SledCheckpoint::new(Arc::new(RealDisk), root.path().join("checkpoint"));
            Self { root, checkpoint }
        }

        fn place(&self) -> &Place {
            &self.checkpoint.place
        }

        /// Saves `rows` rows that say `sequence`.
        fn save(&self, sequence: u64, rows: u32) -> Watermark {
            let mut writer = self.checkpoint.begin(STORE, Sequence(sequence)).unwrap();
            for key in 0..rows {
                let state = sequence.to_le_bytes().repeat(20);
                writer.add(ViewId(key % 3), &key.to_be_bytes(), &state).unwrap();
            }
            writer.finish(Sequence(sequence)).unwrap()
        }

        /// What is loaded: its sequence and rows, each row saying that sequence.
        fn load(&self, store: StoreId, history_end: u64) -> (Option<(u64, usize)>, Vec<SetAside>) {
            let rows = Rows::default();
            let load = self.checkpoint.load(store, Sequence(history_end), &rows);
            let (rows, expected) =
                (rows.rows.into_inner().unwrap(), rows.expected.into_inner().unwrap());
            let Some(watermark) = load.loaded else {
                assert!(rows.is_empty(), "rows of a generation that was set aside");
                return (None, load.set_aside);
            };
            let mut views: BTreeMap<u32, u64> = BTreeMap::new();
            rows.keys().for_each(|(view, _)| *views.entry(*view).or_default() += 1);
            assert_eq!(expected, views.into_iter().collect::<Vec<_>>());
            for state in rows.values() {
                assert_eq!(*state, watermark.covered.0.to_le_bytes().repeat(20));
            }
            (Some((watermark.covered.0, rows.len())), load.set_aside)
        }

        fn files(&self) -> Vec<PathBuf> {
            fn under(path: &Path, files: &mut Vec<PathBuf>) {
                for entry in RealDisk.list(path).unwrap() {
                    let inner = path.join(entry.name);
                    if entry.directory { under(&inner, files) } else { files.push(inner) }
                }
            }
            let mut files = Vec::new();
            under(self.root.path(), &mut files);
            files
        }

        fn copy_from(&self, other: &Self) {
            for path in other.files() {
                let to = self.root.path().join(path.strip_prefix(other.root.path()).unwrap());
                RealDisk.create_dir_all(disk::parent(&to)).unwrap();
                let bytes = disk::read_whole(&RealDisk, &path).unwrap();
                RealDisk.create(&to).unwrap().write_at(&bytes, 0).unwrap();
            }
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_two_generations_are_kept() {
        let bed = Bed::new();
        assert_eq!(bed.load(STORE, 9), (None, vec![]));
        assert_eq!(bed.save(1, 0).blocks, 0);
        assert_eq!(bed.load(STORE, 9), (Some((1, 0)), vec![]), "an empty map is a checkpoint too");
        for sequence in 2..5 {
            let watermark = bed.save(sequence, 5_000);
            assert_eq!((watermark.generation, watermark.rows), (sequence, 5_000));
        }
        assert_eq!(bed.load(STORE, 9), (Some((4, 5_000)), vec![]));
        let kept = bed.checkpoint.generations().unwrap();
        assert_eq!(kept.iter().map(|kept| kept.generation).collect::<Vec<_>>(), [4, 3]);
        assert_eq!(bed.place().numbers().unwrap(), [4, 3], "older ones are gone from the disk");
        bed.checkpoint.destroy().unwrap();
        assert_eq!(bed.files(), Vec::<PathBuf>::new());
        assert_eq!(bed.save(7, 1).generation, 5, "no number is used twice");
    }

    #[test]
    fn a_row_larger_than_sled_keeps_in_a_page_comes_back() {
        let bed = Bed::new();
        let mut writer = bed.checkpoint.begin(STORE, Sequence(1)).unwrap();
        for view in 0..5 {
            writer.add(ViewId(view), b"key", &vec![7; 3 << 20]).unwrap();
        }
        writer.finish(Sequence(1)).unwrap();
        let rows = Rows::default();
        assert!(bed.checkpoint.load(STORE, Sequence(1), &rows).loaded.is_some());
        assert!(rows.rows.into_inner().unwrap().values().all(|state| *state == vec![7; 3 << 20]));
    }

    #[test]
    fn a_generation_ahead_of_history_or_of_another_store_is_set_aside() {
        let bed = Bed::new();
        bed.save(5, 100);
        bed.save(8, 100);
        let (loaded, aside) = bed.load(STORE, 7);
        assert_eq!(loaded, Some((5, 100)));
        assert_eq!(aside[0].reason, "reaches sequence 8, history ends at 7");
        assert_eq!(bed.load(STORE, 9), (Some((5, 100)), vec![]), "it is gone, not passed over");

        let (loaded, aside) = bed.load(StoreId([2; 16]), 9);
        assert_eq!(loaded, None);
        assert!(aside[0].reason.starts_with("belongs to store 0101"), "{}", aside[0].reason);
    }

    #[test]
    fn a_half_written_generation_yields_to_the_one_before() {
        let bed = Bed::new();
        bed.save(1, 100);
        let mut writer = bed.checkpoint.begin(STORE, Sequence(2)).unwrap();
        for key in 0..1_000_u32 {
            writer.add(ViewId(1), &key.to_be_bytes(), &[0; 100]).unwrap();
        }
        drop(writer);
        let (loaded, aside) = bed.load(STORE, 9);
        assert_eq!(loaded, Some((1, 100)));
        assert_eq!(aside[0].reason, "was never finished");

        drop(bed.checkpoint.begin(STORE, Sequence(2)).unwrap());
        assert_eq!(bed.save(3, 50).generation, 4);
        assert_eq!(bed.place().numbers().unwrap(), [4, 1], "the next one removes what is left");
        assert_eq!(bed.load(STORE, 9), (Some((3, 50)), vec![]));
    }

    /// Every file of the newest generation in turn is removed, cut, lengthened or flipped. Either
    /// its rows come back as they were or the one before stands in for it.
    #[test]
    fn damage_to_any_file_is_survived() {
        let original = Bed::new();
        original.save(1, 300);
        original.save(2, 300);
        let files: Vec<PathBuf> = original
            .files()
            .iter()
            .map(|path| path.strip_prefix(original.root.path()).unwrap().to_owned())
            .filter(|path| path.to_string_lossy().contains("gen-2"))
            .collect();
        assert!(files.len() >= 3, "{files:?}");
        type Damage = fn(&Path, &dyn DiskFile, u64);
        let damages: [(&str, Damage); 6] = [
            ("removed", |path, _, _| RealDisk.remove(path).unwrap()),
            ("emptied", |_, file, _| file.truncate(0).unwrap()),
            ("cut", |_, file, length| file.truncate(length / 2).unwrap()),
            ("lengthened", |_, file, length| file.write_at(&[0x5a; 100], length).unwrap()),
            ("flipped", |_, file, length| flip(file, length / 3)),
            ("zeroed", |_, file, length| {
                let zeros = vec![0; usize::try_from(length / 2).unwrap()];
                file.write_at(&zeros, length / 4).unwrap();
            }),
        ];
        for path in &files {
            for (what, damage) in damages {
                let bed = Bed::new();
                bed.copy_from(&original);
                let path = bed.root.path().join(path);
                let file = RealDisk.open_write(&path).unwrap();
                damage(&path, file.as_ref(), file.length().unwrap());
                let (loaded, aside) = bed.load(STORE, 9);
                let expected = if aside.is_empty() { 2 } else { 1 };
                assert_eq!(loaded, Some((expected, 300)), "{} {what}: {aside:?}", path.display());
            }
        }
    }

    fn flip(file: &dyn DiskFile, at: u64) {
        let mut byte = [0];
        if file.read_at(&mut byte, at).unwrap() == 1 {
            file.write_at(&[byte[0] ^ 0x10], at).unwrap();
        }
    }

    /// Random single flips in sled's own file: it may hang, panic or lie, the load does not.
    #[test]
    fn flips_in_the_file_of_sled_never_reach_the_rows() {
        let original = Bed::new();
        original.save(1, 300);
        original.save(2, 300);
        let mut place: u64 = 0x9e37_79b9_7f4a_7c15;
        for round in 0..20 {
            let bed = Bed::new();
            bed.copy_from(&original);
            let file = RealDisk.open_write(&bed.place().path(2).join("db")).unwrap();
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (place >> 16) % file.length().unwrap();
            flip(file.as_ref(), at);
            let (loaded, aside) = bed.load(STORE, 9);
            let expected = if aside.is_empty() { 2 } else { 1 };
            assert_eq!(loaded, Some((expected, 300)), "round {round}, byte {at}: {aside:?}");
        }
    }
}
