//! What came of a command, put together for people and for programs.
//!
//! It does not know how it was measured.

pub(crate) mod keep;
pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod table;
pub(crate) mod terminal;

use serde::Serialize;

use crate::comparison::{Comparison, Spread};
use crate::drive::summary::Summary;
use crate::find_limit::Limit;
use crate::host::fsync::Fsync;
use crate::host::machine::Machine;
use crate::scenario::Scenario;

/// All of a command's results.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// RFC 3339.
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) fsync: Option<Fsync>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) measurements: Vec<Summary>,
    pub(crate) limits: Vec<LimitFound>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) ceilings: Vec<Ceiling>,
}

/// The highest rate of a scenario on a target.
#[derive(Debug, Serialize)]
pub(crate) struct LimitFound {
    pub(crate) scenario: String,
    pub(crate) target: String,
    /// What p99 had to stay under.
    pub(crate) bound_us: f64,
    #[serde(flatten)]
    pub(crate) limit: Limit,
}

/// What a target reaches of what its HTTP stack could.
#[derive(Debug, Serialize)]
pub(crate) struct Ceiling {
    pub(crate) scenario: String,
    pub(crate) target: String,
    /// Of the whole answer, and of its body.
    pub(crate) answer_bytes: usize,
    pub(crate) body_bytes: usize,
    pub(crate) rounds: usize,
    /// The throughput of the target over that of the static server.
    pub(crate) share: Spread,
}

impl Report {
    /// Nothing measured yet.
    pub(crate) fn begin() -> Self {
        let mut words: Vec<String> = std::env::args().collect();
        if let Some(program) = words.first_mut() {
            "loadtest".clone_into(program);
        }
        Self {
            date: jiff::Timestamp::now().to_string(),
            command: words.join(" "),
            machine: Machine::look(),
            fsync: None,
            scenarios: Vec::new(),
            measurements: Vec::new(),
            limits: Vec::new(),
            comparisons: Vec::new(),
            ceilings: Vec::new(),
        }
    }

    /// Whether every figure can be believed and no request failed.
    pub(crate) fn is_sound(&self) -> bool {
        self.measurements.iter().all(|summary| summary.valid && summary.failed() == 0)
    }
}
