//! Results as one HTML page that needs nothing from outside.
//!
//! It does not know how lines are drawn.

use crate::drive::summary::Summary;
use crate::report::plot::{Across, COLOURS, Curve, escaped, svg};
use crate::report::{Report, table};

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--c0:#0969da;--c1:#cf222e;--c2:#1a7f37;--c3:#9a6700;
--c4:#8250df;--c5:#bf3989;--c6:#1b7c83;--c7:#57606a}
body{font:15px/1.5 system-ui,sans-serif;max-width:1300px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;
font-size:13px}td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}
code{font-size:13px;overflow-wrap:anywhere}.bad{color:#cf222e;font-weight:600}
svg{width:100%;height:auto;max-width:860px}svg line{stroke:var(--line)}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.legend span{margin-right:1.4rem;white-space:nowrap}.legend i{display:inline-block;width:1.4em;
height:3px;margin-right:.4em;vertical-align:middle}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}
";

/// The page of `report`.
pub(crate) fn html(report: &Report) -> String {
    let names: Vec<&str> = report.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    let title = escaped(&format!("Load test: {}", names.join(", ")));
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}{}</style><h1>{title}</h1>",
        colours()
    );
    page += &where_and_how(report);
    page += &findings(report);
    page += &measurements(&report.measurements);
    if report.measurements.is_empty() {
        return page + "</html>\n";
    }
    page += "<h2>Latency by percentile</h2>";
    page += "<p>Each step to the right leaves out nine tenths of the requests before it.</p>";
    page += &by_percentile(&report.measurements);
    for summary in report.measurements.iter().filter(|summary| !summary.over_time.is_empty()) {
        page += &format!("<h2>Latency over time: {}</h2>", escaped(&label(summary)));
        page += &over_time(summary);
    }
    page + "</html>\n"
}

fn colours() -> String {
    let rule = |n| format!("polyline.c{n}{{stroke:var(--c{n})}}i.c{n}{{background:var(--c{n})}}");
    (0..COLOURS).map(rule).collect()
}

fn where_and_how(report: &Report) -> String {
    let machine = &report.machine;
    let fsync = report.fsync.map(|fsync| {
        format!("4 KiB: p50 {}, p99 {}", table::time(fsync.p50_us), table::time(fsync.p99_us))
    });
    let rows = [
        ("date", report.date.clone()),
        ("commit", machine.commit.clone()),
        ("command", report.command.clone()),
        ("machine", format!("{}, {} cores of {}", machine.name, machine.cores, machine.processor)),
        ("system", format!("Linux {}, {} GiB", machine.kernel, machine.memory_gib)),
        ("load before", machine.load_before.clone()),
        ("fdatasync", fsync.unwrap_or_else(|| "not measured".to_owned())),
    ];
    let rows = rows
        .map(|(name, value)| format!("<dt>{name}</dt><dd><code>{}</code></dd>", escaped(&value)));
    format!("<dl>{}</dl>", rows.concat())
}

/// The sentences under the table of the terminal.
fn findings(report: &Report) -> String {
    let text = table::text(report);
    let lines: Vec<&str> = text.lines().skip(1 + report.measurements.len()).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("<pre>{}</pre>", escaped(&lines.join("\n")))
}

fn measurements(summaries: &[Summary]) -> String {
    let rows = table::measurements(summaries);
    let row = |(number, cells): (usize, &Vec<String>)| {
        let tag = if number == 0 { "th" } else { "td" };
        let cell = |cell: &String| {
            let class = if cell == "INVALID" { " class=\"bad\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escaped(cell))
        };
        format!("<tr>{}</tr>", cells.iter().map(cell).collect::<String>())
    };
    let rows: String = rows.iter().enumerate().map(row).collect();
    format!("<div class=\"scroll\"><table>{rows}</table></div>")
}

fn label(summary: &Summary) -> String {
    let pace = summary.rate.map_or_else(
        || "closed loop".to_owned(),
        |rate| format!("{} requests/s", table::whole(rate)),
    );
    let invalid = if summary.valid { "" } else { ", INVALID" };
    format!("{} on {}, {pace}{invalid}", summary.scenario, summary.target)
}

fn by_percentile(summaries: &[Summary]) -> String {
    let nines = |share: f64| -(1.0 - share).log10();
    let curves: Vec<Curve> = summaries
        .iter()
        .map(|summary| Curve {
            name: label(summary),
            points: summary.percentiles.iter().map(|(share, us)| (nines(*share), *us)).collect(),
        })
        .collect();
    let ends = curves.iter().filter_map(|curve| curve.points.last());
    let end = ends.map(|(x, _)| *x).fold(1.0, f64::max);
    let marks = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
    let ticks = marks.iter().enumerate().map(|(nines, mark)| (nines as f64, (*mark).to_owned()));
    let ticks = ticks.filter(|(nines, _)| *nines <= end).collect();
    svg(&Across { title: "share of requests answered within", ticks, end }, &curves)
}

fn over_time(summary: &Summary) -> String {
    let filled = || summary.over_time.iter().filter(|slice| slice.answered > 0);
    let curve = |name: &str, of: fn(&crate::drive::summary::Slice) -> f64| Curve {
        name: name.to_owned(),
        points: filled().map(|slice| (slice.at, of(slice))).collect(),
    };
    let curves = [
        curve("p50", |slice| slice.p50),
        curve("max", |slice| slice.max),
        curve("p99", |slice| slice.p99),
    ];
    let end = summary.over_time.last().map_or(1.0, |slice| slice.at).max(0.1);
    let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3_600.0]
        .into_iter()
        .find(|step| end / step <= 10.0)
        .unwrap_or(end);
    let places = (0..=(end / step) as usize).map(|place| place as f64 * step);
    let ticks = places.map(|at| (at, format!("{} s", (at * 10.0).round() / 10.0))).collect();
    svg(
        &Across {
            title: "seconds from the end of the warm-up to when a request was due",
            ticks,
            end,
        },
        &curves,
    )
}
