//! `GET /openapi.json`: the API described by annotations on its own handlers.
//!
//! It does not know how anything is answered; the schemas of this file exist to be read.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::{Content, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::http::call::{Answered, Call, Format, respond};
use crate::http::{
    backup, batch, cache, docs, entity, erase, historical, listing, load, online, operations,
    problem, push, register,
};

/// The description of every route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Larder",
        description = "A feature server: online lookups, point-in-time reads, durable writes.",
    ),
    paths(
        online::handle,
        batch::handle,
        historical::handle,
        push::handle,
        register::handle,
        listing::features,
        listing::feature,
        entity::handle,
        listing::entity_types,
        listing::entities,
        listing::entity_count,
        erase::handle_count,
        erase::handle,
        erase::erasure,
        listing::views,
        listing::view,
        register::drop_view,
        listing::services,
        listing::service,
        register::drop_service,
        cache::handle,
        load::handle,
        backup::begin,
        backup::part,
        backup::end,
        operations::stats,
        operations::health,
        operations::ready,
        operations::metrics,
        self::handle,
        docs::redirect,
        docs::page,
        docs::file,
    ),
    components(schemas(OnlineRequest, BatchRequest, HistoricalRequest, PushRequest, ProblemAnswer)),
    modifiers(&Refusals)
)]
struct Api;

/// Says of every operation how it refuses.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let refusals = [
            ("4XX", "Refused; the code says why"),
            ("5XX", "Failed; the code says whether to retry"),
        ];
        for path in api.paths.paths.values_mut() {
            let operations = [&mut path.get, &mut path.post, &mut path.delete];
            for operation in operations.into_iter().flatten() {
                for (status, said) in refusals {
                    let problem = Content::new(Some(Ref::from_schema_name("ProblemAnswer")));
                    let response = ResponseBuilder::new()
                        .description(said)
                        .content(problem::MEDIA_TYPE, problem)
                        .build();
                    operation.responses.responses.insert(status.to_owned(), response.into());
                }
            }
        }
    }
}

/// Answers the route.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "This document", body = Object))
)]
pub(super) async fn handle(_call: Call) -> Answered {
    static DOCUMENT: OnceLock<Vec<u8>> = OnceLock::new();
    let document = DOCUMENT
        .get_or_init(|| serde_json::to_vec(&Api::openapi()).expect("a description is JSON"));
    Ok(respond(Format::Json, document.clone()))
}

/// A lookup of one entity, or of one of each of several types.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "entity_type": "user", "entity_id": "u1",
    "feature_names": ["user_profile:age", "user_profile:country"]
}))]
pub(super) struct OnlineRequest {
    /// The entity's type; with `entity_id`.
    entity_type: Option<String>,
    /// A string, a number, an object by join key, or an array in key order.
    #[schema(value_type = Option<Object>)]
    entity_id: Option<Value>,
    /// Instead of type and id: an id for each type (or role of the service).
    entities: Option<BTreeMap<String, Value>>,
    /// References such as `user_profile:age`, or `service`.
    feature_names: Option<Vec<String>>,
    /// The service that says what is asked.
    service: Option<String>,
    /// Any of `statuses`, `event_timestamps`, `defaulted`.
    include: Option<Vec<String>>,
    /// RFC 3339, or an integer in `time_unit`: answer as of then.
    #[schema(value_type = Option<Object>)]
    as_of: Option<Value>,
    /// Wait until this sequence is visible.
    min_sequence: Option<u64>,
    /// With `as_of`: where that is before what retention keeps, answer the cell with null and the
    /// status `BELOW_RETENTION_FLOOR` rather than refuse.
    allow_truncated: Option<bool>,
    /// `error`: answer 503 rather than let defaults stand in for a failure.
    fallback: Option<String>,
    /// `s`, `ms`, `us` (if left out) or `ns`.
    time_unit: Option<String>,
}

/// A lookup of many entities, or a list of lookups.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "entity_type": "user", "entity_ids": ["u1", "u2"],
    "feature_names": ["user_profile:age", "user_profile:country"]
}))]
pub(super) struct BatchRequest {
    /// The type of all entities; with `entity_ids`.
    entity_type: Option<String>,
    /// One per row.
    entity_ids: Option<Vec<Value>>,
    /// Instead: for each type a list with one id per row.
    entities: Option<BTreeMap<String, Vec<Value>>>,
    /// References, or `service`.
    feature_names: Option<Vec<String>>,
    /// The service that says what is asked.
    service: Option<String>,
    /// Any of `statuses`, `event_timestamps`, `defaulted`.
    include: Option<Vec<String>>,
    /// Answer as of then.
    #[schema(value_type = Option<Object>)]
    as_of: Option<Value>,
    /// As for one entity.
    allow_truncated: Option<bool>,
    /// Instead of all else: different lookups, answered one by one.
    requests: Option<Vec<OnlineRequest>>,
}

/// A read of features as they stood.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "entity_type": "user", "feature_names": ["user_profile:age"],
    "rows": [{"entity_id": "u1", "timestamp": "2026-01-01T00:00:00Z"}]
}))]
pub(super) struct HistoricalRequest {
    /// The type of all entities.
    entity_type: Option<String>,
    /// References, or `service`.
    feature_names: Option<Vec<String>>,
    /// The service that says what is asked.
    service: Option<String>,
    /// `entity_id` (or `entities`) and `timestamp` of each row.
    rows: Option<Vec<BTreeMap<String, Value>>>,
    /// Instead: `timestamp` and `entity_id`, or a column per type or role.
    columns: Option<BTreeMap<String, Vec<Value>>>,
    /// See only what had arrived by then.
    #[schema(value_type = Option<Object>)]
    known_at: Option<Value>,
    /// Where an instant is before what retention keeps, answer the cell with null and the status
    /// `BELOW_RETENTION_FLOOR` rather than refuse.
    allow_truncated: Option<bool>,
    /// Any of `statuses`, `event_timestamps`, `defaulted`.
    include: Option<Vec<String>>,
}

/// Rows to write, by row or by column.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "rows": [{
        "view": "user_profile", "entity_id": "u1", "event_timestamp": "2026-01-31T12:00:00Z",
        "features": {"age": 30, "country": "AE"}
    }]
}))]
pub(super) struct PushRequest {
    /// By row: `view`, `entity_id`, `event_timestamp` (now if left out), `features`.
    rows: Option<Vec<BTreeMap<String, Value>>>,
    /// By column: the view of all rows.
    view: Option<String>,
    /// By column: join keys, `event_timestamp`, features.
    columns: Option<BTreeMap<String, Vec<Value>>>,
    /// `s`, `ms`, `us` (if left out) or `ns`.
    time_unit: Option<String>,
}

/// What a write did.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct AcceptedAnswer {
    /// Rows written.
    accepted: u64,
    /// Of these, the ones that change nothing online because newer ones are there.
    superseded: u64,
    /// The sequence of the last row.
    sequence: u64,
    /// `sync`, `interval` or `os`: when the write is on disk.
    durability: String,
    /// NaNs that were read as null, if there were any.
    nan_as_null: Option<u64>,
}

/// The features of one entity.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct OnlineAnswer {
    /// By reference as asked; what is missing is its default, else null.
    features: BTreeMap<String, Value>,
    /// `PRESENT`, `NULL_VALUE`, `NOT_FOUND`, `OUTSIDE_MAX_AGE` or `BELOW_RETENTION_FLOOR`, where
    /// included.
    statuses: Option<BTreeMap<String, String>>,
    /// Where included.
    event_timestamps: Option<BTreeMap<String, Value>>,
    /// Where included.
    defaulted: Option<BTreeMap<String, bool>>,
    /// How the lookup went.
    metadata: BTreeMap<String, Value>,
}

/// The features of many entities, a row for each.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct RowsAnswer {
    /// The columns.
    feature_names: Vec<String>,
    /// The values in the order asked.
    rows: Vec<Vec<Value>>,
    /// Parallel to `rows`, where included.
    statuses: Option<Vec<Vec<String>>>,
    /// How the lookup went.
    metadata: BTreeMap<String, Value>,
}

/// A refused request (RFC 9457).
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct ProblemAnswer {
    /// Names the kind of problem.
    r#type: String,
    /// The same for every problem of a code.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong, where, the value and the limit.
    detail: String,
    /// Stable, such as `UNKNOWN_FEATURE`.
    code: String,
    /// As in the header `X-Request-Id`.
    request_id: String,
    /// Up to 20 places: `index`, `field`, `found`, `expected`.
    errors: Option<Vec<BTreeMap<String, Value>>>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::router::ROUTES;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3."));
        let mut described = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for verb in operations.as_object().unwrap().keys() {
                described.insert(format!("{} {path}", verb.to_uppercase()));
            }
        }
        let routes = ROUTES.iter().map(|entry| format!("{} {}", entry.verb.as_str(), entry.path));
        assert_eq!(described, routes.collect::<BTreeSet<_>>());
    }

    #[test]
    fn every_operation_says_how_it_refuses() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        let mut operations = 0;
        for (path, verbs) in document["paths"].as_object().unwrap() {
            for (verb, operation) in verbs.as_object().unwrap() {
                operations += 1;
                for status in ["4XX", "5XX"] {
                    let response = &operation["responses"][status];
                    let schema = &response["content"]["application/problem+json"]["schema"];
                    let expected = "#/components/schemas/ProblemAnswer";
                    assert_eq!(schema["$ref"], expected, "{verb} {path} {status}");
                    assert!(!response["description"].as_str().unwrap().is_empty());
                }
            }
        }
        assert_eq!(operations, ROUTES.len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = serde_json::to_string(&Api::openapi()).unwrap();
        let whole: Value = serde_json::from_str(&document).unwrap();
        let references: Vec<&str> = document
            .split("\"$ref\":\"#")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(references.len() > 20);
        for reference in references {
            assert!(whole.pointer(reference).is_some(), "{reference}");
        }
    }
}
