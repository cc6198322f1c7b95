//! What the rows of a lookup cost: found in a map of a million, decided and handed over, unwritten.
//!
//! `cargo bench --bench lookup`

mod floats;
mod store;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use larder::engine::Engine;
use larder::engine::cold::ColdStates;
use larder::engine::lookup::Batch;
use larder::engine::writes::Durability;
use larder::registry::plan::{Ask, What};
use larder::registry::resolve::Purpose;
use larder::value::cell::ValueRef;

const ENTITIES: u64 = 1_000_000;
const FEATURES: u16 = 50;
const ASKED: [&str; 10] = [
    "profile:f0",
    "profile:f5",
    "profile:f10",
    "profile:f15",
    "profile:f20",
    "profile:f25",
    "profile:f30",
    "profile:f35",
    "profile:f40",
    "profile:f49",
];

fn filled() -> Arc<Engine> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime starts");
    runtime.block_on(async {
        let path = store::fresh("lookup");
        let definitions = floats::definitions(FEATURES);
        let engine = store::with_definitions(&path, Durability::Os, &definitions).await;
        for first in (0..ENTITIES).step_by(5_000) {
            let batch = floats::batch(&engine, FEATURES, first..first + 5_000);
            engine.write(store::PROJECT, batch, None).await.expect("the write is accepted");
        }
        engine
    })
}

fn lookups(criterion: &mut Criterion) {
    let engine = filled();
    let ask = || Ask {
        entity_type: Some("user"),
        what: What::Features(ASKED.to_vec()),
        purpose: Purpose::Online,
    };
    let plan = engine.plan(store::PROJECT, &ask()).expect("the features are there");
    for rows in [1_usize, 100] {
        criterion.bench_function(&format!("answer {rows} x 10 float64"), |bencher| {
            let mut user: u64 = 0;
            let now = engine.now();
            bencher.iter(|| {
                let mut batch = Batch::new(1);
                for _ in 0..rows {
                    user = (user + 7_919_317) % ENTITIES;
                    batch.push_row(&[&user.to_be_bytes()]);
                }
                let mut sum = 0.0;
                plan.answer(&batch, 0..rows, &ColdStates::none(), now, |_, _, answer| {
                    if let Some(ValueRef::Float64(value)) = answer.value {
                        sum += value;
                    }
                });
                black_box(sum)
            });
        });
    }
    criterion.bench_function("now", |bencher| bencher.iter(|| engine.now()));
}

criterion_group!(benches, lookups);
criterion_main!(benches);
