//! The answers of a feature as Arrow columns: its value, and beside it what was asked for besides.
//!
//! It does not know where answers come from, nor which file or stream the columns go to.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::Field;

use crate::engine::lookup::Answer;
use crate::value::columns::build::{ColumnBuilder, UTC};
use crate::value::types::FeatureType;

/// What an answer says of each value besides the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Include {
    /// Present, null, not found or expired.
    pub statuses: bool,
    /// When the value happened.
    pub event_timestamps: bool,
    /// Whether the value is the default.
    pub defaulted: bool,
}

/// Builds the columns of one feature.
pub struct AnswerColumn {
    values: ColumnBuilder,
    statuses: Option<StringBuilder>,
    event_timestamps: Option<TimestampMicrosecondBuilder>,
    defaulted: Option<BooleanBuilder>,
}

impl AnswerColumn {
    /// Empty columns with room for so many rows.
    pub fn new(feature_type: FeatureType, rows: usize, include: Include) -> Self {
        let times = || TimestampMicrosecondBuilder::with_capacity(rows).with_timezone(UTC);
        Self {
            values: ColumnBuilder::new(feature_type, rows),
            statuses: include.statuses.then(StringBuilder::new),
            event_timestamps: include.event_timestamps.then(times),
            defaulted: include.defaulted.then(|| BooleanBuilder::with_capacity(rows)),
        }
    }

    /// Adds the answer of the next row.
    pub fn push(&mut self, answer: &Answer<'_>) {
        self.values.push(answer.value);
        if let Some(statuses) = &mut self.statuses {
            statuses.append_value(answer.status.as_str());
        }
        if let Some(times) = &mut self.event_timestamps {
            times.append_option(answer.event_time.map(|time| time.micros()));
        }
        if let Some(defaulted) = &mut self.defaulted {
            defaulted.append_value(answer.defaulted);
        }
    }

    /// The columns: the values, then what is included of them.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        let mut arrays = vec![self.values.finish()];
        arrays.extend(self.statuses.as_mut().map(|built| Arc::new(built.finish()) as ArrayRef));
        let times = self.event_timestamps.as_mut();
        arrays.extend(times.map(|built| Arc::new(built.finish()) as ArrayRef));
        arrays.extend(self.defaulted.as_mut().map(|built| Arc::new(built.finish()) as ArrayRef));
        arrays
    }
}

/// The fields of the columns of a feature called `name`. What is included stands in columns with
/// `__status`, `__event_timestamp` and `__defaulted` behind its name.
pub fn fields(name: &str, feature_type: FeatureType, include: Include) -> Vec<Field> {
    let behind = [
        ("", true),
        ("__status", include.statuses),
        ("__event_timestamp", include.event_timestamps),
        ("__defaulted", include.defaulted),
    ];
    let names = behind.iter().filter(|(_, wanted)| *wanted).map(|(end, _)| format!("{name}{end}"));
    let arrays = AnswerColumn::new(feature_type, 0, include).finish();
    let field =
        |(name, array): (String, ArrayRef)| Field::new(name, array.data_type().clone(), true);
    names.zip(arrays).map(field).collect()
}
