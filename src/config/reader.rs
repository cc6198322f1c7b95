//! Reads values as meant from a configuration as typed, and collects what does not fit.
//!
//! It does not know which keys there are.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::mistake::{Mistake, Mistakes, Place, Problem};
use super::typed::{Found, Raw, Said, Typed};
use crate::time::Span;

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads one value after another. A value that does not fit is a mistake and reads as its default,
/// so that all mistakes come to light in one go.
pub(super) struct Reader<'a> {
    typed: &'a Typed,
    refused: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(typed: &'a Typed, mistakes: Vec<Mistake>) -> Self {
        Self { typed, refused: Vec::new(), mistakes }
    }

    /// `config`, unless there were mistakes.
    pub(super) fn finish<T>(self, config: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }

    pub(super) fn address(&mut self, key: &'static str) -> SocketAddr {
        let expected = "an address such as \"127.0.0.1:6566\"";
        self.text(key, expected, |text| text.parse().ok())
    }

    pub(super) fn optional_address(&mut self, key: &'static str) -> Option<SocketAddr> {
        let expected = "an address such as \"127.0.0.1:6566\", or \"\" for none";
        self.text(key, expected, |text| optional(text, |text| text.parse().ok()))
    }

    pub(super) fn path(&mut self, key: &'static str) -> PathBuf {
        self.text(key, "a path", path)
    }

    pub(super) fn optional_path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key, "a path, or \"\" for none", |text| optional(text, path))
    }

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> T {
        let quoted: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let expected = match quoted.as_slice() {
            [others @ .., last] => format!("{} or {last}", others.join(", ")),
            [] => String::new(),
        };
        self.text(key, &expected, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// A text that `parse` accepts.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.value(key, expected, |raw| match raw {
            Raw::Text(text) | Raw::Untyped(text) => parse(text),
            _ => None,
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.value(key, "true or false", |raw| match raw {
            Raw::Flag(flag) => Some(*flag),
            Raw::Untyped(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// A whole number within bounds.
    pub(super) fn count(&mut self, key: &'static str, low: usize, high: usize) -> usize {
        let expected = format!("a number from {low} to {high}");
        self.value(key, &expected, |raw| {
            within(integer(raw).and_then(|n| usize::try_from(n).ok()), low, high)
        })
    }

    /// A number of bytes within bounds.
    pub(super) fn size(&mut self, key: &'static str, low: u64, high: u64) -> u64 {
        let expected = format!("a size from {} to {}", Size(low), Size(high));
        self.value(key, &expected, |raw| within(size(raw), low, high))
    }

    /// A number of bytes that are held in memory.
    pub(super) fn bytes(&mut self, key: &'static str, low: u64, high: u64) -> usize {
        usize::try_from(self.size(key, low, high)).unwrap_or(usize::MAX)
    }

    pub(super) fn span(&mut self, key: &'static str, low: Span, high: Span) -> Span {
        let expected = format!("a duration from {low} to {high}");
        self.text(key, &expected, |text| within(Span::parse(text).ok(), low, high))
    }

    /// Refuses two values that do not go together, at the place that gave the first of them (or
    /// the second, if the first is the default). `rule` says what `other` must be.
    pub(super) fn contradict(
        &mut self,
        key: &'static str,
        other: &'static str,
        rule: &'static str,
    ) {
        if self.refused.contains(&key) || self.refused.contains(&other) {
            return;
        }
        let (first, second) = (self.stands(key), self.stands(other));
        let place = if first.place == Place::Default { &second.place } else { &first.place };
        let (found, other_found) = (first.shown.clone(), second.shown.clone());
        let problem = Problem::Contradiction { key, found, other, other_found, rule };
        self.mistakes.push(Mistake { place: place.clone(), problem });
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&Raw) -> Option<T>,
    ) -> T {
        let Said { default, given } = self.said(key);
        if let Some(given) = given {
            if let Some(value) = parse(&given.raw) {
                return value;
            }
            let (found, expected) = (given.shown.clone(), expected.to_owned());
            let problem = Problem::Value { key: key.to_owned(), found, expected };
            self.mistakes.push(Mistake { place: given.place.clone(), problem });
            self.refused.push(key);
        }
        parse(&default.raw).expect("a test reads the shipped config.toml")
    }

    fn stands(&self, key: &str) -> &'a Found {
        let Said { default, given } = self.said(key);
        given.as_ref().unwrap_or(default)
    }

    fn said(&self, key: &str) -> &'a Said {
        self.typed.0.get(key).expect("a test finds every key that is read in config.toml")
    }
}

/// A number of bytes, shown in the largest unit that divides it: `64MiB`.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fits = |(_, unit): &(&str, u64)| self.0 >= *unit && self.0.is_multiple_of(*unit);
        let (name, unit) = SIZES.into_iter().find(fits).unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

fn size(raw: &Raw) -> Option<u64> {
    if let Some(bytes) = integer(raw) {
        return u64::try_from(bytes).ok();
    }
    let (Raw::Text(text) | Raw::Untyped(text)) = raw else { return None };
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (_, unit) = SIZES.into_iter().find(|(name, _)| *name == &text[digits..])?;
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

fn integer(raw: &Raw) -> Option<i64> {
    match raw {
        Raw::Integer(integer) => Some(*integer),
        Raw::Untyped(text) => text.parse().ok(),
        _ => None,
    }
}

fn within<T: PartialOrd>(value: Option<T>, low: T, high: T) -> Option<T> {
    value.filter(|value| *value >= low && *value <= high)
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

fn optional<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { parse(text).map(Some) }
}
