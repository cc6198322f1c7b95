//! One Arrow array, brought to one of a few forms from which single values are read without
//! copying.
//!
//! It does not know names, nor what a value is wanted for; [`super`] does.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, GenericListArray, LargeBinaryArray,
    LargeStringArray, OffsetSizeTrait, StringArray, StringViewArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Float32Type, Float64Type, Int64Type,
    TimeUnit as ArrowTimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::error::ArrowError;

use crate::time::TimeUnit;

/// What the values of an array are, whatever their width and encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Null,
    Bool,
    Integer,
    Float,
    Text,
    Bytes,
    Time,
    List,
}

/// The kind of an Arrow type; none for types that hold no feature.
pub(super) fn kind(data_type: &DataType) -> Option<Kind> {
    use DataType as D;
    Some(match data_type {
        D::Null => Kind::Null,
        D::Boolean => Kind::Bool,
        D::Int8 | D::Int16 | D::Int32 | D::Int64 => Kind::Integer,
        D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => Kind::Integer,
        D::Float16 | D::Float32 | D::Float64 => Kind::Float,
        D::Utf8 | D::LargeUtf8 | D::Utf8View => Kind::Text,
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Kind::Bytes,
        D::Timestamp(..) | D::Date32 | D::Date64 => Kind::Time,
        D::Dictionary(_, values) => kind(values)?,
        D::List(_) | D::LargeList(_) | D::FixedSizeList(..) => Kind::List,
        _ => return None,
    })
}

/// The type of the elements of a list.
pub(super) fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

/// The values of one array.
pub(super) struct Physical {
    nulls: Option<NullBuffer>,
    pub(super) form: Form,
}

/// The forms they can have.
pub(super) enum Form {
    Null,
    Bool(BooleanBuffer),
    Integer(ScalarBuffer<i64>),
    Unsigned(ScalarBuffer<u64>),
    Single(ScalarBuffer<f32>),
    Double(ScalarBuffer<f64>),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    Bytes(BinaryArray),
    LargeBytes(LargeBinaryArray),
    BytesView(BinaryViewArray),
    Time(ScalarBuffer<i64>, TimeUnit),
    List(Box<Lists>),
}

/// The lists of a list array.
pub(super) struct Lists {
    /// Where each list starts and the last one ends, in the elements.
    pub(super) offsets: Vec<usize>,
    pub(super) elements: Physical,
}

impl Physical {
    /// Reads an array whose type has a [`kind`].
    pub(super) fn of(array: &ArrayRef) -> Result<Self, ArrowError> {
        use DataType as D;
        let form = match array.data_type() {
            D::Null => Form::Null,
            D::Boolean => Form::Bool(array.as_boolean().values().clone()),
            D::Int64 => Form::Integer(array.as_primitive::<Int64Type>().values().clone()),
            D::UInt64 => Form::Unsigned(array.as_primitive::<UInt64Type>().values().clone()),
            D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 | D::UInt32 => {
                return Self::of(&cast(array, &D::Int64)?);
            }
            D::Float16 => return Self::of(&cast(array, &D::Float32)?),
            D::Float32 => Form::Single(array.as_primitive::<Float32Type>().values().clone()),
            D::Float64 => Form::Double(array.as_primitive::<Float64Type>().values().clone()),
            D::Utf8 => Form::Text(array.as_string::<i32>().clone()),
            D::LargeUtf8 => Form::LargeText(array.as_string::<i64>().clone()),
            D::Utf8View => Form::TextView(array.as_string_view().clone()),
            D::Binary => Form::Bytes(array.as_binary::<i32>().clone()),
            D::LargeBinary => Form::LargeBytes(array.as_binary::<i64>().clone()),
            D::BinaryView => Form::BytesView(array.as_binary_view().clone()),
            D::FixedSizeBinary(_) => return Self::of(&cast(array, &D::Binary)?),
            D::Timestamp(..) | D::Date32 | D::Date64 => times(array),
            D::Dictionary(_, values) => return Self::of(&cast(array, values)?),
            D::List(_) => lists(array.as_list::<i32>())?,
            D::LargeList(_) => lists(array.as_list::<i64>())?,
            D::FixedSizeList(..) => {
                let array = array.as_fixed_size_list();
                let length = usize::try_from(array.value_length()).unwrap_or(0);
                let offsets = (0..=array.len()).map(|row| row * length).collect();
                let elements = Self::of(array.values())?;
                Form::List(Box::new(Lists { offsets, elements }))
            }
            other => {
                let message = format!("{other} holds no feature values");
                return Err(ArrowError::NotYetImplemented(message));
            }
        };
        Ok(Self { nulls: array.nulls().cloned(), form })
    }

    /// Whether the value at `row` is null.
    pub(super) fn is_null(&self, row: usize) -> bool {
        matches!(self.form, Form::Null) || self.nulls.as_ref().is_some_and(|n| n.is_null(row))
    }

    /// Number of values that are NaN, those of nulls not counted.
    pub(super) fn nans(&self) -> u64 {
        let count = |nan: &dyn Fn(usize) -> bool, length: usize| {
            (0..length).filter(|row| nan(*row) && !self.is_null(*row)).count() as u64
        };
        match &self.form {
            Form::Single(values) => count(&|row| values[row].is_nan(), values.len()),
            Form::Double(values) => count(&|row| values[row].is_nan(), values.len()),
            _ => 0,
        }
    }
}

fn times(array: &ArrayRef) -> Form {
    let unit = |unit: &ArrowTimeUnit| match unit {
        ArrowTimeUnit::Second => TimeUnit::Second,
        ArrowTimeUnit::Millisecond => TimeUnit::Millisecond,
        ArrowTimeUnit::Microsecond => TimeUnit::Microsecond,
        ArrowTimeUnit::Nanosecond => TimeUnit::Nanosecond,
    };
    let (values, unit) = match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().values();
            let seconds = days.iter().map(|day| i64::from(*day) * 86_400).collect();
            (seconds, TimeUnit::Second)
        }
        DataType::Date64 => {
            (array.as_primitive::<Date64Type>().values().clone(), TimeUnit::Millisecond)
        }
        DataType::Timestamp(of, _) => {
            let values = match of {
                ArrowTimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
                ArrowTimeUnit::Millisecond => {
                    array.as_primitive::<TimestampMillisecondType>().values()
                }
                ArrowTimeUnit::Microsecond => {
                    array.as_primitive::<TimestampMicrosecondType>().values()
                }
                ArrowTimeUnit::Nanosecond => {
                    array.as_primitive::<TimestampNanosecondType>().values()
                }
            };
            (values.clone(), unit(of))
        }
        _ => unreachable!("called for times only"),
    };
    Form::Time(values, unit)
}

fn lists<O: OffsetSizeTrait>(array: &GenericListArray<O>) -> Result<Form, ArrowError> {
    let offsets = array.value_offsets().iter().map(|offset| offset.as_usize()).collect();
    let elements = Physical::of(array.values())?;
    Ok(Form::List(Box::new(Lists { offsets, elements })))
}
