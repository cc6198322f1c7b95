//! `POST /api/v1/features/push`: rows of one or more views, all written or none.
//!
//! It does not know history; it hands checked rows to the engine.

use std::io::Write;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;

use crate::engine::error::Problem;
use crate::engine::writes::{Accepted, WriteBatch};
use crate::engine::{Engine, Idempotency};
use crate::http::aside::{QUICK_BYTES, off_the_lookups};
use crate::http::body::{self, malformed};
use crate::http::call::{Answered, Call, Format, Reply, respond};
use crate::http::lookup_request;
use crate::http::openapi::{AcceptedAnswer, PushRequest};
use crate::http::push_columns::{self, ColumnsPush};
use crate::http::push_rows::{self, PushRow};
use crate::http::text::{Pairs, Text};
use crate::http::{arrow_body, push_arrow};
use crate::ids::{ProjectId, Sequence};
use crate::registry::Registry;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const SEQUENCE: HeaderName = HeaderName::from_static("larder-sequence");
/// Longest idempotency key, in bytes.
const LONGEST_KEY: usize = 256;

/// The JSON body, by row or by column.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushBody<'a> {
    #[serde(borrow)]
    rows: Option<Vec<PushRow<'a>>>,
    #[serde(borrow)]
    view: Option<Text<'a>>,
    #[serde(borrow)]
    columns: Option<Pairs<'a>>,
    #[serde(borrow)]
    time_unit: Option<Text<'a>>,
}

/// The query of a push.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushQuery {
    view: Option<String>,
    time_unit: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// Rows that are ready to be written.
pub(super) struct Prepared {
    pub(super) batch: WriteBatch,
    /// NaNs that were taken for null.
    pub(super) nans: u64,
}

/// What rows are checked against.
pub(super) struct Against<'a> {
    pub(super) engine: &'a Engine,
    pub(super) registry: &'a Registry,
    pub(super) project: ProjectId,
}

/// Answers the route.
#[utoipa::path(
    post, path = "/api/v1/features/push", tag = "writes",
    params(("view" = Option<String>, Query, description = "The view of an Arrow body"),
        ("time_unit" = Option<String>, Query, description = "s, ms, us or ns"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat writes nothing")),
    request_body = PushRequest,
    responses(
        (status = 200, description = "Written, all rows", body = AcceptedAnswer),
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let engine = Arc::clone(call.engine()?);
    let format = call.format()?;
    let query: PushQuery = call.query()?;
    let key = call.header(&IDEMPOTENCY_KEY)?.map(str::to_owned);
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let body = call.body().await?;
    let idempotency = key.map(|key| idempotency(key, (format, &query), &body)).transpose()?;
    let prepare = {
        let engine = Arc::clone(&engine);
        move |body: Bytes| {
            let against = Against { engine: &engine, registry: &registry, project };
            read(&against, format, &query, body)
        }
    };
    let prepared = if body.len() <= QUICK_BYTES {
        prepare(body)?
    } else {
        off_the_lookups(move || prepare(body)).await?
    };
    let accepted = engine.write(project, prepared.batch, idempotency).await?;
    Ok(answer(accepted, prepared.nans))
}

fn read(
    against: &Against<'_>,
    format: Format,
    query: &PushQuery,
    body: Bytes,
) -> Result<Prepared, Problem> {
    match format {
        Format::Json => read_json(against, query, &body),
        Format::Arrow | Format::Parquet => {
            let Some(view) = &query.view else {
                return Err(malformed("?view= says which view the columns are of"));
            };
            let unit = lookup_request::time_unit(query.time_unit.as_deref())?;
            let batches = arrow_body::Batches::open(format, body)?;
            push_arrow::read(against, view, unit, batches)
        }
        Format::Toml => Err(malformed("a push is JSON or Arrow, not TOML")),
    }
}

fn read_json(against: &Against<'_>, query: &PushQuery, body: &[u8]) -> Result<Prepared, Problem> {
    let push: PushBody<'_> = body::json(body)?;
    let said = push.time_unit.as_deref().or(query.time_unit.as_deref());
    let unit = lookup_request::time_unit(said)?;
    match (&push.rows, &push.columns) {
        (Some(rows), None) => {
            if push.view.is_some() {
                return Err(malformed("\"view\" stands in each row, or beside \"columns\""));
            }
            push_rows::read(against, rows, unit)
        }
        (None, Some(columns)) => {
            let Some(view) = push.view.as_deref().or(query.view.as_deref()) else {
                return Err(malformed("\"view\" says which view the columns are of"));
            };
            push_columns::read(against, &ColumnsPush { view, columns, unit })
        }
        (Some(_), Some(_)) => Err(malformed("give \"rows\" or \"columns\", not both")),
        (None, None) => Err(malformed("\"rows\" or \"columns\" has what is pushed")),
    }
}

fn idempotency(
    key: String,
    (format, query): (Format, &PushQuery),
    body: &[u8],
) -> Result<Idempotency, Problem> {
    if key.is_empty() || key.len() > LONGEST_KEY {
        let bytes = key.len();
        let detail = format!("Idempotency-Key has {bytes} bytes, it takes 1 to {LONGEST_KEY}");
        return Err(malformed(detail));
    }
    let mut hasher = blake3::Hasher::new();
    for part in [
        "push",
        format.media_type(),
        query.view.as_deref().unwrap_or(""),
        query.time_unit.as_deref().unwrap_or(""),
    ] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(body);
    let mut content = [0; 16];
    content.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(Idempotency { key, content })
}

fn answer(accepted: Accepted, nans: u64) -> Reply {
    let Accepted { accepted, superseded, sequence, durability } = accepted;
    let mut out = Vec::with_capacity(128);
    let durability = durability.as_str();
    write!(out, r#"{{"accepted":{accepted},"superseded":{superseded},"#).expect("memory takes it");
    write!(out, r#""sequence":{sequence},"durability":"{durability}""#).expect("memory takes it");
    if nans > 0 {
        write!(out, ",\"nan_as_null\":{nans}").expect("memory takes it");
    }
    out.push(b'}');
    with_sequence(respond(Format::Json, out), sequence)
}

/// The response with the header that names the sequence of a write.
pub(super) fn with_sequence(mut response: Reply, sequence: Sequence) -> Reply {
    response.headers_mut().insert(SEQUENCE, HeaderValue::from(sequence.0));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_tells_other_content_apart() {
        let query = |view: Option<&str>| PushQuery {
            view: view.map(str::to_owned),
            time_unit: None,
            _project: None,
        };
        let content = |view, format, body: &[u8]| {
            idempotency("k".into(), (format, &query(view)), body).unwrap().content
        };
        let first = content(None, Format::Json, b"{}");
        assert_eq!(first, content(None, Format::Json, b"{}"));
        assert_ne!(first, content(None, Format::Json, b"{ }"));
        assert_ne!(first, content(None, Format::Arrow, b"{}"));
        assert_ne!(first, content(Some("v"), Format::Json, b"{}"));
        assert!(idempotency(String::new(), (Format::Json, &query(None)), b"").is_err());
        assert!(idempotency("k".repeat(257), (Format::Json, &query(None)), b"").is_err());
    }
}
