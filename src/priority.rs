//! How threads that work beside the requests give way to those that answer them.
//!
//! It does not know what any thread does.

use std::panic::resume_unwind;
use std::thread;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

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

/// Does `work` on a thread that is [`idle`] and waits for it; or, if it is `behind`, here: where
/// every core is always busy, idle work would hardly get on, and what waits for it would pile up.
/// (A thread itself cannot come back from being idle without privileges.)
pub fn idle_unless<T: Send>(behind: bool, work: impl FnOnce() -> T + Send) -> T {
    if behind {
        return work();
    }
    let aside = || {
        idle();
        work()
    };
    thread::scope(|scope| scope.spawn(aside).join().unwrap_or_else(|panic| resume_unwind(panic)))
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
    fn what_is_behind_is_not_idle() {
        assert_eq!(idle_unless(false, thread_schedule_policy), Ok(IDLE));
        let here = thread_schedule_policy();
        assert_ne!(here, Ok(IDLE));
        assert_eq!(idle_unless(true, thread_schedule_policy), here);
        assert_eq!(thread_schedule_policy(), here, "the caller stays as it was");
    }
}
