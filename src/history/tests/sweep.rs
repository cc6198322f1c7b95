//! Reads at many instants, against one walk after another.
//!
//! They do not look into files: what a walk shows, `as_of` and `sealed` test.

use std::ops::ControlFlow;

use super::*;
use crate::disk::Operation;
use crate::history::as_of::{RowAt, Visit};

/// Cases of the whole test.
const CASES: usize = 10_000;
const SLOTS: u16 = 3;

/// What was shown: event time, sequence, arrival, which features, what they say.
type Shown = (i64, u64, i64, Vec<u8>);

/// Looks until it has so many rows, or has seen every slot it looks for.
#[derive(Clone)]
struct Look {
    most: usize,
    missing: Vec<Slot>,
    all: bool,
    shown: Vec<Shown>,
}

impl Visit for Look {
    fn row(&mut self, row: RowAt<'_>) -> ControlFlow<()> {
        let cells = crate::archive::RowRef::access(row.archive).unwrap();
        let of_interest = self.all || self.missing.iter().any(|slot| cells.has(slot.0.into()));
        // What has nothing that is looked for may be left out, so it is not compared.
        if of_interest {
            let (time, arrival) = (row.event_time.micros(), row.arrival.micros());
            self.shown.push((time, row.sequence.0, arrival, row.archive.to_vec()));
        }
        self.missing.retain(|slot| !cells.has(slot.0.into()));
        let done = self.shown.len() >= self.most || (!self.all && self.missing.is_empty());
        if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn missing(&self) -> Option<&[Slot]> {
        (!self.all).then_some(&self.missing)
    }
}

fn partial(random: &mut Random, number: i64) -> Vec<u8> {
    let layout = Layout::new([FeatureType::Scalar(ScalarType::Int64); SLOTS as usize]);
    let (mut encoder, mut archive) = (Encoder::default(), Vec::new());
    encoder.start(&layout);
    let whole = random.below(3) == 0;
    let one = random.below(SLOTS.into()) as u16;
    for slot in 0..SLOTS {
        if whole || slot == one || random.below(4) == 0 {
            let value = CellRef::Value(ValueRef::Int64(number));
            let cell = if random.below(5) == 0 { CellRef::Null } else { value };
            encoder.set(&layout, Slot(slot), cell);
        }
    }
    encoder.finish_row(&mut archive);
    archive
}

/// A store of some sealed files, merged ones and a log; rows come late, in parts, and at one time.
fn random_store(random: &mut Random) -> Opened {
    let mut opened = open_at(&FakeDisk::new()).unwrap();
    let groups = 20 + random.below(400) as i64;
    for group in 0..groups {
        let mut builder = RequestBuilder::new(None).unwrap();
        for _ in 0..=random.below(9) {
            let time = match random.below(10) {
                0 => random.below(groups as u64) as i64,
                _ => group + random.below(3) as i64,
            };
            let view = ViewId(1 + (random.below(8) == 0) as u32);
            let keys: [&[u8]; 5] = [b"key a", b"key b", b"key bb", b"k\0\0\0c", b"other"];
            let key = keys[random.below(5) as usize];
            let archive = partial(random, group);
            let event_time = EventTime::from_micros(time);
            builder.row(&Row { view, event_time, key, archive: &archive });
        }
        append(&mut opened.writer, &builder.finish().unwrap(), group / 3).unwrap();
        match random.below(30) {
            0 => drop(super::sealing::seal_one(&mut opened)),
            1 => drop(super::sealing::merge_one(&mut opened)),
            _ => {}
        }
    }
    while random.below(3) > 0 && super::sealing::seal_one(&mut opened) {}
    opened
}

#[test]
fn a_sweep_shows_what_walks_show() {
    let (mut cases, mut seed, mut found) = (0, 0, 0);
    while cases < CASES {
        seed += 1;
        let mut random = Random::seeded(seed);
        let opened = random_store(&mut random);
        let last = opened.reader.written().0;
        let upto = if random.below(2) == 0 { u64::MAX } else { random.below(last + 2) };
        let bound = (random.below(3) == 0).then(|| at(random.below(150) as i64));
        let as_of = opened.reader.as_of(Sequence(upto), bound).unwrap();
        let keys: [&[u8]; 7] =
            [b"a", b"k\0\0\0c", b"key a", b"key b", b"key ba", b"key bb", b"other"];
        let mut asked: Vec<(&[u8], i64)> = (0..100 + random.below(300))
            .map(|_| (keys[random.below(7) as usize], random.below(450) as i64 - 3))
            .collect();
        if random.below(4) > 0 {
            asked.sort_unstable();
        }
        for view in [VIEW, ViewId(2), ViewId(3)] {
            let mut sweep = as_of.sweep(view);
            for &(key, time) in &asked {
                let known_at = match random.below(3) {
                    0 => random.below(150) as i64,
                    _ => i64::MAX,
                };
                let all = random.below(3) == 0;
                let wanted = (0..SLOTS).map(Slot).filter(|slot| (seed >> slot.0) & 1 == 1);
                let look = Look {
                    most: 1 + random.below(6) as usize,
                    missing: wanted.collect(),
                    all,
                    shown: Vec::new(),
                };
                let (mut one, mut other) = (look.clone(), look);
                let time = EventTime::from_micros(time);
                sweep.turn_to(key);
                sweep.rows_before((time, at(known_at)), &mut one).unwrap();
                // The twin: a snapshot of what was known then, and one walk.
                let bound = bound.map_or(at(known_at), |bound| bound.min(at(known_at)));
                let then = opened.reader.as_of(Sequence(upto), Some(bound)).unwrap();
                then.rows_before(view, key, time, &mut other).unwrap();
                assert_eq!(one.shown, other.shown, "seed {seed} {key:?} {time} {known_at}");
                found += one.shown.len();
                cases += 1;
            }
        }
    }
    assert!(found > CASES / 2, "only {found} rows were shown");
}

#[test]
fn a_sweep_reads_many_blocks_at_once_or_those_it_needs_and_leaves_the_cache_alone() {
    let disk = FakeDisk::new();
    let mut opened = open_at(&disk).unwrap();
    for number in 0..2000_i64 {
        let rows: Vec<(u8, i64)> = (0..4).map(|key| (key * 50, number)).collect();
        append(&mut opened.writer, &request(&rows), number).unwrap();
    }
    while super::sealing::seal_one(&mut opened) || super::sealing::merge_one(&mut opened) {}
    let as_of = opened.reader.as_of(Sequence::MAX, None).unwrap();
    let bytes: u64 = opened.reader.sealed().iter().map(|file| file.entry().bytes).sum();
    let blocks = bytes.div_ceil(4 << 10);
    let read = |asked: &mut dyn Iterator<Item = (u8, i64)>| {
        let before = disk.count(Operation::Read);
        let mut sweep = as_of.sweep(VIEW);
        for (key, time) in asked {
            let mut first = |_: RowAt<'_>| ControlFlow::Break(());
            let at = EventTime::from_micros(time);
            sweep.turn_to(&[key]);
            sweep.rows_before((at, ArrivalTime::MAX), &mut first).unwrap();
        }
        disk.count(Operation::Read) - before
    };
    // Every row of every key; what is in the log is read row by row.
    let files = opened.reader.sealed().len() as u64;
    let sealed = (opened.reader.sealed_upto().0 / 4) as i64 - 1;
    let all = read(&mut (0..=250).flat_map(|key| (0..sealed).map(move |time| (key, time))));
    assert!(all <= blocks / 4 + 8 * files, "{all} reads of {blocks} blocks");
    let one = read(&mut std::iter::once((50, 700)));
    assert!(one <= 2 * files, "{one} reads of {files} files");
    assert!(one > 0, "what was swept before was kept");
}
