//! What a command writes and asks: lines, a question, how far long work has come.
//!
//! It does not know what the work is.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::time::Stopwatch;

/// Plain lines say every tenth.
const STEPS: u64 = 10;
/// What is done sooner says so only at its end.
const QUIET: Duration = Duration::from_secs(2);

/// Writes a line of the answer. A reader that has left wants no more, so that is no error.
pub(super) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line beside the answer: a warning, progress, what went wrong.
pub(super) fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A number with its noun: `1 view`, `2 views`.
pub(super) fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Asks for a yes; none if nobody can be asked.
pub(super) fn confirm(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let mut out = io::stderr();
    let _ = write!(out, "{question} [y/N] ");
    let _ = out.flush();
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// How far some work has come: a bar on a terminal, a line for every tenth elsewhere.
pub(super) struct Progress {
    what: String,
    unit: &'static str,
    bar: Option<ProgressBar>,
    steps_said: u64,
    since: Stopwatch,
}

impl Progress {
    /// Nothing done yet.
    pub(super) fn new(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = io::stderr().is_terminal().then(|| {
            let style = "{msg} [{wide_bar}] {human_pos}/{human_len} {percent}% {eta}";
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style).with_message(what.clone())
        });
        Self { what, unit: "", bar, steps_said: 0, since: Stopwatch::start() }
    }

    /// The same, saying what is counted, such as ` bytes`.
    pub(super) fn counting(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// `done` of `total` are done.
    pub(super) fn set(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        let steps = (done * STEPS).checked_div(total).unwrap_or(STEPS);
        let is_said = steps == STEPS || self.since.elapsed() >= QUIET;
        if steps > self.steps_said && is_said {
            self.steps_said = steps;
            let Self { what, unit, .. } = self;
            note(format_args!("{what}: {done} of {total}{unit} ({}%)", steps * 100 / STEPS));
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
