//! Definitions as people write them: TOML files, or the same tree as JSON. Every mistake is found
//! at once and named with its place.
//!
//! It does not know what is defined already: names that refer to other definitions are resolved by
//! `changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::metrics::Code;
use crate::registry::DEFAULT_PROJECT;
use crate::registry::model::{About, Feature, JoinKey, Tier, declared_name};
use crate::time::Span;

mod tree;

mod read;

mod write;

pub use tree::Place;

/// What kind of mistake it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The text is no TOML or JSON.
    Malformed,
    /// It says something that cannot be.
    Invalid,
    /// It contradicts what is defined and in use.
    Incompatible,
    /// It would drop what something else needs.
    InUse,
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct DefinitionError {
    /// Where it stands.
    pub place: Place,
    /// What kind it is.
    pub kind: Kind,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl DefinitionError {
    /// The stable code in answers.
    pub const fn code(&self) -> Code {
        match self.kind {
            Kind::Malformed => Code::MalformedRequest,
            Kind::Invalid => Code::InvalidValue,
            Kind::Incompatible => Code::IncompatibleDefinition,
            Kind::InUse => Code::InUse,
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// An entity as written.
#[derive(Clone, Debug)]
pub struct EntityDefinition {
    /// Its project's name.
    pub project: Arc<str>,
    /// Where its section starts.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// At least one; names differ.
    pub join_keys: Vec<JoinKey>,
    /// Description, owner, tags.
    pub about: About,
}

/// A version of a view as written.
#[derive(Clone, Debug)]
pub struct ViewDefinition {
    /// Its project's name.
    pub project: Arc<str>,
    /// Where its section starts.
    pub place: Place,
    /// Its name, without the version.
    pub name: String,
    /// From 1.
    pub version: u32,
    /// The name of its entity.
    pub entity: Placed<String>,
    /// At least one; names differ.
    pub features: Vec<Placed<Feature>>,
    /// For ever if none.
    pub ttl: Option<Span>,
    /// No target if none.
    pub freshness: Option<Span>,
    /// Whether lookups may ask for it.
    pub online: bool,
    /// Whether as-of reads may ask for it.
    pub offline: bool,
    /// Where its newest rows are kept.
    pub tier: Tier,
    /// For ever if none.
    pub retention: Option<Span>,
    /// What the bare name means from now on; unchanged if none.
    pub default_version: Option<Placed<u32>>,
    /// Description, owner, tags.
    pub about: About,
}

/// One feature of a service as written.
#[derive(Clone, Debug)]
pub struct Selection {
    /// What it refers to.
    pub reference: Placed<String>,
    /// The entity name that its key is given under, if not the view's.
    pub role: Option<Placed<String>>,
    /// Its name in answers, if not the reference.
    pub name: Option<String>,
}

impl Selection {
    /// Its name in answers.
    pub fn column(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.reference.value)
    }
}

/// A service as written.
#[derive(Clone, Debug)]
pub struct ServiceDefinition {
    /// Its project's name.
    pub project: Arc<str>,
    /// Where its section starts.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// At least one; names in answers differ.
    pub features: Vec<Selection>,
    /// Description, owner, tags.
    pub about: About,
}

/// All that some texts define. Invariant: no name is defined twice.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// Names of the projects that the texts are about, even where they define nothing.
    pub projects: Vec<Arc<str>>,
    /// In the order of the texts.
    pub entities: Vec<EntityDefinition>,
    /// In the order of the texts.
    pub views: Vec<ViewDefinition>,
    /// In the order of the texts.
    pub services: Vec<ServiceDefinition>,
}

impl Definitions {
    /// Reads one TOML text, for the default project unless it names another itself; `file` names
    /// it in errors.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the text.
    pub fn parse_toml(file: &str, text: &str) -> Result<Self, Vec<DefinitionError>> {
        Self::parse_toml_for(DEFAULT_PROJECT, file, text)
    }

    /// Reads one TOML text, for `project` unless it names another itself; `file` names it in
    /// errors.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the text.
    pub fn parse_toml_for(
        project: &str,
        file: &str,
        text: &str,
    ) -> Result<Self, Vec<DefinitionError>> {
        let mut all = Self::default();
        let mut errors = Vec::new();
        all.read(&tree::of_toml(file, text)?, project, &mut errors);
        all.checked(errors)
    }

    /// Reads several TOML texts (name, text) that may refer to each other, each for the default
    /// project unless it names another.
    ///
    /// # Errors
    /// Every mistake in them; names defined twice with both places.
    pub fn parse_toml_files<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<DefinitionError>> {
        let mut all = Self::default();
        let mut errors = Vec::new();
        for (file, text) in files {
            match tree::of_toml(file, text) {
                Ok(node) => all.read(&node, DEFAULT_PROJECT, &mut errors),
                Err(mut found) => errors.append(&mut found),
            }
        }
        all.checked(errors)
    }

    /// Reads the same tree as JSON, for `project` unless it names another itself.
    ///
    /// # Errors
    /// Every mistake in it; places are paths such as `view.user_profile.ttl`.
    pub fn parse_json(body: &[u8], project: &str) -> Result<Self, Vec<DefinitionError>> {
        let mut all = Self::default();
        let mut errors = Vec::new();
        all.read(&tree::of_json(body)?, project, &mut errors);
        all.checked(errors)
    }

    fn read(&mut self, node: &tree::Node, project: &str, errors: &mut Vec<DefinitionError>) {
        read::read(node, project, self, errors);
    }

    fn checked(self, mut errors: Vec<DefinitionError>) -> Result<Self, Vec<DefinitionError>> {
        self.refuse_repeats(&mut errors);
        if errors.is_empty() {
            return Ok(self);
        }
        errors.sort_by(|a, b| a.place.cmp(&b.place));
        Err(errors)
    }

    fn refuse_repeats(&self, errors: &mut Vec<DefinitionError>) {
        let entities =
            self.entities.iter().map(|e| ("entity", &e.project, e.name.clone(), &e.place));
        let views = self
            .views
            .iter()
            .map(|v| ("view", &v.project, declared_name(&v.name, v.version), &v.place));
        let services =
            self.services.iter().map(|s| ("service", &s.project, s.name.clone(), &s.place));
        let defaults = self.views.iter().filter_map(|view| {
            let place = &view.default_version.as_ref()?.place;
            Some(("default_version of view", &view.project, view.name.clone(), place))
        });
        let mut first: BTreeMap<(&str, &str, String), &Place> = BTreeMap::new();
        for (what, project, name, place) in entities.chain(views).chain(services).chain(defaults) {
            let message = format!("{what} \"{name}\" is defined twice, first at ");
            if let Some(earlier) = first.get(&(what, &**project, name.clone())) {
                let message = format!("{message}{earlier}");
                errors.push(DefinitionError { place: place.clone(), kind: Kind::Invalid, message });
            } else {
                first.insert((what, project, name), place);
            }
        }
    }
}

#[cfg(test)]
mod tests;
