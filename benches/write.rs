//! Rows per second acknowledged, by durability mode, pushers and rows a request, beside what one
//! sync costs on this disk.
//!
//! `cargo bench --bench write`

mod floats;
mod store;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::engine::Engine;
use larder::engine::writes::Durability;

const FEATURES: u16 = 10;
const ENTITIES: u64 = 100_000;
const RUN: Duration = Duration::from_secs(3);

fn main() {
    let path = store::fresh("write");
    sync_times(&path);
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime starts");
    println!("mode      pushers  rows/request      rows/s  requests/sync     p50 ms     p99 ms");
    for durability in [Durability::Sync, Durability::Interval, Durability::Os] {
        for (pushers, rows) in [(1, 1), (1, 100), (64, 1), (64, 100)] {
            let path = store::fresh("write");
            runtime.block_on(run(&path, durability, (pushers, rows)));
        }
    }
    sync_times(&store::fresh("write"));
}

/// Appends 4 KiB and syncs, again and again.
fn sync_times(path: &Path) {
    let mut file = File::create(path.join("sync")).expect("the bench's own directory");
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("the disk works");
            start.elapsed()
        })
        .collect();
    let (p50, p99) = percentiles(&mut times);
    println!("append of 4 KiB and fdatasync on this disk: p50 {p50:.3} ms, p99 {p99:.3} ms");
}

fn percentiles(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).map_or(0.0, |t| t.as_secs_f64());
    (at(50) * 1e3, at(99) * 1e3)
}

async fn run(path: &Path, durability: Durability, (pushers, rows): (u64, u64)) {
    let definitions = floats::definitions(FEATURES);
    let engine = store::with_definitions(path, durability, &definitions).await;
    let frames = engine.metrics().frames.get();
    let start = Instant::now();
    let tasks: Vec<_> =
        (0..pushers).map(|seed| tokio::spawn(push(engine.clone(), seed, rows))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a pusher does not panic"));
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = (times.len() as u64 * rows) as f64 / seconds;
    let shared = times.len() as f64 / (engine.metrics().frames.get() - frames) as f64;
    // Only in this mode every frame has a sync of its own.
    let shared = match durability {
        Durability::Sync => format!("{shared:.1}"),
        Durability::Interval | Durability::Os => "-".to_owned(),
    };
    let (p50, p99) = percentiles(&mut times);
    let mode = durability.as_str();
    println!("{mode:9} {pushers:7} {rows:13} {rate:11.0} {shared:>14} {p50:10.3} {p99:10.3}");
    engine.close();
}

/// Writes one request after another; returns how long each took to be acknowledged.
async fn push(engine: Arc<Engine>, seed: u64, rows: u64) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut entity = seed * 1_009;
    let start = Instant::now();
    while start.elapsed() < RUN {
        let before = Instant::now();
        let users = (0..rows).map(|row| (entity + row * 7_919) % ENTITIES);
        let batch = floats::batch(&engine, FEATURES, users);
        entity += rows * 7_919;
        engine.write(store::PROJECT, batch, None).await.expect("the write is accepted");
        times.push(before.elapsed());
    }
    times
}
