//! Definitions before they mean anything: tables, arrays and values with the place each stands at,
//! the same from TOML and from JSON.
//!
//! It does not know which keys exist.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::registry::definitions::{DefinitionError, Kind};

/// Syntax errors of one file that are reported; later ones mostly follow from earlier ones.
const SYNTAX_ERRORS: usize = 20;

/// Where something stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// In a file.
    Line {
        /// Its name.
        file: Arc<str>,
        /// From 1.
        line: usize,
    },
    /// In a JSON body, from its root: `view.user_profile.ttl`; empty for the body itself.
    Path(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Path(path) if path.is_empty() => f.write_str("body"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Null,
    Bool(bool),
    /// As JSON writes it.
    Number(String),
    Text(String),
    /// A bare TOML date or time, as RFC 3339 writes it.
    Time(String),
    Array(Vec<Node>),
    /// In the order of the text; keys differ.
    Table(Vec<Entry>),
}

/// A key, where it stands, and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// What it is, for "found ..., expected ..." messages.
    pub(super) fn describe(&self) -> String {
        match &self.content {
            Content::Null => "null".to_owned(),
            Content::Bool(value) => value.to_string(),
            Content::Number(text) | Content::Time(text) => text.clone(),
            Content::Text(text) => format!("\"{}\"", crate::value::json::shorten(text)),
            Content::Array(_) => "an array".to_owned(),
            Content::Table(_) => "a table".to_owned(),
        }
    }

    /// Appends it as JSON.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        match &self.content {
            Content::Null => out.extend_from_slice(b"null"),
            Content::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Content::Number(text) => out.extend_from_slice(text.as_bytes()),
            Content::Text(text) | Content::Time(text) => {
                crate::value::json::write_string(text, out);
            }
            Content::Array(nodes) => {
                out.push(b'[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    node.write_json(out);
                }
                out.push(b']');
            }
            Content::Table(entries) => {
                out.push(b'{');
                for (index, entry) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    crate::value::json::write_string(&entry.key, out);
                    out.push(b':');
                    entry.node.write_json(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Reads a TOML text.
pub(super) fn of_toml(file: &str, text: &str) -> Result<Node, Vec<DefinitionError>> {
    let lines = Lines::new(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Node { place: lines.at(0), content: lines.table(table.into_inner()) });
    }
    let errors = errors.into_iter().take(SYNTAX_ERRORS).map(|error| DefinitionError {
        place: lines.at(error.span().map_or(0, |span| span.start)),
        kind: Kind::Malformed,
        message: format!("not valid TOML: {}", error.message()),
    });
    Err(errors.collect())
}

/// Turns byte offsets of one text into lines.
struct Lines {
    file: Arc<str>,
    starts: Vec<usize>,
}

impl Lines {
    fn new(file: &str, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { file: file.into(), starts: starts.collect() }
    }

    fn at(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset) + 1;
        Place::Line { file: Arc::clone(&self.file), line }
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Node {
        let place = self.at(value.span().start);
        let content = match value.into_inner() {
            DeValue::String(text) => Content::Text(text.into_owned()),
            DeValue::Integer(integer) => {
                let decimal = i128::from_str_radix(integer.as_str(), integer.radix());
                let text = decimal.map_or_else(|_| integer.to_string(), |value| value.to_string());
                Content::Number(text)
            }
            DeValue::Float(float) => Content::Number(float.as_str().trim_start_matches('+').into()),
            DeValue::Boolean(value) => Content::Bool(value),
            DeValue::Datetime(time) => Content::Time(time.to_string()),
            DeValue::Array(values) => {
                Content::Array(values.into_iter().map(|value| self.node(value)).collect())
            }
            DeValue::Table(table) => self.table(table),
        };
        Node { place, content }
    }

    fn table(&self, table: DeTable<'_>) -> Content {
        let mut entries: Vec<(usize, Entry)> = table
            .into_iter()
            .map(|(key, value)| {
                let start = key.span().start;
                let key = key.into_inner().into_owned();
                (start, Entry { key, place: self.at(start), node: self.node(value) })
            })
            .collect();
        entries.sort_by_key(|(start, _)| *start);
        Content::Table(entries.into_iter().map(|(_, entry)| entry).collect())
    }
}

/// Reads a JSON body.
pub(super) fn of_json(body: &[u8]) -> Result<Node, Vec<DefinitionError>> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let node = At(String::new()).deserialize(&mut reader);
    node.and_then(|node| reader.end().map(|()| node)).map_err(|error| {
        vec![DefinitionError {
            place: Place::Path(String::new()),
            kind: Kind::Malformed,
            message: format!("not valid JSON: {error}"),
        }]
    })
}

/// Reads the value at this path.
struct At(String);

impl At {
    fn below(&self, step: &str) -> String {
        if self.0.is_empty() { step.to_owned() } else { format!("{}.{step}", self.0) }
    }

    fn node<E>(self, content: Content) -> Result<Node, E> {
        Ok(Node { place: Place::Path(self.0), content })
    }
}

impl<'de> DeserializeSeed<'de> for At {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Node, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.node(Content::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        self.node(Content::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        self.node(Content::Number(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        self.node(Content::Number(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        self.node(Content::Number(zmij::Buffer::new().format(value).to_owned()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        self.node(Content::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element_seed(At(format!("{}[{}]", self.0, nodes.len())))? {
            nodes.push(node);
        }
        self.node(Content::Array(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = self.below(&key);
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("{path} stands twice")));
            }
            let node = map.next_value_seed(At(path.clone()))?;
            entries.push(Entry { key, place: Place::Path(path), node });
        }
        self.node(Content::Table(entries))
    }
}
