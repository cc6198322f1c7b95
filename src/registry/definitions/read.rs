//! Reads a tree of keys and values as definitions.
//!
//! It does not know TOML or JSON, nor what is defined already.

use std::collections::HashSet;
use std::sync::Arc;

use crate::limits;
use crate::registry::definitions::tree::{Content, Entry, Node};
use crate::registry::definitions::{
    DefinitionError, Definitions, EntityDefinition, Kind, Place, Placed, Selection,
    ServiceDefinition, ViewDefinition,
};
use crate::registry::model::{About, Feature, JoinKey, Tier};
use crate::registry::nearest::hint;
use crate::registry::resolve::split_version;
use crate::time::Span;
use crate::value::cell::{Cell, Value};
use crate::value::json;
use crate::value::types::{FeatureType, KeyType, ScalarType};

/// The column that carries event times wherever rows come by column.
pub(in crate::registry) const EVENT_TIME_COLUMN: &str = "event_timestamp";
/// Names that stand beside entities and views in paths.
const RESERVED: [&str; 5] = ["online", "batch", "push", "register", "historical"];

const SECTIONS: Keys = Keys {
    known: &["project", "entity", "view", "service"],
    later: &["stream", "transformation", "rollout"],
};
const ENTITY: Keys = Keys { known: &["join_keys", "description", "owner", "tags"], later: &[] };
const VIEW: Keys = Keys {
    known: &[
        "entity",
        "features",
        "ttl",
        "freshness",
        "online",
        "offline",
        "tier",
        "retention",
        "default_version",
        "description",
        "owner",
        "tags",
    ],
    later: &["stream"],
};
const FEATURE: Keys = Keys {
    known: &["type", "default", "ttl", "freshness", "description", "owner", "tags"],
    later: &["aggregate", "column", "window", "resolution", "last", "where", "of", "expression"],
};
const SERVICE: Keys = Keys { known: &["features", "description", "owner", "tags"], later: &[] };
const SELECTION: Keys = Keys { known: &["ref", "as", "entity"], later: &[] };

/// The keys a table may have, and those that later versions will know.
struct Keys {
    known: &'static [&'static str],
    later: &'static [&'static str],
}

/// Adds what `root` defines to `into`, and what is wrong with it to `errors`.
pub(super) fn read(
    root: &Node,
    project: &str,
    into: &mut Definitions,
    errors: &mut Vec<DefinitionError>,
) {
    let mut reader = Reader { errors };
    let Some(sections) = reader.table(root, "definitions", &SECTIONS) else { return };
    let named = sections.text("project", &mut reader);
    if let Some(named) = &named {
        reader.check_name(&named.value, &named.place, "project");
    }
    let project: Arc<str> = named.map_or_else(|| project.into(), |named| named.value.into());
    if !into.projects.contains(&project) {
        into.projects.push(Arc::clone(&project));
    }
    for entry in sections.children("entity", &mut reader) {
        into.entities.extend(reader.entity(entry, &project));
    }
    for entry in sections.children("view", &mut reader) {
        into.views.extend(reader.view(entry, &project));
    }
    for entry in sections.children("service", &mut reader) {
        into.services.extend(reader.service(entry, &project));
    }
}

/// A table whose keys were checked.
#[derive(Clone, Copy)]
struct Table<'a> {
    entries: &'a [Entry],
}

impl<'a> Table<'a> {
    fn get(self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The entries of the table at `key`, or none.
    fn children(self, key: &str, reader: &mut Reader<'_>) -> &'a [Entry] {
        match self.get(key).map(|entry| &entry.node) {
            None => &[],
            Some(Node { content: Content::Table(entries), .. }) => entries,
            Some(other) => {
                reader.unexpected(other, key, "a table");
                &[]
            }
        }
    }

    fn text(self, key: &str, reader: &mut Reader<'_>) -> Option<Placed<String>> {
        let node = &self.get(key)?.node;
        match &node.content {
            Content::Text(text) => Some(Placed { value: text.clone(), place: node.place.clone() }),
            _ => {
                reader.unexpected(node, key, "a string");
                None
            }
        }
    }

    fn bool_or(self, key: &str, default: bool, reader: &mut Reader<'_>) -> bool {
        match self.get(key).map(|entry| &entry.node) {
            None => default,
            Some(Node { content: Content::Bool(value), .. }) => *value,
            Some(other) => {
                reader.unexpected(other, key, "true or false");
                default
            }
        }
    }

    /// A length of time above zero.
    fn span(self, key: &str, reader: &mut Reader<'_>) -> Option<Span> {
        let text = self.text(key, reader)?;
        match Span::parse(&text.value) {
            Ok(span) if span > Span::from_micros(0) => Some(span),
            Ok(_) => {
                let message = format!("{key} must be longer than 0s; leave it out for no {key}");
                reader.invalid(&text.place, message);
                None
            }
            Err(error) => {
                reader.invalid(&text.place, format!("{key}: {error}"));
                None
            }
        }
    }

    fn about(self, reader: &mut Reader<'_>) -> About {
        About {
            description: self.text("description", reader).map(|text| text.value),
            owner: self.text("owner", reader).map(|text| text.value),
            tags: self.texts("tags", reader).into_iter().map(|text| text.value).collect(),
        }
    }

    fn texts(self, key: &str, reader: &mut Reader<'_>) -> Vec<Placed<String>> {
        let Some(Entry { node, .. }) = self.get(key) else { return Vec::new() };
        let Content::Array(nodes) = &node.content else {
            reader.unexpected(node, key, "an array of strings");
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(nodes.len());
        for node in nodes {
            match &node.content {
                Content::Text(text) => {
                    texts.push(Placed { value: text.clone(), place: node.place.clone() });
                }
                _ => reader.unexpected(node, key, "an array of strings"),
            }
        }
        texts
    }
}

/// Collects mistakes.
struct Reader<'e> {
    errors: &'e mut Vec<DefinitionError>,
}

impl Reader<'_> {
    fn invalid(&mut self, place: &Place, message: String) {
        self.errors.push(DefinitionError { place: place.clone(), kind: Kind::Invalid, message });
    }

    fn unexpected(&mut self, node: &Node, key: &str, expected: &str) {
        let message = format!("{key}: found {}, expected {expected}", node.describe());
        self.invalid(&node.place, message);
    }

    fn table<'a>(&mut self, node: &'a Node, what: &str, keys: &Keys) -> Option<Table<'a>> {
        let Content::Table(entries) = &node.content else {
            self.unexpected(node, what, "a table");
            return None;
        };
        for Entry { key, place, .. } in entries {
            if keys.known.contains(&key.as_str()) {
                continue;
            }
            let message = if keys.later.contains(&key.as_str()) {
                format!("\"{key}\" in {what} is not supported yet by this version")
            } else {
                format!("unknown key \"{key}\" in {what}{}", hint(key, keys.known.iter().copied()))
            };
            self.invalid(place, message);
        }
        Some(Table { entries })
    }

    /// Whether `name` follows the rule of names.
    fn check_name(&mut self, name: &str, place: &Place, what: &str) -> bool {
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let goes_on = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let fits = name.len() <= limits::NAME_BYTES;
        if starts && goes_on && fits {
            return true;
        }
        let message = format!(
            "bad name \"{}\" of {what}: letters, digits and _, not starting with a digit, at most \
             {} bytes",
            json::shorten(name),
            limits::NAME_BYTES
        );
        self.invalid(place, message);
        false
    }

    fn check_not_reserved(&mut self, name: &str, place: &Place, what: &str) {
        if RESERVED.contains(&name) {
            let message =
                format!("\"{name}\" is reserved and cannot name {what}: {}", RESERVED.join(", "));
            self.invalid(place, message);
        }
    }

    fn entity(&mut self, entry: &Entry, project: &Arc<str>) -> Option<EntityDefinition> {
        let Entry { key: name, place, node } = entry;
        self.check_name(name, place, "an entity");
        self.check_not_reserved(name, place, "an entity");
        let table = self.table(node, &format!("entity \"{name}\""), &ENTITY)?;
        if table.get("join_keys").is_none() {
            let message = format!("entity \"{name}\" needs join_keys, such as [\"{name}_id\"]");
            self.invalid(place, message);
        }
        Some(EntityDefinition {
            project: Arc::clone(project),
            place: place.clone(),
            name: name.clone(),
            join_keys: self.join_keys(table),
            about: table.about(self),
        })
    }

    fn join_keys(&mut self, table: Table<'_>) -> Vec<JoinKey> {
        let texts = table.texts("join_keys", self);
        if let Some(Entry { node, .. }) = table.get("join_keys")
            && let Content::Array(nodes) = &node.content
            && !(1..=limits::JOIN_KEYS).contains(&nodes.len())
        {
            let message =
                format!("{} join keys, there must be 1 to {}", nodes.len(), limits::JOIN_KEYS);
            self.invalid(&node.place, message);
        }
        let mut keys: Vec<JoinKey> = Vec::with_capacity(texts.len());
        for Placed { value, place } in texts {
            let (name, type_name) = value.split_once(':').unwrap_or((&value, "string"));
            if !self.check_name(name, &place, "a join key") {
                continue;
            }
            if name == EVENT_TIME_COLUMN {
                let message = format!(
                    "a join key cannot be named \"{name}\": rows carry their event time under \
                     that name"
                );
                self.invalid(&place, message);
            }
            if keys.iter().any(|key| key.name == name) {
                self.invalid(&place, format!("join key \"{name}\" stands twice"));
            }
            match KeyType::parse(type_name) {
                Some(key_type) => keys.push(JoinKey { name: name.to_owned(), key_type }),
                None => {
                    let message = format!(
                        "\"{type_name}\" is not a join key type; one of string, int32, int64"
                    );
                    self.invalid(&place, message);
                }
            }
        }
        keys
    }

    fn view(&mut self, entry: &Entry, project: &Arc<str>) -> Option<ViewDefinition> {
        let Entry { key: full, place, node } = entry;
        let Some((name, version)) = split_version(full) else {
            let message = format!("bad version in view \"{full}\": a number from 1, as in name@2");
            self.invalid(place, message);
            return None;
        };
        self.check_name(name, place, "a view");
        self.check_not_reserved(name, place, "a view");
        let table = self.table(node, &format!("view \"{full}\""), &VIEW)?;
        let entity = table.text("entity", self);
        if table.get("entity").is_none() && table.get("stream").is_none() {
            self.invalid(place, format!("view \"{full}\" needs an entity"));
        }
        let (online, offline) =
            (table.bool_or("online", true, self), table.bool_or("offline", true, self));
        if !online && !offline {
            let message = format!("view \"{full}\" is neither online nor offline");
            self.invalid(place, message);
        }
        let definition = ViewDefinition {
            project: Arc::clone(project),
            place: place.clone(),
            name: name.to_owned(),
            version: version.unwrap_or(1),
            features: self.features(table, full, place),
            ttl: table.span("ttl", self),
            freshness: table.span("freshness", self),
            online,
            offline,
            tier: self.tier(table),
            retention: table.span("retention", self),
            default_version: self.default_version(table),
            about: table.about(self),
            entity: entity?,
        };
        Some(definition)
    }

    fn tier(&mut self, table: Table<'_>) -> Tier {
        let Some(text) = table.text("tier", self) else { return Tier::default() };
        match [Tier::Memory, Tier::Disk].into_iter().find(|tier| tier.name() == text.value) {
            Some(tier) => tier,
            None => {
                let message = format!(
                    "unknown tier \"{}\"{}",
                    json::shorten(&text.value),
                    hint(&text.value, [Tier::Memory.name(), Tier::Disk.name()])
                );
                self.invalid(&text.place, message);
                Tier::default()
            }
        }
    }

    fn default_version(&mut self, table: Table<'_>) -> Option<Placed<u32>> {
        let node = &table.get("default_version")?.node;
        let version = match &node.content {
            Content::Number(text) => text.parse().ok().filter(|version| *version > 0),
            _ => None,
        };
        if version.is_none() {
            self.unexpected(node, "default_version", "a version number from 1");
        }
        Some(Placed { value: version?, place: node.place.clone() })
    }

    fn features(&mut self, table: Table<'_>, view: &str, place: &Place) -> Vec<Placed<Feature>> {
        let entries = table.children("features", self);
        let written = table.get("features").map(|entry| &entry.node.content);
        if written.is_none_or(|written| matches!(written, Content::Table(t) if t.is_empty())) {
            self.invalid(place, format!("view \"{view}\" needs at least one feature"));
        }
        if entries.len() > limits::FEATURES_PER_VIEW {
            let limit = limits::FEATURES_PER_VIEW;
            let message =
                format!("view \"{view}\" has {} features, the limit is {limit}", entries.len());
            self.invalid(place, message);
        }
        entries.iter().filter_map(|entry| self.feature(entry)).collect()
    }

    fn feature(&mut self, entry: &Entry) -> Option<Placed<Feature>> {
        let Entry { key: name, place, node } = entry;
        self.check_name(name, place, "a feature");
        if name == EVENT_TIME_COLUMN {
            let message = format!(
                "a feature cannot be named \"{name}\": rows carry their event time under that name"
            );
            self.invalid(place, message);
        }
        let feature = match &node.content {
            Content::Text(text) => Feature {
                name: name.clone(),
                feature_type: self.feature_type(text, &node.place)?,
                default: None,
                ttl: None,
                freshness: None,
                about: About::default(),
            },
            Content::Table(_) => {
                let table = self.table(node, &format!("feature \"{name}\""), &FEATURE)?;
                self.feature_of_table(entry, table)?
            }
            _ => {
                self.unexpected(node, name, "a type such as \"int64\", or a table with one");
                return None;
            }
        };
        Some(Placed { value: feature, place: place.clone() })
    }

    fn feature_of_table(&mut self, entry: &Entry, table: Table<'_>) -> Option<Feature> {
        let (name, place) = (&entry.key, &entry.place);
        // Read all the rest before giving up on the type, so that no mistake hides another.
        let (ttl, freshness) = (table.span("ttl", self), table.span("freshness", self));
        let about = table.about(self);
        let is_later = FEATURE.later.iter().any(|key| table.get(key).is_some());
        if table.get("type").is_none() && !is_later {
            self.invalid(place, format!("feature \"{name}\" needs a type"));
        }
        let text = table.text("type", self)?;
        let feature_type = self.feature_type(&text.value, &text.place)?;
        let default = self.default(table, name, feature_type);
        Some(Feature { name: name.clone(), feature_type, default, ttl, freshness, about })
    }

    fn feature_type(&mut self, text: &str, place: &Place) -> Option<FeatureType> {
        match FeatureType::parse(text) {
            Ok(feature_type) => Some(feature_type),
            Err(error) => {
                let scalars = ScalarType::ALL.map(ScalarType::name);
                let meant = match hint(text, scalars) {
                    meant @ crate::registry::nearest::Hint::Meant(_) => meant.to_string(),
                    crate::registry::nearest::Hint::OneOf(..) => String::new(),
                };
                self.invalid(place, format!("{error}{meant}"));
                None
            }
        }
    }

    fn default(
        &mut self,
        table: Table<'_>,
        name: &str,
        feature_type: FeatureType,
    ) -> Option<Value> {
        let node = &table.get("default")?.node;
        let mut text = Vec::new();
        node.write_json(&mut text);
        let text = String::from_utf8(text).expect("JSON is written as UTF-8");
        match json::read(feature_type, &text, None) {
            Ok(Cell::Value(value)) => return Some(value),
            Ok(Cell::Null | Cell::Absent) => {
                let message = format!("default of \"{name}\" is null; leave it out for none");
                self.invalid(&node.place, message);
            }
            Err(error) => self.invalid(&node.place, format!("default of \"{name}\": {error}")),
        }
        None
    }

    fn service(&mut self, entry: &Entry, project: &Arc<str>) -> Option<ServiceDefinition> {
        let Entry { key: name, place, node } = entry;
        self.check_name(name, place, "a service");
        let table = self.table(node, &format!("service \"{name}\""), &SERVICE)?;
        let mut features: Vec<Selection> = Vec::new();
        match table.get("features").map(|entry| &entry.node) {
            Some(Node { content: Content::Array(nodes), .. }) if !nodes.is_empty() => {
                features.extend(nodes.iter().filter_map(|node| self.selection(node)));
            }
            Some(node @ Node { content: Content::Array(_), .. }) => {
                self.invalid(&node.place, format!("service \"{name}\" needs at least one feature"));
            }
            Some(node) => self.unexpected(node, "features", "an array of references"),
            None => {
                self.invalid(place, format!("service \"{name}\" needs at least one feature"));
            }
        }
        let mut seen = HashSet::new();
        for feature in &features {
            if !seen.insert(feature.column()) {
                let message = format!(
                    "service \"{name}\" has \"{}\" twice; give one another name with `as`",
                    feature.column()
                );
                self.invalid(&feature.reference.place, message);
            }
        }
        Some(ServiceDefinition {
            project: Arc::clone(project),
            place: place.clone(),
            name: name.clone(),
            features,
            about: table.about(self),
        })
    }

    fn selection(&mut self, node: &Node) -> Option<Selection> {
        match &node.content {
            Content::Text(text) => {
                let reference = Placed { value: text.clone(), place: node.place.clone() };
                Some(Selection { reference, role: None, name: None })
            }
            Content::Table(_) => {
                let table = self.table(node, "a service's feature", &SELECTION)?;
                let name = table.text("as", self);
                if let Some(name) = &name {
                    self.check_name(&name.value, &name.place, "a service's feature");
                }
                let role = table.text("entity", self);
                if let Some(role) = &role {
                    self.check_name(&role.value, &role.place, "an entity");
                }
                if table.get("ref").is_none() {
                    let message =
                        "a service's feature needs a ref, as in { ref = \"view:feature\" }";
                    self.invalid(&node.place, message.to_owned());
                }
                let reference = table.text("ref", self)?;
                Some(Selection { reference, role, name: name.map(|name| name.value) })
            }
            _ => {
                self.unexpected(node, "features", "a reference or a table with `ref`");
                None
            }
        }
    }
}
