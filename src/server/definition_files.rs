//! Reads definitions from the files an operator names: single ones, or a directory's `*.toml`.
//!
//! It does not know what is defined already.

use std::path::{Path, PathBuf};

use crate::disk::{self, Disk, DiskError};
use crate::registry::definitions::{DefinitionError, Definitions};

/// Why definitions cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A directory without definitions.
    #[error("{} holds no *.toml file", .0.display())]
    Empty(PathBuf),
    /// A file is no text.
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// What the files say is wrong.
    #[error("{} mistakes in the definitions", .0.len())]
    Mistakes(Vec<DefinitionError>),
}

/// Reads all of `paths` as one set of definitions, which may refer to each other; a directory
/// stands for the `*.toml` files in it, in the order of their names.
///
/// # Errors
/// The first file that cannot be read, else every mistake in what they say.
pub fn read(disk: &dyn Disk, paths: &[PathBuf]) -> Result<Definitions, ReadError> {
    let mut texts = Vec::new();
    for path in paths {
        for file in files(disk, path)? {
            let bytes = disk::read_whole(disk, &file)?;
            let Ok(text) = String::from_utf8(bytes) else { return Err(ReadError::NotText(file)) };
            texts.push((file.display().to_string(), text));
        }
    }
    let texts = texts.iter().map(|(file, text)| (file.as_str(), text.as_str()));
    Definitions::parse_toml_files(texts).map_err(ReadError::Mistakes)
}

fn files(disk: &dyn Disk, path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    // What cannot be listed is a file, or is refused as one when it is read.
    let Ok(entries) = disk.list(path) else { return Ok(vec![path.to_owned()]) };
    let definitions = entries.iter().filter(|entry| {
        !entry.directory && Path::new(&entry.name).extension().is_some_and(|end| end == "toml")
    });
    let files: Vec<PathBuf> = definitions.map(|entry| path.join(&entry.name)).collect();
    if files.is_empty() { Err(ReadError::Empty(path.to_owned())) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fake::FakeDisk;

    const USER: &str = "[entity.user]\njoin_keys = [\"user_id\"]\n";
    const VIEW: &str = "[view.a]\nentity = \"user\"\nfeatures = { x = \"int64\" }\n";

    #[test]
    fn a_directory_is_its_toml_files() {
        let disk = FakeDisk::new();
        let root = Path::new("/definitions");
        disk.create_dir_all(&root.join("deeper.toml")).unwrap();
        let check = |paths: &[&str], expected: Result<(usize, usize), &str>| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
            match (read(&disk, &paths), expected) {
                (Ok(read), Ok(expected)) => {
                    assert_eq!((read.entities.len(), read.views.len()), expected, "{paths:?}");
                }
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{paths:?}: {found:?}"),
            }
        };
        check(&[""], Err("holds no *.toml file"));
        for (name, text) in [("b.toml", USER), ("a.toml", VIEW), ("c.txt", "no TOML")] {
            disk::replace(&disk, &root.join(name), text.as_bytes()).unwrap();
        }
        check(&[""], Ok((1, 1)));
        check(&["a.toml", "b.toml"], Ok((1, 1)));
        check(&["a.toml"], Ok((0, 1)));
        check(&["a.toml", "a.toml"], Err("1 mistakes"));
        check(&["c.txt"], Err("mistakes"));
        check(&["missing.toml"], Err("missing.toml"));
        disk::replace(&disk, &root.join("d.toml"), b"\xff").unwrap();
        check(&[""], Err("d.toml is not UTF-8"));
    }
}
