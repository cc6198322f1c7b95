//! Results as tables of text.
//!
//! It does not know where the text goes.

use crate::comparison::Spread;
use crate::drive::summary::{QUANTILES, Summary};
use crate::report::Report;

/// Everything in `report`.
pub(crate) fn text(report: &Report) -> String {
    let mut parts = vec![aligned(&measurements(&report.measurements))];
    for summary in &report.measurements {
        parts.extend(remarks(summary));
    }
    for found in &report.limits {
        let (scenario, target, rate) = (&found.scenario, &found.target, found.limit.rate);
        let (bound, trials) = (time(found.bound_us), found.limit.trials.len());
        let doubt =
            if found.limit.doubtful { "; the generator's limit, not the server's" } else { "" };
        parts.push(format!(
            "limit: {scenario} on {target} keeps p99 under {bound} up to {} requests/s \
             ({trials} trials{doubt})",
            whole(rate)
        ));
    }
    for found in &report.ceilings {
        parts.push(format!(
            "ceiling: {} on {} reaches {} of a static server with answers of {} bytes",
            found.scenario,
            found.target,
            spread(&found.share),
            found.body_bytes
        ));
    }
    for found in &report.comparisons {
        let rounds = found.rounds;
        parts.push(format!("A = {}, B = {}, A over B in {rounds} rounds:", found.a, found.b));
        parts.push(format!("  throughput  {}", spread(&found.throughput)));
        parts.push(format!("  rows/s      {}", spread(&found.rows_per_second)));
        for (name, _) in QUANTILES {
            if let Some(ratios) = found.latency.get(name) {
                parts.push(format!("  {name:<10}  {}", spread(ratios)));
            }
        }
    }
    parts.join("\n")
}

/// Head and rows of the measurements.
pub(crate) fn measurements(summaries: &[Summary]) -> Vec<Vec<String>> {
    let mut head: Vec<String> =
        ["scenario", "target", "loop", "rate/s", "answers/s", "rows/s"].map(str::to_owned).to_vec();
    head.extend(QUANTILES.iter().map(|(name, _)| (*name).to_owned()));
    head.extend(["max", "errors", "late %", "busy %", "result"].map(str::to_owned));
    let mut rows = vec![head];
    for summary in summaries {
        let mut row = vec![
            summary.scenario.clone(),
            short(&summary.target),
            summary.kind.to_owned(),
            summary.rate.map_or_else(|| "-".to_owned(), whole),
            whole(summary.throughput),
            whole(summary.rows_per_second),
        ];
        row.extend(QUANTILES.iter().map(|(name, _)| time(summary.quantile(name))));
        row.push(time(summary.latency_us.max));
        row.push(summary.failed().to_string());
        row.push(format!("{:.2}", 100.0 * summary.late_share));
        row.push(format!("{:.0}", 100.0 * summary.generator_busy));
        row.push(if summary.valid { "valid".to_owned() } else { "INVALID".to_owned() });
        rows.push(row);
    }
    rows
}

/// What has to be said of a measurement besides its figures.
pub(crate) fn remarks(summary: &Summary) -> Vec<String> {
    let (name, target) = (&summary.scenario, short(&summary.target));
    let about = |what: String| format!("{name} on {target}: {what}");
    let mut remarks: Vec<String> = summary.notes.iter().cloned().map(about).collect();
    remarks.extend(summary.errors.iter().map(|(kind, n)| about(format!("{n} x {kind}"))));
    remarks.extend(summary.error_examples.iter().map(|e| about(format!("for example: {e}"))));
    if let Some(rate) = summary.disk_tier_hit_rate {
        remarks.push(about(format!("{:.1} % of disk tier rows needed no disk", 100.0 * rate)));
    }
    remarks
}

/// The end of a path is what tells it apart.
fn short(target: &str) -> String {
    target.rsplit_once("larder:").map_or_else(
        || target.to_owned(),
        |(_, path)| {
            let parts: Vec<&str> = path.rsplit('/').take(2).collect();
            format!("larder:{}", parts.into_iter().rev().collect::<Vec<_>>().join("/"))
        },
    )
}

/// Microseconds with a unit that suits.
pub(crate) fn time(us: f64) -> String {
    match us {
        us if us < 99.95 => format!("{us:.1}us"),
        us if us < 1_000.0 => format!("{us:.0}us"),
        us if us < 99_950.0 => format!("{:.2}ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0}ms", us / 1e3),
        us => format!("{:.2}s", us / 1e6),
    }
}

/// A whole number with its thousands apart.
pub(crate) fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The median, and between what it lies.
pub(crate) fn spread(ratios: &Spread) -> String {
    format!("{:.3} ({:.3} to {:.3})", ratios.median, ratios.min, ratios.max)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            [41.26, 123.4, 5_120.0, 123_456.0, 2e6].map(time),
            ["41.3us", "123us", "5.12ms", "123ms", "2.00s"]
        );
        assert_eq!(
            [0.4, 999.0, 1_000.0, 1_234_567.0].map(whole),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(short("larder:/a/b/release/larder"), "larder:release/larder");
        assert_eq!(short("http://x:1"), "http://x:1");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let text = aligned(&[row(["a", "b", "c", "1"]), row(["aaa", "b", "c", "100"])]);
        assert_eq!(text, "a    b  c    1\naaa  b  c  100");
    }
}
