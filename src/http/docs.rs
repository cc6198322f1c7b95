//! `GET /docs`: the API description as a page that works without a network.
//!
//! It does not know the description; the page fetches it from `/openapi.json`.

use std::sync::{Arc, OnceLock};

use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Response, StatusCode};
use utoipa_swagger_ui::Config;

use crate::engine::error::Problem;
use crate::http::call::{Answered, Call, whole};
use crate::metrics::Code;

/// Answers `/docs` by sending the browser to `/docs/`, which the page's relative links need.
#[utoipa::path(
    get, path = "/docs", tag = "operations",
    responses(
        (status = 308, description = "To the page"),
    )
)]
pub(super) async fn redirect(_call: Call) -> Answered {
    let mut response = Response::new(whole(Vec::new()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/docs/"));
    Ok(response)
}

/// Answers the page.
#[utoipa::path(
    get, path = "/docs/", tag = "operations",
    responses(
        (status = 200, description = "The API page", body = String, content_type = "text/html"),
    )
)]
pub(super) async fn page(call: Call) -> Answered {
    file(call).await
}

/// Answers a file of the page.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "operations",
    params(("file" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "A file of the page"),
    )
)]
pub(super) async fn file(call: Call) -> Answered {
    static CONFIG: OnceLock<Arc<Config<'static>>> = OnceLock::new();
    let config =
        CONFIG.get_or_init(|| Arc::new(Config::from("/openapi.json").validator_url("none")));
    let path = call.segment(1)?;
    let file = utoipa_swagger_ui::serve(&path, Arc::clone(config))
        .map_err(|error| Problem::new(Code::Internal, format!("the page is damaged: {error}")))?;
    let Some(file) = file else {
        return Err(Problem::new(Code::NoSuchRoute, "the API page has no such file"));
    };
    let mut response = Response::new(whole(file.bytes.into_owned()));
    if let Ok(media_type) = HeaderValue::from_str(&file.content_type) {
        response.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    Ok(response)
}
