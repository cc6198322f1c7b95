//! Limits of connections, heads, bodies and the write queue, set low.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::door::{Door, JSON, ends, eventually, is_problem};

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
