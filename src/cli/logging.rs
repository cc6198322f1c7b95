//! Where log lines go and what they look like: JSON for machines, text for people, always on
//! standard error.
//!
//! It does not know what is logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Begins logging as the configuration says. Only the first call of a process counts.
pub(super) fn start(log: &Log) {
    let terminal = io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = fmt().with_env_filter(EnvFilter::new(&log.level)).with_writer(io::stderr);
    // It fails where another logger was set before, and that one then stays.
    let _ = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        lines.with_ansi(terminal).try_init()
    };
}

/// Begins logging for a command that works on a directory itself: only what is wrong, for people.
pub(super) fn start_for_command() {
    start(&Log { format: LogFormat::Text, level: "warn".to_owned() });
}
