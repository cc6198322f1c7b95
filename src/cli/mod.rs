//! The commands of the binary: what each takes, what it prints, and the code it exits with.
//!
//! It does not know how anything is stored or decided; it asks a running server, or the engine.

mod failure;

mod terminal;

mod settings;

mod target;

mod past;

mod remote;

mod directory;

mod serve;

mod demo;

mod check;

mod apply;

mod load;

mod train;

mod get;

mod health;

mod inspect;

mod verify;

mod held;

mod backup;

mod restore;

mod export;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::failure::Failure;

/// What stands below every command's help.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong use.";

/// A feature server in one binary: the newest value of every feature in memory, every change in a
/// durable history on local disk.
///
/// Configuration comes from --config, else from ./config.toml if it is there; environment
/// variables such as LARDER__SERVER__LISTEN override the file, and arguments override both.
#[derive(Parser, Debug)]
#[command(name = "larder", version, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::Serve),
    Check(check::Check),
    Apply(apply::Apply),
    Load(load::Load),
    Train(train::Train),
    Get(get::Get),
    Health(health::Health),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Export(export::Export),
}

/// Runs the command and prints what it has to say. Mistakes of use exit with 2, failures with 1.
pub fn run(arguments: Arguments) -> ExitCode {
    let done = match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Apply(apply) => apply.run(),
        Command::Load(load) => load.run(),
        Command::Train(train) => train.run(),
        Command::Get(get) => get.run(),
        Command::Health(health) => health.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Verify(verify) => verify.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Export(export) => export.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

/// What a command comes to.
type Done = Result<(), Failure>;
