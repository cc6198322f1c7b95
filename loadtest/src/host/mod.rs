//! The servers a measurement needs, started and stopped around it, and the machine they run on.
//!
//! It does not know load.

pub(crate) mod child;
pub(crate) mod fsync;
pub(crate) mod larder;
pub(crate) mod machine;
pub(crate) mod metrics;
pub(crate) mod static_server;
