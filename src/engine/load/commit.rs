//! Makes a load history, on the writer thread: numbered, stamped and durable in one step, before
//! and after which all other writes come.
//!
//! It does not know the rows.

use std::sync::Arc;

use crate::engine::error::Problem;
use crate::engine::queue::stopped;
use crate::engine::write::Writer;
use crate::history::bulk::{Identity, LoadArrival, Staged};
use crate::history::record::SourceKind;
use crate::history::sealed::SealedFile;
use crate::ids::{Sequence, ViewId};
use crate::metrics::{Code, WritesState};
use crate::registry::model::View;
use crate::time::ArrivalTime;

/// A load that is durable and not history yet.
pub(in crate::engine) struct LoadJob {
    pub(super) view: Arc<View>,
    pub(super) identity: Identity,
    pub(super) staged: Staged,
    /// Whether each row says when it arrived.
    pub(super) by_row: bool,
}

/// A load that is history.
pub(in crate::engine) struct Committed {
    pub(in crate::engine) view: ViewId,
    pub(in crate::engine) identity: Identity,
    pub(in crate::engine) rows: u64,
    /// Its first sequence,
    pub(in crate::engine) first: Sequence,
    /// and its last, or the last there was if it has no row.
    pub(in crate::engine) last: Sequence,
    pub(in crate::engine) files: Vec<Arc<SealedFile>>,
}

/// Makes it history. A power cut at any moment leaves all of it or nothing.
pub(in crate::engine) fn commit(
    writer: &mut Writer,
    job: LoadJob,
) -> Result<Arc<Committed>, Problem> {
    let LoadJob { view, identity, staged, by_row } = job;
    let shared = writer.shared.clone();
    if shared.metrics.writes() == WritesState::Stopped {
        return Err(stopped());
    }
    if shared.registry.load().view(view.id).is_none() {
        let detail = "the view was dropped while the file was loaded";
        return Err(Problem::new(Code::UnknownView, detail));
    }
    let arrival = arrival(writer, &staged)?;
    let before = writer.history.last();
    let (first, last) = (before.next(), before.plus(staged.rows()));
    let mut positions = shared.positions().clone();
    positions.set(SourceKind::Load, &identity, &last.0.to_le_bytes(), arrival);
    let control = writer.control_snapshot(&positions, &shared.erasures(), last);
    let files = match staged.rows() {
        0 => writer
            .history
            .sync()
            .and_then(|()| writer.history.save_control(control))
            .map(|()| vec![]),
        _ => writer.history.commit_load(&staged, LoadArrival { now: arrival, by_row }, control),
    };
    let files = files.map_err(|error| writer.refused(&error))?;
    let committed =
        Arc::new(Committed { view: view.id, identity, rows: staged.rows(), first, last, files });
    *shared.positions() = positions;
    if committed.rows > 0 {
        writer.last_arrival = arrival;
        writer.unmarked = false;
        if view.online {
            // Before anybody can see that there is something to bring online.
            shared.hold(committed.clone());
        }
        let metrics = &shared.metrics;
        metrics.rows_accepted.add(committed.rows);
        metrics.sequence_written.set(last.0);
        metrics.sequence_durable.set(last.0);
        shared.advance(last, arrival);
    }
    writer.set_state(WritesState::Open);
    Ok(committed)
}

/// When it arrives: no row happened or arrived later, though the clock may have been set back since
/// it was read.
fn arrival(writer: &mut Writer, staged: &Staged) -> Result<ArrivalTime, Problem> {
    let arrival = writer.arrival()?;
    let (latest, max_future) = (staged.latest(), writer.shared.limits.max_future);
    if latest > arrival.plus(max_future) {
        let detail = format!(
            "the clock says {arrival}, more than limits.max_future ({max_future}) before the \
             latest row ({latest}), which was read when the clock said so; set it right or wait"
        );
        return Err(Problem::new(Code::ClockBehind, detail));
    }
    Ok(arrival.max(latest))
}

/// The last sequence of a load, from its position in the control snapshot.
pub(super) fn sequence_of(position: &[u8]) -> Option<Sequence> {
    position.try_into().ok().map(u64::from_le_bytes).map(Sequence)
}
