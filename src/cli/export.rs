//! `larder export`: history as Parquet files by view and day, for other engines.
//!
//! It does not know how the files are made.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::held::Held;
use crate::cli::target::Whom;
use crate::cli::{Done, terminal};
use crate::disk::real::RealDisk;
use crate::engine::export::{ExportError, ExportOptions, Exported, MEMORY_BYTES, export};
use crate::registry::DEFAULT_PROJECT;

const EXAMPLE: &str = "Examples:\n  larder export --to /srv/lake/features\n  \
                       larder export --to ./lake --data ./data --project ads\n\n\
                       Exit codes: 0 done, or nothing was new; 1 failed; 2 wrong use.";

/// Exports history as Parquet files by view and day, each time what is new
///
/// A README.md in DIR tells how to read them with DuckDB, pandas and Spark.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Export {
    /// The directory of the files, on this machine
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The project to export [default: default]
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

impl Export {
    pub(super) fn run(&self) -> Done {
        let held = Held::of(self.whom.place()?)?;
        let project = self.project.as_deref().unwrap_or(DEFAULT_PROJECT);
        let mut said = 0;
        let mut progress = |rows: u64| {
            if rows >= said + 10_000_000 {
                said = rows;
                terminal::note(format_args!("exported {rows} rows"));
            }
        };
        let options = ExportOptions { project, memory_bytes: MEMORY_BYTES };
        let exported = export(held.pinned(), options, &RealDisk, &self.to, &mut progress);
        let Exported { after, sequence, rows, files } = exported.map_err(failure)?;
        if rows == 0 {
            terminal::say(format_args!("nothing new since sequence {after}"));
            return Ok(());
        }
        terminal::say(format_args!(
            "exported {rows} rows in {}, sequences {} to {sequence}",
            terminal::counted(files, "file", "files"),
            after.next()
        ));
        Ok(())
    }
}

fn failure(error: ExportError) -> Failure {
    match error {
        ExportError::Project(_) | ExportError::Ledger(_) => Failure::wrong_use(error),
        _ => Failure::failed(error),
    }
}
