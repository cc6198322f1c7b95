//! Erases entities and hides what is erased, on the writer thread, and says when no byte is left.
//!
//! It does not know how the bytes are removed; `forget` does that.

mod erasures;

mod record;

use std::ops::ControlFlow;

use crate::engine::as_of;
use crate::engine::error::Problem;
use crate::engine::shared::Shared;
use crate::engine::write::Writer;
use crate::history::as_of::RowAt;
use crate::history::record::RequestBuilder;
use crate::ids::{EntityTypeId, Sequence, ViewId};
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::Tier;
use crate::time::{ArrivalTime, EventTime};

pub(super) use erasures::{ByEntity, Erasures};
pub use erasures::{Erasure, Request};
pub(super) use record::{Erase, Whom};

/// What the writer is asked to erase.
pub(super) struct EraseJob {
    pub(super) entity: EntityTypeId,
    pub(super) key: Box<[u8]>,
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
    let (pending, limit) = (shared.erasures().pending().count(), shared.limits.pending_erasures);
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
    if !may_lie_on_disk {
        erasures.lies_in_memory(sequence);
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
