//! How far the retention floor of each view moves, and what is refused below it.
//!
//! It does not know how rows below a floor are removed; `history::base` says which.

use crate::engine::error::Problem;
use crate::history::as_of::AsOf;
use crate::history::bounds::Bounds;
use crate::history::manifest::RetentionFloor;
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::time::{ArrivalTime, EventTime, Span};

/// A floor moves in steps of a hundredth of the retention, within these bounds, so that the
/// manifest is not written all the time.
const STEPS: i64 = 100;
const LEAST_STEP: Span = Span::from_seconds(60);
const LARGEST_STEP: Span = Span::from_seconds(3600);

/// How far a clock may be ahead of what this server knows of the time, for retention.
const CLOCK_AHEAD: Span = Span::from_seconds(86_400);

/// The instant that retention counts back from: the clock's, but never much later than the last
/// arrival and the time since this server started say. A clock that was set wrong for a moment must
/// not take history away for ever.
pub(super) fn counted_from(clock: ArrivalTime, last: ArrivalTime, up: Span) -> ArrivalTime {
    clock.min(last.plus(up).plus(CLOCK_AHEAD))
}

/// The floors to be put in force at `now`; none while no view's has a step to go. A floor never
/// moves back, since what was below it is gone; that of a dropped view goes with it.
pub(super) fn floors_due(
    registry: &Registry,
    bounds: &Bounds,
    now: ArrivalTime,
) -> Option<Vec<RetentionFloor>> {
    let mut is_due = false;
    let mut floors = Vec::new();
    for view in registry.all_views() {
        let stands = bounds.floor(view.id);
        let wanted = retention(view).map(|retention| now.as_event_time().minus(retention));
        is_due |= wanted.is_some_and(|to| stands.is_none_or(|from| to.since(from) >= step(view)));
        if let Some(floor) = stands.max(wanted) {
            floors.push(RetentionFloor { view: view.id, floor });
        }
    }
    is_due.then_some(floors)
}

/// How long rows of `view` are kept: as long as it says, and where nobody may ask for the past,
/// no longer than the online map needs them.
fn retention(view: &View) -> Option<Span> {
    if view.offline { view.retention } else { Some(Span::from_micros(0)) }
}

fn step(view: &View) -> Span {
    let of_retention = |retention: Span| Span::from_micros(retention.micros() / STEPS);
    let retention = view.retention.filter(|_| view.offline);
    retention.map_or(LARGEST_STEP, of_retention).clamp(LEAST_STEP, LARGEST_STEP)
}

/// A read as of `at` that retention may have taken rows from.
pub(super) struct BelowFloor {
    /// The floor.
    pub(super) floor: EventTime,
    /// What lies below it.
    asked: Asked,
}

enum Asked {
    At(EventTime),
    KnownAt(ArrivalTime),
}

impl BelowFloor {
    /// Whether rows of `view` that a read as of `at` needs may be gone from `history`.
    pub(super) fn check(
        history: &AsOf,
        view: &View,
        at: EventTime,
        known_at: Option<ArrivalTime>,
    ) -> Option<Self> {
        let floor = history.floor(view.id)?;
        let known_at = known_at.filter(|known_at| known_at.as_event_time() < floor);
        let asked = match known_at {
            _ if at < floor => Asked::At(at),
            Some(known_at) => Asked::KnownAt(known_at),
            None => return None,
        };
        Some(Self { floor, asked })
    }

    /// The refusal of row `row` of a request.
    pub(super) fn refusal(&self, registry: &Registry, view: &View, row: usize) -> Problem {
        let (name, floor) = (registry.name_of(view), self.floor);
        let asked = match self.asked {
            Asked::At(at) => format!("asks as of {at}"),
            Asked::KnownAt(known_at) => format!("asks what was known at {known_at}"),
        };
        let detail = format!(
            "row {row} {asked}; of view {name} retention keeps what happened from {floor} on, and \
             below that only the newest values"
        );
        Problem::new(Code::BelowRetentionFloor, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::changes::{Absent, diff};
    use crate::registry::definitions::Definitions;

    fn registry(definitions: &str) -> Registry {
        let definitions = Definitions::parse_toml("test", definitions).unwrap();
        let mut registry = Registry::new();
        for planned in diff(&registry, &definitions, Absent::Keep).accept().unwrap().0 {
            registry.apply(&planned.change).unwrap();
        }
        registry
    }

    #[test]
    fn a_clock_far_ahead_is_not_believed() {
        let at = |seconds: i64| ArrivalTime::from_micros(seconds * 1_000_000);
        let up = |seconds: i64| Span::from_seconds(seconds);
        let last = 1_769_860_800;
        assert_eq!(counted_from(at(last + 5), at(last), up(3)), at(last + 5));
        assert_eq!(counted_from(at(last - 5), at(last), up(3)), at(last - 5));
        let ten_years = 10 * 365 * 86_400;
        assert_eq!(counted_from(at(last + ten_years), at(last), up(20)), at(last + 86_420));
        // A server that is up for long without a write knows the time all the same.
        let now = at(last + ten_years);
        assert_eq!(counted_from(now, at(last), up(ten_years)), now);
    }

    #[test]
    fn floors_move_in_steps_and_never_back() {
        let registry = registry(
            "entity.user.join_keys = [\"id\"]\n\
             view.kept = { entity = \"user\", features = { a = \"int64\" } }\n\
             view.year = { entity = \"user\", retention = \"365d\", features = { a = \"bool\" } }\n\
             view.day = { entity = \"user\", retention = \"1d\", features = { a = \"int64\" } }\n\
             view.hour = { entity = \"user\", retention = \"1h\", features = { a = \"int64\" } }\n\
             view.now = { entity = \"user\", offline = false, features = { a = \"int64\" } }\n",
        );
        let id = |name: &str| registry.view_named(crate::ids::ProjectId(0), name).unwrap().id;
        let (year, day, hour, now) = (id("year"), id("day"), id("hour"), id("now"));
        let seconds = |seconds: i64| Span::from_seconds(seconds);
        let start = ArrivalTime::from_micros(1_769_860_800_000_000);
        let mut bounds = Bounds::default();
        let mut move_on = |later: i64| {
            let floors = floors_due(&registry, &bounds, start.plus(seconds(later)))?;
            let mut ages: Vec<_> = (floors.iter())
                .map(|entry| (entry.view, start.as_event_time().since(entry.floor)))
                .collect();
            ages.sort_unstable();
            bounds.set_floors(&floors);
            Some(ages)
        };
        let expected = |later: i64| {
            let age = |kept: i64| seconds(kept - later);
            let mut ages = vec![
                (year, age(365 * 86_400)),
                (day, age(86_400)),
                (hour, age(3600)),
                (now, age(0)),
            ];
            ages.sort_unstable();
            Some(ages)
        };
        assert_eq!(move_on(0), expected(0), "the first stands at once");
        assert_eq!(move_on(59), None);
        assert_eq!(move_on(60), expected(60), "one that is due takes the others along");
        assert_eq!(move_on(30), None, "not back");
        assert_eq!(move_on(-100_000), None);
        let steps = ["year", "day", "hour", "now"]
            .map(|name| step(registry.view_named(crate::ids::ProjectId(0), name).unwrap()));
        assert_eq!(steps, [3600, 864, 60, 3600].map(seconds));
    }
}
