//! Finds definitions by the names that requests use, and says what is wrong with a name that
//! finds nothing.
//!
//! It does not know requests, only names.

use std::fmt;
use std::sync::Arc;

use crate::ids::{ProjectId, Slot};
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::model::{EntityType, Service, View};
use crate::registry::nearest::{Hint, hint};
use crate::value::json::shorten;

/// What a plan is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Lookups of what is true now.
    Online,
    /// Reads as of an instant.
    AsOf,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "lookups (online = false)",
            Self::AsOf => "as-of reads (offline = false)",
        })
    }
}

/// Why names could not be resolved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResolveError {
    /// No such project.
    #[error("unknown project \"{name}\"{hint}")]
    UnknownProject {
        /// As asked.
        name: String,
        /// What may have been meant.
        hint: Hint,
    },
    /// No such entity.
    #[error("unknown entity type \"{name}\"{hint}")]
    UnknownEntityType {
        /// As asked.
        name: String,
        /// What may have been meant.
        hint: Hint,
    },
    /// No such view, or no such version of it.
    #[error("unknown view \"{name}\"{hint}")]
    UnknownView {
        /// As asked.
        name: String,
        /// What may have been meant.
        hint: Hint,
    },
    /// The view, or any view that was looked at, has no such feature.
    #[error("unknown feature \"{name}\"{hint}")]
    UnknownFeature {
        /// The reference as asked.
        name: String,
        /// What may have been meant.
        hint: Hint,
    },
    /// No such service.
    #[error("unknown service \"{name}\"{hint}")]
    UnknownService {
        /// As asked.
        name: String,
        /// What may have been meant.
        hint: Hint,
    },
    /// A bare feature name that several views have.
    #[error("feature \"{name}\" is ambiguous: ask for one of {}", candidates.join(", "))]
    AmbiguousFeature {
        /// As asked.
        name: String,
        /// Full references that it may mean, at least two.
        candidates: Vec<String>,
    },
    /// A reference twice.
    #[error("feature \"{name}\" is asked for twice")]
    DuplicateFeature {
        /// The reference as asked.
        name: String,
    },
    /// A reference needs the key of an entity that the request does not give.
    #[error("feature \"{reference}\" needs the key of entity \"{needed}\", given is \"{given}\"")]
    MissingEntity {
        /// The reference as asked.
        reference: String,
        /// The role whose key is needed.
        needed: String,
        /// The entity type that the request names.
        given: String,
    },
    /// The view's definition excludes this use.
    #[error("view \"{view}\" is not kept for {purpose}")]
    NotKept {
        /// The view.
        view: String,
        /// The use.
        purpose: Purpose,
    },
    /// Not of the form of a reference.
    #[error("\"{text}\" is no feature reference; it has the form view:feature or view@2:feature")]
    Malformed {
        /// As asked.
        text: String,
    },
    /// An empty list of features.
    #[error("no feature is asked for")]
    NothingAsked,
}

impl ResolveError {
    /// The stable code in answers.
    pub const fn code(&self) -> Code {
        match self {
            // There is no code of its own: entity types are the first thing looked for in one.
            Self::UnknownProject { .. } | Self::UnknownEntityType { .. } => Code::UnknownEntityType,
            Self::UnknownView { .. } => Code::UnknownView,
            Self::UnknownFeature { .. } => Code::UnknownFeature,
            Self::UnknownService { .. } => Code::UnknownService,
            Self::AmbiguousFeature { .. } => Code::AmbiguousFeature,
            Self::DuplicateFeature { .. } => Code::DuplicateFeature,
            Self::MissingEntity { .. } => Code::MissingEntity,
            Self::NotKept { .. } | Self::Malformed { .. } | Self::NothingAsked => {
                Code::InvalidValue
            }
        }
    }
}

/// A view name with its version, if it has one: `user_profile`, `user_profile@2`; none if the
/// version is no number from 1.
pub fn split_version(name: &str) -> Option<(&str, Option<u32>)> {
    let Some((name, version)) = name.split_once('@') else {
        return Some((name, None));
    };
    let plain = version.bytes().all(|b| b.is_ascii_digit()) && !version.starts_with('0');
    let version: u32 = plain.then(|| version.parse().ok()).flatten()?;
    Some((name, Some(version)))
}

impl Registry {
    /// The project of a request that names it.
    ///
    /// # Errors
    /// [`ResolveError::UnknownProject`]
    pub fn project_named(&self, name: &str) -> Result<ProjectId, ResolveError> {
        self.project(name).ok_or_else(|| ResolveError::UnknownProject {
            name: shorten(name),
            hint: hint(name, self.projects().map(|(name, _)| name)),
        })
    }

    /// An entity by name.
    ///
    /// # Errors
    /// [`ResolveError::UnknownEntityType`]
    pub fn entity_named(
        &self,
        project: ProjectId,
        name: &str,
    ) -> Result<&Arc<EntityType>, ResolveError> {
        self.find_entity(project, name).ok_or_else(|| ResolveError::UnknownEntityType {
            name: shorten(name),
            hint: hint(name, self.entities(project).map(|entity| entity.name.as_str())),
        })
    }

    /// A view by `name` (its default version) or `name@version`.
    ///
    /// # Errors
    /// [`ResolveError::UnknownView`]
    pub fn view_named(&self, project: ProjectId, name: &str) -> Result<&Arc<View>, ResolveError> {
        split_version(name)
            .and_then(|(bare, version)| self.find_view(project, bare, version))
            .ok_or_else(|| self.unknown_view(project, name))
    }

    /// A service by name.
    ///
    /// # Errors
    /// [`ResolveError::UnknownService`]
    pub fn service_named(
        &self,
        project: ProjectId,
        name: &str,
    ) -> Result<&Arc<Service>, ResolveError> {
        self.find_service(project, name).ok_or_else(|| ResolveError::UnknownService {
            name: shorten(name),
            hint: hint(name, self.services(project).map(|service| service.name.as_str())),
        })
    }

    /// The feature that a reference means: `view:feature`, `view@2:feature`, or a bare `feature`
    /// where only one view has it, among the default versions of the views of `entity`, or of the
    /// whole project if none is given.
    ///
    /// # Errors
    /// [`ResolveError::UnknownView`], [`ResolveError::UnknownFeature`],
    /// [`ResolveError::AmbiguousFeature`] or [`ResolveError::Malformed`]
    pub fn feature_named(
        &self,
        project: ProjectId,
        entity: Option<&EntityType>,
        reference: &str,
    ) -> Result<(&Arc<View>, Slot), ResolveError> {
        match reference.split_once(':') {
            Some((view, feature)) => {
                if view.is_empty() || feature.is_empty() || feature.contains(':') {
                    return Err(ResolveError::Malformed { text: shorten(reference) });
                }
                let view = self.view_named(project, view)?;
                let slot = view.slot_of(feature);
                let slot = slot.ok_or_else(|| self.unknown_feature(view, feature, reference))?;
                Ok((view, slot))
            }
            None if reference.is_empty() || reference.contains('@') => {
                Err(ResolveError::Malformed { text: shorten(reference) })
            }
            None => self.bare_feature(project, entity, reference),
        }
    }

    fn bare_feature(
        &self,
        project: ProjectId,
        entity: Option<&EntityType>,
        name: &str,
    ) -> Result<(&Arc<View>, Slot), ResolveError> {
        let views = || {
            let of_entity = move |view: &&Arc<View>| entity.is_none_or(|e| e.id == view.entity);
            self.default_views(project).filter(of_entity)
        };
        let found: Vec<(&Arc<View>, Slot)> =
            views().filter_map(|view| view.slot_of(name).map(|slot| (view, slot))).collect();
        match found.as_slice() {
            [] => {
                let features = views().flat_map(|view| view.features.iter());
                let names: std::collections::BTreeSet<&str> =
                    features.map(|feature| feature.name.as_str()).collect();
                Err(ResolveError::UnknownFeature { name: shorten(name), hint: hint(name, names) })
            }
            [only] => Ok(*only),
            several => Err(ResolveError::AmbiguousFeature {
                name: name.to_owned(),
                candidates: several.iter().map(|(v, _)| format!("{}:{name}", v.name)).collect(),
            }),
        }
    }

    fn unknown_view(&self, project: ProjectId, name: &str) -> ResolveError {
        let bare = name.split_once('@').map_or(name, |(bare, _)| bare);
        let all = || self.views(project);
        // A known name with an unknown version is answered with the versions there are.
        let versions: Vec<String> = all()
            .filter(|view| view.name == bare)
            .map(|view| format!("{}@{}", view.name, view.version))
            .collect();
        let hint = if versions.is_empty() {
            let mut names: Vec<&str> = all().map(|view| view.name.as_str()).collect();
            names.dedup();
            hint(bare, names)
        } else {
            Hint::OneOf(versions, 0)
        };
        ResolveError::UnknownView { name: shorten(name), hint }
    }

    fn unknown_feature(&self, view: &View, feature: &str, reference: &str) -> ResolveError {
        let prefix = reference.split_once(':').map_or("", |(view, _)| view);
        let hint = match hint(feature, view.features.iter().map(|f| f.name.as_str())) {
            Hint::Meant(feature) => Hint::Meant(format!("{prefix}:{feature}")),
            listed @ Hint::OneOf(..) => listed,
        };
        ResolveError::UnknownFeature { name: shorten(reference), hint }
    }
}
