//! Reads bodies within their limits, and JSON within its own, saying exactly what is wrong.
//!
//! It does not know what a body is for.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use serde::Deserialize;

use crate::engine::error::Problem;
use crate::http::held::Held;
use crate::limits::{self, Limits};
use crate::metrics::{Code, Metrics};
use crate::registry::nearest::hint;
use crate::value::json::shorten;

/// Memory set aside at once for a body that says how long it is, in bytes.
const TRUSTED_LENGTH: usize = 64 << 10;

/// Most characters of what serde says is wrong.
const SAID_CHARS: usize = 300;

/// How long a refused body is still read.
const LINGER: Duration = Duration::from_secs(2);

/// A whole body.
#[derive(Debug)]
pub(super) enum Whole {
    /// It came in one piece, a part of the connection's buffer, and is not counted as held.
    Piece(Bytes),
    /// It was put together, and is counted as held until the last of it is dropped.
    Counted(Bytes),
}

/// Reads a whole body.
///
/// # Errors
/// `LIMIT_EXCEEDED` past `limits.body_bytes`, at once where the length is declared;
/// `MALFORMED_REQUEST` where it does not arrive within `limits.body_timeout`; `OVERLOADED` past
/// `limits.held_body_bytes`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    (limits, metrics): (&Limits, &Arc<Metrics>),
) -> Result<Whole, Problem> {
    let limit = limits.body_bytes;
    let declared = declared_length(headers);
    if let Some(declared) = declared
        && declared > limit as u64
    {
        refuse_unread(headers, body);
        return Err(too_long(&declared.to_string(), limit));
    }
    let capacity = usize::try_from(declared.unwrap_or(0)).unwrap_or(0).min(TRUSTED_LENGTH);
    let mut reading = pin!(collect(body, capacity, (limits, metrics)));
    // Most bodies came along with their head, and need no timer.
    let at_once = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
    if let Poll::Ready(read) = at_once {
        return read;
    }
    // A timer is large: boxed, it does not make every request's future so.
    match Box::pin(tokio::time::timeout(limits.body_timeout.to_std(), reading)).await {
        Ok(read) => read,
        Err(_) => Err(late(limits)),
    }
}

/// A body that did not arrive in time.
pub(super) fn late(limits: &Limits) -> Problem {
    let detail = format!(
        "the body did not arrive within {}, the limit limits.body_timeout",
        limits.body_timeout
    );
    malformed(detail)
}

/// What `Content-Length` says.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(
    mut body: Body,
    capacity: usize,
    (limits, metrics): (&Limits, &Arc<Metrics>),
) -> Result<Whole, Problem> {
    // Most bodies come in one piece, which then need not be copied.
    let first = next(&mut body).await?.unwrap_or_default();
    if let Err(problem) = check_length(first.len(), limits) {
        discard(body);
        return Err(problem);
    }
    if body.is_end_stream() {
        return Ok(Whole::Piece(first));
    }
    match next(&mut body).await? {
        None => Ok(Whole::Piece(first)),
        // Boxed, so that a body in one piece has no room for it in its request's future.
        Some(second) => Box::pin(join((first, second), body, capacity, (limits, metrics))).await,
    }
}

/// Puts a body together that comes in more than one piece.
async fn join(
    (first, second): (Bytes, Bytes),
    mut body: Body,
    capacity: usize,
    (limits, metrics): (&Limits, &Arc<Metrics>),
) -> Result<Whole, Problem> {
    let mut all = Vec::with_capacity(capacity.max(first.len() + second.len()));
    let mut held = Held::nothing(metrics);
    let mut append = |piece: Bytes| {
        check_length(all.len() + piece.len(), limits)?;
        held.add(limits, piece.len())?;
        all.extend_from_slice(&piece);
        Ok(())
    };
    let mut appended = append(first).and_then(|()| append(second));
    while appended.is_ok() {
        let Some(piece) = next(&mut body).await? else { break };
        appended = append(piece);
    }
    match appended {
        Ok(()) => Ok(Whole::Counted(held.with(all))),
        Err(problem) => {
            discard(body);
            Err(problem)
        }
    }
}

/// The next piece of a body.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| malformed(format!("the body broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn check_length(bytes: usize, limits: &Limits) -> Result<(), Problem> {
    let limit = limits.body_bytes;
    if bytes > limit { Err(too_long(&format!("more than {limit}"), limit)) } else { Ok(()) }
}

/// Refuses a body of which nothing was read.
pub(super) fn refuse_unread(headers: &HeaderMap, body: Body) {
    // A peer that asks before it sends will not send what nobody reads.
    if !headers.contains_key(EXPECT) {
        discard(body);
    }
}

/// Reads what is left of a refused body for a while: most clients see the answer only once they
/// have sent everything.
pub(super) fn discard(mut body: Body) {
    tokio::spawn(async move {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    });
}

fn too_long(found: &str, limit: usize) -> Problem {
    let detail = format!("the body has {found} bytes, the limit limits.body_bytes is {limit}");
    Problem::new(Code::LimitExceeded, detail)
}

/// A request that cannot be read.
pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::MalformedRequest, detail)
}

/// Reads a JSON body.
///
/// # Errors
/// `MALFORMED_REQUEST`: not UTF-8, nested deeper than [`limits::JSON_DEPTH`], not JSON, or with
/// fields that are missing, unknown, repeated or of another type.
pub(super) fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        malformed(format!("the body is not UTF-8: byte {} is invalid", error.valid_up_to()))
    })?;
    if text.trim_start().is_empty() {
        return Err(malformed("the body is empty; send a JSON object"));
    }
    check_depth(body)?;
    serde_json::from_str(text).map_err(|error| malformed(explain(&error, text)))
}

/// Refuses JSON that is nested too deeply, before anything recurses into it.
fn check_depth(body: &[u8]) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::JSON_DEPTH {
            let limit = limits::JSON_DEPTH;
            return Err(malformed(format!("the JSON is nested deeper than {limit} levels")));
        }
    }
    Ok(())
}

/// What is wrong with the JSON, in words that help.
fn explain(error: &serde_json::Error, text: &str) -> String {
    let (line, column) = (error.line(), error.column());
    let line_start: usize =
        text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let at = (line_start + column.saturating_sub(1)).min(text.len());
    if error.is_syntax() && is_no_number(text.as_bytes(), at) {
        let message = "NaN and Infinity are not JSON; send null";
        return format!("{message} (line {line} column {column})");
    }
    let place = format!(" at line {line} column {column}");
    let said = error.to_string();
    let Some((_, rest)) = said.split_once("unknown field `") else {
        // What serde says quotes what it found, however long that is.
        let said = said.strip_suffix(&place).unwrap_or(&said);
        return format!("the body cannot be read: {}{place}", first_chars(said, SAID_CHARS));
    };
    let mut names = rest.split('`');
    let field = names.next().unwrap_or_default();
    // What remains alternates between commas and the names serde expected.
    let known = names.enumerate().filter(|(index, _)| index % 2 == 1).map(|(_, name)| name);
    let hint = hint(field, known);
    format!("unknown field \"{}\"{hint} (line {line} column {column})", shorten(field))
}

/// The first characters of a text, with an ellipsis where there are more.
fn first_chars(text: &str, count: usize) -> Cow<'_, str> {
    match text.char_indices().nth(count) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Whether `NaN` or `Infinity` stands where the JSON ends to be JSON.
fn is_no_number(text: &[u8], at: usize) -> bool {
    (at.saturating_sub(2)..=at).any(|from| {
        let rest = text.get(from..).unwrap_or_default();
        [b"NaN".as_slice(), b"nan", b"Infinity", b"inf"].iter().any(|word| rest.starts_with(word))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::{Body as HttpBody, Frame};

    use super::*;
    use crate::time::{Clock, Span, SystemClock};

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "entity_type")]
        _entity_type: String,
        #[serde(rename = "feature_names")]
        _feature_names: Option<serde_json::Value>,
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |body: &[u8], expected: &str| {
            let problem = json::<Sample>(body).unwrap_err();
            assert_eq!(problem.code, Code::MalformedRequest);
            assert!(problem.detail.contains(expected), "{}", problem.detail);
        };
        check(b"", "the body is empty");
        check(b"  \n", "the body is empty");
        check(b"{\"entity_type\":\"\xff\"}", "not UTF-8: byte 16 is invalid");
        check(b"{\"entity_type\":\"u\",\"feature_name\":1}", "did you mean \"feature_names\"?");
        check(b"{\"entity_type\":\"u\",\"entity_type\":\"u\"}", "duplicate field `entity_type`");
        check(b"{\"entity_type\":NaN}", "NaN and Infinity are not JSON; send null");
        check(b"{\"feature_names\":[-Infinity]}", "NaN and Infinity are not JSON; send null");
        check(b"{\n\"feature_names\":[1,\nNaN]}", "send null (line 3");
        check(b"{\"entity_type\":5}", "invalid type: integer `5`, expected a string");
        let long = format!("{{\"feature_names\":1,\n\"entity_type\":[\"{}\"]}}", "é".repeat(5_000));
        check(long.as_bytes(), "invalid type: sequence, expected a string at line 2 column");
        let text = format!("{{\"entity_type\":1,\"{}\":1}}", "é".repeat(5_000));
        let problem = json::<Vec<u8>>(format!("\"{text}\"").as_bytes()).unwrap_err();
        assert!(problem.detail.len() < 1_000, "{} bytes", problem.detail.len());
        check(b"{", "EOF while parsing");
        check(b"[1]", "cannot be read");
        check(b"{\"entity_type\":\"u\"}x", "trailing characters");
        check("[".repeat(10_000).as_bytes(), "nested deeper than 64 levels");
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let deep = format!("{{\"entity_type\":\"{}\\\"[\"}}", "[".repeat(100));
        assert!(json::<Sample>(deep.as_bytes()).is_ok());
        let at_limit = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(check_depth(at_limit.as_bytes()).is_ok());
    }

    #[tokio::test]
    async fn bodies_end_at_their_limit() {
        let limits = Limits { body_bytes: 4, ..Limits::default() };
        let metrics = Metrics::new(SystemClock.now());
        let with = (&limits, &metrics);
        let headers = HeaderMap::new();
        let found = read(&headers, Body::from("1234"), with).await.unwrap();
        assert!(matches!(found, Whole::Piece(piece) if piece == "1234"));
        let problem = read(&headers, Body::from("12345"), with).await.unwrap_err();
        assert_eq!(problem.code, Code::LimitExceeded);
        assert!(problem.detail.contains("limits.body_bytes is 4"), "{}", problem.detail);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 100_000_000.into());
        let problem = read(&headers, Body::empty(), with).await.unwrap_err();
        assert!(problem.detail.contains("has 100000000 bytes"), "{}", problem.detail);
    }

    /// A body that comes in these pieces, and never ends where the last is none.
    struct Pieces(VecDeque<Option<&'static str>>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0.front() == Some(&None) {
                return Poll::Pending;
            }
            let piece = self.0.pop_front().flatten();
            Poll::Ready(piece.map(|piece| Ok(Frame::data(piece.into()))))
        }
    }

    #[tokio::test]
    async fn bodies_in_pieces_are_counted_and_given_back() {
        let limits = Limits {
            body_bytes: 8,
            held_body_bytes: 10,
            body_timeout: Span::from_micros(10_000),
            ..Limits::default()
        };
        let metrics = Metrics::new(SystemClock.now());
        let held = || metrics.held_body_bytes.get();
        let take = async |pieces: &[Option<&'static str>]| {
            let body = Body::new(Pieces(pieces.iter().copied().collect()));
            match read(&HeaderMap::new(), body, (&limits, &metrics)).await {
                Ok(Whole::Counted(body)) => Ok(body),
                Ok(Whole::Piece(piece)) => panic!("one piece: {piece:?}"),
                Err(problem) => Err(problem),
            }
        };
        let body = take(&[Some("12"), Some("34"), Some("5")]).await.unwrap();
        assert_eq!((&*body, held()), (b"12345".as_slice(), 5));
        let refused = |problem: Problem, code: Code, says: &str| {
            assert_eq!(problem.code, code, "{}", problem.detail);
            assert!(problem.detail.contains(says), "{}", problem.detail);
            assert_eq!(held(), 5, "{says}");
        };
        let full = take(&[Some("1234"), Some("56")]).await.unwrap_err();
        refused(full, Code::Overloaded, "limits.held_body_bytes is 10");
        let long = take(&[Some("1"), Some("23456789")]).await.unwrap_err();
        refused(long, Code::LimitExceeded, "limits.body_bytes is 8");
        let late = take(&[Some("1"), Some("2"), None]).await.unwrap_err();
        refused(late, Code::MalformedRequest, "limits.body_timeout");
        drop(take(&[Some("1"), Some("2345")]).await.unwrap());
        drop(body);
        assert_eq!(held(), 0);
    }
}
