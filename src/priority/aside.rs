//! Threads that stay idle, for parts of work that borrow what they need.
//!
//! It does not know how long a part takes, nor who waits for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rayon_core::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::priority::idle;

/// Idle threads that do parts of work and rest in between.
///
/// A thread of rayon's that finds nothing to do yields its core some thirty times before it sleeps,
/// and an idle thread must not yield, see [`idle`]. So these always have something to do: to rest
/// is a part, too.
pub(super) struct Aside {
    pool: ThreadPool,
    rest: Arc<Rest>,
}

impl Aside {
    pub(super) fn start(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.thread_name(|_| "larder-idle".to_owned()).start_handler(|_| idle());
        let (pool, rest) = (pool.build()?, Arc::new(Rest::default()));
        let resting = rest.clone();
        pool.spawn_broadcast(move |_| resting.wait());
        Ok(Self { pool, rest })
    }

    /// Does a part on one of the threads and waits for it, as that may wait for a thread.
    pub(super) fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        self.rest.end(1);
        self.pool.install(|| {
            let _then = RestAgain(self);
            part()
        })
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
struct Rest {
    /// How many are to end their rest.
    called: Mutex<usize>,
    again: Condvar,
}

impl Rest {
    fn wait(&self) {
        let called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.again.wait_while(called, |called| *called == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
    }

    fn end(&self, threads: usize) {
        *self.called.lock().unwrap_or_else(PoisonError::into_inner) += threads;
        (0..threads).for_each(|_| self.again.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;
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
        assert_eq!(*aside.rest.called.lock().unwrap(), 0);
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
