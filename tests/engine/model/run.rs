//! Plays steps on an engine and on the model, and compares what both say.
//!
//! It does not know how steps are made up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use larder::engine::define::Data;
use larder::engine::error::Problem;
use larder::engine::lookup::Batch;
use larder::engine::writes::{Accepted, Durability, WriteBatch};
use larder::engine::{Engine, Idempotency};
use larder::ids::Sequence;
use larder::metrics::Code;
use larder::registry::Registry;
use larder::registry::plan::What;
use larder::registry::resolve::Purpose;
use larder::time::{ArrivalTime, Clock, EventTime, ManualClock, Span};
use larder::value::cell::Cell;
use larder::value::types::KeyType;
use tempfile::TempDir;

use crate::model::reference::{ENTITIES, KEYS, Model, Remembered, SentRow, ViewName, declared};
use crate::model::steps::{Definition, Loss, NewRow, Restart, RowTime, Step};
use crate::support::{self, PROJECT, entity_count, key, keys, now, open_at, plan};

/// How far an event may lie ahead, and the clock behind: the default of `limits.max_future`.
const MAX_FUTURE: Span = Span::from_seconds(300);
const DAY: Span = Span::from_seconds(86_400);
/// An instant of 2026.
const START: ArrivalTime = ArrivalTime::from_micros(1_769_860_800_000_000);
const FEATURES_PER_VIEW: usize = 6;
const VERSIONS_PER_VIEW: u32 = 3;

pub(super) struct Run {
    directory: TempDir,
    durability: Durability,
    clock: ManualClock,
    /// The latest the clock ever said; retention goes by it.
    latest: ArrivalTime,
    /// None only between two runs.
    engine: Option<Arc<Engine>>,
    model: Model,
}

impl Run {
    pub(super) async fn start(durability: Durability) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::new(START);
        let engine = Some(open_at(directory.path(), &clock, durability));
        let (latest, model) = (START, Model::new());
        let mut run = Self { directory, durability, clock, latest, engine, model };
        run.define_model().await.expect("the first definitions");
        run
    }

    pub(super) async fn step(&mut self, step: &Step) {
        match step {
            Step::Write { rows, key } => {
                let rows = self.resolve(rows);
                let key = key.map(|key| format!("key {key}"));
                self.write(&rows, key, [1; 16]).await;
            }
            Step::Repeat { pick, same_content } => self.repeat(*pick, *same_content).await,
            Step::Overtaken { rows, by } => self.overtaken(rows, by).await,
            Step::Define(definition) => self.define(definition).await,
            Step::Erase { kind, entity } => self.erase(*kind, entity % KEYS).await,
            Step::Restart { how, loss } => self.restart(*how, *loss),
            Step::Clock(seconds) => {
                self.clock.advance(Span::from_seconds(*seconds));
                self.latest = self.latest.max(self.clock.now());
            }
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("it is open")
    }

    /// What time the engine should think it is.
    fn now(&self) -> ArrivalTime {
        self.clock.now().max(self.model.last_arrival)
    }

    fn is_behind(&self) -> bool {
        self.clock.now().plus(MAX_FUTURE) < self.model.last_arrival
    }

    fn resolve(&self, rows: &[NewRow]) -> Vec<SentRow> {
        let resolve = |row: &NewRow| {
            let name = self.model.pick(row.view)?;
            let features = &self.model.views[&name].features;
            let cells = features.iter().zip(&row.cells).map(|(feature, cell)| feature.cell(*cell));
            let mut cells: Vec<Cell> = cells.collect();
            if cells.iter().all(|cell| *cell == Cell::Absent) {
                cells[0] = Cell::Null;
            }
            let event_time = match row.time {
                RowTime::Arrival => None,
                RowTime::Offset(seconds) => {
                    Some(self.now().plus(Span::from_seconds(seconds)).as_event_time())
                }
            };
            Some(SentRow { view: name, entity: row.entity % KEYS, event_time, cells })
        };
        rows.iter().filter_map(resolve).collect()
    }

    // Writes ----------------------------------------------------------------------------------

    async fn write(&mut self, rows: &[SentRow], key: Option<String>, content: [u8; 16]) {
        if rows.is_empty() {
            return;
        }
        self.wait_for_the_disk_tier().await;
        let batch = self.batch(&self.engine().registry(), rows);
        let expected = self.expect(rows, key.as_deref(), content);
        let idempotency = key.map(|key| Idempotency { key, content });
        let answer = self.engine().write(PROJECT, batch, idempotency).await;
        assert_eq!(answer.map_err(|problem| problem.code), expected);
    }

    fn batch(&self, registry: &Registry, rows: &[SentRow]) -> WriteBatch {
        let mut batch = WriteBatch::new(registry, self.engine().limits());
        for row in rows {
            let name = declared(row.view);
            let view = registry.view_named(PROJECT, &name).expect("the view is defined");
            batch.start(view);
            for (feature, cell) in view.features.iter().zip(&row.cells) {
                let slot = view.slot_of(&feature.name).expect("its own feature");
                batch.set(slot, cell.borrowed());
            }
            let key = entity_key(self.model.views[&row.view].entity, row.entity);
            batch.end(&key, row.event_time).expect("a small row");
        }
        batch
    }

    /// What the model says the write is answered; accepts it where it is.
    fn expect(
        &mut self,
        rows: &[SentRow],
        key: Option<&str>,
        content: [u8; 16],
    ) -> Result<Accepted, Code> {
        if self.is_behind() {
            return Err(Code::ClockBehind);
        }
        let arrival = self.now();
        let before = key.and_then(|key| self.model.keyed.get(key));
        if let Some(before) = before.filter(|before| arrival.since(before.arrival) < DAY) {
            let same = before.content == content;
            return if same { Ok(before.accepted) } else { Err(Code::IdempotencyMismatch) };
        }
        let latest = arrival.plus(MAX_FUTURE).as_event_time();
        if rows.iter().any(|row| row.event_time.is_some_and(|time| time > latest)) {
            return Err(Code::EventTimeInFuture);
        }
        let superseded = self.model.accept(rows, arrival);
        let accepted = Accepted {
            accepted: rows.len() as u64,
            superseded,
            sequence: Sequence(self.model.sequence),
            durability: self.durability,
        };
        if let Some(key) = key {
            let write = Remembered { rows: rows.to_vec(), content, arrival, accepted };
            self.model.keyed.insert(key.to_owned(), write);
        }
        Ok(accepted)
    }

    async fn repeat(&mut self, pick: usize, same_content: bool) {
        let count = self.model.keyed.len().max(1);
        let Some((key, write)) = self.model.keyed.iter().nth(pick % count) else { return };
        let (key, write) = (key.clone(), write.clone());
        // A door could not make rows for a view that was dropped, or dropped and defined anew.
        let fits = |row: &SentRow| {
            let view = self.model.views.get(&row.view);
            view.is_some_and(|view| view.takes(&row.cells))
        };
        if !write.rows.iter().all(fits) {
            return;
        }
        let mut content = write.content;
        content[0] ^= u8::from(!same_content);
        self.write(&write.rows, Some(key), content).await;
    }

    async fn overtaken(&mut self, rows: &[NewRow], by: &Definition) {
        let rows = self.resolve(rows);
        if rows.is_empty() {
            return;
        }
        self.wait_for_the_disk_tier().await;
        let registry = self.engine().registry();
        let batch = self.batch(&registry, &rows);
        self.define(by).await;
        let after = self.engine().registry();
        let dropped = rows.iter().any(|row| {
            let view = registry.view_named(PROJECT, &declared(row.view)).expect("it was there");
            after.view(view.id).is_none()
        });
        let expected = match dropped {
            true if self.is_behind() => Err(Code::ClockBehind),
            true => Err(Code::UnknownView),
            false => self.expect(&rows, None, [0; 16]),
        };
        let answer = self.engine().write(PROJECT, batch, None).await;
        assert_eq!(answer.map_err(|problem| problem.code), expected);
    }

    async fn erase(&mut self, kind: usize, index: usize) {
        let (entity, _) = ENTITIES[kind % ENTITIES.len()];
        let id = self.engine().registry().entity_named(PROJECT, entity).expect("defined").id;
        let erased = self.engine().erase(id, &entity_key(entity, index)).await;
        let answer = erased.as_ref().ok().map(|erased| (erased.sequence.0, erased.requested));
        if answer.is_some() && answer.as_ref() == self.model.erased.get(&(entity, index)) {
            return;
        }
        if self.is_behind() {
            assert_eq!(erased.map_err(|problem| problem.code).err(), Some(Code::ClockBehind));
            return;
        }
        let now = self.now();
        self.model.erase(entity, index, now);
        assert_eq!(answer.expect("it is accepted"), (self.model.sequence, now));
    }

    // Definitions -----------------------------------------------------------------------------

    async fn define(&mut self, definition: &Definition) {
        if self.is_behind() {
            return;
        }
        match definition {
            Definition::AddFeature { view, kind } => {
                let Some(name) = self.model.pick(*view) else { return };
                let view = self.model.views.get_mut(&name).expect("picked");
                if view.features.len() < FEATURES_PER_VIEW {
                    view.add_feature(*kind);
                }
            }
            Definition::AddVersion { view, kind } => {
                let Some((name, _)) = self.model.pick(*view) else { return };
                let free = |version: &u32| !self.model.views.contains_key(&(name, *version));
                let Some(version) = (1..=VERSIONS_PER_VIEW).find(free) else { return };
                self.model.add_view((name, version), &[*kind, kind / 7]);
            }
            Definition::DefaultVersion { view } => {
                let Some((name, version)) = self.model.pick(*view) else { return };
                self.model.default_versions.insert(name, version);
            }
            Definition::DropView { view, data } => {
                let Some(name) = self.model.pick(*view) else { return };
                let data = if *data { Data::Drop } else { Data::Keep };
                return self.drop_view(name, data).await;
            }
            Definition::Recreate { kind } => {
                let names = ["profile", "activity", "traffic"];
                let gone = |name: &&&str| !self.model.default_versions.contains_key(**name);
                let Some(name) = names.iter().find(gone) else { return };
                self.model.add_view((name, 1), &[*kind]);
            }
        }
        self.define_model().await.expect("a change that is allowed");
    }

    async fn define_model(&mut self) -> Result<(), Problem> {
        let defined = support::define(self.engine(), &self.model.definitions()).await?;
        self.changed(defined.changes.len() as u64);
        Ok(())
    }

    async fn drop_view(&mut self, name: ViewName, data: Data) {
        let dropped = self.engine().drop_view(PROJECT, &declared(name), data).await;
        let versions = self.model.views.keys().filter(|(other, _)| *other == name.0).count();
        if self.model.default_versions[name.0] == name.1 && versions > 1 {
            assert_eq!(dropped.map_err(|problem| problem.code).err(), Some(Code::InUse));
            return;
        }
        let dropped = dropped.expect("nothing uses it");
        assert_eq!(dropped.erasures.len(), usize::from(data == Data::Drop));
        // The erasure is a record too.
        self.changed((dropped.changes.len() + dropped.erasures.len()) as u64);
        self.model.views.remove(&name);
        if versions == 1 {
            self.model.default_versions.remove(name.0);
        }
    }

    /// Each change of a definition is a record of history.
    fn changed(&mut self, changes: u64) {
        if changes > 0 {
            self.model.sequence += changes;
            self.model.last_arrival = self.now();
        }
    }

    // Restarts --------------------------------------------------------------------------------

    fn restart(&mut self, how: Restart, loss: Loss) {
        match how {
            Restart::Close => self.close(),
            Restart::Crash => {
                let copy = tempfile::tempdir().expect("a directory");
                copy_running(self.directory.path(), copy.path());
                self.close();
                self.directory = copy;
            }
        }
        let checkpoint = self.directory.path().join("checkpoint");
        let disk_tier = self.directory.path().join("disk");
        match loss {
            Loss::Nothing => {}
            Loss::Checkpoint => remove(&checkpoint),
            Loss::DiskTier => remove(&disk_tier),
            Loss::Both => [checkpoint, disk_tier].iter().for_each(|derived| remove(derived)),
            Loss::CheckpointDamaged => damage(&checkpoint),
            Loss::DiskTierDamaged => damage(&disk_tier),
        }
        self.engine = Some(open_at(self.directory.path(), &self.clock, self.durability));
    }

    fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }

    /// While the disk tier is rebuilt history answers for it, which the checks after each step look
    /// at; only how many rows are superseded nobody can tell then.
    async fn wait_for_the_disk_tier(&self) {
        for (name, view) in self.model.views.iter().filter(|(_, view)| !view.is_in_memory()) {
            let reference = format!("{}:f0", declared(*name));
            let what = What::Features(vec![&reference]);
            let plan = plan(self.engine(), what, Purpose::Online).expect("it is defined");
            let everybody = Arc::new(keys((0..KEYS).map(|entity| entity_key(view.entity, entity))));
            while support::falls_back(self.engine(), &plan, &everybody).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    // Comparison ------------------------------------------------------------------------------

    /// Compares every answer about every entity of every view; `salt` picks the instants.
    pub(super) async fn check(&self, salt: u64) {
        assert_eq!(self.engine().health().sequence.0, self.model.sequence, "sequences are dense");
        assert_eq!(self.engine().now(), self.now().as_event_time());
        let mut in_memory = BTreeMap::new();
        for (name, view) in &self.model.views {
            self.check_view(*name, salt).await;
            let entities = view.entities().len() as u64;
            if entities > 0 && view.is_in_memory() {
                in_memory.insert(declared(*name), entities);
            }
        }
        for (entity, _) in ENTITIES {
            let views = self.model.views.values().filter(|view| view.entity == entity);
            let entities: BTreeSet<usize> = views.flat_map(|view| view.entities()).collect();
            let counted = entity_count(self.engine(), entity).await;
            assert_eq!(counted, entities.len() as u64, "entities of type {entity}");
        }
        let registry = self.engine().registry();
        let rows = self.engine().rows_per_view().into_iter().filter(|(_, rows)| *rows > 0);
        let rows: BTreeMap<String, u64> = rows
            .map(|(id, rows)| {
                let view = registry.view(id).expect("a view that is defined");
                (declared((&view.name, view.version)), rows)
            })
            .collect();
        assert_eq!(rows, in_memory, "rows per view");
    }

    async fn check_view(&self, name: ViewName, salt: u64) {
        let view = &self.model.views[&name];
        let references: Vec<String> =
            view.features.iter().map(|f| format!("{}:{}", declared(name), f.name)).collect();
        let what = || What::Features(references.iter().map(String::as_str).collect());
        let online =
            plan(self.engine(), what(), Purpose::Online).expect("the features are defined");
        let past = plan(self.engine(), what(), Purpose::AsOf).expect("the features are defined");
        // One more than there are rows for.
        let everybody = || keys((0..=KEYS).map(|entity| entity_key(view.entity, entity)));
        let model = |at: EventTime, known_at: ArrivalTime| -> Vec<_> {
            (0..=KEYS).map(|entity| view.answer(entity, at, known_at)).collect()
        };
        let present = self.now().as_event_time();
        let expected = model(present, ArrivalTime::MAX);
        let answers = now(self.engine(), &online, everybody()).await;
        assert_eq!(answers, expected, "{name:?} now");
        for (at, known_at) in self.instants(salt) {
            let times = vec![at; KEYS + 1];
            let answers =
                support::then_or_refused(self.engine(), &past, everybody(), times, known_at).await;
            let asked = format!("{name:?} at {at}, known at {known_at:?}");
            let expected = model(at, known_at.unwrap_or(ArrivalTime::MAX));
            match answers {
                Ok(answers) => assert_eq!(answers, expected, "{asked}"),
                Err(problem) => {
                    assert_eq!(problem.code, Code::BelowRetentionFloor, "{asked}");
                    let retention = view.retention.map(Span::from_seconds).expect("it has one");
                    let floor = self.latest.minus(retention);
                    let below = at < floor.as_event_time() || known_at.is_some_and(|at| at < floor);
                    assert!(below, "{asked}, refused: {problem}");
                }
            }
        }
        self.check_default(name, everybody()).await;
    }

    /// Now, then, and then with what was known at some time.
    fn instants(&self, salt: u64) -> [(EventTime, Option<ArrivalTime>); 3] {
        let present = self.now();
        let back = |factor: u64| Span::from_micros((salt * factor % 400) as i64 * 1_000_000);
        [
            (present.as_event_time(), None),
            (present.minus(back(37)).as_event_time(), None),
            (present.minus(back(5)).as_event_time(), Some(present.minus(back(61)))),
        ]
    }

    /// The bare name means the default version.
    async fn check_default(&self, (name, version): ViewName, everybody: Batch) {
        if self.model.default_versions[name] != version {
            return;
        }
        let reference = format!("{name}:f0");
        let bare = plan(self.engine(), What::Features(vec![&reference]), Purpose::Online);
        let bare = bare.expect("the default version has a first feature");
        assert_eq!(bare.plan.sources[0].view.version, version, "default version of {name}");
        let rows = everybody.rows();
        assert_eq!(now(self.engine(), &bare, everybody).await.len(), rows);
    }
}

fn entity_key(entity: &str, index: usize) -> Vec<u8> {
    match entity {
        "user" => key(&[(KeyType::String, &format!("u{index}"))]),
        // The same airport with several numbers, so that parts must not run into each other.
        _ => {
            let number = (index as i64 / 2 - 1).to_string();
            key(&[(KeyType::String, ["JFK", "JFK7"][index % 2]), (KeyType::Int64, &number)])
        }
    }
}

fn remove(directory: &Path) {
    if directory.exists() {
        fs::remove_dir_all(directory).expect("it can be removed");
    }
}

/// Inverts a byte in the middle of every file.
fn damage(directory: &Path) {
    for path in entries(directory) {
        if path.is_dir() {
            damage(&path);
            continue;
        }
        let mut bytes = fs::read(&path).expect("it can be read");
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte = !*byte;
            fs::write(&path, bytes).expect("it can be written");
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    if !directory.exists() {
        return Vec::new();
    }
    let entries = fs::read_dir(directory).expect("it can be listed");
    entries.map(|entry| entry.expect("it can be listed").path()).collect()
}

/// Copies the directory of a store that runs, as a crash at one moment would leave it: from the
/// beginning again while files of history come and go.
fn copy_running(from: &Path, to: &Path) {
    let manifest = || fs::read(from.join("MANIFEST")).expect("it is replaced as a whole");
    loop {
        let before = manifest();
        if copy_directory(from, to).is_ok() && manifest() == before {
            return;
        }
        fs::remove_dir_all(to).expect("it can be removed");
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for path in entries(from) {
        let target = to.join(path.file_name().expect("entries have names"));
        if path.is_dir() {
            copy_directory(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
