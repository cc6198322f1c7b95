//! Removes the bytes of erased rows in time: rewrites the files that hold some, lets the log and
//! the checkpoints that do go, and says when none is left.
//!
//! It does not know who asked for an erasure, nor the bytes of a file.

use std::collections::HashMap;

use crate::engine::seal::{ManifestChange, SealError, Sealing};
use crate::history::pace::Pace;
use crate::history::seal;
use crate::ids::Sequence;
use crate::registry::model::Tier;

/// What was found out so far; a restart finds it out again.
#[derive(Default)]
pub(super) struct Forgetting {
    /// Up to which erasure each sealed file holds nothing erased, by its number.
    clean: HashMap<u64, Sequence>,
    /// Up to which erasure the disk tier was asked to begin anew.
    tier: Option<Sequence>,
}

impl Sealing {
    /// Goes on removing the bytes of the erasures that are due, and of all before the last of
    /// them. The log is sealed and struck, and checkpoints are made, by others, who are told to.
    pub(super) fn forget(
        &self,
        forgetting: &mut Forgetting,
        pace: &mut dyn Pace,
    ) -> Result<(), SealError> {
        let Some(upto) = self.due() else { return Ok(()) };
        self.kept.want(upto);
        if self.shared.history.open_begins() <= upto {
            self.change(ManifestChange::CloseSegment)?;
        }
        // Only then: a file that was being sealed when the entity was erased may hold rows of it.
        if self.shared.history.log_begins() <= upto {
            return Ok(());
        }
        self.rewrite_files(forgetting, upto, pace)?;
        let tier_is_clean = self.renew_tier(forgetting, upto);
        if tier_is_clean && self.kept.all() >= upto && self.sealer.all_removed() {
            self.change(ManifestChange::FinishErasures(upto))?;
            forgetting.clean.clear();
            tracing::info!(sequence = upto.0, "no byte of what was erased up to here is left");
        }
        Ok(())
    }

    /// The last erasure to be served now; none while none is due. Counts those that are late.
    fn due(&self) -> Option<Sequence> {
        let now = self.shared.clock.now();
        let erasures = self.shared.erasures();
        let overdue = erasures.pending().filter(|(_, one)| one.is_overdue(now)).count();
        self.shared.metrics.erasures_overdue.set(overdue as u64);
        let is_due = erasures.pending().any(|(_, one)| one.is_due(now));
        // All that wait are served together: it costs hardly more.
        erasures.pending().last().filter(|_| is_due).map(|(sequence, _)| sequence)
    }

    /// Rewrites each sealed file that holds erased rows.
    fn rewrite_files(
        &self,
        forgetting: &mut Forgetting,
        upto: Sequence,
        pace: &mut dyn Pace,
    ) -> Result<(), SealError> {
        let bounds = self.shared.history.bounds();
        for file in self.shared.history.sealed().iter() {
            let number = file.entry().number;
            if forgetting.clean.get(&number).is_some_and(|clean| *clean >= upto) {
                continue;
            }
            let mut clean = number;
            if seal::holds_erased(file, &bounds)? {
                let made = self.sealer.rewrite(std::slice::from_ref(file), pace)?;
                self.install(&made)?;
                clean = made.file.entry().number;
            }
            forgetting.clean.insert(clean, upto);
        }
        Ok(())
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
        let registry = self.shared.registry.load();
        let on_disk = |view| registry.view(view).is_none_or(|view| view.tier == Tier::Disk);
        let erasures = self.shared.erasures();
        erasures.pending().any(|(_, one)| one.erase.views.iter().any(|view| on_disk(*view)))
    }
}
