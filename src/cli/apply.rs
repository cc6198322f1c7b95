//! `larder apply`: definitions from files, compared with what stands, shown, and applied.
//!
//! It does not know how definitions are compared.

use std::path::PathBuf;

use clap::Args;

use crate::cli::directory::IfMissing;
use crate::cli::failure::Failure;
use crate::cli::target::Whom;
use crate::cli::{Done, terminal};
use crate::disk::real::RealDisk;
use crate::engine::define::{self, Data, DefineOptions, Defined};
use crate::registry::changes::Absent;
use crate::server::definition_files;

const EXAMPLE: &str = "Examples:\n  larder apply definitions.toml\n  \
                       larder apply definitions/ --dry-run --prune\n  \
                       larder apply definitions.toml --yes --data ./data\n\n\
                       Exit codes: 0 done or nothing to change, 1 failed, 2 wrong use or mistakes \
                       in the files, 3 a dry run found changes.";

/// Applies definitions of entities, views and services
///
/// Shows what would change and asks before it is changed. Nothing is dropped without --prune, and
/// no row without --drop-data.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Apply {
    /// A definition file, or a directory of *.toml files
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Apply without asking
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Drop what stands in the files' projects but not in the files
    #[arg(long)]
    prune: bool,
    /// Erase the rows of views that --prune drops, too
    #[arg(long, requires = "prune")]
    drop_data: bool,
    #[command(flatten)]
    whom: Whom,
}

impl Apply {
    pub(super) fn run(&self) -> Done {
        let definitions = definition_files::read(&RealDisk, std::slice::from_ref(&self.path))?;
        let target = self.whom.find_existing()?;
        let absent = if self.prune { Absent::Drop } else { Absent::Keep };
        let data = if self.drop_data { Data::Drop } else { Data::Keep };
        let options = DefineOptions { absent, data, ..DefineOptions::default() };
        let ask = DefineOptions { dry_run: true, ..options };
        let planned = match &target {
            Some(target) => target.define(&definitions, ask)?,
            None => define::preview(&definitions, ask)?,
        };
        show(&planned);
        if planned.changes.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            return Err(Failure::Changes);
        }
        if !self.yes {
            agree()?;
        }
        let target = match target {
            Some(target) => target,
            None => self.whom.find(IfMissing::Create)?,
        };
        // What was shown is what is applied, or nothing.
        let options = DefineOptions { if_match: Some(planned.sequence), ..options };
        let Defined { changes, sequence, erasures, .. } = target.define(&definitions, options)?;
        for erasure in erasures {
            terminal::say(format_args!("rows of dropped views go with erasure {erasure}"));
        }
        terminal::say(format_args!(
            "applied {}, sequence {sequence}",
            terminal::counted(changes.len(), "change", "changes")
        ));
        Ok(())
    }
}

fn show(planned: &Defined) {
    for warning in &planned.warnings {
        terminal::note(format_args!("warning: {warning}"));
    }
    for change in &planned.changes {
        terminal::say(format_args!("  {change}"));
    }
    match planned.changes.len() {
        0 => terminal::say("no changes"),
        count => terminal::say(terminal::counted(count, "change", "changes")),
    }
}

fn agree() -> Done {
    match terminal::confirm("Apply?") {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::failed("nothing was applied")),
        None => Err(Failure::wrong_use(
            "nothing was applied: there is no terminal to ask at; give --yes to apply, or \
             --dry-run only to see",
        )),
    }
}
