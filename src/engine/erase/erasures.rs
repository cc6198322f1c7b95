//! All erasures there were: those that are pending, and those that are done as far as they are
//! remembered.
//!
//! It does not know how anything is hidden or removed.

use std::collections::{BTreeMap, HashMap};

use super::record::{Erase, Reader, Whom};
use crate::engine::error::Problem;
use crate::history::bounds::Erased;
use crate::ids::{EntityTypeId, ProjectId, Sequence};
use crate::limits;
use crate::metrics::Code;
use crate::time::{ArrivalTime, Span};

/// An erasure as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Erasure {
    /// Everything with a lower sequence is covered; also names it.
    pub sequence: Sequence,
    /// When it was asked for.
    pub requested: ArrivalTime,
    /// By when no byte of it is to be left.
    pub deadline: ArrivalTime,
    /// When the last byte was gone; none while some may be left.
    pub done: Option<ArrivalTime>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Pending {
    pub(in crate::engine) erase: Erase,
    requested: ArrivalTime,
    /// A row of it may lie in the disk tier. Known for sure only while its views are.
    pub(in crate::engine) may_lie_on_disk: bool,
}

/// One that is done: a backup from before it can still be told whom it was about.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Done {
    project: ProjectId,
    erasure: [ArrivalTime; 3],
    /// Of entity type and key; none of views.
    hash: Option<[u8; 32]>,
}

/// All erasures there were, of those that are done the last [`limits::ERASURES_REMEMBERED`].
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Erasures {
    /// What the hashes are keyed with, once there is one.
    hash_key: Option<[u8; 32]>,
    pending: BTreeMap<Sequence, Pending>,
    done: BTreeMap<Sequence, Done>,
    /// The last one that is not remembered any more; none while all are.
    dropped: Option<Sequence>,
}

/// Erasures by whom they are of, which is kept as hashes.
pub(in crate::engine) struct ByEntity {
    hash_key: [u8; 32],
    /// The last of each entity.
    last: HashMap<[u8; 32], Request>,
}

/// What an erasure is called where it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whose it is.
    pub project: ProjectId,
    /// Its name there.
    pub sequence: Sequence,
    /// When it was asked for.
    pub requested: ArrivalTime,
}

impl Erasures {
    /// Takes up an erasure.
    pub(in crate::engine) fn add(
        &mut self,
        erase: Erase,
        sequence: Sequence,
        requested: ArrivalTime,
    ) -> Erasure {
        let deadline = erase.deadline;
        self.pending.insert(sequence, Pending { erase, requested, may_lie_on_disk: true });
        Erasure { sequence, requested, deadline, done: None }
    }

    /// Says of a pending one that no row of it can lie in the disk tier.
    pub(super) fn lies_in_memory(&mut self, sequence: Sequence) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.may_lie_on_disk = false;
        }
    }

    /// The one named by `sequence` in `project`.
    pub(in crate::engine) fn get(&self, project: ProjectId, sequence: Sequence) -> Option<Erasure> {
        if let Some(Pending { erase, requested, .. }) = self.pending.get(&sequence) {
            let Erase { deadline, .. } = *erase;
            let erasure = Erasure { sequence, requested: *requested, deadline, done: None };
            return (erase.project == project).then_some(erasure);
        }
        let Done { erasure: [requested, deadline, done], .. } =
            *self.done.get(&sequence).filter(|done| done.project == project)?;
        Some(Erasure { sequence, requested, deadline, done: Some(done) })
    }

    /// Whether some are of whole views.
    pub(in crate::engine) fn has_views(&self) -> bool {
        self.has_pending_views() || self.done.values().any(|done| done.hash.is_none())
    }

    /// Whether some of those are pending.
    pub(in crate::engine) fn has_pending_views(&self) -> bool {
        self.pending.values().any(|pending| pending.erase.whom.is_none())
    }

    /// Whether there never was one.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.done.is_empty() && self.dropped.is_none()
    }

    /// How many are remembered that are done.
    pub(in crate::engine) fn done(&self) -> usize {
        self.done.len()
    }

    /// The last one that is done and not remembered any more; none while all are.
    pub(in crate::engine) fn dropped(&self) -> Option<Sequence> {
        self.dropped
    }

    /// Those of entities that `other` does not know of.
    pub(in crate::engine) fn unheard_by(&self, other: &Self) -> ByEntity {
        self.by_entity(|Request { project, sequence, requested }| {
            // A store that was restored gives sequences again, but not at the same time.
            other.get(*project, *sequence).is_none_or(|known| known.requested != *requested)
        })
    }

    /// Those of entities that are wanted. A view that was dropped lives in a backup from before,
    /// which is the only way back to it.
    pub(in crate::engine) fn by_entity(&self, is_wanted: impl Fn(&Request) -> bool) -> ByEntity {
        let hash_key = self.hash_key.unwrap_or_default();
        let done = self.done.iter().filter_map(|(sequence, Done { project, erasure, hash })| {
            let request = Request { project: *project, sequence: *sequence, requested: erasure[0] };
            Some(((*hash)?, request))
        });
        let pending = self.pending.iter().filter_map(|(sequence, pending)| {
            let Pending { erase, requested, .. } = pending;
            let Whom { entity, key } = erase.whom.as_ref()?;
            let (sequence, requested) = (*sequence, *requested);
            let request = Request { project: erase.project, sequence, requested };
            Some((hash_of(&hash_key, *entity, key), request))
        });
        // Those that are pending come later, and a later one takes the place of an earlier.
        let last = done.chain(pending).filter(|(_, request)| is_wanted(request)).collect();
        ByEntity { hash_key, last }
    }

    /// Those of which bytes may be left, the oldest first.
    pub(in crate::engine) fn pending(&self) -> impl Iterator<Item = (Sequence, &Pending)> {
        self.pending.iter().map(|(sequence, pending)| (*sequence, pending))
    }

    /// Which rows they hide.
    pub(in crate::engine) fn erased(&self) -> Erased {
        let mut erased = Erased::default();
        for (sequence, Pending { erase, .. }) in self.pending() {
            for view in &erase.views {
                let rows = erased.entry(*view).or_default();
                match &erase.whom {
                    None => rows.all_below = Some(sequence),
                    Some(whom) => {
                        rows.keys.insert(whom.key.clone(), sequence);
                    }
                }
            }
        }
        erased
    }

    pub(super) fn finish(&mut self, upto: Sequence, now: ArrivalTime) -> Result<u64, Problem> {
        let left = self.pending.split_off(&upto.next());
        let finished = std::mem::replace(&mut self.pending, left);
        let hash_key = match self.hash_key {
            Some(key) => key,
            None => *self.hash_key.insert(random_key()?),
        };
        let count = finished.len() as u64;
        for (sequence, Pending { erase, requested, .. }) in finished {
            let whom = erase.whom.as_ref();
            let hash = whom.map(|Whom { entity, key }| hash_of(&hash_key, *entity, key));
            let erasure = [requested, erase.deadline, now];
            self.done.insert(sequence, Done { project: erase.project, erasure, hash });
        }
        self.remember(limits::ERASURES_REMEMBERED);
        Ok(count)
    }

    /// Keeps the last `most` of those that are done.
    fn remember(&mut self, most: usize) {
        while self.done.len() > most
            && let Some((sequence, _)) = self.done.pop_first()
        {
            self.dropped = self.dropped.max(Some(sequence));
        }
    }

    /// As bytes, for the control snapshot: what the hashes are keyed with; the pending: sequence,
    /// time of the request, length and bytes of the record; the done: sequence, project, times of
    /// request, deadline and end, hash or zeros; the last one dropped, if there is one, or zeros
    /// where some are of views.
    pub(in crate::engine) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash_key.unwrap_or_default());
        out.extend_from_slice(&(self.pending.len() as u32).to_le_bytes());
        for (sequence, Pending { erase, requested, .. }) in &self.pending {
            let record = erase.encode();
            out.extend_from_slice(&sequence.0.to_le_bytes());
            out.extend_from_slice(&requested.micros().to_le_bytes());
            out.extend_from_slice(&(record.len() as u32).to_le_bytes());
            out.extend_from_slice(&record);
        }
        out.extend_from_slice(&(self.done.len() as u32).to_le_bytes());
        for (sequence, Done { project, erasure, hash }) in &self.done {
            out.extend_from_slice(&sequence.0.to_le_bytes());
            out.extend_from_slice(&project.0.to_le_bytes());
            for time in erasure {
                out.extend_from_slice(&time.micros().to_le_bytes());
            }
            out.extend_from_slice(&hash.unwrap_or_default());
        }
        if self.dropped.is_some() || self.has_views() {
            let dropped = self.dropped.unwrap_or(Sequence::ZERO);
            out.extend_from_slice(&dropped.0.to_le_bytes());
        }
    }

    /// Reads back what [`Self::encode`] wrote and moves `bytes` past it; none if they are not that.
    /// `with_dropped` says whether it says which was dropped last.
    pub(in crate::engine) fn decode(bytes: &mut &[u8], with_dropped: bool) -> Option<Self> {
        let mut reader = Reader(bytes);
        let key: [u8; 32] = reader.array()?;
        let mut erasures =
            Self { hash_key: Some(key).filter(|key| *key != [0; 32]), ..Self::default() };
        for _ in 0..reader.small()? {
            let (sequence, requested) = (reader.sequence()?, reader.time()?);
            let erase = Erase::decode(reader.bytes()?)?;
            erasures.add(erase, sequence, requested);
        }
        for _ in 0..reader.small()? {
            let (sequence, project) = (reader.sequence()?, ProjectId(reader.small()?));
            let erasure = [reader.time()?, reader.time()?, reader.time()?];
            let hash = Some(reader.array()?).filter(|hash| *hash != [0; 32]);
            erasures.done.insert(sequence, Done { project, erasure, hash });
        }
        if with_dropped {
            erasures.dropped = Some(reader.sequence()?).filter(|last| *last > Sequence::ZERO);
        }
        *bytes = reader.0;
        Some(erasures)
    }
}

impl ByEntity {
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// The last erasure of this entity; none if there is none.
    pub(in crate::engine) fn of(&self, entity: EntityTypeId, key: &[u8]) -> Option<Request> {
        self.last.get(&hash_of(&self.hash_key, entity, key)).copied()
    }
}

fn hash_of(hash_key: &[u8; 32], entity: EntityTypeId, key: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(hash_key);
    hasher.update(&entity.0.to_le_bytes()).update(key);
    *hasher.finalize().as_bytes()
}

impl Pending {
    /// Whether the time has come to remove its bytes whatever it costs: half of what there was is
    /// over. Until then others may join it, and one rewriting serves all. Views are few, and
    /// whoever drops one with its rows wants the room.
    pub(in crate::engine) fn is_due(&self, now: ArrivalTime) -> bool {
        if self.erase.whom.is_none() {
            return true;
        }
        let whole = self.erase.deadline.since(self.requested);
        now >= self.requested.plus(Span::from_micros(whole.micros() / 2))
    }

    /// Whether its deadline has passed.
    pub(in crate::engine) fn is_overdue(&self, now: ArrivalTime) -> bool {
        now > self.erase.deadline
    }
}

fn random_key() -> Result<[u8; 32], Problem> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| {
        Problem::new(Code::Internal, format!("no random bytes for the hashes of erasures: {error}"))
    })?;
    Ok(key)
}

#[cfg(test)]
mod tests;
