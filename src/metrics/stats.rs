//! The server's numbers as one serializable answer, for `GET /api/v1/stats`.
//!
//! It does not know HTTP, and computes nothing that the metrics do not hold.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::{Snapshot, Summary, Window};
use super::{Code, DiskSource, Kept, Metrics, PLAIN, Route, ViewRows};
use crate::time::ArrivalTime;

/// All numbers at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The release, such as `0.1.0`.
    pub version: &'static str,
    /// Seconds since the server started.
    pub uptime_seconds: f64,
    /// `open`, `closed`, `full`, `clock_behind` or `stopped`.
    pub writes: &'static str,
    /// Latencies in milliseconds of every route that was used, by its name.
    pub latency_ms: BTreeMap<&'static str, Windows>,
    /// Time of a sync, in milliseconds.
    pub sync_ms: Windows,
    /// Requests that shared a sync.
    pub sync_requests: Windows,
    /// Requests by route and status class, such as `{"online":{"2xx":7}}`; none that are 0.
    pub requests: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Refused requests by code; none that are 0.
    pub errors: BTreeMap<&'static str, u64>,
    /// Rows of the disk tier read, by where they were found.
    pub disk_tier: BTreeMap<&'static str, u64>,
    /// Rows online by view.
    pub online_rows: Vec<ViewRows>,
    /// The numbers without labels, by the name they have in `/metrics` less `larder_` and `_total`.
    pub numbers: BTreeMap<&'static str, f64>,
}

/// Quantiles of one thing over every window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Windows {
    /// Since the server started.
    pub since_start: Quantiles,
    /// Over the last 10 seconds (and up to 5 more).
    pub last_10s: Quantiles,
    /// Over the last minute (and up to 5 seconds more).
    pub last_1m: Quantiles,
    /// Over the last 5 minutes (and up to 5 seconds more).
    pub last_5m: Quantiles,
}

/// How many there were and how they were spread; all 0 when there were none.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Half of them were at most this.
    pub p50: f64,
    /// 90 % of them were at most this.
    pub p90: f64,
    /// 95 % of them were at most this.
    pub p95: f64,
    /// 99 % of them were at most this.
    pub p99: f64,
    /// 99.9 % of them were at most this.
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    /// The largest.
    pub max: f64,
}

/// Names of the status classes, 1xx first.
pub(super) const CLASS_NAMES: [&str; super::CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    /// All numbers as of `now`; `views` is how many rows each view has online.
    pub fn stats(&self, views: Vec<ViewRows>, now: ArrivalTime) -> Stats {
        let mut latency_ms = BTreeMap::new();
        let mut requests = BTreeMap::new();
        for route in Route::ALL {
            let by_class: BTreeMap<_, _> = (CLASS_NAMES.into_iter())
                .zip(self.requests[*route as usize].iter().map(super::Counter::get))
                .filter(|(_, count)| *count > 0)
                .collect();
            if !by_class.is_empty() {
                requests.insert(route.as_str(), by_class);
                let snapshot = self.latencies.snapshot(*route as usize, now, &[]);
                latency_ms.insert(route.as_str(), windows(&snapshot, 1e6));
            }
        }
        Stats {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: now.since(self.started).seconds().max(0.0),
            writes: self.writes().as_str(),
            latency_ms,
            sync_ms: windows(&self.syncs.snapshot(0, now, &[]), 1e6),
            sync_requests: windows(&self.groups.snapshot(0, now, &[]), 1.0),
            requests,
            errors: (Code::ALL.iter())
                .map(|code| (code.as_str(), self.errors[*code as usize].get()))
                .filter(|(_, count)| *count > 0)
                .collect(),
            disk_tier: (DiskSource::ALL.into_iter())
                .map(|source| (source.as_str(), self.disk_reads[source as usize].get()))
                .collect(),
            online_rows: views,
            numbers: PLAIN.iter().map(|plain| (short(plain.name), plain.published(self))).collect(),
        }
    }
}

impl super::Plain {
    /// The value in the unit it is published in.
    pub(super) fn published(&self, metrics: &Metrics) -> f64 {
        let value = (self.read)(metrics) as f64;
        if self.kept == Kept::Micros { value / 1e6 } else { value }
    }
}

fn short(name: &'static str) -> &'static str {
    let name = name.strip_prefix("larder_").unwrap_or(name);
    name.strip_suffix("_total").unwrap_or(name)
}

fn windows(snapshot: &Snapshot, scale: f64) -> Windows {
    let of = |window: Window| quantiles(&snapshot.windows[window as usize], scale);
    Windows {
        since_start: of(Window::Start),
        last_10s: of(Window::TenSeconds),
        last_1m: of(Window::Minute),
        last_5m: of(Window::FiveMinutes),
    }
}

fn quantiles(summary: &Summary, scale: f64) -> Quantiles {
    let [p50, p90, p95, p99, p99_9, max] = summary.quantiles.map(|value| value as f64 / scale);
    Quantiles { count: summary.count, p50, p90, p95, p99, p99_9, max }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::Span;

    #[test]
    fn has_every_number_in_its_unit() {
        let start = ArrivalTime::from_micros(1_800_000_000_000_000);
        let metrics = Metrics::new(start);
        metrics.set_writes(crate::metrics::WritesState::Open);
        metrics.request(Route::Online, 200, Duration::from_millis(2), start);
        metrics.request(Route::Online, 404, Duration::from_millis(2), start);
        metrics.error(Code::UnknownView);
        metrics.sync(3, Duration::from_millis(4), start);
        metrics.rows_accepted.add(7);
        metrics.recovery_time.set_span(Span::from_micros(2_500_000));
        let now = start.plus(Span::from_seconds(20));
        let stats = serde_json::to_value(metrics.stats(Vec::new(), now)).unwrap();
        let close = |pointer: &str, expected: f64| {
            let found = stats.pointer(pointer).and_then(serde_json::Value::as_f64);
            let found = found.unwrap_or_else(|| panic!("{pointer} is not in {stats}"));
            assert!((found - expected).abs() <= expected * 0.01, "{pointer}: {found}");
        };
        close("/uptime_seconds", 20.0);
        close("/latency_ms/online/since_start/count", 2.0);
        close("/latency_ms/online/since_start/p99.9", 2.0);
        close("/latency_ms/online/last_1m/max", 2.0);
        close("/latency_ms/online/last_10s/count", 0.0);
        close("/latency_ms/online/last_10s/p50", 0.0);
        close("/sync_ms/last_5m/p50", 4.0);
        close("/sync_requests/since_start/p50", 3.0);
        close("/requests/online/2xx", 1.0);
        close("/requests/online/4xx", 1.0);
        close("/errors/UNKNOWN_VIEW", 1.0);
        close("/disk_tier/cache", 0.0);
        close("/numbers/rows_accepted", 7.0);
        close("/numbers/recovery_seconds", 2.5);
        assert_eq!(stats["writes"], "open");
        assert!(stats["latency_ms"].get("batch").is_none());
    }
}
