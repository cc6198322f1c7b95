//! Decides from times alone which of two values wins and whether a value is still fresh.
//!
//! It does not know values, rows or clocks; lookup, replay and training all ask here, so that they
//! cannot disagree.

use crate::ids::Sequence;
use crate::time::{EventTime, Span};

/// Where the value of a feature came from. The greater one wins: the newest event time, and among
/// equal event times the one accepted last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// When it happened.
    pub event_time: EventTime,
    /// The row that brought it.
    pub sequence: Sequence,
}

/// What became of one feature in a lookup; the first four names are Feast's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// A value, within its TTL.
    Present,
    /// Null was written.
    NullValue,
    /// Nothing was ever written.
    NotFound,
    /// What was written is older than its TTL.
    OutsideMaxAge,
    /// What stood there is not known any more: it is from before what retention keeps.
    BelowRetentionFloor,
}

impl Status {
    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::NullValue => "NULL_VALUE",
            Self::NotFound => "NOT_FOUND",
            Self::OutsideMaxAge => "OUTSIDE_MAX_AGE",
            Self::BelowRetentionFloor => "BELOW_RETENTION_FLOOR",
        }
    }
}

/// Whether what happened at `event_time` still counts at `now`: at exactly the TTL it does.
/// Without a TTL nothing ever expires.
pub fn is_fresh(event_time: EventTime, now: EventTime, ttl: Option<Span>) -> bool {
    ttl.is_none_or(|ttl| now.since(event_time) <= ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_event_wins_and_ties_go_to_the_last_accepted() {
        let origin = |micros, sequence| Origin {
            event_time: EventTime::from_micros(micros),
            sequence: Sequence(sequence),
        };
        assert!(origin(2, 1) > origin(1, 9));
        assert!(origin(1, 9) > origin(1, 8));
        assert!(origin(-5, 1) < origin(-4, 1));
    }

    #[test]
    fn a_value_is_fresh_up_to_and_at_its_ttl() {
        let check = |age: i64, ttl: Option<i64>, fresh: bool| {
            let now = EventTime::from_micros(1_000);
            let event = EventTime::from_micros(1_000 - age);
            assert_eq!(is_fresh(event, now, ttl.map(Span::from_micros)), fresh, "{age} {ttl:?}");
        };
        check(9, Some(10), true);
        check(10, Some(10), true);
        check(11, Some(10), false);
        check(0, Some(0), true);
        check(1, Some(0), false);
        check(i64::MAX, None, true);
    }
}
