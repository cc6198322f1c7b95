//! Exports compared with what was written, row by row, with the parquet crate; interrupted ones
//! included.
//!
//! They do not know DuckDB: `tests/export/run` reads an export with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use bytes::Bytes;
use larder::disk::fake::{FakeDisk, Fault};
use larder::disk::real::RealDisk;
use larder::disk::{Disk, DiskErrorKind, read_whole};
use larder::engine::Engine;
use larder::engine::define::Data;
use larder::engine::export::{ExportError, ExportOptions, Exported, export};
use larder::engine::writes::{Durability, WriteBatch};
use larder::history::backup::{Pinned, pin_directory};
use larder::ids::{Sequence, Slot};
use larder::time::{ArrivalTime, EventTime, ManualClock, Span};
use larder::value::cell::{ArrayBuilder, CellRef, ValueRef};
use larder::value::types::{KeyType, ScalarType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::{PROJECT, Random, define, key, open_at};

const DAY: i64 = 86_400_000_000;
/// 2026-01-31.
const START: i64 = 1_769_817_600_000_000;
const TO: &str = "/lake";

const DEFINITIONS: &str = r#"
[entity.route]
join_keys = ["origin", "gate:int32"]
[entity.user]
join_keys = ["user_id:int64"]
[view.v]
entity = "route"
features = { n = "int64", f = "float64", text = "string", vector = "float32[2]", list = "int32[]", at = "timestamp" }
[view.w]
entity = "user"
features = { sequence = "int64" }
[view."w@2"]
entity = "user"
features = { b = "bool" }
[view.hidden]
entity = "user"
offline = false
features = { n = "int64" }
"#;

/// What a row of an export says: its columns by name, its times among them.
type Row = BTreeMap<String, Value>;

/// The rows that should be there: by view, then by sequence.
type Expected = BTreeMap<&'static str, BTreeMap<u64, Row>>;

struct Written {
    engine: Arc<Engine>,
    clock: ManualClock,
    random: Random,
    expected: Expected,
}

impl Written {
    async fn new(path: &Path) -> Self {
        let clock = ManualClock::new(ArrivalTime::from_micros(START + 40 * DAY));
        let engine = open_at(path, &clock, Durability::Sync);
        define(&engine, DEFINITIONS).await.expect("they are right");
        let random = Random::seeded("export");
        Self { engine, clock, random, expected: Expected::new() }
    }

    /// Writes `batches` of some rows each.
    async fn write(&mut self, batches: usize) {
        for _ in 0..batches {
            self.clock.advance(Span::from_micros(self.random.between(0, 1_000_000)));
            let registry = self.engine.registry();
            let mut batch = WriteBatch::new(&registry, self.engine.limits());
            let mut rows = Vec::new();
            for _ in 0..self.random.between(1, 40) {
                rows.push(self.row(&registry, &mut batch));
            }
            let count = rows.len() as u64;
            let accepted = self.engine.write(PROJECT, batch, None).await.expect("it fits");
            let first = accepted.sequence.0 + 1 - count;
            let arrival = larder::time::Clock::now(&self.clock).micros();
            for (sequence, (view, mut row)) in (first..).zip(rows) {
                row.insert("arrival_timestamp".to_owned(), json!(arrival));
                row.insert("sequence".to_owned(), json!(sequence));
                if view != "hidden" {
                    self.expected.entry(view).or_default().insert(sequence, row);
                }
            }
        }
    }

    fn row(
        &mut self,
        registry: &larder::registry::Registry,
        batch: &mut WriteBatch,
    ) -> (&'static str, Row) {
        let random = &mut self.random;
        let view = ["v", "v", "w", "w@2", "hidden"][random.below(5)];
        let event_time = START - 5 * DAY + random.between(0, 30 * DAY);
        let mut row = Row::from([("event_timestamp".to_owned(), json!(event_time))]);
        batch.start(registry.view_named(PROJECT, view).expect("defined"));
        let key = if view == "v" {
            let (origin, gate) = (format!("ü{}", random.below(5)), random.between(-3, 3));
            row.insert("origin".to_owned(), json!(origin));
            row.insert("gate".to_owned(), json!(gate));
            key(&[(KeyType::String, &origin), (KeyType::Int32, &gate.to_string())])
        } else {
            let user = random.between(-9, 9);
            row.insert("user_id".to_owned(), json!(user));
            key(&[(KeyType::Int64, &user.to_string())])
        };
        let names: &[&str] = match view {
            "v" => &["n", "f", "text", "vector", "list", "at"],
            "w" => &["feature__sequence"],
            "w@2" => &["b"],
            _ => &["n"],
        };
        for (slot, name) in names.iter().enumerate() {
            let slot = Slot(slot as u16);
            let value = match random.below(6) {
                0 => {
                    batch.set(slot, CellRef::Null);
                    Value::Null
                }
                // Nothing is said of it.
                1 => Value::Null,
                _ => set(batch, slot, name, random),
            };
            row.insert((*name).to_owned(), value);
        }
        batch.end(&key, Some(EventTime::from_micros(event_time))).expect("small");
        (view, row)
    }

    async fn held(&self) -> Arc<Pinned> {
        let begun = self.engine.begin_backup().await.expect("few are under way");
        // What is open stays open.
        assert!(self.engine.end_backup(begun.id));
        begun.pinned
    }
}

/// Sets a random value; returns it as the export should show it.
fn set(batch: &mut WriteBatch, slot: Slot, name: &str, random: &mut Random) -> Value {
    let n = random.between(-1000, 1000);
    let array = |scalar: ScalarType, values: &[ValueRef<'_>]| {
        let mut array = ArrayBuilder::new(scalar);
        values.iter().for_each(|value| array.push(*value));
        array
    };
    let mut put = |value: ValueRef<'_>| batch.set(slot, CellRef::Value(value));
    match name {
        "f" => {
            put(ValueRef::Float64(n as f64 / 8.0));
            json!(n as f64 / 8.0)
        }
        "text" => {
            put(ValueRef::String(&format!("t{n}")));
            json!(format!("t{n}"))
        }
        "vector" => {
            let values = [ValueRef::Float32(n as f32), ValueRef::Float32(0.5)];
            put(ValueRef::Array(array(ScalarType::Float32, &values).borrowed()));
            json!([n as f64, 0.5])
        }
        "list" => {
            let values = vec![ValueRef::Int32(n as i32); n.unsigned_abs() as usize % 4];
            put(ValueRef::Array(array(ScalarType::Int32, &values).borrowed()));
            json!(vec![n; values.len()])
        }
        "at" => {
            put(ValueRef::Timestamp(EventTime::from_micros(n)));
            json!(n)
        }
        "b" => {
            put(ValueRef::Bool(n > 0));
            json!(n > 0)
        }
        _ => {
            put(ValueRef::Int64(n));
            json!(n)
        }
    }
}

fn value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let list = |items: Arc<dyn Array>| -> Value {
        (0..items.len()).map(|index| value(items.as_ref(), index)).collect()
    };
    match column.data_type() {
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => json!(f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if **zone == *"UTC" => {
            json!(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::List(_) => list(column.as_list::<i32>().value(row)),
        DataType::FixedSizeList(..) => list(column.as_fixed_size_list().value(row)),
        other => panic!("a column of {other}"),
    }
}

/// Every file of an export that a reader would find, with its path below the directory.
fn files(disk: &dyn Disk, to: &Path) -> Vec<String> {
    let names = |path: &Path| {
        let entries = disk.list(path).expect("a directory").into_iter();
        entries.filter(|entry| !entry.name.starts_with('_')).collect::<Vec<_>>()
    };
    let mut files = Vec::new();
    for view in names(to).into_iter().filter(|entry| entry.directory) {
        for day in names(&to.join(&view.name)) {
            let path = format!("{}/{}", view.name, day.name);
            for file in names(&to.join(&path)) {
                files.push(format!("{path}/{}", file.name));
            }
        }
    }
    files
}

/// Everything in an export, each row once, each in the directory of its view and day.
fn read(disk: &dyn Disk, to: &Path) -> BTreeMap<String, BTreeMap<u64, Row>> {
    let mut all: BTreeMap<String, BTreeMap<u64, Row>> = BTreeMap::new();
    for file in files(disk, to) {
        let bytes = Bytes::from(read_whole(disk, &to.join(&file)).expect("it can be read"));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect(&file);
        let parts: Vec<&str> = file.split('/').collect();
        let view = parts[0].strip_prefix("view=").expect("by view");
        let day = parts[1].strip_prefix("day=").expect("by day");
        let rows = all.entry(view.to_owned()).or_default();
        for batch in reader.build().expect(&file) {
            let batch = batch.expect(&file);
            let schema = batch.schema();
            for index in 0..batch.num_rows() {
                let columns = schema.fields().iter().zip(batch.columns());
                let row: Row = columns
                    .map(|(field, column)| (field.name().clone(), value(column, index)))
                    .collect();
                let time = row["event_timestamp"].as_i64().expect("a time");
                assert!(
                    EventTime::from_micros(time).to_string().starts_with(day),
                    "{file}: {row:?}"
                );
                let sequence = row["sequence"].as_u64().expect("a number");
                assert_eq!(rows.insert(sequence, row), None, "{view} {sequence} is there twice");
            }
        }
    }
    all
}

fn check(disk: &dyn Disk, to: &Path, expected: &Expected) {
    let found = read(disk, to);
    let views: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(views, expected.keys().copied().collect());
    for (view, rows) in expected {
        assert_eq!(found[*view].len(), rows.len(), "{view}");
        for (sequence, row) in rows {
            assert_eq!(&found[*view][sequence], row, "{view} {sequence}");
        }
    }
}

fn run(pinned: &Pinned, disk: &dyn Disk, to: &Path) -> Result<Exported, ExportError> {
    // Little, so that a day has several files.
    let options = ExportOptions { project: "default", memory_bytes: 150_000 };
    export(pinned, options, disk, to, &mut |_| {})
}

#[tokio::test]
async fn an_export_holds_every_row_once_and_the_next_one_what_is_new() {
    let root = tempfile::tempdir().expect("a directory");
    let (data, to) = (root.path().join("data"), root.path().join("lake"));
    let mut store = Written::new(&data).await;
    store.write(100).await;
    let first = run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    assert_eq!(first.after, Sequence::ZERO);
    check(&RealDisk, &to, &store.expected);
    let before = files(&RealDisk, &to);
    assert!(before.len() > 80, "{} files", before.len());
    assert_eq!(first.files, before.len());
    let text = read_whole(&RealDisk, &to.join("README.md")).expect("it is there");
    assert!(String::from_utf8(text).expect("text").contains("DuckDB"));

    let again = run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    assert_eq!((again.rows, again.after), (0, first.sequence));
    assert_eq!(files(&RealDisk, &to), before);

    store.write(60).await;
    let second = run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    let all: usize = store.expected.values().map(BTreeMap::len).sum();
    assert_eq!((second.after, first.rows + second.rows), (first.sequence, all as u64));
    check(&RealDisk, &to, &store.expected);
    let after = files(&RealDisk, &to);
    assert!(before.iter().all(|file| after.contains(file)), "files stay as they are");

    let other = ExportOptions { project: "other", memory_bytes: 1 << 20 };
    let held = store.held().await;
    let refused = export(&held, other, &RealDisk, &to, &mut |_| {});
    assert!(matches!(refused, Err(ExportError::Ledger(_))), "{refused:?}");
    // Of two stores restored from one backup, epochs may be near each other.
    let mut restored = Pinned::clone(&held);
    restored.manifest.past = 7;
    let refused = run(&restored, &RealDisk, &to);
    assert!(matches!(refused, Err(ExportError::Ledger(_))), "{refused:?}");
    let elsewhere = root.path().join("elsewhere");
    let refused = export(&held, other, &RealDisk, &elsewhere, &mut |_| {});
    assert!(matches!(refused, Err(ExportError::Project(_))), "{refused:?}");

    // The directory itself says the same as the server did.
    store.engine.close();
    let (pinned, _lock) = pin_directory(&RealDisk, &data).expect("nobody uses it");
    let third = run(&pinned, &RealDisk, &to).expect("exported");
    assert_eq!(third.rows, 0);
    run(&pinned, &RealDisk, &elsewhere).expect("exported");
    check(&RealDisk, &elsewhere, &store.expected);
}

#[tokio::test]
async fn an_interrupted_export_leaves_nothing_half_and_the_next_one_completes_it() {
    let root = tempfile::tempdir().expect("a directory");
    let mut store = Written::new(root.path()).await;
    let (base, to) = (FakeDisk::new(), Path::new(TO));
    store.write(2).await;
    run(store.held().await.as_ref(), &base, to).expect("exported");
    let base = base.crash();
    let before = read(&base, to);
    store.write(2).await;
    let pinned = store.held().await;
    let whole = base.crash();
    run(&pinned, &whole, to).expect("exported");
    let new = files(&whole, to).len() - files(&base, to).len();
    let mut step = 0;
    loop {
        step += 1;
        let disk = base.crash();
        disk.fail(Fault { operation: None, nth: step, lasting: true, error: DiskErrorKind::Io });
        let done = run(&pinned, &disk, to).is_ok();
        for disk in [disk.crash(), disk.crash_seeded(step)] {
            // Whatever a reader finds is whole and right, and what was there still is.
            let found = read(&disk, to);
            for (view, rows) in &found {
                let expected = &store.expected[view.as_str()];
                let right = rows.iter().all(|(sequence, row)| expected.get(sequence) == Some(row));
                assert!(right, "step {step}: {view}");
            }
            for (view, rows) in &before {
                let kept = rows.iter().all(|(sequence, _)| found[view].contains_key(sequence));
                assert!(kept, "step {step}: {view}");
            }
            run(&pinned, &disk, to).expect("exported");
            check(&disk, to, &store.expected);
        }
        if done {
            break;
        }
    }
    // Each new file is at least made, written, synced and given its name.
    assert!(new > 0 && step > 4 * new as u64, "{step} steps for {new} files");
}

#[tokio::test]
async fn what_is_erased_is_not_exported() {
    let root = tempfile::tempdir().expect("a directory");
    let (data, to) = (root.path().join("data"), root.path().join("lake"));
    let mut store = Written::new(&data).await;
    store.write(60).await;
    let user = store.expected["w"].values().next().expect("a row")["user_id"].clone();
    let entity = store.engine.registry().entity_named(PROJECT, "user").expect("defined").id;
    let erased = key(&[(KeyType::Int64, &user.to_string())]);
    store.engine.erase(entity, &erased).await.expect("accepted");
    let mut gone = 0;
    for view in ["w", "w@2"] {
        let rows = store.expected.get_mut(view).expect("it has rows");
        gone += rows.extract_if(.., |_, row| row["user_id"] == user).count();
    }
    assert!(gone > 1, "{gone} rows of one user");
    // What is written of the entity from then on is.
    store.write(60).await;
    run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    check(&RealDisk, &to, &store.expected);
}

impl Written {
    /// Writes a row of `view`, of which every feature is left out, at each of these times.
    async fn write_at(&self, view: &str, key: &[u8], times: impl Iterator<Item = i64>) {
        let registry = self.engine.registry();
        let view = registry.view_named(PROJECT, view).expect("defined");
        let mut batch = WriteBatch::new(&registry, self.engine.limits());
        for time in times {
            batch.start(view);
            batch.end(key, Some(EventTime::from_micros(time))).expect("small");
        }
        self.engine.write(PROJECT, batch, None).await.expect("it fits");
    }
}

#[tokio::test]
async fn a_view_that_is_defined_anew_gets_a_directory_of_its_own() {
    let root = tempfile::tempdir().expect("a directory");
    let (data, to) = (root.path().join("data"), root.path().join("lake"));
    let store = Written::new(&data).await;
    let gate = key(&[(KeyType::String, "a"), (KeyType::Int32, "1")]);
    store.write_at("v", &gate, [START].into_iter()).await;
    run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    let before = files(&RealDisk, &to);
    for _ in 0..2 {
        store.engine.drop_view(PROJECT, "v", Data::Keep).await.expect("it is there");
        let anew = "[view.v]\nentity = \"user\"\nfeatures = { n = \"string\" }\n";
        let entity = "[entity.user]\njoin_keys = [\"user_id:int64\"]\n";
        define(&store.engine, &format!("{entity}{anew}")).await.expect("they are right");
        let user = key(&[(KeyType::Int64, "1")]);
        store.write_at("v", &user, [START].into_iter()).await;
        run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
        // It stays where it is.
        store.write_at("v", &user, [START].into_iter()).await;
        run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    }
    let after = files(&RealDisk, &to);
    assert!(before.iter().all(|file| after.contains(file)), "{after:?}");
    let found = read(&RealDisk, &to);
    let rows: Vec<(&str, usize)> =
        found.iter().map(|(view, rows)| (view.as_str(), rows.len())).collect();
    assert_eq!(rows, [("v", 1), ("v~4", 2), ("v~5", 2)]);
    assert!(found["v"].values().all(|row| row.contains_key("origin")));
    assert!(found["v~4"].values().all(|row| row.contains_key("user_id")));
}

#[tokio::test]
async fn days_with_few_rows_are_counted_for_the_memory_they_take() {
    let root = tempfile::tempdir().expect("a directory");
    let (data, to) = (root.path().join("data"), root.path().join("lake"));
    let store = Written::new(&data).await;
    let user = key(&[(KeyType::Int64, "1")]);
    let days = || (0..300).map(|day| START - day * DAY);
    store.write_at("w", &user, days()).await;
    store.write_at("w", &user, days()).await;
    let done = run(store.held().await.as_ref(), &RealDisk, &to).expect("exported");
    assert_eq!(done.rows, 600);
    assert!(done.files > 300, "{} files: all days were held at once", done.files);
}
