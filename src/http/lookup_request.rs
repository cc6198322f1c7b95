//! What every lookup may say besides whose features it wants, and how names and keys of it are
//! resolved.
//!
//! It does not know answers.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::engine::Engine;
use crate::engine::answer_columns::Include;
use crate::engine::error::Problem;
use crate::engine::lookup::LookupPlan;
use crate::http::body::malformed;
use crate::http::text::{Pairs, Text};
use crate::ids::{ProjectId, Sequence};
use crate::limits::Limits;
use crate::metrics::Code;
use crate::registry::nearest::hint;
use crate::registry::plan::{Ask, Column, What};
use crate::registry::resolve::Purpose;
use crate::time::{EventTime, TimeUnit};
use crate::value::json;
use crate::value::types::FeatureType;

/// Declares the JSON body of a lookup: its own fields, and those every lookup has.
macro_rules! lookup_body {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name<'a> {
            $(#[serde(borrow)] pub(super) $field: $type,)*
            #[serde(borrow)]
            pub(super) entity_type: Option<$crate::http::text::Text<'a>>,
            #[serde(borrow)]
            pub(super) feature_names: Option<Vec<$crate::http::text::Text<'a>>>,
            #[serde(borrow)]
            pub(super) service: Option<$crate::http::text::Text<'a>>,
            #[serde(borrow)]
            pub(super) include: Vec<$crate::http::text::Text<'a>>,
            pub(super) min_sequence: Option<u64>,
            pub(super) allow_truncated: bool,
            #[serde(borrow)]
            pub(super) fallback: Option<$crate::http::text::Text<'a>>,
            #[serde(borrow)]
            pub(super) time_unit: Option<$crate::http::text::Text<'a>>,
        }

        impl<'a> $name<'a> {
            /// What it asks, checked against the limits.
            pub(super) fn wanted(
                &self,
                limits: &$crate::limits::Limits,
            ) -> Result<
                $crate::http::lookup_request::Wanted<'_>,
                $crate::engine::error::Problem,
            > {
                $crate::http::lookup_request::Wanted::new(
                    $crate::http::lookup_request::Said {
                        entity_type: self.entity_type.as_deref(),
                        feature_names: self.feature_names.as_deref(),
                        service: self.service.as_deref(),
                        include: &self.include,
                        min_sequence: self.min_sequence,
                        allow_truncated: self.allow_truncated,
                        fallback: self.fallback.as_deref(),
                        time_unit: self.time_unit.as_deref(),
                    },
                    limits,
                )
            }
        }
    };
}

pub(super) use lookup_body;

/// The fields every lookup has, as said.
#[derive(Default)]
pub(super) struct Said<'a> {
    pub(super) entity_type: Option<&'a str>,
    pub(super) feature_names: Option<&'a [Text<'a>]>,
    pub(super) service: Option<&'a str>,
    pub(super) include: &'a [Text<'a>],
    pub(super) min_sequence: Option<u64>,
    pub(super) allow_truncated: bool,
    pub(super) fallback: Option<&'a str>,
    pub(super) time_unit: Option<&'a str>,
}

/// What a lookup asks, checked.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) entity_type: Option<&'a str>,
    what: What<'a>,
    pub(super) include: Include,
    pub(super) min_sequence: Option<Sequence>,
    /// Cells below a retention floor are marked, the request is not refused.
    pub(super) allow_truncated: bool,
    /// A failure is an error rather than answered by defaults.
    pub(super) strict: bool,
    pub(super) time_unit: Option<TimeUnit>,
}

fn read_include(words: &[Text<'_>]) -> Result<Include, Problem> {
    let mut include = Include::default();
    for word in words {
        match &**word {
            "statuses" => include.statuses = true,
            "event_timestamps" => include.event_timestamps = true,
            "defaulted" => include.defaulted = true,
            other => {
                let valid = ["statuses", "event_timestamps", "defaulted"];
                let other = json::shorten(other);
                let detail = format!("\"include\" has \"{other}\"{}", hint(&other, valid));
                return Err(Problem::new(Code::InvalidValue, detail));
            }
        }
    }
    Ok(include)
}

impl<'a> Wanted<'a> {
    pub(super) fn new(said: Said<'a>, limits: &Limits) -> Result<Self, Problem> {
        let what = match (said.feature_names, said.service) {
            (Some(names), None) => {
                let (count, limit) = (names.len(), limits.features_per_request);
                if count > limit {
                    return Err(too_many(count, "features", "features_per_request", limit));
                }
                What::Features(names.iter().map(|name| &**name).collect())
            }
            (None, Some(service)) => What::Service(service),
            (Some(_), Some(_)) => {
                return Err(malformed("give \"feature_names\" or \"service\", not both"));
            }
            (None, None) => {
                return Err(malformed("\"feature_names\" or \"service\" says what is asked"));
            }
        };
        let strict = match said.fallback {
            None => false,
            Some("error") => true,
            Some(other) => {
                let other = json::shorten(other);
                let detail = format!("\"fallback\" is \"{other}\", it can only be \"error\"");
                return Err(Problem::new(Code::InvalidValue, detail));
            }
        };
        Ok(Self {
            entity_type: said.entity_type,
            what,
            include: read_include(said.include)?,
            min_sequence: said.min_sequence.map(Sequence),
            allow_truncated: said.allow_truncated,
            strict,
            time_unit: time_unit(said.time_unit)?,
        })
    }

    /// The plan for it.
    pub(super) fn plan(
        &self,
        engine: &Engine,
        project: ProjectId,
        purpose: Purpose,
    ) -> Result<Arc<LookupPlan>, Problem> {
        let ask = Ask { entity_type: self.entity_type, what: self.what.clone(), purpose };
        let plan = engine.plan(project, &ask)?;
        let (count, limit) = (plan.plan.columns.len(), engine.limits().features_per_request);
        if count > limit {
            return Err(too_many(count, "features", "features_per_request", limit));
        }
        Ok(plan)
    }
}

/// The words of a list in a query, separated by commas.
pub(super) fn words<'a>(text: Option<&'a str>) -> Option<Vec<Text<'a>>> {
    text.map(|text| text.split(',').map(|word| Text(word.into())).collect())
}

/// Counts the values of an answer of `rows` rows, after `before` of the same request, and refuses
/// more than `limits.values_per_request`.
pub(super) fn check_values(
    of_row: usize,
    rows: usize,
    before: usize,
    limits: &Limits,
) -> Result<usize, Problem> {
    let (count, limit) =
        (before.saturating_add(rows.saturating_mul(of_row)), limits.values_per_request);
    if count > limit {
        return Err(too_many(count, "values", "values_per_request", limit));
    }
    Ok(count)
}

/// Values in a row of these columns, fixed arrays as their length.
pub(super) fn values_per_row(columns: &[Column]) -> usize {
    let of_column = |column: &Column| match column.place.feature_type {
        FeatureType::Array { length: Some(length), .. } => length as usize,
        FeatureType::Array { length: None, .. } | FeatureType::Scalar(_) => 1,
    };
    columns.iter().map(of_column).sum()
}

/// The unit of integer times.
pub(super) fn time_unit(said: Option<&str>) -> Result<Option<TimeUnit>, Problem> {
    let Some(text) = said else { return Ok(None) };
    TimeUnit::parse(text).map(Some).ok_or_else(|| {
        let text = json::shorten(text);
        let detail = format!("\"time_unit\" is \"{text}\", it can be s, ms, us or ns");
        Problem::new(Code::InvalidValue, detail)
    })
}

/// More of something than a request may have.
pub(super) fn too_many(count: usize, what: &str, key: &str, limit: usize) -> Problem {
    let detail = format!("the request has {count} {what}, the limit limits.{key} is {limit}");
    Problem::new(Code::LimitExceeded, detail)
}

/// A time in a request.
pub(super) fn read_time(
    field: &str,
    raw: &RawValue,
    unit: Option<TimeUnit>,
) -> Result<EventTime, Problem> {
    json::read_time(raw.get(), unit).map_err(|error| {
        let detail = format!("\"{field}\": found {}, expected {}", error.found, error.expected);
        Problem::new(Code::InvalidValue, detail)
    })
}

/// An optional time in a request; null is as good as none.
pub(super) fn read_optional_time(
    field: &str,
    raw: Option<&RawValue>,
    unit: Option<TimeUnit>,
) -> Result<Option<EventTime>, Problem> {
    let given = raw.filter(|raw| raw.get() != "null");
    given.map(|raw| read_time(field, raw, unit)).transpose()
}

/// Whose features are asked for: one entity by type and id, or several by role.
pub(super) enum Whose<'a> {
    /// The value beside `entity_type`.
    One(&'a RawValue),
    /// The values of `entities`.
    Several(&'a Pairs<'a>),
}

impl<'a> Whose<'a> {
    /// Tells the two apart.
    pub(super) fn new(
        entity_type: Option<&str>,
        one: (&str, Option<&'a RawValue>),
        several: Option<&'a Pairs<'a>>,
    ) -> Result<Self, Problem> {
        let (field, one) = one;
        match (entity_type, one, several) {
            (Some(_), Some(one), None) => Ok(Self::One(one)),
            (None, None, Some(several)) => match several.repeated() {
                Some(twice) => {
                    let twice = json::shorten(twice);
                    Err(malformed(format!("\"entities\" has \"{twice}\" twice")))
                }
                None => Ok(Self::Several(several)),
            },
            (_, _, Some(_)) => Err(malformed(format!(
                "give \"entity_type\" and \"{field}\", or \"entities\", not both"
            ))),
            (None, Some(_), None) => Err(missing_entity("\"entity_type\" is missing")),
            (Some(_), None, None) => Err(missing_entity(format!("\"{field}\" is missing"))),
            (None, None, None) => Err(missing_entity(format!(
                "\"entity_type\" and \"{field}\", or \"entities\", say whose features are asked"
            ))),
        }
    }

    /// The value that belongs to each role of the plan, in its order.
    pub(super) fn by_role(
        &self,
        engine: &Engine,
        project: ProjectId,
        plan: &LookupPlan,
    ) -> Result<Vec<&'a RawValue>, Problem> {
        let roles = &plan.plan.roles;
        let pairs = match self {
            Self::One(value) => return Ok(vec![*value; roles.len()]),
            Self::Several(pairs) => pairs,
        };
        for (name, _) in &pairs.0 {
            if plan.plan.role(name).is_none() {
                engine.registry().entity_named(project, name)?;
            }
        }
        let of_role = |role: &crate::registry::plan::Role| {
            pairs.get(&role.name).ok_or_else(|| {
                let given = pairs.0.iter().map(|(name, _)| &**name).collect::<Vec<_>>().join(", ");
                missing_entity(format!(
                    "the key of \"{}\" is needed, \"entities\" has {}",
                    role.name,
                    if given.is_empty() { "none" } else { &given }
                ))
            })
        };
        roles.iter().map(of_role).collect()
    }
}

fn missing_entity(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::MissingEntity, detail.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body;
    use crate::value::layout::Place;

    lookup_body! {
        /// A body.
        Body { entity_id: Option<&'a RawValue>, entities: Option<Pairs<'a>>, }
    }

    #[test]
    fn what_is_asked_is_checked() {
        let limits = Limits { features_per_request: 2, ..Limits::default() };
        let check = |json: &str, expected: Result<(), (Code, &str)>| {
            let found = body::json::<Body<'_>>(json.as_bytes()).and_then(|body| {
                body.wanted(&limits)?;
                let one = ("entity_id", body.entity_id);
                Whose::new(body.entity_type.as_deref(), one, body.entities.as_ref()).map(drop)
            });
            match (found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(problem), Err((code, said))) => {
                    assert_eq!(problem.code, code, "{json}");
                    assert!(problem.detail.contains(said), "{}", problem.detail);
                }
                (found, _) => panic!("{json}: {found:?}"),
            }
        };
        let ask = |rest: &str| {
            format!(r#"{{"entity_type":"user","entity_id":"u1","feature_names":["a"]{rest}}}"#)
        };
        check(&ask(""), Ok(()));
        check(&ask(r#","include":["statuses","defaulted"],"fallback":"error""#), Ok(()));
        check(&ask(r#","include":["status"]"#), Err((Code::InvalidValue, "\"statuses\"?")));
        check(&ask(r#","fallback":"x""#), Err((Code::InvalidValue, "only be \"error\"")));
        check(&ask(r#","time_unit":"min""#), Err((Code::InvalidValue, "s, ms, us or ns")));
        check(&ask(r#","service":"s""#), Err((Code::MalformedRequest, "not both")));
        check(&ask(r#","entities":{}"#), Err((Code::MalformedRequest, "not both")));
        check(&ask(r#","min_sequence":-1"#), Err((Code::MalformedRequest, "-1")));
        check("{}", Err((Code::MalformedRequest, "says what is asked")));
        check(r#"{"service":"s"}"#, Err((Code::MissingEntity, "say whose features")));
        check(r#"{"service":"s","entity_id":1}"#, Err((Code::MissingEntity, "entity_type")));
        check(r#"{"service":"s","entity_type":"u"}"#, Err((Code::MissingEntity, "entity_id")));
        let twice = r#"{"service":"s","entities":{"a":1,"a":2}}"#;
        check(twice, Err((Code::MalformedRequest, "\"a\" twice")));
        let three = r#"{"entity_type":"u","entity_id":1,"feature_names":["a","b","c"]}"#;
        check(three, Err((Code::LimitExceeded, "limits.features_per_request is 2")));
    }

    #[test]
    fn values_of_an_answer_are_limited() {
        let limits = Limits { values_per_request: 40, ..Limits::default() };
        let columns = |types: &[&str]| -> Vec<Column> {
            (types.iter())
                .map(|text| Column {
                    source: 0,
                    slot: crate::ids::Slot(0),
                    name: (*text).into(),
                    place: Place::new(FeatureType::parse(text).unwrap(), 0),
                    ttl: None,
                    default: None,
                })
                .collect()
        };
        let check = |types: &[&str], (rows, before), expected: Result<usize, usize>| {
            let found = check_values(values_per_row(&columns(types)), rows, before, &limits);
            let expected = expected.map_err(|count| {
                format!("the request has {count} values, the limit limits.values_per_request is 40")
            });
            assert_eq!(found.map_err(|problem| problem.detail), expected, "{types:?} {rows}");
        };
        check(&["int64", "string"], (20, 0), Ok(40));
        check(&["int64", "string"], (21, 0), Err(42));
        check(&["int64", "string"], (1, 38), Ok(40));
        check(&["int64", "string"], (1, 39), Err(41));
        check(&["float32[16]", "string[]"], (2, 0), Ok(34));
        check(&["float32[16]", "string[]"], (3, 0), Err(51));
        check(&["int64", "int64"], (usize::MAX, 0), Err(usize::MAX));
    }
}
