//! Values and cells: what a row holds for one feature, owned or borrowed from an archived row.
//!
//! It does not know which feature a cell belongs to.

use crate::time::EventTime;
use crate::value::types::{FeatureType, ScalarType};

/// What a row says of one feature.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// Nothing: the value before it stands.
    Absent,
    /// Null, which is a value: it replaces the one before.
    Null,
    /// A value of the feature's type.
    Value(Value),
}

/// A [`Cell`] that borrows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum CellRef<'a> {
    /// Nothing: the value before it stands.
    Absent,
    /// Null, which is a value.
    Null,
    /// A value of the feature's type.
    Value(ValueRef<'a>),
}

impl Cell {
    /// The same, borrowed.
    pub fn borrowed(&self) -> CellRef<'_> {
        match self {
            Self::Absent => CellRef::Absent,
            Self::Null => CellRef::Null,
            Self::Value(value) => CellRef::Value(value.borrowed()),
        }
    }
}

/// One value. Invariant: floats are finite, array bytes are well formed (see [`ArrayRef`]).
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// true or false
    Bool(bool),
    /// 32-bit signed integer
    Int32(i32),
    /// 64-bit signed integer
    Int64(i64),
    /// Finite single
    Float32(f32),
    /// Finite double
    Float64(f64),
    /// UTF-8 text
    String(Box<str>),
    /// Bytes
    Bytes(Box<[u8]>),
    /// An instant
    Timestamp(EventTime),
    /// An array
    Array(Array),
}

/// A [`Value`] that borrows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ValueRef<'a> {
    /// true or false
    Bool(bool),
    /// 32-bit signed integer
    Int32(i32),
    /// 64-bit signed integer
    Int64(i64),
    /// Finite single
    Float32(f32),
    /// Finite double
    Float64(f64),
    /// UTF-8 text
    String(&'a str),
    /// Bytes
    Bytes(&'a [u8]),
    /// An instant
    Timestamp(EventTime),
    /// An array
    Array(ArrayRef<'a>),
}

impl Value {
    /// The same, borrowed.
    pub fn borrowed(&self) -> ValueRef<'_> {
        match self {
            Self::Bool(value) => ValueRef::Bool(*value),
            Self::Int32(value) => ValueRef::Int32(*value),
            Self::Int64(value) => ValueRef::Int64(*value),
            Self::Float32(value) => ValueRef::Float32(*value),
            Self::Float64(value) => ValueRef::Float64(*value),
            Self::String(value) => ValueRef::String(value),
            Self::Bytes(value) => ValueRef::Bytes(value),
            Self::Timestamp(value) => ValueRef::Timestamp(*value),
            Self::Array(array) => ValueRef::Array(array.borrowed()),
        }
    }

    /// Whether this is a value of `feature_type`, fixed lengths included.
    pub fn is(&self, feature_type: FeatureType) -> bool {
        self.borrowed().is(feature_type)
    }
}

impl ValueRef<'_> {
    /// A copy that owns its bytes.
    pub fn to_owned(self) -> Value {
        match self {
            Self::Bool(value) => Value::Bool(value),
            Self::Int32(value) => Value::Int32(value),
            Self::Int64(value) => Value::Int64(value),
            Self::Float32(value) => Value::Float32(value),
            Self::Float64(value) => Value::Float64(value),
            Self::String(value) => Value::String(value.into()),
            Self::Bytes(value) => Value::Bytes(value.into()),
            Self::Timestamp(value) => Value::Timestamp(value),
            Self::Array(array) => Value::Array(Array {
                element: array.element,
                count: array.count,
                bytes: array.bytes.into(),
            }),
        }
    }

    /// Whether this is a value of `feature_type`, fixed lengths included.
    pub fn is(self, feature_type: FeatureType) -> bool {
        match (self, feature_type) {
            (Self::Array(array), FeatureType::Array { element, length }) => {
                array.element == element && length.is_none_or(|length| length == array.count)
            }
            (_, FeatureType::Array { .. }) => false,
            (value, FeatureType::Scalar(scalar)) => value.scalar_type() == Some(scalar),
        }
    }

    /// The bytes of a text, of bytes or of an array, of which each value has its own number.
    pub fn loose_bytes(self) -> usize {
        match self {
            Self::String(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Array(array) => array.bytes.len(),
            _ => 0,
        }
    }

    fn scalar_type(self) -> Option<ScalarType> {
        match self {
            Self::Bool(_) => Some(ScalarType::Bool),
            Self::Int32(_) => Some(ScalarType::Int32),
            Self::Int64(_) => Some(ScalarType::Int64),
            Self::Float32(_) => Some(ScalarType::Float32),
            Self::Float64(_) => Some(ScalarType::Float64),
            Self::String(_) => Some(ScalarType::String),
            Self::Bytes(_) => Some(ScalarType::Bytes),
            Self::Timestamp(_) => Some(ScalarType::Timestamp),
            Self::Array(_) => None,
        }
    }
}

/// An array that owns its bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    element: ScalarType,
    count: u32,
    bytes: Box<[u8]>,
}

impl Array {
    /// The same, borrowed.
    pub fn borrowed(&self) -> ArrayRef<'_> {
        ArrayRef { element: self.element, count: self.count, bytes: &self.bytes }
    }
}

/// A borrowed array. Elements of fixed width lie one after another, little-endian; strings and
/// bytes each follow their length (`u32`, little-endian).
///
/// Invariant: `bytes` hold exactly `count` elements; strings are UTF-8, floats finite.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ArrayRef<'a> {
    element: ScalarType,
    count: u32,
    bytes: &'a [u8],
}

impl<'a> ArrayRef<'a> {
    /// Reads `bytes` as elements of `element`; none if they are not well formed.
    pub fn read(element: ScalarType, bytes: &'a [u8]) -> Option<Self> {
        let count = match element.fixed_width() {
            Some(width) if bytes.len().is_multiple_of(width) => bytes.len() / width,
            Some(_) => return None,
            None => Elements { element, rest: bytes }.try_fold(0_usize, |n, _| Some(n + 1))?,
        };
        let array = Self { element, count: u32::try_from(count).ok()?, bytes };
        let whole = array.iter().count() == count && array.iter().consumed() == bytes.len();
        whole.then_some(array)
    }

    /// The type of each element.
    pub fn element(self) -> ScalarType {
        self.element
    }

    /// Number of elements.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The elements as they are stored.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The elements in order.
    pub fn iter(self) -> Elements<'a> {
        Elements { element: self.element, rest: self.bytes }
    }
}

/// The elements of an array in order; ends early at bytes that are not well formed.
pub struct Elements<'a> {
    element: ScalarType,
    rest: &'a [u8],
}

impl Elements<'_> {
    /// How many bytes a full walk reads.
    fn consumed(mut self) -> usize {
        let all = self.rest.len();
        while self.next().is_some() {}
        all - self.rest.len()
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<ValueRef<'a>> {
        let (head, rest) = match self.element.fixed_width() {
            Some(width) => self.rest.split_at_checked(width)?,
            None => {
                let (length, rest) = self.rest.split_first_chunk::<4>()?;
                rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?
            }
        };
        let value = read_scalar(self.element, head)?;
        self.rest = rest;
        Some(value)
    }
}

/// Reads one scalar from exactly its bytes; none if they are no such value.
#[inline]
pub fn read_scalar(scalar: ScalarType, bytes: &[u8]) -> Option<ValueRef<'_>> {
    Some(match scalar {
        ScalarType::Bool => match bytes {
            [0] => ValueRef::Bool(false),
            [1] => ValueRef::Bool(true),
            _ => return None,
        },
        ScalarType::Int32 => ValueRef::Int32(i32::from_le_bytes(bytes.try_into().ok()?)),
        ScalarType::Int64 => ValueRef::Int64(i64::from_le_bytes(bytes.try_into().ok()?)),
        ScalarType::Float32 => {
            let value = f32::from_le_bytes(bytes.try_into().ok()?);
            ValueRef::Float32(value.is_finite().then_some(value)?)
        }
        ScalarType::Float64 => {
            let value = f64::from_le_bytes(bytes.try_into().ok()?);
            ValueRef::Float64(value.is_finite().then_some(value)?)
        }
        ScalarType::String => ValueRef::String(std::str::from_utf8(bytes).ok()?),
        ScalarType::Bytes => ValueRef::Bytes(bytes),
        ScalarType::Timestamp => {
            let micros = i64::from_le_bytes(bytes.try_into().ok()?);
            ValueRef::Timestamp(EventTime::from_micros(micros))
        }
    })
}

/// Appends a scalar's bytes, as [`read_scalar`] reads them. Arrays write their elements.
pub fn write_bytes(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Bool(value) => out.push(u8::from(value)),
        ValueRef::Int32(value) => out.extend_from_slice(&value.to_le_bytes()),
        ValueRef::Int64(value) => out.extend_from_slice(&value.to_le_bytes()),
        ValueRef::Float32(value) => out.extend_from_slice(&value.to_le_bytes()),
        ValueRef::Float64(value) => out.extend_from_slice(&value.to_le_bytes()),
        ValueRef::String(value) => out.extend_from_slice(value.as_bytes()),
        ValueRef::Bytes(value) => out.extend_from_slice(value),
        ValueRef::Timestamp(value) => out.extend_from_slice(&value.micros().to_le_bytes()),
        ValueRef::Array(array) => out.extend_from_slice(array.bytes),
    }
}

/// Collects the elements of an array one by one.
pub struct ArrayBuilder {
    element: ScalarType,
    count: u32,
    bytes: Vec<u8>,
}

impl ArrayBuilder {
    /// An empty array of `element`.
    pub fn new(element: ScalarType) -> Self {
        Self { element, count: 0, bytes: Vec::new() }
    }

    /// Adds an element.
    ///
    /// # Panics
    /// If the value is not of the element's type.
    pub fn push(&mut self, value: ValueRef<'_>) {
        assert_eq!(value.scalar_type(), Some(self.element), "array element of another type");
        if self.element.fixed_width().is_none() {
            let length = match value {
                ValueRef::String(text) => text.len(),
                ValueRef::Bytes(bytes) => bytes.len(),
                _ => 0,
            };
            let length = u32::try_from(length).expect("a value is smaller than a request body");
            self.bytes.extend_from_slice(&length.to_le_bytes());
        }
        write_bytes(value, &mut self.bytes);
        self.count += 1;
    }

    /// Number of elements so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Begins another array of `element` in the same memory.
    pub fn start(&mut self, element: ScalarType) {
        self.element = element;
        self.count = 0;
        self.bytes.clear();
    }

    /// The array so far.
    pub fn borrowed(&self) -> ArrayRef<'_> {
        ArrayRef { element: self.element, count: self.count, bytes: &self.bytes }
    }

    /// The array.
    pub fn finish(self) -> Array {
        Array { element: self.element, count: self.count, bytes: self.bytes.into() }
    }
}
