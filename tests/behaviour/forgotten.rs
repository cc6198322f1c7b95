//! What is no longer kept, and what was erased: refused, marked, gone.

use serde_json::{Value, json};

use crate::door::{ARROW, Door, PARQUET, eventually, steady};
use crate::tables::{arrow, parquet, read_arrow, read_parquet, table};

const HISTORICAL: &str = "/api/v1/features/historical";
const BELOW: (u16, &str) = (400, "BELOW_RETENTION_FLOOR");

#[test]
fn reads_below_a_floor_are_refused_or_marked() {
    let mut door = Door::bare(&[]);
    door.post(
        "/api/v1/features/register",
        json!({
            "entity": {"user": {"join_keys": ["user_id"]}},
            "view": {
                "hourly": {"entity": "user", "retention": "1h", "features": {
                    "age": "int32", "country": {"type": "string", "default": "unknown"},
                }},
                "kept": {"entity": "user", "features": {"level": "int32"}},
            },
        }),
    );
    let row = |view: &str, at: &str, features: Value| json!({"view": view, "entity_id": "u1", "event_timestamp": at, "features": features});
    door.post(
        "/api/v1/features/push",
        json!({"rows": [
            row("hourly", "2020-01-01T00:00:00Z", json!({"age": 1})),
            row("hourly", "2020-01-02T00:00:00Z", json!({"age": 2})),
            row("kept", "2020-01-01T00:00:00Z", json!({"level": 3})),
        ]}),
    );
    let ask = |at: &str, rest: Value| {
        let mut body = json!({
            "entity_type": "user", "include": ["statuses"],
            "feature_names": ["hourly:age", "hourly:country", "kept:level"],
            "rows": [{"entity_id": "u1", "timestamp": at}],
        });
        let rest = rest.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(rest);
        body.to_string()
    };
    let (past, today) = ("2020-01-01T12:00:00Z", "2126-01-01T00:00:00Z");
    eventually("a floor", || {
        let reply = door.ask("POST", HISTORICAL, &[], ask(past, json!({})).as_bytes());
        (reply.status == 400).then_some(())
    });
    door.refuse_json(HISTORICAL, &ask(past, json!({})), BELOW, "of view hourly retention keeps");
    let view = door.get("/api/v1/views/hourly");
    door.holds("the floor is shown", view["retention_floor"].as_str() > Some("2026"));
    let kept = door.get("/api/v1/views/kept");
    door.equal("no floor", &kept["retention_floor"], &Value::Null);
    let known = ask(today, json!({"known_at": "2020-01-03T00:00:00Z"}));
    door.refuse_json(HISTORICAL, &known, BELOW, "asks what was known at 2020-01-03");
    let answer = door.post(HISTORICAL, ask(past, json!({"allow_truncated": true})));
    let below = "BELOW_RETENTION_FLOOR";
    door.equal("marked", &answer["rows"], &json!([[null, null, 3]]));
    door.equal("marked", &answer["statuses"], &json!([[below, below, "PRESENT"]]));
    door.equal("counted", &answer["metadata"]["missing"], &json!(2));
    let answer = door.post(HISTORICAL, ask(today, json!({})));
    door.equal("the newest stays", &answer["rows"], &json!([[2, "unknown", 3]]));
    let online = |rest: &str| {
        format!(r#"{{"entity_type":"user","entity_id":"u1","feature_names":["hourly:age"]{rest}}}"#)
    };
    let to = "/api/v1/features/online";
    let answer = door.post(to, online(""));
    door.equal("now", &answer["features"], &json!({"hourly:age": 2}));
    door.refuse_json(to, &online(&format!(r#","as_of":"{past}""#)), BELOW, "row 0 asks as of");
    let marked = online(&format!(r#","as_of":"{past}","allow_truncated":true"#));
    let answer = door.post(to, marked);
    door.equal("as of, marked", &answer["features"], &json!({"hourly:age": null}));
    in_arrow(&mut door, past);
    door.finish();
}

fn in_arrow(door: &mut Door, past: &str) {
    use arrow::array::{ArrayRef, Int32Array, StringArray};
    let text = |value: &str| -> ArrayRef { std::sync::Arc::new(StringArray::from(vec![value])) };
    let spine = arrow(&table(&[("user_id", text("u1")), ("timestamp", text(past))]));
    let target = format!("{HISTORICAL}?entity_type=user&feature_names=hourly:age&include=statuses");
    door.refuse(("POST", &target, &[ARROW], &spine), BELOW, "row 0 asks as of");
    let target = format!("{target}&allow_truncated=true");
    let reply = door.ask("POST", &target, &[ARROW, ("accept", ARROW.1)], &spine);
    let found = read_arrow(&reply.body);
    let ages = crate::tables::column::<Int32Array>(&found, "hourly:age").iter().next().flatten();
    let statuses = crate::tables::column::<StringArray>(&found, "hourly:age__status");
    door.holds("marked in Arrow", ages.is_none() && statuses.value(0) == BELOW.1);
    let labels = parquet(&table(&[("user_id", text("u1")), ("timestamp", text(past))]));
    let both = [PARQUET, ("accept", PARQUET.1)];
    let target = format!("{HISTORICAL}?feature_names=hourly:age&include=statuses");
    door.refuse(("POST", &target, &both, &labels), BELOW, "row 0 asks as of");
    let reply = door.ask("POST", &format!("{target}&allow_truncated=true"), &both, &labels);
    let found = read_parquet(&reply.body);
    let ages = crate::tables::column::<Int32Array>(&found, "hourly:age").iter().next().flatten();
    let statuses = crate::tables::column::<StringArray>(&found, "hourly:age__status");
    door.holds("marked in Parquet", ages.is_none() && statuses.value(0) == BELOW.1);
}

#[test]
fn an_erased_entity_is_gone() {
    let mut door = Door::open(&[]);
    let before = door.sequence();
    let reply = door.ask("DELETE", "/api/v1/entities/user/u1", &[], b"");
    door.equal("accepted", &json!(reply.status), &json!(202));
    let erased = reply.json();
    let sequence = before + 1;
    let expected = json!({
        "erasure": sequence.to_string(), "sequence": sequence,
        "not_covered": ["backups", "exports"],
    });
    door.equal("the answer", &erased, &expected);
    let header = json!(reply.header("larder-sequence"));
    door.equal("the header", &header, &json!(sequence.to_string()));
    let state = door.get(&format!("/api/v1/erasures/{sequence}"));
    for (name, value) in expected.as_object().expect("an object") {
        door.equal(name, &state[name], value);
    }
    door.equal("the state", &state["state"], &json!("pending"));
    door.equal("not done", &state["done"], &Value::Null);
    let time = |name: &str| {
        let text = state[name].as_str().unwrap_or_default().to_owned();
        larder::time::EventTime::parse(&text).expect("a time").micros()
    };
    let within = time("deadline") - time("requested");
    door.equal("seven days", &json!(within), &json!(7 * 86_400_000_000_i64));

    door.refuse(
        ("GET", "/api/v1/features/user/u1", &[], b""),
        (404, "ENTITY_NOT_FOUND"),
        "user \"u1\" has no row",
    );
    let features = ["user_profile:age", "user_account:level", "user_cold:points"];
    for (as_of, what) in [(Value::Null, "now"), (json!("2026-02-01T00:00:00Z"), "as of")] {
        let body = json!({
            "entity_type": "user", "entity_id": "u1", "feature_names": features,
            "include": ["statuses"], "as_of": as_of,
        });
        let answer = steady(door.post("/api/v1/features/online", body));
        let gone = "NOT_FOUND";
        let expected = json!({features[0]: gone, features[1]: gone, features[2]: gone});
        door.equal(what, &answer["statuses"], &expected);
    }
    let listed = door.get("/api/v1/entities/user");
    door.equal("not listed", &listed["entity_ids"], &json!([]));
    let counted = door.get("/api/v1/entities/user/count");
    door.equal("not counted", &counted["count"], &json!(0));
    others(&mut door);
    door.finish();
}

#[test]
fn a_view_dropped_with_its_rows_is_gone() {
    let mut door = Door::open(&[("LARDER__STORAGE__CHECKPOINT_INTERVAL", "100ms")]);
    let all = door.get("/api/v1/features/user/u1");
    door.holds("it was there", all["features"]["user_account"].is_object());
    let before = door.sequence();
    let reply = door.ask("DELETE", "/api/v1/views/user_account?data=drop", &[], b"");
    door.equal("accepted", &json!(reply.status), &json!(202));
    let (erasure, sequence) = (before + 1, before + 2);
    let expected = json!({
        "changes": ["- view user_account with its rows"], "warnings": [], "sequence": sequence,
        "erasures": [erasure.to_string()], "not_covered": ["backups", "exports"],
    });
    door.equal("the answer", &reply.json(), &expected);
    let header = json!(reply.header("larder-sequence"));
    door.equal("the header", &header, &json!(sequence.to_string()));
    let answer = door.get("/api/v1/features/user/u1");
    door.holds("gone", answer["features"].get("user_account").is_none());
    door.equal("the rest", &answer["features"]["user_profile"], &all["features"]["user_profile"]);
    let state = eventually("it is done", || {
        let state = door.get(&format!("/api/v1/erasures/{erasure}"));
        (state["state"] == "done").then_some(state)
    });
    door.equal("its sequence", &state["sequence"], &json!(erasure));
    door.holds("when", state["done"].as_str() >= state["requested"].as_str());

    let pruned = json!({
        "entity": {"user": {"join_keys": ["user_id"]}},
        "view": {"user_profile": {"entity": "user", "features": {
            "age": "int32", "country": "string",
        }}},
    });
    let prune = "/api/v1/features/register?prune=true&data=drop&project=second";
    let whole = json!({
        "entity": {"user": {"join_keys": ["user_id"]}},
        "view": {
            "user_profile": pruned["view"]["user_profile"],
            "short": {"entity": "user", "features": {"level": "int32"}},
            "long": {"entity": "user", "features": {"level": "int32"}},
        },
    });
    door.post("/api/v1/features/register?project=second", whole);
    let json = [crate::door::JSON];
    let dry =
        door.ask("POST", &format!("{prune}&dry_run=true"), &json, pruned.to_string().as_bytes());
    let reply = door.ask("POST", prune, &json, pruned.to_string().as_bytes());
    door.equal("shown", &json!(dry.status), &json!(200));
    door.equal("pruned", &json!(reply.status), &json!(202));
    let (dry, pruned) = (dry.json(), reply.json());
    let said = json!(["- view long with its rows", "- view short with its rows"]);
    door.equal("what", &pruned["changes"], &said);
    door.equal("as shown", &dry["changes"], &pruned["changes"]);
    door.holds("nothing was erased to show it", dry.get("erasures").is_none());
    let erasure = pruned["erasures"][0].as_str().unwrap_or_default().to_owned();
    door.equal("one for both", &json!(pruned["erasures"].as_array().map(Vec::len)), &json!(1));
    let other = door.ask("GET", &format!("/api/v1/erasures/{erasure}"), &[], b"");
    door.equal("another project's", &json!(other.status), &json!(404));
    let state = door.get(&format!("/api/v1/erasures/{erasure}?project=second"));
    door.equal("its own", &state["erasure"], &json!(erasure));
    door.finish();
}

/// Other keys, other types, other ways to be wrong.
fn others(door: &mut Door) {
    let mut erase = |id: &str| {
        let reply = door.ask("DELETE", &format!("/api/v1/entities/{id}"), &[], b"");
        (reply.status, reply.json()["sequence"].as_u64().unwrap_or_default())
    };
    let (first, second) = (erase("user/u1"), erase("user/u1"));
    let unknown = erase("user/nobody");
    let count = erase("user/count");
    let route = erase("route/A%2CB,C%2FD");
    let in_order = [first, unknown, count, route];
    door.equal("nothing was written since", &json!(second), &json!(first));
    door.holds("all are accepted", in_order.iter().all(|(status, _)| *status == 202));
    door.holds("each has its own sequence", in_order.is_sorted_by(|a, b| a.1 < b.1));
    let listed = door.get("/api/v1/entities/route");
    door.equal(
        "one route is left",
        &json!(listed["entity_ids"].as_array().map(Vec::len)),
        &json!(1),
    );
    let metrics = door.ask("GET", "/metrics", &[], b"");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    door.holds("they are counted", metrics.contains("\nlarder_erasures_pending 4\n"));
    let delete = |target| ("DELETE", target, &[][..], &b""[..]);
    let (unknown_type, invalid) = ((404, "UNKNOWN_ENTITY_TYPE"), (400, "INVALID_VALUE"));
    door.refuse(delete("/api/v1/entities/usr/u1"), unknown_type, "user");
    door.refuse(delete("/api/v1/entities/merchant/seven"), invalid, "seven");
    for id in ["1000000", "x", "-1"] {
        let target = format!("/api/v1/erasures/{id}");
        door.refuse(("GET", &target, &[], b""), (404, "UNKNOWN_ERASURE"), id);
    }
    let body = json!({"rows": [{"view": "user_profile", "entity_id": "u1",
        "event_timestamp": "2026-01-01T00:00:00Z", "features": {"age": 7}}]});
    door.post("/api/v1/features/push", body);
    let answer = door.get("/api/v1/features/user/u1?views=user_profile");
    door.equal("written again", &answer["features"]["user_profile"]["age"], &json!(7));
}
