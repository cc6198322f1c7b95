//! Loads past the log: whole or not there whenever the power goes, seen once by every reader, and
//! gone on with where they stopped.
//!
//! They do not know the engine: its part is played by hand.

use std::collections::BTreeMap;

use super::as_of::{Kept, found, naive};
use super::sealing::{compact_one, make, merge_one, replayed, seal_one, strike};
use super::*;
use crate::disk::fake::{Fate, Fault};
use crate::disk::{DiskErrorKind, Operation};
use crate::history::bulk::{LoadArrival, Part, Staging, Tally, newest_rows};
use crate::history::inspect;
use crate::history::seal::Task;
use crate::history::sealed::{self, BuildError, Lift, SealedFile};
use crate::history::verify::{FindingKind, InUse, verify};

/// Rows of a load: key, event time, and arrival where the row says it.
pub(super) type Loaded = (u8, i64, Option<i64>);

/// All of a load, in parts of `size` rows, as arrived at `now`; none if it is not history.
pub(super) fn load(
    opened: &mut Opened,
    identity: u8,
    rows: &[Loaded],
    (size, now): (usize, i64),
) -> Option<Vec<Arc<SealedFile>>> {
    let sealer = opened.sealer.clone();
    let mut staging = sealer.stage(&[identity; 32], &mut Unhurried).ok()?;
    stage(&mut staging, rows, size).ok()?;
    let staged = staging.staged();
    let covers = Sequence(opened.writer.last().0 + staged.rows());
    let control = ControlSnapshot { covers, bytes: covers.0.to_le_bytes().as_slice().into() };
    let arrival = LoadArrival { now: at(now), by_row: rows[0].2.is_some() };
    let files = opened.writer.commit_load(&staged, arrival, control).ok()?;
    let _ = staging.end();
    Some(files)
}

/// Stages rows from where an earlier try of the same load stopped.
fn stage(staging: &mut Staging<'_>, rows: &[Loaded], size: usize) -> Result<(), BuildError> {
    let done = staging.tally().consumed as usize;
    let (mut part, mut upto) = (Part::new(VIEW), done);
    for rows in rows[done..].chunks(size) {
        for &(key, time, arrival) in rows {
            let times = (EventTime::from_micros(time), arrival.map(ArrivalTime::from_micros));
            part.push(&[key], times, |out| out.extend_from_slice(&archive(key, time)));
        }
        upto += rows.len();
        let tally = Tally { consumed: upto as u64, counts: [upto as u64 / 2, 1] };
        staging.add(&mut part, tally, &mut Unhurried)?;
    }
    Ok(())
}

/// The rows of a load as history should have them.
fn kept(rows: &[Loaded], first: u64, now: i64) -> impl Iterator<Item = Kept> {
    (first..).zip(rows).map(move |(at, row)| (at, row.0, row.1, row.2.unwrap_or(now)))
}

fn random_rows(random: &mut Random, most: u64, arrivals: Option<i64>) -> Vec<Loaded> {
    (0..random.below(most) + 1)
        .map(|_| {
            let arrival = arrivals.map(|latest| random.below(latest as u64 + 1) as i64);
            (random.below(4) as u8, random.below(60) as i64, arrival)
        })
        .collect()
}

fn staged_files(disk: &FakeDisk) -> Vec<String> {
    let entries = disk.list(&Path::new(ROOT).join("history")).unwrap();
    entries.into_iter().map(|entry| entry.name).filter(|name| !name.ends_with(".log")).collect()
}

#[test]
fn reads_and_replays_are_the_same_wherever_loads_lie() {
    let (mut merges, mut loads, mut lifted, mut ahead) = (0, 0, 0, 0);
    for seed in 0..40 {
        let mut random = Random::seeded(seed);
        let mut disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut all: Vec<Kept> = Vec::new();
        for step in 0..150_i64 {
            let now = 10 + step / 3;
            match random.below(20) {
                0..3 => {
                    let arrivals = (random.below(2) == 0).then_some(now);
                    let rows = random_rows(&mut random, 60, arrivals);
                    let first = opened.reader.written().0 + 1;
                    let size = random.below(30) as usize + 1;
                    load(&mut opened, step as u8, &rows, (size, now)).unwrap();
                    assert_eq!(opened.reader.durable().0, first + rows.len() as u64 - 1);
                    all.extend(kept(&rows, first, now));
                    loads += 1;
                }
                3..6 => drop(seal_one(&mut opened)),
                6..8 => merges += usize::from(merge_one(&mut opened)),
                8 => {
                    let files = opened.reader.sealed();
                    if let Some(file) = files.get(random.below(files.len() as u64 + 1) as usize) {
                        let made = make(&mut opened, Some(Task::Rewrite([file.clone()].into())));
                        assert_eq!(made.unwrap().file.entry().lift, Lift::default());
                    }
                }
                9 => strike(&mut opened),
                10 => {
                    opened.writer.sync().unwrap();
                    drop(opened);
                    disk = disk.crash();
                    opened = open_at(&disk).unwrap();
                }
                11 => opened.writer.roll(None, 0).unwrap(),
                12 => merges += usize::from(compact_one(&mut opened)),
                _ => {
                    let rows: Vec<(u8, i64)> = (0..random.below(20) + 1)
                        .map(|_| (random.below(4) as u8, random.below(60) as i64))
                        .collect();
                    let first = opened.reader.written().0 + 1;
                    append(&mut opened.writer, &request(&rows), now).unwrap();
                    all.extend((first..).zip(&rows).map(|(at, row)| (at, row.0, row.1, now)));
                }
            }
            let known_at = (random.below(2) == 0).then(|| random.below(70) as i64);
            let upto = random.below(all.len() as u64 + 2);
            let upto = if random.below(2) == 0 { u64::MAX } else { upto };
            let asked = (random.below(7) as u8, random.below(70) as i64, upto, known_at);
            assert_eq!(found(&opened.reader, asked), naive(&all, asked), "seed {seed} {asked:?}");
            let files = opened.reader.sealed();
            lifted += files.iter().filter(|f| f.entry().lift != Lift::default()).count();
            let end = files.last().map_or(Sequence::ZERO, |file| file.entry().last);
            ahead += usize::from(opened.reader.sealed_upto() < end);
        }
        let model: BTreeMap<u64, (u8, i64)> =
            all.iter().map(|&(sequence, key, time, _)| (sequence, (key, time))).collect();
        assert_eq!(replayed(&opened.reader), model, "seed {seed}");
        super::proof::log::compare(&opened.reader, &all).unwrap();
        let after = random.below(all.len() as u64);
        let mut seen = Vec::new();
        replay_rows(&opened.reader, after, |_, row| seen.push(row.sequence.0)).unwrap();
        seen.retain(|sequence| *sequence > after);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(after + 1..=all.len() as u64), "seed {seed}");
        opened.writer.sync().unwrap();
        drop(opened);
        let verified = verify(&disk.crash(), Path::new(ROOT), InUse::No, &mut |_, _| {});
        // That a segment without a record was removed need not be durable.
        let left = verified.findings.iter().filter(|f| f.kind != FindingKind::Rubbish);
        assert_eq!(left.count(), 0, "seed {seed}: {:?}", verified.findings);
        assert_eq!(verified.last.0, all.len() as u64);
    }
    assert!(loads > 300 && merges > 10 && lifted > 100 && ahead > 100);
}

#[test]
fn a_replay_gives_a_load_between_the_frames_before_it_and_those_behind() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    append(&mut opened.writer, &request(&[(1, 1), (2, 2)]), 1).unwrap();
    load(&mut opened, 1, &[(1, 7, None), (3, 3, None), (1, 5, None)], (2, 2)).unwrap();
    append(&mut opened.writer, &request(&[(1, 9)]), 3).unwrap();
    // Two loads with nothing between them but an empty segment.
    load(&mut opened, 2, &[(4, 1, None)], (9, 4)).unwrap();
    load(&mut opened, 3, &[(4, 2, None)], (9, 5)).unwrap();
    append(&mut opened.writer, &request(&[(5, 1)]), 6).unwrap();
    opened.writer.sync().unwrap();
    let check = |history: &History| {
        let mut seen = Vec::new();
        replay_rows(history, 0, |sealed, row| seen.push((row.sequence.0, sealed))).unwrap();
        // Within a file by key and time.
        let log = |sequence| (sequence, false);
        let file = |sequence| (sequence, true);
        let all = [log(1), log(2), file(3), file(4), file(5), log(6), file(7), file(8), log(9)];
        assert_eq!(seen, all);
    };
    check(&opened.reader);
    drop(opened);
    let opened = open_at(&disk.crash()).unwrap();
    check(&opened.reader);
    let mut seen = Vec::new();
    replay_rows(&opened.reader, 4, |_, row| seen.push(row.sequence.0)).unwrap();
    assert_eq!(seen, [5, 6, 7, 8, 9]);
    assert_eq!(opened.reader.log_segments(), 3, "none was without a record");
}

#[test]
fn a_reader_at_the_end_of_a_segment_finds_the_one_behind_a_load() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    append(&mut opened.writer, &request(&[(1, 1)]), 1).unwrap();
    assert_eq!(found(&opened.reader, (1, 9, u64::MAX, None)).len(), 1);
    // The segment behind the one that was read is replaced before anybody looks into it.
    opened.writer.roll(None, 0).unwrap();
    load(&mut opened, 1, &[(1, 2, None)], (9, 2)).unwrap();
    append(&mut opened.writer, &request(&[(1, 3)]), 3).unwrap();
    let all = [(3, 3, 3), (2, 2, 2), (1, 1, 1)];
    assert_eq!(found(&opened.reader, (1, 9, u64::MAX, None)), all);
    assert_eq!(sequences(&opened.reader, 0), [1, 3]);
}

#[test]
fn a_load_that_fails_anywhere_is_whole_or_not_there_and_can_be_given_again() {
    let rows: Vec<Loaded> = (0..50).map(|n| (n as u8 % 5, 50 - n, None)).collect();
    for error in [DiskErrorKind::Io, DiskErrorKind::Full] {
        for (lasting, with_records) in [(false, false), (false, true), (true, true)] {
            for nth in 1.. {
                let disk = FakeDisk::new();
                let mut opened = open_at(&disk).unwrap();
                if with_records {
                    append(&mut opened.writer, &request(&[(9, 1)]), 1).unwrap();
                    opened.writer.sync().unwrap();
                }
                let before = opened.reader.durable().0;
                disk.fail(Fault { operation: None, nth, lasting, error });
                let loaded = load(&mut opened, 1, &rows, (20, 7)).is_some();
                // Writers go on, or have ended for good.
                let more = append(&mut opened.writer, &request(&[(9, 2)]), 8)
                    .and_then(|_| opened.writer.sync());
                let whole = before + rows.len() as u64;
                for state in [disk.crash(), disk.crash_by(|_| Fate::Kept)] {
                    let what = format!("{error:?} at {nth}, lasting {lasting}");
                    let mut again = open_at(&state).unwrap_or_else(|e| panic!("{what}: {e}"));
                    let last = again.last_sequence.0;
                    let pushed = u64::from(more.is_ok());
                    let is_there = last == whole + pushed || last == whole + 1;
                    let is_not = last == before + pushed || last == before + 1;
                    assert!(is_there || (is_not && !loaded), "{what}: {last}");
                    assert_eq!(replayed(&again.reader).len() as u64, last, "{what}");
                    if !is_there {
                        load(&mut again, 1, &rows, (20, 9)).expect(&what);
                        let all = last + rows.len() as u64;
                        assert_eq!(replayed(&again.reader).len() as u64, all, "{what}");
                        assert!(!staged_files(&state).contains(&"LOAD".to_owned()), "{what}");
                    }
                }
                if loaded && disk.count(Operation::Write) > 0 && more.is_ok() && nth > 200 {
                    break;
                }
            }
        }
    }
}

#[test]
fn an_interrupted_load_goes_on_behind_what_is_durable_of_it() {
    let rows: Vec<Loaded> = (0..100).map(|n| (n as u8 % 5, 100 - n, None)).collect();
    let disk = FakeDisk::new();
    let opened = open_at(&disk).unwrap();
    let sealer = opened.sealer.clone();
    let mut staging = sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    stage(&mut staging, &rows[..60], 20).unwrap();
    drop(staging);
    drop((sealer, opened));
    let disk = disk.crash();
    let go_on = |disk: &FakeDisk, identity: u8| {
        let mut opened = open_at(disk).unwrap();
        let sealer = opened.sealer.clone();
        assert_eq!(opened.reader.written(), Sequence::ZERO, "nothing is seen of it");
        let tally = sealer.stage(&[identity; 32], &mut Unhurried).unwrap().tally();
        load(&mut opened, identity, &rows, (20, 5)).unwrap();
        opened.writer.sync().unwrap();
        (tally, replayed(&opened.reader).len(), staged_files(disk).len())
    };
    let verified = verify(&disk, Path::new(ROOT), InUse::No, &mut |_, _| {});
    assert_eq!(verified.findings, [], "what an interrupted load left is no rubbish");
    let says = inspect::describe(&disk, &Path::new(ROOT).join("history/LOAD")).unwrap();
    assert_eq!(says.len(), 5, "{says:?}");
    assert!(says[4].contains("3.sealed: 20 rows, ") && says[4].ends_with("row 60 of the file"));
    // It survives starts.
    drop(open_at(&disk).unwrap());
    let tally = Tally { consumed: 60, counts: [30, 1] };
    assert_eq!(go_on(&disk.crash(), 1), (tally, 100, 5));
    // Another load removes it.
    assert_eq!(go_on(&disk.crash(), 2), (Tally::default(), 100, 5));
    let path = |number| sealed::path(&Path::new(ROOT).join("history"), number);
    // What is damaged, cut or gone is loaded anew, and all behind it.
    let harm: [&dyn Fn(&FakeDisk); 3] = [
        &|disk| disk.damage(&path(2), |data| data[200] ^= 1),
        &|disk| disk.damage(&path(2), |data| data.truncate(300)),
        &|disk| disk.remove(&path(2)).unwrap(),
    ];
    for harm in harm {
        let disk = disk.crash();
        harm(&disk);
        let tally = Tally { consumed: 20, counts: [10, 1] };
        assert_eq!(go_on(&disk, 1), (tally, 100, 5));
    }
    // Without a ledger nobody knows what they are.
    let without = disk.crash();
    without.damage(&Path::new(ROOT).join("history/LOAD"), |data| data[70] ^= 1);
    let findings = verify(&without, Path::new(ROOT), InUse::No, &mut |_, _| {}).findings;
    assert_eq!(findings.len(), 3);
    assert!(findings.iter().all(|finding| finding.kind == FindingKind::Rubbish));
    assert_eq!(go_on(&without, 1), (Tally::default(), 100, 5));
}

#[test]
fn a_load_of_any_length_makes_few_files() {
    let rows: Vec<Loaded> = (0..300).map(|n| (n as u8 % 5, 300 - n, Some(n % 7))).collect();
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    let before: Vec<(u8, i64)> = (0..400).map(|n| (n as u8 % 5, n)).collect();
    append(&mut opened.writer, &request(&before), 1).unwrap();
    opened.writer.sync().unwrap();
    // Not the rows of the load, though those count from 1 until they are history.
    opened.reader.erase(&[VIEW], &[1], Sequence(401));
    let sealer = opened.sealer.clone();
    let mut staging = sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    for upto in 1..=250 {
        stage(&mut staging, &rows[..upto], 1).unwrap();
        assert!(staged_files(&disk).len() <= 64 + 1, "{upto}");
        assert_eq!((staging.tally().consumed, staging.rows()), (upto as u64, upto as u64));
    }
    drop(staging);
    let tally = sealer.stage(&[1; 32], &mut Unhurried).unwrap().tally();
    assert_eq!(tally, Tally { consumed: 250, counts: [125, 1] });
    let files = load(&mut opened, 1, &rows, (1, 9)).unwrap();
    assert!(files.len() <= 64, "{}", files.len());
    let all: Vec<Kept> = kept(&rows, 401, 9).collect();
    for known_at in 0..10 {
        let asked = (1, 1000, u64::MAX, Some(known_at));
        assert_eq!(found(&opened.reader, asked), naive(&all, asked));
    }
    assert_eq!(replayed(&opened.reader).len(), 700);
}

#[test]
fn files_of_a_load_are_merged_or_not_whenever_the_power_goes_or_the_disk_fails() {
    let rows: Vec<Loaded> = (0..66).map(|n| (n as u8 % 5, 66 - n, None)).collect();
    let whole = |disk: &FakeDisk| {
        let mut opened = open_at(disk).unwrap();
        load(&mut opened, 1, &rows, (1, 9)).unwrap();
        assert_eq!(replayed(&opened.reader).len(), rows.len());
        assert_eq!(staged_files(disk).len(), opened.reader.sealed().len());
    };
    let disk = FakeDisk::new();
    let opened = open_at(&disk).unwrap();
    let mut staging = opened.sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    stage(&mut staging, &rows[..64], 1).unwrap();
    let staged = disk.crash();
    disk.watch();
    stage(&mut staging, &rows[..65], 1).unwrap();
    assert_eq!(staged_files(&disk).len(), 65 + 1 - 7, "eight became one");
    for moment in disk.take_moments() {
        [moment.crash(), moment.crash_by(|_| Fate::Kept)].iter().for_each(whole);
    }
    for error in [DiskErrorKind::Full, DiskErrorKind::Io] {
        for nth in 1.. {
            let disk = staged.crash();
            let mut opened = open_at(&disk).unwrap();
            let sealer = opened.sealer.clone();
            let mut staging = sealer.stage(&[1; 32], &mut Unhurried).unwrap();
            disk.fail(Fault { operation: None, nth, lasting: false, error });
            if stage(&mut staging, &rows[..65], 1).is_ok() {
                break;
            }
            disk.heal();
            whole(&disk.crash());
            if error == DiskErrorKind::Full {
                staging.end().unwrap();
                assert!(sealer.all_removed());
                assert_eq!(staged_files(&disk), Vec::<String>::new(), "{nth}");
            }
            load(&mut opened, 1, &rows, (1, 9)).unwrap();
            assert_eq!(replayed(&opened.reader).len(), rows.len(), "{nth}");
        }
    }
}

#[test]
fn a_load_that_fits_is_not_refused_for_want_of_room_to_merge() {
    let rows: Vec<Loaded> = (0..70).map(|n| (n, 1, None)).collect();
    let disk = FakeDisk::new();
    let opened = open_at(&disk).unwrap();
    let mut staging = opened.sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    stage(&mut staging, &rows[..64], 1).unwrap();
    disk.say_free((128 << 20) + 1000);
    stage(&mut staging, &rows[..65], 1).unwrap();
    assert_eq!(staged_files(&disk).len(), 65 + 1);
    disk.say_free(u64::MAX);
    stage(&mut staging, &rows[..66], 1).unwrap();
    assert_eq!(staged_files(&disk).len(), 66 + 1 - 7);
}

#[test]
fn a_load_that_is_given_up_leaves_nothing() {
    let disk = FakeDisk::new();
    let opened = open_at(&disk).unwrap();
    let mut staging = opened.sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    stage(&mut staging, &[(1, 1, None), (2, 2, None)], 1).unwrap();
    assert_eq!(staged_files(&disk).len(), 3);
    staging.end().unwrap();
    assert!(staged_files(&disk).is_empty());
    disk.say_free((128 << 20) + 10);
    let mut staging = opened.sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    let full = stage(&mut staging, &[(1, 1, None)], 1).unwrap_err();
    assert!(matches!(full, BuildError::NoRoom { .. }), "{full}");
}

#[test]
fn a_ledger_that_outlived_its_load_takes_no_file_of_history_with_it() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    let sealer = opened.sealer.clone();
    let mut staging = sealer.stage(&[1; 32], &mut Unhurried).unwrap();
    stage(&mut staging, &[(1, 1, None), (2, 2, None)], 1).unwrap();
    let control = ControlSnapshot { covers: Sequence(2), bytes: b"c".as_slice().into() };
    let arrival = LoadArrival { now: at(1), by_row: false };
    opened.writer.commit_load(&staging.staged(), arrival, control).unwrap();
    // Not told that it is done, as in a crash.
    drop(staging);
    let outlived = disk.crash();
    load(&mut opened, 2, &[(3, 3, None)], (1, 2)).unwrap();
    assert_eq!(replayed(&opened.reader).len(), 3);
    drop(opened);
    assert_eq!(replayed(&open_at(&disk.crash()).unwrap().reader).len(), 3);
    // Nor does it keep one that is merged away.
    let mut opened = open_at(&outlived).unwrap();
    let files = opened.reader.sealed();
    assert_eq!((files.len(), staged_files(&outlived).len()), (2, 3));
    let (operation, error) = (Some(Operation::Remove), DiskErrorKind::Io);
    // Behind the one before the manifest is replaced.
    outlived.fail(Fault { operation, nth: 2, lasting: true, error });
    make(&mut opened, Some(Task::Rewrite(files.iter().cloned().collect()))).unwrap();
    drop((files, opened));
    outlived.heal();
    let opened = open_at(&outlived).unwrap();
    assert_eq!(staged_files(&outlived).len(), 4, "nobody has said yet that the load is history");
    opened.sealer.end_load_that(|load| *load == [2; 32]).unwrap();
    assert_eq!(staged_files(&outlived).len(), 4, "another load");
    opened.sealer.end_load_that(|load| *load == [1; 32]).unwrap();
    assert_eq!(staged_files(&outlived), ["00000000000000000003.sealed"]);
    assert_eq!(replayed(&opened.reader).len(), 2);
}

#[test]
fn a_load_that_is_history_leaves_no_ledger_after_a_power_cut() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    load(&mut opened, 1, &[(1, 1, None), (2, 2, None)], (1, 1)).unwrap();
    assert!(!staged_files(&disk.crash()).contains(&"LOAD".to_owned()));
}

#[test]
fn the_newest_row_of_every_key_is_found_across_the_files_of_a_load() {
    for seed in 0..30 {
        let mut random = Random::seeded(seed);
        let rows = random_rows(&mut random, 3000, None);
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let files = load(&mut opened, 1, &rows, (random.below(900) as usize + 1, 5)).unwrap();
        let mut newest: BTreeMap<u8, (i64, u64)> = BTreeMap::new();
        for (sequence, key, time, _) in kept(&rows, 1, 5) {
            let entry = newest.entry(key).or_default();
            *entry = (*entry).max((time, sequence));
        }
        let mut seen = Vec::new();
        let mut each = |row: &RowIn<'_>| {
            assert_eq!(row.archive, archive(row.key[0], row.event_time.micros()));
            seen.push((row.key[0], (row.event_time.micros(), row.sequence.0)));
            Ok::<(), ReadError>(())
        };
        newest_rows(&files, VIEW, &mut each).unwrap();
        assert_eq!(seen, newest.into_iter().collect::<Vec<_>>(), "seed {seed}");
    }
}
