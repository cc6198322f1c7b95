//! The table of labels: its columns found, its keys and times read a chunk at a time, its rows
//! handed on as they are.
//!
//! It does not know features.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::{LabelOptions, bad_label, unreadable};
use crate::disk::DiskFile;
use crate::engine::error::{Place, Problem};
use crate::engine::label_columns::LabelColumns;
use crate::engine::lookup::Batch;
use crate::engine::parquet_file::{BATCH_ROWS, ParquetFile, batch_rows, reader_of, row_bytes};
use crate::limits::{self, Limits};
use crate::metrics::Code;
use crate::registry::nearest::hint;
use crate::registry::plan::{Plan, Role};
use crate::time::EventTime;
use crate::value::columns::ColumnError;
use crate::value::json::ValueError;

/// Where the label's time may stand if no column is named.
const TIME_COLUMNS: [&str; 2] = ["event_timestamp", "timestamp"];
/// Bytes of keys of one chunk at most, about.
const KEY_BYTES: usize = 64 << 20;

/// A Parquet file of labels.
pub(super) struct LabelFile<'a> {
    file: ParquetFile,
    schema: SchemaRef,
    rows: u64,
    row_bytes: u64,
    plan: &'a Plan,
    options: &'a LabelOptions,
    limits: &'a Limits,
}

/// Keys and times of labels that follow one another.
pub(super) struct Chunk {
    /// The row of the first of them.
    pub(super) first: usize,
    pub(super) keys: Batch,
    pub(super) times: Vec<EventTime>,
}

impl Chunk {
    /// Lets go of all its labels.
    pub(super) fn clear(&mut self) {
        *self = Self { first: self.first, keys: Batch::new(0), times: Vec::new() };
    }

    /// Some of its labels.
    pub(super) fn labels(&self, range: Range<usize>) -> Labels<'_> {
        Labels { chunk: self, range }
    }
}

/// Some labels of a chunk that follow one another.
pub(super) struct Labels<'a> {
    chunk: &'a Chunk,
    range: Range<usize>,
}

impl Labels<'_> {
    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.range.len()
    }

    /// The key of one of them in one role.
    pub(super) fn key(&self, label: usize, role: usize) -> &[u8] {
        self.chunk.keys.key(self.range.start + label, role)
    }

    /// Their times.
    pub(super) fn times(&self) -> &[EventTime] {
        &self.chunk.times[self.range.clone()]
    }
}

/// Reads keys and times, one chunk after another.
pub(super) struct Chunks<'a> {
    labels: &'a LabelFile<'a>,
    batches: ParquetRecordBatchReader,
    columns: LabelColumns,
    /// Rows read so far.
    row: usize,
}

impl<'a> LabelFile<'a> {
    pub(super) fn open(
        file: &Arc<dyn DiskFile>,
        plan: &'a Plan,
        options: &'a LabelOptions,
        limits: &'a Limits,
    ) -> Result<Self, Problem> {
        let file = ParquetFile::new(file.clone()).map_err(|error| unreadable(&error))?;
        let builder = reader_of(file.clone()).map_err(|error| unreadable(&error))?;
        let groups = builder.metadata().row_groups();
        let rows = groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum();
        let (schema, row_bytes) = (builder.schema().clone(), row_bytes(builder.metadata()));
        let labels = Self { file, schema, rows, row_bytes, plan, options, limits };
        labels.check_options()?;
        Ok(labels)
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of the file.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of a row, decoded, about.
    pub(super) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    fn check_options(&self) -> Result<(), Problem> {
        for said in &self.options.keys {
            let roles = || self.plan.roles.iter().map(|role| &*role.name);
            let Some(role) = self.plan.roles.iter().find(|role| *role.name == *said.role) else {
                let detail = format!(
                    "columns are named for \"{}\", but the features are of {}{}",
                    said.role,
                    roles().collect::<Vec<_>>().join(", "),
                    hint(&said.role, roles())
                );
                return Err(Problem::new(Code::InvalidValue, detail));
            };
            let (found, expected) = (said.columns.len(), role.entity.join_keys.len());
            if found != expected {
                let keys: Vec<&str> =
                    role.entity.join_keys.iter().map(|key| key.name.as_str()).collect();
                let detail = format!(
                    "{found} columns are named for \"{}\", which has {expected} join keys: {}",
                    said.role,
                    keys.join(", ")
                );
                return Err(Problem::new(Code::InvalidValue, detail));
            }
        }
        Ok(())
    }

    fn columns(&self, schema: &SchemaRef) -> Result<LabelColumns, Problem> {
        let named = self.options.timestamp.as_deref().map(|name| [name]);
        let times: &[&str] = named.as_ref().map_or(&TIME_COLUMNS, |name| name);
        let unit = self.options.time_unit;
        let found = LabelColumns::find(schema, &self.plan.roles, (times, unit), &self.options.keys);
        let found = found.map_err(|errors| self.missing(errors))?;
        if let Ok(field) = schema.field_with_name(&found.time)
            && matches!(field.data_type(), DataType::Date32 | DataType::Date64)
        {
            return Err(bad_label(Place {
                index: None,
                field: found.time,
                found: format!("{}, a day without a time", field.data_type()),
                expected: "a timestamp; make one of the day, at the time that was meant".to_owned(),
            }));
        }
        Ok(found)
    }

    fn missing(&self, errors: Vec<ColumnError>) -> Problem {
        let there = || self.schema.fields().iter().map(|field| field.name().as_str());
        let places: Vec<Place> = (errors.into_iter().take(limits::PLACES_REPORTED))
            .map(|error| Place {
                index: None,
                expected: format!("{}{}", error.expected, hint(&error.column, there())),
                field: error.column,
                found: error.found,
            })
            .collect();
        let first = places.first().map_or_else(String::new, |place| {
            format!(": {}: {}, expected {}", place.field, place.found, place.expected)
        });
        let detail = format!("the labels lack a column{first}");
        Problem::new(Code::InvalidValue, detail).with_places(places)
    }

    /// All rows with all their columns.
    pub(super) fn batches(&self) -> Result<ParquetRecordBatchReader, Problem> {
        let builder = reader_of(self.file.clone()).map_err(|error| unreadable(&error))?;
        let rows = batch_rows(builder.metadata());
        builder.with_batch_size(rows).build().map_err(|error| unreadable(&error))
    }

    /// Begins to read keys and times.
    pub(super) fn chunks(&'a self) -> Result<Chunks<'a>, Problem> {
        let builder = reader_of(self.file.clone()).map_err(|error| unreadable(&error))?;
        // Found among all columns first, so that what is missing is said of the file.
        let found = self.columns(&self.schema)?;
        let names = found.keys.iter().flatten().chain([&found.time]);
        let roots: Vec<usize> = names.filter_map(|name| self.schema.index_of(name).ok()).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
        let batches = batches.map_err(|error| unreadable(&error))?;
        let projected = arrow::record_batch::RecordBatchReader::schema(&batches);
        let columns = self.columns(&projected)?;
        Ok(Chunks { labels: self, batches, columns, row: 0 })
    }

    /// Reads all keys and times once, and shows them to `check` in chunks.
    pub(super) fn check(
        &self,
        check: impl Fn(&Chunk) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut chunks = self.chunks()?;
        loop {
            let chunk = chunks.next_chunk(BATCH_ROWS)?;
            if chunk.times.is_empty() {
                return Ok(());
            }
            check(&chunk)?;
        }
    }
}

impl Chunks<'_> {
    /// The next labels, about `most`; none behind the last.
    pub(super) fn next_chunk(&mut self, most: usize) -> Result<Chunk, Problem> {
        let left = usize::try_from(self.labels.rows).unwrap_or(usize::MAX) - self.row;
        let times = Vec::with_capacity(left.min(most));
        let keys = Batch::new(self.labels.plan.roles.len());
        let mut chunk = Chunk { first: self.row, keys, times };
        while chunk.times.len() < most && chunk.keys.bytes() < KEY_BYTES {
            let batch = self.batches.next().transpose().map_err(|error| unreadable(&error))?;
            let Some(batch) = batch else { break };
            let is_first = chunk.times.is_empty();
            self.read(&batch, &mut chunk)?;
            if is_first {
                let more = left.min(most).saturating_sub(chunk.times.len());
                chunk.keys.reserve(more.min(KEY_BYTES / chunk.keys.bytes().max(1) * BATCH_ROWS));
            }
        }
        Ok(chunk)
    }

    fn read(&mut self, batch: &RecordBatch, chunk: &mut Chunk) -> Result<(), Problem> {
        let LabelColumns { readers, .. } = &self.columns;
        let of_role = readers.iter().map(|reader| reader.rows(batch));
        let of_role: Result<Vec<_>, ArrowError> = of_role.collect();
        let of_role = of_role.map_err(|error| unreadable(&error))?;
        let (roles, limit) = (&self.labels.plan.roles, self.labels.limits.key_bytes);
        for row in 0..batch.num_rows() {
            for (role, rows) in of_role.iter().enumerate() {
                chunk.keys.push_key(|key| {
                    let start = key.len();
                    rows.key(row, key).map_err(|(part, error)| {
                        bad_label(self.place(&self.columns.keys[role][part], error))
                    })?;
                    check_length(&roles[role], key.len() - start, (limit, self.row))
                })?;
            }
            let time = of_role.first().map_or(Ok(None), |rows| rows.time(row));
            let time = time.map_err(|error| bad_label(self.place(&self.columns.time, error)))?;
            chunk.times.extend(time);
            self.row += 1;
        }
        Ok(())
    }

    fn place(&self, column: &str, ValueError { found, expected }: ValueError) -> Place {
        Place { index: Some(self.row), field: column.to_owned(), found, expected }
    }
}

fn check_length(role: &Role, bytes: usize, (limit, row): (usize, usize)) -> Result<(), Problem> {
    if bytes <= limit {
        return Ok(());
    }
    let detail = format!(
        "label row {row}: the key of {} has {bytes} bytes, the limit limits.key_bytes is {limit}",
        role.name
    );
    Err(Problem::new(Code::LimitExceeded, detail))
}
