//! `larder restore`: a data directory from a backup.
//!
//! It does not know what is in the files.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::terminal::Progress;
use crate::cli::verify::line;
use crate::cli::{Done, settings, terminal};
use crate::disk::real::RealDisk;
use crate::engine::verify::Named;
use crate::history::restore::{RestoreError, Restored, restore};

const EXAMPLE: &str = "Examples:\n  larder restore /backups/larder --data ./data\n  \
                       larder restore /backups/larder/20261121T150405.123456Z-4711\n\n\
                       Exit codes: 0 done, 1 failed, 2 wrong use or the data directory is not \
                       empty.";

/// Sets up a data directory from a backup
///
/// FROM is one backup, or a directory of backups, of which the newest is taken. It is verified
/// first. Nothing is written over: the data directory must be empty or not there.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Restore {
    /// The backup, or the directory that `larder backup` wrote to
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// The data directory to set up; the configuration's `storage.data_dir` if left out
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file; ./config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Restore {
    pub(super) fn run(&self) -> Done {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => settings::read(self.config.as_deref(), Vec::new())?.storage.data_dir,
        };
        let mut bar = Progress::new("restored");
        let mut progress = |done, total| bar.set(done, total);
        let restored = restore(&RealDisk, &self.from, &data, &mut progress);
        bar.clear();
        let Restored { from, sequence, bytes } = restored.map_err(failure)?;
        terminal::say(format_args!(
            "{} holds what {} does: {bytes} bytes, up to sequence {sequence}",
            data.display(),
            from.display()
        ));
        Ok(())
    }
}

fn failure(error: RestoreError) -> Failure {
    let first = error.to_string();
    match error {
        RestoreError::NotEmpty { .. } | RestoreError::NoBackup { .. } => Failure::wrong_use(first),
        RestoreError::Damaged { findings, .. } => {
            let named = findings.into_iter().map(|finding| Named { finding, view: None });
            Failure::Failed([first].into_iter().chain(named.map(|named| line(&named))).collect())
        }
        _ => Failure::failed(first),
    }
}
