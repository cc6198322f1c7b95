//! Plans the drops of what is defined but no longer written down.
//!
//! It does not know additions and alterations; they are planned before.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::ProjectId;
use crate::registry::changes::Planner;
use crate::registry::definitions::{
    Definitions, EntityDefinition, Kind, ServiceDefinition, ViewDefinition,
};
use crate::registry::model::View;
use crate::registry::record::Change;

impl Planner {
    /// Drops what the project defines and `definitions` do not, and refuses where that is needed.
    pub(super) fn prune(
        &mut self,
        project: ProjectId,
        definitions: &Definitions,
        projects: &BTreeMap<&str, ProjectId>,
    ) {
        let here = |name: &str| projects.get(name) == Some(&project);
        let services: Vec<_> = self.after.services(project).cloned().collect();
        for service in services {
            let declared = |d: &ServiceDefinition| d.name == service.name && here(&d.project);
            if !definitions.services.iter().any(declared) {
                let text = format!("- service {}", service.name);
                self.plan(Change::DropService { id: service.id }, text);
            }
        }
        self.prune_views(project);
        let entities: Vec<_> = self.after.entities(project).cloned().collect();
        for entity in entities {
            let declared = |d: &EntityDefinition| d.name == entity.name && here(&d.project);
            let in_use = self.after.views(project).any(|view| view.entity == entity.id);
            if definitions.entities.iter().any(declared) {
                continue;
            }
            if !in_use {
                let text = format!("- entity {}", entity.name);
                self.plan(Change::DropEntity { id: entity.id }, text);
                continue;
            }
            let user = |d: &&ViewDefinition| d.entity.value == entity.name && here(&d.project);
            if let Some(user) = definitions.views.iter().find(user) {
                let message = format!(
                    "entity \"{}\" is not in the definitions and cannot be dropped: this view uses \
                     it",
                    entity.name
                );
                self.refuse(&user.entity.place, Kind::InUse, message);
            }
        }
    }

    fn prune_views(&mut self, project: ProjectId) {
        let doomed = self.after.views(project).filter(|view| self.doomed.contains(&view.id));
        let mut doomed: Vec<Arc<View>> = doomed.cloned().collect();
        // The default version goes last, so that another has to inherit only if one stays.
        doomed.sort_by_key(|view| self.is_default(view));
        for view in doomed {
            if self.after.services_using(view.id).next().is_some() {
                // The service itself was refused, which is reported.
                continue;
            }
            let is_other = |other: &&Arc<View>| other.name == view.name && other.id != view.id;
            let heir = self.after.views(project).find(is_other).map(|heir| heir.version);
            if let Some(version) = heir.filter(|_| self.is_default(&view)) {
                self.set_default(project, view.name.clone(), version);
            }
            let text = format!("- view {}", view.declared_name());
            self.plan(Change::DropView { id: view.id }, text);
        }
    }

    fn is_default(&self, view: &View) -> bool {
        self.after.default_version(view.project, &view.name) == Some(view.version)
    }
}
