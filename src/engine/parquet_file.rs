//! Opens Parquet: files through the disk door, and times of old files as the instants they are.
//!
//! It does not know what the columns are for.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use crate::disk::DiskFile;

/// Rows decoded at once at most.
pub(super) const BATCH_ROWS: usize = 8192;
/// Bytes of rows decoded at once, about.
const BATCH_BYTES: u64 = 4 << 20;

/// An open file, as the Parquet reader wants it.
#[derive(Clone)]
pub(super) struct ParquetFile {
    file: Arc<dyn DiskFile>,
    length: u64,
}

/// Reads a file from some offset on.
pub(super) struct FromOffset {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

/// Begins to read a Parquet file. Times in its INT96 columns, as Spark writes them, are read as
/// microseconds: in nanoseconds, as Arrow would have them, those after 2262 do not fit and wrap
/// around to the past.
///
/// # Errors
/// It is no Parquet file that can be read.
pub fn reader_of<R: ChunkReader + 'static>(
    input: R,
) -> Result<ParquetRecordBatchReaderBuilder<R>, ParquetError> {
    let found = ArrowReaderMetadata::load(&input, ArrowReaderOptions::new())?;
    let leaves = found.metadata().file_metadata().schema_descr().columns();
    let mut are_int96 = leaves.iter().map(|leaf| leaf.physical_type() == Type::INT96);
    if !are_int96.clone().any(|is_int96| is_int96) {
        return Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(input, found));
    }
    let fields = in_micros(found.schema().fields(), &mut are_int96);
    let schema = Arc::new(Schema::new_with_metadata(fields, found.schema().metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    let found = ArrowReaderMetadata::try_new(found.metadata().clone(), options)?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(input, found))
}

/// How many rows to decode at once: as many as there may be, few where they are wide.
pub(super) fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let rows = BATCH_BYTES / row_bytes(metadata);
    usize::try_from(rows).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
}

/// Bytes of a row, decoded, in the row group where rows are widest. About: a text that is written
/// once for many rows counts for all of them only if the file says so, as recent writers have it. A
/// group that is no larger than a batch counts with all others: a few rows do not show how wide
/// rows are.
pub(super) fn row_bytes(metadata: &ParquetMetaData) -> u64 {
    let number = |said: i64| u64::try_from(said).unwrap_or(0);
    let bytes = |group: &RowGroupMetaData| {
        let columns = group.columns().iter().map(|column| {
            let texts = column.unencoded_byte_array_data_bytes().unwrap_or(0);
            number(column.uncompressed_size().max(texts))
        });
        columns.fold(0, u64::saturating_add)
    };
    let groups = metadata.row_groups().iter();
    let sizes = groups.map(|group| (bytes(group), number(group.num_rows())));
    let add = |sum: (u64, u64), one: (u64, u64)| {
        (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
    };
    let large = sizes.clone().filter(|(bytes, _)| *bytes > BATCH_BYTES);
    let each = large.chain([sizes.fold((0, 0), add)]).map(|(bytes, rows)| bytes / rows.max(1));
    each.max().unwrap_or(0).max(1)
}

/// The same fields, those in microseconds whose leaf is INT96.
fn in_micros(fields: &Fields, are_int96: &mut impl Iterator<Item = bool>) -> Fields {
    fields.iter().map(|field| field_in_micros(field, are_int96)).collect()
}

fn field_in_micros(field: &Field, are_int96: &mut impl Iterator<Item = bool>) -> FieldRef {
    let mut inner = |field: &FieldRef| field_in_micros(field, are_int96);
    let data_type = match field.data_type() {
        DataType::List(element) => DataType::List(inner(element)),
        DataType::LargeList(element) => DataType::LargeList(inner(element)),
        DataType::FixedSizeList(element, length) => {
            DataType::FixedSizeList(inner(element), *length)
        }
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(in_micros(fields, are_int96)),
        leaf => match (are_int96.next(), leaf) {
            (Some(true), DataType::Timestamp(_, zone)) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            _ => leaf.clone(),
        },
    };
    Arc::new(field.clone().with_data_type(data_type))
}

impl ParquetFile {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Result<Self, crate::disk::DiskError> {
        let length = file.length()?;
        Ok(Self { file, length })
    }
}

impl FromOffset {
    pub(super) fn start(file: Arc<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for FromOffset {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset).map_err(io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Length for ParquetFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for ParquetFile {
    type T = BufReader<FromOffset>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(FromOffset { file: self.file.clone(), offset: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at offset {start} wanted, the file has {}",
                self.length
            )));
        }
        let mut bytes = vec![0; length];
        let read =
            self.file.read_at(&mut bytes, start).map_err(|e| ParquetError::External(e.into()))?;
        if read < length {
            return Err(ParquetError::EOF(format!(
                "the file ended at byte {}",
                start + read as u64
            )));
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn a_row_group_of_a_few_rows_does_not_say_how_wide_rows_are() {
        let number = |rows: usize| {
            let numbers = Int64Array::from_iter_values((0..rows as i64).map(|n| n * n));
            RecordBatch::try_from_iter([("number", Arc::new(numbers) as _)]).unwrap()
        };
        let check = |groups: &[usize], expected: std::ops::RangeInclusive<u64>| {
            let mut writer = ArrowWriter::try_new(Vec::new(), number(0).schema(), None).unwrap();
            for rows in groups {
                writer.write(&number(*rows)).unwrap();
                writer.flush().unwrap();
            }
            let bytes = row_bytes(&writer.finish().unwrap());
            assert!(expected.contains(&bytes), "{groups:?}: {bytes}");
        };
        check(&[1_000_000, 1], 8..=20);
        check(&[1], 30..=500);
        check(&[1; 100], 30..=500);
        check(&[], 1..=1);
    }
}
