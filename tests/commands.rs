//! Runs the binary as a user does, on data directories of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use serde_json::Value;
use tempfile::TempDir;

#[path = "commands/train.rs"]
mod train;

const FLIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/flights");

/// What a command came to.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary in `dir`, where no configuration of this repository is found.
fn larder(dir: &Path, arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

impl Ran {
    /// Holds that the command exited with `code` and said all of `words`.
    fn expect(self, code: i32, words: &[&str]) -> Self {
        let Self { out, err, .. } = &self;
        assert_eq!(self.code, Some(code), "out: {out}\nerr: {err}");
        for word in words {
            assert!(out.contains(word) || err.contains(word), "no {word:?} in {out}\n{err}");
        }
        self
    }
}

fn flights(file: &str) -> PathBuf {
    Path::new(FLIGHTS).join(file)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn write(dir: &Path, name: &str, content: &[u8]) {
    std::fs::write(dir.join(name), content).unwrap();
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(flights("expected.json")).unwrap()).unwrap()
}

/// A directory with the flights' definitions applied to `data`.
fn with_definitions() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let definitions = flights("definitions.toml");
    larder(dir.path(), &["apply", text(&definitions), "--yes", "--data", "data"])
        .expect(0, &["applied 12 changes"]);
    dir
}

fn load(dir: &Path, entry: &Value) -> Ran {
    let file = flights(entry["file"].as_str().unwrap());
    let mut arguments = vec!["load", text(&file), "--data", "data"];
    arguments.extend(["--view", entry["view"].as_str().unwrap()]);
    for (key, argument) in [("event_time", "--event-time"), ("timestamp", "--timestamp")] {
        if let Some(value) = entry[key].as_str() {
            arguments.extend([argument, value]);
        }
    }
    larder(dir, &arguments)
}

#[test]
fn check_names_every_mistake_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    larder(dir, &["check"]).expect(0, &["no mistakes"]);
    larder(dir, &["check", FLIGHTS]).expect(0, &["4 entities, 6 views, 2 services"]);

    write(dir, "config.toml", b"[server]\nlisten = \"here\"\nlisen = \"127.0.0.1:1\"\n");
    write(
        dir,
        "bad.toml",
        b"[view.a]\nentity = \"user\"\nttl = \"soon\"\nfeatures = { x = \"int65\" }\n",
    );
    let mistakes = [
        "config.toml:2: server.listen is \"here\"",
        "config.toml:3: unknown key server.lisen; the nearest is server.listen",
        "bad.toml:3: ",
        "bad.toml:4: ",
        "int65",
    ];
    let ran = larder(dir, &["check", "bad.toml"]).expect(2, &mistakes);
    assert_eq!(ran.out, "");
    larder(dir, &["apply", "bad.toml", "--data", "d"]).expect(2, &["bad.toml:3: "]);
    larder(dir, &["get", "user", "u1"]).expect(2, &["config.toml:2: "]);
    write(dir, "config.toml", b"[registry]\npath = \"bad.toml\"\n");
    larder(dir, &["check"]).expect(2, &["bad.toml:3: "]);
    write(dir, "unknown.toml", b"[view.a]\nentity = \"user\"\nfeatures = { x = \"int64\" }\n");
    larder(dir, &["check", "unknown.toml"]).expect(2, &["unknown.toml:2: ", "user"]);
    larder(dir, &["check", "missing.toml"]).expect(2, &["missing.toml"]);
}

#[test]
fn wrong_use_exits_with_2_and_help_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for wrong in [
        &["serv"] as &[&str],
        &[],
        &["get", "user"],
        &["get", "user", "u1", "--data", "d", "--server", "http://127.0.0.1:1"],
        &["get", "user", "u1", "--data", "missing"],
        &["get", "user", "u1", "--server", "https://127.0.0.1:1"],
        &["load", "f.parquet"],
        &["load", "f.parquet", "--view", "a", "--event-time", "yesterday"],
        &["load", "f.parquet", "--view", "a", "--time-unit", "minutes"],
        &["load", "f.parquet", "--view", "a", "--nan", "zero"],
        &["load", "missing.parquet", "--view", "a"],
        &["train", "--labels", "l.parquet", "--out", "t.parquet"],
        &["train", "--labels", "l.parquet", "--out", "t.parquet", "--features", "a:b"],
        &["train", "--labels", "l", "--out", "t", "--features", "a:b", "--entity", "user"],
        &["train", "--labels", "l", "--out", "t", "--service", "s", "--features", "a:b"],
        &["train", "--labels", "l", "--out", "t", "--service", "s", "--names", "short"],
        &["health", "--config", "missing.toml"],
    ] {
        let ran = larder(dir, wrong).expect(2, &[]);
        assert!(!ran.err.is_empty(), "{wrong:?}");
    }
    larder(dir, &["--help"]).expect(0, &["serve", "LARDER__SERVER__LISTEN", "./config.toml"]);
    for command in [
        "serve", "check", "apply", "load", "train", "get", "health", "inspect", "verify", "backup",
        "restore", "export",
    ] {
        larder(dir, &[command, "--help"]).expect(0, &["larder ", "Example", "Exit codes"]);
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "wrong use leaves nothing behind");
}

#[test]
fn without_a_server_a_command_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = "http://127.0.0.1:1";
    let check = |arguments: &[&str]| {
        larder(dir.path(), arguments).expect(1, &["no server answers at", "127.0.0.1:1", "--data"]);
    };
    check(&["health", "--server", server]);
    check(&["get", "user", "u1", "--server", server]);
    check(&["apply", FLIGHTS, "--yes", "--server", server]);
    check(&["load", text(&flights("planes.parquet")), "--view", "plane", "--server", server]);
}

#[test]
fn a_dry_run_changes_nothing_and_exits_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "user.toml", b"[entity.user]\njoin_keys = [\"user_id\"]\n");
    let apply = |more: &[&str]| {
        let mut arguments = vec!["apply", "user.toml", "--data", "data"];
        arguments.extend(more);
        larder(dir, &arguments)
    };
    apply(&["--dry-run"]).expect(3, &["user", "1 change"]);
    apply(&[]).expect(2, &["--yes"]);
    assert!(!dir.join("data").exists(), "it was only a look");
    write(dir, "view.toml", b"[view.v]\nentity = \"user\"\nfeatures = { x = \"int64\" }\n");
    larder(dir, &["apply", "view.toml", "--dry-run", "--data", "data"]).expect(1, &["user"]);
    assert!(!dir.join("data").exists(), "nor was this more");
    apply(&["--yes"]).expect(0, &["applied 1 change"]);
    apply(&["--dry-run"]).expect(0, &["no changes"]);
    apply(&["--yes"]).expect(0, &["no changes"]);
    write(dir, "user.toml", b"[entity.merchant]\njoin_keys = [\"merchant_id\"]\n");
    apply(&["--dry-run", "--prune"]).expect(3, &["user", "merchant", "2 changes"]);
    apply(&["--dry-run"]).expect(3, &["merchant", "1 change"]);
    apply(&["--dry-run", "--drop-data"]).expect(2, &["--prune"]);
    write(dir, "user.toml", b"[entity.user]\njoin_keys = [\"user_id:int64\"]\n");
    apply(&["--yes"]).expect(1, &["INCOMPATIBLE_DEFINITION", "user"]);
}

#[test]
fn views_that_are_pruned_take_their_rows_with_them_where_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let entity = "[entity.user]\njoin_keys = [\"user_id\"]\n";
    let view =
        |name: &str| format!("[view.{name}]\nentity = \"user\"\nfeatures = {{ x = \"int64\" }}\n");
    let both = [entity, &view("first"), &view("second")].concat();
    write(dir, "user.toml", both.as_bytes());
    let apply =
        |whom: &[&str], more: &[&str]| larder(dir, &[&["apply", "user.toml"], whom, more].concat());
    let data = ["--data", "data"];
    apply(&data, &["--yes"]).expect(0, &["applied 3 changes"]);
    write(dir, "user.toml", [entity, &view("second")].concat().as_bytes());
    let prune = ["--prune", "--drop-data"];
    let going = "- view first with its rows";
    apply(&data, &[&prune[..], &["--dry-run"]].concat()).expect(3, &[going]);
    let said = [going, "rows of dropped views go with erasure "];
    apply(&data, &[&prune[..], &["--yes"]].concat()).expect(0, &said);
    write(dir, "user.toml", entity.as_bytes());
    let server = Server::start(dir, &["--data", "data"]);
    let ran = apply(&["--server", &server.url], &[&prune[..], &["--yes"]].concat());
    let ran = ran.expect(0, &["- view second with its rows", said[1]]);
    let erasure = ran.out.split(said[1]).nth(1).unwrap().lines().next().unwrap().to_owned();
    let state = ureq::get(format!("{}/api/v1/erasures/{erasure}", server.url)).call().unwrap();
    assert_eq!(state.status(), 200);
}

#[test]
fn the_flights_are_loaded_and_answered_as_expected() {
    let dir = with_definitions();
    let dir = dir.path();
    let expected = expected();
    for entry in expected["loads"].as_array().unwrap() {
        let loaded =
            format!("loaded {} rows into {}", entry["rows"], entry["view"].as_str().unwrap());
        let ran = load(dir, entry).expect(0, &[&loaded]);
        if entry["superseded"].as_u64() > Some(0) {
            ran.expect(0, &[&format!("{} of them change nothing online", entry["superseded"])]);
        }
        load(dir, entry).expect(0, &["loaded before, at "]);
    }
    let (key_of, mut compared) = (entity_types(), 0);
    for (view, rows) in expected["latest"].as_object().unwrap() {
        // The first and the last known key; opening the store for each takes a while.
        let known: Vec<&Value> = rows.as_array().unwrap().iter().collect();
        for row in [known[0], known[known.len() - 2], known[known.len() - 1]] {
            compare(dir, &key_of[view.as_str()], view, row);
            compared += 1;
        }
    }
    assert_eq!(compared, 18);
}

/// The entity type of each view, as `definitions.toml` has it.
fn entity_types() -> std::collections::HashMap<String, String> {
    let text = std::fs::read_to_string(flights("definitions.toml")).unwrap();
    let tree: toml::Table = text.parse().unwrap();
    let views = tree["view"].as_table().unwrap();
    let entity = |view: &toml::Value| view["entity"].as_str().unwrap().to_owned();
    views.iter().map(|(name, view)| (name.clone(), entity(view))).collect()
}

/// Holds that `larder get` answers what `row` of `latest` expects of `view`.
fn compare(dir: &Path, entity_type: &str, view: &str, row: &Value) {
    let parts = match &row["entity_id"] {
        Value::Object(parts) => parts.values().cloned().collect(),
        part => vec![part.clone()],
    };
    let mut arguments = vec!["get", entity_type];
    arguments.extend(parts.iter().map(|part| part.as_str().unwrap()));
    arguments.extend(["--data", "data"]);
    let ran = larder(dir, &arguments);
    if row["event_timestamp"].is_null() {
        if ran.code == Some(0) {
            let answer: Value = serde_json::from_str(&ran.out).unwrap();
            assert!(answer["features"].get(view).is_none(), "{view} {row}: {answer}");
        } else {
            ran.expect(1, &["ENTITY_NOT_FOUND"]);
        }
        return;
    }
    let answer: Value = serde_json::from_str(&ran.expect(0, &[]).out).unwrap();
    assert_eq!(answer["event_timestamps"][view], row["event_timestamp"], "{view} {row}");
    for (reference, value) in row["features"].as_object().unwrap() {
        let feature = reference.rsplit(':').next().unwrap();
        let found = &answer["features"][view][feature];
        let same = match (found.as_f64(), value.as_f64()) {
            (Some(found), Some(value)) => found == value,
            _ => found == value,
        };
        assert!(same, "{view} {row}: {feature} is {found}");
    }
}

#[test]
fn a_bad_file_is_refused_and_nothing_is_written() {
    let dir = with_definitions();
    let dir = dir.path();
    let whole = std::fs::read(flights("planes.parquet")).unwrap();
    write(dir, "truncated.parquet", &whole[..whole.len() / 2]);
    write(dir, "text.parquet", b"not Parquet at all");
    write(dir, "empty.parquet", b"");
    let at = ["--event-time", "2013-01-01T00:00:00Z"];
    let load = |file: &str, view: &str, more: &[&str]| {
        let mut arguments = vec!["load", file, "--view", view, "--data", "data"];
        arguments.extend(more);
        larder(dir, &arguments)
    };
    for file in ["truncated.parquet", "text.parquet", "empty.parquet"] {
        load(file, "plane", &at).expect(1, &["Parquet", file]);
    }
    let planes = flights("planes.parquet");
    let said = ["event_timestamp", "INVALID_VALUE", "with --event-time"];
    load(text(&planes), "plane", &[]).expect(1, &said);
    load(text(&planes), "plan", &at).expect(1, &["UNKNOWN_VIEW", "plane"]);
    load(text(&planes), "plane", &["--event-time", "2999-01-01"])
        .expect(1, &["row 0, event_timestamp"]);
    load(text(&planes), "plane", &["--project", "other", "--event-time", "2013-01-01"])
        .expect(1, &["other"]);
    larder(dir, &["get", "tailnum", "N10156", "--data", "data"]).expect(1, &["ENTITY_NOT_FOUND"]);
    let segments = std::fs::read_dir(dir.join("data/history")).unwrap();
    for segment in segments {
        let described = larder(dir, &["inspect", text(&segment.unwrap().path())]).expect(0, &[]);
        assert!(!described.out.contains("sequences 13"), "{}", described.out);
    }
}

#[test]
fn inspect_describes_segments_and_manifests() {
    let dir = with_definitions();
    let dir = dir.path();
    let of_manifest = ["manifest of store", "last arrival", "view 0 is ", "0 erasures pending"];
    larder(dir, &["inspect", "data/MANIFEST"]).expect(0, &of_manifest);
    let segments: Vec<PathBuf> = std::fs::read_dir(dir.join("data/history"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let frames = ["segment of store", "first sequence 1", "sequences 1 to 12"];
    larder(dir, &["inspect", text(&segments[0])]).expect(0, &frames);
    for other in [b"".as_slice(), b"LS", b"short", &[b'x'; 100]] {
        write(dir, "other", other);
        larder(dir, &["inspect", "other"]).expect(1, &["other: not a file of Larder"]);
    }
    for (start, kind) in [(b"LMAN", "manifest, unreadable"), (b"LSEG", "segment, unreadable")] {
        write(dir, "cut", start);
        larder(dir, &["inspect", "cut"]).expect(0, &[kind]);
    }
    larder(dir, &["inspect", "missing"]).expect(1, &["missing"]);
}

/// A running server; killed when it is dropped.
struct Server {
    child: Child,
    url: String,
    out: BufReader<ChildStdout>,
    log: mpsc::Receiver<Value>,
}

/// Longest wait for a line of a server.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(more)
            .current_dir(dir)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let _ = send.send(line);
            }
        });
        let mut server = Self { child, url: String::new(), out, log };
        let ready = server.logged("larder ready");
        server.url = format!("http://{}", ready["listen"].as_str().unwrap());
        server
    }

    /// The next line of the log with this message.
    fn logged(&self, message: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap();
            if line["message"].as_str().is_some_and(|said| said == message) {
                return line;
            }
            assert_ne!(line["level"], "ERROR", "{line}");
        }
    }

    /// The next `count` lines of the output that begin with `start`.
    fn said(&mut self, start: &str, count: usize) -> Vec<String> {
        let lines = self.out.by_ref().lines().map(Result::unwrap);
        lines.filter(|line| line.starts_with(start)).take(count).collect()
    }

    /// Stops it as an operator does.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_commands_work_on_a_running_server() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let server = Server::start(dir, &["--data", "data"]);
    let larder = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--server", &server.url]);
        larder(dir, &arguments)
    };
    larder(&["health"]).expect(0, &["ok"]);
    larder(&["apply", FLIGHTS, "--dry-run"]).expect(3, &["12 changes"]);
    larder(&["apply", FLIGHTS, "--yes"]).expect(0, &["applied 12 changes"]);
    larder(&["apply", FLIGHTS, "--dry-run"]).expect(0, &["no changes"]);

    let planes = flights("planes.parquet");
    let load = |more: &[&str]| {
        let mut arguments = vec!["load", text(&planes), "--view", "plane"];
        arguments.extend(more);
        larder(&arguments)
    };
    let at = "2013-01-01T00:00:00Z";
    load(&[]).expect(1, &["INVALID_VALUE", "event_timestamp"]);
    load(&["--event-time", at]).expect(0, &["loaded 2506 rows into plane"]);
    load(&["--event-time", at]).expect(0, &["loaded before, at "]);
    let whole = std::fs::read(&planes).unwrap();
    write(dir, "truncated.parquet", &whole[..whole.len() / 2]);
    larder(&["load", "truncated.parquet", "--view", "plane", "--event-time", at])
        .expect(1, &["MALFORMED_REQUEST", "Parquet"]);
    let flights = flights("flights.parquet");
    let view = "last_arrival_of_aircraft";
    larder(&["load", text(&flights), "--view", view, "--timestamp", "landed_by"])
        .expect(0, &["loaded 19326 rows", "16329 of them change nothing online"]);

    let answer = larder(&["get", "tailnum", "N14228"]).expect(0, &[]);
    let answer: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer["features"]["plane"]["manufacturer"], "BOEING");
    assert_eq!(answer["features"][view]["arr_delay_min"], 40.0);
    larder(&["get", "route", "JFK,SFO"]).expect(1, &["ENTITY_NOT_FOUND"]);
    larder(&["get", "tailnum", "nobody"]).expect(1, &["ENTITY_NOT_FOUND"]);
    larder(&["get", "tail", "N14228"]).expect(1, &["UNKNOWN_ENTITY_TYPE", "tailnum"]);

    let locked = ["in use by a running server", "--data"];
    self::larder(dir, &["get", "tailnum", "N14228", "--data", "data"]).expect(1, &locked);
    server.stop();
    let after = self::larder(dir, &["get", "tailnum", "N14228", "--data", "data"]).expect(0, &[]);
    let after: Value = serde_json::from_str(&after.out).unwrap();
    assert_eq!(after["features"], answer["features"]);
}

/// What a curl line of the demo asks, asked.
fn ask(curl: &str) -> Value {
    let url = curl.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let body = curl.split('\'').rfind(|part| part.starts_with('{')).unwrap();
    let answer = ureq::post(url).header("content-type", "application/json").send(body);
    serde_json::from_str(&answer.unwrap().body_mut().read_to_string().unwrap()).unwrap()
}

#[test]
fn the_demo_answers_and_outlives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &["--demo"]);
    let lines = server.said("curl ", 3);
    let first: Vec<Value> = lines.iter().map(|line| ask(line)).collect();
    let expected = expected();
    for answer in &first {
        let lookups = expected["lookups"].as_array().unwrap();
        let same = |lookup: &&Value| {
            lookup["answer"]["features"] == answer["features"]
                && lookup["answer"]["missing_features"] == answer["metadata"]["missing_features"]
        };
        assert_eq!(lookups.iter().filter(same).count(), 1, "{answer}");
    }
    drop(server);

    let mut server = Server::start(dir.path(), &["--demo"]);
    for _ in 0..6 {
        server.logged("loaded before");
    }
    let again: Vec<Value> = server.said("curl ", 3).iter().map(|line| ask(line)).collect();
    let features = |answers: &[Value]| -> Vec<Value> {
        answers.iter().map(|answer| answer["features"].clone()).collect()
    };
    assert_eq!(features(&first), features(&again));
    server.stop();
}

/// What a GET answers.
fn get(server: &Server, path: &str) -> Value {
    let answer = ureq::get(format!("{}{path}", server.url)).call();
    serde_json::from_str(&answer.unwrap().body_mut().read_to_string().unwrap()).unwrap()
}

#[test]
fn a_hangup_applies_the_definitions_anew_and_what_stood_before_stands() {
    let dir = tempfile::tempdir().unwrap();
    let define = |features: &str| {
        let entity = "[entity.user]\njoin_keys = [\"user_id\"]\n";
        let view = format!("{entity}[view.v]\nentity = \"user\"\nfeatures = {{ {features} }}\n");
        write(dir.path(), "definitions.toml", view.as_bytes());
    };
    write(dir.path(), "config.toml", b"[registry]\npath = \"definitions.toml\"\n");
    define("a = \"int32\"");
    let server = Server::start(dir.path(), &["--data", "data"]);
    let hang_up = || kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
    let features = || {
        let view = get(&server, "/api/v1/views/v");
        let features = view["features"].as_array().unwrap().clone();
        let told = |f: &Value| {
            format!("{} {}", f["reference"], f["type"]).replace('"', "").replace("v:", "")
        };
        features.iter().map(told).collect::<Vec<_>>()
    };
    let serves = |feature: &str| {
        let row = format!(
            "{{\"rows\":[{{\"view\":\"v\",\"entity_id\":\"u1\",\"features\":{{\"{feature}\":1}}}}]}}"
        );
        let json = ("content-type", "application/json");
        let push = ureq::post(format!("{}/api/v1/features/push", server.url));
        assert_eq!(push.header(json.0, json.1).send(row).unwrap().status(), 200);
        let answer = get(&server, "/api/v1/features/user/u1");
        assert_eq!(answer["features"]["v"][feature], 1, "{answer}");
    };
    assert_eq!(features(), ["a int32"]);

    define("a = \"int32\", b = \"int64\"");
    hang_up();
    let applied = server.logged("definition applied");
    assert!(applied["change"].as_str().unwrap().contains('v'), "{applied}");
    assert_eq!(features(), ["a int32", "b int64"]);
    assert_eq!(get(&server, "/ready")["definitions"], Value::Null);
    serves("b");

    // One change that is not possible, and one that is.
    define(
        "a = \"string\", b = \"int64\" }\n[view.w]\nentity = \"user\"\nfeatures = { c = \"int32\"",
    );
    let check = |says: &[&str]| {
        hang_up();
        let note = server.logged("definitions are not all applied");
        for says in says {
            assert!(note["note"].as_str().unwrap().contains(says), "no {says:?} in {note}");
        }
        let ready = eventually(|| {
            let ready = get(&server, "/ready");
            let notes = ready["definitions"].to_string();
            says.iter().all(|says| notes.contains(says)).then_some(ready)
        });
        assert_eq!((&ready["status"], &ready["writes"]), (&"ready".into(), &"open".into()));
        assert_eq!(features(), ["a int32", "b int64"]);
        serves("a");
    };
    check(&["int32", "string", "v@2"]);
    assert_eq!(get(&server, "/api/v1/views/w")["features"][0]["reference"], "w:c");
    write(dir.path(), "definitions.toml", b"[view.v\n");
    check(&["definitions.toml:1"]);
    std::fs::remove_file(dir.path().join("definitions.toml")).unwrap();
    check(&["definitions.toml", "No such file"]);

    define("a = \"int32\", b = \"int64\", d = \"bool\"");
    hang_up();
    server.logged("definition applied");
    eventually(|| get(&server, "/ready")["definitions"].is_null().then_some(()));
    assert_eq!(features(), ["a int32", "b int64", "d bool"]);
    server.stop();
}

/// Tries something until it is there.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never");
        std::thread::sleep(Duration::from_millis(20));
    }
}
