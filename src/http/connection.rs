//! One connection: serves its requests, and ends it when its peer is too slow or silent.
//!
//! It does not know how connections are accepted.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::http::accept::told_to;
use crate::http::call::AnswerBody;
use crate::http::router::Routes;
use crate::limits::Limits;
use crate::metrics::Metrics;

mod activity;

mod stream;

use activity::{Activity, Patience, Turn};
use stream::Watched;

/// How long a connection may lie idle between requests, or leave an answer untaken.
const IDLE: Duration = Duration::from_secs(75);
/// Time for the last bytes of a connection that is told to end.
const GOODBYE: Duration = Duration::from_secs(1);
/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of a request: hyper's own limit. Telling hyper would cost it an allocation each.
const HEADERS: usize = 100;
/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 128;

/// Serves a connection until it ends, or is idle once `stop` says so.
pub(super) async fn serve<S>(
    stream: S,
    routes: Routes,
    (limits, metrics): (&Limits, Arc<Metrics>),
    stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let patience = Patience { head: limits.header_timeout.to_std(), idle: IDLE };
    converse(stream, routes, (patience, metrics), stop).await;
}

async fn converse<S>(
    stream: S,
    routes: Routes,
    (patience, metrics): (Patience, Arc<Metrics>),
    stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new(patience);
    let io = Watched::new(TokioIo::new(stream), Arc::clone(&activity), metrics);
    let of_requests = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut turn = of_requests.begin(request.version());
        let routes = routes.clone();
        async move {
            let response = routes.answer(request).await;
            turn.answered();
            Ok::<_, Infallible>(response.map(|body| Answer { body, _turn: turn }))
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    loop {
        let (_watching, why) = watch_for_the_end(stop.clone(), &activity);
        let why = tokio::select! {
            biased;
            why = why => why,
            ended = connection.as_mut() => return log_end(ended),
        };
        if why != Ok(End::TooSlow) {
            break;
        }
        // A request may have come since it was found too slow.
        if activity.left().is_zero() {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GOODBYE, connection.as_mut()).await;
            return;
        }
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => log_end(ended),
        () = activity.too_slow() => {}
    }
}

/// Why a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Told,
    TooSlow,
}

/// Waits for what ends a connection in a task of its own, for as long as the first of the two is
/// kept: so no request that comes has to ask a timer and a lock whether they are ready, only a
/// flag.
fn watch_for_the_end(
    mut stop: watch::Receiver<bool>,
    activity: &Arc<Activity>,
) -> (JoinSet<()>, oneshot::Receiver<End>) {
    let (say, why) = oneshot::channel();
    let activity = Arc::clone(activity);
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        let end = tokio::select! {
            () = told_to(&mut stop) => End::Told,
            () = activity.too_slow() => End::TooSlow,
        };
        // The connection may have ended by itself.
        let _ = say.send(end);
    });
    (watching, why)
}

/// The body of an answer, with its turn until hyper has taken it.
struct Answer {
    body: AnswerBody,
    _turn: Turn,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
        // Head and body of an answer in one piece: copying it is cheaper than a vectored write.
        .writev(false)
        .max_buf_size(HEAD_BYTES);
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

#[cfg(test)]
mod tests;
