//! `larder verify`: whether every byte of a data directory or a backup is what was written.
//!
//! It does not know the files' formats.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::terminal::Progress;
use crate::cli::{Done, directory, settings, terminal};
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskErrorKind};
use crate::engine::verify::{self, Named, Report};
use crate::history::backup::{self, Backups};
use crate::history::verify::FindingKind;
use crate::ids::Sequence;

const EXAMPLE: &str = "Examples:\n  larder verify\n  larder verify /srv/larder/data\n  \
                       larder verify /backups/larder/20261121T150405Z-4711\n\n\
                       Exit codes: 0 nothing acknowledged is damaged, 1 something is, 2 wrong use.";

/// Checks every byte of a data directory or a backup
///
/// Names what is damaged with its file and offset, what that affects, and what to do. Changes
/// nothing. Beside a running server it checks all that is at rest and leaves out what the server is
/// writing: the last segment of the log, the checkpoint and the disk tier.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Verify {
    /// The data directory, a backup, or a directory of backups; the configuration's
    /// `storage.data_dir` if left out
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Configuration file; ./config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(&self) -> Done {
        let path = match &self.directory {
            Some(path) => path.clone(),
            None => settings::read(self.config.as_deref(), Vec::new())?.storage.data_dir,
        };
        if is_store(&path)? {
            return verify_one(&path);
        }
        let Backups { whole, unreadable } = match backup::backups(&RealDisk, &path) {
            Err(error) if error.kind() == DiskErrorKind::NotFound => Backups::default(),
            backups => backups.map_err(Failure::failed)?,
        };
        let whole = whole.into_iter().map(|(backup, _)| backup);
        // What is wrong with a marker is found like any other damage.
        let all: Vec<_> = whole.chain(unreadable.into_iter().map(|(backup, _)| backup)).collect();
        if all.is_empty() {
            let path = path.display();
            return Err(Failure::wrong_use(format_args!("{path} is no data directory or backup")));
        }
        let mut verified = Ok(());
        for backup in all {
            terminal::say(format_args!("{}:", backup.display()));
            if let Err(failure) = verify_one(&backup) {
                // The others may be whole, so they are looked at all the same.
                verified = verified.and(Err(failure.about(backup.display())));
            }
        }
        verified
    }
}

fn verify_one(path: &Path) -> Done {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut progress = Progress::new("verified").counting(" bytes");
    let report = verify::run(&disk, path, &mut |done, total| progress.set(done, total));
    progress.clear();
    show(&report.map_err(Failure::failed)?)
}

/// A directory without manifest is one too if there is history in it: that is damage.
fn is_store(path: &Path) -> Result<bool, Failure> {
    if directory::is_there(path)? {
        return Ok(true);
    }
    match RealDisk.list(&path.join("history")) {
        Ok(entries) => Ok(!entries.is_empty()),
        Err(error) if error.kind() == DiskErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::failed(error)),
    }
}

fn show(report: &Report) -> Done {
    report.findings.iter().for_each(|named| terminal::say(line(named)));
    for derived in &report.derived {
        terminal::say(format_args!(
            "derived: {}: {}; the next start rebuilds it from history",
            derived.path.display(),
            derived.reason
        ));
    }
    let files = terminal::counted(report.files as usize, "file", "files");
    let upto = match report.last {
        // Beside a server nothing may be at rest yet.
        Sequence::ZERO if report.in_use => String::new(),
        last => format!(", up to sequence {last}"),
    };
    terminal::say(format_args!("read {files} of history, {} bytes{upto}", report.bytes));
    if report.in_use {
        terminal::say(
            "a server has it open: the end of the log, the checkpoint and the disk tier were left \
             out",
        );
    }
    if report.is_damaged() {
        return Err(Failure::Failed(advice(report)));
    }
    terminal::say("no damage to anything acknowledged");
    Ok(())
}

/// One finding in words.
pub(super) fn line(Named { finding, view }: &Named) -> String {
    let what = match finding.kind {
        FindingKind::Damage => "damage",
        FindingKind::Newer => "newer",
        FindingKind::Torn => "torn",
        FindingKind::Rubbish => "rubbish",
    };
    let (path, reason) = (finding.damage.path.display(), &finding.damage.reason);
    let mut line = format!("{what}: {path} at byte {}: {reason}", finding.damage.offset);
    if let Some(view) = view {
        line.push_str(&format!("; rows of view {view}"));
    }
    if let Some((first, last)) = finding.sequences {
        let upto: &dyn Display = if last == Sequence::MAX { &"the end" } else { &last };
        line.push_str(&format!("; sequences {first} to {upto}"));
    }
    let then = match finding.kind {
        FindingKind::Damage => "",
        FindingKind::Newer => "; use a newer release",
        FindingKind::Torn => "; it was never acknowledged, the next start cuts it off",
        FindingKind::Rubbish => "; the next start removes it",
    };
    line.push_str(then);
    line
}

fn advice(report: &Report) -> Vec<String> {
    let damaged = report.findings.iter().filter(|named| named.finding.kind.is_fatal()).count();
    vec![
        format!("{} to what was acknowledged", terminal::counted(damaged, "damage", "damages")),
        "keep this directory as it is, check the disk, and set up another from the newest backup \
         that verifies: larder restore FROM --data DIR"
            .to_owned(),
    ]
}
