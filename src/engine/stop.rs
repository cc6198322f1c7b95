//! Tells a thread to end, wherever it waits.
//!
//! It does not know what the thread does.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Said once and for good.
///
/// Not a channel: who waits at one of crossbeam's yields its core a few times first, which an idle
/// thread must not do; see `priority::idle`.
#[derive(Default)]
pub(super) struct Stop {
    is_told: Mutex<bool>,
    told: Condvar,
}

impl Stop {
    /// Ends every wait, and those to come.
    pub(super) fn tell(&self) {
        *self.is_told.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    pub(super) fn is_told(&self) -> bool {
        *self.is_told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long at most; says whether it is told.
    pub(super) fn is_told_within(&self, time: Duration) -> bool {
        let is_told = self.is_told.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.told.wait_timeout_while(is_told, time, |is_told| !*is_told);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use super::*;
    use crate::time::Stopwatch;

    #[test]
    fn whoever_waits_is_told_at_once_and_for_good() {
        let stop = Stop::default();
        assert!(!stop.is_told() && !stop.is_told_within(Duration::from_millis(1)));
        let (say, said) = channel();
        thread::scope(|scope| {
            let waits = |say: Sender<()>| {
                say.send(()).unwrap();
                stop.is_told_within(Duration::from_secs(60))
            };
            let waiting = [say.clone(), say].map(|say| scope.spawn(move || waits(say)));
            said.iter().take(2).for_each(drop);
            // They wait by then, or soon.
            thread::sleep(Duration::from_millis(10));
            let watch = Stopwatch::start();
            stop.tell();
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
            assert!(watch.elapsed() < Duration::from_secs(60));
        });
        assert!(stop.is_told() && stop.is_told_within(Duration::ZERO));
    }
}
