//! Rows per second into and out of a checkpoint: `cargo bench --bench checkpoint [rows]`.
//!
//! A state has 450 bytes, about what 50 float64 features take. Written to a temporary directory,
//! loaded into an empty map from the page cache; the bar is 800,000 rows/s on two cores.

use std::sync::Arc;
use std::time::Duration;

use larder::checkpoint::{Checkpoint, Row, Sink, SledCheckpoint};
use larder::disk::real::RealDisk;
use larder::ids::{Sequence, StoreId, ViewId};
use larder::online::Online;
use larder::time::Stopwatch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STATE_BYTES: usize = 450;
const ROUNDS: usize = 3;

struct Into(Online);

impl Sink for Into {
    fn expect(&self, view: ViewId, rows: u64) {
        self.0.view(view).reserve(rows);
    }

    fn rows(&self, view: ViewId, rows: &[Row<'_>]) -> Result<(), String> {
        self.0.view(view).pin().put_all(rows);
        Ok(())
    }

    fn clear(&self) {
        self.0.clear();
    }
}

fn main() {
    let rows: u32 =
        std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let checkpoint = SledCheckpoint::new(Arc::new(RealDisk), directory.path());
    let store = StoreId([1; 16]);
    let sequence = Sequence(u64::from(rows));
    let map = Online::default();
    for number in 0..rows {
        let state: Vec<u8> = (number..).flat_map(u32::to_le_bytes).take(STATE_BYTES).collect();
        map.view(ViewId(1)).pin().put(format!("user:{number}").as_bytes(), &state);
    }

    let report = |what: &str, took: Duration| {
        let rate = f64::from(rows) / took.as_secs_f64();
        println!("{what:18} {:8.3} s  {rate:10.0} rows/s", took.as_secs_f64());
    };
    let watch = Stopwatch::start();
    let mut writer = checkpoint.begin(store, sequence).expect("a writer");
    for (key, state) in map.view(ViewId(1)).pin().iter() {
        writer.add(ViewId(1), key, state).expect("a row");
    }
    report("written", watch.elapsed());
    writer.finish(sequence).expect("a generation");
    report("proved and durable", watch.elapsed());

    for _ in 0..ROUNDS {
        let sink = Into(Online::default());
        let watch = Stopwatch::start();
        let load = checkpoint.load(store, sequence, &sink);
        report("loaded", watch.elapsed());
        assert_eq!(load.loaded.map(|watermark| watermark.rows), Some(u64::from(rows)));
        assert_eq!(sink.0.len(), map.len());
    }
}
