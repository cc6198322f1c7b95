//! Pushes by row: each row names its view, its entity, its time and its features.
//!
//! It does not know columns.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::error::{Place, Problem};
use crate::engine::writes::{RowTooLarge, WriteBatch};
use crate::http::body::malformed;
use crate::http::entity_key;
use crate::http::lookup_request::too_many;
use crate::http::places::Places;
use crate::http::push::{Against, Prepared};
use crate::http::text::{Pairs, Text};
use crate::metrics::Code;
use crate::registry::model::{EntityType, View};
use crate::registry::nearest::hint;
use crate::time::{EventTime, Span, TimeUnit};
use crate::value::json;

/// One row of the body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PushRow<'a> {
    #[serde(borrow)]
    view: Text<'a>,
    #[serde(borrow)]
    entity_id: &'a RawValue,
    #[serde(borrow)]
    event_timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    features: Pairs<'a>,
}

/// Checks the rows.
pub(super) fn read(
    against: &Against<'_>,
    rows: &[PushRow<'_>],
    unit: Option<TimeUnit>,
) -> Result<Prepared, Problem> {
    check_count(against, rows.len())?;
    let mut reader = RowReader::new(against, unit);
    for (index, row) in rows.iter().enumerate() {
        reader.row(index, row);
        if reader.places.enough() {
            break;
        }
    }
    reader.places.into_result()?;
    Ok(Prepared { batch: reader.batch, nans: 0 })
}

/// Refuses pushes of nothing, and of more than `limits.rows_per_push`.
pub(super) fn check_count(against: &Against<'_>, rows: usize) -> Result<(), Problem> {
    let limit = against.engine.limits().rows_per_push;
    if rows > limit {
        return Err(too_many(rows, "rows", "rows_per_push", limit));
    }
    if rows == 0 {
        return Err(malformed("there is no row to write"));
    }
    Ok(())
}

struct RowReader<'r> {
    against: &'r Against<'r>,
    unit: Option<TimeUnit>,
    latest: EventTime,
    batch: WriteBatch,
    places: Places,
    /// The view of the row before, which is mostly that of the next.
    view: Option<(String, Arc<View>, Arc<EntityType>)>,
    key: Vec<u8>,
    /// By slot, the row that set it last, counted from 1.
    set_by: Vec<usize>,
}

impl<'r> RowReader<'r> {
    fn new(against: &'r Against<'r>, unit: Option<TimeUnit>) -> Self {
        Self {
            against,
            unit,
            latest: latest(against),
            batch: WriteBatch::new(against.registry, against.engine.limits()),
            places: Places::default(),
            view: None,
            key: Vec::new(),
            set_by: Vec::new(),
        }
    }

    fn row(&mut self, index: usize, row: &PushRow<'_>) {
        let Some((view, entity)) = self.find_view(index, &row.view) else { return };
        self.key.clear();
        let limits = self.against.engine.limits();
        let key = entity_key::append_json(&entity, row.entity_id, limits, &mut self.key);
        if let Err(mistake) = key {
            self.wrong(mistake.code, index, "entity_id", (mistake.found, mistake.expected));
        }
        let time = self.time(index, row.event_timestamp);
        if row.features.0.is_empty() {
            // It would make an entity of which nothing can be read.
            self.wrong(Code::InvalidValue, index, "features", no_feature("{}"));
        }
        self.batch.start(&view);
        for (name, value) in &row.features.0 {
            self.feature(index, &view, (name, value));
        }
        // A row with a mistake is never written, so it need not be whole.
        if let Err(error) = self.batch.end(&self.key, time) {
            self.add_too_large(index, &error);
        }
    }

    fn find_view(&mut self, index: usize, name: &str) -> Option<(Arc<View>, Arc<EntityType>)> {
        if let Some((known, view, entity)) = &self.view
            && known == name
        {
            return Some((Arc::clone(view), Arc::clone(entity)));
        }
        let Against { registry, project, .. } = self.against;
        match registry.view_named(*project, name) {
            Ok(view) => {
                let (view, entity) = (Arc::clone(view), Arc::clone(registry.entity_of(view)));
                self.view = Some((name.to_owned(), Arc::clone(&view), Arc::clone(&entity)));
                Some((view, entity))
            }
            Err(error) => {
                let found = format!("\"{}\"", json::shorten(name));
                let expected = format!("the name of a view ({error})");
                self.wrong(Code::UnknownView, index, "view", (found, expected));
                None
            }
        }
    }

    fn time(&mut self, index: usize, given: Option<&RawValue>) -> Option<EventTime> {
        match event_time(given?.get(), self.unit, self.latest) {
            Ok(time) => Some(time),
            Err((code, wrong)) => {
                self.wrong(code, index, "event_timestamp", wrong);
                None
            }
        }
    }

    fn feature(&mut self, index: usize, view: &View, (name, value): (&str, &RawValue)) {
        let Some(slot) = view.slot_of(name) else {
            let names = view.features.iter().map(|feature| feature.name.as_str());
            let found = format!("no such feature{}", hint(name, names));
            let expected = format!("a feature of view {}", view.name);
            let name = json::shorten(name);
            return self.wrong(Code::UnknownFeature, index, &name, (found, expected));
        };
        let at = usize::from(slot.0);
        if self.set_by.len() <= at {
            self.set_by.resize(view.features.len().max(at + 1), 0);
        }
        if self.set_by[at] == index + 1 {
            let wrong = ("the feature twice".to_owned(), "each feature once".to_owned());
            return self.wrong(Code::DuplicateFeature, index, name, wrong);
        }
        self.set_by[at] = index + 1;
        match json::read(view.features[at].feature_type, value.get(), self.unit) {
            Ok(cell) => self.batch.set(slot, cell.borrowed()),
            Err(error) => {
                self.wrong(Code::InvalidValue, index, name, (error.found, error.expected));
            }
        }
    }

    fn add_too_large(&mut self, index: usize, error: &RowTooLarge) {
        let (found, expected) = too_large(error);
        self.wrong(Code::LimitExceeded, index, error.what, (found, expected));
    }

    fn wrong(&mut self, code: Code, index: usize, field: &str, wrong: (String, String)) {
        let (found, expected) = wrong;
        let place = Place { index: Some(index), field: field.to_owned(), found, expected };
        self.places.add(code, place);
    }
}

/// The latest event time that is accepted now.
pub(super) fn latest(against: &Against<'_>) -> EventTime {
    against.engine.now().plus(against.engine.limits().max_future)
}

/// Found and expected where there is no feature.
pub(super) fn no_feature(found: &str) -> (String, String) {
    (found.to_owned(), "at least one feature".to_owned())
}

/// Found and expected of a row past its limit.
pub(super) fn too_large(error: &RowTooLarge) -> (String, String) {
    let found = format!("{} bytes", error.bytes);
    (found, format!("at most {}, the limit {}", error.limit, error.limit_name))
}

/// Reads an event time, or says what was found and expected.
pub(super) fn event_time(
    json: &str,
    unit: Option<TimeUnit>,
    latest: EventTime,
) -> Result<EventTime, (Code, (String, String))> {
    let time = json::read_time(json, unit)
        .map_err(|error| (Code::InvalidValue, (error.found, error.expected)))?;
    check_future(time, latest)
        .map_err(|expected| (Code::EventTimeInFuture, (json::shorten(json), expected)))?;
    Ok(time)
}

/// Refuses a time after `latest` by saying what is expected.
pub(super) fn check_future(time: EventTime, latest: EventTime) -> Result<(), String> {
    // A clock that is read twice must not refuse what it first allowed.
    if time <= latest.plus(Span::from_micros(1)) {
        return Ok(());
    }
    Err(format!("a time until {latest}, which is limits.max_future from now"))
}
