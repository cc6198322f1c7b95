//! How fast 1,000,000 rows of 50 features are there again after a restart: from history alone, and
//! from the checkpoint.
//!
//! `cargo bench --bench restart`; as root also with an empty page cache. Each start is a process of
//! its own, as after a crash.

mod cpu;
mod floats;
mod store;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use larder::engine::writes::Durability;

const ROWS: u64 = 1_000_000;
const ROWS_PER_REQUEST: u64 = 5_000;
const FEATURES: u16 = 50;
/// Spreads users over all keys, as hashed ids are.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const STARTS: usize = 3;

fn main() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data/restart");
    match std::env::args().nth(1).as_deref() {
        Some("fill") => fill(&store::fresh("restart")),
        Some("start") => start(&path),
        _ => compare(&path),
    }
}

fn compare(path: &Path) {
    child("fill");
    let checkpoint = path.join("checkpoint");
    let aside = path.with_extension("checkpoint");
    println!("from         page cache  sequence reached in");
    for cold in [false, true] {
        for from_history in [true, false] {
            if from_history {
                rename(&checkpoint, &aside);
            }
            for _ in 0..STARTS {
                if cold && !drop_page_cache() {
                    println!("(not root: the page cache cannot be dropped)");
                    break;
                }
                let from = if from_history { "history" } else { "checkpoint" };
                print!("{from:12} {:12}", if cold { "empty" } else { "warm" });
                child("start");
            }
            if from_history {
                let _ = std::fs::remove_dir_all(&checkpoint);
                rename(&aside, &checkpoint);
            }
        }
    }
}

fn rename(from: &PathBuf, to: &PathBuf) {
    std::fs::rename(from, to).expect("the bench's own directory");
}

fn drop_page_cache() -> bool {
    let synced = Command::new("sync").status().is_ok_and(|status| status.success());
    synced && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn child(task: &str) {
    use std::io::Write as _;
    std::io::stdout().flush().expect("standard output is open");
    let own = std::env::current_exe().expect("the bench is a file");
    let status = Command::new(own).arg(task).status().expect("the bench can be run again");
    assert!(status.success(), "{task} failed");
}

/// Writes every row once and ends in good order, with a checkpoint.
fn fill(path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime starts");
    runtime.block_on(async {
        let definitions = floats::definitions(FEATURES);
        let engine = store::with_definitions(path, Durability::Os, &definitions).await;
        for first in (0..ROWS).step_by(ROWS_PER_REQUEST as usize) {
            let users = (first..first + ROWS_PER_REQUEST).map(|user| user.wrapping_mul(SPREAD));
            let batch = floats::batch(&engine, FEATURES, users);
            engine.write(store::PROJECT, batch, None).await.expect("the write is accepted");
        }
        engine.close();
    });
}

/// Opens the store, says how long each part took, and ends without closing it.
fn start(path: &Path) {
    let watch = Instant::now();
    let engine = store::open_at(path, Durability::Sync);
    let wall = watch.elapsed().as_secs_f64();
    let metrics = engine.metrics();
    let rate = |rows: u64, micros: u64| rows as f64 / (micros as f64 / 1e6);
    let (checkpoint, history) =
        (metrics.recovery_checkpoint_rows.get(), metrics.recovery_history_rows.get());
    print!("{wall:6.2} s");
    if checkpoint > 0 {
        let rate = rate(checkpoint, metrics.recovery_checkpoint_time.get());
        print!("; {checkpoint} rows from the checkpoint at {rate:.0} rows/s");
    }
    if history > 0 {
        let rate = rate(history, metrics.recovery_history_time.get());
        print!("; {history} rows from history at {rate:.0} rows/s");
    }
    let cpu = cpu::seconds();
    println!("; {:.0} rows/s in all, {:.0} per core second", ROWS as f64 / wall, ROWS as f64 / cpu);
    assert_eq!(engine.rows_per_view().iter().map(|(_, rows)| rows).sum::<u64>(), ROWS);
    // Closing would write a checkpoint of what was just read.
    std::process::exit(0);
}
