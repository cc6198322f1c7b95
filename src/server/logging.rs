//! Begins to log: to standard error, as text for people or as JSON for machines.
//!
//! It does not know what is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Sends what is logged from here on to standard error. The first call of a process counts.
pub fn start(log: &Log) {
    let terminal = std::io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = if json {
        builder.json().flatten_event(true).with_target(true).try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init()
    };
    if let Err(error) = begun {
        tracing::debug!(%error, "logs go where they went before");
    }
}
