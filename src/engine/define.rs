//! Changes definitions: compares what is wanted with what stands, writes the difference to history
//! like any other write, and publishes the new registry.
//!
//! It does not know where definitions are written down, nor how they are compared.

use std::sync::Arc;

use crate::engine::error::Problem;
use crate::engine::write::Writer;
use crate::history::record::RequestBuilder;
use crate::ids::{ProjectId, Sequence};
use crate::metrics::Code;
use crate::registry::Registry;
use crate::registry::changes::{self, Absent, PlannedChange};
use crate::registry::definitions::Definitions;
use crate::registry::drops;
use crate::registry::record::{Change, encode_change};

/// What becomes of the rest when some definitions cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnError {
    /// Nothing is applied and the mistakes are the answer.
    ApplyNothing,
    /// What has no mistake is applied, and the mistakes are among the warnings: a server that
    /// reads its definitions at start keeps serving.
    ApplyTheRest,
}

/// How definitions are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefineOptions {
    /// What becomes of definitions that stand but are not in the texts.
    pub absent: Absent,
    /// What becomes of the rest when some cannot be applied.
    pub on_error: OnError,
    /// Only say what would change.
    pub dry_run: bool,
    /// Refuse unless the last definition change has this sequence.
    pub if_match: Option<Sequence>,
}

impl Default for DefineOptions {
    /// Keeps what is absent, applies all or nothing.
    fn default() -> Self {
        Self {
            absent: Absent::Keep,
            on_error: OnError::ApplyNothing,
            dry_run: false,
            if_match: None,
        }
    }
}

/// What a definition change did, or would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defined {
    /// Each change in words.
    pub changes: Vec<String>,
    /// What is allowed but may surprise.
    pub warnings: Vec<String>,
    /// The sequence of the last definition change.
    pub sequence: Sequence,
}

/// What the writer is asked to change.
pub(super) enum DefineJob {
    /// Make the registry hold these definitions.
    Apply(Box<Definitions>, DefineOptions),
    /// Drop one view version.
    DropView(ProjectId, String),
    /// Drop one service.
    DropService(ProjectId, String),
}

/// Runs on the writer thread, so that no two changes are compared with the same registry.
pub(super) fn run(writer: &mut Writer, job: DefineJob) -> Result<Defined, Problem> {
    let registry = writer.shared.registry.load_full();
    let (changes, warnings, options) = match job {
        DefineJob::Apply(definitions, options) => {
            if let Some(expected) = options.if_match
                && expected != writer.registry_sequence
            {
                let detail = format!(
                    "If-Match names sequence {expected}, the last definition change is {}",
                    writer.registry_sequence
                );
                return Err(Problem::new(Code::SequenceMismatch, detail));
            }
            let (changes, warnings) = plan(&registry, &definitions, options)?;
            (changes, warnings, options)
        }
        DefineJob::DropView(project, name) => {
            (drops::drop_view(&registry, project, &name)?, Vec::new(), DefineOptions::default())
        }
        DefineJob::DropService(project, name) => {
            (drops::drop_service(&registry, project, &name)?, Vec::new(), DefineOptions::default())
        }
    };
    if !options.dry_run && !changes.is_empty() {
        let records: Vec<&Change> = changes.iter().map(|planned| &planned.change).collect();
        commit(writer, &registry, &records)?;
    }
    Ok(Defined {
        changes: changes.into_iter().map(|planned| planned.text).collect(),
        warnings,
        sequence: writer.registry_sequence,
    })
}

/// What a store that is not there yet would change to hold these definitions.
///
/// # Errors
/// The mistakes of the definitions, as [`DefineOptions::on_error`] says.
pub fn preview(definitions: &Definitions, options: DefineOptions) -> Result<Defined, Problem> {
    let (changes, warnings) = plan(&Registry::default(), definitions, options)?;
    let changes = changes.into_iter().map(|planned| planned.text).collect();
    Ok(Defined { changes, warnings, sequence: Sequence::ZERO })
}

fn plan(
    registry: &Registry,
    definitions: &Definitions,
    options: DefineOptions,
) -> Result<(Vec<PlannedChange>, Vec<String>), Problem> {
    let planned = changes::diff(registry, definitions, options.absent);
    match options.on_error {
        OnError::ApplyNothing => planned.accept().map_err(Problem::from),
        OnError::ApplyTheRest => {
            let mistakes = planned.errors.iter().map(ToString::to_string);
            Ok((planned.changes, mistakes.chain(planned.warnings).collect()))
        }
    }
}

fn commit(writer: &mut Writer, registry: &Registry, changes: &[&Change]) -> Result<(), Problem> {
    let internal = |error: &dyn std::error::Error| Problem::new(Code::Internal, error.to_string());
    let mut after = registry.clone();
    let mut request = RequestBuilder::new(None).map_err(|error| internal(&error))?;
    for change in changes {
        after.apply(change).map_err(|error| internal(&error))?;
        request.control(&encode_change(change));
    }
    let request = request.finish().map_err(|error| internal(&error))?;
    let arrival = writer.arrival()?;
    let last = writer.append(&[&request], arrival)?;
    writer.sync_if_due(1)?;
    writer.registry_sequence = last;
    writer.applier.take_up(&after, &writer.shared.stores);
    writer.shared.registry.store(Arc::new(after));
    writer.shared.advance(last, arrival);
    Ok(())
}
