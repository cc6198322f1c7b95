//! `larder serve`: the server, in the foreground until it is told to stop.
//!
//! It does not know how the server is assembled.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::remote::from_this_host;
use crate::cli::{Done, demo, settings, terminal};
use crate::config::{Argument, Config};
use crate::engine::Engine;
use crate::server::{self, Bound, StartOptions, logging};

const EXAMPLE: &str = "Examples:\n  larder serve\n  larder serve --demo\n  \
                       larder serve --config production.toml --data /var/lib/larder\n\n\
                       Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong use or \
                       mistakes in the configuration.";
/// Where the demo keeps its data, in the data directory that a server without it would use.
const DEMO_DIRECTORY: &str = "demo";

/// Runs the server
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Serve {
    /// Configuration file; ./config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory, over `storage.data_dir`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the HTTP API, over `server.listen`; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Accept writes although the clock stands before the last write
    #[arg(long)]
    accept_clock: bool,
    /// Load three weeks of flights out of New York, and say what to ask; without --data they are
    /// kept in the subdirectory `demo` of `storage.data_dir`
    #[arg(long)]
    demo: bool,
}

impl Serve {
    pub(super) fn run(&self) -> Done {
        let config = self.config()?;
        logging::start(&config.log);
        let (demo, data) = (self.demo, config.storage.data_dir.clone());
        if demo {
            terminal::say(format_args!("the demo's data is in {}", data.display()));
        }
        let ready = move |bound: &Bound, engine: Arc<Engine>| {
            if demo {
                show_demo(bound, &engine);
            }
        };
        let options = StartOptions { accept_clock: self.accept_clock };
        server::run(config, options, |_| {}, ready).map_err(Failure::failed)
    }

    fn config(&self) -> Result<Config, Failure> {
        let listen = self.listen.clone().map(|value| Argument {
            name: "--listen",
            key: "server.listen",
            value,
        });
        let data = settings::data_argument(self.data.as_deref());
        let arguments = data.into_iter().chain(listen).collect();
        let mut config = settings::read(self.config.as_deref(), arguments)?;
        if self.demo && self.data.is_none() {
            config.storage.data_dir = config.storage.data_dir.join(DEMO_DIRECTORY);
        }
        Ok(config)
    }
}

fn show_demo(bound: &Bound, engine: &Arc<Engine>) {
    match demo::fill(engine) {
        Ok(()) => {
            let address = from_this_host(bound.listen);
            demo::invitation(address).iter().for_each(terminal::say);
        }
        // The server serves on: what was there before is still there.
        Err(problem) => tracing::error!(detail = problem.detail, "the demo could not be loaded"),
    }
}
