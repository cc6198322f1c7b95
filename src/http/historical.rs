//! `POST /api/v1/features/historical`: features as they stood, each row at its own instant.
//!
//! It does not know history.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::Engine;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::lookup::{Batch, LookupPlan};
use crate::http::arrow_answer::ColumnarAnswer;
use crate::http::aside::{self, off_the_lookups};
use crate::http::asked::Names;
use crate::http::body::{self, malformed};
use crate::http::call::{Answered, Call, Format, respond};
use crate::http::historical_columns;
use crate::http::historical_rows::{self, HistoricalRow};
use crate::http::lookup::{self, When};
use crate::http::lookup_answer::{ManyAnswers, Metadata};
use crate::http::lookup_request::{
    Said, Wanted, check_values, lookup_body, read_optional_time, too_many, values_per_row, words,
};
use crate::http::openapi::{HistoricalRequest, RowsAnswer};
use crate::http::text::Pairs;
use crate::http::training;
use crate::ids::ProjectId;
use crate::limits::Limits;
use crate::registry::resolve::Purpose;
use crate::time::{ArrivalTime, EventTime};

lookup_body! {
    /// The JSON body.
    HistoricalBody {
        rows: Option<Vec<HistoricalRow<'a>>>,
        columns: Option<Pairs<'a>>,
        known_at: Option<&'a RawValue>,
    }
}

/// The same options in the query, beside an Arrow or Parquet body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoricalQuery {
    entity_type: Option<String>,
    feature_names: Option<String>,
    service: Option<String>,
    include: Option<String>,
    min_sequence: Option<u64>,
    time_unit: Option<String>,
    known_at: Option<String>,
    #[serde(default)]
    allow_truncated: bool,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// Whose features, and when.
pub(super) struct Spine {
    pub(super) batch: Batch,
    pub(super) times: Vec<EventTime>,
}

/// Answers the route.
#[utoipa::path(
    post, path = "/api/v1/features/historical", tag = "lookups",
    params(
        ("feature_names" = Option<String>, Query,
            description = "Beside an Arrow or Parquet body: references, separated by commas"),
        ("service" = Option<String>, Query, description = "The same, by service"),
        ("entity_type" = Option<String>, Query, description = "The one entity type that is meant"),
        ("include" = Option<String>, Query,
            description = "Any of statuses,event_timestamps,defaulted"),
        ("min_sequence" = Option<u64>, Query, description = "Wait until this is visible"),
        ("allow_truncated" = Option<bool>, Query,
            description = "Below a retention floor mark the cells instead of refusing all"),
        ("time_unit" = Option<String>, Query, description = "Of integer times: s, ms, us or ns"),
        ("known_at" = Option<String>, Query, description = "See nothing that arrived later"),
        ("timestamp" = Option<String>, Query,
            description = "Training set: the column of the label's time"),
        ("entity_map" = Option<String>, Query,
            description = "Training set: columns of keys, such as user=customer_id;route=from,to"),
        ("names" = Option<String>, Query,
            description = "Training set: view__feature, bare or reference"),
        ("known_at_label_time" = Option<bool>, Query,
            description = "Training set: see nothing that arrived after the label's time")
    ),
    request_body(
        content((HistoricalRequest = "application/json"),
            (Vec<u8> = "application/vnd.apache.parquet")),
        description = "Rows or columns as JSON; or a table as an Arrow stream or a Parquet file. \
            A Parquet file that is answered in Parquet (Accept) is a table of labels, and the \
            answer a training set: all its rows and columns, the features beside them"
    ),
    responses(
        (status = 200, description = "A row per row; Arrow or Parquet if accepted",
            body = RowsAnswer),
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let deadline = call.deadline()?;
    let format = call.format()?;
    if format == Format::Parquet && call.accepts() == Format::Parquet {
        return training::answer(call).await;
    }
    let body = call.body().await?;
    match format {
        Format::Json => aside::answer(body.len(), from_json(call, body, deadline)).await,
        Format::Arrow | Format::Parquet => from_columns(&call, (format, body), deadline).await,
        Format::Toml => Err(malformed("a historical read is JSON, Arrow or Parquet, not TOML")),
    }
}

async fn from_json(call: Call, body: Bytes, deadline: Deadline) -> Answered {
    let request: HistoricalBody<'_> = body::json(&body)?;
    let engine = call.engine()?;
    let wanted = request.wanted(engine.limits())?;
    let known_at = read_optional_time("known_at", request.known_at, wanted.time_unit)?;
    let (plan, project) = prepare(&call, engine, &wanted, deadline).await?;
    let spine = match (&request.rows, &request.columns) {
        (Some(rows), None) => {
            check_rows(rows.len(), engine.limits())?;
            historical_rows::of_rows(engine, (project, &plan), rows, wanted.time_unit)?
        }
        (None, Some(columns)) => {
            historical_rows::of_columns(engine.limits(), &plan, columns, wanted.time_unit)?
        }
        _ => return Err(malformed("give \"rows\" or \"columns\": whose features, and when")),
    };
    answer(&call, &wanted, &plan, (spine, known_at), deadline).await
}

async fn from_columns(
    call: &Call,
    (format, body): (Format, Bytes),
    deadline: Deadline,
) -> Answered {
    let query: HistoricalQuery = call.query()?;
    let names = words(query.feature_names.as_deref());
    let include = words(query.include.as_deref()).unwrap_or_default();
    let said = Said {
        entity_type: query.entity_type.as_deref(),
        feature_names: names.as_deref(),
        service: query.service.as_deref(),
        include: &include,
        min_sequence: query.min_sequence,
        allow_truncated: query.allow_truncated,
        time_unit: query.time_unit.as_deref(),
        ..Said::default()
    };
    let engine = call.engine()?;
    let wanted = Wanted::new(said, engine.limits())?;
    let known_at = query.known_at.as_deref().map(EventTime::parse).transpose();
    let known_at = known_at.map_err(|error| malformed(format!("known_at: {error}")))?;
    let (plan, _) = prepare(call, engine, &wanted, deadline).await?;
    let (unit, limits) = (wanted.time_unit, engine.limits().clone());
    let of = Arc::clone(&plan);
    let spine =
        off_the_lookups(move || historical_columns::read(&limits, &of, unit, (format, body)))
            .await?;
    answer(call, &wanted, &plan, (spine, known_at), deadline).await
}

async fn prepare(
    call: &Call,
    engine: &Engine,
    wanted: &Wanted<'_>,
    deadline: Deadline,
) -> Result<(Arc<LookupPlan>, ProjectId), Problem> {
    lookup::wait_for(engine, wanted.min_sequence, deadline).await?;
    let project = call.project(&engine.registry())?;
    Ok((wanted.plan(engine, project, Purpose::AsOf)?, project))
}

/// Refuses more rows than `limits.entities_per_request`.
pub(super) fn check_rows(rows: usize, limits: &Limits) -> Result<(), Problem> {
    let limit = limits.entities_per_request;
    if rows > limit {
        return Err(too_many(rows, "rows", "entities_per_request", limit));
    }
    Ok(())
}

async fn answer(
    call: &Call,
    wanted: &Wanted<'_>,
    plan: &Arc<LookupPlan>,
    (spine, known_at): (Spine, Option<EventTime>),
    deadline: Deadline,
) -> Answered {
    let engine = call.engine()?;
    let known_at = known_at.map(|time| ArrivalTime::from_micros(time.micros()));
    let rows = spine.times.len();
    let columns = &plan.plan.columns;
    check_values(values_per_row(columns), rows, 0, engine.limits())?;
    let allow_truncated = wanted.allow_truncated;
    let when = When::Each { times: spine.times, known_at, allow_truncated };
    let found = lookup::find(engine, plan, spine.batch, when, deadline).await?;
    let outcome = found.outcome();
    let metadata = |latency| Metadata { latency, at: found.at, outcome: &outcome };
    match call.accepts() {
        format @ (Format::Arrow | Format::Parquet) => {
            let mut answer = ColumnarAnswer::new(columns, rows, wanted.include);
            found.for_each(|_, column, value| answer.push(column, value)).await;
            Ok(respond(format, answer.finish(format, &metadata(deadline.elapsed()?))?))
        }
        Format::Json | Format::Toml => {
            let names = Names::new(columns);
            let mut answer = ManyAnswers::new(&names, rows, wanted.include);
            found.for_each(|_, column, value| answer.push(column, value)).await;
            Ok(respond(Format::Json, answer.finish(&metadata(deadline.elapsed()?))))
        }
    }
}
