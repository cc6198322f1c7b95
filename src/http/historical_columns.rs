//! Whose features and when, as a historical read in Arrow or Parquet says it.
//!
//! It does not know what is asked of them.

use arrow::datatypes::Schema;
use bytes::Bytes;

use crate::engine::error::{Place, Problem};
use crate::engine::lookup::{Batch, LookupPlan};
use crate::http::arrow_body::Batches;
use crate::http::call::Format;
use crate::http::entity_key;
use crate::http::historical::{Spine, check_rows};
use crate::http::historical_rows::TIME_COLUMN;
use crate::http::push_arrow::wrong_columns;
use crate::limits::Limits;
use crate::metrics::Code;
use crate::registry::plan::Role;
use crate::time::TimeUnit;
use crate::value::columns::{ColumnReader, Nan, Wanted};
use crate::value::json::ValueError;

/// Where the instants may stand, the first that is there.
const TIME_COLUMNS: [&str; 2] = [TIME_COLUMN, "event_timestamp"];

/// Reads a body. A role's key stands in the columns of its join keys; where two roles are of one
/// entity, in columns `role.join_key`, or just `role` if the key is single. `entity_id` will do for
/// the only single key of a request.
pub(super) fn read(
    limits: &Limits,
    plan: &LookupPlan,
    unit: Option<TimeUnit>,
    (format, body): (Format, Bytes),
) -> Result<Spine, Problem> {
    let roles = &plan.plan.roles;
    let mut batches = Batches::open(format, body)?;
    let readers = readers(roles, &batches.schema, unit)?;
    let mut spine = Spine { batch: Batch::new(roles.len()), times: Vec::new() };
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let before = spine.times.len();
        check_rows(before + batch.num_rows(), limits)?;
        let mut rows = Vec::with_capacity(readers.len());
        for reader in &readers {
            rows.push(reader.rows(&batch).map_err(|error| batches.unreadable(&error))?);
        }
        for row in 0..batch.num_rows() {
            for (role, of_role) in roles.iter().zip(&rows) {
                spine.batch.push_key(|key| {
                    let start = key.len();
                    of_role.key(row, key).map_err(|(part, error)| {
                        wrong(&role.entity.join_keys[part].name, before + row, error)
                    })?;
                    entity_key::check_length(key.len() - start, limits)
                        .map_err(|mistake| mistake.problem(&role.entity, Some(before + row)))
                })?;
            }
            let time = rows.first().map(|of_role| of_role.time(row));
            match time.unwrap_or(Ok(None)) {
                Ok(Some(time)) => spine.times.push(time),
                Ok(None) => return Err(Problem::new(Code::Internal, "a row without a time")),
                Err(error) => return Err(wrong(TIME_COLUMN, before + row, error)),
            }
        }
    }
    Ok(spine)
}

/// One reader per role; the first one also reads the times.
fn readers(
    roles: &[Role],
    schema: &Schema,
    unit: Option<TimeUnit>,
) -> Result<Vec<ColumnReader>, Problem> {
    let there = |name: &str| schema.fields().iter().any(|field| field.name() == name);
    let time = TIME_COLUMNS.into_iter().find(|name| there(name)).unwrap_or(TIME_COLUMN);
    let mut readers = Vec::with_capacity(roles.len());
    for (index, role) in roles.iter().enumerate() {
        let names: Vec<String> = (role.entity.join_keys.iter())
            .map(|key| {
                let candidates = candidates(roles, role, &key.name);
                let found = candidates.iter().find(|name| there(name));
                found.or(candidates.last()).cloned().unwrap_or_default()
            })
            .collect();
        let types = role.entity.key_types();
        let wanted = Wanted {
            keys: names.iter().map(String::as_str).zip(types).collect(),
            time: (index == 0).then_some(time),
            time_unit: unit,
            features: Vec::new(),
        };
        let reader = ColumnReader::new(schema, &wanted, Nan::Refuse);
        readers.push(reader.map_err(|errors| wrong_columns("the read", &errors))?);
    }
    Ok(readers)
}

/// Names under which one join key of a role may stand, the best last.
fn candidates(roles: &[Role], role: &Role, join_key: &str) -> Vec<String> {
    let single = role.entity.join_keys.len() == 1;
    let alone = roles.iter().filter(|other| other.entity.id == role.entity.id).count() == 1;
    let mut names = vec![format!("{}.{join_key}", role.name)];
    if single {
        names.push(role.name.to_string());
    }
    if single && roles.len() == 1 {
        names.push("entity_id".to_owned());
    }
    if alone {
        names.push(join_key.to_owned());
    }
    names
}

fn wrong(field: &str, index: usize, error: ValueError) -> Problem {
    let ValueError { found, expected } = error;
    let detail = format!("row {index}, {field}: found {found}, expected {expected}");
    let place = Place { index: Some(index), field: field.to_owned(), found, expected };
    Problem::new(Code::InvalidValue, detail).with_places(vec![place])
}
