//! The log: rows appended in groups, marks, rolls, sealing, merging and striking of segments.
//!
//! It does not know of rows that may go; `bounds` does.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::OnceLock;

use super::found::rows_of_log;
use super::{Tally, Truth};
use crate::history::as_of::RowAt;
use crate::history::sealed::Scan;
use crate::history::tests::as_of::{Asked, Kept, naive};
use crate::history::tests::bulk::{Loaded, load};
use crate::history::tests::sealing::{merge_one, seal_one, strike};
use crate::history::tests::*;

/// Entity keys there are, and event times.
const KEYS: u64 = 4;
const TIMES: u64 = 60;

/// What must be found after a crash.
#[derive(Clone)]
pub(super) struct Written {
    /// Every row that was given to the writer, by sequence.
    rows: Vec<Kept>,
    /// The sequences at which frames end.
    ends: BTreeSet<u64>,
    /// What was acknowledged as durable.
    durable: u64,
    /// What the last control snapshot covers that was acknowledged.
    control: u64,
    /// The last epoch somebody was told.
    epoch: u32,
    segment_bytes: u64,
}

impl Truth for Written {
    fn new(segment_bytes: u64) -> Self {
        let (rows, ends) = (Vec::new(), BTreeSet::new());
        Self { rows, ends, durable: 0, control: 0, epoch: 0, segment_bytes }
    }

    fn durable(&self) -> u64 {
        self.durable
    }

    fn acknowledged(&self) -> u64 {
        // Both are numbers of rows, of which there are few.
        self.durable << 32 | self.control
    }

    fn open(&self, disk: &FakeDisk) -> Result<Opened, String> {
        let options = Options { segment_bytes: self.segment_bytes, ..options() };
        let opened = open(Arc::new(disk.clone()), Path::new(ROOT), options);
        opened.map_err(|error| format!("not opened: {error}"))
    }

    fn recovered(&mut self, opened: &Opened) {
        let last = opened.last_sequence.0;
        self.rows.truncate(last as usize);
        self.ends.retain(|end| *end <= last);
        self.durable = last;
        self.epoch = opened.epoch.0;
    }

    fn check(&self, disk: &FakeDisk, random: &mut Random, _: &mut Tally) -> Result<Opened, String> {
        let opened = self.open(disk)?;
        let last = opened.last_sequence.0;
        super::check_end(last, self.durable, &self.ends)?;
        if opened.epoch.0 <= self.epoch {
            return Err(format!("epoch {} again", opened.epoch.0));
        }
        let control = opened.control.as_ref();
        let covers = control.map_or(0, |control| control.covers.0);
        let named = control.is_none_or(|control| *control.bytes == covers.to_le_bytes());
        if covers < self.control || covers > last || !named {
            return Err(format!("control snapshot of {covers}, not {}", self.control));
        }
        let rows = &self.rows[..last as usize];
        let arrival = opened.last_arrival.map_or(i64::MIN, ArrivalTime::micros);
        if rows.last().is_some_and(|row| row.3 > arrival) {
            return Err(format!("last arrival {arrival} is before that of the last row"));
        }
        compare(&opened.reader, rows)?;
        for _ in 0..3 {
            ask(&opened.reader, rows, random)?;
        }
        Ok(opened)
    }

    fn go_on(&mut self, opened: &mut Opened, random: &mut Random) -> Result<(), WriteError> {
        self.append(&mut opened.writer, random)?;
        opened.writer.sync()?;
        self.durable = opened.reader.durable().0;
        while seal_one(opened) || merge_one(opened) {}
        Ok(())
    }

    fn step(&mut self, opened: &mut Opened, _: &FakeDisk, random: &mut Random, tally: &mut Tally) {
        match random.below(26) {
            24 | 25 => tally.add("loaded", usize::from(self.load(opened, random))),
            0 => drop(opened.writer.mark()),
            1 => drop(opened.writer.roll(None, 0)),
            2 | 3 => {
                let covers = opened.reader.durable();
                let bytes = covers.0.to_le_bytes().as_slice().into();
                drop(opened.writer.save_control(ControlSnapshot { covers, bytes }));
            }
            4..7 => tally.add("sealed", usize::from(seal_one(opened))),
            7 => loop {
                let (sealed, merged) = (seal_one(opened), merge_one(opened));
                tally.add("sealed", usize::from(sealed));
                tally.add("merged", usize::from(merged));
                if !sealed && !merged {
                    break;
                }
            },
            8 => {
                let before = opened.reader.log_segments();
                strike(opened);
                tally.add("struck", before - opened.reader.log_segments());
            }
            _ => drop(self.append(&mut opened.writer, random)),
        }
        if random.below(4) > 0 {
            drop(opened.writer.sync());
        }
        self.durable = opened.reader.durable().0;
        self.control = opened.writer.manifest.control.as_ref().map_or(0, |c| c.covers.0);
    }

    fn during(&self, before: &Self) -> Self {
        Self { durable: before.durable, control: before.control, ..self.clone() }
    }
}

impl Written {
    /// Loads some rows; whether it came to its end. An identity that comes again finds what a try
    /// that was cut off left, of the same rows.
    fn load(&mut self, opened: &mut Opened, random: &mut Random) -> bool {
        let identity = random.below(3);
        let mut of_load = Random::seeded(1000 + identity);
        let rows: Vec<Loaded> = (0..of_load.below(9) + 1)
            .map(|_| (of_load.below(KEYS) as u8, of_load.below(TIMES) as i64, None))
            .collect();
        let first = opened.writer.last().0 + 1;
        let arrival = ((first / 3) as i64).max(opened.writer.last_arrival.micros());
        self.rows.truncate(first as usize - 1);
        self.ends.retain(|end| *end < first);
        self.rows.extend((first..).zip(&rows).map(|(at, row)| (at, row.0, row.1, arrival)));
        self.ends.insert(first + rows.len() as u64 - 1);
        load(opened, identity as u8, &rows, (4, arrival)).is_some()
    }

    fn append(&mut self, writer: &mut Writer, random: &mut Random) -> Result<(), WriteError> {
        let first = writer.last().0 + 1;
        let count = random.below(5) + 1;
        let group: Vec<(u8, i64)> =
            (0..count).map(|_| (random.below(KEYS) as u8, random.below(TIMES) as i64)).collect();
        // What a failed frame left behind is not in the way of the next.
        self.rows.truncate(first as usize - 1);
        self.ends.retain(|end| *end < first);
        // Arrival never decreases, even if the rows that came last are lost.
        let arrival = ((first / 3) as i64).max(writer.last_arrival.micros());
        self.rows.extend((first..).zip(&group).map(|(at, row)| (at, row.0, row.1, arrival)));
        self.ends.insert(first + count - 1);
        append(writer, &request(&group), arrival).map(|_| ())
    }
}

/// The archive of a row, made once: many more are compared.
fn archive_of(key: u8, time: i64) -> &'static [u8] {
    static MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let keys = 0..KEYS as u8;
        keys.flat_map(|key| (0..TIMES as i64).map(move |time| archive(key, time))).collect()
    });
    let at = u64::from(key) * TIMES + time as u64;
    made.get(at as usize).map_or(&[], Vec::as_slice)
}

/// Compares every row in sealed files and log, twice where it is in both, with what was written.
pub(in crate::history::tests) fn compare(history: &History, rows: &[Kept]) -> Result<(), String> {
    let mut found = vec![false; rows.len()];
    let mut see = |place: &str, row: Kept| {
        let at = row.0 as usize - 1;
        if rows.get(at) != Some(&row) {
            return Err(format!("{place} has {row:?}, not {:?}", rows.get(at)));
        }
        found[at] = true;
        Ok(())
    };
    for file in history.sealed().iter() {
        let mut count = 0;
        for facts in file.sections() {
            let mut scan = Scan::start(file, facts.view).map_err(|error| error.to_string())?;
            while let Some(scan) = &mut scan
                && let Some(row) = scan.current()
            {
                let (key, time) = (row.key[0], row.event_time.micros());
                if row.archive != archive_of(key, time) {
                    return Err(format!("sealed row {} has another archive", row.sequence));
                }
                see("a sealed file", (row.sequence.0, key, time, row.arrival.micros()))?;
                count += 1;
                scan.advance().map_err(|error| error.to_string())?;
            }
        }
        let entry = file.entry();
        if count != entry.last.0 + 1 - entry.first.0 {
            return Err(format!("sealed file {} has {count} rows", entry.number));
        }
    }
    for (sequence, (_, key), (time, arrival), archive) in rows_of_log(history)? {
        if archive != archive_of(key, time) {
            return Err(format!("row {sequence} of the log has another archive"));
        }
        see("the log", (sequence, key, time, arrival))?;
    }
    match found.iter().position(|found| !found) {
        Some(missing) => Err(format!("row {} is missing", missing + 1)),
        None => Ok(()),
    }
}

/// Compares one read as of a random instant with looking at each row.
pub(in crate::history::tests) fn ask(
    history: &History,
    rows: &[Kept],
    random: &mut Random,
) -> Result<(), String> {
    let upto = if random.below(2) == 0 { u64::MAX } else { random.below(rows.len() as u64 + 2) };
    let known_at = (random.below(3) == 0).then(|| random.below(rows.len() as u64 / 3 + 2) as i64);
    let asked: Asked = (random.below(5) as u8, random.below(70) as i64, upto, known_at);
    let as_of = history.as_of(Sequence(upto), known_at.map(at)).map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    let mut visit = |row: RowAt<'_>| {
        let time = row.event_time.micros();
        let right = row.archive == archive_of(asked.0, time);
        found.push((time, if right { row.sequence.0 } else { 0 }, row.arrival.micros()));
        ControlFlow::Continue(())
    };
    let at = EventTime::from_micros(asked.1);
    as_of.rows_before(VIEW, &[asked.0], at, &mut visit).map_err(|error| error.to_string())?;
    let wanted = naive(rows, asked);
    if found == wanted { Ok(()) } else { Err(format!("{asked:?}: {found:?}, not {wanted:?}")) }
}
