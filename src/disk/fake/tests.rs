//! What a power cut leaves, sector by sector and name by name, and what faults do.

use super::*;
use crate::disk::{read_whole, replace};

fn disk_with(name: &str) -> (FakeDisk, Arc<dyn DiskFile>, PathBuf) {
    let disk = FakeDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let path = Path::new("/d").join(name);
    let file = disk.create(&path).unwrap();
    (disk, file, path)
}

#[test]
fn a_crash_drops_what_was_not_synced() {
    let (disk, file, path) = disk_with("f");
    file.write_at(&[1; 600], 0).unwrap();
    file.sync_data().unwrap();
    assert!(read_whole(&disk.crash(), &path).is_err(), "the name was not synced");
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[2; 600], 300).unwrap();
    assert_eq!(read_whole(&disk.crash(), &path).unwrap(), [1; 600]);
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let after = read_whole(&disk.crash_seeded(seed), &path).unwrap();
        assert_eq!(after[..300], [1; 300], "synced bytes survive, seed {seed}");
        seen.insert(after);
    }
    assert!(seen.len() > 4, "only {} outcomes", seen.len());
}

#[test]
fn a_power_cut_does_to_each_sector_what_it_is_told() {
    let (disk, file, path) = disk_with("f");
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[2; 100], 462).unwrap();
    disk.watch();
    file.write_at(&[3; 1], 2000).unwrap();
    let number = match disk.doubts()[..] {
        [Doubt::Length(number), Doubt::Sector(_, 0), Doubt::Sector(_, 1), ..] => number,
        ref other => panic!("{other:?}"),
    };
    let moments = disk.take_moments();
    assert_eq!(moments.len(), 2, "before the write and now");
    assert_eq!(moments[0].doubts(), [Doubt::Sector(number, 0), Doubt::Sector(number, 1)]);
    let after = |first: Fate, rest: Fate| {
        let fate = |doubt| if doubt == Doubt::Sector(number, 0) { first } else { rest };
        read_whole(&moments[0].crash_by(fate), &path).unwrap()
    };
    let expected = |changed: &[u8], rest: u8| {
        [vec![1; 462], changed.to_vec(), vec![rest; 50], vec![1; 462]].concat()
    };
    assert_eq!(after(Fate::Lost, Fate::Kept), expected(&[1; 50], 2));
    assert_eq!(after(Fate::Kept, Fate::Lost), expected(&[2; 50], 1));
    assert_eq!(after(Fate::Zeroed, Fate::Zeroed), expected(&[0; 50], 0));
    let torn = [vec![2; 10], vec![1; 40]].concat();
    assert_eq!(after(Fate::Torn(10 << 1 | 1), Fate::Kept), expected(&torn, 2));
    let torn = [vec![1; 10], vec![2; 40]].concat();
    assert_eq!(after(Fate::Torn(10 << 1), Fate::Kept), expected(&torn, 2));
    let longer = disk.crash_by(|doubt| match doubt {
        Doubt::Length(_) => Fate::Kept,
        _ => Fate::Lost,
    });
    let longer = read_whole(&longer, &path).unwrap();
    assert_eq!((longer.len(), longer[2000]), (2001, 0), "longer by zeros");
    assert_ne!(disk.fingerprint(), disk.crash().fingerprint());
}

#[test]
fn an_ignored_sync_does_nothing() {
    let (disk, file, path) = disk_with("f");
    disk.ignore(Operation::SyncData);
    file.write_at(b"data", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(read_whole(&disk.crash(), &path).unwrap(), b"");
    disk.ignore(Operation::SyncDir);
    disk.remove(&path).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert!(disk.crash().open_read(&path).is_ok());
}

#[test]
fn names_are_durable_after_the_directory_is_synced() {
    let (disk, file, path) = disk_with("f");
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.remove(&path).unwrap();
    assert!(disk.crash().open_read(&path).is_ok());
    disk.sync_dir(Path::new("/d")).unwrap();
    assert!(disk.crash().open_read(&path).is_err());
    replace(&disk, &path, b"new").unwrap();
    assert_eq!(read_whole(&disk.crash(), &path).unwrap(), b"new");
}

#[test]
fn a_failed_sync_loses_the_data_and_the_next_one_lies() {
    let (disk, file, path) = disk_with("f");
    disk.sync_dir(Path::new("/d")).unwrap();
    file.preallocate(512).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"data", 0).unwrap();
    let fault = Fault {
        operation: Some(Operation::SyncData),
        nth: 1,
        lasting: false,
        error: DiskErrorKind::Io,
    };
    disk.fail(fault);
    assert_eq!(file.sync_data().err().unwrap().kind(), DiskErrorKind::Io);
    file.sync_data().unwrap();
    assert_eq!(read_whole(&disk, &path).unwrap()[..4], *b"data");
    assert_eq!(read_whole(&disk.crash(), &path).unwrap()[..4], [0; 4]);
    file.drop_cache().unwrap();
    assert_eq!(read_whole(&disk, &path).unwrap()[..4], [0; 4]);
    assert_eq!(disk.count(Operation::SyncData), 3);
}
