//! Parquet input: any bytes as a file that is loaded. The Parquet reader may panic, which a load
//! survives; what Larder does with the columns it reads may not.
#![no_main]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Float32Type;
use bytes::Bytes;
use larder::value::cell::ArrayBuilder;
use larder::value::columns::{ColumnReader, Nan, Wanted};
use larder::value::types::{KeyType, ScalarType};
use larder_fuzz::{feature_type, seed};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

thread_local! {
    static IN_PARQUET: Cell<bool> = const { Cell::new(false) };
}

fn start() {
    let outside = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IN_PARQUET.get() {
            outside(panic);
        }
    }));
    let list = vec![Some(vec![Some(1.5), Some(2.5)]), None, Some(vec![])];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("name", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC"))),
        ("score", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(f64::NAN)]))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(list))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a schema");
    writer.write(&batch).expect("memory");
    writer.close().expect("memory");
    seed("file", &bytes);
}

/// Runs the Parquet reader, which may fail in any way.
fn parquet<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    IN_PARQUET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work)).ok().flatten();
    IN_PARQUET.set(false);
    done
}

fn read(data: Bytes) -> Option<()> {
    let builder = parquet(|| ParquetRecordBatchReaderBuilder::try_new(data).ok())?;
    let types = ["float64", "float32[]", "int32", "string", "bool", "timestamp"].map(feature_type);
    let names = ["score", "list", "id", "name", "at", "score"];
    let wanted = Wanted {
        keys: vec![("id", KeyType::Int64), ("name", KeyType::String)],
        time: Some("at"),
        arrival: None,
        time_unit: None,
        features: names.into_iter().zip(types).collect(),
    };
    let some = Wanted { features: wanted.features[..3].to_vec(), ..wanted };
    let columns = ColumnReader::new(builder.schema(), &some, Nan::Null).ok()?;
    let mut reader = parquet(|| builder.with_batch_size(64).build().ok())?;
    let mut array = ArrayBuilder::new(ScalarType::Float32);
    for _ in 0..16 {
        let batch = parquet(|| reader.next()?.ok())?;
        let rows = columns.rows(&batch).ok()?;
        for row in 0..rows.count() {
            let _ = (rows.key(row, &mut Vec::new()), rows.time(row));
            for column in 0..columns.features().len() {
                let _ = rows.cell(column, row, &mut array);
            }
        }
    }
    Some(())
}

libfuzzer_sys::fuzz_target!(init: start(), |data: &[u8]| {
    read(Bytes::copy_from_slice(data));
});
