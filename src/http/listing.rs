//! Lists and describes definitions and entities, page by page.
//!
//! It does not know where they are kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::engine::EntityPage;
use crate::engine::error::Problem;
use crate::http::body::malformed;
use crate::http::call::{Answered, Call, Format, Reply, name, respond};
use crate::http::register::to_json;
use crate::metrics::Code;
use crate::registry::describe::{Filter, ViewDescription};
use crate::registry::model::EntityType;
use crate::value::json as value_json;
use crate::value::types::KeyType;

/// Items of a page that names no limit.
const PAGE: usize = 100;
/// Most items of a page.
const LARGEST_PAGE: usize = 10_000;

/// The query of a listing of features.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeaturesQuery {
    tag: Option<String>,
    owner: Option<String>,
    entity: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// The query of a listing of entities.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntitiesQuery {
    #[serde(default)]
    prefix: String,
    limit: Option<usize>,
    cursor: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// A view as it stands.
#[derive(Serialize)]
struct ViewAnswer {
    #[serde(flatten)]
    view: ViewDescription,
    /// As-of reads below it are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_floor: Option<String>,
}

/// Answers `GET /api/v1/features`.
#[utoipa::path(
    get, path = "/api/v1/features", tag = "definitions",
    params(("tag" = Option<String>, Query, description = "With this tag"),
        ("owner" = Option<String>, Query, description = "Of this owner"),
        ("entity" = Option<String>, Query, description = "Of this entity"),
        ("limit" = Option<u64>, Query, description = "Most of a page"),
        ("cursor" = Option<String>, Query, description = "After this page")),
    responses(
        (status = 200, description = "A page", body = Object),
    )
)]
pub(super) async fn features(call: Call) -> Answered {
    let query: FeaturesQuery = call.query()?;
    let registry = call.engine()?.registry();
    let project = call.project(&registry)?;
    if let Some(entity) = &query.entity {
        registry.entity_named(project, entity)?;
    }
    let filter = Filter {
        tag: query.tag.as_deref(),
        owner: query.owner.as_deref(),
        entity: query.entity.as_deref(),
    };
    let all = registry.describe_features(project, filter);
    let after = query.cursor.as_deref().map(read_cursor).transpose()?;
    let start = match &after {
        None => 0,
        Some(after) => match all.iter().position(|feature| feature.reference == *after) {
            Some(at) => at + 1,
            None => return Err(malformed("?cursor= is not one that a page of this listing gave")),
        },
    };
    let limit = page_size(query.limit)?;
    let page: Vec<_> = all.iter().skip(start).take(limit).collect();
    let more = start + page.len() < all.len();
    let next = page.last().filter(|_| more).map(|feature| write_cursor(&feature.reference));
    Ok(answer(&json!({ "features": page, "next_cursor": next })))
}

/// Answers `GET /api/v1/features/{name}`.
#[utoipa::path(
    get, path = "/api/v1/features/{name}", tag = "definitions",
    params(("name" = String, Path, description = "A view, or a reference")),
    responses(
        (status = 200, description = "A view or feature", body = Object),
    )
)]
pub(super) async fn feature(call: Call) -> Answered {
    let registry = call.engine()?.registry();
    let project = call.project(&registry)?;
    Ok(answer(&registry.describe_named(project, &name(call.segment(3)?)?)?))
}

/// Answers `GET /api/v1/entities`.
#[utoipa::path(
    get, path = "/api/v1/entities", tag = "definitions",
    responses(
        (status = 200, description = "Every entity type", body = Object),
    )
)]
pub(super) async fn entity_types(call: Call) -> Answered {
    let registry = call.engine()?.registry();
    let project = call.project(&registry)?;
    Ok(answer(&json!({ "entities": registry.describe_entities(project) })))
}

/// Answers `GET /api/v1/views`.
#[utoipa::path(
    get, path = "/api/v1/views", tag = "definitions",
    responses(
        (status = 200, description = "Every view", body = Object),
    )
)]
pub(super) async fn views(call: Call) -> Answered {
    let registry = call.engine()?.registry();
    let project = call.project(&registry)?;
    Ok(answer(&json!({ "views": registry.describe_views(project) })))
}

/// Answers `GET /api/v1/views/{view}`.
#[utoipa::path(
    get, path = "/api/v1/views/{view}", tag = "definitions",
    params(("view" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "One view", body = Object),
    )
)]
pub(super) async fn view(call: Call) -> Answered {
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let view = registry.view_named(project, &name(call.segment(3)?)?)?;
    let retention_floor = engine.retention_floor(view.id).map(|floor| floor.to_string());
    Ok(answer(&ViewAnswer { view: registry.describe_view(view), retention_floor }))
}

/// Answers `GET /api/v1/services`.
#[utoipa::path(
    get, path = "/api/v1/services", tag = "definitions",
    responses(
        (status = 200, description = "Every service", body = Object),
    )
)]
pub(super) async fn services(call: Call) -> Answered {
    let registry = call.engine()?.registry();
    let project = call.project(&registry)?;
    Ok(answer(&json!({ "services": registry.describe_services(project) })))
}

/// Answers `GET /api/v1/services/{service}`.
#[utoipa::path(
    get, path = "/api/v1/services/{service}", tag = "definitions",
    params(("service" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "One service", body = Object),
    )
)]
pub(super) async fn service(call: Call) -> Answered {
    let registry = call.engine()?.registry();
    let project = call.project(&registry)?;
    let service = registry.service_named(project, &name(call.segment(3)?)?)?;
    Ok(answer(&registry.describe_service(service)))
}

/// Answers `GET /api/v1/entities/{entity_type}`.
#[utoipa::path(
    get, path = "/api/v1/entities/{entity_type}", tag = "operations",
    params(("entity_type" = String, Path, description = "Their type"),
        ("prefix" = Option<String>, Query, description = "How their keys begin"),
        ("limit" = Option<u64>, Query, description = "Most of a page"),
        ("cursor" = Option<String>, Query, description = "After this page")),
    responses(
        (status = 200, description = "A page of the entities that have a row", body = Object),
    )
)]
pub(super) async fn entities(call: Call) -> Answered {
    let deadline = call.deadline()?;
    let query: EntitiesQuery = call.query()?;
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let entity = registry.entity_named(project, &name(call.segment(3)?)?)?;
    let limit = page_size(query.limit)?;
    let cursor = query.cursor.as_deref().map(read_cursor).transpose()?;
    let page = engine.entities(entity.clone(), query.prefix, limit, cursor, deadline).await?;
    let EntityPage { ids, next_cursor } = page;
    let ids: Vec<_> = ids.into_iter().map(|parts| id(entity, parts)).collect();
    let next = next_cursor.as_deref().map(write_cursor);
    Ok(answer(&json!({ "entity_type": entity.name, "entity_ids": ids, "next_cursor": next })))
}

/// Answers `GET /api/v1/entities/{entity_type}/count`.
#[utoipa::path(
    get, path = "/api/v1/entities/{entity_type}/count", tag = "operations",
    params(("entity_type" = String, Path, description = "Their type")),
    responses(
        (status = 200, description = "How many entities have a row", body = Object),
    )
)]
pub(super) async fn entity_count(call: Call) -> Answered {
    let deadline = call.deadline()?;
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let entity = registry.entity_named(project, &name(call.segment(3)?)?)?;
    let count = engine.entity_count(entity.id, deadline).await?;
    Ok(answer(&json!({ "entity_type": entity.name, "count": count })))
}

fn answer(json: &impl Serialize) -> Reply {
    respond(Format::Json, to_json(json))
}

/// An id as requests may write it: a single key as it is, a composite one as an object.
fn id(entity: &EntityType, parts: Vec<String>) -> serde_json::Value {
    let part = |(key, text): (&crate::registry::model::JoinKey, String)| {
        let value = match key.key_type {
            KeyType::String => json!(text),
            KeyType::Int32 | KeyType::Int64 => {
                text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
            }
        };
        (key.name.clone(), value)
    };
    let mut parts: Vec<_> = entity.join_keys.iter().zip(parts).map(part).collect();
    match parts.len() {
        1 => parts.remove(0).1,
        _ => parts.into_iter().collect::<serde_json::Map<_, _>>().into(),
    }
}

fn page_size(said: Option<usize>) -> Result<usize, Problem> {
    match said {
        None => Ok(PAGE),
        Some(size @ 1..=LARGEST_PAGE) => Ok(size),
        Some(size) => {
            let detail = format!("?limit= is {size}, it can be 1 to {LARGEST_PAGE}");
            Err(Problem::new(Code::InvalidValue, detail))
        }
    }
}

fn write_cursor(after: &str) -> String {
    URL_SAFE_NO_PAD.encode(after)
}

fn read_cursor(cursor: &str) -> Result<String, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
        let cursor = value_json::shorten(cursor);
        malformed(format!("?cursor= is \"{cursor}\", which no page gave"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EntityTypeId, ProjectId};
    use crate::registry::model::{About, JoinKey};

    #[test]
    fn ids_are_written_as_requests_write_them() {
        let entity = |keys: &[(&str, KeyType)]| EntityType {
            id: EntityTypeId(0),
            project: ProjectId(0),
            name: "e".to_owned(),
            join_keys: keys
                .iter()
                .map(|(name, key_type)| JoinKey { name: (*name).to_owned(), key_type: *key_type })
                .collect(),
            about: About::default(),
        };
        let check = |keys: &[(&str, KeyType)], parts: &[&str], expected: &str| {
            let parts = parts.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(id(&entity(keys), parts).to_string(), expected);
        };
        check(&[("a", KeyType::String)], &["7"], "\"7\"");
        check(&[("a", KeyType::Int64)], &["-7"], "-7");
        let both = [("a", KeyType::String), ("b", KeyType::Int32)];
        check(&both, &["x", "7"], r#"{"a":"x","b":7}"#);
    }

    #[test]
    fn cursors_read_back() {
        assert_eq!(read_cursor(&write_cursor("view:é\u{1f}")).unwrap(), "view:é\u{1f}");
        assert!(read_cursor("?").is_err());
        assert!(page_size(Some(0)).is_err());
        assert!(page_size(Some(10_001)).is_err());
        assert_eq!(page_size(None).unwrap(), 100);
    }
}
