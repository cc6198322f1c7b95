//! Power cuts and failing disks.
//!
//! It does not know about damaged bytes, which `damage` tests.

use std::collections::BTreeMap;

use super::*;
use crate::disk::fake::Fault;
use crate::disk::{DiskErrorKind, Operation};

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
        let faulty = random_fault(&disk, &mut random, 6);
        let opened = open_at(&disk);
        if let Err(error) = &opened {
            assert!(faulty, "seed {seed} life {life}: {error}");
        }
        if let Ok(mut opened) = opened {
            disk.heal();
            let last = opened.last_sequence.0;
            let context = format!("seed {seed} life {life}");
            assert!(last >= durable, "{context}: {durable} durable, {last} found");
            model.retain(|&sequence, _| sequence <= last);
            let mut found = BTreeMap::new();
            for (sequence, key, time, archive) in rows(&opened.reader, 0).unwrap() {
                assert_eq!(archive, super::archive(key, time), "{context}");
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
fn random_fault(disk: &FakeDisk, random: &mut Random, rarity: u64) -> bool {
    let chosen = random.below(rarity) == 0;
    if chosen {
        let nth = random.below(60) + 1;
        let error = if random.below(2) == 0 { DiskErrorKind::Io } else { DiskErrorKind::Full };
        disk.fail(Fault { operation: None, nth, lasting: false, error });
    }
    chosen
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
fn a_first_start_that_was_killed_and_then_lost_power_leaves_nothing_in_the_way() {
    let mut nth = 0;
    loop {
        nth += 1;
        let disk = FakeDisk::new();
        let operation = Some(Operation::SyncDir);
        disk.fail(Fault { operation, nth: 1, lasting: false, error: DiskErrorKind::Io });
        assert!(open_at(&disk).is_err(), "the name of the first manifest is not durable");
        disk.fail(Fault { operation: None, nth, lasting: true, error: DiskErrorKind::Io });
        let opened = open_at(&disk).is_ok();
        open_at(&disk.crash()).unwrap_or_else(|error| panic!("operation {nth}: {error}"));
        if opened {
            assert!(nth > 10, "only {nth} operations");
            return;
        }
    }
}
