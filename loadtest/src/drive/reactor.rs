//! The event loop of one thread: sends what is due on free connections, receives answers, notes
//! what came.
//!
//! It does not know other threads. In steady state it allocates nothing.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::drive::connection::{Connection, Request};
use crate::drive::recorder::{Mishap, Recorder};
use crate::drive::stalls::Stalls;
use crate::drive::{Drive, Pace};
use crate::failure::{At, Outcome};
use crate::keys::Chooser;
use crate::scenario::Scenario;
use crate::schedule::Schedule;
use crate::target::Target;
use crate::wire::request::Requests;
use crate::wire::{Answer, Progress, check};

/// A request that is sent later than this after it could have been counts as late.
const LATE: u64 = 1_000_000;
/// Before the next request is due, the loop stops to sleep and looks all the time: the timeout of
/// epoll is no finer than a millisecond.
const SPIN: u64 = 2_000_000;
/// How often timeouts and broken connections are looked after.
const ROUND: u64 = 20_000_000;

/// One thread's share of the work.
pub(crate) struct Reactor {
    target: Target,
    scenario: Scenario,
    drive: Drive,
    poll: Poll,
    connections: Vec<Connection>,
    /// Free ones, the longest free first.
    free: VecDeque<usize>,
    /// Those to connect anew.
    broken: Vec<usize>,
    requests: Requests,
    chooser: Chooser,
    schedule: Option<Schedule>,
    recorder: Recorder,
    stalls: Stalls,
    started: Instant,
    /// When the events under way were known, in nanoseconds.
    woken: u64,
    /// Requests since the last that was checked.
    unchecked: u64,
}

impl Reactor {
    /// Connects the share of thread `thread`.
    pub(crate) fn new(
        target: &Target,
        scenario: &Scenario,
        drive: &Drive,
        thread: usize,
    ) -> Outcome<Self> {
        let requests = Requests::new(scenario, target.protocol, &target.address)?;
        let poll = Poll::new().at("epoll")?;
        let threads = drive.threads;
        let share = drive.connections / threads + usize::from(thread < drive.connections % threads);
        let mut connections = Vec::with_capacity(share);
        for number in 0..share {
            let reader = requests.reader.clone();
            let connection =
                Connection::open(&target.address, reader, poll.registry(), Token(number));
            connections.push(connection.at(format!("cannot connect to {}", target.name))?);
        }
        let seed = drive.seed.wrapping_add(1 + 2 * thread as u64);
        let schedule = match drive.pace {
            Pace::Closed => None,
            Pace::Open { arrivals, rate } => {
                let phase = thread as f64 / threads as f64;
                Some(Schedule::new(arrivals, rate / threads as f64, phase, seed))
            }
        };
        Ok(Self {
            target: target.clone(),
            scenario: scenario.clone(),
            drive: drive.clone(),
            poll,
            free: (0..share).collect(),
            broken: Vec::with_capacity(share),
            connections,
            requests,
            chooser: Chooser::new(&scenario.keys, scenario.data.rows(), seed + 1),
            schedule,
            recorder: Recorder::new(drive.duration)?,
            stalls: Stalls::default(),
            started: Instant::now(),
            woken: 0,
            unchecked: 0,
        })
    }

    /// Drives until the end and says what came of it.
    pub(crate) fn run(mut self) -> Outcome<Recorder> {
        self.started = Instant::now();
        let end = self.end();
        let last = end + nanos(self.drive.timeout);
        let mut events = Events::with_capacity(1_024);
        let mut next_round = ROUND;
        let mut after_end = false;
        loop {
            let mut now = self.now();
            self.send_due(now, end);
            if now >= end && !after_end {
                after_end = true;
                self.hold_to_account(end);
            }
            if now >= next_round {
                next_round = now + ROUND;
                self.look_after(now);
            }
            let idle = self.connections.iter().all(|connection| connection.request.is_none());
            if now >= end && ((idle && !self.is_behind(end)) || now >= last) {
                break;
            }
            let wait = self.wait(now, end);
            now = self.now();
            self.stalls.note(self.woken, now, 0);
            if !events.is_empty() {
                self.recorder.busy += now - self.woken;
            }
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.at("epoll")?,
            }
            self.woken = self.now();
            self.stalls.note(now, self.woken, nanos(wait));
            for event in &events {
                self.handle(event.token().0, event.is_writable(), end);
            }
        }
        self.give_up(end);
        self.recorder.stalled = self.stalls.total;
        self.recorder.present = nanos(self.drive.warmup + self.drive.duration);
        Ok(self.recorder)
    }

    fn now(&self) -> u64 {
        nanos(self.started.elapsed())
    }

    fn end(&self) -> u64 {
        nanos(self.drive.warmup + self.drive.duration)
    }

    fn warmup(&self) -> u64 {
        nanos(self.drive.warmup)
    }

    /// Whether requests that were due before the end are unsent.
    fn is_behind(&self, end: u64) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.due() < end)
    }

    /// Sends all that is due while connections are free. What finds none stays in the schedule,
    /// and its waiting counts.
    fn send_due(&mut self, now: u64, end: u64) {
        while !self.free.is_empty() {
            let due = match &mut self.schedule {
                None if now < end => now,
                None => return,
                Some(schedule) if schedule.due() <= now && schedule.due() < end => {
                    let due = schedule.due();
                    schedule.advance();
                    due
                }
                Some(_) => return,
            };
            if let Some(number) = self.free.pop_front() {
                self.send(number, due);
            }
        }
    }

    fn send(&mut self, number: usize, due: u64) {
        let write = self.chooser.happens(self.scenario.request.writes);
        let rows = if write { 1 } else { self.scenario.request.entities };
        let every = self.scenario.request.check_one_in;
        self.unchecked += 1;
        let sample = every > 0 && self.unchecked >= every;
        if sample {
            self.unchecked = 0;
        }
        let connection = &mut self.connections[number];
        connection.entities.clear();
        for _ in 0..rows {
            let mut entity = self.chooser.entity();
            if write {
                entity %= self.scenario.data.entities;
            }
            connection.entities.push(entity);
        }
        let (template, replies) = match &mut self.requests.write {
            Some(template) if write => (template, 1),
            _ => (&mut self.requests.read, self.requests.replies),
        };
        let bytes = template.fill(&connection.entities);
        let sent = nanos(self.started.elapsed());
        // In a closed loop a request is meant to be sent when it is.
        let due = if self.schedule.is_some() { due } else { sent };
        let possible = due.max(connection.free_since);
        let failed = connection.send(bytes, replies, Request { due, sent, write, sample });
        if due >= self.warmup() {
            self.recorder.scheduled += 1;
            self.recorder.sent += 1;
            let late = sent > possible + LATE || self.stalls.held_up(due);
            self.recorder.late += u64::from(late && self.schedule.is_some());
        }
        if let Err(error) = failed {
            self.fail(number, Mishap::Closed, || format!("sending: {error}"));
        }
    }

    /// How long nothing has to be done. While answers are awaited it never sleeps: waking it up
    /// would cost the server, on whose processor the answer is sent.
    fn wait(&self, now: u64, end: u64) -> Duration {
        let waiting = self.free.len() + self.broken.len() < self.connections.len();
        let until = match &self.schedule {
            _ if waiting => now,
            Some(schedule) if schedule.due() < end => schedule.due().min(now + ROUND),
            _ => now + ROUND,
        };
        Duration::from_nanos(until.saturating_sub(now).saturating_sub(SPIN))
    }

    fn handle(&mut self, number: usize, writable: bool, end: u64) {
        let connection = &mut self.connections[number];
        if writable && let Err(error) = connection.send_rest() {
            return self.fail(number, Mishap::Closed, || format!("sending: {error}"));
        }
        match connection.receive() {
            Ok(Progress::Partial) => {}
            Ok(Progress::Whole(answer)) => self.answered(number, &answer, end),
            Ok(Progress::Broken(why)) => self.fail(number, Mishap::Broken, || why.to_owned()),
            Err(error) => self.fail(number, Mishap::Closed, || format!("receiving: {error}")),
        }
    }

    fn answered(&mut self, number: usize, answer: &Answer, end: u64) {
        let now = self.now();
        let connection = &mut self.connections[number];
        let Some(request) = connection.request.take() else { return };
        connection.free_since = self.woken;
        let warmup = nanos(self.drive.warmup);
        let counts = match self.schedule {
            Some(_) => request.due >= warmup,
            // As many are cut off at the end as are taken in at the beginning.
            None => (warmup..end).contains(&now),
        };
        if counts {
            let (due, latency) = (request.due.saturating_sub(warmup), now - request.due);
            let rows = connection.entities.len() as u64;
            if (200..300).contains(&answer.status) {
                self.recorder.answer(due, latency, rows, answer.length as u64);
            } else {
                let mishap = Mishap::Status(answer.status);
                self.recorder.latency(due, latency);
                self.recorder.mishap(mishap, || shown(connection.received()));
            }
            if request.sample {
                self.check(number, answer, request.write);
            }
        }
        if answer.last {
            self.recorder.reconnects += 1;
            self.broken.push(number);
        } else if self.schedule.is_none() && now < end {
            self.send(number, now);
        } else {
            self.free.push_back(number);
        }
    }

    fn check(&mut self, number: usize, answer: &Answer, write: bool) {
        if !(200..300).contains(&answer.status) {
            return;
        }
        let connection = &self.connections[number];
        let body = &connection.received()[answer.body..];
        let protocol = self.target.protocol;
        let checked = if write {
            check::write(protocol, body)
        } else {
            check::read(&self.scenario, protocol, &connection.entities, body)
        };
        self.recorder.checked += 1;
        if let Err(why) = checked {
            self.recorder.mishap(Mishap::WrongValue, || why);
        }
    }

    /// The request under way has failed, if there is one, and its connection with it.
    fn fail(&mut self, number: usize, mishap: Mishap, example: impl FnOnce() -> String) {
        let now = self.now();
        let warmup = self.warmup();
        if let Some(request) = self.connections[number].request.take() {
            if request.due >= warmup {
                self.recorder.latency(request.due - warmup, now - request.due);
                self.recorder.mishap(mishap, example);
            }
        } else {
            self.recorder.reconnects += 1;
        }
        self.free.retain(|free| *free != number);
        if !self.broken.contains(&number) {
            self.broken.push(number);
        }
    }

    /// Ends requests that took too long and connects anew what broke.
    fn look_after(&mut self, now: u64) {
        let timeout = nanos(self.drive.timeout);
        for number in 0..self.connections.len() {
            let request = self.connections[number].request;
            if request.is_some_and(|request| now.saturating_sub(request.sent) > timeout) {
                self.fail(number, Mishap::Timeout, || format!("no answer in {timeout} ns"));
            }
        }
        for number in std::mem::take(&mut self.broken) {
            let connection = &mut self.connections[number];
            match connection.reopen(&self.target.address, self.poll.registry(), Token(number)) {
                Ok(()) => {
                    connection.free_since = nanos(self.started.elapsed());
                    self.free.push_back(number);
                }
                Err(error) => {
                    self.broken.push(number);
                    self.recorder.mishap(Mishap::Connect, || error.to_string());
                }
            }
        }
    }

    /// Counts what is due and unsent at the end although connections were free.
    fn hold_to_account(&mut self, end: u64) {
        if self.free.is_empty() {
            return;
        }
        let Some(mut schedule) = self.schedule.clone() else { return };
        while schedule.due() < end {
            self.recorder.held_back += 1;
            schedule.advance();
        }
    }

    /// What is still unsent or unanswered has failed, and took at least until now.
    fn give_up(&mut self, end: u64) {
        let now = self.now();
        for number in 0..self.connections.len() {
            if self.schedule.is_some() && self.connections[number].request.is_some() {
                self.fail(number, Mishap::Timeout, || "no answer by the end".to_owned());
            }
        }
        let warmup = self.warmup();
        let Some(schedule) = &mut self.schedule else { return };
        while schedule.due() < end {
            let due = schedule.due();
            if due >= warmup {
                self.recorder.scheduled += 1;
                self.recorder.latency(due - warmup, now - due);
                self.recorder.mishap(Mishap::NotSent, || "no connection was free".to_owned());
            }
            schedule.advance();
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// The beginning of an answer, for people.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]);
    text.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned()
}
