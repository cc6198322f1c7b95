//! Makes training sets from a data directory that no server is using, which is only read.
//!
//! It does not know how the labels are read or features found.

use std::path::Path;
use std::sync::Mutex;

use crate::cli::directory::{in_use, is_there};
use crate::cli::failure::Failure;
use crate::cli::target::{Features, TrainAsk};
use crate::cli::terminal::Progress;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskLock, Stream};
use crate::engine::answer_columns::Include;
use crate::engine::error::Problem;
use crate::engine::past::Past;
use crate::engine::training::{Known, Training};
use crate::history::backup::{Unfit, pin_directory};
use crate::history::open::OpenError;
use crate::limits::Limits;
use crate::registry::DEFAULT_PROJECT;
use crate::registry::plan::{Ask, Plan, What};
use crate::registry::resolve::Purpose;

/// A data directory that stays as it is.
pub(super) struct PastDirectory {
    past: Past,
    _lock: DiskLock,
}

impl PastDirectory {
    /// Reads what is needed of a data directory: its history and its definitions.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if !is_there(path)? {
            let path = path.display();
            return Err(Failure::wrong_use(format_args!("{path} is no data directory")));
        }
        let (pinned, lock) = pin_directory(&RealDisk, path).map_err(|error| match error {
            Unfit::Open(OpenError::Locked { .. }) => in_use(path),
            error => Failure::failed(error),
        })?;
        let past = Past::of(&pinned).map_err(Failure::failed)?;
        Ok(Self { past, _lock: lock })
    }

    /// Makes a training set, and writes it to `out`.
    pub(super) fn train(
        &self,
        (ask, limits): (&TrainAsk, &Limits),
        out: Stream,
        progress: Progress,
    ) -> Result<(), Failure> {
        let registry = self.past.registry();
        let project = ask.project.as_deref().unwrap_or(DEFAULT_PROJECT);
        let project = registry.project_named(project).map_err(Problem::from)?;
        let what = match &ask.features {
            Features::Service(service) => What::Service(service),
            Features::References(references) => {
                What::Features(references.iter().map(String::as_str).collect())
            }
        };
        let asked = Ask { entity_type: None, what, purpose: Purpose::AsOf };
        let training = Training {
            plan: Plan::compile(registry, project, &asked).map_err(Problem::from)?.into(),
            of_service: matches!(ask.features, Features::Service(_)),
            labels: ask.options.clone(),
            names: ask.names,
            include: Include::default(),
            known: if ask.known_at_label_time { Known::AtLabelTime } else { Known::Now },
            allow_truncated: ask.allow_truncated,
        };
        let file = RealDisk.open_read(&ask.labels).map_err(Failure::wrong_use)?;
        let progress = Mutex::new(progress);
        let report = |done: u64, of: u64| {
            if let Ok(mut progress) = progress.lock() {
                progress.set(done, of);
            }
        };
        Ok(self.past.train((&training, limits), file, out, &report)?)
    }
}
