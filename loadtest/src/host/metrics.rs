//! Reads Larder's `/metrics`: how many rows of the disk tier needed no disk.
//!
//! It does not know the other metrics.

use crate::client::Client;
use crate::failure::Outcome;
use crate::target::{Protocol, Target};

const ROWS: &str = "larder_disk_tier_rows_total{source=\"";

/// Rows of the disk tier read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TierRows {
    /// Found in memory.
    memory: f64,
    /// All.
    all: f64,
}

impl TierRows {
    /// Asks `target`; none if it is no Larder.
    pub(crate) fn of(target: &Target) -> Outcome<Option<Self>> {
        if target.protocol != Protocol::Larder {
            return Ok(None);
        }
        let reply = Client::connect(target)?.get("/metrics")?;
        Ok(Some(Self::parse(&String::from_utf8_lossy(&reply.body))))
    }

    fn parse(text: &str) -> Self {
        let mut rows = Self::default();
        for line in text.lines() {
            let Some((source, value)) =
                line.strip_prefix(ROWS).and_then(|rest| rest.split_once("\"} "))
            else {
                continue;
            };
            let value: f64 = value.parse().unwrap_or(0.0);
            rows.all += value;
            if matches!(source, "overlay" | "cache") {
                rows.memory += value;
            }
        }
        rows
    }

    /// The share found in memory since `before`; none if no row was read.
    pub(crate) fn hit_rate_since(self, before: Self) -> Option<f64> {
        let all = self.all - before.all;
        (all > 0.0).then(|| (self.memory - before.memory) / all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_what_memory_held() {
        let text = "# HELP x\nlarder_disk_tier_rows_total{source=\"overlay\"} 10\n\
                    larder_disk_tier_rows_total{source=\"cache\"} 80\n\
                    larder_disk_tier_rows_total{source=\"store\"} 10\n\
                    larder_disk_tier_rows_total{source=\"history\"} 0\nother 7\n";
        let rows = TierRows::parse(text);
        assert_eq!(rows.hit_rate_since(TierRows::default()), Some(0.9));
        assert_eq!(rows.hit_rate_since(rows), None);
    }
}
