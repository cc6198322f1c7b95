//! `/api/v1/backups`: the store held as it is, and its files part by part, for `larder backup`.
//!
//! It does not know how a backup is kept; nothing is written on this side.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::backup::PART_BYTES_MAX;
use crate::engine::error::Problem;
use crate::http::aside::off_the_lookups;
use crate::http::body::malformed;
use crate::http::call::{Answered, Call, Format, respond, whole};
use crate::http::register::to_json;
use crate::metrics::Code;

/// A backup that was begun.
#[derive(Serialize, ToSchema)]
pub(super) struct BegunJson {
    /// What its files are asked for by; held until it is ended, or asks for nothing in 10 minutes.
    id: u64,
    /// Everything up to here is in it, durably.
    sequence: u64,
    /// The manifest, in base64.
    manifest: String,
    /// The files of history.
    files: Vec<FileJson>,
}

/// A file of a backup.
#[derive(Serialize, ToSchema)]
pub(super) struct FileJson {
    /// Its name.
    name: String,
    /// Its length.
    bytes: u64,
    /// Never changed any more: an earlier backup may have the same.
    sealed: bool,
}

/// A backup that was ended.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedJson {
    /// The backup.
    ended: u64,
}

/// The query of a part.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartQuery {
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
}

/// Answers `POST /api/v1/backups`.
#[utoipa::path(
    post, path = "/api/v1/backups", tag = "operations",
    responses((status = 200, description = "Held until it is ended", body = BegunJson))
)]
pub(super) async fn begin(call: Call) -> Answered {
    let begun = call.engine()?.begin_backup().await?;
    let files = begun.pinned.files.iter().map(|file| FileJson {
        name: file.name.clone(),
        bytes: file.bytes,
        sealed: file.sealed,
    });
    let json = BegunJson {
        id: begun.id,
        sequence: begun.pinned.sequence.0,
        manifest: STANDARD.encode(begun.pinned.manifest.encode()),
        files: files.collect(),
    };
    Ok(respond(Format::Json, to_json(&json)))
}

/// Answers `GET /api/v1/backups/{backup}/{file}`.
#[utoipa::path(
    get, path = "/api/v1/backups/{backup}/{file}", tag = "operations",
    params(("backup" = u64, Path, description = "The id that beginning it answered"),
        ("file" = String, Path, description = "One of its files"),
        ("offset" = Option<u64>, Query, description = "Where the part begins; 0 if left out"),
        ("length" = Option<u64>, Query, description = "Bytes wanted; at most 4 MiB are answered")),
    responses((status = 200, description = "That part of the file", body = Vec<u8>,
        content_type = "application/octet-stream"))
)]
pub(super) async fn part(call: Call) -> Answered {
    let query: PartQuery = call.query()?;
    let id = id(&call)?;
    let name = call.raw_segment(4).to_owned();
    let engine = Arc::clone(call.engine()?);
    let length = query.length.unwrap_or(PART_BYTES_MAX);
    let read = move || engine.backup_part((id, &name), query.offset, length);
    let (bytes, wait) = off_the_lookups(read).await?;
    tokio::time::sleep(wait).await;
    let mut response = Response::new(whole(bytes));
    let media_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

/// Answers `DELETE /api/v1/backups/{backup}`.
#[utoipa::path(
    delete, path = "/api/v1/backups/{backup}", tag = "operations",
    params(("backup" = u64, Path, description = "The id that beginning it answered")),
    responses((status = 200, description = "Nothing is held for it any more", body = EndedJson))
)]
pub(super) async fn end(call: Call) -> Answered {
    let id = id(&call)?;
    if !call.engine()?.end_backup(id) {
        let detail = format!("backup {id} is not under way");
        return Err(Problem::new(Code::NoSuchRoute, detail));
    }
    Ok(respond(Format::Json, to_json(&EndedJson { ended: id })))
}

fn id(call: &Call) -> Result<u64, Problem> {
    let text = call.raw_segment(3);
    text.parse().map_err(|_| {
        let text = crate::value::json::shorten(text);
        malformed(format!("the backup is \"{text}\", expected the number that beginning it gave"))
    })
}
