//! Training sets: the rows of a table of labels, in order and with all their columns, and beside
//! them the features as they stood at each label's time.
//!
//! It does not know where the labels come from nor where the training set goes; files and streams
//! are passed in.

mod features;

mod gathered;

mod labels;

mod order;

mod output;

mod progress;

mod seen;

pub mod summary;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;

use tokio::sync::OwnedSemaphorePermit;

use crate::disk::DiskFile;
use crate::engine::answer_columns::{self, Include};
use crate::engine::error::{Place, Problem};
use crate::engine::label_columns::KeyColumns;
use crate::engine::training::features::{Gather, Gathered};
use crate::engine::training::labels::LabelFile;
use crate::engine::training::output::Output;
use crate::engine::training::progress::Work;
use crate::history::as_of::AsOf;
use crate::limits::Limits;
use crate::metrics::Code;
use crate::priority::Manner;
use crate::recency::Status;
use crate::registry::Registry;
use crate::registry::plan::{Column, Plan};
use crate::time::{ArrivalTime, EventTime, TimeUnit};
use crate::value::types::FeatureType;

/// Labels whose features are gathered in one pass over history.
const CHUNK_LABELS: usize = 1 << 20;
/// Bytes of features of one pass, about.
const CHUNK_BYTES: usize = 64 << 20;

/// How training sets are made beside requests, so many at once: lookups come first.
pub(super) fn manner(at_once: usize) -> Manner {
    Manner::giving_way(at_once * features::threads())
}

/// The right to make one of the training sets that are made at a time.
pub struct TrainingTurn {
    /// Given back when the turn is dropped.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A training set as asked for.
pub struct Training {
    /// The features.
    pub plan: Arc<Plan>,
    /// The features are those of a service, which may have named them.
    pub of_service: bool,
    /// How the labels are read.
    pub labels: LabelOptions,
    /// What the feature columns are called.
    pub names: Names,
    /// What stands beside each feature.
    pub include: Include,
    /// What of history is seen.
    pub known: Known,
    /// Where retention may have taken what is asked, say so of the cell rather than refuse all.
    pub allow_truncated: bool,
}

impl Training {
    /// Nothing that arrived later is seen of any label. What bounds each label apart is not here.
    pub(super) fn known_at(&self) -> Option<ArrivalTime> {
        match self.known {
            Known::At(known_at) => Some(known_at),
            Known::Now | Known::AtLabelTime => None,
        }
    }
}

/// How a table of labels is read.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct LabelOptions {
    /// The column of the label's time; `event_timestamp` if none is named.
    pub timestamp: Option<String>,
    /// The unit of that column where it holds integers; microseconds if none is named.
    pub time_unit: Option<TimeUnit>,
    /// Columns of entity keys that are not named as the keys are.
    pub keys: Vec<KeyColumns>,
}

/// What feature columns are called. The `as` name of a service comes before all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Names {
    /// `view__feature`.
    #[default]
    ViewFeature,
    /// `feature`.
    Bare,
    /// As asked, which mostly is `view:feature`.
    Reference,
}

impl Names {
    /// All, as they are written.
    pub const ALL: [(&'static str, Self); 3] = [
        ("view__feature", Self::ViewFeature),
        ("bare", Self::Bare),
        ("reference", Self::Reference),
    ];
}

/// What of history a training set sees, besides that nothing happened after the label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Whatever has arrived by now.
    Now,
    /// What had arrived by then.
    At(ArrivalTime),
    /// What had arrived by each label's own time.
    AtLabelTime,
}

/// Makes one training set.
pub(super) struct Trainer<'a, H> {
    /// Says what there is, and the definitions its rows fit; it may have to be read first.
    pub(super) history: H,
    pub(super) limits: &'a Limits,
    pub(super) training: &'a Training,
    pub(super) manner: &'a Manner,
    pub(super) file: Arc<dyn DiskFile>,
    /// Hears the labels done so far and the labels there are.
    pub(super) progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl<H: FnOnce() -> Result<(AsOf, Arc<Registry>), Problem> + Send> Trainer<'_, H> {
    /// Blocking. Nothing is written to `out` before all labels are known to be sound.
    pub(super) fn run(self, out: impl Write + Send) -> Result<(), Problem> {
        // A file that is no Parquet may break the reader; that is the file's mistake.
        let made = catch_unwind(AssertUnwindSafe(|| self.make(out)));
        made.unwrap_or_else(|_| Err(unreadable(&"the reader gave up on it")))
    }

    fn make(self, out: impl Write + Send) -> Result<(), Problem> {
        let Training { plan, labels: options, include, .. } = self.training;
        let columns = &plan.columns;
        let names = names(self.training);
        let manner = self.manner;
        let labels = LabelFile::open(&self.file, plan, options, self.limits)?;
        check_names(&names, &labels, *include)?;
        let mut chunks = labels.chunks()?;
        let (history, chunk) = thread::scope(|scope| {
            // Others may wait for what is read of the log here, so this gives way to nobody.
            let history = scope.spawn(self.history);
            let chunk = manner.run(|| chunks.next_chunk(CHUNK_LABELS));
            (history.join().unwrap_or_else(|panic| resume_unwind(panic)), chunk)
        });
        let mut chunk = chunk?;
        let work = Work::new(labels.rows(), plan.sources.len(), self.progress);
        let (history, registry) = history?;
        let gather = Gather::new(history, registry, self.training, (&work, manner));
        // What is wrong further on is to be said before anything is written.
        manner.run(|| match labels.rows() > chunk.times.len() as u64 {
            true => labels.check(|chunk| gather.check_floors(chunk)),
            false => gather.check_floors(&chunk),
        })?;
        let fields: Vec<_> = (names.iter().zip(columns))
            .flat_map(|(name, column)| {
                answer_columns::fields(name, column.place.feature_type, *include)
            })
            .collect();
        let mut output = Output::begin(&labels, fields, out)?;
        let (mut most, mut done) = (labels_of(fixed_bytes(columns, *include)), 0);
        while !chunk.times.is_empty() {
            let rest = chunk.times.len() - done;
            let some = done..done + rest.div_ceil(rest.div_ceil(most));
            match gather.features(&chunk.labels(some.clone()))? {
                Gathered::TooLarge(fewer) => most = fewer,
                Gathered::Features(features) => {
                    most = labels_of(features.bytes() / some.len());
                    done = some.end;
                    let is_done = done == chunk.times.len();
                    if is_done {
                        // Not both at once: each is large.
                        manner.run(|| chunk.clear());
                    }
                    output.write(&features, some.len(), manner)?;
                    manner.run(|| drop(features));
                    if is_done {
                        chunk = manner.run(|| chunks.next_chunk(CHUNK_LABELS))?;
                        done = 0;
                    }
                }
            }
        }
        // A file without an end is not taken for a whole one.
        gather.check_views()?;
        output.finish()
    }
}

/// What a value of any length takes besides itself.
const OFFSET_BYTES: usize = size_of::<i32>();

/// What the features of one label take at least.
fn fixed_bytes(columns: &[Column], include: Include) -> usize {
    let width = |column: &Column| match column.place.feature_type {
        FeatureType::Scalar(scalar) => scalar.fixed_width().unwrap_or(OFFSET_BYTES),
        FeatureType::Array { element, length } => length.map_or(OFFSET_BYTES, |length| {
            length as usize * element.fixed_width().unwrap_or(OFFSET_BYTES)
        }),
    };
    let beside = [
        (include.statuses, OFFSET_BYTES + Status::Present.as_str().len()),
        (include.event_timestamps, size_of::<EventTime>()),
        (include.defaulted, 1),
    ];
    let beside: usize = beside.iter().map(|(wanted, bytes)| usize::from(*wanted) * bytes).sum();
    columns.iter().map(|column| width(column) + beside).sum()
}

/// How many labels are taken at once, if the features of one take so many bytes.
fn labels_of(bytes_each: usize) -> usize {
    (CHUNK_BYTES / bytes_each.max(1)).max(1)
}

/// What the feature columns are called.
fn names(training: &Training) -> Vec<String> {
    let Plan { sources, columns, .. } = &*training.plan;
    let name = |column: &Column| {
        // A service's own name has no colon, a reference of a service always has one.
        if training.of_service && !column.name.contains(':') {
            return column.name.to_string();
        }
        let view = &sources[column.source].view;
        let feature = view.feature(column.slot).map_or("", |feature| &feature.name);
        match training.names {
            Names::ViewFeature => format!("{}__{feature}", view.declared_name()),
            Names::Bare => feature.to_owned(),
            Names::Reference => column.name.to_string(),
        }
    };
    columns.iter().map(name).collect()
}

/// Refuses two columns of one name.
fn check_names(names: &[String], labels: &LabelFile<'_>, include: Include) -> Result<(), Problem> {
    let number = FeatureType::Scalar(crate::value::types::ScalarType::Bool);
    let mut seen = std::collections::HashSet::new();
    for name in names {
        for field in answer_columns::fields(name, number, include) {
            let name = field.name();
            if labels.schema().fields().iter().any(|label| label.name() == name) {
                let detail = format!(
                    "the feature column \"{name}\" would collide with the label column of that \
                     name; name the features otherwise (names) or rename the label column"
                );
                return Err(Problem::new(Code::InvalidValue, detail));
            }
            if !seen.insert(name.clone()) {
                let detail = format!(
                    "two feature columns would be called \"{name}\"; name the features otherwise \
                     (names)"
                );
                return Err(Problem::new(Code::InvalidValue, detail));
            }
        }
    }
    Ok(())
}

fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    let detail = format!("the labels cannot be read as Parquet: {error}");
    Problem::new(Code::MalformedRequest, detail)
}

/// A label that cannot be used.
fn bad_label(place: Place) -> Problem {
    let Place { index, field, found, expected } = &place;
    let row = index.map(|index| format!(" in row {index}")).unwrap_or_default();
    let detail = format!("label column \"{field}\"{row}: found {found}, expected {expected}");
    Problem::new(Code::InvalidValue, detail).with_places(vec![place])
}
