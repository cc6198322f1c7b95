//! `larder check`: every mistake in the configuration and in definition files, without a server.
//!
//! It does not know what a server has defined already.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::{Done, settings, terminal};
use crate::disk::real::RealDisk;
use crate::registry::Registry;
use crate::registry::changes::{self, Absent};
use crate::registry::definitions::Definitions;
use crate::server::definition_files;

const EXAMPLE: &str = "Example:\n  larder check --config production.toml definitions/\n\n\
                       Exit codes: 0 no mistakes, 2 mistakes; each is named with its place.";

/// Checks the configuration and definition files
///
/// The definitions of all PATHs are taken as one set: a name must be defined in one of them.
/// Environment variables LARDER__... are checked as a server started here would read them.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Check {
    /// Definition files, or directories of *.toml files; `registry.path` if none is given
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Configuration file; ./config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(&self) -> Done {
        let config = settings::read(self.config.as_deref(), Vec::new());
        let of_config = config.as_ref().ok().and_then(|config| config.registry.path.clone());
        let paths = match self.paths.as_slice() {
            [] => of_config.into_iter().collect(),
            given => given.to_vec(),
        };
        let definitions = check_definitions(&paths);
        match (config, definitions) {
            (Ok(_), Ok(summary)) => {
                match settings::file_read(self.config.as_deref()) {
                    Some(file) => terminal::say(format_args!("{}: no mistakes", file.display())),
                    None => terminal::say("configuration: no mistakes (no file, all defaults)"),
                }
                summary.iter().for_each(terminal::say);
                Ok(())
            }
            (config, definitions) => {
                Err(together(config.err().into_iter().chain(definitions.err())))
            }
        }
    }
}

/// What the definitions hold, in words; nothing if there are none.
fn check_definitions(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let definitions = definition_files::read(&RealDisk, paths)?;
    let planned = changes::diff(&Registry::new(), &definitions, Absent::Keep);
    let (_, warnings) = planned.accept()?;
    let warnings = warnings.into_iter().map(|warning| format!("warning: {warning}"));
    Ok(warnings.chain([summary(&definitions)]).collect())
}

fn summary(definitions: &Definitions) -> String {
    let Definitions { entities, views, services, .. } = definitions;
    format!(
        "definitions: no mistakes ({}, {}, {})",
        terminal::counted(entities.len(), "entity", "entities"),
        terminal::counted(views.len(), "view", "views"),
        terminal::counted(services.len(), "service", "services")
    )
}

fn together(failures: impl Iterator<Item = Failure>) -> Failure {
    let lines = failures.flat_map(|failure| match failure {
        Failure::WrongUse(lines) | Failure::Failed(lines) => lines,
        Failure::Changes => Vec::new(),
    });
    Failure::WrongUse(lines.collect())
}
