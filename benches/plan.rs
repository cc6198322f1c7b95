//! What it costs to find out what a lookup asks: compiling a plan, and finding it compiled.
//!
//! `cargo bench --bench plan`

mod store;

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use larder::engine::writes::Durability;
use larder::registry::plan::{Ask, Plan, What};
use larder::registry::resolve::Purpose;

fn plans(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime starts");
    let path = store::fresh("plan");
    let mut definitions = "[entity.user]\njoin_keys = [\"user_id\"]\n\n[view.profile]\n\
                           entity = \"user\"\n[view.profile.features]\n"
        .to_owned();
    (0..250).for_each(|index| writeln!(definitions, "f{index} = \"int64\"").expect("memory"));
    let engine = runtime.block_on(store::with_definitions(&path, Durability::Os, &definitions));
    let registry = engine.registry();
    for count in [10, 250] {
        let names: Vec<String> = (0..count).map(|index| format!("profile:f{index}")).collect();
        let ask = || Ask {
            entity_type: Some("user"),
            what: What::Features(names.iter().map(String::as_str).collect()),
            purpose: Purpose::Online,
        };
        criterion.bench_function(&format!("compile {count} features"), |bencher| {
            bencher.iter(|| Plan::compile(&registry, store::PROJECT, black_box(&ask())));
        });
        criterion.bench_function(&format!("find {count} features compiled"), |bencher| {
            bencher.iter(|| engine.plan(store::PROJECT, black_box(&ask())));
        });
    }
}

criterion_group!(benches, plans);
criterion_main!(benches);
