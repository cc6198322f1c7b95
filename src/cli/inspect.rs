//! `larder inspect`: what is in a file of a data directory.
//!
//! It does not know the files' formats.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::{Done, terminal};
use crate::disk::real::RealDisk;
use crate::engine::inspect;
use crate::history::inspect::InspectError;

const EXAMPLE: &str = "Examples:\n  larder inspect data/MANIFEST\n  \
                       larder inspect data/history/00000000000000000001.log\n  \
                       larder inspect data/checkpoint/gen-7.done\n\n\
                       Exit codes: 0 described, 1 the file cannot be read or is another kind of \
                       file, 2 wrong use.";

/// Describes any file of a data directory or of a backup, without changing it
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Inspect {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(super) fn run(&self) -> Done {
        let lines = inspect::describe(&RealDisk, &self.file).map_err(|error| match error {
            InspectError::Disk(error) => Failure::failed(error),
            InspectError::Unknown => {
                Failure::failed(format_args!("{}: {error}", self.file.display()))
            }
        })?;
        lines.iter().for_each(terminal::say);
        Ok(())
    }
}
