//! Lookups: one entity, several, many, in columns, by service, as of an instant, by path.

use arrow::array::{
    Array, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use serde_json::{Value, json};

use crate::door::{ARROW, Door, JSON, is_problem, steady};
use crate::tables::{column, read_arrow, read_parquet};

const ONLINE: &str = "/api/v1/features/online";
const BATCH: &str = "/api/v1/features/batch";
const AT: &str = "2026-01-31T12:00:00.000000Z";

#[test]
fn lookups_answer_as_the_contract_says() {
    let mut door = Door::open(&[]);
    every_type(&mut door);
    one_entity(&mut door);
    several_entities(&mut door);
    statuses(&mut door);
    many_entities(&mut door);
    in_columns(&mut door);
    by_path(&mut door);
    waiting(&mut door);
    door.finish();
}

fn metadata(missing: &[&str], cache_hit: bool) -> Value {
    json!({"missing_features": missing, "cache_hit": cache_hit, "fallback": false})
}

fn every_type(door: &mut Door) {
    let names = [
        "age",
        "country",
        "score",
        "balance",
        "visits",
        "active",
        "seen",
        "photo",
        "embedding",
        "labels",
    ];
    let names = names.map(|name| format!("user_profile:{name}"));
    let body = json!({"entity_type": "user", "entity_id": "u1", "feature_names": names});
    let answer = steady(door.post(ONLINE, body));
    let expected = json!({
        "entity_type": "user",
        "entity_id": "u1",
        "features": {
            "user_profile:age": 30,
            "user_profile:country": "AE",
            "user_profile:score": 0.5,
            "user_profile:balance": null,
            "user_profile:visits": 9_223_372_036_854_775_807_i64,
            "user_profile:active": true,
            "user_profile:seen": "2026-01-30T08:00:00.000000Z",
            "user_profile:photo": "AAH/",
            "user_profile:embedding": [1.0, 2.5, -3.0],
            "user_profile:labels": ["a", "é"],
        },
        "metadata": metadata(&["user_profile:balance"], true),
    });
    door.equal("every type", &answer, &expected);
    let order: Vec<String> = answer["features"]
        .as_object()
        .map_or_else(Vec::new, |features| features.keys().cloned().collect());
    door.holds("in request order", order == names);
}

fn one_entity(door: &mut Door) {
    let mut check = |what: &str, ask: Value, features: Value, missing: &[&str]| {
        let mut body = json!({"entity_type": "user", "entity_id": "u1"});
        for (key, value) in ask.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let answer = door.post(ONLINE, body);
        door.equal(what, &answer["features"], &features);
        door.equal(what, &answer["metadata"]["missing_features"], &json!(missing));
    };
    let bare = json!({"feature_names": ["level"]});
    check("a bare name", bare, json!({"level": 2}), &[]);
    let version = json!({"feature_names": ["user_account@1:age"]});
    check("a version", version, json!({"user_account@1:age": 31}), &[]);
    let unknown = json!({
        "entity_id": "nobody",
        "feature_names": ["user_profile:age", "user_profile:country"],
    });
    check(
        "an unknown id is missing, with defaults",
        unknown,
        json!({"user_profile:age": null, "user_profile:country": "unknown"}),
        &["user_profile:age", "user_profile:country"],
    );
    let id = json!({"entity_id": {"user_id": "u1"}, "feature_names": ["level"]});
    check("an id by join key", id, json!({"level": 2}), &[]);
    let id = json!({"entity_id": ["u1"], "feature_names": ["level"]});
    check("an id as a list", id, json!({"level": 2}), &[]);
    let merchant = |id: Value| {
        json!({
            "entity_type": "merchant", "entity_id": id, "feature_names": ["merchant_risk:score"],
        })
    };
    let score = json!({"merchant_risk:score": 0.25});
    check("an integer key", merchant(json!(7)), score.clone(), &[]);
    check("an integer key as text", merchant(json!("7")), score, &[]);
    let route = |id: Value| json!({"entity_type": "route", "entity_id": id, "feature_names": ["route_stats:flights"]});
    let flights = json!({"route_stats:flights": 12});
    let by_name = json!({"dest": "SFO", "origin": "JFK"});
    check("a composite key by name", route(by_name), flights.clone(), &[]);
    check("a composite key in order", route(json!(["JFK", "SFO"])), flights, &[]);
    let cold = json!({"feature_names": ["user_cold:points", "user_cold:label"]});
    let found = json!({"user_cold:points": 5, "user_cold:label": "none"});
    check("a view on disk", cold, found, &["user_cold:label"]);
    let passing = json!({"feature_names": ["passing:x"]});
    check("a view that is only online", passing, json!({"passing:x": 1}), &[]);
    let strict = json!({"feature_names": ["level"], "fallback": "error"});
    check("strict about fallbacks", strict, json!({"level": 2}), &[]);
    let past = json!({"feature_names": ["archive:y"], "as_of": AT});
    check("a view that is only offline, as of", past, json!({"archive:y": 2}), &[]);
}

fn several_entities(door: &mut Door) {
    let body = json!({"entities": {"user": "u1", "merchant": 7}, "service": "credit"});
    let answer = steady(door.post(ONLINE, &body));
    let expected = json!({
        "entities": {"user": "u1", "merchant": 7},
        "features": {
            "user_profile:age": 30, "user_profile:country": "AE", "merchant_score": 0.25,
        },
        "metadata": metadata(&[], true),
    });
    door.equal("several entities", &answer, &expected);
    let body = json!({"entities": {"airport": "JFK", "dest_airport": "SFO"}, "service": "trip"});
    let answer = door.post(ONLINE, &body);
    let expected = json!({"weather:temp": 75.5, "dest_temp": 60.0});
    door.equal("the same view for two roles", &answer["features"], &expected);
    let target = format!("{ONLINE}?project=default");
    let answer = door.post(&target, &body);
    door.equal("the project by name", &answer["features"], &expected);
}

fn statuses(door: &mut Door) {
    let rows = json!({"rows": [
        {"view": "user_profile", "entity_id": "u2", "event_timestamp": AT,
            "features": {"age": null, "country": null, "balance": 7}},
    ]});
    door.post("/api/v1/features/push", rows);
    let names = ["age", "country", "balance", "score"];
    let names = names.map(|name| format!("user_profile:{name}"));
    let ask = |as_of: Option<&str>| {
        let include = ["statuses", "event_timestamps", "defaulted"];
        let mut body = json!({
            "entity_type": "user", "entity_id": "u2", "feature_names": names, "include": include,
        });
        if let Some(as_of) = as_of {
            body["as_of"] = json!(as_of);
        }
        body
    };
    let answer = door.post(ONLINE, ask(None));
    let by_name = |values: [Value; 4]| {
        let pairs = names.iter().cloned().zip(values);
        Value::Object(pairs.collect())
    };
    let [null, unknown] = [Value::Null, json!("unknown")];
    let expected = by_name([null.clone(), unknown.clone(), null.clone(), null.clone()]);
    door.equal("null, expired and absent", &answer["features"], &expected);
    let words = ["NULL_VALUE", "NULL_VALUE", "OUTSIDE_MAX_AGE", "NOT_FOUND"].map(|w| json!(w));
    door.equal("statuses", &answer["statuses"], &by_name(words));
    let times = [json!(AT), json!(AT), json!(AT), null.clone()];
    door.equal("event_timestamps", &answer["event_timestamps"], &by_name(times));
    let defaulted = [false, true, false, false].map(|defaulted| json!(defaulted));
    door.equal("defaulted", &answer["defaulted"], &by_name(defaulted));
    let mut balance = |as_of: &str, status: &str, value: Value| {
        let answer = door.post(ONLINE, ask(Some(as_of)));
        door.equal(as_of, &answer["statuses"]["user_profile:balance"], &json!(status));
        door.equal(as_of, &answer["features"]["user_profile:balance"], &value);
    };
    balance("2026-01-31T11:59:59.999999Z", "NOT_FOUND", null.clone());
    balance("2026-01-31T12:00:00Z", "PRESENT", json!(7.0));
    balance("2026-01-31T13:00:00Z", "PRESENT", json!(7.0));
    balance("2026-01-31T13:00:00.000001Z", "OUTSIDE_MAX_AGE", null);
}

fn many_entities(door: &mut Door) {
    let names = ["user_profile:age", "user_profile:country"];
    let body = json!({
        "entity_type": "user", "entity_ids": ["u1", "nobody", "u1"], "feature_names": names,
        "include": ["statuses", "event_timestamps"],
    });
    let answer = steady(door.post(BATCH, &body));
    let found = json!(["PRESENT", "PRESENT"]);
    let expected = json!({
        "feature_names": names,
        "rows": [[30, "AE"], [null, "unknown"], [30, "AE"]],
        "statuses": [found, ["NOT_FOUND", "NOT_FOUND"], found],
        "event_timestamps": [[AT, AT], [null, null], [AT, AT]],
        "metadata": {"missing": 2, "not_found": 1, "cache_hit": true, "fallback": false},
    });
    door.equal("many entities", &answer, &expected);
    let body = json!({
        "entities": {"user": ["u1", "u1"], "merchant": [7, 8]}, "service": "credit",
    });
    let answer = door.post(BATCH, &body);
    door.equal("by role", &answer["rows"], &json!([[30, "AE", 0.25], [30, "AE", null]]));
    let names = ["user_profile:age", "user_profile:country", "merchant_score"];
    door.equal("by role", &answer["feature_names"], &json!(names));
    // A large body is read on another thread, and a large answer written with pauses.
    let ids: Vec<String> = (0..9_000).map(|index| format!("u{}", index % 3)).collect();
    let names = ["user_profile:age", "user_profile:country"];
    let body = json!({"entity_type": "user", "entity_ids": ids, "feature_names": names});
    for what in ["a large body", "a large body again"] {
        let answer = door.post(BATCH, &body);
        let row = |index: usize| {
            if index % 3 == 1 { json!([30, "AE"]) } else { json!([null, "unknown"]) }
        };
        door.equal(what, &answer["rows"], &(0..9_000).map(row).collect());
    }
    let none = json!({"entity_type": "user", "entity_ids": [], "feature_names": ["level"]});
    let answer = door.post(BATCH, &none);
    door.equal("nobody", &answer["rows"], &json!([]));
    let before = json!({
        "entity_type": "user", "entity_ids": ["u1"], "feature_names": ["level"],
        "as_of": "2026-01-31T11:00:00Z",
    });
    let answer = door.post(BATCH, &before);
    door.equal("before it was there", &answer["rows"], &json!([[null]]));
    let one = json!({"entity_type": "user", "entity_id": "u1", "feature_names": ["level"]});
    let two = json!({"entities": {"user": "u1", "merchant": 7}, "service": "credit"});
    let answer = door.post(BATCH, json!({"requests": [one, two]}));
    let responses = [&answer["responses"][0]["features"], &answer["responses"][1]["features"]];
    let expected = json!({"level": 2});
    door.equal("the first of two", responses[0], &expected);
    let score = &responses[1]["merchant_score"];
    door.equal("the second of two", score, &json!(0.25));
}

fn in_columns(door: &mut Door) {
    let names = ["age", "country", "score", "visits", "active", "seen", "embedding"];
    let names = names.map(|name| format!("user_profile:{name}"));
    let body = json!({
        "entity_type": "user", "entity_ids": ["u1", "nobody"], "feature_names": names,
        "include": ["statuses"],
    });
    for format in ["application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"] {
        let headers = [JSON, ("accept", format)];
        let reply = door.ask("POST", BATCH, &headers, body.to_string().as_bytes());
        door.equal(format, &json!(reply.status), &json!(200));
        door.equal(format, &json!(reply.header("content-type")), &json!(format));
        let table =
            if format == ARROW.1 { read_arrow(&reply.body) } else { read_parquet(&reply.body) };
        let name = |name: &str| format!("user_profile:{name}");
        let age = column::<Int32Array>(&table, &name("age"));
        door.holds("age", age.value(0) == 30 && age.is_null(1));
        let country = column::<StringArray>(&table, &name("country"));
        door.holds("country", country.value(0) == "AE" && country.value(1) == "unknown");
        let score = column::<Float32Array>(&table, &name("score"));
        door.holds("score", score.value(0) == 0.5 && score.is_null(1));
        let visits = column::<Int64Array>(&table, &name("visits"));
        door.holds("visits", visits.value(0) == i64::MAX && visits.is_null(1));
        let active = column::<BooleanArray>(&table, &name("active"));
        door.holds("active", active.value(0) && active.is_null(1));
        let seen = column::<TimestampMicrosecondArray>(&table, &name("seen"));
        door.holds("seen", seen.value(0) == 1_769_760_000_000_000 && seen.is_null(1));
        let embedding = column::<FixedSizeListArray>(&table, &name("embedding"));
        door.holds("embedding", embedding.value(0).len() == 3 && embedding.is_null(1));
        let status = column::<StringArray>(&table, &name("age__status"));
        door.holds("statuses", status.value(0) == "PRESENT" && status.value(1) == "NOT_FOUND");
    }
}

fn by_path(door: &mut Door) {
    let at = |path: &str| format!("/api/v1/features/{path}");
    let answer = door.get(&at("user/u1?views=user_account,user_cold"));
    let expected = json!({
        "user_account": {"age": 31, "level": 2},
        "user_cold": {"points": 5, "label": "none"},
    });
    door.equal("two views", &answer["features"], &expected);
    let times = json!({"user_account": AT, "user_cold": AT});
    door.equal("two views", &answer["event_timestamps"], &times);
    door.equal("two views", &answer["entity_id"], &json!("u1"));
    let answer = door.get(&at("user/u1"));
    let views: Vec<&String> =
        answer["features"].as_object().map_or_else(Vec::new, |views| views.keys().collect());
    let expected = json!(["passing", "user_account", "user_cold", "user_profile"]);
    door.equal("all views that are online", &json!(views), &expected);
    let answer = door.get(&at("merchant/7"));
    door.equal("an integer key", &answer["features"], &json!({"merchant_risk": {"score": 0.25}}));
    let answer = door.get(&at("route/JFK,SFO"));
    door.equal("a composite key", &answer["features"], &json!({"route_stats": {"flights": 12}}));
    let answer = door.get(&at("route/A%2CB,C%2FD"));
    let expected = json!({"route_stats": {"flights": 1}});
    door.equal("commas and slashes in a key", &answer["features"], &expected);
    let expected = json!({"origin": "A,B", "dest": "C/D"});
    door.equal("commas and slashes in a key", &answer["entity_id"], &expected);
}

fn waiting(door: &mut Door) {
    let sequence = door.sequence();
    let mut body = json!({
        "entity_type": "user", "entity_id": "u1", "feature_names": ["level"],
        "min_sequence": sequence,
    });
    let answer = door.post(ONLINE, &body);
    door.equal("what is visible", &answer["features"], &json!({"level": 2}));
    body["min_sequence"] = json!(sequence + 1_000_000);
    for target in [ONLINE, BATCH] {
        if target == BATCH {
            let fields = body.as_object_mut().expect("an object");
            fields.remove("entity_id");
            fields.insert("entity_ids".to_owned(), json!(["u1"]));
        }
        let headers = [JSON, ("larder-timeout-ms", "50")];
        let started = std::time::Instant::now();
        let reply = door.ask("POST", target, &headers, body.to_string().as_bytes());
        let late = is_problem(&reply, (504, "DEADLINE_EXCEEDED"), "");
        door.equal("past the deadline", &json!(late), &json!({"Ok": null}));
        door.holds("at the deadline", started.elapsed().as_millis() < 5_000);
    }
}
