//! Whose features and when, as a historical read in Arrow or Parquet says it.
//!
//! It does not know what is asked of them.

use bytes::Bytes;

use crate::engine::error::{Place, Problem};
use crate::engine::label_columns::LabelColumns;
use crate::engine::lookup::{Batch, LookupPlan};
use crate::http::arrow_body::Batches;
use crate::http::call::Format;
use crate::http::entity_key;
use crate::http::historical::{Spine, check_rows};
use crate::http::historical_rows::TIME_COLUMN;
use crate::http::push_arrow::wrong_columns;
use crate::limits::Limits;
use crate::metrics::Code;
use crate::time::TimeUnit;
use crate::value::json::ValueError;

/// Where the instants may stand, the first that is there.
const TIME_COLUMNS: [&str; 2] = [TIME_COLUMN, "event_timestamp"];

/// Reads a body.
pub(super) fn read(
    limits: &Limits,
    plan: &LookupPlan,
    unit: Option<TimeUnit>,
    (format, body): (Format, Bytes),
) -> Result<Spine, Problem> {
    let roles = &plan.plan.roles;
    let mut batches = Batches::open(format, body)?;
    let found = LabelColumns::find(&batches.schema, roles, (&TIME_COLUMNS, unit), &[]);
    let LabelColumns { readers, .. } =
        found.map_err(|errors| wrong_columns("the read", &errors))?;
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

fn wrong(field: &str, index: usize, error: ValueError) -> Problem {
    let ValueError { found, expected } = error;
    let detail = format!("row {index}, {field}: found {found}, expected {expected}");
    let place = Place { index: Some(index), field: field.to_owned(), found, expected };
    Problem::new(Code::InvalidValue, detail).with_places(vec![place])
}
