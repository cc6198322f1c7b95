//! Collects what is wrong with the rows of a request, up to as many places as an answer names.
//!
//! It does not know what rows are.

use crate::engine::error::{Place, Problem};
use crate::limits::PLACES_REPORTED;
use crate::metrics::Code;

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Places {
    first: Option<Code>,
    places: Vec<Place>,
    all: usize,
}

impl Places {
    /// Adds one.
    pub(super) fn add(&mut self, code: Code, place: Place) {
        self.first.get_or_insert(code);
        self.all += 1;
        if self.places.len() < PLACES_REPORTED {
            self.places.push(place);
        }
    }

    /// Whether as many were found as an answer names, so that looking further is pointless.
    pub(super) fn enough(&self) -> bool {
        self.all >= PLACES_REPORTED
    }

    /// The refusal of a write if anything is wrong; its code is that of the first place.
    pub(super) fn into_result(self) -> Result<(), Problem> {
        let Some(code) = self.first else { return Ok(()) };
        let first = &self.places[0];
        let row = first.index.map(|index| format!("row {index}, ")).unwrap_or_default();
        let or_more = if self.all >= PLACES_REPORTED { " or more" } else { "" };
        let count = match self.all {
            1 => "1 place is".to_owned(),
            all => format!("{all}{or_more} places are"),
        };
        let detail = format!(
            "nothing was written: {count} wrong, first {row}{}: found {}, expected {}",
            first.field, first.found, first.expected
        );
        Err(Problem::new(code, detail).with_places(self.places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_places_are_named() {
        let mut places = Places::default();
        for index in 0..30 {
            let field = "age".to_owned();
            let place =
                Place { index: Some(index), field, found: "x".into(), expected: "int32".into() };
            places.add(if index == 0 { Code::InvalidValue } else { Code::UnknownFeature }, place);
        }
        assert!(places.enough());
        let problem = places.into_result().unwrap_err();
        assert_eq!((problem.code, problem.places.len()), (Code::InvalidValue, 20));
        assert!(problem.detail.contains("first row 0, age: found x, expected int32"));
        assert!(Places::default().into_result().is_ok());
    }
}
