//! How long this disk takes to make 4 KiB durable, without which no write figure says anything.
//!
//! It does not know Larder's files.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::failure::{At, Outcome};

/// Appends that are measured.
const APPENDS: usize = 200;

/// Latencies of an append of 4 KiB with its fdatasync, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Fsync {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Measures in `folder`.
pub(crate) fn measure(folder: &Path) -> Outcome<Fsync> {
    let mut file: File = tempfile::tempfile_in(folder).at(folder.display())?;
    let block = [7; 4 << 10];
    let mut times = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        let begun = Instant::now();
        file.write_all(&block).at(folder.display())?;
        file.sync_data().at(folder.display())?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(Fsync { p50_us: times[APPENDS / 2], p99_us: times[APPENDS * 99 / 100] })
}
