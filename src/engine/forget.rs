//! Removes the bytes of erased rows in time: rewrites the files that hold some, lets the log and
//! the checkpoints that do go, and says when none is left.
//!
//! It does not know who asked for an erasure, nor the bytes of a file.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::seal::{Budget, ManifestChange, SealError, Sealing};
use crate::engine::shared::Shared;
use crate::history::seal::{self, Sealer, Task};
use crate::history::sealed::{BuildError, SealedFile};
use crate::ids::Sequence;
use crate::metrics::WritesState;

/// What was found out so far; a restart finds it out again.
#[derive(Default)]
pub(super) struct Forgetting {
    /// The last erasure that is being served.
    target: Option<Sequence>,
    /// Up to which erasure each sealed file holds nothing erased, by its number.
    clean: HashMap<u64, Sequence>,
    /// Up to which erasure the disk tier was asked to begin anew.
    tier: Option<Sequence>,
    /// Up to which erasure no load can have left anything of a view that was dropped.
    staged: Option<Sequence>,
}

impl Forgetting {
    /// Which erasures to serve, of those that wait, each with whether it is due: all that waited
    /// when one became due, for it costs hardly more. Later ones have to wait for the next time, or
    /// a steady stream of them would keep the end out of reach.
    fn aim(&mut self, waiting: impl Iterator<Item = (Sequence, bool)>) -> Option<Sequence> {
        let (mut first, mut last, mut is_any_due) = (None, None, false);
        for (sequence, is_due) in waiting {
            first = first.or(Some(sequence));
            last = Some(sequence);
            is_any_due |= is_due;
        }
        let is_served = |target: &Sequence| first.is_some_and(|first| first <= *target);
        self.target = self.target.filter(is_served).or(last.filter(|_| is_any_due));
        self.target
    }
}

impl Sealing {
    /// Goes on removing the bytes of the erasures that are due, and of all before the last of
    /// them. The log is sealed and struck, and checkpoints are made, by others, who are told to.
    pub(super) fn forget(
        &self,
        forgetting: &mut Forgetting,
        budget: &mut Budget<'_>,
    ) -> Result<(), SealError> {
        let Some(upto) = self.target(forgetting) else { return Ok(()) };
        self.kept.want(upto);
        // Early and often: it takes a moment in which no load runs.
        if forgetting.staged < Some(upto) && discard_staged(&self.shared, &self.sealer)? {
            forgetting.staged = Some(upto);
        }
        if self.shared.history.open_begins() <= upto {
            self.change(ManifestChange::CloseSegment)?;
        }
        // Only then: a file that was being sealed when the entity was erased may hold rows of it.
        if self.shared.history.log_begins() <= upto {
            return Ok(());
        }
        self.rewrite_files(forgetting, upto, budget)?;
        let is_gone = self.renew_tier(forgetting, upto)
            && self.kept.all() >= upto
            && forgetting.staged >= Some(upto)
            && self.sealer.all_removed()
            && self.is_closed();
        if is_gone {
            self.change(ManifestChange::FinishErasures(upto))?;
            forgetting.clean.clear();
            tracing::info!(sequence = upto.0, "no byte of what was erased up to here is left");
        }
        Ok(())
    }

    /// Whether nobody reads a file any more that was removed: its bytes are there until then.
    fn is_closed(&self) -> bool {
        let history = &self.shared.history;
        history.is_all_let_go() && self.shared.pins.hold_only_live(history)
    }

    /// The last erasure to be served now; none while none is due. Counts those that are late.
    fn target(&self, forgetting: &mut Forgetting) -> Option<Sequence> {
        let now = self.shared.clock.now();
        let erasures = self.shared.erasures();
        let overdue = erasures.pending().filter(|(_, one)| one.is_overdue(now)).count();
        self.shared.metrics.erasures_overdue.set(overdue as u64);
        forgetting.aim(erasures.pending().map(|(sequence, one)| (sequence, one.is_due(now))))
    }

    /// Rewrites each sealed file that holds erased rows.
    fn rewrite_files(
        &self,
        forgetting: &mut Forgetting,
        upto: Sequence,
        budget: &mut Budget<'_>,
    ) -> Result<(), SealError> {
        // One that has no room, or is damaged, does not keep what lies in others.
        let mut failed = Ok(());
        for file in self.shared.history.sealed().iter() {
            let number = file.entry().number;
            if forgetting.clean.get(&number).is_some_and(|clean| *clean >= upto) {
                continue;
            }
            match self.rewrite_file(file, budget) {
                Ok(clean) => drop(forgetting.clean.insert(clean, upto)),
                Err(SealError::Build(BuildError::Interrupted)) => {
                    return Err(BuildError::Interrupted.into());
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed
    }

    /// Rewrites a file if it holds something erased; returns the number of the one without.
    fn rewrite_file(
        &self,
        file: &Arc<SealedFile>,
        budget: &mut Budget<'_>,
    ) -> Result<u64, SealError> {
        if !seal::holds_erased(file, &self.shared.history.bounds())? {
            return Ok(file.entry().number);
        }
        let made = self.make(&Task::Rewrite([file.clone()].into()), budget)?;
        Ok(made.file.entry().number)
    }

    /// A removed row stays in sled's files for a while, so the tier begins anew, from history.
    /// Whether it has since, or holds no row of what was erased.
    fn renew_tier(&self, forgetting: &mut Forgetting, upto: Sequence) -> bool {
        let Some(tier) = self.shared.stores.tier() else { return true };
        if forgetting.tier < Some(upto) && self.may_lie_on_disk() {
            tier.renew();
            forgetting.tier = Some(upto);
        }
        !tier.is_broken() && !tier.tier.is_rebuilding()
    }

    fn may_lie_on_disk(&self) -> bool {
        self.shared.erasures().pending().any(|(_, one)| one.may_lie_on_disk)
    }
}

/// Where views were dropped with their rows, removes what an interrupted load left: it may be of
/// one of them, and a load of another begins anew. Whether nothing of them can be left: it can
/// while a load runs.
pub(super) fn discard_staged(shared: &Shared, sealer: &Sealer) -> Result<bool, SealError> {
    if !shared.erasures().has_pending_views() {
        return Ok(true);
    }
    let Ok(_turn) = shared.loads.try_acquire() else { return Ok(false) };
    // Where writes have stopped, nobody knows whether the load is history: the manifest on the disk
    // may name its files.
    if shared.metrics.writes() == WritesState::Stopped {
        return Ok(false);
    }
    sealer.end_load_that(|_| true).map_err(BuildError::from)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_does_not_move_the_end() {
        let mut forgetting = Forgetting::default();
        let mut aim = |waiting: &[(u64, bool)]| {
            let waiting = waiting.iter().map(|(sequence, is_due)| (Sequence(*sequence), *is_due));
            forgetting.aim(waiting).map(|target| target.0)
        };
        assert_eq!(aim(&[]), None);
        assert_eq!(aim(&[(5, false), (7, false)]), None);
        assert_eq!(aim(&[(5, true), (7, false)]), Some(7));
        assert_eq!(aim(&[(5, true), (7, true), (9, true)]), Some(7));
        assert_eq!(aim(&[(9, false), (11, false)]), None, "the first two are done");
        assert_eq!(aim(&[(9, true), (11, false)]), Some(11));
    }
}
