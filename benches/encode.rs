//! What a lookup costs inside the process, from the bytes of the request's body to those of the
//! answer's: everything but the wire.
//!
//! `cargo bench --bench encode`

mod store;

use std::fmt::Write;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use larder::engine::writes::Durability;
use larder::http::door::Door;
use larder::http::router::{Listener, Routes};
use larder::limits::Limits;
use larder::metrics::Metrics;
use larder::time::{Clock, SystemClock};

/// Few enough that the rows stay in the processor's cache: what memory costs, `lookup` tells.
const ENTITIES: u64 = 1_000;
const INTEGERS: usize = 250;

struct Bench {
    routes: Routes,
    runtime: tokio::runtime::Runtime,
    _directory: std::path::PathBuf,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build();
        let runtime = runtime.expect("a runtime starts");
        let directory = store::fresh("encode");
        let engine =
            runtime.block_on(store::with_definitions(&directory, Durability::Os, &definitions()));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let door = Arc::new(Door::new(Limits::default(), Metrics::new(clock.now()), clock));
        door.open(engine);
        let mut bench =
            Self { routes: Routes::new(&door, Listener::Api), runtime, _directory: directory };
        for first in (0..ENTITIES).step_by(100) {
            let body = rows(first..first + 100);
            let request = request("/api/v1/features/push", body.into());
            let response = bench.runtime.block_on(bench.routes.answer(request));
            assert!(response.status().is_success(), "the rows are accepted");
        }
        bench
    }

    /// The answer to a lookup, which waits for nothing.
    fn answer(&mut self, path: &'static str, body: Bytes) -> Bytes {
        let mut context = Context::from_waker(Waker::noop());
        let answering = pin!(self.routes.answer(request(path, body)));
        let Poll::Ready(response) = answering.poll(&mut context) else {
            panic!("a lookup in memory waits for nothing")
        };
        assert!(response.status().is_success());
        let Poll::Ready(Ok(body)) = pin!(response.into_body().collect()).poll(&mut context) else {
            panic!("the answer is whole")
        };
        body.to_bytes()
    }
}

fn request(path: &'static str, body: Bytes) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(body)).expect("a path is a request")
}

fn definitions() -> String {
    let mut text = "[entity.user]\njoin_keys = [\"user_id:int64\"]\n\n[view.wide]\n\
                    entity = \"user\"\n[view.wide.features]\nvector = \"float32[384]\"\n"
        .to_owned();
    (0..INTEGERS).for_each(|index| writeln!(text, "f{index} = \"int64\"").expect("memory"));
    text
}

fn rows(users: std::ops::Range<u64>) -> String {
    let row = |user: u64| {
        let vector: Vec<f32> = (0..384).map(|index| (user + index) as f32 / 997.0).collect();
        let mut features = serde_json::json!({ "vector": vector });
        for index in 0..INTEGERS as u64 {
            features[format!("f{index}")] = ((user * 7_919 + index * 104_729) % 1_000_000).into();
        }
        serde_json::json!({"view": "wide", "entity_id": user, "features": features})
    };
    serde_json::json!({ "rows": users.map(row).collect::<Vec<_>>() }).to_string()
}

/// The text of a body before and after its ids.
fn around(field: &str, names: &[String]) -> (String, String) {
    let names = serde_json::to_string(names).expect("names are JSON");
    let before = format!("{{\"entity_type\":\"user\",\"{field}\":");
    (before, format!(",\"feature_names\":{names}}}"))
}

fn integers(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("wide:f{index}")).collect()
}

fn lookups(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    // Reading a body asks for a timer, though none is ever set.
    let runtime = bench.runtime.handle().clone();
    let _entered = runtime.enter();
    for (what, names) in [
        ("1 x 10 int64", integers(10)),
        ("1 x 250 int64", integers(250)),
        ("1 x float32[384]", vec!["wide:vector".to_owned()]),
    ] {
        let (before, after) = around("entity_id", &names);
        let mut user: u64 = 0;
        criterion.bench_function(what, |bencher| {
            bencher.iter_batched(
                || {
                    user = (user + 7_919) % ENTITIES;
                    Bytes::from(format!("{before}{user}{after}"))
                },
                |body| black_box(bench.answer("/api/v1/features/online", body)),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    for (rows, columns) in [(150, 5), (100, 50)] {
        let (before, after) = around("entity_ids", &integers(columns));
        let ids: Vec<u64> = (0..rows).map(|row| row * 7_919 % ENTITIES).collect();
        let body = Bytes::from(format!("{before}{ids:?}{after}"));
        let mut group = criterion.benchmark_group("batch");
        group.throughput(Throughput::Elements(rows));
        group.bench_function(format!("{rows} x {columns} int64"), |bencher| {
            bencher.iter(|| black_box(bench.answer("/api/v1/features/batch", body.clone())));
        });
        group.finish();
    }
}

criterion_group!(benches, lookups);
criterion_main!(benches);
