//! Keeps the bodies of uploads in files, so that they take no memory.
//!
//! It does not know what is in them.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;

use crate::engine::deadline::Deadline;
use crate::engine::error::Problem;
use crate::engine::spool::Spool;
use crate::http::aside::off_the_lookups;
use crate::http::body::{self, declared_length, discard, late, malformed};
use crate::http::held::Held;
use crate::limits::Limits;
use crate::metrics::{Code, Metrics};

/// Bytes of the upload that are kept before they are written.
const PART_BYTES: usize = 1 << 20;

/// Refuses an upload that says it is too long.
pub(super) fn check_declared(headers: &HeaderMap, limits: &Limits) -> Result<(), Problem> {
    declared_length(headers).map_or(Ok(()), |declared| check_length(declared, limits))
}

/// Writes a body to the spool, as it comes.
///
/// # Errors
/// It is longer than `limits.load_bytes`, empty, or late; the spool's own.
pub(super) async fn receive(
    mut body: Body,
    spool: Spool,
    with: (&Limits, &Arc<Metrics>),
) -> Result<Spool, Problem> {
    let spool = collect(&mut body, spool, with).await.inspect_err(|_| discard(body))?;
    match spool.length() {
        0 => Err(malformed("the body is empty; send a Parquet file")),
        _ => Ok(spool),
    }
}

fn check_length(bytes: u64, limits: &Limits) -> Result<(), Problem> {
    let limit = limits.load_bytes;
    if bytes > limit {
        let detail = format!("the file has {bytes} bytes, the limit limits.load_bytes is {limit}");
        return Err(Problem::new(Code::LimitExceeded, detail));
    }
    Ok(())
}

/// Each part of [`PART_BYTES`] has to come within `limits.body_timeout`: an upload that drips holds
/// a place.
async fn collect(
    body: &mut Body,
    mut spool: Spool,
    (limits, metrics): (&Limits, &Arc<Metrics>),
) -> Result<Spool, Problem> {
    let mut part: Vec<u8> = Vec::with_capacity(PART_BYTES);
    let mut held = Held::nothing(metrics);
    let mut due = Deadline::after(limits.body_timeout);
    loop {
        let next = tokio::time::timeout(due.remaining(), body::next(body));
        let piece = next.await.map_err(|_| late(limits))??;
        let done = piece.is_none();
        if let Some(piece) = piece {
            held.add(limits, piece.len())?;
            part.extend_from_slice(&piece);
        }
        check_length(spool.length() + part.len() as u64, limits)?;
        if part.len() >= PART_BYTES || (done && !part.is_empty()) {
            (spool, part, held) = off_the_lookups(move || {
                spool.write(&part)?;
                part.clear();
                held.release();
                Ok((spool, part, held))
            })
            .await?;
            due = Deadline::after(limits.body_timeout);
        }
        if done {
            return Ok(spool);
        }
    }
}
