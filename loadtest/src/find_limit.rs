//! Searches the highest rate that holds: doubling, then halving the distance, then repeating.
//!
//! It does not know what a trial is.

use serde::Serialize;

use crate::failure::Outcome;

/// The search ends when what fails is no further from what holds than this share.
const CLOSE: f64 = 0.03;
/// The final rate has to hold so many times.
const CONFIRMATIONS: usize = 3;
/// Below this nothing holds.
const LEAST: f64 = 1.0;
/// Doublings beyond which the search gives up.
const DOUBLINGS: usize = 20;

/// A trial that says nothing is repeated up to so many times in all.
const ATTEMPTS: usize = 5;

/// What a trial says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The rate holds.
    Held,
    /// It does not.
    Failed,
    /// Nothing: the generator did not keep its schedule.
    Invalid,
}

/// One rate that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Trial {
    pub(crate) rate: f64,
    pub(crate) verdict: Verdict,
    /// It repeats a rate that held, to be sure.
    pub(crate) confirming: bool,
}

/// What the search found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limit {
    /// The highest rate that held each time; 0 if none did.
    pub(crate) rate: f64,
    /// Whether a rate counted as failed because no trial of it was valid: the server may do more.
    pub(crate) doubtful: bool,
    pub(crate) trials: Vec<Trial>,
}

/// Searches from the rate `start` with `holds`, which tries a rate.
pub(crate) fn search(start: f64, mut holds: impl FnMut(f64) -> Outcome<Verdict>) -> Outcome<Limit> {
    let mut search = Search { holds: &mut holds, doubtful: false, trials: Vec::new() };
    let Some((low, high)) = search.bracket(start.max(LEAST))? else {
        return Ok(Limit { rate: 0.0, doubtful: search.doubtful, trials: search.trials });
    };
    let low = search.narrow(low, high)?;
    let rate = search.confirm(low)?;
    Ok(Limit { rate, doubtful: search.doubtful, trials: search.trials })
}

struct Search<'a> {
    holds: &'a mut dyn FnMut(f64) -> Outcome<Verdict>,
    doubtful: bool,
    trials: Vec<Trial>,
}

impl Search<'_> {
    /// One bad second of the machine must not end the search, so a failure is tried once more.
    fn holds(&mut self, rate: f64) -> Outcome<bool> {
        Ok(self.once(rate, false)? || self.once(rate, false)?)
    }

    fn once(&mut self, rate: f64, confirming: bool) -> Outcome<bool> {
        for _ in 0..ATTEMPTS {
            let verdict = (self.holds)(rate)?;
            self.trials.push(Trial { rate, verdict, confirming });
            if verdict != Verdict::Invalid {
                return Ok(verdict == Verdict::Held);
            }
        }
        self.doubtful = true;
        Ok(false)
    }

    /// A rate that holds and one that does not, none if even [`LEAST`] does not hold.
    fn bracket(&mut self, start: f64) -> Outcome<Option<(f64, f64)>> {
        let mut rate = start;
        if self.holds(rate)? {
            for _ in 0..DOUBLINGS {
                if !self.holds(2.0 * rate)? {
                    break;
                }
                rate *= 2.0;
            }
            return Ok(Some((rate, 2.0 * rate)));
        }
        while rate > LEAST {
            rate /= 2.0;
            if self.holds(rate)? {
                return Ok(Some((rate, 2.0 * rate)));
            }
        }
        Ok(None)
    }

    fn narrow(&mut self, holding: f64, failing: f64) -> Outcome<f64> {
        let (mut low, mut high) = (holding, failing);
        while high > low * (1.0 + CLOSE) {
            let middle = f64::midpoint(low, high);
            if self.holds(middle)? {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Repeats `rate`, going down a step when it fails.
    fn confirm(&mut self, rate: f64) -> Outcome<f64> {
        let mut rate = rate;
        while rate > LEAST {
            let mut held = 0;
            while held < CONFIRMATIONS && self.once(rate, true)? {
                held += 1;
            }
            if held == CONFIRMATIONS {
                return Ok(rate);
            }
            rate *= 1.0 - CLOSE;
        }
        Ok(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(held: bool) -> Verdict {
        if held { Verdict::Held } else { Verdict::Failed }
    }

    fn limit(start: f64, holds: impl Fn(f64) -> bool) -> Limit {
        search(start, |rate| Ok(verdict(holds(rate)))).unwrap()
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for start in [1.0, 900.0, 7_000.0, 7_500.0, 1_000_000.0] {
            let found = limit(start, |rate| rate <= 7_300.0).rate;
            assert!((7_300.0 * 0.97..=7_300.0).contains(&found), "{start}: {found}");
        }
        assert_eq!(limit(100.0, |_| false).rate, 0.0);
    }

    #[test]
    fn one_failure_is_forgiven_and_a_rate_that_fails_when_repeated_is_not_the_limit() {
        let mut calls = 0;
        let forgiving = search(1_000.0, |rate| {
            calls += 1;
            Ok(verdict(calls != 1 && rate <= 1_500.0))
        });
        assert!(forgiving.unwrap().rate > 1_400.0);

        let mut confirming = 0;
        let mut last = 0.0;
        let found = search(1_000.0, |rate| {
            confirming = if rate == last { confirming + 1 } else { 0 };
            last = rate;
            // Above 1,200 it holds only once in a row.
            Ok(verdict(rate <= 1_500.0 && (rate <= 1_200.0 || confirming == 0)))
        });
        let found = found.unwrap();
        assert!((1_150.0..=1_200.0).contains(&found.rate), "{found:?}");
        let last = &found.trials[found.trials.len() - CONFIRMATIONS..];
        assert!(last.iter().all(|trial| trial.confirming && trial.verdict == Verdict::Held));
    }
    #[test]
    fn trials_that_say_nothing_are_repeated_and_doubt_is_said() {
        let mut calls = 0;
        let found = search(1_000.0, |rate| {
            calls += 1;
            Ok(if calls % 3 == 0 { Verdict::Invalid } else { verdict(rate <= 7_300.0) })
        });
        let found = found.unwrap();
        assert!(!found.doubtful && found.rate > 7_000.0, "{found:?}");
        let found = search(1_000.0, |rate| {
            Ok(if rate > 2_500.0 { Verdict::Invalid } else { Verdict::Held })
        });
        let found = found.unwrap();
        assert!(found.doubtful && (2_400.0..=2_500.0).contains(&found.rate), "{found:?}");
    }
}
