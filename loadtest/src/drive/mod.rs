//! Drives a target with load from few threads, each with an event loop over its own connections.
//!
//! It does not know where targets come from or how results are shown.

pub(crate) mod connection;
pub(crate) mod measure;
pub(crate) mod reactor;
pub(crate) mod recorder;
pub(crate) mod stalls;
pub(crate) mod summary;

use std::time::Duration;

use crate::schedule::Arrivals;

/// How load is given.
#[derive(Clone, Debug)]
pub(crate) struct Drive {
    pub(crate) pace: Pace,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// Load before what is measured.
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// A request without an answer for so long has failed.
    pub(crate) timeout: Duration,
    /// Processors of the generator's threads, in turn; anywhere if empty.
    pub(crate) cpus: Vec<usize>,
    pub(crate) seed: u64,
}

/// What decides when the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// A schedule: so many requests a second, whatever the server does.
    Open { arrivals: Arrivals, rate: f64 },
    /// The answer before it: each connection always has one request under way.
    Closed,
}
