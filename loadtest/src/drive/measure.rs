//! One measurement: all threads of the generator, begun together, their notes put together.
//!
//! It does not know what is done with the result.

use std::sync::Arc;
use std::sync::Barrier;
use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::drive::reactor::Reactor;
use crate::drive::recorder::Recorder;
use crate::drive::summary::Summary;
use crate::drive::{Drive, Pace};
use crate::failure::{At, Failure, Outcome};
use crate::scenario::Scenario;
use crate::target::Target;

/// Drives `target` with `scenario` as `drive` says.
pub(crate) fn measure(target: &Target, scenario: &Scenario, drive: &Drive) -> Outcome<Summary> {
    check(drive)?;
    let reactors: Vec<Reactor> = (0..drive.threads)
        .map(|thread| Reactor::new(target, scenario, drive, thread))
        .collect::<Outcome<_>>()?;
    let together = Arc::new(Barrier::new(drive.threads));
    let threads: Vec<_> = reactors
        .into_iter()
        .enumerate()
        .map(|(number, reactor)| {
            let cpu = drive.cpus.get(number % drive.cpus.len().max(1)).copied();
            let together = Arc::clone(&together);
            thread::spawn(move || {
                let pinned = pin(cpu);
                together.wait();
                pinned?;
                reactor.run()
            })
        })
        .collect();
    let mut whole: Option<Recorder> = None;
    for thread in threads {
        let part = thread.join().map_err(|_| Failure::new("a thread of the generator died"))??;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.merge(&part)?,
        }
    }
    let recorder = whole.ok_or_else(|| Failure::new("no thread"))?;
    Ok(Summary::new(target, scenario, drive, &recorder))
}

fn check(drive: &Drive) -> Outcome<()> {
    if drive.threads == 0 || drive.connections < drive.threads {
        let (threads, connections) = (drive.threads, drive.connections);
        let what = format!("{connections} connections for {threads} threads, one each at least");
        return Err(Failure::new(what));
    }
    if drive.duration.is_zero() {
        return Err(Failure::new("a measurement of 0 s"));
    }
    if let Pace::Open { rate, .. } = drive.pace
        && !(rate.is_finite() && rate > 0.0)
    {
        return Err(Failure::new(format!("a rate of {rate}, must be above 0")));
    }
    Ok(())
}

fn pin(cpu: Option<usize>) -> Outcome<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(Failure::new(format!("processor {cpu}, there are {}", CpuSet::MAX_CPU)));
    }
    set.set(cpu);
    sched_setaffinity(None, &set).at(format!("cannot run on processor {cpu}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::schedule::Arrivals;
    use crate::target::Named;

    const STALL: Duration = Duration::from_millis(400);

    /// Serves one connection; the answer to request number `stalls_at` takes [`STALL`].
    fn server(status: &'static str, stalls_at: usize) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let mut served = 0;
            while stream.read(&mut request).is_ok_and(|read| read > 0) {
                served += 1;
                if served == stalls_at {
                    thread::sleep(STALL);
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        match Named::parse(&format!("static://{address}")).unwrap() {
            Named::Running(target) => target,
            Named::Binary(_) => panic!("it runs"),
        }
    }

    fn drive(pace: Pace) -> Drive {
        Drive {
            pace,
            connections: 1,
            threads: 1,
            warmup: Duration::ZERO,
            duration: Duration::from_millis(1_200),
            timeout: Duration::from_secs(5),
            cpus: Vec::new(),
            seed: 1,
        }
    }

    fn scenario() -> Scenario {
        Scenario::parse(include_str!("../../scenarios/online-10.toml")).unwrap()
    }

    const OPEN: Pace = Pace::Open { arrivals: Arrivals::Constant, rate: 500.0 };

    /// A server that stands still keeps all waiting who would have come meanwhile. A generator
    /// that waits with it (coordinated omission) would count one slow request of hundreds.
    #[test]
    fn a_stall_counts_for_every_request_that_was_due() {
        let summary = measure(&server("200 OK", 100), &scenario(), &drive(OPEN)).unwrap();
        assert_eq!((summary.scheduled, summary.answered), (600, 600));
        // 200 of 600 were due during the stall; 150 of them waited for more than 100 ms of it.
        assert!(summary.quantile("p90") > 100_000.0, "{:?}", summary.latency_us);
        assert!(summary.quantile("p99") > 300_000.0, "{:?}", summary.latency_us);
        let slices = summary.over_time.iter().filter(|slice| slice.max > 100_000.0).count();
        assert!(slices > 0, "{:?}", summary.over_time);
    }

    #[test]
    fn a_closed_loop_waits_with_the_server_and_says_that_it_is_one() {
        let summary = measure(&server("200 OK", 1), &scenario(), &drive(Pace::Closed)).unwrap();
        assert_eq!((summary.kind, summary.failed()), ("closed", 0));
        assert!(summary.latency_us.max > 300_000.0, "{:?}", summary.latency_us);
    }

    #[test]
    fn refusals_are_errors_and_no_answers() {
        let summary = measure(&server("503 No", 0), &scenario(), &drive(OPEN)).unwrap();
        assert_eq!((summary.answered, summary.errors["status 503"]), (0, 600));
        assert!(!summary.valid);
    }

    #[test]
    fn what_cannot_be_driven_is_refused() {
        let check = |change: fn(&mut Drive), expected: &str| {
            let mut drive = drive(OPEN);
            change(&mut drive);
            let error = measure(&server("200 OK", 0), &scenario(), &drive).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|drive| drive.threads = 2, "1 connections for 2 threads");
        check(|drive| drive.duration = Duration::ZERO, "of 0 s");
        check(
            |drive| drive.pace = Pace::Open { arrivals: Arrivals::Poisson, rate: 0.0 },
            "above 0",
        );
    }
}
