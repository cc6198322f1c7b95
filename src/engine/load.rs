//! Loads a Parquet file into a view: checked as a whole first, then written a batch at a time,
//! resumed where an earlier run of the same file stopped.
//!
//! It does not know where the file came from, nor shows progress; whoever asks passes that in.

use std::collections::VecDeque;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::disk::DiskFile;
use crate::engine::error::{Place, Problem};
use crate::engine::parquet_file::{FromOffset, ParquetFile, reader_of};
use crate::engine::queue::{Queue, WriteJob, stopped};
use crate::engine::shared::Shared;
use crate::engine::writes::{Accepted, WriteBatch};
use crate::history::record::{Source, SourceKind};
use crate::ids::Sequence;
use crate::limits;
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::time::{ArrivalTime, EventTime, TimeUnit};
use crate::value::cell::ArrayBuilder;
use crate::value::columns::{ColumnReader, Nan, Wanted};
use crate::value::json::ValueError;
use crate::value::types::{FeatureType, ScalarType};

/// Rows of one frame at most.
const FRAME_ROWS: usize = 65_536;
/// Bytes after which a frame is closed.
const FRAME_BYTES: usize = 4 << 20;
/// Frames under way: the next is read while the writer syncs.
const IN_FLIGHT: usize = 3;
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
    /// Unit of an integer time column; microseconds if none is named.
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
    /// Rows written by this run.
    pub written: u64,
    /// Rows that an earlier run had written.
    pub resumed: u64,
    /// Of the written, those that changed nothing online.
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

/// The rows of a file that one frame holds; the position of the load in history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LoadPart {
    /// Rows of the file before it.
    pub(super) from: u64,
    /// Rows of the file up to its end.
    pub(super) to: u64,
}

impl LoadPart {
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.from.to_le_bytes());
        bytes[8..].copy_from_slice(&self.to.to_le_bytes());
        bytes
    }

    /// Reads what stands in history; none if that is no part.
    pub(super) fn decode(position: &[u8]) -> Option<Self> {
        let (from, to) = position.split_first_chunk::<8>()?;
        let to: &[u8; 8] = to.try_into().ok()?;
        Some(Self { from: u64::from_le_bytes(*from), to: u64::from_le_bytes(*to) })
    }
}

/// One load under way.
pub(super) struct Loader {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) view: Arc<View>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) options: LoadOptions,
}

/// What the check of the file found.
struct Checked {
    rows: u64,
    /// The features that have a column.
    features: Vec<String>,
    nans: u64,
    ignored: Vec<String>,
}

impl Loader {
    /// Blocking. `progress` hears the rows done so far and the rows in the file.
    pub(super) fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded, Problem> {
        let registry = self.shared.registry.load_full();
        if registry.view(self.view.id).is_none() {
            let detail = "the view was dropped before the load began";
            return Err(Problem::new(Code::UnknownView, detail));
        }
        // A file that is no Parquet may break the reader; that is the file's mistake.
        let checked = catch_unwind(AssertUnwindSafe(|| self.check(&registry)));
        let checked = checked.unwrap_or_else(|_| Err(unreadable(&"the reader gave up on it")))?;
        let identity = self.identity(&checked.features)?;
        let before = self.shared.position(SourceKind::Load, &identity);
        let done = self.shared.loaded_rows(&identity);
        let mut loaded = Loaded {
            rows: checked.rows,
            written: 0,
            resumed: done.min(checked.rows),
            superseded: 0,
            nan_as_null: checked.nans,
            ignored_columns: checked.ignored,
            sequence: self.shared.visible(),
            loaded_before: None,
        };
        if let Some(before) = before.filter(|_| done >= checked.rows) {
            loaded.loaded_before = Some(before.arrival);
            return Ok(loaded);
        }
        self.write(&registry, &identity, &mut loaded, progress)?;
        Ok(loaded)
    }

    /// The hash of the file, where it goes and how it is read: the same load has the same.
    fn identity(&self, features: &[String]) -> Result<[u8; 32], Problem> {
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

    /// Reads every row once, so that a bad one refuses the file before anything is written.
    fn check(&self, registry: &Registry) -> Result<Checked, Problem> {
        let latest = self.shared.now().plus(self.shared.limits.max_future);
        let (batches, reader) = self.open(registry)?;
        let mut conversion = Conversion::new(self, registry, &reader);
        let mut places = Vec::new();
        let name = |feature: usize| self.view.features[feature].name.clone();
        let features = reader.features().map(name).collect();
        let ignored = reader.unused().to_vec();
        let mut checked = Checked { rows: 0, features, nans: 0, ignored };
        let mut code = Code::EventTimeInFuture;
        let mut nothing = WriteBatch::new(registry, &self.shared.limits);
        for batch in batches {
            let batch = batch.map_err(|error| unreadable(&error))?;
            let rows = reader.rows(&batch).map_err(|error| unreadable(&error))?;
            checked.nans += rows.nans();
            for row in 0..rows.count() {
                let index = checked.rows as usize;
                match conversion.row(&rows, row, &mut nothing) {
                    Ok(Some(time)) if time > latest => {
                        places.push(future(&conversion.time, index, time, latest));
                    }
                    Ok(_) => {}
                    Err(refused) => {
                        code = Code::InvalidValue;
                        places.push(refused.at(index)?);
                    }
                }
                if places.len() >= limits::PLACES_REPORTED {
                    return Err(refuse(code, places));
                }
                if nothing.bytes() >= FRAME_BYTES {
                    nothing = WriteBatch::new(registry, &self.shared.limits);
                }
                checked.rows += 1;
            }
        }
        if places.is_empty() { Ok(checked) } else { Err(refuse(code, places)) }
    }

    fn write(
        &self,
        registry: &Registry,
        identity: &[u8; 32],
        loaded: &mut Loaded,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Problem> {
        let (batches, reader) = self.open(registry)?;
        let mut conversion = Conversion::new(self, registry, &reader);
        let mut flight: VecDeque<oneshot::Receiver<Result<Accepted, Problem>>> = VecDeque::new();
        let mut frame = WriteBatch::new(registry, &self.shared.limits);
        let mut row_in_file: u64 = 0;
        let mut sent = loaded.resumed;
        for batch in batches {
            let batch = batch.map_err(|error| unreadable(&error))?;
            let rows = reader.rows(&batch).map_err(|error| unreadable(&error))?;
            for row in 0..rows.count() {
                row_in_file += 1;
                if row_in_file <= loaded.resumed {
                    continue;
                }
                conversion
                    .row(&rows, row, &mut frame)
                    .map_err(|refused| refused.problem(row_in_file))?;
                if frame.rows() >= FRAME_ROWS || frame.bytes() >= FRAME_BYTES {
                    let full = std::mem::replace(
                        &mut frame,
                        WriteBatch::new(registry, &self.shared.limits),
                    );
                    let part = LoadPart { from: sent, to: row_in_file };
                    flight.push_back(self.send(full, identity, part)?);
                    sent = row_in_file;
                    if flight.len() >= IN_FLIGHT {
                        settle(&mut flight, loaded)?;
                        progress(loaded.resumed + loaded.written, loaded.rows);
                    }
                }
            }
        }
        if frame.rows() > 0 {
            let part = LoadPart { from: sent, to: row_in_file };
            flight.push_back(self.send(frame, identity, part)?);
        }
        while !flight.is_empty() {
            settle(&mut flight, loaded)?;
            progress(loaded.resumed + loaded.written, loaded.rows);
        }
        Ok(())
    }

    fn open(
        &self,
        registry: &Registry,
    ) -> Result<(ParquetRecordBatchReader, ColumnReader), Problem> {
        let file = ParquetFile::new(self.file.clone()).map_err(|error| unreadable(&error))?;
        let builder = reader_of(file).map_err(|error| unreadable(&error))?;
        let entity = registry.entity_of(&self.view);
        let wanted = Wanted {
            keys: entity.join_keys.iter().map(|key| (&*key.name, key.key_type)).collect(),
            time: time_column(&self.options),
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
        let batches = builder.with_batch_size(8192).build().map_err(|error| unreadable(&error))?;
        Ok((batches, reader))
    }

    /// Queues one frame; waits while the queue is full, since nobody else is kept waiting by that.
    fn send(
        &self,
        batch: WriteBatch,
        identity: &[u8; 32],
        part: LoadPart,
    ) -> Result<oneshot::Receiver<Result<Accepted, Problem>>, Problem> {
        let revision = batch.revision;
        let (mut request, views) = batch.finish()?;
        let position = part.encode();
        request.set_source(Source { kind: SourceKind::Load, id: identity, position: &position })?;
        let project = self.view.project;
        let (reply, answer) = oneshot::channel();
        let mut job = WriteJob { request, project, revision, views, idempotency: None, reply };
        loop {
            match self.queue.write(job) {
                Ok(()) => return Ok(answer),
                Err(refused) if refused.problem.code == Code::QueueFull => {
                    job = refused.job;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(refused) => return Err(refused.problem),
            }
        }
    }
}

fn settle(
    flight: &mut VecDeque<oneshot::Receiver<Result<Accepted, Problem>>>,
    loaded: &mut Loaded,
) -> Result<(), Problem> {
    if let Some(answer) = flight.pop_front() {
        let accepted = answer.blocking_recv().unwrap_or_else(|_| Err(stopped()))?;
        loaded.written += accepted.accepted;
        loaded.superseded += accepted.superseded;
        loaded.sequence = accepted.sequence;
    }
    Ok(())
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

/// Turns the rows of record batches into rows of the view.
struct Conversion<'a> {
    view: &'a Arc<View>,
    /// The slot of each feature column.
    slots: Vec<crate::ids::Slot>,
    constant: Option<EventTime>,
    /// The join keys' columns and the event time's, for mistakes.
    keys: Vec<String>,
    time: String,
    key: Vec<u8>,
    array: ArrayBuilder,
}

/// A row that does not fit.
enum Refused {
    Value { field: String, error: ValueError },
    Limit(Problem),
}

impl<'a> Conversion<'a> {
    fn new(loader: &'a Loader, registry: &Registry, reader: &ColumnReader) -> Self {
        let Loader { view, options, .. } = loader;
        let keys = registry.entity_of(view).join_keys.iter().map(|key| key.name.clone()).collect();
        let slot = |feature: usize| {
            crate::ids::Slot(u16::try_from(feature).expect("slots are counted in 16 bits"))
        };
        Self {
            view,
            slots: reader.features().map(slot).collect(),
            constant: match options.event_time {
                EventTimes::At(time) => Some(time),
                EventTimes::Column(_) => None,
            },
            keys,
            time: time_column(options).unwrap_or(TIME_COLUMN).to_owned(),
            key: Vec::new(),
            array: ArrayBuilder::new(ScalarType::Bool),
        }
    }

    /// Adds one row to `batch`; returns its event time.
    fn row(
        &mut self,
        rows: &crate::value::columns::Rows<'_>,
        row: usize,
        batch: &mut WriteBatch,
    ) -> Result<Option<EventTime>, Refused> {
        self.key.clear();
        rows.key(row, &mut self.key)
            .map_err(|(part, error)| Refused::Value { field: self.keys[part].clone(), error })?;
        let time = rows
            .time(row)
            .map_err(|error| Refused::Value { field: self.time.clone(), error })?
            .or(self.constant);
        batch.start(self.view);
        for (column, slot) in self.slots.iter().enumerate() {
            match rows.cell(column, row, &mut self.array) {
                Ok(cell) => batch.set(*slot, cell),
                Err(error) => {
                    let feature = self.view.feature(*slot);
                    let field = feature.map_or_else(String::new, |f| f.name.clone());
                    return Err(Refused::Value { field, error });
                }
            }
        }
        batch.end(&self.key, time).map_err(|error| Refused::Limit(error.into()))?;
        Ok(time)
    }
}

impl Refused {
    fn at(self, index: usize) -> Result<Place, Problem> {
        match self {
            Self::Value { field, error } => {
                let ValueError { found, expected } = error;
                Ok(Place { index: Some(index), field, found, expected })
            }
            Self::Limit(mut problem) => {
                problem.detail = format!("row {index}: {}", problem.detail);
                Err(problem)
            }
        }
    }

    fn problem(self, row: u64) -> Problem {
        match self.at(usize::try_from(row - 1).unwrap_or(usize::MAX)) {
            Ok(place) => refuse(Code::InvalidValue, vec![place]),
            Err(problem) => problem,
        }
    }
}

fn future(column: &str, index: usize, time: EventTime, latest: EventTime) -> Place {
    Place {
        index: Some(index),
        field: column.to_owned(),
        found: time.to_string(),
        expected: format!("at most {latest} (limits.max_future ahead of now)"),
    }
}

fn refuse(code: Code, places: Vec<Place>) -> Problem {
    Problem::new(
        code,
        "the file has rows that do not fit the view; nothing of it \
                 was written",
    )
    .with_places(places)
}

fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::MalformedRequest, format!("the file cannot be read as Parquet: {error}"))
}
