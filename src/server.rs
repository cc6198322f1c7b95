//! Assembles and runs a server: listeners first, then the engine, then readiness; and takes it all
//! down again without losing an acknowledged write.
//!
//! It does not know requests or storage, only when each begins and ends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::Config;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskError, remove_if_there};
use crate::engine::Engine;
use crate::engine::open::{OpenError, Options, open};
use crate::engine::seal::SealOptions;
use crate::http::accept::{Connections, Incoming, accept};
use crate::http::door::Door;
use crate::http::router::{Listener, Routes};
use crate::metrics::Metrics;
use crate::online::TierLimits;
use crate::time::{Clock, SystemClock};

pub mod definition_files;

mod definitions;

pub mod logging;

mod open_files;

/// The addresses a server listens on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Of the API; port 0 has become a real one.
    pub listen: SocketAddr,
    /// Of health, readiness and metrics alone.
    pub operations: Option<SocketAddr>,
    /// The Unix domain socket of the API.
    pub unix_socket: Option<PathBuf>,
}

/// Why a server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The runtime cannot start its threads.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address or path.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Another process serves the Unix socket.
    #[error("cannot listen on {path}: another process does")]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// What is left of an earlier Unix socket cannot be removed.
    #[error("cannot remove the earlier socket: {0}")]
    EarlierSocket(#[source] DiskError),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] io::Error),
    /// The data cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Recovery ended without a result, which is a mistake in it.
    #[error("recovery failed: {0}")]
    Recovery(String),
}

/// What can be decided for one start besides the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StartOptions {
    /// Accept writes although the clock stands before the last arrival.
    pub accept_clock: bool,
}

/// Runs a server until it is told to stop by SIGTERM or SIGINT. `started` hears the addresses as
/// soon as they are bound, before recovery; `ready` gets the engine once it answers.
///
/// # Errors
/// The server cannot start; see [`ServeError`]. Once it is ready it only ends well.
pub fn run(
    mut config: Config,
    options: StartOptions,
    started: impl FnOnce(&Bound),
    ready: impl FnOnce(&Bound, Arc<Engine>) + Send + 'static,
) -> Result<(), ServeError> {
    config.limits.connections = open_files::leave_room(config.limits.connections);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.server.worker_threads {
        builder.worker_threads(threads);
    }
    let runtime = builder
        .thread_name("larder-http")
        .enable_io()
        .enable_time()
        .build()
        .map_err(ServeError::Runtime)?;
    let ended = runtime.block_on(serve(Arc::new(config), options, started, ready));
    // Recovery may still be running if it was interrupted; its work is never half done.
    runtime.shutdown_background();
    ended
}

async fn serve(
    config: Arc<Config>,
    options: StartOptions,
    started: impl FnOnce(&Bound),
    ready: impl FnOnce(&Bound, Arc<Engine>) + Send + 'static,
) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new(clock.now());
    let (limits, by) = (config.limits.clone(), Arc::clone(&clock));
    let door = Arc::new(Door::new(limits, Arc::clone(&metrics), by));
    let (stop, stopped) = watch::channel(false);
    let mut doors = Doors { tasks: JoinSet::new(), stop };
    let bound = doors.open(&config, &door, &metrics, &stopped).await?;
    tracing::info!(listen = %bound.listen, "listening; recovering");
    started(&bound);

    let opening = tokio::task::spawn_blocking({
        let options = engine_options(&config, options);
        move || open(options, Arc::new(RealDisk), clock, metrics)
    });
    let Some(engine) = signals.or_terminated(recovered(opening)).await.transpose()? else {
        tracing::info!("stopped during recovery");
        return Ok(());
    };
    apply_definitions(&config, &door, &engine).await;
    door.open(Arc::clone(&engine));
    report_ready(&bound, &engine);
    // What is done once the server answers (a demo, say) must not hold it up.
    let asked = (bound.clone(), Arc::clone(&engine));
    tokio::task::spawn_blocking(move || ready(&asked.0, asked.1));

    while signals.hangup_or_terminated().await == Asked::Reload {
        apply_definitions(&config, &door, &engine).await;
    }
    engine.drain();
    doors.drain(&config, &door, &mut signals).await;
    let closing = tokio::task::spawn_blocking(move || engine.close());
    match signals.or_terminated(closing).await {
        Some(Ok(())) => {}
        Some(Err(_)) => tracing::error!("closing the engine failed; the next start recovers"),
        None => tracing::warn!("told again to stop before the engine was closed; it recovers"),
    }
    if let Some(path) = &bound.unix_socket {
        let _ = remove_if_there(&RealDisk, path);
    }
    tracing::info!("stopped");
    Ok(())
}

/// How the engine is opened as the configuration says.
pub fn engine_options(config: &Config, options: StartOptions) -> Options {
    let storage = &config.storage;
    Options {
        data_dir: storage.data_dir.clone(),
        durability: storage.durability,
        sync_interval: storage.sync_interval,
        segment_bytes: storage.segment_size,
        checkpoint_interval: storage.checkpoint_interval,
        seal: SealOptions {
            block_cache_bytes: storage.history_cache_size,
            bytes_per_second: storage.seal_rate,
            erase_within: config.erase.within,
            scrub_every: storage.scrub_every,
            ..SealOptions::default()
        },
        tier_limits: TierLimits { overlay: storage.overlay_size, cache: storage.cache_size },
        read_deadline: storage.read_deadline,
        accept_clock: options.accept_clock,
        limits: config.limits.clone(),
    }
}

async fn recovered(
    opening: JoinHandle<Result<Arc<Engine>, OpenError>>,
) -> Result<Arc<Engine>, ServeError> {
    match opening.await {
        Ok(opened) => Ok(opened?),
        Err(error) => Err(ServeError::Recovery(error.to_string())),
    }
}

/// The line that says the server answers; tests and scripts read it.
fn report_ready(bound: &Bound, engine: &Engine) {
    let recovered_ms = engine.health().recovered.micros() / 1_000;
    let operations = bound.operations.map(|address| address.to_string()).unwrap_or_default();
    let socket = bound.unix_socket.as_deref().unwrap_or(Path::new(""));
    tracing::info!(
        listen = %bound.listen,
        operations,
        unix_socket = %socket.display(),
        recovered_ms,
        sequence = engine.health().sequence.0,
        "larder ready"
    );
}

/// Applies the definitions of `registry.path`; what cannot be applied is logged and shown by
/// `/ready`, and never stops the server.
async fn apply_definitions(config: &Config, door: &Door, engine: &Engine) {
    let Some(path) = config.registry.path.clone() else { return };
    let notes = definitions::apply(engine, path).await;
    door.note_definitions(notes);
}

/// The accepting tasks.
struct Doors {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Doors {
    /// Binds every address and begins to accept.
    async fn open(
        &mut self,
        config: &Config,
        door: &Arc<Door>,
        metrics: &Arc<Metrics>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Bound, ServeError> {
        let of = |listener| Connections::new(listener, &config.limits, metrics);
        let (of_api, of_operations) = (of(Listener::Api), of(Listener::Operations));
        let mut begin = |incoming, listener| {
            let routes = Routes::new(door, listener);
            let connections = Arc::clone(match listener {
                Listener::Api => &of_api,
                Listener::Operations => &of_operations,
            });
            self.tasks.spawn(accept(incoming, routes, connections, stopped.clone()));
        };
        let (api, listen) = bind(config.server.listen).await?;
        let operations = match config.server.operations_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let unix_socket = config.server.unix_socket.clone();
        if let Some(path) = &unix_socket {
            begin(Incoming::Unix(bind_unix(path).await?), Listener::Api);
        }
        begin(Incoming::Tcp(api), Listener::Api);
        let operations = operations.map(|(incoming, address)| {
            begin(Incoming::Tcp(incoming), Listener::Operations);
            address
        });
        Ok(Bound { listen, operations, unix_socket })
    }

    /// Withdraws readiness, waits for load balancers to notice, stops accepting, and lets requests
    /// under way finish for as long as `limits.drain_timeout` allows. Another signal ends it.
    async fn drain(mut self, config: &Config, door: &Door, signals: &mut Signals) {
        tracing::info!("draining");
        door.drain();
        let finish = async {
            tokio::time::sleep(config.server.drain_delay.to_std()).await;
            self.stop.send_replace(true);
            let all = async { while self.tasks.join_next().await.is_some() {} };
            tokio::time::timeout(config.limits.drain_timeout.to_std(), all).await
        };
        match signals.or_terminated(finish).await {
            Some(Ok(())) => {}
            Some(Err(_)) => tracing::warn!("requests were still under way after the drain"),
            None => tracing::warn!("told again to stop; requests under way were dropped"),
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(ServeError::SocketInUse { path: path.to_owned() });
    }
    let disk: &dyn Disk = &RealDisk;
    remove_if_there(disk, path).map_err(ServeError::EarlierSocket)?;
    UnixListener::bind(path)
        .map_err(|source| ServeError::Listen { address: path.display().to_string(), source })
}

/// What a running server is asked by a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let of = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    async fn hangup_or_terminated(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Waits for `work` unless the server is told to stop first.
    async fn or_terminated<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        }
    }
}
