//! The targets of a command, started when they are needed and kept while they serve.
//!
//! It does not know what is measured on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::arguments::TargetArguments;
use crate::failure::Outcome;
use crate::host::larder::Larder;
use crate::scenario::Scenario;
use crate::target::{Named, Target};

/// Larders that were started, by side of a comparison.
pub(crate) struct Hosts {
    cpu: Option<usize>,
    started: BTreeMap<usize, Started>,
}

struct Started {
    binary: PathBuf,
    settings: BTreeMap<String, String>,
    larder: Larder,
}

impl Hosts {
    /// None started yet; they will run on `cpu`.
    pub(crate) const fn new(cpu: Option<usize>) -> Self {
        Self { cpu, started: BTreeMap::new() }
    }

    /// The target `named` for `scenario`. Scenarios of the same settings share a Larder.
    pub(crate) fn target(
        &mut self,
        side: usize,
        named: &Named,
        scenario: &Scenario,
    ) -> Outcome<Target> {
        let binary = match named {
            Named::Running(target) => return Ok(target.clone()),
            Named::Binary(binary) => binary,
        };
        let settings = &scenario.larder;
        if let Some(there) = self.started.get(&side)
            && there.binary == *binary
            && there.settings == *settings
        {
            return Ok(there.larder.target.clone());
        }
        // The earlier one ends before the next begins: both would want the same core.
        self.started.remove(&side);
        let larder = Larder::start(binary, self.cpu, settings)?;
        let target = larder.target.clone();
        let started = Started { binary: binary.clone(), settings: settings.clone(), larder };
        self.started.insert(side, started);
        Ok(target)
    }
}

/// Reads a scenario and the target it is for: `SCENARIO`, or `SCENARIO@TARGET`.
pub(crate) fn scenario_and_target(
    text: &str,
    arguments: &TargetArguments,
) -> Outcome<(Scenario, Named)> {
    let (path, target) = match text.split_once('@') {
        Some((path, target)) => (path, Named::parse(target)?),
        None => (text, named(arguments)?),
    };
    Ok((Scenario::read(Path::new(path))?, target))
}

fn named(arguments: &TargetArguments) -> Outcome<Named> {
    match &arguments.larder {
        Some(binary) => Ok(Named::Binary(binary.clone())),
        None => Named::parse(&arguments.target),
    }
}
