//! The known data: every value is a pure function of its entity and its feature, so that any
//! answer can be checked without keeping what was written.
//!
//! It does not know how values travel.

use serde::{Deserialize, Serialize};

use crate::random::scatter;

/// Digits of an entity's number in its key.
pub(crate) const KEY_DIGITS: usize = 8;
/// What stands before them.
pub(crate) const KEY_PREFIX: char = 'u';
/// int64 values lie below this.
const INT64_END: u64 = 1_000_000;
/// When the first version of each row happened, where there are several: 2020-01-01.
const FIRST_MICROS: u64 = 1_577_836_800_000_000;
/// Between a version and the next: an hour.
const STEP_MICROS: u64 = 3_600_000_000;
/// Digits of an instant in microseconds.
pub(crate) const INSTANT_DIGITS: usize = 16;

/// How many features of each type a view has, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mix {
    #[serde(default)]
    pub(crate) int64: usize,
    #[serde(default)]
    pub(crate) float64: usize,
    #[serde(default)]
    pub(crate) string: usize,
    #[serde(default)]
    pub(crate) bool: usize,
    /// The length of one more feature, a float32 array; none if 0.
    #[serde(default)]
    pub(crate) embedding: usize,
}

/// The type of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int64,
    Float64,
    String,
    Bool,
    Embedding(usize),
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int64(u64),
    Float64(f64),
    String(String),
    Bool(bool),
    Embedding(Vec<f32>),
}

impl Mix {
    /// The type of each feature.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let of = |kind: Kind, count: usize| std::iter::repeat_n(kind, count);
        of(Kind::Int64, self.int64)
            .chain(of(Kind::Float64, self.float64))
            .chain(of(Kind::String, self.string))
            .chain(of(Kind::Bool, self.bool))
            .chain(of(Kind::Embedding(self.embedding), usize::from(self.embedding > 0)))
            .collect()
    }
}

impl Kind {
    /// Its name in a definition.
    pub(crate) fn type_name(self) -> String {
        match self {
            Self::Int64 => "int64".to_owned(),
            Self::Float64 => "float64".to_owned(),
            Self::String => "string".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Embedding(length) => format!("float32[{length}]"),
        }
    }
}

/// The name of a feature: `f000`, `f001`, and so on.
pub(crate) fn feature_name(feature: usize) -> String {
    format!("f{feature:03}")
}

/// The key of an entity: `u00000042`.
pub(crate) fn key(entity: u64) -> String {
    format!("{KEY_PREFIX}{entity:0KEY_DIGITS$}")
}

/// When a version of a row happened, in microseconds.
pub(crate) const fn event_micros(version: u64) -> u64 {
    FIRST_MICROS + version * STEP_MICROS
}

/// Some instant after `row`, which is of this version, and before the next.
pub(crate) const fn instant_micros(row: u64, version: u64) -> u64 {
    event_micros(version) + scatter(row) % STEP_MICROS
}

/// The value that an entity, or a version of its row, has in a feature of `kind`.
pub(crate) fn value(entity: u64, feature: usize, kind: Kind) -> Value {
    let bits = mixed(entity, feature);
    match kind {
        Kind::Int64 => Value::Int64(bits % INT64_END),
        Kind::Float64 => Value::Float64((bits % INT64_END) as f64 / 1_000.0),
        Kind::String => Value::String(format!("v{:03}", bits % 1_000)),
        Kind::Bool => Value::Bool(bits & 1 == 1),
        Kind::Embedding(length) => {
            let element = |place: u64| (scatter(bits ^ place) % 20_001) as f32 / 10_000.0 - 1.0;
            Value::Embedding((0..length as u64).map(element).collect())
        }
    }
}

/// The number behind an int64 value, without the value around it.
pub(crate) fn int64(entity: u64, feature: usize) -> u64 {
    mixed(entity, feature) % INT64_END
}

fn mixed(entity: u64, feature: usize) -> u64 {
    scatter((entity << 12) + feature as u64 + 1)
}

impl Value {
    /// Appends it as JSON.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int64(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
            }
            Self::Float64(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::String(text) => {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            Self::Bool(truth) => out.extend_from_slice(truth.to_string().as_bytes()),
            Self::Embedding(elements) => {
                out.push(b'[');
                for (place, element) in elements.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(element.to_string().as_bytes());
                }
                out.push(b']');
            }
        }
    }

    /// Whether `found` says the same.
    pub(crate) fn is(&self, found: &serde_json::Value) -> bool {
        match self {
            Self::Int64(number) => found.as_u64() == Some(*number),
            Self::Float64(number) => found.as_f64() == Some(*number),
            Self::String(text) => found.as_str() == Some(text),
            Self::Bool(truth) => found.as_bool() == Some(*truth),
            Self::Embedding(elements) => found.as_array().is_some_and(|array| {
                array.len() == elements.len()
                    && array.iter().zip(elements).all(|(found, element)| {
                        found.as_f64().is_some_and(|number| number as f32 == *element)
                    })
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_their_json_says_and_nothing_else() {
        let mix = Mix { int64: 2, float64: 1, string: 1, bool: 1, embedding: 3 };
        for (feature, kind) in mix.kinds().into_iter().enumerate() {
            for entity in 0..200 {
                let known = value(entity, feature, kind);
                let mut json = Vec::new();
                known.write_json(&mut json);
                let parsed: serde_json::Value = serde_json::from_slice(&json).unwrap();
                assert!(known.is(&parsed), "{known:?} is {parsed}");
                assert!(!known.is(&serde_json::Value::Null));
                let other = value(entity + 1, feature, kind);
                assert!(other == known || !other.is(&parsed), "{other:?} is not {parsed}");
            }
        }
    }

    #[test]
    fn the_peers_compute_the_same_values() {
        // peers/larder_data.py asserts the same three.
        assert_eq!([int64(0, 0), int64(42, 3), int64(999_999, 9)], [578_789, 145_401, 890_924]);
        assert_eq!(key(42), "u00000042");
    }
}
