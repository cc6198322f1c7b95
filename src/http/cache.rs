//! `DELETE /api/v1/cache/invalidate/{entity_id}`: drops cached copies of an entity's rows, never
//! the rows.
//!
//! It does not know caches.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::call::{Answered, Call, Format, respond};
use crate::http::entity_key;
use crate::http::register::to_json;

/// The query of the route.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheQuery {
    entity_type: String,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// What was dropped.
#[derive(Serialize, ToSchema)]
pub(super) struct InvalidatedJson {
    /// Cached copies dropped.
    invalidated: u64,
}

/// Answers the route.
#[utoipa::path(
    delete, path = "/api/v1/cache/invalidate/{entity_id}", tag = "operations",
    params(("entity_id" = String, Path, description = "The key"),
        ("entity_type" = String, Query, description = "Its type")),
    responses(
        (status = 200, description = "Dropped copies", body = InvalidatedJson),
    )
)]
pub(super) async fn handle(call: Call) -> Answered {
    let query: CacheQuery = call.query()?;
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let entity = registry.entity_named(project, &query.entity_type)?;
    let mut key = Vec::new();
    entity_key::append_segment(entity, call.raw_segment(4), engine.limits(), &mut key)?;
    let invalidated = engine.invalidate(entity.id, &key);
    Ok(respond(Format::Json, to_json(&InvalidatedJson { invalidated })))
}
