//! Runs the program as a person would, against its own static server.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value as Json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

/// Ends the server with the test.
struct Server(Child, String);

impl Server {
    fn start() -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["static", "--listen", "127.0.0.1:0", "--answer-bytes", "1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self(child, address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scenario(name: &str) -> String {
    format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program; its results and the page it wrote.
fn results(folder: &Path, arguments: &[&str]) -> (Json, String) {
    let (json, html) = (folder.join("a.json"), folder.join("a.html"));
    let output = Command::new(PROGRAM)
        .args(arguments)
        .args(["--duration", "300ms", "--warmup", "50ms"])
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(json.exists(), "{said}");
    let results = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    (results, std::fs::read_to_string(html).unwrap())
}

#[test]
fn a_run_a_comparison_and_a_ceiling_leave_results() {
    let server = Server::start();
    let target = format!("static://{}", server.1);
    let folder = tempfile::tempdir().unwrap();

    let (batch, online) = (scenario("batch-150x5"), scenario("online-10"));
    let run = ["run", &batch, &online, "--target", &target, "--rate", "500", "--threads", "2"];
    let (json, page) = results(folder.path(), &run);
    let measurements = json["measurements"].as_array().unwrap();
    assert_eq!(measurements.len(), 2);
    for measurement in measurements {
        assert_eq!(measurement["errors"], serde_json::json!({}), "{measurement}");
        assert!(measurement["answered"].as_u64().unwrap() > 50, "{measurement}");
        // Head and body of each answer.
        let bytes = measurement["received_bytes_per_second"].as_f64().unwrap();
        assert!(bytes > 1_000.0 * measurement["throughput"].as_f64().unwrap(), "{measurement}");
    }
    assert_eq!(page.matches("<svg").count(), 3);
    for outside in ["http-equiv", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "the page has {outside}");
    }

    let compare = ["run", &online, "--closed", "--rounds", "2", "--compare", &target, &target];
    let (json, _) = results(folder.path(), &compare);
    assert_eq!(json["measurements"].as_array().unwrap().len(), 4);
    assert_eq!(json["comparisons"][0]["rounds"], 2);

    let ceiling = ["ceiling", &online, "--rounds", "2", "--target", &target];
    let (json, _) = results(folder.path(), &ceiling);
    assert_eq!(json["ceilings"][0]["body_bytes"], 1_000);
    assert!(json["ceilings"][0]["share"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_not_there_is_said() {
    let arguments = ["run", &scenario("online-10"), "--target", "http://127.0.0.1:1"];
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot connect to http://127.0.0.1:1"), "{said}");
}
