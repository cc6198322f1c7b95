//! What a project defines: entities, feature views with their features, and feature services.
//!
//! It does not know how definitions are looked up, changed, written down or parsed.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::ids::{EntityTypeId, ProjectId, ServiceId, Slot, ViewId};
use crate::time::Span;
use crate::value::cell::{Cell, Value};
use crate::value::json;
use crate::value::layout::Layout;
use crate::value::types::{FeatureType, KeyType};

/// Who answers for a definition and what it is for; changes nothing that is computed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// In the words of whoever defined it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A person or team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Free words to search by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// One part of an entity's key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinKey {
    /// Its name in requests, columns and files.
    pub name: String,
    /// The type of its values.
    #[serde(rename = "type")]
    pub key_type: KeyType,
}

/// What features describe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntityType {
    /// Given once, never reused.
    pub id: EntityTypeId,
    /// The project that defines it.
    pub project: ProjectId,
    /// Unique among the project's entities.
    pub name: String,
    /// At least one, in key order.
    pub join_keys: Vec<JoinKey>,
    /// Description, owner, tags.
    #[serde(flatten)]
    pub about: About,
}

impl EntityType {
    /// The types of its join keys, in key order.
    pub fn key_types(&self) -> Vec<KeyType> {
        self.join_keys.iter().map(|key| key.key_type).collect()
    }
}

/// Where the newest rows of a view are kept for lookups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// All in memory.
    #[default]
    Memory,
    /// On disk, the hot part cached.
    Disk,
}

impl Tier {
    /// The name in definitions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One typed column of a view. Invariant: the default is of the feature's type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "FeatureRecord", into = "FeatureRecord")]
pub struct Feature {
    /// Unique in its view.
    pub name: String,
    /// The type of its values.
    pub feature_type: FeatureType,
    /// Served where there is no fresh value.
    pub default: Option<Value>,
    /// Instead of the view's.
    pub ttl: Option<Span>,
    /// Instead of the view's.
    pub freshness: Option<Span>,
    /// Description, owner, tags.
    pub about: About,
}

/// A [`Feature`] as it is written down: the default in JSON, to be read by the type.
#[derive(Serialize, Deserialize)]
struct FeatureRecord {
    name: String,
    #[serde(rename = "type")]
    feature_type: FeatureType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    freshness: Option<Span>,
    #[serde(flatten)]
    about: About,
}

impl TryFrom<FeatureRecord> for Feature {
    type Error = String;

    fn try_from(record: FeatureRecord) -> Result<Self, String> {
        let default = match record.default {
            None => None,
            Some(default) => match json::read(record.feature_type, &default.to_string(), None) {
                Ok(Cell::Value(value)) => Some(value),
                Ok(Cell::Null | Cell::Absent) => None,
                Err(error) => return Err(format!("default of feature {}: {error}", record.name)),
            },
        };
        Ok(Self {
            name: record.name,
            feature_type: record.feature_type,
            default,
            ttl: record.ttl,
            freshness: record.freshness,
            about: record.about,
        })
    }
}

impl From<Feature> for FeatureRecord {
    fn from(feature: Feature) -> Self {
        Self {
            default: feature.default.as_ref().map(json_of),
            name: feature.name,
            feature_type: feature.feature_type,
            ttl: feature.ttl,
            freshness: feature.freshness,
            about: feature.about,
        }
    }
}

/// A value as a JSON tree; for descriptions and records, not for answers.
pub fn json_of(value: &Value) -> serde_json::Value {
    let mut text = Vec::new();
    json::write(value.borrowed(), &mut text);
    serde_json::from_slice(&text).expect("a written value is JSON")
}

/// The features of a view in slot order, with what follows from them. Invariant: names differ.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<Feature>", into = "Vec<Feature>")]
pub struct Features {
    list: Vec<Feature>,
    layout: Layout,
    slots: HashMap<Box<str>, Slot, foldhash::fast::RandomState>,
}

impl From<Vec<Feature>> for Features {
    fn from(list: Vec<Feature>) -> Self {
        let layout = Layout::new(list.iter().map(|feature| feature.feature_type));
        let slots = (0..).zip(&list).map(|(slot, f)| (f.name.as_str().into(), Slot(slot)));
        Self { layout, slots: slots.collect(), list }
    }
}

impl From<Features> for Vec<Feature> {
    fn from(features: Features) -> Self {
        features.list
    }
}

impl PartialEq for Features {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Deref for Features {
    type Target = [Feature];

    fn deref(&self) -> &[Feature] {
        &self.list
    }
}

/// One version of a named group of features of one entity, written together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Given once: a dropped and re-created view is a new one.
    pub id: ViewId,
    /// The project that defines it.
    pub project: ProjectId,
    /// Shared by its versions.
    pub name: String,
    /// From 1.
    pub version: u32,
    /// Whose features these are.
    pub entity: EntityTypeId,
    /// In slot order.
    pub features: Features,
    /// How long a value counts after it happened; for ever if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// How old the newest value should be at most; for monitoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Span>,
    /// Whether lookups may ask for it.
    #[serde(default = "yes")]
    pub online: bool,
    /// Whether as-of reads may ask for it.
    #[serde(default = "yes")]
    pub offline: bool,
    /// Where its newest rows are kept.
    #[serde(default)]
    pub tier: Tier,
    /// How long rows are kept by event time; for ever if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    /// Description, owner, tags.
    #[serde(flatten)]
    pub about: About,
}

fn yes() -> bool {
    true
}

impl View {
    /// Where each feature lies in a row.
    pub fn layout(&self) -> &Layout {
        &self.features.layout
    }

    /// The slot of the feature of that name.
    pub fn slot_of(&self, feature: &str) -> Option<Slot> {
        self.features.slots.get(feature).copied()
    }

    /// The feature in `slot`.
    pub fn feature(&self, slot: Slot) -> Option<&Feature> {
        self.features.get(usize::from(slot.0))
    }

    /// The TTL that counts for `slot`: the feature's own, else the view's.
    pub fn ttl_of(&self, slot: Slot) -> Option<Span> {
        self.feature(slot).and_then(|feature| feature.ttl).or(self.ttl)
    }

    /// The freshness target that counts for `slot`: the feature's own, else the view's.
    pub fn freshness_of(&self, slot: Slot) -> Option<Span> {
        self.feature(slot).and_then(|feature| feature.freshness).or(self.freshness)
    }

    /// The name as definitions write it: bare for version 1, else with its version.
    pub fn declared_name(&self) -> String {
        declared_name(&self.name, self.version)
    }
}

/// The name of a version of a view as definitions write it: bare for version 1.
pub fn declared_name(name: &str, version: u32) -> String {
    if version == 1 { name.to_owned() } else { format!("{name}@{version}") }
}

/// One column of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceFeature {
    /// What the reference resolved to when it was defined.
    pub view: ViewId,
    /// The feature in that view.
    pub slot: Slot,
    /// The name under which a request gives the entity key: the entity's, unless another is given
    /// so that one view can be read for two keys.
    pub role: String,
    /// The name in answers: its `as`, else the reference.
    pub name: String,
    /// As the definition writes it.
    pub reference: String,
}

/// A named list of features that a model asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Given once, never reused.
    pub id: ServiceId,
    /// The project that defines it.
    pub project: ProjectId,
    /// Unique among the project's services.
    pub name: String,
    /// In the order of answers. Invariant: names differ.
    pub features: Vec<ServiceFeature>,
    /// Description, owner, tags.
    #[serde(flatten)]
    pub about: About,
}
