//! What is defined now: projects, entities, views, services, found by name and by id.
//!
//! It does not know where definitions come from, nor that changes to them are kept in history.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{EntityTypeId, ProjectId, ServiceId, ViewId};
use crate::registry::model::{EntityType, Service, View};
use crate::registry::record::{ApplyError, Change, DefaultVersion, ProjectRecord, Snapshot};

pub mod model;

pub mod record;

pub mod nearest;

pub mod resolve;

pub mod plan;

pub mod definitions;

pub mod changes;

pub mod drops;

pub mod describe;

#[cfg(test)]
mod tests;

/// The project of requests that name none. It always exists, with id 0.
pub const DEFAULT_PROJECT: &str = "default";

/// The ids that the next definitions get. They only grow, so that no id is ever reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextIds {
    /// Of the next project.
    pub project: ProjectId,
    /// Of the next entity.
    pub entity: EntityTypeId,
    /// Of the next view.
    pub view: ViewId,
    /// Of the next service.
    pub service: ServiceId,
}

/// The versions of one view name. Invariant: never empty, and the default is one of them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Versions {
    default: u32,
    ids: BTreeMap<u32, ViewId>,
}

/// The names of one project.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Names {
    entities: BTreeMap<Box<str>, EntityTypeId>,
    views: BTreeMap<Box<str>, Versions>,
    services: BTreeMap<Box<str>, ServiceId>,
}

/// Everything defined at one moment. It changes only through [`Registry::apply`], which live
/// definition and replay share; a clone shares the definitions themselves.
#[derive(Clone, PartialEq, Debug)]
pub struct Registry {
    revision: u64,
    next: NextIds,
    projects: BTreeMap<Box<str>, ProjectId>,
    names: BTreeMap<ProjectId, Names>,
    entities: BTreeMap<EntityTypeId, Arc<EntityType>>,
    views: BTreeMap<ViewId, Arc<View>>,
    services: BTreeMap<ServiceId, Arc<Service>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Nothing but the default project.
    pub fn new() -> Self {
        let default = ProjectId(0);
        Self {
            revision: 0,
            next: NextIds {
                project: ProjectId(1),
                entity: EntityTypeId(0),
                view: ViewId(0),
                service: ServiceId(0),
            },
            projects: BTreeMap::from([(DEFAULT_PROJECT.into(), default)]),
            names: BTreeMap::from([(default, Names::default())]),
            entities: BTreeMap::new(),
            views: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    /// Grows by one with every change; plans carry it, so that stale ones are noticed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The ids that the next definitions get.
    pub fn next_ids(&self) -> NextIds {
        self.next
    }

    /// Projects by name.
    pub fn projects(&self) -> impl Iterator<Item = (&str, ProjectId)> {
        self.projects.iter().map(|(name, id)| (&**name, *id))
    }

    /// The id of a project.
    pub fn project(&self, name: &str) -> Option<ProjectId> {
        self.projects.get(name).copied()
    }

    /// The name of a project.
    pub fn project_name(&self, id: ProjectId) -> Option<&str> {
        self.projects().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// An entity by id.
    pub fn entity(&self, id: EntityTypeId) -> Option<&Arc<EntityType>> {
        self.entities.get(&id)
    }

    /// A version of a view by id.
    pub fn view(&self, id: ViewId) -> Option<&Arc<View>> {
        self.views.get(&id)
    }

    /// A service by id.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// The entity of a view.
    pub fn entity_of(&self, view: &View) -> &Arc<EntityType> {
        self.entities.get(&view.entity).expect("an entity outlives its views")
    }

    /// All views of all projects, by id.
    pub fn all_views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values()
    }

    /// The project's entities by name.
    pub fn entities(&self, project: ProjectId) -> impl Iterator<Item = &Arc<EntityType>> {
        let names = self.names.get(&project).into_iter();
        names.flat_map(|names| names.entities.values()).filter_map(|id| self.entities.get(id))
    }

    /// The project's views by name and version.
    pub fn views(&self, project: ProjectId) -> impl Iterator<Item = &Arc<View>> {
        let names = self.names.get(&project).into_iter();
        names
            .flat_map(|names| names.views.values())
            .flat_map(|versions| versions.ids.values())
            .filter_map(|id| self.views.get(id))
    }

    /// The default version of each of the project's views, by name.
    pub fn default_views(&self, project: ProjectId) -> impl Iterator<Item = &Arc<View>> {
        let names = self.names.get(&project).into_iter();
        names
            .flat_map(|names| names.views.values())
            .filter_map(|versions| versions.ids.get(&versions.default))
            .filter_map(|id| self.views.get(id))
    }

    /// The project's services by name.
    pub fn services(&self, project: ProjectId) -> impl Iterator<Item = &Arc<Service>> {
        let names = self.names.get(&project).into_iter();
        names.flat_map(|names| names.services.values()).filter_map(|id| self.services.get(id))
    }

    /// The version that a bare view name means.
    pub fn default_version(&self, project: ProjectId, view: &str) -> Option<u32> {
        self.versions(project, view).map(|versions| versions.default)
    }

    /// The shortest name that means this version: bare for the default one, else `name@version`.
    pub fn name_of(&self, view: &View) -> String {
        if self.default_version(view.project, &view.name) == Some(view.version) {
            view.name.clone()
        } else {
            format!("{}@{}", view.name, view.version)
        }
    }

    /// An entity by name.
    pub fn find_entity(&self, project: ProjectId, name: &str) -> Option<&Arc<EntityType>> {
        self.entity(*self.names.get(&project)?.entities.get(name)?)
    }

    /// A version of a view by name; the default one if none is given.
    pub fn find_view(
        &self,
        project: ProjectId,
        name: &str,
        version: Option<u32>,
    ) -> Option<&Arc<View>> {
        let versions = self.versions(project, name)?;
        self.view(*versions.ids.get(&version.unwrap_or(versions.default))?)
    }

    /// A service by name.
    pub fn find_service(&self, project: ProjectId, name: &str) -> Option<&Arc<Service>> {
        self.service(*self.names.get(&project)?.services.get(name)?)
    }

    /// The services that read this version of a view.
    pub fn services_using(&self, view: ViewId) -> impl Iterator<Item = &Arc<Service>> {
        self.services
            .values()
            .filter(move |service| service.features.iter().any(|f| f.view == view))
    }

    fn versions(&self, project: ProjectId, view: &str) -> Option<&Versions> {
        self.names.get(&project)?.views.get(view)
    }

    /// Makes one change. Deterministic: the same changes in the same order give the same registry.
    ///
    /// # Errors
    /// The change contradicts what is defined; nothing has changed then. [`changes`] plans only
    /// changes that apply, so in replay this means damage.
    pub fn apply(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::PutProject(project) => self.put_project(project)?,
            Change::PutEntity(entity) => self.put_entity(entity)?,
            Change::PutView(view) => self.put_view(view)?,
            Change::PutService(service) => self.put_service(service)?,
            Change::SetDefaultVersion(default) => self.set_default_version(default)?,
            Change::DropEntity { id } => self.drop_entity(*id)?,
            Change::DropView { id } => self.drop_view(*id)?,
            Change::DropService { id } => self.drop_service(*id)?,
        }
        self.revision += 1;
        Ok(())
    }

    fn put_project(&mut self, project: &ProjectRecord) -> Result<(), ApplyError> {
        let named = self.projects.get(project.name.as_str());
        if named == Some(&project.id) {
            return Ok(());
        }
        if named.is_some() || self.names.contains_key(&project.id) {
            return Err(ApplyError::Conflict { what: format!("project \"{}\"", project.name) });
        }
        if project.id < self.next.project {
            return Err(ApplyError::IdReused { what: format!("project {}", project.id) });
        }
        self.next.project = ProjectId(project.id.0 + 1);
        self.projects.insert(project.name.as_str().into(), project.id);
        self.names.insert(project.id, Names::default());
        Ok(())
    }

    fn put_entity(&mut self, entity: &EntityType) -> Result<(), ApplyError> {
        let what = || format!("entity \"{}\"", entity.name);
        let named = self.names_of(entity.project)?.entities.get(entity.name.as_str()).copied();
        match self.entities.get(&entity.id) {
            Some(old) if named == Some(entity.id) && old.join_keys == entity.join_keys => {}
            Some(_) => return Err(ApplyError::Conflict { what: what() }),
            None if named.is_some() => return Err(ApplyError::Conflict { what: what() }),
            None if entity.id < self.next.entity => {
                return Err(ApplyError::IdReused { what: what() });
            }
            None => {
                self.next.entity = EntityTypeId(entity.id.0 + 1);
                let names = self.names_of(entity.project)?;
                names.entities.insert(entity.name.as_str().into(), entity.id);
            }
        }
        self.entities.insert(entity.id, Arc::new(entity.clone()));
        Ok(())
    }

    fn put_view(&mut self, view: &View) -> Result<(), ApplyError> {
        let what = || format!("view \"{}\"", view.declared_name());
        if self.entities.get(&view.entity).is_none_or(|entity| entity.project != view.project) {
            return Err(ApplyError::Missing { what: format!("entity {}", view.entity) });
        }
        let versions = self.names_of(view.project)?.views.get(view.name.as_str());
        let named = versions.and_then(|versions| versions.ids.get(&view.version)).copied();
        match self.views.get(&view.id) {
            Some(old) if named == Some(view.id) && grows_from(old, view) => {}
            Some(_) => return Err(ApplyError::Conflict { what: what() }),
            None if named.is_some() => return Err(ApplyError::Conflict { what: what() }),
            None if view.id < self.next.view => {
                return Err(ApplyError::IdReused { what: what() });
            }
            None => {
                self.next.view = ViewId(view.id.0 + 1);
                let names = self.names_of(view.project)?;
                names
                    .views
                    .entry(view.name.as_str().into())
                    .or_insert_with(|| Versions { default: view.version, ids: BTreeMap::new() })
                    .ids
                    .insert(view.version, view.id);
            }
        }
        self.views.insert(view.id, Arc::new(view.clone()));
        Ok(())
    }

    fn put_service(&mut self, service: &Service) -> Result<(), ApplyError> {
        let what = || format!("service \"{}\"", service.name);
        for feature in &service.features {
            let view = self.views.get(&feature.view);
            if view
                .is_none_or(|v| v.project != service.project || v.feature(feature.slot).is_none())
            {
                let what = format!("feature {} of view {}", feature.slot, feature.view);
                return Err(ApplyError::Missing { what });
            }
        }
        let named = self.names_of(service.project)?.services.get(service.name.as_str()).copied();
        match self.services.get(&service.id) {
            Some(_) if named == Some(service.id) => {}
            Some(_) => return Err(ApplyError::Conflict { what: what() }),
            None if named.is_some() => return Err(ApplyError::Conflict { what: what() }),
            None if service.id < self.next.service => {
                return Err(ApplyError::IdReused { what: what() });
            }
            None => {
                self.next.service = ServiceId(service.id.0 + 1);
                let names = self.names_of(service.project)?;
                names.services.insert(service.name.as_str().into(), service.id);
            }
        }
        self.services.insert(service.id, Arc::new(service.clone()));
        Ok(())
    }

    fn set_default_version(&mut self, default: &DefaultVersion) -> Result<(), ApplyError> {
        let DefaultVersion { project, view, version } = default;
        let missing = || ApplyError::Missing { what: format!("view \"{view}@{version}\"") };
        let versions = self.names_of(*project)?.views.get_mut(view.as_str()).ok_or_else(missing)?;
        if !versions.ids.contains_key(version) {
            return Err(missing());
        }
        versions.default = *version;
        Ok(())
    }

    fn drop_entity(&mut self, id: EntityTypeId) -> Result<(), ApplyError> {
        let missing = || ApplyError::Missing { what: format!("entity {id}") };
        let entity = Arc::clone(self.entities.get(&id).ok_or_else(missing)?);
        if let Some(view) = self.views.values().find(|view| view.entity == id) {
            let what = format!("entity \"{}\"", entity.name);
            return Err(ApplyError::InUse {
                what,
                by: format!("view \"{}\"", view.declared_name()),
            });
        }
        self.names_of(entity.project)?.entities.remove(entity.name.as_str());
        self.entities.remove(&id);
        Ok(())
    }

    fn drop_view(&mut self, id: ViewId) -> Result<(), ApplyError> {
        let missing = || ApplyError::Missing { what: format!("view {id}") };
        let view = Arc::clone(self.views.get(&id).ok_or_else(missing)?);
        let what = || format!("view \"{}\"", view.declared_name());
        if let Some(service) = self.services_using(id).next() {
            let by = format!("service \"{}\"", service.name);
            return Err(ApplyError::InUse { what: what(), by });
        }
        let names = self.names_of(view.project)?;
        let versions = names.views.get_mut(view.name.as_str()).ok_or_else(missing)?;
        if versions.ids.len() == 1 {
            names.views.remove(view.name.as_str());
        } else if versions.default == view.version {
            let by = "its other versions, as their default".to_owned();
            return Err(ApplyError::InUse { what: what(), by });
        } else {
            versions.ids.remove(&view.version);
        }
        self.views.remove(&id);
        Ok(())
    }

    fn drop_service(&mut self, id: ServiceId) -> Result<(), ApplyError> {
        let missing = || ApplyError::Missing { what: format!("service {id}") };
        let service = self.services.remove(&id).ok_or_else(missing)?;
        self.names_of(service.project)?.services.remove(service.name.as_str());
        Ok(())
    }

    fn names_of(&mut self, project: ProjectId) -> Result<&mut Names, ApplyError> {
        let missing = || ApplyError::Missing { what: format!("project {project}") };
        self.names.get_mut(&project).ok_or_else(missing)
    }

    /// Everything, as the control snapshot keeps it.
    pub fn to_snapshot(&self) -> Snapshot {
        let defaults = self.names.iter().flat_map(|(project, names)| {
            names.views.iter().map(|(view, versions)| DefaultVersion {
                project: *project,
                view: view.to_string(),
                version: versions.default,
            })
        });
        let projects = self.projects();
        Snapshot {
            revision: self.revision,
            next: self.next,
            projects: projects.map(|(name, id)| ProjectRecord { id, name: name.into() }).collect(),
            entities: self.entities.values().map(|d| (**d).clone()).collect(),
            views: self.views.values().map(|d| (**d).clone()).collect(),
            default_versions: defaults.collect(),
            services: self.services.values().map(|d| (**d).clone()).collect(),
        }
    }

    /// The registry a snapshot was taken of.
    ///
    /// # Errors
    /// The snapshot contradicts itself.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self, ApplyError> {
        let mut registry = Self::new();
        // By id, because an id below the next one counts as used up.
        let mut projects: Vec<&ProjectRecord> = snapshot.projects.iter().collect();
        projects.sort_by_key(|project| project.id);
        projects.into_iter().try_for_each(|project| registry.put_project(project))?;
        snapshot.entities.iter().try_for_each(|entity| registry.put_entity(entity))?;
        snapshot.views.iter().try_for_each(|view| registry.put_view(view))?;
        let mut defaults = snapshot.default_versions.iter();
        defaults.try_for_each(|default| registry.set_default_version(default))?;
        snapshot.services.iter().try_for_each(|service| registry.put_service(service))?;
        let (next, given) = (snapshot.next, registry.next);
        if next.project < given.project
            || next.entity < given.entity
            || next.view < given.view
            || next.service < given.service
        {
            return Err(ApplyError::IdReused { what: "a snapshot's next ids".to_owned() });
        }
        registry.next = next;
        registry.revision = snapshot.revision;
        Ok(registry)
    }
}

/// Whether rows of `old` keep their meaning under `new`: same entity, and every feature of `old` in
/// its slot with its type.
fn grows_from(old: &View, new: &View) -> bool {
    old.entity == new.entity
        && old.features.len() <= new.features.len()
        && old
            .features
            .iter()
            .zip(new.features.iter())
            .all(|(old, new)| old.name == new.name && old.feature_type == new.feature_type)
}
