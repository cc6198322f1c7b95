//! Pushes by column: one list per join key, per feature and for the event time.
//!
//! It does not know rows of several views.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::engine::error::{Place, Problem};
use crate::engine::writes::WriteBatch;
use crate::http::body::malformed;
use crate::http::entity_key;
use crate::http::places::Places;
use crate::http::push::{Against, Prepared};
use crate::http::push_rows::{check_count, event_time, latest, no_feature, too_large};
use crate::http::text::Pairs;
use crate::ids::Slot;
use crate::metrics::Code;
use crate::registry::model::{EntityType, JoinKey, View};
use crate::registry::nearest::hint;
use crate::time::TimeUnit;
use crate::value::json;
use crate::value::types::FeatureType;

/// The column of event times.
pub(super) const TIME_COLUMN: &str = "event_timestamp";

/// What is pushed.
pub(super) struct ColumnsPush<'a> {
    pub(super) view: &'a str,
    pub(super) columns: &'a Pairs<'a>,
    pub(super) unit: Option<TimeUnit>,
}

/// The columns by what they are.
struct Columns<'a> {
    keys: Vec<(&'a JoinKey, Vec<&'a RawValue>)>,
    times: Option<Vec<&'a RawValue>>,
    features: Vec<(Slot, FeatureType, &'a str, Vec<&'a RawValue>)>,
    rows: usize,
}

/// Checks the rows.
pub(super) fn read(against: &Against<'_>, push: &ColumnsPush<'_>) -> Result<Prepared, Problem> {
    let Against { registry, project, engine } = against;
    let view = Arc::clone(registry.view_named(*project, push.view)?);
    let entity = Arc::clone(registry.entity_of(&view));
    let columns = Columns::sort(&view, &entity, push.columns)?;
    check_count(against, columns.rows)?;
    let mut batch = WriteBatch::new(registry, engine.limits());
    let mut places = Places::default();
    let mut key = Vec::new();
    let latest = latest(against);
    for row in 0..columns.rows {
        let mut wrong = |code, field: &str, (found, expected): (String, String)| {
            let place = Place { index: Some(row), field: field.to_owned(), found, expected };
            places.add(code, place);
        };
        key.clear();
        for (join_key, values) in &columns.keys {
            if let Err(bad) = entity_key::append_part(join_key, values[row].get(), &mut key) {
                wrong(bad.code, &join_key.name, (bad.found, bad.expected));
            }
        }
        let time = columns.times.as_ref().map(|times| {
            event_time(times[row].get(), push.unit, latest)
                .map_err(|(code, said)| wrong(code, TIME_COLUMN, said))
        });
        batch.start(&view);
        for (slot, feature_type, name, values) in &columns.features {
            match json::read(*feature_type, values[row].get(), push.unit) {
                Ok(cell) => batch.set(*slot, cell.borrowed()),
                Err(error) => wrong(Code::InvalidValue, name, (error.found, error.expected)),
            }
        }
        if let Err(error) = batch.end(&key, time.and_then(Result::ok)) {
            wrong(Code::LimitExceeded, error.what, too_large(&error));
        }
        if places.enough() {
            break;
        }
    }
    places.into_result()?;
    if columns.features.is_empty() {
        return Err(no_feature_column());
    }
    Ok(Prepared { batch, nans: 0 })
}

impl<'a> Columns<'a> {
    /// Tells join keys, event time and features apart, and refuses anything else.
    fn sort(
        view: &'a View,
        entity: &'a EntityType,
        columns: &'a Pairs<'a>,
    ) -> Result<Self, Problem> {
        if let Some(twice) = columns.repeated() {
            return Err(malformed(format!("column \"{}\" twice", json::shorten(twice))));
        }
        let mut sorted = Self { keys: Vec::new(), times: None, features: Vec::new(), rows: 0 };
        for join_key in &entity.join_keys {
            let Some(values) = columns.get(&join_key.name) else {
                let detail = format!("the join key column \"{}\" is missing", join_key.name);
                return Err(Problem::new(Code::MissingEntity, detail));
            };
            sorted.keys.push((join_key, values_of(&join_key.name, values)?));
        }
        sorted.rows = sorted.keys.first().map_or(0, |(_, values)| values.len());
        for (name, values) in &columns.0 {
            if entity.join_keys.iter().any(|key| key.name == **name) {
                continue;
            }
            if &**name == TIME_COLUMN {
                sorted.times = Some(values_of(name, values)?);
            } else if let Some(slot) = view.slot_of(name) {
                let feature_type = view.features[usize::from(slot.0)].feature_type;
                sorted.features.push((slot, feature_type, name, values_of(name, values)?));
            } else {
                return Err(unknown_column(view, entity, name));
            }
        }
        sorted.check_lengths()?;
        Ok(sorted)
    }

    fn check_lengths(&self) -> Result<(), Problem> {
        let keys = self.keys.iter().map(|(key, values)| (key.name.as_str(), values.len()));
        let times = self.times.iter().map(|values| (TIME_COLUMN, values.len()));
        let features = self.features.iter().map(|(_, _, name, values)| (*name, values.len()));
        match keys.chain(times).chain(features).find(|(_, length)| *length != self.rows) {
            None => Ok(()),
            Some((name, length)) => Err(malformed(format!(
                "columns differ in length: \"{}\" has {} values, \"{name}\" has {length}",
                self.keys[0].0.name, self.rows
            ))),
        }
    }
}

fn values_of<'a>(name: &str, values: &'a RawValue) -> Result<Vec<&'a RawValue>, Problem> {
    serde_json::from_str(values.get()).map_err(|_| {
        let found = json::shorten(values.get());
        malformed(format!("column \"{name}\" is {found}, expected a list of values"))
    })
}

/// Columns without one of a feature.
pub(super) fn no_feature_column() -> Problem {
    let (found, expected) = no_feature("no column of a feature");
    let detail = format!("the push has {found}, expected {expected}");
    let place = Place { index: None, field: "features".to_owned(), found, expected };
    Problem::new(Code::InvalidValue, detail).with_places(vec![place])
}

/// A column that is neither join key nor event time nor feature.
pub(super) fn unknown_column(view: &View, entity: &EntityType, name: &str) -> Problem {
    let keys = entity.join_keys.iter().map(|key| key.name.as_str());
    let features = view.features.iter().map(|feature| feature.name.as_str());
    let hint = hint(name, keys.chain([TIME_COLUMN]).chain(features));
    let detail = format!(
        "column \"{}\" is neither a join key of {} nor a feature of {}{hint}",
        json::shorten(name),
        entity.name,
        view.name
    );
    Problem::new(Code::UnknownFeature, detail)
}
