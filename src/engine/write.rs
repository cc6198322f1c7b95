//! The writer: one thread that numbers, stamps, appends, syncs, applies and acknowledges, in that
//! order, one group of requests after another.
//!
//! It does not know who asks; jobs come from the queue, answers go back the way they came.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;

use crate::engine::apply::{Applied, Applier, ApplyError};
use crate::engine::erase::{self, Erasures};
use crate::engine::error::{Place, Problem};
use crate::engine::idempotency::{First, Idempotency, IdempotencyTable, encode_source, mismatch};
use crate::engine::positions::Positions;
use crate::engine::queue::{Job, Reply, Waiting, WriteJob, stopped};
use crate::engine::shared::Shared;
use crate::engine::writes::{Accepted, Durability};
use crate::engine::{backup, control, define, load, seal};
use crate::history::manifest::ControlSnapshot;
use crate::history::record::{EncodedRequest, Record, Row, Source, SourceKind};
use crate::history::writer::{WriteError, Writer as HistoryWriter};
use crate::ids::{ProjectId, Sequence};
use crate::limits;
use crate::metrics::{Code, WritesState};
use crate::time::{ArrivalTime, EventTime, Stopwatch};

/// Requests in one group at most: enough that a sync is shared by all who wait.
const GROUP_REQUESTS: usize = 4096;
/// Bytes in one group at most, so that one frame never holds the others up for long.
const GROUP_BYTES: usize = 16 << 20;
/// How long after the last write its durable mark is written.
const MARK_AFTER: Duration = Duration::from_millis(500);
/// How long after a refusal for want of room it is looked whether there is some.
const ROOM_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Starts the writer thread.
pub(super) fn start(writer: Writer, waiting: Waiting) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("larder-writer".to_owned()).spawn(move || {
        let shared = writer.shared.clone();
        let run = catch_unwind(AssertUnwindSafe(|| writer.run(&waiting)));
        if run.is_err() {
            // Nobody can tell what the writer left half done: lookups go on, writes do not.
            tracing::error!("the writer panicked; writes have stopped until a restart");
            shared.metrics.set_writes(WritesState::Stopped);
        }
        waiting.close();
    })
}

/// Everything only the writer thread touches.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) history: HistoryWriter,
    pub(super) applier: Applier,
    pub(super) idempotency: IdempotencyTable,
    /// The sequence of the last definition change.
    pub(super) registry_sequence: Sequence,
    pub(super) last_arrival: ArrivalTime,
    pub(super) last_sync: Stopwatch,
    /// Something was synced that no later frame's durable mark says yet.
    pub(super) unmarked: bool,
}

/// A request of a group, with who waits for it.
struct Pending {
    job: WriteJob,
    first: Sequence,
    superseded: u64,
    /// Repeats of the same idempotency key that arrived in the same group.
    repeats: Vec<Reply<Accepted>>,
}

impl Writer {
    /// Works until it is stopped or the queue's callers are gone.
    pub(super) fn run(mut self, waiting: &Waiting) {
        let mut carried: Option<Job> = None;
        loop {
            let job = match carried.take() {
                Some(job) => Ok(job),
                None => waiting.jobs.recv_timeout(self.patience()),
            };
            match job {
                Ok(Job::Write(job)) => carried = self.write_group(job, waiting),
                Ok(Job::Define(job, reply)) => {
                    let _ = reply.send(define::run(&mut self, job));
                }
                Ok(Job::Erase(job, reply)) => {
                    let _ = reply.send(erase::run(&mut self, job));
                }
                Ok(Job::Load(job, reply)) => {
                    let _ = reply.send(load::commit(&mut self, job));
                }
                Ok(Job::ApplyLoaded(rows, reply)) => {
                    let _ = reply.send(load::apply(&mut self, &rows));
                }
                Ok(Job::SaveControl(reply)) => {
                    let _ = reply.send(self.save_control(None));
                }
                Ok(Job::ChangeManifest(change, reply)) => {
                    let _ = reply.send(seal::change_manifest(&mut self, change));
                }
                Ok(Job::Pin(reply)) => backup::pin(&mut self, reply),
                Ok(Job::Stop) => return self.stop(),
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // A steady stream of jobs must not put a sync off for longer than was promised.
            if self.shared.durability == Durability::Interval && self.patience().is_zero() {
                let _ = self.sync(0);
            }
        }
    }

    /// How long the writer may wait for a job before it has something to do.
    fn patience(&self) -> Duration {
        let behind = self.shared.history.written() > self.shared.history.durable();
        let full = self.shared.metrics.writes() == WritesState::Full;
        match self.shared.durability {
            Durability::Interval if behind => {
                self.shared.sync_interval.to_std().saturating_sub(self.last_sync.elapsed())
            }
            _ if full => ROOM_AGAIN_AFTER,
            Durability::Sync | Durability::Interval if self.unmarked => MARK_AFTER,
            _ => Duration::from_secs(3600),
        }
    }

    fn idle(&mut self) {
        if self.shared.metrics.writes() == WritesState::Full {
            return self.look_for_room();
        }
        if !self.unmarked || self.is_stopped() {
            return;
        }
        match self.history.mark() {
            Ok(_) => self.unmarked = false,
            Err(WriteError::Full(_)) => self.set_state(WritesState::Full),
            Err(error) => self.poison(&error.to_string()),
        }
    }

    /// Says that writes are accepted again as soon as there is a segment with room: whoever waits
    /// for that would else never write again and never hear of it.
    fn look_for_room(&mut self) {
        match self.history.roll(None, 0) {
            // The manifest says now what a mark would say.
            Ok(()) => {
                self.unmarked = false;
                self.set_state(WritesState::Open);
                self.shared.metrics.sequence_durable.set(self.shared.history.durable().0);
            }
            Err(WriteError::Full(_)) => {}
            Err(error) => self.poison(&error.to_string()),
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.metrics.writes() == WritesState::Stopped
    }

    /// Takes what else waits into one group with `first` and writes it. Gives back a job of
    /// another kind, or one too large, that ended the group.
    fn write_group(&mut self, first: WriteJob, waiting: &Waiting) -> Option<Job> {
        waiting.left(&first);
        let mut bytes = first.request.length();
        let mut jobs = vec![first];
        let mut next = None;
        while jobs.len() < GROUP_REQUESTS && bytes < GROUP_BYTES {
            match waiting.jobs.try_recv() {
                Ok(Job::Write(job)) if bytes + job.request.length() <= GROUP_BYTES => {
                    waiting.left(&job);
                    bytes += job.request.length();
                    jobs.push(job);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        match self.arrival() {
            Ok(arrival) => self.write(jobs, arrival),
            Err(problem) => refuse_all(jobs.into_iter().map(|job| job.reply), &problem),
        }
        next
    }

    /// The arrival time of the next frame: never before the last one's.
    pub(super) fn arrival(&mut self) -> Result<ArrivalTime, Problem> {
        let now = self.shared.clock.now();
        let max_future = self.shared.limits.max_future;
        if self.shared.clock_is_behind(self.last_arrival) {
            self.set_state(WritesState::ClockBehind);
            let detail = format!(
                "the clock says {now}, more than limits.max_future ({max_future}) before the last \
                 arrival {}; set it right, wait, or start with --accept-clock",
                self.last_arrival
            );
            return Err(Problem::new(Code::ClockBehind, detail));
        }
        Ok(now.max(self.last_arrival))
    }

    fn write(&mut self, jobs: Vec<WriteJob>, arrival: ArrivalTime) {
        if self.is_stopped() {
            return refuse_all(jobs.into_iter().map(|job| job.reply), &stopped());
        }
        let mut group = self.admit(jobs, arrival);
        if group.is_empty() {
            return;
        }
        match self.append_and_sync(&mut group, arrival) {
            Ok(last) => {
                let applied = self.apply(&mut group);
                self.make_room_in_the_tier(last);
                self.shared.advance(last, arrival);
                match applied {
                    Ok(()) if self.is_stopped() => refuse(group, &stopped()),
                    Ok(()) => self.acknowledge(group, arrival),
                    Err(error) => {
                        self.poison(&error.to_string());
                        refuse(group, &stopped());
                    }
                }
            }
            Err(problem) => refuse(group, &problem),
        }
    }

    /// Answers what needs no writing and gives back the rest, with final event times and the
    /// sequences to come.
    fn admit(&mut self, jobs: Vec<WriteJob>, arrival: ArrivalTime) -> Vec<Pending> {
        let mut group: Vec<Pending> = Vec::with_capacity(jobs.len());
        let mut keyed: HashMap<(ProjectId, String), usize> = HashMap::new();
        let mut next = self.history.last().next();
        for mut job in jobs {
            if let Some(idempotency) = &job.idempotency {
                let known = self.idempotency.get(job.project, &idempotency.key, arrival);
                if let Some(first) = known {
                    let answer = self.repeat(&first, idempotency);
                    let _ = job.reply.send(answer);
                    continue;
                }
                let entry = (job.project, idempotency.key.clone());
                if let Some(index) = keyed.get(&entry) {
                    let before: &mut Pending = &mut group[*index];
                    if before.job.idempotency.as_ref() == Some(idempotency) {
                        before.repeats.push(job.reply);
                    } else {
                        let _ = job.reply.send(Err(mismatch(&idempotency.key)));
                    }
                    continue;
                }
                if let Err(problem) = self.room_for_a_key(arrival) {
                    let _ = job.reply.send(Err(problem));
                    continue;
                }
                keyed.insert(entry, group.len());
            }
            if let Err(problem) = self.recheck(&mut job, arrival) {
                if let Some(idempotency) = &job.idempotency {
                    keyed.remove(&(job.project, idempotency.key.clone()));
                }
                let _ = job.reply.send(Err(problem));
                continue;
            }
            let count = u64::from(job.request.count());
            group.push(Pending { job, first: next, superseded: 0, repeats: Vec::new() });
            next = next.plus(count);
        }
        group
    }

    fn repeat(&self, first: &First, idempotency: &Idempotency) -> Result<Accepted, Problem> {
        if first.content != idempotency.content {
            return Err(mismatch(&idempotency.key));
        }
        self.shared.metrics.idempotent_repeats.increment();
        Ok(Accepted {
            accepted: first.accepted,
            superseded: first.superseded,
            sequence: first.sequence,
            durability: self.shared.durability,
        })
    }

    fn room_for_a_key(&mut self, now: ArrivalTime) -> Result<(), Problem> {
        self.idempotency.forget_expired(now);
        let limit = self.shared.limits.idempotency_keys;
        if self.idempotency.len() < limit {
            return Ok(());
        }
        let detail = format!(
            "{limit} idempotency keys of the last 24 h are remembered, the limit \
             limits.idempotency_keys is {limit}"
        );
        Err(Problem::new(Code::Overloaded, detail))
    }

    /// Checks what may have changed since the door did, and settles event times.
    fn recheck(&self, job: &mut WriteJob, arrival: ArrivalTime) -> Result<(), Problem> {
        let registry = self.shared.registry.load();
        if registry.revision() != job.revision {
            // A view only gains features, so a row stays valid for as long as its view lives.
            for view in &job.views {
                if registry.view(*view).is_none() {
                    let detail = "a view of this request was dropped while it waited";
                    return Err(Problem::new(Code::UnknownView, detail));
                }
            }
        }
        let latest_allowed = arrival.plus(self.shared.limits.max_future).as_event_time();
        // Most writes give no event times; their rows are not looked through for one.
        if job.request.latest_given() > latest_allowed {
            let places = future_places(&job.request, latest_allowed);
            let detail = format!(
                "event times may lie up to limits.max_future ({}) ahead of arrival ({arrival})",
                self.shared.limits.max_future
            );
            return Err(Problem::new(Code::EventTimeInFuture, detail).with_places(places));
        }
        job.request.cap_event_times(arrival);
        Ok(())
    }

    fn append_and_sync(
        &mut self,
        group: &mut [Pending],
        arrival: ArrivalTime,
    ) -> Result<Sequence, Problem> {
        if group.iter().any(|pending| pending.job.idempotency.is_some()) {
            self.foresee_superseded(group)?;
        }
        let requests: Vec<&EncodedRequest> = group.iter().map(|p| &p.job.request).collect();
        let last = self.append(&requests, arrival)?;
        self.sync_if_due(requests.len() as u64)?;
        Ok(last)
    }

    /// Appends one frame, rolling over to a new segment first where it does not fit.
    pub(super) fn append(
        &mut self,
        requests: &[&EncodedRequest],
        arrival: ArrivalTime,
    ) -> Result<Sequence, Problem> {
        let bytes = requests.iter().map(|request| request.length()).sum();
        if self.history.needs_roll(bytes) {
            // The control snapshot comes with checkpoints: here it would hold up the writes.
            self.history.roll(None, bytes).map_err(|error| self.refused(&error))?;
        }
        let appended =
            self.history.append(requests, arrival).map_err(|error| self.refused(&error))?;
        self.last_arrival = arrival;
        let metrics = &self.shared.metrics;
        metrics.frames.increment();
        metrics.history_written_bytes.add(appended.bytes as u64);
        metrics.sequence_written.set(appended.last.0);
        self.set_state(WritesState::Open);
        Ok(appended.last)
    }

    /// Syncs where the mode wants it before the acknowledgement.
    pub(super) fn sync_if_due(&mut self, requests: u64) -> Result<(), Problem> {
        let due = match self.shared.durability {
            Durability::Sync => true,
            Durability::Interval => self.last_sync.elapsed() >= self.shared.sync_interval.to_std(),
            Durability::Os => false,
        };
        if due { self.sync(requests) } else { Ok(()) }
    }

    pub(super) fn sync(&mut self, requests: u64) -> Result<(), Problem> {
        let watch = Stopwatch::start();
        if let Err(error) = self.history.sync() {
            self.poison(&error.to_string());
            return Err(stopped());
        }
        self.last_sync = Stopwatch::start();
        self.unmarked = true;
        let metrics = &self.shared.metrics;
        metrics.sync(requests, watch.elapsed(), self.shared.clock.now());
        metrics.sequence_durable.set(self.shared.history.durable().0);
        Ok(())
    }

    fn foresee_superseded(&mut self, group: &mut [Pending]) -> Result<(), Problem> {
        let rows = group.iter().enumerate().flat_map(|(index, pending)| {
            rows(&pending.job.request, pending.first)
                .map(move |(row, sequence)| (index, row, sequence))
        });
        let superseded = self.applier.preview(rows, group.len()).map_err(internal)?;
        for (pending, superseded) in group.iter_mut().zip(superseded) {
            pending.superseded = superseded;
            if let Some(idempotency) = &pending.job.idempotency {
                let (id, position) = encode_source(pending.job.project, idempotency, superseded);
                let source = Source { kind: SourceKind::Idempotency, id: &id, position: &position };
                pending.job.request.set_source(source).map_err(internal)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, group: &mut [Pending]) -> Result<(), ApplyError> {
        for pending in group {
            let mut superseded = 0;
            for (row, sequence) in rows(&pending.job.request, pending.first) {
                let applied = self.applier.apply(&row, sequence, true)?;
                superseded += u64::from(applied == Applied::Superseded);
            }
            // Beside a rebuild of the disk tier the count may differ from what was foreseen, and
            // what was foreseen stands in history: it is what a repeat will be answered.
            if pending.job.idempotency.is_none() {
                pending.superseded = superseded;
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, group: Vec<Pending>, arrival: ArrivalTime) {
        for pending in group {
            let count = u64::from(pending.job.request.count());
            let accepted = Accepted {
                accepted: count,
                superseded: pending.superseded,
                sequence: Sequence(pending.first.0 + count - 1),
                durability: self.shared.durability,
            };
            let metrics = &self.shared.metrics;
            metrics.rows_accepted.add(count);
            metrics.rows_superseded.add(pending.superseded);
            if let Some(idempotency) = &pending.job.idempotency {
                let first = First {
                    content: idempotency.content,
                    arrival,
                    accepted: count,
                    superseded: pending.superseded,
                    sequence: accepted.sequence,
                };
                self.idempotency.insert(pending.job.project, &idempotency.key, first);
                metrics.idempotency_keys.set(self.idempotency.len() as u64);
            }
            self.remember_position(&pending, arrival);
            // A caller that went away does not need its answer.
            for reply in pending.repeats.into_iter().chain([pending.job.reply]) {
                let _ = reply.send(Ok(accepted));
            }
        }
    }

    /// Tells the disk tier how far it is, and moves rows to its disk where too many wait.
    pub(super) fn make_room_in_the_tier(&mut self, last: Sequence) {
        let shared = self.shared.clone();
        let Some(tier) = shared.stores.tier() else { return };
        tier.tier.applied(last);
        if tier.tier.is_over() && self.sync(0).is_ok() {
            tier.relieve(|| shared.history.durable());
        }
    }

    fn remember_position(&self, pending: &Pending, arrival: ArrivalTime) {
        let request = pending.job.request.decode(pending.first).expect("encoded here");
        if let Some(source) = request.source.filter(|s| s.kind != SourceKind::Idempotency) {
            let Source { kind, id, position } = source;
            self.shared.positions().set(kind, id, position, arrival);
        }
    }

    /// What the manifest keeps beside the log: definitions, ids and idempotency keys, as they are
    /// at the sequence it `covers`.
    pub(super) fn control_snapshot(
        &self,
        positions: &Positions,
        erasures: &Erasures,
        covers: Sequence,
    ) -> ControlSnapshot {
        let bytes = control::encode(
            &self.shared.registry.load(),
            self.registry_sequence,
            positions,
            erasures,
            &self.idempotency,
        );
        ControlSnapshot { covers, bytes }
    }

    /// Saves that, with other erasures than those that are known if there are `new` ones.
    pub(super) fn save_control(&mut self, new: Option<&Erasures>) -> Result<(), Problem> {
        if self.is_stopped() {
            return Err(stopped());
        }
        self.sync(0)?;
        let (positions, covers) = (self.shared.positions(), self.history.last());
        let control = match new {
            Some(erasures) => self.control_snapshot(&positions, erasures, covers),
            None => self.control_snapshot(&positions, &self.shared.erasures(), covers),
        };
        drop(positions);
        self.history.save_control(control).map_err(|error| self.refused(&error))
    }

    fn stop(&mut self) {
        self.idle();
        if let Err(problem) = self.save_control(None) {
            tracing::error!(%problem, "the last sync before the end failed");
        }
        self.set_state(WritesState::Closed);
    }

    /// What an append that failed means for the caller and for later writes.
    pub(super) fn refused(&self, error: &WriteError) -> Problem {
        match error {
            WriteError::Full(_) => {
                self.set_state(WritesState::Full);
                let detail = format!("{error}; nothing was written, reads go on");
                Problem::new(Code::DiskFull, detail)
            }
            WriteError::TooLarge { .. } => Problem::new(Code::LimitExceeded, error.to_string()),
            WriteError::NeedsRoll | WriteError::Failed(_) | WriteError::Poisoned { .. } => {
                self.poison(&error.to_string());
                stopped()
            }
        }
    }

    fn poison(&self, reason: &str) {
        if !self.is_stopped() {
            tracing::error!(reason, "writes have stopped until a restart; reads go on");
        }
        self.set_state(WritesState::Stopped);
    }

    pub(super) fn set_state(&self, state: WritesState) {
        if !self.is_stopped() {
            self.shared.metrics.set_writes(state);
        }
    }
}

/// The rows of a request whose first has the sequence `first`.
fn rows(request: &EncodedRequest, first: Sequence) -> impl Iterator<Item = (Row<'_>, Sequence)> {
    let decoded = request.decode(first).expect("encoded by this process");
    decoded.records().filter_map(|record| match record.expect("encoded by this process") {
        (sequence, Record::Row(row)) => Some((row, sequence)),
        (_, Record::Control(_)) => None,
    })
}

fn future_places(request: &EncodedRequest, latest_allowed: EventTime) -> Vec<Place> {
    rows(request, Sequence::ZERO)
        .enumerate()
        .filter(|(_, (row, _))| row.event_time > latest_allowed && row.event_time != EventTime::MAX)
        .take(limits::PLACES_REPORTED)
        .map(|(index, (row, _))| Place {
            index: Some(index),
            field: "event_timestamp".to_owned(),
            found: row.event_time.to_string(),
            expected: format!("at most {latest_allowed}"),
        })
        .collect()
}

fn internal(error: impl std::error::Error) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}

fn refuse(group: Vec<Pending>, problem: &Problem) {
    let replies = group
        .into_iter()
        .flat_map(|pending| pending.repeats.into_iter().chain([pending.job.reply]));
    refuse_all(replies, problem);
}

fn refuse_all(replies: impl Iterator<Item = Reply<Accepted>>, problem: &Problem) {
    for reply in replies {
        let _ = reply.send(Err(problem.clone()));
    }
}
