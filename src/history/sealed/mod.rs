//! Sealed files: rows of history sorted by view, entity key and time, in checked blocks that are
//! found by probing.
//!
//! They do not know what a feature means: of an archived row they know which features it has.

mod column;

mod search;

mod entry;

mod rows;

mod fences;

mod footer;

mod cache;

mod file;

mod build;

mod cursor;

mod lane;

mod scan;

mod check;

mod words;

#[cfg(test)]
mod tests;

pub use build::{BuildError, Builder};
pub use cache::Blocks;
pub use check::{SealedFault, check};
pub use cursor::Cursor;
pub use entry::{Lift, RowIn, SealedEntry, name_of, number_of_name, path};
pub use file::{OpenSealedError, SealedFile};
pub use footer::{Head, HeadError, MAGIC, SectionFacts};
pub use lane::{Lane, Walk};
pub use scan::Scan;
pub use words::describe;

/// Length a block grows to before the next one begins; a longer row gets a block of its own. Reads
/// of one key read and check whole blocks, so short ones make them quick; still shorter ones would
/// not pay for the call that reads them.
const BLOCK_BYTES: usize = 4 << 10;
