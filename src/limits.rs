//! Every hard limit of the server, with its unit and the reason for its value.
//!
//! It does not know who enforces them; the configurable ones are read by `config`.

use crate::time::Span;

/// Longest name of a project, entity, view, feature or service, in bytes.
pub const NAME_BYTES: usize = 128;
/// Most join keys of one entity.
pub const JOIN_KEYS: usize = 16;
/// Most features of one view; slots are 16-bit and rows carry two bits per slot.
pub const FEATURES_PER_VIEW: usize = 10_000;
/// Longest fixed array type, in elements.
pub const ARRAY_LENGTH: u32 = 65_536;
/// Places named in the answer to a refused write.
pub const PLACES_REPORTED: usize = 20;
/// Erasures remembered after they are done, 76 bytes each in the manifest, which is written anew
/// often; for longer than most keep backups.
pub const ERASURES_REMEMBERED: usize = 100_000;
/// Nesting of a JSON body; the deepest real one has six levels.
pub const JSON_DEPTH: usize = 64;

/// The limits an operator may set; past each the answer is quick and names it.
///
/// A field's configuration key is `limits.` and its name; `config.toml` has the range of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, in bytes. 8 MiB holds 10,000 rows of 50 features.
    pub body_bytes: usize,
    /// Bytes of request bodies held at once, over all connections.
    pub held_body_bytes: u64,
    /// Largest file of `/api/v1/load`, in bytes.
    pub load_bytes: u64,
    /// Entities in one lookup.
    pub entities_per_request: usize,
    /// Features in one lookup.
    pub features_per_request: usize,
    /// Values in the answer to one lookup: rows times columns, a fixed array as its length.
    pub values_per_request: usize,
    /// Rows in one push.
    pub rows_per_push: usize,
    /// Longest entity key, in bytes, all join keys together.
    pub key_bytes: usize,
    /// Largest row, in bytes.
    pub row_bytes: usize,
    /// How far an event time may lie ahead of its arrival.
    pub max_future: Span,
    /// Bytes of writes that may wait for the writer.
    pub queue_bytes: usize,
    /// Requests that may wait for the writer.
    pub queue_requests: usize,
    /// Open connections.
    pub connections: usize,
    /// Idempotency keys remembered.
    pub idempotency_keys: usize,
    /// Erasures that may be pending.
    pub pending_erasures: usize,
    /// Time to receive the head of a request.
    pub header_timeout: Span,
    /// Time to receive the body of a request.
    pub body_timeout: Span,
    /// Deadline of a request that names none.
    pub request_timeout: Span,
    /// Time a drain waits for requests under way.
    pub drain_timeout: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            held_body_bytes: 256 << 20,
            load_bytes: 16 << 30,
            entities_per_request: 10_000,
            features_per_request: 10_000,
            values_per_request: 1_000_000,
            rows_per_push: 100_000,
            key_bytes: 1024,
            row_bytes: 1 << 20,
            max_future: Span::from_seconds(300),
            queue_bytes: 64 << 20,
            queue_requests: 4096,
            connections: 10_000,
            idempotency_keys: 1_000_000,
            pending_erasures: 100_000,
            header_timeout: Span::from_seconds(10),
            body_timeout: Span::from_seconds(30),
            request_timeout: Span::from_seconds(30),
            drain_timeout: Span::from_seconds(10),
        }
    }
}
