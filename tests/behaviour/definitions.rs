//! Definitions: registered, changed, listed, described, dropped, kept apart by project.

use serde_json::{Value, json};

use crate::door::{Door, JSON, TOML, definitions};

const REGISTER: &str = "/api/v1/features/register";

#[test]
fn definitions_do_what_the_contract_says() {
    let mut door = Door::bare(&[]);
    registering(&mut door);
    listing(&mut door);
    versions(&mut door);
    pruning(&mut door);
    dropping(&mut door);
    projects(&mut door);
    door.finish();
}

fn registering(door: &mut Door) {
    let dry = format!("{REGISTER}?dry_run=true");
    let planned = door.post(&dry, definitions());
    let count = planned["changes"].as_array().map_or(0, Vec::len);
    door.equal("4 entities, 8 views, 2 services", &json!(count), &json!(14));
    let views = door.get("/api/v1/views");
    door.equal("a dry run changes nothing", &views, &json!({"views": []}));
    let defined = door.post(REGISTER, definitions());
    door.equal("as planned", &defined["changes"], &planned["changes"]);
    let sequence = door.sequence();
    door.equal("its sequence", &defined["sequence"], &json!(sequence));
    let again = door.post(REGISTER, definitions());
    let expected = json!([[], defined["sequence"]]);
    door.equal("again", &json!([again["changes"], again["sequence"]]), &expected);
    let if_match = defined["sequence"].to_string();
    let more = json!({"view": {"user_account": {"entity": "user",
        "features": {"age": "int64", "level": "int32", "since": "timestamp"}}}});
    let headers = [JSON, ("if-match", if_match.as_str())];
    let reply = door.ask("POST", REGISTER, &headers, more.to_string().as_bytes());
    door.equal("a feature more", &json!(reply.status), &json!(200));
    let said = reply.json()["changes"].to_string();
    door.holds("a feature more", said.contains("since"));
    let stale = door.ask("POST", REGISTER, &headers, definitions().to_string().as_bytes());
    door.equal("a stale If-Match", &json!(stale.status), &json!(409));
    let toml = b"[entity.city]\njoin_keys = [\"city\"]\n";
    let reply = door.ask("POST", REGISTER, &[TOML], toml);
    door.equal("TOML", &json!(reply.status), &json!(200));
}

fn names(list: &Value, field: &str) -> Value {
    let items = list.as_array().map_or(&[] as &[Value], Vec::as_slice);
    items.iter().map(|item| item[field].clone()).collect()
}

fn listing(door: &mut Door) {
    let entities = door.get("/api/v1/entities");
    let expected = json!(["airport", "city", "merchant", "route", "user"]);
    let mut found: Vec<String> = names(&entities["entities"], "name")
        .as_array()
        .map_or_else(Vec::new, |names| names.iter().map(|name| name.to_string()).collect());
    found.sort();
    let expected_text: Vec<String> =
        expected.as_array().map_or_else(Vec::new, |all| all.iter().map(Value::to_string).collect());
    door.holds(&format!("entities {found:?}"), found == expected_text);
    let owned = door.get("/api/v1/features?owner=ledger-team");
    let found = names(&owned["features"], "reference");
    door.equal("by owner", &found, &json!(["user_profile:balance"]));
    let tagged = door.get("/api/v1/features?tag=demographics&limit=4");
    let first = names(&tagged["features"], "reference");
    let cursor = tagged["next_cursor"].as_str().unwrap_or_default().to_owned();
    let rest = door.get(&format!("/api/v1/features?tag=demographics&cursor={cursor}"));
    let rest = names(&rest["features"], "reference");
    let counts = [&first, &rest].map(|page| page.as_array().map_or(0, Vec::len));
    door.equal("by tag, in pages", &json!(counts), &json!([4, 6]));
    let of_route = door.get("/api/v1/features?entity=route");
    let found = names(&of_route["features"], "reference");
    door.equal("by entity", &found, &json!(["route_stats:flights"]));
    let view = door.get("/api/v1/views/user_cold");
    let found = json!([view["entity"], view["tier"], view["online"], view["version"]]);
    door.equal("a view", &found, &json!(["user", "disk", true, 1]));
    let same = door.get("/api/v1/features/user_cold");
    door.equal("a view by name", &same, &view);
    let feature = door.get("/api/v1/features/user_profile:balance");
    let found = json!([feature["type"], feature["ttl"], feature["owner"], feature["entity"]]);
    door.equal("a feature", &found, &json!(["float64", "1h", "ledger-team", "user"]));
    let services = door.get("/api/v1/services");
    let found = names(&services["services"], "name");
    door.equal("services", &found, &json!(["credit", "trip"]));
    let service = door.get("/api/v1/services/trip");
    let said = service.to_string();
    door.holds("a service", said.contains("dest_airport") && said.contains("dest_temp"));
}

fn versions(door: &mut Door) {
    let second = json!({"view": {"user_profile@2": {"entity": "user",
        "features": {"age": "int64"}}}});
    door.post(REGISTER, second);
    let rows = json!({"rows": [
        {"view": "user_profile", "entity_id": "v", "features": {"age": 1}},
        {"view": "user_profile@2", "entity_id": "v", "features": {"age": 2_147_483_648_i64}},
    ]});
    door.post("/api/v1/features/push", rows);
    let asked = ["user_profile:age", "user_profile@1:country", "user_profile@2:age"];
    let ask = json!({"entity_type": "user", "entity_id": "v", "feature_names": asked});
    let answer = door.post("/api/v1/features/online", ask);
    let expected = json!({
        "user_profile:age": 1,
        "user_profile@1:country": "unknown",
        "user_profile@2:age": 2_147_483_648_i64,
    });
    door.equal("versions side by side", &answer["features"], &expected);
}

fn pruning(door: &mut Door) {
    let mut fewer = definitions();
    let features = json!({"age": "int64", "level": "int32", "since": "timestamp"});
    fewer["view"]["user_account"]["features"] = features;
    fewer["view"]["user_profile@2"] = json!({"entity": "user", "features": {"age": "int64"}});
    fewer["service"].as_object_mut().expect("a table").remove("trip");
    let kept = door.post(REGISTER, &fewer);
    door.equal("what is left out stays", &kept["changes"], &json!([]));
    let planned = door.post(&format!("{REGISTER}?prune=true&dry_run=true"), &fewer);
    let pruned = door.post(&format!("{REGISTER}?prune=true"), &fewer);
    door.equal("pruned", &pruned["changes"], &json!(["- service trip", "- entity city"]));
    door.equal("as planned", &planned["changes"], &pruned["changes"]);
}

fn dropping(door: &mut Door) {
    let drop = |door: &mut Door, path: &str| {
        let reply = door.ask("DELETE", &format!("/api/v1/{path}"), &[], b"");
        door.equal(path, &json!(reply.status), &json!(200));
    };
    drop(door, "services/credit");
    drop(door, "views/user_profile@2?data=keep");
    drop(door, "views/merchant_risk");
    for gone in ["services/credit", "views/merchant_risk", "views/user_profile@2"] {
        let reply = door.ask("GET", &format!("/api/v1/{gone}"), &[], b"");
        door.equal(gone, &json!(reply.status), &json!(404));
    }
    let views = door.get("/api/v1/views");
    let found = names(&views["views"], "name").to_string();
    door.holds("the rest stays", found.contains("user_profile") && !found.contains("merchant"));
}

fn projects(door: &mut Door) {
    let other = json!({
        "entity": {"user": {"join_keys": ["id:int64"]}},
        "view": {"user_profile": {"entity": "user", "features": {"age": "string"}}},
    });
    let project = ("larder-project", "other");
    let reply = door.ask("POST", REGISTER, &[JSON, project], other.to_string().as_bytes());
    door.equal("another project", &json!(reply.status), &json!(200));
    let push = json!({"rows": [
        {"view": "user_profile", "entity_id": 1, "features": {"age": "old"}},
    ]});
    let target = "/api/v1/features/push?project=other";
    door.post(target, push);
    let ask = json!({
        "entity_type": "user", "entity_id": "1", "feature_names": ["user_profile:age"],
    });
    let mut check = |headers: &[(&str, &str)], expected: Value| {
        let body = ask.to_string();
        let reply = door.ask("POST", "/api/v1/features/online", headers, body.as_bytes());
        let found = reply.json()["features"].clone();
        door.equal(&format!("{headers:?}"), &found, &expected);
    };
    check(&[JSON, project], json!({"user_profile:age": "old"}));
    check(&[JSON], json!({"user_profile:age": null}));
}
