//! Which rows a rewritten file keeps: none that is erased, and of those below the floor of their
//! view only the base.
//!
//! It does not know files; rows come in order from one and go on to another.
//!
//! # What the base is, and why nobody misses the rest
//!
//! A row below the floor `F` goes if, for each feature it has, the same input holds another row of
//! its key that has the feature, is newer by (event time, sequence), and happened **and arrived**
//! before `F`. Call that one the feature's successor.
//!
//! * *As-of reads.* A read at `t >= F`, knowing what arrived up to `k >= F`, takes for each feature
//!   the newest row with an event time up to `t` that arrived up to `k`. It sees the successor, so
//!   it never takes the feature from the row that went. One with `t` or `k` below `F` is refused.
//! * *The online map.* It takes for each feature the newest row of all. The successor is newer.
//! * *Successors may go too*, but only where they have successors in turn. "Newer" has no cycles
//!   and the input is finite, so the last in such a chain stays, and it is below `F` in both times.
//!   It is in the file that is written, whence it goes only by this rule again, for a floor that
//!   is no lower.
//! * *Erased rows* are taken out first, so they are nobody's successors. An erasure that comes
//!   later covers every row there is, the one that went as well as its successor.
//!
//! What stays below the floor is the base: the newest state of every entity, in the rows that
//! brought it, with their times and sequences. So it needs no format of its own.

use std::sync::Arc;

use smallvec::SmallVec;

use super::bounds::Bounds;
use super::sealed::{BuildError, RowIn};
use crate::archive::RowRef;
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

/// Rows of one key that wait for a successor at most; beyond it all of them stay.
const HELD: usize = 1024;

/// Takes on rows that stay.
pub(super) type Emit<'e> = dyn FnMut(&RowIn<'_>) -> Result<(), BuildError> + 'e;

/// The rows of one view on their way from the files that are rewritten to the new one.
pub(super) struct Base {
    bounds: Arc<Bounds>,
    view: ViewId,
    floor: Option<EventTime>,
    /// Whose rows these are.
    key: Vec<u8>,
    erased_below: Sequence,
    /// Rows of the key below the floor, in order, each still the newest for some feature.
    held: Vec<Held>,
    begun: bool,
    dropped: u64,
}

/// A row that may yet have successors for all it has.
struct Held {
    event_time: EventTime,
    sequence: Sequence,
    arrival: ArrivalTime,
    archive: Vec<u8>,
    /// The features without a successor, as bits.
    features: Features,
}

type Features = SmallVec<[u64; 2]>;

impl Base {
    pub(super) fn new(bounds: Arc<Bounds>, view: ViewId) -> Self {
        let floor = bounds.floor(view);
        Self {
            bounds,
            view,
            floor,
            key: Vec::new(),
            erased_below: Sequence::ZERO,
            held: Vec::new(),
            begun: false,
            dropped: 0,
        }
    }

    /// The floor it goes by.
    pub(super) fn floor(&self) -> Option<EventTime> {
        self.floor
    }

    /// Rows that did not stay.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes the next row; they come by key, event time and sequence.
    pub(super) fn row(&mut self, row: &RowIn<'_>, emit: &mut Emit<'_>) -> Result<(), BuildError> {
        if !self.begun || self.key != row.key {
            self.emit_held(emit)?;
            self.begun = true;
            self.key.clear();
            self.key.extend_from_slice(row.key);
            self.erased_below = self.bounds.erased_below(self.view, row.key);
        }
        if row.sequence < self.erased_below {
            self.dropped += 1;
            return Ok(());
        }
        match self.floor {
            Some(floor) if row.event_time < floor => self.hold(row, floor, emit),
            _ => {
                self.emit_held(emit)?;
                emit(row)
            }
        }
    }

    /// Gives the rows that wait; there are no more.
    pub(super) fn end(&mut self, emit: &mut Emit<'_>) -> Result<(), BuildError> {
        self.emit_held(emit)
    }

    fn hold(
        &mut self,
        row: &RowIn<'_>,
        floor: EventTime,
        emit: &mut Emit<'_>,
    ) -> Result<(), BuildError> {
        let features = features(row)?;
        if row.arrival.as_event_time() < floor {
            let before = self.held.len();
            self.held.retain_mut(|held| {
                let pairs = held.features.iter_mut().zip(&features);
                pairs.for_each(|(left, has)| *left &= !has);
                held.features.iter().any(|left| *left != 0)
            });
            self.dropped += (before - self.held.len()) as u64;
        }
        if self.held.len() >= HELD {
            self.emit_held(emit)?;
        }
        let RowIn { event_time, sequence, arrival, archive, .. } = *row;
        let archive = archive.to_vec();
        self.held.push(Held { event_time, sequence, arrival, archive, features });
        Ok(())
    }

    fn emit_held(&mut self, emit: &mut Emit<'_>) -> Result<(), BuildError> {
        for held in self.held.drain(..) {
            let Held { event_time, sequence, arrival, archive, .. } = &held;
            let (event_time, sequence, arrival) = (*event_time, *sequence, *arrival);
            emit(&RowIn { key: &self.key, event_time, sequence, arrival, archive })?;
        }
        Ok(())
    }
}

/// The features a row has, as bits.
fn features(row: &RowIn<'_>) -> Result<Features, BuildError> {
    let cells = RowRef::access(row.archive)
        .map_err(|source| BuildError::Row { sequence: row.sequence, source })?;
    let mut features = Features::from_elem(0, cells.slots().div_ceil(64));
    for slot in (0..cells.slots()).filter(|slot| cells.has(*slot)) {
        features[slot / 64] |= 1 << (slot % 64);
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Encoder;
    use crate::history::manifest::RetentionFloor;
    use crate::history::tests::Random;
    use crate::ids::Slot;
    use crate::value::cell::{CellRef, ValueRef};
    use crate::value::layout::Layout;
    use crate::value::types::{FeatureType, ScalarType};

    const VIEW: ViewId = ViewId(1);

    /// Key, event time, sequence, arrival, and for each feature whether the row has it.
    type Row = (u8, i64, u64, i64, Vec<bool>);

    fn archive(has: &[bool]) -> Vec<u8> {
        let layout = Layout::new(has.iter().map(|_| FeatureType::Scalar(ScalarType::Int64)));
        let (mut encoder, mut archive) = (Encoder::default(), Vec::new());
        encoder.start(&layout);
        for slot in (0..has.len()).filter(|slot| has[*slot]) {
            encoder.set(&layout, Slot(slot as u16), CellRef::Value(ValueRef::Int64(7)));
        }
        encoder.finish_row(&mut archive);
        archive
    }

    fn kept(bounds: Bounds, rows: &[Row]) -> Vec<u64> {
        let mut base = Base::new(Arc::new(bounds), VIEW);
        let mut kept = Vec::new();
        let mut emit = |row: &RowIn<'_>| {
            kept.push(row.sequence.0);
            Ok(())
        };
        for (key, time, sequence, arrival, has) in rows {
            let row = RowIn {
                key: &[*key],
                event_time: EventTime::from_micros(*time),
                sequence: Sequence(*sequence),
                arrival: ArrivalTime::from_micros(*arrival),
                archive: &archive(has),
            };
            base.row(&row, &mut emit).unwrap();
        }
        base.end(&mut emit).unwrap();
        assert_eq!(base.dropped() as usize, rows.len() - kept.len());
        kept
    }

    /// The rule itself: a row goes if a newer one of its key, settled below the floor, has each
    /// feature it has; one without features, if there is any such row.
    fn naive(floor: i64, erased: (u8, u64), rows: &[Row]) -> Vec<u64> {
        let rows: Vec<&Row> =
            rows.iter().filter(|row| row.0 != erased.0 || row.2 >= erased.1).collect();
        let goes = |row: &Row| {
            let mut successors = rows.iter().filter(|other| {
                other.0 == row.0
                    && (other.1, other.2) > (row.1, row.2)
                    && other.1.max(other.3) < floor
            });
            let has: Vec<usize> = (0..row.4.len()).filter(|slot| row.4[*slot]).collect();
            let mut each = has.iter().map(|slot| {
                successors.clone().any(|other| other.4.get(*slot).copied().unwrap_or(false))
            });
            row.1 < floor
                && if has.is_empty() { successors.next().is_some() } else { each.all(|has| has) }
        };
        rows.iter().filter(|row| !goes(row)).map(|row| row.2).collect()
    }

    #[test]
    fn it_keeps_what_the_rule_keeps() {
        for seed in 0..300 {
            let mut random = Random::seeded(seed);
            let slots = [1, 3, 70][random.below(3) as usize];
            let mut rows: Vec<Row> = (1..=random.below(120))
                .map(|sequence| {
                    let slots = random.below(slots) as usize + 1;
                    let density = 1 + random.below(3);
                    let has = (0..slots).map(|_| random.below(density) == 0).collect();
                    let arrival = sequence as i64;
                    let time = arrival - random.below(30) as i64;
                    (random.below(4) as u8, time, sequence, arrival, has)
                })
                .collect();
            rows.sort_by_key(|row| (row.0, row.1, row.2));
            let (floor, erased) = (random.below(120) as i64, (2, random.below(100)));
            let mut bounds = Bounds::default();
            let floor_of_view = EventTime::from_micros(floor);
            bounds.set_floors(&[RetentionFloor { view: VIEW, floor: floor_of_view }]);
            bounds.erase(&[VIEW], &[erased.0], Sequence(erased.1));
            assert_eq!(kept(bounds, &rows), naive(floor, erased, &rows), "seed {seed}");
        }
    }

    #[test]
    fn rows_without_successors_do_not_pile_up() {
        let rows: Vec<Row> = (0..5000).map(|at| (1, at as i64, at, 9000, vec![true])).collect();
        let mut bounds = Bounds::default();
        let floor = EventTime::from_micros(6000);
        bounds.set_floors(&[RetentionFloor { view: VIEW, floor }]);
        assert_eq!(kept(bounds, &rows).len(), 5000);
    }
}
