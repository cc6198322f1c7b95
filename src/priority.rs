//! How threads that work beside the requests give way to those that answer them.
//!
//! It does not know what any thread does.

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

    #[test]
    fn an_idle_thread_starts_idle_threads() {
        let policy = std::thread::spawn(|| {
            idle();
            std::thread::spawn(thread_schedule_policy).join().unwrap()
        });
        let expected = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        assert_eq!(policy.join().unwrap(), Ok(expected));
    }
}
