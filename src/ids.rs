//! Small typed numbers that name things, so that one kind can never be passed for another.
//!
//! It does not know what the things are: names and definitions live in `registry`.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A namespace of definitions and entities. Given once, never reused.
    ProjectId(u32)
}
id! {
    /// One kind of entity of one project. Given once, never reused.
    EntityTypeId(u32)
}
id! {
    /// One version of one feature view. Given once: a dropped and re-created view is a new one.
    ViewId(u32)
}
id! {
    /// One feature service. Given once, never reused.
    ServiceId(u32)
}
id! {
    /// The place of a feature in its view's rows, from 0 in the order of declaration. A view only
    /// ever gains features, so a slot keeps its meaning for as long as the view lives.
    Slot(u16)
}
id! {
    /// The position of an accepted row or control record in history; dense, the first is 1. 0 means
    /// "before everything".
    Sequence(u64)
}
id! {
    /// One per start of the server; with it a sequence is never reused, even after a torn tail.
    Epoch(u32)
}

impl Sequence {
    /// Before the first record.
    pub const ZERO: Self = Self(0);
    /// After every record.
    pub const MAX: Self = Self(u64::MAX);

    /// The sequence `count` records further.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        // No history comes near the end; a frame that says so must not end the process.
        Self(self.0.saturating_add(count))
    }

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }
}

/// Names one data directory for life; every file in it carries it, so that files of two stores
/// cannot be mixed unnoticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
