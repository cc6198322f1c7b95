//! The server's configuration: the shipped `config.toml`, what overrides it, and every mistake.
//!
//! It does not know files: whoever starts the server brings the text of the one it was given.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::engine::writes::Durability;
use crate::limits::Limits;
use crate::time::Span;

pub mod documentation;
pub mod mistake;
mod reader;
mod typed;

pub use mistake::{Mistake, Mistakes};
use reader::Reader;
use typed::Typed;

/// The complete, commented default.
pub const DEFAULT: &str = include_str!("../../config.toml");

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const NO_TIME: Span = Span::from_seconds(0);
const MILLISECOND: Span = Span::from_micros(1_000);
const TENTH: Span = Span::from_micros(100_000);
const MINUTE: Span = Span::from_seconds(60);
const TEN_MINUTES: Span = Span::from_seconds(600);
const HOUR: Span = Span::from_seconds(3_600);
const WEEK: Span = Span::from_seconds(7 * 86_400);
const QUARTER: Span = Span::from_seconds(90 * 86_400);

/// What may override the default, the later over the earlier.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, if one was named.
    pub file: Option<SourceFile>,
    /// Environment variables; all but `LARDER__SECTION__KEY` are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// Arguments of the command line.
    pub arguments: Vec<Argument>,
}

/// A configuration file that was read.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its path, for messages.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// An argument that sets a key.
#[derive(Clone, Debug)]
pub struct Argument {
    /// The argument as the operator knows it, such as `--listen`.
    pub name: &'static str,
    /// The key it sets, such as `server.listen`.
    pub key: &'static str,
    /// What it was given.
    pub value: String,
}

/// The configuration, every value checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `server.*`
    pub server: Server,
    /// `storage.*`
    pub storage: Storage,
    /// `erase.*`
    pub erase: Erase,
    /// `registry.*`
    pub registry: Registry,
    /// `log.*`
    pub log: Log,
    /// `limits.*`
    pub limits: Limits,
}

/// `server.*`: where and how requests are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address of the HTTP API; loopback unless `allow_remote_without_auth`.
    pub listen: SocketAddr,
    /// Address that serves only health, readiness and metrics.
    pub operations_listen: Option<SocketAddr>,
    /// Unix domain socket that serves the API too.
    pub unix_socket: Option<PathBuf>,
    /// The operator insists on an open port without credentials.
    pub allow_remote_without_auth: bool,
    /// How long connections are accepted after readiness was withdrawn.
    pub drain_delay: Span,
    /// Threads that answer requests; none is one per core.
    pub worker_threads: Option<usize>,
}

/// `storage.*`: where and how data is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Time between syncs with [`Durability::Interval`].
    pub sync_interval: Span,
    /// Size of a segment of history, in bytes.
    pub segment_size: u64,
    /// Time between checkpoints.
    pub checkpoint_interval: Span,
    /// Memory of the disk tier's overlay, in bytes.
    pub overlay_size: u64,
    /// Memory of the disk tier's cache, in bytes.
    pub cache_size: u64,
    /// Longest wait of a lookup for the disk tier.
    pub read_deadline: Span,
    /// Memory for blocks of sealed history, in bytes.
    pub history_cache_size: u64,
    /// Bytes a second that sealing and merging each may read and write.
    pub seal_rate: u64,
    /// Time in which everything at rest is read once.
    pub scrub_every: Span,
}

/// `erase.*`: how entities are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erase {
    /// How long bytes of an erased entity may stay.
    pub within: Span,
}

/// `registry.*`: definitions applied at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// File or directory of definitions.
    pub path: Option<PathBuf>,
}

/// `log.*`: what is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// A filter that `tracing_subscriber::EnvFilter` accepts.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One object a line.
    Json,
    /// For people.
    Text,
}

const LOG_FORMATS: &[(&str, LogFormat)] =
    &[("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];

impl Config {
    /// Reads the default and what overrides it.
    ///
    /// # Errors
    /// Every mistake of every source: unknown keys, values of a wrong type or out of range, keys
    /// that contradict each other.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let typed = Typed::layered(sources, &mut mistakes);
        let mut reader = Reader::new(&typed, mistakes);
        let config = Self::read(&mut reader);
        config.cross_check(&mut reader);
        reader.finish(config)
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            server: Server::read(reader),
            storage: Storage::read(reader),
            erase: Erase { within: reader.span("erase.within", MINUTE, QUARTER) },
            registry: Registry { path: reader.optional_path("registry.path") },
            log: Log::read(reader),
            limits: read_limits(reader),
        }
    }

    fn cross_check(&self, reader: &mut Reader<'_>) {
        let Server { listen, operations_listen, allow_remote_without_auth, .. } = &self.server;
        if !listen.ip().is_loopback() && !allow_remote_without_auth {
            reader.contradict(
                "server.listen",
                "server.allow_remote_without_auth",
                "must be true for an address other machines reach, since requests carry no \
                 credentials",
            );
        }
        if listen.port() != 0 && *operations_listen == Some(*listen) {
            reader.contradict("server.operations_listen", "server.listen", "must be another");
        }
        let Limits { body_bytes, row_bytes, key_bytes, queue_bytes, held_body_bytes, .. } =
            self.limits;
        if queue_bytes < body_bytes {
            reader.contradict("limits.body_bytes", "limits.queue_bytes", "must be at least that");
        }
        if held_body_bytes < body_bytes as u64 {
            let (lower, higher) = ("limits.body_bytes", "limits.held_body_bytes");
            reader.contradict(lower, higher, "must be at least that");
        }
        if row_bytes > body_bytes {
            reader.contradict("limits.row_bytes", "limits.body_bytes", "must be at least that");
        }
        if key_bytes > row_bytes {
            reader.contradict("limits.key_bytes", "limits.row_bytes", "must be at least that");
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::load(&Sources::default()).expect("a test reads the shipped config.toml")
    }
}

impl Server {
    fn read(reader: &mut Reader<'_>) -> Self {
        let threads = reader.count("server.worker_threads", 0, 1024);
        Self {
            listen: reader.address("server.listen"),
            operations_listen: reader.optional_address("server.operations_listen"),
            unix_socket: reader.optional_path("server.unix_socket"),
            allow_remote_without_auth: reader.flag("server.allow_remote_without_auth"),
            drain_delay: reader.span("server.drain_delay", NO_TIME, TEN_MINUTES),
            worker_threads: (threads > 0).then_some(threads),
        }
    }
}

impl Storage {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            data_dir: reader.path("storage.data_dir"),
            durability: reader
                .word("storage.durability", &Durability::ALL.map(|mode| (mode.as_str(), mode))),
            sync_interval: reader.span("storage.sync_interval", MILLISECOND, MINUTE),
            segment_size: reader.size("storage.segment_size", MIB, GIB),
            checkpoint_interval: reader.span("storage.checkpoint_interval", TENTH, WEEK),
            overlay_size: reader.size("storage.overlay_size", MIB, TIB),
            cache_size: reader.size("storage.cache_size", 0, TIB),
            read_deadline: reader.span("storage.read_deadline", MILLISECOND, MINUTE),
            history_cache_size: reader.size("storage.history_cache_size", MIB, TIB),
            seal_rate: reader.size("storage.seal_rate", MIB, TIB),
            scrub_every: Span::from_seconds(
                86_400 * reader.count("storage.scrub_days", 1, 365) as i64,
            ),
        }
    }
}

impl Log {
    fn read(reader: &mut Reader<'_>) -> Self {
        let filter = |text: &str| {
            // A bare word that is no level is a module to the filter, and would silence the rest.
            let bare = |part: &&str| !part.contains(['=', '[', ']', '{', '}']);
            let levels =
                |part: &str| !part.trim().is_empty() && part.trim().parse::<LevelFilter>().is_ok();
            (text.split(',').filter(bare).all(levels) && EnvFilter::try_new(text).is_ok())
                .then(|| text.to_owned())
        };
        Self {
            format: reader.word("log.format", LOG_FORMATS),
            level: reader.text("log.level", "a level or a tracing filter", filter),
        }
    }
}

fn read_limits(reader: &mut Reader<'_>) -> Limits {
    Limits {
        body_bytes: reader.bytes("limits.body_bytes", KIB, GIB),
        held_body_bytes: reader.size("limits.held_body_bytes", MIB, TIB),
        load_bytes: reader.size("limits.load_bytes", KIB, TIB),
        entities_per_request: reader.count("limits.entities_per_request", 1, 1_000_000),
        features_per_request: reader.count("limits.features_per_request", 1, 100_000),
        values_per_request: reader.count("limits.values_per_request", 1, 100_000_000),
        rows_per_push: reader.count("limits.rows_per_push", 1, 10_000_000),
        key_bytes: reader.bytes("limits.key_bytes", 16, 64 * KIB),
        row_bytes: reader.bytes("limits.row_bytes", KIB, 64 * MIB),
        max_future: reader.span("limits.max_future", NO_TIME, WEEK),
        queue_bytes: reader.bytes("limits.queue_bytes", MIB, 64 * GIB),
        queue_requests: reader.count("limits.queue_requests", 1, 1_000_000),
        connections: reader.count("limits.connections", 1, 1_000_000),
        idempotency_keys: reader.count("limits.idempotency_keys", 0, 100_000_000),
        pending_erasures: reader.count("limits.pending_erasures", 1, 10_000_000),
        header_timeout: reader.span("limits.header_timeout", TENTH, TEN_MINUTES),
        body_timeout: reader.span("limits.body_timeout", TENTH, HOUR),
        request_timeout: reader.span("limits.request_timeout", MILLISECOND, HOUR),
        drain_timeout: reader.span("limits.drain_timeout", NO_TIME, HOUR),
    }
}

#[cfg(test)]
mod tests;
