//! How far a training set has come, and how much of it one try to gather features has taken.
//!
//! It does not know what is gathered.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How far a training set has come.
pub(super) struct Work<'a> {
    labels: u64,
    /// Each label is looked up once in each of them.
    sources: u64,
    /// Labels looked up, over all sources.
    done: AtomicU64,
    tell: &'a (dyn Fn(u64, u64) + Sync),
}

/// One try to gather the features of some labels, by any number of threads.
pub(super) struct Try<'a> {
    work: &'a Work<'a>,
    /// Labels looked up, over all sources.
    done: AtomicU64,
    /// Bytes of their values.
    bytes: AtomicUsize,
}

impl<'a> Work<'a> {
    pub(super) fn new(labels: u64, sources: usize, tell: &'a (dyn Fn(u64, u64) + Sync)) -> Self {
        Self { labels, sources: sources.max(1) as u64, done: AtomicU64::new(0), tell }
    }

    fn tell(&self, done: u64) {
        (self.tell)(done / self.sources, self.labels);
    }
}

impl<'a> Try<'a> {
    pub(super) fn begin(work: &'a Work<'a>) -> Self {
        Self { work, done: AtomicU64::new(0), bytes: AtomicUsize::new(0) }
    }

    /// So many labels more were looked up in a source, and have so many bytes of values. Says how
    /// many bytes there are now.
    pub(super) fn did(&self, labels: usize, bytes: usize) -> usize {
        let labels = labels as u64;
        self.done.fetch_add(labels, Ordering::Relaxed);
        self.work.tell(self.work.done.fetch_add(labels, Ordering::Relaxed) + labels);
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Counts nothing of it as done. Says how many of `labels` the next try should take: half of
    /// them, or fewer where those that were looked up show that half would be too many again.
    pub(super) fn undo(&self, labels: usize) -> usize {
        let done = self.done.load(Ordering::Relaxed);
        self.work.tell(self.work.done.fetch_sub(done, Ordering::Relaxed) - done);
        let each = self.bytes.load(Ordering::Relaxed) as u64 * self.work.sources / done.max(1);
        (labels / 2).min(super::labels_of(each as usize)).max(1)
    }
}
