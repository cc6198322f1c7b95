//! Drops single definitions by name, refused while something else needs them.
//!
//! It does not know the data of what is dropped.

use crate::ids::ProjectId;
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::changes::PlannedChange;
use crate::registry::record::{ApplyError, Change};
use crate::registry::resolve::ResolveError;

/// Why something cannot be dropped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DropError {
    /// There is nothing of that name.
    #[error(transparent)]
    Unknown(#[from] ResolveError),
    /// Something else needs it.
    #[error(transparent)]
    InUse(#[from] ApplyError),
}

impl DropError {
    /// The stable code in answers.
    pub const fn code(&self) -> Code {
        match self {
            Self::Unknown(error) => error.code(),
            Self::InUse(_) => Code::InUse,
        }
    }
}

/// Drops one version of a view: that of `name@2`, or the default one of `name`, which has to be the
/// only one.
///
/// # Errors
/// Unknown, used by a service, or the default of several versions.
pub fn drop_view(
    registry: &Registry,
    project: ProjectId,
    name: &str,
) -> Result<Vec<PlannedChange>, DropError> {
    let view = registry.view_named(project, name)?;
    let text = format!("- view {}", view.declared_name());
    planned(registry, Change::DropView { id: view.id }, text)
}

/// Drops a service.
///
/// # Errors
/// Unknown.
pub fn drop_service(
    registry: &Registry,
    project: ProjectId,
    name: &str,
) -> Result<Vec<PlannedChange>, DropError> {
    let service = registry.service_named(project, name)?;
    let text = format!("- service {}", service.name);
    planned(registry, Change::DropService { id: service.id }, text)
}

fn planned(
    registry: &Registry,
    change: Change,
    text: String,
) -> Result<Vec<PlannedChange>, DropError> {
    registry.clone().apply(&change)?;
    Ok(vec![PlannedChange { change, text }])
}
