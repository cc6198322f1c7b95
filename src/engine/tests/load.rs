//! Loads as a whole: seen all at once, online and as of any instant, through restarts, erasures and
//! pushes beside them.
//!
//! They do not look at the files of history, but for what must not be left there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;

use super::bounds::eventually;
use super::*;
use crate::disk::Disk;
use crate::disk::fake::Fate;
use crate::engine::error::Place;
use crate::engine::load::{Committed, EventTimes, LoadOptions, Loaded};
use crate::time::Stopwatch;

mod interrupted;

/// User, seconds of the event, age.
type Row = (String, i64, Option<i32>);

fn rows(rows: &[(&str, i64, i32)]) -> Vec<Row> {
    rows.iter().map(|&(user, time, age)| (user.to_owned(), time, Some(age))).collect()
}

fn instants(seconds: impl Iterator<Item = i64>) -> ArrayRef {
    let micros = seconds.map(|seconds| at(seconds).micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros))
}

fn columns(rows: &[Row]) -> Vec<(&'static str, ArrayRef)> {
    let users = StringArray::from_iter_values(rows.iter().map(|row| &row.0));
    let ages: Int32Array = rows.iter().map(|row| row.2).collect();
    let times = instants(rows.iter().map(|row| row.1));
    vec![("user_id", Arc::new(users)), ("event_timestamp", times), ("age", Arc::new(ages))]
}

/// The same, each with this text.
fn wide_columns(rows: &[Row], text: &str) -> Vec<(&'static str, ArrayRef)> {
    let texts = StringArray::from_iter_values(rows.iter().map(|_| text));
    let mut columns = columns(rows);
    columns.push(("country", Arc::new(texts)));
    columns
}

fn options_of(arrival: Option<&str>) -> LoadOptions {
    LoadOptions {
        event_time: EventTimes::Column(None),
        arrival: arrival.map(str::to_owned),
        time_unit: None,
        refuse_nan: false,
    }
}

impl Store {
    /// Loads rows with these arrivals, if there are any, in seconds.
    async fn load_with(&self, rows: &[Row], arrivals: Option<&[i64]>) -> Result<Loaded, Problem> {
        let mut columns = columns(rows);
        if let Some(arrivals) = arrivals {
            columns.push(("recorded", instants(arrivals.iter().copied())));
        }
        self.load_columns(columns, |_, _| {}).await
    }

    /// Loads what has these columns; `progress` hears how far it is.
    async fn load_columns(
        &self,
        columns: Vec<(&str, ArrayRef)>,
        progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<Loaded, Problem> {
        let arrival = columns.iter().map(|column| column.0).find(|name| *name == "recorded");
        let options = options_of(arrival);
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = self.directory.path().join("rows.parquet");
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let registry = self.engine().registry();
        let view = registry.view_named(PROJECT, "profile").unwrap().clone();
        let turn = self.engine().begin_load()?;
        let file = RealDisk.open_read(&path).unwrap();
        self.engine().load(turn, view, file, options, progress).await
    }

    async fn load(&self, rows: &[Row]) -> Result<Loaded, Problem> {
        self.load_with(rows, None).await
    }

    /// The ages as of an instant, by what was known at another, both in seconds.
    async fn known(&self, user: &str, seconds: i64, known_at: i64) -> Option<Value> {
        let what = What::Features(vec!["profile:age"]);
        let ask = Ask { entity_type: Some("user"), what, purpose: Purpose::AsOf };
        let plan = self.engine().plan(PROJECT, &ask).unwrap();
        let mut batch = Batch::new(1);
        batch.push_row(&[&user_key(user)]);
        let times = vec![at(seconds).as_event_time()];
        let known_at = Some(at(known_at));
        let ask = AsOf { plan, batch, times, known_at, allow_truncated: false };
        let deadline = Deadline::after(Span::from_seconds(30));
        let mut found = None;
        self.engine().as_of(ask, deadline).await.unwrap().answer(0..1, |_, _, answer| {
            found = answer.value.map(|value| value.to_owned());
        });
        found
    }

    fn age_now(&self, user: &str) -> Option<Value> {
        self.now(user)[0].1.clone()
    }

    async fn age_then(&self, user: &str, seconds: i64) -> Option<Value> {
        self.then(user, seconds).await[0].1.clone()
    }

    /// What lies in history beside the log.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("history")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".log")).collect()
    }
}

/// An engine on a disk in memory, where a checkpoint made there is not.
fn open_on(disk: &FakeDisk, path: &Path, clock: &ManualClock) -> Arc<Engine> {
    open_as(Durability::Sync, disk, path, clock)
}

fn open_as(
    durability: Durability,
    disk: &FakeDisk,
    path: &Path,
    clock: &ManualClock,
) -> Arc<Engine> {
    let _ = std::fs::remove_dir_all(path.join("checkpoint"));
    let metrics = Metrics::new(clock.now());
    let options = options(path, durability);
    open(options, Arc::new(disk.clone()), Arc::new(clock.clone()), metrics).unwrap()
}

async fn defined_on(disk: &FakeDisk) -> Store {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(at(100));
    let engine = Some(open_on(disk, directory.path(), &clock));
    let store = Store { directory, clock, engine };
    define(&store, "ttl = \"1d\"").await;
    store
}

/// A store whose view says this of itself.
async fn defined(view: &str) -> Store {
    let store = Store::new();
    define(&store, view).await;
    store
}

async fn define(store: &Store, view: &str) {
    let definitions = DEFINITIONS.replace("ttl = \"10s\"", view);
    let definitions = Definitions::parse_toml("test", &definitions).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
}

fn is(age: i32) -> Option<Value> {
    Some(Value::Int32(age))
}

#[tokio::test]
async fn a_load_is_seen_online_and_as_of_and_what_is_newer_online_stays() {
    let mut store = defined("ttl = \"1d\"").await;
    store.push(&[("u1", Some(97), age(97), country("AE"))]).await.unwrap();
    store.push(&[("u2", Some(91), age(91), Cell::Absent)]).await.unwrap();
    let before = store.engine().health().sequence.0;
    store.clock.set(at(101));
    let file = rows(&[("u1", 95, 1), ("u2", 95, 2), ("u3", 96, 4), ("u3", 94, 3), ("u1", 93, 5)]);
    let loaded = store.load(&file).await.unwrap();
    assert_eq!((loaded.rows, loaded.written, loaded.skipped, loaded.resumed), (5, 5, 0, 0));
    assert_eq!((loaded.sequence.0, loaded.superseded), (before + 5, 3), "of u1 both, of u3 one");
    assert_eq!(store.engine().health().sequence, loaded.sequence);
    for forget in [None, Some(false), Some(true)] {
        if let Some(forget) = forget {
            store.restart(forget);
        }
        assert_eq!(["u1", "u2", "u3"].map(|user| store.age_now(user)), [is(97), is(2), is(4)]);
        assert_eq!(store.age_then("u1", 95).await, is(1));
        assert_eq!(store.age_then("u1", 94).await, is(5));
        assert_eq!(store.age_then("u2", 94).await, is(91));
        assert_eq!(store.age_then("u3", 95).await, is(3));
        assert_eq!(store.then("u1", 98).await, store.now("u1"), "the country came with a push");
        // Nobody knew it before it was loaded.
        assert_eq!(store.known("u2", 98, 100).await, is(91));
        assert_eq!(store.known("u2", 98, 101).await, is(2));
        let again = store.load(&file).await.unwrap();
        assert_eq!((again.rows, again.written, again.sequence), (5, 0, loaded.sequence));
        assert_eq!(again.loaded_before, Some(at(101)));
        assert!(!store.files().contains(&"LOAD".to_owned()));
    }
    let after = store.push(&[("u3", Some(99), age(9), Cell::Absent)]).await.unwrap();
    assert_eq!(after.sequence, loaded.sequence.next());
    assert_eq!(store.age_now("u3"), is(9));
}

#[tokio::test]
async fn rows_may_say_when_they_arrived() {
    let mut store = defined("ttl = \"1d\"").await;
    let file = rows(&[("u1", 50, 1), ("u1", 60, 2), ("u1", 96, 3)]);
    // The last one is up to `limits.max_future` ahead of its arrival, and counts as that.
    let loaded = store.load_with(&file, Some(&[55, 90, 95])).await.unwrap();
    assert_eq!(loaded.written, 3);
    for restarts in 0..2 {
        assert_eq!(store.known("u1", 70, 54).await, None);
        assert_eq!(store.known("u1", 70, 55).await, is(1));
        assert_eq!(store.known("u1", 70, 89).await, is(1));
        assert_eq!(store.known("u1", 70, 90).await, is(2));
        assert_eq!(store.age_then("u1", 94).await, is(2));
        assert_eq!(store.age_then("u1", 95).await, is(3), "{restarts}");
        store.restart(true);
    }
    let refused = store.load_with(&file, Some(&[55, 101, 95])).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidValue);
    let [Place { index: Some(1), field, expected, .. }] = &refused.places[..] else {
        panic!("{:?}", refused.places)
    };
    assert_eq!(field, "recorded");
    assert!(expected.contains("at most now"), "{expected}");
    let far = rows(&[("u1", 100, 1)]);
    let refused = store.load_with(&far, Some(&[100 - 301])).await.unwrap_err();
    assert_eq!((refused.code, refused.places.len()), (Code::EventTimeInFuture, 1));
    store.load_with(&far, Some(&[100 - 300])).await.unwrap();
}

#[tokio::test]
async fn what_comes_after_a_load_arrives_no_earlier_though_the_clock_was_set_back() {
    let mut store = defined("ttl = \"1d\"").await;
    store.clock.set(at(200));
    let arriving = |seconds| {
        let mut columns = columns(&rows(&[("u1", 50, seconds as i32)]));
        columns.push(("recorded", instants([seconds].into_iter())));
        columns
    };
    let set_back = |seconds| {
        let clock = store.clock.clone();
        move |_: u64, _: u64| clock.set(at(seconds))
    };
    store.load_columns(arriving(200), set_back(100)).await.unwrap();
    // Further back than an event may lie ahead.
    store.clock.set(at(600));
    let refused = store.load_columns(arriving(600), set_back(299)).await.unwrap_err();
    assert_eq!(refused.code, Code::ClockBehind);
    for user in ["u2", "u3"] {
        store.clock.set(at(100));
        store.push(&[(user, Some(60), age(2), Cell::Absent)]).await.unwrap();
        assert_eq!(store.known(user, 99, 199).await, None, "{user}");
        assert_eq!(store.known(user, 99, 200).await, is(2), "{user}");
        store.restart(true);
    }
}

#[tokio::test]
async fn one_bad_row_refuses_all_and_leaves_nothing() {
    let store = defined("ttl = \"1d\"").await;
    let before = store.engine().health().sequence;
    let mut file = rows(&[("u1", 95, 1), ("u2", 95, 2)]);
    file.extend((0..30).map(|_| ("u3".to_owned(), 500, Some(3))));
    let refused = store.load(&file).await.unwrap_err();
    assert_eq!((refused.code, refused.places.len()), (Code::EventTimeInFuture, 20));
    assert_eq!(refused.places[0].index, Some(2));
    assert_eq!(store.engine().health().sequence, before);
    assert_eq!((store.age_now("u1"), store.files()), (None, vec![]));
    store.load(&file[..2]).await.unwrap();
    assert_eq!(store.age_now("u1"), is(1));
}

#[tokio::test]
async fn rows_that_came_before_are_skipped_unless_they_say_something_else() {
    let mut store = defined("ttl = \"1d\"").await;
    store.push(&[("u1", Some(90), age(1), Cell::Absent)]).await.unwrap();
    store.push(&[("u2", Some(90), age(2), country("AE"))]).await.unwrap();
    store.push(&[("u3", Some(90), age(3), Cell::Absent)]).await.unwrap();
    store.push(&[("u3", Some(90), age(4), Cell::Absent)]).await.unwrap();
    let first = rows(&[("u5", 80, 1), ("u5", 81, 2), ("u5", 80, 1)]);
    let loaded = store.load(&first).await.unwrap();
    assert_eq!((loaded.written, loaded.skipped), (3, 0), "rows of one file are not compared");
    store.restart(false);
    let file = rows(&[
        ("u1", 90, 1),
        ("u2", 90, 2), // There it came with a country.
        ("u3", 90, 3), // Came, and was corrected since.
        ("u1", 91, 1),
        ("u1", 90, 7),
        ("u5", 81, 2),
        ("u9", 90, 1),
    ]);
    let loaded = store.load(&file).await.unwrap();
    assert_eq!((loaded.rows, loaded.written, loaded.skipped), (7, 4, 3));
    assert_eq!(store.age_now("u3"), is(4), "what was skipped corrects nothing back");
    assert_eq!(store.age_then("u1", 90).await, is(7));
    // A file of which all is known is remembered all the same.
    let known = rows(&[("u9", 90, 1), ("u5", 80, 1)]);
    let none = store.load(&known).await.unwrap();
    assert_eq!((none.written, none.skipped, none.sequence), (0, 2, loaded.sequence));
    store.restart(true);
    assert!(store.load(&known).await.unwrap().loaded_before.is_some());
}

#[tokio::test]
async fn a_row_that_comes_while_its_file_is_loaded_is_skipped() {
    let store = defined("ttl = \"1d\"").await;
    let text = "x".repeat(100_000);
    // More than a part: the last row is looked for in history only with the second.
    let file: Vec<Row> = (0..900).map(|n| (format!("u{n}"), 90, Some(n))).collect();
    let ledger = store.directory.path().join("history/LOAD");
    let (has_part, is_pushed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (says, waits) = (has_part.clone(), is_pushed.clone());
    let progress = move |_: u64, _: u64| {
        let waited = Stopwatch::start();
        if ledger.exists() {
            says.store(true, Ordering::SeqCst);
            while !waits.load(Ordering::SeqCst) && waited.elapsed().as_secs() < 60 {
                std::thread::yield_now();
            }
        }
    };
    let pushing = async {
        eventually("a part", || has_part.load(Ordering::SeqCst)).await;
        let rows = [0, 899].map(|n| (format!("u{n}"), age(n)));
        for (user, age) in rows {
            store.push(&[(&user, Some(90), age, country(&text))]).await.unwrap();
        }
        is_pushed.store(true, Ordering::SeqCst);
    };
    let (loaded, ()) =
        tokio::join!(store.load_columns(wide_columns(&file, &text), progress), pushing);
    let loaded = loaded.unwrap();
    assert_eq!((loaded.written, loaded.skipped), (899, 1), "the first was in the first part");
    assert_eq!(["u0", "u1", "u899"].map(|user| store.age_now(user)), [is(0), is(1), is(899)]);
}

#[tokio::test]
async fn a_row_is_left_out_only_for_one_that_stays() {
    let disk = FakeDisk::new();
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(at(100));
    let open = |disk: &FakeDisk| open_as(Durability::Os, disk, directory.path(), &clock);
    let engine = Some(open(&disk));
    let store = Store { directory: tempfile::tempdir().unwrap(), clock: clock.clone(), engine };
    define(&store, "ttl = \"1d\"").await;
    // With it the definitions are durable.
    store.load(&rows(&[("u0", 90, 0)])).await.unwrap();
    store.push(&[("u1", Some(95), age(1), Cell::Absent)]).await.unwrap();
    let file = rows(&[("u1", 95, 1), ("u2", 95, 2)]);
    disk.watch();
    let loaded = store.load(&file).await.unwrap();
    assert_eq!((loaded.written, loaded.skipped), (1, 1));
    for moment in disk.take_moments() {
        let engine = Some(open(&moment.crash()));
        let directory = tempfile::tempdir().unwrap();
        let again = Store { directory, clock: clock.clone(), engine };
        again.load(&file).await.unwrap();
        assert_eq!(["u1", "u2"].map(|user| again.age_now(user)), [is(1), is(2)]);
    }
}

#[tokio::test]
async fn an_erased_entity_comes_back_with_a_load_and_goes_with_the_next_erasure() {
    let mut store = defined("ttl = \"1d\"").await;
    let erase = async |store: &Store| {
        let entity = store.engine().registry().view_named(PROJECT, "profile").unwrap().entity;
        store.engine().erase(entity, &user_key("u1")).await.unwrap();
    };
    // The row of the push is newer than that of the load, and goes before it comes.
    store.push(&[("u1", Some(95), age(95), Cell::Absent)]).await.unwrap();
    erase(&store).await;
    store.load(&rows(&[("u1", 90, 1), ("u2", 90, 2)])).await.unwrap();
    for forget in [None, Some(false), Some(true)] {
        forget.into_iter().for_each(|forget| store.restart(forget));
        assert_eq!([store.age_now("u1"), store.age_now("u2")], [is(1), is(2)], "{forget:?}");
        assert_eq!(store.age_then("u1", 99).await, is(1));
    }
    erase(&store).await;
    for forget in [None, Some(false), Some(true)] {
        forget.into_iter().for_each(|forget| store.restart(forget));
        assert_eq!([store.age_now("u1"), store.age_now("u2")], [None, is(2)], "{forget:?}");
        assert_eq!(store.age_then("u1", 99).await, None);
    }
    // The same rows in another order are another file, and what is erased was never there.
    let loaded = store.load(&rows(&[("u2", 90, 2), ("u1", 90, 1)])).await.unwrap();
    assert_eq!((loaded.written, loaded.skipped), (1, 1));
    assert_eq!(store.age_now("u1"), is(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_go_on_beside_a_load_and_win_where_they_are_newer() {
    for tier in ["memory", "disk"] {
        let mut store = defined(&format!("tier = \"{tier}\"")).await;
        let user = |n: i64| format!("u{}", n % 400);
        let file: Vec<Row> = (0..20_000).map(|n| (user(n), n % 89, Some(n as i32))).collect();
        let stop = AtomicBool::new(false);
        let pushing = async {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                // Newer than the file for some, older for others, and half a row.
                let time = if n % 2 == 0 { 95 } else { 1 };
                let row = (&*user(n * 7), Some(time), Cell::Absent, country("AE"));
                store.push(&[row]).await.unwrap();
                n += 1;
                tokio::task::yield_now().await;
            }
            n
        };
        let loading = async {
            let loaded = store.load(&file).await;
            stop.store(true, Ordering::Relaxed);
            loaded
        };
        let (loaded, pushed) = tokio::join!(loading, pushing);
        assert_eq!(loaded.unwrap().written, 20_000);
        assert!(pushed > 0);
        let states = async |store: &Store| {
            let mut states = Vec::new();
            for n in 0..400 {
                let then = store.then(&user(n), 99).await;
                let now = match tier {
                    "disk" => store.now_on_disk(&user(n)).await.0,
                    _ => store.now(&user(n)),
                };
                assert_eq!(now, then, "{tier} {n}");
                states.push(then);
            }
            states
        };
        let before = states(&store).await;
        assert!(before.iter().all(|state| state[0].1.is_some()));
        // As the process leaves it that is killed now, from history alone.
        let after = store.as_after_a_crash();
        assert_eq!(states(&after).await, before, "{tier}");
        for forget in [false, true] {
            store.restart(forget);
            assert_eq!(states(&store).await, before, "{tier} {forget}");
        }
    }
}

#[tokio::test]
async fn wide_rows_are_decoded_a_few_at_a_time() {
    let store = defined("ttl = \"1d\"").await;
    let file: Vec<Row> = (0..300).map(|n| (format!("u{n}"), 90, Some(n))).collect();
    let text = "x".repeat(100_000);
    // The text stands in the file once.
    let columns = wide_columns(&file, &text);
    let heard = Arc::new(Mutex::new(vec![0]));
    let hears = heard.clone();
    let loaded = store.load_columns(columns, move |done, _| hears.lock().unwrap().push(done)).await;
    assert_eq!(loaded.unwrap().written, 300);
    let heard = heard.lock().unwrap();
    let most = heard.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(most <= Some((4 << 20) / 100_000), "{most:?} of 300 at once");
    assert_eq!(store.now("u7"), [present(Value::Int32(7)), present(Value::String(text.into()))]);
}
