//! Backups of a running server and of a directory, restored and compared with what was there.
//!
//! They do not know the files; `src/history/tests` damages and interrupts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use process::{Client, Server};
use serde_json::{Value, json};

const SETTINGS: &[(&str, &str)] =
    &[("LARDER__STORAGE__SEGMENT_SIZE", "1MiB"), ("LARDER__STORAGE__CHECKPOINT_INTERVAL", "300ms")];
const USERS: i64 = 50;
const ROWS: i64 = 500;
/// 2026-01-31, in microseconds.
const START: i64 = 1_769_860_800_000_000;

fn larder(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(arguments).env_clear().output().unwrap()
}

/// Runs the binary and holds that it exits with `code`; what it wrote, both streams together.
fn expect(code: i32, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = larder(arguments);
    let said = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn define(server: &Server) {
    let features = json!({ "x": "int64", "pad": "string" });
    let definitions = json!({
        "entity": { "user": { "join_keys": ["user_id"] } },
        "view": {
            "v": { "entity": "user", "features": features },
            "on_disk": { "entity": "user", "tier": "disk", "features": { "y": "int64" } },
        },
    });
    let reply = server.connect().post("/api/v1/features/register", &definitions).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
}

/// Row `n` of all is user `n % USERS` with `x` = `n`, at `START + n`; sequences follow their order.
fn push(client: &mut Client<std::net::TcpStream>, from: i64) -> u64 {
    let rows = from..from + ROWS;
    let column = |of: &dyn Fn(i64) -> Value| rows.clone().map(of).collect::<Vec<Value>>();
    let body = json!({ "view": "v", "columns": {
        "user_id": column(&|n| json!(format!("u{}", n % USERS))),
        "event_timestamp": column(&|n| json!(START + n)),
        "x": column(&|n| json!(n)),
        "pad": column(&|n| json!("x".repeat((n % 200) as usize))),
    }});
    let reply = client.post("/api/v1/features/push", &body).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()["sequence"].as_u64().unwrap()
}

fn users() -> Vec<String> {
    (0..USERS).map(|user| format!("u{user}")).collect()
}

fn online(address: SocketAddr, as_of: Option<i64>) -> Value {
    let mut body = json!({
        "entity_type": "user", "entity_ids": users(), "feature_names": ["v:x", "v:pad"],
    });
    if let Some(at) = as_of {
        body["as_of"] = json!(at);
    }
    let mut client = Client::connect(address).unwrap();
    let reply = client.post("/api/v1/features/batch", &body).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()["rows"].clone()
}

/// What a backup that was made says: its directory and its sequence.
fn backed_up(said: &str) -> (PathBuf, u64) {
    let path = said.lines().find(|line| line.starts_with('/')).unwrap();
    let sequence = path.rsplit('-').next().unwrap().parse().unwrap();
    (PathBuf::from(path), sequence)
}

#[test]
fn a_backup_under_pushes_is_restored_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let [data, to, other] = ["data", "backups", "other"].map(|name| root.path().join(name));
    let server = Server::start(&data, SETTINGS);
    define(&server);
    let first = push(&mut server.connect(), 0) - ROWS as u64;
    let (stop, pushed) = (AtomicBool::new(false), AtomicU64::new(0));
    let url = format!("http://{}", server.address());
    let backup = || backed_up(&expect(0, &["backup", text(&to), "--server", &url]));
    let mut backups = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.connect();
            let mut n = ROWS;
            while !stop.load(Ordering::Relaxed) {
                push(&mut client, n);
                n += ROWS;
                pushed.store(n as u64, Ordering::Relaxed);
            }
        });
        for wanted in [20_000, 40_000, 60_000] {
            while pushed.load(Ordering::Relaxed) < wanted {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            backups.push(backup());
        }
        let said = expect(0, &["verify", text(&data)]);
        assert!(said.contains("a server has it open"), "{said}");
        stop.store(true, Ordering::Relaxed);
    });
    for (number, (path, sequence)) in backups.iter().enumerate() {
        let said = expect(0, &["verify", text(path)]);
        assert!(said.contains(&format!("up to sequence {sequence}")), "{said}");
        assert!(!said.contains("rubbish") && !said.contains("torn"), "{said}");
        let restored = other.join(number.to_string());
        expect(0, &["restore", text(path), "--data", text(&restored)]);
        let copy = Server::start(&restored, SETTINGS);
        assert_eq!(copy.ready["sequence"].as_u64(), Some(*sequence));
        // The rows are dense, so the last of them says what the newest of each user is.
        let last = (*sequence - first) as i64 - 1;
        assert_eq!(last % ROWS, ROWS - 1, "a batch is there whole");
        let then = online(server.address(), Some(START + last));
        assert_eq!(online(copy.address(), None), then);
        for at in [START + last / 2, START + last / 3, START - 1] {
            let expected = online(server.address(), Some(at));
            assert_eq!(online(copy.address(), Some(at)), expected);
        }
        // It goes on by itself.
        assert_eq!(push(&mut copy.connect(), last + 1), sequence + ROWS as u64);
    }
    let sizes: Vec<u64> = backups.iter().map(|(_, sequence)| *sequence).collect();
    assert!(sizes.is_sorted() && sizes[0] < sizes[2], "{sizes:?}");
    let said = expect(0, &["verify", text(&to)]);
    assert!(backups.iter().all(|(path, _)| said.contains(text(path))), "{said}");
    server.terminate();
    server.wait();

    let before = Server::start(&data, SETTINGS);
    let now = online(before.address(), None);
    before.terminate();
    before.wait();
    expect(0, &["backup", text(&to), "--data", text(&data)]);
    // Merging may have replaced every file since the last one, but not since this.
    let said = expect(0, &["backup", text(&to), "--data", text(&data)]);
    assert!(!said.contains(" 0 bytes kept once"), "{said}");
    expect(0, &["verify", text(&data)]);
    // The newest is taken, and nothing is written over.
    expect(2, &["restore", text(&to), "--data", text(&data)]);
    let newest = other.join("newest");
    expect(0, &["restore", text(&to), "--data", text(&newest)]);
    let copy = Server::start(&newest, SETTINGS);
    assert_eq!(online(copy.address(), None), now);
}

#[test]
fn damage_is_named_and_damaged_backups_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let [data, to, other] = ["data", "backups", "other"].map(|name| root.path().join(name));
    let server = Server::start(&data, SETTINGS);
    define(&server);
    for n in 0..40 {
        push(&mut server.connect(), n * ROWS);
    }
    let sealed_files = || {
        let stats = server.connect().send("GET", "/api/v1/stats", &[], b"").unwrap().json();
        stats["numbers"]["history_sealed_files"].as_f64().unwrap()
    };
    let row = json!({ "view": "on_disk", "entity_id": "u1", "features": { "y": 1 } });
    let reply = server.connect().post("/api/v1/features/push", &json!({ "rows": [row] })).unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    while sealed_files() < 1.0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let files = std::fs::read_dir(data.join("history")).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    let sealed = files.find(|path| path.extension().is_some_and(|end| end == "sealed")).unwrap();
    let stats = server.connect().send("GET", "/api/v1/stats", &[], b"").unwrap().json();
    let sizes = &stats["sizes"][0];
    assert_eq!(sizes["view"], "v@1");
    for place in ["sealed", "log", "memory"] {
        let bytes = sizes[format!("{place}_bytes_per_row")].as_f64();
        // 100 of text in the mean, up to 200 in the newest rows, and a bit more around it.
        assert!(bytes.is_some_and(|bytes| bytes > 100.0 && bytes < 300.0), "{sizes}");
    }
    refusals(&server);
    server.terminate();
    server.wait();
    let said = expect(0, &["backup", text(&to), "--data", text(&data)]);
    every_file_is_described(&data);
    every_file_is_described(&to);
    let (backup, _) = backed_up(&said);
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    let copy = backup.join("history").join(sealed.file_name().unwrap());
    for (store, file) in [(&data, &sealed), (&backup, &copy)] {
        flip(file, 1000);
        let said = expect(1, &["verify", text(store)]);
        let named = ["damage: ", text(file), "at byte 64", "rows of view v", "restore"];
        assert!(named.iter().all(|word| said.contains(word)), "{said}");
    }
    // A server that starts on it finds it by itself, says so, and goes on.
    let server = Server::start(&data, SETTINGS);
    let ready = || server.connect().send("GET", "/ready", &[], b"").unwrap().json();
    while ready()["damaged_files"] != 1 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let stats = server.connect().send("GET", "/api/v1/stats", &[], b"").unwrap().json();
    assert_eq!(stats["numbers"]["damaged_files"], 1.0);
    assert_eq!(stats["damage"][0]["file"], text(&sealed));
    assert_eq!(stats["damage"][0]["offset"], 64);
    assert_eq!(online(server.address(), None)[0][0], json!(40 * ROWS - USERS));
    server.terminate();
    assert!(server.wait().success());
    let said = expect(1, &["verify", text(&to)]);
    assert!(said.contains(text(&copy)), "{said}");
    let said = expect(1, &["restore", text(&to), "--data", text(&other)]);
    assert!(said.contains("does not verify") && !other.exists(), "{said}");
    expect(1, &["backup", text(&to), "--data", text(&data)]);
    let left = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<PathBuf> = left.filter(|path| path.is_dir()).collect();
    assert!(left.len() == 1 && left[0] == backup, "{left:?}");
    flip(&sealed, 1000);
    flip(&copy, 1000);
    expect(0, &["verify", text(&data)]);
    std::fs::remove_dir_all(data.join("checkpoint")).unwrap();
    expect(0, &["verify", text(&data)]);
    std::fs::remove_file(&copy).unwrap();
    let said = expect(1, &["verify", text(&backup)]);
    assert!(said.contains("is missing"), "{said}");
    // A backup whose marker is damaged is not passed over beside others.
    let said = expect(0, &["backup", text(&to), "--data", text(&data)]);
    let (whole, _) = backed_up(&said);
    flip(&backup.join("BACKUP"), 30);
    let said = expect(1, &["verify", text(&to)]);
    assert!(said.contains(text(&backup.join("BACKUP"))) && said.contains(text(&whole)), "{said}");
    let said = expect(1, &["restore", text(&to), "--data", text(&other)]);
    assert!(said.contains("name the one to restore") && !other.exists(), "{said}");
    expect(0, &["restore", text(&whole), "--data", text(&other)]);
    for wrong in [["verify", "/nowhere"], ["restore", "/nowhere"], ["backup", "--data"]] {
        expect(2, &wrong);
    }
}

/// What a door says to those who ask for a backup that is not there, or for too many.
fn refusals(server: &Server) {
    let mut client = server.connect();
    let mut ask = |method: &str, path: &str| {
        let path = format!("/api/v1/backups{path}");
        client.send(method, &path, &[], b"").unwrap()
    };
    let begun: Vec<Value> = (0..4).map(|_| ask("POST", "").json()).collect();
    let reply = ask("POST", "");
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!("OVERLOADED")));
    let id = begun[0]["id"].as_u64().unwrap();
    let file = &begun[0]["files"][0];
    let (name, bytes) = (file["name"].as_str().unwrap(), file["bytes"].as_u64().unwrap());
    let part = ask("GET", &format!("/{id}/{name}?offset={}&length=100", bytes - 10));
    assert_eq!((part.status, part.body.len()), (200, 10));
    for (path, status) in [
        (format!("/{id}/MANIFEST"), 404),
        (format!("/{id}/..%2fMANIFEST"), 404),
        (format!("/999/{name}"), 404),
        (format!("/x/{name}"), 400),
        (format!("/{id}/{name}?offset=x"), 400),
    ] {
        assert_eq!(ask("GET", &path).status, status, "{path}");
    }
    for begun in &begun {
        assert_eq!(ask("DELETE", &format!("/{}", begun["id"])).status, 200);
    }
    assert_eq!(ask("DELETE", &format!("/{id}")).status, 404);
}

/// `larder inspect` has words for whatever lies in a data directory or a directory of backups.
fn every_file_is_described(directory: &Path) {
    let mut described = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let said = expect(0, &["inspect", text(&path)]);
                assert!(!said.contains("unreadable") && !said.is_empty(), "{said}");
                described += 1;
            }
        }
    }
    assert!(described > 4, "{described}");
}

#[test]
fn an_older_backup_is_restored_without_whom_a_newer_one_knows_to_be_erased() {
    let root = tempfile::tempdir().unwrap();
    let [data, to, old] = ["data", "backups", "old"].map(|name| root.path().join(name));
    let server = Server::start(&data, SETTINGS);
    define(&server);
    push(&mut server.connect(), 0);
    let url = format!("http://{}", server.address());
    let (first, _) = backed_up(&expect(0, &["backup", text(&to), "--server", &url]));
    let reply = server.connect().send("DELETE", "/api/v1/entities/user/u7", &[], b"").unwrap();
    assert_eq!(reply.status, 202, "{reply}");
    let erasure = reply.json()["erasure"].as_str().unwrap().to_owned();
    let (second, _) = backed_up(&expect(0, &["backup", text(&to), "--server", &url]));
    let expected = online(server.address(), None);
    assert_eq!(expected[7], json!([null, null]));
    let said = expect(0, &["restore", text(&first), "--data", text(&old)]);
    assert!(
        said.contains("1 entity that was erased after this backup is erased here too"),
        "{said}"
    );
    let named = said.lines().find(|line| line.starts_with(&format!("erasure {erasure} of ")));
    let known = format!("known to {}", second.display());
    assert!(named.is_some_and(|line| line.ends_with(&known)), "{said}");
    expect(0, &["verify", text(&old)]);
    let restored = Server::start(&old, SETTINGS);
    assert_eq!(online(restored.address(), None), expected);
}
