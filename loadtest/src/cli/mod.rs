//! The commands: what is done, with which targets, and how it is told.
//!
//! It does not know protocols or event loops.

pub(crate) mod arguments;
mod hosts;
mod measuring;

use std::process::ExitCode;

use crate::cli::arguments::{Arguments, Command};
use crate::cli::hosts::Hosts;
use crate::failure::Outcome;
use crate::host::static_server;
use crate::report::keep::{Files, keep};
use crate::report::terminal::{note, say};
use crate::report::{Report, table};
use crate::setup::setup;

/// Does what was asked. 0: done, and every figure can be believed; 1: not so.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    match done(arguments.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            note(format!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn done(command: Command) -> Outcome<bool> {
    match command {
        Command::Static { listen, answer_bytes } => {
            static_server::serve(listen, answer_bytes).map(|()| true)
        }
        Command::Setup { scenarios, target } => {
            let mut hosts = Hosts::new(target.server_cpu);
            for path in &scenarios {
                let (scenario, named) = hosts::scenario_and_target(path, &target)?;
                setup(&hosts.target(0, &named, &scenario)?, &scenario)?;
            }
            Ok(true)
        }
        Command::Run(run) => {
            let report = measuring::run(&run)?;
            told(report, &run.files)
        }
        Command::Ceiling(ceiling) => {
            let report = measuring::ceiling(&ceiling)?;
            told(report, &ceiling.files)
        }
    }
}

fn told(mut report: Report, files: &Files) -> Outcome<bool> {
    say(table::text(&report));
    for path in keep(&mut report, files)? {
        note(format!("written: {}", path.display()));
    }
    Ok(report.is_sound())
}
