//! Requests rendered once, of which only digits change: keys and values stand at fixed places with
//! fixed widths, so that the next request costs no allocation and hardly a copy.
//!
//! It does not know protocols.

use crate::data::{self, INSTANT_DIGITS, KEY_DIGITS, KEY_PREFIX, Kind, Value};

/// Bytes with places in them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// What [`crate::scenario::Data::versioned`] says.
    versioned: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    /// Which of the request's entities.
    entity: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Key,
    /// An instant at which the row's version is the newest, in microseconds.
    Instant,
    /// The value of a feature, as JSON padded with spaces in front.
    Value(usize, Kind),
}

impl Template {
    /// Appends what never changes.
    pub(crate) fn fixed(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Appends the place of a key.
    pub(crate) fn key(&mut self, entity: usize) {
        self.bytes.push(KEY_PREFIX as u8);
        self.place(entity, What::Key, KEY_DIGITS);
    }

    /// Appends the place of an instant.
    pub(crate) fn instant(&mut self, row: usize, entities: u64) {
        self.versioned = Some(entities);
        self.place(row, What::Instant, INSTANT_DIGITS);
    }

    /// Appends the place of a value.
    pub(crate) fn value(&mut self, entity: usize, feature: usize, kind: Kind) {
        self.place(entity, What::Value(feature, kind), width(kind));
    }

    fn place(&mut self, entity: usize, what: What, width: usize) {
        self.places.push(Place { at: self.bytes.len(), entity, what });
        self.bytes.resize(self.bytes.len() + width, b' ');
    }

    /// Puts `head` in front, which may name the length of the rest.
    pub(crate) fn behind(mut self, head: &str) -> Self {
        let shift = head.len();
        self.bytes.splice(0..0, head.bytes());
        self.places.iter_mut().for_each(|place| place.at += shift);
        self
    }

    /// How many bytes a request has.
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The request for these entities, or versions of their rows.
    pub(crate) fn fill(&mut self, entities: &[u64]) -> &[u8] {
        for place in &self.places {
            let entity = entities[place.entity];
            match place.what {
                What::Key => {
                    let number = self.versioned.map_or(entity, |entities| entity % entities);
                    write_digits(number, &mut self.bytes[place.at..place.at + KEY_DIGITS]);
                }
                What::Instant => {
                    let version = self.versioned.map_or(0, |entities| entity / entities);
                    let into = &mut self.bytes[place.at..place.at + INSTANT_DIGITS];
                    write_digits(data::instant_micros(entity, version), into);
                }
                What::Value(feature, kind) => {
                    let into = &mut self.bytes[place.at..place.at + width(kind)];
                    write_value(entity, feature, kind, into);
                }
            }
        }
        &self.bytes
    }
}

/// The most bytes a value takes.
const fn width(kind: Kind) -> usize {
    match kind {
        Kind::Int64 => 6,
        Kind::Float64 => 7,
        Kind::String => 6,
        Kind::Bool => 5,
        Kind::Embedding(_) => 0,
    }
}

fn write_digits(number: u64, into: &mut [u8]) {
    let mut rest = number;
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn write_value(entity: u64, feature: usize, kind: Kind, into: &mut [u8]) {
    let mut buffer = itoa::Buffer::new();
    into.fill(b' ');
    let value = data::value(entity, feature, kind);
    if let Value::Int64(number) = value {
        let text = buffer.format(number);
        let from = into.len() - text.len();
        into[from..].copy_from_slice(text.as_bytes());
        return;
    }
    let mut json = Vec::with_capacity(into.len());
    value.write_json(&mut json);
    let from = into.len() - json.len();
    into[from..].copy_from_slice(&json);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_places_change() {
        let mut template = Template::default();
        template.fixed("{\"k\":\"");
        template.key(1);
        template.fixed("\",\"v\":");
        let kinds = [Kind::Int64, Kind::Float64, Kind::String, Kind::Bool];
        for (feature, kind) in kinds.into_iter().enumerate() {
            template.value(0, feature, kind);
            template.fixed(",\"x\":");
        }
        template.fixed("0}");
        let length = template.len();
        let mut template = template.behind("head\n");
        assert_eq!(template.len(), length + 5);
        for entity in 0..500 {
            let text = String::from_utf8(template.fill(&[entity, entity + 7]).to_vec()).unwrap();
            let json = text.strip_prefix("head\n").unwrap();
            let key = format!("{{\"k\":\"{}\",\"v\":", data::key(entity + 7));
            let values = json.strip_prefix(&key).unwrap();
            for (feature, kind) in kinds.into_iter().enumerate() {
                let found = values.split(",\"x\":").nth(feature).unwrap();
                let found = serde_json::from_str(found).unwrap();
                assert!(data::value(entity, feature, kind).is(&found), "{text}");
            }
        }
    }
}
