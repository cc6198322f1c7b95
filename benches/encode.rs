//! What a lookup costs inside the process, from a request's head and the bytes of its body to the
//! head and the bytes of the answer: everything but the wire.
//!
//! `cargo bench --bench encode`

mod store;

use std::fmt::Write;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Body;
use larder::engine::writes::Durability;
use larder::http::door::Door;
use larder::http::router::{Listener, Routes};
use larder::limits::Limits;
use larder::metrics::Metrics;
use larder::time::{Clock, SystemClock};

/// Few enough that the rows stay in the processor's cache: what memory costs, `lookup` tells.
const ENTITIES: u64 = 1_000;
const INTEGERS: usize = 250;
/// Requests made, and answers kept, at once: with criterion's thousands, a sixth of the time went
/// into pages that the kernel cleared for them, where a server takes the same memory again.
const FEW: BatchSize = BatchSize::NumIterations(16);

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
        let bench =
            Self { routes: Routes::new(&door, Listener::Api), runtime, _directory: directory };
        for first in (0..ENTITIES).step_by(100) {
            let body = rows(first..first + 100);
            let request = request("/api/v1/features/push", body.into());
            let response = bench.runtime.block_on(bench.routes.clone().answer(request));
            assert!(response.status().is_success(), "the rows are accepted");
        }
        bench
    }

    /// The answer to a lookup, which waits for nothing.
    fn answer(&self, request: Request<Full<Bytes>>) -> Bytes {
        let mut context = Context::from_waker(Waker::noop());
        let answering = pin!(self.routes.clone().answer(request));
        let Poll::Ready(mut response) = answering.poll(&mut context) else {
            panic!("a lookup in memory waits for nothing")
        };
        assert!(response.status().is_success());
        let frame = Pin::new(response.body_mut()).poll_frame(&mut context);
        let Poll::Ready(Some(Ok(frame))) = frame else { panic!("the answer is whole") };
        frame.into_data().expect("there are no trailers")
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
    let bench = Bench::new();
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
                    request("/api/v1/features/online", format!("{before}{user}{after}").into())
                },
                |request| black_box(bench.answer(request)),
                FEW,
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
            bencher.iter_batched(
                || request("/api/v1/features/batch", body.clone()),
                |request| black_box(bench.answer(request)),
                FEW,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, lookups);
criterion_main!(benches);
