//! Answers of lookups as JSON, written straight into one buffer.
//!
//! It does not know where answers come from.

use std::time::Duration;

use crate::engine::answer_columns::Include;
use crate::engine::error::Problem;
use crate::engine::lookup::{Answer, Outcome};
use crate::http::asked::Names;
use crate::metrics::{Code, Metrics};
use crate::recency::Status;
use crate::time::EventTime;
use crate::value::json;

/// What an answer says of itself.
pub(super) struct Metadata<'a> {
    /// How long it took so far.
    pub(super) latency: Duration,
    /// The instant it holds at.
    pub(super) at: EventTime,
    pub(super) outcome: &'a Outcome,
}

impl Metadata<'_> {
    /// Appends `"metadata":{…}` with the counts that `counts` writes.
    pub(super) fn write(&self, out: &mut Vec<u8>, counts: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(b"\"metadata\":{\"latency_ms\":");
        write_millis(u64::try_from(self.latency.as_micros()).unwrap_or(u64::MAX), out);
        out.extend_from_slice(b",\"timestamp\":");
        json::write_time(self.at, out);
        counts(out);
        out.extend_from_slice(b",\"cache_hit\":");
        out.extend_from_slice(if self.outcome.cache_hit { b"true" } else { b"false" });
        out.extend_from_slice(b",\"fallback\":");
        out.extend_from_slice(if self.outcome.fallback { b"true" } else { b"false" });
        if let Some(reason) = &self.outcome.fallback_reason {
            out.extend_from_slice(b",\"fallback_reason\":");
            json::write_string(reason, out);
        }
        out.push(b'}');
    }
}

/// Appends microseconds as milliseconds with three decimals.
fn write_millis(micros: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1_000).as_bytes());
    let decimals = (micros % 1_000) as u16;
    let digit = |power: u16| b'0' + (decimals / power % 10) as u8;
    out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

/// Refuses what was answered with a default standing in for a failure, if the request is `strict`
/// about that.
pub(super) fn check_strict(strict: bool, outcome: &Outcome) -> Result<(), Problem> {
    if !strict || !outcome.fallback {
        return Ok(());
    }
    let reason = outcome.fallback_reason.as_deref().unwrap_or_default();
    Err(Problem::new(Code::Overloaded, format!("the lookup fell back: {reason}")))
}

/// How many values were asked for and what became of them.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) asked: u64,
    pub(super) missing: u64,
    pub(super) defaulted: u64,
}

impl Tally {
    pub(super) fn add(&mut self, answer: &Answer<'_>) {
        self.asked += 1;
        self.missing += u64::from(answer.status != Status::Present);
        self.defaulted += u64::from(answer.defaulted);
    }

    /// Counts them in the metrics.
    pub(super) fn record(self, outcome: &Outcome, metrics: &Metrics) {
        metrics.features_asked.add(self.asked);
        metrics.features_missing.add(self.missing);
        metrics.features_defaulted.add(self.defaulted);
        if outcome.fallback_reason.is_some() {
            metrics.lookups_fallen_back.increment();
        }
    }
}

/// One of the things an answer includes per value: an array, or an object by name.
struct Part {
    buffer: Vec<u8>,
    name: &'static [u8],
}

/// The parts that were asked for: usually none, and then no value pays for them.
pub(super) struct Parts(Option<Box<AllParts>>);

struct AllParts {
    statuses: Option<Part>,
    event_timestamps: Option<Part>,
    defaulted: Option<Part>,
}

impl Parts {
    pub(super) fn new(include: Include) -> Self {
        let part = |name: &'static [u8]| Part { buffer: Vec::new(), name };
        let parts = AllParts {
            statuses: include.statuses.then(|| part(b"statuses")),
            event_timestamps: include.event_timestamps.then(|| part(b"event_timestamps")),
            defaulted: include.defaulted.then(|| part(b"defaulted")),
        };
        let any = include.statuses || include.event_timestamps || include.defaulted;
        Self(any.then(|| Box::new(parts)))
    }

    /// Appends the same bytes to each.
    #[inline]
    fn punctuate(&mut self, bytes: &[u8]) {
        if let Some(parts) = &mut self.0 {
            parts.each().for_each(|part| part.buffer.extend_from_slice(bytes));
        }
    }

    #[inline]
    fn push(&mut self, answer: &Answer<'_>) {
        if let Some(parts) = &mut self.0 {
            parts.push(answer);
        }
    }

    /// Appends `,"statuses":…` and so on.
    fn write(&mut self, out: &mut Vec<u8>) {
        for part in self.0.iter_mut().flat_map(|parts| parts.each()) {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(part.name);
            out.extend_from_slice(b"\":");
            out.extend_from_slice(&part.buffer);
        }
    }
}

impl AllParts {
    fn each(&mut self) -> impl Iterator<Item = &mut Part> {
        [&mut self.statuses, &mut self.event_timestamps, &mut self.defaulted].into_iter().flatten()
    }

    fn push(&mut self, answer: &Answer<'_>) {
        if let Some(Part { buffer, .. }) = &mut self.statuses {
            buffer.push(b'"');
            buffer.extend_from_slice(answer.status.as_str().as_bytes());
            buffer.push(b'"');
        }
        if let Some(Part { buffer, .. }) = &mut self.event_timestamps {
            match answer.event_time {
                Some(time) => json::write_time(time, buffer),
                None => buffer.extend_from_slice(b"null"),
            }
        }
        if let Some(Part { buffer, .. }) = &mut self.defaulted {
            buffer.extend_from_slice(if answer.defaulted { b"true" } else { b"false" });
        }
    }
}

fn write_value(answer: &Answer<'_>, out: &mut Vec<u8>) {
    match answer.value {
        Some(value) => json::write(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// The features of one entity: an object by name, with what is included, and what is missing.
pub(super) struct OneAnswer<'a> {
    out: Vec<u8>,
    names: &'a Names,
    parts: Parts,
    missing: Vec<usize>,
    pub(super) tally: Tally,
}

impl<'a> OneAnswer<'a> {
    /// Begins after `out`, the start of an object with at least one member.
    pub(super) fn new(mut out: Vec<u8>, names: &'a Names, include: Include) -> Self {
        out.extend_from_slice(b",\"features\":{");
        let mut parts = Parts::new(include);
        parts.punctuate(b"{");
        Self { out, names, parts, missing: Vec::new(), tally: Tally::default() }
    }

    /// Takes the answer of the next column.
    pub(super) fn push(&mut self, column: usize, answer: &Answer<'_>) {
        let name = self.names.member(column);
        self.out.extend_from_slice(name);
        write_value(answer, &mut self.out);
        self.parts.punctuate(name);
        self.parts.push(answer);
        if answer.status != Status::Present {
            self.missing.push(column);
        }
        self.tally.add(answer);
    }

    /// Ends the object.
    pub(super) fn finish(mut self, metadata: &Metadata<'_>) -> Vec<u8> {
        self.out.push(b'}');
        self.parts.punctuate(b"}");
        self.parts.write(&mut self.out);
        self.out.push(b',');
        let (missing, names) = (&self.missing, self.names);
        metadata.write(&mut self.out, |out| {
            out.extend_from_slice(b",\"missing_features\":[");
            for (index, column) in missing.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(names.string(*column));
            }
            out.push(b']');
        });
        self.out.push(b'}');
        self.out
    }
}

/// The features of many entities: an array of values per row.
pub(super) struct ManyAnswers {
    out: Vec<u8>,
    columns: usize,
    parts: Parts,
    row_found: bool,
    not_found: u64,
    first_row: bool,
    pub(super) tally: Tally,
}

impl ManyAnswers {
    /// Begins an answer with these columns.
    pub(super) fn new(names: &Names, rows: usize, include: Include) -> Self {
        let columns = names.count();
        let mut out = Vec::with_capacity(256 + names.bytes() + rows * columns * 8);
        out.extend_from_slice(b"{\"feature_names\":[");
        for column in 0..columns {
            if column > 0 {
                out.push(b',');
            }
            out.extend_from_slice(names.string(column));
        }
        out.extend_from_slice(b"],\"rows\":[");
        let mut parts = Parts::new(include);
        parts.punctuate(b"[");
        Self {
            out,
            columns,
            parts,
            row_found: false,
            not_found: 0,
            first_row: true,
            tally: Tally::default(),
        }
    }

    /// Takes the next answer, row by row.
    #[inline]
    pub(super) fn push(&mut self, column: usize, answer: &Answer<'_>) {
        match column {
            0 => self.begin_row(),
            _ => self.punctuate(b","),
        }
        write_value(answer, &mut self.out);
        self.parts.push(answer);
        self.row_found |= answer.status != Status::NotFound;
        self.tally.add(answer);
        if column + 1 == self.columns {
            self.punctuate(b"]");
            self.not_found += u64::from(!self.row_found);
        }
    }

    fn begin_row(&mut self) {
        self.punctuate(if self.first_row { b"[" } else { b",[" });
        self.first_row = false;
        self.row_found = false;
    }

    #[inline]
    fn punctuate(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.parts.punctuate(bytes);
    }

    /// Ends the answer.
    pub(super) fn finish(mut self, metadata: &Metadata<'_>) -> Vec<u8> {
        self.punctuate(b"]");
        self.parts.write(&mut self.out);
        self.out.push(b',');
        let (missing, not_found) = (self.tally.missing, self.not_found);
        metadata.write(&mut self.out, |out| {
            for (name, count) in [(",\"missing\":", missing), (",\"not_found\":", not_found)] {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
            }
        });
        self.out.push(b'}');
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;
    use crate::registry::plan::Column;
    use crate::value::cell::ValueRef;
    use crate::value::layout::Place;
    use crate::value::types::{FeatureType, ScalarType};

    fn names(names: &[&str]) -> Names {
        let column = |name: &&str| Column {
            source: 0,
            slot: Slot(0),
            name: (*name).into(),
            place: Place::new(FeatureType::Scalar(ScalarType::Int32), 0),
            ttl: None,
            default: None,
        };
        Names::new(&names.iter().map(column).collect::<Vec<_>>())
    }

    const HERE: Answer<'static> = Answer {
        status: Status::Present,
        value: Some(ValueRef::Int32(30)),
        defaulted: false,
        event_time: Some(EventTime::from_micros(0)),
    };
    const GONE: Answer<'static> =
        Answer { status: Status::NotFound, value: None, defaulted: false, event_time: None };
    const OLD: Answer<'static> = Answer {
        status: Status::OutsideMaxAge,
        value: Some(ValueRef::String("un\"known")),
        defaulted: true,
        event_time: Some(EventTime::from_micros(0)),
    };

    #[test]
    fn latencies_have_three_decimals() {
        let check = |micros, expected: &str| {
            let mut out = Vec::new();
            write_millis(micros, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(0, "0.000");
        check(21, "0.021");
        check(999, "0.999");
        check(12_345, "12.345");
        check(3_600_000_001, "3600000.001");
    }

    fn without_latency(answer: Vec<u8>) -> String {
        let mut json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let latency = json["metadata"].as_object_mut().unwrap().shift_remove("latency_ms").unwrap();
        assert!(latency.as_f64().unwrap() >= 0.0);
        json.to_string()
    }

    const ALL: Include = Include { statuses: true, event_timestamps: true, defaulted: true };

    #[test]
    fn one_entity_is_an_object_by_name() {
        let names = names(&["v:a", "v:\"b"]);
        let mut answer = OneAnswer::new(b"{\"entity_id\":1".to_vec(), &names, ALL);
        answer.push(0, &HERE);
        answer.push(1, &OLD);
        let outcome = Outcome { cache_hit: true, fallback: false, fallback_reason: None };
        let at = EventTime::from_micros(0);
        let out =
            answer.finish(&Metadata { latency: Duration::from_micros(21), at, outcome: &outcome });
        let expected = concat!(
            r#"{"entity_id":1,"features":{"v:a":30,"v:\"b":"un\"known"},"#,
            r#""statuses":{"v:a":"PRESENT","v:\"b":"OUTSIDE_MAX_AGE"},"#,
            r#""event_timestamps":{"v:a":"1970-01-01T00:00:00.000000Z","#,
            r#""v:\"b":"1970-01-01T00:00:00.000000Z"},"#,
            r#""defaulted":{"v:a":false,"v:\"b":true},"#,
            r#""metadata":{"timestamp":"1970-01-01T00:00:00.000000Z","#,
            r#""missing_features":["v:\"b"],"cache_hit":true,"fallback":false}}"#,
        );
        assert_eq!(without_latency(out), expected);
    }

    #[test]
    fn many_entities_are_rows() {
        let names = names(&["a", "b"]);
        let include = Include { statuses: true, ..Include::default() };
        let mut answer = ManyAnswers::new(&names, 2, include);
        answer.push(0, &HERE);
        answer.push(1, &OLD);
        answer.push(0, &GONE);
        answer.push(1, &GONE);
        let fallback_reason = Some("slow \"disk\"".into());
        let outcome = Outcome { cache_hit: false, fallback: true, fallback_reason };
        let at = EventTime::from_micros(0);
        let out =
            answer.finish(&Metadata { latency: Duration::from_micros(21), at, outcome: &outcome });
        let expected = concat!(
            r#"{"feature_names":["a","b"],"rows":[[30,"un\"known"],[null,null]],"#,
            r#""statuses":[["PRESENT","OUTSIDE_MAX_AGE"],["NOT_FOUND","NOT_FOUND"]],"#,
            r#""metadata":{"timestamp":"1970-01-01T00:00:00.000000Z","missing":3,"#,
            r#""not_found":1,"cache_hit":false,"fallback":true,"#,
            r#""fallback_reason":"slow \"disk\""}}"#,
        );
        assert_eq!(without_latency(out), expected);
        let none = ManyAnswers::new(&names, 0, Include::default());
        let out =
            none.finish(&Metadata { latency: Duration::from_micros(21), at, outcome: &outcome });
        assert!(without_latency(out).contains(r#""rows":[]"#));
        assert!(check_strict(true, &outcome).is_err());
        assert!(check_strict(false, &outcome).is_ok());
    }
}
