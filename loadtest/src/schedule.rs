//! When each request is due, fixed in advance whatever the server does.
//!
//! It does not know requests.

use clap::ValueEnum;
use serde::Serialize;

use crate::random::Random;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrivals {
    /// At equal distances.
    Constant,
    /// At random, as from many callers who do not know each other.
    Poisson,
}

/// The instants at which requests are due, in nanoseconds from the start.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// Nanoseconds between two requests, on average.
    gap: f64,
    next: f64,
    random: Random,
}

impl Schedule {
    /// `rate` requests a second; `phase`, from 0 to 1, shifts constant arrivals by a part of
    /// their distance, so that several threads take turns.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, phase: f64, seed: u64) -> Self {
        let gap = 1e9 / rate;
        let mut schedule = Self { arrivals, gap, next: gap * phase, random: Random::new(seed) };
        if arrivals == Arrivals::Poisson {
            schedule.next = schedule.pause();
        }
        schedule
    }

    /// When the next request is due.
    pub(crate) const fn due(&self) -> u64 {
        self.next as u64
    }

    /// Goes on to the one after.
    pub(crate) fn advance(&mut self) {
        self.next += self.pause();
    }

    fn pause(&mut self) -> f64 {
        match self.arrivals {
            Arrivals::Constant => self.gap,
            Arrivals::Poisson => -(1.0 - self.random.unit()).ln() * self.gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(arrivals: Arrivals, phase: f64) -> Vec<u64> {
        let mut schedule = Schedule::new(arrivals, 1_000.0, phase, 3);
        (0..20_000)
            .map(|_| {
                let due = schedule.due();
                schedule.advance();
                due
            })
            .collect()
    }

    #[test]
    fn constant_arrivals_keep_their_distance() {
        let dues = dues(Arrivals::Constant, 0.5);
        assert_eq!(dues[..3], [500_000, 1_500_000, 2_500_000]);
        assert_eq!(dues[19_999], 19_999_500_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let dues = dues(Arrivals::Poisson, 0.0);
        let gaps: Vec<f64> = dues.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.97..1.03).contains(&mean), "{mean}");
        // An exponential distribution has the square of its mean as variance.
        assert!((0.93..1.07).contains(&variance), "{variance}");
    }
}
