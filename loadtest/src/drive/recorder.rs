//! What one thread notes while it drives: latencies, errors, how well it kept its schedule.
//!
//! It does not know sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::failure::{At, Outcome};

/// Longest latency that is told apart, in nanoseconds; longer ones count as this.
const LONGEST: u64 = 120_000_000_000;
/// Examples of what went wrong that are kept.
const EXAMPLES: usize = 3;

/// What went wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mishap {
    /// No connection.
    Connect,
    /// The connection ended before the answer.
    Closed,
    /// No answer in time.
    Timeout,
    /// An answer that says no.
    Status(u16),
    /// A value that differs from the known data.
    WrongValue,
    /// No answer the protocol allows.
    Broken,
    /// Still waiting for a free connection long after the end.
    NotSent,
}

impl Mishap {
    /// Its name in results.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Connect => "connect".to_owned(),
            Self::Closed => "closed".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::Status(status) => format!("status {status}"),
            Self::WrongValue => "wrong value".to_owned(),
            Self::Broken => "broken answer".to_owned(),
            Self::NotSent => "not sent".to_owned(),
        }
    }
}

/// The notes of one thread, or of several once merged.
#[derive(Clone)]
pub(crate) struct Recorder {
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// The same in microseconds over time, with two digits.
    pub(crate) slices: Vec<Histogram<u32>>,
    pub(crate) slice: Duration,
    pub(crate) scheduled: u64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) checked: u64,
    /// Sent later than a millisecond after they could have been, or due while the generator
    /// stood still.
    pub(crate) late: u64,
    /// Unsent at the end although connections were free.
    pub(crate) held_back: u64,
    pub(crate) reconnects: u64,
    /// Nanoseconds the threads worked, stood still against their will, and were there.
    pub(crate) busy: u64,
    pub(crate) stalled: u64,
    pub(crate) present: u64,
    /// Nanoseconds from the end of the warm-up to the last answer.
    pub(crate) last_answer: u64,
    pub(crate) mishaps: BTreeMap<Mishap, u64>,
    pub(crate) examples: Vec<String>,
}

impl Recorder {
    /// Ready to note for `duration`.
    pub(crate) fn new(duration: Duration) -> Outcome<Self> {
        let short = duration <= Duration::from_secs(30);
        let slice = if short { Duration::from_millis(100) } else { Duration::from_secs(1) };
        let slices = duration.as_nanos().div_ceil(slice.as_nanos()).max(1) as usize;
        let coarse = Histogram::new_with_bounds(1, LONGEST / 1_000, 2).at("histogram")?;
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LONGEST, 3).at("histogram")?,
            slices: vec![coarse; slices],
            slice,
            scheduled: 0,
            sent: 0,
            answered: 0,
            rows: 0,
            bytes: 0,
            checked: 0,
            late: 0,
            held_back: 0,
            reconnects: 0,
            busy: 0,
            stalled: 0,
            present: 0,
            last_answer: 0,
            mishaps: BTreeMap::new(),
            examples: Vec::new(),
        })
    }

    /// Notes a good answer to a request that was due `due` nanoseconds after the warm-up.
    pub(crate) fn answer(&mut self, due: u64, latency: u64, rows: u64, bytes: u64) {
        self.answered += 1;
        self.rows += rows;
        self.bytes += bytes;
        self.last_answer = self.last_answer.max(due + latency);
        self.latency(due, latency);
    }

    /// Notes how long a request took that was due `due`, well or not. Over time it belongs to when
    /// it was due: so a backlog shows where it was built up.
    pub(crate) fn latency(&mut self, due: u64, latency: u64) {
        self.latency.saturating_record(latency.max(1));
        let slice = (due / self.slice.as_nanos() as u64) as usize;
        let slice = slice.min(self.slices.len() - 1);
        self.slices[slice].saturating_record((latency / 1_000).max(1));
    }

    /// Notes that something went wrong; `example` is asked only while examples are wanted.
    pub(crate) fn mishap(&mut self, mishap: Mishap, example: impl FnOnce() -> String) {
        *self.mishaps.entry(mishap).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    /// Adds what another thread noted at the same time.
    pub(crate) fn merge(&mut self, other: &Self) -> Outcome<()> {
        self.latency.add(&other.latency).at("histogram")?;
        for (mine, others) in self.slices.iter_mut().zip(&other.slices) {
            mine.add(others).at("histogram")?;
        }
        let sums = [
            (&mut self.scheduled, other.scheduled),
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.rows, other.rows),
            (&mut self.bytes, other.bytes),
            (&mut self.checked, other.checked),
            (&mut self.late, other.late),
            (&mut self.held_back, other.held_back),
            (&mut self.reconnects, other.reconnects),
            (&mut self.busy, other.busy),
            (&mut self.stalled, other.stalled),
            (&mut self.present, other.present),
        ];
        for (mine, others) in sums {
            *mine += others;
        }
        self.last_answer = self.last_answer.max(other.last_answer);
        for (mishap, count) in &other.mishaps {
            *self.mishaps.entry(*mishap).or_default() += count;
        }
        self.examples.extend(other.examples.iter().cloned());
        self.examples.truncate(EXAMPLES);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let mut one = Recorder::new(Duration::from_secs(1)).unwrap();
        let mut two = one.clone();
        one.answer(50_000_000, 1_000, 1, 10);
        two.answer(950_000_000, 9_000, 1, 10);
        two.answer(1_950_000_000, 3_000, 1, 10);
        two.mishap(Mishap::Status(503), || "full".to_owned());
        one.merge(&two).unwrap();
        assert_eq!((one.answered, one.rows, one.bytes), (3, 3, 30));
        assert_eq!(one.latency.value_at_quantile(0.5) / 10, 300);
        assert_eq!(one.latency.max() / 10, 900);
        assert_eq!((one.slices[0].len(), one.slices[9].len()), (1, 2));
        assert_eq!(one.last_answer, 1_950_003_000);
        assert_eq!(one.mishaps[&Mishap::Status(503)], 1);
        assert_eq!(one.examples, ["full"]);
    }
}
