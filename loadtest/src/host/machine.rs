//! The machine and the commit that figures belong to.
//!
//! It does not know the figures.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Where something was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// Of the work tree in which the command ran; `+` if it had changes.
    pub(crate) commit: String,
    /// Processes that wanted a core on average over the last minute, before the measurement.
    pub(crate) load_before: String,
}

impl Machine {
    /// Looks at this machine; what cannot be found is `unknown`.
    pub(crate) fn look() -> Self {
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: f64 = memory.trim_end_matches("kB").trim().parse().unwrap_or(0.0);
        Self {
            name: line("/proc/sys/kernel/hostname"),
            processor: field("/proc/cpuinfo", "model name"),
            cores: fs::read_to_string("/proc/cpuinfo")
                .map_or(0, |text| text.lines().filter(|l| l.starts_with("processor")).count()),
            memory_gib: (kib / 1024.0 / 102.4).round() / 10.0,
            kernel: line("/proc/sys/kernel/osrelease"),
            commit: commit(),
            load_before: line("/proc/loadavg"),
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
    found.map_or_else(unknown, |value| value.trim().to_owned())
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return unknown() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if changed { format!("{commit}+") } else { commit }
}
