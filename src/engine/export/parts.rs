//! The files of one export: rows are gathered by view and day, and written as Parquet when they
//! take too much memory.
//!
//! It does not know which rows are new, nor when the files count.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::archive::{ArchiveError, RowRef};
use crate::disk::{Disk, DiskError, Stream};
use crate::engine::export::ledger::{Directories, Move, unfinished};
use crate::history::sealed::RowIn;
use crate::ids::{Sequence, Slot, ViewId};
use crate::registry::model::{EntityType, View};
use crate::time::EventTime;
use crate::value::cell::CellRef;
use crate::value::columns::build::{ColumnBuilder, UTC};
use crate::value::key::{self, KeyPart};
use crate::value::types::KeyType;

/// What a row takes beside its key and its cells, about.
const ROW_BYTES: usize = 48;
/// What a column takes that has hardly any rows, about.
const COLUMN_BYTES: usize = 256;
const DAY_MICROS: i64 = 86_400_000_000;

/// Why a file of an export was not written.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A row in history is none.
    #[error("row of sequence {sequence}: {source}")]
    Row {
        /// Its place.
        sequence: Sequence,
        /// What is wrong.
        source: ArchiveError,
    },
    /// A key in history is none of its entity.
    #[error("row of sequence {sequence} has a key that its entity does not have")]
    Key {
        /// Its place.
        sequence: Sequence,
    },
    /// Parquet refused what was built.
    #[error("{} cannot be written: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Files on their way.
pub(super) struct Parts<'a> {
    disk: &'a dyn Disk,
    to: &'a Path,
    /// The sequences that this export covers; they are in the names.
    sequences: (Sequence, Sequence),
    memory_bytes: usize,
    views: HashMap<ViewId, Exporting>,
    directories: Directories,
    /// By view and the day's number.
    gathered: BTreeMap<(ViewId, i64), Rows>,
    bytes: usize,
    rows: u64,
    made: Vec<Move>,
}

/// A view that is exported.
struct Exporting {
    view: Arc<View>,
    keys: Vec<KeyType>,
    schema: Arc<Schema>,
}

/// Rows of one view and day.
struct Rows {
    keys: Vec<KeyBuilder>,
    features: Vec<ColumnBuilder>,
    event: TimestampMicrosecondBuilder,
    arrival: TimestampMicrosecondBuilder,
    sequence: Int64Builder,
    bytes: usize,
}

enum KeyBuilder {
    Text(StringBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        disk: &'a dyn Disk,
        to: &'a Path,
        sequences: (Sequence, Sequence),
        directories: Directories,
        memory_bytes: usize,
    ) -> Result<Self, PartError> {
        disk.create_dir_all(&unfinished(to))?;
        Ok(Self {
            disk,
            to,
            sequences,
            memory_bytes,
            views: HashMap::new(),
            directories,
            gathered: BTreeMap::new(),
            bytes: 0,
            rows: 0,
            made: Vec::new(),
        })
    }

    /// Takes rows of `view` from now on; those of others are passed over.
    pub(super) fn add_view(&mut self, view: &Arc<View>, entity: &EntityType) {
        let keys = entity.join_keys.iter().map(|key| key.key_type).collect();
        let mut exporting =
            Exporting { view: view.clone(), keys, schema: Arc::new(Schema::empty()) };
        let arrays = Rows::new(&exporting).finish();
        let mut names: Vec<String> = entity.join_keys.iter().map(|key| key.name.clone()).collect();
        let keys = names.len();
        let ours = ["event_timestamp", "arrival_timestamp", "sequence"];
        // The names of directories are columns, too.
        let is_ours = |name: &str| ours.contains(&name) || ["view", "day"].contains(&name);
        for name in &mut names {
            if is_ours(name) {
                name.insert_str(0, "key__");
            }
        }
        for feature in view.features.iter() {
            let mut name = feature.name.clone();
            while is_ours(&name) || names[..keys].contains(&name) {
                name.insert_str(0, "feature__");
            }
            // A feature that is called so itself.
            while names[keys..].contains(&name) {
                name.insert(0, '_');
            }
            names.push(name);
        }
        names.extend(ours.map(str::to_owned));
        let is_feature = |index: usize| (keys..keys + view.features.len()).contains(&index);
        let field = |(index, (name, array)): (usize, (String, &ArrayRef))| {
            Field::new(name, array.data_type().clone(), is_feature(index))
        };
        let fields = names.into_iter().zip(&arrays).enumerate().map(field);
        exporting.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        self.views.insert(view.id, exporting);
    }

    /// Rows taken so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes a row of a view.
    pub(super) fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), PartError> {
        let Some(exporting) = self.views.get(&view) else { return Ok(()) };
        let day = row.event_time.micros().div_euclid(DAY_MICROS);
        let (rows, before) = match self.gathered.entry((view, day)) {
            Entry::Occupied(rows) => {
                let rows = rows.into_mut();
                let before = rows.bytes;
                (rows, before)
            }
            Entry::Vacant(place) => (place.insert(Rows::new(exporting)), 0),
        };
        rows.push(exporting, row)?;
        self.bytes += rows.bytes - before;
        self.rows += 1;
        if self.bytes < self.memory_bytes {
            return Ok(());
        }
        let fullest = self.gathered.iter().max_by_key(|(_, rows)| rows.bytes);
        match fullest.map(|(of, _)| *of) {
            Some(of) => self.write(of),
            None => Ok(()),
        }
    }

    /// Writes what is left. Returns the rows, the files, which are durable, and where views lie.
    pub(super) fn finish(mut self) -> Result<(u64, (Vec<Move>, Directories)), PartError> {
        while let Some((of, _)) = self.gathered.first_key_value() {
            self.write(*of)?;
        }
        self.disk.sync_dir(&unfinished(self.to))?;
        Ok((self.rows, (self.made, self.directories)))
    }

    fn write(&mut self, of: (ViewId, i64)) -> Result<(), PartError> {
        let (Some(exporting), Some(mut rows)) = (self.views.get(&of.0), self.gathered.remove(&of))
        else {
            return Ok(());
        };
        self.bytes -= rows.bytes;
        let number = self.made.len();
        let name = format!("{number}.parquet");
        let path = unfinished(self.to).join(&name);
        let refuse = |reason: String| PartError::Parquet { path: path.clone(), reason };
        let batch = RecordBatch::try_new(exporting.schema.clone(), rows.finish())
            .map_err(|error| refuse(error.to_string()))?;
        let file = self.disk.create(&path)?;
        let zstd = ZstdLevel::try_new(3).map_err(|error| refuse(error.to_string()))?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(zstd));
        let out = BufWriter::with_capacity(1 << 20, Stream::new(file.clone(), 0));
        let schema = exporting.schema.clone();
        let written =
            ArrowWriter::try_new(out, schema, Some(properties.build())).and_then(|mut w| {
                w.write(&batch)?;
                w.into_inner()
            });
        let mut out = written.map_err(|error| refuse(error.to_string()))?;
        out.flush().map_err(|error| refuse(error.to_string()))?;
        file.sync_data()?;
        let (first, last) = self.sequences;
        let to = format!(
            "view={}/day={}/part-{:020}-{:020}-{number:06}.parquet",
            self.directories.of(&exporting.view),
            day_of(of.1),
            first.0,
            last.0
        );
        self.made.push(Move { from: format!("_unfinished/{name}"), to });
        Ok(())
    }
}

/// The date of a day counted from 1970-01-01.
fn day_of(day: i64) -> String {
    let text = EventTime::from_micros(day.saturating_mul(DAY_MICROS)).to_string();
    match text.split_once('T') {
        Some((date, _)) => date.to_owned(),
        // Before or after what calendars hold.
        None => format!("{day}d"),
    }
}

impl Rows {
    fn new(of: &Exporting) -> Self {
        let key = |key_type: &KeyType| match key_type {
            KeyType::String => KeyBuilder::Text(StringBuilder::with_capacity(0, 0)),
            KeyType::Int32 => KeyBuilder::Int32(Int32Builder::with_capacity(0)),
            KeyType::Int64 => KeyBuilder::Int64(Int64Builder::with_capacity(0)),
        };
        let times = || TimestampMicrosecondBuilder::with_capacity(0).with_timezone(UTC);
        let features = of.view.features.iter();
        let columns = of.keys.len() + features.len() + 3;
        Self {
            keys: of.keys.iter().map(key).collect(),
            features: features.map(|f| ColumnBuilder::new(f.feature_type, 0)).collect(),
            event: times(),
            arrival: times(),
            sequence: Int64Builder::with_capacity(0),
            bytes: columns * COLUMN_BYTES,
        }
    }

    fn push(&mut self, of: &Exporting, row: &RowIn<'_>) -> Result<(), PartError> {
        let sequence = row.sequence;
        let cells = RowRef::access(row.archive);
        let cells = cells.and_then(|cells| cells.check(of.view.layout()).map(|()| cells));
        let cells = cells.map_err(|source| PartError::Row { sequence, source })?;
        let parts = key::parts(&of.keys, row.key).ok_or(PartError::Key { sequence })?;
        for (builder, part) in self.keys.iter_mut().zip(parts) {
            match (builder, part) {
                (KeyBuilder::Text(builder), KeyPart::Text(text)) => builder.append_value(text),
                (KeyBuilder::Int64(builder), KeyPart::Integer(value)) => {
                    builder.append_value(value);
                }
                (KeyBuilder::Int32(builder), KeyPart::Integer(value)) => {
                    let value = i32::try_from(value).map_err(|_| PartError::Key { sequence })?;
                    builder.append_value(value);
                }
                _ => return Err(PartError::Key { sequence }),
            }
        }
        for (slot, builder) in self.features.iter_mut().enumerate() {
            let slot = Slot(u16::try_from(slot).expect("slots are counted in 16 bits"));
            builder.push(match cells.cell(of.view.layout(), slot) {
                CellRef::Value(value) => Some(value),
                CellRef::Null | CellRef::Absent => None,
            });
        }
        self.event.append_value(row.event_time.micros());
        self.arrival.append_value(row.arrival.micros());
        self.sequence.append_value(sequence.0 as i64);
        self.bytes += row.key.len() + row.archive.len() + ROW_BYTES;
        Ok(())
    }

    /// The columns: keys, features, times, sequence.
    fn finish(&mut self) -> Vec<ArrayRef> {
        let keys = self.keys.iter_mut().map(|key| match key {
            KeyBuilder::Text(builder) => Arc::new(builder.finish()) as ArrayRef,
            KeyBuilder::Int32(builder) => Arc::new(builder.finish()),
            KeyBuilder::Int64(builder) => Arc::new(builder.finish()),
        });
        let mut arrays: Vec<ArrayRef> = keys.collect();
        arrays.extend(self.features.iter_mut().map(ColumnBuilder::finish));
        arrays.push(Arc::new(self.event.finish()));
        arrays.push(Arc::new(self.arrival.finish()));
        arrays.push(Arc::new(self.sequence.finish()));
        arrays
    }
}
