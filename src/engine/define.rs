//! Changes definitions: compares what is wanted with what stands, writes the difference to history
//! like any other write, and publishes the new registry.
//!
//! It does not know where definitions are written down, nor how they are compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::erase::{self, Erase};
use crate::engine::error::Problem;
use crate::engine::write::Writer;
use crate::history::record::RequestBuilder;
use crate::ids::{ProjectId, Sequence, ViewId};
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

/// What becomes of the rows of views that are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// They stay in history, though nobody can ask for them.
    Keep,
    /// They are erased.
    Drop,
}

/// How definitions are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefineOptions {
    /// What becomes of definitions that stand but are not in the texts.
    pub absent: Absent,
    /// What becomes of the rows of the views among them.
    pub data: Data,
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
            data: Data::Keep,
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
    /// The erasures of views that were dropped with their rows, one for each project.
    pub erasures: Vec<Sequence>,
}

/// What the writer is asked to change.
pub(super) enum DefineJob {
    /// Make the registry hold these definitions.
    Apply(Box<Definitions>, DefineOptions),
    /// Drop one view version.
    DropView(ProjectId, String, Data),
    /// Drop one service.
    DropService(ProjectId, String),
}

/// Runs on the writer thread, so that no two changes are compared with the same registry.
pub(super) fn run(writer: &mut Writer, job: DefineJob) -> Result<Defined, Problem> {
    let registry = writer.shared.registry.load_full();
    let (mut changes, warnings, options) = match job {
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
        DefineJob::DropView(project, name, data) => {
            let options = DefineOptions { data, ..DefineOptions::default() };
            (drops::drop_view(&registry, project, &name)?, Vec::new(), options)
        }
        DefineJob::DropService(project, name) => {
            (drops::drop_service(&registry, project, &name)?, Vec::new(), DefineOptions::default())
        }
    };
    let erased = match options.data {
        Data::Keep => BTreeMap::new(),
        Data::Drop => dropped_views(&registry, &mut changes),
    };
    let mut erasures = Vec::new();
    if !options.dry_run && !changes.is_empty() {
        let records: Vec<&Change> = changes.iter().map(|planned| &planned.change).collect();
        erasures = commit(writer, &registry, &records, erased)?;
    }
    Ok(Defined {
        changes: changes.into_iter().map(|planned| planned.text).collect(),
        warnings,
        sequence: writer.registry_sequence,
        erasures,
    })
}

/// The views that are to be dropped, by project; what is said of that says that their rows go too.
fn dropped_views(
    registry: &Registry,
    changes: &mut [PlannedChange],
) -> BTreeMap<ProjectId, Vec<ViewId>> {
    let mut dropped: BTreeMap<ProjectId, Vec<ViewId>> = BTreeMap::new();
    for PlannedChange { change, text } in changes {
        if let Change::DropView { id } = change
            && let Some(view) = registry.view(*id)
        {
            text.push_str(" with its rows");
            dropped.entry(view.project).or_default().push(*id);
        }
    }
    dropped
}

/// What a store that is not there yet would change to hold these definitions.
///
/// # Errors
/// The mistakes of the definitions, as [`DefineOptions::on_error`] says.
pub fn preview(definitions: &Definitions, options: DefineOptions) -> Result<Defined, Problem> {
    let (changes, warnings) = plan(&Registry::default(), definitions, options)?;
    let changes = changes.into_iter().map(|planned| planned.text).collect();
    Ok(Defined { changes, warnings, sequence: Sequence::ZERO, erasures: Vec::new() })
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

/// Makes the changes, and erases the rows of the views that are `dropped` with them; returns the
/// erasures.
fn commit(
    writer: &mut Writer,
    registry: &Registry,
    changes: &[&Change],
    dropped: BTreeMap<ProjectId, Vec<ViewId>>,
) -> Result<Vec<Sequence>, Problem> {
    let internal = |error: &dyn std::error::Error| Problem::new(Code::Internal, error.to_string());
    let shared = writer.shared.clone();
    erase::refuse_too_many(&shared, dropped.len())?;
    let arrival = writer.arrival()?;
    let deadline = arrival.plus(shared.erase_within);
    let erase = |(project, views)| Erase { project, deadline, whom: None, views };
    let erases: Vec<Erase> = dropped.into_iter().map(erase).collect();
    let mut after = registry.clone();
    let mut request = RequestBuilder::new(None).map_err(|error| internal(&error))?;
    // Before the changes: the last sequence is that of a change, and every row lies below both.
    erases.iter().for_each(|erase| request.control(&erase.encode()));
    for change in changes {
        after.apply(change).map_err(|error| internal(&error))?;
        request.control(&encode_change(change));
    }
    let request = request.finish().map_err(|error| internal(&error))?;
    let mut sequence = writer.history.last();
    let last = writer.append(&[&request], arrival)?;
    match erases.is_empty() {
        true => writer.sync_if_due(1)?,
        // In every mode: who was told that rows are gone must not see them come back.
        false => writer.sync(1)?,
    }
    let take_up = |erase| {
        sequence = sequence.next();
        erase::take_up(&shared, erase, (sequence, arrival)).sequence
    };
    let erasures = erases.into_iter().map(take_up).collect();
    writer.registry_sequence = last;
    writer.applier.take_up(&after, &shared.stores);
    shared.registry.store(Arc::new(after));
    for change in changes {
        if let Change::DropView { id } = change {
            shared.release_of(*id);
        }
    }
    // Where nothing else is written, the log could not be let go of up to here.
    writer.make_room_in_the_tier(last);
    shared.advance(last, arrival);
    Ok(erasures)
}
