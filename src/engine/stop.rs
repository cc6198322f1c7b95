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
    use std::thread;

    use super::*;

    #[test]
    fn whoever_waits_is_told_at_once_and_for_good() {
        let stop = Stop::default();
        assert!(!stop.is_told() && !stop.is_told_within(Duration::from_millis(1)));
        thread::scope(|scope| {
            let waits = || stop.is_told_within(Duration::from_secs(3600));
            let waiting = [scope.spawn(waits), scope.spawn(waits)];
            stop.tell();
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert!(stop.is_told() && stop.is_told_within(Duration::ZERO));
    }
}
