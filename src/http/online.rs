//! `POST /api/v1/features/online`: the features of one entity, or of one entity of each of several
//! types.
//!
//! It does not know rows or stores.

use serde_json::value::RawValue;

use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Batch, LookupPlan};
use crate::http::body;
use crate::http::call::{Answered, Call, Format, respond};
use crate::http::entity_key;
use crate::http::lookup::{self, When};
use crate::http::lookup_answer::{Metadata, OneAnswer, check_strict};
use crate::http::lookup_request::{Whose, check_values, lookup_body, read_optional_time};
use crate::http::openapi::{OnlineAnswer, OnlineRequest, ProblemAnswer};
use crate::http::text::Pairs;
use crate::limits::Limits;
use crate::value::json;

lookup_body! {
    /// The body of an online lookup.
    OnlineBody {
        entity_id: Option<&'a RawValue>,
        entities: Option<Pairs<'a>>,
        as_of: Option<&'a RawValue>,
    }
}

/// Answers the route.
#[utoipa::path(
    post, path = "/api/v1/features/online", tag = "lookups",
    request_body = OnlineRequest,
    responses(
        (status = 200, description = "The features of one entity", body = OnlineAnswer),
        (status = "4XX", description = "Refused; the code says why", body = ProblemAnswer,
            content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; the code says whether to retry",
            body = ProblemAnswer, content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let deadline = call.deadline()?;
    let body = call.body().await?;
    let request: OnlineBody<'_> = body::json(&body)?;
    Ok(respond(Format::Json, answer(&call, &request, &mut 0, deadline).await?))
}

/// The JSON that answers one lookup; adds its values to those of the request so far.
pub(super) async fn answer(
    call: &Call,
    request: &OnlineBody<'_>,
    values: &mut usize,
    deadline: Deadline,
) -> Result<Vec<u8>, Problem> {
    let engine = call.engine()?;
    let limits = engine.limits();
    let wanted = request.wanted(limits)?;
    let one = ("entity_id", request.entity_id);
    let whose = Whose::new(wanted.entity_type, one, request.entities.as_ref())?;
    let as_of = read_optional_time("as_of", request.as_of, wanted.time_unit)?;
    let when = as_of.map_or(When::Now, When::At);
    lookup::wait_for(engine, wanted.min_sequence, deadline).await?;
    let project = call.project(&engine.registry())?;
    let plan = wanted.plan(engine, project, when.purpose())?;
    *values = check_values(&plan.plan, 1, *values, limits)?;
    let batch = one_row(&plan, &whose.by_role(engine, project, &plan)?, limits)?;
    let found = lookup::find(engine, &plan, batch, when, deadline).await?;
    let mut answer = OneAnswer::new(echo(request), &plan.plan.columns, wanted.include);
    let outcome = found.for_each(|_, column, value| answer.push(column, value));
    check_strict(wanted.strict, &outcome)?;
    answer.tally.record(&outcome, engine.metrics());
    Ok(answer.finish(&Metadata { started: call.started, at: found.at, outcome: &outcome }))
}

/// A batch of one row with these keys, one per role.
fn one_row(plan: &LookupPlan, ids: &[&RawValue], limits: &Limits) -> Result<Batch, Problem> {
    let mut key = Vec::with_capacity(64);
    let mut ends = Vec::with_capacity(ids.len());
    for (role, id) in plan.plan.roles.iter().zip(ids) {
        entity_key::append_json(&role.entity, id, limits, &mut key)
            .map_err(|mistake| mistake.problem(&role.entity, None))?;
        ends.push(key.len());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let keys: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &key[start..*end]).collect();
    let mut batch = Batch::new(keys.len());
    batch.push_row(&keys);
    Ok(batch)
}

/// The start of the answer: whose features these are, as asked.
fn echo(request: &OnlineBody<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if let (Some(entity_type), Some(id)) = (&request.entity_type, request.entity_id) {
        out.extend_from_slice(b"{\"entity_type\":");
        json::write_string(entity_type, &mut out);
        out.extend_from_slice(b",\"entity_id\":");
        out.extend_from_slice(id.get().as_bytes());
        return out;
    }
    out.extend_from_slice(b"{\"entities\":{");
    let pairs = request.entities.iter().flat_map(|entities| &entities.0);
    for (index, (name, id)) in pairs.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(name, &mut out);
        out.push(b':');
        out.extend_from_slice(id.get().as_bytes());
    }
    out.push(b'}');
    out
}
