//! The engine as a whole on a real directory: definitions, writes, lookups, as-of reads, restarts.

mod backups;

mod bounds;

mod definitions;

mod dropping;

mod load;

mod recovery;

mod sealing;

mod tier;

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::disk::fake::{FakeDisk, Fault};
use crate::disk::real::RealDisk;
use crate::disk::{DiskErrorKind, Operation};
use crate::engine::as_of::AsOf;
use crate::engine::cold::ColdStates;
use crate::engine::deadline::Deadline;
use crate::engine::define::{Data, DefineOptions};
use crate::engine::error::Problem;
use crate::engine::lookup::Batch;
use crate::engine::open::{Options, open};
use crate::engine::seal::SealOptions;
use crate::engine::writes::{Accepted, Durability, WriteBatch};
use crate::engine::{Engine, Idempotency};
use crate::ids::{ProjectId, Sequence, ViewId};
use crate::limits::Limits;
use crate::metrics::{Code, Metrics, WritesState};
use crate::online::TierLimits;
use crate::recency::Status;
use crate::registry::definitions::Definitions;
use crate::registry::plan::{Ask, What};
use crate::registry::resolve::Purpose;
use crate::time::{ArrivalTime, Clock, EventTime, ManualClock, Span};
use crate::value::cell::{Cell, Value};
use crate::value::key::{KeyPart, append_part};
use crate::value::types::KeyType;

const DEFINITIONS: &str = r#"
[entity.user]
join_keys = ["user_id"]

[view.profile]
entity = "user"
ttl = "10s"
[view.profile.features]
age = "int32"
country = { type = "string", default = "unknown" }
"#;
const PROJECT: ProjectId = ProjectId(0);
const FEATURES: [&str; 2] = ["profile:age", "profile:country"];

struct Store {
    directory: TempDir,
    clock: ManualClock,
    engine: Option<Arc<Engine>>,
}

fn open_at(path: &Path, clock: &ManualClock, durability: Durability) -> Arc<Engine> {
    open_with(options(path, durability), clock)
}

fn open_with(options: Options, clock: &ManualClock) -> Arc<Engine> {
    let metrics = Metrics::new(clock.now());
    open(options, Arc::new(RealDisk), Arc::new(clock.clone()), metrics).unwrap()
}

fn options(path: &Path, durability: Durability) -> Options {
    Options {
        data_dir: path.to_owned(),
        durability,
        sync_interval: Span::from_seconds(1),
        segment_bytes: 64 << 10,
        checkpoint_interval: Span::from_seconds(3600),
        seal: SealOptions::default(),
        tier_limits: TierLimits { overlay: 1 << 20, cache: 1 << 20 },
        read_deadline: Span::from_seconds(5),
        accept_clock: false,
        limits: Limits::default(),
    }
}

/// Small segments and all background work at once.
fn busy(path: &Path) -> Options {
    Options {
        segment_bytes: 4096,
        checkpoint_interval: Span::from_micros(20_000),
        seal: SealOptions { interval: Span::from_micros(5_000), ..SealOptions::default() },
        ..options(path, Durability::Sync)
    }
}

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(at(100).max(ArrivalTime::MIN));
        let engine = Some(open_at(directory.path(), &clock, Durability::Sync));
        Self { directory, clock, engine }
    }

    async fn defined() -> Self {
        let store = Self::new();
        let definitions = Definitions::parse_toml("test", DEFINITIONS).unwrap();
        store.engine().define(definitions, DefineOptions::default()).await.unwrap();
        store
    }

    fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    /// Closes and opens again; `forget` removes the checkpoint in between.
    fn restart(&mut self, forget: bool) {
        self.engine.take().unwrap().close();
        if forget {
            std::fs::remove_dir_all(self.directory.path().join("checkpoint")).unwrap();
        }
        self.engine = Some(open_at(self.directory.path(), &self.clock, Durability::Sync));
    }

    /// Another store, of what history holds by now.
    fn as_after_a_crash(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (self.directory.path(), directory.path());
        std::fs::copy(from.join("MANIFEST"), to.join("MANIFEST")).unwrap();
        std::fs::create_dir(to.join("history")).unwrap();
        for entry in std::fs::read_dir(from.join("history")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join("history").join(entry.file_name())).unwrap();
        }
        let engine = Some(open_at(to, &self.clock, Durability::Sync));
        Self { directory, clock: self.clock.clone(), engine }
    }

    async fn push(&self, rows: &[(&str, Option<i64>, Cell, Cell)]) -> Result<Accepted, Problem> {
        self.push_keyed(rows, None).await
    }

    async fn push_keyed(
        &self,
        rows: &[(&str, Option<i64>, Cell, Cell)],
        key: Option<&str>,
    ) -> Result<Accepted, Problem> {
        let registry = self.engine().registry();
        let view = registry.view_named(PROJECT, "profile").unwrap();
        let mut batch = WriteBatch::new(&registry, self.engine().limits());
        for (user, time, age, country) in rows {
            batch.start(view);
            batch.set(view.slot_of("age").unwrap(), age.borrowed());
            batch.set(view.slot_of("country").unwrap(), country.borrowed());
            let time = time.map(|seconds| at(seconds).as_event_time());
            batch.end(&user_key(user), time).unwrap();
        }
        let content = [rows.len() as u8; 16];
        let idempotency = key.map(|key| Idempotency { key: key.to_owned(), content });
        self.engine().write(PROJECT, batch, idempotency).await
    }

    fn now(&self, user: &str) -> Vec<(Status, Option<Value>)> {
        let engine = self.engine();
        let ask = Ask {
            entity_type: Some("user"),
            what: What::Features(FEATURES.to_vec()),
            purpose: Purpose::Online,
        };
        let plan = engine.plan(PROJECT, &ask).unwrap();
        let mut batch = Batch::new(1);
        batch.push_row(&[&user_key(user)]);
        let mut answers = Vec::new();
        plan.answer(&batch, 0..1, &ColdStates::none(), engine.now(), |_, _, answer| {
            answers.push((answer.status, answer.value.map(|value| value.to_owned())));
        });
        answers
    }

    /// As [`Self::now`], by the way of the disk tier; also whether something failed on it.
    async fn now_on_disk(&self, user: &str) -> (Vec<(Status, Option<Value>)>, Option<String>) {
        let engine = self.engine();
        let ask = Ask {
            entity_type: Some("user"),
            what: What::Features(FEATURES.to_vec()),
            purpose: Purpose::Online,
        };
        let plan = engine.plan(PROJECT, &ask).unwrap();
        assert!(plan.has_disk_tier());
        let mut batch = Batch::new(1);
        batch.push_row(&[&user_key(user)]);
        let batch = Arc::new(batch);
        let cold = engine.fetch_cold(&plan, &batch, Deadline::after(Span::from_seconds(30))).await;
        let mut answers = Vec::new();
        plan.answer(&batch, 0..1, &cold, engine.now(), |_, _, answer| {
            answers.push((answer.status, answer.value.map(|value| value.to_owned())));
        });
        let outcome = cold.outcome();
        assert!(!outcome.fallback, "history answers, so no default stands in");
        (answers, outcome.fallback_reason)
    }

    async fn then(&self, user: &str, seconds: i64) -> Vec<(Status, Option<Value>)> {
        let ask = Ask {
            entity_type: Some("user"),
            what: What::Features(FEATURES.to_vec()),
            purpose: Purpose::AsOf,
        };
        let plan = self.engine().plan(PROJECT, &ask).unwrap();
        let mut batch = Batch::new(1);
        batch.push_row(&[&user_key(user)]);
        let times = vec![at(seconds).as_event_time()];
        let ask = AsOf { plan, batch, times, known_at: None, allow_truncated: false };
        let deadline = Deadline::after(Span::from_seconds(30));
        let mut answers = Vec::new();
        self.engine().as_of(ask, deadline).await.unwrap().answer(0..1, |_, _, answer| {
            answers.push((answer.status, answer.value.map(|value| value.to_owned())));
        });
        answers
    }
}

/// Seconds after an arbitrary instant of 2026.
fn at(seconds: i64) -> ArrivalTime {
    ArrivalTime::from_micros(1_769_860_800_000_000 + seconds * 1_000_000)
}

fn user_key(user: &str) -> Vec<u8> {
    let mut key = Vec::new();
    append_part(&mut key, KeyType::String, &KeyPart::Text(user.into())).unwrap();
    key
}

fn age(age: i32) -> Cell {
    Cell::Value(Value::Int32(age))
}

fn country(country: &str) -> Cell {
    Cell::Value(Value::String(country.into()))
}

fn present(value: Value) -> (Status, Option<Value>) {
    (Status::Present, Some(value))
}

fn unknown(status: Status) -> (Status, Option<Value>) {
    (status, Some(Value::String("unknown".into())))
}

#[tokio::test]
async fn writes_are_looked_up_and_survive_restarts() {
    let mut store = Store::defined().await;
    let accepted = store.push(&[("u1", Some(95), age(30), country("AE"))]).await.unwrap();
    assert_eq!((accepted.accepted, accepted.superseded), (1, 0));
    // Late, partial: the age is older than what is there, the country newer.
    store.push(&[("u1", Some(90), age(29), Cell::Absent)]).await.unwrap();
    store.push(&[("u1", Some(96), Cell::Absent, Cell::Null)]).await.unwrap();
    let expected = [present(Value::Int32(30)), unknown(Status::NullValue)];
    assert_eq!(store.now("u1"), expected);
    assert_eq!(store.then("u1", 100).await, expected);
    for forget in [false, true] {
        store.restart(forget);
        assert_eq!(store.now("u1"), expected);
        assert_eq!(store.then("u1", 100).await, expected);
    }
    let then = store.then("u1", 95).await;
    assert_eq!(then, [present(Value::Int32(30)), present(Value::String("AE".into()))]);
    let then = store.then("u1", 94).await;
    assert_eq!(then, [present(Value::Int32(29)), unknown(Status::NotFound)]);
    let then = store.then("u1", 89).await;
    assert_eq!(then, [(Status::NotFound, None), unknown(Status::NotFound)]);
}

#[tokio::test]
async fn values_expire_by_their_own_event_time() {
    let store = Store::defined().await;
    store.push(&[("u1", None, age(30), Cell::Absent)]).await.unwrap();
    store.clock.advance(Span::from_seconds(10));
    store.push(&[("u1", None, Cell::Absent, country("AE"))]).await.unwrap();
    assert_eq!(store.now("u1")[0], present(Value::Int32(30)));
    store.clock.advance(Span::from_micros(1));
    assert_eq!(store.now("u1")[0], (Status::OutsideMaxAge, None));
    assert_eq!(store.now("u1")[1], present(Value::String("AE".into())));
}

#[tokio::test]
async fn future_event_times_are_capped_or_refused() {
    let store = Store::defined().await;
    store.push(&[("u1", Some(101), age(1), Cell::Absent)]).await.unwrap();
    assert_eq!(store.then("u1", 100).await[0], present(Value::Int32(1)));
    let rows = [("u2", None, age(1), Cell::Absent), ("u2", Some(100 + 301), age(2), Cell::Absent)];
    let problem = store.push(&rows).await.unwrap_err();
    assert_eq!(problem.code, Code::EventTimeInFuture);
    assert_eq!(problem.places[0].index, Some(1));
    assert_eq!(store.now("u2")[0], (Status::NotFound, None));
}

#[tokio::test]
async fn a_disk_that_has_room_again_is_noticed_without_a_write() {
    let disk = FakeDisk::new();
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(at(100));
    let options = options(directory.path(), Durability::Sync);
    let metrics = Metrics::new(clock.now());
    let engine = open(options, Arc::new(disk.clone()), Arc::new(clock.clone()), metrics).unwrap();
    let store = Store { directory, clock, engine: Some(engine) };
    let definitions = Definitions::parse_toml("test", DEFINITIONS).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    for operation in [Operation::Create, Operation::Preallocate, Operation::Write] {
        let (error, lasting) = (DiskErrorKind::Full, true);
        disk.fail(Fault { operation: Some(operation), nth: 1, lasting, error });
    }
    let refused = store.push(&[("u1", None, age(1), Cell::Absent)]).await.unwrap_err();
    assert_eq!(refused.code, Code::DiskFull);
    assert_eq!(store.engine().health().writes, WritesState::Full);
    disk.heal();
    let waited = crate::time::Stopwatch::start();
    while store.engine().health().writes != WritesState::Open {
        assert!(waited.elapsed().as_secs() < 60, "nobody looked for room");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    store.push(&[("u1", None, age(1), Cell::Absent)]).await.unwrap();
    assert_eq!(store.now("u1")[0], present(Value::Int32(1)));
}

#[tokio::test]
async fn a_clock_that_steps_back_stops_writes_but_not_reads() {
    let mut store = Store::defined().await;
    store.push(&[("u1", Some(100), age(1), Cell::Absent)]).await.unwrap();
    store.clock.set(at(100 - 299));
    store.push(&[("u1", None, age(2), Cell::Absent)]).await.unwrap();
    assert_eq!(store.now("u1")[0], present(Value::Int32(2)));
    assert_eq!(store.engine().health().writes, WritesState::Open);
    store.clock.set(at(100 - 301));
    assert_eq!(store.engine().health().writes, WritesState::ClockBehind, "before any write");
    let refused = store.push(&[("u1", None, age(3), Cell::Absent)]).await.unwrap_err();
    assert_eq!(refused.code, Code::ClockBehind);
    store.clock.set(at(100));
    assert_eq!(store.engine().health().writes, WritesState::Open, "without a write");
    store.clock.set(at(100 - 301));
    store.restart(false);
    let refused = store.push(&[("u1", None, age(3), Cell::Absent)]).await.unwrap_err();
    assert_eq!(refused.code, Code::ClockBehind);
    store.clock.set(at(100));
    store.push(&[("u1", None, age(3), Cell::Absent)]).await.unwrap();
    assert_eq!(store.now("u1")[0], present(Value::Int32(3)));
}

#[tokio::test]
async fn a_repeated_idempotency_key_answers_the_first_result() {
    let mut store = Store::defined().await;
    store.push(&[("u1", Some(90), age(1), Cell::Absent)]).await.unwrap();
    let rows = [
        ("u1", Some(80), age(2), Cell::Absent),
        ("u1", Some(91), age(3), Cell::Absent),
        ("u1", Some(85), age(4), Cell::Absent),
    ];
    let first = store.push_keyed(&rows, Some("k")).await.unwrap();
    assert_eq!((first.accepted, first.superseded), (3, 2));
    assert_eq!(store.push_keyed(&rows, Some("k")).await.unwrap(), first);
    for forget in [false, true] {
        store.restart(forget);
        assert_eq!(store.push_keyed(&rows, Some("k")).await.unwrap(), first);
    }
    let other = store.push_keyed(&rows[..1], Some("k")).await.unwrap_err();
    assert_eq!(other.code, Code::IdempotencyMismatch);
    store.clock.advance(Span::from_seconds(24 * 3600));
    let again = store.push_keyed(&rows[..1], Some("k")).await.unwrap();
    assert!(again.sequence > first.sequence);
}

#[tokio::test]
async fn later_event_times_are_never_seen() {
    let store = Store::defined().await;
    for n in 0..50 {
        store.push(&[("u1", Some(n), age(n as i32), Cell::Absent)]).await.unwrap();
    }
    for n in 0..50 {
        assert_eq!(store.then("u1", n).await[0], present(Value::Int32(n as i32)));
    }
    let before = EventTime::from_micros(at(0).micros() - 1);
    assert!(before < at(0).as_event_time());
}
