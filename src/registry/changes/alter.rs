//! Says in words what an altered definition alters: `ttl 90d -> 30d`, `+ feature score float64`.
//!
//! It does not know which alterations are compatible.

use std::fmt;

use crate::registry::definitions::ViewDefinition;
use crate::registry::model::{About, EntityType, Feature, Service, ServiceFeature, View, json_of};
use crate::value::json::shorten;

/// The join keys of an entity: `origin, dest:int64`.
pub(super) fn key_list(entity: &EntityType) -> String {
    let keys = entity.join_keys.iter().map(|key| match key.key_type {
        crate::value::types::KeyType::String => key.name.clone(),
        other => format!("{}:{other}", key.name),
    });
    keys.collect::<Vec<_>>().join(", ")
}

/// What changes in description, owner and tags.
pub(super) fn about(old: &About, new: &About) -> Vec<String> {
    let mut words = Vec::new();
    if old.description != new.description {
        words.push("description".to_owned());
    }
    from_to("owner", old.owner.as_ref(), new.owner.as_ref(), &mut words);
    if old.tags != new.tags {
        words.push("tags".to_owned());
    }
    words
}

/// What changes in a view that keeps its entity, its features and their types.
pub(super) fn view(old: &View, new: &ViewDefinition) -> Vec<String> {
    let mut words = Vec::new();
    for feature in &new.features {
        let feature = &feature.value;
        match old.slot_of(&feature.name).and_then(|slot| old.feature(slot)) {
            None => words.push(format!("+ feature {} {}", feature.name, feature.feature_type)),
            Some(before) => {
                let altered = feature_words(before, feature);
                if !altered.is_empty() {
                    words.push(format!("feature {} ({})", feature.name, altered.join(", ")));
                }
            }
        }
    }
    from_to("ttl", old.ttl, new.ttl, &mut words);
    from_to("freshness", old.freshness, new.freshness, &mut words);
    from_to("retention", old.retention, new.retention, &mut words);
    for (key, old, new) in
        [("online", old.online, new.online), ("offline", old.offline, new.offline)]
    {
        if old != new {
            words.push(format!("{key} {old} -> {new}"));
        }
    }
    words.extend(about(&old.about, &new.about));
    words
}

fn feature_words(old: &Feature, new: &Feature) -> Vec<String> {
    let mut words = Vec::new();
    let text = |feature: &Feature| feature.default.as_ref().map(|v| json_of(v).to_string());
    let (before, after) = (text(old), text(new));
    from_to("default", before.as_deref().map(shorten), after.as_deref().map(shorten), &mut words);
    if words.is_empty() && old.default != new.default {
        words.push("default".to_owned());
    }
    from_to("ttl", old.ttl, new.ttl, &mut words);
    from_to("freshness", old.freshness, new.freshness, &mut words);
    words.extend(about(&old.about, &new.about));
    words
}

/// What changes in a service.
pub(super) fn service(old: &Service, new: &Service) -> Vec<String> {
    let has = |service: &Service, feature: &ServiceFeature| service.features.contains(feature);
    let added = new.features.iter().filter(|feature| !has(old, feature));
    let mut words: Vec<String> = added.map(|f| format!("+ feature {}", f.name)).collect();
    let removed = old.features.iter().filter(|feature| !has(new, feature));
    words.extend(removed.map(|feature| format!("- feature {}", feature.name)));
    if words.is_empty() && old.features != new.features {
        words.push("order of features".to_owned());
    }
    words.extend(about(&old.about, &new.about));
    words
}

fn from_to<T: fmt::Display + PartialEq>(
    what: &str,
    old: Option<T>,
    new: Option<T>,
    words: &mut Vec<String>,
) {
    if old == new {
        return;
    }
    let text = |value: Option<T>| value.map_or_else(|| "none".to_owned(), |v| v.to_string());
    words.push(format!("{what} {} -> {}", text(old), text(new)));
}
