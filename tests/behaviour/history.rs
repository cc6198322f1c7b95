//! Reads of features as they stood: rows, columns, Arrow and Parquet, and what was known when.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, StringArray, TimestampMillisecondArray};
use serde_json::{Value, json};

use crate::door::{ARROW, Door, PARQUET, steady};
use crate::process::Reply;
use crate::tables::{arrow, column, parquet, read_arrow, read_parquet, table};

const HISTORICAL: &str = "/api/v1/features/historical";

#[test]
fn history_answers_as_the_contract_says() {
    let mut door = Door::open(&[]);
    let ages = json!({"view": "user_profile", "columns": {
        "user_id": ["u1", "u1", "u1"],
        "event_timestamp": [
            "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-02T00:00:00+00:00",
        ],
        "age": [1, 3, 2],
    }});
    let pushed = door.post("/api/v1/features/push", ages);
    door.equal("all of it is older", &pushed["superseded"], &json!(3));
    rows(&mut door);
    columns(&mut door);
    tables_in_and_out(&mut door);
    several_entities(&mut door);
    training_sets(&mut door);
    door.finish();
}

fn rows(door: &mut Door) {
    let row = |at: &str| json!({"entity_id": "u1", "timestamp": at});
    let mut check = |what: &str, at: &str, known_at: Value, expected: Value| {
        let body = json!({
            "entity_type": "user", "feature_names": ["user_profile:age"],
            "rows": [row(at)], "known_at": known_at,
        });
        let answer = door.post(HISTORICAL, body);
        door.equal(&format!("{what} at {at}"), &answer["rows"], &json!([[expected]]));
    };
    check("before", "2025-12-31T23:59:59.999999Z", Value::Null, Value::Null);
    check("the instant itself", "2026-01-01T00:00:00Z", Value::Null, json!(1));
    check("late data", "2026-01-02T12:00:00Z", Value::Null, json!(2));
    check("with an offset", "2026-01-03T01:00:00+01:00", Value::Null, json!(3));
    check("the newest", "2026-02-01T00:00:00Z", Value::Null, json!(30));
    check("the future", "2126-01-01T00:00:00Z", Value::Null, json!(30));
    let then = json!("2026-03-01T00:00:00Z");
    check("known before it arrived", "2026-02-01T00:00:00Z", then, Value::Null);
    check("known by now", "2026-02-01T00:00:00Z", json!("2126-01-01T00:00:00Z"), json!(30));
    let body = json!({
        "entity_type": "user", "feature_names": ["user_profile:age", "user_profile:country"],
        "include": ["statuses", "event_timestamps", "defaulted"],
        "rows": [row("2026-01-02T00:00:00Z"), {"entity_id": "nobody", "timestamp": 1_769_860_800_000_000_i64}],
    });
    let answer = steady(door.post(HISTORICAL, body));
    let expected = json!({
        "feature_names": ["user_profile:age", "user_profile:country"],
        "rows": [[2, "unknown"], [null, "unknown"]],
        "statuses": [["PRESENT", "NOT_FOUND"], ["NOT_FOUND", "NOT_FOUND"]],
        "event_timestamps": [["2026-01-02T00:00:00.000000Z", null], [null, null]],
        "defaulted": [[false, true], [false, true]],
        "metadata": {"missing": 3, "not_found": 1, "cache_hit": false, "fallback": false},
    });
    door.equal("rows", &answer, &expected);
}

fn columns(door: &mut Door) {
    let body = json!({
        "entity_type": "user", "feature_names": ["user_profile:age"], "time_unit": "s",
        "columns": {"entity_id": ["u1", "u1"], "timestamp": [1_767_225_600, 1_767_398_400.5]},
    });
    let answer = door.post(HISTORICAL, body);
    door.equal("columns in seconds", &answer["rows"], &json!([[1], [3]]));
    let body = json!({
        "entity_type": "user", "service": "credit", "columns": {"timestamp": [], "entity_id": []},
    });
    let reply = door.ask("POST", HISTORICAL, &[], body.to_string().as_bytes());
    door.equal("a service needs all its entities", &reply.json()["code"], &json!("MISSING_ENTITY"));
}

fn tables_in_and_out(door: &mut Door) {
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["u1", "nobody", "u1"]));
    let day = 86_400_000;
    let first = 1_767_225_600_000;
    let times = TimestampMillisecondArray::from(vec![first, first, first + 3 * day]);
    let spine = table(&[("user_id", ids), ("timestamp", Arc::new(times.with_timezone("UTC")))]);
    let target = format!("{HISTORICAL}?entity_type=user&feature_names=user_profile:age");
    for (sent, body) in [(ARROW, arrow(&spine)), (PARQUET, parquet(&spine))] {
        let reply = door.ask("POST", &target, &[sent], &body);
        let answer = if reply.status == 200 { reply.json() } else { json!(reply.to_string()) };
        door.equal(sent.1, &answer["rows"], &json!([[1], [null], [3]]));
        for wanted in [ARROW, PARQUET] {
            let headers = [sent, ("accept", wanted.1)];
            let reply = door.ask("POST", &target, &headers, &body);
            door.equal(wanted.1, &json!(reply.header("content-type")), &json!(wanted.1));
            let read = if wanted == ARROW { read_arrow } else { read_parquet };
            let found = read(&reply.body);
            let ages = column::<Int32Array>(&found, "user_profile:age");
            let ages: Vec<Option<i32>> = ages.iter().collect();
            door.equal(wanted.1, &json!(ages), &json!([1, null, 3]));
        }
    }
}

/// A Parquet file that is answered in Parquet keeps its columns.
fn training_sets(door: &mut Door) {
    let day = 86_400_000;
    let times = TimestampMillisecondArray::from_iter_values(
        [0, 3, 0, 3].map(|days| 1_767_225_600_000 + days * day),
    );
    let labels = table(&[
        ("customer", Arc::new(StringArray::from(vec!["u1", "u1", "nobody", "u1"]))),
        ("when", Arc::new(times)),
        ("label", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(0.5), Some(1.0)]))),
    ]);
    let asked = "feature_names=user_profile:age&entity_map=user%3Dcustomer&timestamp=when";
    let headers = [PARQUET, ("accept", PARQUET.1)];
    let made = |door: &mut Door, more: &str| {
        let target = format!("{HISTORICAL}?{asked}{more}");
        door.ask("POST", &target, &headers, &parquet(&labels))
    };
    let check = |door: &mut Door, name: &str, reply: Reply, expected: Value| {
        let found = read_parquet(&reply.body);
        door.holds("label columns", found.columns()[..3] == *labels.columns());
        let ages: Vec<Option<i32>> = column::<Int32Array>(&found, name).iter().collect();
        door.equal(name, &json!(ages), &expected);
        door.holds("nothing else", found.num_columns() == 4);
    };
    let reply = made(door, "");
    check(door, "user_profile:age", reply, json!([1, 3, null, 3]));
    let reply = made(door, "&names=view__feature");
    check(door, "user_profile__age", reply, json!([1, 3, null, 3]));
    // All of it arrived long after it happened.
    let reply = made(door, "&names=bare&known_at_label_time=true");
    check(door, "age", reply, json!([null, null, null, null]));
    let reply = made(door, "&known_at=2126-01-01T00:00:00Z&names=bare");
    check(door, "age", reply, json!([1, 3, null, 3]));
    let reply = made(door, "&include=statuses");
    let found = read_parquet(&reply.body);
    let statuses = column::<StringArray>(&found, "user_profile:age__status");
    door.equal("statuses", &json!(statuses.value(2)), &json!("NOT_FOUND"));
    let mut refused = |more: &str, code: &str, says: &str| {
        let reply = made(door, more);
        let (found, expected) = (reply.json()["code"].clone(), json!(code));
        door.equal(more, &found, &expected);
        door.holds(says, reply.to_string().contains(says));
    };
    refused("&names=short", "MALFORMED_REQUEST", "view__feature, bare or reference");
    refused("&known_at=2126-01-01&known_at_label_time=true", "MALFORMED_REQUEST", "not both");
    refused("&nam=bare", "MALFORMED_REQUEST", "nam");
    let target = format!("{HISTORICAL}?feature_names=user_profile:age&entity_map=user");
    let reply = door.ask("POST", &target, &headers, &parquet(&labels));
    door.equal("no column", &reply.json()["code"], &json!("MALFORMED_REQUEST"));
    let target = format!("{HISTORICAL}?feature_names=user_profile:age&timestamp=when");
    let reply = door.ask("POST", &target, &headers, &parquet(&labels));
    door.equal("no key", &reply.json()["code"], &json!("INVALID_VALUE"));
    door.equal("no key", &reply.json()["errors"][0]["field"], &json!("user_id"));
    let reply = door.ask("POST", &target, &headers, b"PAR1 is not all of it");
    door.equal("no Parquet", &reply.json()["code"], &json!("MALFORMED_REQUEST"));
    let reply = door.ask("POST", &target, &headers, b"");
    door.equal("nothing", &reply.json()["code"], &json!("MALFORMED_REQUEST"));
}

fn several_entities(door: &mut Door) {
    let at = "2026-02-01T00:00:00Z";
    let body = json!({"service": "trip", "rows": [
        {"entities": {"airport": "JFK", "dest_airport": "SFO"}, "timestamp": at},
        {"entities": {"airport": "SFO", "dest_airport": "LHR"}, "timestamp": at},
    ]});
    let answer = door.post(HISTORICAL, body);
    door.equal("roles by row", &answer["rows"], &json!([[75.5, 60.0], [60.0, null]]));
    let body = json!({"service": "trip", "columns": {
        "airport": ["JFK"], "dest_airport": ["SFO"], "timestamp": [at],
    }});
    let answer = door.post(HISTORICAL, body);
    door.equal("roles by column", &answer["rows"], &json!([[75.5, 60.0]]));
    let text = |values: &[&str]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let spine = table(&[
        ("airport", text(&["JFK"])),
        ("dest_airport", text(&["SFO"])),
        ("timestamp", text(&[at])),
    ]);
    let target = format!("{HISTORICAL}?service=trip");
    let reply = door.ask("POST", &target, &[ARROW, ("accept", ARROW.1)], &arrow(&spine));
    door.holds("roles in Arrow", reply.status == 200);
    if reply.status == 200 {
        let found = read_arrow(&reply.body);
        let temp = column::<Float64Array>(&found, "dest_temp").value(0);
        door.holds("roles in Arrow", temp == 60.0);
    }
}
