//! Applies the definition files of `registry.path` to the running server.
//!
//! It does not know what definitions say.

use std::path::{Path, PathBuf};

use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskError, DiskErrorKind, read_whole};
use crate::engine::Engine;
use crate::engine::define::{DefineOptions, OnError};
use crate::engine::error::Problem;
use crate::registry::definitions::Definitions;

/// Applies what can be applied and says what could not; what stood before stands.
pub(super) async fn apply(engine: &Engine, path: PathBuf) -> Vec<String> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read(&RealDisk, &path)).await;
    let definitions = match read {
        Ok(Ok(definitions)) => definitions,
        Ok(Err(notes)) => return logged(&shown, notes),
        Err(error) => return logged(&shown, vec![error.to_string()]),
    };
    let options = DefineOptions { on_error: OnError::ApplyTheRest, ..DefineOptions::default() };
    match engine.define(definitions, options).await {
        Ok(defined) => {
            for change in &defined.changes {
                tracing::info!(path = shown, change, "definition applied");
            }
            logged(&shown, defined.warnings)
        }
        Err(problem) => logged(&shown, said(&problem)),
    }
}

fn logged(path: &str, notes: Vec<String>) -> Vec<String> {
    for note in &notes {
        tracing::warn!(path, note, "definitions are not all applied");
    }
    notes
}

fn said(problem: &Problem) -> Vec<String> {
    if problem.places.is_empty() {
        return vec![problem.detail.clone()];
    }
    let places = problem.places.iter();
    places.map(|place| format!("{}: {}", place.field, place.expected)).collect()
}

/// Reads a definition file, or all `.toml` files of a directory by name.
fn read(disk: &dyn Disk, path: &Path) -> Result<Definitions, Vec<String>> {
    let failed = |error: DiskError| vec![error.to_string()];
    let files: Vec<PathBuf> = match disk.list(path) {
        Ok(entries) => {
            let paths = entries.into_iter().map(|entry| path.join(entry.name));
            paths.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
        }
        Err(error) if error.kind() == DiskErrorKind::NotFound => return Err(failed(error)),
        // It is a file, or will be refused when it is read as one.
        Err(_) => vec![path.to_owned()],
    };
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let bytes = read_whole(disk, &file).map_err(failed)?;
        let name = file.display().to_string();
        let text = String::from_utf8(bytes).map_err(|_| vec![format!("{name} is not UTF-8")])?;
        texts.push((name, text));
    }
    let texts = texts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    Definitions::parse_toml_files(texts)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_or_a_directory_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("a.toml", "[entity.user]\njoin_keys = [\"user_id\"]\n");
        write("b.toml", "[view.v]\nentity = \"user\"\nfeatures = { a = \"int32\" }\n");
        write("c.txt", "not toml");
        let both = read(&RealDisk, directory.path()).unwrap();
        assert_eq!((both.entities.len(), both.views.len()), (1, 1));
        let one = read(&RealDisk, &directory.path().join("a.toml")).unwrap();
        assert_eq!((one.entities.len(), one.views.len()), (1, 0));
        assert!(read(&RealDisk, &directory.path().join("gone")).is_err());
        write("d.toml", "[view.w]\nentitee = 1\n");
        assert!(read(&RealDisk, directory.path()).unwrap_err()[0].contains("d.toml"));
    }
}
