//! Flipped bits: every bit of every header, and ten thousand anywhere, of each kind of file of
//! history. Each is noticed, naming the file and a place at or before it, or changes no answer.
//!
//! They do not know the checks; the modules of each file test those alone.

use super::as_of::Kept;
use super::proof::log::{ask, compare};
use super::sealing::{merge_one, seal_one, strike};
use super::*;
use crate::disk::read_whole;
use crate::frame;
use crate::history::{manifest, sealed};

const ANYWHERE: u64 = 10_000;
/// Of a block of rows, what stands before its columns.
const ROWS_HEADER_BYTES: usize = 24;

/// A store of which each kind of file is there, some rows in two of them.
fn store() -> (FakeDisk, Vec<Kept>) {
    let disk = FakeDisk::new();
    let small = Options { segment_bytes: 1024, ..options() };
    let mut opened = open(Arc::new(disk.clone()), Path::new(ROOT), small).unwrap();
    let (mut random, mut rows) = (Random::seeded(1), Vec::new());
    for number in 0..75 {
        let group: Vec<(u8, i64)> =
            (0..3).map(|_| (random.below(4) as u8, random.below(60) as i64)).collect();
        let first = opened.writer.last().0 + 1;
        rows.extend((first..).zip(&group).map(|(at, row)| (at, row.0, row.1, number)));
        append(&mut opened.writer, &request(&group), number).unwrap();
        opened.writer.sync().unwrap();
        if number == 45 {
            while seal_one(&mut opened) || merge_one(&mut opened) {}
            strike(&mut opened);
        }
    }
    assert!(seal_one(&mut opened) && opened.writer.mark().unwrap());
    assert!(opened.reader.log_segments() > 2 && opened.reader.sealed().len() > 1);
    drop(opened);
    (disk.crash(), rows)
}

/// A file with the bytes of it that are headers, and where its rest of no meaning begins.
struct Target {
    path: PathBuf,
    headers: Vec<usize>,
    used: usize,
}

fn target(disk: &FakeDisk, path: PathBuf) -> Target {
    let bytes = read_whole(disk, &path).unwrap();
    let mut headers: Vec<usize> = Vec::new();
    let mut used = bytes.len();
    match &bytes[..4] {
        b"LMAN" => headers.extend(0..bytes.len()),
        b"LSEG" => {
            headers.extend(0..segment::HEADER_BYTES);
            let header = segment::SegmentHeader::decode(&bytes).unwrap();
            let found = segment::examine(&bytes, &header, |at, _| {
                headers.extend(at..at + frame::HEADER_BYTES);
            });
            used = found.end;
        }
        _ => {
            headers.extend(0..64);
            // Blocks of rows come first, behind them is all index.
            let lines = sealed::describe(&bytes).unwrap();
            let mut index = bytes.len();
            for line in lines.iter().filter_map(|line| line.strip_prefix("byte ")) {
                let (at, what) = line.split_once(": ").unwrap();
                let at: usize = at.parse().unwrap();
                match what.starts_with("rows") {
                    true => headers.extend(at..at + ROWS_HEADER_BYTES),
                    false => index = index.min(at),
                }
            }
            headers.extend(index..bytes.len());
        }
    }
    Target { path, headers, used }
}

fn targets(disk: &FakeDisk) -> Vec<Target> {
    let history = Path::new(ROOT).join("history");
    let files = disk.list(&history).unwrap().into_iter().map(|entry| history.join(entry.name));
    files.chain([manifest::path(Path::new(ROOT))]).map(|path| target(disk, path)).collect()
}

/// Flips a bit and reads everything there is. Says whether it was noticed.
fn flip(base: &FakeDisk, rows: &[Kept], path: &Path, byte: usize, bit: u8) -> bool {
    let disk = base.crash();
    disk.damage(path, |data| data[byte] ^= 1 << bit);
    let context = format!("{} byte {byte} bit {bit}", path.display());
    let named = |error: String| {
        let rest = error.strip_prefix(&format!("{} is damaged at byte ", path.display()));
        let offset = rest.and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        let right = offset.is_some_and(|offset| offset <= byte);
        assert!(right, "{context}: {error}");
    };
    let opened = match open_at(&disk) {
        Ok(opened) => opened,
        Err(error) => {
            named(error.to_string());
            return true;
        }
    };
    assert_eq!(opened.last_sequence.0, rows.len() as u64, "{context}");
    let mut random = Random::seeded(byte as u64);
    let asked = (0..4).map(|_| ask(&opened.reader, rows, &mut random));
    let errors: Vec<String> =
        asked.chain([compare(&opened.reader, rows)]).filter_map(Result::err).collect();
    let noticed = !errors.is_empty() || opened.cut.is_some();
    errors.into_iter().for_each(named);
    noticed
}

#[test]
fn a_flipped_bit_is_noticed_and_named_or_changes_nothing() {
    let (base, rows) = store();
    let targets = targets(&base);
    let mut flips: Vec<(&Path, usize, u8)> = Vec::new();
    for target in &targets {
        let bits = target.headers.iter().flat_map(|byte| (0..8).map(move |bit| (*byte, bit)));
        flips.extend(bits.map(|(byte, bit)| (target.path.as_path(), byte, bit)));
    }
    let headers = flips.len();
    let used: usize = targets.iter().map(|target| target.used).sum();
    let mut random = Random::seeded(2);
    for _ in 0..ANYWHERE {
        let mut at = random.below(used as u64) as usize;
        let target = targets.iter().find(|target| {
            let inside = at < target.used;
            at -= if inside { 0 } else { target.used };
            inside
        });
        flips.push((&target.unwrap().path, at, random.below(8) as u8));
    }
    let check = |flips: &[(&Path, usize, u8)]| {
        let noticed =
            |(path, byte, bit): &&(&Path, usize, u8)| flip(&base, &rows, path, *byte, *bit);
        flips.iter().filter(noticed).count()
    };
    let noticed = std::thread::scope(|scope| {
        let (one, other) = flips.split_at(flips.len() / 2);
        let other = scope.spawn(move || check(other));
        check(one) + other.join().unwrap()
    });
    println!("{noticed} of {} flips noticed, {headers} of them in headers", flips.len());
    // What is left has no meaning, as the mark at the end of the log.
    assert!(noticed as f64 > 0.99 * flips.len() as f64, "{noticed} of {}", flips.len());
}
