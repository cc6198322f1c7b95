//! Erasures: which entities are to be forgotten up to which sequence and until when, and which
//! were.
//!
//! It does not know how the bytes are removed; `forget` does that.

use std::collections::BTreeMap;

use crate::engine::error::Problem;
use crate::engine::write::Writer;
use crate::history::bounds::Erased;
use crate::history::record::RequestBuilder;
use crate::ids::{EntityTypeId, ProjectId, Sequence, ViewId};
use crate::metrics::Code;
use crate::registry::Registry;
use crate::time::{ArrivalTime, Span};

/// The format number of the control record; that of a definition change is another.
const FORMAT: u16 = 2;

/// Everything of one entity key that was written before is to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Erase {
    /// Whose it is.
    pub(super) project: ProjectId,
    pub(super) entity: EntityTypeId,
    pub(super) key: Box<[u8]>,
    /// By when no byte of it is to be left.
    pub(super) deadline: ArrivalTime,
    /// The views that may have rows of it: those of its entity, and dropped ones, of which nobody
    /// knows any more whose they were.
    pub(super) views: Vec<ViewId>,
}

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

/// What the writer is asked to erase.
pub(super) struct EraseJob {
    pub(super) entity: EntityTypeId,
    pub(super) key: Box<[u8]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    pub(super) erase: Erase,
    requested: ArrivalTime,
}

/// One that is done: a backup from before it can still be told whom it was about.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Done {
    project: ProjectId,
    erasure: [ArrivalTime; 3],
    /// Of entity type and key.
    hash: [u8; 32],
}

/// All erasures there ever were.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Erasures {
    /// What the hashes are keyed with, once there is one.
    hash_key: Option<[u8; 32]>,
    pending: BTreeMap<Sequence, Pending>,
    done: BTreeMap<Sequence, Done>,
}

/// Erases on the writer thread: written to history, hidden from reads, gone from the online stores.
pub(super) fn run(writer: &mut Writer, job: EraseJob) -> Result<Erasure, Problem> {
    let shared = writer.shared.clone();
    let registry = shared.registry.load();
    let EraseJob { entity, key } = job;
    let Some(of) = registry.entity(entity) else {
        let detail = "the entity type was dropped while the erasure waited";
        return Err(Problem::new(Code::UnknownEntityType, detail));
    };
    let arrival = writer.arrival()?;
    let (project, deadline) = (of.project, arrival.plus(shared.erase_within));
    let views = views_of(&registry, entity);
    let erase = Erase { project, entity, key, deadline, views };
    let mut request = RequestBuilder::new(None)?;
    request.control(&erase.encode());
    let sequence = writer.append(&[&request.finish()?], arrival)?;
    // In every mode: who was told that an entity is gone must not see it come back.
    writer.sync(1)?;
    shared.history.erase(&erase.views, &erase.key, sequence);
    for view in &erase.views {
        writer.applier.erase(*view, &erase.key, sequence);
    }
    let erasure = shared.erasures().add(erase, sequence, arrival);
    shared.metrics.erasures_pending.add(1);
    writer.make_room_in_the_tier(sequence);
    shared.advance(sequence, arrival);
    Ok(erasure)
}

/// Says of all erasures up to `upto` that no byte is left, and forgets whom they were about.
pub(super) fn finish(writer: &mut Writer, upto: Sequence) -> Result<(), Problem> {
    let shared = writer.shared.clone();
    let mut after = shared.erasures().clone();
    let done = after.finish(upto, shared.clock.now())?;
    // The manifest names them until then.
    writer.save_control(Some(&after))?;
    shared.history.set_erased(after.erased());
    shared.metrics.erasures_pending.set(after.pending().count() as u64);
    shared.metrics.erasures_done.add(done);
    *shared.erasures() = after;
    Ok(())
}

fn views_of(registry: &Registry, entity: EntityTypeId) -> Vec<ViewId> {
    let given = (0..registry.next_ids().view.0).map(ViewId);
    given.filter(|view| registry.view(*view).is_none_or(|view| view.entity == entity)).collect()
}

impl Erase {
    /// Its control record: format (u16), project, entity (u32), deadline (i64), length and bytes of
    /// the key (u32), number of views and their ids (u32).
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = FORMAT.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.project.0.to_le_bytes());
        bytes.extend_from_slice(&self.entity.0.to_le_bytes());
        bytes.extend_from_slice(&self.deadline.micros().to_le_bytes());
        bytes.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&(self.views.len() as u32).to_le_bytes());
        for view in &self.views {
            bytes.extend_from_slice(&view.0.to_le_bytes());
        }
        bytes
    }

    /// Reads a control record; none if it is another kind of one.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let mut reader = Reader(record);
        if reader.array()? != FORMAT.to_le_bytes() {
            return None;
        }
        let erase = Self {
            project: ProjectId(reader.small()?),
            entity: EntityTypeId(reader.small()?),
            deadline: reader.time()?,
            key: reader.bytes()?.into(),
            views: (0..reader.small()?)
                .map(|_| reader.small().map(ViewId))
                .collect::<Option<_>>()?,
        };
        reader.0.is_empty().then_some(erase)
    }
}

impl Erasures {
    /// Takes up an erasure.
    pub(super) fn add(
        &mut self,
        erase: Erase,
        sequence: Sequence,
        requested: ArrivalTime,
    ) -> Erasure {
        let deadline = erase.deadline;
        self.pending.insert(sequence, Pending { erase, requested });
        Erasure { sequence, requested, deadline, done: None }
    }

    /// The one named by `sequence` in `project`.
    pub(super) fn get(&self, project: ProjectId, sequence: Sequence) -> Option<Erasure> {
        if let Some(Pending { erase, requested }) = self.pending.get(&sequence) {
            let Erase { deadline, .. } = *erase;
            let erasure = Erasure { sequence, requested: *requested, deadline, done: None };
            return (erase.project == project).then_some(erasure);
        }
        let Done { erasure: [requested, deadline, done], .. } =
            *self.done.get(&sequence).filter(|done| done.project == project)?;
        Some(Erasure { sequence, requested, deadline, done: Some(done) })
    }

    /// Whether there never was one.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.done.is_empty()
    }

    /// Those of which bytes may be left, the oldest first.
    pub(super) fn pending(&self) -> impl Iterator<Item = (Sequence, &Pending)> {
        self.pending.iter().map(|(sequence, pending)| (*sequence, pending))
    }

    /// Which rows they hide.
    pub(super) fn erased(&self) -> Erased {
        let mut erased = Erased::default();
        for (sequence, Pending { erase, .. }) in self.pending() {
            for view in &erase.views {
                erased.entry(*view).or_default().insert(erase.key.clone(), sequence);
            }
        }
        erased
    }

    fn finish(&mut self, upto: Sequence, now: ArrivalTime) -> Result<u64, Problem> {
        let left = self.pending.split_off(&upto.next());
        let finished = std::mem::replace(&mut self.pending, left);
        let hash_key = match self.hash_key {
            Some(key) => key,
            None => *self.hash_key.insert(random_key()?),
        };
        let count = finished.len() as u64;
        for (sequence, Pending { erase, requested }) in finished {
            let mut hasher = blake3::Hasher::new_keyed(&hash_key);
            hasher.update(&erase.entity.0.to_le_bytes()).update(&erase.key);
            let hash = *hasher.finalize().as_bytes();
            let erasure = [requested, erase.deadline, now];
            self.done.insert(sequence, Done { project: erase.project, erasure, hash });
        }
        Ok(count)
    }

    /// As bytes, for the control snapshot: what the hashes are keyed with; the pending: sequence,
    /// time of the request, length and bytes of the record; the done: sequence, project, times of
    /// request, deadline and end, hash.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash_key.unwrap_or_default());
        out.extend_from_slice(&(self.pending.len() as u32).to_le_bytes());
        for (sequence, Pending { erase, requested }) in &self.pending {
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
            out.extend_from_slice(hash);
        }
    }

    /// Reads back what [`Self::encode`] wrote and moves `bytes` past it; none if they are not that.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let key: [u8; 32] = reader.array()?;
        let mut erasures =
            Self { hash_key: Some(key).filter(|key| *key != [0; 32]), ..Self::default() };
        for _ in 0..reader.small()? {
            let (sequence, requested) = (reader.sequence()?, reader.time()?);
            let erase = Erase::decode(reader.bytes()?)?;
            erasures.pending.insert(sequence, Pending { erase, requested });
        }
        for _ in 0..reader.small()? {
            let (sequence, project) = (reader.sequence()?, ProjectId(reader.small()?));
            let erasure = [reader.time()?, reader.time()?, reader.time()?];
            erasures.done.insert(sequence, Done { project, erasure, hash: reader.array()? });
        }
        *bytes = reader.0;
        Some(erasures)
    }
}

impl Pending {
    /// Whether the time has come to remove its bytes whatever it costs: half of what there was is
    /// over. Until then others may join it, and one rewriting serves all.
    pub(super) fn is_due(&self, now: ArrivalTime) -> bool {
        let whole = self.erase.deadline.since(self.requested);
        now >= self.requested.plus(Span::from_micros(whole.micros() / 2))
    }

    /// Whether its deadline has passed.
    pub(super) fn is_overdue(&self, now: ArrivalTime) -> bool {
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

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn small(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn sequence(&mut self) -> Option<Sequence> {
        self.array().map(u64::from_le_bytes).map(Sequence)
    }

    fn time(&mut self) -> Option<ArrivalTime> {
        self.array().map(i64::from_le_bytes).map(ArrivalTime::from_micros)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erase(key: &str) -> Erase {
        Erase {
            project: ProjectId(3),
            entity: EntityTypeId(4),
            key: key.as_bytes().into(),
            deadline: ArrivalTime::from_micros(700),
            views: vec![ViewId(1), ViewId(9)],
        }
    }

    #[test]
    fn records_read_back_and_others_are_told_apart() {
        let bytes = erase("secret").encode();
        assert_eq!(Erase::decode(&bytes), Some(erase("secret")));
        for length in 0..bytes.len() {
            assert_eq!(Erase::decode(&bytes[..length]), None, "cut to {length}");
        }
        assert_eq!(Erase::decode(&[bytes, vec![0]].concat()), None);
        assert_eq!(Erase::decode(b"\x01\x00{}"), None);
    }

    #[test]
    fn what_is_done_keeps_a_hash_and_no_key() {
        let time = ArrivalTime::from_micros;
        let mut erasures = Erasures::default();
        assert!(erasures.is_empty());
        erasures.add(erase("secret"), Sequence(10), time(100));
        erasures.add(erase("secret"), Sequence(20), time(200));
        erasures.add(erase("other"), Sequence(30), time(300));
        assert_eq!(erasures.erased()[&ViewId(9)][&b"secret"[..]], Sequence(20));
        let due = |at| erasures.pending().map(|(_, one)| one.is_due(time(at))).collect::<Vec<_>>();
        assert_eq!(due(400), [true, false, false]);
        assert_eq!(due(500), [true; 3]);
        assert_eq!(erasures.clone().finish(Sequence(9), time(800)).unwrap(), 0);
        assert_eq!(erasures.finish(Sequence(20), time(800)).unwrap(), 2);
        let mut bytes = Vec::new();
        erasures.encode(&mut bytes);
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        bytes.push(7);
        let mut rest = bytes.as_slice();
        assert_eq!(Erasures::decode(&mut rest), Some(erasures.clone()));
        assert_eq!(rest, [7]);
        for length in 0..bytes.len() - 1 {
            assert_eq!(Erasures::decode(&mut &bytes[..length]), None, "cut to {length}");
        }
        let found = erasures.get(ProjectId(3), Sequence(10)).unwrap();
        assert_eq!((found.requested, found.done), (time(100), Some(time(800))));
        assert_eq!(erasures.get(ProjectId(3), Sequence(30)).unwrap().done, None);
        assert_eq!(erasures.get(ProjectId(0), Sequence(10)), None, "another project's");
        assert_eq!(erasures.get(ProjectId(0), Sequence(30)), None, "another project's");
        assert_eq!(erasures.erased().get(&ViewId(1)).unwrap().len(), 1);
    }
}
