//! Sees to it that connections leave open files to the data: without one left, history cannot begin
//! its next file, and writes end until a restart.
//!
//! It does not know who opens files, nor counts them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that connections must leave: 256 connections that are being refused, 64 of the
/// operations listener, and the rest for history, checkpoints, the disk tier and uploads.
const KEPT: u64 = 640;
/// Connections there may be, however few files may be open.
const CONNECTIONS_MIN: usize = 16;

/// Raises the limit of open files as far as the process may, and says how many connections there
/// may be, at most `wanted`.
pub(super) fn leave_room(wanted: usize) -> usize {
    let limit = raise();
    let fitting = fit(wanted, limit);
    if fitting < wanted {
        tracing::warn!(
            open_files = limit,
            limits_connections = wanted,
            "only {fitting} connections are accepted: {KEPT} open files are kept for the data; \
             allow the process more (ulimit -n, LimitNOFILE)"
        );
    }
    fitting
}

/// None if there is no limit.
fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            limit.current
        }
    }
}

fn fit(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let left = usize::try_from(limit.saturating_sub(KEPT)).unwrap_or(usize::MAX);
    wanted.min(left.max(CONNECTIONS_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_to_the_data() {
        assert_eq!(fit(10_000, None), 10_000);
        assert_eq!(fit(10_000, Some(20_000)), 10_000);
        assert_eq!(fit(10_000, Some(1024)), 384);
        assert_eq!(fit(100, Some(1024)), 100);
        assert_eq!(fit(10_000, Some(64)), 16);
        assert_eq!(fit(5, Some(64)), 5);
    }
}
