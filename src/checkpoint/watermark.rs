//! The small file that declares a generation whole: what it covers and what it must hold.
//!
//! It does not know how the rows are stored; the store never vouches for itself.
//!
//! Little-endian, [`BYTES`] long: magic, format (u32), store id (16 bytes), generation, covered,
//! highest, rows, blocks (u64 each), BLAKE3 over the blocks' CRCs in order, CRC-32C over all that
//! comes before.

use crate::ids::{Sequence, StoreId};

const MAGIC: [u8; 8] = *b"LARDCKPT";
const FORMAT: u32 = 1;
const BYTES: usize = 8 + 4 + 16 + 5 * 8 + 32 + 4;

/// What a finished generation says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watermark {
    /// The data directory it belongs to.
    pub store: StoreId,
    /// Its number; the greater is the newer.
    pub generation: u64,
    /// Every row up to here is in it. Replay starts after it.
    pub covered: Sequence,
    /// No state in it is newer than this.
    pub highest: Sequence,
    /// Rows in it.
    pub rows: u64,
    /// Blocks in it.
    pub blocks: u64,
    pub(super) hash: [u8; 32],
}

impl Watermark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        let [covered, highest] = [self.covered.0, self.highest.0];
        for number in [self.generation, covered, highest, self.rows, self.blocks] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.hash);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Ok(bytes) = <&[u8; BYTES]>::try_from(bytes) else {
            return Err(format!("watermark has {} bytes, not {BYTES}", bytes.len()));
        };
        let (body, crc) = bytes.split_at(BYTES - 4);
        if crc32c::crc32c(body).to_le_bytes() != crc {
            return Err("watermark fails its checksum".into());
        }
        let mut rest = body;
        let (magic, format) = (take::<8>(&mut rest), u32::from_le_bytes(take(&mut rest)));
        if magic != MAGIC || format != FORMAT {
            return Err(format!("watermark has format {format}, this release reads {FORMAT}"));
        }
        let store = StoreId(take(&mut rest));
        let [generation, covered, highest, rows, blocks] =
            std::array::from_fn(|_| u64::from_le_bytes(take(&mut rest)));
        let [covered, highest] = [covered, highest].map(Sequence);
        Ok(Self { store, generation, covered, highest, rows, blocks, hash: take(&mut rest) })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("length was checked");
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_no_flip_passes() {
        let watermark = Watermark {
            store: StoreId([7; 16]),
            generation: 3,
            covered: Sequence(40),
            highest: Sequence(42),
            rows: 1_000_000,
            blocks: 27_000,
            hash: [9; 32],
        };
        let bytes = watermark.encode();
        assert_eq!(Watermark::decode(&bytes), Ok(watermark));
        for length in 0..bytes.len() {
            assert!(Watermark::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Watermark::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
