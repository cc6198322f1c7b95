//! What is said on the terminal, and how far long work has come.
//!
//! It does not know what the work is.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Writes a line of the answer. A reader that has left wants no more, so that is no error.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line beside the answer.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A bar on a terminal, a line at the beginning elsewhere.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Nothing of `all` is done.
    pub(crate) fn new(what: String, all: u64) -> Self {
        if !io::stderr().is_terminal() {
            note(format!("{what}: {all} rows"));
            return Self(None);
        }
        let style = "{msg} [{wide_bar}] {human_pos}/{human_len} {percent}% {eta}";
        let style =
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(Some(ProgressBar::new(all).with_style(style).with_message(what)))
    }

    /// So much is done.
    pub(crate) fn at(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
