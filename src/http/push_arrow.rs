//! Pushes in Arrow (or Parquet): record batches with a column per join key, per feature and for the
//! event time.
//!
//! It does not know JSON.

use std::sync::Arc;

use crate::engine::error::{Place, Problem};
use crate::engine::writes::WriteBatch;
use crate::http::arrow_body::Batches;
use crate::http::lookup_request::too_many;
use crate::http::places::Places;
use crate::http::push::{Against, Prepared};
use crate::http::push_columns::{TIME_COLUMN, no_feature_column, unknown_column};
use crate::http::push_rows::{check_count, check_future, latest, too_large};
use crate::ids::Slot;
use crate::limits::PLACES_REPORTED;
use crate::metrics::Code;
use crate::registry::model::{EntityType, View};
use crate::time::{EventTime, TimeUnit};
use crate::value::cell::ArrayBuilder;
use crate::value::columns::{ColumnError, ColumnReader, Nan, Rows, Wanted};
use crate::value::types::ScalarType;

/// Checks the rows.
pub(super) fn read(
    against: &Against<'_>,
    view: &str,
    unit: Option<TimeUnit>,
    mut batches: Batches,
) -> Result<Prepared, Problem> {
    let view = Arc::clone(against.registry.view_named(against.project, view)?);
    let entity = Arc::clone(against.registry.entity_of(&view));
    let schema = Arc::clone(&batches.schema);
    let has_time = schema.fields().iter().any(|field| field.name() == TIME_COLUMN);
    let keys = entity.join_keys.iter().map(|key| (key.name.as_str(), key.key_type));
    let wanted = Wanted {
        keys: keys.collect(),
        time: has_time.then_some(TIME_COLUMN),
        arrival: None,
        time_unit: unit,
        features: view.features.iter().map(|f| (f.name.as_str(), f.feature_type)).collect(),
    };
    let reader = ColumnReader::new(&schema, &wanted, Nan::Null)
        .map_err(|errors| wrong_columns("the push", &errors))?;
    if let Some(unknown) = reader.unused().first() {
        return Err(unknown_column(&view, &entity, unknown));
    }
    let mut push = ArrowPush {
        slots: reader.features().filter_map(|index| slot(&view, index)).collect(),
        batch: WriteBatch::new(against.registry, against.engine.limits()),
        places: Places::default(),
        array: ArrayBuilder::new(ScalarType::Bool),
        key: Vec::new(),
        latest: latest(against),
        rows: 0,
        view: &view,
        entity: &entity,
    };
    let limit = against.engine.limits().rows_per_push;
    let mut nans = 0;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let rows = reader.rows(&batch).map_err(|error| batches.unreadable(&error))?;
        if push.rows + rows.count() > limit {
            return Err(too_many(push.rows + rows.count(), "rows", "rows_per_push", limit));
        }
        push.add(&rows);
        nans += rows.nans();
    }
    push.places.into_result()?;
    check_count(against, push.rows)?;
    if reader.features().len() == 0 {
        return Err(no_feature_column());
    }
    Ok(Prepared { batch: push.batch, nans })
}

fn slot(view: &View, index: usize) -> Option<(Slot, &str)> {
    let name = view.features.get(index)?.name.as_str();
    Some((view.slot_of(name)?, name))
}

/// Columns that cannot be read, as a problem.
pub(super) fn wrong_columns(what: &str, errors: &[ColumnError]) -> Problem {
    let first = errors.first().map_or_else(String::new, ToString::to_string);
    let detail = format!("{what} has columns that cannot be read, the first: {first}");
    let places = errors.iter().map(|ColumnError { column, found, expected }| Place {
        index: None,
        field: column.clone(),
        found: found.clone(),
        expected: expected.clone(),
    });
    let places = places.take(PLACES_REPORTED).collect();
    Problem::new(Code::InvalidValue, detail).with_places(places)
}

struct ArrowPush<'a> {
    /// Of each feature column, in the reader's order.
    slots: Vec<(Slot, &'a str)>,
    batch: WriteBatch,
    places: Places,
    array: ArrayBuilder,
    key: Vec<u8>,
    latest: EventTime,
    rows: usize,
    view: &'a Arc<View>,
    entity: &'a EntityType,
}

impl ArrowPush<'_> {
    fn add(&mut self, rows: &Rows<'_>) {
        for row in 0..rows.count() {
            if self.places.enough() {
                return;
            }
            self.add_row(rows, row);
            self.rows += 1;
        }
    }

    fn add_row(&mut self, rows: &Rows<'_>, row: usize) {
        self.key.clear();
        if let Err((index, error)) = rows.key(row, &mut self.key) {
            let name = self.entity.join_keys[index].name.clone();
            self.wrong(Code::InvalidValue, &name, (error.found, error.expected));
        }
        let time = match rows.time(row) {
            Ok(time) => time,
            Err(error) => {
                self.wrong(Code::InvalidValue, TIME_COLUMN, (error.found, error.expected));
                None
            }
        };
        if let Some(time) = time
            && let Err(expected) = check_future(time, self.latest)
        {
            self.wrong(Code::EventTimeInFuture, TIME_COLUMN, (time.to_string(), expected));
        }
        self.batch.start(self.view);
        for column in 0..self.slots.len() {
            let (slot, name) = self.slots[column];
            match rows.cell(column, row, &mut self.array) {
                Ok(cell) => self.batch.set(slot, cell),
                Err(error) => {
                    self.wrong(Code::InvalidValue, name, (error.found, error.expected));
                }
            }
        }
        if let Err(error) = self.batch.end(&self.key, time) {
            self.wrong(Code::LimitExceeded, error.what, too_large(&error));
        }
    }

    fn wrong(&mut self, code: Code, field: &str, (found, expected): (String, String)) {
        let place = Place { index: Some(self.rows), field: field.to_owned(), found, expected };
        self.places.add(code, place);
    }
}
