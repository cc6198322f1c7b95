//! How long a request may still take.
//!
//! It does not know what is done with the time.

use std::future::Future;
use std::time::Duration;

use crate::engine::error::Problem;
use crate::time::{Span, Stopwatch};

/// The moment by which a request wants its answer.
#[derive(Clone, Copy)]
pub struct Deadline {
    started: Stopwatch,
    allowed: Duration,
}

impl Deadline {
    /// `span` from now.
    pub fn after(span: Span) -> Self {
        Self::since(Stopwatch::start(), span)
    }

    /// `span` from when `started` was started.
    pub fn since(started: Stopwatch, span: Span) -> Self {
        Self { started, allowed: span.to_std() }
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.allowed.saturating_sub(self.started.elapsed())
    }

    /// What is left, as a span.
    pub fn left(self) -> Span {
        Span::from_std(self.remaining())
    }

    /// For work that takes long: asks whether somebody still waits for it.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`.
    pub fn check(self) -> Result<(), Problem> {
        self.elapsed().map(drop)
    }

    /// How much of the time has passed.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` once all of it has.
    pub fn elapsed(self) -> Result<Duration, Problem> {
        let elapsed = self.started.elapsed();
        if elapsed < self.allowed { Ok(elapsed) } else { Err(Problem::deadline_exceeded()) }
    }

    /// Waits for `work`, at most until the deadline.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, Problem> {
        let timed = tokio::time::timeout(self.remaining(), work).await;
        timed.map_err(|_| Problem::deadline_exceeded())
    }
}
