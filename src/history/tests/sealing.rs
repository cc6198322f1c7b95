//! Sealing and merging: whatever is in sealed files, merged ones or the log, and whenever the power
//! goes, reads and replays see every row once.
//!
//! They do not know the bytes of a sealed file; `sealed` tests those.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::as_of::{Asked, Kept, found, naive};
use super::*;
use crate::archive::RowRef;
use crate::disk::fake::Fault;
use crate::disk::{DiskErrorKind, Operation};
use crate::history::as_of::{RowAt, Visit};
use crate::history::seal::{Made, Task};
use crate::history::sealed;

/// What the engine does with a file that was made. False if it failed.
pub(super) fn install(opened: &mut Opened, made: &Made) -> bool {
    match opened.writer.name_sealed(made.file.entry(), &made.replaces) {
        Ok(()) => {
            opened.reader.publish(made.file.clone(), &made.replaces);
            made.replaces.iter().for_each(|number| opened.sealer.remove(*number));
            true
        }
        Err(WriteError::Full(_)) => {
            opened.sealer.remove(made.file.entry().number);
            false
        }
        Err(_) => false,
    }
}

pub(super) fn seal_one(opened: &mut Opened) -> bool {
    let task = opened.sealer.next_to_seal();
    make(opened, task).is_some()
}

pub(super) fn merge_one(opened: &mut Opened) -> bool {
    let task = opened.sealer.next_to_merge();
    make(opened, task).is_some()
}

pub(super) fn compact_one(opened: &mut Opened) -> bool {
    let task = opened.sealer.next_to_compact();
    make(opened, task).is_some()
}

/// Makes a file and puts it in place; none if it is not there.
pub(super) fn make(opened: &mut Opened, task: Option<Task>) -> Option<Made> {
    let made = opened.sealer.make(&task?, &mut Unhurried).ok()?;
    install(opened, &made).then_some(made)
}

/// Strikes what may be struck, with a control snapshot of all there is.
pub(super) fn strike(opened: &mut Opened) {
    let covers = opened.reader.durable();
    let bytes = covers.0.to_le_bytes().as_slice().into();
    if opened.writer.save_control(ControlSnapshot { covers, bytes }).is_err() {
        return;
    }
    if let Ok(struck) = opened.writer.strike_segments(opened.reader.sealed_upto())
        && let Some(last) = struck.last()
    {
        opened.reader.forget_segments(*last);
        struck.iter().for_each(|first| opened.sealer.remove_segment(*first));
    }
}

/// Every row by its sequence, as a restart without a checkpoint finds them.
pub(super) fn replayed(history: &History) -> BTreeMap<u64, (u8, i64)> {
    let mut all = BTreeMap::new();
    let each = |_, row: &RowIn<'_>| {
        let (key, time) = (row.key[0], row.event_time.micros());
        assert_eq!(row.archive, archive(key, time));
        assert_eq!(all.insert(row.sequence.0, (key, time)), None, "{} twice", row.sequence);
    };
    replay_rows(history, 0, each).unwrap();
    all
}

fn random_ask(random: &mut Random, rows: usize) -> Asked {
    let known_at = (random.below(2) == 0).then(|| random.below(rows as u64 / 10 + 10) as i64);
    let upto = if random.below(2) == 0 { u64::MAX } else { random.below(rows as u64 + 10) };
    (random.below(7) as u8, random.below(1100) as i64, upto, known_at)
}

#[test]
fn reads_are_the_same_before_and_after_sealing_and_merging() {
    for seed in 0..30 {
        let mut random = Random::seeded(seed);
        let mut disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut all: Vec<Kept> = Vec::new();
        let (mut merges, mut compactions, mut most) = (0, 0, 0);
        for group in 0..600 {
            let late = random.below(20) == 0;
            let time = |random: &mut Random| match late {
                true => random.below(1000) as i64,
                false => group + random.below(20) as i64,
            };
            let rows: Vec<(u8, i64)> = (0..random.below(8) + 1)
                .map(|_| (random.below(6) as u8, time(&mut random)))
                .collect();
            let arrival = group / 3;
            let first = opened.reader.written().0 + 1;
            append(&mut opened.writer, &request(&rows), arrival).unwrap();
            all.extend((first..).zip(&rows).map(|(at, row)| (at, row.0, row.1, arrival)));
            // A snapshot taken before goes on answering from the files it holds.
            let before = opened.reader.as_of(Sequence::MAX, None).unwrap();
            let (key, rows_then) = (random.below(6) as u8, all.len() as u64);
            match random.below(40) {
                0..10 => drop(seal_one(&mut opened)),
                10..15 => merges += u32::from(merge_one(&mut opened)),
                15 => strike(&mut opened),
                16 => compactions += u32::from(compact_one(&mut opened)),
                17 => {
                    opened.writer.sync().unwrap();
                    drop(opened);
                    disk = disk.crash();
                    opened = open_at(&disk).unwrap();
                }
                _ => {}
            }
            most = most.max(opened.reader.sealed().len());
            let mut seen = Vec::new();
            let mut visit = |row: crate::history::as_of::RowAt<'_>| {
                seen.push((row.event_time.micros(), row.sequence.0, row.arrival.micros()));
                std::ops::ControlFlow::Continue(())
            };
            before.rows_before(VIEW, &[key], EventTime::MAX, &mut visit).unwrap();
            assert_eq!(seen, naive(&all, (key, i64::MAX, rows_then, None)), "seed {seed}");
            let asked = random_ask(&mut random, all.len());
            assert_eq!(found(&opened.reader, asked), naive(&all, asked), "seed {seed} {asked:?}");
        }
        let model: BTreeMap<u64, (u8, i64)> =
            all.iter().map(|&(sequence, key, time, _)| (sequence, (key, time))).collect();
        assert_eq!(replayed(&opened.reader), model, "seed {seed}");
        assert!(most > 3, "seed {seed}: {most} files");
        let mut keys = Vec::new();
        let as_of = opened.reader.as_of(Sequence::MAX, None).unwrap();
        let mut visit = |key: &[u8]| {
            keys.push(key[0]);
            std::ops::ControlFlow::Continue(())
        };
        as_of.each_key(VIEW, &mut visit).unwrap();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys, [0, 1, 2, 3, 4, 5]);
        assert!(merges > 0 || seed > 5, "seed {seed}: nothing was merged");
        assert!(compactions > 0 || seed > 5, "seed {seed}: nothing was compacted");
    }
}

#[test]
fn a_start_reads_the_feet_of_sealed_files_and_no_segment_that_is_sealed() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..400 {
        append(&mut opened.writer, &request(&[(1, number); 4]), number).unwrap();
    }
    opened.writer.sync().unwrap();
    while seal_one(&mut opened) || merge_one(&mut opened) {}
    strike(&mut opened);
    assert_eq!(opened.reader.log_segments(), 1);
    let files = opened.reader.sealed().len() as u64;
    assert!(files < 8, "{files}");
    drop(opened);
    let after = disk.crash();
    let opened = open_at(&after).unwrap();
    // Of each sealed file head, tail and footer; of the log its one segment.
    assert!(after.count(Operation::Read) <= 3 * files + 4, "{}", after.count(Operation::Read));
    assert_eq!(replayed(&opened.reader).len(), 1600);
    let before = after.count(Operation::Read);
    assert_eq!(found(&opened.reader, (1, 100, u64::MAX, Some(200))).len(), 404);
    assert!(after.count(Operation::Read) > before);
}

/// A run of all that changes files; returns what it was told is durable.
fn scenario(disk: &FakeDisk) -> u64 {
    let mut durable = 0;
    let Ok(mut opened) = open_at(disk) else { return durable };
    for number in 0..10 {
        let mut group = vec![(1, number); 50];
        group.push((2, number));
        let _ = append(&mut opened.writer, &request(&group), number);
        let _ = opened.writer.sync();
        durable = durable.max(opened.reader.durable().0);
        if number % 4 == 3 {
            while seal_one(&mut opened) {}
        }
    }
    while seal_one(&mut opened) {}
    while merge_one(&mut opened) {}
    strike(&mut opened);
    durable
}

#[test]
fn any_operation_may_fail_and_the_power_may_go_at_any() {
    let clean = FakeDisk::new();
    assert_eq!(scenario(&clean), 10 * 51);
    let opened = open_at(&clean).unwrap();
    assert!(opened.reader.sealed().len() < 8 && opened.reader.log_segments() <= 2);
    drop(opened);
    let operations = clean.count_all();
    assert!(operations > 150, "{operations}");
    for nth in 1..=operations {
        for (error, lasting) in [
            (DiskErrorKind::Io, false),
            (DiskErrorKind::Full, false),
            // The power goes: nothing after it is done.
            (DiskErrorKind::Io, true),
        ] {
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
                let rows: Vec<u64> = replayed(&opened.reader).into_keys().collect();
                assert_eq!(rows, (1..=last).collect::<Vec<_>>(), "{context}");
                // It goes on from there.
                while seal_one(&mut opened) || merge_one(&mut opened) {}
                let rows = found(&opened.reader, (1, 1000, u64::MAX, None)).len()
                    + found(&opened.reader, (2, 1000, u64::MAX, None)).len();
                assert_eq!(rows as u64, last, "{context}");
            }
        }
    }
}

#[test]
fn what_the_manifest_does_not_name_is_removed_and_what_it_names_must_be_there() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..100 {
        append(&mut opened.writer, &request(&[(1, number); 4]), number).unwrap();
    }
    opened.writer.sync().unwrap();
    assert!(seal_one(&mut opened));
    let directory = Path::new(ROOT).join("history");
    let named = sealed::path(&directory, opened.reader.sealed()[0].entry().number);
    // Made, but the power goes before it is named.
    let unnamed =
        opened.sealer.make(&opened.sealer.next_to_seal().unwrap(), &mut Unhurried).unwrap();
    let unnamed = sealed::path(&directory, unnamed.file.entry().number);
    drop(opened);
    let after = disk.crash();
    after.open_read(&unnamed).unwrap();
    drop(open_at(&after).unwrap());
    assert!(after.open_read(&unnamed).is_err());
    after.open_read(&named).unwrap();
    after.remove(&named).unwrap();
    assert!(matches!(open_at(&after), Err(OpenError::Missing { path }) if path == named));
    let damaged = disk.crash();
    damaged.damage(&named, |data| {
        let last = data.len() - 30;
        data[last] ^= 1;
    });
    assert!(matches!(open_at(&damaged), Err(OpenError::Damaged(_))));
}

#[test]
fn a_damaged_segment_is_not_sealed() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..100 {
        append(&mut opened.writer, &request(&[(1, number); 4]), number).unwrap();
    }
    disk.damage(&segment_path(1), |data| data[300] ^= 1);
    let error =
        opened.sealer.make(&opened.sealer.next_to_seal().unwrap(), &mut Unhurried).err().unwrap();
    assert!(error.to_string().contains("is damaged at byte"), "{error}");
    assert_eq!(opened.reader.sealed().len(), 0);
}

/// A process that died when the manifest which names a merged file in the place of others was
/// renamed and not yet durable; the machine runs on.
fn merged_but_not_durably() -> (FakeDisk, u64) {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..10 {
        append(&mut opened.writer, &request(&[(1, number); 50]), number).unwrap();
    }
    opened.writer.sync().unwrap();
    while seal_one(&mut opened) {}
    let made = opened.sealer.make(&opened.sealer.next_to_merge().unwrap(), &mut Unhurried).unwrap();
    let operation = Some(Operation::SyncDir);
    disk.fail(Fault { operation, nth: 1, lasting: false, error: DiskErrorKind::Io });
    let named = opened.writer.name_sealed(made.file.entry(), &made.replaces);
    assert!(matches!(named, Err(WriteError::Failed(_))), "{named:?}");
    let last = opened.reader.durable().0;
    (disk, last)
}

#[test]
fn what_a_merge_replaced_stays_until_the_manifest_that_strikes_it_is_durable() {
    let mut nth = 0;
    loop {
        nth += 1;
        let (disk, last) = merged_but_not_durably();
        disk.fail(Fault { operation: None, nth, lasting: true, error: DiskErrorKind::Io });
        let opened = open_at(&disk).is_ok();
        let after = disk.crash();
        let found = open_at(&after).unwrap_or_else(|error| panic!("operation {nth}: {error}"));
        let rows: Vec<u64> = replayed(&found.reader).into_keys().collect();
        assert_eq!(rows, (1..=last).collect::<Vec<_>>(), "operation {nth}");
        if opened {
            assert!(nth > 10, "only {nth} operations");
            return;
        }
    }
}

#[test]
fn a_start_whose_log_has_all_it_needs_reads_no_sealed_file() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..12 {
        append(&mut opened.writer, &request(&[(1, number); 50]), number).unwrap();
    }
    let covers = opened.reader.written();
    let control = ControlSnapshot { covers, bytes: b"c".as_slice().into() };
    opened.writer.save_control(control).unwrap();
    while seal_one(&mut opened) || merge_one(&mut opened) {}
    let merged = opened.reader.sealed()[0].entry();
    let middle = Sequence(merged.last.0 / 2);
    let struck = opened.writer.strike_segments(middle).unwrap();
    opened.reader.forget_segments(*struck.last().unwrap());
    let begins = opened.reader.log_begins();
    assert!(begins > Sequence(1) && begins <= middle.next());
    // A sealed file that is gone is not missed.
    let path = sealed::path(&Path::new(ROOT).join("history"), merged.number);
    let mut kept = Vec::new();
    disk.damage(&path, |data| kept = std::mem::replace(data, vec![7; data.len()]));
    let each =
        |sealed: bool, row: &RowIn<'_>| assert!(!sealed, "row {} is in the log", row.sequence);
    replay_rows(&opened.reader, middle.0, each).unwrap();
    assert!(replay_rows(&opened.reader, 0, |_, _| {}).is_err(), "the file is damaged");
    disk.damage(&path, |data| *data = kept);
    assert_eq!(replayed(&opened.reader).len() as u64, covers.0);
}

#[test]
fn a_merge_that_would_fill_the_disk_waits_for_room() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..12 {
        append(&mut opened.writer, &request(&[(1, number); 50]), number).unwrap();
    }
    while seal_one(&mut opened) {}
    let needed: u64 = opened.reader.sealed()[..8].iter().map(|file| file.entry().bytes).sum();
    let room = crate::history::writer::SEGMENT_BYTES_MAX + needed;
    disk.say_free(room - 1);
    let created = disk.count(Operation::Create);
    let error =
        opened.sealer.make(&opened.sealer.next_to_merge().unwrap(), &mut Unhurried).err().unwrap();
    assert!(error.to_string().contains(&format!("{} are free", room - 1)), "{error}");
    assert_eq!(disk.count(Operation::Create), created, "nothing was written");
    disk.say_free(room);
    assert!(merge_one(&mut opened));
}

/// The newest row that has each of the wanted features, as the engine looks for them.
struct Newest {
    missing: Vec<Slot>,
    found: BTreeMap<u16, (i64, u64)>,
}

impl Visit for Newest {
    fn row(&mut self, row: RowAt<'_>) -> ControlFlow<()> {
        let cells = RowRef::access(row.archive).unwrap();
        let has = |slot: &Slot| cells.has(usize::from(slot.0));
        for slot in self.missing.iter().filter(|slot| has(slot)) {
            self.found.insert(slot.0, (row.event_time.micros(), row.sequence.0));
        }
        self.missing.retain(|slot| !has(slot));
        if self.missing.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn missing(&self) -> Option<&[Slot]> {
        (!self.missing.is_empty()).then_some(&self.missing)
    }
}

/// A row of a view that gains features as it goes, most of which the row does not have.
fn sparse_row(random: &mut Random, slots: usize) -> (Vec<bool>, Vec<u8>) {
    let layout = Layout::new((0..slots).map(|_| FeatureType::Scalar(ScalarType::Int64)));
    let has: Vec<bool> = (0..slots).map(|_| random.below(4) == 0).collect();
    let (mut encoder, mut archive) = (Encoder::default(), Vec::new());
    encoder.start(&layout);
    for slot in (0..slots).filter(|slot| has[*slot]) {
        encoder.set(&layout, Slot(slot as u16), CellRef::Value(ValueRef::Int64(7)));
    }
    encoder.finish_row(&mut archive);
    (has, archive)
}

#[test]
fn the_newest_of_each_feature_is_found_wherever_its_row_is() {
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let mut opened = open_at(&FakeDisk::new()).unwrap();
        // Key, event time, sequence, arrival, features.
        let mut all: Vec<(u8, i64, u64, i64, Vec<bool>)> = Vec::new();
        for group in 0..400 {
            let mut builder = RequestBuilder::new(None).unwrap();
            let first = opened.reader.written().0 + 1;
            for row in 0..random.below(6) + 1 {
                let (has, archive) = sparse_row(&mut random, 2 + group as usize / 40);
                let (key, time) = (random.below(3) as u8, group / 2 + random.below(30) as i64);
                let event_time = EventTime::from_micros(time);
                builder.row(&Row { view: VIEW, event_time, key: &[key], archive: &archive });
                all.push((key, time, first + row, group, has));
            }
            append(&mut opened.writer, &builder.finish().unwrap(), group).unwrap();
            match random.below(12) {
                0..6 => drop(seal_one(&mut opened)),
                6..8 => drop(merge_one(&mut opened)),
                _ => {}
            }
            let (key, time, upto, known_at) = random_ask(&mut random, all.len());
            let (key, time) = (key % 4, time % 240);
            let missing: Vec<Slot> =
                (0..random.below(4) + 1).map(|_| Slot(random.below(13) as u16)).collect();
            let mut expected = BTreeMap::new();
            for (row_key, event_time, sequence, arrival, has) in &all {
                let seen = *row_key == key && *event_time <= time && *sequence <= upto;
                if !seen || known_at.is_some_and(|known_at| *arrival > known_at) {
                    continue;
                }
                for slot in missing.iter().filter(|s| has.get(usize::from(s.0)) == Some(&true)) {
                    let newest = expected.entry(slot.0).or_insert((i64::MIN, 0));
                    *newest = (*newest).max((*event_time, *sequence));
                }
            }
            let as_of = opened.reader.as_of(Sequence(upto), known_at.map(at)).unwrap();
            let mut newest = Newest { missing, found: BTreeMap::new() };
            as_of.rows_before(VIEW, &[key], EventTime::from_micros(time), &mut newest).unwrap();
            assert_eq!(newest.found, expected, "seed {seed} group {group}");
        }
        assert!(!opened.reader.sealed().is_empty(), "seed {seed}");
    }
}

#[test]
fn what_a_panic_left_half_done_is_done_by_the_next() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..12 {
        append(&mut opened.writer, &request(&[(1, number); 50]), number).unwrap();
    }
    let all = replayed(&opened.reader);
    // A file is named, and readers are not told; then one in the place of several.
    for round in 0..9 {
        let sealed = |opened: &Opened| opened.sealer.next_to_seal();
        let task = if round < 8 { sealed(&opened) } else { opened.sealer.next_to_merge() };
        let made = opened.sealer.make(&task.unwrap(), &mut Unhurried).unwrap();
        opened.writer.name_sealed(made.file.entry(), &made.replaces).unwrap();
        for _ in 0..2 {
            opened.writer.settle(&opened.sealer).unwrap();
            let known = opened.reader.sealed();
            assert_eq!(known.len(), if round < 8 { round + 1 } else { 1 });
            assert_eq!(known.last().unwrap().entry(), made.file.entry());
            assert_eq!(replayed(&opened.reader), all, "{round}");
        }
    }
    // Segments are struck, and readers keep them.
    let covers = opened.reader.durable();
    let control = ControlSnapshot { covers, bytes: b"c".as_slice().into() };
    opened.writer.save_control(control).unwrap();
    let upto = opened.reader.sealed_upto();
    let struck = opened.writer.strike_segments(upto).unwrap();
    assert!(struck.len() > 1 && opened.reader.log_has_segment_within(upto));
    assert_eq!(opened.writer.strike_segments(upto).unwrap(), struck);
    opened.reader.forget_segments(*struck.last().unwrap());
    assert_eq!(opened.writer.strike_segments(upto).unwrap(), []);
    assert_eq!(replayed(&opened.reader), all);
}
