//! The types of features and of join keys, as definitions write them.
//!
//! It does not know values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;

/// The type of a single value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScalarType {
    /// true or false
    Bool,
    /// 32-bit signed integer
    Int32,
    /// 64-bit signed integer
    Int64,
    /// IEEE 754 single, finite
    Float32,
    /// IEEE 754 double, finite
    Float64,
    /// UTF-8 text
    String,
    /// Bytes; base64 in JSON
    Bytes,
    /// Microseconds since the Unix epoch, UTC; RFC 3339 in JSON
    Timestamp,
}

impl ScalarType {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Bool,
        Self::Int32,
        Self::Int64,
        Self::Float32,
        Self::Float64,
        Self::String,
        Self::Bytes,
        Self::Timestamp,
    ];

    /// The name in definitions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scalar| scalar.name() == text)
    }

    /// Bytes of one value where all have the same size; none for `string` and `bytes`.
    pub const fn fixed_width(self) -> Option<usize> {
        match self {
            Self::Bool => Some(1),
            Self::Int32 | Self::Float32 => Some(4),
            Self::Int64 | Self::Float64 | Self::Timestamp => Some(8),
            Self::String | Self::Bytes => None,
        }
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type of a feature: one value, or an array of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FeatureType {
    /// One value.
    Scalar(ScalarType),
    /// `float32[384]` (exactly that many) or `string[]` (any number).
    Array {
        /// Type of each element.
        element: ScalarType,
        /// Number of elements, where it is fixed.
        length: Option<u32>,
    },
}

/// A text that names no type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "\"{text}\" is not a type; one of bool int32 int64 float32 float64 string bytes timestamp, \
     or an array of one such as string[] or float32[384] (at most {} elements)",
    limits::ARRAY_LENGTH
)]
pub struct TypeError {
    text: String,
}

impl FeatureType {
    /// Reads `int64`, `string[]`, `float32[384]`.
    ///
    /// # Errors
    /// The text names no type, or a fixed length of 0 or above [`limits::ARRAY_LENGTH`].
    pub fn parse(text: &str) -> Result<Self, TypeError> {
        let refuse = || TypeError { text: text.chars().take(64).collect() };
        let Some((element, length)) = text.strip_suffix(']').and_then(|t| t.split_once('[')) else {
            return ScalarType::parse(text).map(Self::Scalar).ok_or_else(refuse);
        };
        let element = ScalarType::parse(element).ok_or_else(refuse)?;
        if length.is_empty() {
            return Ok(Self::Array { element, length: None });
        }
        let length: u32 = length.parse().map_err(|_| refuse())?;
        if length == 0 || length > limits::ARRAY_LENGTH {
            return Err(refuse());
        }
        Ok(Self::Array { element, length: Some(length) })
    }
}

impl fmt::Display for FeatureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => scalar.fmt(f),
            Self::Array { element, length: None } => write!(f, "{element}[]"),
            Self::Array { element, length: Some(length) } => write!(f, "{element}[{length}]"),
        }
    }
}

impl TryFrom<String> for FeatureType {
    type Error = TypeError;

    fn try_from(text: String) -> Result<Self, TypeError> {
        Self::parse(&text)
    }
}

impl From<FeatureType> for String {
    fn from(feature_type: FeatureType) -> Self {
        feature_type.to_string()
    }
}

/// The type of a join key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// UTF-8 text; the default
    String,
    /// 32-bit signed integer
    Int32,
    /// 64-bit signed integer
    Int64,
}

impl KeyType {
    /// Reads `string`, `int32` or `int64`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::String, Self::Int32, Self::Int64].into_iter().find(|key| key.name() == text)
    }

    /// The name in definitions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back_as_written() {
        for scalar in ScalarType::ALL {
            for text in [scalar.to_string(), format!("{scalar}[]"), format!("{scalar}[3]")] {
                assert_eq!(FeatureType::parse(&text).unwrap().to_string(), text);
            }
        }
        let bad =
            ["", "int", "float", "Int32", "int32[", "int32[0]", "int32[-1]", "[]", "int32[]]"];
        for text in bad.into_iter().chain(["int32[65537]", "string[][]", " int32"]) {
            assert!(FeatureType::parse(text).is_err(), "{text}");
        }
    }
}
