//! Tables in Arrow and Parquet, written and read back.
//!
//! It does not know servers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// A table of named columns.
pub(crate) fn table(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let columns = columns.iter().map(|(name, array)| (*name, Arc::clone(array), true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

pub(crate) fn arrow(table: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &table.schema()).expect("a schema");
    writer.write(table).expect("memory takes it");
    writer.finish().expect("memory takes it");
    drop(writer);
    bytes
}

pub(crate) fn parquet(table: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, table.schema(), None).expect("a schema");
    writer.write(table).expect("memory takes it");
    writer.close().expect("memory takes it");
    bytes
}

pub(crate) fn read_arrow(bytes: &[u8]) -> RecordBatch {
    let mut reader = StreamReader::try_new(bytes, None).expect("an Arrow stream");
    let batch = reader.next().expect("a batch").expect("a sound batch");
    assert!(reader.next().is_none(), "more than one batch");
    batch
}

pub(crate) fn read_parquet(bytes: &[u8]) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(bytes));
    let mut reader = builder.expect("a Parquet file").build().expect("a reader");
    reader.next().expect("a batch").expect("a sound batch")
}

/// A column of a known type.
pub(crate) fn column<'a, A: Array + 'static>(table: &'a RecordBatch, name: &str) -> &'a A {
    let column = table.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    column.as_any().downcast_ref().unwrap_or_else(|| panic!("{name} is {}", column.data_type()))
}
