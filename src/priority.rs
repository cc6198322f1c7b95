//! How threads that work beside the requests give way to those that answer them.
//!
//! It does not know what any thread does.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::time::{Stopwatch, processor_time};

/// Leaves the processor to every other thread: this one, and those it starts from then on, run in
/// time that nobody wants (`SCHED_IDLE`). For work that no request waits for.
///
/// Niceness is not enough: since Linux 6.6 a thread that wakes up to answer a request does not
/// take the core from a nice one before the slice of that one ends, some 3 ms later.
pub fn idle() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    if let Err(error) = set {
        tracing::debug!(%error, "a thread beside the requests keeps its normal priority");
    }
}

/// Does `work` on a thread that is [`idle`] and waits for it: no thread can come back from being
/// idle without privileges.
fn idly<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let aside = || {
        idle();
        work()
    };
    thread::scope(|scope| scope.spawn(aside).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// How a long piece of work is done that lookups come before, part by part: each part [`idle`];
/// but where one was kept waiting, as on a host whose cores are always busy, those after it as any
/// other work, for as long as it had to wait. So the whole gets on, at half of its speed at worst.
pub struct Manner {
    gives_way: bool,
    /// For how long parts need not be idle, in microseconds.
    owed: AtomicI64,
}

/// A part that got less of a core than one in so many was kept waiting.
const PATIENCE: u32 = 10;

impl Manner {
    /// Idle at first if it `gives_way`, else never.
    pub fn new(gives_way: bool) -> Self {
        Self { gives_way, owed: AtomicI64::new(0) }
    }

    /// Does a part of the work and waits for it. A part should be small: what is idle has to end
    /// as such.
    pub fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        if !self.gives_way {
            return part();
        }
        let watch = Stopwatch::start();
        if self.owed.load(Ordering::Relaxed) > 0 {
            let done = part();
            self.owed.fetch_sub(micros(watch.elapsed()), Ordering::Relaxed);
            return done;
        }
        let (done, worked) = idly(|| (part(), processor_time()));
        let took = watch.elapsed();
        if took > worked * PATIENCE {
            self.owed.fetch_add(micros(took - worked), Ordering::Relaxed);
        }
        done
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Takes less of the processor than others do. For work that a write may have to wait for.
pub fn low() {
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "a thread beside the requests keeps its normal priority");
    }
}

#[cfg(test)]
mod tests {
    use thread_priority::thread_schedule_policy;

    use super::*;

    const IDLE: ThreadSchedulePolicy =
        ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

    #[test]
    fn an_idle_thread_starts_idle_threads() {
        let policy = thread::spawn(|| {
            idle();
            thread::spawn(thread_schedule_policy).join().unwrap()
        });
        assert_eq!(policy.join().unwrap(), Ok(IDLE));
    }

    #[test]
    fn what_is_done_idly_leaves_the_caller_as_it_was() {
        let here = thread_schedule_policy();
        assert_ne!(here, Ok(IDLE));
        assert_eq!(idly(thread_schedule_policy), Ok(IDLE));
        assert_eq!(thread_schedule_policy(), here);
    }

    #[test]
    fn parts_are_idle_until_one_is_kept_waiting_and_again_when_that_is_made_up_for() {
        let busy = || {
            let worked = processor_time();
            while processor_time() - worked < Duration::from_millis(1) {}
            thread_schedule_policy()
        };
        let manner = Manner::new(true);
        assert_eq!(manner.run(thread_schedule_policy), Ok(IDLE));
        let waits = || {
            thread::sleep(Duration::from_millis(200));
            thread_schedule_policy()
        };
        // The first one may have waited, too.
        while manner.run(waits) != Ok(IDLE) {}
        assert_ne!(manner.run(thread_schedule_policy), Ok(IDLE));
        let mut parts = 0;
        while manner.run(busy) != Ok(IDLE) {
            parts += 1;
        }
        assert!(parts > 0, "it was not made up for");
        let never = Manner::new(false);
        assert_ne!(never.run(thread_schedule_policy), Ok(IDLE));
    }
}
