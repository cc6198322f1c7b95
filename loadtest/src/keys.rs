//! Which entities are asked for: uniform, Zipf, or a hot few among many; and some that nobody has.
//!
//! It does not know what is asked of them.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Prime beyond any number of entities, so that ranks scatter without collisions.
const SCATTER: u64 = 2_654_435_761;

/// How keys are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    pub(crate) distribution: Distribution,
    /// Share of keys that no entity has.
    #[serde(default)]
    pub(crate) missing: f64,
}

/// How likely each entity is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// The one of rank r in proportion to `1 / r^exponent`, as people's attention is.
    Zipf { exponent: f64 },
    /// A `share` of the keys falls on `entities` of them, the rest on all alike.
    Hot { entities: u64, share: f64 },
}

/// Chooses keys.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    entities: u64,
    keys: Keys,
    zipf: Option<Zipf>,
    random: Random,
}

impl Chooser {
    /// Chooses among `entities`, in the sequence of `seed`.
    pub(crate) fn new(keys: &Keys, entities: u64, seed: u64) -> Self {
        let zipf = match keys.distribution {
            Distribution::Zipf { exponent } => Some(Zipf::new(entities, exponent)),
            Distribution::Uniform | Distribution::Hot { .. } => None,
        };
        Self { entities, keys: keys.clone(), zipf, random: Random::new(seed) }
    }

    /// The number of the next entity; `entities` and beyond are missing.
    pub(crate) fn entity(&mut self) -> u64 {
        if self.keys.missing > 0.0 && self.random.unit() < self.keys.missing {
            return self.entities + self.random.below(self.entities);
        }
        match (self.keys.distribution, &self.zipf) {
            (Distribution::Hot { entities, share }, _) if self.random.unit() < share => {
                let rank = self.random.below(entities);
                self.spread(rank)
            }
            (_, Some(zipf)) => {
                let rank = zipf.rank(&mut self.random) - 1;
                self.spread(rank)
            }
            (_, None) => self.random.below(self.entities),
        }
    }

    /// Whether something with the probability `share` happens.
    pub(crate) fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.unit() < share
    }

    /// Neighbours in rank are no neighbours in number.
    const fn spread(&self, rank: u64) -> u64 {
        (rank * SCATTER) % self.entities
    }
}

/// Zipf's distribution by rejection-inversion (Hörmann and Derflinger, 1996): exact, without a
/// table.
#[derive(Clone, Debug)]
struct Zipf {
    ranks: f64,
    exponent: f64,
    from: f64,
    to: f64,
    sure: f64,
}

impl Zipf {
    fn new(ranks: u64, exponent: f64) -> Self {
        let ranks = ranks as f64;
        let mut zipf = Self { ranks, exponent, from: 0.0, to: 0.0, sure: 0.0 };
        zipf.from = zipf.integral(1.5) - 1.0;
        zipf.to = zipf.integral(ranks + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// From 1.
    fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.to + random.unit() * (self.from - self.to);
            let place = self.inverse(area);
            let rank = place.round().clamp(1.0, self.ranks);
            if rank - place <= self.sure || area >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, rank: f64) -> f64 {
        (-self.exponent * rank.ln()).exp()
    }

    /// The integral of `weight`.
    fn integral(&self, rank: f64) -> f64 {
        let log = rank.ln();
        let scaled = (1.0 - self.exponent) * log;
        if scaled.abs() < 1e-8 { log } else { scaled.exp_m1() / (1.0 - self.exponent) }
    }

    fn inverse(&self, area: f64) -> f64 {
        let scaled = (area * (1.0 - self.exponent)).max(-1.0);
        if scaled.abs() < 1e-8 {
            area.exp()
        } else {
            (scaled.ln_1p() / (1.0 - self.exponent)).exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, missing: f64) -> Vec<u64> {
        let keys = Keys { distribution, missing };
        let mut chooser = Chooser::new(&keys, 1_000, 1);
        let mut counts = vec![0; 2_000];
        for _ in 0..100_000 {
            counts[chooser.entity() as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_reach_all_alike() {
        let counts = counts(Distribution::Uniform, 0.0);
        assert!(counts[..1_000].iter().all(|times| (40..200).contains(times)));
        assert_eq!(counts[1_000..].iter().sum::<u64>(), 0);
    }

    #[test]
    fn zipf_follows_its_law() {
        for exponent in [0.8, 0.99, 1.0, 1.2] {
            let mut counts = counts(Distribution::Zipf { exponent }, 0.0);
            counts.sort_unstable_by(|a, b| b.cmp(a));
            let total: f64 = (1..=1_000).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for rank in [1, 2, 10] {
                let expected = 100_000.0 * f64::from(rank).powf(-exponent) / total;
                let found = counts[rank as usize - 1] as f64;
                let ratio = found / expected;
                assert!((0.9..1.1).contains(&ratio), "{exponent} {rank}: {found}, {expected}");
            }
        }
    }

    #[test]
    fn hot_keys_take_their_share() {
        let mut counts = counts(Distribution::Hot { entities: 10, share: 0.9 }, 0.0);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let hot: u64 = counts[..10].iter().sum();
        assert!((89_000..92_500).contains(&hot), "{hot}");
        assert!(counts[10] < 60, "{}", counts[10]);
    }

    #[test]
    fn missing_keys_are_those_nobody_has() {
        let missing: u64 = counts(Distribution::Uniform, 0.25)[1_000..].iter().sum();
        assert!((24_000..26_000).contains(&missing), "{missing}");
    }
}
