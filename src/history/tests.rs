//! Tests of history as a whole: what is written is there, after every crash and damage.
//!
//! They do not look inside the modules; each of those has tests of its own.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::{self, ControlSnapshot, Manifest};
use super::open::{OpenError, Opened, open};
use super::record::{EncodedRequest, Record, RequestBuilder, Row, Source, SourceKind};
use super::writer::{Options, WriteError, Writer};
use super::{History, ReadError, inspect, segment};
use crate::disk::fake::{FakeDisk, Fault};
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskErrorKind, Operation, read_whole};
use crate::ids::{Epoch, Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

const ROOT: &str = "/data";
const VIEW: ViewId = ViewId(1);

fn options() -> Options {
    Options { segment_bytes: 4096 }
}

fn open_at(disk: &FakeDisk) -> Result<Opened, OpenError> {
    open(Arc::new(disk.clone()), Path::new(ROOT), options())
}

fn segment_path(first: u64) -> PathBuf {
    segment::path(&Path::new(ROOT).join("history"), Sequence(first))
}

fn at(micros: i64) -> ArrivalTime {
    ArrivalTime::from_micros(micros)
}

/// A request of one row for each (key, event time), whose archives say what they are.
fn request(rows: &[(u8, i64)]) -> EncodedRequest {
    let mut builder = RequestBuilder::new(None).unwrap();
    for &(key, time) in rows {
        let archive = format!("row {key} {time}").into_bytes();
        let event_time = EventTime::from_micros(time);
        builder.row(&Row { view: VIEW, event_time, key: &[key], archive: &archive });
    }
    builder.finish().unwrap()
}

/// Appends a group in a segment with room, as the engine does.
fn append(writer: &mut Writer, request: &EncodedRequest, now: i64) -> Result<Sequence, WriteError> {
    if writer.needs_roll(request.length()) {
        writer.roll(None, request.length())?;
    }
    Ok(writer.append(&[request], at(now))?.last)
}

/// Every row as (sequence, key, event time, archive).
fn rows(history: &History, after: u64) -> Result<Vec<(u64, u8, i64, Vec<u8>)>, ReadError> {
    let mut rows = Vec::new();
    history.replay(Sequence(after), |frame| {
        for request in frame.requests().unwrap() {
            for record in request.unwrap().records() {
                let (sequence, Record::Row(row)) = record.unwrap() else { continue };
                let time = row.event_time.micros();
                rows.push((sequence.0, row.key[0], time, row.archive.to_vec()));
            }
        }
        Ok::<(), ReadError>(())
    })?;
    Ok(rows)
}

fn sequences(history: &History, after: u64) -> Vec<u64> {
    rows(history, after).unwrap().into_iter().map(|row| row.0).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
}

/// A disk with `frames` synced frames of two rows each, in one segment; the offset of each.
fn disk_with_frames(frames: u64) -> (FakeDisk, Vec<usize>) {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    let mut offset = segment::HEADER_BYTES;
    let mut offsets = Vec::new();
    for number in 0..frames as i64 {
        let group = request(&[(1, number), (2, number)]);
        let appended = opened.writer.append(&[&group], at(100 + number)).unwrap();
        opened.writer.sync().unwrap();
        offsets.push(offset);
        offset += appended.bytes;
    }
    offsets.push(offset);
    drop(opened);
    (disk.crash(), offsets)
}

#[test]
fn what_is_written_is_there_after_many_starts_and_segments() {
    let root = tempfile::tempdir().unwrap();
    let fake = FakeDisk::new();
    let check = |disk: Arc<dyn Disk>, root: &Path| {
        let mut written = 0;
        for start in 1..=4 {
            let mut opened = open(disk.clone(), root, options()).unwrap();
            assert_eq!(opened.epoch, Epoch(start));
            assert_eq!(opened.last_sequence, Sequence(written));
            assert_eq!(opened.cut, None);
            let arrival = (written > 0).then_some(at(written as i64));
            assert_eq!(opened.last_arrival, arrival);
            for _ in 0..50 {
                let number = written as i64 + 1;
                let group = request(&[(1, number), (2, number), (3, number)]);
                let last = append(&mut opened.writer, &group, number + 2).unwrap();
                opened.writer.sync().unwrap();
                written += 3;
                assert_eq!(last, Sequence(written));
            }
            assert_eq!(opened.reader.durable(), Sequence(written));
            let all: Vec<u64> = (1..=written).collect();
            assert_eq!(sequences(&opened.reader, 0), all);
            assert_eq!(sequences(&opened.reader, written - 3), all[all.len() - 3..]);
            assert!(sequences(&opened.reader, written).is_empty());
        }
        let segments = disk.list(&root.join("history")).unwrap();
        assert!(segments.len() > 5, "{segments:?}");
        assert!(segments.iter().all(|entry| entry.length == 4096));
    };
    check(Arc::new(fake), Path::new(ROOT));
    check(Arc::new(RealDisk), root.path());
}

#[test]
fn sources_and_control_records_come_back() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    let source = Source { kind: SourceKind::Idempotency, id: b"abc", position: b"" };
    let mut builder = RequestBuilder::new(Some(source)).unwrap();
    builder.control(b"definition");
    let group = builder.finish().unwrap();
    opened.writer.append(&[&group, &request(&[(1, 1)])], at(1)).unwrap();
    let mut seen = Vec::new();
    let each = |frame: &super::replay::LoggedFrame<'_>| {
        for request in frame.requests().unwrap() {
            let request = request.unwrap();
            let id = request.source.map(|source| source.id.to_vec());
            seen.push((request.first.0, request.last().0, id));
        }
        Ok::<(), ReadError>(())
    };
    opened.reader.replay(Sequence::ZERO, each).unwrap();
    assert_eq!(seen, [(1, 1, Some(b"abc".to_vec())), (2, 2, None)]);
}

#[test]
fn the_control_snapshot_survives_rolls_and_starts() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    assert_eq!(opened.control, None);
    let snapshot = |covers, bytes: &[u8]| ControlSnapshot { covers, bytes: bytes.into() };
    opened.writer.append(&[&request(&[(1, 1)])], at(1)).unwrap();
    opened.writer.save_control(snapshot(Sequence(1), b"one")).unwrap();
    assert_eq!(opened.reader.durable(), Sequence(1), "a snapshot covers only what is durable");
    opened.writer.roll(None, 0).unwrap();
    drop(opened);
    let mut opened = open_at(&disk.crash()).unwrap();
    assert_eq!(opened.control, Some(snapshot(Sequence(1), b"one")));
    opened.writer.append(&[&request(&[(1, 1)])], at(1)).unwrap();
    opened.writer.roll(Some(snapshot(Sequence(2), b"two")), 0).unwrap();
    drop(opened);
}

#[test]
fn a_frame_longer_than_a_segment_gets_its_own() {
    let disk = FakeDisk::new();
    let large = |byte: u8| {
        let mut builder = RequestBuilder::new(None).unwrap();
        let event_time = EventTime::from_micros(1);
        builder.row(&Row { view: VIEW, event_time, key: &[byte], archive: &[byte; 10_000] });
        builder.finish().unwrap()
    };
    let mut opened = open_at(&disk).unwrap();
    assert!(matches!(opened.writer.append(&[&large(1)], at(1)), Err(WriteError::NeedsRoll)));
    // In the first segment, still empty, then in the second, then in an empty one again.
    append(&mut opened.writer, &large(1), 1).unwrap();
    append(&mut opened.writer, &large(2), 2).unwrap();
    opened.writer.roll(None, 0).unwrap();
    append(&mut opened.writer, &large(3), 3).unwrap();
    append(&mut opened.writer, &request(&[(4, 4)]), 4).unwrap();
    opened.writer.mark().unwrap();
    drop(opened);
    let opened = open_at(&disk.crash()).unwrap();
    assert_eq!(sequences(&opened.reader, 0), [1, 2, 3, 4]);
}

#[test]
fn a_torn_last_frame_is_cut_at_every_byte() {
    let (base, offsets) = disk_with_frames(3);
    let (from, to) = (offsets[2], offsets[3]);
    let path = segment_path(1);
    for keep in from..=to {
        let expected = if keep == to { 6 } else { 4 };
        let check = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let disk = base.crash();
            disk.damage(&path, change);
            let mut opened =
                open_at(&disk).unwrap_or_else(|error| panic!("{what} {keep}: {error}"));
            assert_eq!(opened.last_sequence, Sequence(expected), "{what} {keep}");
            // Where nothing but zeros is left, nothing shows that there was a frame.
            let nothing_left = keep == to || (keep == from && what != "garbage");
            assert_eq!(opened.cut.is_some(), !nothing_left, "{what} {keep}");
            let next = append(&mut opened.writer, &request(&[(9, 9)]), 200).unwrap();
            assert_eq!(next, Sequence(expected + 1));
            drop(opened);
            let opened = open_at(&disk.crash()).map(|opened| opened.last_sequence);
            assert_eq!(opened.unwrap(), Sequence(expected), "what was not synced is gone");
        };
        check("zeros", &|data| data[keep..].fill(0));
        check("end", &|data| data.truncate(keep));
        if keep < to {
            check("garbage", &|data| data[keep..to].fill(0xA5));
        }
    }
}

#[test]
fn damage_below_a_later_durable_mark_is_refused() {
    let (base, offsets) = disk_with_frames(3);
    let path = segment_path(1);
    for frame in 0..2 {
        for byte in offsets[frame]..offsets[frame + 1] {
            let disk = base.crash();
            disk.damage(&path, |data| data[byte] ^= 1 << (byte % 8));
            let error = open_at(&disk).err().expect("damage is refused");
            let OpenError::Damaged(damage) = &error else { panic!("byte {byte}: {error}") };
            assert_eq!((damage.path.as_path(), damage.offset), (&*path, offsets[frame] as u64));
            let expected = format!("{} is damaged at byte {}", path.display(), offsets[frame]);
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }
    // The same in the last frame looks torn, until a mark says it was durable.
    for byte in offsets[2]..offsets[3] {
        let disk = base.crash();
        disk.damage(&path, |data| data[byte] ^= 1 << (byte % 8));
        let opened = open_at(&disk).unwrap();
        assert_eq!(opened.last_sequence, Sequence(4), "byte {byte}");
        assert!(opened.cut.unwrap().to_string().contains("cut from /data/history/0000"));
    }
    let mut opened = open_at(&base).unwrap();
    assert!(opened.writer.mark().unwrap());
    assert!(!opened.writer.mark().unwrap(), "one mark is enough");
    drop(opened);
    for byte in offsets[2]..offsets[3] {
        let disk = base.crash();
        disk.damage(&path, |data| data[byte] ^= 1 << (byte % 8));
        assert!(matches!(open_at(&disk), Err(OpenError::Damaged(_))), "byte {byte}");
    }
    assert_eq!(open_at(&base.crash()).unwrap().last_sequence, Sequence(6));
}

#[test]
fn damage_in_a_closed_segment_is_found_when_read() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..40 {
        append(&mut opened.writer, &request(&[(1, number), (2, number)]), number).unwrap();
        opened.writer.sync().unwrap();
    }
    drop(opened);
    let base = disk.crash();
    let path = segment_path(1);
    let whole = read_whole(&base, &path).unwrap();
    let header = segment::SegmentHeader::decode(&whole).unwrap();
    let end = segment::examine(&whole, &header, |_, _| {}).end;
    let mut checked = 0;
    for byte in (segment::HEADER_BYTES..end).step_by(7) {
        let disk = base.crash();
        disk.damage(&path, |data| data[byte] ^= 0x10);
        let opened = open_at(&disk).unwrap();
        for error in [rows(&opened.reader, 0).err(), opened.reader.as_of(Sequence(1)).err()] {
            let Some(ReadError::Damaged(damage)) = error else { panic!("byte {byte}: {error:?}") };
            assert_eq!(damage.path, path);
            assert!(damage.offset <= byte as u64);
        }
        checked += 1;
    }
    assert!(checked > 300, "{checked}");
    // Its last frame erased without a trace: the manifest knows where it ended.
    let disk = base.crash();
    disk.damage(&path, |data| data[end - 100..].fill(0));
    assert!(rows(&open_at(&disk).unwrap().reader, 0).is_err());
    let disk = base.crash();
    disk.damage(&path, |data| data.truncate(1000));
    assert!(rows(&open_at(&disk).unwrap().reader, 0).is_err());
}

#[test]
fn a_failed_sync_ends_writes_and_its_frame_is_not_believed() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    append(&mut opened.writer, &request(&[(1, 1)]), 1).unwrap();
    opened.writer.sync().unwrap();
    append(&mut opened.writer, &request(&[(1, 2)]), 2).unwrap();
    let operation = Some(Operation::SyncData);
    disk.fail(Fault { operation, nth: 1, lasting: false, error: DiskErrorKind::Io });
    assert!(matches!(opened.writer.sync(), Err(WriteError::Failed(_))));
    assert!(opened.writer.is_poisoned());
    let group = request(&[(1, 3)]);
    let poisoned = |result: Result<(), WriteError>| {
        assert!(matches!(result, Err(WriteError::Poisoned { .. })), "{result:?}");
    };
    poisoned(opened.writer.sync());
    poisoned(opened.writer.append(&[&group], at(3)).map(|_| ()));
    poisoned(opened.writer.mark().map(|_| ()));
    poisoned(opened.writer.roll(None, 0));
    assert_eq!(opened.reader.durable(), Sequence(1));
    assert_eq!(sequences(&opened.reader, 0), [1, 2], "reads go on");
    drop(opened);
    // No power cut: the kernel's cache still shows the frame, the device does not have it.
    assert_eq!(open_at(&disk).unwrap().last_sequence, Sequence(1));
}

#[test]
fn a_full_disk_is_undone_and_writes_go_on_when_there_is_space() {
    for operation in [Operation::Preallocate, Operation::Write, Operation::Create] {
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut accepted = Vec::new();
        let mut refused = 0;
        for number in 0..60 {
            let fault = Fault {
                operation: Some(operation),
                nth: 1,
                lasting: true,
                error: DiskErrorKind::Full,
            };
            let group = request(&[(1, number), (2, number)]);
            if number % 3 == 2 {
                disk.fail(fault);
            }
            match append(&mut opened.writer, &group, number) {
                Ok(last) => accepted.extend([last.0 - 1, last.0]),
                Err(WriteError::Full(_)) => refused += 1,
                Err(other) => panic!("{operation} {number}: {other}"),
            }
            disk.heal();
            opened.writer.sync().unwrap();
        }
        assert!(refused > 0, "{operation}");
        assert_eq!(sequences(&opened.reader, 0), accepted);
        drop(opened);
        let opened = open_at(&disk.crash()).unwrap();
        assert_eq!(opened.cut, None, "{operation}");
        assert_eq!(sequences(&opened.reader, 0), accepted);
    }
}

#[test]
fn a_full_disk_does_not_keep_the_store_from_opening() {
    let (disk, _) = disk_with_frames(3);
    let operation = Some(Operation::Preallocate);
    disk.fail(Fault { operation, nth: 1, lasting: true, error: DiskErrorKind::Full });
    let mut opened = open_at(&disk).unwrap();
    assert_eq!(sequences(&opened.reader, 0), [1, 2, 3, 4, 5, 6]);
    let group = request(&[(1, 1)]);
    assert!(matches!(append(&mut opened.writer, &group, 1), Err(WriteError::Full(_))));
    disk.heal();
    assert_eq!(append(&mut opened.writer, &group, 1).unwrap(), Sequence(7));
}

/// Random writes and a power cut, again and again on what is left. `sync_all` is the mode in which
/// each group is synced before the next.
fn crash_again_and_again(seed: u64, sync_all: bool) {
    let mut random = Random::seeded(seed);
    let mut disk = FakeDisk::new();
    let mut model: BTreeMap<u64, (u8, i64)> = BTreeMap::new();
    let mut durable = 0;
    for life in 0..4 {
        random_fault(&disk, &mut random, 6);
        if let Ok(mut opened) = open_at(&disk) {
            disk.heal();
            let last = opened.last_sequence.0;
            let context = format!("seed {seed} life {life}");
            assert!(last >= durable, "{context}: {durable} durable, {last} found");
            model.retain(|&sequence, _| sequence <= last);
            let mut found = BTreeMap::new();
            for (sequence, key, time, archive) in rows(&opened.reader, 0).unwrap() {
                assert_eq!(archive, format!("row {key} {time}").into_bytes(), "{context}");
                found.insert(sequence, (key, time));
            }
            assert_eq!(found, model, "{context}");
            random_fault(&disk, &mut random, 3);
            durable = last;
            let steps = random.below(40);
            for _ in 0..steps {
                durable = durable.max(step(&mut opened.writer, &mut random, &mut model, sync_all));
            }
            drop(opened);
        }
        disk.heal();
        disk = match random.below(4) {
            0 => disk.crash(),
            // The process dies, the machine does not.
            1 => disk,
            _ => disk.crash_seeded(random.below(u64::MAX)),
        };
    }
    let opened = open_at(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert!(opened.last_sequence.0 >= durable, "seed {seed}");
}

/// One time in `rarity`, makes one of the next operations fail.
fn random_fault(disk: &FakeDisk, random: &mut Random, rarity: u64) {
    if random.below(rarity) == 0 {
        let nth = random.below(60) + 1;
        let error = if random.below(2) == 0 { DiskErrorKind::Io } else { DiskErrorKind::Full };
        disk.fail(Fault { operation: None, nth, lasting: false, error });
    }
}

fn step(
    writer: &mut Writer,
    random: &mut Random,
    model: &mut BTreeMap<u64, (u8, i64)>,
    sync_all: bool,
) -> u64 {
    let first = writer.last().0 + 1;
    let count = random.below(6) + 1;
    let group: Vec<(u8, i64)> =
        (0..count).map(|_| (random.below(5) as u8, random.below(1000) as i64)).collect();
    match random.below(10) {
        0 => drop(writer.mark()),
        1 => drop(writer.roll(None, 0)),
        2 => {
            let covers = writer.last();
            drop(writer.save_control(ControlSnapshot { covers, bytes: vec![1; 700].into() }));
        }
        _ => {
            if append(writer, &request(&group), first as i64).is_ok() {
                model.extend((first..).zip(group));
            }
        }
    }
    if sync_all || random.below(4) == 0 {
        drop(writer.sync());
    }
    writer.history.durable().0
}

#[test]
fn no_crash_loses_what_was_synced_or_invents_what_was_not_written() {
    let only = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..400, |seed: u64| seed..seed + 1) {
        crash_again_and_again(seed, true);
        crash_again_and_again(seed, false);
    }
}

/// One run of everything the writer does; returns what it was told is durable.
fn scenario(disk: &FakeDisk) -> u64 {
    let mut durable = 0;
    for _ in 0..2 {
        let Ok(mut opened) = open_at(disk) else { continue };
        for number in 0..12 {
            let _ = append(&mut opened.writer, &request(&[(1, number); 20]), number);
            let _ = opened.writer.sync();
            durable = durable.max(opened.reader.durable().0);
        }
        let _ = opened.writer.mark();
        let covers = opened.reader.durable();
        let _ =
            opened.writer.save_control(ControlSnapshot { covers, bytes: b"c".as_slice().into() });
    }
    durable
}

#[test]
fn any_operation_may_fail() {
    let clean = FakeDisk::new();
    assert_eq!(scenario(&clean), 2 * 12 * 20);
    let operations = clean.count_all();
    assert!(operations > 80, "{operations}");
    for nth in 1..=operations {
        for error in [DiskErrorKind::Io, DiskErrorKind::Full] {
            for lasting in [false, true] {
                let disk = FakeDisk::new();
                disk.fail(Fault { operation: None, nth, lasting, error });
                let durable = scenario(&disk);
                disk.heal();
                for after in [disk.crash(), disk.crash_seeded(nth), disk] {
                    let opened = open_at(&after)
                        .unwrap_or_else(|failed| panic!("{nth} {error:?} {lasting}: {failed}"));
                    assert!(opened.last_sequence.0 >= durable, "{nth} {error:?} {lasting}");
                    let found = sequences(&opened.reader, 0);
                    let all: Vec<u64> = (1..=opened.last_sequence.0).collect();
                    assert_eq!(found, all, "{nth} {error:?} {lasting}");
                }
            }
        }
    }
}

#[test]
fn one_process_at_a_time() {
    let disk = FakeDisk::new();
    let opened = open_at(&disk).unwrap();
    assert!(matches!(open_at(&disk), Err(OpenError::Locked { .. })));
    drop(opened);
    assert_eq!(open_at(&disk).unwrap().epoch, Epoch(2));
}

#[test]
fn rubbish_is_removed_and_strangers_are_left_alone() {
    let (disk, _) = disk_with_frames(2);
    let history = Path::new(ROOT).join("history");
    let rubbish = ["00000000000000000001.log.tmp", "00000000000000000009.log"];
    let strangers = ["notes.txt", "9.log", "backup.tmp"];
    for name in rubbish.iter().chain(&strangers) {
        disk.create(&history.join(name)).unwrap();
    }
    disk.create(&Path::new(ROOT).join("00000000000000000009.log")).unwrap();
    drop(open_at(&disk).unwrap());
    let left: Vec<String> =
        disk.list(&history).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, ["00000000000000000001.log", "9.log", "backup.tmp", "notes.txt"]);
    assert!(disk.open_read(&Path::new(ROOT).join("00000000000000000009.log")).is_ok());
}

#[test]
fn files_lost_swapped_or_from_elsewhere_are_refused() {
    let grow = || {
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut stale = None;
        for number in 0..120 {
            append(&mut opened.writer, &request(&[(1, number), (2, number)]), number).unwrap();
            opened.writer.sync().unwrap();
            stale.get_or_insert_with(|| {
                read_whole(&disk, &manifest::path(Path::new(ROOT))).unwrap()
            });
        }
        drop(opened);
        (disk.crash(), stale.unwrap())
    };
    let (base, stale) = grow();
    let list = base.list(&Path::new(ROOT).join("history")).unwrap();
    let path = |number: usize| Path::new(ROOT).join("history").join(&list[number].name);
    assert!(list.len() > 3);
    let manifest = manifest::path(Path::new(ROOT));
    let refused = |disk: &FakeDisk, expected: &str| {
        let error = open_at(disk).err().expect("it is refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    for number in 0..list.len() {
        let disk = base.crash();
        disk.remove(&path(number)).unwrap();
        refused(&disk, &format!("{} is missing", path(number).display()));
    }
    let disk = base.crash();
    disk.remove(&manifest).unwrap();
    refused(&disk, "MANIFEST is missing");
    let disk = base.crash();
    disk.damage(&manifest, |data| *data = stale);
    refused(&disk, "holds frames, but the manifest does not name it");
    let disk = base.crash();
    disk.rename(&path(0), &path(1)).unwrap();
    disk.create(&path(0)).unwrap();
    assert!(open_at(&disk).is_err());
    let (other, _) = grow();
    let foreign = read_whole(&other, &path(1)).unwrap();
    let disk = base.crash();
    disk.damage(&path(1), |data| *data = foreign);
    refused(&disk, "belongs to store");
}

#[test]
fn what_a_later_release_wrote_is_refused_in_words() {
    let (base, offsets) = disk_with_frames(1);
    let check = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let disk = base.crash();
        disk.damage(path, change);
        let error = open_at(&disk).err().expect("it is refused");
        assert!(matches!(error, OpenError::Newer { .. }), "{error}");
        assert!(error.to_string().contains("needs a newer release"), "{error}");
    };
    let seal = |bytes: &mut [u8], crc_at: usize, end: usize| {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..crc_at]), &bytes[crc_at + 4..end]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    };
    check(&manifest::path(Path::new(ROOT)), &|data| {
        data[4] = 2;
        let end = data.len();
        seal(data, 36, end);
    });
    check(&segment_path(1), &|data| {
        data[4] = 2;
        seal(data, 60, 64);
    });
    check(&segment_path(1), &|data| {
        data[offsets[0] + 4] = 2;
        seal(&mut data[offsets[0]..], 60, offsets[1] - offsets[0]);
    });
}

#[test]
fn readers_see_whole_frames_while_the_writer_writes() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open(Arc::new(RealDisk), root.path(), options()).unwrap();
    let reader = opened.reader.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while reader.written() < Sequence(3000) {
                let seen = sequences(&reader, 0);
                assert_eq!(seen.len() % 3, 0);
                assert!(seen.iter().copied().eq(1..=seen.len() as u64));
                reader.as_of(Sequence::MAX).unwrap();
            }
        });
        for number in 0..1000 {
            append(&mut opened.writer, &request(&[(1, number); 3]), number).unwrap();
        }
    });
    assert_eq!(sequences(&opened.reader, 0).len(), 3000);
}

#[test]
fn inspect_says_what_is_there() {
    let (disk, offsets) = disk_with_frames(2);
    let mut opened = open_at(&disk).unwrap();
    opened.writer.mark().unwrap();
    drop(opened);
    let lines = inspect::describe(&disk, &segment_path(1)).unwrap();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let frame = format!(
        "byte {}: 2 records, sequences 3 to 4, arrived 1970-01-01T00:00:00.000101Z, epoch 1, \
         durable up to 2",
        offsets[1]
    );
    assert_eq!(lines[3], frame);
    assert!(lines[4].contains("mark"), "{lines:#?}");
    disk.damage(&segment_path(1), |data| data[offsets[1] + 50] ^= 1);
    let lines = inspect::describe(&disk, &segment_path(1)).unwrap();
    assert!(lines.last().unwrap().starts_with("damage: the frame at byte"), "{lines:#?}");
    let path = manifest::path(Path::new(ROOT));
    let lines = inspect::describe(&disk, &path).unwrap();
    assert!(lines[2].contains("00000000000000000001.log: sequences from 1 open"), "{lines:#?}");
    disk.damage(&path, |data| data[30] ^= 1);
    assert!(inspect::describe(&disk, &path).unwrap()[0].starts_with("manifest, unreadable"));
    disk.damage(&path, |data| data[0] ^= 1);
    assert!(matches!(inspect::describe(&disk, &path), Err(inspect::InspectError::Unknown)));
    assert!(Manifest::load(&disk, Path::new(ROOT)).is_err());
}

/// All rows of a key up to a sequence and a time, the newest first, by looking at each row.
fn naive(all: &[(u64, u8, i64, i64)], key: u8, time: i64, upto: u64) -> Vec<(i64, u64, i64)> {
    let mut found: Vec<(i64, u64, i64)> = all
        .iter()
        .filter(|row| row.1 == key && row.2 <= time && row.0 <= upto)
        .map(|row| (row.2, row.0, row.3))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

fn indexed(history: &History, key: u8, time: i64, upto: u64) -> Vec<(i64, u64, i64)> {
    let mut found = Vec::new();
    let as_of = history.as_of(Sequence(upto)).unwrap();
    as_of
        .rows_before(VIEW, &[key], EventTime::from_micros(time), &mut |row| {
            let micros = row.event_time.micros();
            assert_eq!(row.archive, format!("row {key} {micros}").as_bytes());
            found.push((micros, row.sequence.0, row.arrival.micros()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn as_of_reads_equal_a_naive_scan() {
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut all: Vec<(u64, u8, i64, i64)> = Vec::new();
        for group in 0..120 {
            let arrival = 10 * (group / 3);
            let rows: Vec<(u8, i64)> = (0..random.below(8) + 1)
                .map(|_| (random.below(4) as u8, random.below(60) as i64))
                .collect();
            let first = opened.reader.written().0 + 1;
            append(&mut opened.writer, &request(&rows), arrival).unwrap();
            all.extend((first..).zip(&rows).map(|(at, row)| (at, row.0, row.1, arrival)));
            if random.below(5) == 0 {
                let (key, time) = (random.below(5) as u8, random.below(70) as i64);
                let upto = random.below(all.len() as u64 + 10);
                let expected = naive(&all, key, time, upto);
                assert_eq!(indexed(&opened.reader, key, time, upto), expected, "seed {seed}");
            }
            if group == 60 {
                opened.writer.sync().unwrap();
                drop(opened);
                opened = open_at(&disk.crash()).unwrap();
            }
        }
        for known_at in [-1, 0, 5, 10, 200, 1000] {
            let expected = all.iter().filter(|row| row.3 <= known_at).map(|row| row.0).max();
            let found = opened.reader.sequence_at(at(known_at)).unwrap();
            assert_eq!(found.0, expected.unwrap_or(0), "seed {seed} known at {known_at}");
        }
    }
}

#[test]
fn an_as_of_read_stops_when_told_and_never_serves_damage() {
    let (disk, offsets) = disk_with_frames(3);
    let opened = open_at(&disk).unwrap();
    let as_of = opened.reader.as_of(Sequence::MAX).unwrap();
    assert_eq!(as_of.upto(), Sequence(6));
    let mut seen = 0;
    let mut stop = |_: super::index::RowAt<'_>| {
        seen += 1;
        ControlFlow::Break(())
    };
    as_of.rows_before(VIEW, &[1], EventTime::MAX, &mut stop).unwrap();
    assert_eq!(seen, 1);
    disk.damage(&segment_path(1), |data| data[offsets[2]..offsets[3]].fill(7));
    let mut never = |_: super::index::RowAt<'_>| panic!("a damaged row was served");
    let error = as_of.rows_before(VIEW, &[1], EventTime::MAX, &mut never).unwrap_err();
    assert!(error.to_string().contains("row of sequence 5 is not what was written"), "{error}");
    let mut none = |_: super::index::RowAt<'_>| panic!("there is no such row");
    as_of.rows_before(VIEW, &[1], EventTime::from_micros(-1), &mut none).unwrap();
    as_of.rows_before(VIEW, b"unknown", EventTime::MAX, &mut none).unwrap();
    as_of.rows_before(ViewId(9), &[1], EventTime::MAX, &mut none).unwrap();
}
