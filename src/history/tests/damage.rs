//! Files that are torn, damaged, lost or foreign.
//!
//! It does not know about power cuts, which `crash` tests.

use std::path::Path;

use super::*;
use crate::disk::read_whole;
use crate::history::inspect;
use crate::history::manifest::{self, Manifest};

#[test]
fn a_torn_last_frame_is_cut_at_every_byte() {
    let (base, offsets) = disk_with_frames(3);
    let (from, to) = (offsets[2], offsets[3]);
    let path = segment_path(1);
    let written = read_whole(&base, &path).unwrap();
    for keep in from..=to {
        let check = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let disk = base.crash();
            // Zeros in the place of zeros are no damage.
            let is_whole =
                keep == to || (what == "zeros" && written[keep..to].iter().all(|b| *b == 0));
            let expected = if is_whole { 6 } else { 4 };
            disk.damage(&path, change);
            let mut opened =
                open_at(&disk).unwrap_or_else(|error| panic!("{what} {keep}: {error}"));
            assert_eq!(opened.last_sequence, Sequence(expected), "{what} {keep}");
            // Where nothing but zeros is left, nothing shows that there was a frame.
            let nothing_left = is_whole || (keep == from && what != "garbage");
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
        for error in [rows(&opened.reader, 0).err(), opened.reader.as_of(Sequence(1), None).err()] {
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
        data[4] = 5;
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
