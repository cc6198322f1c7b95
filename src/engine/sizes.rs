//! How many bytes a row of each view takes: sealed, in the log, in memory.
//!
//! It does not know how they are shown.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::history::sizes::Size;
use crate::ids::ViewId;

/// Rows of a map whose lengths are looked at.
const SAMPLED_ROWS: usize = 1000;

/// What the rows of one view take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ViewSizes {
    /// The view.
    pub view: ViewId,
    /// Its rows in sealed files, and their bytes there.
    pub sealed: Size,
    /// Bytes of a row in the log, by those at hand; none if there are none.
    pub log: Option<f64>,
    /// Bytes of key and values of a row in memory, by a sample; none if none is there.
    pub memory: Option<f64>,
}

impl Engine {
    /// What a row of each view takes. Blocking, since it reads a part of the log.
    pub fn sizes(&self) -> Vec<ViewSizes> {
        let shared = &self.shared;
        let (sealed, log) = (shared.history.sealed_sizes(), shared.history.log_sample());
        let maps = shared.stores.online.views();
        let views: BTreeSet<ViewId> = sealed
            .keys()
            .chain(log.keys())
            .copied()
            .chain(maps.iter().map(|(id, _)| *id))
            .collect();
        let of_memory = |view: ViewId| {
            let (_, map) = maps.iter().find(|(id, _)| *id == view)?;
            let rows = map.pin();
            let mut size = Size::default();
            for (key, state) in rows.iter().take(SAMPLED_ROWS) {
                size.rows += 1;
                size.bytes += (key.len() + state.len()) as u64;
            }
            mean(size)
        };
        let sizes = views.into_iter().map(|view| ViewSizes {
            view,
            sealed: sealed.get(&view).copied().unwrap_or_default(),
            log: log.get(&view).and_then(|size| mean(*size)),
            memory: of_memory(view),
        });
        sizes.collect()
    }
}

fn mean(size: Size) -> Option<f64> {
    (size.rows > 0).then(|| size.bytes as f64 / size.rows as f64)
}
