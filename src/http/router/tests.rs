//! Routes driven in process.
