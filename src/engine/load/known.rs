//! Leaves out rows that history has from elsewhere: the same key, event time and values.
//!
//! It does not know the load's own rows: those are never compared with each other.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Loader;
use crate::archive::RowRef;
use crate::engine::as_of::{self, damaged};
use crate::engine::error::Problem;
use crate::engine::shared::Shared;
use crate::history::ReadError;
use crate::history::as_of::{AsOf, RowAt};
use crate::history::bulk::Part;
use crate::history::sealed::RowIn;
use crate::ids::Slot;
use crate::registry::model::View;
use crate::time::ArrivalTime;
use crate::value::layout::Layout;

/// History as it was when the first rows were looked up.
pub(super) struct Known<'a> {
    shared: &'a Shared,
    view: &'a Arc<View>,
    history: Option<AsOf>,
}

impl<'a> Known<'a> {
    pub(super) fn new(loader: &'a Loader) -> Self {
        Self { shared: &loader.shared, view: &loader.view, history: None }
    }

    /// Leaves them out of `part` and says how many they were.
    pub(super) fn leave_out(&mut self, part: &mut Part) -> Result<u64, Problem> {
        let Some((oldest, newest)) = part.times() else { return Ok(0) };
        let history = match &mut self.history {
            Some(history) => history,
            none => none.insert(as_of::visible(self.shared, None)?),
        };
        let view = self.view.id;
        if !history.may_have(view, (oldest, newest)) {
            return Ok(0);
        }
        let (mut sweep, layout) = (history.sweep(view), self.view.layout());
        let mut known = 0;
        let goes = |row: &RowIn<'_>| {
            let mut is_known = false;
            let mut visit = |found: RowAt<'_>| {
                is_known = found.event_time == row.event_time
                    && is_same(layout, found.archive, row.archive);
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
        Ok(known)
    }
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
