//! What a measurement says: figures, and whether they can be believed.
//!
//! It does not know how it is shown.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::drive::recorder::Recorder;
use crate::drive::{Drive, Pace};
use crate::scenario::Scenario;
use crate::schedule::Arrivals;
use crate::target::{Protocol, Target};

/// More late sends than this, and the generator did not keep its schedule.
const LATE_SHARE: f64 = 0.01;
/// Fewer sent than this share of the schedule while connections were free, likewise.
const SENT_SHARE: f64 = 0.99;
/// A generator kept from working for more than this share of its time has neighbours.
const STALLED_SHARE: f64 = 0.01;
/// Beyond this share of its time, the generator may be what limits a closed loop.
const BUSY_SHARE: f64 = 0.95;

/// The percentiles of the table.
pub(crate) const QUANTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) scenario: String,
    pub(crate) target: String,
    pub(crate) protocol: Protocol,
    /// `open` or `closed`: whether latency counts from the schedule or from the sending.
    #[serde(rename = "loop")]
    pub(crate) kind: &'static str,
    pub(crate) arrivals: Option<Arrivals>,
    pub(crate) rate: Option<f64>,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) warmup_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) scheduled: u64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Good answers a second.
    pub(crate) throughput: f64,
    pub(crate) rows_per_second: f64,
    pub(crate) received_bytes_per_second: f64,
    pub(crate) latency_us: Latency,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) error_examples: Vec<String>,
    /// Answers compared value by value.
    pub(crate) checked: u64,
    pub(crate) reconnects: u64,
    /// Share of requests the generator sent too late by its own fault.
    pub(crate) late_share: f64,
    /// Share of its time the generator worked.
    pub(crate) generator_busy: f64,
    /// Share of its time in which it was kept from working for a millisecond or more.
    pub(crate) generator_stalled: f64,
    /// Share of disk tier rows that needed no disk, where there were any.
    pub(crate) disk_tier_hit_rate: Option<f64>,
    pub(crate) valid: bool,
    /// Why the figures cannot be believed, or should be read with care.
    pub(crate) notes: Vec<String>,
    /// Pairs of a share of requests and the microseconds within which they were answered.
    pub(crate) percentiles: Vec<(f64, f64)>,
    pub(crate) over_time: Vec<Slice>,
}

/// Percentiles in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    #[serde(flatten)]
    pub(crate) quantiles: BTreeMap<&'static str, f64>,
    pub(crate) max: f64,
}

/// A part of the time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Slice {
    /// Its beginning, in seconds.
    pub(crate) at: f64,
    pub(crate) answered: u64,
    /// In microseconds, as the next two.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Judges what the threads noted.
    pub(crate) fn new(
        target: &Target,
        scenario: &Scenario,
        drive: &Drive,
        noted: &Recorder,
    ) -> Self {
        let (kind, arrivals, rate) = match drive.pace {
            Pace::Closed => ("closed", None, None),
            Pace::Open { arrivals, rate } => ("open", Some(arrivals), Some(rate)),
        };
        // An open loop lasts until its last answer: a backlog must not count as throughput.
        let seconds = match drive.pace {
            Pace::Closed => drive.duration.as_secs_f64(),
            Pace::Open { .. } => drive.duration.as_secs_f64().max(noted.last_answer as f64 / 1e9),
        };
        let mut summary = Self {
            scenario: scenario.name.clone(),
            target: target.name.clone(),
            protocol: target.protocol,
            kind,
            arrivals,
            rate,
            connections: drive.connections,
            threads: drive.threads,
            warmup_seconds: drive.warmup.as_secs_f64(),
            seconds,
            seed: drive.seed,
            scheduled: noted.scheduled,
            sent: noted.sent,
            answered: noted.answered,
            throughput: noted.answered as f64 / seconds,
            rows_per_second: noted.rows as f64 / seconds,
            received_bytes_per_second: noted.bytes as f64 / seconds,
            latency_us: latency(noted),
            errors: noted.mishaps.iter().map(|(mishap, n)| (mishap.name(), *n)).collect(),
            error_examples: noted.examples.clone(),
            checked: noted.checked,
            reconnects: noted.reconnects,
            late_share: share(noted.late, noted.sent),
            generator_busy: share(noted.busy, noted.present).min(1.0),
            generator_stalled: share(noted.stalled, noted.present).min(1.0),
            disk_tier_hit_rate: None,
            valid: true,
            notes: Vec::new(),
            percentiles: percentiles(noted),
            over_time: slices(noted),
        };
        summary.judge(noted);
        summary
    }

    /// Requests that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latency at one of [`QUANTILES`], in microseconds.
    pub(crate) fn quantile(&self, name: &str) -> f64 {
        self.latency_us.quantiles.get(name).copied().unwrap_or(f64::NAN)
    }

    fn judge(&mut self, noted: &Recorder) {
        let mut invalid = Vec::new();
        if noted.answered == 0 {
            invalid.push("nothing was answered".to_owned());
        }
        if self.late_share > LATE_SHARE {
            let share = 100.0 * self.late_share;
            invalid.push(format!("the generator sent {share:.1} % of the requests late"));
        }
        let due = noted.scheduled + noted.held_back;
        if share(noted.held_back, due) > 1.0 - SENT_SHARE {
            let held = noted.held_back;
            invalid
                .push(format!("{held} requests were due and unsent though connections were free"));
        }
        self.valid = invalid.is_empty();
        self.notes = invalid;
        if self.generator_stalled > STALLED_SHARE {
            let stalled = 100.0 * self.generator_stalled;
            self.notes
                .push(format!("the generator was kept from its core {stalled:.1} % of the time"));
        }
        if self.kind == "closed" && self.generator_busy > BUSY_SHARE {
            let busy = 100.0 * self.generator_busy;
            let note =
                format!("the generator was busy {busy:.0} % of the time: it may be the limit");
            self.notes.push(note);
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn latency(noted: &Recorder) -> Latency {
    let at = |quantile| noted.latency.value_at_quantile(quantile) as f64 / 1e3;
    Latency {
        mean: noted.latency.mean() / 1e3,
        quantiles: QUANTILES.iter().map(|(name, quantile)| (*name, at(*quantile))).collect(),
        max: noted.latency.max() as f64 / 1e3,
    }
}

/// Ten points for each nine, as far as there are enough requests to speak of it.
fn percentiles(noted: &Recorder) -> Vec<(f64, f64)> {
    let requests = noted.latency.len().max(1) as f64;
    (0..=60)
        .map(|step| f64::from(step) / 10.0)
        .take_while(|nines| *nines <= requests.log10())
        .map(|nines| {
            let quantile = 1.0 - 10_f64.powf(-nines);
            (quantile, noted.latency.value_at_quantile(quantile) as f64 / 1e3)
        })
        .collect()
}

fn slices(noted: &Recorder) -> Vec<Slice> {
    let of = |(place, slice): (usize, &hdrhistogram::Histogram<u32>)| Slice {
        at: place as f64 * noted.slice.as_secs_f64(),
        answered: slice.len(),
        p50: slice.value_at_quantile(0.5) as f64,
        p99: slice.value_at_quantile(0.99) as f64,
        max: slice.max() as f64,
    };
    noted.slices.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::target::Named;

    fn summary(pace: Pace, noted: impl FnOnce(&mut Recorder)) -> Summary {
        let Named::Running(target) = Named::parse("static://127.0.0.1:1").unwrap() else {
            panic!("it runs")
        };
        let file = include_str!("../../scenarios/online-10.toml");
        let duration = Duration::from_secs(1);
        let drive = Drive {
            pace,
            connections: 1,
            threads: 1,
            warmup: Duration::ZERO,
            duration,
            timeout: duration,
            cpus: Vec::new(),
            seed: 1,
        };
        let mut recorder = Recorder::new(duration).unwrap();
        for request in 1..=1_000 {
            recorder.scheduled += 1;
            recorder.sent += 1;
            recorder.answer((request - 1) * 1_000_000, request * 1_000, 1, 100);
        }
        recorder.present = 1_000_000_000;
        noted(&mut recorder);
        Summary::new(&target, &Scenario::parse(file).unwrap(), &drive, &recorder)
    }

    const OPEN: Pace = Pace::Open { arrivals: Arrivals::Constant, rate: 1_000.0 };

    #[test]
    fn figures_follow_from_what_was_noted() {
        let summary = summary(OPEN, |_| {});
        assert!(summary.valid, "{:?}", summary.notes);
        assert_eq!((summary.throughput, summary.rows_per_second), (1_000.0, 1_000.0));
        assert_eq!(summary.received_bytes_per_second, 100_000.0);
        let p99 = summary.quantile("p99");
        assert!((989.0..992.0).contains(&p99), "{p99}");
        // A thousand requests know three nines and no more.
        assert_eq!(summary.percentiles.last().map(|(share, _)| *share), Some(0.999));
    }

    #[test]
    fn a_generator_that_did_not_keep_its_schedule_makes_the_result_invalid() {
        let check = |noted: fn(&mut Recorder), valid: bool, expected: &str| {
            let summary = summary(OPEN, noted);
            assert_eq!(summary.valid, valid, "{:?}", summary.notes);
            assert!(summary.notes.iter().any(|note| note.contains(expected)) || valid);
        };
        check(|noted| noted.late = 10, true, "");
        check(|noted| noted.late = 11, false, "1.1 % of the requests late");
        check(|noted| noted.held_back = 10, true, "");
        check(|noted| noted.held_back = 11, false, "11 requests were due and unsent");
        check(|noted| noted.stalled = 20_000_000, true, "");
        check(|noted| noted.answered = 0, false, "nothing was answered");
    }

    #[test]
    fn a_backlog_is_no_throughput() {
        let summary = summary(OPEN, |noted| noted.last_answer = 4_000_000_000);
        assert_eq!((summary.seconds, summary.throughput), (4.0, 250.0));
    }

    #[test]
    fn a_busy_generator_is_said() {
        let summary = summary(Pace::Closed, |noted| noted.busy = 960_000_000);
        assert!(summary.valid && summary.notes[0].contains("busy 96 %"), "{:?}", summary.notes);
        let summary = self::summary(Pace::Closed, |noted| noted.stalled = 20_000_000);
        assert!(summary.valid && summary.notes[0].contains("2.0 %"), "{:?}", summary.notes);
    }
}
