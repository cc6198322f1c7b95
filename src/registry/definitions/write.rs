//! Writes definitions back as the tree they were read from, so that `larder apply` can send files
//! to the register endpoint.
//!
//! It does not know HTTP, nor the places that definitions were read at.

use serde_json::{Map, Value, json};

use crate::registry::definitions::{
    Definitions, EntityDefinition, Selection, ServiceDefinition, ViewDefinition,
};
use crate::registry::model::{About, Feature, Tier, declared_name, json_of};
use crate::time::Span;

impl Definitions {
    /// One JSON tree per project, as [`Definitions::parse_json`] reads it.
    pub fn to_json(&self) -> Vec<(&str, Value)> {
        let trees = self.projects.iter().map(|project| {
            let of = |other: &std::sync::Arc<str>| other == project;
            let entities = self.entities.iter().filter(|entity| of(&entity.project));
            let views = self.views.iter().filter(|view| of(&view.project));
            let services = self.services.iter().filter(|service| of(&service.project));
            let view_name = |view: &ViewDefinition| declared_name(&view.name, view.version);
            let tree = json!({
                "project": &**project,
                "entity": entities.map(|e| (e.name.clone(), entity(e))).collect::<Map<_, _>>(),
                "view": views.map(|v| (view_name(v), view(v))).collect::<Map<_, _>>(),
                "service": services.map(|s| (s.name.clone(), service(s))).collect::<Map<_, _>>(),
            });
            (&**project, tree)
        });
        trees.collect()
    }
}

fn entity(entity: &EntityDefinition) -> Value {
    let keys = entity.join_keys.iter().map(|key| format!("{}:{}", key.name, key.key_type));
    let mut table = about(&entity.about);
    table.insert("join_keys".into(), keys.collect());
    Value::Object(table)
}

fn view(view: &ViewDefinition) -> Value {
    let features = view.features.iter().map(|f| (f.value.name.clone(), feature(&f.value)));
    let mut table = about(&view.about);
    table.insert("entity".into(), view.entity.value.as_str().into());
    table.insert("features".into(), features.collect::<Map<_, _>>().into());
    insert_span(&mut table, "ttl", view.ttl);
    insert_span(&mut table, "freshness", view.freshness);
    insert_span(&mut table, "retention", view.retention);
    if !view.online {
        table.insert("online".into(), false.into());
    }
    if !view.offline {
        table.insert("offline".into(), false.into());
    }
    if view.tier != Tier::default() {
        table.insert("tier".into(), view.tier.name().into());
    }
    if let Some(version) = &view.default_version {
        table.insert("default_version".into(), version.value.into());
    }
    Value::Object(table)
}

fn feature(feature: &Feature) -> Value {
    let mut table = about(&feature.about);
    table.insert("type".into(), feature.feature_type.to_string().into());
    if let Some(default) = &feature.default {
        table.insert("default".into(), json_of(default));
    }
    insert_span(&mut table, "ttl", feature.ttl);
    insert_span(&mut table, "freshness", feature.freshness);
    Value::Object(table)
}

fn service(service: &ServiceDefinition) -> Value {
    let mut table = about(&service.about);
    table.insert("features".into(), service.features.iter().map(selection).collect());
    Value::Object(table)
}

fn selection(selection: &Selection) -> Value {
    let mut table = Map::from_iter([("ref".into(), selection.reference.value.as_str().into())]);
    if let Some(name) = &selection.name {
        table.insert("as".into(), name.as_str().into());
    }
    if let Some(role) = &selection.role {
        table.insert("entity".into(), role.value.as_str().into());
    }
    Value::Object(table)
}

fn about(about: &About) -> Map<String, Value> {
    let mut table = Map::new();
    if let Some(description) = &about.description {
        table.insert("description".into(), description.as_str().into());
    }
    if let Some(owner) = &about.owner {
        table.insert("owner".into(), owner.as_str().into());
    }
    if !about.tags.is_empty() {
        table.insert("tags".into(), about.tags.clone().into());
    }
    table
}

fn insert_span(table: &mut Map<String, Value>, key: &str, span: Option<Span>) {
    if let Some(span) = span {
        table.insert(key.into(), span.to_string().into());
    }
}
