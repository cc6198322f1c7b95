//! `larder backup`: a consistent copy of a store, of a running server or of a directory.
//!
//! It does not know what is in the files, nor when a backup counts.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::held::Held;
use crate::cli::target::Whom;
use crate::cli::terminal::Progress;
use crate::cli::verify::line;
use crate::cli::{Done, terminal};
use crate::disk::real::RealDisk;
use crate::engine::verify::Named;
use crate::history::backup::{self, BackupError, Taken};
use crate::time::{Clock, SystemClock};

const EXAMPLE: &str = "Examples:\n  larder backup /backups/larder\n  \
                       larder backup /backups/larder --server http://features:6566\n  \
                       larder backup /backups/larder --data ./data\n\n\
                       Exit codes: 0 done, 1 failed and nothing is left of it, 2 wrong use.";

/// Makes a consistent backup of a running server, or of a data directory
///
/// Each backup is a directory of its own under TO, whole in itself. What an earlier one there has
/// too is not copied again where the file system has hard links. Every byte that is copied is made
/// durable, read back and checked before the backup counts.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Backup {
    /// The directory of backups, on this machine
    #[arg(value_name = "TO")]
    to: PathBuf,
    #[command(flatten)]
    whom: Whom,
}

impl Backup {
    pub(super) fn run(&self) -> Done {
        let held = Held::of(self.whom.place()?)?;
        let mut bar = Progress::new("backed up").counting(" bytes");
        let mut progress = |done, total| bar.set(done, total);
        let now = SystemClock.now();
        let taken = backup::take(&RealDisk, held.pinned(), &self.to, now, &mut progress);
        bar.clear();
        let Taken { path, sequence, copied, reused } = taken.map_err(failure)?;
        terminal::say(format_args!("{}", path.display()));
        terminal::note(format_args!(
            "backed up to sequence {sequence}: {copied} bytes copied, {reused} bytes kept once \
             with earlier backups"
        ));
        Ok(())
    }
}

fn failure(error: BackupError) -> Failure {
    let first = error.to_string();
    match error {
        BackupError::Damaged(findings) => {
            let named = findings.into_iter().map(|finding| Named { finding, view: None });
            Failure::Failed([first].into_iter().chain(named.map(|named| line(&named))).collect())
        }
        _ => Failure::failed(first),
    }
}
