//! Compares definitions with what is defined and says which changes lead from one to the other.
//!
//! It does not make the changes, nor know how definitions were read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{EntityTypeId, ProjectId, Slot, ViewId};
use crate::registry::Registry;
use crate::registry::definitions::{
    DefinitionError, Definitions, EntityDefinition, Kind, Place, Selection, ServiceDefinition,
    ViewDefinition,
};
use crate::registry::model::{
    EntityType, Feature, Features, Service, ServiceFeature, View, declared_name,
};
use crate::registry::record::{Change, DefaultVersion, ProjectRecord};

mod alter;

mod prune;

/// One change and what it does, for people: `+ view user_profile (3 features)`.
#[derive(Clone, PartialEq, Debug)]
pub struct PlannedChange {
    /// What [`Registry::apply`] is given.
    pub change: Change,
    /// In words; `+` adds, `~` alters, `-` drops.
    pub text: String,
}

/// What applying definitions would do.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// In an order in which they apply. Where there are errors: those of the definitions that have
    /// none, which can be applied without the rest; nothing is dropped then.
    pub changes: Vec<PlannedChange>,
    /// Definitions that cannot be applied.
    pub errors: Vec<DefinitionError>,
    /// What still works but soon may surprise.
    pub warnings: Vec<String>,
}

impl Planned {
    /// All changes, if there is no error.
    ///
    /// # Errors
    /// All errors.
    pub fn accept(self) -> Result<(Vec<PlannedChange>, Vec<String>), Vec<DefinitionError>> {
        if self.errors.is_empty() { Ok((self.changes, self.warnings)) } else { Err(self.errors) }
    }
}

/// Whether definitions that are not in the texts are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// They stay.
    Keep,
    /// They are dropped, in the projects that the texts are about.
    Drop,
}

/// The changes that lead from `registry` to `definitions`; none if they are applied already.
pub fn diff(registry: &Registry, definitions: &Definitions, absent: Absent) -> Planned {
    let mut planner =
        Planner { after: registry.clone(), planned: Planned::default(), doomed: BTreeSet::new() };
    let projects: BTreeMap<&str, ProjectId> =
        definitions.projects.iter().map(|name| (&**name, planner.project(name))).collect();
    if absent == Absent::Drop {
        for view in projects.values().flat_map(|project| registry.views(*project)) {
            let declared = |d: &ViewDefinition| is_of(view, d, &projects);
            if !definitions.views.iter().any(declared) {
                planner.doomed.insert(view.id);
            }
        }
    }
    for entity in &definitions.entities {
        planner.entity(projects[&*entity.project], entity);
    }
    // The first version put is the default one, so lower versions go first.
    let mut views: Vec<&ViewDefinition> = definitions.views.iter().collect();
    views.sort_by_key(|view| view.version);
    for view in views {
        planner.view(projects[&*view.project], view);
    }
    for view in &definitions.views {
        planner.default_version(projects[&*view.project], view);
    }
    for service in &definitions.services {
        planner.service(projects[&*service.project], service);
    }
    if absent == Absent::Drop {
        let each = || projects.iter().map(|(name, id)| (*name, *id));
        each().for_each(|project| planner.refuse_orphans(project, definitions));
        if planner.planned.errors.is_empty() {
            each().for_each(|project| planner.prune(project, definitions));
        }
    }
    projects.values().for_each(|project| planner.warn_of_ambiguity(registry, *project));
    planner.planned.errors.sort_by(|a, b| a.place.cmp(&b.place));
    planner.planned
}

fn is_of(view: &View, definition: &ViewDefinition, projects: &BTreeMap<&str, ProjectId>) -> bool {
    definition.name == view.name
        && definition.version == view.version
        && projects.get(&*definition.project) == Some(&view.project)
}

struct Planner {
    /// The registry as it is after the changes planned so far.
    after: Registry,
    planned: Planned,
    /// Views that pruning will drop.
    doomed: BTreeSet<ViewId>,
}

impl Planner {
    fn plan(&mut self, change: Change, text: String) {
        self.after.apply(&change).expect("a planned change applies");
        self.planned.changes.push(PlannedChange { change, text });
    }

    fn refuse(&mut self, place: &Place, kind: Kind, message: String) {
        self.planned.errors.push(DefinitionError { place: place.clone(), kind, message });
    }

    fn project(&mut self, name: &str) -> ProjectId {
        if let Some(id) = self.after.project(name) {
            return id;
        }
        let id = self.after.next_ids().project;
        let record = ProjectRecord { id, name: name.to_owned() };
        self.plan(Change::PutProject(record), format!("+ project {name}"));
        id
    }

    fn entity(&mut self, project: ProjectId, definition: &EntityDefinition) {
        let old = self.after.find_entity(project, &definition.name).cloned();
        let new = EntityType {
            id: old.as_ref().map_or(self.after.next_ids().entity, |old| old.id),
            project,
            name: definition.name.clone(),
            join_keys: definition.join_keys.clone(),
            about: definition.about.clone(),
        };
        let text = match &old {
            None => format!("+ entity {} ({})", new.name, alter::key_list(&new)),
            Some(old) if old.join_keys != new.join_keys => {
                let message = format!(
                    "entity \"{}\": join keys cannot change from {} to {}; define another entity",
                    new.name,
                    alter::key_list(old),
                    alter::key_list(&new)
                );
                return self.refuse(&definition.place, Kind::Incompatible, message);
            }
            Some(old) => match alter::about(&old.about, &new.about) {
                altered if altered.is_empty() => return,
                altered => format!("~ entity {}: {}", new.name, altered.join(", ")),
            },
        };
        self.plan(Change::PutEntity(Box::new(new)), text);
    }

    fn view(&mut self, project: ProjectId, definition: &ViewDefinition) {
        let entity = match self.after.entity_named(project, &definition.entity.value) {
            Ok(entity) => Arc::clone(entity),
            Err(error) => {
                let place = &definition.entity.place;
                return self.refuse(place, Kind::Invalid, error.to_string());
            }
        };
        if self.refuse_key_columns(&entity, definition) {
            return;
        }
        let name = declared_name(&definition.name, definition.version);
        let old =
            self.after.find_view(project, &definition.name, Some(definition.version)).cloned();
        let text = match &old {
            None => {
                let count = definition.features.len();
                let s = if count == 1 { "" } else { "s" };
                format!("+ view {name} ({count} feature{s})")
            }
            Some(old) => {
                let incompatible = self.incompatible(old, &entity, definition);
                if !incompatible.is_empty() {
                    for (place, what) in incompatible {
                        let message = format!(
                            "view \"{name}\": {what}; add a version: [view.\"{}@{}\"]",
                            old.name,
                            self.next_version(old)
                        );
                        self.refuse(&place, Kind::Incompatible, message);
                    }
                    return;
                }
                match alter::view(old, definition) {
                    altered if altered.is_empty() => return,
                    altered => format!("~ view {name}: {}", altered.join(", ")),
                }
            }
        };
        let new = View {
            id: old.as_ref().map_or(self.after.next_ids().view, |old| old.id),
            project,
            name: definition.name.clone(),
            version: definition.version,
            entity: entity.id,
            features: in_slots(old.as_deref(), definition),
            ttl: definition.ttl,
            freshness: definition.freshness,
            online: definition.online,
            offline: definition.offline,
            tier: definition.tier,
            retention: definition.retention,
            about: definition.about.clone(),
        };
        self.plan(Change::PutView(Box::new(new)), text);
    }

    /// Refuses features that share a name with a join key: both are columns of the same rows.
    fn refuse_key_columns(&mut self, entity: &EntityType, definition: &ViewDefinition) -> bool {
        let is_key = |name: &str| entity.join_keys.iter().any(|key| key.name == name);
        let clashing: Vec<_> =
            definition.features.iter().filter(|f| is_key(&f.value.name)).collect();
        for feature in &clashing {
            let message = format!(
                "feature \"{}\" has the name of a join key of entity \"{}\"; rows have one column \
                 of a name",
                feature.value.name, entity.name
            );
            self.refuse(&feature.place, Kind::Invalid, message);
        }
        !clashing.is_empty()
    }

    fn next_version(&self, view: &View) -> u32 {
        let versions = self.after.views(view.project).filter(|v| v.name == view.name);
        versions.map(|v| v.version).max().unwrap_or(view.version).saturating_add(1)
    }

    fn incompatible(
        &self,
        old: &View,
        entity: &EntityType,
        new: &ViewDefinition,
    ) -> Vec<(Place, String)> {
        let mut found = Vec::new();
        if old.entity != entity.id {
            let from = &self.after.entity_of(old).name;
            let what = format!("its entity cannot change from {from} to {}", entity.name);
            found.push((new.entity.place.clone(), what));
        }
        for feature in old.features.iter() {
            match new.features.iter().find(|new| new.value.name == feature.name) {
                None => {
                    let what = format!("feature {} cannot be removed", feature.name);
                    found.push((new.place.clone(), what));
                }
                Some(new) if new.value.feature_type != feature.feature_type => {
                    let what = format!(
                        "the type of feature {} cannot change from {} to {}",
                        feature.name, feature.feature_type, new.value.feature_type
                    );
                    found.push((new.place.clone(), what));
                }
                Some(_) => {}
            }
        }
        if old.tier != new.tier {
            let what = format!("its tier cannot change yet from {} to {}", old.tier, new.tier);
            found.push((new.place.clone(), what));
        }
        for (key, old, is_now) in
            [("online", old.online, new.online), ("offline", old.offline, new.offline)]
        {
            if is_now && !old {
                let what = format!("{key} cannot become true: earlier rows were not kept for it");
                found.push((new.place.clone(), what));
            }
        }
        found
    }

    fn default_version(&mut self, project: ProjectId, definition: &ViewDefinition) {
        let Some(default) = &definition.default_version else { return };
        let (view, version) = (definition.name.clone(), default.value);
        let Some(is_now) = self.after.default_version(project, &view) else {
            // Without any version the view itself was refused.
            return;
        };
        let meant = self.after.find_view(project, &view, Some(version));
        if meant.is_none_or(|meant| self.doomed.contains(&meant.id)) {
            let message = format!("default_version: view \"{view}\" has no version {version}");
            return self.refuse(&default.place, Kind::Invalid, message);
        }
        if is_now == version {
            return;
        }
        self.set_default(project, view, version);
    }

    fn set_default(&mut self, project: ProjectId, view: String, version: u32) {
        let from = self.after.default_version(project, &view).unwrap_or(version);
        let text = format!("~ view {view}: default version {from} -> {version}");
        self.plan(Change::SetDefaultVersion(DefaultVersion { project, view, version }), text);
    }

    fn service(&mut self, project: ProjectId, definition: &ServiceDefinition) {
        let old = self.after.find_service(project, &definition.name).cloned();
        let mut features = Vec::with_capacity(definition.features.len());
        let mut roles: BTreeMap<String, EntityTypeId> = BTreeMap::new();
        let mut whole = true;
        for selection in &definition.features {
            match self.select(project, definition, old.as_deref(), selection, &mut roles) {
                Ok(feature) => features.push(feature),
                Err(error) => {
                    whole = false;
                    self.planned.errors.push(error);
                }
            }
        }
        if !whole {
            return;
        }
        let new = Service {
            id: old.as_ref().map_or(self.after.next_ids().service, |old| old.id),
            project,
            name: definition.name.clone(),
            features,
            about: definition.about.clone(),
        };
        let text = match &old {
            None => {
                let count = new.features.len();
                let s = if count == 1 { "" } else { "s" };
                format!("+ service {} ({count} feature{s})", new.name)
            }
            Some(old) => match alter::service(old, &new) {
                altered if altered.is_empty() => return,
                altered => format!("~ service {}: {}", new.name, altered.join(", ")),
            },
        };
        self.plan(Change::PutService(Box::new(new)), text);
    }

    fn select(
        &self,
        project: ProjectId,
        definition: &ServiceDefinition,
        old: Option<&Service>,
        selection: &Selection,
        roles: &mut BTreeMap<String, EntityTypeId>,
    ) -> Result<ServiceFeature, DefinitionError> {
        let reference = &selection.reference;
        let refuse = |place: &Place, kind, message| {
            Err(DefinitionError { place: place.clone(), kind, message })
        };
        let (view, slot) = match self.resolve(project, old, &reference.value) {
            Ok(found) => found,
            Err(error) => return refuse(&reference.place, Kind::Invalid, error.to_string()),
        };
        if self.doomed.contains(&view.id) {
            let message = format!(
                "view \"{}\" is not in the definitions and cannot be dropped: service \"{}\" uses \
                 it",
                view.declared_name(),
                definition.name
            );
            return refuse(&reference.place, Kind::InUse, message);
        }
        let entity = self.after.entity_of(view);
        let (role, place) = match &selection.role {
            Some(role) => (&role.value, &role.place),
            None => (&entity.name, &reference.place),
        };
        let other = self.after.find_entity(project, role).map(|other| other.id);
        let taken = *roles.entry(role.clone()).or_insert(other.unwrap_or(entity.id));
        if taken != entity.id {
            let other = self.after.entity(taken).map_or("", |other| other.name.as_str());
            let message = format!(
                "\"{role}\" stands for the key of entity \"{other}\", but \"{}\" needs that of \
                 \"{}\"",
                reference.value, entity.name
            );
            return refuse(place, Kind::Invalid, message);
        }
        Ok(ServiceFeature {
            view: view.id,
            slot,
            role: role.clone(),
            name: selection.column().to_owned(),
            reference: reference.value.clone(),
        })
    }

    /// What a service's reference means: what it meant when the service was defined, as long as
    /// that view stays, so that a new default version does not change what a model is served.
    fn resolve(
        &self,
        project: ProjectId,
        old: Option<&Service>,
        reference: &str,
    ) -> Result<(&Arc<View>, Slot), crate::registry::resolve::ResolveError> {
        let mut before = old.into_iter().flat_map(|old| &old.features);
        if let Some(before) = before.find(|feature| feature.reference == reference)
            && !self.doomed.contains(&before.view)
            && let Some(view) = self.after.view(before.view)
        {
            return Ok((view, before.slot));
        }
        self.after.feature_named(project, None, reference)
    }

    fn warn_of_ambiguity(&mut self, before: &Registry, project: ProjectId) {
        let known = ambiguous(before, project);
        for ((entity, feature), views) in ambiguous(&self.after, project) {
            if known.get(&(entity, feature.clone())).is_some_and(|known| known.len() == views.len())
            {
                continue;
            }
            let entity = self.after.entity(entity).map_or("", |entity| entity.name.as_str());
            self.planned.warnings.push(format!(
                "feature \"{feature}\" of entity \"{entity}\" is in views {}; asked for without \
                 its view it is refused as ambiguous",
                views.join(", ")
            ));
        }
    }
}

/// Features that several default views of one entity have, with those views.
fn ambiguous(
    registry: &Registry,
    project: ProjectId,
) -> BTreeMap<(EntityTypeId, String), Vec<String>> {
    let mut views: BTreeMap<(EntityTypeId, String), Vec<String>> = BTreeMap::new();
    for view in registry.default_views(project) {
        for feature in view.features.iter() {
            let key = (view.entity, feature.name.clone());
            views.entry(key).or_default().push(view.name.clone());
        }
    }
    views.retain(|_, views| views.len() > 1);
    views
}

/// The features of a definition in slot order: those the view has keep their slots, new ones
/// follow in the order declared.
fn in_slots(old: Option<&View>, definition: &ViewDefinition) -> Features {
    let slot = |feature: &Feature| old.and_then(|old| old.slot_of(&feature.name));
    let mut features: Vec<Feature> =
        definition.features.iter().map(|feature| feature.value.clone()).collect();
    features.sort_by_key(|feature| slot(feature).map_or(u32::MAX, |slot| slot.0.into()));
    features.into()
}

#[cfg(test)]
mod tests;
