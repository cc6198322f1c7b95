//! Leaves out rows that history has from elsewhere: the same key, event time and values.
//!
//! It does not know the load's own rows: those are never compared with each other.

use std::ops::ControlFlow;

use super::Loader;
use crate::archive::RowRef;
use crate::engine::as_of::{self, damaged};
use crate::engine::error::Problem;
use crate::engine::queue::Job;
use crate::history::ReadError;
use crate::history::as_of::RowAt;
use crate::history::bulk::Part;
use crate::history::sealed::RowIn;
use crate::ids::Slot;
use crate::time::ArrivalTime;
use crate::value::layout::Layout;

/// Leaves them out of `part` and says how many they were.
///
/// History is looked at anew for each part, as it is by then. It has no row of the load before it
/// has all, and what was accepted beside the load was accepted before it: the load has the later
/// sequences. To go by how it was at the start would hold the files it had then to the end.
pub(super) fn leave_out(loader: &Loader, part: &mut Part) -> Result<u64, Problem> {
    let Loader { shared, view, queue, .. } = loader;
    let Some((oldest, newest)) = part.times() else { return Ok(0) };
    let history = as_of::visible(shared, None)?;
    if !history.may_have(view.id, (oldest, newest)) {
        return Ok(0);
    }
    let (mut sweep, layout) = (history.sweep(view.id), view.layout());
    let mut known = 0;
    let goes = |row: &RowIn<'_>| {
        let mut is_known = false;
        let mut visit = |found: RowAt<'_>| {
            is_known =
                found.event_time == row.event_time && is_same(layout, found.archive, row.archive);
            match is_known || found.event_time < row.event_time {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        sweep.turn_to(row.key);
        sweep.rows_before((row.event_time, ArrivalTime::MAX), &mut visit)?;
        known += u64::from(is_known);
        Ok::<bool, ReadError>(is_known)
    };
    part.leave_out(goes).map_err(|error| damaged(&error))?;
    if known > 0 && shared.history.durable() < history.upto() {
        // A row of a durable part is not read again, so what it was left out for must not be lost.
        queue.ask(Job::SaveControl)?;
    }
    Ok(known)
}

/// Whether two rows of a view say the same of the same features.
fn is_same(layout: &Layout, one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    // A row from the time before a feature was added, or with its strings in another order.
    let fit = |archive| RowRef::access(archive).ok().filter(|row| row.check(layout).is_ok());
    let (Some(one), Some(other)) = (fit(one), fit(other)) else { return false };
    let slots = (0..layout.len()).map(|slot| Slot(slot as u16));
    slots.into_iter().all(|slot| one.cell(layout, slot) == other.cell(layout, slot))
}
