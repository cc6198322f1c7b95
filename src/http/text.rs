//! Pieces of a JSON body that borrow from it: texts, and objects as pairs in their order.
//!
//! It does not know what they mean.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON string; borrowed where it has no escapes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// A JSON object as it stands, repeated keys included.
#[derive(Clone, Debug)]
pub(super) struct Pairs<'a>(pub(super) Vec<(Text<'a>, &'a RawValue)>);

impl<'a> Pairs<'a> {
    /// The value of `key`, the first if it is repeated.
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(name, _)| &**name == key).map(|(_, value)| *value)
    }

    /// A key that stands there twice.
    pub(super) fn repeated(&self) -> Option<&str> {
        let mut keys: Vec<&str> = self.0.iter().map(|(key, _)| &**key).collect();
        keys.sort_unstable();
        keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_order_and_repeats() {
        let pairs: Pairs<'_> = serde_json::from_str(r#"{"b":1,"a\u0062":[2],"b":3}"#).unwrap();
        let read: Vec<_> = pairs.0.iter().map(|(key, value)| (&**key, value.get())).collect();
        assert_eq!(read, [("b", "1"), ("ab", "[2]"), ("b", "3")]);
        assert_eq!(pairs.get("b").unwrap().get(), "1");
        assert_eq!(pairs.repeated(), Some("b"));
        assert!(matches!(pairs.0[0].0, Text(Cow::Borrowed(_))));
        assert!(serde_json::from_str::<Pairs<'_>>("[]").is_err());
    }
}
