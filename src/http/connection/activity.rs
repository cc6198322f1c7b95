//! What a connection is doing, and how long it may go on like that.
//!
//! It does not know bytes or requests, only when they come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Version;

use crate::time::tick_millis;

/// A turn whose answer is not there yet; the low half of [`Activity::turns`] counts these.
const ANSWERING: usize = 1;
/// A turn whose answer hyper has not taken whole; the high half counts these.
const SENDING: usize = 1 << (usize::BITS / 2);
/// HTTP/2 keeps itself up with small frames (a ping has 17 bytes); they are no progress.
const UPKEEP_BYTES: usize = 64;

/// How long a connection may take, or do nothing.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For the head of a request.
    pub(super) head: Duration,
    /// Between requests, and between two parts of an answer.
    pub(super) idle: Duration,
}

/// What a connection is doing: receiving the head of a request, answering, sending, or nothing.
pub(super) struct Activity {
    patience: Patience,
    /// When it began to do what it does, in [`tick_millis`].
    since: AtomicUsize,
    /// Bytes have left since `since` was written.
    moved: AtomicBool,
    receiving: AtomicBool,
    turns: AtomicUsize,
    /// An answer that hyper has taken has perhaps not left yet.
    unsent: AtomicBool,
    /// Frames of HTTP/2 are not heads of requests.
    http2: AtomicBool,
}

impl Activity {
    pub(super) fn new(patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            patience,
            since: AtomicUsize::new(tick_millis()),
            moved: AtomicBool::new(false),
            // A new connection owes its first request.
            receiving: AtomicBool::new(true),
            turns: AtomicUsize::new(0),
            unsent: AtomicBool::new(false),
            http2: AtomicBool::new(false),
        })
    }

    fn restart(&self) {
        self.since.store(tick_millis(), Ordering::Relaxed);
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        if self.owes_nothing() && !self.receiving.load(Ordering::Relaxed) {
            // Before it says so: who looks meanwhile must not count from the last request.
            self.restart();
            self.moved.store(false, Ordering::Relaxed);
            self.receiving.store(true, Ordering::Relaxed);
        }
    }

    /// So many bytes have left.
    pub(super) fn sent(&self, bytes: usize) {
        if bytes > UPKEEP_BYTES || !self.http2.load(Ordering::Relaxed) {
            self.moved.store(true, Ordering::Relaxed);
        }
    }

    /// Everything that hyper had to send has left.
    pub(super) fn flushed(&self) {
        if self.turns.load(Ordering::Relaxed) == 0 {
            self.unsent.store(false, Ordering::Relaxed);
        }
    }

    /// The peer sent what is no request, was told so, and now only has to go.
    pub(super) fn refused(&self) {
        self.receiving.store(true, Ordering::Relaxed);
        self.restart();
    }

    /// Whether every request over HTTP/1 has been answered and the answer has left: what hyper
    /// writes now is its own.
    pub(super) fn owes_nothing(&self) -> bool {
        self.turns.load(Ordering::Relaxed) == 0
            && !self.unsent.load(Ordering::Relaxed)
            && !self.http2.load(Ordering::Relaxed)
    }

    /// A request is there.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Turn {
        self.turns.fetch_add(ANSWERING, Ordering::Relaxed);
        self.receiving.store(false, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        Turn { activity: Arc::clone(self), answered: false }
    }

    /// How long it may go on like this.
    pub(super) fn left(&self) -> Duration {
        let Patience { head, idle } = self.patience;
        if !self.turns.load(Ordering::Relaxed).is_multiple_of(SENDING) {
            return head;
        }
        let receiving = self.receiving.load(Ordering::Relaxed);
        if !receiving && self.moved.swap(false, Ordering::Relaxed) {
            self.restart();
        }
        let allowed = if receiving { head } else { idle };
        let passed = tick_millis().saturating_sub(self.since.load(Ordering::Relaxed));
        allowed.saturating_sub(Duration::from_millis(passed as u64))
    }

    /// Ends when the peer has taken too long for the head of a request, or has done nothing, nor
    /// taken anything of an answer, for too long.
    pub(super) async fn too_slow(&self) {
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            // What it does may change meanwhile, and then be due earlier.
            tokio::time::sleep(left.min(self.patience.head)).await;
        }
    }
}

/// One request until hyper has taken the whole of its answer.
pub(super) struct Turn {
    activity: Arc<Activity>,
    answered: bool,
}

impl Turn {
    /// The answer is there.
    pub(super) fn answered(&mut self) {
        self.answered = true;
        self.activity.moved.store(true, Ordering::Relaxed);
        self.activity.turns.fetch_add(SENDING - ANSWERING, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let counted = if self.answered { SENDING } else { ANSWERING };
        self.activity.unsent.store(true, Ordering::Relaxed);
        self.activity.turns.fetch_sub(counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_millis(20);
    const IDLE: Duration = Duration::from_secs(3_600);

    fn activity(idle: Duration) -> Arc<Activity> {
        Activity::new(Patience { head: HEAD, idle })
    }

    fn answer(activity: &Arc<Activity>, version: Version) {
        let mut turn = activity.begin(version);
        assert_eq!(activity.left(), HEAD);
        turn.answered();
    }

    #[tokio::test]
    async fn slow_heads_end_and_idle_connections_last_longer() {
        let activity = activity(IDLE);
        assert!(activity.left() <= HEAD);
        answer(&activity, Version::HTTP_11);
        assert!(activity.left() > HEAD);
        activity.flushed();
        activity.received();
        assert!(activity.left() <= HEAD);
        std::thread::sleep(HEAD);
        activity.too_slow().await;
        answer(&activity, Version::HTTP_2);
        activity.flushed();
        activity.received();
        assert!(activity.left() > HEAD);
    }

    #[test]
    fn what_leaves_counts_and_upkeep_does_not() {
        let check = |version, bytes: usize, counts: bool| {
            let activity = activity(HEAD);
            answer(&activity, version);
            assert!(!activity.left().is_zero());
            // The tick is some milliseconds behind.
            std::thread::sleep(2 * HEAD);
            activity.sent(bytes);
            assert_eq!(!activity.left().is_zero(), counts, "{version:?} {bytes}");
        };
        check(Version::HTTP_11, 1, true);
        check(Version::HTTP_2, 1_000, true);
        check(Version::HTTP_2, 17, false);
    }

    #[test]
    fn an_answer_is_owed_until_it_has_left() {
        let activity = activity(IDLE);
        assert!(activity.owes_nothing());
        let mut turn = activity.begin(Version::HTTP_11);
        activity.flushed();
        assert!(!activity.owes_nothing());
        turn.answered();
        activity.flushed();
        assert!(!activity.owes_nothing(), "hyper has not taken it");
        // The next request may come while the answer is still being sent; that is no slow head.
        drop(turn);
        activity.received();
        assert!(activity.left() > HEAD && !activity.owes_nothing());
        activity.flushed();
        assert!(activity.owes_nothing());
        drop(activity.begin(Version::HTTP_2));
        activity.flushed();
        assert!(!activity.owes_nothing(), "over HTTP/2 nothing is hyper's own");
    }
}
