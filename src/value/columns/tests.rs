//! Every Arrow type against every use of it.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Field, Float32Type, Int32Type, Int64Type, Schema};

use super::*;
use crate::value::cell::ArrayBuilder;
use crate::value::json;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// The cells of one column as JSON, or the first mistake.
fn read(feature_type: &str, array: ArrayRef, nan: Nan) -> Result<Vec<String>, String> {
    let batch = batch(vec![("f", array)]);
    let feature_type = FeatureType::parse(feature_type).unwrap();
    let wanted = Wanted {
        keys: vec![],
        time: None,
        arrival: None,
        time_unit: None,
        features: vec![("f", feature_type)],
    };
    let reader =
        ColumnReader::new(&batch.schema(), &wanted, nan).map_err(|errors| errors[0].to_string())?;
    let rows = reader.rows(&batch).unwrap();
    let mut array = ArrayBuilder::new(ScalarType::Bool);
    (0..rows.count())
        .map(|row| match rows.cell(0, row, &mut array) {
            Ok(CellRef::Value(value)) => {
                assert!(value.is(feature_type));
                let mut out = Vec::new();
                json::write(value, &mut out);
                Ok(String::from_utf8(out).unwrap())
            }
            Ok(CellRef::Null) => Ok("null".to_owned()),
            Ok(CellRef::Absent) => panic!("a column that is there is not absent"),
            Err(error) => Err(error.to_string()),
        })
        .collect()
}

#[test]
fn columns_read_as_features() {
    let check = |feature_type: &str, array: ArrayRef, expected: Result<&[&str], &str>| {
        let found = read(feature_type, array, Nan::Null);
        let found = found.as_deref().map_err(|error| error.as_str());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{feature_type}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            other => panic!("{feature_type}: {other:?}"),
        }
    };
    check("bool", Arc::new(BooleanArray::from(vec![Some(true), None])), Ok(&["true", "null"]));
    check("bool", Arc::new(Int8Array::from(vec![1])), Err("found Int8, expected bool"));
    check("int32", Arc::new(Int8Array::from(vec![Some(-3), None])), Ok(&["-3", "null"]));
    check("int32", Arc::new(Int64Array::from(vec![1 << 31])), Err("found 2147483648"));
    check("int64", Arc::new(UInt64Array::from(vec![u64::MAX])), Err("found 18446744073709551615"));
    check("int64", Arc::new(Int64Array::from(vec![i64::MAX])), Ok(&["9223372036854775807"]));
    check("int64", Arc::new(Float64Array::from(vec![30.0, f64::NAN])), Ok(&["30", "null"]));
    check("int64", Arc::new(Float64Array::from(vec![30.5])), Err("found 30.5"));
    check("float32", Arc::new(Float64Array::from(vec![1e39])), Err("float32 (finite)"));
    check("float32", Arc::new(Float32Array::from(vec![0.1])), Ok(&["0.1"]));
    check("float64", Arc::new(Float64Array::from(vec![f64::NAN])), Ok(&["null"]));
    check("float64", Arc::new(Float64Array::from(vec![f64::INFINITY])), Err("found inf"));
    check("float64", Arc::new(Int32Array::from(vec![7])), Ok(&["7.0"]));
    check("string", Arc::new(LargeStringArray::from(vec!["a"])), Ok(&["\"a\""]));
    check("string", Arc::new(StringViewArray::from(vec![Some("a"), None])), Ok(&["\"a\"", "null"]));
    let dictionary: DictionaryArray<Int32Type> =
        vec![Some("x"), None, Some("x")].into_iter().collect();
    check("string", Arc::new(dictionary), Ok(&["\"x\"", "null", "\"x\""]));
    check("string", Arc::new(Int64Array::from(vec![7])), Err("found Int64, expected string"));
    check("bytes", Arc::new(BinaryArray::from(vec![&b"\x01\x02"[..]])), Ok(&["\"AQI=\""]));
    check("float32", Arc::new(NullArray::new(1)), Ok(&["null"]));
    let seconds = TimestampSecondArray::from(vec![1_769_860_800]).with_timezone("UTC");
    check("timestamp", Arc::new(seconds), Ok(&["\"2026-01-31T12:00:00.000000Z\""]));
    let nanos = TimestampNanosecondArray::from(vec![-1]);
    check("timestamp", Arc::new(nanos), Ok(&["\"1969-12-31T23:59:59.999999Z\""]));
    check(
        "timestamp",
        Arc::new(Date32Array::from(vec![1])),
        Ok(&["\"1970-01-02T00:00:00.000000Z\""]),
    );
    check("timestamp", Arc::new(Int64Array::from(vec![1_769_860_800])), Err("looks like seconds"));
    let list = |rows: Vec<Option<Vec<Option<f32>>>>| {
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows)) as ArrayRef
    };
    check(
        "float32[2]",
        list(vec![Some(vec![Some(1.0), Some(2.5)]), None]),
        Ok(&["[1.0,2.5]", "null"]),
    );
    check("float32[2]", list(vec![Some(vec![Some(1.0)])]), Err("an array of 1 elements"));
    check("float32[]", list(vec![Some(vec![None])]), Err("null at element 0"));
    check("float32[]", list(vec![Some(vec![Some(f32::NAN)])]), Err("NaN at element 0"));
    check("float32[]", list(vec![Some(vec![])]), Ok(&["[]"]));
    let fixed = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
        vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(3), Some(4)])],
        2,
    );
    let tail = Arc::new(fixed.slice(1, 1)) as ArrayRef;
    check("float64[2]", tail, Ok(&["[3.0,4.0]"]));
}

#[test]
fn nans_can_be_refused() {
    let array = Arc::new(Float64Array::from(vec![f64::NAN]));
    assert!(read("float64", array, Nan::Refuse).unwrap_err().contains("found NaN"));
}

#[test]
fn keys_and_times_read_and_everything_else_is_named() {
    let batch = batch(vec![
        ("n", Arc::new(Float64Array::from(vec![Some(7.0), None]))),
        ("event_timestamp", Arc::new(TimestampMillisecondArray::from(vec![Some(5), None]))),
        ("s", Arc::new(Int32Array::from(vec![9, 9]))),
        ("surplus", Arc::new(Int32Array::from(vec![9, 9]))),
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, 1.0]))),
    ]);
    let wanted = Wanted {
        keys: vec![("s", KeyType::String), ("n", KeyType::Int64)],
        time: Some("event_timestamp"),
        arrival: None,
        time_unit: None,
        features: vec![
            ("gone", FeatureType::Scalar(ScalarType::Bool)),
            ("f", FeatureType::Scalar(ScalarType::Float64)),
        ],
    };
    let reader = ColumnReader::new(&batch.schema(), &wanted, Nan::Null).unwrap();
    assert_eq!(reader.unused(), ["surplus"]);
    assert_eq!(reader.features().collect::<Vec<_>>(), [1]);
    let rows = reader.rows(&batch).unwrap();
    assert_eq!(rows.nans(), 1);
    let mut key = Vec::new();
    rows.key(0, &mut key).unwrap();
    let parts = key::parts(&[KeyType::String, KeyType::Int64], &key).unwrap();
    assert_eq!(parts, [KeyPart::Text("9".into()), KeyPart::Integer(7)]);
    assert_eq!(rows.key(1, &mut key).unwrap_err(), (1, refuse("null", "int64")));
    assert_eq!(rows.time(0), Ok(Some(EventTime::from_micros(5_000))));
    assert_eq!(rows.time(1), Err(refuse("null", "timestamp")));
    let missing = Wanted { keys: vec![("id", KeyType::String)], ..wanted };
    let errors = ColumnReader::new(&batch.schema(), &missing, Nan::Null).err().unwrap();
    assert_eq!(errors[0].to_string(), "column id: found no such column, expected string");
}
