//! JSON that is wrong in every way there is, endpoint by endpoint: the right status and code, a
//! message that names place and limit, nothing written, the server still answering.

use serde_json::json;

use crate::door::{Door, JSON, TOML};

const ONLINE: &str = "/api/v1/features/online";
const BATCH: &str = "/api/v1/features/batch";
const HISTORICAL: &str = "/api/v1/features/historical";
const PUSH: &str = "/api/v1/features/push";
const REGISTER: &str = "/api/v1/features/register";

const MALFORMED: (u16, &str) = (400, "MALFORMED_REQUEST");
const INVALID: (u16, &str) = (400, "INVALID_VALUE");
const FUTURE: (u16, &str) = (400, "EVENT_TIME_IN_FUTURE");
const AMBIGUOUS: (u16, &str) = (400, "AMBIGUOUS_FEATURE");
const MISSING_ENTITY: (u16, &str) = (400, "MISSING_ENTITY");
const DUPLICATE: (u16, &str) = (400, "DUPLICATE_FEATURE");
const NO_ENTITY_TYPE: (u16, &str) = (404, "UNKNOWN_ENTITY_TYPE");
const NO_VIEW: (u16, &str) = (404, "UNKNOWN_VIEW");
const NO_FEATURE: (u16, &str) = (404, "UNKNOWN_FEATURE");
const NO_SERVICE: (u16, &str) = (404, "UNKNOWN_SERVICE");
const NO_ENTITY: (u16, &str) = (404, "ENTITY_NOT_FOUND");
const NO_ROUTE: (u16, &str) = (404, "NO_SUCH_ROUTE");
const NO_METHOD: (u16, &str) = (405, "METHOD_NOT_ALLOWED");
const INCOMPATIBLE: (u16, &str) = (409, "INCOMPATIBLE_DEFINITION");
const IN_USE: (u16, &str) = (409, "IN_USE");
const SEQUENCE: (u16, &str) = (409, "SEQUENCE_MISMATCH");
const LIMIT: (u16, &str) = (413, "LIMIT_EXCEEDED");

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let mut door = Door::open(&[]);
    bodies(&mut door);
    online(&mut door);
    keys(&mut door);
    batch(&mut door);
    entity(&mut door);
    historical(&mut door);
    push_shapes(&mut door);
    push_values(&mut door);
    push_columns(&mut door);
    register(&mut door);
    listings(&mut door);
    headers(&mut door);
    routes(&mut door);
    let answer = door.post(
        ONLINE,
        json!({"entity_type": "user", "entity_id": "u1", "feature_names": ["user_profile:age"]}),
    );
    door.equal("still answering", &answer["features"], &json!({"user_profile:age": 30}));
    assert!(door.refused() > 150, "{} cases", door.refused());
    door.finish();
}

/// Bodies that no endpoint can read.
fn bodies(door: &mut Door) {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for target in [ONLINE, BATCH, HISTORICAL, PUSH] {
        let mut check = |body: &[u8], says: &str| {
            door.refuse(("POST", target, &[JSON], body), MALFORMED, says);
        };
        check(b"", "the body is empty");
        check(b"   ", "the body is empty");
        check(b"{", "EOF while parsing");
        check(b"null", "cannot be read");
        check(b"\"text\"", "cannot be read");
        check(b"{\"service\":}", "");
        check(b"{\n\"colour\":1}", "line 2 column 8");
        check(b"{\"x\":\"\xff\"}", "not UTF-8: byte 6 is invalid");
        check(b"{\"x\":\"\\ud800\"}", "");
        check(deep.as_bytes(), "nested deeper than 64 levels");
        check(b"{\"colour\":1}", "unknown field \"colour\"");
        check(b"{} {}", "trailing characters");
        check(b"\x00\x01\x02", "");
    }
    let deep = deep.as_bytes();
    door.refuse(("POST", REGISTER, &[JSON], deep), MALFORMED, "");
    door.refuse(("POST", REGISTER, &[JSON], b""), MALFORMED, "");
    door.refuse(("POST", REGISTER, &[JSON], b"{\"entity\":\"\xff\"}"), MALFORMED, "column 12");
}

fn online(door: &mut Door) {
    let mut check = |rest: &str, status, says: &str| {
        let body = format!(r#"{{"entity_type":"user","entity_id":"u1",{rest}}}"#);
        door.refuse_json(ONLINE, &body, status, says);
    };
    check(r#""feature_names":[]"#, INVALID, "no feature is asked for");
    check(r#""feature_names":"user_profile:age""#, MALFORMED, "invalid type");
    check(r#""feature_names":[1]"#, MALFORMED, "expected a string");
    check(r#""feature_names":[null]"#, MALFORMED, "expected a string");
    check(
        r#""feature_names":["user_profile:ag"]"#,
        NO_FEATURE,
        "did you mean \"user_profile:age\"?",
    );
    check(r#""feature_names":["user_profil:age"]"#, NO_VIEW, "did you mean \"user_profile\"?");
    check(r#""feature_names":["user_profile@2:age"]"#, NO_VIEW, "user_profile@2");
    check(r#""feature_names":["user_profile@x:age"]"#, NO_VIEW, "user_profile@1");
    check(r#""feature_names":["a:b:c"]"#, INVALID, "view:feature");
    check(r#""feature_names":[":"]"#, INVALID, "view:feature");
    check(r#""feature_names":[""]"#, INVALID, "view:feature");
    check(r#""feature_names":["levle"]"#, NO_FEATURE, "did you mean \"level\"?");
    check(r#""feature_names":["age"]"#, AMBIGUOUS, "user_account:age");
    check(r#""feature_names":["age"]"#, AMBIGUOUS, "user_profile:age");
    check(
        r#""feature_names":["user_profile:age","user_profile:age"]"#,
        DUPLICATE,
        "\"user_profile:age\" is asked for twice",
    );
    check(r#""feature_names":["merchant_risk:score"]"#, MISSING_ENTITY, "\"merchant\"");
    check(r#""feature_names":["archive:y"]"#, INVALID, "archive");
    check(r#""service":"credt""#, NO_SERVICE, "did you mean \"credit\"?");
    check(r#""service":"credit""#, MISSING_ENTITY, "\"merchant\"");
    check(r#""service":7"#, MALFORMED, "expected a string");
    check(r#""service":"credit","feature_names":["user_profile:age"]"#, MALFORMED, "not both");
    check(r#""include":[]"#, MALFORMED, "\"feature_names\" or \"service\"");
    let mut check = |rest: &str, status, says: &str| {
        let ask = r#""entity_id":"u1","feature_names":["user_profile:age"]"#;
        let body = format!(r#"{{"entity_type":"user",{ask},{rest}}}"#);
        door.refuse_json(ONLINE, &body, status, says);
    };
    check(r#""include":["status"]"#, INVALID, "did you mean \"statuses\"?");
    check(r#""include":"statuses""#, MALFORMED, "invalid type");
    check(r#""as_of":1769860800"#, INVALID, "looks like seconds; send RFC 3339 or time_unit");
    check(r#""as_of":"yesterday""#, INVALID, "RFC 3339");
    check(r#""as_of":"2026-02-30T00:00:00Z""#, INVALID, "RFC 3339");
    check(r#""as_of":[]"#, INVALID, "\"as_of\"");
    check(r#""as_of":9223372036854775808"#, INVALID, "as_of");
    check(r#""as_of":1769860800000000,"time_unit":"minutes""#, INVALID, "s, ms, us or ns");
    check(r#""as_of":NaN"#, MALFORMED, "NaN and Infinity are not JSON; send null");
    check(r#""min_sequence":-1"#, MALFORMED, "-1");
    check(r#""min_sequence":"7""#, MALFORMED, "invalid type");
    check(r#""min_sequence":1.5"#, MALFORMED, "1.5");
    check(r#""fallback":"maybe""#, INVALID, "only be \"error\"");
    check(r#""entity_type":"user""#, MALFORMED, "duplicate field");
    check(r#""entities":{"user":"u1"}"#, MALFORMED, "not both");
    check(r#""feature_name":[]"#, MALFORMED, "did you mean \"feature_names\"?");
    check(r#""request":{"amount":1}"#, MALFORMED, "\"request\"");
}

/// Entities and their keys.
fn keys(door: &mut Door) {
    let mut check = |whose: &str, names: &str, status, says: &str| {
        let body = format!(r#"{{{whose},"feature_names":["{names}"]}}"#);
        door.refuse_json(ONLINE, &body, status, says);
    };
    let age = "user_profile:age";
    check(r#""entity_type":"usr","entity_id":"u1""#, age, NO_ENTITY_TYPE, "did you mean \"user\"?");
    check(r#""entity_type":7,"entity_id":"u1""#, age, MALFORMED, "expected a string");
    check(r#""entity_id":"u1""#, age, MISSING_ENTITY, "\"entity_type\" is missing");
    check(r#""entity_type":"user""#, age, MISSING_ENTITY, "\"entity_id\" is missing");
    check(r#""time_unit":"s""#, age, MISSING_ENTITY, "say whose features");
    check(r#""entity_type":"user","entity_id":"""#, age, INVALID, "an empty string");
    check(r#""entity_type":"user","entity_id":null"#, age, MISSING_ENTITY, "entity_id");
    check(r#""entity_type":"user","entity_id":true"#, age, INVALID, "user_id as a string");
    check(r#""entity_type":"user","entity_id":1.5"#, age, INVALID, "1.5");
    check(r#""entity_type":"user","entity_id":["a","b"]"#, age, INVALID, "found [\"a\",\"b\"]");
    check(r#""entity_type":"user","entity_id":{"user":"a"}"#, age, INVALID, "\"user_id\"?");
    check(r#""entities":{}"#, age, MISSING_ENTITY, "the key of \"user\" is needed");
    check(r#""entities":{"merchant":7}"#, age, MISSING_ENTITY, "\"entities\" has merchant");
    check(r#""entities":{"user":"u1","usr":"u1"}"#, age, NO_ENTITY_TYPE, "\"user\"?");
    check(r#""entities":{"user":"u1","user":"u2"}"#, age, MALFORMED, "\"user\" twice");
    check(r#""entities":["u1"]"#, age, MALFORMED, "an object");
    let risk = "merchant_risk:score";
    let merchant = |id: &str| format!(r#""entity_type":"merchant","entity_id":{id}"#);
    check(&merchant("\"seven\""), risk, INVALID, "merchant_id as int64");
    check(&merchant("9223372036854775808"), risk, INVALID, "merchant_id as int64");
    check(&merchant("7.5"), risk, INVALID, "7.5");
    check(&merchant("{}"), risk, INVALID, "no \"merchant_id\"");
    let flights = "route_stats:flights";
    let route = |id: &str| format!(r#""entity_type":"route","entity_id":{id}"#);
    check(&route("\"JFK\""), flights, INVALID, "an array of these in this order");
    check(&route("[\"JFK\"]"), flights, INVALID, "\"dest\": string");
    check(&route("{\"origin\":\"JFK\"}"), flights, INVALID, "no \"dest\"");
    check(&route("{\"origin\":\"A\",\"dst\":\"B\"}"), flights, INVALID, "did you mean \"dest\"?");
    let twice = "{\"origin\":\"A\",\"origin\":\"A\",\"dest\":\"B\"}";
    check(&route(twice), flights, INVALID, "\"origin\" twice");
    let long = "x".repeat(2_000);
    let whose = format!(r#""entity_type":"user","entity_id":"{long}""#);
    check(&whose, age, LIMIT, "limits.key_bytes");
}

fn batch(door: &mut Door) {
    let mut check = |whose: &str, status, says: &str| {
        let body = format!(r#"{{{whose},"feature_names":["user_profile:age"]}}"#);
        door.refuse_json(BATCH, &body, status, says);
    };
    check(r#""entity_type":"user","entity_ids":"u1""#, MALFORMED, "no list");
    check(r#""entity_type":"user","entity_ids":{"0":"u1"}"#, MALFORMED, "no list");
    check(r#""entity_type":"user","entity_id":"u1""#, MALFORMED, "\"entity_ids\"?");
    check(r#""entity_type":"user","entity_ids":["u1",""]"#, INVALID, "at row 1");
    check(r#""entity_type":"user","entity_ids":["u1",null]"#, INVALID, "at row 1");
    check(r#""entity_type":"usr","entity_ids":["u1"]"#, NO_ENTITY_TYPE, "\"user\"?");
    check(r#""entities":{"user":"u1"}"#, MALFORMED, "no list");
    let many = format!("[{}1]", "1,".repeat(10_000));
    let whose = format!(r#""entity_type":"user","entity_ids":{many}"#);
    check(&whose, LIMIT, "limits.entities_per_request is 10000");
    let unequal = r#"{"entities":{"user":["a","b"],"merchant":[1]},"service":"credit"}"#;
    door.refuse_json(BATCH, unequal, MALFORMED, "2 ids of user and 1 of merchant");
    let many: Vec<String> = (0..10_001).map(|n| format!("v:f{n}")).collect();
    let names = json!({"entity_type": "user", "entity_ids": ["u1"], "feature_names": many});
    door.refuse_json(BATCH, &names.to_string(), LIMIT, "limits.features_per_request is 10000");
    let nested =
        r#"{"requests":[{"entity_type":"user","entity_id":"u1","feature_names":["nothing"]}]}"#;
    door.refuse_json(BATCH, nested, NO_FEATURE, "requests[0]: ");
    door.refuse_json(BATCH, r#"{"requests":{}}"#, MALFORMED, "invalid type");
    let both = r#"{"requests":[],"entity_type":"user"}"#;
    door.refuse_json(BATCH, both, MALFORMED, "\"entity_type\"");
}

fn entity(door: &mut Door) {
    let mut check = |path: &str, status, says: &str| {
        let target = format!("/api/v1/features/{path}");
        door.refuse(("GET", &target, &[], b""), status, says);
    };
    check("user/nobody", NO_ENTITY, "user \"nobody\" has no row");
    check("usr/u1", NO_ENTITY_TYPE, "did you mean \"user\"?");
    check("merchant/seven", INVALID, "merchant_id as int64");
    check("route/JFK", INVALID, "origin,dest joined by commas");
    check("route/A,B,C", INVALID, "joined by commas");
    check("user/%ff", MALFORMED, "percent-encoded");
    check("user/%2", MALFORMED, "percent-encoded");
    check("user/u1?views=user_profil", NO_VIEW, "did you mean \"user_profile\"?");
    check("user/u1?views=", NO_VIEW, "");
    check("user/u1?views=weather", MISSING_ENTITY, "\"airport\"");
    check("user/u1?service=credt", NO_SERVICE, "did you mean \"credit\"?");
    check("user/u1?service=credit", MISSING_ENTITY, "merchant");
    check("user/u1?view=user_profile", MALFORMED, "unknown field `view`");
    check("airport/LHR", NO_ENTITY, "airport \"LHR\" has no row");
    let long = format!("user/{}", "x".repeat(2_000));
    check(&long, LIMIT, "limits.key_bytes");
}

fn historical(door: &mut Door) {
    let mut check = |rest: &str, status, says: &str| {
        let ask = r#""entity_type":"user","feature_names":["user_profile:age"]"#;
        door.refuse_json(HISTORICAL, &format!("{{{ask},{rest}}}"), status, says);
    };
    let at = r#""timestamp":"2026-01-31T12:00:00Z""#;
    check(r#""known_at":null"#, MALFORMED, "give \"rows\" or \"columns\"");
    check(r#""rows":[],"columns":{}"#, MALFORMED, "give \"rows\" or \"columns\"");
    check(r#""rows":[{"entity_id":"u1"}]"#, MALFORMED, "missing field `timestamp`");
    check(&format!(r#""rows":[{{{at}}}]"#), MISSING_ENTITY, "row 0: ");
    check(&format!(r#""rows":[{{"entity_id":"",{at}}}]"#), INVALID, "at row 0");
    check(&format!(r#""rows":[{{"entity_id":"u1",{at},"x":1}}]"#), MALFORMED, "\"x\"");
    let row = |time: &str| format!(r#""rows":[{{"entity_id":"u1","timestamp":{time}}}]"#);
    check(&row("\"noon\""), INVALID, "row 0, timestamp: found \"noon\"");
    check(&row("null"), INVALID, "row 0, timestamp");
    check(&row("1769860800"), INVALID, "looks like seconds");
    check(&row("1e300"), INVALID, "row 0, timestamp");
    check(&format!(r#"{},"known_at":"noon""#, row("1769860800000000")), INVALID, "known_at");
    check(r#""columns":{"entity_id":["u1"]}"#, MALFORMED, "\"timestamp\" is missing");
    check(r#""columns":{"timestamp":[1769860800000000]}"#, MISSING_ENTITY, "ids of user");
    let two = r#""columns":{"entity_id":["u1"],"timestamp":[1769860800000000,1769860800000000]}"#;
    check(two, MALFORMED, "columns differ in length: \"timestamp\" has 2 values");
    let unknown = r#""columns":{"entity":["u1"],"timestamp":[1769860800000000]}"#;
    check(unknown, MALFORMED, "unknown column \"entity\"");
    let twice = r#""columns":{"entity_id":["u1"],"entity_id":["u1"],"timestamp":[1]}"#;
    check(twice, MALFORMED, "column \"entity_id\" twice");
    check(r#""columns":{"entity_id":"u1","timestamp":[1]}"#, MALFORMED, "not a list");
    let ask = r#"{"entity_type":"user","feature_names":["passing:x"],"rows":[]}"#;
    door.refuse_json(HISTORICAL, ask, INVALID, "passing");
    let toml: (&str, &str, &[(&str, &str)], &[u8]) = ("POST", HISTORICAL, &[TOML], b"a = 1");
    door.refuse(toml, MALFORMED, "not TOML");
}

fn push_shapes(door: &mut Door) {
    let mut check = |body: &str, status, says: &str| door.refuse_json(PUSH, body, status, says);
    check("{}", MALFORMED, "\"rows\" or \"columns\"");
    check(r#"{"rows":[]}"#, MALFORMED, "there is no row to write");
    check(r#"{"rows":{}}"#, MALFORMED, "invalid type");
    check(r#"{"rows":[1]}"#, MALFORMED, "cannot be read");
    check(r#"{"rows":[],"columns":{}}"#, MALFORMED, "not both");
    check(r#"{"rows":[],"view":"user_profile"}"#, MALFORMED, "stands in each row");
    let row = |fields: &str| format!(r#"{{"rows":[{{{fields}}}]}}"#);
    let features = r#""features":{"age":1}"#;
    check(&row(&format!(r#""entity_id":"u1",{features}"#)), MALFORMED, "missing field `view`");
    let no_id = row(&format!(r#""view":"user_profile",{features}"#));
    check(&no_id, MALFORMED, "missing field `entity_id`");
    let no_features = row(r#""view":"user_profile","entity_id":"u1""#);
    check(&no_features, MALFORMED, "missing field `features`");
    let unknown = row(&format!(r#""view":"user_profil","entity_id":"u1",{features}"#));
    check(&unknown, NO_VIEW, "did you mean \"user_profile\"?");
    let version = row(&format!(r#""view":"user_profile@2","entity_id":"u1",{features}"#));
    check(&version, NO_VIEW, "user_profile@2");
    let misspelt = row(&format!(r#""view":"user_profile","entity":"u1",{features}"#));
    check(&misspelt, MALFORMED, "unknown field \"entity\"");
    let entity = |id: &str| row(&format!(r#""view":"user_profile","entity_id":{id},{features}"#));
    check(&entity("\"\""), INVALID, "row 0, entity_id: found an empty string");
    check(&entity("null"), INVALID, "row 0, entity_id");
    check(&entity(&format!("\"{}\"", "x".repeat(1_100))), LIMIT, "1024");
    let list = row(r#""view":"user_profile","entity_id":"u1","features":[1]"#);
    check(&list, MALFORMED, "an object");
    let twice = row(r#""view":"user_profile","entity_id":"u1","features":{"age":1,"age":2}"#);
    check(&twice, DUPLICATE, "the feature twice");
    // One bad row among good ones refuses all of them.
    let good = r#"{"view":"user_profile","entity_id":"u1","features":{"age":99}}"#;
    let bad = r#"{"view":"user_profile","entity_id":"u1","features":{"age":"ten"}}"#;
    let mixed = format!(r#"{{"rows":[{good},{good},{good},{bad}]}}"#);
    check(&mixed, INVALID, r#""index":3"#);
    check(&mixed, INVALID, "row 3, age: found \"ten\", expected int32");
    let many = format!(r#"{{"rows":[{}]}}"#, vec![bad; 30].join(","));
    check(&many, INVALID, "20 or more places are wrong");
    let row = format!(r#"{{"view":"user_account","entity_id":1,"features":{}}}"#, "{}");
    let many = format!(r#"{{"rows":[{}]}}"#, vec![row.as_str(); 100_001].join(","));
    check(&many, LIMIT, "limits.rows_per_push is 100000");
    let large = json!({"rows": [
        {"view": "user_profile", "entity_id": "u1", "features": {"country": "x".repeat(1_100_000)}}
    ]});
    check(&large.to_string(), LIMIT, "limits.row_bytes");
}

fn push_values(door: &mut Door) {
    let mut check = |feature: &str, value: &str, status, says: &str| {
        let row = format!(
            r#"{{"view":"user_profile","entity_id":"u1","features":{{"{feature}":{value}}}}}"#
        );
        door.refuse_json(PUSH, &format!(r#"{{"rows":[{row}]}}"#), status, says);
    };
    check("agee", "1", NO_FEATURE, "did you mean \"age\"?");
    check("user_id", "1", NO_FEATURE, "no such feature");
    check("age", "30.5", INVALID, "found 30.5, expected int32");
    check("age", "2147483648", INVALID, "expected int32");
    check("age", "\"30\"", INVALID, "found \"30\", expected int32");
    check("age", "true", INVALID, "expected int32");
    check("age", "[1]", INVALID, "expected int32");
    check("age", "NaN", MALFORMED, "NaN and Infinity are not JSON; send null");
    check("age", "Infinity", MALFORMED, "send null");
    check("visits", "9223372036854775808", INVALID, "expected int64");
    check("visits", "-9223372036854775809", INVALID, "expected int64");
    check("visits", "1e19", INVALID, "expected int64");
    check("visits", "0.1", INVALID, "expected int64");
    check("score", "1e39", INVALID, "float32 (finite, at most 3.4028235e38)");
    check("score", "-1e39", INVALID, "float32");
    check("score", "NaN", MALFORMED, "send null");
    check("score", "-Infinity", MALFORMED, "send null");
    check("score", "\"0.5\"", INVALID, "float32");
    check("balance", "1e400", INVALID, "float64 (finite)");
    check("balance", "{}", INVALID, "float64");
    check("active", "1", INVALID, "bool (true or false)");
    check("active", "\"true\"", INVALID, "bool");
    check("country", "7", INVALID, "expected string");
    check("country", "\"\\ud800\"", INVALID, "string");
    check("photo", "\"not base64!\"", INVALID, "bytes (a base64 string)");
    check("photo", "[1,2]", INVALID, "bytes");
    check("seen", "1769860800", INVALID, "looks like seconds; send RFC 3339 or time_unit");
    check("seen", "\"2026-13-01T00:00:00Z\"", INVALID, "RFC 3339");
    check("seen", "true", INVALID, "timestamp");
    check("embedding", "[1,2]", INVALID, "an array of 2 elements");
    check("embedding", "[1,2,3,4]", INVALID, "expected float32[3]");
    check("embedding", "[1,null,3]", INVALID, "at element 1");
    check("embedding", "[1,\"2\",3]", INVALID, "at element 1");
    check("embedding", "[1,1e39,3]", INVALID, "at element 1");
    check("embedding", "[1,NaN,3]", MALFORMED, "send null");
    check("embedding", "1", INVALID, "float32[3]");
    check("labels", "[1]", INVALID, "at element 0");
    check("labels", "[[\"a\"]]", INVALID, "at element 0");
    let mut time = |value: &str, status, says: &str| {
        let row = format!(
            r#"{{"view":"user_profile","entity_id":"u1","event_timestamp":{value},"features":{{}}}}"#
        );
        door.refuse_json(PUSH, &format!(r#"{{"rows":[{row}]}}"#), status, says);
    };
    time("1769860800", INVALID, "looks like seconds; send RFC 3339 or time_unit");
    time("1769860800000", INVALID, "looks like seconds");
    time("1769860800.5", INVALID, "event_timestamp");
    time("9223372036854775808", INVALID, "event_timestamp");
    time("\"\"", INVALID, "RFC 3339");
    time("\"31.01.2026\"", INVALID, "RFC 3339");
    time("\"2026-01-31T25:00:00Z\"", INVALID, "RFC 3339");
    time("false", INVALID, "event_timestamp");
    time("\"2126-01-31T12:00:00Z\"", FUTURE, "limits.max_future");
    time("4925059200000000", FUTURE, "row 0, event_timestamp");
    time("NaN", MALFORMED, "send null");
}

fn push_columns(door: &mut Door) {
    let mut check = |columns: &str, status, says: &str| {
        let body = format!(r#"{{"view":"user_profile","columns":{columns}}}"#);
        door.refuse_json(PUSH, &body, status, says);
    };
    check("[]", MALFORMED, "an object");
    check("{}", MISSING_ENTITY, "\"user_id\" is missing");
    check(r#"{"user_id":[]}"#, MALFORMED, "there is no row to write");
    check(r#"{"age":[1]}"#, MISSING_ENTITY, "\"user_id\" is missing");
    check(r#"{"entity_id":["u1"],"age":[1]}"#, MISSING_ENTITY, "\"user_id\" is missing");
    let unequal = "columns differ in length: \"user_id\" has 2 values, \"age\" has 1";
    check(r#"{"user_id":["u1","u2"],"age":[1]}"#, MALFORMED, unequal);
    check(r#"{"user_id":["u1"],"age":1}"#, MALFORMED, "expected a list of values");
    check(r#"{"user_id":["u1"],"user_id":["u1"]}"#, MALFORMED, "column \"user_id\" twice");
    check(r#"{"user_id":["u1"],"age":[1],"age":[1]}"#, MALFORMED, "column \"age\" twice");
    check(r#"{"user_id":["u1"],"aeg":[1]}"#, NO_FEATURE, "did you mean \"age\"?");
    check(r#"{"user_id":["u1"],"timestamp":[1]}"#, NO_FEATURE, "\"event_timestamp\"?");
    check(r#"{"user_id":["u1","u2"],"age":[1,"x"]}"#, INVALID, "row 1, age");
    check(r#"{"user_id":["u1",null],"age":[1,2]}"#, INVALID, "row 1, user_id");
    check(r#"{"user_id":["u1"],"event_timestamp":[null]}"#, INVALID, "event_timestamp");
    check(r#"{"user_id":["u1"],"event_timestamp":[1769860800]}"#, INVALID, "looks like seconds");
    let no_view = r#"{"columns":{"user_id":["u1"],"age":[1]}}"#;
    door.refuse_json(PUSH, no_view, MALFORMED, "\"view\" says which view");
    let unknown = r#"{"view":"user_prof","columns":{"user_id":["u1"]}}"#;
    door.refuse_json(PUSH, unknown, NO_VIEW, "did you mean");
    let unit = r#"{"view":"user_profile","time_unit":"h","columns":{"user_id":["u1"]}}"#;
    door.refuse_json(PUSH, unit, INVALID, "s, ms, us or ns");
    let query = format!("{PUSH}?vieww=user_profile");
    door.refuse_json(&query, r#"{"rows":[]}"#, MALFORMED, "vieww");
}

fn register(door: &mut Door) {
    let mut check = |body: &str, status, says: &str| door.refuse_json(REGISTER, body, status, says);
    check("[]", INVALID, "found an array, expected a table");
    check(r#"{"entiy":{}}"#, INVALID, "did you mean \"entity\"?");
    check(r#"{"entity":{"a":{}}}"#, INVALID, "needs join_keys");
    check(r#"{"entity":{"a":{"join_keys":[]}}}"#, INVALID, "join keys");
    check(r#"{"entity":{"a":{"join_keys":["k","k"]}}}"#, INVALID, "\"k\" stands twice");
    check(r#"{"entity":{"a":{"join_keys":["k:float64"]}}}"#, INVALID, "k");
    check(r#"{"entity":{"a b":{"join_keys":["k"]}}}"#, INVALID, "a b");
    check(r#"{"entity":{"a":{"join_keys":["k"],"colour":1}}}"#, INVALID, "colour");
    let view = |name: &str, fields: &str| format!(r#"{{"view":{{"{name}":{{{fields}}}}}}}"#);
    let a = r#""features":{"a":"int32"}"#;
    let of_user = |rest: &str| view("new", &format!(r#""entity":"user",{rest}"#));
    check(&view("new", a), INVALID, "needs an entity");
    check(&view("new", &format!(r#""entity":"usr",{a}"#)), INVALID, "did you mean \"user\"?");
    check(&of_user(r#""features":{}"#), INVALID, "at least one feature");
    check(&of_user(r#""features":{"a":"int65"}"#), INVALID, "int65");
    check(&of_user(r#""features":{"a":"float32[0]"}"#), INVALID, "float32[0]");
    check(&of_user(r#""features":{"a":"float32[70000]"}"#), INVALID, "65536");
    check(&of_user(r#""features":{"a":{"type":"int32","default":"x"}}"#), INVALID, "default");
    check(&of_user(r#""features":{"a":{"type":"float32","default":1e39}}"#), INVALID, "float32");
    check(&of_user(&format!(r#""ttl":"soon",{a}"#)), INVALID, "ttl");
    check(&of_user(&format!(r#""ttl":"0s",{a}"#)), INVALID, "longer than 0s");
    check(&of_user(&format!(r#""tier":"tape",{a}"#)), INVALID, "tape");
    check(&of_user(&format!(r#""online":"yes",{a}"#)), INVALID, "true or false");
    check(&of_user(&format!(r#""entty":1,{a}"#)), INVALID, "did you mean \"entity\"?");
    check(&of_user(&format!(r#""online":false,"offline":false,{a}"#)), INVALID, "neither");
    check(&of_user(r#""features":{"user_id":"string"}"#), INVALID, "user_id");
    check(&view("online", &format!(r#""entity":"user",{a}"#)), INVALID, "reserved");
    check(&view("a:b", &format!(r#""entity":"user",{a}"#)), INVALID, "a:b");
    check(&view("v@0", &format!(r#""entity":"user",{a}"#)), INVALID, "bad version");
    let long = "x".repeat(129);
    check(&view(&long, &format!(r#""entity":"user",{a}"#)), INVALID, "128");
    let service = |features: &str| format!(r#"{{"service":{{"new":{{"features":{features}}}}}}}"#);
    check(&service("[]"), INVALID, "at least one feature");
    check(&service(r#"["user_profile:agee"]"#), INVALID, "did you mean");
    check(&service(r#"["user_profile:age","user_profile:age"]"#), INVALID, "user_profile:age");
    check(&service(r#"[{"as":"x"}]"#), INVALID, "");
    let key = r#"{"entity":{"user":{"join_keys":["user_id:int64"]}}}"#;
    check(key, INCOMPATIBLE, "join keys cannot change");
    let change = view("user_account", r#""entity":"user","features":{"age":"string"}"#);
    check(&change, INCOMPATIBLE, "add a version");
    check(&change, INCOMPATIBLE, "user_account@2");
    let (json, toml) = ([JSON], [TOML]);
    let if_match = [JSON, ("if-match", "1")];
    let new = of_user(a);
    let new = new.as_bytes();
    door.refuse(("POST", REGISTER, &if_match, new), SEQUENCE, "");
    let if_match = [JSON, ("if-match", "latest")];
    door.refuse(("POST", REGISTER, &if_match, new), MALFORMED, "If-Match is latest");
    let target = format!("{REGISTER}?dry_run=perhaps");
    door.refuse(("POST", &target, &json, new), MALFORMED, "dry_run");
    let target = format!("{REGISTER}?dryrun=true");
    door.refuse(("POST", &target, &json, new), MALFORMED, "dryrun");
    let mut toml = |text: &[u8], status, says: &str| {
        door.refuse(("POST", REGISTER, &toml, text), status, says);
    };
    toml(b"[view.v\n", MALFORMED, "body:1");
    toml(b"a = \"\xff\"", MALFORMED, "UTF-8");
    toml(b"[entity.e]\njoin_keys = 1\n", INVALID, "body:2");
    toml(b"[view.v]\nentity = \"user\"\n[view.v]\n", MALFORMED, "body:3");
    let drop = |path: &'static str| ("DELETE", path, [].as_slice(), b"".as_slice());
    door.refuse(drop("/api/v1/views/user_profile"), IN_USE, "credit");
    door.refuse(drop("/api/v1/views/user_profil"), NO_VIEW, "did you mean \"user_profile\"?");
    door.refuse(drop("/api/v1/views/user_account?data=burn"), INVALID, "only be keep or drop");
    door.refuse(drop("/api/v1/views/user_profile?data=drop"), IN_USE, "credit");
    let target = format!("{REGISTER}?data=drop");
    door.refuse(("POST", &target, &json, new), INVALID, "?prune=true");
    let target = format!("{REGISTER}?prune=true&data=burn");
    door.refuse(("POST", &target, &json, new), INVALID, "only be keep or drop");
    door.refuse(drop("/api/v1/services/credt"), NO_SERVICE, "did you mean \"credit\"?");
}

fn listings(door: &mut Door) {
    let mut check = |target: &str, status, says: &str| {
        door.refuse(("GET", target, &[], b""), status, says);
    };
    check("/api/v1/entities/usr", NO_ENTITY_TYPE, "did you mean \"user\"?");
    check("/api/v1/entities/usr/count", NO_ENTITY_TYPE, "did you mean \"user\"?");
    check("/api/v1/entities/user?limit=0", INVALID, "1 to 10000");
    check("/api/v1/entities/user?limit=10001", INVALID, "1 to 10000");
    check("/api/v1/entities/user?limit=many", MALFORMED, "limit");
    check("/api/v1/entities/user?cursor=!!", MALFORMED, "no page gave");
    check("/api/v1/entities/user?after=x", MALFORMED, "after");
    check("/api/v1/features?entity=usr", NO_ENTITY_TYPE, "did you mean \"user\"?");
    check("/api/v1/features?cursor=bm9uZQ", MALFORMED, "cursor");
    check("/api/v1/features?limit=-1", MALFORMED, "limit");
    check("/api/v1/features/nothing", NO_VIEW, "nothing");
    check("/api/v1/features/user_profile:agee", NO_FEATURE, "did you mean");
    check("/api/v1/views/user_profil", NO_VIEW, "did you mean \"user_profile\"?");
    check("/api/v1/views/user_profile@9", NO_VIEW, "user_profile@9");
    check("/api/v1/services/credt", NO_SERVICE, "did you mean \"credit\"?");
    let long = format!("/api/v1/views/{}", "x".repeat(1_000));
    check(&long, LIMIT, "1000 bytes");
    let cache = |path: &'static str| ("DELETE", path, [].as_slice(), b"".as_slice());
    door.refuse(cache("/api/v1/cache/invalidate/u1"), MALFORMED, "entity_type");
    let unknown = cache("/api/v1/cache/invalidate/u1?entity_type=usr");
    door.refuse(unknown, NO_ENTITY_TYPE, "did you mean \"user\"?");
    let key = cache("/api/v1/cache/invalidate/x?entity_type=merchant");
    door.refuse(key, INVALID, "merchant_id as int64");
}

/// Headers and queries that every endpoint reads.
fn headers(door: &mut Door) {
    let body = br#"{"entity_type":"user","entity_id":"u1","feature_names":["user_profile:age"]}"#;
    let mut check = |header: (&str, &str), status, says: &str| {
        door.refuse(("POST", ONLINE, &[header], body), status, says);
    };
    check(("larder-timeout-ms", "soon"), MALFORMED, "a number from 1 to 3600000");
    check(("larder-timeout-ms", "0"), MALFORMED, "a number from 1 to 3600000");
    check(("larder-timeout-ms", "-5"), MALFORMED, "-5");
    check(("larder-timeout-ms", "9223372036854775807"), MALFORMED, "3600000");
    check(("larder-project", "defalt"), NO_ENTITY_TYPE, "project \"defalt\"");
    check(("content-encoding", "gzip"), MALFORMED, "gzip is not supported");
    let push = r#"{"rows":[{"view":"user_profile","entity_id":"u1","features":{"age":1}}]}"#;
    let mut check = |headers: &[(&str, &str)], status, says: &str| {
        door.refuse(("POST", PUSH, headers, push.as_bytes()), status, says);
    };
    check(&[("content-type", "application/xml")], MALFORMED, "application/xml is not supported");
    check(&[TOML], MALFORMED, "not TOML");
    check(&[("idempotency-key", "")], MALFORMED, "it takes 1 to 256");
    let long = "k".repeat(257);
    check(&[("idempotency-key", &long)], MALFORMED, "257 bytes");
    check(&[("larder-project", "other")], NO_ENTITY_TYPE, "other");
    let target = format!("{PUSH}?project=other");
    door.refuse_json(&target, push, NO_ENTITY_TYPE, "other");
}

fn routes(door: &mut Door) {
    let mut check = |method: &str, target: &str, status, says: &str| {
        door.refuse((method, target, &[], b""), status, says);
    };
    check("GET", "/", NO_ROUTE, "there is no /");
    check("GET", "/api/v2/features", NO_ROUTE, "/api/v2/features");
    check("POST", "/api/v1/features/onlin", NO_METHOD, "");
    check("GET", "/api/v1/features/online/", NO_ROUTE, "/api/v1/features/online/");
    check("PUT", ONLINE, NO_METHOD, "PUT");
    check("DELETE", PUSH, NO_METHOD, "not DELETE");
    check("PATCH", "/api/v1/entities", NO_METHOD, "not PATCH");
    check("POST", "/health", NO_METHOD, "not POST");
    check("BREW", "/ready", NO_METHOD, "not BREW");
    check("POST", "/api/v1/events/transactions", NO_ROUTE, "/api/v1/events");
    check("GET", "/docs/missing.js", NO_ROUTE, "no such file");
}
