//! Routes driven in process, over a store in a directory of its own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;
use std::task::Context;

use arrow::array::{ArrayRef, Float64Array, StringArray, TimestampSecondArray};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use http_body_util::BodyExt;
use hyper::body::Frame;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use super::*;
use crate::disk::real::RealDisk;
use crate::engine::Engine;
use crate::engine::open::{Options, open};
use crate::engine::seal::SealOptions;
use crate::engine::training::TrainingTurn;
use crate::engine::writes::Durability;
use crate::http::call::Format;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::online::TierLimits;
use crate::time::{Clock, Span, SystemClock};

fn door() -> Arc<Door> {
    door_with(Limits { body_bytes: 4096, ..Limits::default() })
}

fn door_with(limits: Limits) -> Arc<Door> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Arc::new(Door::new(limits, Metrics::new(clock.now()), clock))
}

/// A door to an empty store.
fn open_door() -> (Arc<Door>, tempfile::TempDir) {
    let door = door();
    let directory = open_store(&door);
    (door, directory)
}

fn open_store(door: &Door) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        data_dir: directory.path().to_owned(),
        durability: Durability::Sync,
        sync_interval: Span::from_seconds(1),
        segment_bytes: 64 << 10,
        checkpoint_interval: Span::from_seconds(3600),
        seal: SealOptions::default(),
        tier_limits: TierLimits { overlay: 1 << 20, cache: 1 << 20 },
        read_deadline: Span::from_seconds(5),
        accept_clock: false,
        limits: door.limits.clone(),
    };
    let (clock, metrics) = (Arc::clone(&door.clock), Arc::clone(&door.metrics));
    door.open(open(options, Arc::new(RealDisk), clock, metrics).unwrap());
    directory
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    json: Value,
}

async fn ask(door: &Arc<Door>, line: &str, body: &str) -> Answer {
    send(door, line, (Format::Json, body.as_bytes())).await
}

async fn send(door: &Arc<Door>, line: &str, (format, body): (Format, &[u8])) -> Answer {
    let (verb, path) = line.split_once(' ').unwrap();
    let request = Request::builder().method(verb).uri(path);
    let request = request.header(CONTENT_TYPE, format.media_type()).body(Body::from(body.to_vec()));
    let response = Routes::new(door, Listener::Api).answer(request.unwrap()).await;
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { status: head.status.as_u16(), headers: head.headers, json }
}

#[tokio::test]
async fn until_it_has_recovered_only_health_answers() {
    let door = door();
    assert_eq!(ask(&door, "GET /health", "").await.status, 200);
    for line in ["GET /ready", "GET /api/v1/views", "POST /api/v1/features/online"] {
        let answer = ask(&door, line, "{}").await;
        assert_eq!((answer.status, &answer.json["code"]), (503, &json!("NOT_READY")), "{line}");
        assert_eq!(answer.headers[RETRY_AFTER], "1");
        assert_eq!(answer.headers[CONTENT_TYPE], "application/problem+json");
    }
    assert_eq!(ask(&door, "GET /metrics", "").await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let door = door();
    let answer = ask(&door, "GET /api/v2", "").await;
    assert_eq!((answer.status, &answer.json["code"]), (404, &json!("NO_SUCH_ROUTE")));
    assert!(answer.headers.contains_key("x-request-id"));
    let answer = ask(&door, "PUT /api/v1/views/v", "").await;
    assert_eq!((answer.status, &answer.json["code"]), (405, &json!("METHOD_NOT_ALLOWED")));
    assert_eq!(answer.headers["allow"], "GET, DELETE");
}

#[tokio::test]
async fn the_operations_listener_serves_nothing_else() {
    let door = door();
    let get = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
    let operations = Routes::new(&door, Listener::Operations);
    assert_eq!(operations.clone().answer(get("/health")).await.status(), 200);
    assert_eq!(operations.answer(get("/api/v1/views")).await.status(), 404);
}

#[tokio::test]
async fn a_panic_is_a_problem() {
    let answered = catch_panic(Box::pin(async { panic!("on purpose") })).await;
    assert_eq!(answered.unwrap_err().code, Code::Internal);
}

#[tokio::test]
async fn the_page_works_offline() {
    let door = door();
    for path in ["/docs/", "/docs/swagger-ui-bundle.js", "/docs/swagger-initializer.js"] {
        assert_eq!(ask(&door, &format!("GET {path}"), "").await.status, 200, "{path}");
    }
    assert_eq!(ask(&door, "GET /docs/other", "").await.status, 404);
    let document = ask(&door, "GET /openapi.json", "").await.json;
    assert!(document["paths"]["/health"].is_object());
}

const DEFINITIONS: &str = r#"{
    "entity": {"user": {"join_keys": ["user_id"]}, "route": {"join_keys": ["origin", "dest"]}},
    "view": {
        "profile": {"entity": "user", "features": {
            "age": "int32", "country": {"type": "string", "default": "unknown"}}},
        "delays": {"entity": "route", "features": {"mean": "float64"}}},
    "service": {"s": {"features": ["profile:age", {"ref": "delays:mean", "as": "delay"}]}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_found() {
    let (door, _directory) = open_door();
    let defined = ask(&door, "POST /api/v1/features/register", DEFINITIONS).await;
    assert_eq!((defined.status, defined.json["changes"].as_array().unwrap().len()), (200, 5));
    let rows = r#"{"rows":[
        {"view":"profile","entity_id":"u1","features":{"age":30}},
        {"view":"delays","entity_id":["JFK","SFO"],"features":{"mean":1.5}}]}"#;
    let pushed = ask(&door, "POST /api/v1/features/push", rows).await;
    assert_eq!((pushed.status, &pushed.json["accepted"]), (200, &json!(2)));
    assert_eq!(pushed.headers["larder-sequence"], pushed.json["sequence"].to_string());
    let columns = r#"{"view":"profile","columns":{"user_id":["u2"],"country":["AE"]}}"#;
    assert_eq!(ask(&door, "POST /api/v1/features/push", columns).await.status, 200);

    let online = r#"{"entities":{"user":"u1","route":{"origin":"JFK","dest":"SFO"}},
        "service":"s","include":["statuses"]}"#;
    let found = ask(&door, "POST /api/v1/features/online", online).await.json;
    assert_eq!(found["features"], json!({"profile:age": 30, "delay": 1.5}));
    assert_eq!(found["statuses"]["delay"], "PRESENT");
    let batch = r#"{"entity_type":"user","entity_ids":["u1","u2","u3"],
        "feature_names":["age","profile:country"]}"#;
    let found = ask(&door, "POST /api/v1/features/batch", batch).await.json;
    let rows = json!([[30, "unknown"], [null, "AE"], [null, "unknown"]]);
    assert_eq!((&found["rows"], &found["metadata"]["not_found"]), (&rows, &json!(1)));
    let historical = r#"{"entity_type":"user","feature_names":["profile:age"],
        "rows":[{"entity_id":"u1","timestamp":"2020-01-01T00:00:00Z"},
                {"entity_id":"u1","timestamp":"2100-01-01T00:00:00Z"}]}"#;
    let found = ask(&door, "POST /api/v1/features/historical", historical).await.json;
    assert_eq!(found["rows"], json!([[null], [30]]));
    let found = ask(&door, "GET /api/v1/features/route/JFK,SFO", "").await.json;
    assert_eq!(found["features"], json!({"delays": {"mean": 1.5}}));
    assert_eq!(ask(&door, "GET /api/v1/features/user/u9", "").await.status, 404);
    let listed = ask(&door, "GET /api/v1/entities/user?limit=1", "").await.json;
    assert_eq!(listed["entity_ids"], json!(["u1"]));
    let cursor = listed["next_cursor"].as_str().unwrap();
    let listed = ask(&door, &format!("GET /api/v1/entities/user?cursor={cursor}"), "").await.json;
    assert_eq!((&listed["entity_ids"], &listed["next_cursor"]), (&json!(["u2"]), &Value::Null));
    assert_eq!(ask(&door, "DELETE /api/v1/views/profile", "").await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_read_in_time_is_not_said_to_be_missing() {
    let (door, _directory) = open_door();
    let view = r#"{"entity": {"user": {"join_keys": ["user_id"]}},
        "view": {"v": {"entity": "user", "tier": "disk", "features": {"n": "int64"}}}}"#;
    assert_eq!(ask(&door, "POST /api/v1/features/register", view).await.status, 200);
    // The same store behind a door at which every request is late.
    let late = door_with(Limits { request_timeout: Span::from_micros(0), ..Limits::default() });
    late.open(Arc::clone(door.engine().ok().unwrap()));
    let strict = r#"{"entity_type":"user","entity_id":"u1","feature_names":["v:n"],
        "fallback":"error"}"#;
    let many = strict.replace("\"entity_id\":\"u1\"", "\"entity_ids\":[\"u1\"]");
    for (line, body, status) in [
        ("GET /api/v1/features/user/u1", "", 404),
        ("POST /api/v1/features/online", strict, 200),
        ("POST /api/v1/features/batch", &many, 200),
    ] {
        let found = ask(&door, line, body).await;
        assert_eq!(found.status, status, "{line}: {}", found.json);
        let found = ask(&late, line, body).await;
        assert_eq!(
            (found.status, &found.json["code"]),
            (504, &json!("DEADLINE_EXCEEDED")),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named_and_nothing_is_written() {
    let (door, _directory) = open_door();
    ask(&door, "POST /api/v1/features/register", DEFINITIONS).await;
    let push = "POST /api/v1/features/push";
    let online = "POST /api/v1/features/online";
    let check = async |line: &str, body: &str, status: u16, code: &str, said: &str| {
        let answer = ask(&door, line, body).await;
        let text = answer.json.to_string();
        assert_eq!((answer.status, answer.json["code"].as_str()), (status, Some(code)), "{text}");
        assert!(text.contains(said), "{said} is not in {text}");
    };
    let row = |rest: &str| format!(r#"{{"rows":[{{"view":"profile","entity_id":"u1",{rest}}}]}}"#);
    check(push, &row(r#""features":{"age":"ten"}"#), 400, "INVALID_VALUE", "int32").await;
    check(push, &row(r#""features":{"agee":1}"#), 404, "UNKNOWN_FEATURE", "age").await;
    check(push, &row(r#""features":{"age":1,"age":2}"#), 400, "DUPLICATE_FEATURE", "twice").await;
    check(push, &row(r#""features":{"age":NaN}"#), 400, "MALFORMED_REQUEST", "send null").await;
    let early = row(r#""event_timestamp":1769860800,"features":{"age":1}"#);
    check(push, &early, 400, "INVALID_VALUE", "looks like seconds").await;
    let late = row(r#""event_timestamp":"2100-01-01T00:00:00Z","features":{"age":1}"#);
    check(push, &row(r#""features":{}"#), 400, "INVALID_VALUE", "at least one feature").await;
    let featureless = r#"{"view":"profile","columns":{"user_id":["a"]}}"#;
    check(push, featureless, 400, "INVALID_VALUE", "at least one feature").await;
    check(push, &late, 400, "EVENT_TIME_IN_FUTURE", "limits.max_future").await;
    check(push, r#"{"rows":[]}"#, 400, "MALFORMED_REQUEST", "no row").await;
    let uneven = r#"{"view":"profile","columns":{"user_id":["a","b"],"age":[1]}}"#;
    check(push, uneven, 400, "MALFORMED_REQUEST", "differ in length").await;
    let keyless = r#"{"view":"profile","columns":{"age":[1]}}"#;
    check(push, keyless, 400, "MISSING_ENTITY", "user_id").await;
    check(push, &" ".repeat(5000), 413, "LIMIT_EXCEEDED", "limits.body_bytes is 4096").await;
    let ask_for = |rest: &str| format!(r#"{{"entity_type":"user","entity_id":"u1",{rest}}}"#);
    let twice = ask_for(r#""feature_names":["age","age"]"#);
    check(online, &twice, 400, "DUPLICATE_FEATURE", "age").await;
    check(online, &ask_for(r#""service":"t""#), 404, "UNKNOWN_SERVICE", "unknown service").await;
    check(online, &ask_for(r#""service":"s""#), 400, "MISSING_ENTITY", "route").await;
    let other = "POST /api/v1/features/online?project=other";
    check(other, &twice, 404, "UNKNOWN_ENTITY_TYPE", "unknown project").await;
    let rows = ask(&door, "GET /api/v1/entities/user/count", "").await.json;
    assert_eq!(rows["count"], 0);
}

/// A record batch as an Arrow stream and as a Parquet file.
fn written(columns: Vec<(&str, ArrayRef)>) -> (Vec<u8>, Vec<u8>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let mut parquet = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    (stream.into_inner().unwrap(), parquet.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_go_in_and_come_out() {
    let (door, _directory) = open_door();
    ask(&door, "POST /api/v1/features/register", DEFINITIONS).await;
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["u1", "u2"]));
    let ages: ArrayRef = Arc::new(Float64Array::from(vec![30.0, f64::NAN]));
    let (stream, parquet) = written(vec![("user_id", ids.clone()), ("age", ages.clone())]);
    let push = "POST /api/v1/features/push?view=profile";
    let pushed = send(&door, push, (Format::Arrow, &stream)).await;
    assert_eq!((pushed.status, &pushed.json["nan_as_null"]), (200, &json!(1)), "{}", pushed.json);
    assert_eq!(send(&door, push, (Format::Parquet, &parquet)).await.status, 200);
    assert_eq!(send(&door, push, (Format::Arrow, &stream[..stream.len() / 2])).await.status, 400);
    assert_eq!(send(&door, push, (Format::Parquet, b"PAR1")).await.status, 400);
    let nowhere = send(&door, "POST /api/v1/features/push", (Format::Arrow, &stream)).await;
    assert_eq!(nowhere.status, 400);
    let (surplus, _) = written(vec![("user_id", ids.clone()), ("agee", ages)]);
    let refused = send(&door, push, (Format::Arrow, &surplus)).await;
    assert_eq!(refused.json["code"], "UNKNOWN_FEATURE");
    assert!(refused.json["detail"].as_str().unwrap().contains("did you mean \"age\"?"));

    let at: ArrayRef =
        Arc::new(TimestampSecondArray::from(vec![4_102_444_800, 0]).with_timezone("UTC"));
    let (stream, parquet) = written(vec![("user_id", ids), ("timestamp", at)]);
    let read = "POST /api/v1/features/historical?entity_type=user\
                &feature_names=profile:age,profile:country&include=statuses";
    for body in [(Format::Arrow, stream.as_slice()), (Format::Parquet, &parquet)] {
        let found = send(&door, read, body).await.json;
        assert_eq!(found["rows"], json!([[30, "unknown"], [null, "unknown"]]), "{found}");
        assert_eq!(found["statuses"][1][0], "NOT_FOUND");
    }
}

/// A body during which others begin all the training sets that may be made.
struct Meanwhile {
    engine: Arc<Engine>,
    begun: Arc<Mutex<Vec<TrainingTurn>>>,
    parts: VecDeque<Bytes>,
}

impl HttpBody for Meanwhile {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while let Ok(turn) = self.engine.begin_training() {
            self.begun.lock().unwrap().push(turn);
        }
        Poll::Ready(self.parts.pop_front().map(|part| Ok(Frame::data(part))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_send_labels_is_not_sent_away_with_them() {
    let request_timeout = Span::from_seconds(1);
    let door = door_with(Limits { request_timeout, ..Limits::default() });
    let _directory = open_store(&door);
    ask(&door, "POST /api/v1/features/register", DEFINITIONS).await;
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["u1"]));
    let at: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1_769_860_800]));
    let (_, labels) = written(vec![("user_id", ids), ("event_timestamp", at)]);
    let engine = Arc::clone(door.engine().unwrap());
    let (begun, media_type) = (Arc::new(Mutex::default()), Format::Parquet.media_type());
    let body = Meanwhile { engine, begun: Arc::clone(&begun), parts: [labels.into()].into() };
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/features/historical?feature_names=profile:age")
        .header(CONTENT_TYPE, media_type)
        .header("accept", media_type)
        .body(Body::new(body))
        .unwrap();
    let asked = Arc::clone(&door);
    let answer =
        tokio::spawn(async move { Routes::new(&asked, Listener::Api).answer(request).await });
    // Longer than any request may take.
    tokio::time::sleep(2 * request_timeout.to_std()).await;
    assert_eq!(begun.lock().unwrap().len(), 2);
    begun.lock().unwrap().clear();
    assert_eq!(answer.await.unwrap().status(), 200);
}
