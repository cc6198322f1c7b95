//! Feature values as JSON: read by the feature's type, written without an intermediate tree.
//!
//! It does not know requests or answers, only single values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::time::{EventTime, TimeUnit};
use crate::value::cell::{ArrayBuilder, Cell, Value, ValueRef};
use crate::value::types::{FeatureType, ScalarType};

/// Integers up to here are exact in a double, so `30.0` can stand for 30.
const EXACT_IN_DOUBLE: f64 = 9_007_199_254_740_992.0;
/// How much of an unusable value an error repeats, in characters.
const FOUND_CHARS: usize = 64;

/// A JSON value that is not of the feature's type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("found {found}, expected {expected}")]
pub struct ValueError {
    /// The JSON text, shortened.
    pub found: String,
    /// The type and, where it helps, its range.
    pub expected: String,
}

/// Reads the JSON text of one value as `feature_type`; `null` is [`Cell::Null`]. `unit` is that of
/// integers where a timestamp is expected.
///
/// # Errors
/// The text is JSON of another type, out of range, not finite once stored, or of another length.
pub fn read(
    feature_type: FeatureType,
    json: &str,
    unit: Option<TimeUnit>,
) -> Result<Cell, ValueError> {
    let json = json.trim();
    if json == "null" {
        return Ok(Cell::Null);
    }
    match feature_type {
        FeatureType::Scalar(scalar) => read_scalar(scalar, json, unit).map(Cell::Value),
        FeatureType::Array { element, length } => {
            read_array(element, length, json, unit).map(Cell::Value)
        }
    }
}

fn read_scalar(
    scalar: ScalarType,
    json: &str,
    unit: Option<TimeUnit>,
) -> Result<Value, ValueError> {
    let wrong = |expected: &str| error(json, expected);
    match scalar {
        ScalarType::Bool => match json {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(wrong("bool (true or false)")),
        },
        ScalarType::Int32 => integer(json)
            .and_then(|value| i32::try_from(value).ok())
            .map(Value::Int32)
            .ok_or_else(|| wrong("int32")),
        ScalarType::Int64 => integer(json).map(Value::Int64).ok_or_else(|| wrong("int64")),
        ScalarType::Float32 => number(json)
            .map(|value| value as f32)
            .filter(|value| value.is_finite())
            .map(Value::Float32)
            .ok_or_else(|| wrong("float32 (finite, at most 3.4028235e38)")),
        ScalarType::Float64 => number(json)
            .filter(|value| value.is_finite())
            .map(Value::Float64)
            .ok_or_else(|| wrong("float64 (finite)")),
        ScalarType::String => {
            string(json).map(|text| Value::String(text.into())).ok_or_else(|| wrong("string"))
        }
        ScalarType::Bytes => string(json)
            .and_then(|text| STANDARD.decode(text).ok())
            .map(|bytes| Value::Bytes(bytes.into()))
            .ok_or_else(|| wrong("bytes (a base64 string)")),
        ScalarType::Timestamp => read_time(json, unit).map(Value::Timestamp),
    }
}

/// Reads the JSON text of a time: RFC 3339, or an integer in `unit` (microseconds if none is
/// declared; fractions where it is seconds).
///
/// # Errors
/// Neither, or a bare integer that looks like seconds.
pub fn read_time(json: &str, unit: Option<TimeUnit>) -> Result<EventTime, ValueError> {
    let because = |reason: String| error(json, &format!("timestamp ({reason})"));
    if let Some(text) = string(json) {
        return EventTime::parse(&text).map_err(|reason| because(reason.to_string()));
    }
    if let Some(value) = integer(json) {
        return EventTime::from_integer(value, unit).map_err(|reason| because(reason.to_string()));
    }
    let micros = number(json).filter(|_| unit == Some(TimeUnit::Second)).map(|s| (s * 1e6).round());
    let micros = micros.filter(|micros| micros.abs() < EXACT_IN_DOUBLE);
    micros
        .and_then(|micros| EventTime::written(micros as i64))
        .ok_or_else(|| because("RFC 3339, or an integer number of microseconds".to_owned()))
}

fn read_array(
    element: ScalarType,
    length: Option<u32>,
    json: &str,
    unit: Option<TimeUnit>,
) -> Result<Value, ValueError> {
    let expected = || FeatureType::Array { element, length }.to_string();
    let elements: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|_| error(json, &expected()))?;
    if let Some(length) = length
        && elements.len() != length as usize
    {
        let found = format!("an array of {} elements", elements.len());
        return Err(ValueError { found, expected: expected() });
    }
    let mut array = ArrayBuilder::new(element);
    for (index, raw) in elements.into_iter().enumerate() {
        let value = read_scalar(element, raw.get(), unit).map_err(|e| ValueError {
            found: format!("{} at element {index}", e.found),
            expected: e.expected,
        })?;
        array.push(value.borrowed());
    }
    Ok(Value::Array(array.finish()))
}

fn error(json: &str, expected: &str) -> ValueError {
    ValueError { found: shorten(json), expected: expected.to_owned() }
}

/// The first characters of a text, with an ellipsis where there are more.
pub fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(FOUND_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn is_number(json: &str) -> bool {
    // Rust reads "inf", "nan" and "+1" as floats; JSON does not.
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && !json.contains(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E')
}

fn number(json: &str) -> Option<f64> {
    is_number(json).then(|| json.parse().ok()).flatten()
}

fn integer(json: &str) -> Option<i64> {
    if !is_number(json) {
        return None;
    }
    json.parse().ok().or_else(|| {
        // pandas writes integers as 30.0 once a column has gaps.
        let float: f64 = json.parse().ok()?;
        (float.fract() == 0.0 && float.abs() <= EXACT_IN_DOUBLE).then_some(float as i64)
    })
}

fn string(json: &str) -> Option<String> {
    json.starts_with('"').then(|| serde_json::from_str(json).ok()).flatten()
}

/// Appends the JSON of a value.
pub fn write(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Bool(value) => {
            out.extend_from_slice(if value { b"true".as_slice() } else { b"false" });
        }
        ValueRef::Int32(value) => {
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        ValueRef::Int64(value) => {
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        ValueRef::Float32(value) => {
            out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        }
        ValueRef::Float64(value) => {
            out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        }
        ValueRef::String(value) => write_string(value, out),
        ValueRef::Bytes(value) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(value).as_bytes());
            out.push(b'"');
        }
        ValueRef::Timestamp(value) => write_time(value, out),
        ValueRef::Array(array) => {
            out.push(b'[');
            for (index, element) in array.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
    }
}

/// Appends a JSON string.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory cannot fail");
}

/// Appends an instant as a JSON string, RFC 3339 in UTC with microseconds.
pub fn write_time(time: EventTime, out: &mut Vec<u8>) {
    out.push(b'"');
    time.write_to(out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_by_their_type() {
        let check = |text: &str, json: &str, expected: Option<&str>| {
            let read = read(FeatureType::parse(text).unwrap(), json, None);
            let written = read.ok().map(|cell| match cell {
                Cell::Value(value) => {
                    let mut out = Vec::new();
                    write(value.borrowed(), &mut out);
                    String::from_utf8(out).unwrap()
                }
                Cell::Null => "null".to_owned(),
                Cell::Absent => unreachable!(),
            });
            assert_eq!(written.as_deref(), expected, "{text} {json}");
        };
        check("int32", "30", Some("30"));
        check("int32", "30.0", Some("30"));
        check("int32", "30.5", None);
        check("int32", "2147483648", None);
        check("int32", "\"ten\"", None);
        check("int32", "true", None);
        check("int64", "9223372036854775807", Some("9223372036854775807"));
        check("int64", "9223372036854775808", None);
        check("int64", "-9223372036854775808", Some("-9223372036854775808"));
        check("int64", "1e3", Some("1000"));
        check("int64", "1e300", None);
        check("float32", "1e39", None);
        check("float32", "3.4e38", Some("3.4e+38"));
        check("float64", "1e400", None);
        check("float64", "NaN", None);
        check("float64", "inf", None);
        check("float64", "-0.0", Some("-0.0"));
        check("float64", "5", Some("5.0"));
        check("float64", "\"5\"", None);
        check("bool", "1", None);
        check("bool", "true", Some("true"));
        check("string", "\"a\\\"b\"", Some("\"a\\\"b\""));
        check("string", "5", None);
        check("string", "null", Some("null"));
        check("bytes", "\"AQI=\"", Some("\"AQI=\""));
        check("bytes", "\"not base64!\"", None);
        check("timestamp", "\"2026-01-31T12:00:00Z\"", Some("\"2026-01-31T12:00:00.000000Z\""));
        check("timestamp", "1769860800000000", Some("\"2026-01-31T12:00:00.000000Z\""));
        check("timestamp", "1769860800", None);
        check("timestamp", "1.5", None);
        check("float32[2]", "[1.5,2]", Some("[1.5,2.0]"));
        check("float32[2]", "[1.5]", None);
        check("float32[2]", "[1.5,null]", None);
        check("string[]", "[]", Some("[]"));
        check("string[]", "[\"a\",\"\"]", Some("[\"a\",\"\"]"));
        check("int64[]", "{}", None);
        check("int64[]", "5", None);
    }

    #[test]
    fn seconds_may_have_fractions() {
        let read = |json| read_time(json, Some(TimeUnit::Second)).map(EventTime::micros);
        assert_eq!(read("1769860800.25"), Ok(1_769_860_800_250_000));
        assert_eq!(read("5"), Ok(5_000_000));
        assert!(read("1e300").is_err());
        assert!(read("253402207200.5").is_err());
        assert!(read("-9007199254.5").is_ok());
    }
}
