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
use crate::engine::restore::{self, Applied, Outcome};
use crate::engine::verify::Named;
use crate::history::restore::{RestoreError, Restored};
use crate::time::{Clock, SystemClock};

const EXAMPLE: &str = "Examples:\n  larder restore /backups/larder --data ./data\n  \
                       larder restore /backups/larder/20261121T150405.123456Z-4711\n\n\
                       Exit codes: 0 done, 1 failed, 2 wrong use or the data directory is not \
                       empty.";

/// Sets up a data directory from a backup
///
/// FROM is one backup, or a directory of backups, of which the newest is taken. It is verified
/// first. Nothing is written over: the data directory must be empty or not there. Nobody is
/// restored whom another backup of the store beside it knows to be erased.
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
        let config = settings::read(self.config.as_deref(), Vec::new())?;
        let data = self.data.as_ref().unwrap_or(&config.storage.data_dir);
        let mut bar = Progress::new("restored").counting(" bytes");
        let mut progress = |done, total| bar.set(done, total);
        let when = (SystemClock.now(), config.erase.within);
        let outcome = restore::run(&RealDisk, &self.from, data, when, &mut progress);
        bar.clear();
        let outcome = outcome.map_err(failure)?;
        let Restored { from, sequence, bytes } = &outcome.restored;
        terminal::say(format_args!(
            "{} holds what {} does: {bytes} bytes, up to sequence {sequence}",
            data.display(),
            from.display()
        ));
        say_who_is_left_out(&outcome);
        Ok(())
    }
}

fn say_who_is_left_out(outcome: &Outcome) {
    let Outcome { erased, deadline, asked, unremembered, unreadable, .. } = outcome;
    for path in asked {
        terminal::note(format_args!("asked {} who was erased", path.display()));
    }
    if !erased.is_empty() {
        let entities = terminal::counted(erased.len(), "entity that was", "entities that were");
        terminal::say(format_args!(
            "{entities} erased after this backup {} erased here too, the bytes gone by {deadline} \
             if a server runs",
            if erased.len() == 1 { "is" } else { "are" }
        ));
    }
    for Applied { by, request } in erased {
        let (sequence, requested, by) = (request.sequence, request.requested, by.display());
        terminal::say(format_args!("erasure {sequence} of {requested}, known to {by}"));
    }
    for (path, sequence) in unremembered {
        terminal::note(format_args!(
            "{} no longer knows who was erased up to sequence {sequence}: whoever was erased \
             between this backup and then may be back",
            path.display()
        ));
    }
    for path in unreadable {
        terminal::note(format_args!(
            "the marker of {} cannot be read: if that backup is the newest, whoever was erased \
             before it and after the others may be back",
            path.display()
        ));
    }
}

fn failure(error: restore::Error) -> Failure {
    let first = error.to_string();
    match error {
        restore::Error::Restore(RestoreError::NotEmpty { .. } | RestoreError::NoBackup { .. }) => {
            Failure::wrong_use(first)
        }
        restore::Error::Restore(RestoreError::Damaged { findings, .. }) => {
            let named = findings.into_iter().map(|finding| Named { finding, view: None });
            Failure::Failed([first].into_iter().chain(named.map(|named| line(&named))).collect())
        }
        _ => Failure::failed(first),
    }
}
