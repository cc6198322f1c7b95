//! Works on a data directory itself, by opening the engine on it.
//!
//! It does not know what the commands do with the answers.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use tokio::runtime::{Builder, Runtime};
use ureq::http::Request;

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
use crate::http::door::Door;
use crate::http::router::{Listener, Routes};
use crate::metrics::Metrics;
use crate::registry::DEFAULT_PROJECT;
use crate::registry::definitions::Definitions;
use crate::server::{self, StartOptions};
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
        if if_missing == IfMissing::Refuse && !is_there(path)? {
            return Err(Failure::wrong_use(format_args!(
                "{} is no data directory",
                path.display()
            )));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Metrics::new(clock.now());
        let options = server::engine_options(config, StartOptions::default());
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

    /// The answer to a GET of this path and query: the one the server would give, from the same
    /// routes.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let metrics = self.engine.metrics().clone();
        let door = Door::new(self.engine.limits().clone(), metrics, Arc::new(SystemClock));
        door.open(self.engine.clone());
        let routes = Routes::new(&Arc::new(door), Listener::Api);
        let request = Request::get(path).body(Empty::<Bytes>::new()).map_err(Failure::wrong_use)?;
        self.runtime.block_on(async {
            let response = routes.answer(request).await;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(Failure::failed)?.to_bytes();
            if status.is_success() { Ok(body.into()) } else { Err(Failure::of_answer(&body)) }
        })
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
        let turn = self.engine.begin_load()?;
        let loaded = self.engine.load(turn, view.clone(), file, ask.options.clone(), progress);
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
        skipped: loaded.skipped,
        resumed: loaded.resumed,
        superseded: loaded.superseded,
        nan_as_null: loaded.nan_as_null,
        ignored_columns: loaded.ignored_columns,
        sequence: loaded.sequence.0,
        loaded_before: loaded.loaded_before.map(|time| time.to_string()),
    }
}

/// Whether there is a data directory.
pub(super) fn is_there(path: &Path) -> Result<bool, Failure> {
    match RealDisk.open_read(&path.join("MANIFEST")) {
        Err(error) if error.kind() == DiskErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::failed(error)),
        Ok(_) => Ok(true),
    }
}

fn refused(path: &Path, error: &OpenError) -> Failure {
    match error {
        OpenError::History(history::open::OpenError::Locked { .. }) => in_use(path),
        error => Failure::failed(error),
    }
}

/// The data directory is locked.
pub(super) fn in_use(path: &Path) -> Failure {
    Failure::Failed(vec![
        format!("the data directory {} is in use by a running server", path.display()),
        "leave --data out to ask that server over HTTP, or stop it first".to_owned(),
    ])
}
