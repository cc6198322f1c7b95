//! What can be wrong with a configuration, and how it is told to the operator.
//!
//! It does not know which keys exist or what they mean.

use std::fmt;

/// Where a value was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// The shipped default.
    Default,
    /// A line of the configuration file.
    File {
        /// The path of the file.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// An argument of the command line, by name.
    Argument(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Argument(name) => f.write_str(name),
        }
    }
}

/// What is wrong at a place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// The file is not TOML there.
    #[error("{0}")]
    Syntax(String),
    /// There is no such key or section.
    #[error("unknown key {key}{}", nearest.as_ref().map_or(String::new(), |nearest| {
        format!("; the nearest is {nearest}")
    }))]
    Unknown {
        /// What was found, as written there.
        key: String,
        /// The most similar key, as it would be written there.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("{key} is {found}; expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value as written, shortened.
        found: String,
        /// Type, range and unit.
        expected: String,
    },
    /// Two values that do not go together.
    #[error("{key} is {found}, but {other} is {other_found}: {other} {rule}")]
    Contradiction {
        /// The one key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The other key.
        other: &'static str,
        /// Its value.
        other_found: String,
        /// What the other must be.
        rule: &'static str,
    },
}

/// One mistake: what is wrong and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

/// Every mistake of a configuration, at least one; displayed one to a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
