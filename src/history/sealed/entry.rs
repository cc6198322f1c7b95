//! What a sealed file is called, what the manifest says of it, and what a row of it is.
//!
//! It does not know the bytes of the file.

use std::path::{Path, PathBuf};

use crate::ids::Sequence;
use crate::time::{ArrivalTime, EventTime};

/// A sealed file, as the manifest names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedEntry {
    /// Its number, which also names it; no two files of a store share one.
    pub number: u64,
    /// Every row from this sequence on,
    pub first: Sequence,
    /// up to this one, is in it.
    pub last: Sequence,
    /// Its length in bytes.
    pub bytes: u64,
    /// How far what stands in it is from what it means.
    pub lift: Lift,
}

/// What is added to what stands in a file of a load: that was written before its rows had a place
/// in history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lift {
    /// Added to every sequence.
    pub sequences: u64,
    /// When the rows arrived; none if the file says that itself.
    pub arrival: Option<ArrivalTime>,
}

impl Lift {
    /// The sequence that one in the file means.
    pub fn of(self, sequence: Sequence) -> Sequence {
        Sequence(sequence.0.wrapping_add(self.sequences))
    }

    /// The sequence in the file that means this one.
    pub fn without(self, sequence: Sequence) -> Sequence {
        Sequence(sequence.0.wrapping_sub(self.sequences))
    }
}

/// A row of a sealed file, or on its way into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowIn<'a> {
    /// The encoded entity key.
    pub key: &'a [u8],
    /// When it happened.
    pub event_time: EventTime,
    /// Its position in history.
    pub sequence: Sequence,
    /// When it was accepted.
    pub arrival: ArrivalTime,
    /// Its archived features.
    pub archive: &'a [u8],
}

/// The name of the sealed file with a number.
pub fn name_of(number: u64) -> String {
    format!("{number:020}.sealed")
}

/// The path of the sealed file with a number.
pub fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(name_of(number))
}

/// The number that the name of a complete sealed file states; none for other names.
pub fn number_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".sealed")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_state_the_number() {
        assert_eq!(path(Path::new("/h"), 7), Path::new("/h/00000000000000000007.sealed"));
        assert_eq!(number_of_name(&name_of(7)), Some(7));
        for other in ["7.sealed", "00000000000000000007.log", "00000000000000000007.sealed.tmp"] {
            assert_eq!(number_of_name(other), None, "{other}");
        }
    }
}
