//! The command line.
//!
//! It does not know what the commands do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jiff::SignedDuration;

use crate::drive::{Drive, Pace};
use crate::report::keep::Files;
use crate::scenario::Scenario;
use crate::schedule::Arrivals;

const EXAMPLES: &str = "\
Examples:
  A Larder that runs, 10,000 requests a second for 30 s:
    loadtest run loadtest/scenarios/online-10.toml --rate 10000 --duration 30s --html out.html
  A Larder of its own on core 0, the generator on core 1, as fast as it goes:
    loadtest run loadtest/scenarios/online-10.toml --larder target/release/larder \\
        --server-cpu 0 --pin 1 --closed
  The highest rate that keeps p99 under 5 ms:
    loadtest run loadtest/scenarios/batch-100x50.toml --find-limit --bound 5ms
  Two builds in turn:
    loadtest run loadtest/scenarios/online-10.toml --closed --server-cpu 0 --pin 1 \\
        --compare larder:old/larder larder:new/larder
  What Larder reaches of what its HTTP stack could:
    loadtest ceiling loadtest/scenarios/online-10.toml --larder target/release/larder \\
        --server-cpu 0 --pin 1

Targets: http://HOST:PORT and unix:PATH are Larder, larder:BINARY is one that is started for the
measurement; redis://HOST:PORT, feast://HOST:PORT and static://HOST:PORT are its peers.";

/// Drives Larder and its peers with load, and says what came of it.
#[derive(Parser)]
#[command(name = "loadtest", version, after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measure scenarios, each after its data is there.
    #[command(after_long_help = EXAMPLES)]
    Run(Run),
    /// Measure scenarios and a static server on the same HTTP stack in turn, as fast as they go.
    Ceiling(Ceiling),
    /// Only create the definitions and data of scenarios.
    Setup {
        #[arg(required = true, value_name = "SCENARIO")]
        scenarios: Vec<String>,
        #[command(flatten)]
        target: TargetArguments,
    },
    /// Serve answers of one size that mean nothing: the ceiling of the HTTP stack.
    Static {
        #[arg(long, default_value = "127.0.0.1:6567")]
        listen: SocketAddr,
        /// Bytes of the body of each answer.
        #[arg(long, default_value_t = 400)]
        answer_bytes: usize,
    },
}

#[derive(Args)]
pub(crate) struct Run {
    #[arg(required = true, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// Requests a second, on a schedule; the scenario's if left out.
    #[arg(long, conflicts_with_all = ["closed", "find_limit"])]
    rate: Option<f64>,
    /// How requests arrive.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson, conflicts_with = "closed")]
    arrivals: Arrivals,
    /// Send on each connection as soon as it is answered: throughput, not latency under load.
    #[arg(long)]
    closed: bool,
    /// Search the highest rate that keeps p99 under the bound, without errors.
    #[arg(long, conflicts_with_all = ["closed", "compare"])]
    pub(crate) find_limit: bool,
    /// What p99 has to stay under.
    #[arg(long, default_value = "5ms", value_parser = duration)]
    pub(crate) bound: Duration,
    /// Measure two targets in turn, A B A B; each may be SCENARIO@TARGET.
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["target", "larder"])]
    pub(crate) compare: Option<Vec<String>>,
    /// Rounds of a comparison.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Args)]
pub(crate) struct Ceiling {
    #[arg(required = true, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    /// Rounds of target and static server in turn.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Args)]
pub(crate) struct TargetArguments {
    /// Who is asked.
    #[arg(long, default_value = "http://127.0.0.1:6566")]
    pub(crate) target: String,
    /// Start this Larder, with an empty data directory, and ask it.
    #[arg(long, value_name = "BINARY", conflicts_with = "target")]
    pub(crate) larder: Option<PathBuf>,
    /// Processor of the servers that are started.
    #[arg(long, value_name = "CPU")]
    pub(crate) server_cpu: Option<usize>,
}

#[derive(Args)]
pub(crate) struct LoadArguments {
    /// Connections of all threads together; the scenario's if left out.
    #[arg(long)]
    connections: Option<usize>,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How long is measured.
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Load before that.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// A request without an answer for so long has failed.
    #[arg(long, default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// Processors of the generator's threads, such as 1 or 2,3.
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pin: Vec<usize>,
    /// Decides keys and arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Run {
    /// How `scenario` is driven.
    pub(crate) fn drive(&self, scenario: &Scenario) -> Drive {
        let rate = self.rate.unwrap_or(scenario.load.rate);
        let open = Pace::Open { arrivals: self.arrivals, rate };
        self.load.drive(scenario, if self.closed { Pace::Closed } else { open })
    }

    /// The same at `rate`.
    pub(crate) fn drive_at(&self, scenario: &Scenario, rate: f64) -> Drive {
        self.load.drive(scenario, Pace::Open { arrivals: self.arrivals, rate })
    }
}

impl LoadArguments {
    /// How `scenario` is driven at this pace.
    pub(crate) fn drive(&self, scenario: &Scenario, pace: Pace) -> Drive {
        Drive {
            pace,
            connections: self.connections.unwrap_or(scenario.load.connections),
            threads: self.threads,
            warmup: self.warmup,
            duration: self.duration,
            timeout: self.timeout,
            cpus: self.pin.clone(),
            seed: self.seed,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(parsed).map_err(|_| "a duration cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("-5s").is_err() && duration("5").is_err());
    }
}
