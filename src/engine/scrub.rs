//! Reads everything at rest again and again, so that damage is found while there are backups that
//! lack it, within an I/O budget.
//!
//! It does not know the bytes; it decides when they are read, and keeps what is found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::Disk;
use crate::engine::seal::Budget;
use crate::engine::shared::Shared;
use crate::engine::stop::Stop;
use crate::history::Damage;
use crate::history::at_rest::AtRest;
use crate::history::manifest::{self, Manifest};
use crate::history::pace::Pace;
use crate::time::{Span, Stopwatch};

/// The slowest it reads, in bytes a second: a small history is read in minutes, not in days.
const LEAST_RATE: u64 = 1 << 20;
/// The part of the time between two rounds that one may take: the rest is for restarts, after each
/// of which a round begins anew.
const PART_OF_TIME: u64 = 4;

/// What is known to be damaged, by file.
#[derive(Default)]
pub(super) struct Damages {
    found: Mutex<BTreeMap<PathBuf, Damage>>,
}

impl Damages {
    /// All of it, the first of each file.
    pub(super) fn all(&self) -> Vec<Damage> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Takes up what was found; says whether the file was not known to be damaged.
    fn add(&self, damage: Damage) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.insert(damage.path.clone(), damage).is_none()
    }

    fn retain(&self, keep: impl Fn(&PathBuf) -> bool) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.retain(|path, _| keep(path));
    }
}

/// Reads everything at rest once in a while.
pub(super) struct Scrubber {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    /// The data directory.
    pub(super) root: PathBuf,
    /// In this time everything is read once.
    pub(super) every: Span,
}

impl Scrubber {
    /// Works until it is told to stop.
    pub(super) fn run(&self, stop: &Stop) {
        loop {
            let watch = Stopwatch::start();
            let mut budget = Budget::new(self.rate(), stop);
            if !self.round(&mut budget) {
                return;
            }
            if !budget.waits(self.every.to_std().saturating_sub(watch.elapsed())) {
                return;
            }
        }
    }

    fn rate(&self) -> u64 {
        let bytes: u64 = self.shared.history.at_rest().iter().map(AtRest::bytes).sum();
        let seconds = (self.every.to_std().as_secs() / PART_OF_TIME).max(1);
        let most = self.shared.maintenance_rate;
        (bytes / seconds).clamp(LEAST_RATE.min(most), most)
    }

    /// Reads everything once. False if it was told to stop.
    fn round(&self, budget: &mut Budget<'_>) -> bool {
        let there = self.shared.history.at_rest();
        let mut paths: Vec<PathBuf> = there.iter().map(|file| file.path().to_owned()).collect();
        drop(there);
        // A server that is started often reaches all files all the same.
        let start = random_below(paths.len());
        paths.rotate_left(start);
        self.check_manifest();
        for path in &paths {
            // Not held from the start: the bytes of what is removed meanwhile would stay.
            let there = self.shared.history.at_rest();
            let file = there.into_iter().find(|file| file.path() == path);
            let Some(file) = file else { continue };
            let mut counted = Counted { budget: &mut *budget, shared: &self.shared };
            // None if it was removed meanwhile, or the work is to end.
            let found = file.check(&self.shared.history, &mut counted);
            match found.map(|found| found.into_iter().next()) {
                Some(Some(damage)) => self.report(damage),
                Some(None) => self.shared.damages.retain(|path| path != file.path()),
                None => {}
            }
            drop(file);
            if !budget.waits(Duration::ZERO) {
                return false;
            }
        }
        let manifest = manifest::path(&self.root);
        let there = self.shared.history.at_rest();
        let is_there =
            |path: &PathBuf| *path == manifest || there.iter().any(|file| file.path() == path);
        self.shared.damages.retain(is_there);
        self.publish();
        let metrics = &self.shared.metrics;
        metrics.scrubs.increment();
        metrics.scrub_completed.set_time(self.shared.clock.now());
        true
    }

    fn check_manifest(&self) {
        let path = manifest::path(&self.root);
        let reason = match Manifest::load(self.disk.as_ref(), &self.root) {
            Ok(Some(_)) => return self.shared.damages.retain(|damaged| *damaged != path),
            Ok(None) => "is missing".to_owned(),
            Err(error) => error.to_string(),
        };
        self.report(Damage { path, offset: 0, reason });
    }

    fn report(&self, damage: Damage) {
        let Damage { path, offset, reason } = &damage;
        let path = path.display();
        if self.shared.damages.add(damage.clone()) {
            tracing::error!(
                file = %path,
                offset,
                reason,
                "history is damaged on the disk; reads of what is damaged fail, all else goes on; \
                 run larder verify, and restore a backup"
            );
        }
        self.publish();
    }

    fn publish(&self) {
        let damaged = self.shared.damages.all().len() as u64;
        self.shared.metrics.damaged_files.set(damaged);
    }
}

/// Counts what is read.
struct Counted<'a, 's> {
    budget: &'a mut Budget<'s>,
    shared: &'a Shared,
}

impl Pace for Counted<'_, '_> {
    fn worked(&mut self, bytes: u64) -> bool {
        self.shared.metrics.scrubbed_bytes.add(bytes);
        self.budget.worked(bytes)
    }
}

/// A number below `limit`; 0 if there is none, or no chance to be had.
fn random_below(limit: usize) -> usize {
    let mut random = [0; 8];
    let drawn = getrandom::fill(&mut random).is_ok();
    let drawn = if drawn { u64::from_le_bytes(random) } else { 0 };
    drawn.checked_rem(limit as u64).unwrap_or(0) as usize
}
