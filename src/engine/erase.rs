//! Erasures: which entities, and which dropped views, are to be forgotten up to which sequence and
//! until when, and which were.
//!
//! It does not know how the bytes are removed; `forget` does that.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use crate::engine::as_of;
use crate::engine::error::Problem;
use crate::engine::shared::Shared;
use crate::engine::write::Writer;
use crate::history::History;
use crate::history::as_of::RowAt;
use crate::history::bounds::Erased;
use crate::history::record::RequestBuilder;
use crate::ids::{EntityTypeId, ProjectId, Sequence, ViewId};
use crate::limits;
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::Tier;
use crate::time::{ArrivalTime, EventTime, Span};

/// The format number of the control record that erases an entity; that of a definition change is
/// another,
const OF_ENTITY: u16 = 2;
/// and so is that of one that erases whole views.
const OF_VIEWS: u16 = 3;

/// Rows that were written before are to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Erase {
    /// Whose they are.
    pub(super) project: ProjectId,
    /// By when no byte of them is to be left.
    pub(super) deadline: ArrivalTime,
    /// Those of one entity key; none where the views go with all their rows, the records that drop
    /// them coming next.
    pub(super) whom: Option<Whom>,
    /// The views that may have such rows: those of the entity, and dropped ones, of which nobody
    /// knows any more whose they were.
    pub(super) views: Vec<ViewId>,
}

/// An entity key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Whom {
    pub(super) entity: EntityTypeId,
    pub(super) key: Box<[u8]>,
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
    /// A row of it may lie in the disk tier. Known for sure only while its views are.
    pub(super) may_lie_on_disk: bool,
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
pub(super) struct Erasures {
    /// What the hashes are keyed with, once there is one.
    hash_key: Option<[u8; 32]>,
    pending: BTreeMap<Sequence, Pending>,
    done: BTreeMap<Sequence, Done>,
    /// The last one that is not remembered any more; none while all are.
    dropped: Option<Sequence>,
}

/// Erasures by whom they are of, which is kept as hashes.
pub(super) struct ByEntity {
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

/// Erases on the writer thread: written to history, hidden from reads, gone from the online stores.
pub(super) fn run(writer: &mut Writer, job: EraseJob) -> Result<Erasure, Problem> {
    let shared = writer.shared.clone();
    let registry = shared.registry.load();
    let EraseJob { entity, key } = job;
    let Some(of) = registry.entity(entity) else {
        let detail = "the entity type was dropped while the erasure waited";
        return Err(Problem::new(Code::UnknownEntityType, detail));
    };
    refuse_too_many(&shared, 1)?;
    let arrival = writer.arrival()?;
    let (project, deadline) = (of.project, arrival.plus(shared.erase_within));
    let views = views_of(&registry, entity);
    let whom = Some(Whom { entity, key: key.clone() });
    let erase = Erase { project, deadline, whom, views: views.clone() };
    let mut request = RequestBuilder::new(None)?;
    request.control(&erase.encode());
    let sequence = writer.append(&[&request.finish()?], arrival)?;
    // In every mode: who was told that an entity is gone must not see it come back.
    writer.sync(1)?;
    let erasure = take_up(&shared, erase, (sequence, arrival));
    for view in views {
        writer.applier.erase(view, &key, sequence);
    }
    writer.make_room_in_the_tier(sequence);
    shared.advance(sequence, arrival);
    Ok(erasure)
}

/// Refuses `more` erasures where more would be pending than may be.
pub(super) fn refuse_too_many(shared: &Shared, more: usize) -> Result<(), Problem> {
    let (pending, limit) = (shared.erasures().pending.len(), shared.limits.pending_erasures);
    if pending + more <= limit {
        return Ok(());
    }
    let detail = format!(
        "{pending} erasures are pending, the limit limits.pending_erasures is {limit}; their bytes \
         go from half of erase.within on"
    );
    Err(Problem::new(Code::Overloaded, detail))
}

/// Hides what is erased by a record that is durable.
pub(super) fn take_up(
    shared: &Shared,
    erase: Erase,
    (sequence, arrival): (Sequence, ArrivalTime),
) -> Erasure {
    erase.hide(&shared.history, sequence);
    shared.metrics.erasures_pending.add(1);
    let registry = shared.registry.load();
    let on_disk = |view| registry.view(view).is_none_or(|view| view.tier == Tier::Disk);
    let may_lie_on_disk = erase.views.iter().any(|view| on_disk(*view));
    let mut erasures = shared.erasures();
    let erasure = erasures.add(erase, sequence, arrival);
    if let Some(pending) = erasures.pending.get_mut(&sequence) {
        pending.may_lie_on_disk = may_lie_on_disk;
    }
    erasure
}

/// The pending erasure after which nothing was written of an entity, if there is one and that can
/// be read.
pub(super) fn covering(shared: &Shared, entity: EntityTypeId, key: &[u8]) -> Option<Erasure> {
    let registry = shared.registry.load();
    let bounds = shared.history.bounds();
    // Erasures of other entities cover the same key in views that were dropped, but in no other.
    let views = registry.all_views().filter(|view| view.entity == entity);
    let last = views.map(|view| bounds.erased_below(view.id, key)).max()?;
    let project = registry.entity(entity)?.project;
    let erasure = shared.erasures().get(project, last).filter(|found| found.done.is_none())?;
    let history = as_of::visible(shared, None).ok()?;
    for view in views_of(&registry, entity) {
        let mut is_there = false;
        let mut see = |_: RowAt<'_>| {
            is_there = true;
            ControlFlow::Break(())
        };
        history.rows_before(view, key, EventTime::MAX, &mut see).ok()?;
        if is_there {
            return None;
        }
    }
    Some(erasure)
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

/// The views that may have rows of an entity.
pub(super) fn views_of(registry: &Registry, entity: EntityTypeId) -> Vec<ViewId> {
    let given = (0..registry.next_ids().view.0).map(ViewId);
    given.filter(|view| registry.view(*view).is_none_or(|view| view.entity == entity)).collect()
}

impl Erase {
    /// Its control record: format (u16), project (u32), entity (u32), deadline (i64), length and
    /// bytes of the key (u32), number of views and their ids (u32); entity and key only if it is of
    /// one.
    pub(super) fn encode(&self) -> Vec<u8> {
        let format = if self.whom.is_some() { OF_ENTITY } else { OF_VIEWS };
        let mut bytes = format.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.project.0.to_le_bytes());
        if let Some(Whom { entity, .. }) = &self.whom {
            bytes.extend_from_slice(&entity.0.to_le_bytes());
        }
        bytes.extend_from_slice(&self.deadline.micros().to_le_bytes());
        if let Some(Whom { key, .. }) = &self.whom {
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
        }
        bytes.extend_from_slice(&(self.views.len() as u32).to_le_bytes());
        for view in &self.views {
            bytes.extend_from_slice(&view.0.to_le_bytes());
        }
        bytes
    }

    /// Reads a control record; none if it is another kind of one.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let mut reader = Reader(record);
        let is_of_entity = match u16::from_le_bytes(reader.array()?) {
            OF_ENTITY => true,
            OF_VIEWS => false,
            _ => return None,
        };
        let project = ProjectId(reader.small()?);
        let (deadline, whom) = match is_of_entity {
            true => {
                let entity = EntityTypeId(reader.small()?);
                let deadline = reader.time()?;
                (deadline, Some(Whom { entity, key: reader.bytes()?.into() }))
            }
            false => (reader.time()?, None),
        };
        let views = (0..reader.small()?).map(|_| reader.small().map(ViewId));
        let views = views.collect::<Option<_>>()?;
        reader.0.is_empty().then_some(Self { project, deadline, whom, views })
    }

    /// Hides the rows from reads of history; `sequence` is that of the record.
    pub(super) fn hide(&self, history: &History, sequence: Sequence) {
        match &self.whom {
            Some(Whom { key, .. }) => history.erase(&self.views, key, sequence),
            None => history.erase_views(&self.views, sequence),
        }
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
        self.pending.insert(sequence, Pending { erase, requested, may_lie_on_disk: true });
        Erasure { sequence, requested, deadline, done: None }
    }

    /// The one named by `sequence` in `project`.
    pub(super) fn get(&self, project: ProjectId, sequence: Sequence) -> Option<Erasure> {
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
    pub(super) fn has_views(&self) -> bool {
        self.has_pending_views() || self.done.values().any(|done| done.hash.is_none())
    }

    /// Whether some of those are pending.
    pub(super) fn has_pending_views(&self) -> bool {
        self.pending.values().any(|pending| pending.erase.whom.is_none())
    }

    /// Whether there never was one.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.done.is_empty() && self.dropped.is_none()
    }

    /// How many are remembered that are done.
    pub(super) fn done(&self) -> usize {
        self.done.len()
    }

    /// The last one that is done and not remembered any more; none while all are.
    pub(super) fn dropped(&self) -> Option<Sequence> {
        self.dropped
    }

    /// Those of entities that `other` does not know of.
    pub(super) fn unheard_by(&self, other: &Self) -> ByEntity {
        self.by_entity(|Request { project, sequence, requested }| {
            // A store that was restored gives sequences again, but not at the same time.
            other.get(*project, *sequence).is_none_or(|known| known.requested != *requested)
        })
    }

    /// Those of entities that are wanted. A view that was dropped lives in a backup from before,
    /// which is the only way back to it.
    pub(super) fn by_entity(&self, is_wanted: impl Fn(&Request) -> bool) -> ByEntity {
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
    pub(super) fn pending(&self) -> impl Iterator<Item = (Sequence, &Pending)> {
        self.pending.iter().map(|(sequence, pending)| (*sequence, pending))
    }

    /// Which rows they hide.
    pub(super) fn erased(&self) -> Erased {
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

    fn finish(&mut self, upto: Sequence, now: ArrivalTime) -> Result<u64, Problem> {
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
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
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
    pub(super) fn decode(bytes: &mut &[u8], with_dropped: bool) -> Option<Self> {
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
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// The last erasure of this entity; none if there is none.
    pub(super) fn of(&self, entity: EntityTypeId, key: &[u8]) -> Option<Request> {
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
    pub(super) fn is_due(&self, now: ArrivalTime) -> bool {
        if self.erase.whom.is_none() {
            return true;
        }
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
            deadline: ArrivalTime::from_micros(700),
            whom: Some(Whom { entity: EntityTypeId(4), key: key.as_bytes().into() }),
            views: vec![ViewId(1), ViewId(9)],
        }
    }

    fn erase_views() -> Erase {
        Erase { whom: None, views: vec![ViewId(7)], ..erase("") }
    }

    #[test]
    fn records_read_back_and_others_are_told_apart() {
        for erase in [erase("secret"), erase_views()] {
            let bytes = erase.encode();
            assert_eq!(Erase::decode(&bytes), Some(erase));
            for length in 0..bytes.len() {
                assert_eq!(Erase::decode(&bytes[..length]), None, "cut to {length}");
            }
            assert_eq!(Erase::decode(&[bytes, vec![0]].concat()), None);
        }
        assert_eq!(Erase::decode(b"\x01\x00{}"), None);
    }

    /// Earlier releases wrote these bytes and read them.
    #[test]
    fn what_is_of_entities_is_written_as_ever() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let long = |word: i64| word.to_le_bytes().to_vec();
        let record = [
            vec![2, 0],
            words(&[3, 4]),
            long(700),
            words(&[6]),
            b"secret".to_vec(),
            words(&[2, 1, 9]),
        ]
        .concat();
        assert_eq!(erase("secret").encode(), record);
        let pending = [words(&[1]), long(10), long(100), words(&[record.len() as u32]), record];
        let done = [words(&[1]), long(5), words(&[3]), long(50), long(60), long(70), vec![8; 32]];
        let bytes = [vec![[9; 32].to_vec()], pending.into(), done.into()].concat().concat();
        for (dropped, bytes) in [(None, bytes.clone()), (Some(2), [bytes, long(2)].concat())] {
            let mut rest = bytes.as_slice();
            let read = Erasures::decode(&mut rest, dropped.is_some()).unwrap();
            assert_eq!((read.dropped(), rest.len()), (dropped.map(Sequence), 0));
            assert_eq!(
                (read.pending[&Sequence(10)].erase.clone(), read.done()),
                (erase("secret"), 1)
            );
            assert!(!read.has_views());
            let mut again = Vec::new();
            read.encode(&mut again);
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn views_are_erased_whole_and_told_to_no_backup() {
        let time = ArrivalTime::from_micros;
        let mut erasures = Erasures::default();
        erasures.add(erase("secret"), Sequence(10), time(100));
        assert!(!erasures.has_views());
        erasures.add(erase_views(), Sequence(20), time(200));
        assert_eq!(erasures.erased()[&ViewId(7)].all_below, Some(Sequence(20)));
        let due: Vec<bool> = erasures.pending().map(|(_, one)| one.is_due(time(201))).collect();
        assert_eq!(due, [false, true], "the room is wanted now");
        for is_done in [false, true] {
            assert!(erasures.has_views());
            assert_eq!(erasures.has_pending_views(), !is_done);
            let mut bytes = Vec::new();
            erasures.encode(&mut bytes);
            let mut rest = bytes.as_slice();
            assert_eq!(Erasures::decode(&mut rest, true), Some(erasures.clone()), "{is_done}");
            assert_eq!(rest.len(), 0);
            assert_eq!(erasures.unheard_by(&Erasures::default()).last.len(), 1);
            erasures.finish(Sequence(20), time(800)).unwrap();
        }
        assert_eq!(erasures.get(ProjectId(3), Sequence(20)).unwrap().done, Some(time(800)));
        erasures.remember(1);
        assert_eq!(erasures.dropped(), Some(Sequence(10)));
        let mut bytes = Vec::new();
        erasures.encode(&mut bytes);
        assert_eq!(Erasures::decode(&mut bytes.as_slice(), true), Some(erasures));
    }

    #[test]
    fn what_is_done_keeps_a_hash_and_no_key() {
        let time = ArrivalTime::from_micros;
        let mut erasures = Erasures::default();
        assert!(erasures.is_empty());
        erasures.add(erase("secret"), Sequence(10), time(100));
        erasures.add(erase("secret"), Sequence(20), time(200));
        erasures.add(erase("other"), Sequence(30), time(300));
        assert_eq!(erasures.erased()[&ViewId(9)].keys[&b"secret"[..]], Sequence(20));
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
        assert_eq!(Erasures::decode(&mut rest, false), Some(erasures.clone()));
        assert_eq!(rest, [7]);
        for length in 0..bytes.len() - 1 {
            assert_eq!(Erasures::decode(&mut &bytes[..length], false), None, "cut to {length}");
        }
        let found = erasures.get(ProjectId(3), Sequence(10)).unwrap();
        assert_eq!((found.requested, found.done), (time(100), Some(time(800))));
        assert_eq!(erasures.get(ProjectId(3), Sequence(30)).unwrap().done, None);
        assert_eq!(erasures.get(ProjectId(0), Sequence(10)), None, "another project's");
        assert_eq!(erasures.get(ProjectId(0), Sequence(30)), None, "another project's");
        assert_eq!(erasures.erased().get(&ViewId(1)).unwrap().keys.len(), 1);
    }
    #[test]
    fn those_that_are_done_are_remembered_up_to_a_number() {
        let time = ArrivalTime::from_micros;
        let mut erasures = Erasures::default();
        for number in 1..=5 {
            erasures.add(erase(&format!("key {number}")), Sequence(number), time(100));
        }
        erasures.finish(Sequence(4), time(800)).unwrap();
        assert_eq!(erasures.dropped(), None);
        erasures.remember(2);
        assert_eq!(erasures.dropped(), Some(Sequence(2)));
        let known = |number| erasures.get(ProjectId(3), Sequence(number)).is_some();
        assert_eq!([1, 2, 3, 4, 5].map(known), [false, false, true, true, true]);
        let mut bytes = Vec::new();
        erasures.encode(&mut bytes);
        assert_eq!(Erasures::decode(&mut bytes.as_slice(), true), Some(erasures.clone()));
        erasures.finish(Sequence(5), time(900)).unwrap();
        erasures.remember(0);
        assert!(!erasures.is_empty() && erasures.dropped() == Some(Sequence(5)));
    }

    #[test]
    fn another_store_is_told_whom_it_does_not_know() {
        let time = ArrivalTime::from_micros;
        let mut earlier = Erasures::default();
        earlier.add(erase("known"), Sequence(10), time(100));
        let mut later = earlier.clone();
        later.add(erase("done"), Sequence(20), time(200));
        later.finish(Sequence(20), time(800)).unwrap();
        later.add(erase("pending"), Sequence(30), time(300));
        let unheard = later.unheard_by(&earlier);
        let of = |entity, key: &str| unheard.of(EntityTypeId(entity), key.as_bytes());
        for (key, number) in [("done", 20), ("pending", 30)] {
            let (sequence, requested) = (Sequence(number), time(number as i64 * 10));
            let request = Request { project: ProjectId(3), sequence, requested };
            assert_eq!((of(4, key), of(5, key)), (Some(request), None), "{key}");
        }
        assert_eq!((of(4, "known"), of(4, "other")), (None, None));
        assert!(later.unheard_by(&later).is_empty());
        // One that was restored and went another way gave the sequence again.
        let mut other = earlier.clone();
        other.add(erase("elsewhere"), Sequence(20), time(250));
        assert!(later.unheard_by(&other).of(EntityTypeId(4), b"done").is_some());
        // Of two of one entity the later one counts.
        later.add(erase("done"), Sequence(40), time(400));
        let last = later.by_entity(|_| true).of(EntityTypeId(4), b"done").unwrap();
        assert_eq!((last.sequence, last.requested), (Sequence(40), time(400)));
    }
}
