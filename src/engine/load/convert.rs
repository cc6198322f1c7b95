//! Turns the rows of record batches into rows of a view, with final times, and collects those that
//! do not fit.
//!
//! It does not know what becomes of the rows.

use std::sync::Arc;

use super::{Loader, TIME_COLUMN, time_column};
use crate::archive::Encoder;
use crate::engine::error::{Place, Problem};
use crate::engine::load::EventTimes;
use crate::engine::writes::RowTooLarge;
use crate::history::bulk::Part;
use crate::ids::Slot;
use crate::limits::{self, Limits};
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::time::{ArrivalTime, EventTime};
use crate::value::cell::ArrayBuilder;
use crate::value::columns::{ColumnReader, Rows};
use crate::value::json::ValueError;
use crate::value::types::ScalarType;

/// Converts the rows of one file.
pub(super) struct Conversion<'a> {
    view: &'a Arc<View>,
    limits: &'a Limits,
    /// The slot of each feature column.
    slots: Vec<Slot>,
    constant: Option<EventTime>,
    /// When rows arrive that do not say it themselves, at the earliest.
    now: ArrivalTime,
    /// The columns of the join keys, of the event time and of the arrival, for mistakes.
    keys: Vec<String>,
    time: String,
    arrival: &'a str,
    key: Vec<u8>,
    encoder: Encoder,
    array: ArrayBuilder,
}

/// A row that does not fit.
pub(super) enum Refused {
    Value { field: String, error: ValueError },
    Future { field: String, error: ValueError },
    Limit(Problem),
}

impl<'a> Conversion<'a> {
    pub(super) fn new(loader: &'a Loader, registry: &Registry, reader: &ColumnReader) -> Self {
        let Loader { view, options, shared, .. } = loader;
        let keys = registry.entity_of(view).join_keys.iter().map(|key| key.name.clone()).collect();
        let slot =
            |feature: usize| Slot(u16::try_from(feature).expect("slots are counted in 16 bits"));
        Self {
            view,
            limits: &shared.limits,
            slots: reader.features().map(slot).collect(),
            constant: match options.event_time {
                EventTimes::At(time) => Some(time),
                EventTimes::Column(_) => None,
            },
            now: ArrivalTime::from_micros(shared.now().micros()),
            keys,
            time: time_column(options).unwrap_or(TIME_COLUMN).to_owned(),
            arrival: options.arrival.as_deref().unwrap_or_default(),
            key: Vec::new(),
            encoder: Encoder::default(),
            array: ArrayBuilder::new(ScalarType::Bool),
        }
    }

    /// Adds one row to `part`.
    pub(super) fn row(
        &mut self,
        rows: &Rows<'_>,
        row: usize,
        part: &mut Part,
    ) -> Result<(), Refused> {
        self.key.clear();
        rows.key(row, &mut self.key)
            .map_err(|(part, error)| Refused::Value { field: self.keys[part].clone(), error })?;
        let times = self.times(rows, row)?;
        let layout = self.view.layout();
        self.encoder.start(layout);
        for (column, slot) in self.slots.iter().enumerate() {
            match rows.cell(column, row, &mut self.array) {
                Ok(cell) => self.encoder.set(layout, *slot, cell),
                Err(error) => {
                    let feature = self.view.feature(*slot);
                    let field = feature.map_or_else(String::new, |f| f.name.clone());
                    return Err(Refused::Value { field, error });
                }
            }
        }
        let check = |what, bytes, limit_name, limit| {
            let error = RowTooLarge { what, bytes, limit_name, limit };
            if bytes > limit { Err(Refused::Limit(error.into())) } else { Ok(()) }
        };
        let Limits { key_bytes, row_bytes, .. } = *self.limits;
        check("entity key", self.key.len(), "limits.key_bytes", key_bytes)?;
        part.push(&self.key, times, |out| self.encoder.finish_row(out));
        check("row", part.last_archive().len(), "limits.row_bytes", row_bytes)
    }

    /// When it happened and when it arrived, the first never after the second.
    fn times(
        &self,
        rows: &Rows<'_>,
        row: usize,
    ) -> Result<(EventTime, Option<ArrivalTime>), Refused> {
        let value = |field: &str, error| Refused::Value { field: field.to_owned(), error };
        let arrival = rows.arrival(row).map_err(|error| value(self.arrival, error))?;
        let arrival = arrival.map(|time| ArrivalTime::from_micros(time.micros()));
        if let Some(arrival) = arrival.filter(|arrival| *arrival > self.now) {
            let expected = format!("an arrival, at most now ({})", self.now);
            let error = ValueError { found: arrival.to_string(), expected };
            return Err(value(self.arrival, error));
        }
        let time = rows.time(row).map_err(|error| value(&self.time, error))?.or(self.constant);
        let arrives = arrival.unwrap_or(self.now);
        let Some(time) = time.filter(|time| *time > arrives.as_event_time()) else {
            return Ok((time.unwrap_or(arrives.as_event_time()), arrival));
        };
        let latest = arrives.plus(self.limits.max_future);
        if time > latest.as_event_time() {
            let of = if arrival.is_some() { "the row's arrival" } else { "now" };
            let expected = format!("at most {latest} (limits.max_future ahead of {of})");
            let error = ValueError { found: time.to_string(), expected };
            return Err(Refused::Future { field: self.time.clone(), error });
        }
        Ok((arrives.as_event_time(), arrival))
    }
}

/// The places of rows that do not fit, the first of them.
#[derive(Default)]
pub(super) struct Refusals {
    places: Vec<Place>,
    has_bad_values: bool,
}

impl Refusals {
    /// Takes up one; an error if there are enough to refuse the file.
    pub(super) fn add(&mut self, refused: Refused, index: usize) -> Result<(), Problem> {
        let (field, error) = match refused {
            Refused::Value { field, error } => {
                self.has_bad_values = true;
                (field, error)
            }
            Refused::Future { field, error } => (field, error),
            Refused::Limit(mut problem) => {
                problem.detail = format!("row {index}: {}", problem.detail);
                return Err(problem);
            }
        };
        let ValueError { found, expected } = error;
        self.places.push(Place { index: Some(index), field, found, expected });
        if self.places.len() < limits::PLACES_REPORTED { Ok(()) } else { Err(self.problem()) }
    }

    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        !self.places.is_empty()
    }

    /// An error if there is one.
    pub(super) fn end(&mut self) -> Result<(), Problem> {
        if self.any() { Err(self.problem()) } else { Ok(()) }
    }

    fn problem(&mut self) -> Problem {
        let code = if self.has_bad_values { Code::InvalidValue } else { Code::EventTimeInFuture };
        let detail = "the file has rows that do not fit the view; nothing of it was written";
        Problem::new(code, detail).with_places(std::mem::take(&mut self.places))
    }
}
