//! Arrow and Parquet that are wrong, cut off and damaged; definitions on disk that are wrong.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int64Array, StringArray,
};
use arrow::datatypes::Float32Type;
use arrow::record_batch::RecordBatch;
use serde_json::json;

use crate::door::{ARROW, Door, JSON, PARQUET};
use crate::process::Server;
use crate::tables::{arrow, parquet, table};

const PUSH: &str = "/api/v1/features/push?view=user_profile";
const LOAD: &str = "/api/v1/load?view=user_profile&timestamp=event_timestamp";
const HISTORICAL: &str =
    "/api/v1/features/historical?entity_type=user&feature_names=user_profile:age";
const MALFORMED: (u16, &str) = (400, "MALFORMED_REQUEST");
const INVALID: (u16, &str) = (400, "INVALID_VALUE");
const AT: &str = "2026-01-31T12:00:00Z";

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Two users with one more column.
fn users(name: &str, column: ArrayRef) -> RecordBatch {
    let at = text(&[AT, AT]);
    table(&[("user_id", text(&["u1", "u2"])), ("event_timestamp", at), (name, column)])
}

#[test]
fn bad_tables_are_refused_and_change_nothing() {
    let mut door = Door::open(&[]);
    cut_off(&mut door);
    damaged(&mut door);
    wrong_columns(&mut door);
    wrong_values(&mut door);
    wrong_requests(&mut door);
    assert!(door.refused() > 60, "{} cases", door.refused());
    door.finish();
}

/// Files cut at every tenth of their length.
fn cut_off(door: &mut Door) {
    let sound = users("age", Arc::new(Int64Array::from(vec![1, 2])));
    let tables = [(ARROW, arrow(&sound)), (PARQUET, parquet(&sound))];
    for (header, whole) in tables {
        for tenth in 0..10 {
            let cut = &whole[..whole.len() * tenth / 10];
            for target in [PUSH, HISTORICAL] {
                // An Arrow stream without its end mark is whole as far as anyone can tell.
                let is_whole = header == ARROW && tenth == 9;
                if !is_whole {
                    door.refuse(("POST", target, &[header], cut), MALFORMED, "");
                }
            }
            if header == PARQUET {
                let says = if tenth == 0 { "the body is empty" } else { "Parquet" };
                door.refuse(("POST", LOAD, &[header], cut), MALFORMED, says);
            }
        }
    }
}

/// Bytes turned over anywhere: refused or, where nobody can tell, taken; never a failure.
fn damaged(door: &mut Door) {
    let sound = users("age", Arc::new(Int64Array::from(vec![1, 2])));
    for (header, target, whole) in [
        (ARROW, PUSH, arrow(&sound)),
        (PARQUET, PUSH, parquet(&sound)),
        (PARQUET, LOAD, parquet(&sound)),
    ] {
        for at in (0..whole.len()).step_by(whole.len().div_ceil(60)) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let reply = door.ask("POST", target, &[header], &damaged);
            let what = format!("{target} with byte {at} turned over: {reply}");
            door.holds(&what, reply.status == 200 || (400..500).contains(&reply.status));
        }
    }
}

fn wrong_columns(door: &mut Door) {
    let numbers = || -> ArrayRef { Arc::new(Int64Array::from(vec![1, 2])) };
    let mut check = |sent: &RecordBatch, status, says: &str| {
        door.refuse(("POST", PUSH, &[ARROW], &arrow(sent)), status, says);
        door.refuse(("POST", PUSH, &[PARQUET], &parquet(sent)), status, says);
    };
    let unknown = (404, "UNKNOWN_FEATURE");
    check(&users("agee", numbers()), unknown, "did you mean \"age\"?");
    check(&users("age", text(&["1", "2"])), INVALID, "expected int32");
    check(&users("age", Arc::new(BooleanArray::from(vec![true, false]))), INVALID, "Boolean");
    check(&users("country", numbers()), INVALID, "expected string");
    check(&users("embedding", numbers()), INVALID, "float32[3]");
    check(&table(&[("age", numbers())]), INVALID, "no such column");
    let at: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let sent = table(&[("user_id", text(&["a", "b"])), ("event_timestamp", at)]);
    check(&sent, INVALID, "event_timestamp");
    let none = users("age", numbers()).slice(0, 0);
    check(&none, MALFORMED, "there is no row to write");
}

fn wrong_values(door: &mut Door) {
    let mut check = |sent: &RecordBatch, status, says: &str| {
        door.refuse(("POST", PUSH, &[ARROW], &arrow(sent)), status, says);
        door.refuse(("POST", LOAD, &[PARQUET], &parquet(sent)), status, says);
    };
    let doubles = |values: [f64; 2]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
    check(&users("age", doubles([1.0, 1.5])), INVALID, "1.5");
    check(&users("age", Arc::new(Int64Array::from(vec![1, 1 << 31]))), INVALID, "2147483648");
    check(&users("visits", doubles([1.0, 9.3e18])), INVALID, "int64");
    check(&users("score", doubles([1.0, 1e39])), INVALID, "float32");
    check(&users("score", doubles([1.0, f64::INFINITY])), INVALID, "float32");
    let list = |values: Vec<Option<f32>>, length: i32| -> ArrayRef {
        let rows = values.chunks(usize::try_from(length).expect("small"));
        let rows = rows.map(|row| Some(row.to_vec()));
        Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows, length))
    };
    let nan = vec![Some(1.0), Some(f32::NAN), Some(3.0), Some(1.0), Some(2.0), Some(3.0)];
    check(&users("embedding", list(nan, 3)), INVALID, "at element 1");
    check(&users("embedding", list(vec![Some(1.0); 4], 2)), INVALID, "float32[3]");
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("u1"), None]));
    let at = text(&[AT, AT]);
    let no_id = table(&[("user_id", ids), ("event_timestamp", at.clone())]);
    check(&no_id, INVALID, "null");
    let empty = table(&[("user_id", text(&["u1", ""])), ("event_timestamp", at.clone())]);
    check(&empty, INVALID, "");
    let ids = text(&["u1", "u2"]);
    let of_time = |at: ArrayRef| table(&[("user_id", ids.clone()), ("event_timestamp", at)]);
    check(&of_time(text(&[AT, "noon"])), INVALID, "noon");
    let seconds: ArrayRef = Arc::new(Int64Array::from(vec![1_769_860_800; 2]));
    check(&of_time(seconds), INVALID, "looks like seconds");
    let future = of_time(text(&[AT, "2126-01-31T12:00:00Z"]));
    let sent = arrow(&future);
    door.refuse(("POST", PUSH, &[ARROW], &sent), (400, "EVENT_TIME_IN_FUTURE"), "row 1");
    let sent = parquet(&future);
    door.refuse(
        ("POST", LOAD, &[PARQUET], &sent),
        (400, "EVENT_TIME_IN_FUTURE"),
        "limits.max_future",
    );
    let scores: ArrayRef = Arc::new(Float32Array::from(vec![1.0, f32::NAN]));
    let sent = parquet(&users("score", scores));
    let target = format!("{LOAD}&nan=refuse");
    door.refuse(("POST", &target, &[PARQUET], &sent), INVALID, "score");
}

fn wrong_requests(door: &mut Door) {
    let sound = users("age", Arc::new(Int64Array::from(vec![1, 2])));
    let (stream, file) = (arrow(&sound), parquet(&sound));
    let mut check = |target: &str, body: &[u8], status, says: &str| {
        let header = if body == file { PARQUET } else { ARROW };
        door.refuse(("POST", target, &[header], body), status, says);
    };
    let push = "/api/v1/features/push";
    check(push, &stream, MALFORMED, "?view= says which view");
    let unknown = (404, "UNKNOWN_VIEW");
    check(&format!("{push}?view=user_profil"), &stream, unknown, "did you mean \"user_profile\"?");
    check(&format!("{PUSH}&time_unit=h"), &stream, INVALID, "s, ms, us or ns");
    check("/api/v1/load", &file, MALFORMED, "view");
    check("/api/v1/load?view=user_profil", &file, unknown, "did you mean");
    check("/api/v1/load?view=user_profile&nan=zero", &file, MALFORMED, "null or refuse");
    check("/api/v1/load?view=user_profile&at=noon", &file, MALFORMED, "RFC 3339");
    check("/api/v1/load?view=user_profile&timestamp=a&at=b", &file, MALFORMED, "not both");
    check("/api/v1/load?view=user_profile&timestamp=seen_at", &file, INVALID, "seen_at");
    check("/api/v1/load?view=user_profile", b"{\"rows\":[]}", MALFORMED, "Parquet");
    check("/api/v1/load?view=user_profile", &stream, MALFORMED, "Parquet");
    check(HISTORICAL, &arrow(&table(&[("user_id", text(&["u1"]))])), INVALID, "timestamp");
    let historical = "/api/v1/features/historical";
    check(historical, &stream, MALFORMED, "says what is asked");
    check(&format!("{HISTORICAL}&known_at=noon"), &stream, MALFORMED, "known_at");
    let swapped: (&str, &str, &[(&str, &str)], &[u8]) = ("POST", PUSH, &[PARQUET], &stream);
    door.refuse(swapped, MALFORMED, "a Parquet file");
    door.refuse(("POST", PUSH, &[ARROW], &file), MALFORMED, "an Arrow IPC stream");
    door.refuse(("POST", push, &[JSON], &file), MALFORMED, "UTF-8");
}

#[test]
fn definitions_on_disk_that_are_wrong_do_not_stop_a_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("definitions.toml");
    let setting = path.to_str().expect("a path in UTF-8").to_owned();
    let start = |definitions: &[u8]| {
        std::fs::write(&path, definitions).expect("a directory of our own");
        let data = directory.path().join("data");
        Server::start(&data, &[("LARDER__REGISTRY__PATH", &setting)])
    };
    let check = |definitions: &[u8], says: &[&str]| {
        let server = start(definitions);
        let ready = server.connect().send("GET", "/ready", &[], b"").expect("an answer");
        assert_eq!(ready.status, 200, "{ready}");
        let notes = ready.json()["definitions"].to_string();
        for says in says {
            assert!(notes.contains(says), "no {says:?} in {notes}");
        }
        let user = server.connect().send("GET", "/api/v1/views/v", &[], b"").expect("an answer");
        assert_eq!(user.json()["features"][0]["type"], json!("int32"), "{user}");
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
    };
    let good = "[entity.user]\njoin_keys = [\"user_id\"]\n[view.v]\nentity = \"user\"\n";
    let view = |types: &str| format!("{good}features = {{ a = \"{types}\" }}\n").into_bytes();
    check(&view("int32"), &["null"]);
    check(&view("string"), &["int32", "string", "v@2"]);
    check(&view("int65"), &["int65", ":5"]);
    check(b"[view.v\n", &["definitions.toml:1", "TOML"]);
    check(b"a = \"\xff\"", &["UTF-8"]);
}
