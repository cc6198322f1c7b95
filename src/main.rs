//! The `larder` binary: arguments in, exit code out.
//!
//! It does not know the commands; `cli` does.

use std::process::ExitCode;

use clap::Parser;
use larder::cli::{self, Arguments};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Arguments::parse())
}
