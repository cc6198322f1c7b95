//! What a lookup asks for, resolved once: whose keys it needs, which views it reads, which columns
//! it answers.
//!
//! It does not know keys, rows or answers; it is compiled from names and kept until the registry
//! changes.

use std::collections::HashSet;
use std::sync::Arc;

use crate::ids::{ProjectId, Slot};
use crate::registry::Registry;
use crate::registry::model::{EntityType, View};
use crate::registry::resolve::{Purpose, ResolveError};
use crate::time::Span;
use crate::value::cell::Value;
use crate::value::layout::Place;

/// What is asked, by name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ask<'a> {
    /// The one entity the request is about; none if it names several.
    pub entity_type: Option<&'a str>,
    /// Which features.
    pub what: What<'a>,
    /// Now or then.
    pub purpose: Purpose,
}

/// Which features are asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What<'a> {
    /// These references.
    Features(Vec<&'a str>),
    /// Those of this service.
    Service(&'a str),
}

/// An entity key that the request has to give.
#[derive(Clone, PartialEq, Debug)]
pub struct Role {
    /// The entity's name, unless a service gives another.
    pub name: Box<str>,
    /// The type of the key.
    pub entity: Arc<EntityType>,
}

/// A row to read per request: one view for one role.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// The view.
    pub view: Arc<View>,
    /// Index into [`Plan::roles`].
    pub role: usize,
}

/// A value to answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    /// Index into [`Plan::sources`].
    pub source: usize,
    /// The feature in that view.
    pub slot: Slot,
    /// As asked, or as the service names it.
    pub name: Box<str>,
    /// Where it lies in rows of the view, and the type of its values.
    pub place: Place,
    /// The TTL that counts: the feature's own, else the view's.
    pub ttl: Option<Span>,
    /// Served where there is no fresh value.
    pub default: Option<Value>,
}

/// A compiled request. Invariant: indices are in range, and names of columns differ.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The registry's revision it was compiled from.
    pub revision: u64,
    /// Distinct, in the order first needed.
    pub roles: Vec<Role>,
    /// Distinct, in the order first needed.
    pub sources: Vec<Source>,
    /// In the order of the answer.
    pub columns: Vec<Column>,
}

impl Plan {
    /// Compiles `ask` within one project.
    ///
    /// # Errors
    /// The first name that does not resolve, in the order asked; a reference twice; a feature of
    /// another entity than the one given; a view that is not kept for the purpose.
    pub fn compile(
        registry: &Registry,
        project: ProjectId,
        ask: &Ask<'_>,
    ) -> Result<Self, ResolveError> {
        let mut plan = Self {
            revision: registry.revision(),
            roles: Vec::new(),
            sources: Vec::new(),
            columns: Vec::new(),
        };
        match &ask.what {
            What::Features(references) => plan.add_features(registry, project, ask, references)?,
            What::Service(name) => plan.add_service(registry, project, ask, name)?,
        }
        for source in &plan.sources {
            let kept = match ask.purpose {
                Purpose::Online => source.view.online,
                Purpose::AsOf => source.view.offline,
            };
            if !kept {
                let view = registry.name_of(&source.view);
                return Err(ResolveError::NotKept { view, purpose: ask.purpose });
            }
        }
        Ok(plan)
    }

    /// The index of the role of that name.
    pub fn role(&self, name: &str) -> Option<usize> {
        self.roles.iter().position(|role| &*role.name == name)
    }

    fn add_features(
        &mut self,
        registry: &Registry,
        project: ProjectId,
        ask: &Ask<'_>,
        references: &[&str],
    ) -> Result<(), ResolveError> {
        let given = ask.entity_type.map(|name| registry.entity_named(project, name)).transpose()?;
        if references.is_empty() {
            return Err(ResolveError::NothingAsked);
        }
        let mut seen = HashSet::with_capacity(references.len());
        for reference in references {
            if !seen.insert(*reference) {
                return Err(ResolveError::DuplicateFeature { name: (*reference).to_owned() });
            }
            let of = given.map(|entity| &**entity);
            let (view, slot) = registry.feature_named(project, of, reference)?;
            let entity = registry.entity_of(view);
            if let Some(given) = given
                && given.id != entity.id
            {
                return Err(ResolveError::MissingEntity {
                    reference: (*reference).to_owned(),
                    needed: entity.name.clone(),
                    given: given.name.clone(),
                });
            }
            self.add(registry, view, slot, Names { role: &entity.name, column: reference });
        }
        Ok(())
    }

    fn add_service(
        &mut self,
        registry: &Registry,
        project: ProjectId,
        ask: &Ask<'_>,
        name: &str,
    ) -> Result<(), ResolveError> {
        let service = registry.service_named(project, name)?;
        if let Some(given) = ask.entity_type
            && !service.features.iter().any(|feature| feature.role == given)
        {
            registry.entity_named(project, given)?;
        }
        for feature in &service.features {
            if let Some(given) = ask.entity_type
                && feature.role != given
            {
                return Err(ResolveError::MissingEntity {
                    reference: feature.reference.clone(),
                    needed: feature.role.clone(),
                    given: given.to_owned(),
                });
            }
            let view = registry.view(feature.view).expect("a view outlives services that use it");
            let names = Names { role: &feature.role, column: &feature.name };
            self.add(registry, view, feature.slot, names);
        }
        Ok(())
    }

    fn add(&mut self, registry: &Registry, view: &Arc<View>, slot: Slot, names: Names<'_>) {
        let role = self.role(names.role).unwrap_or_else(|| {
            let entity = Arc::clone(registry.entity_of(view));
            self.roles.push(Role { name: names.role.into(), entity });
            self.roles.len() - 1
        });
        let same = |source: &Source| source.role == role && source.view.id == view.id;
        let source = self.sources.iter().position(same).unwrap_or_else(|| {
            self.sources.push(Source { view: Arc::clone(view), role });
            self.sources.len() - 1
        });
        let feature = view.feature(slot).expect("the slot was found in this view");
        self.columns.push(Column {
            source,
            slot,
            name: names.column.into(),
            place: view.layout().place(slot).expect("the layout has every slot"),
            ttl: view.ttl_of(slot),
            default: feature.default.clone(),
        });
    }
}

/// What a column and its role are called.
#[derive(Clone, Copy)]
struct Names<'a> {
    role: &'a str,
    column: &'a str,
}
