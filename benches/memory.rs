//! Bytes the online map takes per row, beyond payload and key: `cargo bench --bench memory [rows]`.
//!
//! A row has 50 float64 features; the bar is 96 bytes of overhead a row in all.

use larder::archive::{Encoder, RowRef};
use larder::ids::{Sequence, Slot, ViewId};
use larder::online::Online;
use larder::recency::Origin;
use larder::time::EventTime;
use larder::value::cell::{CellRef, ValueRef};
use larder::value::layout::Layout;
use larder::value::types::FeatureType;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FEATURES: u16 = 50;
const BAR: f64 = 96.0;

fn main() {
    let rows: u32 =
        std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let float = FeatureType::parse("float64").expect("a type");
    let layout = Layout::new((0..FEATURES).map(|_| float));
    let mut encoder = Encoder::default();
    let mut row = Vec::new();
    let mut key_bytes = 0;
    let online = Online::default();
    let before = resident_bytes();
    for number in 0..rows {
        encoder.start(&layout);
        for slot in 0..FEATURES {
            let value = f64::from(number) + f64::from(slot) / 64.0;
            encoder.set(&layout, Slot(slot), CellRef::Value(ValueRef::Float64(value)));
        }
        row.clear();
        encoder.finish_row(&mut row);
        let from = Origin {
            event_time: EventTime::from_micros(i64::from(number)),
            sequence: Sequence(u64::from(number) + 1),
        };
        let row = RowRef::access(&row).expect("a row");
        let state = encoder.merge(&layout, None, row, from).expect("the first row wins");
        // 8 to 12 bytes, as "user:" and a number are.
        let key = format!("u:{:0width$}", number % 1_000_000, width = 6 + number as usize % 5);
        key_bytes += key.len();
        online.view(ViewId(1)).pin().put(key.as_bytes(), &state);
    }
    let resident = resident_bytes() - before;
    let held = online.len();
    let per_row = |bytes: f64| bytes / held as f64;
    let payload = f64::from(FEATURES) * 8.0;
    let key = key_bytes as f64 / f64::from(rows);
    let map = online.view(ViewId(1));
    let bytes: usize = map.pin().iter().map(|(key, state)| key.len() + state.len() + 1).sum();
    let stored = per_row(bytes as f64);
    let in_all = per_row(resident as f64);
    println!("{held} rows of {FEATURES} float64, keys of {key:.1} bytes on average");
    println!("  payload            {payload:7.1}");
    println!("  key                {key:7.1}");
    println!("  archive, prefix    {:7.1}", stored - payload - key);
    println!("  map and allocator  {:7.1}", in_all - stored);
    println!("  resident           {in_all:7.1} bytes per row");
    let overhead = in_all - payload - key;
    let verdict = if overhead <= BAR { "within" } else { "OVER" };
    println!("  overhead           {overhead:7.1} ({verdict} the bar of {BAR})");
}

/// What the process holds in memory, in bytes, as the kernel counts it.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("the second number of statm");
    pages * 4096
}
