//! Threads that stay idle, for parts of work that borrow what they need.
//!
//! It does not know how long a part takes, nor who waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use rayon_core::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::priority::idle;

/// Idle threads that do parts of work and rest in between.
///
/// A thread of rayon's that finds nothing to do yields its core some thirty times before it sleeps,
/// and an idle thread must not yield, see [`idle`]. So these always have something to do until the
/// pool ends: to rest is a part, too.
pub(super) struct Aside {
    pool: ThreadPool,
    rest: Arc<Rest>,
}

impl Aside {
    pub(super) fn start(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let rest = Arc::new(Rest::default());
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.thread_name(|_| "larder-idle".to_owned()).start_handler({
            let rest = rest.clone();
            move |_| {
                idle();
                rest.wait();
            }
        });
        let pool = pool.build().inspect_err(|_| rest.end(threads))?;
        Ok(Self { pool, rest })
    }

    /// Does a part on one of the threads and waits for it, as that may wait for a thread. Not to be
    /// called from within a part.
    pub(super) fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        debug_assert!(self.pool.current_thread_index().is_none(), "a part within a part");
        let mut done = None;
        self.pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let _then = RestAgain(self);
                done = Some(part());
            });
            // Not before there is something to do.
            self.rest.end(1);
        });
        done.unwrap_or_else(|| unreachable!("a part that panics ends its caller, too"))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // All of them rest, or are about to.
        self.rest.end(self.pool.current_num_threads());
    }
}

/// Whoever did a part rests, whether that ended well or not.
struct RestAgain<'a>(&'a Aside);

impl Drop for RestAgain<'_> {
    fn drop(&mut self) {
        let rest = self.0.rest.clone();
        self.0.pool.spawn(move || rest.wait());
    }
}

/// Where threads wait for something to do.
#[derive(Default)]
struct Rest(Mutex<Resting>);

#[derive(Default)]
struct Resting {
    /// By their numbers: the first is called first, so that few are ever called where parts come
    /// one at a time. Memory that a thread has freed is best used by the same thread again.
    threads: BTreeMap<usize, Thread>,
    /// How many of those that come next are not to rest.
    called: usize,
}

impl Rest {
    fn wait(&self) {
        let me = rayon_core::current_thread_index().unwrap_or_default();
        let mut resting = self.lock();
        if resting.called > 0 {
            resting.called -= 1;
            return;
        }
        resting.threads.insert(me, thread::current());
        drop(resting);
        while self.lock().threads.contains_key(&me) {
            thread::park();
        }
    }

    fn end(&self, threads: usize) {
        let mut resting = self.lock();
        for _ in 0..threads {
            match resting.threads.pop_first() {
                Some((_, thread)) => thread.unpark(),
                None => resting.called += 1,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Resting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::*;
    use crate::time::Stopwatch;

    #[test]
    fn more_parts_than_threads_are_all_done_and_a_panic_is_the_callers() {
        let aside = Aside::start(2).unwrap();
        let done = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for caller in 0..5 {
                let (aside, done) = (&aside, &done);
                scope.spawn(move || {
                    for part in 0..200 {
                        let panics = caller == 0 && part % 7 == 0;
                        let part = || {
                            assert!(!panics, "on purpose");
                            done.lock().unwrap().push((caller, part));
                        };
                        let ran = catch_unwind(AssertUnwindSafe(|| aside.run(part)));
                        assert_eq!(ran.is_err(), panics);
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        let all = (0..5).flat_map(|caller| (0..200).map(move |part| (caller, part)));
        let without = |(caller, part): &(u32, u32)| *caller != 0 || part % 7 != 0;
        assert_eq!(done, all.filter(without).collect::<Vec<_>>());
        assert_eq!(aside.rest.lock().called, 0);
    }

    #[test]
    fn one_part_after_another_is_done_by_the_same_thread() {
        let aside = Aside::start(4).unwrap();
        let watch = Stopwatch::start();
        for _ in 0..5 {
            // On a busy machine idle threads take their time.
            while aside.rest.lock().threads.len() < 4 {
                assert!(watch.elapsed() < Duration::from_secs(60), "not all of them rest");
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(aside.run(rayon_core::current_thread_index), Some(0));
        }
    }

    #[test]
    fn nobody_rests_any_more_once_it_is_dropped() {
        let aside = Aside::start(3).unwrap();
        (0..100).for_each(|_| aside.run(|| ()));
        let rest = Arc::downgrade(&aside.rest);
        drop(aside);
        let watch = Stopwatch::start();
        while rest.strong_count() > 0 {
            assert!(watch.elapsed() < Duration::from_secs(60), "a thread rests for ever");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
