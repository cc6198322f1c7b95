//! Lookups asked over and over with other ids: the server knows their text by then and reads only
//! the ids. Whatever it answers is compared with what the rows pushed say, worked out the slow way.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use crate::door::{Door, JSON, steady};

const ONLINE: &str = "/api/v1/features/online";
const BATCH: &str = "/api/v1/features/batch";

/// How many sets of rows and requests.
const CASES: usize = 40;

/// A feature, its definition, and what is pushed for it, written as the server writes it.
type Feature = (&'static str, fn() -> Value, fn() -> Vec<Value>);

const FEATURES: [Feature; 14] = [
    ("flag", || json!("bool"), || vec![json!(true), json!(false)]),
    ("small", || json!("int32"), || vec![json!(0), json!(i32::MIN), json!(i32::MAX)]),
    ("large", || json!("int64"), || vec![json!(i64::MIN), json!(i64::MAX), json!(999_999)]),
    ("single", || json!("float32"), || vec![json!(0.5), json!(-3.0), json!(1024.25)]),
    ("double", || json!("float64"), || vec![json!(0.1), json!(-1e300), json!(12.0)]),
    ("text", || json!("string"), || vec![json!(""), json!("a \"b\" \\ é\n"), json!("plain")]),
    ("blob", || json!("bytes"), || vec![json!(""), json!("AAH/")]),
    ("seen", || json!("timestamp"), || vec![json!("2026-01-30T08:00:00.000001Z")]),
    ("vector", || json!("float32[3]"), || vec![json!([1.0, 2.5, -3.0])]),
    ("words", || json!("string[]"), || vec![json!([]), json!(["a", "", "é"])]),
    ("fallback", || json!({"type": "int64", "default": -1}), || vec![json!(5)]),
    ("named", || json!({"type": "string", "default": "no\"ne"}), || vec![json!("some")]),
    ("passing", || json!({"type": "float64", "ttl": "1h"}), || vec![json!(1.5)]),
    ("both", || json!({"type": "int32", "ttl": "1h", "default": 7}), || vec![json!(8)]),
];
const PASSING: [&str; 2] = ["passing", "both"];

/// Entities by how their keys are written, and ids of each; in a group they name the same entity.
const ENTITIES: [(&str, &[&[&str]]); 3] = [
    (
        "user",
        &[
            &["\"u1\"", "{\"user_id\":\"u1\"}", "[\"u1\"]"],
            &["\"7\"", "7"],
            &["\"a \\\"b\\\" é\"", "\"a \\\"b\\\" \\u00e9\""],
            &["\"entity_id\""],
            &["\"nobody\""],
        ],
    ),
    ("account", &[&["7", "\"7\""], &["-1"], &["9223372036854775807"], &["0"]]),
    (
        "route",
        &[
            &["[\"JFK\",7]", "{\"number\":7,\"origin\":\"JFK\"}", "[ \"JFK\" , \"7\" ]"],
            &["{\"origin\":\"entity_ids\",\"number\":0}"],
            &["[\"nowhere\",1]"],
        ],
    ),
];

/// What became of a cell.
#[derive(Clone, Debug)]
enum Cell {
    Absent,
    Null,
    Value(Value),
}

#[derive(Clone, Debug)]
struct Row {
    entity: usize,
    id: usize,
    old: bool,
    cells: Vec<Cell>,
}

#[derive(Clone, Debug)]
struct Ask {
    entity: usize,
    features: Vec<usize>,
    /// Group and spelling.
    ids: Vec<(usize, usize)>,
    include: Vec<&'static str>,
}

fn cell(feature: usize) -> impl Strategy<Value = Cell> {
    let values = FEATURES[feature].2();
    prop_oneof![
        1 => Just(Cell::Absent),
        1 => Just(Cell::Null),
        3 => proptest::sample::select(values).prop_map(Cell::Value),
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let cells: Vec<_> = (0..FEATURES.len()).map(cell).collect();
    (0..ENTITIES.len(), any::<prop::sample::Index>(), any::<bool>(), cells).prop_map(
        |(entity, id, old, cells)| {
            // The last of each stays without rows.
            let id = id.index(ENTITIES[entity].1.len() - 1);
            Row { entity, id, old, cells }
        },
    )
}

fn ask() -> impl Strategy<Value = Ask> {
    let features: Vec<usize> = (0..FEATURES.len()).collect();
    let features = subsequence(features, 1..=FEATURES.len()).prop_shuffle();
    let include = subsequence(vec!["statuses", "event_timestamps", "defaulted"], 0..=3);
    let ids = vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6);
    (0..ENTITIES.len(), features, ids, include).prop_map(|(entity, features, ids, include)| {
        let ids = ids.iter().map(|(group, spelling)| {
            let group = group.index(ENTITIES[entity].1.len());
            (group, spelling.index(ENTITIES[entity].1[group].len()))
        });
        Ask { entity, features, ids: ids.collect(), include }
    })
}

fn definitions() -> Value {
    let features: Map<String, Value> =
        FEATURES.iter().map(|(name, definition, _)| ((*name).to_owned(), definition())).collect();
    let view = |entity: &str| json!({"entity": entity, "features": features});
    json!({
        "entity": {
            "user": {"join_keys": ["user_id"]},
            "account": {"join_keys": ["account_id:int64"]},
            "route": {"join_keys": ["origin", "number:int32"]},
        },
        "view": {"of_user": view("user"), "of_account": view("account"), "of_route": view("route")},
    })
}

/// The newest cell of every feature: when, and null or a value.
#[derive(Default)]
struct Expected {
    cells: BTreeMap<(usize, usize, usize), (u64, Option<Value>)>,
    now: u64,
}

/// Seconds before now at which rows happened; the TTL is an hour.
const FRESH: u64 = 60;
const OLD: u64 = 7_200;

impl Expected {
    fn happened(&self, old: bool) -> u64 {
        self.now - if old { OLD } else { FRESH }
    }

    fn take(&mut self, row: &Row) {
        let at = self.happened(row.old);
        for (feature, cell) in row.cells.iter().enumerate() {
            let value = match cell {
                Cell::Absent => continue,
                Cell::Null => None,
                Cell::Value(value) => Some(value.clone()),
            };
            let place = (row.entity, row.id, feature);
            let newer = self.cells.get(&place).is_none_or(|(before, _)| at >= *before);
            if newer {
                self.cells.insert(place, (at, value));
            }
        }
    }

    /// Value, status, event time in seconds, whether it is the default.
    fn cell(&self, entity: usize, id: usize, feature: usize) -> (Value, &str, Option<u64>, bool) {
        let (name, definition, _) = &FEATURES[feature];
        let found = self.cells.get(&(entity, id, feature));
        let (status, value) = match found {
            None => ("NOT_FOUND", None),
            Some((at, _)) if PASSING.contains(name) && self.now - at > 3_600 => {
                ("OUTSIDE_MAX_AGE", None)
            }
            Some((_, None)) => ("NULL_VALUE", None),
            Some((_, Some(value))) => ("PRESENT", Some(value.clone())),
        };
        let default = definition().get("default").cloned();
        let defaulted = value.is_none() && default.is_some();
        let value = value.or(default).unwrap_or(Value::Null);
        (value, status, found.map(|(at, _)| *at), defaulted)
    }

    fn online(&self, ask: &Ask, (group, spelling): (usize, usize)) -> Value {
        let (entity, ids) = ENTITIES[ask.entity];
        let mut answer = json!({"entity_type": entity, "features": {}});
        answer["entity_id"] =
            serde_json::from_str(ids[group][spelling]).expect("ids of the test are JSON");
        ask.include.iter().for_each(|part| answer[*part] = json!({}));
        let mut missing = Vec::new();
        for feature in &ask.features {
            let name = reference(ask.entity, *feature);
            let (value, status, at, defaulted) = self.cell(ask.entity, group, *feature);
            answer["features"][&name] = value;
            for part in &ask.include {
                answer[*part][&name] = part_of(part, status, at, defaulted);
            }
            if status != "PRESENT" {
                missing.push(name);
            }
        }
        answer["metadata"] =
            json!({"missing_features": missing, "cache_hit": true, "fallback": false});
        answer
    }

    fn batch(&self, ask: &Ask) -> Value {
        let names: Vec<String> =
            ask.features.iter().map(|feature| reference(ask.entity, *feature)).collect();
        let mut answer = json!({"feature_names": names});
        let (mut missing, mut not_found) = (0, 0);
        let mut rows = Vec::new();
        let mut parts: BTreeMap<&str, Vec<Vec<Value>>> = BTreeMap::new();
        for (group, _) in &ask.ids {
            let cells: Vec<_> =
                ask.features.iter().map(|f| self.cell(ask.entity, *group, *f)).collect();
            missing += cells.iter().filter(|cell| cell.1 != "PRESENT").count();
            not_found += usize::from(cells.iter().all(|cell| cell.1 == "NOT_FOUND"));
            rows.push(cells.iter().map(|cell| cell.0.clone()).collect::<Vec<_>>());
            for part in &ask.include {
                let of_row = cells.iter().map(|cell| part_of(part, cell.1, cell.2, cell.3));
                parts.entry(part).or_default().push(of_row.collect());
            }
        }
        answer["rows"] = json!(rows);
        parts.into_iter().for_each(|(part, rows)| answer[part] = json!(rows));
        answer["metadata"] = json!({
            "missing": missing, "not_found": not_found, "cache_hit": true, "fallback": false,
        });
        answer
    }
}

fn part_of(part: &str, status: &str, at: Option<u64>, defaulted: bool) -> Value {
    match part {
        "statuses" => json!(status),
        "event_timestamps" => at.map_or(Value::Null, |at| {
            let at = i64::try_from(at).expect("seconds of this century");
            let time = jiff::Timestamp::from_second(at).expect("a time of this century");
            json!(format!("{time:.6}"))
        }),
        _ => json!(defaulted),
    }
}

fn reference(entity: usize, feature: usize) -> String {
    format!("of_{}:{}", ENTITIES[entity].0, FEATURES[feature].0)
}

/// The text of a request, the ids as they stand; `space` goes where JSON does not mind.
fn text(ask: &Ask, field: &str, ids: &str, space: &str) -> String {
    let names: Vec<String> =
        ask.features.iter().map(|feature| reference(ask.entity, *feature)).collect();
    let (names, include) = (json!(names), json!(ask.include));
    format!(
        "{{\"entity_type\":\"{}\",{space}\"{field}\" : {ids} ,\"feature_names\":{names},\
         \"include\":{include}}}",
        ENTITIES[ask.entity].0
    )
}

fn id_text(ask: &Ask, (group, spelling): (usize, usize)) -> &'static str {
    ENTITIES[ask.entity].1[group][spelling]
}

/// Asks for `body`, again, and once more with a text that no server has seen.
fn thrice(door: &mut Door, target: &str, body: impl Fn(&str) -> String, expected: &Value) {
    static SEEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    let seen = SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    for (what, space) in [("first", ""), ("again", ""), ("new text", &*" ".repeat(seen))] {
        let body = body(space);
        let reply = door.ask("POST", target, &[JSON], body.as_bytes());
        assert_eq!(reply.status, 200, "{what}: {body}: {reply}");
        assert_eq!(steady(reply.json()), *expected, "{what}: {body}");
    }
}

fn check(door: &mut Door, expected: &mut Expected, rows: &[Row], asks: &[Ask]) {
    for row in rows {
        expected.take(row);
        let (entity, ids) = ENTITIES[row.entity];
        let mut features = Map::new();
        for (feature, cell) in row.cells.iter().enumerate() {
            match cell {
                Cell::Absent => None,
                Cell::Null => features.insert(FEATURES[feature].0.to_owned(), Value::Null),
                Cell::Value(value) => {
                    features.insert(FEATURES[feature].0.to_owned(), value.clone())
                }
            };
        }
        let id: Value = serde_json::from_str(ids[row.id][0]).expect("ids of the test are JSON");
        let at = expected.happened(row.old) * 1_000_000;
        let row = json!({"view": format!("of_{entity}"), "entity_id": id,
            "event_timestamp": at, "features": features});
        door.post("/api/v1/features/push", json!({"rows": [row]}));
    }
    for ask in asks {
        for id in &ask.ids {
            let body = |space: &str| text(ask, "entity_id", id_text(ask, *id), space);
            thrice(door, ONLINE, body, &expected.online(ask, *id));
        }
        for some in 1..=ask.ids.len() {
            let ask = Ask { ids: ask.ids[..some].to_vec(), ..ask.clone() };
            let ids: Vec<&str> = ask.ids.iter().map(|id| id_text(&ask, *id)).collect();
            let body =
                |space: &str| text(&ask, "entity_ids", &format!("[{}]", ids.join(", ")), space);
            thrice(door, BATCH, body, &expected.batch(&ask));
        }
    }
}

#[test]
fn what_was_asked_before_is_answered_as_the_rows_say() {
    let mut door = Door::bare(&[]);
    door.post("/api/v1/features/register", definitions());
    let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time of this century");
    let mut expected = Expected { now: since_epoch.as_secs(), ..Expected::default() };
    // Every case goes on with the rows of those before it, so none can be made smaller.
    let mut runner = TestRunner::default();
    for _ in 0..CASES {
        let case = (vec(row(), 0..6), vec(ask(), 1..4)).new_tree(&mut runner);
        let (rows, asks) = case.expect("nothing is filtered").current();
        check(&mut door, &mut expected, &rows, &asks);
    }
    door.finish();
}

/// Refusals do not depend on whether the rest of the body is known by then.
#[test]
fn bad_ids_are_refused_alike_in_any_text() {
    let mut door = Door::bare(&[]);
    door.post("/api/v1/features/register", definitions());
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    let long = format!("\"{}\"", "x".repeat(2_000));
    let bad = [
        "null",
        "\"\"",
        "true",
        "1.5",
        "[]",
        "[1,2]",
        "{}",
        "{\"user\":1}",
        "\"\\ud800\"",
        "nul",
        "\"",
        "1 2",
        "{\"user_id\":1,\"user_id\":1}",
        &deep,
        &long,
    ];
    for (target, field, good) in [(ONLINE, "entity_id", "1"), (BATCH, "entity_ids", "[1]")] {
        let body = |id: &str, space: &str| {
            format!(
                "{{{space}\"entity_type\":\"user\",\"{field}\":{id},\
                 \"feature_names\":[\"of_user:flag\"]}}"
            )
        };
        for _ in 0..2 {
            let reply = door.ask("POST", target, &[JSON], body(good, "").as_bytes());
            door.holds("a good one", reply.status == 200);
        }
        for (index, bad) in bad.iter().enumerate() {
            let bad = if target == ONLINE { (*bad).to_owned() } else { format!("[1,{bad}]") };
            let mut refusal = |space: &str| {
                let reply = door.ask("POST", target, &[JSON], body(&bad, space).as_bytes());
                let mut problem = reply.json();
                problem.as_object_mut().expect("a problem").remove("request_id");
                (reply.status, problem)
            };
            let known = refusal("");
            let mut new = refusal(&" ".repeat(index + 1));
            // Where the text is longer, so are the columns named.
            let place = |problem: &Value| problem["detail"].as_str().map(without_column);
            let (known_detail, new_detail) = (place(&known.1), place(&new.1));
            door.holds(
                &format!("{bad}: {known_detail:?} {new_detail:?}"),
                known_detail == new_detail,
            );
            new.1["detail"] = known.1["detail"].clone();
            door.holds(
                &format!("{bad}: {known:?} {new:?}"),
                known == new && known.0 == 400 || known.0 == 413,
            );
        }
    }
    door.finish();
}

fn without_column(detail: &str) -> String {
    detail.split("column").next().unwrap_or_default().to_owned()
}
