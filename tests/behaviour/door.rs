//! A server with definitions and a connection to it, and the comparisons of the tests. Everything
//! that is wrong in a test is said at its end, not only the first.
//!
//! It does not know what the contract says.

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Client, Reply, Server};

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const TOML: (&str, &str) = ("content-type", "application/toml");
pub(crate) const ARROW: (&str, &str) = ("content-type", "application/vnd.apache.arrow.stream");
pub(crate) const PARQUET: (&str, &str) = ("content-type", "application/vnd.apache.parquet");

/// A server of its own, asked over one connection.
pub(crate) struct Door {
    pub(crate) server: Server,
    client: Client<TcpStream>,
    directory: TempDir,
    wrong: Vec<String>,
    refused: usize,
}

impl Door {
    /// A server without definitions.
    pub(crate) fn bare(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::start(&directory.path().join("data"), settings);
        let client = server.connect();
        Self { server, client, directory, wrong: Vec::new(), refused: 0 }
    }

    /// A server with the definitions below and a few rows.
    pub(crate) fn open(settings: &[(&str, &str)]) -> Self {
        let mut door = Self::bare(settings);
        door.post("/api/v1/features/register", definitions());
        door.post("/api/v1/features/push", rows());
        door
    }

    /// A directory that goes with the server.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Asks; connects anew where the server has closed the connection or said so.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut answer = self.client.send(method, target, headers, body);
        if answer.is_err() {
            self.client = self.server.connect();
            answer = self.client.send(method, target, headers, body);
        }
        let reply = answer.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        if reply.header("connection") == Some("close") {
            self.client = self.server.connect();
        }
        reply
    }

    /// What a GET answers, which has to be 200.
    pub(crate) fn get(&mut self, target: &str) -> Value {
        let reply = self.ask("GET", target, &[], b"");
        self.taken(target, &reply)
    }

    /// What a POST of JSON answers, which has to be 200.
    pub(crate) fn post(&mut self, target: &str, body: impl ToString) -> Value {
        let reply = self.ask("POST", target, &[JSON], body.to_string().as_bytes());
        self.taken(target, &reply)
    }

    fn taken(&mut self, what: &str, reply: &Reply) -> Value {
        if reply.status != 200 {
            self.wrong.push(format!("{what}: {reply}"));
            return Value::Null;
        }
        reply.json()
    }

    /// The last visible sequence.
    pub(crate) fn sequence(&mut self) -> u64 {
        self.get("/ready")["sequence"].as_u64().expect("a sequence")
    }

    /// Notes a difference.
    pub(crate) fn equal(&mut self, what: &str, found: &Value, expected: &Value) {
        if found != expected {
            self.wrong.push(format!("{what}:\n     found {found}\n  expected {expected}"));
        }
    }

    /// Notes what does not hold.
    pub(crate) fn holds(&mut self, what: &str, holds: bool) {
        if !holds {
            self.wrong.push(format!("{what}: does not hold"));
        }
    }

    /// Notes anything but a refusal as problem JSON with this status and code, and with `says`
    /// somewhere in it; or a refusal that wrote something.
    pub(crate) fn refuse(
        &mut self,
        (method, target, headers, body): (&str, &str, &[(&str, &str)], &[u8]),
        (status, code): (u16, &str),
        says: &str,
    ) {
        let before = self.sequence();
        let reply = self.ask(method, target, headers, body);
        let after = self.sequence();
        let shown = String::from_utf8_lossy(body);
        let shown: String = shown.chars().take(200).collect();
        let request = format!("{method} {target} {shown}");
        if let Err(what) = is_problem(&reply, (status, code), says) {
            self.wrong.push(format!("{request}\n  {what}: {reply}"));
        }
        if after != before {
            self.wrong.push(format!("{request}\n  wrote: sequence {before} -> {after}"));
        }
        self.refused += 1;
    }

    /// Notes anything but a refusal of this JSON.
    pub(crate) fn refuse_json(
        &mut self,
        target: &str,
        body: &str,
        (status, code): (u16, &str),
        says: &str,
    ) {
        self.refuse(("POST", target, &[JSON], body.as_bytes()), (status, code), says);
    }

    /// How many refusals were checked.
    pub(crate) fn refused(&self) -> usize {
        self.refused
    }

    /// Ends the test: says everything that was wrong.
    pub(crate) fn finish(self) {
        let wrong = self.wrong;
        assert!(wrong.is_empty(), "{} wrong:\n\n{}\n", wrong.len(), wrong.join("\n\n"));
    }
}

/// Whether the reply is the refusal it should be.
pub(crate) fn is_problem(
    reply: &Reply,
    (status, code): (u16, &str),
    says: &str,
) -> Result<(), String> {
    if reply.header("content-type") != Some("application/problem+json") {
        return Err(format!("content-type is {:?}", reply.header("content-type")));
    }
    let problem: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    if (reply.status, &problem["code"], &problem["status"])
        != (status, &json!(code), &json!(status))
    {
        return Err(format!("expected {status} {code}"));
    }
    for name in ["type", "title", "detail"] {
        if problem[name].as_str().is_none_or(str::is_empty) {
            return Err(format!("no {name}"));
        }
    }
    if problem["request_id"].as_str() != reply.header("x-request-id") {
        return Err("the request id differs from the header".to_owned());
    }
    let said = problem.to_string().replace("\\\"", "\"");
    if !said.contains(says) {
        return Err(format!("does not say {says:?}"));
    }
    Ok(())
}

/// An answer without what differs from run to run; that it is there is checked.
pub(crate) fn steady(mut answer: Value) -> Value {
    if let Some(metadata) = answer["metadata"].as_object_mut() {
        let latency = metadata.remove("latency_ms").and_then(|latency| latency.as_f64());
        assert!(latency.is_some_and(|latency| latency >= 0.0), "latency_ms");
        let timestamp = metadata.remove("timestamp");
        let timestamp = timestamp.as_ref().and_then(Value::as_str).unwrap_or_default();
        assert!(timestamp.ends_with('Z') && timestamp.len() == 27, "timestamp {timestamp:?}");
    }
    answer
}

/// Tries something until it is there; servers do some things a little later.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(started.elapsed().as_secs() < 30, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Whether the peer ends the connection, with or without a last answer.
pub(crate) fn ends(client: &mut Client<TcpStream>) -> bool {
    loop {
        match client.read() {
            Ok(_) => {}
            Err(error) => {
                return matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe
                );
            }
        }
    }
}

/// The definitions most tests ask about.
pub(crate) fn definitions() -> Value {
    json!({
        "entity": {
            "user": {"join_keys": ["user_id"], "description": "A registered customer"},
            "merchant": {"join_keys": ["merchant_id:int64"]},
            "route": {"join_keys": ["origin", "dest"]},
            "airport": {"join_keys": ["code"]},
        },
        "view": {
            "user_profile": {
                "entity": "user", "tags": ["demographics"], "owner": "risk-team",
                "features": {
                    "age": "int32",
                    "country": {"type": "string", "default": "unknown"},
                    "score": "float32",
                    "balance": {"type": "float64", "ttl": "1h", "owner": "ledger-team"},
                    "visits": "int64",
                    "active": "bool",
                    "seen": "timestamp",
                    "photo": "bytes",
                    "embedding": "float32[3]",
                    "labels": "string[]",
                },
            },
            "user_account": {"entity": "user", "features": {"age": "int64", "level": "int32"}},
            "user_cold": {
                "entity": "user", "tier": "disk",
                "features": {"points": "int64", "label": {"type": "string", "default": "none"}},
            },
            "merchant_risk": {"entity": "merchant", "features": {"score": "float64"}},
            "route_stats": {"entity": "route", "features": {"flights": "int64"}},
            "weather": {"entity": "airport", "features": {"temp": "float64"}},
            "passing": {"entity": "user", "offline": false, "features": {"x": "int32"}},
            "archive": {"entity": "user", "online": false, "features": {"y": "int32"}},
        },
        "service": {
            "credit": {"features": [
                "user_profile:age", "user_profile:country",
                {"ref": "merchant_risk:score", "as": "merchant_score"},
            ]},
            "trip": {"features": [
                "weather:temp",
                {"ref": "weather:temp", "entity": "dest_airport", "as": "dest_temp"},
            ]},
        },
    })
}

/// The rows that are there before a test begins.
pub(crate) fn rows() -> Value {
    let at = "2026-01-31T12:00:00Z";
    json!({"rows": [
        {"view": "user_profile", "entity_id": "u1", "event_timestamp": at, "features": {
            "age": 30, "country": "AE", "score": 0.5, "balance": 12.25,
            "visits": 9_223_372_036_854_775_807_i64, "active": true,
            "seen": "2026-01-30T10:00:00+02:00", "photo": "AAH/", "embedding": [1, 2.5, -3],
            "labels": ["a", "é"],
        }},
        {"view": "user_account", "entity_id": "u1", "event_timestamp": at,
            "features": {"age": 31, "level": 2}},
        {"view": "user_cold", "entity_id": "u1", "event_timestamp": at,
            "features": {"points": 5}},
        {"view": "merchant_risk", "entity_id": 7, "event_timestamp": at,
            "features": {"score": 0.25}},
        {"view": "route_stats", "entity_id": {"origin": "JFK", "dest": "SFO"},
            "event_timestamp": at, "features": {"flights": 12}},
        {"view": "route_stats", "entity_id": ["A,B", "C/D"],
            "event_timestamp": at, "features": {"flights": 1}},
        {"view": "weather", "entity_id": "JFK", "event_timestamp": at, "features": {"temp": 75.5}},
        {"view": "weather", "entity_id": "SFO", "event_timestamp": at, "features": {"temp": 60.0}},
        {"view": "passing", "entity_id": "u1", "event_timestamp": at, "features": {"x": 1}},
        {"view": "archive", "entity_id": "u1", "event_timestamp": at, "features": {"y": 2}},
    ]})
}
