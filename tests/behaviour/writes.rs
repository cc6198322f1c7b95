//! Pushes by row, by column and in Arrow, idempotency keys, and loads.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float32Array, Float64Array, Int64Array, StringArray,
};
use arrow::datatypes::Int32Type;
use serde_json::{Value, json};

use crate::door::{ARROW, Door, JSON, PARQUET, is_problem};
use crate::tables::{arrow, parquet, table};

const PUSH: &str = "/api/v1/features/push";
const AT: &str = "2026-01-31T12:00:00Z";

#[test]
fn writes_do_what_the_contract_says() {
    let mut door = Door::open(&[]);
    by_row(&mut door);
    times(&mut door);
    by_column(&mut door);
    in_arrow(&mut door);
    repeats(&mut door);
    concurrent_repeats(&mut door);
    loads(&mut door);
    door.finish();
}

/// Features of a user as they stand.
fn stands(door: &mut Door, user: &str, names: &[&str]) -> Value {
    let body = json!({"entity_type": "user", "entity_id": user, "feature_names": names});
    let answer = door.post("/api/v1/features/online", body);
    names.iter().map(|name| answer["features"][name].clone()).collect()
}

fn push(user: &str, at: &str, features: &Value) -> Value {
    json!({"rows": [{"view": "user_profile", "entity_id": user, "event_timestamp": at,
        "features": features}]})
}

fn by_row(door: &mut Door) {
    let before = door.sequence();
    let body = push("w1", AT, &json!({"age": 30, "country": "AE"})).to_string();
    let reply = door.ask("POST", PUSH, &[JSON], body.as_bytes());
    let expected =
        json!({"accepted": 1, "superseded": 0, "sequence": before + 1, "durability": "sync"});
    door.equal("a push", &reply.json(), &expected);
    let header = reply.header("larder-sequence").and_then(|header| header.parse::<u64>().ok());
    door.equal("a push", &json!(header), &json!(before + 1));
    let names = ["user_profile:age", "user_profile:country"];
    let found = stands(door, "w1", &names);
    door.equal("a push", &found, &json!([30, "AE"]));
    let mut check = |what: &str, at: &str, features: Value, superseded: u64, expected: Value| {
        let answer = door.post(PUSH, push("w1", at, &features));
        door.equal(what, &answer["superseded"], &json!(superseded));
        let found = stands(door, "w1", &names);
        door.equal(what, &found, &expected);
    };
    let later = "2026-01-31T13:00:00Z";
    check("left out, it stays", later, json!({"age": 31}), 0, json!([31, "AE"]));
    check("null is written", later, json!({"country": null}), 0, json!([31, "unknown"]));
    let earlier = "2026-01-31T12:30:00Z";
    check("late, it changes nothing", earlier, json!({"age": 1}), 1, json!([31, "unknown"]));
    check(
        "late for one feature only",
        earlier,
        json!({"age": 2, "country": "SA"}),
        1,
        json!([31, "unknown"]),
    );
    check(
        "the same instant, the last counts",
        later,
        json!({"age": 32}),
        0,
        json!([32, "unknown"]),
    );
    let both = json!({"rows": [
        {"view": "user_profile", "entity_id": "w2", "event_timestamp": AT, "features": {"age": 1}},
        {"view": "user_account", "entity_id": "w2", "event_timestamp": AT, "features": {"age": 5}},
        {"view": "user_cold", "entity_id": "w2", "event_timestamp": AT, "features": {"points": 6}},
        {"view": "user_profile", "entity_id": "w2", "event_timestamp": AT, "features": {"age": 2}},
    ]});
    let answer = door.post(PUSH, both);
    door.equal("several views", &answer["accepted"], &json!(4));
    let found = stands(door, "w2", &["user_profile:age", "user_account:age", "user_cold:points"]);
    door.equal("in their order", &found, &json!([2, 5, 6]));
    let pandas = json!({"rows": [
        {"view": "user_profile", "entity_id": "w3", "features": {"age": 30.0, "visits": 1e3}},
    ]});
    door.post(PUSH, pandas);
    let found = stands(door, "w3", &["user_profile:age", "user_profile:visits"]);
    door.equal("integers with a point", &found, &json!([30, 1000]));
}

fn times(door: &mut Door) {
    let mut check = |what: &str, at: Value, unit: Option<&str>, expected: Option<&str>| {
        let row = json!({"view": "user_account", "entity_id": what, "event_timestamp": at,
            "features": {"level": 1}});
        let mut body = json!({"rows": [row]});
        if let Some(unit) = unit {
            body["time_unit"] = json!(unit);
        }
        door.post(PUSH, body);
        let ask = json!({"entity_type": "user", "entity_id": what, "feature_names": ["level"],
            "include": ["event_timestamps"]});
        let answer = door.post("/api/v1/features/online", ask);
        let found = answer["event_timestamps"]["level"].as_str().unwrap_or_default().to_owned();
        match expected {
            Some(expected) => door.equal(what, &json!(found), &json!(expected)),
            None => {
                let now = answer["metadata"]["timestamp"].as_str().unwrap_or_default();
                door.holds(what, !found.is_empty() && found.as_str() <= now);
            }
        }
    };
    let noon = Some("2026-01-31T12:00:00.000000Z");
    check("utc", json!("2026-01-31T12:00:00Z"), None, noon);
    check("zoneless", json!("2026-01-31T12:00:00"), None, noon);
    check("offset", json!("2026-01-31T16:00:00+04:00"), None, noon);
    check("micros", json!(1_769_860_800_000_000_i64), None, noon);
    check("millis", json!(1_769_860_800_000_i64), Some("ms"), noon);
    check("nanos", json!(1_769_860_800_000_000_000_i64), Some("ns"), noon);
    check("seconds", json!(1_769_860_800), Some("s"), noon);
    check("fractions", json!(1_769_860_800.25), Some("s"), Some("2026-01-31T12:00:00.250000Z"));
    // Ahead of arrival by less than the limit, it counts as the arrival.
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let soon = soon.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    check("a little ahead", json!(soon), Some("s"), None);
}

fn by_column(door: &mut Door) {
    let body = json!({"view": "user_profile", "columns": {
        "user_id": ["c1", "c2"],
        "event_timestamp": [1_769_860_800_000_000_i64, 1_769_860_800_000_000_i64],
        "age": [30, null],
        "country": ["AE", "SA"],
    }});
    let answer = door.post(PUSH, body);
    door.equal("columns", &answer["accepted"], &json!(2));
    let names = ["user_profile:age", "user_profile:country", "user_profile:score"];
    let found = stands(door, "c1", &names);
    door.equal("columns", &found, &json!([30, "AE", null]));
    let found = stands(door, "c2", &names);
    door.equal("columns", &found, &json!([null, "SA", null]));
    let target = format!("{PUSH}?view=route_stats");
    let body = json!({"columns": {"dest": ["Y"], "origin": ["X"], "flights": [3]}});
    let answer = door.post(&target, body);
    door.equal("a composite key", &answer["accepted"], &json!(1));
    let answer = door.get("/api/v1/features/route/X,Y");
    door.equal("a composite key", &answer["features"], &json!({"route_stats": {"flights": 3}}));
}

fn in_arrow(door: &mut Door) {
    let ids: DictionaryArray<Int32Type> = vec!["a1", "a2"].into_iter().collect();
    let at: ArrayRef = Arc::new(StringArray::from(vec![AT, AT]));
    let sent = table(&[
        ("user_id", Arc::new(ids)),
        ("event_timestamp", at),
        ("age", Arc::new(Float64Array::from(vec![Some(30.0), Some(f64::NAN)]))),
        ("score", Arc::new(Float32Array::from(vec![Some(0.25), None]))),
    ]);
    let target = format!("{PUSH}?view=user_profile");
    let reply = door.ask("POST", &target, &[ARROW], &arrow(&sent));
    door.equal("Arrow", &json!(reply.status), &json!(200));
    let answer = reply.json();
    let counts = json!([answer["accepted"], answer["nan_as_null"]]);
    door.equal("Arrow", &counts, &json!([2, 1]));
    let names = ["user_profile:age", "user_profile:score"];
    let found = stands(door, "a1", &names);
    door.equal("Arrow", &found, &json!([30, 0.25]));
    let found = stands(door, "a2", &names);
    door.equal("Arrow", &found, &json!([null, null]));
}

fn repeats(door: &mut Door) {
    let body = push("i1", AT, &json!({"age": 1})).to_string();
    let headers = [JSON, ("idempotency-key", "order-1")];
    let first = door.ask("POST", PUSH, &headers, body.as_bytes());
    let after = door.sequence();
    let again = door.ask("POST", PUSH, &headers, body.as_bytes());
    door.equal("a repeat", &again.json(), &first.json());
    let now = door.sequence();
    door.equal("a repeat writes nothing", &json!(now), &json!(after));
    let other = push("i1", AT, &json!({"age": 2})).to_string();
    let wrong = door.ask("POST", PUSH, &headers, other.as_bytes());
    let found = is_problem(&wrong, (422, "IDEMPOTENCY_MISMATCH"), "order-1");
    door.holds("another body", found.is_ok());
    let bad = push("i2", AT, &json!({"age": "x"})).to_string();
    let headers = [JSON, ("idempotency-key", "order-2")];
    let refused = door.ask("POST", PUSH, &headers, bad.as_bytes());
    door.equal("a refusal", &json!(refused.status), &json!(400));
    let good = push("i2", AT, &json!({"age": 5})).to_string();
    let taken = door.ask("POST", PUSH, &headers, good.as_bytes());
    door.equal("takes no key", &json!(taken.status), &json!(200));
}

fn concurrent_repeats(door: &mut Door) {
    let body = push("i3", AT, &json!({"age": 1})).to_string();
    let before = door.sequence();
    let server = &door.server;
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = || {
            let headers = [JSON, ("idempotency-key", "at-once")];
            let reply = server.connect().send("POST", PUSH, &headers, body.as_bytes());
            let reply = reply.expect("an answer");
            assert_eq!(reply.status, 200, "{reply}");
            reply.json()
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        all.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let after = door.sequence();
    door.equal("written once", &json!(after), &json!(before + 1));
    door.holds("one answer", answers.iter().all(|answer| *answer == answers[0]));
}

fn loads(door: &mut Door) {
    let weather = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/flights/weather.parquet");
    let file = std::fs::read(weather).expect("the example is there");
    let definitions = json!({
        "entity": {"origin": {"join_keys": ["origin"]}},
        "view": {"observed": {"entity": "origin",
            "features": {"temp": "float64", "visib": "float64", "wind_dir": "float64"}}},
    });
    door.post("/api/v1/features/register", definitions);
    let before = door.sequence();
    let reply = door.ask("POST", "/api/v1/load?view=observed", &[PARQUET], &file);
    door.equal("a load", &json!(reply.status), &json!(200));
    let answer = reply.json();
    let counts = json!([answer["rows"], answer["written"], answer["superseded"]]);
    door.equal("a load", &counts, &json!([1713, 1713, 1710]));
    door.equal("a load", &answer["sequence"], &json!(before + 1713));
    let ignored = answer["ignored_columns"].as_array().map_or(0, Vec::len);
    door.holds("other columns are named", ignored >= 5);
    let count = door.get("/api/v1/entities/origin/count");
    door.equal("airports", &count["count"], &json!(3));
    let again = door.ask("POST", "/api/v1/load?view=observed", &[PARQUET], &file).json();
    door.equal("again", &again["written"], &json!(0));
    door.holds("again", again["loaded_before"].is_string());
    let arrived = "/api/v1/load?view=observed&arrival=event_timestamp";
    let known = door.ask("POST", arrived, &[PARQUET], &file).json();
    let counts = json!([known["rows"], known["written"], known["skipped"]]);
    door.equal("read in another way, the rows are known", &counts, &json!([1713, 0, 1713]));
    let reply = door.ask("POST", "/api/v1/load?view=observed&arrival=seen", &[PARQUET], &file);
    door.equal("no such column", &json!(reply.status), &json!(400));
    door.equal("no such column", &reply.json()["errors"][0]["field"], &json!("seen"));
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["p1", "p2"]));
    let levels: ArrayRef = Arc::new(Int64Array::from(vec![Some(4), None]));
    let file = parquet(&table(&[("user_id", ids), ("level", levels)]));
    let target = "/api/v1/load?view=user_account&at=2026-01-31T12:00:00Z";
    let reply = door.ask("POST", target, &[PARQUET], &file);
    door.equal("without a time column", &json!(reply.status), &json!(200));
    let found = stands(door, "p1", &["level"]);
    door.equal("without a time column", &found, &json!([4]));
}
