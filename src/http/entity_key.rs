//! Entity keys as requests write them: a string, a number, an object or an array; or a segment of a
//! path.
//!
//! It does not know which entity a request is about.

use serde_json::value::RawValue;

use crate::engine::error::{Place, Problem};
use crate::engine::lookup::Batch;
use crate::http::call::decode_segment;
use crate::http::text::Pairs;
use crate::limits::Limits;
use crate::metrics::Code;
use crate::registry::model::{EntityType, JoinKey};
use crate::registry::nearest::hint;
use crate::registry::plan::Role;
use crate::value::json::shorten;
use crate::value::key::{self, KeyError};

/// An entity key that cannot be read.
#[derive(Debug)]
pub(super) struct KeyMistake {
    pub(super) code: Code,
    pub(super) found: String,
    pub(super) expected: String,
}

impl KeyMistake {
    fn invalid(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { code: Code::InvalidValue, found: found.into(), expected: expected.into() }
    }

    /// The mistake as that of a whole request.
    pub(super) fn problem(self, entity: &EntityType, index: Option<usize>) -> Problem {
        let Self { code, found, expected } = self;
        let row = index.map(|index| format!(" at row {index}")).unwrap_or_default();
        let name = &entity.name;
        let detail = format!("the id of {name}{row}: found {found}, expected {expected}");
        let place = Place { index, field: "entity_id".to_owned(), found, expected };
        Problem::new(code, detail).with_places(vec![place])
    }
}

/// Appends the key that a JSON value gives.
pub(super) fn append_json(
    entity: &EntityType,
    json: &RawValue,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<(), KeyMistake> {
    let start = out.len();
    let json = json.get();
    match json.as_bytes().first() {
        Some(b'{') => append_object(entity, json, out)?,
        Some(b'[') => append_array(entity, json, out)?,
        _ => match entity.join_keys.as_slice() {
            [only] => append_part(only, json, out)?,
            _ => return Err(KeyMistake::invalid(shorten(json), shape(entity))),
        },
    }
    check_length(out.len() - start, limits)
}

/// Adds a row to `batch`: for each role, in order, the key that its JSON value gives. `index` is
/// that of the row where the request has several.
pub(super) fn push_row<'j>(
    batch: &mut Batch,
    roles: &[Role],
    ids: impl IntoIterator<Item = &'j RawValue>,
    (index, limits): (Option<usize>, &Limits),
) -> Result<(), Problem> {
    for (role, id) in roles.iter().zip(ids) {
        batch
            .push_key(|key| append_json(&role.entity, id, limits, key))
            .map_err(|mistake| mistake.problem(&role.entity, index))?;
    }
    Ok(())
}

/// Appends one part.
pub(super) fn append_part(
    join_key: &JoinKey,
    json: &str,
    out: &mut Vec<u8>,
) -> Result<(), KeyMistake> {
    let part = key::part_of_json(join_key.key_type, json);
    let appended = part.and_then(|part| key::append_part(out, join_key.key_type, &part));
    appended.map_err(|error| part_mistake(join_key, &error, json))
}

/// Refuses a key longer than `limits.key_bytes`.
pub(super) fn check_length(bytes: usize, limits: &Limits) -> Result<(), KeyMistake> {
    if bytes <= limits.key_bytes {
        return Ok(());
    }
    Err(KeyMistake {
        code: Code::LimitExceeded,
        found: format!("a key of {bytes} bytes"),
        expected: format!("at most {}, the limit limits.key_bytes", limits.key_bytes),
    })
}

fn append_object(entity: &EntityType, json: &str, out: &mut Vec<u8>) -> Result<(), KeyMistake> {
    let pairs: Pairs<'_> = serde_json::from_str(json)
        .map_err(|_| KeyMistake::invalid(shorten(json), shape(entity)))?;
    if let Some(key) = pairs.repeated() {
        let found = format!("the join key \"{}\" twice", shorten(key));
        return Err(KeyMistake::invalid(found, shape(entity)));
    }
    let names = || entity.join_keys.iter().map(|key| key.name.as_str());
    if let Some((name, _)) = pairs.0.iter().find(|(name, _)| names().all(|key| key != &**name)) {
        let found = format!("the join key \"{}\"{}", shorten(name), hint(name, names()));
        return Err(KeyMistake::invalid(found, shape(entity)));
    }
    for join_key in &entity.join_keys {
        let Some(value) = pairs.get(&join_key.name) else {
            let found = format!("no \"{}\"", join_key.name);
            return Err(KeyMistake::invalid(found, shape(entity)));
        };
        append_part(join_key, value.get(), out)?;
    }
    Ok(())
}

fn append_array(entity: &EntityType, json: &str, out: &mut Vec<u8>) -> Result<(), KeyMistake> {
    let parts: Vec<&RawValue> = serde_json::from_str(json)
        .map_err(|_| KeyMistake::invalid(shorten(json), shape(entity)))?;
    if parts.len() != entity.join_keys.len() {
        return Err(KeyMistake::invalid(shorten(json), shape(entity)));
    }
    for (join_key, part) in entity.join_keys.iter().zip(parts) {
        append_part(join_key, part.get(), out)?;
    }
    Ok(())
}

/// Appends the key that a path segment gives: a single key as it stands, the parts of a composite
/// one with commas between.
pub(super) fn append_segment(
    entity: &EntityType,
    raw: &str,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    let parts: Vec<&str> = match entity.join_keys.as_slice() {
        [_] => vec![raw],
        _ => raw.split(',').collect(),
    };
    if parts.len() != entity.join_keys.len() {
        let names: Vec<&str> = entity.join_keys.iter().map(|key| key.name.as_str()).collect();
        let expected = format!("{} joined by commas, a comma inside being %2C", names.join(","));
        return Err(
            KeyMistake::invalid(format!("\"{}\"", shorten(raw)), expected).problem(entity, None)
        );
    }
    for (join_key, part) in entity.join_keys.iter().zip(parts) {
        let text = decode_segment(part)?;
        let part = key::part_of_text(join_key.key_type, &text);
        let appended = part.and_then(|part| key::append_part(out, join_key.key_type, &part));
        appended.map_err(|error| part_mistake(join_key, &error, &text).problem(entity, None))?;
    }
    check_length(out.len(), limits).map_err(|mistake| mistake.problem(entity, None))
}

fn part_mistake(join_key: &JoinKey, error: &KeyError, found: &str) -> KeyMistake {
    match error {
        KeyError::WrongType { .. } => {
            let expected = match join_key.key_type.name() {
                "string" => "a string or an integer".to_owned(),
                name => name.to_owned(),
            };
            KeyMistake::invalid(shorten(found), format!("{} as {expected}", join_key.name))
        }
        KeyError::Empty => {
            KeyMistake::invalid("an empty string", format!("{} with a value", join_key.name))
        }
        KeyError::TooLong { bytes, limit } => KeyMistake {
            code: Code::LimitExceeded,
            found: format!("{bytes} bytes"),
            expected: format!("{} of at most {limit} bytes", join_key.name),
        },
    }
}

/// How the entity's key is written.
fn shape(entity: &EntityType) -> String {
    let parts = entity.join_keys.iter().map(|key| format!("\"{}\": {}", key.name, key.key_type));
    let parts: Vec<String> = parts.collect();
    match entity.join_keys.as_slice() {
        [only] => only.key_type.to_string(),
        _ => format!("{{{}}}, or an array of these in this order", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EntityTypeId, ProjectId};
    use crate::registry::model::About;
    use crate::value::types::KeyType;

    fn entity(keys: &[(&str, KeyType)]) -> EntityType {
        let key = |(name, key_type): &(&str, KeyType)| JoinKey {
            name: (*name).to_owned(),
            key_type: *key_type,
        };
        EntityType {
            id: EntityTypeId(0),
            project: ProjectId(0),
            name: "thing".to_owned(),
            join_keys: keys.iter().map(key).collect(),
            about: About::default(),
        }
    }

    fn parts(entity: &EntityType, key: &[u8]) -> Vec<String> {
        let parts = key::parts(&entity.key_types(), key).unwrap();
        parts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_come_in_every_shape() {
        let route = entity(&[("origin", KeyType::String), ("number", KeyType::Int64)]);
        let user = entity(&[("user_id", KeyType::String)]);
        let limits = Limits { key_bytes: 20, ..Limits::default() };
        let check = |entity: &EntityType, json: &str, expected: Result<&[&str], &str>| {
            let mut key = Vec::new();
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            match (append_json(entity, raw, &limits, &mut key), expected) {
                (Ok(()), Ok(expected)) => assert_eq!(parts(entity, &key), expected, "{json}"),
                (Err(mistake), Err(expected)) => {
                    let said = format!("{} / {}", mistake.found, mistake.expected);
                    assert!(said.contains(expected), "{said}");
                }
                (found, _) => panic!("{json}: {found:?}"),
            }
        };
        check(&user, "\"u1\"", Ok(&["u1"]));
        check(&user, "7", Ok(&["7"]));
        check(&user, "{\"user_id\":\"u1\"}", Ok(&["u1"]));
        check(&user, "[\"u1\"]", Ok(&["u1"]));
        check(&user, "\"\"", Err("an empty string / user_id with a value"));
        check(&user, "null", Err("null / user_id as a string"));
        check(&user, "true", Err("true"));
        check(&user, "[\"a\",\"b\"]", Err("string"));
        check(&user, "\"123456789012345678901\"", Err("limits.key_bytes"));
        check(&user, "{\"user\":\"u1\"}", Err("did you mean \"user_id\"?"));
        check(&route, "{\"number\":\"7\",\"origin\":\"JFK\"}", Ok(&["JFK", "7"]));
        check(&route, "[\"JFK\",7]", Ok(&["JFK", "7"]));
        check(&route, "[\"JFK\"]", Err("[\"JFK\"] / {\"origin\": string, \"number\": int64}"));
        check(&route, "\"JFK\"", Err("or an array of these"));
        check(&route, "{\"origin\":\"JFK\"}", Err("no \"number\""));
        check(&route, "{\"origin\":\"J\",\"origin\":\"K\",\"number\":1}", Err("twice"));
        check(&route, "[\"JFK\",9223372036854775808]", Err("number as int64"));
    }

    #[test]
    fn segments_split_only_composite_keys() {
        let route = entity(&[("origin", KeyType::String), ("dest", KeyType::String)]);
        let user = entity(&[("user_id", KeyType::String)]);
        let check = |entity: &EntityType, raw: &str, expected: Option<&[&str]>| {
            let mut key = Vec::new();
            let read = append_segment(entity, raw, &Limits::default(), &mut key).ok();
            let read = read.map(|()| parts(entity, &key));
            assert_eq!(read, expected.map(|parts| parts.iter().map(|p| p.to_string()).collect()));
        };
        check(&user, "a,b", Some(&["a,b"]));
        check(&user, "a%2Fb", Some(&["a/b"]));
        check(&route, "JFK,SFO", Some(&["JFK", "SFO"]));
        check(&route, "J%2CK,SFO", Some(&["J,K", "SFO"]));
        check(&route, "JFK", None);
        check(&route, "JFK,", None);
        check(&route, "a,b,c", None);
    }
}
