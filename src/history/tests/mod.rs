//! Tests of history as a whole: what is written is there, after every crash and damage.
//!
//! They do not look inside the modules; each of those has tests of its own.

mod damage;

mod crash;

mod as_of;

mod sealing;

mod sweep;

mod bounds;

mod proof;

mod bulk;

mod verify;

mod backup;

mod flips;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::ControlSnapshot;
use super::open::{OpenError, Opened, open};
use super::pace::Pace;
use super::record::{EncodedRequest, Record, RequestBuilder, Row, Source, SourceKind};
use super::replay::{LoggedFrame, Replayed};
use super::sealed::RowIn;
use super::writer::{Options, WriteError, Writer};
use super::{History, ReadError, segment};
use crate::archive::Encoder;
use crate::disk::Disk;
use crate::disk::fake::FakeDisk;
use crate::disk::real::RealDisk;
use crate::ids::{Epoch, Sequence, Slot, ViewId};
use crate::time::{ArrivalTime, EventTime};
use crate::value::cell::{CellRef, ValueRef};
use crate::value::layout::Layout;
use crate::value::types::{FeatureType, ScalarType};

const ROOT: &str = "/data";
const VIEW: ViewId = ViewId(1);

fn options() -> Options {
    Options { segment_bytes: 4096, block_cache_bytes: 64 << 10 }
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

/// A row of one feature that says whose it is and when.
fn archive(key: u8, time: i64) -> Vec<u8> {
    let layout = Layout::new([FeatureType::Scalar(ScalarType::Int64)]);
    let (mut encoder, mut archive) = (Encoder::default(), Vec::new());
    encoder.start(&layout);
    let value = ValueRef::Int64(i64::from(key) * 1_000_000 + time);
    encoder.set(&layout, Slot(0), CellRef::Value(value));
    encoder.finish_row(&mut archive);
    archive
}

/// A request of one row for each (key, event time), whose archives say what they are.
fn request(rows: &[(u8, i64)]) -> EncodedRequest {
    let mut builder = RequestBuilder::new(None).unwrap();
    for &(key, time) in rows {
        let archive = archive(key, time);
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

/// A row as (sequence, key, event time, archive).
type Seen = (u64, u8, i64, Vec<u8>);

fn rows(history: &History, after: u64) -> Result<Vec<Seen>, ReadError> {
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

/// Shows `each` every row above `after` as a start without a checkpoint finds it, and whether only
/// a sealed file has it.
fn replay_rows(
    history: &History,
    after: u64,
    each: impl FnMut(bool, &RowIn<'_>),
) -> Result<(), ReadError> {
    struct Each<F>(F);

    impl<F: FnMut(bool, &RowIn<'_>)> Replayed<ReadError> for Each<F> {
        fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), ReadError> {
            assert_eq!(view, VIEW);
            (self.0)(true, row);
            Ok(())
        }

        fn frame(&mut self, frame: &LoggedFrame<'_>) -> Result<(), ReadError> {
            let arrival = frame.header.arrival;
            for request in frame.requests().unwrap() {
                for record in request.unwrap().records() {
                    let (sequence, Record::Row(row)) = record.unwrap() else { continue };
                    let Row { event_time, key, archive, .. } = row;
                    (self.0)(false, &RowIn { key, event_time, sequence, arrival, archive });
                }
            }
            Ok(())
        }
    }

    history.replay_after(Sequence(after)).run(&mut Each(each))
}

fn sequences(history: &History, after: u64) -> Vec<u64> {
    rows(history, after).unwrap().into_iter().map(|row| row.0).collect()
}

/// Background work without a budget.
pub(super) struct Unhurried;

impl Pace for Unhurried {
    fn worked(&mut self, _: u64) -> bool {
        true
    }
}

pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub(super) fn seeded(seed: u64) -> Self {
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
fn one_process_at_a_time() {
    let disk = FakeDisk::new();
    let opened = open_at(&disk).unwrap();
    assert!(matches!(open_at(&disk), Err(OpenError::Locked { .. })));
    drop(opened);
    assert_eq!(open_at(&disk).unwrap().epoch, Epoch(2));
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
                reader.as_of(Sequence::MAX, None).unwrap();
            }
        });
        for number in 0..1000 {
            append(&mut opened.writer, &request(&[(1, number); 3]), number).unwrap();
        }
    });
    assert_eq!(sequences(&opened.reader, 0).len(), 3000);
}
