//! Ratios of two targets that were measured in turn.
//!
//! It does not know how they were measured.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::drive::summary::{QUANTILES, Summary};

/// A ratio over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// A over B, round by round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) rounds: usize,
    pub(crate) throughput: Spread,
    pub(crate) rows_per_second: Spread,
    pub(crate) latency: BTreeMap<&'static str, Spread>,
}

impl Spread {
    /// Of `ratios`; all zero if there are none.
    pub(crate) fn of(mut ratios: Vec<f64>) -> Self {
        ratios.sort_by(f64::total_cmp);
        let at = |place: usize| ratios.get(place).copied().unwrap_or_default();
        let middle = ratios.len() / 2;
        let median = if ratios.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        Self { min: at(0), median, max: at(ratios.len().saturating_sub(1)) }
    }
}

impl Comparison {
    /// Compares rounds of A and B.
    pub(crate) fn new((a, b): (&str, &str), rounds: &[(Summary, Summary)]) -> Self {
        let spread = |of: &dyn Fn(&Summary) -> f64| {
            Spread::of(rounds.iter().map(|(a, b)| of(a) / of(b)).collect())
        };
        Self {
            a: a.to_owned(),
            b: b.to_owned(),
            rounds: rounds.len(),
            throughput: spread(&|summary| summary.throughput),
            rows_per_second: spread(&|summary| summary.rows_per_second),
            latency: QUANTILES
                .iter()
                .map(|(name, _)| (*name, spread(&|summary| summary.quantile(name))))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |ratios: &[f64], (min, median, max)| {
            assert_eq!(Spread::of(ratios.to_vec()), Spread { min, median, max });
        };
        check(&[3.0, 1.0, 2.0], (1.0, 2.0, 3.0));
        check(&[4.0, 1.0], (1.0, 2.5, 4.0));
        check(&[2.0], (2.0, 2.0, 2.0));
        check(&[], (0.0, 0.0, 0.0));
    }
}
