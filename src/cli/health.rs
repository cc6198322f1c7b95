//! `larder health`: asks a running server whether it is well, for exec probes.
//!
//! It does not know what well means; the server says.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::remote::Remote;
use crate::cli::{Done, settings, terminal};

const EXAMPLE: &str = "Example:\n  larder health --server http://127.0.0.1:6566\n\n\
                       Exit codes: 0 well, 1 not well or no answer within 5 seconds, 2 wrong use.";

/// Asks a running server whether it is well
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Health {
    /// The running server to ask; the configuration's `server.listen` if left out
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Configuration file; ./config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Health {
    pub(super) fn run(&self) -> Done {
        let config = settings::read(self.config.as_deref(), Vec::new())?;
        let (well, words) = Remote::new(self.server.as_deref(), &config)?.health()?;
        if well {
            terminal::say(words.trim_end());
            Ok(())
        } else {
            Err(Failure::failed(words.trim_end()))
        }
    }
}
