//! Why a command did not get to its end, in words for the person who ran it.
//!
//! It does not know the commands.

use std::fmt;

/// What a command ends with.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// A sentence that says what went wrong, and where.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// Says `what` went wrong.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Adds the place to an error.
pub(crate) trait At<T> {
    /// Says where it happened: `place: error`.
    fn at(self, place: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> At<T> for Result<T, E> {
    fn at(self, place: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{place}: {error}")))
    }
}
