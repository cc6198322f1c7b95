//! One request on its way through a handler: its head, its body, its deadline, its project.
//!
//! It does not know what is asked.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Query;
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Response};
use bytes::Bytes;
use http_body_util::{Either, Full};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::engine::Engine;
use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::http::body::{self, Whole, malformed};
use crate::http::door::Door;
use crate::http::held::hold;
use crate::ids::ProjectId;
use crate::limits::NAME_BYTES;
use crate::metrics::Code;
use crate::registry::{DEFAULT_PROJECT, Registry};
use crate::time::{Span, Stopwatch};
use crate::value::json::shorten;

const PROJECT: HeaderName = HeaderName::from_static("larder-project");
const TIMEOUT: HeaderName = HeaderName::from_static("larder-timeout-ms");
/// Longest timeout a request may ask for.
const LONGEST_TIMEOUT: Span = Span::from_seconds(3_600);

/// The body of an answer: whole, or one that comes piece by piece.
pub(super) type AnswerBody = Either<Full<Bytes>, Body>;

/// An answer.
pub(super) type Reply = Response<AnswerBody>;

/// What a handler answers.
pub(super) type Answered = Result<Reply, Problem>;

/// A request.
pub(super) struct Call {
    pub(super) door: Arc<Door>,
    /// Boxed, since a future may hold its arguments twice.
    pub(super) head: Box<Parts>,
    started: Stopwatch,
    /// Never shared; the lock only makes the call so.
    body: Mutex<Option<Body>>,
    /// Bytes of a body in one piece, counted as held.
    held: usize,
}

/// The part of a query that every route understands.
#[derive(Deserialize)]
struct CommonQuery {
    project: Option<String>,
}

impl Call {
    pub(super) fn new(door: Arc<Door>, head: Parts, body: Body, started: Stopwatch) -> Self {
        Self { door, head: Box::new(head), started, body: Mutex::new(Some(body)), held: 0 }
    }

    pub(super) fn engine(&self) -> Result<&Arc<Engine>, Problem> {
        self.door.engine()
    }

    /// The project the request acts in.
    pub(super) fn project(&self, registry: &Registry) -> Result<ProjectId, Problem> {
        let Some(name) = self.project_name()? else {
            return Ok(registry.project(DEFAULT_PROJECT).unwrap_or(ProjectId(0)));
        };
        Ok(registry.project_named(&name)?)
    }

    /// The project the request names, by header or query.
    pub(super) fn project_name(&self) -> Result<Option<Cow<'_, str>>, Problem> {
        if let Some(name) = self.head.headers.get(&PROJECT) {
            let name = name.to_str().map_err(|_| malformed("Larder-Project is not ASCII"))?;
            return Ok(Some(Cow::Borrowed(name)));
        }
        match self.head.uri.query() {
            Some(query) if query.contains("project=") => {
                let Query(query) = Query::<CommonQuery>::try_from_uri(&self.head.uri)
                    .map_err(|error| malformed(format!("the query cannot be read: {error}")))?;
                Ok(query.project.map(Cow::Owned))
            }
            _ => Ok(None),
        }
    }

    /// The time the request allows, from `Larder-Timeout-Ms` or `limits.request_timeout`.
    pub(super) fn deadline(&self) -> Result<Deadline, Problem> {
        let Some(given) = self.head.headers.get(&TIMEOUT) else {
            return Ok(Deadline::since(self.started, self.door.limits.request_timeout));
        };
        let millis: Option<i64> = given.to_str().ok().and_then(|text| text.parse().ok());
        let span = millis.and_then(|millis| millis.checked_mul(1_000)).map(Span::from_micros);
        match span.filter(|span| *span > Span::from_micros(0) && *span <= LONGEST_TIMEOUT) {
            Some(span) => Ok(Deadline::since(self.started, span)),
            None => Err(malformed(format!(
                "Larder-Timeout-Ms is {given:?}, expected a number from 1 to {}",
                LONGEST_TIMEOUT.micros() / 1_000
            ))),
        }
    }

    /// The query as `T`, which refuses what it does not know and has a `project` of its own.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        match Query::try_from_uri(&self.head.uri) {
            Ok(Query(query)) => Ok(query),
            Err(rejection) => Err(malformed(format!("the query cannot be read: {rejection}"))),
        }
    }

    /// The `index`th segment of the path as it stands, from 0.
    pub(super) fn raw_segment(&self, index: usize) -> &str {
        self.head.uri.path().split('/').nth(index + 1).unwrap_or_default()
    }

    /// The `index`th segment of the path, percent-decoded.
    pub(super) fn segment(&self, index: usize) -> Result<Cow<'_, str>, Problem> {
        decode_segment(self.raw_segment(index))
    }

    /// The whole body, within `limits.body_bytes`.
    pub(super) async fn body(&mut self) -> Result<Bytes, Problem> {
        self.refuse_encoding()?;
        let body = self.take_body();
        let Door { limits, metrics, .. } = &*self.door;
        match body::read(&self.head.headers, body, (limits, metrics)).await? {
            // It came as a piece of the connection's own buffer, as most do: counted by what is
            // there already, so that nothing is allocated for it.
            Whole::Piece(piece) => {
                hold(limits, metrics, piece.len())?;
                self.held = piece.len();
                Ok(piece)
            }
            Whole::Counted(body) => Ok(body),
        }
    }

    /// The body as it comes.
    pub(super) fn streamed_body(&mut self) -> Result<Body, Problem> {
        self.refuse_encoding()?;
        Ok(self.take_body())
    }

    fn take_body(&mut self) -> Body {
        self.body.get_mut().ok().and_then(Option::take).unwrap_or_default()
    }

    fn refuse_encoding(&self) -> Result<(), Problem> {
        match self.head.headers.get(CONTENT_ENCODING) {
            Some(encoding) if encoding.as_bytes() != b"identity" => {
                let found = shorten(&String::from_utf8_lossy(encoding.as_bytes()));
                Err(malformed(format!("Content-Encoding {found} is not supported; send it plain")))
            }
            _ => Ok(()),
        }
    }

    /// What the body is, by `Content-Type`; JSON if it does not say.
    pub(super) fn format(&self) -> Result<Format, Problem> {
        match self.head.headers.get(CONTENT_TYPE) {
            None => Ok(Format::Json),
            Some(value) => Format::of(value).ok_or_else(|| {
                let found = shorten(&String::from_utf8_lossy(value.as_bytes()));
                malformed(format!("Content-Type {found} is not supported"))
            }),
        }
    }

    /// What the answer should be, by `Accept`; JSON unless it names another first.
    pub(super) fn accepts(&self) -> Format {
        let Some(accept) = self.head.headers.get(ACCEPT).and_then(|value| value.to_str().ok())
        else {
            return Format::Json;
        };
        accept.split(',').find_map(Format::of_text).unwrap_or(Format::Json)
    }

    /// A header as text, if it is there.
    pub(super) fn header(&self, name: &HeaderName) -> Result<Option<&str>, Problem> {
        let value = self.head.headers.get(name).map(HeaderValue::to_str).transpose();
        value.map_err(|_| malformed(format!("the header {name} is not ASCII")))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.held > 0 {
            self.door.metrics.held_body_bytes.subtract(self.held as u64);
        }
    }
}

/// JSON, and what curl and others send who do not say.
const JSON_TYPES: [&str; 4] =
    ["application/json", "text/json", "application/x-www-form-urlencoded", "text/plain"];

/// The forms of bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Json,
    Arrow,
    Parquet,
    Toml,
}

impl Format {
    fn of(value: &HeaderValue) -> Option<Self> {
        Self::of_text(value.to_str().ok()?)
    }

    fn of_text(text: &str) -> Option<Self> {
        let media_type = text.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| media_type.eq_ignore_ascii_case(name);
        if is(Self::Arrow.media_type()) {
            Some(Self::Arrow)
        } else if is(Self::Parquet.media_type()) || is("application/x-parquet") {
            Some(Self::Parquet)
        } else if is(Self::Toml.media_type()) {
            Some(Self::Toml)
        } else if JSON_TYPES.into_iter().any(is) {
            Some(Self::Json)
        } else {
            None
        }
    }

    /// Its media type.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Toml => "application/toml",
        }
    }

    /// Its media type as a header, checked when this is compiled.
    const fn header(self) -> HeaderValue {
        const JSON: HeaderValue = HeaderValue::from_static(Format::Json.media_type());
        const ARROW: HeaderValue = HeaderValue::from_static(Format::Arrow.media_type());
        const PARQUET: HeaderValue = HeaderValue::from_static(Format::Parquet.media_type());
        const TOML: HeaderValue = HeaderValue::from_static(Format::Toml.media_type());
        match self {
            Self::Json => JSON,
            Self::Arrow => ARROW,
            Self::Parquet => PARQUET,
            Self::Toml => TOML,
        }
    }
}

/// The body of an answer that is there as a whole.
pub(super) fn whole(body: impl Into<Bytes>) -> AnswerBody {
    Either::Left(Full::new(body.into()))
}

/// A response of `body` in `format`.
pub(super) fn respond(format: Format, body: Vec<u8>) -> Reply {
    let mut response = Response::new(whole(body));
    response.headers_mut().insert(CONTENT_TYPE, format.header());
    response
}

/// Percent-decodes a segment of a path.
pub(super) fn decode_segment(raw: &str) -> Result<Cow<'_, str>, Problem> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let bad = || malformed(format!("\"{}\" in the path is not percent-encoded", shorten(raw)));
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let hex = |digit: u8| char::from(digit).to_digit(16).map(|d| d as u8);
        bytes.push(hex(digits[0]).ok_or_else(bad)? << 4 | hex(digits[1]).ok_or_else(bad)?);
        rest = after;
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| bad())
}

/// A name in a path, no longer than names are.
pub(super) fn name(segment: Cow<'_, str>) -> Result<Cow<'_, str>, Problem> {
    if segment.len() > 2 * NAME_BYTES + 16 {
        let detail = format!("a name of {} bytes, the limit is {NAME_BYTES}", segment.len());
        return Err(Problem::new(Code::LimitExceeded, detail));
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_percent_decoded() {
        let check = |raw: &str, expected: Option<&str>| {
            assert_eq!(decode_segment(raw).ok().as_deref(), expected, "{raw}");
        };
        check("u1", Some("u1"));
        check("a%2Cb%2f", Some("a,b/"));
        check("%C3%A9", Some("é"));
        check("a+b", Some("a+b"));
        check("%", None);
        check("%2", None);
        check("%zz", None);
        check("%+1", None);
        check("%ff", None);
    }

    #[test]
    fn formats_are_told_by_media_type() {
        let check = |text: &str, expected| assert_eq!(Format::of_text(text), expected, "{text}");
        check("application/json; charset=utf-8", Some(Format::Json));
        check("APPLICATION/VND.APACHE.ARROW.STREAM", Some(Format::Arrow));
        check("application/vnd.apache.parquet", Some(Format::Parquet));
        check("application/toml", Some(Format::Toml));
        check("application/xml", None);
        check("*/*", None);
    }
}
