//! What operators and their tools ask: health, readiness, metrics, statistics.
//!
//! It does not know how any of it is measured.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::error::Problem;
use crate::engine::sizes::ViewSizes;
use crate::history::Damage;
use crate::http::aside::off_the_lookups;
use crate::http::call::{Answered, Call, Format, respond, whole};
use crate::http::door::Door;
use crate::http::register::to_json;
use crate::metrics::render::CONTENT_TYPE as METRICS_TYPE;
use crate::metrics::{Code, Stats, ViewRows, WritesState};

/// The server is alive.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthJson {
    /// `ok`
    status: &'static str,
}

/// The server answers.
#[derive(Serialize, ToSchema)]
pub(super) struct ReadyJson {
    /// `ready`
    status: &'static str,
    /// `open`
    reads: &'static str,
    /// `open`, `full` or `clock_behind`.
    writes: &'static str,
    /// The last visible sequence.
    sequence: u64,
    /// How long recovery took, in milliseconds.
    recovered_ms: u64,
    /// Files of history found damaged on the disk; `/api/v1/stats` names them.
    #[serde(skip_serializing_if = "is_zero")]
    damaged_files: usize,
    /// What is wrong with the definitions of `registry.path`; what stood before stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    definitions: Vec<String>,
}

/// Answers `GET /health`.
#[utoipa::path(
    get, path = "/health", tag = "operations",
    responses(
        (status = 200, description = "Alive", body = HealthJson),
    )
)]
pub(super) async fn health(call: Call) -> Answered {
    let stopped =
        call.door.recovered().is_some_and(|engine| engine.health().writes == WritesState::Stopped);
    if stopped {
        let detail = "writes have stopped after a failed sync; a restart recovers";
        return Err(Problem::new(Code::WritesStopped, detail));
    }
    Ok(respond(Format::Json, to_json(&HealthJson { status: "ok" })))
}

/// Answers `GET /ready`.
#[utoipa::path(
    get, path = "/ready", tag = "operations",
    responses(
        (status = 200, description = "Answers requests", body = ReadyJson),
    )
)]
pub(super) async fn ready(call: Call) -> Answered {
    if call.door.is_draining() {
        return Err(Problem::new(Code::Draining, "the server is shutting down"));
    }
    let engine = call.engine()?;
    let health = engine.health();
    let json = ReadyJson {
        status: "ready",
        reads: "open",
        writes: health.writes.as_str(),
        sequence: health.sequence.0,
        recovered_ms: u64::try_from(health.recovered.micros() / 1_000).unwrap_or(0),
        damaged_files: engine.damages().len(),
        definitions: call.door.definition_notes(),
    };
    Ok(respond(Format::Json, to_json(&json)))
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Answers `GET /metrics`.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "For Prometheus", body = String, content_type = "text/plain"),
    )
)]
pub(super) async fn metrics(call: Call) -> Answered {
    let door = &call.door;
    let text = door.metrics.render(&view_rows(door), door.clock.now());
    let mut response = Response::new(whole(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    Ok(response)
}

/// Answers `GET /api/v1/stats`.
#[utoipa::path(
    get, path = "/api/v1/stats", tag = "operations",
    responses(
        (status = 200, description = "Every number of the server", body = Object),
    )
)]
pub(super) async fn stats(call: Call) -> Answered {
    let door = &call.door;
    let stats = door.metrics.stats(view_rows(door), door.clock.now());
    let damages = door.recovered().map(|engine| engine.damages()).unwrap_or_default();
    let damage = damages.into_iter().map(|Damage { path, offset, reason }| DamageJson {
        file: path.display().to_string(),
        offset,
        reason,
    });
    let sizes = sizes(door).await?;
    let json = StatsJson { stats, sizes, damage: damage.collect() };
    Ok(respond(Format::Json, to_json(&json)))
}

/// Every number, and what was found damaged.
#[derive(Serialize)]
struct StatsJson {
    #[serde(flatten)]
    stats: Stats,
    /// Bytes of a row of each view.
    sizes: Vec<SizesJson>,
    /// What reading again found damaged of history at rest.
    damage: Vec<DamageJson>,
}

/// What the rows of a view take; the log's and memory's are means of samples.
#[derive(Serialize)]
struct SizesJson {
    project: String,
    view: String,
    sealed_rows: u64,
    sealed_bytes: u64,
    sealed_bytes_per_row: Option<f64>,
    log_bytes_per_row: Option<f64>,
    memory_bytes_per_row: Option<f64>,
}

/// Views that live, by what their rows take; none while the engine recovers.
async fn sizes(door: &Door) -> Result<Vec<SizesJson>, Problem> {
    let Some(engine) = door.recovered().cloned() else { return Ok(Vec::new()) };
    let registry = engine.registry();
    let sizes = off_the_lookups(move || Ok(engine.sizes())).await?;
    let named = sizes.into_iter().filter_map(|ViewSizes { view, sealed, log, memory }| {
        let view = registry.view(view)?;
        let mean = sealed.bytes as f64 / sealed.rows as f64;
        Some(SizesJson {
            project: registry.project_name(view.project)?.to_owned(),
            view: format!("{}@{}", view.name, view.version),
            sealed_rows: sealed.rows,
            sealed_bytes: sealed.bytes,
            sealed_bytes_per_row: (sealed.rows > 0).then_some(mean),
            log_bytes_per_row: log,
            memory_bytes_per_row: memory,
        })
    });
    Ok(named.collect())
}

#[derive(Serialize)]
struct DamageJson {
    file: String,
    offset: u64,
    reason: String,
}

/// Rows online by view; none while the engine recovers.
fn view_rows(door: &Door) -> Vec<ViewRows> {
    let Some(engine) = door.recovered() else { return Vec::new() };
    let registry = engine.registry();
    let named = engine.rows_per_view().into_iter().filter_map(|(id, rows)| {
        let view = registry.view(id)?;
        let project = registry.project_name(view.project)?.to_owned();
        Some(ViewRows { project, view: format!("{}@{}", view.name, view.version), rows })
    });
    named.collect()
}
