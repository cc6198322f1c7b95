//! Answers of lookups as columns: an Arrow IPC stream or a Parquet file.
//!
//! It does not know where answers come from.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeListBuilder, Float32Builder, Float64Builder,
    Int32Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;

use crate::engine::error::Problem;
use crate::engine::lookup::Answer;
use crate::http::call::Format;
use crate::http::lookup_answer::{Metadata, Tally};
use crate::http::lookup_request::Include;
use crate::metrics::Code;
use crate::recency::Status;
use crate::registry::plan::Column;
use crate::value::cell::ValueRef;
use crate::value::types::{FeatureType, ScalarType};

/// Name of the zone of all timestamps.
const UTC: &str = "UTC";

/// The features of many entities, column by column. What is included stands in columns named as the
/// feature with `__status`, `__event_timestamp` and `__defaulted` behind.
pub(super) struct ColumnarAnswer<'a> {
    columns: &'a [Column],
    values: Vec<Values>,
    statuses: Option<Vec<StringBuilder>>,
    event_timestamps: Option<Vec<TimestampMicrosecondBuilder>>,
    defaulted: Option<Vec<BooleanBuilder>>,
    row_found: bool,
    not_found: u64,
    pub(super) tally: Tally,
}

impl<'a> ColumnarAnswer<'a> {
    /// Begins an answer with these columns.
    pub(super) fn new(columns: &'a [Column], rows: usize, include: Include) -> Self {
        let each = columns.len();
        let times = || TimestampMicrosecondBuilder::with_capacity(rows).with_timezone(UTC);
        let built = |wanted: bool| wanted.then_some(());
        Self {
            columns,
            values: columns.iter().map(|column| Values::new(column.feature_type, rows)).collect(),
            statuses: built(include.statuses)
                .map(|()| (0..each).map(|_| StringBuilder::new()).collect()),
            event_timestamps: built(include.event_timestamps)
                .map(|()| (0..each).map(|_| times()).collect()),
            defaulted: built(include.defaulted)
                .map(|()| (0..each).map(|_| BooleanBuilder::new()).collect()),
            row_found: false,
            not_found: 0,
            tally: Tally::default(),
        }
    }

    /// Takes the next answer, row by row.
    pub(super) fn push(&mut self, column: usize, answer: &Answer<'_>) {
        self.values[column].push(answer.value);
        if let Some(statuses) = &mut self.statuses {
            statuses[column].append_value(answer.status.as_str());
        }
        if let Some(times) = &mut self.event_timestamps {
            times[column].append_option(answer.event_time.map(|time| time.micros()));
        }
        if let Some(defaulted) = &mut self.defaulted {
            defaulted[column].append_value(answer.defaulted);
        }
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
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let mut add = |name: String, array: ArrayRef| {
                fields.push(Field::new(name, array.data_type().clone(), true));
                arrays.push(array);
            };
            add(column.name.to_string(), self.values[index].finish());
            if let Some(statuses) = &mut self.statuses {
                add(format!("{}__status", column.name), Arc::new(statuses[index].finish()));
            }
            if let Some(times) = &mut self.event_timestamps {
                add(format!("{}__event_timestamp", column.name), Arc::new(times[index].finish()));
            }
            if let Some(defaulted) = &mut self.defaulted {
                add(format!("{}__defaulted", column.name), Arc::new(defaulted[index].finish()));
            }
        }
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
        let Metadata { started, at, outcome } = metadata;
        let latency = started.elapsed().as_secs_f64() * 1e3;
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

/// The values of one column.
enum Values {
    Scalar(Scalars),
    List(Box<ListBuilder<Scalars>>),
    Fixed(Box<FixedSizeListBuilder<Scalars>>, u32),
}

impl Values {
    fn new(feature_type: FeatureType, rows: usize) -> Self {
        match feature_type {
            FeatureType::Scalar(scalar) => Self::Scalar(Scalars::new(scalar, rows)),
            FeatureType::Array { element, length: None } => {
                Self::List(Box::new(ListBuilder::new(Scalars::new(element, rows))))
            }
            FeatureType::Array { element, length: Some(length) } => {
                let elements = Scalars::new(element, rows * length as usize);
                let width = i32::try_from(length).unwrap_or(i32::MAX);
                Self::Fixed(Box::new(FixedSizeListBuilder::new(elements, width)), length)
            }
        }
    }

    fn push(&mut self, value: Option<ValueRef<'_>>) {
        match (self, value) {
            (Self::Scalar(scalars), value) => scalars.push(value),
            (Self::List(lists), Some(ValueRef::Array(array))) => {
                array.iter().for_each(|element| lists.values().push(Some(element)));
                lists.append(true);
            }
            (Self::List(lists), _) => lists.append(false),
            (Self::Fixed(lists, _), Some(ValueRef::Array(array))) => {
                array.iter().for_each(|element| lists.values().push(Some(element)));
                lists.append(true);
            }
            (Self::Fixed(lists, length), _) => {
                (0..*length).for_each(|_| lists.values().push(None));
                lists.append(false);
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Scalar(scalars) => arrow::array::ArrayBuilder::finish(scalars),
            Self::List(lists) => Arc::new(lists.finish()),
            Self::Fixed(lists, _) => Arc::new(lists.finish()),
        }
    }
}

/// Builds an array of one scalar type.
enum Scalars {
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    String(StringBuilder),
    Bytes(BinaryBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Scalars {
    fn new(scalar: ScalarType, rows: usize) -> Self {
        match scalar {
            ScalarType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            ScalarType::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            ScalarType::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            ScalarType::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            ScalarType::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            ScalarType::String => Self::String(StringBuilder::new()),
            ScalarType::Bytes => Self::Bytes(BinaryBuilder::new()),
            ScalarType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone(UTC))
            }
        }
    }

    /// Adds a value; one of another type counts as null.
    fn push(&mut self, value: Option<ValueRef<'_>>) {
        macro_rules! append {
            ($builder:ident, $variant:ident) => {
                $builder.append_option(match value {
                    Some(ValueRef::$variant(value)) => Some(value),
                    _ => None,
                })
            };
        }
        match self {
            Self::Bool(builder) => append!(builder, Bool),
            Self::Int32(builder) => append!(builder, Int32),
            Self::Int64(builder) => append!(builder, Int64),
            Self::Float32(builder) => append!(builder, Float32),
            Self::Float64(builder) => append!(builder, Float64),
            Self::String(builder) => append!(builder, String),
            Self::Bytes(builder) => append!(builder, Bytes),
            Self::Timestamp(builder) => builder.append_option(match value {
                Some(ValueRef::Timestamp(time)) => Some(time.micros()),
                _ => None,
            }),
        }
    }
}

/// Runs the same expression on whichever builder it is.
macro_rules! on_builder {
    ($self:expr, $builder:ident => $body:expr) => {
        match $self {
            Scalars::Bool($builder) => $body,
            Scalars::Int32($builder) => $body,
            Scalars::Int64($builder) => $body,
            Scalars::Float32($builder) => $body,
            Scalars::Float64($builder) => $body,
            Scalars::String($builder) => $body,
            Scalars::Bytes($builder) => $body,
            Scalars::Timestamp($builder) => $body,
        }
    };
}

impl arrow::array::ArrayBuilder for Scalars {
    fn len(&self) -> usize {
        on_builder!(self, builder => builder.len())
    }

    fn finish(&mut self) -> ArrayRef {
        on_builder!(self, builder => Arc::new(builder.finish()))
    }

    fn finish_cloned(&self) -> ArrayRef {
        on_builder!(self, builder => Arc::new(builder.finish_cloned()))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }

    fn into_box_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Int64Type};
    use arrow::ipc::reader::StreamReader;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::engine::lookup::Outcome;
    use crate::ids::Slot;
    use crate::time::{EventTime, Stopwatch};
    use crate::value::cell::ArrayBuilder;

    fn column(name: &str, feature_type: &str) -> Column {
        Column {
            source: 0,
            slot: Slot(0),
            name: name.into(),
            feature_type: FeatureType::parse(feature_type).unwrap(),
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
        let metadata = Metadata { started: Stopwatch::start(), at, outcome: &outcome };
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
