//! Larder: a feature server in one binary.
//!
//! The modules stand in floors; each imports only floors below its own, which
//! `tests/architecture.rs` holds. Read them from the bottom up:
//!
//! 0. words: [`ids`], [`time`], [`limits`], [`priority`], [`metrics`]
//! 1. meaning: [`value`], [`registry`], [`recency`]
//! 2. bytes: [`disk`], [`frame`], [`archive`]
//! 3. stores: [`history`] (the truth), [`online`] (the map), [`checkpoint`] (sled)
//! 4. operations: [`engine`]
//! 5. doors: [`http`]
//! 6. assembly: [`config`], [`server`], [`cli`]

pub mod ids;

pub mod time;

pub mod limits;

pub mod priority;

pub mod metrics;

pub mod value;

pub mod registry;

pub mod recency;

pub mod disk;

pub mod frame;

pub mod archive;

pub mod history;

pub mod online;

pub mod checkpoint;

pub mod engine;

pub mod http;

pub mod config;

pub mod server;

pub mod cli;
