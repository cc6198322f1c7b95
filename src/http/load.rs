//! `POST /api/v1/load?view=`: a Parquet file into a view of the running server.
//!
//! It does not know Parquet; it keeps the upload and hands it to the engine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::Engine;
use crate::engine::error::Problem;
use crate::engine::load::{EventTimes, LoadOptions, LoadTurn, Loaded};
use crate::engine::spool::Spool;
use crate::http::aside::off_the_lookups;
use crate::http::body::{malformed, refuse_unread};
use crate::http::call::{Answered, Call, Format, respond};
use crate::http::lookup_request;
use crate::http::push::with_sequence;
use crate::http::register::to_json;
use crate::http::upload;
use crate::time::EventTime;
use crate::value::json::shorten;

/// The query of a load.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadQuery {
    view: String,
    timestamp: Option<String>,
    arrival: Option<String>,
    at: Option<String>,
    time_unit: Option<String>,
    nan: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// What a load did.
#[derive(Serialize, ToSchema)]
pub(super) struct LoadedJson {
    /// Rows in the file.
    rows: u64,
    /// Rows that it brought into history.
    written: u64,
    /// Rows that history had from elsewhere: key, event time and values are the same.
    skipped: u64,
    /// Rows of the file that an interrupted load of it had prepared.
    resumed: u64,
    /// Of the written, those that are not online, since newer rows are there or came with them.
    superseded: u64,
    /// NaNs read as null.
    nan_as_null: u64,
    /// Columns that are no key, time or feature of the view.
    ignored_columns: Vec<String>,
    /// The last sequence written.
    sequence: u64,
    /// When an earlier load had completed the file, if one had.
    loaded_before: Option<String>,
}

/// Answers the route.
#[utoipa::path(
    post, path = "/api/v1/load", tag = "writes",
    params(("view" = String, Query, description = "The view to load into"),
        ("timestamp" = Option<String>, Query, description = "The column of event times"),
        ("arrival" = Option<String>, Query,
            description = "The column of arrival times; without it rows arrive when the load ends"),
        ("at" = Option<String>, Query, description = "The event time of all rows"),
        ("time_unit" = Option<String>, Query, description = "s, ms, us or ns"),
        ("nan" = Option<String>, Query, description = "null or refuse")),
    request_body(content = Vec<u8>, content_type = "application/vnd.apache.parquet"),
    responses(
        (status = 200, description = "Loaded", body = LoadedJson),
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let query: LoadQuery = call.query()?;
    let options = options(&query)?;
    let engine = Arc::clone(call.engine()?);
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let view = Arc::clone(registry.view_named(project, &query.view)?);
    let body = call.streamed_body()?;
    // The turn is held from before the upload to the end of the load, so that no file is received
    // in vain.
    let (turn, spool) = match admit(&call, &engine).await {
        Ok(admitted) => admitted,
        Err(problem) => {
            refuse_unread(&call.head.headers, body);
            return Err(problem);
        }
    };
    let spool = upload::receive(body, spool, (engine.limits(), &call.door.metrics)).await?;
    let name = view.declared_name();
    let report = move |done: u64, of: u64| tracing::debug!(view = name, done, of, "loading");
    let Loaded {
        rows,
        written,
        skipped,
        resumed,
        superseded,
        nan_as_null,
        ignored_columns,
        sequence,
        loaded_before,
    } = engine.load(turn, view, spool.finish(), options, report).await?;
    let json = LoadedJson {
        rows,
        written,
        skipped,
        resumed,
        superseded,
        nan_as_null,
        ignored_columns,
        sequence: sequence.0,
        loaded_before: loaded_before.map(|time| time.to_string()),
    };
    Ok(with_sequence(respond(Format::Json, to_json(&json)), sequence))
}

fn options(query: &LoadQuery) -> Result<LoadOptions, Problem> {
    let event_time = match (&query.timestamp, &query.at) {
        (column, None) => EventTimes::Column(column.clone()),
        (None, Some(at)) => EventTimes::At(
            EventTime::parse(at).map_err(|error| malformed(format!("?at=: {error}")))?,
        ),
        (Some(_), Some(_)) => return Err(malformed("give ?timestamp= or ?at=, not both")),
    };
    let refuse_nan = match query.nan.as_deref() {
        None | Some("null") => false,
        Some("refuse") => true,
        Some(other) => {
            let other = shorten(other);
            return Err(malformed(format!("?nan= is \"{other}\", it can be null or refuse")));
        }
    };
    let time_unit = lookup_request::time_unit(query.time_unit.as_deref())?;
    let arrival = query.arrival.clone();
    Ok(LoadOptions { event_time, arrival, time_unit, refuse_nan })
}

/// Whether the upload may begin, and where it goes.
async fn admit(call: &Call, engine: &Arc<Engine>) -> Result<(LoadTurn, Spool), Problem> {
    upload::check_declared(&call.head.headers, engine.limits())?;
    let turn = engine.begin_load()?;
    let engine = Arc::clone(engine);
    off_the_lookups(move || {
        let spool = engine.spool()?;
        Ok((turn, spool))
    })
    .await
}
