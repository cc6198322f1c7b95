//! The example against answers that were worked out without Larder: `examples/flights`.
//!
//! It does not know how they were worked out; `make_slice.py` there does.

use std::sync::Arc;

use larder::engine::Engine;
use larder::engine::load::{EventTimes, LoadOptions};
use larder::engine::lookup::{Batch, LookupPlan};
use larder::engine::writes::Durability;
use larder::registry::plan::What;
use larder::registry::resolve::Purpose;
use larder::time::{ArrivalTime, EventTime, ManualClock};
use larder::value::json;
use larder::value::key::{append_part, part_of_json};
use serde_json::{Map, Value, json};

use crate::support::{PROJECT, Told, define, example, load, now, open_at, plan, then};

/// Long after the flights.
const TODAY: &str = "2026-01-31T12:00:00Z";

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_else(|| panic!("{field} of {entry}"))
}

fn time(text: &str) -> EventTime {
    EventTime::parse(text).expect("a time")
}

fn array<'a>(entry: &'a Value, field: &str) -> &'a Vec<Value> {
    entry[field].as_array().unwrap_or_else(|| panic!("{field}"))
}

async fn load_all(engine: &Arc<Engine>, loads: &[Value]) {
    for entry in loads {
        let view = text(entry, "view");
        let event_time = match entry["event_time"].as_str() {
            Some(at) => EventTimes::At(time(at)),
            None => EventTimes::Column(entry["timestamp"].as_str().map(str::to_owned)),
        };
        let options = LoadOptions { event_time, arrival: None, time_unit: None, refuse_nan: false };
        let path = example().join(text(entry, "file"));
        let before = engine.health().sequence.0;
        let loaded = load(engine, view, &path, options.clone()).await.expect(view);
        let rows = entry["rows"].as_u64().expect("rows");
        assert_eq!((loaded.rows, loaded.written, loaded.resumed), (rows, rows, 0), "{view}");
        assert_eq!(Some(loaded.superseded), entry["superseded"].as_u64(), "{view}");
        assert_eq!(loaded.sequence.0, before + rows, "{view}");
        let id = engine.registry().view_named(PROJECT, view).expect("defined").id;
        let states = engine.rows_per_view().into_iter().find(|(view, _)| *view == id);
        assert_eq!(states.map(|(_, rows)| rows), entry["entities"].as_u64(), "{view}");
        let again = load(engine, view, &path, options).await.expect(view);
        assert_eq!((again.written, again.loaded_before.is_some()), (0, true), "{view}");
    }
}

/// The keys of a request, one per role of the plan.
fn batch(plan: &LookupPlan, entity_of: impl Fn(&str) -> Value) -> Batch {
    let roles = &plan.plan.roles;
    let mut batch = Batch::new(roles.len());
    let keys: Vec<Vec<u8>> = roles
        .iter()
        .map(|role| {
            let id = entity_of(&role.name);
            let mut key = Vec::new();
            for join_key in &role.entity.join_keys {
                let part = id.get(&join_key.name).unwrap_or(&id).to_string();
                let part = part_of_json(join_key.key_type, &part).expect("a key");
                append_part(&mut key, join_key.key_type, &part).expect("a key");
            }
            key
        })
        .collect();
    batch.push_row(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
    batch
}

async fn ask(
    engine: &Arc<Engine>,
    what: What<'_>,
    at: Option<&str>,
    entity_of: impl Fn(&str) -> Value,
) -> (Arc<LookupPlan>, Vec<Told>) {
    let purpose = if at.is_some() { Purpose::AsOf } else { Purpose::Online };
    let plan = plan(engine, what, purpose).expect("what is asked is defined");
    let batch = batch(&plan, entity_of);
    let mut rows = match at {
        None => now(engine, &plan, batch).await,
        Some(at) => then(engine, &plan, batch, vec![time(at)], None).await,
    };
    (plan, rows.remove(0))
}

/// An answer as the expectations are written: values by name, and the names that are missing.
fn written(plan: &LookupPlan, answers: &[Told], prefix: &str) -> (Map<String, Value>, Value) {
    let name = |index: usize| {
        let name = &*plan.plan.columns[index].name;
        name.strip_prefix(prefix).unwrap_or(name).to_owned()
    };
    let features = answers.iter().enumerate().map(|(index, told)| {
        let value = told.value.as_ref().map_or(Value::Null, |value| {
            let mut text = Vec::new();
            json::write(value.borrowed(), &mut text);
            serde_json::from_slice(&text).expect("JSON")
        });
        (name(index), value)
    });
    let missing = answers.iter().enumerate().filter(|(_, told)| told.is_missing());
    (features.collect(), missing.map(|(index, _)| name(index)).collect())
}

/// Numbers are compared as numbers: the expectations do not know which column is float32.
fn check(found: &Map<String, Value>, expected: &Value, what: &str) {
    let expected = expected.as_object().expect("features");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        let found = &found[name];
        match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => assert_eq!(found, expected, "{name} of {what}"),
            _ => assert_eq!(found, expected, "{name} of {what}"),
        }
    }
}

async fn check_entries(engine: &Arc<Engine>, view: &str, entries: &[Value]) {
    let registry = engine.registry();
    let features = &registry.view_named(PROJECT, view).expect("defined").features;
    let prefix = format!("{view}:");
    let references: Vec<String> =
        features.iter().map(|feature| format!("{prefix}{}", feature.name)).collect();
    for entry in entries {
        let what = What::Features(references.iter().map(String::as_str).collect());
        let entity_of = |_: &str| entry["entity_id"].clone();
        let (plan, answers) = ask(engine, what, entry["as_of"].as_str(), entity_of).await;
        let (found, missing) = written(&plan, &answers, &prefix);
        check(&found, &entry["features"], &entry.to_string());
        assert_eq!(missing, entry["missing_features"], "{entry}");
        // Every row of the example is full, so all its features have the row's time.
        let event_time = entry["event_timestamp"].as_str().map(time);
        assert!(answers.iter().all(|told| told.event_time == event_time), "{entry}: {answers:?}");
    }
}

async fn check_lookup(engine: &Arc<Engine>, lookup: &Value) {
    let request = &lookup["request"];
    let what = match request["service"].as_str() {
        Some(service) => What::Service(service),
        None => {
            let names = array(request, "feature_names").iter();
            What::Features(names.map(|name| name.as_str().expect("a name")).collect())
        }
    };
    let entity_of = |role: &str| match request.get("entities") {
        Some(entities) => entities[role].clone(),
        None => {
            assert_eq!(role, text(request, "entity_type"));
            request["entity_id"].clone()
        }
    };
    let (plan, answers) = ask(engine, what, request["as_of"].as_str(), entity_of).await;
    let (found, missing) = written(&plan, &answers, "");
    check(&found, &lookup["answer"]["features"], &request.to_string());
    assert_eq!(missing, lookup["answer"]["missing_features"], "{request}");
}

#[tokio::test]
async fn the_example_answers_what_was_worked_out_without_larder() {
    let expected = std::fs::read_to_string(example().join("expected.json")).expect("it is there");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    let directory = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::new(ArrivalTime::from_micros(time(TODAY).micros()));
    let mut engine = open_at(directory.path(), &clock, Durability::Os);
    let definitions = std::fs::read_to_string(example().join("definitions.toml"));
    define(&engine, &definitions.expect("it is there")).await.expect("it fits");
    load_all(&engine, array(&expected, "loads")).await;
    for restarted in [false, true] {
        if restarted {
            drop(engine);
            engine = open_at(directory.path(), &clock, Durability::Os);
        }
        for section in ["latest", "as_of"] {
            for (view, entries) in expected[section].as_object().expect(section) {
                check_entries(&engine, view, entries.as_array().expect("a list")).await;
            }
        }
        for lookup in array(&expected, "lookups") {
            check_lookup(&engine, lookup).await;
        }
    }
}

#[test]
fn the_comparison_can_fail() {
    let found = |value: Value| Map::from_iter([("a".to_owned(), value)]);
    check(&found(json!(1)), &json!({"a": 1.0}), "equal");
    for (value, expected) in [
        (json!(1), json!({"a": 2})),
        (json!(null), json!({"a": 0})),
        (json!("1"), json!({"a": 1})),
        (json!(1), json!({"b": 1})),
        (json!(1), json!({"a": 1, "b": 1})),
    ] {
        let differs = std::panic::catch_unwind(|| check(&found(value), &expected, "different"));
        assert!(differs.is_err(), "{expected}");
    }
}
