//! The model: every definition and every accepted row in plain lists, answers by scanning them.
//!
//! It does not know the engine, only its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use larder::engine::writes::Accepted;
use larder::recency::Status;
use larder::time::{ArrivalTime, EventTime, Span};
use larder::value::cell::{Cell, Value};
use larder::value::json;
use larder::value::types::FeatureType;

use crate::model::steps::NewCell;
use crate::support::Told;

/// What features can be: type, TTL in seconds, default as JSON (which is TOML too).
const KINDS: [(&str, Option<i64>, Option<&str>); 7] = [
    ("int32", None, None),
    ("string", None, Some("\"none\"")),
    ("float64", Some(30), None),
    ("bool", None, Some("true")),
    ("timestamp", Some(3600), None),
    ("int64[]", None, Some("[1, 2]")),
    ("float32[2]", Some(5), None),
];
/// Entities, their join keys and the views they begin with.
pub(super) const ENTITIES: [(&str, &str); 2] =
    [("user", "[\"user_id\"]"), ("route", "[\"origin\", \"number:int64\"]")];

/// The name and version of a view.
pub(super) type ViewName = (&'static str, u32);
/// Which of an entity type's few keys.
pub(super) type EntityIndex = usize;

/// Keys per entity type that rows are written for; one more is asked for.
pub(super) const KEYS: usize = 4;

#[derive(Clone)]
pub(super) struct Feature {
    pub(super) name: String,
    kind: usize,
}

impl Feature {
    fn feature_type(&self) -> FeatureType {
        FeatureType::parse(KINDS[self.kind].0).expect("a type")
    }

    fn read(&self, text: &str) -> Cell {
        json::read(self.feature_type(), text, None).expect("a value of that type")
    }

    fn default(&self) -> Option<Value> {
        match self.read(KINDS[self.kind].2?) {
            Cell::Value(value) => Some(value),
            Cell::Null | Cell::Absent => None,
        }
    }

    pub(super) fn cell(&self, cell: NewCell) -> Cell {
        let number = match cell {
            NewCell::Absent => return Cell::Absent,
            NewCell::Null => return Cell::Null,
            NewCell::Value(number) => number,
        };
        self.read(&match KINDS[self.kind].0 {
            "int32" => format!("{number}"),
            "string" => format!("\"{}\"", "é".repeat(number.into())),
            "float64" => format!("{}", f64::from(number) / 7.0),
            "bool" => format!("{}", number % 2 == 0),
            "timestamp" => format!("{}", 1_769_860_800_000_000 + i64::from(number)),
            "float32[2]" => format!("[{number}, 0.5]"),
            _ => format!("{:?}", vec![number; usize::from(number % 4)]),
        })
    }
}

pub(super) struct View {
    pub(super) entity: &'static str,
    ttl: Option<i64>,
    tier: &'static str,
    /// In seconds.
    pub(super) retention: Option<i64>,
    pub(super) features: Vec<Feature>,
    rows: Vec<Row>,
}

/// A row as history keeps it.
#[derive(Clone)]
struct Row {
    entity: EntityIndex,
    event_time: EventTime,
    sequence: u64,
    arrival: ArrivalTime,
    cells: Vec<Cell>,
}

/// A row that is sent.
#[derive(Clone)]
pub(super) struct SentRow {
    pub(super) view: ViewName,
    pub(super) entity: EntityIndex,
    pub(super) event_time: Option<EventTime>,
    pub(super) cells: Vec<Cell>,
}

/// A write with an idempotency key that was accepted.
#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) rows: Vec<SentRow>,
    pub(super) content: [u8; 16],
    pub(super) arrival: ArrivalTime,
    pub(super) accepted: Accepted,
}

pub(super) struct Model {
    pub(super) views: BTreeMap<ViewName, View>,
    pub(super) default_versions: BTreeMap<&'static str, u32>,
    pub(super) keyed: BTreeMap<String, Remembered>,
    /// Of entities without a row since: sequence and time of their last erasure.
    pub(super) erased: BTreeMap<(&'static str, EntityIndex), (u64, ArrivalTime)>,
    pub(super) sequence: u64,
    pub(super) last_arrival: ArrivalTime,
}

impl Model {
    /// Two views of a user and one of a route.
    pub(super) fn new() -> Self {
        let mut model = Self {
            views: BTreeMap::new(),
            default_versions: BTreeMap::new(),
            keyed: BTreeMap::new(),
            erased: BTreeMap::new(),
            sequence: 0,
            last_arrival: ArrivalTime::MIN,
        };
        for (name, kinds) in [("profile", &[0, 1][..]), ("activity", &[2]), ("traffic", &[5, 0])] {
            model.add_view((name, 1), kinds);
        }
        model
    }

    pub(super) fn add_view(&mut self, name: ViewName, kinds: &[usize]) {
        let (entity, ttl, retention) = match name.0 {
            "profile" => ("user", Some(120), Some(150)),
            "activity" => ("user", None, Some(300)),
            _ => ("route", Some(45), None),
        };
        let tier = if name.0 == "activity" || name.1 == 2 { "disk" } else { "memory" };
        let (features, rows) = (Vec::new(), Vec::new());
        let mut view = View { entity, ttl, tier, retention, features, rows };
        for kind in kinds {
            view.add_feature(*kind);
        }
        self.views.insert(name, view);
        self.default_versions.entry(name.0).or_insert(name.1);
    }

    /// The view a pick means.
    pub(super) fn pick(&self, pick: usize) -> Option<ViewName> {
        let count = self.views.len().max(1);
        self.views.keys().nth(pick % count).copied()
    }

    pub(super) fn definitions(&self) -> String {
        let mut toml = String::new();
        for (entity, keys) in ENTITIES {
            let _ = writeln!(toml, "[entity.{entity}]\njoin_keys = {keys}");
        }
        for ((name, version), view) in &self.views {
            let _ = writeln!(toml, "[view.\"{}\"]", declared((name, *version)));
            let _ = writeln!(toml, "entity = \"{}\"\ntier = \"{}\"", view.entity, view.tier);
            if let Some(ttl) = view.ttl {
                let _ = writeln!(toml, "ttl = \"{ttl}s\"");
            }
            if let Some(retention) = view.retention {
                let _ = writeln!(toml, "retention = \"{retention}s\"");
            }
            if self.default_versions[name] == *version {
                let _ = writeln!(toml, "default_version = {version}");
            }
            for feature in &view.features {
                let (type_name, ttl, default) = KINDS[feature.kind];
                let ttl = ttl.map_or(String::new(), |ttl| format!(", ttl = \"{ttl}s\""));
                let default = default.map_or(String::new(), |text| format!(", default = {text}"));
                let Feature { name, .. } = feature;
                let _ =
                    writeln!(toml, "features.{name} = {{ type = \"{type_name}\"{ttl}{default} }}");
            }
        }
        toml
    }

    /// Forgets every row of an entity.
    pub(super) fn erase(&mut self, entity: &'static str, index: EntityIndex, at: ArrivalTime) {
        self.last_arrival = at;
        self.sequence += 1;
        self.erased.insert((entity, index), (self.sequence, at));
        for view in self.views.values_mut().filter(|view| view.entity == entity) {
            view.rows.retain(|row| row.entity != index);
        }
    }

    /// Accepts rows; returns how many were superseded.
    pub(super) fn accept(&mut self, rows: &[SentRow], arrival: ArrivalTime) -> u64 {
        self.last_arrival = arrival;
        let mut superseded = 0;
        for sent in rows {
            self.sequence += 1;
            let arrived = arrival.as_event_time();
            let row = Row {
                entity: sent.entity,
                event_time: sent.event_time.map_or(arrived, |time| time.min(arrived)),
                sequence: self.sequence,
                arrival,
                cells: sent.cells.clone(),
            };
            let view = self.views.get_mut(&sent.view).expect("the view was there");
            self.erased.remove(&(view.entity, sent.entity));
            superseded += u64::from(!view.is_changed_by(&row));
            view.rows.push(row);
        }
        superseded
    }
}

impl View {
    pub(super) fn add_feature(&mut self, kind: usize) {
        let name = format!("f{}", self.features.len());
        self.features.push(Feature { name, kind: kind % KINDS.len() });
    }

    /// Whether `row`, the last to come, is the newest of its entity for any feature, or the first.
    fn is_changed_by(&self, row: &Row) -> bool {
        let before = || self.rows.iter().filter(|other| other.entity == row.entity);
        before().next().is_none()
            || row.present().any(|slot| {
                let mut newer = before().filter(|other| other.event_time > row.event_time);
                !newer.any(|other| other.present().any(|other| other == slot))
            })
    }

    /// Whether a row of these cells can be one of this view.
    pub(super) fn takes(&self, cells: &[Cell]) -> bool {
        let mut pairs = cells.iter().zip(&self.features);
        cells.len() <= self.features.len()
            && pairs.all(|(cell, feature)| match cell {
                Cell::Value(value) => value.is(feature.feature_type()),
                Cell::Null | Cell::Absent => true,
            })
    }

    /// Entities with a row.
    pub(super) fn entities(&self) -> BTreeSet<EntityIndex> {
        self.rows.iter().map(|row| row.entity).collect()
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.tier == "memory"
    }

    /// What history says of `entity` at `at`, of what had arrived by `known_at`.
    pub(super) fn answer(
        &self,
        entity: EntityIndex,
        at: EventTime,
        known_at: ArrivalTime,
    ) -> Vec<Told> {
        let seen: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| row.entity == entity && row.event_time <= at && row.arrival <= known_at)
            .collect();
        let answers = self.features.iter().enumerate().map(|(slot, feature)| {
            let newest = seen
                .iter()
                .filter(|row| row.present().any(|present| present == slot))
                .max_by_key(|row| (row.event_time, row.sequence));
            let ttl = KINDS[feature.kind].1.or(self.ttl).map(Span::from_seconds);
            let (status, value) = match newest.map(|row| (row.event_time, &row.cells[slot])) {
                None | Some((_, Cell::Absent)) => (Status::NotFound, None),
                Some((time, _)) if ttl.is_some_and(|ttl| time.plus(ttl) < at) => {
                    (Status::OutsideMaxAge, None)
                }
                Some((_, Cell::Null)) => (Status::NullValue, None),
                Some((_, Cell::Value(value))) => (Status::Present, Some(value.clone())),
            };
            let default = if value.is_none() { feature.default() } else { None };
            Told {
                status,
                defaulted: default.is_some(),
                value: value.or(default),
                event_time: newest.map(|row| row.event_time),
            }
        });
        answers.collect()
    }
}

impl Row {
    fn present(&self) -> impl Iterator<Item = usize> {
        let slots = self.cells.iter().enumerate();
        slots.filter(|(_, cell)| **cell != Cell::Absent).map(|(slot, _)| slot)
    }
}

/// A view's name with its version.
pub(super) fn declared((name, version): (&str, u32)) -> String {
    format!("{name}@{version}")
}
