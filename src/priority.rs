//! How threads that work beside the requests give way to those that answer them.
//!
//! It does not know what any thread does.

use std::fs;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::time::Stopwatch;

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
    // Who began to wait before that would wait on until the clock's next tick, up to 4 ms: the
    // kernel looks at who comes first when somebody wakes up, not when somebody steps back.
    thread::yield_now();
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
/// but where one was kept waiting for a core, as on a host whose cores are always busy, those after
/// it as any other work, for as long as it had to wait. So the whole gets on: with half of a core
/// where it would starve, with a fiftieth at least of what it would have alone where it would not.
pub struct Manner {
    gives_way: bool,
    /// For how long parts need not be idle, in microseconds.
    owed: AtomicI64,
    /// What idle parts got that was not judged yet.
    seen: Mutex<Cores>,
}

/// A part that waited for a core for so many times as long as it had one was kept waiting. Who is
/// idle gets a three hundredth of a busy core, and the tenth or twentieth part of one that others
/// have who are idle, too: they only take turns.
const PATIENCE: u32 = 50;
/// So much waiting is judged at once: a short part may have to wait for its turn many times as long
/// as it takes, without being starved.
const JUDGED: Duration = Duration::from_millis(100);

impl Manner {
    /// Idle at first if it `gives_way`, else never.
    pub fn new(gives_way: bool) -> Self {
        Self { gives_way, owed: AtomicI64::new(0), seen: Mutex::default() }
    }

    /// Does a part of the work and waits for it. A part should be small: what is idle has to end
    /// as such.
    pub fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        if !self.gives_way {
            return part();
        }
        if self.owed.load(Ordering::Relaxed) > 0 {
            let watch = Stopwatch::start();
            let done = part();
            self.owed.fetch_sub(micros(watch.elapsed()), Ordering::Relaxed);
            return done;
        }
        let (done, cores) = idly(|| (part(), Cores::of_this_thread()));
        self.take_note(cores);
        done
    }

    /// Of what a part got that was idle.
    fn take_note(&self, cores: Cores) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.had += cores.had;
        seen.waited += cores.waited;
        if seen.waited < JUDGED {
            return;
        }
        let Cores { had, waited } = std::mem::take(&mut *seen);
        if waited > had * PATIENCE {
            self.owed.fetch_add(micros(waited), Ordering::Relaxed);
        }
    }
}

/// What a thread got of the cores since it began. What it waited for a disk, another thread or a
/// budget is in neither.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Cores {
    had: Duration,
    /// Ready to run, while others did.
    waited: Duration,
}

impl Cores {
    /// By the kernel's own count; nothing where it keeps none, and then every part is idle.
    fn of_this_thread() -> Self {
        let told = fs::read_to_string("/proc/thread-self/schedstat");
        told.ok().and_then(|told| Self::read(&told)).unwrap_or_default()
    }

    /// Nanoseconds on a core, nanoseconds in a queue for one, and how often it was given one.
    fn read(told: &str) -> Option<Self> {
        let mut numbers = told.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok().map(Duration::from_nanos);
        Some(Self { had: next()?, waited: next()? })
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
    fn the_kernel_tells_what_a_thread_had_and_waited_for() {
        let (had, waited) = (Duration::from_nanos(905_343), Duration::from_nanos(348_068));
        assert_eq!(Cores::read("905343 348068 7\n"), Some(Cores { had, waited }));
        for odd in ["", "905343", "905343 x 7", "-1 2 3"] {
            assert_eq!(Cores::read(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn what_sleeps_is_not_kept_waiting() {
        let asleep = Duration::from_millis(300);
        let slept = move || {
            thread::sleep(asleep);
            Cores::of_this_thread()
        };
        let Cores { had, waited } = thread::spawn(slept).join().unwrap();
        assert_ne!(had, Duration::ZERO, "the kernel keeps no count");
        assert!(had + waited < asleep, "{had:?} on a core and {waited:?} before one");
    }

    #[test]
    fn parts_are_idle_until_one_is_kept_waiting_and_again_when_that_is_made_up_for() {
        let busy = || {
            let watch = Stopwatch::start();
            while watch.elapsed() < Duration::from_millis(1) {}
            thread_schedule_policy()
        };
        let after = |parts: &[(u64, u64)]| {
            let manner = Manner::new(true);
            for (had, waited) in parts {
                let [had, waited] = [*had, *waited].map(Duration::from_millis);
                manner.take_note(Cores { had, waited });
            }
            manner
        };
        for parts in [&[(2, 100)][..], &[(0, 50)], &[(2, 50), (3, 60)]] {
            assert_eq!(after(parts).run(busy), Ok(IDLE), "{parts:?}");
        }
        assert_ne!(after(&[(0, 50), (1, 60)]).run(busy), Ok(IDLE));
        let manner = after(&[(2, 101)]);
        let mut parts = 0;
        while manner.run(busy) != Ok(IDLE) {
            parts += 1;
        }
        assert!((1..=101).contains(&parts), "{parts} parts of a millisecond and more");
        let never = Manner::new(false);
        assert_ne!(never.run(thread_schedule_policy), Ok(IDLE));
    }
}
