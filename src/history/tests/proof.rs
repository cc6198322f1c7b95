//! Crash states: a random workload on the fake disk, the power cut before and after every change,
//! in several ways each, and again while recovering from it.
//!
//! They do not know the engine: sealing, merging, striking, thinning and erasing are driven as it
//! drives them.
//!
//! Every state is checked against a list of what was written. `LARDER_PROOF_SEED=n` runs one seed,
//! `LARDER_PROOF_SEEDS=n` so many.

mod bounds;

mod found;

pub(super) mod log;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::*;
use crate::disk::fake::{Doubt, Fate, Fault};
use crate::disk::{DiskErrorKind, Operation};

/// What was written, and what of it must be found after a crash.
trait Truth: Clone + Send {
    /// Of an empty store.
    fn new(segment_bytes: u64) -> Self;

    /// What was acknowledged as durable.
    fn durable(&self) -> u64;

    /// A number for all that was acknowledged.
    fn acknowledged(&self) -> u64;

    /// Starts on a disk.
    fn open(&self, disk: &FakeDisk) -> Result<Opened, String>;

    /// A start found this, and from now on it is all there is.
    fn recovered(&mut self, opened: &Opened);

    /// Starts on a disk and compares everything on it.
    fn check(
        &self,
        disk: &FakeDisk,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<Opened, String>;

    /// Writes more and does what is to be done in the background.
    fn go_on(&mut self, opened: &mut Opened, random: &mut Random) -> Result<(), WriteError>;

    /// Does something.
    fn step(
        &mut self,
        opened: &mut Opened,
        disk: &FakeDisk,
        random: &mut Random,
        tally: &mut Tally,
    );

    /// What must be found while a step is under way that began `before` and ends with this: of what
    /// it does nothing is acknowledged yet.
    fn during(&self, before: &Self) -> Self;

    /// Forgets what was replaced while the step was under way.
    fn settle(&mut self) {}
}

/// How often runs did what.
#[derive(Clone, Default, Debug)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, what: &'static str, count: usize) {
        *self.0.entry(what).or_default() += count;
    }

    fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or(0)
    }

    fn take(&mut self, more: Self) {
        more.0.into_iter().for_each(|(what, count)| self.add(what, count));
    }
}

/// Whether what ends at `last` is all that is `durable`, and no half frame.
fn check_end(last: u64, durable: u64, ends: &BTreeSet<u64>) -> Result<(), String> {
    if last < durable {
        return Err(format!("{durable} was acknowledged, {last} is the last found"));
    }
    match last == 0 || ends.contains(&last) {
        true => Ok(()),
        false => Err(format!("half a batch, or a phantom: ends at {last}")),
    }
}

/// One run of a seed.
struct Run {
    random: Random,
    /// States that were checked, so that none counts twice.
    seen: HashSet<(u64, u64)>,
    tally: Tally,
}

impl Run {
    /// Checks the disk as a killed process leaves it and after several power cuts.
    fn check_moment(&mut self, moment: &FakeDisk, expected: &impl Truth) -> Result<(), String> {
        self.check_state(&moment.crash_by(|_| Fate::Kept), expected, "all kept")?;
        self.check_state(&moment.crash(), expected, "all lost")?;
        if self.random.below(4) == 0 {
            self.check_kill(moment, expected).map_err(|why| format!("killed: {why}"))?;
        }
        let doubts = moment.doubts();
        for _ in 0..3.min(doubts.len()) {
            let one = doubts[self.random.below(doubts.len() as u64) as usize];
            let (fate, rest) = match self.random.below(5) {
                0 => (Fate::Kept, Fate::Lost),
                1 => (Fate::Torn(self.random.below(1024)), Fate::Kept),
                2 => (Fate::Zeroed, Fate::Kept),
                _ => (Fate::Lost, Fate::Kept),
            };
            let after = moment.crash_by(|doubt| if doubt == one { fate } else { rest });
            self.check_state(&after, expected, &format!("{one:?} {fate:?}, the rest {rest:?}"))?;
        }
        if doubts.len() > 1 {
            let random = &mut self.random;
            let after = moment.crash_by(|doubt| match (random.below(4), doubt) {
                (0, _) => Fate::Lost,
                (1, Doubt::Sector(..)) => Fate::Torn(random.below(1024)),
                (2, Doubt::Sector(..)) => Fate::Zeroed,
                _ => Fate::Kept,
            });
            self.check_state(&after, expected, "mixed")?;
        }
        Ok(())
    }

    fn check_state(
        &mut self,
        disk: &FakeDisk,
        expected: &impl Truth,
        how: &str,
    ) -> Result<(), String> {
        if !self.is_new(disk, expected) {
            return Ok(());
        }
        let checked = match self.random.below(12) {
            0 => self.check_thoroughly(disk, expected),
            1 => self.check_recovery(disk, expected),
            _ => self.check(disk, expected).map(drop),
        };
        checked.map_err(|why| format!("{how}: {why}"))
    }

    fn is_new(&mut self, disk: &FakeDisk, expected: &impl Truth) -> bool {
        let is_new = self.seen.insert((disk.fingerprint(), expected.acknowledged()));
        self.tally.add("states", usize::from(is_new));
        is_new
    }

    fn check(&mut self, disk: &FakeDisk, expected: &impl Truth) -> Result<Opened, String> {
        expected.check(disk, &mut self.random, &mut self.tally)
    }

    /// Checks a state, then once more what that left, then with more written behind it.
    fn check_thoroughly(&mut self, disk: &FakeDisk, expected: &impl Truth) -> Result<(), String> {
        let found = self.check(disk, expected)?;
        let (last, mut after) = (found.last_sequence, expected.clone());
        after.recovered(&found);
        drop(found);
        let again = self.check(&disk.crash(), &after).map_err(|why| format!("again: {why}"))?;
        if again.last_sequence != last {
            return Err(format!("recovered {last} rows, then {}", again.last_sequence));
        }
        let mut opened = after.open(disk).map_err(|why| format!("the third time: {why}"))?;
        let went_on = after.go_on(&mut opened, &mut self.random);
        went_on.map_err(|error| format!("no more writes: {error}"))?;
        drop(opened);
        self.check(&disk.crash(), &after).map_err(|why| format!("gone on: {why}")).map(drop)
    }

    /// The process dies and starts again, nothing being synced in between; then the power goes.
    fn check_kill(&mut self, moment: &FakeDisk, expected: &impl Truth) -> Result<(), String> {
        let disk = moment.take_moments().remove(0);
        disk.watch();
        let opened = expected.open(&disk)?;
        let mut after = expected.clone();
        after.recovered(&opened);
        drop(opened);
        let mut moments = disk.take_moments();
        let recovered = moments.pop().into_iter().map(|moment| (moment, &after));
        let during = moments.into_iter().map(|moment| (moment, expected));
        for (moment, expected) in during.chain(recovered).collect::<Vec<_>>() {
            let mixed = moment.crash_seeded(self.random.below(u64::MAX));
            for state in [moment.crash(), mixed] {
                if self.is_new(&state, expected) {
                    self.check(&state, expected)?;
                }
            }
        }
        Ok(())
    }

    /// Cuts the power again, before and after each change that recovery makes.
    fn check_recovery(&mut self, disk: &FakeDisk, expected: &impl Truth) -> Result<(), String> {
        disk.watch();
        let found = self.check(disk, expected)?;
        let (last, mut after) = (found.last_sequence, expected.clone());
        after.recovered(&found);
        drop(found);
        for moment in disk.take_moments() {
            let mixed = moment.crash_seeded(self.random.below(u64::MAX));
            for state in [moment.crash(), mixed] {
                if !self.is_new(&state, &after) {
                    continue;
                }
                // Nobody was told yet of the epoch that the first recovery found.
                let found = self.check(&state, expected);
                let found = found.map_err(|why| format!("while recovering: {why}"))?.last_sequence;
                if found != last {
                    return Err(format!("recovered {last} rows, after another crash {found}"));
                }
            }
        }
        Ok(())
    }

    /// A life of the server, each step of it checked; returns the disk it leaves.
    fn live(&mut self, disk: &FakeDisk, expected: &mut impl Truth) -> Result<(), String> {
        disk.watch();
        let faulty = self.random.below(4) == 0;
        if faulty {
            let nth = self.random.below(150) + 1;
            let error =
                if self.random.below(2) == 0 { DiskErrorKind::Io } else { DiskErrorKind::Full };
            disk.fail(Fault { operation: None, nth, lasting: self.random.below(3) == 0, error });
        }
        let opened = expected.open(disk);
        for moment in disk.take_moments() {
            self.check_moment(&moment, expected)?;
        }
        let mut opened = match opened {
            Ok(opened) => opened,
            Err(_) if faulty => return Ok(()),
            Err(why) => return Err(why),
        };
        if opened.last_sequence.0 < expected.durable() {
            return Err(format!("lives on with {}", opened.last_sequence));
        }
        expected.recovered(&opened);
        for step in 0..30 {
            let before = expected.clone();
            expected.step(&mut opened, disk, &mut self.random, &mut self.tally);
            let during = expected.during(&before);
            expected.settle();
            let moments = disk.take_moments();
            let last = moments.len() - 1;
            for (index, moment) in moments.iter().enumerate() {
                let expected = if index == last { &*expected } else { &during };
                self.check_moment(moment, expected)
                    .map_err(|why| format!("step {step} change {index}: {why}"))?;
            }
        }
        Ok(())
    }
}

/// Runs a seed on a disk that may `ignore` syncs of a kind. Returns what it did.
fn run<T: Truth>(seed: u64, ignore: Option<Operation>) -> Result<Tally, String> {
    let mut run =
        Run { random: Random::seeded(seed), seen: HashSet::new(), tally: Tally::default() };
    let mut disk = FakeDisk::new();
    let mut expected = T::new(640 << run.random.below(3));
    for life in 0..3 {
        ignore.into_iter().for_each(|sync| disk.ignore(sync));
        let lived = run.live(&disk, &mut expected);
        lived.map_err(|why| format!("seed {seed} life {life}: {why}"))?;
        disk = match run.random.below(3) {
            0 => disk.crash(),
            1 => disk.crash_by(|_| Fate::Kept),
            _ => disk.crash_seeded(run.random.below(u64::MAX)),
        };
    }
    Ok(run.tally)
}

/// Runs seeds on two threads; returns what they did and what went wrong first.
fn run_all<T: Truth>(seeds: std::ops::Range<u64>) -> (Tally, Option<String>) {
    let half = |odd: u64| {
        let seeds = seeds.clone();
        move || {
            let mut tally = Tally::default();
            for seed in seeds.filter(|seed| seed % 2 == odd) {
                match run::<T>(seed, None) {
                    Ok(more) => tally.take(more),
                    Err(why) => return (tally, Some(why)),
                }
            }
            (tally, None)
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(half(1));
        let (mut tally, wrong) = half(0)();
        let (more, also) = other.join().expect("a failing seed is returned");
        tally.take(more);
        (tally, wrong.or(also))
    })
}

/// Runs the seeds that were asked for, or `usual` many. Then all of `counts` must be reached.
fn prove<T: Truth>(what: &str, usual: u64, counts: &[(&str, usize)]) {
    let asked = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seeds = match (asked("LARDER_PROOF_SEED"), asked("LARDER_PROOF_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(usual),
    };
    let (tally, wrong) = run_all::<T>(seeds.clone());
    assert_eq!(wrong, None, "repeat with LARDER_PROOF_SEED");
    println!("{what}, seeds {seeds:?}: {:?}", tally.0);
    for (count, least) in counts {
        let enough = seeds != (0..usual) || tally.of(count) >= *least;
        assert!(enough, "{} {count}, at least {least} wanted", tally.of(count));
    }
}

#[test]
fn every_crash_state_recovers_to_what_was_acknowledged() {
    let least =
        [("states", 20_000), ("sealed", 20), ("merged", 20), ("struck", 20), ("loaded", 20)];
    prove::<log::Written>("log", 32, &least);
}

#[test]
fn every_crash_state_keeps_what_may_not_go_and_hides_what_is_erased() {
    let counts = [
        ("states", 8_000),
        ("dropped", 20),
        ("erased", 5),
        ("views", 5),
        ("finished", 3),
        ("backups", 5),
        ("restored", 50),
    ];
    prove::<bounds::Bounded>("retention, erasure and backup", 4, &counts);
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    for sync in [Operation::SyncData, Operation::SyncDir] {
        let log = (0..3).filter_map(|seed| run::<log::Written>(seed, Some(sync)).err()).next();
        let bounds = (0..3).filter_map(|seed| run::<bounds::Bounded>(seed, Some(sync)).err());
        let lost = log.is_some() && bounds.into_iter().next().is_some();
        assert!(lost, "{sync} does nothing and nobody noticed");
    }
}
