//! Verifying a store: whatever byte of it changed is found in the file it stands in, and a store
//! that is whole has nothing to be found.
//!
//! They do not know what a restart makes of the damage; `damage` tests that.

use std::path::Path;

use super::sealing::{merge_one, seal_one, strike};
use super::*;
use crate::disk::read_whole;
use crate::history::at_rest::AtRest;
use crate::history::manifest;
use crate::history::verify::{FindingKind, InUse, Verified, verify};

/// A store with merged and single sealed files, closed segments, and an open one that ends with a
/// mark.
pub(super) fn store() -> FakeDisk {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    let write = |opened: &mut Opened, groups: std::ops::Range<i64>| {
        for number in groups {
            let group = request(&[((number % 5) as u8, number), (2, number / 2)]);
            append(&mut opened.writer, &group, number).unwrap();
            opened.writer.sync().unwrap();
        }
    };
    write(&mut opened, 0..250);
    while seal_one(&mut opened) {}
    while merge_one(&mut opened) {}
    strike(&mut opened);
    write(&mut opened, 250..300);
    assert!(seal_one(&mut opened));
    opened.writer.mark().unwrap();
    drop(opened);
    disk.crash()
}

fn check(disk: &FakeDisk) -> Verified {
    verify(disk, Path::new(ROOT), InUse::No, &mut |_, _| {})
}

fn files(disk: &FakeDisk) -> Vec<PathBuf> {
    let directory = Path::new(ROOT).join("history");
    let names = disk.list(&directory).unwrap().into_iter();
    let names = names.map(|entry| directory.join(entry.name));
    names.chain([manifest::path(Path::new(ROOT))]).collect()
}

fn length(disk: &FakeDisk, path: &Path) -> usize {
    read_whole(disk, path).unwrap().len()
}

#[test]
fn a_whole_store_has_nothing_to_be_found() {
    let disk = store();
    let verified = check(&disk);
    assert_eq!(verified.findings, []);
    assert_eq!(verified.last, Sequence(600));
    let files = files(&disk);
    assert_eq!(verified.files, files.len() as u64);
    let bytes: usize = files.iter().map(|path| length(&disk, path)).sum();
    assert_eq!(verified.bytes, bytes as u64);
    let sealed = |path: &&PathBuf| path.extension().is_some_and(|end| end == "sealed");
    assert!(files.iter().filter(sealed).count() > 1, "{files:?}");
    assert!(files.len() > 5, "{files:?}");
}

#[test]
fn a_changed_byte_is_found_in_its_file() {
    let base = store();
    let (mut tried, open) = (0, files(&base).into_iter().rev().nth(1).unwrap());
    for path in files(&base) {
        for byte in (0..length(&base, &path)).step_by(3) {
            let disk = base.crash();
            disk.damage(&path, |data| data[byte] ^= 1 << (byte % 8));
            let found = check(&disk).findings;
            let here = found.iter().find(|finding| finding.damage.path == path);
            let here = here.unwrap_or_else(|| panic!("{} {byte}: {found:?}", path.display()));
            assert!(here.damage.offset <= byte as u64 || here.kind == FindingKind::Newer);
            // Behind the last mark nothing says that it was written.
            assert!(here.kind.is_fatal() || path == open, "{} {byte}: {here:?}", path.display());
            tried += 1;
        }
    }
    assert!(tried > 5000, "{tried}");
}

#[test]
fn a_damaged_frame_names_the_sequences_that_are_lost() {
    let (base, offsets) = disk_with_frames(3);
    let path = segment_path(1);
    base.damage(&path, |data| data[offsets[1] + 70] ^= 1);
    let found = check(&base).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].damage.offset, offsets[1] as u64);
    assert_eq!(found[0].sequences, Some((Sequence(3), Sequence(4))));
    // The last frame looks torn.
    let (base, offsets) = disk_with_frames(3);
    base.damage(&path, |data| data[offsets[2] + 70] ^= 1);
    let found = check(&base).findings;
    assert_eq!((found.len(), found[0].kind), (1, FindingKind::Torn), "{found:?}");
}

#[test]
fn a_damaged_block_names_its_view_and_the_others_are_still_read() {
    let disk = store();
    let mut sealed = files(&disk).into_iter();
    let path = sealed.find(|path| path.extension().is_some_and(|end| end == "sealed")).unwrap();
    let whole = length(&disk, &path);
    disk.damage(&path, |data| data[200] ^= 1);
    let found = check(&disk).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].view, found[0].damage.offset), (Some(VIEW), 64));
    assert!(found[0].damage.reason.contains("rows from row 0 on"), "{found:?}");
    disk.damage(&path, |data| data.truncate(whole - 1));
    let found = check(&disk).findings;
    assert!(found[0].damage.reason.contains("the manifest says"), "{found:?}");
    assert_eq!(found[0].view, None);
}

#[test]
fn lost_files_and_rubbish_are_named() {
    let base = store();
    for path in files(&base) {
        let disk = base.crash();
        disk.remove(&path).unwrap();
        let found = check(&disk).findings;
        let missing = found.iter().any(|finding| {
            finding.damage.path == path
                && finding.kind == FindingKind::Damage
                && finding.damage.reason.contains("is missing")
        });
        assert!(missing, "{}: {found:?}", path.display());
    }
    let directory = Path::new(ROOT).join("history");
    for name in ["00000000000000000099.sealed", "00000000000000000099.sealed.tmp"] {
        let disk = base.crash();
        disk.create(&directory.join(name)).unwrap();
        disk.create(&directory.join("notes.txt")).unwrap();
        let found = check(&disk).findings;
        assert_eq!((found.len(), found[0].kind), (1, FindingKind::Rubbish), "{found:?}");
    }
    let disk = base.crash();
    let path = manifest::path(Path::new(ROOT));
    let old = read_whole(&store_before(&base), &path).unwrap();
    disk.damage(&path, |data| *data = old);
    assert!(check(&disk).findings.iter().any(|finding| finding.kind.is_fatal()));
}

/// The store after one more start, with a segment more.
fn store_before(base: &FakeDisk) -> FakeDisk {
    let other = base.crash();
    let mut manifest = manifest::Manifest::load(&other, Path::new(ROOT)).unwrap().unwrap();
    manifest.segments.pop();
    if let Some(last) = manifest.segments.last_mut() {
        last.last = None;
    }
    manifest.save(&other, Path::new(ROOT)).unwrap();
    other
}

#[test]
fn what_is_at_rest_is_read_again_and_damage_is_found() {
    let base = store();
    let opened = open_at(&base).unwrap();
    let at_rest = opened.reader.at_rest();
    assert!(at_rest.len() + 2 == files(&base).len(), "all but the manifest and the open segment");
    let mut bytes = 0;
    for file in &at_rest {
        let mut pace = Counting(0);
        assert_eq!(file.check(&opened.reader, &mut pace), Some(Vec::new()));
        assert!(pace.0 > 0 && pace.0 <= file.bytes(), "{} of {}", pace.0, file.bytes());
        bytes += pace.0;
        for byte in (64..pace.0 as usize).step_by(97) {
            let disk = base.crash();
            let opened = open_at(&disk).unwrap();
            disk.damage(file.path(), |data| data[byte] ^= 1 << (byte % 8));
            let again = opened.reader.at_rest();
            let again = again.iter().find(|other| other.path() == file.path()).unwrap();
            let found = again.check(&opened.reader, &mut Unhurried).unwrap();
            assert_eq!(found.first().map(|damage| &*damage.path), Some(file.path()), "{byte}");
            assert!(found[0].offset <= byte as u64, "{byte}: {found:?}");
        }
        assert_eq!(file.check(&opened.reader, &mut Never), None, "it was told to stop");
    }
    assert!(bytes > 10_000, "{bytes}");
}

/// Merges and strikes while a file is read.
struct Meanwhile<'a> {
    opened: &'a mut Opened,
    parts: usize,
}

impl Pace for Meanwhile<'_> {
    fn worked(&mut self, _: u64) -> bool {
        self.parts += 1;
        if self.parts == 1 {
            while merge_one(self.opened) {}
            strike(self.opened);
        }
        true
    }
}

#[test]
fn what_is_removed_while_it_is_read_is_let_go() {
    for segment in [false, true] {
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        for number in 0..250 {
            let group = request(&[((number % 5) as u8, number), (2, number / 2)]);
            append(&mut opened.writer, &group, number).unwrap();
            opened.writer.sync().unwrap();
        }
        while seal_one(&mut opened) {}
        let history = opened.reader.clone();
        let is_wanted = |file: &AtRest| matches!(file, AtRest::Segment(_)) == segment;
        let file = history.at_rest().into_iter().find(is_wanted).unwrap();
        assert_eq!(file.check(&history, &mut Unhurried), Some(Vec::new()));
        let mut pace = Meanwhile { opened: &mut opened, parts: 0 };
        assert_eq!(file.check(&history, &mut pace), None, "{}", file.path().display());
        assert_eq!(pace.parts, 1);
        assert!(!history.is_all_let_go());
        drop(file);
        assert!(history.is_all_let_go());
    }
}

struct Counting(u64);

impl Pace for Counting {
    fn worked(&mut self, bytes: u64) -> bool {
        self.0 += bytes;
        true
    }
}

struct Never;

impl Pace for Never {
    fn worked(&mut self, _: u64) -> bool {
        false
    }
}

#[test]
fn sizes_add_up_to_the_files() {
    let disk = store();
    let opened = open_at(&disk).unwrap();
    let sealed = opened.reader.sealed_sizes();
    let rows: u64 = sealed.values().map(|size| size.rows).sum();
    assert_eq!((sealed.len(), rows), (1, opened.reader.sealed_upto().0));
    // A head, a footer and a tail of each file belong to no view.
    let files = opened.reader.sealed();
    let whole: u64 = files.iter().map(|file| file.entry().bytes).sum();
    let around = whole - sealed[&VIEW].bytes;
    assert!(around > 96 * files.len() as u64 && around < 400 * files.len() as u64, "{around}");
    let log = opened.reader.log_sample();
    let row = Row { view: VIEW, event_time: EventTime::MIN, key: &[1], archive: &archive(1, 1) };
    assert_eq!(log[&VIEW].bytes, log[&VIEW].rows * row.logged_bytes() as u64);
}
