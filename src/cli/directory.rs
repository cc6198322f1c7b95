//! Works on a data directory itself, by opening the engine on it.
//!
//! It does not know what the commands do with the answers.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::cli::failure::Failure;
use crate::cli::target::{LoadAsk, LoadReport};
use crate::cli::terminal::Progress;
use crate::config::Config;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskErrorKind};
use crate::engine::Engine;
use crate::engine::define::{DefineOptions, Defined};
use crate::engine::error::Problem;
use crate::engine::load::Loaded;
use crate::engine::open::{self, OpenError};
use crate::history;
use crate::metrics::Metrics;
use crate::registry::DEFAULT_PROJECT;
use crate::registry::definitions::Definitions;
use crate::time::{Clock, SystemClock};

/// What becomes of a data directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IfMissing {
    /// It is created.
    Create,
    /// It is a mistake.
    Refuse,
}

/// An open data directory.
pub(super) struct Directory {
    engine: Arc<Engine>,
    runtime: Runtime,
}

impl Directory {
    /// Opens the configuration's data directory.
    pub(super) fn open(config: &Config, if_missing: IfMissing) -> Result<Self, Failure> {
        let path = &config.storage.data_dir;
        if if_missing == IfMissing::Refuse {
            refuse_missing(path)?;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Metrics::new(clock.now());
        let options = engine_options(config);
        let engine = open::open(options, Arc::new(RealDisk), clock, metrics)
            .map_err(|error| refused(path, &error))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::failed)?;
        Ok(Self { engine, runtime })
    }

    /// See [`crate::cli::target::Target::define`].
    pub(super) fn define(
        &self,
        definitions: &Definitions,
        options: DefineOptions,
    ) -> Result<Defined, Failure> {
        let defined = self.engine.define(definitions.clone(), options);
        Ok(self.runtime.block_on(defined)?)
    }

    /// See [`crate::cli::target::Target::load`].
    pub(super) fn load(
        &self,
        ask: &LoadAsk,
        mut progress: Progress,
    ) -> Result<LoadReport, Failure> {
        let registry = self.engine.registry();
        let project = ask.project.as_deref().unwrap_or(DEFAULT_PROJECT);
        let project = registry.project_named(project).map_err(Problem::from)?;
        let view = registry.view_named(project, &ask.view).map_err(Problem::from)?;
        let file = RealDisk.open_read(&ask.file).map_err(Failure::wrong_use)?;
        let progress = move |done, total| progress.set(done, total);
        let loaded = self.engine.load(view.clone(), file, ask.options.clone(), progress);
        Ok(report(self.runtime.block_on(loaded)?))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.engine.close();
    }
}

fn report(loaded: Loaded) -> LoadReport {
    LoadReport {
        rows: loaded.rows,
        written: loaded.written,
        resumed: loaded.resumed,
        superseded: loaded.superseded,
        nan_as_null: loaded.nan_as_null,
        ignored_columns: loaded.ignored_columns,
        sequence: loaded.sequence.0,
        loaded_before: loaded.loaded_before.map(|time| time.to_string()),
    }
}

fn refuse_missing(path: &Path) -> Result<(), Failure> {
    match RealDisk.open_read(&path.join("MANIFEST")) {
        Err(error) if error.kind() == DiskErrorKind::NotFound => {
            Err(Failure::wrong_use(format_args!("{} is no data directory", path.display())))
        }
        Err(error) => Err(Failure::failed(error)),
        Ok(_) => Ok(()),
    }
}

fn refused(path: &Path, error: &OpenError) -> Failure {
    match error {
        OpenError::History(history::open::OpenError::Locked { .. }) => Failure::Failed(vec![
            format!("the data directory {} is in use by a running server", path.display()),
            "leave --data out to ask that server over HTTP, or stop it first".to_owned(),
        ]),
        error => Failure::failed(error),
    }
}

/// How the engine is opened as the configuration says.
fn engine_options(config: &Config) -> open::Options {
    let storage = &config.storage;
    open::Options {
        data_dir: storage.data_dir.clone(),
        durability: match storage.durability {
            crate::config::Durability::Sync => crate::engine::writes::Durability::Sync,
            crate::config::Durability::Interval => crate::engine::writes::Durability::Interval,
            crate::config::Durability::Os => crate::engine::writes::Durability::Os,
        },
        sync_interval: storage.sync_interval,
        segment_bytes: storage.segment_size,
        checkpoint_interval: storage.checkpoint_interval,
        accept_clock: false,
        limits: config.limits.clone(),
    }
}
