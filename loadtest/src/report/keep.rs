//! Writes results to files: where the command says, and into the folder of this day and machine.
//!
//! It does not know what the results mean.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{At, Outcome};
use crate::host::fsync;
use crate::report::{Report, page};

/// Where results are written.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Files {
    /// Write the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as one HTML page to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Keep both in DIR/DATE-MACHINE/, with the fsync latency of that disk.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

/// Writes `report` to `files`; says where.
pub(crate) fn keep(report: &mut Report, files: &Files) -> Outcome<Vec<PathBuf>> {
    let mut written = Vec::new();
    let folder = files.results.as_ref().map(|root| root.join(day_and_machine(report)));
    if let Some(folder) = &folder {
        fs::create_dir_all(folder).at(folder.display())?;
        report.fsync = Some(fsync::measure(folder)?);
    }
    let json = serde_json::to_string_pretty(&report).at("results as JSON")? + "\n";
    let html = page::html(report);
    let mut write = |path: &Path, text: &str| -> Outcome<()> {
        fs::write(path, text).at(path.display())?;
        written.push(path.to_owned());
        Ok(())
    };
    if let Some(path) = &files.json {
        write(path, &json)?;
    }
    if let Some(path) = &files.html {
        write(path, &html)?;
    }
    if let Some(folder) = folder {
        let name = name(report);
        write(&folder.join(format!("{name}.json")), &json)?;
        write(&folder.join(format!("{name}.html")), &html)?;
    }
    Ok(written)
}

fn day_and_machine(report: &Report) -> String {
    let day = report.date.split('T').next().unwrap_or_default();
    format!("{day}-{}", report.machine.name)
}

/// What was done, to what, and when: `ceiling-online-10-101500`.
fn name(report: &Report) -> String {
    let what = match report {
        report if !report.ceilings.is_empty() => "ceiling",
        report if !report.comparisons.is_empty() => "compare",
        report if !report.limits.is_empty() => "limit",
        _ => "run",
    };
    let scenarios = match report.scenarios.as_slice() {
        [one] => one.name.clone(),
        several => format!("{}-scenarios", several.len()),
    };
    let time = report.date.split(['T', '.', 'Z']).nth(1).unwrap_or_default().replace(':', "");
    format!("{what}-{scenarios}-{time}")
}
