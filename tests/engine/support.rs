//! What the tests of the engine share: open one, define, load, ask.
//!
//! It does not know what the answers should be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::disk::real::RealDisk;
use larder::engine::Engine;
use larder::engine::as_of::AsOf;
use larder::engine::cold::ColdStates;
use larder::engine::deadline::Deadline;
use larder::engine::define::{DefineOptions, Defined};
use larder::engine::error::Problem;
use larder::engine::load::{LoadOptions, Loaded};
use larder::engine::lookup::{Answer, Batch, LookupPlan};
use larder::engine::open::{Options, open};
use larder::engine::seal::SealOptions;
use larder::engine::writes::Durability;
use larder::ids::ProjectId;
use larder::limits::Limits;
use larder::metrics::Metrics;
use larder::online::TierLimits;
use larder::recency::Status;
use larder::registry::definitions::Definitions;
use larder::registry::plan::{Ask, What};
use larder::registry::resolve::Purpose;
use larder::time::{ArrivalTime, Clock, EventTime, ManualClock, Span};
use larder::value::cell::Value;
use larder::value::key::{KeyPart, append_part, part_of_text};
use larder::value::types::KeyType;

/// The default project.
pub(crate) const PROJECT: ProjectId = ProjectId(0);

/// Opens the store at `path`, with small segments so that tests roll over.
pub(crate) fn open_at(path: &Path, clock: &ManualClock, durability: Durability) -> Arc<Engine> {
    let options = Options {
        data_dir: path.to_owned(),
        durability,
        sync_interval: Span::from_micros(20_000),
        segment_bytes: 16 << 10,
        // Often, so that segments of the log go while the tests run.
        checkpoint_interval: Span::from_micros(150_000),
        // Little and often, so that the tests meet sealed files, merged ones and the log alike.
        seal: SealOptions {
            block_cache_bytes: 256 << 10,
            interval: Span::from_micros(2_000),
            bytes_per_second: 1 << 30,
            // Late, since the disk tier begins anew for it, which changes what is superseded.
            erase_within: Span::from_seconds(90 * 86_400),
            ..SealOptions::default()
        },
        // Next to nothing, so that rows move to the disk and are read from there.
        tier_limits: TierLimits { overlay: 512, cache: 512 },
        read_deadline: Span::from_seconds(60),
        accept_clock: false,
        limits: Limits::default(),
    };
    let metrics = Metrics::new(clock.now());
    open(options, Arc::new(RealDisk), Arc::new(clock.clone()), metrics).expect("the store opens")
}

/// Applies definitions and keeps what they do not name.
pub(crate) async fn define(engine: &Engine, toml: &str) -> Result<Defined, Problem> {
    let definitions = Definitions::parse_toml("test", toml).expect("the definitions are right");
    engine.define(definitions, DefineOptions::default()).await
}

/// Loads a Parquet file as the doors do, through a spool.
pub(crate) async fn load(
    engine: &Arc<Engine>,
    view: &str,
    path: &Path,
    options: LoadOptions,
) -> Result<Loaded, Problem> {
    let turn = engine.begin_load()?;
    let mut spool = engine.spool()?;
    spool.write(&std::fs::read(path).expect("the file is there"))?;
    let registry = engine.registry();
    let view = registry.view_named(PROJECT, view).expect("the view is defined").clone();
    engine.load(turn, view, spool.finish(), options, |_, _| {}).await
}

/// An answer that owns its value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Told {
    pub(crate) status: Status,
    pub(crate) value: Option<Value>,
    pub(crate) defaulted: bool,
    pub(crate) event_time: Option<EventTime>,
}

impl Told {
    /// Whether no value was found, so that an answer names it in `missing_features`.
    pub(crate) fn is_missing(&self) -> bool {
        self.status != Status::Present
    }
}

impl From<Answer<'_>> for Told {
    fn from(answer: Answer<'_>) -> Self {
        Self {
            status: answer.status,
            value: answer.value.map(|value| value.to_owned()),
            defaulted: answer.defaulted,
            event_time: answer.event_time,
        }
    }
}

/// Compiles a plan for feature references, or for a service.
pub(crate) fn plan(
    engine: &Engine,
    what: What<'_>,
    purpose: Purpose,
) -> Result<Arc<LookupPlan>, Problem> {
    engine.plan(PROJECT, &Ask { entity_type: None, what, purpose })
}

/// The answers as of now, row by row.
pub(crate) async fn now(engine: &Engine, plan: &Arc<LookupPlan>, batch: Batch) -> Vec<Vec<Told>> {
    let mut rows = vec![Vec::new(); batch.rows()];
    let batch = Arc::new(batch);
    let cold = match plan.has_disk_tier() {
        true => engine.fetch_cold(plan, &batch, deadline()).await,
        false => ColdStates::none(),
    };
    plan.answer(&batch, 0..batch.rows(), &cold, engine.now(), |row, column, answer| {
        assert_eq!(column, rows[row].len(), "columns come in order");
        rows[row].push(answer.into());
    });
    rows
}

/// Whether history answers for the disk tier, or for a part of it.
pub(crate) async fn falls_back(
    engine: &Engine,
    plan: &Arc<LookupPlan>,
    batch: &Arc<Batch>,
) -> bool {
    let cold = engine.fetch_cold(plan, batch, deadline()).await;
    cold.outcome().fallback_reason.is_some()
}

fn deadline() -> Deadline {
    Deadline::after(Span::from_seconds(300))
}

/// The answers as of the instants, row by row.
pub(crate) async fn then(
    engine: &Arc<Engine>,
    plan: &Arc<LookupPlan>,
    batch: Batch,
    times: Vec<EventTime>,
    known_at: Option<ArrivalTime>,
) -> Vec<Vec<Told>> {
    then_or_refused(engine, plan, batch, times, known_at).await.expect("history can be read")
}

/// The same where retention may refuse.
pub(crate) async fn then_or_refused(
    engine: &Arc<Engine>,
    plan: &Arc<LookupPlan>,
    batch: Batch,
    times: Vec<EventTime>,
    known_at: Option<ArrivalTime>,
) -> Result<Vec<Vec<Told>>, Problem> {
    let count = batch.rows();
    let mut rows = vec![Vec::new(); count];
    let ask = AsOf { plan: plan.clone(), batch, times, known_at, allow_truncated: false };
    let answers = engine.as_of(ask, deadline()).await?;
    answers.answer(0..count, |row, column, answer| {
        assert_eq!(column, rows[row].len(), "columns come in order");
        rows[row].push(answer.into());
    });
    Ok(rows)
}

/// Entities that have a row in any view.
pub(crate) async fn entity_count(engine: &Engine, entity: &str) -> u64 {
    let registry = engine.registry();
    let entity = registry.entity_named(PROJECT, entity).expect("it is defined").id;
    engine.entity_count(entity, deadline()).await.expect("it can be counted")
}

/// Encodes a key whose parts are texts.
pub(crate) fn text_key(parts: &[&str]) -> Vec<u8> {
    key(&parts.iter().map(|part| (KeyType::String, *part)).collect::<Vec<_>>())
}

/// Encodes a key from its parts as text.
pub(crate) fn key(parts: &[(KeyType, &str)]) -> Vec<u8> {
    let mut key = Vec::new();
    for (key_type, part) in parts {
        let part: KeyPart<'_> = part_of_text(*key_type, part).expect("a part of that type");
        append_part(&mut key, *key_type, &part).expect("a part of that type");
    }
    key
}

/// A batch of keys for a plan with one role.
pub(crate) fn keys<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Batch {
    let mut batch = Batch::new(1);
    for key in keys {
        batch.push_row(&[key.as_ref()]);
    }
    batch
}

/// The example beside the sources.
pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights")
}

/// The folder of the whole data set: `LARDER_DATA`, else the one beside the repository, else the
/// slice in the example.
pub(crate) fn data() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    match std::env::var_os("LARDER_DATA") {
        Some(folder) => folder.into(),
        None if beside.join("weather.parquet").exists() => beside,
        None => example(),
    }
}

/// Random numbers from a seed that is printed; `LARDER_SEED` repeats a run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(test: &str) -> Self {
        let seed = match std::env::var("LARDER_SEED") {
            Ok(seed) => seed.parse().expect("LARDER_SEED is a number"),
            Err(_) => std::process::id().into(),
        };
        println!("{test}: LARDER_SEED={seed}");
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to but not including `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From `start` up to but not including `end`.
    pub(crate) fn between(&mut self, start: i64, end: i64) -> i64 {
        start + (self.next() % end.abs_diff(start)) as i64
    }
}
