//! What a lookup asks for, ready to be answered: its plan, its options, its names as JSON; and
//! those asked before, found again by the text around the ids.
//!
//! It does not know whose features are asked, nor any value.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;
use memchr::memmem::Finder;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::answer_columns::Include;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::LookupPlan;
use crate::http::call::Call;
use crate::http::lookup::{self, When};
use crate::http::lookup_request::{Wanted, read_optional_time, values_per_row};
use crate::ids::ProjectId;
use crate::registry::plan::Column;
use crate::value::json;

/// Memory for what was asked before, in bytes.
const KEPT_BYTES: u64 = 16 << 20;
/// Longest text around the ids that is kept, in bytes.
const LONGEST: usize = 64 << 10;
/// Most that is set aside for the answer of one row, in bytes.
const LONGEST_ROW: usize = 64 << 10;
/// What an entry takes besides its texts, in bytes.
const ENTRY_BYTES: u64 = 512;

/// What a lookup asks for.
pub(super) struct Asked {
    pub(super) plan: Arc<LookupPlan>,
    pub(super) include: Include,
    /// A failure is an error rather than answered by defaults.
    pub(super) strict: bool,
    /// Values of a row, fixed arrays as their length.
    pub(super) values_per_row: usize,
    pub(super) names: Names,
    /// The entity type as asked, as a JSON string; none if several are named.
    pub(super) entity_type: Option<Box<[u8]>>,
}

impl Asked {
    /// What `wanted` asks with this plan.
    pub(super) fn new(wanted: &Wanted<'_>, plan: Arc<LookupPlan>) -> Self {
        let string = |text: &str| {
            let mut out = Vec::new();
            json::write_string(text, &mut out);
            out.into_boxed_slice()
        };
        Self {
            include: wanted.include,
            strict: wanted.strict,
            values_per_row: values_per_row(&plan.plan.columns),
            names: Names::new(&plan.plan.columns),
            entity_type: wanted.entity_type.map(string),
            plan,
        }
    }

    /// Room for the answer of one row of numbers, in bytes, so that it is not moved as it grows;
    /// no more than [`LONGEST_ROW`].
    pub(super) fn row_capacity(&self) -> usize {
        (384 + self.names.bytes() + 16 * self.values_per_row).min(LONGEST_ROW)
    }
}

/// What `wanted` asks, `as_of` when and in which project, once `min_sequence` is visible.
pub(super) async fn ask(
    call: &Call,
    wanted: &Wanted<'_>,
    as_of: Option<&RawValue>,
    deadline: Deadline,
) -> Result<(Arc<Asked>, When, ProjectId), Problem> {
    let engine = call.engine()?;
    let as_of = read_optional_time("as_of", as_of, wanted.time_unit)?;
    let allow_truncated = wanted.allow_truncated;
    let when = as_of.map_or(When::Now, |at| When::At { at, allow_truncated });
    lookup::wait_for(engine, wanted.min_sequence, deadline).await?;
    let project = call.project(&engine.registry())?;
    let plan = wanted.plan(engine, project, when.purpose())?;
    Ok((Arc::new(Asked::new(wanted, plan)), when, project))
}

/// The names of the columns as JSON, so that they are escaped once and not per answer.
pub(super) struct Names {
    /// `"a":,"b":,"c":`
    text: Box<[u8]>,
    /// Where each begins, and where the text ends, counted with one more comma.
    starts: Box<[u32]>,
}

impl Names {
    /// Of these columns, in their order.
    pub(super) fn new(columns: &[Column]) -> Self {
        let mut text = Vec::with_capacity(columns.len() * 24);
        let mut starts = Vec::with_capacity(columns.len() + 1);
        for column in columns {
            starts.push(at(&text));
            json::write_string(&column.name, &mut text);
            text.extend_from_slice(b":,");
        }
        starts.push(at(&text));
        text.pop();
        Self { text: text.into(), starts: starts.into() }
    }

    /// Number of columns.
    pub(super) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Length of all names together, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// `"b":`, for the first column or after a comma: `,"b":`.
    pub(super) fn member(&self, column: usize) -> &[u8] {
        let start = self.starts[column] as usize - usize::from(column > 0);
        &self.text[start..self.starts[column + 1] as usize - 1]
    }

    /// `"b"`
    pub(super) fn string(&self, column: usize) -> &[u8] {
        &self.text[self.starts[column] as usize..self.starts[column + 1] as usize - 2]
    }
}

fn at(text: &[u8]) -> u32 {
    u32::try_from(text.len()).expect("names of one request are far shorter than 4 GiB")
}

/// The field of a body that holds whose features are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IdField {
    /// `"entity_id"`
    One,
    /// `"entity_ids"`
    Many,
}

impl IdField {
    /// Finds the field's name, quoted.
    fn finder(self) -> &'static Finder<'static> {
        // Making one takes longer than using it on the body of a lookup.
        static ONE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"entity_id\""));
        static MANY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"entity_ids\""));
        match self {
            Self::One => &ONE,
            Self::Many => &MANY,
        }
    }

    /// The field's value in `body`. What this finds is right wherever a body of the same text
    /// around it was read and had its ids at the same place; else it is a guess.
    fn find(self, body: &[u8]) -> Option<(Range<usize>, &RawValue)> {
        let finder = self.finder();
        let name = finder.find(body)?;
        let rest = body[name + finder.needle().len()..].trim_ascii_start().strip_prefix(b":")?;
        let mut value = serde_json::Deserializer::from_slice(rest);
        let value = <&RawValue>::deserialize(&mut value).ok()?;
        Some((place_of(value, body), value))
    }
}

/// Where in `body` a value borrowed from it stands.
fn place_of(value: &RawValue, body: &[u8]) -> Range<usize> {
    let start = value.get().as_ptr().addr() - body.as_ptr().addr();
    start..start + value.get().len()
}

/// Lookups asked before. Two bodies that differ in their ids alone ask the same, so what the first
/// one was found to ask stands for the second; of that only the ids are read.
///
/// Why this is sound: a text is kept only after the whole body was read as JSON, with the place
/// where its ids turned out to stand. In a body with the same text before and after, a reader
/// arrives at that place in the same state, finds one whole JSON value there, and goes on as
/// before.
pub(super) struct Lookups {
    asked: Cache<Text, Arc<Asked>, Weight, RandomState, DefaultLifecycle<Text, Arc<Asked>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(1024)
            .weight_capacity(KEPT_BYTES)
            .build()
            .expect("both capacities are given");
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        Self { asked: Cache::with_options(options, Weight, hasher, lifecycle) }
    }
}

impl Lookups {
    /// What `body` asks and for whom, if the same was asked with other ids while the registry had
    /// this revision.
    pub(super) fn find<'b>(
        &self,
        revision: u64,
        project: ProjectId,
        (field, body): (IdField, &'b [u8]),
    ) -> Option<(Arc<Asked>, &'b RawValue)> {
        let (place, ids) = field.find(body)?;
        let asked = self.asked.get(&Around { project, body, place: place.clone() })?;
        if asked.plan.plan.revision != revision {
            // It would keep the rows of a dropped view alive.
            self.asked.remove(&Around { project, body, place });
            return None;
        }
        Some((asked, ids))
    }

    /// Keeps what `body` was found to ask; `ids` is its own. Only for bodies that ask nothing
    /// which differs from request to request besides the ids.
    pub(super) fn keep(
        &self,
        project: ProjectId,
        (field, body): (IdField, &[u8]),
        ids: &RawValue,
        asked: &Arc<Asked>,
    ) {
        let found = field.find(body).map(|(place, _)| place);
        let around = body.len() - ids.get().len();
        if around <= LONGEST && found == Some(place_of(ids, body)) {
            let text = Text::of(project, body, place_of(ids, body));
            self.asked.insert(text, Arc::clone(asked));
        }
    }
}

/// The text of a body around its ids.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Text {
    project: ProjectId,
    text: Box<[u8]>,
    ids_at: usize,
}

impl Text {
    fn of(project: ProjectId, body: &[u8], place: Range<usize>) -> Self {
        let text = [&body[..place.start], &body[place.end..]].concat();
        Self { project, text: text.into(), ids_at: place.start }
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash(self.project, self.text.split_at(self.ids_at), hasher);
    }
}

/// A [`Text`] that lies in a body.
struct Around<'b> {
    project: ProjectId,
    body: &'b [u8],
    place: Range<usize>,
}

impl<'b> Around<'b> {
    fn parts(&self) -> (&'b [u8], &'b [u8]) {
        (&self.body[..self.place.start], &self.body[self.place.end..])
    }
}

impl Hash for Around<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash(self.project, self.parts(), hasher);
    }
}

impl Equivalent<Text> for Around<'_> {
    fn equivalent(&self, text: &Text) -> bool {
        self.project == text.project && self.parts() == text.text.split_at(text.ids_at)
    }
}

fn hash<H: Hasher>(project: ProjectId, (before, after): (&[u8], &[u8]), hasher: &mut H) {
    project.hash(hasher);
    before.hash(hasher);
    after.hash(hasher);
}

#[derive(Clone)]
struct Weight;

impl Weighter<Text, Arc<Asked>> for Weight {
    fn weight(&self, text: &Text, asked: &Arc<Asked>) -> u64 {
        let plan = asked.plan.plan.columns.len() * size_of::<Column>();
        (text.text.len() + asked.names.text.len() + plan) as u64 + ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;
    use crate::value::layout::Place;
    use crate::value::types::{FeatureType, ScalarType};

    fn columns(names: &[&str]) -> Vec<Column> {
        let column = |name: &&str| Column {
            source: 0,
            slot: Slot(0),
            name: (*name).into(),
            place: Place::new(FeatureType::Scalar(ScalarType::Int32), 0),
            ttl: None,
            default: None,
        };
        names.iter().map(column).collect()
    }

    #[test]
    fn names_are_written_once() {
        let names = Names::new(&columns(&["v:a", "v:\"b", "c"]));
        let members = (0..3).map(|column| names.member(column)).collect::<Vec<_>>().concat();
        assert_eq!(members, br#""v:a":,"v:\"b":,"c":"#);
        assert_eq!((names.string(0), names.string(2)), (&b"\"v:a\""[..], &b"\"c\""[..]));
        assert_eq!(names.string(1), br#""v:\"b""#);
        assert_eq!((names.count(), Names::new(&[]).count()), (3, 0));
    }

    #[test]
    fn ids_are_found_where_json_allows_them() {
        let check = |body: &str, expected: Option<&str>| {
            let found = IdField::One.find(body.as_bytes());
            assert_eq!(found.as_ref().map(|(_, id)| id.get()), expected, "{body}");
            if let Some((place, id)) = found {
                assert_eq!(&body[place], id.get());
            }
        };
        check(r#"{"entity_id":7}"#, Some("7"));
        check("{ \"entity_id\" \n:\t [\"a\", 1] , \"b\":1}", Some("[\"a\", 1]"));
        check(r#"{"entity_id":"a\"b"}"#, Some(r#""a\"b""#));
        check(r#"{"entity_ids":[1]}"#, None);
        check(r#"{"entity_id" 7}"#, None);
        check(r#"{"entity_id":}"#, None);
        check(r#"{"entity_id":"a"#, None);
        check("", None);
    }

    fn asked(revision: u64) -> Arc<Asked> {
        let plan = crate::engine::lookup::tests::plan(revision);
        Arc::new(Asked {
            plan: Arc::new(plan),
            include: Include::default(),
            strict: false,
            values_per_row: 0,
            names: Names::new(&[]),
            entity_type: None,
        })
    }

    #[test]
    fn the_same_text_is_found_whatever_the_id() {
        let lookups = Lookups::default();
        let (first, other) = (ProjectId(1), ProjectId(2));
        let keep = |body: &str| {
            let (_, id) = IdField::One.find(body.as_bytes()).unwrap();
            lookups.keep(first, (IdField::One, body.as_bytes()), id, &asked(5));
        };
        let find = |revision, project, body: &'static str| {
            let found = lookups.find(revision, project, (IdField::One, body.as_bytes()));
            found.map(|(_, id)| id.get())
        };
        keep(r#"{"a":1,"entity_id":"u1","b":2}"#);
        assert_eq!(find(5, first, r#"{"a":1,"entity_id":"u1","b":2}"#), Some("\"u1\""));
        assert_eq!(find(5, first, r#"{"a":1,"entity_id":[{}],"b":2}"#), Some("[{}]"));
        assert_eq!(find(5, first, r#"{"a":1,"entity_id":"u1","b":3}"#), None);
        assert_eq!(find(5, first, r#"{"a":2,"entity_id":"u1","b":2}"#), None);
        assert_eq!(find(5, first, r#"{"a":1,"entity_id": "u1","b":2}"#), None);
        assert_eq!(find(5, other, r#"{"a":1,"entity_id":"u1","b":2}"#), None);
        assert_eq!(find(6, first, r#"{"a":1,"entity_id":"u1","b":2}"#), None, "defined anew");
        assert_eq!(find(5, first, r#"{"a":1,"entity_id":"u1","b":2}"#), None, "and let go");
    }

    #[test]
    fn only_ids_that_stand_where_they_are_looked_for_are_kept() {
        let lookups = Lookups::default();
        // What looks like the id stands in another object, the real one after it.
        let body = r#"{"x":{"entity_id":1},"entity_id":2}"#;
        let real = &body[body.rfind('2').unwrap()..][..1];
        let real: &RawValue = serde_json::from_str(real).unwrap();
        lookups.keep(ProjectId(0), (IdField::One, body.as_bytes()), real, &asked(5));
        assert!(lookups.find(5, ProjectId(0), (IdField::One, body.as_bytes())).is_none());
        let long = format!(r#"{{"a":"{}","entity_id":1}}"#, "x".repeat(LONGEST));
        let (_, id) = IdField::One.find(long.as_bytes()).unwrap();
        lookups.keep(ProjectId(0), (IdField::One, long.as_bytes()), id, &asked(5));
        assert!(lookups.find(5, ProjectId(0), (IdField::One, long.as_bytes())).is_none());
    }
}
