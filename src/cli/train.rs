//! `larder train`: a training set from a table of labels.
//!
//! It does not know how labels are read or features found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::cli::Done;
use crate::cli::failure::Failure;
use crate::cli::past::PastDirectory;
use crate::cli::target::{Features, Place, TrainAsk, Whom, time_unit};
use crate::cli::terminal::{self, Progress, counted};
use crate::disk::real::RealDisk;
use crate::disk::{self, Disk, DiskFile, Stream};
use crate::engine::label_columns::KeyColumns;
use crate::engine::training::summary::{Summary, summarize};
use crate::engine::training::{LabelOptions, Names};
use crate::time::TimeUnit;

const EXAMPLE: &str = "Examples:\n  larder train --labels labels.parquet --service credit_decision \
                       --out training.parquet\n  larder train --labels flights.parquet --out t.parquet \
                       --features weather:temp,plane:seats --timestamp scheduled\n  larder train \
                       --labels l.parquet --out t.parquet --service s --entity user=customer_id \
                       --entity route=from,to --data ./data\n\n\
                       Exit codes: 0 done, 1 failed, 2 wrong use.";

/// Makes a training set: the labels, and the features as they stood at each label's time
///
/// Every row of the labels is kept, in order and with all its columns. Feature columns are added
/// behind them, named view__feature, or by the service's own names. Nothing that happened after a
/// label's time is seen.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Train {
    /// The Parquet file of labels, with a column for each entity key and one for the time
    #[arg(long, value_name = "FILE.parquet")]
    labels: PathBuf,
    /// The features of this service
    #[arg(long, value_name = "SERVICE", required_unless_present = "features")]
    service: Option<String>,
    /// These features, such as user_profile:age,user_profile:country
    #[arg(long, value_name = "REFERENCES", value_delimiter = ',', conflicts_with = "service")]
    features: Vec<String>,
    /// Where the training set goes; a file of that name is replaced once it is complete
    #[arg(long, value_name = "FILE.parquet")]
    out: PathBuf,
    /// The column of the label's time [default: event_timestamp]
    #[arg(long, value_name = "COLUMN")]
    timestamp: Option<String>,
    /// The unit of times that are plain integers [default: us]
    #[arg(long, value_name = "UNIT", value_parser = time_unit())]
    time_unit: Option<TimeUnit>,
    /// The columns of an entity's key, where they are not named as its join keys; can be repeated
    #[arg(long, alias = "entity-map", value_name = "ENTITY=COLUMN[,COLUMN]", value_parser = columns)]
    entity: Vec<KeyColumns>,
    /// What the feature columns are called
    #[arg(long, value_name = "HOW", default_value = "view__feature")]
    names: NamesArgument,
    /// See only what had arrived by the label's time, too
    #[arg(long)]
    known_at_label_time: bool,
    /// Leave cells empty that are below a retention floor, instead of refusing all
    #[arg(long)]
    allow_truncated: bool,
    /// The project of the features [default: default]
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum NamesArgument {
    /// user_profile__age
    #[value(name = "view__feature")]
    ViewFeature,
    /// age
    Bare,
    /// As asked: user_profile:age
    Reference,
}

fn columns(text: &str) -> Result<KeyColumns, &'static str> {
    KeyColumns::parse(text).ok_or("expected entity=column, or entity=one,two for a composite key")
}

impl Train {
    pub(super) fn run(&self) -> Done {
        let features = match &self.service {
            Some(service) => Features::Service(service.clone()),
            None => Features::References(self.features.clone()),
        };
        let names = match self.names {
            NamesArgument::ViewFeature => Names::ViewFeature,
            NamesArgument::Bare => Names::Bare,
            NamesArgument::Reference => Names::Reference,
        };
        let (timestamp, time_unit) = (self.timestamp.clone(), self.time_unit);
        let ask = TrainAsk {
            project: self.project.clone(),
            labels: self.labels.clone(),
            features,
            options: LabelOptions { timestamp, time_unit, keys: self.entity.clone() },
            names,
            known_at_label_time: self.known_at_label_time,
            allow_truncated: self.allow_truncated,
        };
        let labels = RealDisk.open_read(&self.labels).map_err(Failure::wrong_use)?;
        let whom = self.whom.place()?;
        let progress = Progress::new(self.labels.display().to_string());
        let summary = match whom {
            Place::Server(remote) => {
                written(&self.out, &labels, |out| remote.train(&ask, out, progress))
            }
            Place::Directory(path) => {
                let limits = self.whom.configured()?.limits;
                let directory = PastDirectory::open(&path)?;
                let train = |out| directory.train((&ask, &limits), out, progress);
                written(&self.out, &labels, train)
            }
        };
        let summary = summary.map_err(|failure| {
            failure.about(format_args!("{} was not made:", self.out.display()))
        })?;
        words(&self.out, &summary).iter().for_each(terminal::say);
        Ok(())
    }
}

/// Has `make` write a file that gets its name when it is complete.
fn written(
    path: &Path,
    labels: &Arc<dyn DiskFile>,
    make: impl FnOnce(Stream) -> Result<(), Failure>,
) -> Result<Summary, Failure> {
    let temporary = disk::temporary_name(path);
    disk::remove_if_there(&RealDisk, &temporary).map_err(Failure::wrong_use)?;
    let file = RealDisk.create(&temporary).map_err(Failure::wrong_use)?;
    let made = make(Stream::new(file.clone(), 0)).and_then(|()| {
        let summary = summarize(labels, &file)?;
        file.sync_data().map_err(Failure::failed)?;
        RealDisk.rename(&temporary, path).map_err(Failure::failed)?;
        RealDisk.sync_dir(disk::parent(path)).map_err(Failure::failed)?;
        Ok(summary)
    });
    made.inspect_err(|_| {
        // What remains under the temporary name is replaced by the next try.
        let _ = disk::remove_if_there(&RealDisk, &temporary);
    })
}

/// What was made, a line for each thing worth knowing.
fn words(out: &Path, summary: &Summary) -> Vec<String> {
    let Summary { rows, features } = summary;
    let (labels, columns) = (
        counted(usize::try_from(*rows).unwrap_or(usize::MAX), "label", "labels"),
        counted(features.len(), "feature column", "feature columns"),
    );
    let mut lines = vec![format!("{}: {labels}, {columns}", out.display())];
    let empty = features.iter().filter(|(_, nulls)| *nulls > 0);
    lines.extend(empty.map(|(name, nulls)| format!("  {name}: {nulls} of {rows} without a value")));
    lines
}
