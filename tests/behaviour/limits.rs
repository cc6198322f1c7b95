//! Limits of connections, heads, bodies and the write queue, set low.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, StringArray};
use serde_json::json;

use crate::door::{Door, JSON, PARQUET, ends, eventually, is_problem};
use crate::process::Client;
use crate::tables::{parquet, table};

const PUSH: &str = "/api/v1/features/push";

#[test]
fn slow_peers_are_sent_away() {
    let mut door = Door::open(&[
        ("LARDER__LIMITS__HEADER_TIMEOUT", "300ms"),
        ("LARDER__LIMITS__BODY_TIMEOUT", "300ms"),
    ]);
    let soon = Duration::from_secs(10);
    for head in ["", "GET", "GET /health HTTP/1.1\r\nhost: x\r\n"] {
        let (mut client, started) = (door.server.connect(), Instant::now());
        client.write(head.as_bytes()).expect("it reads");
        let ended = ends(&mut client) && started.elapsed() < soon;
        door.holds(&format!("a head that stops after {head:?}"), ended);
        door.holds("not at once", started.elapsed() >= Duration::from_millis(250));
    }
    // A byte now and then does not help.
    let (mut client, started) = (door.server.connect(), Instant::now());
    let dripped =
        b"GET /health HTTP/1.1\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy".iter();
    let sent = dripped
        .take_while(|byte| {
            std::thread::sleep(Duration::from_millis(50));
            client.write(&[**byte]).is_ok() && started.elapsed() < soon
        })
        .count();
    door.holds(&format!("a head in drops, {sent} of them"), sent < 60);

    let head = format!("POST {PUSH} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
    let (mut client, started) = (door.server.connect(), Instant::now());
    client.write(head.as_bytes()).expect("it reads");
    let reply = client.read().expect("an answer");
    let found = is_problem(&reply, (400, "MALFORMED_REQUEST"), "limits.body_timeout");
    door.holds(&format!("a slow body: {found:?}"), found.is_ok() && started.elapsed() < soon);

    // Waiting between requests is no slow head.
    let mut client = door.server.connect();
    for _ in 0..3 {
        let answered = client.send("GET", "/health", &[], b"").is_ok_and(|r| r.status == 200);
        door.holds("a connection kept open", answered);
        std::thread::sleep(Duration::from_millis(700));
    }
    door.finish();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let mut door = Door::open(&[("LARDER__LIMITS__CONNECTIONS", "3")]);
    let mut clients: Vec<_> = (0..2).map(|_| door.server.connect()).collect();
    for client in &mut clients {
        let reply = client.send("GET", "/health", &[], b"").expect("an answer");
        door.equal("within the limit", &json!(reply.status), &json!(200));
    }
    let reply = door.server.connect().send("GET", "/health", &[], b"").expect("an answer");
    let header = (reply.header("retry-after"), reply.header("connection"));
    door.holds("the headers", header == (Some("1"), Some("close")));
    let problem = reply.json();
    let found = json!([reply.status, problem["code"], problem["status"]]);
    door.equal("beyond the limit", &found, &json!([503, "OVERLOADED", 503]));
    let says = problem["detail"].as_str().unwrap_or_default().contains("limits.connections");
    door.holds("it names the limit", says);
    clients.pop();
    let server = &door.server;
    eventually("room again", || {
        let reply = server.connect().send("GET", "/health", &[], b"").ok()?;
        (reply.status == 200).then_some(())
    });
    door.finish();
}

#[test]
fn a_full_queue_refuses_what_may_be_tried_again() {
    let mut door = Door::open(&[("LARDER__LIMITS__QUEUE_REQUESTS", "1")]);
    let before = door.sequence();
    let (full, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (server, started) = (&door.server, Instant::now());
    std::thread::scope(|scope| {
        for pusher in 0..16 {
            let (full, taken) = (&full, &taken);
            scope.spawn(move || {
                let mut client = server.connect();
                let row = json!({"view": "user_account", "entity_id": format!("q{pusher}"),
                    "features": {"level": 1}});
                let body = json!({ "rows": [row] }).to_string();
                let in_time = || started.elapsed() < Duration::from_secs(20);
                while !full.load(Ordering::Relaxed) && in_time() {
                    let reply = client.send("POST", PUSH, &[JSON], body.as_bytes());
                    let reply = reply.expect("an answer");
                    if reply.status == 200 {
                        taken.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    is_problem(&reply, (503, "QUEUE_FULL"), "limits.queue_requests is 1")
                        .unwrap_or_else(|what| panic!("{what}: {reply}"));
                    assert_eq!(reply.header("retry-after"), Some("1"));
                    full.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    door.holds("16 pushers fill a queue of one", full.load(Ordering::Relaxed));
    let after = door.sequence();
    let written = taken.load(Ordering::Relaxed) as u64;
    door.equal("what was refused was not written", &json!(after - before), &json!(written));
    door.finish();
}

/// The value of a metric without labels.
fn metric(door: &mut Door, name: &str) -> u64 {
    let text = String::from_utf8(door.ask("GET", "/metrics", &[], b"").body).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
}

#[test]
fn bodies_are_bounded_all_together() {
    const ROOM: usize = 1 << 20;
    let mut door = Door::open(&[
        ("LARDER__LIMITS__BODY_BYTES", "1MiB"),
        ("LARDER__LIMITS__HELD_BODY_BYTES", "1MiB"),
    ]);
    // A body that does not end: all but its last byte.
    let row = json!({"view": "user_account", "entity_id": "held", "features": {"level": 1}});
    let body = format!("{}{}", json!({ "rows": [row] }), " ".repeat(ROOM - 1_000));
    let (sent, last) = body.split_at(body.len() - 1);
    let head = format!("POST {PUSH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut slow = door.server.connect();
    slow.write(head.as_bytes()).expect("it reads");
    slow.write(sent.as_bytes()).expect("it reads");
    eventually("a body that is held", || {
        (metric(&mut door, "larder_held_body_bytes") == sent.len() as u64).then_some(())
    });
    let large = " ".repeat(ROOM / 2);
    for (target, says) in [(PUSH, "more came"), ("/api/v1/load?view=user_account", "are held and")]
    {
        let reply = door.ask("POST", target, &[JSON], large.as_bytes());
        let found = is_problem(&reply, (503, "OVERLOADED"), says).and_then(|()| {
            is_problem(&reply, (503, "OVERLOADED"), "limits.held_body_bytes is 1048576")
        });
        door.holds(&format!("{target} beyond the limit: {found:?}"), found.is_ok());
        door.equal("when to come again", &json!(reply.header("retry-after")), &json!("1"));
    }
    let ask = json!({"entity_type": "user", "entity_id": "u1", "feature_names": ["level"]});
    let answer = door.post("/api/v1/features/online", ask);
    door.equal("a small one", &answer["features"], &json!({"level": 2}));
    slow.write(last.as_bytes()).expect("it reads");
    let reply = slow.read().expect("an answer");
    door.equal("the held one", &json!(reply.status), &json!(200));
    // A peer that goes away in the middle gives its room back too.
    let mut gone = door.server.connect();
    gone.write(head.as_bytes()).expect("it reads");
    gone.write(&sent.as_bytes()[..ROOM / 2]).expect("it reads");
    eventually("half a body that is held", || {
        (metric(&mut door, "larder_held_body_bytes") == ROOM as u64 / 2).then_some(())
    });
    drop(gone);
    eventually("nothing held", || (metric(&mut door, "larder_held_body_bytes") == 0).then_some(()));
    door.finish();
}

#[test]
fn the_operations_listener_has_a_limit_of_its_own() {
    let mut door = Door::open(&[
        ("LARDER__SERVER__OPERATIONS_LISTEN", "127.0.0.1:0"),
        ("LARDER__LIMITS__CONNECTIONS", "3"),
    ]);
    let operations = door.server.ready["operations"].as_str().and_then(|text| text.parse().ok());
    let connect = || Client::connect(operations.expect("an address")).expect("it accepts");
    let mut clients: Vec<_> = (0..64).map(|_| connect()).collect();
    for client in &mut clients {
        let reply = client.send("GET", "/health", &[], b"").expect("an answer");
        door.equal("within the limit", &json!(reply.status), &json!(200));
    }
    let reply = connect().send("GET", "/health", &[], b"").expect("an answer");
    let found =
        is_problem(&reply, (503, "OVERLOADED"), "64 connections to the operations listener");
    door.holds(&format!("beyond the limit: {found:?} {reply}"), found.is_ok());
    let said = String::from_utf8_lossy(&reply.body).contains("limits.");
    door.holds("it names no key, since there is none", !said);
    eventually("64 open", || {
        (metric(&mut door, "larder_operations_connections_open") == 64).then_some(())
    });
    for (name, expected) in [
        ("larder_operations_connections_accepted_total", 64),
        ("larder_operations_connections_refused_total", 1),
        ("larder_connections_open", 1),
        ("larder_connections_refused_total", 0),
    ] {
        let found = metric(&mut door, name);
        door.equal(name, &json!(found), &json!(expected));
    }
    door.finish();
}

#[test]
fn one_load_at_a_time_from_before_its_upload() {
    const LOAD: &str = "/api/v1/load?view=user_account&at=2026-02-01T00:00:00Z";
    let mut door = Door::open(&[]);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["l1", "l2"]));
    let levels: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let file = parquet(&table(&[("user_id", ids), ("level", levels)]));
    let head = format!("POST {LOAD} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", file.len());
    // Half an upload, during which a second one is refused before any of it is received.
    let begin = |door: &mut Door| {
        let mut slow = door.server.connect();
        slow.write(head.as_bytes()).expect("it reads");
        slow.write(&file[..file.len() / 2]).expect("it reads");
        eventually("half a file", || {
            (metric(door, "larder_held_body_bytes") == file.len() as u64 / 2).then_some(())
        });
        let reply = door.ask("POST", LOAD, &[PARQUET], b"no Parquet");
        let found = is_problem(&reply, (503, "OVERLOADED"), "another load is running");
        door.holds(&format!("a second upload: {found:?}"), found.is_ok());
        slow
    };
    drop(begin(&mut door));
    eventually("the turn is given back", || {
        let reply = door.ask("POST", LOAD, &[PARQUET], b"no Parquet");
        (reply.status == 400).then_some(())
    });
    let mut slow = begin(&mut door);
    slow.write(&file[file.len() / 2..]).expect("it reads");
    let reply = slow.read().expect("an answer");
    door.equal("the first is loaded", &reply.json()["written"], &json!(2));
    door.finish();
}

#[test]
fn slow_uploads_keep_nobody_from_a_training_set() {
    const TRAIN: &str = "/api/v1/features/historical?feature_names=user_account:level";
    let mut door = Door::open(&[]);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["u1", "u2"]));
    let times: ArrayRef = Arc::new(StringArray::from(vec!["2026-02-01T00:00:00Z"; 2]));
    let file = parquet(&table(&[("user_id", ids), ("event_timestamp", times)]));
    let (length, kind) = (file.len(), PARQUET.1);
    let head = format!(
        "POST {TRAIN} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\naccept: {kind}\r\n\
         content-length: {length}\r\n\r\n"
    );
    let begin = |door: &mut Door, before: u64| {
        let mut slow = door.server.connect();
        slow.write(head.as_bytes()).expect("it reads");
        slow.write(&file[..length / 2]).expect("it reads");
        eventually("half a file", || {
            let held = metric(door, "larder_held_body_bytes");
            (held == (before + 1) * (length as u64 / 2)).then_some(())
        });
        slow
    };
    let mut slow: Vec<_> = (0..8).map(|before| begin(&mut door, before)).collect();
    let headers = [PARQUET, ("accept", kind)];
    let reply = door.ask("POST", TRAIN, &headers, &file);
    let found = is_problem(&reply, (503, "OVERLOADED"), "8 uploads are under way");
    door.holds(&format!("a ninth upload: {found:?}"), found.is_ok());
    drop(slow.pop());
    eventually("its place is given back", || {
        (door.ask("POST", TRAIN, &headers, &file).status == 200).then_some(())
    });
    for mut slow in slow {
        slow.write(&file[length / 2..]).expect("it reads");
        let reply = slow.read().expect("an answer");
        door.equal("a slow one", &json!(reply.status), &json!(200));
    }
    door.finish();
}

#[test]
fn an_upload_that_drips_is_refused() {
    const LOAD: &str = "/api/v1/load?view=user_account&at=2026-02-01T00:00:00Z";
    let mut door = Door::open(&[("LARDER__LIMITS__BODY_TIMEOUT", "300ms")]);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["l1", "l2"]));
    let levels: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let file = parquet(&table(&[("user_id", ids), ("level", levels)]));
    let head = format!("POST {LOAD} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", file.len());
    let mut slow = door.server.connect();
    slow.write(head.as_bytes()).expect("it reads");
    for piece in file.chunks(file.len() / 16) {
        // Refused by then, perhaps.
        let _ = slow.write(piece);
        std::thread::sleep(Duration::from_millis(50));
    }
    let reply = slow.read().expect("an answer");
    let found = is_problem(&reply, (400, "MALFORMED_REQUEST"), "limits.body_timeout");
    door.holds(&format!("it came piece by piece: {found:?} {reply}"), found.is_ok());
    door.finish();
}
