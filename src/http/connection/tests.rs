//! Connections over a pipe, so that every write can be a partial one.

use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::http::door::Door;
use crate::http::router::Listener;
use crate::metrics::Code;
use crate::time::{Clock, SystemClock};

const HEAD: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(1_500);
const LONG_ANSWER: usize = 200_000;

/// What hyper itself says to a broken head, but as an answer of the router.
async fn bare() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// A served connection whose pipe holds so many bytes.
fn connect(pipe: usize, patience: Patience) -> (DuplexStream, JoinHandle<()>, Arc<Metrics>) {
    let (client, server) = tokio::io::duplex(pipe);
    let metrics = Metrics::new(SystemClock.now());
    let router = Router::new()
        .route("/bare", axum::routing::get(bare))
        .route("/long", axum::routing::get(async || "x".repeat(LONG_ANSWER)));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let door = Arc::new(Door::new(Limits::default(), Arc::clone(&metrics), clock));
    let mut routes = Routes::new(&door, Listener::Operations);
    routes.router = router;
    let with = (patience, Arc::clone(&metrics));
    let serving = tokio::spawn(async move {
        let (_stop, stopped) = watch::channel(false);
        converse(server, routes, with, stopped).await;
    });
    (client, serving, metrics)
}

const PATIENT: Patience = Patience { head: Duration::from_secs(60), idle: Duration::from_secs(60) };

/// What comes for these bytes until the connection ends.
async fn exchange(pipe: usize, sent: &str) -> (String, Arc<Metrics>) {
    let (mut client, serving, metrics) = connect(pipe, PATIENT);
    let (mut reading, mut writing) = tokio::io::split(&mut client);
    let mut found = String::new();
    let write = async {
        writing.write_all(sent.as_bytes()).await.unwrap();
    };
    let (read, ()) = tokio::join!(reading.read_to_string(&mut found), write);
    read.unwrap();
    // The server waits for its peer to go.
    drop(client);
    serving.await.unwrap();
    (found, metrics)
}

fn errors(metrics: &Arc<Metrics>, code: Code) -> bool {
    let line = format!("larder_errors_total{{code=\"{}\"}} 1", code.as_str());
    metrics.render(&[], SystemClock.now()).contains(&line)
}

#[tokio::test]
async fn what_hyper_refuses_is_said_in_full() {
    let get = |path: &str, rest: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{rest}\r\n");
    let long = "y".repeat(150_000);
    let heads = [
        ("no HTTP\r\n\r\n".to_owned(), Code::MalformedRequest),
        (get("/bare", "a b: c\r\n"), Code::MalformedRequest),
        (get("/bare", "content-length: x\r\n"), Code::MalformedRequest),
        (get("/bare", &format!("x: {long}\r\n")), Code::LimitExceeded),
        (get("/bare", &"x: y\r\n".repeat(101)), Code::LimitExceeded),
        (get(&format!("/{long}"), ""), Code::LimitExceeded),
    ];
    for (head, code) in heads {
        for pipe in [100, 1 << 20] {
            for before in ["", "GET /bare HTTP/1.1\r\nhost: x\r\n\r\n"] {
                let (found, metrics) = exchange(pipe, &format!("{before}{head}")).await;
                let what = format!("{head:.60} {pipe} {before:.10}: {found}");
                let at = found.rfind("HTTP/1.1 ").expect(&what);
                assert_eq!(at > 0, !before.is_empty(), "{what}");
                let (head, body) = found[at..].split_once("\r\n\r\n").expect(&what);
                assert!(head.starts_with(&format!("HTTP/1.1 {}", code.status())), "{what}");
                let length = format!("content-length: {}", body.len());
                for line in [&*length, "content-type: application/problem+json"] {
                    assert!(head.lines().any(|found| found == line), "{line}: {what}");
                }
                let problem: Value = serde_json::from_str(body).expect(&what);
                assert_eq!(problem["code"], code.as_str(), "{what}");
                let id = format!("x-request-id: {}", problem["request_id"].as_str().unwrap());
                assert!(head.contains(&id), "{what}");
                assert!(errors(&metrics, code), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_of_a_handler_is_never_replaced() {
    let get = "GET /bare HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /bare HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for pipe in [1, 100, 1 << 20] {
        let (found, metrics) = exchange(pipe, &format!("{}{last}", get.repeat(9))).await;
        assert_eq!(found.matches("HTTP/1.1 400 Bad Request\r\n").count(), 10, "{found}");
        assert_eq!(found.matches("content-length: 0\r\n").count(), 10, "{found}");
        assert!(!found.contains("problem"), "{found}");
        assert!(!errors(&metrics, Code::MalformedRequest));
    }
}

#[tokio::test]
async fn a_slow_reader_gets_its_answer_and_one_that_stopped_reading_is_cut() {
    let patience = Patience { head: HEAD, idle: IDLE };
    let request = b"GET /long HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (mut client, serving, _) = connect(4_096, patience);
    client.write_all(request).await.unwrap();
    let (mut found, mut part) = (0, [0; 10_000]);
    loop {
        tokio::time::sleep(IDLE / 15).await;
        match client.read(&mut part).await.unwrap() {
            0 => break,
            read => found += read,
        }
    }
    assert!(found > LONG_ANSWER, "{found} bytes came");
    serving.await.unwrap();

    let (mut client, serving, _) = connect(4_096, patience);
    client.write_all(request).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
    ended.expect("it is cut").unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < LONG_ANSWER, "{} bytes came", rest.len());
}
