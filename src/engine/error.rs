//! What a refused operation says: a stable code, a sentence, and the places it is about.
//!
//! It does not know HTTP or gRPC; each door turns a [`Problem`] into its own words.

use crate::history::record::RecordError;
use crate::limits;
use crate::metrics::Code;
use crate::registry::definitions::{DefinitionError, Kind};
use crate::registry::drops::DropError;
use crate::registry::resolve::ResolveError;

/// Why an operation was refused. Each has one [`Code`], which says what the caller can do.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What is wrong, where, the value and the limit.
    pub detail: String,
    /// The places in the request, at most [`crate::limits::PLACES_REPORTED`].
    pub places: Vec<Place>,
    /// When a retry may succeed, in seconds.
    pub retry_after: Option<u32>,
}

/// One place in a refused request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The row, from 0.
    pub index: Option<usize>,
    /// The field or column.
    pub field: String,
    /// What was found there, shortened.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl Problem {
    /// A problem without places.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = match code {
            Code::QueueFull | Code::NotReady | Code::Draining | Code::Overloaded => Some(1),
            Code::ClockBehind | Code::DiskFull => Some(5),
            _ => None,
        };
        Self { code, detail: detail.into(), places: Vec::new(), retry_after }
    }

    /// The same, with the places it is about.
    #[must_use]
    pub fn with_places(mut self, places: Vec<Place>) -> Self {
        self.places = places;
        self
    }

    /// A lookup or read that ran out of time.
    pub fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "the request's deadline has passed")
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        let code = match error {
            RecordError::RequestTooLong { .. } => Code::LimitExceeded,
            RecordError::Empty => Code::InvalidValue,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<DropError> for Problem {
    fn from(error: DropError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Vec<DefinitionError>> for Problem {
    /// The code is that of the gravest mistake: texts that cannot be read before definitions that
    /// contradict what stands.
    fn from(errors: Vec<DefinitionError>) -> Self {
        let gravest = [Kind::Malformed, Kind::Invalid, Kind::Incompatible, Kind::InUse]
            .into_iter()
            .find_map(|kind| errors.iter().find(|error| error.kind == kind));
        let code = gravest.map_or(Code::InvalidValue, DefinitionError::code);
        let detail = match errors.as_slice() {
            [only] => only.to_string(),
            several => {
                let first = several.first().map_or_else(String::new, ToString::to_string);
                format!("{} mistakes, the first: {first}", several.len())
            }
        };
        let places = errors.into_iter().map(|error| Place {
            index: None,
            field: error.place.to_string(),
            found: String::new(),
            expected: error.message,
        });
        Self::new(code, detail).with_places(places.take(limits::PLACES_REPORTED).collect())
    }
}
