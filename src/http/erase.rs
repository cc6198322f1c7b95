//! `DELETE /api/v1/entities/{entity_type}/{entity_id}`: forgets an entity; and how far that, or the
//! erasure of a dropped view, is.
//!
//! It does not know how anything is removed.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::erase::Erasure;
use crate::engine::error::Problem;
use crate::http::call::{Answered, Call, Format, name, respond};
use crate::http::entity_key;
use crate::http::push::with_sequence;
use crate::http::register::to_json;
use crate::ids::Sequence;
use crate::metrics::Code;
use crate::value::json;

/// Where what is erased may be all the same.
pub(super) const NOT_COVERED: [&str; 2] = ["backups", "exports"];

/// An erasure that was accepted.
#[derive(Serialize, ToSchema)]
pub(super) struct ErasedAnswer {
    /// Its id.
    erasure: String,
    /// Everything of the entity with a lower sequence is erased.
    sequence: u64,
    /// Where copies may be that the server cannot reach.
    not_covered: [&'static str; 2],
}

/// An erasure as it stands.
#[derive(Serialize, ToSchema)]
pub(super) struct ErasureAnswer {
    /// Its id.
    erasure: String,
    /// `pending` while bytes may be left in the data directory, else `done`.
    state: &'static str,
    /// Everything of the entity, or of the views, with a lower sequence is erased.
    sequence: u64,
    /// When it was asked for; since then nothing of it is answered.
    requested: String,
    /// By when no byte of it is left.
    deadline: String,
    /// When the last byte was gone.
    done: Option<String>,
    /// Where copies may be that the server cannot reach.
    not_covered: [&'static str; 2],
}

/// Answers the route.
#[utoipa::path(
    delete, path = "/api/v1/entities/{entity_type}/{entity_id}", tag = "writes",
    params(("entity_type" = String, Path, description = "Its type"),
        ("entity_id" = String, Path, description = "Its key, parts joined by commas")),
    responses(
        (status = 202, description = "Invisible from now on, its bytes gone by the deadline",
            body = ErasedAnswer),
    )
)]
pub(super) async fn handle(call: Call) -> Answered {
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let entity = registry.entity_named(project, &name(call.segment(3)?)?)?;
    let mut key = Vec::new();
    entity_key::append_segment(entity, call.raw_segment(4), engine.limits(), &mut key)?;
    let Erasure { sequence, .. } = engine.erase(entity.id, &key).await?;
    let answer = ErasedAnswer {
        erasure: sequence.to_string(),
        sequence: sequence.0,
        not_covered: NOT_COVERED,
    };
    let mut response = respond(Format::Json, to_json(&answer));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(with_sequence(response, sequence))
}

/// Answers the route for the entity whose id is `count`, which other methods take for the count.
#[utoipa::path(
    delete, path = "/api/v1/entities/{entity_type}/count", tag = "writes",
    params(("entity_type" = String, Path, description = "Its type")),
    responses(
        (status = 202, description = "The entity whose id is `count` is erased",
            body = ErasedAnswer),
    )
)]
pub(super) async fn handle_count(call: Call) -> Answered {
    handle(call).await
}

/// Answers `GET /api/v1/erasures/{erasure}`.
#[utoipa::path(
    get, path = "/api/v1/erasures/{erasure}", tag = "writes",
    params(("erasure" = String, Path, description = "The id that the erasure was answered with")),
    responses(
        (status = 200, description = "How far it is", body = ErasureAnswer),
    )
)]
pub(super) async fn erasure(call: Call) -> Answered {
    let engine = call.engine()?;
    let project = call.project(&engine.registry())?;
    let asked = call.segment(3)?;
    let sequence = asked.parse().ok().map(Sequence);
    let erasure = sequence.and_then(|sequence| engine.erasure(project, sequence));
    let Some(Erasure { sequence, requested, deadline, done }) = erasure else {
        let detail = format!("there is no erasure \"{}\"", json::shorten(&asked));
        return Err(Problem::new(Code::UnknownErasure, detail));
    };
    let answer = ErasureAnswer {
        erasure: sequence.to_string(),
        state: if done.is_some() { "done" } else { "pending" },
        sequence: sequence.0,
        requested: requested.to_string(),
        deadline: deadline.to_string(),
        done: done.map(|done| done.to_string()),
        not_covered: NOT_COVERED,
    };
    Ok(respond(Format::Json, to_json(&answer)))
}
