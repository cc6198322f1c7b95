//! The small file that declares a generation whole: what it covers and what it must hold.
//!
//! It does not know how the rows are stored; the store never vouches for itself.
//!
//! Little-endian: magic, format (u32), store id (16 bytes), generation, covered, highest, rows,
//! blocks (u64 each), BLAKE3 over the blocks' CRCs in order; from format 2 on the number of views
//! (u32), then each view (u32) and its rows (u64); CRC-32C over all that comes before.

use crate::ids::{Sequence, StoreId, ViewId};

pub(super) const MAGIC: [u8; 8] = *b"LARDCKPT";
/// What is written.
const FORMAT: u32 = 2;
/// Without the rows of each view.
const FORMAT_1: u32 = 1;
const FIXED_BYTES: usize = 8 + 4 + 16 + 5 * 8 + 32;
const CRC_BYTES: usize = 4;

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
    /// Rows of each view, each view once; empty where an older release wrote it.
    pub views: Vec<(ViewId, u64)>,
    pub(super) hash: [u8; 32],
}

impl Watermark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        let [covered, highest] = [self.covered.0, self.highest.0];
        for number in [self.generation, covered, highest, self.rows, self.blocks] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.hash);
        let views = u32::try_from(self.views.len()).expect("view ids have 32 bits");
        bytes.extend_from_slice(&views.to_le_bytes());
        for (view, rows) in &self.views {
            bytes.extend_from_slice(&view.0.to_le_bytes());
            bytes.extend_from_slice(&rows.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let odd_length = || format!("watermark of {} bytes has the wrong length", bytes.len());
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or_else(odd_length)?;
        if body.len() < FIXED_BYTES {
            return Err(odd_length());
        }
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err("watermark fails its checksum".into());
        }
        let mut rest = body;
        let (magic, format) = (take::<8>(&mut rest), u32::from_le_bytes(take(&mut rest)));
        if magic != MAGIC || !(FORMAT_1..=FORMAT).contains(&format) {
            return Err(format!(
                "watermark has format {format}, this release reads up to {FORMAT}"
            ));
        }
        let store = StoreId(take(&mut rest));
        let [generation, covered, highest, rows, blocks] =
            std::array::from_fn(|_| u64::from_le_bytes(take(&mut rest)));
        let [covered, highest] = [covered, highest].map(Sequence);
        let hash = take(&mut rest);
        let views = match format {
            FORMAT_1 if rest.is_empty() => Some(Vec::new()),
            FORMAT_1 => None,
            _ => decode_views(rest),
        };
        let views = views.ok_or_else(odd_length)?;
        let sum = |sum: u64, (_, rows): &(ViewId, u64)| sum.checked_add(*rows);
        if format > FORMAT_1 && views.iter().try_fold(0, sum) != Some(rows) {
            return Err(format!("watermark says {rows} rows, its views have another sum"));
        }
        Ok(Self { store, generation, covered, highest, rows, blocks, views, hash })
    }
}

fn decode_views(bytes: &[u8]) -> Option<Vec<(ViewId, u64)>> {
    const VIEW_BYTES: usize = 4 + 8;
    let (count, views) = bytes.split_first_chunk::<4>()?;
    let (views, odd) = views.as_chunks::<VIEW_BYTES>();
    let whole = odd.is_empty() && u32::from_le_bytes(*count) as usize == views.len();
    let view = |mut bytes: &[u8]| {
        (ViewId(u32::from_le_bytes(take(&mut bytes))), u64::from_le_bytes(take(&mut bytes)))
    };
    whole.then(|| views.iter().map(|bytes| view(bytes)).collect())
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("length was checked");
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watermark() -> Watermark {
        Watermark {
            store: StoreId([7; 16]),
            generation: 3,
            covered: Sequence(40),
            highest: Sequence(42),
            rows: 1_000_000,
            blocks: 27_000,
            views: vec![(ViewId(1), 400_000), (ViewId(8), 600_000)],
            hash: [9; 32],
        }
    }

    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        body.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        body
    }

    #[test]
    fn one_of_the_first_format_is_read() {
        let mut body = watermark().encode();
        body.truncate(FIXED_BYTES);
        body[8..12].copy_from_slice(&FORMAT_1.to_le_bytes());
        let first = Watermark { views: Vec::new(), ..watermark() };
        assert_eq!(Watermark::decode(&sealed(body.clone())), Ok(first));
        body.push(0);
        let error = Watermark::decode(&sealed(body.clone())).unwrap_err();
        assert_eq!(error, "watermark of 105 bytes has the wrong length");
        body[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        let error = Watermark::decode(&sealed(body)).unwrap_err();
        assert_eq!(error, "watermark has format 3, this release reads up to 2");
    }

    #[test]
    fn rows_of_the_views_that_do_not_add_up_are_refused() {
        let other = Watermark { rows: 1_000_001, ..watermark() };
        assert!(Watermark::decode(&other.encode()).unwrap_err().contains("another sum"));
        let mut body = watermark().encode();
        body.truncate(FIXED_BYTES);
        body.extend_from_slice(&7_u32.to_le_bytes());
        assert!(Watermark::decode(&sealed(body)).unwrap_err().contains("wrong length"));
    }

    #[test]
    fn comes_back_and_no_flip_passes() {
        let watermark = watermark();
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
