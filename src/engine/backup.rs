//! Holds the store as it is for whoever backs it up, and hands out its bytes part by part, within
//! an I/O budget.
//!
//! It does not know where a backup is kept: whoever takes it writes it, with their own rights, on
//! their own machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::Engine;
use crate::engine::error::Problem;
use crate::engine::queue::{Job, Reply};
use crate::engine::write::Writer;
use crate::history::History;
use crate::history::backup::{Pinned, Unfit};
use crate::metrics::Code;
use crate::time::Stopwatch;

/// Backups that may be under way at once.
const PINS: usize = 4;
/// How long a backup may ask for nothing before it is given up: what it holds takes space.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes handed out at once.
pub const PART_BYTES_MAX: u64 = 4 << 20;

/// The backups under way.
pub(super) struct Pins {
    held: Mutex<BTreeMap<u64, Pin>>,
    places: Arc<Semaphore>,
}

impl Default for Pins {
    fn default() -> Self {
        Self { held: Mutex::default(), places: Arc::new(Semaphore::new(PINS)) }
    }
}

struct Pin {
    pinned: Arc<Pinned>,
    used: Stopwatch,
    /// Given back when the backup ends or is given up.
    _place: OwnedSemaphorePermit,
}

/// A backup that was begun.
pub struct Begun {
    /// What it is asked for by.
    pub id: u64,
    /// What is held for it.
    pub pinned: Arc<Pinned>,
}

/// Answers the job; called by the writer, which alone knows what is durable.
pub(super) fn pin(writer: &mut Writer, reply: Reply<Pinned>) {
    let pinned = writer.history.pin().map_err(|error| match error {
        Unfit::Write(error) => writer.refused(&error),
        error => Problem::new(Code::Internal, format!("the backup cannot begin: {error}")),
    });
    let _ = reply.send(pinned);
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Pin>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, pin| pin.used.elapsed() < PATIENCE);
        held
    }

    /// Lets go of what nobody has asked for in a long time.
    pub(super) fn tidy(&self) {
        drop(self.lock());
    }

    /// Whether none of the files held is one that history has let go of.
    pub(super) fn hold_only_live(&self, history: &History) -> bool {
        let held = self.lock();
        if held.is_empty() {
            return true;
        }
        let live = history.file_names();
        let mut files = held.values().flat_map(|pin| &pin.pinned.files);
        files.all(|file| live.contains(&file.name))
    }
}

impl Engine {
    /// Holds the store as it is now, everything written up to now made durable.
    ///
    /// # Errors
    /// `OVERLOADED` if too many backups are under way, or the writer's.
    pub async fn begin_backup(&self) -> Result<Begun, Problem> {
        let pins = &self.shared.pins;
        pins.tidy();
        // Taken before there is anything to wait for: others begin meanwhile.
        let place = pins.places.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{PINS} backups are under way, no more may be");
            Problem::new(Code::Overloaded, detail)
        })?;
        let pinned = Arc::new(self.ask(Job::Pin).await?);
        let mut held = pins.lock();
        // Never given again, also after a restart: a backup that was given up must not end another.
        let now = self.shared.clock.now().micros().unsigned_abs();
        let id = held.last_key_value().map_or(now, |(last, _)| now.max(last + 1));
        let used = Stopwatch::start();
        held.insert(id, Pin { pinned: pinned.clone(), used, _place: place });
        Ok(Begun { id, pinned })
    }

    /// Reads part of a file that is held: at most [`PART_BYTES_MAX`], less only where it ends.
    /// Blocking. Says how long to wait until the budget allows the next.
    ///
    /// # Errors
    /// `NO_SUCH_ROUTE` if there is no such backup or file, or the disk failed.
    pub fn backup_part(
        &self,
        (id, name): (u64, &str),
        offset: u64,
        length: u64,
    ) -> Result<(Vec<u8>, Duration), Problem> {
        let missing = |detail: String| Problem::new(Code::NoSuchRoute, detail);
        let pinned = match self.shared.pins.lock().get_mut(&id) {
            Some(pin) => {
                pin.used = Stopwatch::start();
                pin.pinned.clone()
            }
            None => {
                return Err(missing(format!(
                    "backup {id} is not under way; it ended, or asked for \
                                            nothing in 10 minutes"
                )));
            }
        };
        let file = pinned.files.iter().find(|file| file.name == name);
        let file = file.ok_or_else(|| missing(format!("backup {id} holds no file {name}")))?;
        let watch = Stopwatch::start();
        let length = length.min(PART_BYTES_MAX).min(file.bytes.saturating_sub(offset));
        let mut bytes = vec![0; length as usize];
        let read = file.file.read_at(&mut bytes, offset);
        let read = read.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        bytes.truncate(read);
        let due = Duration::from_secs_f64(length as f64 / self.shared.maintenance_rate as f64);
        Ok((bytes, due.saturating_sub(watch.elapsed())))
    }

    /// Lets go of what was held for a backup. False if there is no such backup.
    pub fn end_backup(&self, id: u64) -> bool {
        self.shared.pins.lock().remove(&id).is_some()
    }
}
