//! Many rows in one checksummed value.
//!
//! It does not know where blocks are kept.
//!
//! Little-endian: CRC-32C (u32) over the block's number and what follows; format (u8); number of
//! rows (u32); then each row: view (u32), key length (u16), state length (u32), key, state.

use super::Row;
use crate::ids::ViewId;

/// A block is closed once it holds this much. sled keeps up to 17 neighbours in one page, and a
/// page must stay small for the reason given at `SEGMENT_BYTES`; what it costs a start is measured
/// by `benches/checkpoint.rs`.
const FULL_BYTES: usize = 4 << 10;
const FORMAT: u8 = 1;
const CRC_BYTES: usize = 4;
const HEADER_BYTES: usize = CRC_BYTES + 1 + 4;

/// Collects rows until a block is full.
pub(super) struct Builder {
    bytes: Vec<u8>,
    rows: u32,
}

/// A finished block.
pub(super) struct Finished<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) crc: u32,
    pub(super) rows: u32,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], rows: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_BYTES
    }

    /// # Panics
    /// If the key has 64 KiB or the state 4 GiB; the map holds no such row.
    pub(super) fn add(&mut self, view: ViewId, key: &[u8], state: &[u8]) {
        let key_length = u16::try_from(key.len()).expect("keys of the map are under 32 KiB");
        let state_length = u32::try_from(state.len()).expect("a state is far smaller than 4 GiB");
        self.bytes.extend_from_slice(&view.0.to_le_bytes());
        self.bytes.extend_from_slice(&key_length.to_le_bytes());
        self.bytes.extend_from_slice(&state_length.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(state);
        self.rows += 1;
    }

    pub(super) fn finish(&mut self, number: u64) -> Finished<'_> {
        self.bytes[CRC_BYTES] = FORMAT;
        self.bytes[CRC_BYTES + 1..HEADER_BYTES].copy_from_slice(&self.rows.to_le_bytes());
        let crc = crc_of(number, &self.bytes[CRC_BYTES..]);
        self.bytes[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        Finished { bytes: &self.bytes, crc, rows: self.rows }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(HEADER_BYTES);
        self.rows = 0;
    }
}

fn crc_of(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

/// A block whose checksum is right.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) crc: u32,
    pub(super) rows: u32,
    body: &'a [u8],
}

impl<'a> Block<'a> {
    /// Checks the bytes of block `number`.
    pub(super) fn open(number: u64, bytes: &'a [u8]) -> Result<Self, String> {
        let refuse = |what| Err(format!("block {number} of {} bytes {what}", bytes.len()));
        let Some((crc, body)) = bytes.split_first_chunk::<CRC_BYTES>() else {
            return refuse("is too short");
        };
        let crc = u32::from_le_bytes(*crc);
        if crc != crc_of(number, body) {
            return refuse("fails its checksum");
        }
        let Some(([format, rows @ ..], body)) = body.split_first_chunk::<5>() else {
            return refuse("is too short");
        };
        if *format != FORMAT {
            return refuse("has a format of another release");
        }
        Ok(Self { crc, rows: u32::from_le_bytes(*rows), body })
    }

    /// Hands over the rows, neighbours of one view together; says what is wrong where they do not
    /// fill the block.
    pub(super) fn each(
        self,
        mut some: impl FnMut(ViewId, &[Row<'a>]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut rest = self.body;
        let mut rows: Vec<Row<'a>> = Vec::new();
        let mut of = None;
        for index in 0..self.rows {
            let (view, row, after) =
                split_row(rest).ok_or_else(|| format!("row {index} of a block is cut off"))?;
            if let Some(before) = of.replace(view)
                && before != view
            {
                some(before, &rows)?;
                rows.clear();
            }
            rows.push(row);
            rest = after;
        }
        if let Some(view) = of {
            some(view, &rows)?;
        }
        if rest.is_empty() { Ok(()) } else { Err("a block has bytes after its last row".into()) }
    }
}

/// The first row with its view, and what follows it.
fn split_row(bytes: &[u8]) -> Option<(ViewId, Row<'_>, &[u8])> {
    let (view, bytes) = bytes.split_first_chunk::<4>()?;
    let (key, bytes) = bytes.split_first_chunk::<2>()?;
    let (state, bytes) = bytes.split_first_chunk::<4>()?;
    let (key, bytes) = bytes.split_at_checked(usize::from(u16::from_le_bytes(*key)))?;
    let state = usize::try_from(u32::from_le_bytes(*state)).ok()?;
    let (state, bytes) = bytes.split_at_checked(state)?;
    Some((ViewId(u32::from_le_bytes(*view)), (key, state), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, rows: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new();
        builder.add(ViewId(9), b"left", b"over");
        builder.clear();
        for (view, key, state) in rows {
            builder.add(ViewId(*view), key, state);
        }
        builder.finish(number).bytes.to_vec()
    }

    type Owned = (u32, Vec<u8>, Vec<u8>);

    fn read(number: u64, bytes: &[u8]) -> Result<Vec<Owned>, String> {
        let mut rows = Vec::new();
        Block::open(number, bytes)?.each(|view, some| {
            rows.extend(some.iter().map(|(key, state)| (view.0, key.to_vec(), state.to_vec())));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn rows_come_back() {
        let bytes = block(3, &[(1, b"a", b"state"), (2, b"", b""), (1, b"b", &[7; 999])]);
        let rows = read(3, &bytes).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0], (1, b"a".to_vec(), b"state".to_vec()));
        assert_eq!(rows[2].2.len(), 999);
        assert_eq!(read(0, &block(0, &[])).unwrap(), []);
    }

    #[test]
    fn any_flip_cut_or_move_is_found() {
        let bytes = block(3, &[(1, b"a", b"state"), (2, b"bb", b"")]);
        assert!(read(4, &bytes).unwrap_err().contains("checksum"), "another block's place");
        for length in 0..bytes.len() {
            assert!(read(3, &bytes[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(3, &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn rows_that_do_not_fill_the_block_are_found_despite_a_right_checksum() {
        let check = |rows: u32, expected: &str| {
            let mut builder = Builder::new();
            builder.add(ViewId(1), b"key", b"state");
            builder.rows = rows;
            let bytes = builder.finish(0).bytes.to_vec();
            let error = read(0, &bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(0, "after its last row");
        check(2, "row 1 of a block is cut off");
    }
}
