//! Retention and erasure: what is rewritten without old or erased rows answers as the whole would.
//!
//! They do not know which rows went; they compare with all rows there ever were.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::sealing::{make, merge_one, seal_one, strike};
use super::*;
use crate::disk::DiskErrorKind;
use crate::disk::fake::Fault;
use crate::history::as_of::RowAt;
use crate::history::manifest::RetentionFloor;
use crate::history::seal::{Task, holds_erased};

pub(super) const SLOTS: usize = 3;
/// What every value has, beside the sequence of its row, so that its bytes can be told from others.
pub(super) const MARK: i64 = 0x5EC2_E700_0000_0000;

/// A row as it was accepted; its archive says which of the features it has, and its sequence.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) view: ViewId,
    pub(super) sequence: u64,
    pub(super) key: u8,
    pub(super) time: i64,
    pub(super) arrival: i64,
    pub(super) has: [bool; SLOTS],
}

/// For each feature, the row it comes from.
pub(super) type State = [Option<u64>; SLOTS];

impl Whole {
    pub(super) fn archive(&self) -> Vec<u8> {
        let layout = Layout::new([FeatureType::Scalar(ScalarType::Int64); SLOTS]);
        let (mut encoder, mut archive) = (Encoder::default(), Vec::new());
        encoder.start(&layout);
        for slot in (0..SLOTS).filter(|slot| self.has[*slot]) {
            let cell = match self.sequence % 3 {
                0 => CellRef::Null,
                _ => CellRef::Value(ValueRef::Int64(MARK + self.sequence as i64)),
            };
            encoder.set(&layout, Slot(slot as u16), cell);
        }
        encoder.finish_row(&mut archive);
        archive
    }
}

/// Looks at every row there ever was.
pub(super) fn naive(all: &[Whole], key: u8, at: i64, known_at: i64) -> State {
    let newest = |slot: usize| {
        let seen = all.iter().filter(|row| row.key == key && row.has[slot]);
        let seen = seen.filter(|row| row.time <= at && row.arrival <= known_at);
        seen.max_by_key(|row| (row.time, row.sequence)).map(|row| row.sequence)
    };
    std::array::from_fn(newest)
}

fn found(history: &History, key: u8, time: i64, known_at: i64) -> State {
    see(history, (VIEW, key), time, known_at).unwrap().0
}

/// What a read finds, and the rows it shows, the same in whichever way it goes through them.
pub(super) fn see(
    history: &History,
    (view, key): (ViewId, u8),
    time: i64,
    known_at: i64,
) -> Result<(State, Vec<u64>), String> {
    let told = |error: ReadError| error.to_string();
    let mut state = [None; SLOTS];
    let as_of = history.as_of(Sequence::MAX, Some(at(known_at))).map_err(told)?;
    let mut see = |row: RowAt<'_>| {
        let cells = crate::archive::RowRef::access(row.archive).unwrap();
        for (slot, cell) in state.iter_mut().enumerate().filter(|(slot, _)| cells.has(*slot)) {
            assert!(slot < SLOTS);
            *cell = cell.or(Some(row.sequence.0));
        }
        ControlFlow::Continue(())
    };
    as_of.rows_before(view, &[key], EventTime::from_micros(time), &mut see).map_err(told)?;
    let (mut walked, mut swept) = (Vec::new(), Vec::new());
    let mut walk = |row: RowAt<'_>| {
        walked.push(row.sequence.0);
        ControlFlow::Continue(())
    };
    as_of.rows_before(view, &[key], EventTime::from_micros(time), &mut walk).map_err(told)?;
    let mut sweep = |row: RowAt<'_>| {
        swept.push(row.sequence.0);
        ControlFlow::Continue(())
    };
    let instant = (EventTime::from_micros(time), ArrivalTime::MAX);
    let mut many = as_of.sweep(view);
    many.turn_to(&[key]);
    many.rows_before(instant, &mut sweep).map_err(told)?;
    match swept == walked {
        true => Ok((state, walked)),
        false => Err(format!("a sweep shows {swept:?}, a walk {walked:?}")),
    }
}

/// The newest row of every feature of every key, as a start without a checkpoint finds them.
fn replayed(history: &History) -> BTreeMap<u8, State> {
    type Newest = [Option<(i64, u64)>; SLOTS];
    let mut newest: BTreeMap<u8, Newest> = BTreeMap::new();
    let mut take = |key: u8, time: i64, sequence: u64, archive: &[u8]| {
        let cells = crate::archive::RowRef::access(archive).unwrap();
        let state = newest.entry(key).or_default();
        for (slot, cell) in state.iter_mut().enumerate().filter(|(slot, _)| cells.has(*slot)) {
            assert!(slot < SLOTS);
            *cell = (*cell).max(Some((time, sequence)));
        }
    };
    let each = |_, row: &RowIn<'_>| {
        take(row.key[0], row.event_time.micros(), row.sequence.0, row.archive);
    };
    replay_rows(history, 0, each).unwrap();
    let sequence = |cell: Option<(i64, u64)>| cell.map(|(_, sequence)| sequence);
    newest.into_iter().map(|(key, state)| (key, state.map(sequence))).collect()
}

pub(super) fn random_rows(random: &mut Random, first: u64, arrival: i64) -> Vec<Whole> {
    let count = random.below(8) + 1;
    let row = |index: u64, random: &mut Random| {
        let late = match random.below(10) {
            0 => random.below(400) as i64,
            1 => arrival,
            _ => random.below(10) as i64,
        };
        let mut has = std::array::from_fn(|_| random.below(2) == 0);
        if random.below(3) == 0 {
            has = [true; SLOTS];
        }
        let (sequence, key) = (first + index, random.below(5) as u8);
        Whole { view: VIEW, sequence, key, time: arrival - late, arrival, has }
    };
    (0..count).map(|index| row(index, random)).collect()
}

pub(super) fn request(rows: &[Whole]) -> EncodedRequest {
    let mut builder = RequestBuilder::new(None).unwrap();
    for row in rows {
        let event_time = EventTime::from_micros(row.time);
        let archive = row.archive();
        builder.row(&Row { view: row.view, event_time, key: &[row.key], archive: &archive });
    }
    builder.finish().unwrap()
}

pub(super) fn thin_one(opened: &mut Opened) -> Option<u64> {
    let task = opened.sealer.next_to_thin();
    make(opened, task).map(|made| made.dropped)
}

pub(super) fn set_floor(opened: &mut Opened, floor: i64) -> bool {
    let floors = vec![RetentionFloor { view: VIEW, floor: EventTime::from_micros(floor) }];
    let saved = opened.writer.set_floors(floors.clone()).is_ok();
    if saved {
        opened.reader.set_floors(&floors);
    }
    saved
}

pub(super) fn floor_of(history: &History) -> i64 {
    history.bounds().floor(VIEW).map_or(i64::MIN, EventTime::micros)
}

#[test]
fn above_the_floor_nothing_changes_and_the_newest_of_all_stays() {
    let mut dropped = 0;
    for seed in 0..25 {
        let mut random = Random::seeded(seed);
        let mut disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut all: Vec<Whole> = Vec::new();
        for arrival in 1..700 {
            let first = opened.reader.written().0 + 1;
            let rows = random_rows(&mut random, first, arrival);
            append(&mut opened.writer, &request(&rows), arrival).unwrap();
            all.extend(rows);
            match random.below(30) {
                0..8 => drop(seal_one(&mut opened)),
                8..12 => drop(merge_one(&mut opened)),
                12..16 => dropped += thin_one(&mut opened).unwrap_or(0),
                16 => strike(&mut opened),
                17 => {
                    let floor = floor_of(&opened.reader).max(arrival - 150);
                    assert!(set_floor(&mut opened, floor));
                }
                18 => {
                    opened.writer.sync().unwrap();
                    let floor = floor_of(&opened.reader);
                    drop(opened);
                    disk = disk.crash();
                    opened = open_at(&disk).unwrap();
                    assert_eq!(floor_of(&opened.reader), floor);
                }
                _ => {}
            }
            let floor = floor_of(&opened.reader).max(-400);
            let key = random.below(5) as u8;
            let time = floor + random.below((arrival + 10 - floor) as u64) as i64;
            let known_at = match random.below(2) {
                0 => i64::MAX,
                _ => floor + random.below((arrival + 10 - floor) as u64) as i64,
            };
            let asked = format!("seed {seed}, key {key} at {time} known at {known_at}");
            let seen = found(&opened.reader, key, time, known_at);
            assert_eq!(seen, naive(&all, key, time, known_at), "{asked}, floor {floor}");
        }
        let whole: BTreeMap<u8, State> =
            (0..5).map(|key| (key, naive(&all, key, i64::MAX, i64::MAX))).collect();
        assert_eq!(replayed(&opened.reader), whole, "seed {seed}");
        // All of it below the floor: of each key at most a row for each feature stays in a file,
        // and one without any.
        opened.writer.roll(None, 0).unwrap();
        while seal_one(&mut opened) {}
        assert!(set_floor(&mut opened, 10_000));
        while thin_one(&mut opened).is_some() || merge_one(&mut opened) {}
        strike(&mut opened);
        for file in opened.reader.sealed().iter() {
            for facts in file.sections().filter(|facts| facts.floor.is_some()) {
                let most = facts.keys * (SLOTS as u64 + 1);
                assert!(facts.rows <= most, "seed {seed}: {} rows", facts.rows);
                // Where next to nothing may go, a file is left as it is.
                let thinned = facts.floor == Some(EventTime::from_micros(10_000));
                assert!(!thinned || facts.settled == facts.rows, "seed {seed}");
            }
        }
        assert_eq!(replayed(&opened.reader), whole, "seed {seed}");
    }
    assert!(dropped > 1000, "{dropped} rows dropped");
}

#[test]
fn what_arrived_after_the_floor_is_nobodys_successor() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    // A history of a thousand years, loaded today.
    for number in 0..200 {
        let rows = [(1, number), (2, number)];
        append(&mut opened.writer, &super::request(&rows), 5000 + number / 10).unwrap();
    }
    opened.writer.roll(None, 0).unwrap();
    assert!(set_floor(&mut opened, 1000));
    while seal_one(&mut opened) {}
    assert_eq!(thin_one(&mut opened), None);
    let known = |history: &History, known_at| {
        let asked = (1, 150, u64::MAX, Some(known_at));
        super::as_of::found(history, asked).first().map(|row| row.0)
    };
    assert_eq!((known(&opened.reader, 5003), known(&opened.reader, 5015)), (Some(39), Some(150)));
    // Once the floor has passed the load, only the newest stays.
    assert!(set_floor(&mut opened, 6000));
    let mut dropped = 0;
    while let Some(rows) = thin_one(&mut opened) {
        dropped += rows;
    }
    let files = opened.reader.sealed().len() as u64;
    assert_eq!(dropped, 400 - 2 * files);
}

fn erase(opened: &Opened, key: u8, below: u64) {
    opened.reader.erase(&[VIEW], &[key], Sequence(below));
}

#[test]
fn a_read_that_runs_goes_on_learning_what_is_erased() {
    let mut opened = open_at(&FakeDisk::new()).unwrap();
    append(&mut opened.writer, &super::request(&[(1, 10), (2, 10), (3, 10)]), 10).unwrap();
    let as_of = opened.reader.as_of(Sequence::MAX, None).unwrap();
    let sees = |key: u8| {
        let mut found = false;
        let mut seen = |_: RowAt<'_>| {
            found = true;
            ControlFlow::Break(())
        };
        as_of.rows_before(VIEW, &[key], EventTime::MAX, &mut seen).unwrap();
        found
    };
    assert!(sees(1) && sees(2));
    erase(&opened, 1, 100);
    assert!(!sees(1) && sees(2));
    // Nothing of the first is left: from now on only new reads see what is newer.
    opened.reader.set_erased(crate::history::bounds::Erased::default());
    erase(&opened, 2, 100);
    assert!(!sees(1) && !sees(2));
    let lists = || {
        let mut listed = Vec::new();
        let mut take = |key: &[u8]| {
            listed.extend_from_slice(key);
            ControlFlow::Continue(())
        };
        as_of.each_key(VIEW, &mut take).unwrap();
        listed
    };
    assert!(sees(3) && lists() == [3]);
    opened.reader.erase_views(&[VIEW], Sequence(100));
    assert!(!sees(3) && lists().is_empty());
}

#[test]
fn a_view_that_is_erased_takes_no_room_to_go_and_is_not_read() {
    const GOES: ViewId = ViewId(VIEW.0 + 1);
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    let row = |sequence: u64| {
        let view = if sequence.is_multiple_of(2) { GOES } else { VIEW };
        let (time, arrival, has) = (sequence as i64, 1, [true; SLOTS]);
        Whole { view, sequence, key: 1, time, arrival, has }
    };
    let rows: Vec<Whole> = (1..=400).map(row).collect();
    append(&mut opened.writer, &request(&rows), 1).unwrap();
    opened.writer.roll(None, 0).unwrap();
    assert!(seal_one(&mut opened));
    let file = opened.reader.sealed()[0].clone();
    let sizes: Vec<u64> = file.sizes().map(|(_, bytes)| bytes).collect();
    disk.say_free(crate::history::writer::SEGMENT_BYTES_MAX + file.entry().bytes - sizes[1]);
    let task = || Some(Task::Rewrite([file.clone()].into()));
    erase(&opened, 2, 401);
    assert!(make(&mut opened, task()).is_none(), "no room for all of it");
    opened.reader.erase_views(&[GOES], Sequence(401));
    assert!(holds_erased(&file, &opened.reader.bounds()).unwrap());
    // Nor is damage there in the way.
    let path = file.file().path().to_owned();
    disk.damage(&path, |data| data[(sizes[0] + sizes[1] / 2) as usize] ^= 1);
    let made = make(&mut opened, task()).unwrap();
    assert_eq!((made.dropped, made.file.sections().count()), (200, 1));
    assert!(!holds_erased(&made.file, &opened.reader.bounds()).unwrap());
    assert_eq!(found(&opened.reader, 1, 1000, 1000), [Some(399); SLOTS]);
    assert!(see(&opened.reader, (GOES, 1), 1000, 1000).unwrap().1.is_empty());
}

#[test]
fn erased_rows_are_hidden_at_once_and_not_taken_over() {
    for seed in 0..10 {
        let mut random = Random::seeded(seed);
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut all: Vec<Whole> = Vec::new();
        for arrival in 1..300 {
            let first = opened.reader.written().0 + 1;
            let rows = random_rows(&mut random, first, arrival);
            append(&mut opened.writer, &request(&rows), arrival).unwrap();
            all.extend(rows);
            if random.below(10) == 0 {
                seal_one(&mut opened);
            }
            if random.below(20) == 0 {
                let floor = floor_of(&opened.reader).max(arrival - 100);
                assert!(set_floor(&mut opened, floor));
            }
            if random.below(30) == 0 {
                merge_one(&mut opened);
                thin_one(&mut opened);
            }
            if arrival == 200 {
                let below = opened.reader.written().0 + 1;
                erase(&opened, 3, below);
                all.retain(|row| row.key != 3);
            }
            let key = if arrival > 200 { 3 } else { random.below(5) as u8 };
            let time = floor_of(&opened.reader).max(0) + random.below(400) as i64;
            let seen = found(&opened.reader, key, time, i64::MAX);
            assert_eq!(seen, naive(&all, key, time, i64::MAX), "seed {seed} key {key} at {time}");
        }
        let listed = |opened: &Opened| {
            let mut keys = Vec::new();
            let as_of = opened.reader.as_of(Sequence::MAX, None).unwrap();
            let mut visit = |key: &[u8]| {
                keys.push(key[0]);
                ControlFlow::Continue(())
            };
            as_of.each_key(VIEW, &mut visit).unwrap();
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        assert_eq!(listed(&opened), [0, 1, 2, 3, 4]);
        let below = opened.reader.written().0 + 1;
        erase(&opened, 3, below);
        assert_eq!(listed(&opened), [0, 1, 2, 4]);
        assert_eq!(found(&opened.reader, 3, 1000, i64::MAX), [None; SLOTS]);
    }
}

/// A run of retention; returns what it was told is durable.
fn scenario(disk: &FakeDisk) -> u64 {
    let mut durable = 0;
    let Ok(mut opened) = open_at(disk) else { return durable };
    for turn in 0..10 {
        // One that failed is made up for, so that times say what must be there.
        let number = opened.reader.written().0 as i64 / 50;
        let _ = append(&mut opened.writer, &super::request(&vec![(1, number); 50]), number);
        let _ = opened.writer.sync();
        durable = durable.max(opened.reader.durable().0);
        if turn % 3 == 2 {
            while seal_one(&mut opened) {}
        }
        if turn == 5 {
            set_floor(&mut opened, 5);
        }
    }
    set_floor(&mut opened, 9);
    while thin_one(&mut opened).is_some() {}
    strike(&mut opened);
    durable
}

#[test]
fn any_operation_may_fail_and_the_power_may_go_at_any() {
    let clean = FakeDisk::new();
    assert_eq!(scenario(&clean), 500);
    let opened = open_at(&clean).unwrap();
    let sealed = opened.reader.sealed();
    let rows: u64 = sealed.iter().flat_map(|file| file.sections()).map(|facts| facts.rows).sum();
    assert!(rows < 200, "{rows} rows of 500 stay");
    drop(opened);
    for nth in 1..=clean.count_all() {
        for (error, lasting) in [(DiskErrorKind::Full, false), (DiskErrorKind::Io, true)] {
            let context = format!("operation {nth} {error:?} {lasting}");
            let disk = FakeDisk::new();
            disk.fail(Fault { operation: None, nth, lasting, error });
            let durable = scenario(&disk);
            disk.heal();
            for after in [disk.crash(), disk.crash_seeded(nth), disk] {
                let mut opened =
                    open_at(&after).unwrap_or_else(|failed| panic!("{context}: {failed}"));
                let last = opened.last_sequence.0;
                assert!(last >= durable, "{context}: {durable} durable, {last} found");
                // The newest row is there, and above the floor every row.
                let check = |opened: &Opened| {
                    let floor = floor_of(&opened.reader);
                    let all = super::as_of::found(&opened.reader, (1, 1000, u64::MAX, None));
                    assert_eq!(all.first().map_or(0, |row| row.1), last, "{context}");
                    let above = all.iter().filter(|row| row.0 >= floor).count() as u64;
                    assert_eq!(above, last.saturating_sub(50 * floor.max(0) as u64), "{context}");
                };
                check(&opened);
                while seal_one(&mut opened) || thin_one(&mut opened).is_some() {}
                check(&opened);
            }
        }
    }
}

/// What the record of an erasure says in these tests: everything of key 3 before it goes.
const ERASE: &[u8] = b"erase 3";

/// Finds the erasure where a start finds it, in the control snapshot or in the log, and hides what
/// it covers. Its sequence, if it is there.
fn take_up_erasure(opened: &Opened) -> Option<u64> {
    let of_snapshot = opened.control.as_ref().and_then(|control| {
        control.bytes.first_chunk().map(|sequence| u64::from_le_bytes(*sequence))
    });
    let mut found = of_snapshot;
    let each = |frame: &crate::history::replay::LoggedFrame<'_>| {
        for request in frame.requests().unwrap() {
            for record in request.unwrap().records() {
                if let (sequence, Record::Control(ERASE)) = record.unwrap() {
                    found = Some(sequence.0);
                }
            }
        }
        Ok::<(), ReadError>(())
    };
    opened.reader.replay(Sequence::ZERO, each).unwrap();
    opened.reader.erase(&[VIEW], &[3], Sequence(found?));
    found
}

/// A run of an erasure that is not synced by itself; whether it was made durable.
fn erasing(disk: &FakeDisk) -> bool {
    let Ok(mut opened) = open_at(disk) else { return false };
    for number in 0..6 {
        let rows: Vec<(u8, i64)> = (0..60).map(|row| ([1, 3][row % 2], number)).collect();
        let _ = append(&mut opened.writer, &super::request(&rows), number);
    }
    while seal_one(&mut opened) {}
    let mut builder = RequestBuilder::new(None).unwrap();
    builder.control(ERASE);
    let Ok(erased) = append(&mut opened.writer, &builder.finish().unwrap(), 10) else {
        return false;
    };
    opened.reader.erase(&[VIEW], &[3], erased);
    // The record is not synced, but no file may count that goes by it before it is.
    let bounds = opened.reader.bounds();
    for file in opened.reader.sealed().iter() {
        if holds_erased(file, &bounds).unwrap_or(false) {
            make(&mut opened, Some(Task::Rewrite([file.clone()].into())));
        }
    }
    let durable = opened.writer.roll(None, 0).is_ok();
    while seal_one(&mut opened) {}
    let bytes = erased.0.to_le_bytes();
    let control = ControlSnapshot { covers: opened.reader.durable(), bytes: bytes[..].into() };
    if opened.writer.save_control(control).is_ok()
        && let Ok(struck) = opened.writer.strike_segments(opened.reader.sealed_upto())
        && let Some(last) = struck.last()
    {
        opened.reader.forget_segments(*last);
        struck.iter().for_each(|first| opened.sealer.remove_segment(*first));
    }
    durable
}

#[test]
fn an_erasure_is_whole_or_not_there_whenever_the_power_goes() {
    let of = |key: u8, rows: &[Seen]| rows.iter().filter(|row| row.1 == key).count();
    let clean = FakeDisk::new();
    assert!(erasing(&clean));
    let opened = open_at(&clean).unwrap();
    assert_eq!(opened.reader.log_segments(), 1);
    let left: u64 = opened
        .reader
        .sealed()
        .iter()
        .flat_map(|file| file.sections())
        .map(|facts| facts.rows)
        .sum();
    assert_eq!((left, of(3, &super::rows(&opened.reader, 0).unwrap())), (180, 0));
    drop(opened);
    for nth in 1..=clean.count_all() {
        for lasting in [false, true] {
            let disk = FakeDisk::new();
            disk.fail(Fault { operation: None, nth, lasting, error: DiskErrorKind::Io });
            let durable = erasing(&disk);
            disk.heal();
            for after in [disk.crash(), disk.crash_seeded(nth), disk] {
                let context = format!("operation {nth} {lasting}");
                let mut opened =
                    open_at(&after).unwrap_or_else(|failed| panic!("{context}: {failed}"));
                let erased = take_up_erasure(&opened);
                assert!(erased.is_some() || !durable, "{context}: the erasure is lost");
                let check = |opened: &Opened| {
                    let seen = |key| {
                        let asked = (key, 1000, u64::MAX, None);
                        super::as_of::found(&opened.reader, asked).len()
                    };
                    let last = opened.last_sequence.0.min(360) / 2;
                    assert_eq!(seen(1) as u64, last, "{context}");
                    let whole = if erased.is_some() { 0 } else { last };
                    assert_eq!(seen(3) as u64, whole, "{context}: {erased:?}");
                };
                check(&opened);
                while seal_one(&mut opened) || merge_one(&mut opened) {}
                check(&opened);
            }
        }
    }
}
