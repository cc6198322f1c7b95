//! `POST /api/v1/features/batch`: the same features of many entities as rows, or a list of
//! different lookups.
//!
//! It does not know rows or stores.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::Batch;
use crate::http::arrow_answer::ColumnarAnswer;
use crate::http::aside;
use crate::http::asked::{self, Asked, IdField};
use crate::http::body::{self, malformed};
use crate::http::call::{Answered, Call, Format, Reply, respond};
use crate::http::entity_key;
use crate::http::lookup::{self, When};
use crate::http::lookup_answer::{ManyAnswers, Metadata, check_strict};
use crate::http::lookup_request::{Whose, check_values, lookup_body, too_many};
use crate::http::online::{self, OnlineBody};
use crate::http::openapi::{BatchRequest, RowsAnswer};
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
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let deadline = call.deadline()?;
    let body = call.body().await?;
    aside::answer(body.len(), answer(call, body, deadline)).await
}

async fn answer(call: Call, body: Bytes, deadline: Deadline) -> Answered {
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let before = call.door.lookups.find(registry.revision(), project, (IdField::Many, &body));
    // Ids that cannot be read are refused as in a body that was never seen.
    if let Some((asked, ids)) = before
        && let Ok(batch) = rows(&asked, &vec![ids; asked.plan.plan.roles.len()], engine.limits())
    {
        return write_answer(&call, &asked, (batch, When::Now), deadline).await;
    }
    let request: BatchBody<'_> = body::json(&body)?;
    if request.requests.is_some() {
        let request: MixedBody<'_> = body::json(&body)?;
        return Ok(respond(Format::Json, mixed(&call, &request, deadline).await?));
    }
    let (answer, asked) = answer_new(&call, &request, deadline).await?;
    if let Some(ids) = request.entity_ids
        && request.as_of.is_none()
        && request.min_sequence.is_none()
    {
        call.door.lookups.keep(project, (IdField::Many, &body), ids, &asked);
    }
    Ok(answer)
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
        let (one, _) = answered.map_err(|mut problem| {
            problem.detail = format!("requests[{index}]: {}", problem.detail);
            problem
        })?;
        out.extend_from_slice(&one);
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

async fn answer_new(
    call: &Call,
    request: &BatchBody<'_>,
    deadline: Deadline,
) -> Result<(Reply, Arc<Asked>), Problem> {
    let engine = call.engine()?;
    let limits = engine.limits();
    let wanted = request.wanted(limits)?;
    let one = ("entity_ids", request.entity_ids);
    let whose = Whose::new(wanted.entity_type, one, request.entities.as_ref())?;
    let (asked, when, project) = asked::ask(call, &wanted, request.as_of, deadline).await?;
    let batch = rows(&asked, &whose.by_role(engine, project, &asked.plan)?, limits)?;
    let answer = write_answer(call, &asked, (batch, when), deadline).await?;
    Ok((answer, asked))
}

async fn write_answer(
    call: &Call,
    asked: &Asked,
    (batch, when): (Batch, When),
    deadline: Deadline,
) -> Answered {
    let engine = call.engine()?;
    // The body may have been long in coming, and answering many rows takes long.
    deadline.check()?;
    let count = batch.rows();
    check_values(asked.values_per_row, count, 0, engine.limits())?;
    let found = lookup::find(engine, &asked.plan, batch, when, deadline).await?;
    let outcome = found.outcome();
    check_strict(asked.strict, &outcome)?;
    let metadata = |latency| Metadata { latency, at: found.at, outcome: &outcome };
    match call.accepts() {
        format @ (Format::Arrow | Format::Parquet) => {
            let columns = &asked.plan.plan.columns;
            let mut answer = ColumnarAnswer::new(columns, count, asked.include);
            found.for_each(|_, column, value| answer.push(column, value)).await;
            let metadata = metadata(deadline.elapsed()?);
            answer.tally.record(&outcome, engine.metrics());
            Ok(respond(format, answer.finish(format, &metadata)?))
        }
        Format::Json | Format::Toml => {
            let mut answer = ManyAnswers::new(&asked.names, count, asked.include);
            found.for_each(|_, column, value| answer.push(column, value)).await;
            let metadata = metadata(deadline.elapsed()?);
            answer.tally.record(&outcome, engine.metrics());
            Ok(respond(Format::Json, answer.finish(&metadata)))
        }
    }
}

/// The rows that lists of ids give, one list per role.
fn rows(asked: &Asked, lists: &[&RawValue], limits: &Limits) -> Result<Batch, Problem> {
    let roles = &asked.plan.plan.roles;
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
    let mut batch = Batch::with_capacity(roles.len(), count);
    for row in 0..count {
        let of_row = ids.iter().map(|list| list[row]);
        entity_key::push_row(&mut batch, roles, of_row, (Some(row), limits))?;
    }
    Ok(batch)
}
