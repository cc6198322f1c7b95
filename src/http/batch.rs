//! `POST /api/v1/features/batch`: the same features of many entities as rows, or a list of
//! different lookups.
//!
//! It does not know rows or stores.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Batch, LookupPlan};
use crate::http::arrow_answer::ColumnarAnswer;
use crate::http::body::{self, malformed};
use crate::http::call::{Answered, Call, Format, respond};
use crate::http::entity_key;
use crate::http::lookup::{self, When};
use crate::http::lookup_answer::{ManyAnswers, Metadata, check_strict};
use crate::http::lookup_request::{Whose, check_values, lookup_body, read_optional_time, too_many};
use crate::http::online::{self, OnlineBody};
use crate::http::openapi::{BatchRequest, ProblemAnswer, RowsAnswer};
use crate::http::text::Pairs;
use crate::limits::Limits;

lookup_body! {
    /// The body of a lookup of many entities.
    BatchBody {
        entity_ids: Option<&'a RawValue>,
        entities: Option<Pairs<'a>>,
        as_of: Option<&'a RawValue>,
        requests: Option<&'a RawValue>,
    }
}

/// The body of a list of lookups.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MixedBody<'a> {
    #[serde(borrow)]
    requests: Vec<OnlineBody<'a>>,
}

/// Answers the route.
#[utoipa::path(
    post, path = "/api/v1/features/batch", tag = "lookups",
    request_body = BatchRequest,
    responses(
        (status = 200, description = "A row per entity; Arrow or Parquet if accepted",
            body = RowsAnswer),
        (status = "4XX", description = "Refused; the code says why", body = ProblemAnswer,
            content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; the code says whether to retry",
            body = ProblemAnswer, content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let deadline = call.deadline()?;
    let body = call.body().await?;
    let request: BatchBody<'_> = body::json(&body)?;
    if request.requests.is_some() {
        let request: MixedBody<'_> = body::json(&body)?;
        return Ok(respond(Format::Json, mixed(&call, &request, deadline).await?));
    }
    answer(&call, &request, deadline).await
}

async fn mixed(
    call: &Call,
    request: &MixedBody<'_>,
    deadline: Deadline,
) -> Result<Vec<u8>, Problem> {
    let limit = call.door.limits.entities_per_request;
    let count = request.requests.len();
    if count > limit {
        return Err(too_many(count, "requests", "entities_per_request", limit));
    }
    let mut out = b"{\"responses\":[".to_vec();
    let mut values = 0;
    for (index, request) in request.requests.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let answered = online::answer(call, request, &mut values, deadline).await;
        let one = answered.map_err(|mut problem| {
            problem.detail = format!("requests[{index}]: {}", problem.detail);
            problem
        })?;
        out.extend_from_slice(&one);
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

async fn answer(call: &Call, request: &BatchBody<'_>, deadline: Deadline) -> Answered {
    let engine = call.engine()?;
    let limits = engine.limits();
    let wanted = request.wanted(limits)?;
    let one = ("entity_ids", request.entity_ids);
    let whose = Whose::new(wanted.entity_type, one, request.entities.as_ref())?;
    let as_of = read_optional_time("as_of", request.as_of, wanted.time_unit)?;
    let when = as_of.map_or(When::Now, When::At);
    lookup::wait_for(engine, wanted.min_sequence, deadline).await?;
    let project = call.project(&engine.registry())?;
    let plan = wanted.plan(engine, project, when.purpose())?;
    let batch = rows(&plan, &whose.by_role(engine, project, &plan)?, limits)?;
    let count = batch.rows();
    check_values(&plan.plan, count, 0, limits)?;
    let found = lookup::find(engine, &plan, batch, when, deadline).await?;
    let columns = &plan.plan.columns;
    let metadata = |outcome| Metadata { started: call.started, at: found.at, outcome };
    match call.accepts() {
        format @ (Format::Arrow | Format::Parquet) => {
            let mut answer = ColumnarAnswer::new(columns, count, wanted.include);
            let outcome = found.for_each(|_, column, value| answer.push(column, value));
            check_strict(wanted.strict, &outcome)?;
            answer.tally.record(&outcome, engine.metrics());
            Ok(respond(format, answer.finish(format, &metadata(&outcome))?))
        }
        Format::Json | Format::Toml => {
            let mut answer = ManyAnswers::new(columns, count, wanted.include);
            let outcome = found.for_each(|_, column, value| answer.push(column, value));
            check_strict(wanted.strict, &outcome)?;
            answer.tally.record(&outcome, engine.metrics());
            Ok(respond(Format::Json, answer.finish(&metadata(&outcome))))
        }
    }
}

/// The rows that lists of ids give, one list per role.
fn rows(plan: &LookupPlan, lists: &[&RawValue], limits: &Limits) -> Result<Batch, Problem> {
    let roles = &plan.plan.roles;
    let mut ids: Vec<Vec<&RawValue>> = Vec::with_capacity(roles.len());
    for (role, list) in roles.iter().zip(lists) {
        let read = serde_json::from_str(list.get());
        ids.push(read.map_err(|_| malformed(format!("the ids of {} are no list", role.name)))?);
    }
    let count = ids.first().map_or(0, Vec::len);
    if let Some(other) = ids.iter().position(|list| list.len() != count) {
        let (first, other_count) = (&roles[0].name, ids[other].len());
        let other = &roles[other].name;
        return Err(malformed(format!(
            "{count} ids of {first} and {other_count} of {other}; a row takes one of each"
        )));
    }
    let limit = limits.entities_per_request;
    if count > limit {
        return Err(too_many(count, "entities", "entities_per_request", limit));
    }
    let mut batch = Batch::new(roles.len());
    let mut key = Vec::with_capacity(64);
    for row in 0..count {
        key.clear();
        let mut ends = Vec::with_capacity(roles.len());
        for (role, list) in roles.iter().zip(&ids) {
            entity_key::append_json(&role.entity, list[row], limits, &mut key)
                .map_err(|mistake| mistake.problem(&role.entity, Some(row)))?;
            ends.push(key.len());
        }
        push_row(&mut batch, &key, &ends);
    }
    Ok(batch)
}

/// Adds a row whose keys lie one after another.
pub(super) fn push_row(batch: &mut Batch, keys: &[u8], ends: &[usize]) {
    if let [end] = ends {
        return batch.push_row(&[&keys[..*end]]);
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let keys: Vec<&[u8]> = starts.zip(ends).map(|(start, end)| &keys[start..*end]).collect();
    batch.push_row(&keys);
}
