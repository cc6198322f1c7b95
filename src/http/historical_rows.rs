//! Whose features and when, as a historical read in JSON says it: by row or by column.
//!
//! It does not know what is asked of them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::Engine;
use crate::engine::error::{Place, Problem};
use crate::engine::lookup::{Batch, LookupPlan};
use crate::http::body::malformed;
use crate::http::entity_key;
use crate::http::historical::{Spine, check_rows};
use crate::http::lookup_request::Whose;
use crate::http::text::Pairs;
use crate::ids::ProjectId;
use crate::limits::Limits;
use crate::metrics::Code;
use crate::registry::nearest::hint;
use crate::time::{EventTime, TimeUnit};
use crate::value::json;

/// The column of the instants.
pub(super) const TIME_COLUMN: &str = "timestamp";
/// The column of ids where only one entity is asked about.
const ID_COLUMN: &str = "entity_id";

/// One row of the body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoricalRow<'a> {
    #[serde(borrow)]
    entity_id: Option<&'a RawValue>,
    #[serde(borrow)]
    entities: Option<Pairs<'a>>,
    #[serde(borrow)]
    timestamp: &'a RawValue,
}

/// Reads rows.
pub(super) fn of_rows(
    engine: &Engine,
    (project, plan): (ProjectId, &LookupPlan),
    rows: &[HistoricalRow<'_>],
    unit: Option<TimeUnit>,
) -> Result<Spine, Problem> {
    let roles = &plan.plan.roles;
    let mut spine = Spine { batch: Batch::new(roles.len()), times: Vec::with_capacity(rows.len()) };
    for (index, row) in rows.iter().enumerate() {
        let in_row = |mut problem: Problem| {
            problem.detail = format!("row {index}: {}", problem.detail);
            problem
        };
        // A plan for one role needs no name beside the id.
        let only = roles.first().filter(|_| roles.len() == 1 && row.entities.is_none());
        let only = only.map(|role| &*role.name);
        let whose = Whose::new(only, ("entity_id", row.entity_id), row.entities.as_ref());
        let ids = whose.and_then(|whose| whose.by_role(engine, project, plan)).map_err(in_row)?;
        entity_key::push_row(&mut spine.batch, roles, ids, (Some(index), engine.limits()))?;
        spine.times.push(time(row.timestamp, unit, index)?);
    }
    Ok(spine)
}

/// Reads columns: `timestamp`, and `entity_id` or one named as each role.
pub(super) fn of_columns(
    limits: &Limits,
    plan: &LookupPlan,
    columns: &Pairs<'_>,
    unit: Option<TimeUnit>,
) -> Result<Spine, Problem> {
    let roles = &plan.plan.roles;
    if let Some(twice) = columns.repeated() {
        return Err(malformed(format!("column \"{}\" twice", json::shorten(twice))));
    }
    let names = || roles.iter().map(|role| &*role.name).chain([TIME_COLUMN, ID_COLUMN]);
    if let Some((name, _)) = columns.0.iter().find(|(name, _)| names().all(|n| n != &**name)) {
        let name = json::shorten(name);
        return Err(malformed(format!("unknown column \"{name}\"{}", hint(&name, names()))));
    }
    let times = column(columns, TIME_COLUMN)?
        .ok_or_else(|| malformed("the column \"timestamp\" is missing"))?;
    let mut ids = Vec::with_capacity(roles.len());
    for role in roles {
        let id_column = if roles.len() == 1 { column(columns, ID_COLUMN)? } else { None };
        let found = match id_column {
            Some(found) => found,
            None => column(columns, &role.name)?.ok_or_else(|| {
                let detail = format!("the column with the ids of {} is missing", role.name);
                Problem::new(Code::MissingEntity, detail)
            })?,
        };
        if found.len() != times.len() {
            return Err(malformed(format!(
                "columns differ in length: \"timestamp\" has {} values, the ids of {} {}",
                times.len(),
                role.name,
                found.len()
            )));
        }
        ids.push(found);
    }
    check_rows(times.len(), limits)?;
    let mut spine =
        Spine { batch: Batch::new(roles.len()), times: Vec::with_capacity(times.len()) };
    for (index, at) in times.iter().enumerate() {
        let row = ids.iter().map(|column| column[index]);
        entity_key::push_row(&mut spine.batch, roles, row, (Some(index), limits))?;
        spine.times.push(time(at, unit, index)?);
    }
    Ok(spine)
}

fn column<'a>(columns: &Pairs<'a>, name: &str) -> Result<Option<Vec<&'a RawValue>>, Problem> {
    let Some(raw) = columns.get(name) else { return Ok(None) };
    serde_json::from_str(raw.get())
        .map(Some)
        .map_err(|_| malformed(format!("column \"{name}\" is not a list of values")))
}

fn time(raw: &RawValue, unit: Option<TimeUnit>, index: usize) -> Result<EventTime, Problem> {
    json::read_time(raw.get(), unit).map_err(|error| {
        let (found, expected) = (error.found, error.expected);
        let detail = format!("row {index}, timestamp: found {found}, expected {expected}");
        let field = TIME_COLUMN.to_owned();
        let place = Place { index: Some(index), field, found, expected };
        Problem::new(Code::InvalidValue, detail).with_places(vec![place])
    })
}
