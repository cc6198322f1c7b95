//! What every request sees: the engine once it has recovered, the limits, the metrics, whether the
//! server drains.
//!
//! It does not know connections or routes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use crate::engine::Engine;
use crate::engine::error::Problem;
use crate::http::asked::Lookups;
use crate::limits::Limits;
use crate::metrics::{Code, Metrics};
use crate::time::Clock;

/// The state shared by all requests, from before recovery to the end of the drain.
pub struct Door {
    engine: OnceLock<Arc<Engine>>,
    draining: AtomicBool,
    definition_notes: ArcSwap<Vec<String>>,
    /// What lookups asked before.
    pub(super) lookups: Lookups,
    /// The limits of requests.
    pub limits: Limits,
    /// Counts and times what is answered.
    pub metrics: Arc<Metrics>,
    /// Dates the metrics.
    pub clock: Arc<dyn Clock>,
}

impl Door {
    /// A door whose engine is still recovering.
    pub fn new(limits: Limits, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self {
            engine: OnceLock::new(),
            draining: AtomicBool::new(false),
            definition_notes: ArcSwap::default(),
            lookups: Lookups::default(),
            limits,
            metrics,
            clock,
        }
    }

    /// Begins to answer from `engine`; a second call changes nothing.
    pub fn open(&self, engine: Arc<Engine>) {
        let _ = self.engine.set(engine);
    }

    /// The engine, once it has recovered.
    pub fn recovered(&self) -> Option<&Arc<Engine>> {
        self.engine.get()
    }

    /// The engine.
    ///
    /// # Errors
    /// `NOT_READY` while it recovers.
    pub fn engine(&self) -> Result<&Arc<Engine>, Problem> {
        self.engine.get().ok_or_else(|| {
            Problem::new(Code::NotReady, "the server is recovering its data; try again shortly")
        })
    }

    /// What is wrong with the definitions of `registry.path`.
    pub fn definition_notes(&self) -> Vec<String> {
        self.definition_notes.load().to_vec()
    }

    /// Replaces what is wrong with the definitions of `registry.path`.
    pub fn note_definitions(&self, notes: Vec<String>) {
        self.definition_notes.store(Arc::new(notes));
    }

    /// Withdraws readiness; requests are still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
