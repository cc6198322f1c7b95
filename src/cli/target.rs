//! Whom a command asks: a running server over HTTP, or a data directory that no server is using.
//!
//! It does not know what the commands are for.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Deserialize;

use crate::cli::directory::{self, Directory, IfMissing};
use crate::cli::failure::Failure;
use crate::cli::remote::Remote;
use crate::cli::settings;
use crate::cli::terminal::Progress;
use crate::config::{Config, Log, LogFormat};
use crate::engine::define::{DefineOptions, Defined};
use crate::engine::load::LoadOptions;
use crate::engine::training::{LabelOptions, Names};
use crate::registry::definitions::Definitions;
use crate::server::logging;
use crate::time::TimeUnit;

/// The arguments that say whom to ask.
#[derive(Args, Debug)]
pub(super) struct Whom {
    /// The running server to ask; the configuration's `server.listen` if left out
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    server: Option<String>,
    /// Work on this data directory itself, which no running server may be using
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file; ./config.toml if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whom to ask.
pub(super) enum Target {
    /// A running server.
    Server(Remote),
    /// The data directory itself.
    Directory(Directory),
}

/// Whom to ask, a directory not being opened.
pub(super) enum Place {
    /// A running server.
    Server(Remote),
    /// A data directory.
    Directory(PathBuf),
}

/// A load as asked for.
pub(super) struct LoadAsk {
    pub(super) project: Option<String>,
    pub(super) view: String,
    pub(super) file: PathBuf,
    pub(super) options: LoadOptions,
}

/// What a load did; the answer of the load endpoint.
#[derive(Deserialize, Debug)]
pub(super) struct LoadReport {
    /// Rows in the file.
    pub(super) rows: u64,
    /// Rows that it brought into history.
    pub(super) written: u64,
    /// Rows that history had from elsewhere.
    pub(super) skipped: u64,
    /// Rows of the file that an interrupted run had prepared.
    pub(super) resumed: u64,
    /// Of the written, those that are not online.
    pub(super) superseded: u64,
    /// NaNs read as null.
    pub(super) nan_as_null: u64,
    /// Columns that are no key, time or feature of the view.
    pub(super) ignored_columns: Vec<String>,
    /// The last sequence written.
    pub(super) sequence: u64,
    /// When an earlier run had completed the file, if one had.
    pub(super) loaded_before: Option<String>,
}

/// A training set as asked for.
pub(super) struct TrainAsk {
    pub(super) project: Option<String>,
    pub(super) labels: PathBuf,
    pub(super) features: Features,
    pub(super) options: LabelOptions,
    pub(super) names: Names,
    pub(super) known_at_label_time: bool,
    pub(super) allow_truncated: bool,
}

/// Which features.
pub(super) enum Features {
    Service(String),
    References(Vec<String>),
}

impl Whom {
    /// The configuration with its arguments.
    pub(super) fn configured(&self) -> Result<Config, Failure> {
        let arguments = settings::data_argument(self.data.as_deref());
        settings::read(self.config.as_deref(), arguments.into_iter().collect())
    }

    /// The data directory, where one is meant, or else the server: for what needs no engine.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        let config = self.configured()?;
        match &self.data {
            Some(_) => Ok(Place::Directory(config.storage.data_dir)),
            None => Ok(Place::Server(Remote::new(self.server.as_deref(), &config)?)),
        }
    }

    /// Reads the configuration and opens the directory, where one is meant; none if that is not
    /// there.
    pub(super) fn find_existing(&self) -> Result<Option<Target>, Failure> {
        if self.data.is_some() && !directory::is_there(&self.configured()?.storage.data_dir)? {
            return Ok(None);
        }
        self.find(IfMissing::Refuse).map(Some)
    }

    /// Reads the configuration and opens the directory, where one is meant.
    pub(super) fn find(&self, if_missing: IfMissing) -> Result<Target, Failure> {
        let config = self.configured()?;
        match &self.data {
            None => Ok(Target::Server(Remote::new(self.server.as_deref(), &config)?)),
            Some(_) => {
                // Only what is wrong, for people: the command says the rest.
                logging::start(&Log { format: LogFormat::Text, level: "warn".to_owned() });
                Ok(Target::Directory(Directory::open(&config, if_missing)?))
            }
        }
    }
}

impl Target {
    /// Makes the registry hold `definitions`, or says what that would change.
    pub(super) fn define(
        &self,
        definitions: &Definitions,
        options: DefineOptions,
    ) -> Result<Defined, Failure> {
        match self {
            Self::Server(remote) => remote.define(definitions, options),
            Self::Directory(directory) => directory.define(definitions, options),
        }
    }

    /// Loads a Parquet file.
    pub(super) fn load(&self, ask: &LoadAsk, progress: Progress) -> Result<LoadReport, Failure> {
        match self {
            Self::Server(remote) => remote.load(ask, progress),
            Self::Directory(directory) => directory.load(ask, progress),
        }
    }

    /// The answer to a GET of this path and query.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Server(remote) => remote.get(path),
            Self::Directory(directory) => directory.get(path),
        }
    }
}

/// Reads the unit of integer times.
pub(super) fn time_unit() -> impl TypedValueParser<Value = TimeUnit> {
    let units = PossibleValuesParser::new(["s", "ms", "us", "ns"]);
    units.try_map(|unit| TimeUnit::parse(&unit).ok_or("no unit of time"))
}

/// Percent-encodes text for one segment or one value of a URL.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_percent_encoded() {
        let check = |text: &str, expected: &str| assert_eq!(encode(text), expected);
        check("user_profile@2", "user_profile%402");
        check("a/b,c d%", "a%2Fb%2Cc%20d%25");
        check("é", "%C3%A9");
        check("2013-01-01T00:00:00Z", "2013-01-01T00%3A00%3A00Z");
    }
}
