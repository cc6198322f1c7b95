//! A refused request in HTTP's words: RFC 9457 problem JSON.
//!
//! It does not know why a request was refused.

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::engine::error::Problem;
use crate::http::call::{Reply, whole};
use crate::http::request_id;
use crate::metrics::Code;

/// What every problem is.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";
/// Longest detail, in bytes; what a caller sent may be quoted in it.
const DETAIL_BYTES: usize = 2048;

#[derive(Serialize)]
struct ProblemJson<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<PlaceJson<'a>>,
}

#[derive(Serialize)]
struct PlaceJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    field: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    found: &'a str,
    expected: &'a str,
}

/// The JSON that says `problem` to the request with this id.
pub(super) fn json(problem: &Problem, request_id: &str) -> Vec<u8> {
    let code = problem.code;
    let places = problem.places.iter().map(|place| PlaceJson {
        index: place.index,
        field: &place.field,
        found: &place.found,
        expected: &place.expected,
    });
    let json = ProblemJson {
        r#type: format!("urn:larder:problem:{}", code.as_str()),
        title: title(code),
        status: code.status(),
        detail: cut(&problem.detail),
        code: code.as_str(),
        request_id,
        errors: places.collect(),
    };
    serde_json::to_vec(&json).expect("texts and numbers are JSON")
}

/// No more of a text than an answer has room for.
fn cut(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(DETAIL_BYTES)]
}

/// The response that says `problem` to the request with this id.
pub(super) fn respond(problem: &Problem, request_id: &str) -> Reply {
    let mut response = Response::new(whole(json(problem, request_id)));
    *response.status_mut() = status(problem.code);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Some(seconds) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The bytes of an HTTP/1.1 answer that says `problem` where there is no request to answer; the
/// connection ends with it.
pub(super) fn alone(problem: &Problem) -> Vec<u8> {
    let id = request_id::new();
    let id = request_id::text(&id);
    let body = json(problem, id);
    let status = status(problem.code);
    let retry_after =
        problem.retry_after.map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {MEDIA_TYPE}\r\nx-request-id: {id}\r\n\
         {retry_after}connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

/// The methods a path has, for a request with another one.
pub(super) fn allow(response: &mut Reply, methods: &str) {
    if let Ok(methods) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
}

/// The HTTP status of a code.
pub(super) fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A problem's title: the same for every problem of a code.
const fn title(code: Code) -> &'static str {
    match code {
        Code::MalformedRequest => "the request cannot be read",
        Code::InvalidValue => "a value is not valid",
        Code::EventTimeInFuture => "an event time lies too far in the future",
        Code::AmbiguousFeature => "a feature name is ambiguous",
        Code::MissingEntity => "an entity key is missing",
        Code::DuplicateFeature => "a feature is asked for twice",
        Code::BelowRetentionFloor => "history was not kept that far back",
        Code::UnknownEntityType => "no such entity type",
        Code::UnknownView => "no such view",
        Code::UnknownFeature => "no such feature",
        Code::UnknownService => "no such service",
        Code::UnknownErasure => "no such erasure",
        Code::EntityNotFound => "the entity has no row",
        Code::NoSuchRoute => "no such path",
        Code::MethodNotAllowed => "the path does not have this method",
        Code::IncompatibleDefinition => "a definition contradicts one that stands",
        Code::InUse => "something still uses it",
        Code::SequenceMismatch => "the definitions have changed since",
        Code::LimitExceeded => "a limit is exceeded",
        Code::IdempotencyMismatch => "the idempotency key was used for another request",
        Code::Internal => "the server failed",
        Code::QueueFull => "too many writes are waiting",
        Code::NotReady => "the server is not ready",
        Code::Draining => "the server is shutting down",
        Code::Overloaded => "the server is overloaded",
        Code::ClockBehind => "the server's clock stands behind",
        Code::WritesStopped => "writes have stopped",
        Code::DeadlineExceeded => "the deadline has passed",
        Code::DiskFull => "the disk is full",
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::engine::error::Place;

    #[tokio::test]
    async fn problems_are_problem_json() {
        let place = Place {
            index: Some(3),
            field: "age".into(),
            found: "\"ten\"".into(),
            expected: "int32".into(),
        };
        let problem = Problem::new(Code::InvalidValue, "1 bad row").with_places(vec![place]);
        let response = respond(&problem, "r1");
        assert_eq!(response.status(), 400);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let expected = concat!(
            r#"{"type":"urn:larder:problem:INVALID_VALUE","title":"a value is not valid","#,
            r#""status":400,"detail":"1 bad row","code":"INVALID_VALUE","request_id":"r1","#,
            r#""errors":[{"index":3,"field":"age","found":"\"ten\"","expected":"int32"}]}"#,
        );
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
        let response = respond(&Problem::new(Code::QueueFull, ""), "r2");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn details_are_cut_between_characters() {
        let check = |detail: String, kept: usize| assert_eq!(cut(&detail).len(), kept);
        check("x".repeat(2048), 2048);
        check("x".repeat(2049), 2048);
        check(format!("x{}", "é".repeat(2048)), 2047);
    }

    #[test]
    fn every_code_has_a_status() {
        for code in Code::ALL {
            assert_eq!(status(*code).as_u16(), code.status());
        }
    }
}
