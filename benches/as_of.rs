//! How long 10,000 labels take over an open store of 10,000,000 sealed rows (100,000 entities, 90
//! days, random times, 4 float64).
//!
//! `cargo bench --bench as_of`; `LARDER_BENCH_ROWS` for another number of rows.

mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::engine::Engine;
use larder::engine::as_of::AsOf;
use larder::engine::deadline::Deadline;
use larder::engine::lookup::Batch;
use larder::engine::writes::{Durability, WriteBatch};
use larder::ids::Slot;
use larder::registry::plan::{Ask, What};
use larder::registry::resolve::Purpose;
use larder::time::{Clock, EventTime, Span, SystemClock};
use larder::value::cell::{CellRef, ValueRef};

const ROWS_PER_REQUEST: u64 = 20_000;
const ENTITIES: u64 = 100_000;
const LABELS: u64 = 10_000;
const DAYS: u64 = 90;
const RUNS: u64 = 7;

const DEFINITIONS: &str = r#"
    [entity.user]
    join_keys = ["user_id:int64"]
    [view.profile]
    entity = "user"
    features = { f0 = "float64", f1 = "float64", f2 = "float64", f3 = "float64" }
"#;

/// SplitMix64.
fn random(state: u64) -> u64 {
    let mut mixed = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn time(random: u64) -> EventTime {
    let back = random % (DAYS * 86_400_000_000);
    SystemClock.now().as_event_time().minus(Span::from_micros(back as i64))
}

fn main() {
    let given = std::env::var("LARDER_BENCH_ROWS").ok();
    let rows = given.map_or(10_000_000, |rows| rows.parse().expect("LARDER_BENCH_ROWS"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(measure(rows));
}

async fn measure(rows: u64) {
    let path = store::fresh("as_of");
    let engine = fill(&path, rows).await;
    let features: Vec<String> = (0..4).map(|feature| format!("profile:f{feature}")).collect();
    let what = What::Features(features.iter().map(String::as_str).collect());
    let ask = Ask { entity_type: None, what, purpose: Purpose::AsOf };
    let plan = engine.plan(store::PROJECT, &ask).expect("the features are defined");
    for run in 0..RUNS {
        let mut batch = Batch::new(1);
        let seed = (run + 1) << 40;
        let labels = (0..LABELS).map(|label| random(seed + label));
        let times: Vec<EventTime> = labels.clone().map(|label| time(random(label))).collect();
        labels.for_each(|label| batch.push_row(&[&(label % ENTITIES).to_be_bytes()]));
        let watch = Instant::now();
        let ask = AsOf { plan: plan.clone(), batch, times, known_at: None, allow_truncated: false };
        let deadline = Deadline::after(Span::from_seconds(600));
        let answers = engine.as_of(ask, deadline).await.expect("history can be read");
        let mut found: u64 = 0;
        answers.answer(0..LABELS as usize, |_, _, answer| {
            found += u64::from(answer.value.is_some());
        });
        println!("{LABELS} labels over {rows} rows: {:?}, {found} values", watch.elapsed());
    }
    engine.close();
}

async fn fill(path: &Path, rows: u64) -> Arc<Engine> {
    let watch = Instant::now();
    let engine = store::with_definitions(path, Durability::Os, DEFINITIONS).await;
    for first in (0..rows).step_by(ROWS_PER_REQUEST as usize) {
        let registry = engine.registry();
        let view = registry.view_named(store::PROJECT, "profile").expect("it was defined");
        let mut batch = WriteBatch::new(&registry, engine.limits());
        for row in (first..first + ROWS_PER_REQUEST).map(random) {
            batch.start(view);
            for slot in 0..4 {
                let value = CellRef::Value(ValueRef::Float64(row as f64 / f64::from(slot + 3)));
                batch.set(Slot(slot), value);
            }
            let key = (row % ENTITIES).to_be_bytes();
            batch.end(&key, Some(time(random(row)))).expect("a small row");
        }
        engine.write(store::PROJECT, batch, None).await.expect("the write is accepted");
    }
    println!("{rows} rows written in {:?}", watch.elapsed());
    let metrics = engine.metrics();
    // What is in the open segment stays in the log.
    let open = 1_000_000;
    while metrics.sequence_sealed.get() + open < rows || metrics.sealed_files.get() > 7 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "sealed up to {} after {:?}: {} files, {} bytes; {} s sealing, {} s merging",
        metrics.sequence_sealed.get(),
        watch.elapsed(),
        metrics.sealed_files.get(),
        metrics.sealed_bytes.get(),
        metrics.sealing_time.get() as f64 / 1e6,
        metrics.merging_time.get() as f64 / 1e6,
    );
    engine
}
