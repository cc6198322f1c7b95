//! `larder load`: a Parquet file into a view.
//!
//! It does not know how files are read or rows written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::directory::IfMissing;
use crate::cli::target::{LoadAsk, LoadReport, Whom, time_unit};
use crate::cli::terminal::Progress;
use crate::cli::{Done, terminal};
use crate::engine::load::{EventTimes, LoadOptions};
use crate::time::{EventTime, TimeError, TimeUnit};

const EXAMPLE: &str = "Examples:\n  larder load weather.parquet --view weather\n  \
                       larder load planes.parquet --view plane --event-time 2013-01-01\n  \
                       larder load flights.parquet --view last_arrival_of_aircraft --timestamp \
                       landed_by --data ./data\n  larder load history.parquet --view \
                       user_profile --arrival recorded_at\n\n\
                       Exit codes: 0 done or loaded before, 1 failed, 2 wrong use.";

/// Loads a Parquet file into a view
///
/// Takes the columns named like the view's join keys and features, and the event time. The rows go
/// past the log into sealed files and are seen all at once, or not at all if one does not fit. A
/// load that was interrupted goes on where it stopped when it is given again; a file that was
/// loaded is not loaded twice, and rows that came with another file or a push are skipped. What is
/// newer online stays.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Load {
    /// The Parquet file
    #[arg(value_name = "FILE.parquet")]
    file: PathBuf,
    /// The view, such as user_profile or user_profile@2
    #[arg(long, value_name = "VIEW")]
    view: String,
    /// The column of event times [default: event_timestamp]
    #[arg(long, value_name = "COLUMN", conflicts_with = "event_time")]
    timestamp: Option<String>,
    /// The column of times at which the rows arrived, for reads by what was known at an instant;
    /// without it they arrive when the load is complete
    #[arg(long, value_name = "COLUMN")]
    arrival: Option<String>,
    /// The event time of all rows, in RFC 3339, for a file without such a column
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    event_time: Option<EventTime>,
    /// The unit of times that are plain integers [default: us]
    #[arg(long, value_name = "UNIT", value_parser = time_unit())]
    time_unit: Option<TimeUnit>,
    /// What becomes of NaN in a column of plain numbers
    #[arg(long, value_name = "WHAT", default_value = "null")]
    nan: Nan,
    /// The project of the view [default: default]
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Nan {
    /// It refuses the file.
    Refuse,
    /// It is read as null and counted.
    Null,
}

impl Load {
    pub(super) fn run(&self) -> Done {
        let event_time = match self.event_time {
            Some(time) => EventTimes::At(time),
            None => EventTimes::Column(self.timestamp.clone()),
        };
        let refuse_nan = self.nan == Nan::Refuse;
        let ask = LoadAsk {
            project: self.project.clone(),
            view: self.view.clone(),
            file: self.file.clone(),
            options: LoadOptions {
                event_time,
                arrival: self.arrival.clone(),
                time_unit: self.time_unit,
                refuse_nan,
            },
        };
        let target = self.whom.find(IfMissing::Refuse)?;
        let progress = Progress::new(self.file.display().to_string());
        let report = target.load(&ask, progress).map_err(|failure| {
            let lacks_time = failure.says("found no such column, expected timestamp");
            let failure = failure.about(format_args!("{} was not loaded:", self.file.display()));
            match lacks_time {
                true => failure.then(
                    "name the column of event times with --timestamp, or one time for all rows \
                     with --event-time",
                ),
                false => failure,
            }
        })?;
        words(&self.view, &report).iter().for_each(terminal::say);
        Ok(())
    }
}

fn read_time(text: &str) -> Result<EventTime, TimeError> {
    EventTime::parse(text)
}

/// What a load did, a line for each thing worth knowing.
fn words(view: &str, report: &LoadReport) -> Vec<String> {
    let LoadReport { rows, written, skipped, resumed, superseded, nan_as_null, sequence, .. } =
        report;
    let mut lines = Vec::new();
    match &report.loaded_before {
        Some(time) => {
            lines.push(format!("loaded before, at {time}: all {rows} rows are in {view}"));
        }
        None => {
            if *resumed > 0 {
                lines
                    .push(format!("resumed after {resumed} rows that an earlier run had prepared"));
            }
            lines.push(format!("loaded {written} rows into {view}, sequence {sequence}"));
        }
    }
    if *skipped > 0 {
        let why = "with the same key, event time and values";
        lines.push(format!("  {skipped} rows skipped that history has already, {why}"));
    }
    if *superseded > 0 {
        let why = "since newer rows are there or came with them; history has them";
        lines.push(format!("  {superseded} of them change nothing online, {why}"));
    }
    if *nan_as_null > 0 {
        lines.push(format!("  NaN read as null: {nan_as_null}"));
    }
    if !report.ignored_columns.is_empty() {
        lines.push(format!("  columns left aside: {}", report.ignored_columns.join(", ")));
    }
    lines
}
