//! Archived rows and states: any bytes, read with several layouts.
#![no_main]

use larder::archive::{RowRef, StateRef};
use larder::ids::Slot;
use larder::value::cell::CellRef;
use larder::value::json;
use larder_fuzz::{archive, layouts, seed};

fn seeds() {
    for value in [0, -1, i64::MAX] {
        seed(&format!("row{value}"), &archive(value));
    }
}

fn show(cell: CellRef<'_>) {
    if let CellRef::Value(value) = cell {
        json::write(value, &mut Vec::new());
    }
}

libfuzzer_sys::fuzz_target!(init: seeds(), |data: &[u8]| {
    let row = RowRef::access(data).ok();
    let state = StateRef::access(data).ok();
    for layout in layouts() {
        if let Some(row) = row
            && row.check(&layout).is_ok()
        {
            (0..layout.len()).for_each(|slot| show(row.cell(&layout, Slot(slot as u16))));
        }
        if let Some(state) = state
            && state.check(&layout).is_ok()
        {
            for (slot, place) in layout.places().iter().enumerate() {
                let slot = Slot(slot as u16);
                show(state.cell_at(*place, slot));
                state.origin(slot);
            }
            let _ = (state.sequence(), state.event_time());
        }
    }
    if let Some(row) = row {
        (0..row.slots() + 9).for_each(|slot| { row.has(slot); });
    }
});
