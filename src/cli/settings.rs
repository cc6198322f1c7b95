//! Where a command's configuration comes from: file, environment, arguments.
//!
//! It does not know what the keys mean.

use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::config::{Argument, Config, SourceFile, Sources};
use crate::disk::real::RealDisk;
use crate::disk::{self, DiskErrorKind};

/// The configuration file where none is named.
const CONFIG_FILE: &str = "config.toml";

/// Reads the configuration: `file`, or `./config.toml` if that is there; over it the environment;
/// over both `arguments`.
///
/// # Errors
/// The file cannot be read, and every mistake in any of them; all wrong use.
pub(super) fn read(file: Option<&Path>, arguments: Vec<Argument>) -> Result<Config, Failure> {
    let file = match file {
        Some(path) => Some(text_of(path)?),
        None => match disk::read_whole(&RealDisk, Path::new(CONFIG_FILE)) {
            Err(error) if error.kind() == DiskErrorKind::NotFound => None,
            _ => Some(text_of(Path::new(CONFIG_FILE))?),
        },
    };
    let environment = std::env::vars_os().collect();
    Ok(Config::load(&Sources { file, environment, arguments })?)
}

/// The path of the file that [`read`] reads, if there is one.
pub(super) fn file_read(file: Option<&Path>) -> Option<PathBuf> {
    let there = || disk::read_whole(&RealDisk, Path::new(CONFIG_FILE)).is_ok();
    file.map(Path::to_owned).or_else(|| there().then(|| PathBuf::from(CONFIG_FILE)))
}

/// The argument `--data`, if it was given.
pub(super) fn data_argument(data: Option<&Path>) -> Option<Argument> {
    let value = data?.to_string_lossy().into_owned();
    Some(Argument { name: "--data", key: "storage.data_dir", value })
}

fn text_of(path: &Path) -> Result<SourceFile, Failure> {
    let bytes = disk::read_whole(&RealDisk, path).map_err(Failure::wrong_use)?;
    let path = path.display().to_string();
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::wrong_use(format_args!("{path} is not UTF-8 text")))?;
    Ok(SourceFile { path, text })
}
