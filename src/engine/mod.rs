//! The operations of the server, the only place where the stores meet: open, define, write, look
//! up, read as of an instant, load, list, maintain.
//!
//! It does not know the doors: no JSON, no HTTP, no gRPC.

pub mod error;

pub mod deadline;

mod pool;

mod stores;

mod tier;

mod shared;

pub mod writes;

mod queue;

mod idempotency;

mod positions;

mod apply;

mod control;

pub mod define;

mod write;

pub mod lookup;

pub mod cold;

pub mod as_of;

mod listing;

pub mod answer_columns;

pub mod label_columns;

pub mod training;

pub mod parquet_file;

pub mod past;

pub mod load;

pub mod spool;

mod stop;

mod maintain;

mod retention;

pub mod erase;

mod forget;

pub mod seal;

mod scrub;

pub mod open;

pub mod verify;

pub mod inspect;

pub mod sizes;

pub mod backup;

mod known;

pub mod restore;

pub mod export;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, TryAcquireError, oneshot};

use crate::disk::DiskFile;
use crate::engine::as_of::{AsOf, AsOfAnswers};
use crate::engine::cold::{ColdStates, Fetch};
use crate::engine::deadline::Deadline;
use crate::engine::define::{Data, DefineJob, DefineOptions, Defined};
use crate::engine::erase::{EraseJob, Erasure};
use crate::engine::error::Problem;
use crate::engine::listing::PageAsk;
use crate::engine::load::{LoadOptions, LoadTurn, Loaded, Loader};
use crate::engine::lookup::{Batch, LookupPlan, Plans};
use crate::engine::maintain::Maintenance;
use crate::engine::pool::Pool;
use crate::engine::queue::{Job, Queue, Reply, WriteJob, stopped};
use crate::engine::shared::Shared;
use crate::engine::spool::{Spool, Spools};
use crate::engine::training::{Trainer, Training, TrainingTurn};
use crate::engine::writes::{Accepted, WriteBatch};
use crate::history::Damage;
use crate::history::seal::Sealer;
use crate::ids::{EntityTypeId, ProjectId, Sequence, ViewId};
use crate::limits::Limits;
use crate::metrics::{Code, Metrics, WritesState};
use crate::priority::Manner;
use crate::registry::Registry;
use crate::registry::definitions::Definitions;
use crate::registry::model::{EntityType, View};
use crate::registry::plan::{Ask, Plan};
use crate::time::{EventTime, Span};

pub use crate::engine::idempotency::Idempotency;
pub use crate::engine::listing::EntityPage;

/// Compiled plans kept, by request shape.
const PLANS_KEPT: usize = 4096;
/// Columns of a plan that is kept; wider ones are compiled each time, so that little is kept.
const COLUMNS_KEPT: usize = 1024;
/// Threads for as-of reads, listings and loads.
const READ_THREADS: usize = 2;
/// Threads that read the disk tier.
const COLD_THREADS: usize = 4;
/// Training sets made at a time; each takes some hundred megabytes and all cores.
const TRAININGS: usize = 2;
/// As-of reads and listings that may wait for a thread.
const READS_WAITING: usize = 256;

/// An open store and the threads that work on it.
pub struct Engine {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    sealer: Arc<Sealer>,
    plans: Plans,
    reads: Pool,
    cold_reads: Pool,
    patience: Span,
    trainings: Arc<Semaphore>,
    /// How training sets are made: lookups come first.
    training_manner: Manner,
    spools: Spools,
    running: Mutex<Option<Running>>,
    recovered: Span,
}

struct Running {
    writer: JoinHandle<()>,
    maintenance: Maintenance,
}

/// What `/health` and `/ready` say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// Whether writes are accepted.
    pub writes: WritesState,
    /// The last visible sequence.
    pub sequence: Sequence,
    /// How long recovery took.
    pub recovered: Span,
}

impl Engine {
    fn assemble(
        shared: Arc<Shared>,
        (queue, sealer): (Arc<Queue>, Arc<Sealer>),
        running: Running,
        spools: Spools,
        patience: Span,
        recovered: Span,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            queue,
            sealer,
            plans: Plans::new(PLANS_KEPT),
            reads: Pool::start("larder-read", READ_THREADS, READS_WAITING),
            cold_reads: Pool::start("larder-cold", COLD_THREADS, READS_WAITING),
            patience,
            trainings: Arc::new(Semaphore::new(TRAININGS)),
            training_manner: training::manner(TRAININGS),
            spools,
            running: Mutex::new(Some(running)),
            recovered,
        })
    }

    /// The definitions as they stand.
    pub fn registry(&self) -> Arc<Registry> {
        self.shared.registry.load_full()
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The server's numbers.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Now, as lookups see it: never before an event that is visible.
    pub fn now(&self) -> EventTime {
        self.shared.now()
    }

    /// Whether writes are accepted, and how the last start went.
    pub fn health(&self) -> Health {
        Health {
            writes: self.shared.writes_now(),
            sequence: self.shared.visible(),
            recovered: self.recovered,
        }
    }

    /// Waits until `sequence` is visible.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`.
    pub async fn wait_for(&self, sequence: Sequence, deadline: Deadline) -> Result<(), Problem> {
        let mut visible = self.shared.visible.subscribe();
        let reached = visible.wait_for(|visible| *visible >= sequence);
        deadline.bound(reached).await?.map(|_| ()).map_err(|_| stopped())
    }

    /// Compiles what is asked, or finds it compiled.
    ///
    /// # Errors
    /// A name that does not resolve.
    pub fn plan(&self, project: ProjectId, ask: &Ask<'_>) -> Result<Arc<LookupPlan>, Problem> {
        let registry = self.shared.registry.load();
        let shape = lookup::shape(project, ask);
        if let Some(plan) = self.plans.get(&*shape)
            && plan.plan.revision == registry.revision()
        {
            return Ok(plan);
        }
        let plan = Plan::compile(&registry, project, ask).inspect_err(|_| {
            // A plan that no longer compiles would keep the rows of a dropped view alive.
            self.plans.remove(&*shape);
        })?;
        let plan = Arc::new(LookupPlan::new(plan, &self.shared.stores));
        if plan.plan.columns.len() <= COLUMNS_KEPT {
            self.plans.insert(shape, plan.clone());
        }
        Ok(plan)
    }

    /// Fetches the rows a plan needs from disk-tier views; needed only where it has one.
    pub async fn fetch_cold(
        &self,
        plan: &Arc<LookupPlan>,
        batch: &Arc<Batch>,
        deadline: Deadline,
    ) -> ColdStates {
        let fetch = Fetch {
            shared: &self.shared,
            cold_reads: &self.cold_reads,
            history_reads: &self.reads,
            patience: self.patience,
            deadline,
        };
        fetch.run(plan, batch).await
    }

    /// Drops the cached copies of an entity's rows that lie on disk; never data. Returns how many.
    pub fn invalidate(&self, entity: EntityTypeId, key: &[u8]) -> u64 {
        let Some(tier) = self.shared.stores.tier() else { return 0 };
        let registry = self.shared.registry.load();
        let views = registry.all_views().filter(|view| view.entity == entity);
        views.map(|view| u64::from(tier.tier.invalidate(view.id, key))).sum()
    }

    /// Reads features as they stood.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`, `OVERLOADED`, or history is damaged where it had to be read.
    pub async fn as_of(
        self: &Arc<Self>,
        ask: AsOf,
        deadline: Deadline,
    ) -> Result<AsOfAnswers, Problem> {
        let shared = self.shared.clone();
        self.reads.run(deadline, move || as_of::read(&shared, ask, deadline)).await?
    }

    /// Writes rows, all or none, and waits until they are durable (as the mode says) and visible.
    /// Dropping the future drops the answer, not the write.
    ///
    /// # Errors
    /// `QUEUE_FULL`, `DISK_FULL`, `CLOCK_BEHIND`, `EVENT_TIME_IN_FUTURE`, `DRAINING`: nothing was
    /// written. `WRITES_STOPPED`: not acknowledged, and may or may not be there.
    pub async fn write(
        &self,
        project: ProjectId,
        batch: WriteBatch,
        idempotency: Option<Idempotency>,
    ) -> Result<Accepted, Problem> {
        self.refuse_if_stopped()?;
        let revision = batch.revision;
        let (request, views) = batch.finish()?;
        let (reply, answer) = oneshot::channel();
        let job = WriteJob { request, project, revision, views, idempotency, reply };
        self.queue.write(job)?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn refuse_if_stopped(&self) -> Result<(), Problem> {
        match self.shared.metrics.writes() {
            WritesState::Stopped => Err(stopped()),
            WritesState::Closed => Err(Problem::new(Code::Draining, "the server is shutting down")),
            WritesState::Open | WritesState::Full | WritesState::ClockBehind => Ok(()),
        }
    }

    /// Makes the registry hold `definitions`, or says what that would change.
    ///
    /// # Errors
    /// `INCOMPATIBLE_DEFINITION`, `IN_USE`, `SEQUENCE_MISMATCH`, `INVALID_VALUE`, and those of
    /// [`Self::write`].
    pub async fn define(
        &self,
        definitions: Definitions,
        options: DefineOptions,
    ) -> Result<Defined, Problem> {
        self.change(DefineJob::Apply(Box::new(definitions), options)).await
    }

    /// Drops one version of a view. Its id is never reused, so its rows cannot come back.
    ///
    /// # Errors
    /// `UNKNOWN_VIEW`, `IN_USE`, `OVERLOADED` as [`Self::erase`], and those of [`Self::write`].
    pub async fn drop_view(
        &self,
        project: ProjectId,
        name: &str,
        data: Data,
    ) -> Result<Defined, Problem> {
        self.change(DefineJob::DropView(project, name.to_owned(), data)).await
    }

    /// Drops a service.
    ///
    /// # Errors
    /// `UNKNOWN_SERVICE`, and those of [`Self::write`].
    pub async fn drop_service(&self, project: ProjectId, name: &str) -> Result<Defined, Problem> {
        self.change(DefineJob::DropService(project, name.to_owned())).await
    }

    /// The event time below which as-of reads of a view are refused.
    pub fn retention_floor(&self, view: ViewId) -> Option<EventTime> {
        self.shared.history.bounds().floor(view)
    }

    /// Erases an entity: whatever was written of it until now is invisible at once, in every view
    /// and as of any time, and its bytes are removed within `erase.within`. Where nothing was
    /// written of it since an erasure that is pending, the answer is that one.
    ///
    /// # Errors
    /// `UNKNOWN_ENTITY_TYPE`, `OVERLOADED` past `limits.pending_erasures`, and those of
    /// [`Self::write`].
    pub async fn erase(&self, entity: EntityTypeId, key: &[u8]) -> Result<Erasure, Problem> {
        self.refuse_if_stopped()?;
        if let Some(erasure) = self.covering_erasure(entity, key).await {
            return Ok(erasure);
        }
        let job = EraseJob { entity, key: key.into() };
        self.ask(|reply| Job::Erase(job, reply)).await
    }

    /// The pending erasure after which nothing was written of an entity, if there is one.
    async fn covering_erasure(&self, entity: EntityTypeId, key: &[u8]) -> Option<Erasure> {
        let (shared, key) = (self.shared.clone(), Box::<[u8]>::from(key));
        let deadline = Deadline::after(self.shared.limits.request_timeout);
        let covers = move || erase::covering(&shared, entity, &key);
        // Where that cannot be read, another erasure does no harm.
        self.reads.run(deadline, covers).await.ok()?
    }

    /// The erasure named by its sequence.
    pub fn erasure(&self, project: ProjectId, sequence: Sequence) -> Option<Erasure> {
        self.shared.erasures().get(project, sequence)
    }

    async fn change(&self, job: DefineJob) -> Result<Defined, Problem> {
        self.refuse_if_stopped()?;
        self.ask(|reply| Job::Define(job, reply)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let job = job(reply);
        let queue = self.queue.clone();
        // The queue may be full for a moment; that must not hold up a thread of the doors.
        let sent = tokio::task::spawn_blocking(move || queue.send(job)).await;
        sent.map_err(|_| stopped())??;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Begins a load; no other can until the turn is dropped. To be taken before an upload, not
    /// after it: that would have filled the disk for nothing.
    ///
    /// # Errors
    /// Writes have stopped, or another load has its turn.
    pub fn begin_load(&self) -> Result<LoadTurn, Problem> {
        self.refuse_if_stopped()?;
        if self.shared.loads_stop() {
            return Err(Problem::new(Code::Draining, "the server is shutting down"));
        }
        match self.shared.loads.clone().try_acquire_owned() {
            Ok(permit) => Ok(LoadTurn { _permit: permit }),
            Err(_) => {
                let detail = "another load is running; one runs at a time";
                Err(Problem::new(Code::Overloaded, detail))
            }
        }
    }

    /// Loads a Parquet file into a view, on a thread of its own, as a whole or not at all.
    /// `progress` hears the rows done so far and the rows in the file.
    ///
    /// # Errors
    /// The file does not fit the view, and those of [`Self::write`]. A load that was interrupted
    /// goes on where it stopped when it is given again.
    pub async fn load(
        &self,
        turn: LoadTurn,
        view: Arc<View>,
        file: Arc<dyn DiskFile>,
        options: LoadOptions,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<Loaded, Problem> {
        self.refuse_if_stopped()?;
        let (shared, queue, sealer) =
            (self.shared.clone(), self.queue.clone(), self.sealer.clone());
        let loader = Loader { shared, queue, sealer, view, file, options };
        let loaded = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            loader.run(&mut progress)
        });
        loaded.await.unwrap_or_else(|_| {
            let detail = "the load failed; the same load goes on where it stopped";
            Err(Problem::new(Code::Internal, detail))
        })
    }

    /// Begins a training set.
    ///
    /// # Errors
    /// `OVERLOADED`: as many as may be are being made. `DRAINING`.
    pub fn begin_training(&self) -> Result<TrainingTurn, Problem> {
        let turn = self.trainings.clone().try_acquire_owned();
        turn.map(|permit| TrainingTurn { _permit: permit }).map_err(|error| match error {
            TryAcquireError::Closed => shutting_down(),
            TryAcquireError::NoPermits => {
                let detail = format!("{TRAININGS} training sets are being made; no more at a time");
                Problem::new(Code::Overloaded, detail)
            }
        })
    }

    /// Begins a training set as soon as that may be, however long it takes: who was let send a file
    /// is not sent away with it. To be asked for after an upload, since a slow one would keep
    /// others from their turn; as many wait at most as uploads may be under way.
    ///
    /// # Errors
    /// `DRAINING`.
    pub async fn wait_for_training(&self) -> Result<TrainingTurn, Problem> {
        let turn = self.trainings.clone().acquire_owned().await;
        turn.map(|permit| TrainingTurn { _permit: permit }).map_err(|_| shutting_down())
    }

    /// Makes a training set of a Parquet file of labels. Blocking; nothing is written to `out`
    /// before all labels are known to be sound. `progress` hears the labels done so far and the
    /// labels there are.
    ///
    /// # Errors
    /// The labels lack a column, have a null key or time or a column named as a feature; history is
    /// damaged where it had to be read; `out` failed.
    pub fn train(
        &self,
        _turn: &TrainingTurn,
        training: &Training,
        labels: Arc<dyn DiskFile>,
        out: impl Write + Send,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), Problem> {
        // The definitions last: rows of history may have all the features they name, and no more.
        let history = || Ok((as_of::visible(&self.shared, training.known_at())?, self.registry()));
        let (limits, manner) = (self.limits(), &self.training_manner.anew());
        Trainer { history, limits, training, manner, file: labels, progress }.run(out)
    }

    /// Opens a file to receive an upload; it is gone when the last handle on it is dropped.
    ///
    /// # Errors
    /// `OVERLOADED`: as many uploads as may be are under way. `DISK_FULL`, or the disk failed.
    pub fn spool(&self) -> Result<Spool, Problem> {
        self.spools.create()
    }

    /// Lists the entities whose first key part starts with `prefix`, after `cursor`.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`, `OVERLOADED`.
    pub async fn entities(
        &self,
        entity: Arc<EntityType>,
        prefix: String,
        limit: usize,
        cursor: Option<String>,
        deadline: Deadline,
    ) -> Result<EntityPage, Problem> {
        let shared = self.shared.clone();
        let list = move || {
            let ask = PageAsk { prefix: &prefix, limit, cursor: cursor.as_deref(), deadline };
            listing::page(&shared, &entity, ask)
        };
        self.reads.run(deadline, list).await?
    }

    /// Counts the entities that have a row in any view.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`, `OVERLOADED`.
    pub async fn entity_count(
        &self,
        entity: EntityTypeId,
        deadline: Deadline,
    ) -> Result<u64, Problem> {
        let shared = self.shared.clone();
        self.reads.run(deadline, move || listing::count(&shared, entity, deadline)).await?
    }

    /// Rows per view, for the numbers the server publishes.
    pub fn rows_per_view(&self) -> Vec<(ViewId, u64)> {
        self.shared.stores.rows()
    }

    /// What background reading found damaged of what is at rest, the first of each file.
    pub fn damages(&self) -> Vec<Damage> {
        self.shared.damages.all()
    }

    /// Has a load under way stop, and lets no other begin, nor a training set; the same load goes
    /// on later.
    pub fn drain(&self) {
        self.shared.stop_loads();
        self.trainings.close();
    }

    /// Finishes what is queued, syncs, makes a last checkpoint and ends the threads. Blocking; a
    /// second call does nothing.
    pub fn close(&self) {
        let running = match self.running.lock() {
            Ok(mut running) => running.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        let Some(Running { writer, maintenance }) = running else { return };
        self.drain();
        maintenance.stop();
        // Without a writer to tell there is one to join all the same.
        let _ = self.queue.send(Job::Stop);
        if writer.join().is_err() {
            tracing::error!("the writer ended with a panic");
        }
    }
}

fn shutting_down() -> Problem {
    Problem::new(Code::Draining, "the server is shutting down")
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}
