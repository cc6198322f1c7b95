//! Entity keys: one value per join key, as canonical bytes that stores compare and hash.
//!
//! It does not know which entity a key belongs to; the types of its parts are passed in.

use std::borrow::Cow;
use std::fmt;

use crate::value::types::KeyType;

/// The longest text one part can hold; lengths are written in 16 bits.
const PART_BYTES: usize = u16::MAX as usize;

/// One part of an entity key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyPart<'a> {
    /// Of a `string` join key.
    Text(Cow<'a, str>),
    /// Of an `int32` or `int64` join key.
    Integer(i64),
}

impl fmt::Display for KeyPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(integer) => integer.fmt(f),
        }
    }
}

/// Why a value is no part of a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not of the join key's type.
    #[error("{found} is not {expected}")]
    WrongType {
        /// What was found, shortened.
        found: String,
        /// The join key's type.
        expected: KeyType,
    },
    /// An empty string names no entity.
    #[error("a join key must not be empty")]
    Empty,
    /// Too long.
    #[error("a join key of {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The most there may be.
        limit: usize,
    },
}

/// Appends one part to a key. Parts are appended in the order of the entity's join keys; distinct
/// keys of one entity then have distinct bytes.
///
/// # Errors
/// The part is not of `key_type`, empty, or longer than 65,535 bytes.
pub fn append_part(
    key: &mut Vec<u8>,
    key_type: KeyType,
    part: &KeyPart<'_>,
) -> Result<(), KeyError> {
    match (key_type, part) {
        (KeyType::String, KeyPart::Text(text)) => append_text(key, text),
        (KeyType::Int64, KeyPart::Integer(integer)) => {
            // Big-endian with the sign bit flipped, so that bytes sort as the numbers do.
            key.extend_from_slice(&(integer ^ i64::MIN).to_be_bytes());
            Ok(())
        }
        (KeyType::Int32, KeyPart::Integer(integer)) => match i32::try_from(*integer) {
            Ok(integer) => {
                key.extend_from_slice(&(integer ^ i32::MIN).to_be_bytes());
                Ok(())
            }
            Err(_) => Err(wrong_type(&integer.to_string(), key_type)),
        },
        (_, KeyPart::Text(text)) => Err(wrong_type(&format!("\"{text}\""), key_type)),
        (_, KeyPart::Integer(integer)) => Err(wrong_type(&integer.to_string(), key_type)),
    }
}

fn append_text(key: &mut Vec<u8>, text: &str) -> Result<(), KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty);
    }
    let length = u16::try_from(text.len())
        .map_err(|_| KeyError::TooLong { bytes: text.len(), limit: PART_BYTES })?;
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Reads a part from text, as it stands in a path, on a command line or in a JSON string.
///
/// # Errors
/// An integer key's text is no integer of its size.
pub fn part_of_text(key_type: KeyType, text: &str) -> Result<KeyPart<'_>, KeyError> {
    let integer = || wrong_type(&format!("\"{text}\""), key_type);
    match key_type {
        KeyType::String => Ok(KeyPart::Text(Cow::Borrowed(text))),
        KeyType::Int64 => text.parse().map(KeyPart::Integer).map_err(|_| integer()),
        KeyType::Int32 => {
            text.parse::<i32>().map(|n| KeyPart::Integer(n.into())).map_err(|_| integer())
        }
    }
}

/// Reads a part from a JSON value's text: a string, or an integer (also for a `string` key).
///
/// # Errors
/// The value is neither, or an integer key's is no integer of its size.
pub fn part_of_json(key_type: KeyType, json: &str) -> Result<KeyPart<'_>, KeyError> {
    let wrong = || wrong_type(json, key_type);
    if json.starts_with('"') {
        let text: Cow<'_, str> = match json.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
            // Without escapes a string is what stands between its quotes.
            Some(text) if !text.contains(['"', '\\']) => Cow::Borrowed(text),
            _ => Cow::Owned(serde_json::from_str(json).map_err(|_| wrong())?),
        };
        return match (key_type, text) {
            (KeyType::String, text) => Ok(KeyPart::Text(text)),
            (_, text) => match part_of_text(key_type, &text)? {
                KeyPart::Integer(integer) => Ok(KeyPart::Integer(integer)),
                KeyPart::Text(_) => Err(wrong()),
            },
        };
    }
    let integer: i64 = json.parse().map_err(|_| wrong())?;
    match key_type {
        KeyType::String => Ok(KeyPart::Text(Cow::Owned(integer.to_string()))),
        KeyType::Int64 => Ok(KeyPart::Integer(integer)),
        KeyType::Int32 => {
            i32::try_from(integer).map(|n| KeyPart::Integer(n.into())).map_err(|_| wrong())
        }
    }
}

fn wrong_type(found: &str, expected: KeyType) -> KeyError {
    KeyError::WrongType { found: found.chars().take(64).collect(), expected }
}

/// Reads a key back into its parts; none if the bytes are no key of these types.
pub fn parts<'a>(types: &[KeyType], mut key: &'a [u8]) -> Option<Vec<KeyPart<'a>>> {
    let mut parts = Vec::with_capacity(types.len());
    for key_type in types {
        let part;
        (part, key) = match key_type {
            KeyType::String => {
                let (length, rest) = key.split_first_chunk::<2>()?;
                let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
                (KeyPart::Text(Cow::Borrowed(std::str::from_utf8(text).ok()?)), rest)
            }
            KeyType::Int64 => {
                let (bytes, rest) = key.split_first_chunk::<8>()?;
                (KeyPart::Integer(i64::from_be_bytes(*bytes) ^ i64::MIN), rest)
            }
            KeyType::Int32 => {
                let (bytes, rest) = key.split_first_chunk::<4>()?;
                (KeyPart::Integer((i32::from_be_bytes(*bytes) ^ i32::MIN).into()), rest)
            }
        };
        parts.push(part);
    }
    key.is_empty().then_some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: [KeyType; 3] = [KeyType::String, KeyType::Int32, KeyType::Int64];

    fn key(text: &str, small: i32, large: i64) -> Vec<u8> {
        let mut key = Vec::new();
        let parts =
            [KeyPart::Text(text.into()), KeyPart::Integer(small.into()), KeyPart::Integer(large)];
        for (key_type, part) in TYPES.into_iter().zip(&parts) {
            append_part(&mut key, key_type, part).unwrap();
        }
        key
    }

    proptest! {
        #[test]
        fn keys_read_back_and_differ(
            a in (".{1,9}", any::<i32>(), any::<i64>()),
            b in (".{1,9}", any::<i32>(), any::<i64>()),
        ) {
            let bytes = key(&a.0, a.1, a.2);
            let read = parts(&TYPES, &bytes).unwrap();
            prop_assert_eq!(&read[0], &KeyPart::Text(a.0.as_str().into()));
            prop_assert_eq!(&read[1], &KeyPart::Integer(a.1.into()));
            prop_assert_eq!(&read[2], &KeyPart::Integer(a.2));
            prop_assert_eq!(bytes == key(&b.0, b.1, b.2), a == b);
        }
    }

    #[test]
    fn parts_come_from_strings_and_numbers() {
        let check = |key_type, json, expected: Result<&str, ()>| {
            let found = part_of_json(key_type, json);
            let found = found.as_ref().map(ToString::to_string);
            assert_eq!(found.as_deref().ok(), expected.ok(), "{key_type} {json}");
        };
        check(KeyType::String, "\"u1\"", Ok("u1"));
        check(KeyType::String, "\"\\u00e9\"", Ok("é"));
        check(KeyType::String, "7", Ok("7"));
        check(KeyType::String, "7.5", Err(()));
        check(KeyType::String, "null", Err(()));
        check(KeyType::String, "{}", Err(()));
        check(KeyType::Int64, "7", Ok("7"));
        check(KeyType::Int64, "\"7\"", Ok("7"));
        check(KeyType::Int64, "9223372036854775807", Ok("9223372036854775807"));
        check(KeyType::Int64, "9223372036854775808", Err(()));
        check(KeyType::Int64, "\"seven\"", Err(()));
        check(KeyType::Int64, "7.0", Err(()));
        check(KeyType::Int32, "2147483648", Err(()));
        check(KeyType::Int32, "true", Err(()));
    }

    #[test]
    fn empty_and_endless_parts_are_refused() {
        let mut key = Vec::new();
        let mut append = |text: &str| {
            append_part(&mut key, KeyType::String, &KeyPart::Text(Cow::Borrowed(text)))
        };
        assert_eq!(append(""), Err(KeyError::Empty));
        assert!(matches!(append(&"x".repeat(65_536)), Err(KeyError::TooLong { .. })));
        assert!(append(&"x".repeat(65_535)).is_ok());
    }
}
