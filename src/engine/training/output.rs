//! The training set as Parquet: the label columns as they were read, the feature columns beside
//! them, a row group at a time.
//!
//! It does not know how features are found, nor where the bytes go.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use arrow::array::{ArrayRef, new_empty_array};
use arrow::datatypes::{Field, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use super::features::threads;
use super::gathered::Features;
use super::labels::LabelFile;
use super::unreadable;
use crate::engine::error::Problem;
use crate::metrics::Code;
use crate::priority::Manner;

/// Bytes of labels of one row group at most, about, and its rows: what is encoded of a group is
/// kept until it is whole.
const GROUP_BYTES: u64 = 64 << 20;
const GROUP_ROWS: u64 = 131_072;

/// A training set on its way.
pub(super) struct Output<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: ArrowRowGroupWriterFactory,
    labels: Rows,
    label_fields: Vec<FieldRef>,
    feature_fields: Vec<FieldRef>,
    /// Parquet columns of the features.
    feature_leaves: usize,
    group_rows: usize,
    groups: usize,
}

/// The rows of the labels, as many at a time as are asked for.
struct Rows {
    batches: ParquetRecordBatchReader,
    /// What was not asked for yet of the last batch.
    rest: Option<RecordBatch>,
}

impl Rows {
    /// Up to `most` of the next rows; none behind the last.
    fn next(&mut self, most: usize) -> Result<Option<RecordBatch>, Problem> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.batches.next() {
                Some(batch) => batch.map_err(|error| unreadable(&error))?,
                None => return Ok(None),
            },
        };
        if batch.num_rows() > most {
            self.rest = Some(batch.slice(most, batch.num_rows() - most));
        }
        Ok(Some(batch.slice(0, batch.num_rows().min(most))))
    }
}

impl<W: Write + Send> Output<W> {
    /// Begins a file with the columns of `labels` and then `features`.
    pub(super) fn begin(
        labels: &LabelFile<'_>,
        features: Vec<Field>,
        out: W,
    ) -> Result<Self, Problem> {
        let label_fields: Vec<FieldRef> = labels.schema().fields().iter().cloned().collect();
        let feature_fields: Vec<FieldRef> = features.into_iter().map(Arc::new).collect();
        let fields: Vec<FieldRef> = label_fields.iter().chain(&feature_fields).cloned().collect();
        let metadata = labels.schema().metadata().clone();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let properties = properties(&schema).map_err(|error| failed(&error))?;
        let writer = ArrowWriter::try_new(out, schema, Some(properties));
        let begun = writer.and_then(ArrowWriter::into_serialized_writer);
        let (file, columns) = begun.map_err(|error| failed(&error))?;
        let group_rows = (GROUP_BYTES / labels.row_bytes()).clamp(1, GROUP_ROWS) as usize;
        Ok(Self {
            file,
            columns,
            labels: Rows { batches: labels.batches()?, rest: None },
            label_fields,
            feature_leaves: leaves_of(&feature_fields)?,
            feature_fields,
            group_rows,
            groups: 0,
        })
    }

    /// Adds the next `rows` labels with these features.
    pub(super) fn write(
        &mut self,
        features: &Features,
        rows: usize,
        manner: &Manner,
    ) -> Result<(), Problem> {
        for from in (0..rows).step_by(self.group_rows) {
            let group = from..rows.min(from + self.group_rows);
            manner.run(|| {
                let columns = self.encode(features, group)?;
                self.append(columns).map_err(|error| failed(&error))
            })?;
        }
        Ok(())
    }

    /// The columns of one row group: its labels are decoded and encoded here, its features beside
    /// that.
    fn encode(
        &mut self,
        features: &Features,
        group: Range<usize>,
    ) -> Result<Vec<ArrowColumnWriter>, Problem> {
        let writers = self.columns.create_column_writers(self.groups);
        let mut of_labels = writers.map_err(|error| failed(&error))?;
        let mut of_features = of_labels.split_off(of_labels.len() - self.feature_leaves);
        let (labels, label_fields) = (&mut self.labels, &self.label_fields);
        let (feature_fields, rows) = (&self.feature_fields, group.len());
        let beside = || -> Result<(), Problem> {
            let arrays = features.of(group)?;
            encode(feature_fields, &arrays, &mut of_features).map_err(|error| failed(&error))
        };
        thread::scope(|scope| {
            let encoding = scope.spawn(beside);
            let mut labels = || encode_labels(label_fields, labels, rows, &mut of_labels);
            let (features, labels) = match threads() {
                // Two threads would only take turns, which keeps lookups waiting.
                1 => (encoding.join(), labels()),
                _ => {
                    let labels = labels();
                    (encoding.join(), labels)
                }
            };
            let features = features.unwrap_or_else(|_| {
                let detail = "a thread that encodes features failed";
                Err(Problem::new(Code::Internal, detail))
            });
            labels.and(features)
        })?;
        of_labels.append(&mut of_features);
        Ok(of_labels)
    }

    fn append(&mut self, columns: Vec<ArrowColumnWriter>) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        for column in columns {
            column.close()?.append_to_row_group(&mut group)?;
        }
        group.close()?;
        self.groups += 1;
        Ok(())
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.file.finish().map_err(|error| failed(&error))?;
        self.file.inner_mut().flush().map_err(|error| failed(&error))
    }
}

fn leaves_of(fields: &[FieldRef]) -> Result<usize, Problem> {
    let mut leaves = 0;
    for field in fields {
        let empty = new_empty_array(field.data_type());
        leaves += compute_leaves(field, &empty).map_err(|error| failed(&error))?.len();
    }
    Ok(leaves)
}

fn encode_labels(
    fields: &[FieldRef],
    labels: &mut Rows,
    rows: usize,
    writers: &mut [ArrowColumnWriter],
) -> Result<(), Problem> {
    let mut left = rows;
    while left > 0 {
        let Some(batch) = labels.next(left)? else {
            return Err(unreadable(&"it has fewer rows than it says"));
        };
        left -= batch.num_rows();
        encode(fields, batch.columns(), writers).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn encode(
    fields: &[FieldRef],
    arrays: &[ArrayRef],
    writers: &mut [ArrowColumnWriter],
) -> Result<(), ParquetError> {
    let mut writers = writers.iter_mut();
    for (field, array) in fields.iter().zip(arrays) {
        for leaf in compute_leaves(field, array)? {
            if let Some(writer) = writers.next() {
                writer.write(&leaf)?;
            }
        }
    }
    Ok(())
}

/// Numbers rarely repeat, and looking for it takes longer than all else; texts do.
fn properties(schema: &Schema) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(false);
    for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
        if matches!(column.physical_type(), Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) {
            properties = properties.set_column_dictionary_enabled(column.path().clone(), true);
        }
    }
    Ok(properties.build())
}

fn failed(error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::Internal, format!("the training set cannot be written: {error}"))
}
