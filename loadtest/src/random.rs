//! Numbers that look random: a generator with a seed, and the mix behind the known data.
//!
//! It does not know what they are used for.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scatters `number` over all 64 bits (the finalizer of SplitMix64). `peers/larder_data.py` has
/// the same function.
pub(crate) const fn scatter(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// SplitMix64: small, fast, and the same on every machine for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins the sequence of `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(scatter(seed ^ STEP))
    }

    /// The next 64 bits.
    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        scatter(self.0)
    }

    /// A number from 0 to below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers_and_they_spread() {
        let mut random = Random::new(7);
        let mut again = random.clone();
        let numbers: Vec<u64> = (0..10_000).map(|_| random.below(10)).collect();
        assert!(numbers.iter().all(|number| *number == again.below(10)));
        for digit in 0..10 {
            let times = numbers.iter().filter(|number| **number == digit).count();
            assert!((800..1_200).contains(&times), "{digit} came {times} times of 10,000");
        }
        assert!((0..1_000).map(|_| random.unit()).all(|unit| (0.0..1.0).contains(&unit)));
    }
}
