//! Loads a Parquet file into a view, past the log: read once, row by row into sealed files that
//! nobody sees, then made history in one step and brought online.
//!
//! It does not know where the file came from, nor shows progress; whoever asks passes that in.

mod convert;

mod known;

mod commit;

mod online;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use tokio::sync::OwnedSemaphorePermit;

use crate::disk::{DiskError, DiskErrorKind, DiskFile};
use crate::engine::error::{Place, Problem};
use crate::engine::load::convert::{Conversion, Refusals};
use crate::engine::parquet_file::{FromOffset, ParquetFile, batch_rows, reader_of};
use crate::engine::queue::{Job, Queue};
use crate::engine::shared::Shared;
use crate::history::bulk::{Identity, Part, Staging, Tally};
use crate::history::pace::Pace;
use crate::history::record::SourceKind;
use crate::history::seal::Sealer;
use crate::history::sealed::BuildError;
use crate::ids::Sequence;
use crate::limits;
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::time::{ArrivalTime, EventTime, TimeUnit};
use crate::value::columns::{ColumnReader, Nan, Wanted};
use crate::value::types::FeatureType;

pub(super) use commit::{Committed, LoadJob, commit};
pub(super) use online::{LoadedRows, apply};

/// The event time's column where none is named.
const TIME_COLUMN: &str = "event_timestamp";

/// The right to be the one load that runs.
pub struct LoadTurn {
    /// Given back when the turn is dropped.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// How a file is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadOptions {
    /// Where the event times come from.
    pub event_time: EventTimes,
    /// The column of arrival times; without one all rows arrive when the load is complete.
    pub arrival: Option<String>,
    /// Unit of integer time columns; microseconds if none is named.
    pub time_unit: Option<TimeUnit>,
    /// Refuse NaN in scalar columns instead of reading it as null.
    pub refuse_nan: bool,
}

/// Where the event times of a file's rows come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventTimes {
    /// This column; `event_timestamp` if none is named.
    Column(Option<String>),
    /// All rows happened at this instant.
    At(EventTime),
}

/// What a load did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Rows in the file.
    pub rows: u64,
    /// Rows that it brought into history.
    pub written: u64,
    /// Rows of the file that history had already: key, event time and values are the same.
    pub skipped: u64,
    /// Rows of the file that an interrupted run had prepared.
    pub resumed: u64,
    /// Of the written, those that are not online, since newer rows are there or came with them.
    pub superseded: u64,
    /// NaNs read as null.
    pub nan_as_null: u64,
    /// Columns that are no key, time or feature of the view.
    pub ignored_columns: Vec<String>,
    /// The last sequence written; of an earlier run if this one wrote nothing.
    pub sequence: Sequence,
    /// When an earlier run had completed the file, if one had.
    pub loaded_before: Option<ArrivalTime>,
}

/// One load under way.
pub(super) struct Loader {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) view: Arc<View>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) options: LoadOptions,
}

/// A file as it is read.
struct Source {
    batches: ParquetRecordBatchReader,
    reader: ColumnReader,
}

/// Gives the work up when the server stops.
struct UntilStopped<'a>(&'a Shared);

impl Pace for UntilStopped<'_> {
    fn worked(&mut self, _: u64) -> bool {
        !self.0.loads_stop()
    }
}

impl Loader {
    /// Blocking. `progress` hears the rows done so far and the rows in the file.
    pub(super) fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded, Problem> {
        let registry = self.shared.registry.load_full();
        if registry.view(self.view.id).is_none() {
            let detail = "the view was dropped before the load began";
            return Err(Problem::new(Code::UnknownView, detail));
        }
        let (rows, reader) = guarded(|| self.open(&registry))?;
        let name = |feature: usize| self.view.features[feature].name.clone();
        let features: Vec<String> = reader.features().map(name).collect();
        let identity = self.identity(&features)?;
        let mut loaded = Loaded {
            rows,
            written: 0,
            skipped: 0,
            resumed: 0,
            superseded: 0,
            nan_as_null: 0,
            ignored_columns: reader.unused().to_vec(),
            sequence: self.shared.visible(),
            loaded_before: None,
        };
        if let Some(before) = self.shared.position(SourceKind::Load, &identity) {
            self.bring_online(&identity)?;
            loaded.loaded_before = Some(before.arrival);
            loaded.sequence = commit::sequence_of(&before.position).unwrap_or(loaded.sequence);
            return Ok(loaded);
        }
        let mut pace = UntilStopped(&self.shared);
        let mut staging = self.sealer.stage(&identity, &mut pace).map_err(failed)?;
        loaded.resumed = staging.tally().consumed;
        let staged = guarded(|| self.stage(&registry, &mut staging, (rows, progress)));
        let committed = staged.and_then(|tally| {
            [loaded.skipped, loaded.nan_as_null] = tally.counts;
            self.commit(&identity, &staging)
        });
        if committed.as_ref().err().is_none_or(|problem| is_for_nothing(problem.code)) {
            // What cannot be removed the next load or start removes.
            let _ = staging.end();
        }
        let committed = committed?;
        loaded.written = committed.rows;
        loaded.sequence = committed.last;
        loaded.superseded = self.bring_online(&identity)?;
        self.shared.metrics.rows_superseded.add(loaded.superseded);
        Ok(loaded)
    }

    /// The hash of the file, where it goes and how it is read: the same load has the same.
    fn identity(&self, features: &[String]) -> Result<Identity, Problem> {
        let mut hasher = blake3::Hasher::new();
        let mapping = format!("{:?} {features:?}", self.options);
        hasher.update(&self.view.id.0.to_le_bytes());
        hasher.update(mapping.as_bytes());
        let mut reader = FromOffset::start(self.file.clone());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = reader.read(&mut buffer).map_err(|error| unreadable(&error))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Reads the rows that are not staged yet, and stages them; a bad one refuses the file.
    fn stage(
        &self,
        registry: &Registry,
        staging: &mut Staging<'_>,
        (total, progress): (u64, &mut dyn FnMut(u64, u64)),
    ) -> Result<Tally, Problem> {
        let mut tally = staging.tally();
        let Source { batches, reader } = self.source(registry, tally.consumed)?;
        let mut conversion = Conversion::new(self, registry, &reader);
        let mut refusals = Refusals::default();
        let mut part = Part::new(self.view.id);
        for batch in batches {
            if self.shared.loads_stop() {
                return Err(stopping());
            }
            let batch = batch.map_err(|error| unreadable(&error))?;
            let rows = reader.rows(&batch).map_err(|error| unreadable(&error))?;
            tally.counts[1] += rows.nans();
            for row in 0..rows.count() {
                if let Err(refused) = conversion.row(&rows, row, &mut part) {
                    refusals.add(refused, tally.consumed as usize + row)?;
                }
            }
            tally.consumed += rows.count() as u64;
            if refusals.any() {
                part.clear();
            } else if part.is_full() {
                self.add(&mut part, staging, &mut tally)?;
            }
            progress(tally.consumed, total);
        }
        refusals.end()?;
        self.add(&mut part, staging, &mut tally)?;
        Ok(tally)
    }

    fn add(
        &self,
        part: &mut Part,
        staging: &mut Staging<'_>,
        tally: &mut Tally,
    ) -> Result<(), Problem> {
        tally.counts[0] += known::leave_out(self, part)?;
        if part.is_empty() {
            // The bytes of those that were left out are still there.
            part.clear();
            return Ok(());
        }
        staging.add(part, *tally, &mut UntilStopped(&self.shared)).map_err(failed)
    }

    /// Has the writer make it history.
    fn commit(
        &self,
        identity: &Identity,
        staging: &Staging<'_>,
    ) -> Result<Arc<Committed>, Problem> {
        let job = LoadJob {
            view: self.view.clone(),
            identity: *identity,
            staged: staging.staged(),
            by_row: self.options.arrival.is_some(),
        };
        self.queue.ask(|reply| Job::Load(job, reply))
    }

    /// The number of its rows, and how its columns are read.
    fn open(&self, registry: &Registry) -> Result<(u64, ColumnReader), Problem> {
        let (builder, reader) = self.builder(registry)?;
        let rows = builder.metadata().file_metadata().num_rows();
        Ok((u64::try_from(rows).unwrap_or(0), reader))
    }

    /// The rows behind the first `skipped`.
    fn source(&self, registry: &Registry, skipped: u64) -> Result<Source, Problem> {
        let (builder, reader) = self.builder(registry)?;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let rows = batch_rows(builder.metadata());
        let batches = builder.with_batch_size(rows).with_offset(skipped).build();
        let batches = batches.map_err(|error| unreadable(&error))?;
        Ok(Source { batches, reader })
    }

    fn builder(
        &self,
        registry: &Registry,
    ) -> Result<(ParquetRecordBatchReaderBuilder<ParquetFile>, ColumnReader), Problem> {
        let file = ParquetFile::new(self.file.clone()).map_err(|error| unreadable(&error))?;
        let builder = reader_of(file).map_err(|error| unreadable(&error))?;
        let entity = registry.entity_of(&self.view);
        let wanted = Wanted {
            keys: entity.join_keys.iter().map(|key| (&*key.name, key.key_type)).collect(),
            time: time_column(&self.options),
            arrival: self.options.arrival.as_deref(),
            time_unit: self.options.time_unit,
            features: features(&self.view),
        };
        let nan = if self.options.refuse_nan { Nan::Refuse } else { Nan::Null };
        let reader = ColumnReader::new(builder.schema(), &wanted, nan).map_err(|errors| {
            let places = errors.into_iter().take(limits::PLACES_REPORTED).map(|error| Place {
                index: None,
                field: error.column,
                found: error.found,
                expected: error.expected,
            });
            Problem::new(Code::InvalidValue, "the file's columns do not fit the view")
                .with_places(places.collect())
        })?;
        Ok((builder, reader))
    }
}

/// A file that is no Parquet may break the reader; that is the file's mistake.
fn guarded<T>(read: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(unreadable(&"the reader gave up on it")))
}

fn time_column(options: &LoadOptions) -> Option<&str> {
    match &options.event_time {
        EventTimes::Column(name) => Some(name.as_deref().unwrap_or(TIME_COLUMN)),
        EventTimes::At(_) => None,
    }
}

/// The features of a view by name, in slot order.
fn features(view: &View) -> Vec<(&str, FeatureType)> {
    view.features.iter().map(|feature| (&*feature.name, feature.feature_type)).collect()
}

/// Whether the same load would fail again, or stand in the way where it lies: then nothing of it
/// is kept to go on with.
fn is_for_nothing(code: Code) -> bool {
    !matches!(code, Code::Draining | Code::ClockBehind | Code::WritesStopped | Code::Internal)
}

/// Why rows could not be staged.
fn failed(error: BuildError) -> Problem {
    let is_full = |error: &DiskError| error.kind() == DiskErrorKind::Full;
    match &error {
        BuildError::Interrupted => stopping(),
        BuildError::NoRoom { .. } => no_room(&error),
        BuildError::Disk(disk) if is_full(disk) => no_room(&error),
        _ => Problem::new(Code::Internal, format!("the load failed: {error}")),
    }
}

fn no_room(error: &BuildError) -> Problem {
    let detail = format!("{error}; nothing of the file was loaded, and what it took is free again");
    Problem::new(Code::DiskFull, detail)
}

fn stopping() -> Problem {
    let detail = "the server is shutting down; the same load goes on where this one stopped";
    Problem::new(Code::Draining, detail)
}

fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::MalformedRequest, format!("the file cannot be read as Parquet: {error}"))
}
