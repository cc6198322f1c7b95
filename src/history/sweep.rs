//! Reads of history as of many instants: the same rows as one walk after another shows, but with
//! every place read from front to back where keys and instants come in order.
//!
//! It does not know what a row means, nor keeps what it read for others.

use super::ReadError;
use super::as_of::{AsOf, RowAt, Visit};
use super::index::LogLane;
use super::sealed::{Lane, SectionFacts, Walk};
use crate::ids::{Sequence, ViewId};
use crate::time::{ArrivalTime, EventTime};

type Order = (EventTime, Sequence);

/// Reads rows of one view.
pub struct Sweep<'a> {
    as_of: &'a AsOf,
    view: ViewId,
    /// Those that may have the newest rows first.
    places: Vec<Place>,
    /// The key of the last read, and how many keys there were up to it.
    key: Vec<u8>,
    turn: u64,
    /// Earlier rows of that key are erased.
    erased_below: Sequence,
    archive: Vec<u8>,
}

/// One place that has rows of the view.
struct Place {
    rows: Rows,
    bounds: Bounds,
    /// The greatest order that its next row can have; none behind the last.
    next: Option<Order>,
    is_sought: bool,
    /// The turn of the key it was last sought for.
    turn: u64,
}

/// What is known of the rows of a place.
#[derive(Clone, Copy)]
struct Bounds {
    oldest: EventTime,
    newest: EventTime,
    first: Sequence,
    first_arrival: ArrivalTime,
}

/// What is known of the rows of the log.
const UNKNOWN: Bounds = Bounds {
    oldest: EventTime::MIN,
    newest: EventTime::MAX,
    first: Sequence::ZERO,
    first_arrival: ArrivalTime::MIN,
};

enum Rows {
    /// With the walk back from where the lane stands, once there is one.
    Sealed(Box<Lane>, Option<Walk>),
    Log(LogLane),
}

impl AsOf {
    /// Begins to read rows of `view` for many keys and instants.
    pub fn sweep(&self, view: ViewId) -> Sweep<'_> {
        let sealed = self.sealed_files().filter_map(|file| {
            let (lane, facts) = (Lane::open(file, view)?, file.facts(view)?);
            let SectionFacts { oldest, newest, first, first_arrival, .. } = facts;
            let bounds = Bounds { oldest, newest, first, first_arrival };
            Some((Rows::Sealed(Box::new(lane), None), bounds))
        });
        let log = self
            .log_parts()
            .map(|part| (Rows::Log(LogLane::new(part, view, self.upto())), UNKNOWN));
        let place = |(rows, bounds)| Place { rows, bounds, next: None, is_sought: false, turn: 0 };
        let mut places: Vec<Place> = sealed.chain(log).map(place).collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.bounds.newest));
        let erased_below = Sequence::ZERO;
        let (key, archive) = (Vec::new(), Vec::new());
        Sweep { as_of: self, view, places, key, turn: 0, erased_below, archive }
    }
}

impl Sweep<'_> {
    /// What is read from now on is of `key`.
    pub fn turn_to(&mut self, key: &[u8]) {
        if self.turn == 0 || self.key != key {
            self.turn += 1;
            self.key.clear();
            self.key.extend_from_slice(key);
            self.erased_below = self.as_of.erased_below(self.view, key);
        }
    }

    /// Shows `visit` the rows that [`AsOf::rows_before`] would, of those that arrived up to
    /// `known_at`. Quick if keys, and instants of a key, come in order; right in any order.
    ///
    /// # Errors
    /// The disk failed, or a row is not what was written.
    pub fn rows_before(
        &mut self,
        (at, known_at): (EventTime, ArrivalTime),
        visit: &mut dyn Visit,
    ) -> Result<(), ReadError> {
        let (upto, known_at) = (self.as_of.upto(), known_at.min(self.as_of.known_at()));
        let mut best = self.begin(at, (upto, known_at))?;
        while let Some(index) = best {
            let place = &mut self.places[index];
            if !place.is_sought {
                place.seek(&self.key, at, self.turn)?;
            } else {
                if let Some((event_time, sequence)) = place.next
                    && sequence <= upto
                    && sequence >= self.erased_below
                    && let Some(arrival) = place.arrival().filter(|arrival| *arrival <= known_at)
                {
                    let archive = place.archive(&mut self.archive)?;
                    if visit.row(RowAt { event_time, sequence, arrival, archive }).is_break() {
                        return Ok(());
                    }
                }
                place.back(&self.key, &*visit)?;
            }
            let rest = self.places.iter().enumerate().filter(|(_, place)| place.next.is_some());
            best = rest.max_by_key(|(_, place)| place.next).map(|(index, _)| index);
        }
        Ok(())
    }

    /// Seeks in every place that may have the newest row of all, and says which has it.
    fn begin(
        &mut self,
        at: EventTime,
        (upto, known_at): (Sequence, ArrivalTime),
    ) -> Result<Option<usize>, ReadError> {
        let mut best: Option<(Order, usize)> = None;
        for (index, place) in self.places.iter_mut().enumerate() {
            place.begin(at, (upto, known_at));
            let Some(bound) = place.next else { continue };
            if best.is_some_and(|(order, _)| order.0 > bound.0) {
                continue;
            }
            place.seek(&self.key, at, self.turn)?;
            if let Some(order) = place.next
                && best.is_none_or(|(newest, _)| order > newest)
            {
                best = Some((order, index));
            }
        }
        Ok(best.map(|(_, index)| index))
    }
}

impl Place {
    /// Makes ready for another key or instant.
    fn begin(&mut self, at: EventTime, (upto, known_at): (Sequence, ArrivalTime)) {
        if let Rows::Sealed(_, walk) = &mut self.rows {
            *walk = None;
        }
        let Bounds { oldest, newest, first, first_arrival } = self.bounds;
        let too_late = oldest > at || first > upto || first_arrival > known_at;
        self.is_sought = false;
        self.next = (!too_late).then(|| (newest.min(at), Sequence::MAX));
    }

    fn seek(&mut self, key: &[u8], at: EventTime, turn: u64) -> Result<(), ReadError> {
        let same = self.turn == turn;
        let below = (at, Sequence::MAX);
        self.is_sought = true;
        self.turn = turn;
        self.next = match &mut self.rows {
            Rows::Sealed(lane, _) => {
                lane.seek(key, below, same)?;
                lane.order()
            }
            Rows::Log(lane) => {
                lane.seek(key, below, same);
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
