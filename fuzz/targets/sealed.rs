//! Sealed files: one block is any bytes, its checksum right. Reading may refuse it; it must not
//! panic or run on for ever.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use larder::disk::{Disk, read_whole};
use larder::history::sealed::{self, Blocks, Cursor, Scan, SealedFile};
use larder::ids::{Sequence, Slot, ViewId};
use larder::time::EventTime;
use larder_fuzz::{ROOT, Store, seed, store};

struct Base {
    store: Store,
    path: PathBuf,
    bytes: Vec<u8>,
    /// Offset and length of each block.
    blocks: Vec<(usize, usize)>,
}

const TAIL_BYTES: usize = 32;

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let store = store();
        let path = sealed::path(&Path::new(ROOT).join("history"), store.entry.number);
        let bytes = read_whole(&store.disk, &path).expect("the sealed file");
        let lines = sealed::describe(&bytes).expect("a good file");
        let offset = |line: &String| line.strip_prefix("byte ")?.split(':').next()?.parse().ok();
        let mut starts: Vec<usize> = lines.iter().filter_map(offset).collect();
        starts.push(bytes.len() - TAIL_BYTES);
        starts.sort_unstable();
        let blocks = starts.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect();
        Base { store, path, bytes, blocks }
    })
}

fn seeds() {
    let base = base();
    for (index, &(at, length)) in base.blocks.iter().enumerate() {
        let block = &base.bytes[at + 4..at + length];
        seed(&format!("block{index}"), &[&[index as u8], block].concat());
    }
}

/// As the sealed file computes it: the store, the file and the place count too.
fn checksum(base: &Base, offset: usize, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&base.store.id.0);
    let crc = crc32c::crc32c_append(crc, &base.store.entry.number.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &(offset as u64).to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

fn read(file: &Arc<SealedFile>) {
    let views: Vec<ViewId> = file.sections().map(|facts| facts.view).collect();
    for view in views {
        let mut scan = Scan::start(file, view).ok().flatten();
        let mut rows = 0;
        while let Some(scan) = &mut scan
            && scan.current().is_some()
            && scan.advance().is_ok()
        {
            rows += 1;
            assert!(rows < 1 << 22, "a scan without an end");
        }
    }
    for key in 0..7 {
        let below = (EventTime::from_micros(40), Sequence::MAX);
        let cursor = Cursor::seek(file, ViewId(1), &[key], below);
        let Ok(Some(mut cursor)) = cursor else { continue };
        let mut steps = 0;
        let missing = [Slot(0)];
        while let Ok(true) = cursor.back(&[key], (key % 2 == 0).then_some(&missing)) {
            let _ = cursor.current(&[key]).archive.len();
            steps += 1;
            assert!(steps < 1 << 22, "a walk without an end");
        }
    }
}

libfuzzer_sys::fuzz_target!(init: seeds(), |data: &[u8]| {
    let base = base();
    let Some((&index, wanted)) = data.split_first() else { return };
    let (at, length) = base.blocks[usize::from(index) % base.blocks.len()];
    let mut bytes = base.bytes.clone();
    let block = &mut bytes[at..at + length];
    let changed = wanted.len().min(length - 4);
    block[4..4 + changed].copy_from_slice(&wanted[..changed]);
    let crc = checksum(base, at, &block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    let _ = sealed::describe(&bytes);
    let disk = base.store.disk.crash();
    disk.damage(&base.path, |file| *file = bytes);
    let file = disk.open_read(&base.path).expect("the sealed file");
    let cache = Arc::new(Blocks::new(1 << 20));
    let opened = SealedFile::open(file, base.store.id, base.store.entry, cache);
    if let Ok(file) = opened {
        read(&Arc::new(file));
    }
});
