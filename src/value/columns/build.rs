//! Builds Arrow arrays of feature values.
//!
//! It does not know where the values come from, nor where the columns go.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeListBuilder, Float32Builder,
    Float64Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::DataType;

use crate::value::cell::ValueRef;
use crate::value::types::{FeatureType, ScalarType};

/// Name of the zone of all timestamps.
pub const UTC: &str = "UTC";

/// Builds the column of one feature, value by value.
pub struct ColumnBuilder(Values);

enum Values {
    Scalar(Scalars),
    List(Box<ListBuilder<Scalars>>),
    Fixed(Box<FixedSizeListBuilder<Scalars>>, u32),
}

impl ColumnBuilder {
    /// An empty column with room for so many rows.
    pub fn new(feature_type: FeatureType, rows: usize) -> Self {
        Self(Values::new(feature_type, rows))
    }

    /// Adds a value, or null; a value of another type counts as null.
    pub fn push(&mut self, value: Option<ValueRef<'_>>) {
        self.0.push(value);
    }

    /// The column; the builder is empty again.
    pub fn finish(&mut self) -> ArrayRef {
        self.0.finish()
    }
}

/// The Arrow type of the columns that [`ColumnBuilder`] builds for a feature.
pub fn arrow_type(feature_type: FeatureType) -> DataType {
    ColumnBuilder::new(feature_type, 0).finish().data_type().clone()
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
