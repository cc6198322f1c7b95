//! The `loadtest` binary: drives Larder and its peers with load, and says what came of it.
//!
//! It does not know Larder's code, only its doors.

use std::process::ExitCode;

use clap::Parser;

mod failure;
mod random;

mod data;
mod keys;
mod scenario;
mod schedule;
mod target;

mod template;
mod wire;

mod client;
mod drive;
mod setup;

mod comparison;
mod find_limit;

mod host;
mod report;

mod cli;

// Larder's allocator, or the static server would not be its ceiling.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(cli::arguments::Arguments::parse())
}
