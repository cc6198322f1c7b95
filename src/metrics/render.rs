//! Writes the server's numbers as Prometheus text, and the table of them for the documentation.
//!
//! It does not know HTTP, and computes nothing that the metrics do not hold.

use std::fmt::Write;

use serde::Serialize;

use super::histogram::{QUANTILES, Snapshot, Window};
use super::stats::CLASS_NAMES;
use super::{Code, DiskSource, Kept, Metrics, PLAIN, Route, WritesState};
use crate::time::ArrivalTime;

/// How many rows a view has online; counted by whoever asks for the numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ViewRows {
    /// The project of the view.
    pub project: String,
    /// The view with its version, such as `user_profile@2`.
    pub view: String,
    /// Entities that have a row in it.
    pub rows: u64,
}

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the latency buckets, in nanoseconds: 50 us to 10 s.
const LATENCY_BUCKETS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Upper bounds of the buckets of requests per sync.
const GROUP_BUCKETS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024];
const NANOS: f64 = 1e9;

/// A number with labels, or one computed when asked: what is to be said about it.
struct Family {
    name: &'static str,
    kind: &'static str,
    labels: &'static str,
    help: &'static str,
    write: fn(&mut Page<'_>),
}

const FAMILIES: &[Family] = &[
    Family {
        name: "larder_build_info",
        kind: "gauge",
        labels: "version",
        help: "Always 1; the release is in the label.",
        write: |page| page.line("", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    },
    Family {
        name: "larder_start_timestamp_seconds",
        kind: "gauge",
        labels: "",
        help: "When the server started, as Unix time.",
        write: |page| page.line("", &[], page.metrics.started.micros() as f64 / 1e6),
    },
    Family {
        name: "larder_writes_state",
        kind: "gauge",
        labels: "state",
        help: "1 for the state the writer is in, 0 for the others.",
        write: |page| {
            let now = page.metrics.writes();
            for state in WritesState::ALL {
                page.line("", &[("state", state.as_str())], f64::from(u8::from(state == now)));
            }
        },
    },
    Family {
        name: "larder_requests_total",
        kind: "counter",
        labels: "route, status",
        help: "Requests answered, by class of status; routes never used are left out.",
        write: |page| {
            for route in Route::ALL {
                let classes = &page.metrics.requests[*route as usize];
                for (class, count) in CLASS_NAMES.into_iter().zip(classes) {
                    if count.get() > 0 {
                        let labels = [("route", route.as_str()), ("status", class)];
                        page.line("", &labels, count.get() as f64);
                    }
                }
            }
        },
    },
    Family {
        name: "larder_errors_total",
        kind: "counter",
        labels: "code",
        help: "Requests refused, by code.",
        write: |page| {
            for code in Code::ALL {
                let count = page.metrics.errors[*code as usize].get();
                page.line("", &[("code", code.as_str())], count as f64);
            }
        },
    },
    Family {
        name: "larder_request_duration_seconds",
        kind: "histogram",
        labels: "route, le",
        help: "Time from the head of a request until its answer is built, since start.",
        write: |page| {
            for (route, snapshot) in page.latencies {
                page.histogram(&[("route", route.as_str())], snapshot, &LATENCY_BUCKETS, NANOS);
            }
        },
    },
    Family {
        name: "larder_request_duration_quantile_seconds",
        kind: "gauge",
        labels: "route, window, quantile",
        help: "The same within 1 %, over windows of start, 10s, 1m and 5m; quantile 1 is the \
               maximum. Quantiles of several servers must not be averaged.",
        write: |page| {
            for (route, snapshot) in page.latencies {
                page.quantiles(&[("route", route.as_str())], snapshot, NANOS);
            }
        },
    },
    Family {
        name: "larder_sync_duration_seconds",
        kind: "histogram",
        labels: "le",
        help: "Time history took to sync a group of writes to disk; its count is the syncs.",
        write: |page| {
            let snapshot = page.metrics.syncs.snapshot(0, page.now, &LATENCY_BUCKETS);
            page.histogram(&[], &snapshot, &LATENCY_BUCKETS, NANOS);
        },
    },
    Family {
        name: "larder_sync_requests",
        kind: "histogram",
        labels: "le",
        help: "Requests that became durable by the same sync.",
        write: |page| {
            let snapshot = page.metrics.groups.snapshot(0, page.now, &GROUP_BUCKETS);
            page.histogram(&[], &snapshot, &GROUP_BUCKETS, 1.0);
        },
    },
    Family {
        name: "larder_disk_tier_rows_total",
        kind: "counter",
        labels: "source",
        help: "Rows of the disk tier read, by where they were found: overlay, cache, store, \
               history.",
        write: |page| {
            for source in DiskSource::ALL {
                let count = page.metrics.disk_reads[source as usize].get();
                page.line("", &[("source", source.as_str())], count as f64);
            }
        },
    },
    Family {
        name: "larder_online_rows",
        kind: "gauge",
        labels: "project, view",
        help: "Entities that have a row in the view.",
        write: |page| {
            for view in page.views {
                let labels = [("project", view.project.as_str()), ("view", view.view.as_str())];
                page.line("", &labels, view.rows as f64);
            }
        },
    },
    Family {
        name: "larder_checkpoint_age_seconds",
        kind: "gauge",
        labels: "",
        help: "Time since the newest checkpoint was completed; absent if there is none.",
        write: |page| {
            let completed = page.metrics.checkpoint_completed.get();
            if completed > 0 {
                let age = page.now.micros() as f64 - completed as f64;
                page.line("", &[], (age / 1e6).max(0.0));
            }
        },
    },
];

/// The text under way and what it is written from.
struct Page<'a> {
    text: String,
    /// The family being written.
    name: &'static str,
    metrics: &'a Metrics,
    latencies: &'a [(Route, Snapshot)],
    views: &'a [ViewRows],
    now: ArrivalTime,
}

impl Metrics {
    /// Every number in the Prometheus text format as of `now`; `views` is how many rows each view
    /// has online.
    pub fn render(&self, views: &[ViewRows], now: ArrivalTime) -> String {
        let latencies: Vec<_> = (Route::ALL.iter())
            .map(|route| (*route, self.latencies.snapshot(*route as usize, now, &LATENCY_BUCKETS)))
            .filter(|(_, snapshot)| snapshot.windows[Window::Start as usize].count > 0)
            .collect();
        let mut page = Page {
            text: String::with_capacity(16 << 10),
            name: "",
            metrics: self,
            latencies: &latencies,
            views,
            now,
        };
        for family in FAMILIES {
            page.head(family.name, family.kind, family.help);
            (family.write)(&mut page);
        }
        for plain in PLAIN {
            page.head(plain.name, plain.kind(), plain.help);
            page.line("", &[], plain.published(self));
        }
        page.text
    }
}

impl super::Plain {
    fn kind(&self) -> &'static str {
        if self.kept == Kept::Counter { "counter" } else { "gauge" }
    }
}

impl Page<'_> {
    fn head(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let name = self.name;
        self.put(format_args!("{name}{suffix}"));
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.put(format_args!("{open}{label}=\"{text}\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{close} {value}\n"));
    }

    fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        snapshot: &Snapshot,
        bounds: &[u64],
        scale: f64,
    ) {
        let count = snapshot.windows[Window::Start as usize].count as f64;
        for (bound, at_most) in bounds.iter().zip(&snapshot.at_most) {
            let le = (*bound as f64 / scale).to_string();
            self.line("_bucket", &[labels, &[("le", &le)]].concat(), *at_most as f64);
        }
        self.line("_bucket", &[labels, &[("le", "+Inf")]].concat(), count);
        self.line("_sum", labels, snapshot.sum as f64 / scale);
        self.line("_count", labels, count);
    }

    fn quantiles(&mut self, labels: &[(&str, &str)], snapshot: &Snapshot, scale: f64) {
        for (window, summary) in Window::ALL.into_iter().zip(&snapshot.windows) {
            if summary.count == 0 {
                continue;
            }
            for (quantile, value) in QUANTILES.into_iter().zip(summary.quantiles) {
                let quantile = quantile.to_string();
                let own = [("window", window.as_str()), ("quantile", quantile.as_str())];
                self.line("", &[labels, &own].concat(), value as f64 / scale);
            }
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a String does not fail");
    }
}

/// The Markdown table of every number, as it stands in `docs/metrics.md`.
pub fn documentation() -> String {
    let mut text = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    let families = FAMILIES.iter().map(|f| (f.name, f.kind, f.labels, f.help));
    let plain = PLAIN.iter().map(|p| (p.name, p.kind(), "", p.help));
    for (name, kind, labels, help) in families.chain(plain) {
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::time::Span;

    fn start() -> ArrivalTime {
        ArrivalTime::from_micros(1_800_000_000_000_000)
    }

    #[test]
    fn the_names_are_these() {
        let names: Vec<_> =
            FAMILIES.iter().map(|f| f.name).chain(PLAIN.iter().map(|p| p.name)).collect();
        assert_eq!(names.join("\n"), include_str!("names.txt").trim_end());
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let families = FAMILIES.iter().map(|f| (f.name, f.kind));
        for (name, kind) in families.chain(PLAIN.iter().map(|p| (p.name, p.kind()))) {
            assert!(name.starts_with("larder_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        }
        for plain in PLAIN.iter().filter(|plain| plain.kept == Kept::Micros) {
            assert!(plain.name.ends_with("_seconds"), "{}", plain.name);
        }
    }

    #[test]
    fn every_line_is_of_the_format() {
        let metrics = Metrics::new(start());
        let view = |project: &str| ViewRows {
            project: project.to_owned(),
            view: "a\"b\\c\nd".to_owned(),
            rows: 3,
        };
        metrics.request(Route::Online, 200, Duration::from_micros(120), start());
        metrics.request(Route::Push, 503, Duration::from_millis(7), start());
        metrics.error(Code::QueueFull);
        metrics.sync(12, Duration::from_millis(2), start());
        metrics.disk_read(DiskSource::Cache, 5);
        metrics.set_writes(WritesState::Full);
        metrics.rows_accepted.add(41);
        metrics.rows_accepted.increment();
        metrics.connections_open.add(2);
        metrics.connections_open.subtract(1);
        metrics.recovery_time.set_span(Span::from_micros(1_500_000));
        metrics.checkpoint_completed.set_time(start());
        let now = start().plus(Span::from_seconds(30));
        let text = metrics.render(&[view("default")], now);
        for line in [
            "larder_requests_total{route=\"online\",status=\"2xx\"} 1",
            "larder_requests_total{route=\"push\",status=\"5xx\"} 1",
            "larder_errors_total{code=\"QUEUE_FULL\"} 1",
            "larder_errors_total{code=\"INTERNAL\"} 0",
            "larder_request_duration_seconds_bucket{route=\"online\",le=\"0.0001\"} 0",
            "larder_request_duration_seconds_bucket{route=\"online\",le=\"0.00025\"} 1",
            "larder_request_duration_seconds_bucket{route=\"online\",le=\"+Inf\"} 1",
            "larder_request_duration_seconds_sum{route=\"push\"} 0.007",
            "larder_sync_requests_bucket{le=\"8\"} 0",
            "larder_sync_requests_bucket{le=\"16\"} 1",
            "larder_disk_tier_rows_total{source=\"cache\"} 5",
            "larder_writes_state{state=\"full\"} 1",
            "larder_writes_state{state=\"open\"} 0",
            "larder_online_rows{project=\"default\",view=\"a\\\"b\\\\c\\nd\"} 3",
            "larder_rows_accepted_total 42",
            "larder_connections_open 1",
            "larder_recovery_seconds 1.5",
            "larder_checkpoint_age_seconds 30",
            "larder_start_timestamp_seconds 1800000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        // The request was 30 seconds ago: in the minute, no longer in the 10 seconds.
        assert!(text.contains("window=\"1m\",quantile=\"0.99\"}"));
        assert!(!text.contains("window=\"10s\""));
        assert!(!text.contains("route=\"batch\""));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
