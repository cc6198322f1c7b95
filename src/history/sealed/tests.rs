//! Sealed files against a map of the same rows, and against damage.
//!
//! They do not look at the blocks: they ask as readers ask.

mod order;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::archive::Encoder;
use crate::disk::fake::FakeDisk;
use crate::disk::{Disk, DiskFile};
use crate::history::ReadError;
use crate::history::pace::Pace;
use crate::history::tests::{Random, Unhurried};
use crate::ids::{Sequence, Slot, StoreId, ViewId};
use crate::time::{ArrivalTime, EventTime};
use crate::value::cell::{CellRef, ValueRef};
use crate::value::layout::Layout;
use crate::value::types::{FeatureType, ScalarType};

const STORE: StoreId = StoreId(*b"0123456789abcdef");
const PATH: &str = "/data/00000000000000000003.sealed";

type Order = (EventTime, Sequence);
/// Of each view, each key, each (event time, sequence): the arrival, the features the row has, and
/// its archive.
type Model = BTreeMap<ViewId, BTreeMap<Vec<u8>, BTreeMap<Order, Stored>>>;

#[derive(Clone)]
struct Stored {
    arrival: ArrivalTime,
    has: Vec<bool>,
    archive: Vec<u8>,
}

fn layout(slots: usize) -> Layout {
    Layout::new((0..slots).map(|_| FeatureType::Scalar(ScalarType::Int64)))
}

fn stored(has: Vec<bool>, value: i64, arrival: i64) -> Stored {
    let layout = layout(has.len());
    let (mut encoder, mut archive) = (Encoder::default(), Vec::new());
    encoder.start(&layout);
    for (slot, has) in has.iter().enumerate() {
        let cell = match (has, value % 3) {
            (false, _) => CellRef::Absent,
            (true, 0) => CellRef::Null,
            (true, _) => CellRef::Value(ValueRef::Int64(value)),
        };
        encoder.set(&layout, Slot(slot as u16), cell);
    }
    encoder.finish_row(&mut archive);
    Stored { arrival: ArrivalTime::from_micros(arrival), has, archive }
}

fn random_model(random: &mut Random) -> Model {
    let mut model = Model::new();
    let rows = [0, 1, 50, 2000, 12_000][random.below(5) as usize];
    let keys = [1, 5, 3000][random.below(3) as usize];
    let gaps = random.below(3);
    for sequence in 1..=rows {
        let view = ViewId(1 + random.below(3) as u32);
        // A view of many features, whose rows are nearly empty, one of few, and one that grew.
        let slots = match view.0 {
            1 => 3,
            2 => 20,
            _ => 1 + random.below(9) as usize,
        };
        let has = (0..slots).map(|_| gaps == 0 || random.below(1 + 4 * gaps) == 0).collect();
        let number = random.below(keys);
        let key = format!("{}{number}", "k".repeat(number as usize % 7)).into_bytes();
        let time = EventTime::from_micros(random.below(rows / 2 + 1) as i64 - 100);
        let row = stored(has, sequence as i64, sequence as i64 / 5);
        model
            .entry(view)
            .or_default()
            .entry(key)
            .or_default()
            .insert((time, Sequence(sequence)), row);
    }
    model
}

fn write(disk: &FakeDisk, model: &Model) -> SealedEntry {
    let (first, last) = (Sequence(1), Sequence(100_000));
    disk.create_dir_all(Path::new("/data")).unwrap();
    let file = disk.create(Path::new(PATH)).unwrap();
    let head = Head { store: STORE, number: 3, first, last };
    let mut pace = Unhurried;
    let mut builder = Builder::new(file, head, &mut pace);
    for (view, keys) in model {
        let slots = keys.values().flat_map(|rows| rows.values().map(|row| row.has.len()));
        builder.start(*view, slots.max().unwrap(), None).unwrap();
        for (key, rows) in keys {
            for (&(event_time, sequence), Stored { arrival, archive, .. }) in rows {
                let arrival = *arrival;
                builder.row(&RowIn { key, event_time, sequence, arrival, archive }).unwrap();
            }
        }
    }
    let bytes = builder.finish().unwrap();
    SealedEntry { number: 3, first, last, bytes, lift: Lift::default() }
}

fn open(disk: &FakeDisk, entry: SealedEntry) -> Result<Arc<SealedFile>, OpenSealedError> {
    let file: Arc<dyn DiskFile> = disk.open_read(Path::new(PATH))?;
    Ok(Arc::new(SealedFile::open(file, STORE, entry, Arc::new(Blocks::new(256 << 10)))?))
}

/// What a walk back in time sees: every row, or those that have one of the features missing yet.
fn walk(
    file: &Arc<SealedFile>,
    view: ViewId,
    key: &[u8],
    below: Order,
    wanted: Option<&[Slot]>,
) -> Result<Vec<(Order, ArrivalTime, Vec<u8>)>, ReadError> {
    let mut seen = Vec::new();
    let mut missing = wanted.map(<[Slot]>::to_vec);
    let Some(mut cursor) = Cursor::seek(file, view, key, below)? else { return Ok(seen) };
    loop {
        let row = cursor.current(key);
        let cells = crate::archive::RowRef::access(row.archive).unwrap();
        if let Some(missing) = &mut missing {
            missing.retain(|slot| !cells.has(usize::from(slot.0)));
        }
        seen.push(((row.event_time, row.sequence), row.arrival, row.archive.to_vec()));
        let done = missing.as_ref().is_some_and(Vec::is_empty);
        if done || !cursor.back(key, missing.as_deref())? {
            return Ok(seen);
        }
    }
}

/// The same by looking at every row; the first row is always seen.
fn naive(
    model: &Model,
    view: ViewId,
    key: &[u8],
    below: Order,
    wanted: Option<&[Slot]>,
) -> Vec<(Order, ArrivalTime, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut missing = wanted.map(<[Slot]>::to_vec);
    let rows = model.get(&view).and_then(|keys| keys.get(key));
    for (order, row) in rows.into_iter().flat_map(|rows| rows.range(..below)).rev() {
        let has = |slot: &Slot| row.has.get(usize::from(slot.0)).copied().unwrap_or(false);
        let useful = missing.as_ref().is_none_or(|missing| missing.iter().any(has));
        if !seen.is_empty() && !useful {
            continue;
        }
        if let Some(missing) = &mut missing {
            missing.retain(|slot| !has(slot));
        }
        seen.push((*order, row.arrival, row.archive.clone()));
        if missing.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
    }
    seen
}

type Probe = (ViewId, Vec<u8>, Order, Option<Vec<Slot>>);

fn random_probe(random: &mut Random) -> Probe {
    let number = random.below(3200);
    let number = if random.below(3) == 0 { number % 6 } else { number };
    let key = format!("{}{number}", "k".repeat(number as usize % 7)).into_bytes();
    let time = EventTime::from_micros(random.below(7000) as i64 - 150);
    let sequence = if random.below(4) == 0 { Sequence(random.below(9000)) } else { Sequence::MAX };
    let wanted = (random.below(4) > 0)
        .then(|| (0..random.below(3) + 1).map(|_| Slot(random.below(22) as u16)).collect());
    (ViewId(random.below(5) as u32), key, (time, sequence), wanted)
}

#[test]
fn probes_equal_a_map() {
    for seed in 0..40 {
        let mut random = Random::seeded(seed);
        let (disk, model) = (FakeDisk::new(), random_model(&mut random));
        let entry = write(&disk, &model);
        let file = open(&disk, entry).unwrap();
        for _ in 0..300 {
            let (view, key, below, wanted) = random_probe(&mut random);
            let found = walk(&file, view, &key, below, wanted.as_deref()).unwrap();
            let expected = naive(&model, view, &key, below, wanted.as_deref());
            assert_eq!(found, expected, "seed {seed} {view} {key:?} {below:?} {wanted:?}");
        }
        for facts in file.sections() {
            let keys = &model[&facts.view];
            let rows = || keys.values().flatten();
            assert_eq!(facts.rows, rows().count() as u64);
            assert_eq!(facts.keys, keys.len() as u64);
            assert_eq!(Some(facts.newest), rows().map(|row| row.0.0).max());
            assert_eq!(Some(facts.oldest), rows().map(|row| row.0.0).min());
            assert_eq!(Some(facts.last), rows().map(|row| row.0.1).max());
            assert_eq!(Some(facts.first_arrival), rows().map(|row| row.1.arrival).min());
        }
    }
}

#[test]
fn a_scan_sees_every_row_in_order() {
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let (disk, model) = (FakeDisk::new(), random_model(&mut random));
        let file = open(&disk, write(&disk, &model)).unwrap();
        for view in (0..5).map(ViewId) {
            let expected: Vec<(Vec<u8>, Order)> = model.get(&view).map_or(Vec::new(), |keys| {
                let each =
                    keys.iter().flat_map(|(key, rows)| rows.keys().map(|o| (key.clone(), *o)));
                each.collect()
            });
            let (mut found, mut keys) = (Vec::new(), Vec::new());
            if let Some(mut scan) = Scan::start(&file, view).unwrap() {
                while let Some(row) = scan.current() {
                    found.push((row.key.to_vec(), (row.event_time, row.sequence)));
                    scan.advance().unwrap();
                }
                assert!(scan.take_bytes() > 0);
                let mut scan = Scan::start(&file, view).unwrap().unwrap();
                while let Some(row) = scan.current() {
                    keys.push(row.key.to_vec());
                    scan.next_key().unwrap();
                }
            }
            assert_eq!(found, expected, "seed {seed}");
            keys.dedup();
            let expected: Vec<Vec<u8>> =
                model.get(&view).map_or(Vec::new(), |keys| keys.keys().cloned().collect());
            assert_eq!(keys, expected, "seed {seed}");
        }
    }
}

fn some_rows() -> Model {
    let mut random = Random::seeded(7);
    loop {
        let model = random_model(&mut random);
        let rows: usize = model.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        if rows == 2000 {
            return model;
        }
    }
}

/// Probes a file; every answer must be the right one or an error. Says whether there was an error.
fn probe_damaged(disk: &FakeDisk, entry: SealedEntry, model: &Model, probes: &[Probe]) -> bool {
    let Ok(file) = open(disk, entry) else { return true };
    let mut noticed = false;
    for (view, key, below, wanted) in probes {
        match walk(&file, *view, key, *below, wanted.as_deref()) {
            Ok(found) => {
                assert_eq!(found, naive(model, *view, key, *below, wanted.as_deref()));
            }
            Err(_) => noticed = true,
        }
    }
    for view in model.keys() {
        let scanned = Scan::start(&file, *view).and_then(|scan| {
            let mut scan = scan.expect("the view is there");
            while scan.current().is_some() {
                scan.advance()?;
            }
            Ok(())
        });
        noticed |= scanned.is_err();
    }
    noticed
}

#[test]
fn every_flipped_bit_of_head_and_footer_and_many_others_are_noticed() {
    let (disk, model) = (FakeDisk::new(), some_rows());
    let entry = write(&disk, &model);
    let path = Path::new(PATH);
    let mut random = Random::seeded(1);
    let probes: Vec<Probe> = (0..5).map(|_| random_probe(&mut random)).collect();
    assert!(!probe_damaged(&disk, entry, &model, &probes));
    let bytes = entry.bytes as usize;
    let heads =
        (0..64).chain(bytes - 64..bytes).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
    let body: Vec<(usize, u8)> =
        (0..400).map(|_| (random.below(bytes as u64) as usize, random.below(8) as u8)).collect();
    for (byte, bit) in heads.chain(body) {
        disk.damage(path, |data| data[byte] ^= 1 << bit);
        assert!(probe_damaged(&disk, entry, &model, &probes), "byte {byte} bit {bit}");
        disk.damage(path, |data| data[byte] ^= 1 << bit);
    }
}

#[test]
fn a_shortened_file_is_noticed() {
    let (disk, model) = (FakeDisk::new(), some_rows());
    let entry = write(&disk, &model);
    let whole = crate::disk::read_whole(&disk, Path::new(PATH)).unwrap();
    let lengths = (0..70).chain((0..entry.bytes as usize).step_by(997));
    for length in lengths.chain([entry.bytes as usize - 1]) {
        disk.damage(Path::new(PATH), |data| data.truncate(length));
        assert!(open(&disk, entry).is_err(), "{length}");
        // The same length again, the rest zeros, as a file system may leave it.
        disk.damage(Path::new(PATH), |data| data.resize(whole.len(), 0));
        assert!(open(&disk, entry).is_err(), "{length} and zeros");
        disk.damage(Path::new(PATH), |data| *data = whole.clone());
    }
    open(&disk, entry).unwrap();
}

#[test]
fn a_file_of_another_place_is_refused() {
    let (disk, model) = (FakeDisk::new(), some_rows());
    let entry = write(&disk, &model);
    for other in [
        SealedEntry { number: 4, ..entry },
        SealedEntry { first: Sequence(2), ..entry },
        SealedEntry { last: Sequence(2), ..entry },
        SealedEntry { bytes: entry.bytes + 1, ..entry },
    ] {
        assert!(matches!(open(&disk, other), Err(OpenSealedError::Damaged(_))), "{other:?}");
    }
    disk.damage(Path::new(PATH), |data| {
        data[4] = 2;
        let crc = crc32c::crc32c(&data[..60]);
        data[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    assert!(matches!(open(&disk, entry), Err(OpenSealedError::Newer(_))));
}

#[test]
fn blocks_that_contradict_themselves_are_damage_not_a_panic() {
    let mut random = Random::seeded(3);
    let (disk, model) = (FakeDisk::new(), some_rows());
    write(&disk, &model);
    let whole = crate::disk::read_whole(&disk, Path::new(PATH)).unwrap();
    // A block as it stands in the file begins behind the head.
    let mut block = whole[64..64 + 8000].to_vec();
    for _ in 0..20_000 {
        let byte = random.below(300) as usize;
        let before = std::mem::replace(&mut block[byte], random.below(256) as u8);
        let length = random.below(8000) as usize;
        drop(super::rows::Rows::read(block[..length].to_vec().into(), Lift::default()));
        drop(super::fences::Fences::read(block[..length].to_vec().into(), Lift::default()));
        drop(super::footer::decode_footer(&block[..length], 8000, Lift::default()));
        block[byte] = before;
    }
}

#[test]
fn blocks_that_disagree_about_their_rows_are_damage_not_a_panic() {
    let (disk, model) = (FakeDisk::new(), some_rows());
    let entry = write(&disk, &model);
    let whole = crate::disk::read_whole(&disk, Path::new(PATH)).unwrap();
    let mut random = Random::seeded(5);
    let probes: Vec<Probe> = (0..300).map(|_| random_probe(&mut random)).collect();
    let lines = describe(&whole).unwrap();
    let offset = |line: &&String| line.strip_prefix("byte ")?.split_once(": rows")?.0.parse().ok();
    let blocks: Vec<usize> = lines.iter().filter_map(|line| offset(&line)).collect();
    let next = |at: usize| blocks.iter().copied().find(|block| *block > at);
    let mut changed = 0;
    for first_row in [0, 1, 70_000, u64::MAX] {
        let mut bytes = whole.clone();
        for &at in &blocks {
            let Some(end) = next(at) else { continue };
            bytes[at + 16..at + 24].copy_from_slice(&first_row.to_le_bytes());
            let crc = super::footer::checksum(STORE, 3, at as u64, &bytes[at + 4..end]);
            // Between two sections stand fences; then this is not the end of the block.
            let before = super::footer::checksum(STORE, 3, at as u64, &whole[at + 4..end]);
            if whole[at..at + 4] == before.to_le_bytes() {
                bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
                changed += 1;
            }
        }
        disk.damage(Path::new(PATH), |data| *data = bytes);
        let Ok(file) = open(&disk, entry) else { continue };
        for (view, key, below, wanted) in &probes {
            drop(walk(&file, *view, key, *below, wanted.as_deref()));
        }
    }
    assert!(changed > 8, "{changed} blocks changed");
}

#[test]
fn a_file_is_described_in_words_with_its_damage() {
    let (disk, model) = (FakeDisk::new(), some_rows());
    let entry = write(&disk, &model);
    let bytes = crate::disk::read_whole(&disk, Path::new(PATH)).unwrap();
    let lines = describe(&bytes).unwrap();
    assert_eq!(lines[0], format!("sealed file 3 of store {STORE}"));
    assert_eq!(lines[1], format!("sequences 1 to 100000, {} bytes", entry.bytes));
    let keys = model[&ViewId(1)].len();
    let rows: usize = model[&ViewId(1)].values().map(BTreeMap::len).sum();
    assert!(lines[2].starts_with(&format!("view 1: {rows} rows of {keys} entity keys, up to 3")));
    assert!(lines[3].starts_with("byte 64: rows 0 to "), "{}", lines[3]);
    assert!(!lines.iter().any(|line| line.contains("damage")), "{lines:#?}");
    let mut bad = bytes.clone();
    bad[100] ^= 1;
    let expected = "byte 64: damage: the block is not what was written";
    assert!(describe(&bad).unwrap().contains(&expected.to_owned()));
    for at in [1, bytes.len() - 1, bytes.len() - 40] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(describe(&bad).is_err(), "{at}");
    }
    assert!(describe(&bytes[..64]).is_err());
}

#[test]
fn a_file_given_up_stops_at_once() {
    struct Never;
    impl Pace for Never {
        fn worked(&mut self, _: u64) -> bool {
            false
        }
    }
    let disk = FakeDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    let file = disk.create(Path::new(PATH)).unwrap();
    let head = Head { store: STORE, number: 3, first: Sequence(1), last: Sequence(1) };
    let mut pace = Never;
    let mut builder = Builder::new(file, head, &mut pace);
    builder.start(ViewId(1), 1, None).unwrap();
    assert!(matches!(builder.finish(), Err(BuildError::Interrupted)));
}

#[test]
fn the_bytes_are_what_they_always_were() {
    let mut model = Model::new();
    let rows = [(5, 1, vec![true, true]), (5, 3, vec![true, false]), (9, 2, vec![false, true])];
    let keyed = rows.map(|(time, sequence, has)| {
        let order = (EventTime::from_micros(time), Sequence(sequence));
        (order, stored(has, 7, 100 + sequence as i64))
    });
    model.entry(ViewId(2)).or_default().insert(b"ab".to_vec(), keyed.into_iter().collect());
    let disk = FakeDisk::new();
    write(&disk, &model);
    let bytes = crate::disk::read_whole(&disk, Path::new(PATH)).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN.concat());
}

const GOLDEN: &[&str] = &[
    "4c534c44",                                                         // head: magic
    "01000000",                                                         // format, nothing
    "30313233343536373839616263646566",                                 // store
    "0300000000000000",                                                 // number
    "0100000000000000",                                                 // first sequence
    "a086010000000000",                                                 // last sequence
    "000000000000000000000000",                                         // nothing
    "a5e70173",                                                         // CRC-32C of the head
    "1e6fc7de",                                                         // block of rows: CRC-32C
    "01",                                                               // kind
    "01",                                                               // has gaps
    "0200",                                                             // slots
    "03000000",                                                         // rows
    "01000000",                                                         // keys
    "0000000000000000",                                                 // number of its first row
    "020000000000000000",       // ends of keys: least, width, differences
    "030000000000000000",       // ends of the keys' rows
    "050000000000008001000004", // event times
    "010000000000000001000201", // sequences
    "650000000000008001000201", // arrivals
    "220000000000000001002448", // ends of archives
    "000000000000000001000102", // ends of gaps
    "010000000000000000",       // gaps
    "030102",                   // presence
    "6162",                     // keys
    "070000000000000007000000000000000200eeffffff00000000e6ffffff1000", // archives
    "00000100070000000000000000000000000000000200ecffffff02000000e6ff",
    "ffff100000000200000000000000000007000000000000000200ecffffff0200",
    "0000e6ffffff10000000",
    "ec6f1de1",           // block of fences: CRC-32C
    "02000000",           // kind, nothing
    "01000000",           // entries
    "020000000000000000", // ends of keys
    "050000000000008000", // event times
    "010000000000000000", // sequences
    "000000000000000000", // numbers of first rows
    "400000000000000000", // offsets
    "de0000000000000000", // lengths
    "6162",               // keys
    "e641ba44",           // footer: CRC-32C
    "03000000",           // kind, nothing
    "01000000",           // sections
    "0101",               // section: kind, encoding
    "0200",               // slots
    "02000000",           // view
    "0300000000000000",   // rows
    "0100000000000000",   // keys
    "0500000000000080",   // oldest event time
    "0900000000000080",   // newest
    "0100000000000000",   // lowest sequence
    "0300000000000000",   // highest
    "6500000000000080",   // first arrival
    "6700000000000080",   // last
    "44000000",           // length of its root
    "0000000002000000010000000200000000000000000500000000000080000100", // root: fences of fences
    "000000000000000000000000000000001e010000000000000044000000000000",
    "00006162",
    "ddfb6407",         // tail: CRC-32C
    "00000000",         // nothing
    "6201000000000000", // offset of the footer
    "9c00000000000000", // its length
    "00000000",         // nothing
    "4c534c54",         // magic
];
