//! Plans the drops of what is defined but no longer written down.
//!
//! It does not know additions and alterations; they are planned before.

use std::sync::Arc;

use crate::ids::ProjectId;
use crate::registry::changes::Planner;
use crate::registry::definitions::{Definitions, Kind};
use crate::registry::model::View;
use crate::registry::record::Change;

impl Planner {
    /// Refuses views whose entity would be dropped.
    pub(super) fn refuse_orphans(&mut self, project: (&str, ProjectId), definitions: &Definitions) {
        let (name, id) = project;
        for view in definitions.views.iter().filter(|view| &*view.project == name) {
            let entity = &view.entity;
            let is_declared = |d: &str, other: &str| d == entity.value && other == name;
            let mut declared = definitions.entities.iter();
            if self.after.find_entity(id, &entity.value).is_some()
                && !declared.any(|declared| is_declared(&declared.name, &declared.project))
            {
                let message = format!(
                    "entity \"{}\" is not in the definitions and cannot be dropped: this view \
                     uses it",
                    entity.value
                );
                self.refuse(&entity.place, Kind::InUse, message);
            }
        }
    }

    /// Drops what the project defines and `definitions` do not. Only where nothing was refused, so
    /// that a mistake elsewhere never costs data.
    pub(super) fn prune(&mut self, project: (&str, ProjectId), definitions: &Definitions) {
        let (name, id) = project;
        let services: Vec<_> = self.after.services(id).cloned().collect();
        for service in services {
            let mut declared = definitions.services.iter();
            if !declared.any(|d| d.name == service.name && &*d.project == name) {
                let text = format!("- service {}", service.name);
                self.plan(Change::DropService { id: service.id }, text);
            }
        }
        self.prune_views(id);
        let entities: Vec<_> = self.after.entities(id).cloned().collect();
        for entity in entities {
            let mut declared = definitions.entities.iter();
            if !declared.any(|d| d.name == entity.name && &*d.project == name) {
                let text = format!("- entity {}", entity.name);
                self.plan(Change::DropEntity { id: entity.id }, text);
            }
        }
    }

    fn prune_views(&mut self, project: ProjectId) {
        let doomed = self.after.views(project).filter(|view| self.doomed.contains(&view.id));
        let mut doomed: Vec<Arc<View>> = doomed.cloned().collect();
        // The default version goes last, so that another has to inherit only if one stays.
        doomed.sort_by_key(|view| self.is_default(view));
        for view in doomed {
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
