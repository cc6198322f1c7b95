//! Training sets: every row and column of the labels is kept, whatever they look like, and features
//! stand beside them as history has them.
//!
//! It does not check values over much data; `as_of` does, against scans.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Float64Array, Int32Array, Int64Array,
    LargeStringArray, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    Date32Type, Field, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use larder::disk::Disk;
use larder::disk::real::RealDisk;
use larder::engine::Engine;
use larder::engine::answer_columns::Include;
use larder::engine::define::Data;
use larder::engine::error::Problem;
use larder::engine::label_columns::KeyColumns;
use larder::engine::training::{Known, LabelOptions, Names, Training};
use larder::engine::writes::{Durability, WriteBatch};
use larder::ids::Slot;
use larder::metrics::Code;
use larder::registry::plan::What;
use larder::registry::resolve::Purpose;
use larder::time::{ArrivalTime, EventTime, ManualClock};
use larder::value::cell::{CellRef, ValueRef};
use larder::value::types::KeyType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::data_type::{Int64Type as Int64Column, Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use crate::support::{PROJECT, define, key, open_at, plan};

pub(crate) const EVERYTHING: Include =
    Include { statuses: true, event_timestamps: true, defaulted: true };

/// Rows of one group of the labels' file, so that there are several.
const GROUP_ROWS: usize = 1000;

/// Makes a training set of labels in a file, and reads it.
pub(crate) fn train(
    engine: &Arc<Engine>,
    training: &Training,
    labels: &RecordBatch,
) -> Result<RecordBatch, Problem> {
    let mut out = Vec::new();
    train_into(&mut out, engine, training, &file_of(labels))?;
    Ok(read(out))
}

/// The labels as a file.
fn file_of(labels: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP_ROWS));
    let mut file = Vec::new();
    let writer = ArrowWriter::try_new(&mut file, labels.schema(), Some(properties.build()));
    let mut writer = writer.expect("a schema");
    writer.write(labels).expect("it can be written");
    writer.close().expect("it can be written");
    file
}

/// Makes a training set of a file of labels. Returns how far it said it was.
fn train_into(
    out: &mut Vec<u8>,
    engine: &Arc<Engine>,
    training: &Training,
    labels: &[u8],
) -> Result<Vec<(u64, u64)>, Problem> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("labels.parquet");
    std::fs::write(&path, labels).expect("it can be written");
    let file = RealDisk.open_read(&path).expect("it is there");
    let turn = engine.begin_training()?;
    let told = Mutex::new(Vec::new());
    let tell = |done, of| told.lock().expect("nobody panics").push((done, of));
    engine.train(&turn, training, file, out, &tell)?;
    Ok(told.into_inner().expect("nobody panics"))
}

/// A thread that makes a training set, and tells how far it is.
fn made_aside(
    engine: &Arc<Engine>,
    training: Training,
    labels: Vec<u8>,
    tell: impl Fn(u64, u64) + Send + Sync + 'static,
) -> std::thread::JoinHandle<(Result<(), Problem>, Vec<u8>)> {
    let engine = engine.clone();
    std::thread::spawn(move || {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("labels.parquet");
        std::fs::write(&path, labels).expect("it can be written");
        let file = RealDisk.open_read(&path).expect("it is there");
        let turn = engine.begin_training().expect("nobody has one");
        let mut out = Vec::new();
        (engine.train(&turn, &training, file, &mut out, &tell), out)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_of_a_view_that_is_dropped_meanwhile_has_no_end() {
    for data in [Data::Keep, Data::Drop] {
        let views = DEFINITIONS.split("[service.all]").next().unwrap();
        let store = Store::of(views).await;
        let labels = file_of(&batch(vec![
            ("user_id", users(&[1, 2, 3])),
            ("event_timestamp", micros([T + 60_000_000; 3])),
        ]));
        let (runtime, engine) = (tokio::runtime::Handle::current(), store.engine.clone());
        let is_there = AtomicBool::new(true);
        let drop_it = move |_, _| {
            if is_there.swap(false, Ordering::SeqCst) {
                runtime.block_on(engine.drop_view(PROJECT, "profile", data)).unwrap();
            }
        };
        let (made, out) = made_aside(&store.engine, store.ages(), labels, drop_it).join().unwrap();
        assert!(store.engine.registry().view_named(PROJECT, "profile").is_err());
        match data {
            Data::Keep => {
                made.expect("the rows are there");
                assert_eq!(ages(&read(out)), [Some(21), Some(22), Some(23)]);
            }
            Data::Drop => {
                assert_eq!(made.expect_err("some may be missing").code, Code::UnknownView);
                assert!(ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(out)).is_err());
            }
        }
    }
}

fn read(made: Vec<u8>) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(made));
    let reader = reader.expect("Parquet");
    let schema = reader.schema().clone();
    let reader = reader.build().expect("Parquet");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("Parquet")).collect();
    let made = concat_batches(&schema, &batches).expect("batches of one schema");
    // The batches themselves do not have what the file says of itself.
    made.with_schema(schema).expect("its schema")
}

const DEFINITIONS: &str = r#"
    [entity.user]
    join_keys = ["user_id:int64"]
    [entity.route]
    join_keys = ["origin", "dest"]
    [view.profile]
    entity = "user"
    features = { age = "int32", score = { type = "float64", default = -1.0 } }
    [view.traffic]
    entity = "route"
    features = { cars = "int64", age = "int32" }
    [service.all]
    features = [
        "profile:age",
        { ref = "profile:score", as = "risk" },
        "traffic:cars",
        { ref = "profile:age", entity = "friend", as = "friend_age" },
    ]
"#;

struct Store {
    _directory: TempDir,
    engine: Arc<Engine>,
}

/// The instant of everything below.
const T: i64 = 1_770_000_000_000_000;

impl Store {
    /// Users 1 to 5 got an age and a score at T + their number in seconds; the route from a to b
    /// has cars at T.
    async fn new() -> Self {
        Self::of(DEFINITIONS).await
    }

    async fn of(definitions: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::new(ArrivalTime::from_micros(T + 3_600_000_000));
        let engine = open_at(directory.path(), &clock, Durability::Os);
        define(&engine, definitions).await.expect("the definitions are right");
        let registry = engine.registry();
        let view = |name: &str| registry.view_named(PROJECT, name).expect("defined").clone();
        let (profile, traffic) = (view("profile"), view("traffic"));
        let mut batch = WriteBatch::new(&registry, engine.limits());
        for user in 1..=5_i32 {
            batch.start(&profile);
            batch.set(Slot(0), CellRef::Value(ValueRef::Int32(20 + user)));
            batch.set(Slot(1), CellRef::Value(ValueRef::Float64(f64::from(user) / 10.0)));
            let at = EventTime::from_micros(T + i64::from(user) * 1_000_000);
            let user = key(&[(KeyType::Int64, &user.to_string())]);
            batch.end(&user, Some(at)).expect("a small row");
        }
        batch.start(&traffic);
        batch.set(Slot(0), CellRef::Value(ValueRef::Int64(7)));
        let route = key(&[(KeyType::String, "a"), (KeyType::String, "b")]);
        batch.end(&route, Some(EventTime::from_micros(T))).expect("a small row");
        engine.write(PROJECT, batch, None).await.expect("it is accepted");
        Self { _directory: directory, engine }
    }

    fn training(&self, what: What<'_>) -> Training {
        let of_service = matches!(what, What::Service(_));
        Training {
            plan: plan(&self.engine, what, Purpose::AsOf).expect("they are defined").plan.clone(),
            of_service,
            labels: LabelOptions::default(),
            names: Names::default(),
            include: Include::default(),
            known: Known::Now,
            allow_truncated: false,
        }
    }

    fn ages(&self) -> Training {
        self.training(What::Features(vec!["profile:age"]))
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

fn micros(times: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(times))
}

fn users(users: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(users.to_vec()))
}

fn ages(made: &RecordBatch) -> Vec<Option<i32>> {
    let column = made.column_by_name("profile__age").expect("the feature");
    column.as_primitive::<Int32Type>().iter().collect()
}

#[tokio::test]
async fn rows_and_columns_of_labels_are_kept_as_they_are() {
    let store = Store::new().await;
    let rows = 2 * GROUP_ROWS + 17;
    let number = |row: usize| (row * 31 % 7) as i64;
    let words: DictionaryArray<Int32Type> =
        (0..rows).map(|row| (row % 3 > 0).then_some(["x", "yy"][row % 2])).collect();
    let lists = (0..rows).map(|row| match row % 4 {
        0 => None,
        length => Some(vec![Some(row as i64); length]),
    });
    let note = Field::new("note", arrow::datatypes::DataType::LargeUtf8, true)
        .with_metadata(HashMap::from([("unit".to_owned(), "words".to_owned())]));
    let columns: Vec<(Field, ArrayRef)> = vec![
        (
            note,
            Arc::new(LargeStringArray::from_iter((0..rows).map(|r| (r % 5 > 0).then_some("n")))),
        ),
        (
            Field::new("user_id", arrow::datatypes::DataType::Int64, false),
            Arc::new(Int64Array::from_iter_values((0..rows).map(number))),
        ),
        (Field::new("word", words.data_type().clone(), true), Arc::new(words)),
        (
            Field::new("event_timestamp", micros([]).data_type().clone(), false),
            micros((0..rows).map(|row| T + (row as i64 % 13) * 1_000_000)),
        ),
        {
            let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
            (Field::new("list", lists.data_type().clone(), true), Arc::new(lists))
        },
        (
            Field::new("label", arrow::datatypes::DataType::Float64, true),
            Arc::new(Float64Array::from_iter((0..rows).map(|r| (r % 9 > 0).then_some(r as f64)))),
        ),
    ];
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let said = HashMap::from([("who".to_owned(), "me".to_owned())]);
    let schema = Arc::new(Schema::new_with_metadata(fields, said));
    let labels = RecordBatch::try_new(schema.clone(), arrays).expect("columns of one length");
    let made = train(&store.engine, &store.ages(), &labels).expect("the labels are right");
    let kept = made.project(&[0, 1, 2, 3, 4, 5]).expect("they are there");
    assert_eq!(kept.columns(), labels.columns());
    for (field, before) in made.schema().fields().iter().zip(schema.fields()) {
        assert_eq!((field.name(), field.data_type()), (before.name(), before.data_type()));
        assert_eq!(field.is_nullable(), before.is_nullable(), "{field}");
    }
    assert_eq!(made.schema().field(0).metadata()["unit"], "words");
    assert_eq!(made.schema().metadata()["who"], "me");
    let expected = (0..rows).map(|row| {
        let (user, second) = (number(row), row as i64 % 13);
        ((1..=5).contains(&user) && second >= user).then_some(20 + user as i32)
    });
    assert_eq!(ages(&made), expected.collect::<Vec<_>>());
    let none = train(&store.engine, &store.ages(), &labels.slice(0, 0)).expect("no labels");
    assert_eq!((none.num_rows(), none.num_columns()), (0, 7));
}

#[tokio::test]
async fn times_of_every_unit_and_zone_are_instants() {
    let store = Store::new().await;
    let seconds = T / 1_000_000;
    // User 2 got an age two seconds after T.
    let check = |time: ArrayRef, expected: &[Option<i32>]| {
        let labels = batch(vec![("user_id", users(&vec![2; time.len()])), ("at", time.clone())]);
        let mut training = store.ages();
        training.labels.timestamp = Some("at".to_owned());
        let made = train(&store.engine, &training, &labels).expect("the labels are right");
        assert_eq!(ages(&made), expected, "{}", time.data_type());
        assert_eq!(made.column(1), &time);
    };
    let (before, at) = (None, Some(22));
    check(Arc::new(TimestampSecondArray::from(vec![seconds + 1, seconds + 2])), &[before, at]);
    let millis =
        TimestampMillisecondArray::from(vec![seconds * 1000 + 1999, seconds * 1000 + 2000]);
    check(Arc::new(millis.clone()), &[before, at]);
    check(Arc::new(millis.with_timezone("+05:30")), &[before, at]);
    check(micros([T + 1_999_999, T + 2_000_000]), &[before, at]);
    let nanos = vec![T * 1000 + 1_999_999_999, T * 1000 + 2_000_000_000];
    check(
        Arc::new(TimestampNanosecondArray::from(nanos).with_timezone("Asia/Dubai")),
        &[before, at],
    );
    check(users(&[T + 1_999_999, T + 2_000_000]), &[before, at]);
    let second = jiff::Timestamp::from_second(seconds + 2).expect("a time").to_string();
    check(Arc::new(StringArray::from(vec![second.as_str()])), &[at]);
}

#[tokio::test]
async fn one_set_spans_entities_roles_and_composite_keys() {
    let store = Store::new().await;
    let friends = Int32Array::from(vec![3, 9, 1]);
    let friends = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0, 1, 2]), {
        Arc::new(StringArray::from(
            friends.iter().map(|n| n.map(|n| n.to_string())).collect::<Vec<_>>(),
        ))
    });
    let labels = batch(vec![
        ("customer", users(&[1, 2, 1])),
        ("buddy", Arc::new(friends)),
        ("from", Arc::new(LargeStringArray::from(vec!["a", "b", "a"]))),
        ("to", Arc::new(StringArray::from(vec!["b", "a", "b"]))),
        ("event_timestamp", micros([T + 60_000_000, T + 60_000_000, T])),
    ]);
    let mut training = store.training(What::Service("all"));
    let said = |role: &str, columns: &[&str]| KeyColumns {
        role: role.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
    };
    training.labels.keys = vec![
        said("user", &["customer"]),
        said("friend", &["buddy"]),
        said("route", &["from", "to"]),
    ];
    let made = train(&store.engine, &training, &labels).expect("the labels are right");
    let names: Vec<String> = made.schema().fields()[5..].iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["profile__age", "risk", "traffic__cars", "friend_age"]);
    assert_eq!(ages(&made), [Some(21), Some(22), None]);
    let risks: Vec<_> = made.column(6).as_primitive::<Float64Type>().iter().collect();
    assert_eq!(risks, [Some(0.1), Some(0.2), Some(-1.0)]);
    let cars: Vec<_> = made.column(7).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(cars, [Some(7), None, Some(7)]);
    let friends: Vec<_> = made.column(8).as_primitive::<Int32Type>().iter().collect();
    assert_eq!(friends, [Some(23), None, None]);
    for (names, expected) in [
        (Names::Bare, ["age", "risk", "cars", "friend_age"]),
        (Names::Reference, ["profile:age", "risk", "traffic:cars", "friend_age"]),
    ] {
        training.names = names;
        let made = train(&store.engine, &training, &labels).expect("the labels are right");
        let fields = made.schema().fields()[5..].to_vec();
        assert_eq!(fields.iter().map(|field| field.name()).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn what_is_wrong_with_labels_names_the_column_and_the_first_row() {
    let store = Store::new().await;
    let refused = |training: &Training, labels: &RecordBatch, says: &[&str]| {
        let problem = train(&store.engine, training, labels).expect_err("they are wrong");
        assert_eq!(problem.code, Code::InvalidValue, "{problem}");
        for word in says {
            assert!(problem.detail.contains(word), "no {word:?} in {}", problem.detail);
        }
        problem
    };
    let rows = GROUP_ROWS + 5;
    let all = |value: i64| Int64Array::from_value(value, rows);
    let time = || micros((0..rows).map(|_| T));
    let null_last = |value: i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter(
            (0..rows).map(|row| (row < GROUP_ROWS + 2).then_some(value)),
        ))
    };
    let ages = store.ages();
    let labels = batch(vec![("user_id", null_last(1)), ("event_timestamp", time())]);
    let problem = refused(&ages, &labels, &["\"user_id\" in row 1002", "found null"]);
    assert_eq!(problem.places[0].index, Some(1002));
    let labels = batch(vec![("user_id", Arc::new(all(1))), ("event_timestamp", null_last(T))]);
    refused(&ages, &labels, &["\"event_timestamp\" in row 1002", "found null"]);
    let labels = batch(vec![("userid", Arc::new(all(1))), ("event_timestamp", time())]);
    refused(&ages, &labels, &["user_id: no such column", "\"userid\""]);
    let labels = batch(vec![("user_id", Arc::new(all(1))), ("time", time())]);
    refused(&ages, &labels, &["event_timestamp: no such column"]);
    let days: ArrayRef = Arc::new(arrow::array::PrimitiveArray::<Date32Type>::from_value(9, rows));
    let labels = batch(vec![("user_id", Arc::new(all(1))), ("event_timestamp", days)]);
    refused(&ages, &labels, &["\"event_timestamp\"", "a day without a time"]);
    let labels = batch(vec![
        ("user_id", Arc::new(all(1))),
        ("event_timestamp", time()),
        ("profile__age", Arc::new(all(1))),
    ]);
    refused(&ages, &labels, &["\"profile__age\" would collide"]);
    let labels = batch(vec![("user_id", Arc::new(all(1))), ("event_timestamp", time())]);
    let mut other = store.ages();
    other.labels.keys = vec![KeyColumns { role: "usr".to_owned(), columns: vec!["a".to_owned()] }];
    refused(&other, &labels, &["\"usr\"", "did you mean \"user\"?"]);
    other.labels.keys[0] =
        KeyColumns { role: "user".to_owned(), columns: vec!["a".to_owned(), "b".to_owned()] };
    refused(&other, &labels, &["2 columns are named for \"user\", which has 1 join keys: user_id"]);
    let mut twice = store.training(What::Features(vec!["profile:age", "traffic:age"]));
    twice.names = Names::Bare;
    let labels = batch(vec![
        ("user_id", Arc::new(all(1))),
        ("origin", Arc::new(StringArray::from(vec!["a"; rows]))),
        ("dest", Arc::new(StringArray::from(vec!["b"; rows]))),
        ("event_timestamp", time()),
    ]);
    refused(&twice, &labels, &["two feature columns would be called \"age\""]);
}

#[tokio::test]
async fn labels_below_a_retention_floor_are_refused_with_their_row_or_marked() {
    let of_profile = "[view.profile]\n    retention = \"30m\"";
    let store = Store::of(&DEFINITIONS.replace("[view.profile]", of_profile)).await;
    let labels = |times: &[i64]| {
        let times: Vec<i64> = times.iter().map(|seconds| T + seconds * 1_000_000).collect();
        let keys: Vec<i64> = (0..times.len() as i64).map(|row| 1 + row % 2).collect();
        batch(vec![("user_id", users(&keys)), ("event_timestamp", micros(times))])
    };
    // Maintenance puts the floor in force, 30 minutes before an hour after T.
    let waited = larder::time::Stopwatch::start();
    let refused = loop {
        match train(&store.engine, &store.ages(), &labels(&[1800, 1799])) {
            Err(refused) => break refused,
            Ok(_) => assert!(waited.elapsed().as_secs() < 60, "no floor came"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!(refused.code, Code::BelowRetentionFloor);
    assert!(refused.detail.starts_with("row 1 "), "{}", refused.detail);
    assert!(refused.detail.contains("allow_truncated"), "{}", refused.detail);
    // Above it nothing has changed: below a floor the newest values stay.
    let made = train(&store.engine, &store.ages(), &labels(&[1800, 3600])).expect("kept");
    assert_eq!(ages(&made), [Some(21), Some(22)]);
    // Such a cell is marked, and nothing stands in for it.
    let mut marked = store.training(What::Features(vec!["profile:age", "profile:score"]));
    (marked.allow_truncated, marked.include) = (true, EVERYTHING);
    let made = train(&store.engine, &marked, &labels(&[1800, 1799, 1801])).expect("marked");
    assert_eq!(ages(&made), [Some(21), None, Some(21)]);
    let column = |name: &str| made.column_by_name(name).expect(name);
    let scores: Vec<_> = column("profile__score").as_primitive::<Float64Type>().iter().collect();
    assert_eq!(scores, [Some(0.1), None, Some(0.1)]);
    let statuses: Vec<_> = column("profile__score__status").as_string::<i32>().iter().collect();
    let present = Some("PRESENT");
    assert_eq!(statuses, [present, Some("BELOW_RETENTION_FLOOR"), present]);
    let mut of_known = |known, expected: &[Option<i32>]| {
        marked.known = known;
        let made = train(&store.engine, &marked, &labels(&[1800, 3600])).expect("marked");
        assert_eq!(ages(&made), expected, "{known:?}");
    };
    of_known(Known::At(ArrivalTime::from_micros(T + 1799 * 1_000_000)), &[None, None]);
    // The rows arrived with the last instant.
    of_known(Known::AtLabelTime, &[None, Some(22)]);
}

#[tokio::test]
async fn a_label_below_a_floor_is_refused_before_anything_is_written() {
    let of_profile = "[view.profile]\n    retention = \"30m\"";
    let store = Store::of(&DEFINITIONS.replace("[view.profile]", of_profile)).await;
    // More than are read at once, and only the last is wrong.
    let rows = (1 << 20) + 10;
    let times = (0..rows).map(|row| if row + 1 < rows { T + 3_600_000_000 } else { T });
    let labels =
        batch(vec![("user_id", users(&vec![1; rows])), ("event_timestamp", micros(times))]);
    let labels = file_of(&labels);
    let waited = larder::time::Stopwatch::start();
    loop {
        let mut out = Vec::new();
        match train_into(&mut out, &store.engine, &store.ages(), &labels) {
            Err(refused) => {
                assert_eq!(refused.code, Code::BelowRetentionFloor);
                let row = format!("row {} ", rows - 1);
                assert!(refused.detail.starts_with(&row), "{}", refused.detail);
                break assert_eq!(out.len(), 0, "the answer had begun");
            }
            Ok(_) => assert!(waited.elapsed().as_secs() < 60, "no floor came"),
        }
    }
}

#[tokio::test]
async fn long_values_are_gathered_a_few_at_a_time() {
    const LONG: usize = 1_000_000;
    let notes = "[view.notes]\n entity = \"user\"\n features = { note = \"string\" }\n";
    let store = Store::of(&format!("{DEFINITIONS}\n{notes}")).await;
    let registry = store.engine.registry();
    let view = registry.view_named(PROJECT, "notes").expect("defined").clone();
    let note = "long ".repeat(LONG / 5);
    let mut rows = WriteBatch::new(&registry, store.engine.limits());
    rows.start(&view);
    rows.set(Slot(0), CellRef::Value(ValueRef::String(&note)));
    let at = EventTime::from_micros(T);
    rows.end(&key(&[(KeyType::Int64, "2")]), Some(at)).expect("within the limit");
    store.engine.write(PROJECT, rows, None).await.expect("it is accepted");
    // The first hundred labels say nothing of the length of what comes.
    let user = |row: usize| if row < 100 { 1 } else { 2 };
    let labels = batch(vec![
        ("user_id", users(&(0..300).map(user).collect::<Vec<i64>>())),
        ("event_timestamp", micros(vec![T + 60_000_000; 300])),
    ]);
    let training = store.training(What::Features(vec!["profile:age", "notes:note"]));
    let mut out = Vec::new();
    let told = train_into(&mut out, &store.engine, &training, &file_of(&labels));
    let told = told.expect("the labels are right");
    assert_eq!(told.last(), Some(&(300, 300)));
    assert!(told.iter().all(|(done, of)| done <= of), "{told:?}");
    assert!(!told.is_sorted(), "nothing was done again: {told:?}");
    let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(out.clone()));
    let groups = file.expect("Parquet").metadata().row_groups().to_vec();
    let mut row = 0;
    for group in groups {
        let of_group = row..row + group.num_rows() as usize;
        let long = of_group.clone().filter(|row| user(*row) == 2).count();
        assert!(long * LONG <= 130 << 20, "{of_group:?} at once");
        row = of_group.end;
    }
    let made = read(out);
    let found = made.column_by_name("notes__note").expect("the feature");
    for (row, found) in found.as_string::<i32>().iter().enumerate() {
        assert!(found == (user(row) == 2).then_some(&*note), "row {row}");
    }
    let expected: Vec<_> = (0..300).map(|row| Some(20 + user(row) as i32)).collect();
    assert_eq!(ages(&made), expected);
}

#[tokio::test]
async fn times_as_spark_writes_them_are_the_instants_they_are() {
    let store = Store::new().await;
    // 2500-01-01, and a moment before the age of user 2.
    let day = |micros: i64| micros.div_euclid(86_400_000_000);
    let instants = [16_725_225_600_000_000, T + 1_999_999];
    let int96 = instants.map(|micros| {
        let nanos = (micros - day(micros) * 86_400_000_000) as u64 * 1000;
        let mut time = Int96::new();
        time.set_data(nanos as u32, (nanos >> 32) as u32, (2_440_588 + day(micros)) as u32);
        time
    });
    let schema = "message labels { required int64 user_id; required int96 event_timestamp;
                  optional group made (LIST) { repeated group list { optional int96 element; } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut labels = Vec::new();
    let writer = SerializedFileWriter::new(&mut labels, schema, Arc::default());
    let mut writer = writer.expect("a schema");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("a column").expect("there is one");
    column.typed::<Int64Column>().write_batch(&[2, 2], None, None).expect("it fits");
    column.close().expect("it fits");
    let mut column = group.next_column().expect("a column").expect("there is one");
    column.typed::<Int96Type>().write_batch(&int96, None, None).expect("it fits");
    column.close().expect("it fits");
    let mut column = group.next_column().expect("a column").expect("there is one");
    let lists = column.typed::<Int96Type>();
    lists.write_batch(&int96, Some(&[3, 3]), Some(&[0, 0])).expect("it fits");
    column.close().expect("it fits");
    group.close().expect("it fits");
    writer.close().expect("it fits");
    let mut out = Vec::new();
    train_into(&mut out, &store.engine, &store.ages(), &labels).expect("the labels are right");
    let made = read(out);
    assert_eq!(ages(&made), [Some(22), None]);
    let times = made.column(1).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &instants);
    let lists = made.column(2).as_list::<i32>().values().clone();
    assert_eq!(lists.as_primitive::<TimestampMicrosecondType>().values(), &instants);
}
