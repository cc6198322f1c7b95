//! Rows the cold store does not have yet, and the order in which it gets them.
//!
//! It does not know where they go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use papaya::HashMap;

use crate::ids::Sequence;

/// What an entry of the map and of the queue takes beside key and state, roughly.
const ENTRY_BYTES: usize = 96;

/// A state that waits to be moved; none stands for "removed".
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) sequence: Sequence,
    pub(super) state: Option<Arc<[u8]>>,
    /// A sequence at or below that of each row which this put brought in.
    since: Sequence,
    /// Which put it was.
    ticket: u64,
}

/// Written by one thread, moved by one, read by any number.
pub(super) struct Overlay {
    rows: HashMap<Arc<[u8]>, Waiting, RandomState>,
    /// Each key of `rows` once, with a sequence at or below its first put that was not moved;
    /// sorted by that. What is below the first is therefore all moved.
    queue: Mutex<VecDeque<(Sequence, Arc<[u8]>)>>,
    tickets: AtomicU64,
    bytes: AtomicU64,
}

impl Overlay {
    pub(super) fn new() -> Self {
        Self {
            rows: HashMap::default(),
            queue: Mutex::default(),
            tickets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Waiting> {
        self.rows.pin().get(key).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Puts the state of `key`, whose newest row has `sequence`. What it has beyond the last put is
    /// of rows from `since` on, or of any if that is zero.
    pub(super) fn put(
        &self,
        key: Arc<[u8]>,
        (since, sequence): (Sequence, Sequence),
        state: Option<Arc<[u8]>>,
    ) {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { sequence, state, since, ticket };
        self.bytes.fetch_add(bytes_of(&key, &waiting), Ordering::Relaxed);
        let rows = self.rows.pin();
        match rows.insert(Arc::clone(&key), waiting) {
            // It is queued already, or being moved, whereupon `done` queues it again.
            Some(before) => {
                self.bytes.fetch_sub(bytes_of(&key, before), Ordering::Relaxed);
            }
            None => self.enqueue(since, key),
        }
    }

    /// Takes the first `most` rows out of the queue. They stay readable until [`Self::done`].
    pub(super) fn take(&self, most: usize) -> Vec<Taken> {
        let mut queue = self.queue();
        let most = most.min(queue.len());
        let rows = self.rows.pin();
        // A key without a row was forgotten with its view.
        let row = |(since, key): (Sequence, Arc<[u8]>)| {
            rows.get(&*key).cloned().map(|waiting| Taken { since, key, waiting })
        };
        queue.drain(..most).filter_map(row).collect()
    }

    /// Puts rows back that could not be moved.
    pub(super) fn put_back(&self, taken: Vec<Taken>) {
        for row in taken {
            self.enqueue(row.since, row.key);
        }
    }

    /// The cold store has this row: it leaves, unless it was replaced meanwhile. Then all that is
    /// known of the first put not moved is that it came after this one, and if this one could bring
    /// any row, that one may have too.
    pub(super) fn done(&self, row: Taken) {
        let rows = self.rows.pin();
        let moved = |_: &Arc<[u8]>, now: &Waiting| now.ticket == row.waiting.ticket;
        match rows.remove_if(&*row.key, moved) {
            Ok(None) => {}
            Ok(Some((key, waiting))) => {
                self.bytes.fetch_sub(bytes_of(key, waiting), Ordering::Relaxed);
            }
            Err(_) => {
                let since = match row.waiting.since {
                    Sequence::ZERO => Sequence::ZERO,
                    since => since.next(),
                };
                self.enqueue(since, row.key);
            }
        }
    }

    fn enqueue(&self, since: Sequence, key: Arc<[u8]>) {
        let mut queue = self.queue();
        let place = queue.partition_point(|(other, _)| *other <= since);
        queue.insert(place, (since, key));
    }

    /// Every put below this was moved; none where nothing waits.
    pub(super) fn first_waiting(&self) -> Option<Sequence> {
        self.queue().front().map(|(since, _)| *since)
    }

    /// Forgets every row whose key begins with `prefix`.
    pub(super) fn forget(&self, prefix: &[u8]) {
        self.queue().retain(|(_, key)| !key.starts_with(prefix));
        self.rows.pin().retain(|key, waiting| {
            let keep = !key.starts_with(prefix);
            if !keep {
                self.bytes.fetch_sub(bytes_of(key, waiting), Ordering::Relaxed);
            }
            keep
        });
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<(Sequence, Arc<[u8]>)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(key: &[u8], waiting: &Waiting) -> u64 {
    (key.len() + waiting.state.as_ref().map_or(0, |state| state.len()) + ENTRY_BYTES) as u64
}

/// A row taken out of the queue.
pub(super) struct Taken {
    since: Sequence,
    pub(super) key: Arc<[u8]>,
    pub(super) waiting: Waiting,
}
