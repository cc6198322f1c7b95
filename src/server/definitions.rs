//! Applies the definition files of `registry.path` to the running server.
//!
//! It does not know what definitions say.

use std::path::PathBuf;

use crate::disk::real::RealDisk;
use crate::engine::Engine;
use crate::engine::define::{DefineOptions, OnError};
use crate::engine::error::Problem;
use crate::server::definition_files::{self, ReadError};

/// Applies what can be applied and says what could not; what stood before stands.
pub(super) async fn apply(engine: &Engine, path: PathBuf) -> Vec<String> {
    let shown = path.display().to_string();
    let read =
        tokio::task::spawn_blocking(move || definition_files::read(&RealDisk, &[path])).await;
    let definitions = match read {
        Ok(Ok(definitions)) => definitions,
        Ok(Err(ReadError::Mistakes(mistakes))) => {
            return logged(&shown, mistakes.iter().map(ToString::to_string).collect());
        }
        Ok(Err(error)) => return logged(&shown, vec![error.to_string()]),
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
