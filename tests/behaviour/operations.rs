//! Everyday operations: listings of entities, the cache, health, metrics, the API's description,
//! the other listeners, and the end.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::door::{Door, JSON, eventually, is_problem};
use crate::process::Client;

#[test]
fn operators_get_what_the_contract_says() {
    let mut door = Door::open(&[
        ("LARDER__SERVER__OPERATIONS_LISTEN", "127.0.0.1:0"),
        ("LARDER__SERVER__UNIX_SOCKET", "larder.sock"),
        ("LARDER__STORAGE__CHECKPOINT_INTERVAL", "100ms"),
    ]);
    entities(&mut door);
    cache(&mut door);
    health(&mut door);
    metrics(&mut door);
    description(&mut door);
    page(&mut door);
    request_ids(&mut door);
    other_listeners(&mut door);
    door.finish();
}

fn entities(door: &mut Door) {
    let ids: Vec<String> = (0..25).map(|n| format!("list-{n:02}")).collect();
    let levels = vec![1; ids.len()];
    let body = json!({"view": "user_account", "columns": {"user_id": ids, "level": levels}});
    door.post("/api/v1/features/push", body);
    let mut found = Vec::new();
    let mut cursor = String::new();
    for page in 0..4 {
        let target = format!("/api/v1/entities/user?prefix=list-&limit=10{cursor}");
        let answer = door.get(&target);
        found.extend(answer["entity_ids"].as_array().cloned().unwrap_or_default());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                door.equal("three pages", &json!(page), &json!(2));
                break;
            }
        }
    }
    let distinct: BTreeSet<String> = found.iter().map(Value::to_string).collect();
    door.equal("every id once", &json!([found.len(), distinct.len()]), &json!([25, 25]));
    let count = door.get("/api/v1/entities/user/count");
    door.equal("count", &count, &json!({"entity_type": "user", "count": 26}));
    let routes = door.get("/api/v1/entities/route");
    let ids = routes["entity_ids"].to_string();
    door.holds("composite", ids.contains(r#"{"origin":"JFK","dest":"SFO"}"#));
    let merchants = door.get("/api/v1/entities/merchant");
    door.equal("integers", &merchants["entity_ids"], &json!([7]));
    let none = door.get("/api/v1/entities/user?prefix=nobody");
    door.equal("none", &none["entity_ids"], &json!([]));
}

fn cache(door: &mut Door) {
    let ask =
        json!({"entity_type": "user", "entity_id": "u1", "feature_names": ["user_cold:points"]});
    let online = "/api/v1/features/online";
    // Once the row has left the overlay, a read brings it into the cache; the copy dropped before
    // that says only that there was no row yet.
    eventually("a cached row that is dropped", || {
        let found = door.post(online, &ask);
        door.equal("on disk", &found["features"], &json!({"user_cold:points": 5}));
        let target = "/api/v1/cache/invalidate/u1?entity_type=user";
        let reply = door.ask("DELETE", target, &[], b"").json();
        let again = door.post(online, &ask);
        door.equal("on disk still", &again["features"], &found["features"]);
        let dropped = reply["invalidated"] == 1;
        (dropped && again["metadata"]["cache_hit"] == false).then_some(())
    });
    let answer = door.post(online, &ask);
    door.equal("then from the cache", &answer["metadata"]["cache_hit"], &json!(true));
}

fn health(door: &mut Door) {
    let health = door.get("/health");
    door.equal("health", &health, &json!({"status": "ok"}));
    let mut ready = door.get("/ready");
    let recovered = ready["recovered_ms"].take();
    door.holds("recovered_ms", recovered.is_u64());
    let sequence = ready["sequence"].take();
    door.holds("sequence", sequence.as_u64() > Some(0));
    let expected = json!({
        "status": "ready", "reads": "open", "writes": "open", "sequence": null,
        "recovered_ms": null,
    });
    door.equal("ready", &ready, &expected);
}

fn metrics(door: &mut Door) {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `larder_"));
    let names: Vec<String> =
        rows.filter_map(|row| Some(format!("larder_{}", row.split('`').next()?))).collect();
    assert!(names.len() > 30, "{names:?}");
    door.ask("GET", "/nothing", &[], b"");
    let found = eventually("a checkpoint", || {
        let reply = door.ask("GET", "/metrics", &[], b"");
        let text = String::from_utf8(reply.body).expect("text");
        text.contains("\nlarder_checkpoint_age_seconds ").then_some(text)
    });
    for name in names {
        let there = found.lines().any(|line| {
            line.strip_prefix(&name).is_some_and(|rest| {
                ["{", " ", "_bucket", "_sum", "_count"].iter().any(|next| rest.starts_with(next))
            })
        });
        door.holds(&format!("{name} is there"), there);
    }
    for line in found.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        door.holds(&format!("a number in {line:?}"), value.is_some());
    }
    let stats = door.get("/api/v1/stats").to_string();
    for word in ["p50", "p99", "p99.9", "online", "push"] {
        door.holds(&format!("{word} in stats"), stats.contains(&format!("\"{word}\"")));
    }
}

/// Every route that is described is there, and every route of the contract is described.
fn description(door: &mut Door) {
    let document = door.get("/openapi.json");
    let paths = document["paths"].as_object().cloned().unwrap_or_default();
    for (path, verbs) in &paths {
        let target = path.replace(['{', '}'], "");
        for verb in verbs.as_object().into_iter().flat_map(|verbs| verbs.keys()) {
            let reply = door.ask(&verb.to_uppercase(), &target, &[], b"");
            let body = String::from_utf8_lossy(&reply.body);
            let there = reply.status != 405 && !body.contains("there is no /");
            door.holds(&format!("{verb} {target}"), there);
        }
    }
    for route in [
        "post /api/v1/features/online",
        "post /api/v1/features/batch",
        "post /api/v1/features/historical",
        "post /api/v1/features/push",
        "post /api/v1/features/register",
        "get /api/v1/features",
        "get /api/v1/features/{name}",
        "get /api/v1/features/{entity_type}/{entity_id}",
        "get /api/v1/entities",
        "get /api/v1/entities/{entity_type}",
        "get /api/v1/entities/{entity_type}/count",
        "get /api/v1/views",
        "get /api/v1/views/{view}",
        "delete /api/v1/views/{view}",
        "get /api/v1/services",
        "get /api/v1/services/{service}",
        "delete /api/v1/services/{service}",
        "delete /api/v1/cache/invalidate/{entity_id}",
        "post /api/v1/load",
        "post /api/v1/backups",
        "get /api/v1/backups/{backup}/{file}",
        "delete /api/v1/backups/{backup}",
        "get /api/v1/stats",
        "get /health",
        "get /ready",
        "get /metrics",
    ] {
        let (verb, path) = route.split_once(' ').expect("a verb and a path");
        let described = paths.get(path).is_some_and(|verbs| verbs.get(verb).is_some());
        door.holds(&format!("{route} is described"), described);
    }
}

fn page(door: &mut Door) {
    let moved = door.ask("GET", "/docs", &[], b"");
    door.equal("/docs", &json!([moved.status, moved.header("location")]), &json!([308, "/docs/"]));
    let page = door.ask("GET", "/docs/", &[], b"");
    let html = page.header("content-type").is_some_and(|found| found.starts_with("text/html"));
    door.holds("HTML", page.status == 200 && html);
    let text = String::from_utf8(page.body).expect("text");
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for link in text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
            let outside = link.contains("//") || link.starts_with("data:");
            door.holds(&format!("{link} is here"), !outside);
            let target = format!("/docs/{}", link.trim_start_matches("./"));
            let file = door.ask("GET", &target, &[], b"");
            door.equal(&target, &json!(file.status), &json!(200));
            files += 1;
        }
    }
    door.holds("the page has files", files > 2);
}

fn request_ids(door: &mut Door) {
    let given = door.ask("GET", "/health", &[("x-request-id", "abc-123")], b"");
    door.equal("given", &json!(given.header("x-request-id")), &json!("abc-123"));
    let ids: Vec<Option<String>> = (0..2)
        .map(|_| door.ask("GET", "/health", &[], b"").header("x-request-id").map(str::to_owned))
        .collect();
    door.holds("made up", ids[0].is_some() && ids[0] != ids[1]);
}

fn other_listeners(door: &mut Door) {
    let operations = door.server.ready["operations"].as_str().and_then(|text| text.parse().ok());
    let mut operations = Client::connect(operations.expect("an address")).expect("it accepts");
    for target in ["/health", "/ready", "/metrics"] {
        let reply = operations.send("GET", target, &[], b"").expect("an answer");
        door.equal(target, &json!(reply.status), &json!(200));
    }
    let target = "/api/v1/features/online";
    let reply = operations.send("POST", target, &[JSON], b"{}").expect("an answer");
    let refused = is_problem(&reply, (404, "NO_SUCH_ROUTE"), "");
    door.holds("no API for operations", refused.is_ok());
    let socket = UnixStream::connect(door.directory().join("larder.sock")).expect("it listens");
    let ask = json!({"entity_type": "user", "entity_id": "u1", "feature_names": ["level"]});
    let reply = Client::new(socket).send("POST", target, &[JSON], ask.to_string().as_bytes());
    let features = reply.expect("an answer").json()["features"].clone();
    door.equal("over the Unix socket", &features, &json!({"level": 2}));
}

#[test]
fn a_drain_withdraws_readiness_first() {
    let door = Door::open(&[("LARDER__SERVER__DRAIN_DELAY", "2s")]);
    let mut idle = door.server.connect();
    assert_eq!(idle.send("GET", "/health", &[], b"").expect("an answer").status, 200);
    door.server.terminate();
    let reply = eventually("draining", || {
        let reply = door.server.connect().send("GET", "/ready", &[], b"").expect("an answer");
        (reply.status == 503).then_some(reply)
    });
    is_problem(&reply, (503, "DRAINING"), "").expect("a refusal");
    // Whoever still comes is served: balancers have not noticed yet.
    let mut late = door.server.connect();
    assert_eq!(late.send("GET", "/health", &[], b"").expect("an answer").status, 200);
    let row = json!({"view": "user_account", "entity_id": "late", "features": {"level": 9}});
    let pushed = late.post("/api/v1/features/push", &json!({ "rows": [row] }));
    assert_eq!(pushed.expect("an answer").status, 200);
    let address = door.server.address();
    eventually("a closed door", || {
        std::thread::sleep(Duration::from_millis(20));
        Client::connect(address).err()
    });
    let directory = door.directory();
    let Door { server, .. } = door;
    assert_eq!(server.wait().code(), Some(0));
    drop(directory);
}
