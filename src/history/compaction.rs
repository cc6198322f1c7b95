//! Which sealed files to make one in quiet times: those over the same event times, for a read of
//! any of these meets each of them.
//!
//! It does not know when times are quiet, nor how files are merged.

use std::collections::HashMap;
use std::ops::Range;

use super::sealed::SealedFile;
use crate::ids::{Sequence, ViewId};
use crate::time::EventTime;

/// Files over the same times that may stay.
const MAY_STAY: usize = 2;
/// The largest of them is rewritten only when the others have grown to this part of it, so a row is
/// rewritten some ten times on its way to the end, however often it is quiet.
const PART: u64 = 8;
/// No larger file is made.
const BYTES_MAX: u64 = 16 << 30;

/// What counts of a sealed file.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    first: Sequence,
    last: Sequence,
    bytes: u64,
    views: HashMap<ViewId, Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    rows: u64,
    oldest: EventTime,
    newest: EventTime,
}

impl Extent {
    pub(super) fn of(file: &SealedFile) -> Self {
        let span = |rows, oldest, newest| Span { rows, oldest, newest };
        let views = file.sections().map(|of| (of.view, span(of.rows, of.oldest, of.newest)));
        let entry = file.entry();
        let (first, last, bytes) = (entry.first, entry.last, entry.bytes);
        Self { first, last, bytes, views: views.collect() }
    }

    /// Whether `next` follows it, and half of the rows of one of them are of views whose times the
    /// other has too.
    fn overlaps(&self, next: &Self) -> bool {
        let of_both = |(view, span): (&ViewId, &Span)| {
            let other = next.views.get(view)?;
            span.overlaps(other).then_some([span.rows, other.rows])
        };
        let shared = self.views.iter().filter_map(of_both);
        let shared = shared.fold([0, 0], |sum, rows| [sum[0] + rows[0], sum[1] + rows[1]]);
        let is_half = |(shared, of): (u64, &Self)| 2 * shared >= of.rows() && shared > 0;
        self.last.next() == next.first
            && [(shared[0], self), (shared[1], next)].into_iter().any(is_half)
    }

    fn rows(&self) -> u64 {
        self.views.values().map(|span| span.rows).sum()
    }
}

impl Span {
    /// Whether they have half of the times of the shorter one in common.
    fn overlaps(&self, other: &Self) -> bool {
        let common = self.newest.min(other.newest).since(self.oldest.max(other.oldest));
        let length = |span: &Self| span.newest.since(span.oldest);
        let shorter = length(self).min(length(other));
        common.micros() >= 0 && 2 * i128::from(common.micros()) >= i128::from(shorter.micros())
    }
}

/// Files that follow one another, over the same times, to be made one; none if it does not pay.
pub(super) fn to_compact(files: &[Extent]) -> Option<Range<usize>> {
    let mut end = 0;
    for run in files.chunk_by(Extent::overlaps) {
        end += run.len();
        // The newest first: they are the smallest, and what is large already stays behind.
        let mut upto = end;
        while upto > end - run.len() {
            let from = upto - fitting(&files[end - run.len()..upto]);
            if pays(&files[from..upto]) {
                return Some(from..upto);
            }
            upto = from;
        }
    }
    None
}

/// How many of the last of these may become one file; one at least.
fn fitting(files: &[Extent]) -> usize {
    let mut bytes = 0;
    let fits = |file: &&Extent| {
        bytes += file.bytes;
        bytes <= BYTES_MAX
    };
    files.iter().rev().take_while(fits).count().max(1)
}

fn pays(files: &[Extent]) -> bool {
    let largest = files.iter().map(|file| file.bytes).max().unwrap_or(0);
    let others = files.iter().map(|file| file.bytes).sum::<u64>() - largest;
    files.len() > MAY_STAY && others >= largest / PART
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Files of one view each, by size and times.
    fn files(of: &[(u64, i64, i64)]) -> Vec<Extent> {
        let extent = |(index, &(bytes, oldest, newest)): (usize, &(u64, i64, i64))| {
            let [oldest, newest] = [oldest, newest].map(EventTime::from_micros);
            let first = Sequence(10 * index as u64 + 1);
            let views = HashMap::from([(ViewId(1), Span { rows: 10, oldest, newest })]);
            Extent { first, last: Sequence(first.0 + 9), bytes, views }
        };
        of.iter().enumerate().map(extent).collect()
    }

    #[test]
    fn what_lies_over_the_same_times_becomes_one() {
        let check = |of: &[(u64, i64, i64)], expected| {
            assert_eq!(to_compact(&files(of)), expected, "{of:?}");
        };
        check(&[], None);
        check(&[(MIB, 0, 100); 2], None);
        check(&[(MIB, 0, 100); 3], Some(0..3));
        check(&[(MIB, 0, 100), (MIB, 101, 200), (MIB, 201, 300)], None);
        // A few rows of each come late.
        check(&[(MIB, 0, 100), (MIB, 80, 200), (MIB, 180, 300)], None);
        check(&[(MIB, 0, 9), (MIB, 10, 90), (MIB, 20, 90), (MIB, 20, 70)], Some(1..4));
        // Too little to rewrite the large one for.
        check(&[(80 * MIB, 0, 100), (4 * MIB, 0, 100), (4 * MIB, 0, 100)], None);
        check(&[(80 * MIB, 0, 100), (5 * MIB, 0, 100), (5 * MIB, 0, 100)], Some(0..3));
        // One instant, as of tables without times.
        check(&[(MIB, 5, 5); 3], Some(0..3));
        check(&[(MIB, i64::MIN, i64::MAX), (MIB, 0, 100), (MIB, 0, 100)], Some(0..3));
    }

    #[test]
    fn none_becomes_too_large() {
        let of = |bytes| (bytes, 0, 100);
        let sizes = [BYTES_MAX, BYTES_MAX / 2, BYTES_MAX / 4, BYTES_MAX / 4];
        assert_eq!(to_compact(&files(&sizes.map(of))), Some(1..4));
        // What stands beside a file that is too large, or does not fit with the rest, is made one.
        let check = |sizes: &[u64], expected| {
            let of: Vec<_> = sizes.iter().map(|size| of(size * (1 << 30))).collect();
            assert_eq!(to_compact(&files(&of)), expected, "{sizes:?}");
        };
        check(&[5, 5, 5, 20], Some(0..3));
        check(&[20, 5, 5, 5], Some(1..4));
        check(&[5, 5, 20, 5, 5], None);
        check(&[4, 4, 4, 8, 8], Some(0..3));
        check(&[4, 4, 4, 4, 4, 4], Some(2..6));
        check(&[15, 15, 15], None);
    }

    #[test]
    fn what_does_not_follow_or_is_a_small_part_stays() {
        let mut gap = files(&[(MIB, 0, 100); 3]);
        gap[2].first = Sequence(22);
        assert_eq!(to_compact(&gap), None);
        // A table of one instant in each file, beside many rows at times of their own.
        let mut mixed = files(&[(MIB, 0, 100), (MIB, 101, 200), (MIB, 201, 300)]);
        let instant = EventTime::from_micros(5);
        for file in &mut mixed {
            file.views.insert(ViewId(2), Span { rows: 9, oldest: instant, newest: instant });
        }
        assert_eq!(to_compact(&mixed), None);
        mixed.iter_mut().for_each(|file| file.views.get_mut(&ViewId(2)).unwrap().rows = 11);
        assert_eq!(to_compact(&mixed), Some(0..3));
    }

    #[test]
    fn quiet_times_rewrite_no_row_over_and_over() {
        let (mut sizes, mut written): (Vec<u64>, u64) = (Vec::new(), 0);
        for _ in 0..200 {
            sizes.push(60 * MIB);
            let of: Vec<_> = sizes.iter().map(|&bytes| (bytes, 0, 100)).collect();
            if let Some(run) = to_compact(&files(&of)) {
                let made = sizes[run.clone()].iter().sum();
                written += made;
                sizes.splice(run, [made]);
            }
        }
        let total: u64 = sizes.iter().sum();
        assert!(written <= 10 * total, "{} times", written / total);
    }
}
