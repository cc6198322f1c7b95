//! Loads that are killed in the middle, at either end, and run again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use serde_json::{Value, json};

use crate::door::eventually;
use crate::process::Server;
use crate::tables::{parquet, table};

const ROWS: i64 = 200_000;
const ENTITIES: i64 = 1_000;
const FIRST: i64 = 1_700_000_000_000_000;

/// Many rows of few entities, each at a time of its own, and in no order.
fn file(directory: &Path, text: &str) -> PathBuf {
    let row = |n: i64| (n * 7_919) % ROWS;
    let ids: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| id(row(n) % ENTITIES))));
    let times: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|n| time(row(n)))));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(row)));
    let path = directory.join("rows.parquet");
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| text)));
    let columns = [("user_id", ids), ("event_timestamp", times), ("n", values), ("text", texts)];
    std::fs::write(&path, parquet(&table(&columns))).expect("a directory of our own");
    path
}

fn id(entity: i64) -> String {
    format!("e{entity}")
}

fn time(row: i64) -> i64 {
    FIRST + row * 1_000_000
}

fn start(data: &Path) -> Server {
    Server::start(data, &[("LARDER__LIMITS__BODY_TIMEOUT", "1s")])
}

fn define(server: &Server) {
    let body = json!({
        "entity": {"user": {"join_keys": ["user_id"]}},
        "view": {"v": {"entity": "user", "features": {"n": "int64", "text": "string"}}},
    });
    let reply = server.connect().post("/api/v1/features/register", &body).expect("an answer");
    assert_eq!(reply.status, 200, "{reply}");
}

fn sequence(server: &Server) -> u64 {
    let ready = server.connect().send("GET", "/ready", &[], b"").expect("an answer");
    ready.json()["sequence"].as_u64().expect("a sequence")
}

/// `larder load` of the file, against this server.
fn load(server: &Server, file: &Path) -> Child {
    let url = format!("http://{}", server.address());
    Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["load", "--view", "v", "--server", &url])
        .arg(file)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

/// Loads until it is done; while the server still works on an earlier upload, it refuses.
fn complete(server: &Server, file: &Path) {
    eventually("a whole load", || {
        load(server, file).wait().expect("a child can be waited for").success().then_some(())
    });
}

/// Every row is in history once, and the newest of each entity is online.
fn check(server: &Server, before: u64) {
    assert_eq!(sequence(server), before + ROWS as u64, "one sequence for each row");
    let mut client = server.connect();
    for entity in (0..ENTITIES).step_by(97) {
        let rows: Vec<i64> = (entity..ROWS).step_by(ENTITIES as usize).collect();
        let asked: Vec<Value> = (rows.iter())
            .map(|row| json!({"entity_id": id(entity), "timestamp": time(*row)}))
            .collect();
        let ask = json!({"entity_type": "user", "feature_names": ["v:n"], "rows": asked});
        let reply = client.post("/api/v1/features/historical", &ask).expect("an answer");
        let expected: Vec<Value> = rows.iter().map(|row| json!([row])).collect();
        assert_eq!(reply.json()["rows"], json!(expected), "{entity}");
        let ask = json!({"entity_type": "user", "entity_id": id(entity), "feature_names": ["v:n"]});
        let reply = client.post("/api/v1/features/online", &ask).expect("an answer");
        assert_eq!(reply.json()["features"], json!({"v:n": rows.last()}), "{entity}");
    }
}

#[test]
fn a_load_whose_client_is_killed_is_completed_by_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = file(directory.path(), "");
    let server = start(&directory.path().join("data"));
    define(&server);
    let before = sequence(&server);
    for delay in [0, 3, 6, 10, 20, 40, 80, 160, 320, 640] {
        let mut client = load(&server, &file);
        std::thread::sleep(Duration::from_millis(delay));
        client.kill().expect("a child can be killed");
        client.wait().expect("a child can be waited for");
    }
    complete(&server, &file);
    check(&server, before);
    complete(&server, &file);
    check(&server, before);
}

/// How many parts of a load are durable and not history yet; none if there is no load.
fn staged(data: &Path) -> u64 {
    let ledger = std::fs::read(data.join("history/LOAD")).unwrap_or_default();
    // Behind head, store and identity: the number of parts.
    ledger.get(56..60).map_or(0, |parts| u32::from_le_bytes(parts.try_into().expect("four")).into())
}

#[test]
fn a_load_whose_server_is_killed_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    // Wide in history, small in Parquet.
    let file = file(directory.path(), &"x".repeat(1000));
    let data = directory.path().join("data");
    let mut server = start(&data);
    define(&server);
    let before = sequence(&server);
    let mut reached = 0;
    // The rows make some parts: this is killed after each.
    for kill in 0..2 {
        let mut client = load(&server, &file);
        eventually("another part", || {
            let done = staged(&data);
            (done > reached).then(|| reached = done)
        });
        drop(server);
        assert!(!client.wait().expect("a child can be waited for").success(), "kill {kill}");
        server = start(&data);
        assert_eq!(sequence(&server), before, "nothing of it is seen");
        assert_eq!(staged(&data), reached, "what is durable of it stays");
    }
    assert_eq!(resumed(&server, &file), Some(true), "the parts are used");
    check(&server, before);
    assert_eq!(staged(&data), 0);
    drop(server);
    let server = start(&data);
    complete(&server, &file);
    check(&server, before);
}

/// Loads the file over HTTP; whether an earlier try helped.
fn resumed(server: &Server, file: &Path) -> Option<bool> {
    let bytes = std::fs::read(file).expect("it was written");
    let parquet = ("content-type", "application/vnd.apache.parquet");
    let reply = server.connect().send("POST", "/api/v1/load?view=v", &[parquet], &bytes);
    let answer = reply.expect("an answer").json();
    assert_eq!(answer["written"], json!(ROWS), "{answer}");
    answer["resumed"].as_u64().map(|rows| rows > 0)
}
