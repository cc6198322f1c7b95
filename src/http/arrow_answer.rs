//! Answers of lookups as columns: an Arrow IPC stream or a Parquet file.
//!
//! It does not know where answers come from.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;

use crate::engine::answer_columns::{AnswerColumn, Include, fields};
use crate::engine::error::Problem;
use crate::engine::lookup::Answer;
use crate::http::call::Format;
use crate::http::lookup_answer::{Metadata, Tally};
use crate::metrics::Code;
use crate::recency::Status;
use crate::registry::plan::Column;

/// The features of many entities, column by column.
pub(super) struct ColumnarAnswer<'a> {
    columns: &'a [Column],
    built: Vec<AnswerColumn>,
    include: Include,
    row_found: bool,
    not_found: u64,
    pub(super) tally: Tally,
}

impl<'a> ColumnarAnswer<'a> {
    /// Begins an answer with these columns.
    pub(super) fn new(columns: &'a [Column], rows: usize, include: Include) -> Self {
        let column = |column: &Column| AnswerColumn::new(column.place.feature_type, rows, include);
        Self {
            columns,
            built: columns.iter().map(column).collect(),
            include,
            row_found: false,
            not_found: 0,
            tally: Tally::default(),
        }
    }

    /// Takes the next answer, row by row.
    pub(super) fn push(&mut self, column: usize, answer: &Answer<'_>) {
        self.built[column].push(answer);
        self.row_found = (column > 0 && self.row_found) || answer.status != Status::NotFound;
        self.tally.add(answer);
        if column + 1 == self.columns.len() {
            self.not_found += u64::from(!self.row_found);
        }
    }

    /// The bytes of the answer; its metadata stands in the schema, by the names it has in JSON.
    ///
    /// # Errors
    /// Arrow or Parquet refuse what was built, which is a mistake here.
    pub(super) fn finish(
        mut self,
        format: Format,
        metadata: &Metadata<'_>,
    ) -> Result<Vec<u8>, Problem> {
        let said = self.metadata(metadata);
        let of_column =
            |column: &Column| fields(&column.name, column.place.feature_type, self.include);
        let fields: Vec<_> = self.columns.iter().flat_map(of_column).collect();
        let arrays: Vec<ArrayRef> = self.built.iter_mut().flat_map(AnswerColumn::finish).collect();
        let schema = Arc::new(Schema::new(fields).with_metadata(said));
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(|e| failed(&e))?;
        let mut out = Vec::new();
        if format == Format::Parquet {
            let mut writer =
                ArrowWriter::try_new(&mut out, schema, None).map_err(|e| failed(&e))?;
            writer.write(&batch).map_err(|e| failed(&e))?;
            writer.close().map_err(|e| failed(&e))?;
        } else {
            let mut writer = StreamWriter::try_new(&mut out, &schema).map_err(|e| failed(&e))?;
            writer.write(&batch).map_err(|e| failed(&e))?;
            writer.finish().map_err(|e| failed(&e))?;
        }
        Ok(out)
    }

    fn metadata(&self, metadata: &Metadata<'_>) -> HashMap<String, String> {
        let Metadata { latency, at, outcome } = metadata;
        let latency = latency.as_secs_f64() * 1e3;
        let mut said = HashMap::from([
            ("latency_ms".to_owned(), format!("{latency:.3}")),
            ("timestamp".to_owned(), at.to_string()),
            ("missing".to_owned(), self.tally.missing.to_string()),
            ("not_found".to_owned(), self.not_found.to_string()),
            ("cache_hit".to_owned(), outcome.cache_hit.to_string()),
            ("fallback".to_owned(), outcome.fallback.to_string()),
        ]);
        if let Some(reason) = &outcome.fallback_reason {
            said.insert("fallback_reason".to_owned(), reason.clone());
        }
        said
    }
}

fn failed(error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::Internal, format!("the answer cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Int64Type};
    use arrow::ipc::reader::StreamReader;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::engine::lookup::Outcome;
    use crate::ids::Slot;
    use crate::recency::Status;
    use crate::time::EventTime;
    use crate::value::cell::{ArrayBuilder, ValueRef};
    use crate::value::layout::Place;
    use crate::value::types::{FeatureType, ScalarType};

    fn column(name: &str, feature_type: &str) -> Column {
        Column {
            source: 0,
            slot: Slot(0),
            name: name.into(),
            place: Place::new(FeatureType::parse(feature_type).unwrap(), 0),
            ttl: None,
            default: None,
        }
    }

    fn answer(value: Option<ValueRef<'_>>) -> Answer<'_> {
        let status = if value.is_some() { Status::Present } else { Status::NotFound };
        Answer { status, value, defaulted: false, event_time: None }
    }

    fn write(format: Format) -> Vec<u8> {
        let columns = [column("v:n", "int64"), column("v:e", "float32[2]")];
        let include = Include { statuses: true, ..Include::default() };
        let mut out = ColumnarAnswer::new(&columns, 2, include);
        let mut array = ArrayBuilder::new(ScalarType::Float32);
        array.push(ValueRef::Float32(1.5));
        array.push(ValueRef::Float32(2.5));
        out.push(0, &answer(Some(ValueRef::Int64(i64::MAX))));
        out.push(1, &answer(Some(ValueRef::Array(array.borrowed()))));
        out.push(0, &answer(None));
        out.push(1, &answer(None));
        let outcome = Outcome { cache_hit: true, fallback: false, fallback_reason: None };
        let at = EventTime::from_micros(0);
        let metadata = Metadata { latency: Duration::from_micros(21), at, outcome: &outcome };
        out.finish(format, &metadata).unwrap()
    }

    fn check(batch: &RecordBatch) {
        let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["v:n", "v:n__status", "v:e", "v:e__status"]);
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        assert_eq!((numbers.value(0), numbers.is_null(1)), (i64::MAX, true));
        let vectors = batch.column(2).as_fixed_size_list();
        assert_eq!(vectors.value(0).as_primitive::<Float32Type>().values()[1], 2.5);
        assert!(vectors.is_null(1));
        assert_eq!(batch.column(3).as_string::<i32>().value(1), "NOT_FOUND");
    }

    #[test]
    fn columns_read_back_from_arrow_and_parquet() {
        let bytes = write(Format::Arrow);
        let mut reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.schema().metadata()["missing"], "2");
        assert_eq!(reader.schema().metadata()["not_found"], "1");
        check(&reader.next().unwrap().unwrap());
        let bytes = bytes::Bytes::from(write(Format::Parquet));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        reader.for_each(|batch| check(&batch.unwrap()));
    }
}
