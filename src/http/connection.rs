//! One connection: serves its requests, and ends it when its peer is too slow or silent.
//!
//! It does not know how connections are accepted.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tower_service::Service;

use crate::http::accept::told_to;
use crate::limits::Limits;
use crate::time::Stopwatch;

/// How long a connection may lie idle between requests.
const IDLE: Duration = Duration::from_secs(75);
/// Time for the last bytes of a connection that is told to end.
const GOODBYE: Duration = Duration::from_secs(1);
/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of a request.
const HEADERS: usize = 100;
/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 128;

/// Serves a connection until it ends, or is idle once `stop` says so.
pub(super) async fn serve<S>(
    stream: S,
    router: Router,
    limits: Arc<Limits>,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let io = Watched { io: TokioIo::new(stream), activity: Arc::clone(&activity) };
    let of_requests = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = Activity::begin(&of_requests, request.version());
        let mut router = router.clone();
        async move {
            let response = router.call(request).await;
            drop(busy);
            response
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = told_to(&mut stop) => {}
        () = activity.too_slow(limits.header_timeout.to_std()) => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GOODBYE, connection.as_mut()).await;
            return;
        }
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => log_end(ended),
        () = activity.too_slow(limits.header_timeout.to_std()) => {}
    }
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(error, "a connection broke off");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The timeout of hyper's own would also close connections that merely wait for the next
    // request; see `Activity`.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// What a connection is doing: receiving the head of a request, answering, or nothing.
struct Activity {
    started: Stopwatch,
    /// When it began to do what it does, in milliseconds since `started`.
    since: AtomicUsize,
    receiving: AtomicBool,
    answering: AtomicUsize,
    /// Frames of HTTP/2 are not heads of requests.
    http2: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        Self {
            started: Stopwatch::start(),
            since: AtomicUsize::new(0),
            // A new connection owes its first request.
            receiving: AtomicBool::new(true),
            answering: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
        }
    }

    fn now(&self) -> usize {
        usize::try_from(self.started.elapsed().as_millis()).unwrap_or(usize::MAX)
    }

    /// Bytes have come.
    fn received(&self) {
        if self.answering.load(Ordering::Relaxed) == 0
            && !self.http2.load(Ordering::Relaxed)
            && !self.receiving.swap(true, Ordering::Relaxed)
        {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// A request is there.
    fn begin(self: &Arc<Self>, version: Version) -> Busy {
        self.answering.fetch_add(1, Ordering::Relaxed);
        self.receiving.store(false, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        Busy(Arc::clone(self))
    }

    /// How long it may go on like this.
    fn left(&self, head: Duration) -> Duration {
        if self.answering.load(Ordering::Relaxed) > 0 {
            return head;
        }
        let allowed = if self.receiving.load(Ordering::Relaxed) { head } else { IDLE };
        let spent = self.now().saturating_sub(self.since.load(Ordering::Relaxed));
        allowed.saturating_sub(Duration::from_millis(spent as u64))
    }

    /// Ends when the peer has taken more than `head` for the head of a request, or more than
    /// [`IDLE`] for nothing.
    async fn too_slow(&self, head: Duration) {
        loop {
            let left = self.left(head);
            if left.is_zero() {
                return;
            }
            // What it does may change meanwhile, and then be due earlier.
            tokio::time::sleep(left.min(head)).await;
        }
    }
}

/// Counts one request until its answer is there.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since.store(self.0.now(), Ordering::Relaxed);
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that reports when bytes come.
struct Watched<I> {
    io: I,
    activity: Arc<Activity>,
}

impl<I: Read + Unpin> Read for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.activity.received();
        }
        polled
    }
}

impl<I: Write + Unpin> Write for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_heads_end_and_idle_connections_last_longer() {
        let head = Duration::from_millis(20);
        let activity = Arc::new(Activity::new());
        assert!(activity.left(head) <= head);
        let busy = Activity::begin(&activity, Version::HTTP_11);
        assert_eq!(activity.left(head), head);
        drop(busy);
        assert!(activity.left(head) > head);
        activity.received();
        assert!(activity.left(head) <= head);
        std::thread::sleep(Duration::from_millis(25));
        activity.too_slow(head).await;
        let _http2 = Activity::begin(&activity, Version::HTTP_2);
        activity.received();
        assert!(!activity.receiving.load(Ordering::Relaxed));
    }
}
