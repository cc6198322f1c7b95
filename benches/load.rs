//! Rows per second of a load, durable, sealed and online, by the clock and by core: the flights into
//! each view of a last flight, and 5,000,000 generated rows of 100,000 entities over 90 days.
//!
//! `cargo bench --bench load`; on one core: `taskset -c 1 cargo bench --bench load`. The folder of
//! `flights.parquet` is `LARDER_DATA`, else `../shared/data`.

mod cpu;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use larder::disk::Disk;
use larder::disk::real::RealDisk;
use larder::engine::Engine;
use larder::engine::load::{EventTimes, LoadOptions, Loaded};
use larder::engine::writes::Durability;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

const ROWS: u64 = 5_000_000;
const ROWS_PER_BATCH: u64 = 100_000;
const ENTITIES: u64 = 100_000;
/// 90 days.
const MICROS: u64 = 90 * 86_400 * 1_000_000;
const FLIGHTS: [&str; 3] =
    ["last_flight_of_aircraft", "last_flight_on_route", "last_flight_of_carrier"];
const SYNTHETIC: &str = r#"
[entity.user]
join_keys = ["user_id:int64"]

[view.activity]
entity = "user"
[view.activity.features]
a = "float64"
b = "float64"
c = "float64"
d = "float64"
"#;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime starts");
    println!("view                          rows  seconds  cpu seconds       rows/s  rows/core s");
    let folder = std::env::var("LARDER_DATA").unwrap_or_else(|_| "../shared/data".to_owned());
    let flights = Path::new(&folder).join("flights.parquet");
    if flights.exists() {
        let definitions = include_str!("../examples/flights/definitions.toml");
        runtime.block_on(load_all(definitions, &FLIGHTS, &flights));
    } else {
        println!("no {}; set LARDER_DATA", flights.display());
    }
    let synthetic = synthetic();
    runtime.block_on(load_all(SYNTHETIC, &["activity"], &synthetic));
}

async fn load_all(definitions: &str, views: &[&str], file: &Path) {
    let path = store::fresh("load");
    let engine = store::with_definitions(&path, Durability::Sync, definitions).await;
    for view in views {
        let (start, cpu) = (Instant::now(), cpu::seconds());
        let loaded = load(&engine, view, file).await;
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu::seconds() - cpu);
        let rows = loaded.rows as f64;
        let (by_clock, by_core) = (rows / wall, rows / cpu);
        println!("{view:25} {rows:8.0} {wall:8.2} {cpu:12.2} {by_clock:12.0} {by_core:12.0}");
    }
    engine.close();
}

async fn load(engine: &Arc<Engine>, view: &str, file: &Path) -> Loaded {
    let registry = engine.registry();
    let view = registry.view_named(store::PROJECT, view).expect("it was defined").clone();
    let file = RealDisk.open_read(file).expect("the file can be read");
    let options = LoadOptions {
        event_time: EventTimes::Column(None),
        arrival: None,
        time_unit: None,
        refuse_nan: false,
    };
    let turn = engine.begin_load().expect("no other load runs");
    engine.load(turn, view, file, options, |_, _| {}).await.expect("the file fits the view")
}

/// Writes the generated file, once.
fn synthetic() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data");
    let path = folder.join("history-5m.parquet");
    if path.exists() {
        return path;
    }
    std::fs::create_dir_all(&folder).expect("target/ can be written");
    let unfinished = folder.join("history-5m.unfinished");
    let file = std::fs::File::create(&unfinished).expect("target/ can be written");
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let schema = generated(0).schema();
    let mut writer =
        ArrowWriter::try_new(file, schema, Some(properties)).expect("the schema can be written");
    for first in (0..ROWS).step_by(ROWS_PER_BATCH as usize) {
        writer.write(&generated(first)).expect("the disk has room");
    }
    writer.close().expect("the disk has room");
    std::fs::rename(&unfinished, &path).expect("target/ can be written");
    path
}

/// Rows from `first` on: entities and times in no order.
fn generated(first: u64) -> RecordBatch {
    let numbers = || (first..first + ROWS_PER_BATCH).map(mixed);
    let floats = |salt: u64| -> ArrayRef {
        Arc::new(numbers().map(|n| mixed(n ^ salt) as f64 / 1e6).collect::<Float64Array>())
    };
    let start = 1_700_000_000_000_000;
    let times = numbers().map(|n| start + (mixed(n) % MICROS) as i64);
    let users = numbers().map(|n| (n % ENTITIES) as i64);
    let columns: [(&str, ArrayRef); 6] = [
        ("user_id", Arc::new(users.collect::<Int64Array>())),
        ("event_timestamp", Arc::new(TimestampMicrosecondArray::from_iter_values(times))),
        ("a", floats(1)),
        ("b", floats(2)),
        ("c", floats(3)),
        ("d", floats(4)),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// A number that looks random (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut n = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
