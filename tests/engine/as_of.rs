//! The weather and the flights of a year, as of thousands of random instants, against scans of the
//! rows in the order they were accepted.
//!
//! It does not know how history finds a row. Which data there is, `support::data` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, TimestampMicrosecondType};
use larder::engine::Engine;
use larder::engine::load::{EventTimes, LoadOptions};
use larder::engine::lookup::LookupPlan;
use larder::engine::training::{Known, LabelOptions, Names, Training};
use larder::engine::writes::{Durability, WriteBatch};
use larder::recency::Status;
use larder::registry::plan::What;
use larder::registry::resolve::Purpose;
use larder::time::{ArrivalTime, Clock, EventTime, ManualClock, Span};
use larder::value::cell::{Cell, Value};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use crate::support::{
    PROJECT, Random, Told, data, define, keys, load, now, open_at, plan, text_key, then,
};
use crate::training::{EVERYTHING, train};

const PAIRS: usize = 10_000;
const ROUTE_PAIRS: usize = 3_000;
const HOUR: i64 = 3_600_000_000;

/// A feature of a table.
struct Column {
    name: &'static str,
    type_name: &'static str,
    ttl_minutes: Option<i64>,
    default: Option<f64>,
}

const fn plain(name: &'static str, type_name: &'static str) -> Column {
    Column { name, type_name, ttl_minutes: None, default: None }
}

const fn weather(name: &'static str, ttl_minutes: Option<i64>, default: Option<f64>) -> Column {
    Column { name, type_name: "float64", ttl_minutes, default }
}

struct Table {
    view: &'static str,
    join_keys: &'static [&'static str],
    columns: &'static [Column],
}

const WEATHER: Table = Table {
    view: "weather",
    join_keys: &["origin"],
    columns: &[
        weather("temp", None, None),
        weather("dewp", Some(30), None),
        weather("humid", Some(60), None),
        weather("wind_dir", Some(150), Some(-1.0)),
        weather("wind_speed", None, None),
        weather("wind_gust", Some(30), Some(0.0)),
        weather("precip", None, Some(0.0)),
        weather("pressure", Some(1), None),
        weather("visib", None, Some(10.0)),
    ],
};

const ROUTES: Table = Table {
    view: "last_flight_on_route",
    join_keys: &["origin", "dest"],
    columns: &[
        plain("scheduled", "timestamp"),
        plain("carrier", "string"),
        Column { name: "flight", type_name: "int32", ttl_minutes: Some(600), default: None },
        plain("tailnum", "string"),
        Column {
            name: "dep_delay_min",
            type_name: "float32",
            ttl_minutes: Some(90),
            default: Some(0.0),
        },
        plain("distance_mi", "float32"),
    ],
};

impl Table {
    fn definitions(&self) -> String {
        let mut toml = format!("[entity.place]\njoin_keys = {:?}\n", self.join_keys);
        toml += &format!("[view.{}]\nentity = \"place\"\n", self.view);
        for Column { name, type_name, ttl_minutes, default } in self.columns {
            let ttl = ttl_minutes.map_or(String::new(), |ttl| format!(", ttl = \"{ttl}m\""));
            let default = default.map_or(String::new(), |value| format!(", default = {value:?}"));
            toml += &format!("features.{name} = {{ type = \"{type_name}\"{ttl}{default} }}\n");
        }
        toml
    }

    /// Its rows in file order.
    fn read(&self) -> Vec<Row> {
        let path = data().join(if self.view == "weather" { "weather" } else { "flights" });
        let file = File::open(path.with_extension("parquet")).expect("the data is there");
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        let batches = batches.build().expect("Parquet");
        batches.flat_map(|batch| self.rows(&batch.expect("Parquet"))).collect()
    }

    fn rows(&self, batch: &RecordBatch) -> Vec<Row> {
        let read = |name: &str| -> Vec<Cell> {
            let column = batch.column_by_name(name).expect(name);
            (0..batch.num_rows()).map(|row| cell(column, row)).collect()
        };
        let times = read("event_timestamp");
        let parts: Vec<Vec<Cell>> = self.join_keys.iter().map(|name| read(name)).collect();
        let columns: Vec<Vec<Cell>> = self.columns.iter().map(|c| read(c.name)).collect();
        let row = |index: usize| {
            let parts: Vec<&str> = parts.iter().map(|part| text(&part[index])).collect();
            let Cell::Value(Value::Timestamp(event_time)) = times[index] else {
                panic!("a row without a time")
            };
            let cells = columns.iter().map(|column| column[index].clone()).collect();
            Row { key: text_key(&parts), event_time, arrival: ArrivalTime::MIN, cells }
        };
        (0..batch.num_rows()).map(row).collect()
    }
}

fn text(cell: &Cell) -> &str {
    match cell {
        Cell::Value(Value::String(text)) => text,
        other => panic!("{other:?} is no text"),
    }
}

fn cell(column: &dyn Array, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    Cell::Value(match column.data_type() {
        DataType::Float64 => Value::Float64(column.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => Value::Float32(column.as_primitive::<Float32Type>().value(row)),
        DataType::Int32 => Value::Int32(column.as_primitive::<Int32Type>().value(row)),
        DataType::Utf8 => Value::String(column.as_string::<i32>().value(row).into()),
        DataType::LargeUtf8 => Value::String(column.as_string::<i64>().value(row).into()),
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            Value::Timestamp(EventTime::from_micros(micros))
        }
        other => panic!("the data has no {other}"),
    })
}

/// A row, as the file has it or as it was accepted.
#[derive(Clone)]
struct Row {
    key: Vec<u8>,
    event_time: EventTime,
    arrival: ArrivalTime,
    cells: Vec<Cell>,
}

/// The rows of a table in the order they were accepted, by key.
struct Accepted {
    table: &'static Table,
    rows: BTreeMap<Vec<u8>, Vec<Row>>,
}

impl Accepted {
    fn new(table: &'static Table, rows: impl IntoIterator<Item = Row>) -> Self {
        let mut accepted = Self { table, rows: BTreeMap::new() };
        for row in rows {
            accepted.rows.entry(row.key.clone()).or_default().push(row);
        }
        accepted
    }

    /// Looks at every row of the key, the last accepted first, so that only a newer one counts.
    fn answer(&self, key: &[u8], at: EventTime, known_at: Option<ArrivalTime>) -> Vec<Told> {
        let rows = self.rows.get(key).map_or(&[][..], Vec::as_slice);
        let mut newest: Vec<Option<&Row>> = vec![None; self.table.columns.len()];
        // A row that is no newer than this changes nothing.
        let mut settled = EventTime::MIN;
        for row in rows.iter().rev() {
            if row.event_time > at || row.event_time <= settled {
                continue;
            }
            if known_at.is_some_and(|known_at| row.arrival > known_at) {
                continue;
            }
            for (newest, cell) in newest.iter_mut().zip(&row.cells) {
                let newer = newest.is_none_or(|newest| newest.event_time < row.event_time);
                if newer && *cell != Cell::Absent {
                    *newest = Some(row);
                }
            }
            let times = newest.iter().map(|row| row.map_or(EventTime::MIN, |row| row.event_time));
            settled = times.min().unwrap_or(EventTime::MAX);
        }
        let columns = self.table.columns.iter().enumerate();
        columns.map(|(slot, column)| column.answer(slot, newest[slot], at)).collect()
    }

    /// Some key and an instant, one in four at a row's time or a microsecond before it.
    fn random_pair(&self, random: &mut Random) -> (Vec<u8>, EventTime) {
        let key = random.below(self.rows.len());
        let (key, rows) = self.rows.iter().nth(key).expect("below their number");
        let time = rows[random.below(rows.len())].event_time;
        let nudge = if random.below(4) == 0 {
            -random.between(0, 2)
        } else {
            random.between(-48 * HOUR, 48 * HOUR)
        };
        (key.clone(), time.plus(Span::from_micros(nudge)))
    }
}

impl Column {
    fn answer(&self, slot: usize, newest: Option<&Row>, at: EventTime) -> Told {
        let ttl = self.ttl_minutes.map(|minutes| Span::from_seconds(minutes * 60));
        let (status, value) = match newest {
            None => (Status::NotFound, None),
            Some(row) if ttl.is_some_and(|ttl| row.event_time.plus(ttl) < at) => {
                (Status::OutsideMaxAge, None)
            }
            Some(row) => match &row.cells[slot] {
                Cell::Value(value) => (Status::Present, Some(value.clone())),
                _ => (Status::NullValue, None),
            },
        };
        let default = self.default.map(|default| match self.type_name {
            "float32" => Value::Float32(default as f32),
            _ => Value::Float64(default),
        });
        let default = if value.is_none() { default } else { None };
        Told {
            status,
            defaulted: default.is_some(),
            value: value.or(default),
            event_time: newest.map(|row| row.event_time),
        }
    }
}

/// A store with one table defined, and a clock.
struct Store {
    table: &'static Table,
    _directory: TempDir,
    clock: ManualClock,
    engine: Arc<Engine>,
}

impl Store {
    async fn new(table: &'static Table, start: ArrivalTime) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::new(start);
        let engine = open_at(directory.path(), &clock, Durability::Os);
        define(&engine, &table.definitions()).await.expect("the definitions fit");
        Self { table, _directory: directory, clock, engine }
    }

    async fn load(&self, path: &Path) -> u64 {
        let event_time = EventTimes::Column(None);
        let options = LoadOptions { event_time, arrival: None, time_unit: None, refuse_nan: true };
        load(&self.engine, self.table.view, path, options).await.expect("it loads").written
    }

    fn plan(&self, purpose: Purpose) -> Arc<LookupPlan> {
        let name = |column: &Column| format!("{}:{}", self.table.view, column.name);
        let references: Vec<String> = self.table.columns.iter().map(name).collect();
        let what = What::Features(references.iter().map(String::as_str).collect());
        plan(&self.engine, what, purpose).expect("the features are defined")
    }

    async fn push(&self, rows: &[Row]) {
        let registry = self.engine.registry();
        let view = registry.view_named(PROJECT, self.table.view).expect("defined");
        let mut batch = WriteBatch::new(&registry, self.engine.limits());
        for row in rows {
            batch.start(view);
            for (column, cell) in self.table.columns.iter().zip(&row.cells) {
                batch.set(view.slot_of(column.name).expect("defined"), cell.borrowed());
            }
            batch.end(&row.key, Some(row.event_time)).expect("a small row");
        }
        let accepted = self.engine.write(PROJECT, batch, None).await.expect("it is accepted");
        assert_eq!(accepted.accepted, rows.len() as u64);
    }

    /// Waits until all closed segments are sealed, and says that there were some, and merges.
    async fn assert_sealed(&self) {
        let metrics = self.engine.metrics();
        let unsealed = || {
            let (sealed, written) = (metrics.sequence_sealed.get(), metrics.sequence_written.get());
            // A segment holds at most so many rows.
            written - sealed > 1000 || metrics.sealed_files.get() > 7
        };
        let little = || metrics.seals.get() <= 20 || metrics.merges.get() <= 2;
        for _ in 0..3000 {
            if !unsealed() && !little() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!unsealed(), "{} files sealed", metrics.sealed_files.get());
        assert!(!little(), "little was sealed");
        assert_eq!(metrics.seal_failures.get(), 0);
    }

    async fn check_then(
        &self,
        accepted: &Accepted,
        pairs: &[(Vec<u8>, EventTime)],
        known_at: Option<ArrivalTime>,
    ) {
        self.check_training(accepted, pairs, known_at);
        let plan = self.plan(Purpose::AsOf);
        let batch = keys(pairs.iter().map(|(key, _)| key));
        let times = pairs.iter().map(|(_, at)| *at).collect();
        let answers = then(&self.engine, &plan, batch, times, known_at).await;
        for ((key, at), found) in pairs.iter().zip(answers) {
            let expected = accepted.answer(key, *at, known_at);
            let key = String::from_utf8_lossy(key);
            assert_eq!(found, expected, "{key:?} at {at}, known at {known_at:?}");
        }
    }

    /// A training set of the same pairs says the same, known then or at each label's time.
    fn check_training(
        &self,
        accepted: &Accepted,
        pairs: &[(Vec<u8>, EventTime)],
        known_at: Option<ArrivalTime>,
    ) {
        let labels = labels(self.table.join_keys, pairs);
        let arrivals_known = accepted.rows.values().flatten().any(|r| r.arrival > ArrivalTime::MIN);
        let at_label_time = arrivals_known.then_some(Known::AtLabelTime);
        let then = known_at.map_or(Known::Now, Known::At);
        for known in [then].into_iter().chain(at_label_time) {
            let training = Training {
                plan: self.plan(Purpose::AsOf).plan.clone(),
                of_service: false,
                labels: LabelOptions::default(),
                names: Names::Bare,
                include: EVERYTHING,
                known,
                allow_truncated: false,
            };
            let made = train(&self.engine, &training, &labels).expect("the labels are right");
            assert_eq!(made.num_rows(), pairs.len());
            for (row, (key, at)) in pairs.iter().enumerate() {
                let known_at = match known {
                    Known::AtLabelTime => Some(ArrivalTime::from_micros(at.micros())),
                    Known::Now | Known::At(_) => known_at,
                };
                let names = self.table.columns.iter().map(|column| column.name);
                let found: Vec<Told> = names.map(|name| told(&made, name, row)).collect();
                let expected = accepted.answer(key, *at, known_at);
                let key = String::from_utf8_lossy(key);
                assert_eq!(found, expected, "{key:?} at {at}, {known:?}");
            }
        }
    }

    /// The online map says what history says as of now, which is what the scan says.
    async fn check_now(&self, accepted: &Accepted) {
        let nobody = text_key(&vec!["nobody"; self.table.join_keys.len()]);
        let everybody: Vec<Vec<u8>> = accepted.rows.keys().cloned().chain([nobody]).collect();
        let batch = || keys(&everybody);
        let at = self.engine.now();
        let online = now(&self.engine, &self.plan(Purpose::Online), batch()).await;
        let plan = self.plan(Purpose::AsOf);
        let past = then(&self.engine, &plan, batch(), vec![at; everybody.len()], None).await;
        assert_eq!(online, past);
        for (key, found) in everybody.iter().zip(online) {
            assert_eq!(found, accepted.answer(key, at, None), "{:?}", String::from_utf8_lossy(key));
        }
    }
}

/// A table of labels, one for each pair.
fn labels(join_keys: &[&str], pairs: &[(Vec<u8>, EventTime)]) -> RecordBatch {
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (part, name) in join_keys.iter().enumerate() {
        let texts = pairs.iter().map(|(key, _)| part_of(key, part));
        columns.push(((*name).to_owned(), Arc::new(StringArray::from_iter_values(texts))));
    }
    let times = pairs.iter().map(|(_, at)| at.micros());
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    columns.push(("event_timestamp".to_owned(), Arc::new(times)));
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// One of the texts that a key is made of, each behind its length.
fn part_of(key: &[u8], part: usize) -> &str {
    let (length, rest) = key.split_first_chunk::<2>().expect("a length");
    let (text, rest) = rest.split_at(u16::from_be_bytes(*length).into());
    if part == 0 { std::str::from_utf8(text).expect("a text") } else { part_of(rest, part - 1) }
}

/// What a training set says of a feature in a row.
fn told(made: &RecordBatch, name: &str, row: usize) -> Told {
    let column = |end: &str| made.column_by_name(&format!("{name}{end}")).expect(name);
    let statuses = [Status::Present, Status::NullValue, Status::NotFound, Status::OutsideMaxAge];
    let said = column("__status").as_string::<i32>().value(row);
    let times = column("__event_timestamp");
    Told {
        status: *statuses.iter().find(|status| status.as_str() == said).expect("a status"),
        value: match cell(column(""), row) {
            Cell::Value(value) => Some(value),
            _ => None,
        },
        defaulted: column("__defaulted").as_boolean().value(row),
        event_time: (!times.is_null(row)).then(|| {
            EventTime::from_micros(times.as_primitive::<TimestampMicrosecondType>().value(row))
        }),
    }
}

fn end_of(rows: &[Row]) -> ArrivalTime {
    let last = rows.iter().map(|row| row.event_time).max().expect("rows");
    ArrivalTime::from_micros(last.micros())
}

/// What no test must miss: nulls, expired values and rows before the first.
fn assert_all_kinds(accepted: &Accepted, pairs: &[(Vec<u8>, EventTime)]) {
    let mut seen = BTreeSet::new();
    for (key, at) in pairs.iter().rev() {
        seen.extend(accepted.answer(key, *at, None).iter().map(|told| told.status.as_str()));
        if seen.len() == 4 {
            return;
        }
    }
    panic!("only {seen:?}");
}

#[tokio::test]
async fn weather_in_file_order() {
    let mut random = Random::seeded("weather_in_file_order");
    let rows = WEATHER.read();
    let store = Store::new(&WEATHER, end_of(&rows)).await;
    let count = rows.len() as u64;
    let accepted = Accepted::new(&WEATHER, rows);
    assert_eq!(store.load(&data().join("weather.parquet")).await, count);
    let mut pairs: Vec<_> = (0..PAIRS).map(|_| accepted.random_pair(&mut random)).collect();
    let (first, _) = accepted.rows.first_key_value().expect("rows");
    pairs.push((first.clone(), EventTime::from_micros(0)));
    assert_all_kinds(&accepted, &pairs);
    store.check_then(&accepted, &pairs, None).await;
    for minutes in [0, 20, 40, 100] {
        store.clock.set(store.clock.now().plus(Span::from_seconds(minutes * 60)));
        store.check_now(&accepted).await;
    }
}

/// How long after it happened a row arrives: most within minutes, some after hours or weeks, a few
/// from a clock that is ahead.
fn lateness(random: &mut Random) -> Span {
    Span::from_micros(match random.below(100) {
        0 => -random.between(0, HOUR / 15),
        1..70 => random.between(0, HOUR / 6),
        70..95 => random.between(0, 6 * HOUR),
        _ => random.between(0, 30 * 24 * HOUR),
    })
}

/// The rows in the order of their arrival, one in five as two rows with half the features each, and
/// one in fifty of an earlier hour with other values.
fn as_they_arrive(rows: &[Row], random: &mut Random) -> Vec<Row> {
    let mut arriving = Vec::new();
    for row in rows {
        let arrival = ArrivalTime::from_micros(row.event_time.micros());
        let mut add = |cells: Vec<Cell>, random: &mut Random| {
            let arrival = arrival.plus(lateness(random));
            arriving.push(Row { key: row.key.clone(), event_time: row.event_time, arrival, cells });
        };
        if random.below(5) == 0 {
            for half in 0..2 {
                let mut cells = row.cells.clone();
                let others = cells.iter_mut().skip(half).step_by(2);
                others.for_each(|cell| *cell = Cell::Absent);
                add(cells, random);
            }
        } else {
            add(row.cells.clone(), random);
        }
        if random.below(50) == 0 {
            let mut correction = row.cells.clone();
            correction[random.below(row.cells.len())] = Cell::Value(Value::Float64(-99.0));
            add(correction, random);
        }
    }
    arriving.sort_by_key(|row| row.arrival);
    arriving
}

#[tokio::test]
async fn weather_late_partial_and_corrected() {
    let mut random = Random::seeded("weather_late_partial_and_corrected");
    let mut rows = WEATHER.read();
    rows.sort_by_key(|row| row.event_time);
    let mut arriving = as_they_arrive(&rows, &mut random);
    let store = Store::new(&WEATHER, arriving[0].arrival).await;
    let mut from = 0;
    while from < arriving.len() {
        let to = arriving.len().min(from + 1 + random.below(200));
        let arrival = arriving[to - 1].arrival;
        store.clock.set(arrival);
        for row in &mut arriving[from..to] {
            row.arrival = arrival;
        }
        store.push(&arriving[from..to]).await;
        for row in &mut arriving[from..to] {
            // From a clock ahead of ours: it counts as happening when it arrives.
            row.event_time = row.event_time.min(arrival.as_event_time());
        }
        from = to;
    }
    let accepted = Accepted::new(&WEATHER, arriving.iter().cloned());
    let pairs: Vec<_> = (0..PAIRS).map(|_| accepted.random_pair(&mut random)).collect();
    assert_all_kinds(&accepted, &pairs);
    for (index, pairs) in pairs.chunks(PAIRS / 20).enumerate() {
        let known_at = match index % 4 {
            0 => None,
            // Exactly when something arrived, and just before that.
            1 => Some(arriving[random.below(arriving.len())].arrival),
            2 => {
                let arrival = arriving[random.below(arriving.len())].arrival;
                Some(arrival.minus(Span::from_micros(1)))
            }
            _ => Some(ArrivalTime::from_micros(pairs[0].1.micros())),
        };
        store.check_then(&accepted, pairs, known_at).await;
        if index == 10 {
            store.assert_sealed().await;
        }
    }
    store.check_now(&accepted).await;
}

#[tokio::test]
async fn flights_by_composite_key() {
    let mut random = Random::seeded("flights_by_composite_key");
    let rows = ROUTES.read();
    let store = Store::new(&ROUTES, end_of(&rows)).await;
    let count = rows.len() as u64;
    let accepted = Accepted::new(&ROUTES, rows);
    assert_eq!(store.load(&data().join("flights.parquet")).await, count);
    let pairs: Vec<_> = (0..ROUTE_PAIRS).map(|_| accepted.random_pair(&mut random)).collect();
    store.check_then(&accepted, &pairs, None).await;
    store.check_now(&accepted).await;
}
