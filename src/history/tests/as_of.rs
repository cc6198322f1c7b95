//! Reads as of an instant, against looking at each row.
//!
//! It does not know how the index works.

use std::ops::ControlFlow;

use super::*;
use crate::history::as_of::RowAt;

/// A row as (sequence, key, event time, arrival).
pub(super) type Kept = (u64, u8, i64, i64);

/// What is asked: key, event time, sequence, arrival.
pub(super) type Asked = (u8, i64, u64, Option<i64>);

/// All rows of a key up to a sequence, a time and an arrival, the newest first, by looking at each
/// row.
pub(super) fn naive(all: &[Kept], (key, time, upto, known_at): Asked) -> Vec<(i64, u64, i64)> {
    let known_at = known_at.unwrap_or(i64::MAX);
    let mut found: Vec<(i64, u64, i64)> = all
        .iter()
        .filter(|row| row.1 == key && row.2 <= time && row.0 <= upto && row.3 <= known_at)
        .map(|row| (row.2, row.0, row.3))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

pub(super) fn found(history: &History, (key, time, upto, known_at): Asked) -> Vec<(i64, u64, i64)> {
    let mut found = Vec::new();
    let as_of = history.as_of(Sequence(upto), known_at.map(at)).unwrap();
    as_of
        .rows_before(VIEW, &[key], EventTime::from_micros(time), &mut |row: RowAt<'_>| {
            let micros = row.event_time.micros();
            assert_eq!(row.archive, archive(key, micros));
            found.push((micros, row.sequence.0, row.arrival.micros()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn as_of_reads_equal_a_naive_scan() {
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let disk = FakeDisk::new();
        let mut opened = open_at(&disk).unwrap();
        let mut all: Vec<Kept> = Vec::new();
        for group in 0..120 {
            let arrival = 10 * (group / 3);
            let rows: Vec<(u8, i64)> = (0..random.below(8) + 1)
                .map(|_| (random.below(4) as u8, random.below(60) as i64))
                .collect();
            let first = opened.reader.written().0 + 1;
            append(&mut opened.writer, &request(&rows), arrival).unwrap();
            all.extend((first..).zip(&rows).map(|(at, row)| (at, row.0, row.1, arrival)));
            if random.below(5) == 0 {
                let (key, time) = (random.below(5) as u8, random.below(70) as i64);
                let upto = random.below(all.len() as u64 + 10);
                let known_at = (random.below(2) == 0).then(|| random.below(400) as i64);
                let asked = (key, time, upto, known_at);
                assert_eq!(found(&opened.reader, asked), naive(&all, asked), "seed {seed}");
            }
            if group == 60 {
                opened.writer.sync().unwrap();
                drop(opened);
                opened = open_at(&disk.crash()).unwrap();
            }
        }
        for known_at in [-1, 0, 5, 10, 200, 1000] {
            let asked = (1, 100, u64::MAX, Some(known_at));
            assert_eq!(found(&opened.reader, asked), naive(&all, asked), "seed {seed}");
        }
    }
}

#[test]
fn an_as_of_read_stops_when_told_and_never_serves_damage() {
    let (disk, offsets) = disk_with_frames(3);
    let opened = open_at(&disk).unwrap();
    let as_of = opened.reader.as_of(Sequence::MAX, None).unwrap();
    assert_eq!(as_of.upto(), Sequence(6));
    let mut seen = 0;
    let mut stop = |_: RowAt<'_>| {
        seen += 1;
        ControlFlow::Break(())
    };
    as_of.rows_before(VIEW, &[1], EventTime::MAX, &mut stop).unwrap();
    assert_eq!(seen, 1);
    disk.damage(&segment_path(1), |data| data[offsets[2]..offsets[3]].fill(7));
    let mut never = |_: RowAt<'_>| panic!("a damaged row was served");
    let error = as_of.rows_before(VIEW, &[1], EventTime::MAX, &mut never).unwrap_err();
    assert!(error.to_string().contains("row of sequence 5 is not what was written"), "{error}");
    let mut none = |_: RowAt<'_>| panic!("there is no such row");
    as_of.rows_before(VIEW, &[1], EventTime::from_micros(-1), &mut none).unwrap();
    as_of.rows_before(VIEW, b"unknown", EventTime::MAX, &mut none).unwrap();
    as_of.rows_before(ViewId(9), &[1], EventTime::MAX, &mut none).unwrap();
}
