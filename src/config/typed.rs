//! The configuration as typed: what each source says of each key, the last word winning.
//!
//! It does not know what a value means; that is read from it by `reader`.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Place, Problem};
use super::{DEFAULT, Sources};

/// Prefix of the environment variables that are looked at.
const PREFIX: &str = "LARDER__";
/// Longest piece of a value shown in a message, in characters.
const SHOWN: usize = 64;

/// A value as written.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// From the environment or the command line: a text that may stand for any type.
    Untyped(String),
    Text(String),
    Integer(i64),
    Flag(bool),
    /// Anything no key takes, and whole numbers of more than 64 bits.
    Other,
}

/// A value, where it stands, and how it looks there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) raw: Raw,
    pub(super) shown: String,
}

/// What is said of one key.
pub(super) struct Said {
    pub(super) default: Found,
    pub(super) given: Option<Found>,
}

/// Every key there is with what is said of it.
pub(super) struct Typed(pub(super) BTreeMap<String, Said>);

impl Typed {
    /// Lays the sources over the default; syntax errors and unknown keys go to `mistakes`.
    pub(super) fn layered(sources: &Sources, mistakes: &mut Vec<Mistake>) -> Self {
        let mut typed = Self(BTreeMap::new());
        let document = DeTable::parse(DEFAULT).expect("a test reads the shipped config.toml");
        for (section, entries) in document.get_ref() {
            for (key, value) in entries.get_ref().as_table().into_iter().flatten() {
                let default = found(value, DEFAULT, Place::Default);
                let said = Said { default, given: None };
                typed.0.insert(format!("{section}.{key}", key = key.get_ref()), said);
            }
        }
        typed.lay_file(sources, mistakes);
        typed.lay_environment(sources, mistakes);
        for argument in &sources.arguments {
            let place = Place::Argument(argument.name);
            typed.give(argument.key, untyped(place, &argument.value), mistakes);
        }
        typed
    }

    fn lay_file(&mut self, sources: &Sources, mistakes: &mut Vec<Mistake>) {
        let Some(file) = &sources.file else { return };
        let place = |offset: usize| {
            let before = file.text.as_bytes().iter().take(offset);
            let line = 1 + before.filter(|byte| **byte == b'\n').count();
            Place::File { path: file.path.clone(), line }
        };
        let (document, errors) = DeTable::parse_recoverable(&file.text);
        for error in &errors {
            let problem = Problem::Syntax(error.message().replace('\n', ", "));
            let place = place(error.span().map_or(0, |span| span.start));
            mistakes.push(Mistake { place, problem });
        }
        if !errors.is_empty() {
            // What was recovered from broken text would only add mistakes nobody made.
            return;
        }
        for (name, value) in document.get_ref() {
            let here = place(name.span().start);
            let known = self.0.keys().any(|key| section_of(key) == name.get_ref());
            match value.get_ref() {
                DeValue::Table(entries) if known => {
                    for (key, value) in entries {
                        let here = place(key.span().start);
                        let key =
                            format!("{name}.{key}", name = name.get_ref(), key = key.get_ref());
                        self.give(&key, found(value, &file.text, here), mistakes);
                    }
                }
                _ if known => {
                    let Found { shown, .. } = found(value, &file.text, here.clone());
                    let key = name.get_ref().to_string();
                    let expected = format!("a section [{key}]");
                    let problem = Problem::Value { key, found: shown, expected };
                    mistakes.push(Mistake { place: here, problem });
                }
                DeValue::Table(_) => {
                    let sections = self.0.keys().map(|key| section_of(key));
                    let nearest = nearest(name.get_ref(), sections).map(|near| format!("[{near}]"));
                    let key = format!("[{}]", name.get_ref());
                    mistakes
                        .push(Mistake { place: here, problem: Problem::Unknown { key, nearest } });
                }
                _ => self.give(name.get_ref(), found(value, &file.text, here), mistakes),
            }
        }
    }

    fn lay_environment(&mut self, sources: &Sources, mistakes: &mut Vec<Mistake>) {
        for (name, value) in &sources.environment {
            let name = name.to_string_lossy();
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let key = rest.to_ascii_lowercase().replace("__", ".");
            let place = Place::Environment(name.clone().into_owned());
            let given = match value.to_str() {
                Some(value) => untyped(place, value),
                None => Found { place, raw: Raw::Other, shown: "not UTF-8".to_owned() },
            };
            self.give(&key, given, mistakes);
        }
    }

    fn give(&mut self, key: &str, given: Found, mistakes: &mut Vec<Mistake>) {
        if let Some(said) = self.0.get_mut(key) {
            said.given = Some(given);
            return;
        }
        let nearest = nearest(key, self.0.keys().map(String::as_str));
        let (key, nearest) = match &given.place {
            Place::Environment(name) => (name.clone(), nearest.map(variable)),
            _ => (key.to_owned(), nearest.map(str::to_owned)),
        };
        mistakes.push(Mistake { place: given.place, problem: Problem::Unknown { key, nearest } });
    }
}

/// The environment variable that sets `key`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn section_of(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

fn untyped(place: Place, value: &str) -> Found {
    let shown = format!("{:?}", shorten(value));
    Found { place, raw: Raw::Untyped(value.to_owned()), shown }
}

fn found(value: &Spanned<DeValue<'_>>, text: &str, place: Place) -> Found {
    let raw = match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_or(Raw::Other, Raw::Integer)
        }
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        _ => Raw::Other,
    };
    let shown = match value.get_ref() {
        DeValue::Table(_) => "a table".to_owned(),
        _ => shorten(text.get(value.span()).unwrap_or_default()),
    };
    Found { place, raw, shown }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The candidate most like `key`, in whole or in its last part, if one is alike at all.
fn nearest<'a>(key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let distance = |candidate: &str| {
        let whole = strsim::damerau_levenshtein(key, candidate);
        // The right name in the wrong section is nearer than any other spelling but a slip.
        whole.min(1 + strsim::damerau_levenshtein(&last(key), &last(candidate)))
    };
    let (distance, nearest) =
        candidates.map(|candidate| (distance(candidate), candidate)).min_by_key(|near| near.0)?;
    (distance <= 2.max(key.len() / 3)).then_some(nearest)
}
