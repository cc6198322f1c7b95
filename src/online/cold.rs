//! What the disk tier asks of the store below it, and how a row is written there.
//!
//! It does not know the store; the engine wires one in.

use std::sync::Arc;

use crate::ids::{Sequence, ViewId};

/// A row on its way to the cold store: its key, and its value, or none to remove it.
pub type ColdRow = (Arc<[u8]>, Option<Vec<u8>>);

/// Where the rows of the disk tier lie. It is never the only copy: whatever is odd about it is
/// answered by [`ColdStore::destroy`] and rebuilt from history.
pub trait ColdStore: Send + Sync {
    /// The value of `key`. May block, and sees every batch put before.
    ///
    /// # Errors
    /// The store's.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError>;

    /// Puts all of `rows`, or after a crash none. Nothing in the store is newer than `highest`
    /// then, which history holds durably.
    ///
    /// # Errors
    /// The store's; it is then to be destroyed.
    fn put_batch(&self, rows: &[ColdRow], highest: Sequence) -> Result<(), ColdError>;

    /// Makes every batch durable, then the mark: every row up to `moved` is here.
    ///
    /// # Errors
    /// The store's; it is then to be destroyed.
    fn flush(&self, moved: Sequence) -> Result<(), ColdError>;

    /// Removes some keys that begin with `prefix`; returns whether more are left.
    ///
    /// # Errors
    /// The store's.
    fn remove_some(&self, prefix: &[u8]) -> Result<bool, ColdError>;

    /// The first key at or after `from`.
    ///
    /// # Errors
    /// The store's.
    fn first_key(&self, from: &[u8]) -> Result<Option<Vec<u8>>, ColdError>;

    /// Empties the store; its mark is then zero.
    ///
    /// # Errors
    /// The store's.
    fn destroy(&self) -> Result<(), ColdError>;

    /// Bytes on disk.
    fn bytes(&self) -> u64;
}

/// Why the cold store gave no answer; history does instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ColdError {
    /// The store refused or panicked.
    #[error("disk tier: {reason}")]
    Store {
        /// What it said.
        reason: String,
    },
    /// A value is not what was written.
    #[error("disk tier: value of {bytes} bytes fails its checksum")]
    Damaged {
        /// Its length.
        bytes: usize,
    },
    /// The store is being rebuilt and does not hold everything yet.
    #[error("disk tier is being rebuilt")]
    Rebuilding,
}

const CRC_BYTES: usize = 4;
const SEQUENCE_BYTES: usize = 8;

/// View (u32, big-endian, so that a view is a range of keys), then the entity key.
pub(super) fn key_of(view: ViewId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + key.len());
    bytes.extend_from_slice(&view.0.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

pub(super) fn view_of(key: &[u8]) -> Result<ViewId, ColdError> {
    let odd = || ColdError::Store { reason: format!("a key of {} bytes", key.len()) };
    let (view, _) = key.split_first_chunk::<4>().ok_or_else(odd)?;
    Ok(ViewId(u32::from_be_bytes(*view)))
}

/// CRC-32C (u32) over the key and what follows, sequence (u64), state; little-endian.
pub(super) fn encode(key: &[u8], sequence: Sequence, state: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CRC_BYTES + SEQUENCE_BYTES + state.len());
    value.extend_from_slice(&[0; CRC_BYTES]);
    value.extend_from_slice(&sequence.0.to_le_bytes());
    value.extend_from_slice(state);
    let crc = crc_of(key, &value[CRC_BYTES..]);
    value[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    value
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(Sequence, Arc<[u8]>), ColdError> {
    let damaged = || ColdError::Damaged { bytes: value.len() };
    let (crc, body) = value.split_first_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
    if u32::from_le_bytes(*crc) != crc_of(key, body) {
        return Err(damaged());
    }
    let (sequence, state) = body.split_first_chunk::<SEQUENCE_BYTES>().ok_or_else(damaged)?;
    Ok((Sequence(u64::from_le_bytes(*sequence)), state.into()))
}

fn crc_of(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_key_cut_or_flipped_is_damaged() {
        let value = encode(b"key", Sequence(5), b"state");
        assert_eq!(decode(b"key", &value), Ok((Sequence(5), b"state"[..].into())));
        assert!(decode(b"kez", &value).is_err());
        for length in 0..value.len() {
            assert!(decode(b"key", &value[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(b"key", &damaged).is_err(), "bit {bit}");
        }
    }
}
