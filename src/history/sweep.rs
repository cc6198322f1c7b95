//! Reads of history as of many instants: the same rows as one walk after another shows, but with
//! every place read from front to back where keys and instants come in order.
//!
//! It does not know what a row means, nor keeps what it read for others.

use super::ReadError;
use super::as_of::{AsOf, RowAt, Visit};
use super::index::LogLane;
use super::sealed::{Lane, Walk};
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

type Order = (EventTime, Sequence);

/// Reads rows of one view.
pub struct Sweep<'a> {
    as_of: &'a AsOf,
    view: ViewId,
    places: Vec<Place>,
    archive: Vec<u8>,
}

/// One place that has rows of the view.
struct Place {
    rows: Rows,
    /// The greatest order that its next row can have; none behind the last.
    next: Option<Order>,
    is_sought: bool,
}

enum Rows {
    /// With the walk back from where the lane stands, once there is one.
    Sealed(Box<Lane>, Option<Walk>),
    Log(LogLane),
}

impl AsOf {
    /// Begins to read rows of `view` for many keys and instants.
    pub fn sweep(&self, view: ViewId) -> Sweep<'_> {
        let lanes = self.sealed_files().filter_map(|file| Lane::open(file, view));
        let sealed = lanes.map(|lane| Rows::Sealed(Box::new(lane), None));
        let log = self.log_parts().map(|part| Rows::Log(LogLane::new(part, view, self.upto())));
        let place = |rows| Place { rows, next: None, is_sought: false };
        let places = sealed.chain(log).map(place).collect();
        Sweep { as_of: self, view, places, archive: Vec::new() }
    }
}

impl Sweep<'_> {
    /// The view whose rows it reads.
    pub fn view(&self) -> ViewId {
        self.view
    }

    /// Shows `visit` the rows that [`AsOf::rows_before`] would, of those that arrived up to
    /// `known_at`. Quick if keys, and instants of a key, come in order; right in any order.
    ///
    /// # Errors
    /// The disk failed, or a row is not what was written.
    pub fn rows_before(
        &mut self,
        key: &[u8],
        (at, known_at): (EventTime, ArrivalTime),
        visit: &mut dyn Visit,
    ) -> Result<(), ReadError> {
        let known_at = known_at.min(self.as_of.known_at());
        self.places.iter_mut().for_each(|place| place.begin(at, known_at, self.as_of.upto()));
        while let Some(place) = self.places.iter_mut().max_by_key(|place| place.next) {
            let Some(order) = place.next else { return Ok(()) };
            if !place.is_sought {
                place.seek(key, at)?;
                continue;
            }
            if order.1 <= self.as_of.upto()
                && let Some(arrival) = place.arrival().filter(|arrival| *arrival <= known_at)
            {
                let archive = place.archive(&mut self.archive)?;
                let (event_time, sequence) = order;
                let row = RowAt { event_time, sequence, arrival, archive };
                if visit.row(row).is_break() {
                    return Ok(());
                }
            }
            place.back(key, &*visit)?;
        }
        Ok(())
    }
}

impl Place {
    /// Makes ready for another key or instant.
    fn begin(&mut self, at: EventTime, known_at: ArrivalTime, upto: Sequence) {
        self.is_sought = false;
        self.next = match &mut self.rows {
            Rows::Sealed(lane, walk) => {
                *walk = None;
                let facts = lane.facts();
                let too_late =
                    facts.oldest > at || facts.first > upto || facts.first_arrival > known_at;
                (!too_late).then(|| (facts.newest.min(at), Sequence::MAX))
            }
            Rows::Log(_) => Some((at, Sequence::MAX)),
        };
    }

    fn seek(&mut self, key: &[u8], at: EventTime) -> Result<(), ReadError> {
        self.is_sought = true;
        let below = (at, Sequence::MAX);
        self.next = match &mut self.rows {
            Rows::Sealed(lane, _) => {
                lane.seek(key, below)?;
                lane.order()
            }
            Rows::Log(lane) => {
                lane.seek(key, below);
                lane.order()
            }
        };
        Ok(())
    }

    fn arrival(&self) -> Option<ArrivalTime> {
        match &self.rows {
            Rows::Sealed(_, Some(walk)) => Some(walk.current().0),
            Rows::Sealed(lane, None) => lane.current().map(|(arrival, _)| arrival),
            Rows::Log(lane) => lane.arrival(),
        }
    }

    /// The archive of its row; read into `buffer` if it is not in memory.
    fn archive<'a>(&'a self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], ReadError> {
        match &self.rows {
            Rows::Sealed(_, Some(walk)) => Ok(walk.current().1),
            Rows::Sealed(lane, None) => Ok(lane.current().map_or(&[], |(_, archive)| archive)),
            Rows::Log(lane) => {
                lane.read(buffer)?;
                Ok(buffer)
            }
        }
    }

    /// Moves to the next older row.
    fn back(&mut self, key: &[u8], visit: &dyn Visit) -> Result<(), ReadError> {
        self.next = match &mut self.rows {
            Rows::Sealed(lane, walk) => {
                if walk.is_none() {
                    *walk = lane.walk();
                }
                match walk {
                    Some(walk) => lane.back(walk, key, visit.missing())?.then(|| walk.order()),
                    None => None,
                }
            }
            Rows::Log(lane) => {
                lane.back();
                lane.order()
            }
        };
        Ok(())
    }
}
