//! A historical read of a Parquet file that is answered in Parquet: a training set.
//!
//! It does not know Parquet; it keeps the upload and streams what the engine makes of it.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use serde::Deserialize;

use crate::engine::Engine;
use crate::engine::error::Problem;
use crate::engine::label_columns::KeyColumns;
use crate::engine::spool::Spool;
use crate::engine::training::{Known, LabelOptions, Names, Training};
use crate::http::aside::off_the_lookups;
use crate::http::body::{malformed, refuse_unread};
use crate::http::call::{Answered, Call, Format};
use crate::http::lookup;
use crate::http::lookup_request::{Said, Wanted, words};
use crate::http::{streamed, upload};
use crate::registry::resolve::Purpose;
use crate::time::{ArrivalTime, EventTime};
use crate::value::json::shorten;

/// The options, in the query.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainingQuery {
    entity_type: Option<String>,
    feature_names: Option<String>,
    service: Option<String>,
    include: Option<String>,
    min_sequence: Option<u64>,
    #[serde(default)]
    allow_truncated: bool,
    time_unit: Option<String>,
    known_at: Option<String>,
    known_at_label_time: Option<bool>,
    timestamp: Option<String>,
    entity_map: Option<String>,
    names: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// Answers the read. It has no deadline: it ends when the caller goes.
pub(super) async fn answer(mut call: Call) -> Answered {
    let engine = Arc::clone(call.engine()?);
    let body = call.streamed_body()?;
    let (training, spool) = match prepare(&call, &engine).await {
        Ok(prepared) => prepared,
        Err(problem) => {
            refuse_unread(&call.head.headers, body);
            return Err(problem);
        }
    };
    let with = (engine.limits(), &call.door.metrics);
    let spool = upload::receive(body, spool, with).await?;
    // The spool keeps its place among the uploads until then.
    let turn = engine.wait_for_training().await?;
    let labels = spool.finish();
    let made = streamed::make(move |out| {
        let report = |done: u64, of: u64| tracing::debug!(done, of, "making a training set");
        engine.train(&turn, &training, labels, out, &report)
    });
    let mut response = Response::new(made.await?);
    let media_type = HeaderValue::from_static(Format::Parquet.media_type());
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

/// All that can be refused before the upload.
async fn prepare(call: &Call, engine: &Arc<Engine>) -> Result<(Training, Spool), Problem> {
    let deadline = call.deadline()?;
    let query: TrainingQuery = call.query()?;
    let names_asked = words(query.feature_names.as_deref());
    let include = words(query.include.as_deref()).unwrap_or_default();
    let said = Said {
        entity_type: query.entity_type.as_deref(),
        feature_names: names_asked.as_deref(),
        service: query.service.as_deref(),
        include: &include,
        min_sequence: query.min_sequence,
        time_unit: query.time_unit.as_deref(),
        ..Said::default()
    };
    let wanted = Wanted::new(said, engine.limits())?;
    lookup::wait_for(engine, wanted.min_sequence, deadline).await?;
    let project = call.project(&engine.registry())?;
    let training = Training {
        plan: wanted.plan(engine, project, Purpose::AsOf)?.plan.clone(),
        of_service: query.service.is_some(),
        labels: LabelOptions {
            timestamp: query.timestamp.clone(),
            time_unit: wanted.time_unit,
            keys: query.entity_map.as_deref().map_or(Ok(Vec::new()), key_columns)?,
        },
        // As in all answers, unless it is said otherwise.
        names: query.names.as_deref().map_or(Ok(Names::Reference), names)?,
        include: wanted.include,
        known: known(&query)?,
        allow_truncated: query.allow_truncated,
    };
    Ok((training, admit(call, engine).await?))
}

/// Whether the upload may begin, and where it goes.
async fn admit(call: &Call, engine: &Arc<Engine>) -> Result<Spool, Problem> {
    upload::check_declared(&call.head.headers, engine.limits())?;
    // Nobody is to send a file in vain. The turn itself is taken later: sending may take long.
    drop(engine.begin_training()?);
    let engine = Arc::clone(engine);
    off_the_lookups(move || engine.spool()).await
}

fn known(query: &TrainingQuery) -> Result<Known, Problem> {
    match (&query.known_at, query.known_at_label_time) {
        (None, None | Some(false)) => Ok(Known::Now),
        (None, Some(true)) => Ok(Known::AtLabelTime),
        (Some(time), None | Some(false)) => {
            let time = EventTime::parse(time);
            let time = time.map_err(|error| malformed(format!("known_at: {error}")))?;
            Ok(Known::At(ArrivalTime::from_micros(time.micros())))
        }
        (Some(_), Some(true)) => Err(malformed("give known_at or known_at_label_time, not both")),
    }
}

fn names(text: &str) -> Result<Names, Problem> {
    let found = Names::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, names)| *names).ok_or_else(|| {
        let text = shorten(text);
        malformed(format!("names is \"{text}\", it can be view__feature, bare or reference"))
    })
}

/// Reads `user=customer_id;route=from,to`.
fn key_columns(text: &str) -> Result<Vec<KeyColumns>, Problem> {
    let of_role = |part: &str| {
        KeyColumns::parse(part).ok_or_else(|| {
            let part = shorten(part);
            malformed(format!("entity_map has \"{part}\", expected role=column or role=one,two"))
        })
    };
    text.split(';').map(of_role).collect()
}
