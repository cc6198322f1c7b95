//! A store in a directory of its own on the real disk, for the benches: under `target/`, since a
//! memory file system would make every sync free.
//!
//! It does not know what is measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::disk::real::RealDisk;
use larder::engine::Engine;
use larder::engine::define::DefineOptions;
use larder::engine::open::{Options, open};
use larder::engine::seal::SealOptions;
use larder::engine::writes::Durability;
use larder::ids::ProjectId;
use larder::limits::Limits;
use larder::metrics::Metrics;
use larder::online::TierLimits;
use larder::registry::definitions::Definitions;
use larder::time::{Clock, Span, SystemClock};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The project of everything the benches define.
pub(crate) const PROJECT: ProjectId = ProjectId(0);

/// An empty directory named for the bench.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data").join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("the bench's own directory can be removed");
    }
    std::fs::create_dir_all(&path).expect("target/ can be written");
    path
}

/// Opens the store at `path` as the server would; a checkpoint is made only at its end.
pub(crate) fn open_at(path: &Path, durability: Durability) -> Arc<Engine> {
    let options = Options {
        data_dir: path.to_owned(),
        durability,
        sync_interval: Span::from_seconds(1),
        segment_bytes: 64 << 20,
        checkpoint_interval: Span::from_seconds(86_400),
        seal: SealOptions::default(),
        tier_limits: TierLimits { overlay: 64 << 20, cache: 256 << 20 },
        read_deadline: Span::from_seconds(1),
        accept_clock: false,
        limits: Limits::default(),
    };
    let metrics = Metrics::new(SystemClock.now());
    open(options, Arc::new(RealDisk), Arc::new(SystemClock), metrics).expect("the store opens")
}

/// Opens an empty store with these definitions.
pub(crate) async fn with_definitions(
    path: &Path,
    durability: Durability,
    definitions: &str,
) -> Arc<Engine> {
    let engine = open_at(path, durability);
    let definitions = Definitions::parse_toml("bench", definitions).expect("valid definitions");
    let options = DefineOptions::default();
    engine.define(definitions, options).await.expect("definitions fit an empty store");
    assert_eq!(engine.registry().project("default"), Some(PROJECT));
    engine
}
