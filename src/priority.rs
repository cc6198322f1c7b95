//! How threads that work beside the requests give way to those that answer them.
//!
//! It does not know what any thread does.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

use crate::priority::aside::Aside;
use crate::time::{self, Stopwatch};

mod aside;

const IDLE: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

/// Leaves the processor to every other thread: this one, and those it starts from then on, run in
/// time that nobody wants (`SCHED_IDLE`). For work that no request waits for.
///
/// Niceness is not enough: since Linux 6.6 a thread that wakes up to answer a request does not
/// take the core from a nice one before the slice of that one ends, some 3 ms later.
///
/// An idle thread must not yield, nor wait where that is done first: since Linux 6.18 (and 6.12.63)
/// who yields gives up the rest of its slice, which makes every other idle thread one that is owed
/// as much. The kernel lets that one have it before a lookup, and looks again at the next tick.
pub fn idle() {
    if thread_schedule_policy() == Ok(IDLE) {
        return;
    }
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, IDLE);
    if let Err(error) = set {
        tracing::debug!(%error, "a thread beside the requests keeps its normal priority");
    }
    // The exception, once: who began to wait before that would wait on until the clock's next tick,
    // up to 4 ms. The kernel looks at who comes first when somebody wakes up, not when somebody
    // steps back.
    thread::yield_now();
}

/// How a long piece of work is done that lookups come before, part by part: each part [`idle`];
/// but where one was kept waiting for a core, as on a host whose cores are always busy, those after
/// it as any other work, for as long as it had to wait. So the whole gets on: with half of a core
/// where it would starve, with a fiftieth at least of what it would have alone where it would not.
pub struct Manner {
    /// Where parts are idle; none where nothing gives way, or no thread could be had.
    ///
    /// Its threads stay: no thread can come back from being idle without privileges. And what only
    /// just stepped back is owed what it waited for as a normal one, which the kernel lets it have
    /// before anybody else, for milliseconds.
    aside: Option<Arc<Aside>>,
    /// For how long parts need not be idle, in microseconds.
    owed: AtomicU64,
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
    /// Every part is done as any other work.
    pub fn normal() -> Self {
        Self::of(None)
    }

    /// Parts are idle at first, up to `at_once` of them at once.
    pub fn giving_way(at_once: usize) -> Self {
        let aside = Aside::start(at_once).inspect_err(|error| {
            tracing::warn!(%error, "no threads for idle work; it is done at normal priority");
        });
        Self::of(aside.ok().map(Arc::new))
    }

    fn of(aside: Option<Arc<Aside>>) -> Self {
        Self { aside, owed: AtomicU64::new(0), seen: Mutex::default() }
    }

    /// The same threads, for other work: nothing is owed to that yet.
    pub fn anew(&self) -> Self {
        Self::of(self.aside.clone())
    }

    /// Does a part of the work and waits for it. A part should be small: what is idle has to end
    /// as such.
    pub fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        let asked = Stopwatch::start();
        match self.aside() {
            Some(aside) => aside.run(|| self.noted(asked.elapsed(), part)),
            None => self.normally(part),
        }
    }

    /// Does part after part until one ends the work, and says how that one ended it. Nobody has to
    /// wake up between parts that are idle.
    pub fn run_parts<T: Send>(&self, mut part: impl FnMut() -> ControlFlow<T> + Send) -> T {
        loop {
            let asked = Stopwatch::start();
            let ended = match self.aside() {
                Some(aside) => aside.run(|| self.idly(asked.elapsed(), &mut part)),
                None => self.normally(&mut part),
            };
            if let ControlFlow::Break(how) = ended {
                return how;
            }
        }
    }

    /// Does parts until one ends the work or the next need not be idle.
    fn idly<T>(
        &self,
        mut waited: Duration,
        mut part: impl FnMut() -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        loop {
            let ended = self.noted(std::mem::take(&mut waited), &mut part);
            if ended.is_break() || self.aside().is_none() {
                return ended;
            }
        }
    }

    /// Does a part on this thread, which is idle and `waited` for a core before: who is starved
    /// mostly waits there.
    fn noted<T>(&self, waited: Duration, part: impl FnOnce() -> T) -> T {
        let before = Cores::of_this_thread();
        let done = part();
        let cores = Cores::of_this_thread().since(before);
        self.take_note(Cores { waited: cores.waited + waited, ..cores });
        done
    }

    /// Where the next part is done if it is to be idle.
    fn aside(&self) -> Option<&Aside> {
        self.aside.as_deref().filter(|_| self.owed.load(Ordering::Relaxed) == 0)
    }

    fn normally<T>(&self, part: impl FnOnce() -> T) -> T {
        let watch = Stopwatch::start();
        let done = part();
        // No part makes up for what others will wait.
        let took = micros(watch.elapsed());
        let _ = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| {
            Some(owed.saturating_sub(took))
        });
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
    /// By the kernel's own count. Where it keeps none of waiting, only what a part waits for before
    /// it begins is known.
    fn of_this_thread() -> Self {
        let told = fs::read_to_string("/proc/thread-self/schedstat");
        let waited = told.ok().and_then(|told| waited(&told)).unwrap_or_default();
        Self { had: time::of_this_thread(), waited }
    }

    /// What came to it since it had `before`.
    fn since(self, before: Self) -> Self {
        let had = self.had.saturating_sub(before.had);
        Self { had, waited: self.waited.saturating_sub(before.waited) }
    }
}

/// Of nanoseconds on a core (as of the last tick), nanoseconds in a queue for one, and how often it
/// was given one.
fn waited(told: &str) -> Option<Duration> {
    told.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Takes less of the processor than others do. For work that a write may have to wait for.
pub fn low() {
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "a thread beside the requests keeps its normal priority");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

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
        let manner = Manner::giving_way(1);
        assert_eq!(manner.run(thread_schedule_policy), Ok(IDLE));
        let panics = || manner.anew().run(|| panic!("on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        // On a busy machine the first may have been kept waiting.
        assert_eq!(manner.anew().run(thread_schedule_policy), Ok(IDLE));
        assert_eq!(thread_schedule_policy(), here);
    }

    #[test]
    fn parts_follow_on_one_another_idle_and_as_any_other_work_while_some_is_owed() {
        let manner = Manner::giving_way(1);
        let mut seen = Vec::new();
        let ended = manner.run_parts(|| {
            let watch = Stopwatch::start();
            while watch.elapsed() < Duration::from_millis(1) {}
            // However busy the machine is, none was kept waiting.
            manner.seen.lock().unwrap().had = Duration::from_secs(3600);
            seen.push((thread_schedule_policy() == Ok(IDLE), thread::current().id()));
            if seen.len() == 2 {
                manner.owed.store(5_000, Ordering::Relaxed);
            }
            let is_idle_again = seen.iter().skip(2).any(|(is_idle, _)| *is_idle);
            if is_idle_again { ControlFlow::Break("ended") } else { ControlFlow::Continue(()) }
        });
        assert_eq!(ended, "ended");
        let idle: Vec<bool> = seen.iter().map(|(is_idle, _)| *is_idle).collect();
        let (normal, ends) = (idle.len() - 3, idle.len() - 1);
        assert!((1..=5).contains(&normal), "{idle:?}");
        assert!(idle[..2].iter().chain(&idle[ends..]).all(|is_idle| *is_idle), "{idle:?}");
        assert!(idle[2..ends].iter().all(|is_idle| !is_idle), "{idle:?}");
        assert!(seen[..2].iter().chain(&seen[ends..]).all(|(_, thread)| *thread == seen[0].1));
        assert!(seen[2..ends].iter().all(|(_, thread)| *thread == thread::current().id()));
        assert_eq!(manner.owed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn other_work_on_the_same_threads_owes_nothing_yet() {
        let manner = Manner::giving_way(1);
        manner.owed.store(1_000_000, Ordering::Relaxed);
        assert_ne!(manner.run(thread_schedule_policy), Ok(IDLE));
        assert_eq!(manner.anew().run(thread_schedule_policy), Ok(IDLE));
    }

    #[test]
    fn what_a_part_waits_for_before_it_begins_counts() {
        let manner = Manner::giving_way(1);
        let (say, said) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                manner.run(|| {
                    say.send(()).unwrap();
                    thread::sleep(2 * JUDGED);
                });
            });
            // The only thread is taken.
            said.recv().unwrap();
            manner.run(|| ());
        });
        assert_ne!(manner.owed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_kernel_tells_what_a_thread_had_and_waited_for() {
        assert_eq!(waited("905343 348068 7\n"), Some(Duration::from_nanos(348_068)));
        for odd in ["", "905343", "905343 x 7", "1 -2 3"] {
            assert_eq!(waited(odd), None, "{odd:?}");
        }
        let watch = Stopwatch::start();
        let before = Cores::of_this_thread();
        while watch.elapsed() < Duration::from_millis(2) {}
        let Cores { had, waited } = Cores::of_this_thread().since(before);
        assert!(!had.is_zero() && had + waited <= watch.elapsed(), "{had:?} {waited:?}");
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
            let manner = Manner::giving_way(1);
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
        let never = Manner::normal();
        assert_ne!(never.run(thread_schedule_policy), Ok(IDLE));
    }
}
