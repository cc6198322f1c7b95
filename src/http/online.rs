//! `POST /api/v1/features/online`: the features of one entity, or of one entity of each of several
//! types.
//!
//! It does not know rows or stores.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::Batch;
use crate::http::asked::{self, Asked, IdField};
use crate::http::body;
use crate::http::call::{Answered, Call, Format, respond};
use crate::http::entity_key;
use crate::http::lookup::{self, When};
use crate::http::lookup_answer::{Metadata, OneAnswer, check_strict};
use crate::http::lookup_request::{Whose, check_values, lookup_body};
use crate::http::openapi::{OnlineAnswer, OnlineRequest};
use crate::http::text::Pairs;
use crate::ids::ProjectId;
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
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let deadline = call.deadline()?;
    let body = call.body().await?;
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let before = call.door.lookups.find(registry.revision(), project, (IdField::One, &body));
    // An id that cannot be read is refused as in a body that was never seen.
    if let Some((asked, id)) = before
        && let Ok(batch) = of_entity(&asked, id, engine.limits())
    {
        let mut echo = Vec::with_capacity(asked.row_capacity());
        asked.entity_type.iter().for_each(|entity_type| echo_one(entity_type, id, &mut echo));
        let answer = write_answer(&call, &asked, (batch, When::Now), echo, deadline).await?;
        return Ok(respond(Format::Json, answer));
    }
    // Boxed, so that what was asked before has no room for it in its request's future.
    Ok(respond(Format::Json, Box::pin(answer_new(&call, &body, project, deadline)).await?))
}

/// The JSON that answers a body that was not seen before.
async fn answer_new(
    call: &Call,
    body: &[u8],
    project: ProjectId,
    deadline: Deadline,
) -> Result<Vec<u8>, Problem> {
    let request: OnlineBody<'_> = body::json(body)?;
    let (answer, asked) = answer(call, &request, &mut 0, deadline).await?;
    if let Some(id) = request.entity_id
        && request.as_of.is_none()
        && request.min_sequence.is_none()
    {
        call.door.lookups.keep(project, (IdField::One, body), id, &asked);
    }
    Ok(answer)
}

/// A batch of one row, in which every role has this id.
fn of_entity(asked: &Asked, id: &RawValue, limits: &Limits) -> Result<Batch, Problem> {
    let roles = &asked.plan.plan.roles;
    let mut batch = Batch::with_capacity(roles.len(), 1);
    entity_key::push_row(&mut batch, roles, roles.iter().map(|_| id), (None, limits))?;
    Ok(batch)
}

/// The JSON that answers one lookup, and what it asked; adds its values to those of the request so
/// far.
pub(super) async fn answer(
    call: &Call,
    request: &OnlineBody<'_>,
    values: &mut usize,
    deadline: Deadline,
) -> Result<(Vec<u8>, Arc<Asked>), Problem> {
    let engine = call.engine()?;
    let limits = engine.limits();
    let wanted = request.wanted(limits)?;
    let one = ("entity_id", request.entity_id);
    let whose = Whose::new(wanted.entity_type, one, request.entities.as_ref())?;
    let (asked, when, project) = asked::ask(call, &wanted, request.as_of, deadline).await?;
    *values = check_values(asked.values_per_row, 1, *values, limits)?;
    let ids = whose.by_role(engine, project, &asked.plan)?;
    let roles = &asked.plan.plan.roles;
    let mut batch = Batch::with_capacity(roles.len(), 1);
    entity_key::push_row(&mut batch, roles, ids, (None, limits))?;
    let echo = echo(request, &asked);
    let answer = write_answer(call, &asked, (batch, when), echo, deadline).await?;
    Ok((answer, asked))
}

/// The JSON after `echo`.
async fn write_answer(
    call: &Call,
    asked: &Asked,
    (batch, when): (Batch, When),
    echo: Vec<u8>,
    deadline: Deadline,
) -> Result<Vec<u8>, Problem> {
    let engine = call.engine()?;
    let found = lookup::find(engine, &asked.plan, batch, when, deadline).await?;
    let mut answer = OneAnswer::new(echo, &asked.names, asked.include);
    found.for_each(|_, column, value| answer.push(column, value)).await;
    let outcome = found.outcome();
    check_strict(asked.strict, &outcome)?;
    let latency = deadline.elapsed()?;
    answer.tally.record(&outcome, engine.metrics());
    Ok(answer.finish(&Metadata { latency, at: found.at, outcome: &outcome }))
}

/// The start of the answer: whose features these are, as asked.
fn echo(request: &OnlineBody<'_>, asked: &Asked) -> Vec<u8> {
    let mut out = Vec::with_capacity(asked.row_capacity());
    if let (Some(entity_type), Some(id)) = (&asked.entity_type, request.entity_id) {
        echo_one(entity_type, id, &mut out);
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

fn echo_one(entity_type: &[u8], id: &RawValue, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"entity_type\":");
    out.extend_from_slice(entity_type);
    out.extend_from_slice(b",\"entity_id\":");
    out.extend_from_slice(id.get().as_bytes());
}
