//! `POST /api/v1/features/register` and the routes that drop definitions.
//!
//! It does not know how definitions are read or compared.

use axum::http::StatusCode;
use axum::http::header::IF_MATCH;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::define::{Data, DefineOptions, Defined, OnError};
use crate::engine::error::Problem;
use crate::http::aside::off_the_lookups;
use crate::http::body::malformed;
use crate::http::call::{Answered, Call, Format, name, respond};
use crate::http::erase::NOT_COVERED;
use crate::http::push::with_sequence;
use crate::ids::Sequence;
use crate::metrics::Code;
use crate::registry::DEFAULT_PROJECT;
use crate::registry::changes::Absent;
use crate::registry::definitions::Definitions;

/// The query of a registration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegisterQuery {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    prune: bool,
    data: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// The query of a drop.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropQuery {
    data: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// What changed.
#[derive(Serialize, ToSchema)]
pub(super) struct DefinedJson {
    /// Each change in words; empty if everything stood already.
    changes: Vec<String>,
    /// What is allowed but may surprise.
    warnings: Vec<String>,
    /// The sequence of the last definition change, for `If-Match`.
    sequence: u64,
    /// The ids of the erasures of views that were dropped with their rows; left out if none was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    erasures: Vec<String>,
    /// Where copies of such rows may be that the server cannot reach; left out with those.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    not_covered: &'static [&'static str],
}

/// Answers the registration.
#[utoipa::path(
    post, path = "/api/v1/features/register", tag = "definitions",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change"),
        ("prune" = Option<bool>, Query, description = "Drop what is not there"),
        ("data" = Option<String>, Query,
            description = "keep, or drop: also erase the rows of views that are dropped"),
        ("If-Match" = Option<String>, Header,
            description = "The sequence the definitions must stand at")),
    request_body(content = Object, description = "The tree of a definition file"),
    responses(
        (status = 200, description = "What changed", body = DefinedJson),
        (status = 202, description = "What changed; rows that nobody sees any more are removed",
            body = DefinedJson),
    )
)]
pub(super) async fn handle(mut call: Call) -> Answered {
    let query: RegisterQuery = call.query()?;
    let data = data(query.data.as_deref())?;
    if data == Data::Drop && !query.prune {
        let detail = "?data=drop is for the views that ?prune=true drops";
        return Err(Problem::new(Code::InvalidValue, detail));
    }
    let format = call.format()?;
    let if_match = if_match(&call)?;
    let project = call.project_name()?.unwrap_or(DEFAULT_PROJECT.into()).into_owned();
    let body = call.body().await?;
    let definitions = off_the_lookups(move || match format {
        Format::Json => Ok(Definitions::parse_json(&body, &project)?),
        Format::Toml => {
            let text = std::str::from_utf8(&body).map_err(|error| {
                malformed(format!("the body is not UTF-8: byte {}", error.valid_up_to()))
            })?;
            Ok(Definitions::parse_toml_for(&project, "body", text)?)
        }
        Format::Arrow | Format::Parquet => Err(malformed("definitions are JSON or TOML")),
    })
    .await?;
    let options = DefineOptions {
        absent: if query.prune { Absent::Drop } else { Absent::Keep },
        data,
        on_error: OnError::ApplyNothing,
        dry_run: query.dry_run,
        if_match,
    };
    let defined = call.engine()?.define(definitions, options).await?;
    answer(defined)
}

/// Answers `DELETE /api/v1/views/{view}`.
#[utoipa::path(
    delete, path = "/api/v1/views/{view}", tag = "definitions",
    params(("view" = String, Path, description = "Its name, or name@version"),
        ("data" = Option<String>, Query,
            description = "keep (the default) its rows in history, or drop: erase them too")),
    responses(
        (status = 200, description = "Dropped", body = DefinedJson),
        (status = 202, description = "Dropped; its rows, which nobody sees any more, are removed",
            body = DefinedJson),
    )
)]
pub(super) async fn drop_view(call: Call) -> Answered {
    let query: DropQuery = call.query()?;
    let data = data(query.data.as_deref())?;
    let engine = call.engine()?;
    let project = call.project(&engine.registry())?;
    let view = name(call.segment(3)?)?;
    answer(engine.drop_view(project, &view, data).await?)
}

fn data(asked: Option<&str>) -> Result<Data, Problem> {
    match asked {
        None | Some("keep") => Ok(Data::Keep),
        Some("drop") => Ok(Data::Drop),
        Some(other) => {
            let other = crate::value::json::shorten(other);
            let detail = format!("?data= is \"{other}\", it can only be keep or drop");
            Err(Problem::new(Code::InvalidValue, detail))
        }
    }
}

/// Answers `DELETE /api/v1/services/{service}`.
#[utoipa::path(
    delete, path = "/api/v1/services/{service}", tag = "definitions",
    params(("service" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "Dropped", body = DefinedJson),
    )
)]
pub(super) async fn drop_service(call: Call) -> Answered {
    let engine = call.engine()?;
    let project = call.project(&engine.registry())?;
    let service = name(call.segment(3)?)?;
    answer(engine.drop_service(project, &service).await?)
}

fn answer(defined: Defined) -> Answered {
    let Defined { changes, warnings, sequence, erasures } = defined;
    let erasures: Vec<String> = erasures.iter().map(ToString::to_string).collect();
    let (status, not_covered): (_, &[_]) = match erasures.is_empty() {
        true => (StatusCode::OK, &[]),
        false => (StatusCode::ACCEPTED, &NOT_COVERED),
    };
    let json = DefinedJson { changes, warnings, sequence: sequence.0, erasures, not_covered };
    let mut response = respond(Format::Json, to_json(&json));
    *response.status_mut() = status;
    Ok(with_sequence(response, sequence))
}

/// The JSON of an answer.
pub(super) fn to_json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers are texts and numbers")
}

fn if_match(call: &Call) -> Result<Option<Sequence>, Problem> {
    let Some(text) = call.header(&IF_MATCH)? else { return Ok(None) };
    let number = text.trim().trim_matches('"').parse();
    number.map(|sequence| Some(Sequence(sequence))).map_err(|_| {
        let text = crate::value::json::shorten(text);
        malformed(format!("If-Match is {text}, expected the sequence of a registration"))
    })
}
