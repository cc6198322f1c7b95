//! Every instant and duration the server handles, and the only place that asks what time it is.
//!
//! It does not know which of two values wins or expires: that is `recency`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};

/// An integer time before 1990 in microseconds is taken for a mistaken unit, not for history.
const EARLIEST_PLAUSIBLE: i64 = 631_152_000_000_000;

macro_rules! instant {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Before every instant that can be written down.
            pub const MIN: Self = Self(i64::MIN);
            /// After every instant that can be written down.
            pub const MAX: Self = Self(i64::MAX);

            /// From microseconds since the Unix epoch, UTC.
            pub const fn from_micros(micros: i64) -> Self {
                Self(micros)
            }

            /// Microseconds since the Unix epoch, UTC.
            pub const fn micros(self) -> i64 {
                self.0
            }

            /// The instant `span` later, at most [`Self::MAX`].
            #[must_use]
            pub const fn plus(self, span: Span) -> Self {
                Self(self.0.saturating_add(span.0))
            }

            /// The instant `span` earlier, at least [`Self::MIN`].
            #[must_use]
            pub const fn minus(self, span: Span) -> Self {
                Self(self.0.saturating_sub(span.0))
            }

            /// How much later this is than `earlier`; negative when it is earlier.
            pub const fn since(self, earlier: Self) -> Span {
                Span(self.0.saturating_sub(earlier.0))
            }
        }

        impl fmt::Display for $name {
            /// RFC 3339 with microseconds, in UTC.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match Timestamp::from_microsecond(self.0) {
                    Ok(timestamp) => write!(f, "{timestamp:.6}"),
                    Err(_) => write!(f, "{}us", self.0),
                }
            }
        }
    };
}

instant! {
    /// When something happened, by the caller's word. Microseconds since the Unix epoch, UTC.
    EventTime
}
instant! {
    /// When the server accepted it. Microseconds since the Unix epoch, UTC; never decreases with
    /// the sequence.
    ArrivalTime
}

impl EventTime {
    /// Appends what `Display` writes. Every answer of a lookup says a time, and for those from
    /// 1970 on this takes half of the instructions.
    pub fn write_to(self, out: &mut Vec<u8>) {
        match u64::try_from(self.0) {
            Ok(micros) if micros < END_OF_FOUR_DIGITS => out.extend_from_slice(&rfc_3339(micros)),
            _ => out.extend_from_slice(self.to_string().as_bytes()),
        }
    }
}

/// The end of what is surely written with a year of four digits, in microseconds.
const END_OF_FOUR_DIGITS: u64 = 253_402_207_200_000_000;

/// RFC 3339 with microseconds. The date is found as in Howard Hinnant's "chrono-Compatible
/// Low-Level Date Algorithms" (`civil_from_days`): years there begin in March.
fn rfc_3339(micros: u64) -> [u8; 27] {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut two_digits = |at: usize, number: u64| {
        text[at] += (number / 10) as u8;
        text[at + 1] += (number % 10) as u8;
    };
    two_digits(0, year / 100);
    two_digits(2, year % 100);
    two_digits(5, month);
    two_digits(8, day);
    two_digits(11, second / 3_600);
    two_digits(14, second / 60 % 60);
    two_digits(17, second % 60);
    two_digits(20, micros / 10_000);
    two_digits(22, micros / 100 % 100);
    two_digits(24, micros % 100);
    text
}

impl ArrivalTime {
    /// The same instant, for what happened at the moment it arrived.
    pub const fn as_event_time(self) -> EventTime {
        EventTime(self.0)
    }
}

impl EventTime {
    /// Reads RFC 3339; an offset is honoured, a time without one is UTC, a date alone is midnight.
    ///
    /// # Errors
    /// The text is no such time, or outside the years -9999 to 9999.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let malformed = || TimeError::Malformed { text: shorten(text) };
        if let Ok(timestamp) = text.parse::<Timestamp>() {
            return Self::written(timestamp.as_microsecond()).ok_or_else(malformed);
        }
        let civil: civil::DateTime = text.parse().map_err(|_| malformed())?;
        let zoned = civil.to_zoned(TimeZone::UTC).map_err(|_| malformed())?;
        Self::written(zoned.timestamp().as_microsecond()).ok_or_else(malformed)
    }

    /// An integer in `unit` since the Unix epoch.
    ///
    /// # Errors
    /// Without a declared unit, an integer that would lie before 1990 is refused; so is one
    /// outside the years -9999 to 9999, which RFC 3339 could not write.
    pub fn from_integer(value: i64, unit: Option<TimeUnit>) -> Result<Self, TimeError> {
        let time = match unit {
            None if value < EARLIEST_PLAUSIBLE => {
                return Err(TimeError::LooksLikeSeconds { value });
            }
            None => Self::written(value),
            Some(unit) => unit.to_micros(value).and_then(Self::written),
        };
        time.ok_or(TimeError::OutOfRange { value })
    }

    /// From microseconds since the Unix epoch, if RFC 3339 can write that instant.
    pub fn written(micros: i64) -> Option<Self> {
        Timestamp::from_microsecond(micros).is_ok().then_some(Self(micros))
    }
}

/// The unit of an integer time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeUnit {
    /// Seconds.
    Second,
    /// Milliseconds.
    Millisecond,
    /// Microseconds.
    Microsecond,
    /// Nanoseconds; what is finer than a microsecond is dropped towards the past.
    Nanosecond,
}

impl TimeUnit {
    /// Reads `s`, `ms`, `us` or `ns`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "s" => Some(Self::Second),
            "ms" => Some(Self::Millisecond),
            "us" => Some(Self::Microsecond),
            "ns" => Some(Self::Nanosecond),
            _ => None,
        }
    }

    /// `value` of this unit in microseconds, unless that overflows.
    pub fn to_micros(self, value: i64) -> Option<i64> {
        match self {
            Self::Second => value.checked_mul(1_000_000),
            Self::Millisecond => value.checked_mul(1_000),
            Self::Microsecond => Some(value),
            Self::Nanosecond => Some(value.div_euclid(1_000)),
        }
    }
}

/// Why a time was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimeError {
    /// Not RFC 3339.
    #[error("\"{text}\" is not an RFC 3339 time such as 2026-01-31T12:00:00Z")]
    Malformed {
        /// What was found, shortened.
        text: String,
    },
    /// A bare integer before 1990.
    #[error(
        "{value} looks like seconds; send RFC 3339 or time_unit \
         (a bare integer is microseconds since 1970)"
    )]
    LooksLikeSeconds {
        /// What was found.
        value: i64,
    },
    /// Cannot be written as RFC 3339.
    #[error("{value} lies outside the years -9999 to 9999")]
    OutOfRange {
        /// What was found, in its own unit.
        value: i64,
    },
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A length of time in microseconds.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Span(i64);

impl Span {
    /// From microseconds.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// In microseconds.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// For the standard library's timers; a negative span is zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0).unwrap_or(0))
    }

    /// From the standard library's; more than about 292,000 years is that.
    pub fn from_std(duration: std::time::Duration) -> Self {
        Self(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }

    /// Reads `500us`, `20ms`, `10s`, `5m`, `1h`, `90d`, `2w`, or several in a row (`1h30m`).
    ///
    /// # Errors
    /// No unit, an unknown unit, or more than about 292,000 years.
    pub fn parse(text: &str) -> Result<Self, SpanError> {
        let refuse = || SpanError { text: shorten(text) };
        let mut rest = text.trim();
        let mut total: i64 = 0;
        if rest.is_empty() {
            return Err(refuse());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
            let amount: i64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit: i64 = match &rest[..letters] {
                "us" => 1,
                "ms" => 1_000,
                "s" => 1_000_000,
                "m" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => 86_400_000_000,
                "w" => 604_800_000_000,
                _ => return Err(refuse()),
            };
            rest = &rest[letters..];
            let part = amount.checked_mul(unit).ok_or_else(refuse)?;
            total = total.checked_add(part).ok_or_else(refuse)?;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    /// In the largest unit that divides it: `90d`, `36h`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(i64, &str); 6] = [
            (86_400_000_000, "d"),
            (3_600_000_000, "h"),
            (60_000_000, "m"),
            (1_000_000, "s"),
            (1_000, "ms"),
            (1, "us"),
        ];
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let (size, name) =
            UNITS.into_iter().find(|(size, _)| self.0 % size == 0).unwrap_or((1, "us"));
        write!(f, "{}{name}", self.0 / size)
    }
}

/// A text that is no length of time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{text}\" is not a duration such as 500ms, 10s, 5m, 1h, 90d")]
pub struct SpanError {
    text: String,
}

/// Where the time comes from; passed in, so that tests can turn it.
pub trait Clock: Send + Sync {
    /// Now, by this clock. It may step back; `engine` keeps arrival times from doing so.
    fn now(&self) -> ArrivalTime;

    /// Now or some milliseconds ago, for what goes by seconds: an eighth of the time to ask.
    fn roughly_now(&self) -> ArrivalTime {
        self.now()
    }
}

/// The machine's wall clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> ArrivalTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ArrivalTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn roughly_now(&self) -> ArrivalTime {
        let time = clock_gettime(ClockId::RealtimeCoarse);
        ArrivalTime(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000)
    }
}

/// A clock that stands still until it is set; for tests.
#[derive(Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: ArrivalTime) -> Self {
        Self(Arc::new(AtomicI64::new(now.0)))
    }

    /// Turns it, forwards or back.
    pub fn set(&self, now: ArrivalTime) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Turns it on by `span`.
    pub fn advance(&self, span: Span) {
        self.0.fetch_add(span.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> ArrivalTime {
        ArrivalTime(self.0.load(Ordering::SeqCst))
    }
}

/// A point on the machine's monotonic clock, for measuring how long something took.
#[derive(Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// How long ago it was started.
    pub fn elapsed(self) -> std::time::Duration {
        self.0.elapsed()
    }
}

/// The time this thread had on a core since it began.
pub fn of_this_thread() -> std::time::Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    std::time::Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The kernel's tick: a clock for what goes by seconds, some milliseconds behind, that takes an
/// eighth of the time of a [`Stopwatch`] to read. In milliseconds since some instant.
pub fn tick_millis() -> usize {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let millis = time.tv_sec * 1_000 + time.tv_nsec / 1_000_000;
    usize::try_from(millis).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_one_way() {
        let check = |micros: i64| {
            let (time, mut out) = (EventTime::from_micros(micros), b"at ".to_vec());
            time.write_to(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("at {time}"));
        };
        for micros in [0, -1, 1, 1_769_860_800_123_456, -62_135_596_800_000_000, 1_000_000] {
            check(micros);
        }
        let end = END_OF_FOUR_DIGITS as i64;
        [i64::MIN, i64::MAX, end - 1, end, end + 1].into_iter().for_each(check);
        // Four centuries, all months and days and times of the day.
        (0..12_600_000_000_000_000).step_by(1_234_567_891_011).for_each(check);
        for year in 1970..9999 {
            let march = civil::date(year, 3, 1).to_zoned(TimeZone::UTC).unwrap();
            let march = march.timestamp().as_microsecond();
            [march - 1, march].into_iter().for_each(check);
        }
    }

    #[test]
    fn reads_rfc_3339_with_and_without_offset() {
        let check = |text: &str, micros: i64| {
            assert_eq!(EventTime::parse(text).unwrap().micros(), micros, "{text}");
        };
        check("2026-01-31T12:00:00Z", 1_769_860_800_000_000);
        check("2026-01-31T12:00:00.123456Z", 1_769_860_800_123_456);
        check("2026-01-31T14:00:00+02:00", 1_769_860_800_000_000);
        check("2026-01-31T12:00:00", 1_769_860_800_000_000);
        check("2026-01-31 12:00:00", 1_769_860_800_000_000);
        check("1969-12-31T23:59:59Z", -1_000_000);
        for bad in ["", "yesterday", "2026-13-01T00:00:00Z", "12:00", "1769860800"] {
            assert!(EventTime::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_integers_that_look_like_seconds() {
        assert!(EventTime::from_integer(1_769_860_800, None).is_err());
        assert!(EventTime::from_integer(1_769_860_800_000, None).is_err());
        let seconds = EventTime::from_integer(1_769_860_800, Some(TimeUnit::Second)).unwrap();
        assert_eq!(seconds.to_string(), "2026-01-31T12:00:00.000000Z");
        assert!(EventTime::from_integer(i64::MAX, Some(TimeUnit::Second)).is_err());
    }

    #[test]
    fn every_time_that_is_taken_can_be_written() {
        // The last second of the range has no fractions in microseconds.
        let (least, most) =
            (Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_second() * 1_000_000);
        let check = |value: i64, unit, taken: bool| {
            let read = EventTime::from_integer(value, unit);
            assert_eq!(read.is_ok(), taken, "{value} {unit:?}");
            if let Ok(time) = read {
                assert_eq!(EventTime::parse(&time.to_string()), Ok(time));
            }
        };
        check(i64::MAX, None, false);
        check(most, None, true);
        for (value, taken) in [
            (i64::MIN, false),
            (least - 1, false),
            (least, true),
            (most + 1, false),
            (i64::MAX, false),
        ] {
            check(value, Some(TimeUnit::Microsecond), taken);
        }
        check(i64::MIN, Some(TimeUnit::Millisecond), false);
        assert!(EventTime::parse(&Timestamp::MAX.to_string()).is_err());
        check(i64::MIN, Some(TimeUnit::Nanosecond), true);
        check(i64::MAX, Some(TimeUnit::Nanosecond), true);
    }

    #[test]
    fn spans_read_back_as_written() {
        for text in ["90d", "36h", "5m", "10s", "1500ms", "7us", "0s"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Span::parse("1h30m").unwrap(), Span::from_seconds(5400));
        for bad in ["", "5", "m", "5 m", "-5m", "5y", "99999999999999999999d", "999999999999w"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }
}
