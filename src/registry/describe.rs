//! Describes definitions for listings: names instead of ids, durations as they are written.
//!
//! It does not know pages, cursors or HTTP.

use serde::Serialize;
use serde_json::Value;

use crate::ids::{ProjectId, Slot};
use crate::registry::Registry;
use crate::registry::model::{About, EntityType, JoinKey, Service, View, json_of};
use crate::registry::resolve::ResolveError;
use crate::time::Span;

/// An entity.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EntityDescription {
    /// Its name.
    pub name: String,
    /// In key order.
    pub join_keys: Vec<JoinKey>,
    /// Description, owner, tags.
    #[serde(flatten)]
    pub about: About,
    /// The views that describe it.
    pub views: Vec<String>,
}

/// A feature.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FeatureDescription {
    /// What a lookup asks for: `user_profile:age`.
    pub reference: String,
    /// The view's name without its version.
    pub view: String,
    /// The view's version.
    pub version: u32,
    /// The view's entity.
    pub entity: String,
    /// The type as definitions write it.
    #[serde(rename = "type")]
    pub feature_type: String,
    /// Served where there is no fresh value.
    pub default: Option<Value>,
    /// The TTL that counts: its own, else the view's.
    pub ttl: Option<String>,
    /// The freshness target that counts: its own, else the view's.
    pub freshness: Option<String>,
    /// Description, owner and tags: its own, the owner else the view's.
    #[serde(flatten)]
    pub about: About,
}

/// A version of a view.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ViewDescription {
    /// The shortest name that means this version.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether the bare name means this version.
    pub is_default: bool,
    /// Its entity.
    pub entity: String,
    /// For ever if none.
    pub ttl: Option<String>,
    /// No target if none.
    pub freshness: Option<String>,
    /// Whether lookups may ask for it.
    pub online: bool,
    /// Whether as-of reads may ask for it.
    pub offline: bool,
    /// Where its newest rows are kept.
    pub tier: &'static str,
    /// For ever if none.
    pub retention: Option<String>,
    /// Description, owner, tags.
    #[serde(flatten)]
    pub about: About,
    /// In slot order.
    pub features: Vec<FeatureDescription>,
    /// The services that read it.
    pub services: Vec<String>,
}

/// One column of a service.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SelectionDescription {
    /// Its name in answers.
    pub name: String,
    /// What it reads, in full.
    pub reference: String,
    /// The name its entity key is given under.
    pub entity: String,
    /// The type as definitions write it.
    #[serde(rename = "type")]
    pub feature_type: String,
}

/// A service.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServiceDescription {
    /// Its name.
    pub name: String,
    /// The names that entity keys are given under, in the order first needed.
    pub entities: Vec<String>,
    /// In the order of answers.
    pub features: Vec<SelectionDescription>,
    /// Description, owner, tags.
    #[serde(flatten)]
    pub about: About,
}

/// Which features a listing holds; all conditions have to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter<'a> {
    /// Features with this tag, or of a view with it.
    pub tag: Option<&'a str>,
    /// Features of this owner: their own, else their view's.
    pub owner: Option<&'a str>,
    /// Features of this entity.
    pub entity: Option<&'a str>,
}

/// What a view name or feature reference names.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Described {
    /// A view.
    View(Box<ViewDescription>),
    /// A feature.
    Feature(Box<FeatureDescription>),
}

impl Registry {
    /// Describes the project's entities by name.
    pub fn describe_entities(&self, project: ProjectId) -> Vec<EntityDescription> {
        self.entities(project).map(|entity| self.describe_entity(entity)).collect()
    }

    /// Describes the project's views by name and version.
    pub fn describe_views(&self, project: ProjectId) -> Vec<ViewDescription> {
        self.views(project).map(|view| self.describe_view(view)).collect()
    }

    /// Describes the project's services by name.
    pub fn describe_services(&self, project: ProjectId) -> Vec<ServiceDescription> {
        self.services(project).map(|service| self.describe_service(service)).collect()
    }

    /// Describes the project's features by view, version and slot.
    pub fn describe_features(
        &self,
        project: ProjectId,
        filter: Filter<'_>,
    ) -> Vec<FeatureDescription> {
        let mut found = Vec::new();
        for view in self.views(project) {
            let has = |about: &About, tag: &str| about.tags.iter().any(|other| other == tag);
            for (slot, feature) in (0..).map(Slot).zip(view.features.iter()) {
                let described = self.describe_feature(view, slot);
                let tagged = |tag| has(&view.about, tag) || has(&feature.about, tag);
                if filter.tag.is_none_or(tagged)
                    && filter.owner.is_none_or(|o| described.about.owner.as_deref() == Some(o))
                    && filter.entity.is_none_or(|entity| described.entity == entity)
                {
                    found.push(described);
                }
            }
        }
        found
    }

    /// Describes the view or feature that `name` means: a view name if there is such a view, else a
    /// reference.
    ///
    /// # Errors
    /// As [`Registry::view_named`] and [`Registry::feature_named`].
    pub fn describe_named(
        &self,
        project: ProjectId,
        name: &str,
    ) -> Result<Described, ResolveError> {
        let as_view = || self.view_named(project, name).map(|view| self.describe_view(view));
        if name.contains(':') {
            let (view, slot) = self.feature_named(project, None, name)?;
            return Ok(Described::Feature(Box::new(self.describe_feature(view, slot))));
        }
        as_view().map(|view| Described::View(Box::new(view))).or_else(|unknown_view| {
            match self.feature_named(project, None, name) {
                Ok((view, slot)) => {
                    Ok(Described::Feature(Box::new(self.describe_feature(view, slot))))
                }
                Err(ambiguous @ ResolveError::AmbiguousFeature { .. }) => Err(ambiguous),
                Err(_) => Err(unknown_view),
            }
        })
    }

    /// Describes an entity.
    pub fn describe_entity(&self, entity: &EntityType) -> EntityDescription {
        let views = self.views(entity.project).filter(|view| view.entity == entity.id);
        EntityDescription {
            name: entity.name.clone(),
            join_keys: entity.join_keys.clone(),
            about: entity.about.clone(),
            views: views.map(|view| self.name_of(view)).collect(),
        }
    }

    /// Describes a version of a view.
    pub fn describe_view(&self, view: &View) -> ViewDescription {
        let slots = (0..).map(Slot).take(view.features.len());
        ViewDescription {
            name: self.name_of(view),
            version: view.version,
            is_default: self.default_version(view.project, &view.name) == Some(view.version),
            entity: self.entity_of(view).name.clone(),
            ttl: written(view.ttl),
            freshness: written(view.freshness),
            online: view.online,
            offline: view.offline,
            tier: view.tier.name(),
            retention: written(view.retention),
            about: view.about.clone(),
            features: slots.map(|slot| self.describe_feature(view, slot)).collect(),
            services: self.services_using(view.id).map(|service| service.name.clone()).collect(),
        }
    }

    fn describe_feature(&self, view: &View, slot: Slot) -> FeatureDescription {
        let feature = view.feature(slot).expect("the slot is one of this view");
        let mut about = feature.about.clone();
        about.owner = about.owner.or_else(|| view.about.owner.clone());
        FeatureDescription {
            reference: format!("{}:{}", self.name_of(view), feature.name),
            view: view.name.clone(),
            version: view.version,
            entity: self.entity_of(view).name.clone(),
            feature_type: feature.feature_type.to_string(),
            default: feature.default.as_ref().map(json_of),
            ttl: written(view.ttl_of(slot)),
            freshness: written(view.freshness_of(slot)),
            about,
        }
    }

    /// Describes a service.
    pub fn describe_service(&self, service: &Service) -> ServiceDescription {
        let mut entities: Vec<String> = Vec::new();
        let mut features = Vec::with_capacity(service.features.len());
        for feature in &service.features {
            if !entities.contains(&feature.role) {
                entities.push(feature.role.clone());
            }
            let view = self.view(feature.view).expect("a view outlives services that use it");
            let read = self.describe_feature(view, feature.slot);
            features.push(SelectionDescription {
                name: feature.name.clone(),
                reference: read.reference,
                entity: feature.role.clone(),
                feature_type: read.feature_type,
            });
        }
        ServiceDescription {
            name: service.name.clone(),
            entities,
            features,
            about: service.about.clone(),
        }
    }
}

fn written(span: Option<Span>) -> Option<String> {
    span.map(|span| span.to_string())
}
