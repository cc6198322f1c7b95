//! Whether the files that a manifest names hold every sequence up to the segment being written: in
//! the log, in sealed files, or in both.
//!
//! It does not know the files; it looks at what the manifest says of them.

use super::manifest::SegmentEntry;
use super::sealed::SealedEntry;
use crate::ids::Sequence;

/// Every row up to here is in a sealed file: the end of those that follow one another from the
/// first sequence on. Behind it a load may be sealed before what the log has before that.
pub(super) fn sealed_upto<'e>(sealed: impl IntoIterator<Item = &'e SealedEntry>) -> Sequence {
    let mut upto = Sequence::ZERO;
    for entry in sealed {
        if entry.first != upto.next() {
            break;
        }
        upto = entry.last;
    }
    upto
}

/// Whether neither the log nor the sealed files have a gap, as it was before there were loads past
/// the log.
pub(super) fn is_plain(segments: &[SegmentEntry], sealed: &[SealedEntry]) -> bool {
    let follow = |pair: &[SegmentEntry]| pair[0].last.map(Sequence::next) == Some(pair[1].first);
    segments.windows(2).all(follow)
        && sealed.last().is_none_or(|last| last.last == sealed_upto(sealed))
}

/// Says what contradicts itself, if anything does.
pub(super) fn fault(segments: &[SegmentEntry], sealed: &[SealedEntry]) -> Option<String> {
    let mut before = Sequence::ZERO;
    for entry in sealed {
        if entry.first <= before || entry.last < entry.first {
            return Some(format!("sealed file {} does not follow {before}", entry.number));
        }
        before = entry.last;
    }
    for pair in segments.windows(2) {
        let (this, next) = (pair[0], pair[1]);
        if this.last.is_none_or(|last| last < this.first || last >= next.first) {
            let (this, next) = (this.first, next.first);
            return Some(format!("segment {this} does not lead to segment {next}"));
        }
    }
    let Some(open) = segments.last() else {
        let upto = sealed_upto(sealed);
        return (before != upto).then(|| format!("nothing has what follows sequence {upto}"));
    };
    if open.last.is_some() {
        return Some(format!("last segment {} is closed", open.first));
    }
    if before >= open.first {
        return Some(format!("sequence {before} is sealed, segment {} is written", open.first));
    }
    gap(segments, sealed, open.first).or_else(|| half_sealed(segments, sealed))
}

/// A sequence before `end` that is nowhere.
fn gap(segments: &[SegmentEntry], sealed: &[SealedEntry], end: Sequence) -> Option<String> {
    let (mut next, mut log, mut files) = (Sequence(1), segments, sealed);
    while next < end {
        while let [entry, rest @ ..] = files
            && entry.last < next
        {
            files = rest;
        }
        while let [entry, rest @ ..] = log
            && entry.last.is_some_and(|last| last < next)
        {
            log = rest;
        }
        let in_file = files.first().filter(|entry| entry.first <= next).map(|entry| entry.last);
        let in_log = log.first().filter(|entry| entry.first <= next).and_then(|entry| entry.last);
        match in_file.max(in_log) {
            Some(last) => next = last.next(),
            None => return Some(format!("sequence {next} is in no file")),
        }
    }
    None
}

/// A segment is sealed as a whole.
fn half_sealed(segments: &[SegmentEntry], sealed: &[SealedEntry]) -> Option<String> {
    for segment in segments {
        let Some(last) = segment.last else { continue };
        let from = sealed.partition_point(|entry| entry.last < segment.first);
        let mut reached = segment.first;
        for entry in sealed[from..].iter().take_while(|entry| entry.first <= last) {
            if entry.first > reached {
                return Some(format!("segment {} is sealed in part", segment.first));
            }
            reached = entry.last.next();
        }
        if reached > segment.first && reached <= last {
            return Some(format!("segment {} is sealed in part", segment.first));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sealed::Lift;

    fn check(log: &[(u64, u64)], files: &[(u64, u64)]) -> (Option<String>, bool, u64) {
        let segments: Vec<SegmentEntry> = log
            .iter()
            .map(|&(first, last)| SegmentEntry {
                first: Sequence(first),
                last: (last > 0).then_some(Sequence(last)),
            })
            .collect();
        let sealed: Vec<SealedEntry> = files
            .iter()
            .zip(1..)
            .map(|(&(first, last), number)| SealedEntry {
                number,
                first: Sequence(first),
                last: Sequence(last),
                bytes: 1,
                lift: Lift::default(),
            })
            .collect();
        let plain = is_plain(&segments, &sealed);
        (fault(&segments, &sealed), plain, sealed_upto(&sealed).0)
    }

    #[test]
    fn every_sequence_is_in_the_log_or_in_a_file() {
        let good = |log: &[_], files: &[_], plain: bool, upto: u64| {
            assert_eq!(check(log, files), (None, plain, upto), "{log:?} {files:?}");
        };
        good(&[], &[], true, 0);
        good(&[(1, 0)], &[], true, 0);
        good(&[(1, 9), (10, 0)], &[(1, 9)], true, 9);
        good(&[(10, 0)], &[(1, 4), (5, 9)], true, 9);
        // A load from 10 to 19 behind a segment that is not sealed, then behind one that is.
        good(&[(1, 9), (20, 0)], &[(10, 19)], false, 0);
        good(&[(1, 9), (20, 0)], &[(1, 9), (10, 19)], false, 19);
        good(&[(1, 9), (20, 29), (30, 0)], &[(1, 29)], false, 29);
        good(&[(20, 0)], &[(1, 19)], true, 19);
        good(&[(5, 9), (20, 25), (26, 0)], &[(1, 4), (10, 19)], false, 4);
        let bad = |log: &[_], files: &[_], says: &str| {
            let found = check(log, files).0.unwrap_or_default();
            assert!(found.contains(says), "{log:?} {files:?}: {found}");
        };
        bad(&[(2, 0)], &[], "sequence 1 is in no file");
        bad(&[(1, 9), (20, 0)], &[], "sequence 10 is in no file");
        bad(&[(1, 9), (20, 0)], &[(10, 18)], "sequence 19 is in no file");
        bad(&[(1, 9), (9, 0)], &[], "does not lead");
        bad(&[(1, 0), (9, 0)], &[], "does not lead");
        bad(&[(1, 9)], &[], "is closed");
        bad(&[(1, 9), (10, 0)], &[(1, 4), (3, 9)], "sealed file 2 does not follow 4");
        bad(&[(1, 9), (10, 0)], &[(1, 4)], "segment 1 is sealed in part");
        bad(&[(1, 9), (10, 0)], &[(4, 9)], "segment 1 is sealed in part");
        bad(&[(1, 9), (10, 0)], &[(1, 10)], "segment 10 is written");
        bad(&[], &[(2, 3)], "what follows sequence 0");
    }
}
