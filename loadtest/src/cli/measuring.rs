//! The commands that measure: run, find the limit, compare, and the ceiling.
//!
//! It does not know how load is driven.

use std::path::Path;
use std::time::Duration;

use crate::cli::arguments::{Ceiling, Run};
use crate::cli::hosts::{Hosts, scenario_and_target};
use crate::comparison::{Comparison, Spread};
use crate::drive::measure::measure;
use crate::drive::summary::Summary;
use crate::drive::{Drive, Pace};
use crate::failure::Outcome;
use crate::find_limit::{Verdict, search};
use crate::host::metrics::TierRows;
use crate::host::static_server;
use crate::report::table::{time, whole};
use crate::report::terminal::note;
use crate::report::{self, LimitFound, Report};
use crate::scenario::Scenario;
use crate::setup::{one_answer, setup};
use crate::target::{Named, Target};

/// How long the throughput is looked at from which the search for the limit begins.
const GLANCE: Duration = Duration::from_secs(2);

/// `loadtest run`.
pub(crate) fn run(run: &Run) -> Outcome<Report> {
    let mut report = Report::begin();
    let mut hosts = Hosts::new(run.target.server_cpu);
    for text in &run.scenarios {
        if let Some(sides) = &run.compare {
            compare(run, text, sides, &mut hosts, &mut report)?;
            continue;
        }
        let (scenario, named) = scenario_and_target(text, &run.target)?;
        let target = hosts.target(0, &named, &scenario)?;
        setup(&target, &scenario)?;
        if run.find_limit {
            find_limit(run, &scenario, &target, &mut report)?;
        } else {
            let summary = measured(&target, &scenario, &run.drive(&scenario))?;
            report.measurements.push(summary);
        }
        report.scenarios.push(scenario);
    }
    Ok(report)
}

/// `loadtest ceiling`.
pub(crate) fn ceiling(ceiling: &Ceiling) -> Outcome<Report> {
    let mut report = Report::begin();
    let cpu = ceiling.target.server_cpu;
    let mut hosts = Hosts::new(cpu);
    for text in &ceiling.scenarios {
        let (scenario, named) = scenario_and_target(text, &ceiling.target)?;
        let target = hosts.target(0, &named, &scenario)?;
        setup(&target, &scenario)?;
        let answer = one_answer(&target, &scenario)?;
        let (_server, beside) = static_server::start(answer.body.len(), cpu)?;
        let drive = ceiling.load.drive(&scenario, Pace::Closed);
        let rounds =
            in_turn(ceiling.rounds, [(&target, &scenario, &drive), (&beside, &scenario, &drive)])?;
        let shares = rounds.iter().map(|(larder, fixed)| larder.throughput / fixed.throughput);
        report.ceilings.push(report::Ceiling {
            scenario: scenario.name.clone(),
            target: target.name.clone(),
            answer_bytes: answer.head.len() + answer.body.len(),
            body_bytes: answer.body.len(),
            rounds: ceiling.rounds,
            share: Spread::of(shares.collect()),
        });
        report.scenarios.push(scenario);
        add(&mut report, rounds);
    }
    Ok(report)
}

fn compare(
    run: &Run,
    text: &str,
    sides: &[String],
    hosts: &mut Hosts,
    report: &mut Report,
) -> Outcome<()> {
    let mut there = Vec::new();
    for (side, name) in sides.iter().enumerate() {
        let (scenario, named) = match name.split_once('@') {
            Some((path, target)) => (Scenario::read(Path::new(path))?, Named::parse(target)?),
            None => (Scenario::read(Path::new(text))?, Named::parse(name)?),
        };
        let target = hosts.target(side, &named, &scenario)?;
        setup(&target, &scenario)?;
        let drive = run.drive(&scenario);
        there.push((target, scenario, drive));
    }
    let [a, b] = [&there[0], &there[1]];
    let rounds = in_turn(run.rounds, [(&a.0, &a.1, &a.2), (&b.0, &b.1, &b.2)])?;
    let names = [a, b].map(|(target, scenario, _)| format!("{} on {}", scenario.name, target.name));
    report.comparisons.push(Comparison::new((&names[0], &names[1]), &rounds));
    report.scenarios.push(a.1.clone());
    if b.1.name != a.1.name {
        report.scenarios.push(b.1.clone());
    }
    add(report, rounds);
    Ok(())
}

type Side<'a> = (&'a Target, &'a Scenario, &'a Drive);

/// Measures A B A B, so that what the machine does meanwhile meets both.
fn in_turn(rounds: usize, [a, b]: [Side<'_>; 2]) -> Outcome<Vec<(Summary, Summary)>> {
    (0..rounds.max(1)).map(|_| Ok((measured(a.0, a.1, a.2)?, measured(b.0, b.1, b.2)?))).collect()
}

/// Keeps the course over time of the last round alone; results are small files.
fn add(report: &mut Report, rounds: Vec<(Summary, Summary)>) {
    let last = rounds.len().saturating_sub(1);
    for (round, (mut a, mut b)) in rounds.into_iter().enumerate() {
        if round < last {
            a.over_time.clear();
            b.over_time.clear();
        }
        report.measurements.extend([a, b]);
    }
}

fn find_limit(run: &Run, scenario: &Scenario, target: &Target, report: &mut Report) -> Outcome<()> {
    let bound_us = run.bound.as_secs_f64() * 1e6;
    let mut glance = run.load.drive(scenario, Pace::Closed);
    glance.duration = GLANCE;
    let start = measured(target, scenario, &glance)?.throughput / 2.0;
    let mut held: Option<Summary> = None;
    let limit = search(start, |rate| {
        let summary = measured(target, scenario, &run.drive_at(scenario, rate))?;
        if !summary.valid {
            return Ok(Verdict::Invalid);
        }
        if summary.failed() > 0 || summary.quantile("p99") >= bound_us {
            return Ok(Verdict::Failed);
        }
        held = Some(summary);
        Ok(Verdict::Held)
    })?;
    // The last that held is the last confirmation of the limit.
    report.measurements.extend(held.filter(|summary| summary.rate == Some(limit.rate)));
    report.limits.push(LimitFound {
        scenario: scenario.name.clone(),
        target: target.name.clone(),
        bound_us,
        limit,
    });
    Ok(())
}

fn measured(target: &Target, scenario: &Scenario, drive: &Drive) -> Outcome<Summary> {
    let disk = scenario.data.tier == "disk";
    let before = if disk { TierRows::of(target)? } else { None };
    let mut summary = measure(target, scenario, drive)?;
    if let Some(before) = before
        && let Some(after) = TierRows::of(target)?
    {
        summary.disk_tier_hit_rate = after.hit_rate_since(before);
    }
    let asked = summary.rate.map_or_else(|| "closed loop".to_owned(), |rate| whole(rate) + "/s");
    let valid = if summary.valid { "" } else { ", INVALID" };
    note(format!(
        "{} on {}, {asked}: {} answers/s, p99 {}, {} errors{valid}",
        summary.scenario,
        summary.target,
        whole(summary.throughput),
        time(summary.quantile("p99")),
        summary.failed()
    ));
    Ok(summary)
}
