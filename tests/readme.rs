//! Runs the README's tour as a reader would, and holds what it prints against what the README says.
//!
//! All `sh` blocks between `<!-- tour -->` and `<!-- /tour -->` run in one shell that stops at the
//! first failure. A `json` or `text` block right after one is what that one prints.

use std::fmt::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Deserializer, Value};

/// Fields of JSON that differ from run to run.
const MASKED: [&str; 5] = ["latency_ms", "timestamp", "recovered_ms", "request_id", "sequence"];
/// Seconds until the tour is given up.
const PATIENCE: &str = "180";

/// A command of the tour, and what it prints where the README says so.
struct Step {
    commands: String,
    prints: Option<Printed>,
}

enum Printed {
    Json(String),
    Text(String),
}

fn tour(readme: &str) -> Vec<Step> {
    let (_, rest) = readme.split_once("<!-- tour -->").expect("the README has a tour");
    let (tour, _) = rest.split_once("<!-- /tour -->").expect("the tour ends");
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = tour.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let block = block.join("\n");
        let last = steps.last_mut();
        match (language, last) {
            ("sh", _) => steps.push(Step { commands: block, prints: None }),
            ("json", Some(last)) => last.prints = Some(Printed::Json(block)),
            ("text", Some(last)) => last.prints = Some(Printed::Text(block)),
            _ => {}
        }
    }
    steps
}

/// One script for all steps, so that the jobs of one are those of the next; the output of step `n`
/// goes to the file `n.out`.
fn script(steps: &[Step], port: u16) -> String {
    let mut script = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n".to_owned();
    for (number, step) in steps.iter().enumerate() {
        let commands = step.commands.replace("6566", &port.to_string());
        writeln!(script, "{{\n{commands}\n}} > \"$OUTPUT/{number}.out\"\necho {number} >&2")
            .expect("memory takes it");
    }
    script
}

fn masked(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if MASKED.contains(&name.as_str()) {
                    *value = Value::Null;
                } else {
                    masked(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(masked),
        _ => {}
    }
}

/// The JSON values of a text, one after another, without what differs from run to run.
fn values(text: &str) -> Vec<Value> {
    let values = Deserializer::from_str(text).into_iter();
    let value = |value: Result<Value, _>| {
        let mut value = value.unwrap_or_else(|error| panic!("{error} in {text}"));
        masked(&mut value);
        value
    };
    values.map(value).collect()
}

#[test]
fn the_tour_of_the_readme_runs_and_prints_what_it_says() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let steps = tour(&std::fs::read_to_string(readme).expect("there is a README"));
    assert!(!steps.is_empty(), "the tour has no commands");
    let place = tempfile::tempdir().expect("a directory");
    let [work, bin, output] = ["work", "bin", "output"].map(|name| place.path().join(name));
    for directory in [&work, &bin, &output] {
        std::fs::create_dir(directory).expect("a directory of our own");
    }
    let larder = env!("CARGO_BIN_EXE_larder");
    std::os::unix::fs::symlink(larder, bin.join("larder")).expect("a directory of our own");
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("a bound address").port();
    drop(free);
    let path = std::env::var("PATH").unwrap_or_default();
    let ran = Command::new("timeout")
        .args([PATIENCE, "bash", "-e", "-c", &script(&steps, port)])
        .current_dir(&work)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("OUTPUT", &output)
        .env("LARDER__SERVER__LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .output()
        .expect("bash and timeout are there");
    let printed = |number: usize| {
        std::fs::read_to_string(output.join(format!("{number}.out"))).unwrap_or_default()
    };
    if !ran.status.success() {
        let failed = (0..steps.len()).rfind(|number| !printed(*number).is_empty()).unwrap_or(0);
        let log = std::fs::read_to_string(work.join("server.log")).unwrap_or_default();
        panic!(
            "the tour ended with {}; the last output, of step {failed}:\n{}\nstderr:\n{}\nlog:\n{log}",
            ran.status,
            printed(failed),
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    for (number, step) in steps.iter().enumerate() {
        match &step.prints {
            Some(Printed::Json(expected)) => {
                assert_eq!(values(&printed(number)), values(expected), "{}", step.commands);
            }
            Some(Printed::Text(expected)) => {
                assert_eq!(printed(number).trim(), expected.trim(), "{}", step.commands);
            }
            None => {}
        }
    }
}
