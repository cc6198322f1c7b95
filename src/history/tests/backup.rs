//! Backups and restores: what is restored is what was there at the backup's sequence, a half backup
//! is never taken for a whole one, and nothing is written over.
//!
//! They do not know the map: `tests/commands.rs` restores a server.

use std::collections::BTreeMap;
use std::path::Path;

use super::sealing::{merge_one, replayed, seal_one, strike};
use super::verify::store;
use super::*;
use crate::disk::fake::Fault;
use crate::disk::{DiskErrorKind, Operation, read_whole};
use crate::history::backup::{
    BackupError, Backups, EPOCH_JUMP, Marker, Taken, backups, check_marker, marker_path,
    pin_directory, take,
};
use crate::history::manifest::Manifest;
use crate::history::restore::{Added, RestoreError, Restored, find, restore};
use crate::history::verify::{InUse, verify};

const TO: &str = "/backups";
const OTHER: &str = "/other";

fn back_up(disk: &FakeDisk, now: i64) -> Result<Taken, BackupError> {
    let (pinned, _lock) = pin_directory(disk, Path::new(ROOT)).unwrap();
    take(disk, &pinned, Path::new(TO), at(now), &mut |_, _| {})
}

fn restore_to(disk: &FakeDisk, from: &Path, to: &str) -> Result<Restored, RestoreError> {
    restore(disk, &find(disk, from)?, Path::new(to), None, &mut |_, _| {})
}

fn open_in(disk: &FakeDisk, root: &str) -> Opened {
    open(Arc::new(disk.clone()), Path::new(root), options()).unwrap()
}

fn rows_in(disk: &FakeDisk, root: &str) -> BTreeMap<u64, (u8, i64)> {
    replayed(&open_in(disk, root).reader)
}

#[test]
fn what_is_restored_is_what_was_backed_up() {
    let disk = store();
    let before = rows_in(&disk.crash(), ROOT);
    let taken = back_up(&disk, 1).unwrap();
    assert_eq!(taken.sequence, Sequence(600));
    assert!(verify(&disk, &taken.path, InUse::No, &mut |_, _| {}).findings.is_empty());
    let restored = restore_to(&disk, Path::new(TO), OTHER).unwrap();
    assert_eq!((restored.sequence, &restored.from), (Sequence(600), &taken.path));
    // As after a power cut: all of it is durable.
    let disk = disk.crash();
    assert_eq!(rows_in(&disk, OTHER), before);
    let mut opened = open_in(&disk, OTHER);
    assert!(opened.epoch.0 > EPOCH_JUMP, "{}", opened.epoch);
    append(&mut opened.writer, &request(&[(1, 1000)]), 1000).unwrap();
    opened.writer.sync().unwrap();
    drop(opened);
    assert_eq!(rows_in(&disk, OTHER).len(), before.len() + 1);
    assert_eq!(rows_in(&disk, ROOT), before, "the backup changed nothing");
}

#[test]
fn a_store_is_held_as_it_is_while_it_goes_on() {
    let disk = store();
    let mut opened = open_at(&disk).unwrap();
    append(&mut opened.writer, &request(&[(3, 700)]), 700).unwrap();
    // Not synced by anybody else.
    let pinned = opened.writer.pin().unwrap();
    assert_eq!((pinned.sequence, opened.reader.durable()), (Sequence(601), Sequence(601)));
    let before = replayed(&opened.reader);
    for number in 0..300 {
        let group = request(&[(1, number), (2, number)]);
        append(&mut opened.writer, &group, 800 + number).unwrap();
        opened.writer.sync().unwrap();
    }
    while seal_one(&mut opened) {}
    while merge_one(&mut opened) {}
    strike(&mut opened);
    let files = disk.list(&Path::new(ROOT).join("history")).unwrap();
    let gone = |name: &str| !files.iter().any(|entry| entry.name == name);
    assert!(pinned.files.iter().any(|file| gone(&file.name)), "sealing removed what is held");
    take(&disk, &pinned, Path::new(TO), at(1), &mut |_, _| {}).unwrap();
    restore_to(&disk, Path::new(TO), OTHER).unwrap();
    assert_eq!(rows_in(&disk.crash(), OTHER), before);
}

#[test]
fn what_an_earlier_backup_has_is_kept_once() {
    let disk = store();
    let first = back_up(&disk, 1).unwrap();
    assert_eq!(first.reused, 0);
    let mut opened = open_at(&disk).unwrap();
    append(&mut opened.writer, &request(&[(3, 700)]), 700).unwrap();
    opened.writer.sync().unwrap();
    drop(opened);
    let second = back_up(&disk, 2).unwrap();
    let sealed = disk.list(&Path::new(ROOT).join("history")).unwrap();
    let sealed = sealed.iter().filter(|entry| entry.name.ends_with(".sealed"));
    assert_eq!(second.reused, sealed.map(|entry| entry.length).sum::<u64>());
    // A copy that is damaged is not used again.
    let sealed = disk.list(&second.path.join("history")).unwrap();
    let sealed = sealed.into_iter().find(|entry| entry.name.ends_with(".sealed")).unwrap();
    let damaged = disk.crash();
    damaged.damage(&second.path.join("history").join(&sealed.name), |data| data[500] ^= 1);
    let healed = back_up(&damaged, 3).unwrap();
    assert_eq!(healed.reused, second.reused - sealed.length);
    assert!(verify(&damaged, &healed.path, InUse::No, &mut |_, _| {}).findings.is_empty());
    // The first one goes, the second stays whole, and is the newest.
    disk.remove_dir_all(&first.path).unwrap();
    let restored = restore_to(&disk, Path::new(TO), OTHER).unwrap();
    assert_eq!((restored.from, restored.sequence), (second.path, Sequence(601)));
    // The restored store's files are never taken for those of the first.
    let (pinned, lock) = pin_directory(&disk, Path::new(OTHER)).unwrap();
    let third = take(&disk, &pinned, Path::new(TO), at(3), &mut |_, _| {}).unwrap();
    drop(lock);
    assert_eq!(third.reused, 0);
    // Where there are no hard links everything is copied.
    let fault =
        Fault { operation: Some(Operation::Link), nth: 1, lasting: true, error: DiskErrorKind::Io };
    disk.fail(fault);
    let fourth = back_up(&disk, 4).unwrap();
    assert_eq!((fourth.reused, fourth.copied), (0, second.reused + second.copied));
}

#[test]
fn a_backup_is_no_data_directory_and_misses_the_end_of_its_log() {
    let disk = store();
    let made = back_up(&disk, 1).unwrap();
    let before = disk.list(&made.path).unwrap();
    let opened = open(Arc::new(disk.clone()), &made.path, options());
    assert!(matches!(opened, Err(OpenError::Backup { path }) if path == made.path));
    assert_eq!(disk.list(&made.path).unwrap(), before);
    assert!(check_marker(&disk, &made.path).is_empty());
    // The last write looks torn: only its checksum says that it was whole once.
    let directory = made.path.join("history");
    let logs = disk.list(&directory).unwrap().into_iter().map(|entry| entry.name);
    let last = logs.filter(|name| name.ends_with(".log")).max().unwrap();
    disk.damage(&directory.join(last), |data| *data.last_mut().unwrap() ^= 1);
    let found = check_marker(&disk, &made.path);
    assert_eq!(found.len(), 1);
    assert!(found[0].kind.is_fatal() && found[0].damage.reason.contains("checksum"), "{found:?}");
    disk.damage(&marker_path(&made.path), |data| data[30] ^= 1);
    let found = check_marker(&disk, &made.path);
    assert_eq!((found.len(), &found[0].damage.path), (1, &marker_path(&made.path)));
    assert!(found[0].damage.reason.starts_with("is not what was written"), "{found:?}");
}

#[test]
fn a_backup_that_was_interrupted_never_counts() {
    let base = store();
    let before = rows_in(&base.crash(), ROOT);
    let steps = {
        let disk = base.crash();
        let begun = disk.count_all();
        back_up(&disk, 1).unwrap();
        disk.count_all() - begun
    };
    for step in 1..steps {
        let disk = base.crash();
        let (pinned, lock) = pin_directory(&disk, Path::new(ROOT)).unwrap();
        let fault = Fault { operation: None, nth: step, lasting: true, error: DiskErrorKind::Io };
        disk.fail(fault);
        let taken = take(&disk, &pinned, Path::new(TO), at(1), &mut |_, _| {});
        drop(lock);
        for disk in [disk.crash(), disk.crash_seeded(step)] {
            match restore_to(&disk, Path::new(TO), OTHER) {
                Ok(_) => assert_eq!(rows_in(&disk, OTHER), before, "step {step}"),
                Err(error) => {
                    assert!(taken.is_err(), "step {step}: {error}");
                    assert!(matches!(error, RestoreError::NoBackup { .. }), "{step}: {error}");
                }
            }
            // The next one is whole.
            let again = back_up(&disk, 2).unwrap();
            let left = disk.list(Path::new(TO)).unwrap();
            let whole = left
                .iter()
                .filter(|entry| entry.directory)
                .all(|entry| Marker::load(&disk, &Path::new(TO).join(&entry.name)).is_ok());
            assert!(whole, "step {step}: {left:?}");
            let to = format!("/again-{step}");
            let restored = restore_to(&disk, &again.path, &to).unwrap();
            assert_eq!(restored.sequence, Sequence(600));
        }
    }
    assert!(steps > 40, "{steps}");
}

#[test]
fn a_restore_that_was_interrupted_is_no_data_directory() {
    let base = store();
    let before = rows_in(&base.crash(), ROOT);
    back_up(&base, 1).unwrap();
    let base = base.crash();
    // Something is written behind what is restored.
    let mut request = RequestBuilder::new(None).unwrap();
    request.control(b"control");
    let request = request.finish().unwrap();
    let chosen = find(&base, Path::new(TO)).unwrap();
    let mut step = 0;
    loop {
        step += 1;
        let disk = base.crash();
        disk.fail(Fault { operation: None, nth: step, lasting: true, error: DiskErrorKind::Io });
        let added = Some(Added { request: &request, arrival: at(1) });
        let restored = restore(&disk, &chosen, Path::new(OTHER), added, &mut |_, _| {});
        for disk in [disk.crash(), disk.crash_seeded(step)] {
            match open(Arc::new(disk.clone()), Path::new(OTHER), options()) {
                Ok(opened) if opened.last_sequence > Sequence::ZERO => {
                    assert_eq!(replayed(&opened.reader), before, "step {step}");
                    assert_eq!(opened.last_sequence, Sequence(601), "step {step}: all of it");
                    assert!(
                        opened.last_arrival > Some(at(1)),
                        "it does not arrive before the rest"
                    );
                }
                Ok(_) => {
                    let left = disk.list(&Path::new(OTHER).join("history")).unwrap();
                    let sealed = left.iter().any(|entry| entry.name.ends_with(".sealed"));
                    assert!(restored.is_err() && !sealed, "step {step}: {left:?}");
                }
                Err(error) => assert!(restored.is_err(), "step {step}: {error}"),
            }
        }
        if restored.is_ok() {
            break;
        }
    }
    assert!(step > 40, "{step}");
}

#[test]
fn damaged_backups_and_full_directories_are_refused() {
    let disk = store();
    let taken = back_up(&disk, 1).unwrap();
    let history = taken.path.join("history");
    for entry in disk.list(&history).unwrap() {
        let disk = disk.crash();
        disk.damage(&history.join(&entry.name), |data| data[100] ^= 1);
        let error = restore_to(&disk, Path::new(TO), OTHER).unwrap_err();
        assert!(
            matches!(error, RestoreError::Damaged { .. } | RestoreError::Changed { .. }),
            "{}: {error}",
            entry.name
        );
        assert!(
            disk.list(Path::new(OTHER))
                .map_or(true, |left| { !left.iter().any(|entry| entry.name == "MANIFEST") })
        );
    }
    let error = restore_to(&disk, Path::new(TO), ROOT).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    let error = restore_to(&disk, Path::new("/nowhere"), OTHER).unwrap_err();
    assert!(matches!(error, RestoreError::NoBackup { .. }), "{error}");
    disk.damage(&marker_path(&taken.path), |data| data[30] ^= 1);
    let error = restore_to(&disk, &taken.path, OTHER).unwrap_err();
    assert!(matches!(error, RestoreError::Marker(_)), "{error}");
    let error = restore_to(&disk, Path::new(TO), OTHER).unwrap_err();
    assert!(matches!(error, RestoreError::Unclear { .. }), "{error}");
}

#[test]
fn the_furthest_of_many_backups_is_taken_or_none_where_that_is_not_known() {
    let disk = store();
    let first = back_up(&disk, 9).unwrap();
    let mut opened = open_at(&disk).unwrap();
    append(&mut opened.writer, &request(&[(3, 700)]), 700).unwrap();
    opened.writer.sync().unwrap();
    drop(opened);
    // The clock went back meanwhile.
    let second = back_up(&disk, 5).unwrap();
    let found = restore_to(&disk, Path::new(TO), OTHER).unwrap();
    assert_eq!((found.from, found.sequence), (second.path.clone(), Sequence(601)));
    // The marker of one is damaged: it is named, not passed over.
    let damaged = disk.crash();
    damaged.damage(&marker_path(&second.path), |data| data[30] ^= 1);
    let Backups { whole, unreadable } = backups(&damaged, Path::new(TO)).unwrap();
    assert_eq!((whole.len(), &whole[0].0), (1, &first.path));
    assert_eq!((unreadable.len(), &unreadable[0].0), (1, &second.path));
    let error = restore_to(&damaged, Path::new(TO), "/unclear").unwrap_err();
    let said = error.to_string();
    let names = said.contains("BACKUP") && said.contains("name the one to restore");
    assert!(matches!(error, RestoreError::Unclear { .. }) && names, "{said}");
    assert_eq!(restore_to(&damaged, &first.path, "/first").unwrap().sequence, Sequence(600));
    // Backups of two stores are in no order.
    let stranger = Path::new("/stranger");
    drop(open_in(&disk, "/stranger"));
    let (pinned, _lock) = pin_directory(&disk, stranger).unwrap();
    take(&disk, &pinned, Path::new(TO), at(20), &mut |_, _| {}).unwrap();
    let error = restore_to(&disk, Path::new(TO), "/several").unwrap_err();
    assert!(matches!(error, RestoreError::Several { .. }), "{error}");
}

#[test]
fn a_damaged_store_is_not_backed_up() {
    let disk = store();
    let directory = Path::new(ROOT).join("history");
    for entry in disk.list(&directory).unwrap() {
        let disk = disk.crash();
        let path = directory.join(&entry.name);
        let whole = read_whole(&disk, &path).unwrap();
        disk.damage(&path, |data| data[whole.len() / 3] ^= 1);
        let Ok((pinned, _lock)) = pin_directory(&disk, Path::new(ROOT)) else { continue };
        let taken = take(&disk, &pinned, Path::new(TO), at(1), &mut |_, _| {});
        // In the last segment what is damaged may look torn.
        let Some(error) = taken.err() else {
            let last = pinned.files.last().unwrap();
            assert_eq!(last.name, entry.name);
            continue;
        };
        let BackupError::Damaged(findings) = error else { panic!("{}: {error}", entry.name) };
        assert!(findings[0].damage.path.ends_with(&entry.name), "{findings:?}");
        let left = disk.list(Path::new(TO)).unwrap();
        assert!(left.iter().all(|entry| !entry.directory), "{left:?}");
    }
}

#[test]
fn the_furthest_is_not_taken_where_another_past_was_backed_up_last() {
    let disk = store();
    let first = back_up(&disk, 1).unwrap();
    restore_to(&disk, &first.path, OTHER).unwrap();
    drop(open_in(&disk, OTHER));
    let (pinned, lock) = pin_directory(&disk, Path::new(OTHER)).unwrap();
    assert!(pinned.manifest.past > 0 && pinned.manifest.epoch.0 > EPOCH_JUMP);
    let drill = take(&disk, &pinned, Path::new(TO), at(2), &mut |_, _| {}).unwrap();
    drop(lock);
    // The furthest was also taken last: the first store may be gone.
    let found = find(&disk, Path::new(TO)).unwrap();
    assert_eq!((found.path, found.marker.past), (drill.path.clone(), pinned.manifest.past));
    let last = back_up(&disk, 3).unwrap();
    let error = find(&disk, Path::new(TO)).unwrap_err();
    let RestoreError::Pasts { backups, .. } = &error else { panic!("{error}") };
    assert_eq!(**backups, [drill.path, last.path.clone()]);
    assert!(error.to_string().contains("name the one to restore"), "{error}");
    restore_to(&disk, &last.path, "/named").unwrap();
}

#[test]
fn a_store_without_a_later_epoch_is_not_restored() {
    let disk = store();
    let manifest = Manifest::load(&disk, Path::new(ROOT)).unwrap().unwrap();
    let manifest = Manifest { epoch: Epoch(u32::MAX - EPOCH_JUMP), ..manifest };
    manifest.save(&disk, Path::new(ROOT)).unwrap();
    let taken = back_up(&disk, 1).unwrap();
    let error = restore_to(&disk, Path::new(TO), OTHER).unwrap_err();
    assert!(matches!(error, RestoreError::Epochs { .. }), "{error}");
    let said = error.to_string();
    let path = taken.path.display().to_string();
    assert!(said.contains(&path) && said.contains("larder export --data"), "{said}");
}
