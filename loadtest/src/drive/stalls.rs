//! When the generator itself stood still: the operating system ran something else on its core, or
//! it was busy with other answers.
//!
//! It does not know requests, only when they were due. What is due during a stall is late by the
//! generator's fault, even if it then has to wait for a connection as well: had it been sent in
//! time, it would have found one.

use std::collections::VecDeque;

/// Shorter ones do not count, in nanoseconds.
const STALL: u64 = 1_000_000;

/// The stalls that requests may still fall into; times are nanoseconds from the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stalls {
    recent: VecDeque<(u64, u64)>,
    /// All of them together.
    pub(crate) total: u64,
}

impl Stalls {
    /// Notes that the generator did not look at its schedule from `from` to `to`, of which it
    /// wanted to sleep `wanted`.
    pub(crate) fn note(&mut self, from: u64, to: u64, wanted: u64) {
        let began = from + wanted;
        if to > began + STALL {
            self.recent.push_back((began, to));
            self.total += to - began;
        }
    }

    /// Whether a request was due during a stall. Requests come in the order in which they are due.
    pub(crate) fn held_up(&mut self, due: u64) -> bool {
        while self.recent.front().is_some_and(|(_, to)| *to <= due) {
            self.recent.pop_front();
        }
        self.recent.front().is_some_and(|(from, _)| *from <= due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_while_the_generator_stands_still_is_held_up() {
        let ms = |ms: u64| ms * 1_000_000;
        let mut stalls = Stalls::default();
        stalls.note(ms(1), ms(2), 0);
        stalls.note(ms(10), ms(15), ms(1));
        stalls.note(ms(15), ms(30), ms(15));
        stalls.note(ms(40), ms(50), 0);
        assert_eq!(stalls.total, ms(4) + ms(10));
        let dues = [1, 10, 11, 14, 15, 20, 39, 40, 49, 50, 60];
        let held: Vec<u64> = dues.into_iter().filter(|due| stalls.held_up(ms(*due))).collect();
        assert_eq!(held, [11, 14, 40, 49]);
    }
}
