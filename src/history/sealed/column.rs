//! A column of whole numbers: the least of them, then the difference of each to it, in as few bytes
//! as the greatest difference needs.
//!
//! It does not know what the numbers mean, nor how many there are: the block says that.

use crate::time::EventTime;

/// Bytes before the differences: the least number and the width.
const HEAD: usize = 8 + 1;

/// Where a column stands in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    least: u64,
    width: usize,
    at: usize,
}

/// Appends a column to a block.
pub(super) fn encode(numbers: &[u64], out: &mut Vec<u8>) {
    let least = numbers.iter().copied().min().unwrap_or(0);
    let greatest = numbers.iter().copied().max().unwrap_or(0);
    let width = match greatest - least {
        0 => 0,
        1..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    };
    out.extend_from_slice(&least.to_le_bytes());
    out.push(width as u8);
    for number in numbers {
        out.extend_from_slice(&(number - least).to_le_bytes()[..width]);
    }
}

impl Column {
    /// Finds the column of `count` numbers that begins at `at`, which moves behind it. None if the
    /// block is too short for it, or the width is none there is.
    pub(super) fn find(block: &[u8], at: &mut usize, count: usize) -> Option<Self> {
        let head = block.get(*at..at.checked_add(HEAD)?)?;
        let (least, width) = head.split_first_chunk::<8>()?;
        let width = usize::from(width[0]);
        if ![0, 1, 2, 4, 8].contains(&width) {
            return None;
        }
        let column = Self { least: u64::from_le_bytes(*least), width, at: *at + HEAD };
        let end = column.at.checked_add(count.checked_mul(width)?)?;
        if end > block.len() {
            return None;
        }
        *at = end;
        Some(column)
    }

    /// The same numbers, `by` added to each.
    pub(super) fn lifted(self, by: u64) -> Self {
        Self { least: self.least.wrapping_add(by), ..self }
    }

    /// The same number wherever it is asked for.
    pub(super) fn constant(number: u64) -> Self {
        Self { least: number, width: 0, at: 0 }
    }

    /// The number at `index`, which is below the column's count.
    #[inline]
    pub(super) fn get(self, block: &[u8], index: usize) -> u64 {
        let at = self.at + index * self.width;
        // Asked for every row of a training set, so each width is read as the number it is.
        let difference = match self.width {
            0 => 0,
            1 => u64::from(block[at]),
            2 => u64::from(u16::from_le_bytes(part_of(block, at))),
            4 => u64::from(u32::from_le_bytes(part_of(block, at))),
            _ => u64::from_le_bytes(part_of(block, at)),
        };
        self.least.wrapping_add(difference)
    }

    /// Whether the numbers never decrease and end with `last`; so they can be used as the ends of
    /// what lies one after another.
    pub(super) fn ends_at(self, block: &[u8], count: usize, last: usize) -> bool {
        let mut before = 0;
        for index in 0..count {
            let end = self.get(block, index);
            if end < before {
                return false;
            }
            before = end;
        }
        before == last as u64
    }

    /// The same where none of the things is without length. Then there are no more of them than
    /// `last`, whatever the block says; where they take no bytes at all, the second ends it.
    pub(super) fn rises_to(self, block: &[u8], count: usize, last: usize) -> bool {
        let mut before = 0;
        for index in 0..count {
            let end = self.get(block, index);
            if end <= before {
                return false;
            }
            before = end;
        }
        before == last as u64
    }

    /// The part of the things laid one after another that `index` takes.
    pub(super) fn part(self, block: &[u8], index: usize) -> std::ops::Range<usize> {
        let start = if index == 0 { 0 } else { self.get(block, index - 1) as usize };
        start..self.get(block, index) as usize
    }
}

#[inline]
fn part_of<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

/// A time as a number that has the same order.
pub(super) fn ordered(micros: i64) -> u64 {
    (micros as u64) ^ (1 << 63)
}

/// The time of which [`ordered`] made a number.
pub(super) fn micros(ordered: u64) -> i64 {
    (ordered ^ (1 << 63)) as i64
}

/// As [`ordered`], for an event time.
pub(super) fn ordered_time(time: EventTime) -> u64 {
    ordered(time.micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_at_every_width() {
        let columns: [&[u64]; 6] = [
            &[],
            &[9, 9, 9],
            &[7, 250, 0],
            &[1 << 40, (1 << 40) + 65_535],
            &[5, 5 + (1 << 32) - 1],
            &[u64::MAX, 0, 3],
        ];
        let mut block = Vec::new();
        columns.iter().for_each(|column| encode(column, &mut block));
        let (mut at, mut widths) = (0, Vec::new());
        for numbers in columns {
            let column = Column::find(&block, &mut at, numbers.len()).unwrap();
            widths.push(column.width);
            let read: Vec<u64> = (0..numbers.len()).map(|i| column.get(&block, i)).collect();
            assert_eq!(read, numbers);
        }
        assert_eq!((at, widths), (block.len(), vec![0, 0, 1, 2, 4, 8]));
    }

    #[test]
    fn a_column_that_does_not_fit_is_refused() {
        let mut block = Vec::new();
        encode(&[1, 300], &mut block);
        for length in 0..block.len() {
            assert!(Column::find(&block[..length], &mut 0, 2).is_none(), "{length}");
        }
        assert!(Column::find(&block, &mut 0, usize::MAX).is_none());
        block[8] = 3;
        assert!(Column::find(&block, &mut 0, 2).is_none());
    }

    #[test]
    fn a_column_without_bytes_has_no_more_things_than_one() {
        let mut block = Vec::new();
        encode(&[5], &mut block);
        let column = |count| Column::find(&block, &mut 0, count).unwrap();
        assert!(column(1).rises_to(&block, 1, 5) && !column(1).rises_to(&block, 1, 4));
        let many = u32::MAX as usize;
        assert!(!column(many).rises_to(&block, many, 5));
        assert!(!column(0).rises_to(&block, 0, 5));
    }

    #[test]
    fn times_keep_their_order_as_numbers() {
        let times = [i64::MIN, -1, 0, 1, i64::MAX];
        assert!(times.map(ordered).is_sorted());
        assert_eq!(times.map(ordered).map(micros), times);
    }
}
