//! Accepts connections within their limit and serves each in a task of its own.
//!
//! It does not know requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::engine::error::Problem;
use crate::http::router::{Listener, Routes};
use crate::http::{connection, problem};
use crate::limits::Limits;
use crate::metrics::{Code, Counter, Gauge, Metrics};

/// Rest after a failure to accept, which mostly means that there is no file descriptor left.
const BREATH: Duration = Duration::from_millis(50);
/// Time to tell a connection that it is one too many.
const REFUSAL: Duration = Duration::from_secs(1);
/// Most connections of the operations listener.
const OPERATIONS_CONNECTIONS: usize = 64;
/// Connections beyond the limit that are told so at once; more are just closed.
const REFUSALS: usize = 256;

/// Where connections come from.
pub enum Incoming {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix domain socket.
    Unix(UnixListener),
}

/// What listeners that count together share.
pub struct Connections {
    of: Listener,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
}

impl Connections {
    /// Counts the connections of the API against `limits.connections`, those of operations against
    /// a limit of their own: a crowd at the API must not keep out those who ask how it is.
    pub fn new(of: Listener, limits: &Limits, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { of, limits: Arc::new(limits.clone()), metrics: Arc::clone(metrics) })
    }

    fn limit(&self) -> usize {
        match self.of {
            Listener::Api => self.limits.connections,
            Listener::Operations => OPERATIONS_CONNECTIONS,
        }
    }

    /// What a connection beyond the limit is told.
    fn full(&self) -> Problem {
        let limit = self.limit();
        let detail = match self.of {
            Listener::Api => {
                format!("{limit} connections are open, the limit limits.connections")
            }
            Listener::Operations => {
                format!("{limit} connections to the operations listener are open, all it takes")
            }
        };
        Problem::new(Code::Overloaded, detail)
    }

    fn open(&self) -> &Gauge {
        match self.of {
            Listener::Api => &self.metrics.connections_open,
            Listener::Operations => &self.metrics.operations_open,
        }
    }

    fn accepted(&self) -> &Counter {
        match self.of {
            Listener::Api => &self.metrics.connections_accepted,
            Listener::Operations => &self.metrics.operations_accepted,
        }
    }

    fn refused(&self) -> &Counter {
        match self.of {
            Listener::Api => &self.metrics.connections_refused,
            Listener::Operations => &self.metrics.operations_refused,
        }
    }

    fn enter(self: &Arc<Self>) -> Place {
        let before = usize::try_from(self.open().add(1)).unwrap_or(usize::MAX);
        Place { connections: Arc::clone(self), before }
    }
}

/// One open connection.
struct Place {
    connections: Arc<Connections>,
    /// How many were open before it.
    before: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().subtract(1);
    }
}

/// Accepts from `incoming` until `stop` says so, then ends when the last connection has. Dropping
/// the future ends all connections.
pub async fn accept(
    incoming: Incoming,
    routes: Routes,
    connections: Arc<Connections>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let until = stop.clone();
    loop {
        tokio::select! {
            () = told_to(&mut stop) => break,
            // A set that is never asked keeps the tasks that have ended.
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            accepted = next(&incoming) => match accepted {
                Ok(Stream::Tcp(stream)) => {
                    take(stream, &mut tasks, (&routes, &connections), &until);
                }
                Ok(Stream::Unix(stream)) => {
                    take(stream, &mut tasks, (&routes, &connections), &until);
                }
                Err(error) => {
                    // A connection that was gone before it was accepted is no reason to wait.
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(BREATH).await;
                    }
                }
            },
        }
    }
    drop(incoming);
    while tasks.join_next().await.is_some() {}
}

/// Ends when `stop` says so, or when nothing can say so any more.
pub(super) async fn told_to(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn next(incoming: &Incoming) -> io::Result<Stream> {
    match incoming {
        Incoming::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // An answer is one write; waiting to fill a packet only delays it.
            let _ = stream.set_nodelay(true);
            Ok(Stream::Tcp(stream))
        }
        Incoming::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
    }
}

fn take<S>(
    stream: S,
    tasks: &mut JoinSet<()>,
    (routes, connections): (&Routes, &Arc<Connections>),
    stop: &watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = connections.enter();
    let limit = connections.limit();
    if place.before >= limit {
        connections.refused().increment();
        if place.before < limit.saturating_add(REFUSALS) {
            tasks.spawn(async move {
                let full = place.connections.full();
                let _ = tokio::time::timeout(REFUSAL, refuse(stream, &full)).await;
                drop(place);
            });
        }
        return;
    }
    connections.accepted().increment();
    let (routes, stop) = (routes.clone(), stop.clone());
    tasks.spawn(async move {
        let Connections { limits, metrics, .. } = &*place.connections;
        connection::serve(stream, routes, (limits, Arc::clone(metrics)), stop).await;
        drop(place);
    });
}

/// Tells a connection that it is one too many, in the only words any HTTP/1 client understands.
async fn refuse<S>(mut stream: S, full: &Problem) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = problem::alone(full);
    // Closing with the request unread would reset the connection, and the answer with it.
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    stream.write_all(&answer).await?;
    stream.shutdown().await
}
