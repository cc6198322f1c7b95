//! Reads the columns of Arrow record batches (so of Parquet too) as entity keys, times and features
//! of a view.
//!
//! It does not know files, requests or views; names and types are passed in.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

use crate::time::{EventTime, TimeUnit};
use crate::value::cell::{ArrayBuilder, CellRef, ValueRef};
use crate::value::json::{ValueError, shorten};
use crate::value::key::{self, KeyPart};
use crate::value::types::{FeatureType, KeyType, ScalarType};

pub mod build;

mod physical;

use physical::{Form, Kind, Lists, Physical};

/// Beyond this a double does not tell neighbouring integers apart.
const EXACT_IN_DOUBLE: f64 = 9_007_199_254_740_992.0;

/// What a reader looks for in a schema.
pub struct Wanted<'a> {
    /// Columns of the entity's join keys, in its order.
    pub keys: Vec<(&'a str, KeyType)>,
    /// Column of the event time.
    pub time: Option<&'a str>,
    /// Column of the arrival time.
    pub arrival: Option<&'a str>,
    /// Unit of these columns where they hold integers; microseconds if none is declared.
    pub time_unit: Option<TimeUnit>,
    /// Features that may be there. Columns that are not leave their feature absent.
    pub features: Vec<(&'a str, FeatureType)>,
}

/// What a NaN in a scalar column stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nan {
    /// Null; [`Rows::nans`] counts them.
    Null,
    /// A mistake.
    Refuse,
}

/// A column that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: found {found}, expected {expected}")]
pub struct ColumnError {
    /// Its name.
    pub column: String,
    /// Its Arrow type, or that it is missing.
    pub found: String,
    /// What can be read.
    pub expected: String,
}

/// Knows where in a schema everything wanted stands. Made once per file or stream.
pub struct ColumnReader {
    keys: Vec<(usize, KeyType)>,
    time: Option<usize>,
    arrival: Option<usize>,
    time_unit: Option<TimeUnit>,
    features: Vec<Found>,
    unused: Vec<String>,
    nan: Nan,
}

/// A feature that the schema has.
struct Found {
    column: usize,
    feature: usize,
    feature_type: FeatureType,
}

impl ColumnReader {
    /// Finds what is wanted.
    ///
    /// # Errors
    /// Every column that is missing (keys, time), there twice, or of a type that cannot be read as
    /// what is wanted.
    pub fn new(schema: &Schema, wanted: &Wanted<'_>, nan: Nan) -> Result<Self, Vec<ColumnError>> {
        let mut search =
            Search { schema, used: vec![false; schema.fields().len()], errors: vec![] };
        let mut keys = Vec::with_capacity(wanted.keys.len());
        for (name, key_type) in &wanted.keys {
            let fits = |data_type: &DataType| key_fits(*key_type, data_type);
            keys.extend(search.required(name, key_type.name(), fits).map(|at| (at, *key_type)));
        }
        let mut instants = |name| search.required(name, "timestamp", time_fits);
        let (time, arrival) =
            (wanted.time.and_then(&mut instants), wanted.arrival.and_then(instants));
        let mut features = Vec::new();
        for (index, (name, feature_type)) in wanted.features.iter().enumerate() {
            let fits = |data_type: &DataType| feature_fits(*feature_type, data_type);
            if let Some(column) = search.optional(name, &feature_type.to_string(), fits) {
                features.push(Found { column, feature: index, feature_type: *feature_type });
            }
        }
        if !search.errors.is_empty() {
            return Err(search.errors);
        }
        let fields = schema.fields().iter().zip(&search.used);
        let unused = fields.filter(|(_, used)| !**used).map(|(field, _)| field.name().clone());
        let unused = unused.collect();
        Ok(Self { keys, time, arrival, time_unit: wanted.time_unit, features, unused, nan })
    }

    /// Columns that nothing wanted.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// For each feature column that is there, its place in [`Wanted::features`].
    pub fn features(&self) -> impl ExactSizeIterator<Item = usize> {
        self.features.iter().map(|found| found.feature)
    }

    /// Takes hold of the columns of a batch of the schema.
    ///
    /// # Errors
    /// The batch is not of the schema, or Arrow cannot decode a column.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Rows<'_>, ArrowError> {
        let physical = |index: usize| match batch.columns().get(index) {
            Some(array) => Physical::of(array),
            None => Err(ArrowError::SchemaError(format!("a batch without column {index}"))),
        };
        let features: Vec<Physical> =
            self.features.iter().map(|found| physical(found.column)).collect::<Result<_, _>>()?;
        let nans = features.iter().map(Physical::nans).sum();
        Ok(Rows {
            reader: self,
            count: batch.num_rows(),
            keys: self.keys.iter().map(|(at, _)| physical(*at)).collect::<Result<_, _>>()?,
            time: self.time.map(physical).transpose()?,
            arrival: self.arrival.map(physical).transpose()?,
            features,
            nans,
        })
    }
}

struct Search<'a> {
    schema: &'a Schema,
    used: Vec<bool>,
    errors: Vec<ColumnError>,
}

impl Search<'_> {
    fn required(
        &mut self,
        name: &str,
        expected: &str,
        fits: impl Fn(&DataType) -> bool,
    ) -> Option<usize> {
        let before = self.errors.len();
        let found = self.optional(name, expected, fits);
        if found.is_none() && self.errors.len() == before {
            self.refuse(name, "no such column", expected);
        }
        found
    }

    fn optional(
        &mut self,
        name: &str,
        expected: &str,
        fits: impl Fn(&DataType) -> bool,
    ) -> Option<usize> {
        let mut places = (0..self.used.len()).filter(|at| self.schema.field(*at).name() == name);
        let column = places.next()?;
        if places.next().is_some() {
            self.refuse(name, "two columns of that name", expected);
            return None;
        }
        self.used[column] = true;
        let data_type = self.schema.field(column).data_type();
        if !fits(data_type) {
            self.refuse(name, &data_type.to_string(), expected);
            return None;
        }
        Some(column)
    }

    fn refuse(&mut self, column: &str, found: &str, expected: &str) {
        self.errors.push(ColumnError {
            column: column.to_owned(),
            found: shorten(found),
            expected: expected.to_owned(),
        });
    }
}

fn key_fits(key_type: KeyType, data_type: &DataType) -> bool {
    match physical::kind(data_type) {
        Some(Kind::Integer | Kind::Text) => true,
        Some(Kind::Float) => key_type != KeyType::String,
        _ => false,
    }
}

fn time_fits(data_type: &DataType) -> bool {
    matches!(physical::kind(data_type), Some(Kind::Time | Kind::Integer | Kind::Text))
}

fn feature_fits(feature_type: FeatureType, data_type: &DataType) -> bool {
    match (feature_type, physical::kind(data_type)) {
        (_, Some(Kind::Null)) => true,
        (FeatureType::Scalar(scalar), Some(kind)) => scalar_fits(scalar, kind),
        (FeatureType::Array { element, .. }, Some(Kind::List)) => {
            let kind = physical::element(data_type).and_then(physical::kind);
            kind.is_some_and(|kind| kind == Kind::Null || scalar_fits(element, kind))
        }
        _ => false,
    }
}

fn scalar_fits(scalar: ScalarType, kind: Kind) -> bool {
    match scalar {
        ScalarType::Bool => kind == Kind::Bool,
        ScalarType::Int32 | ScalarType::Int64 | ScalarType::Float32 | ScalarType::Float64 => {
            matches!(kind, Kind::Integer | Kind::Float)
        }
        ScalarType::String => kind == Kind::Text,
        ScalarType::Bytes => kind == Kind::Bytes,
        ScalarType::Timestamp => matches!(kind, Kind::Time | Kind::Integer | Kind::Text),
    }
}

/// The rows of one record batch.
pub struct Rows<'r> {
    reader: &'r ColumnReader,
    count: usize,
    keys: Vec<Physical>,
    time: Option<Physical>,
    arrival: Option<Physical>,
    features: Vec<Physical>,
    nans: u64,
}

impl Rows<'_> {
    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of NaNs in scalar feature columns, which [`Nan::Null`] reads as null.
    pub fn nans(&self) -> u64 {
        self.nans
    }

    /// Appends the entity key of a row.
    ///
    /// # Errors
    /// The place in [`Wanted::keys`] and what is wrong with it: null, or not of its type.
    pub fn key(&self, row: usize, out: &mut Vec<u8>) -> Result<(), (usize, ValueError)> {
        for (index, column) in self.keys.iter().enumerate() {
            let (_, key_type) = self.reader.keys[index];
            append_part(column, row, key_type, out).map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// The event time of a row; none if no time column was wanted.
    ///
    /// # Errors
    /// Null, not RFC 3339, or an integer that looks like seconds.
    pub fn time(&self, row: usize) -> Result<Option<EventTime>, ValueError> {
        self.instant(self.time.as_ref(), row)
    }

    /// The arrival time of a row, as [`Self::time`].
    ///
    /// # Errors
    /// As there.
    pub fn arrival(&self, row: usize) -> Result<Option<EventTime>, ValueError> {
        self.instant(self.arrival.as_ref(), row)
    }

    fn instant(
        &self,
        column: Option<&Physical>,
        row: usize,
    ) -> Result<Option<EventTime>, ValueError> {
        let Some(column) = column else { return Ok(None) };
        match instant(column, row, self.reader.time_unit)? {
            Some(time) => Ok(Some(time)),
            None => Err(refuse("null", "timestamp")),
        }
    }

    /// The cell of a row in the feature column at `column`, counted as
    /// [`ColumnReader::features`] does. `array` holds the elements where it is an array.
    ///
    /// # Errors
    /// Out of the type's range, not finite, a fractional number for an integer, an array of
    /// another length or with nulls in it.
    pub fn cell<'a>(
        &'a self,
        column: usize,
        row: usize,
        array: &'a mut ArrayBuilder,
    ) -> Result<CellRef<'a>, ValueError> {
        let values = &self.features[column];
        if values.is_null(row) {
            return Ok(CellRef::Null);
        }
        match self.reader.features[column].feature_type {
            FeatureType::Scalar(scalar) => match read_scalar(values, scalar, row)? {
                Read::Value(value) => Ok(CellRef::Value(value)),
                Read::Nan if self.reader.nan == Nan::Null => Ok(CellRef::Null),
                Read::Nan => Err(refuse("NaN", scalar.name())),
            },
            FeatureType::Array { element, length } => {
                let Form::List(lists) = &values.form else { return Ok(CellRef::Null) };
                read_list(lists, row, (element, length), array)?;
                Ok(CellRef::Value(ValueRef::Array(array.borrowed())))
            }
        }
    }
}

/// One value as it was read.
enum Read<'a> {
    Value(ValueRef<'a>),
    Nan,
}

fn refuse(found: impl ToString, expected: impl ToString) -> ValueError {
    ValueError { found: shorten(&found.to_string()), expected: expected.to_string() }
}

fn read_scalar(column: &Physical, scalar: ScalarType, row: usize) -> Result<Read<'_>, ValueError> {
    let value = match scalar {
        ScalarType::Bool => match &column.form {
            Form::Bool(values) => ValueRef::Bool(values.value(row)),
            _ => return Err(refuse("another type", scalar)),
        },
        ScalarType::Int32 => match integer(column, row, scalar)? {
            Some(value) => match i32::try_from(value) {
                Ok(value) => ValueRef::Int32(value),
                Err(_) => return Err(refuse(value, scalar)),
            },
            None => return Ok(Read::Nan),
        },
        ScalarType::Int64 => match integer(column, row, scalar)? {
            Some(value) => ValueRef::Int64(value),
            None => return Ok(Read::Nan),
        },
        ScalarType::Float32 | ScalarType::Float64 => return float(column, row, scalar),
        ScalarType::String => match text(column, row) {
            Some(value) => ValueRef::String(value),
            None => return Err(refuse("another type", scalar)),
        },
        ScalarType::Bytes => ValueRef::Bytes(match &column.form {
            Form::Bytes(values) => values.value(row),
            Form::LargeBytes(values) => values.value(row),
            Form::BytesView(values) => values.value(row),
            _ => return Err(refuse("another type", scalar)),
        }),
        ScalarType::Timestamp => match instant(column, row, None)? {
            Some(time) => ValueRef::Timestamp(time),
            None => return Err(refuse("null", scalar)),
        },
    };
    Ok(Read::Value(value))
}

/// The integer at `row`; none for NaN.
fn integer(
    column: &Physical,
    row: usize,
    expected: impl ToString,
) -> Result<Option<i64>, ValueError> {
    let float = match &column.form {
        Form::Integer(values) => return Ok(Some(values[row])),
        Form::Unsigned(values) => {
            let value = values[row];
            return i64::try_from(value).map(Some).map_err(|_| refuse(value, expected));
        }
        Form::Single(values) => f64::from(values[row]),
        Form::Double(values) => values[row],
        _ => return Err(refuse("another type", expected)),
    };
    if float.is_nan() {
        return Ok(None);
    }
    if float.fract() != 0.0 || float.abs() > EXACT_IN_DOUBLE {
        return Err(refuse(float, expected));
    }
    Ok(Some(float as i64))
}

fn float(column: &Physical, row: usize, scalar: ScalarType) -> Result<Read<'_>, ValueError> {
    let value = match &column.form {
        Form::Single(values) => f64::from(values[row]),
        Form::Double(values) => values[row],
        Form::Integer(values) => values[row] as f64,
        Form::Unsigned(values) => values[row] as f64,
        _ => return Err(refuse("another type", scalar)),
    };
    if value.is_nan() {
        return Ok(Read::Nan);
    }
    let stored = match scalar {
        ScalarType::Float32 => Some(value as f32).filter(|v| v.is_finite()).map(ValueRef::Float32),
        _ => Some(value).filter(|v| v.is_finite()).map(ValueRef::Float64),
    };
    let expected = || format!("{scalar} (finite)");
    stored.map(Read::Value).ok_or_else(|| refuse(value, expected()))
}

fn text(column: &Physical, row: usize) -> Option<&str> {
    Some(match &column.form {
        Form::Text(values) => values.value(row),
        Form::LargeText(values) => values.value(row),
        Form::TextView(values) => values.value(row),
        _ => return None,
    })
}

/// The instant at `row`; none for null.
fn instant(
    column: &Physical,
    row: usize,
    unit: Option<TimeUnit>,
) -> Result<Option<EventTime>, ValueError> {
    if column.is_null(row) {
        return Ok(None);
    }
    let because = |found: &str, reason: String| refuse(found, format!("timestamp ({reason})"));
    let (value, unit) = match &column.form {
        Form::Time(values, unit) => (values[row], Some(*unit)),
        Form::Integer(values) => (values[row], unit),
        _ => {
            if let Some(text) = text(column, row) {
                let parsed = EventTime::parse(text);
                return parsed.map(Some).map_err(|error| because(text, error.to_string()));
            }
            match integer(column, row, "timestamp")? {
                Some(value) => (value, unit),
                None => return Ok(None),
            }
        }
    };
    let time = EventTime::from_integer(value, unit);
    time.map(Some).map_err(|error| because(&value.to_string(), error.to_string()))
}

fn append_part(
    column: &Physical,
    row: usize,
    key_type: KeyType,
    out: &mut Vec<u8>,
) -> Result<(), ValueError> {
    if column.is_null(row) {
        return Err(refuse("null", key_type));
    }
    let part = match text(column, row) {
        Some(text) => key::part_of_text(key_type, text),
        None => match integer(column, row, key_type)? {
            Some(value) if key_type == KeyType::String => {
                Ok(KeyPart::Text(Cow::Owned(value.to_string())))
            }
            Some(value) => Ok(KeyPart::Integer(value)),
            None => return Err(refuse("NaN", key_type)),
        },
    };
    let appended = part.and_then(|part| key::append_part(out, key_type, &part));
    appended.map_err(|error| refuse(error, key_type))
}

fn read_list(
    lists: &Lists,
    row: usize,
    (element, length): (ScalarType, Option<u32>),
    array: &mut ArrayBuilder,
) -> Result<(), ValueError> {
    let expected = || FeatureType::Array { element, length };
    let (start, end) = (lists.offsets[row], lists.offsets[row + 1]);
    if length.is_some_and(|length| end - start != length as usize) {
        return Err(refuse(format!("an array of {} elements", end - start), expected()));
    }
    array.start(element);
    for at in start..end {
        let found = |what: &str| refuse(format!("{what} at element {}", at - start), expected());
        if lists.elements.is_null(at) {
            return Err(found("null"));
        }
        match read_scalar(&lists.elements, element, at) {
            Ok(Read::Value(value)) => array.push(value),
            Ok(Read::Nan) => return Err(found("NaN")),
            Err(error) => return Err(found(&error.found)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
