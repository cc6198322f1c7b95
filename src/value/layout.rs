//! Where each feature of a view lies in the fixed part of a row.
//!
//! It does not know rows, only offsets and widths; `archive` reads and writes with them.

use std::ops::Range;

use crate::ids::Slot;
use crate::value::types::{FeatureType, ScalarType};

/// Bytes that a string, bytes or array takes in the fixed part: offset and length in the heap.
pub const HEAP_REFERENCE: usize = 8;

/// The fixed part of a view's rows, slot by slot in the order of declaration. A view that gains
/// features keeps the offsets of those it had, so old rows stay readable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    slots: Vec<Place>,
    /// The same by neighbours of one type.
    runs: Vec<Run>,
    fixed_bytes: usize,
}

/// Neighbouring slots of one type, which lie one behind the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The type of their values.
    pub feature_type: FeatureType,
    /// Which slots.
    pub slots: Range<usize>,
}

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The type of its values.
    pub feature_type: FeatureType,
    /// Where it starts in the fixed part, in bytes.
    pub offset: usize,
    /// Bytes it takes there.
    pub width: usize,
}

impl Place {
    /// A slot of this type that starts at `offset`.
    pub fn new(feature_type: FeatureType, offset: usize) -> Self {
        Self { feature_type, offset, width: width(feature_type) }
    }
}

fn width(feature_type: FeatureType) -> usize {
    match feature_type {
        FeatureType::Scalar(ScalarType::String | ScalarType::Bytes) => HEAP_REFERENCE,
        FeatureType::Scalar(scalar) => scalar.fixed_width().unwrap_or(HEAP_REFERENCE),
        FeatureType::Array { .. } => HEAP_REFERENCE,
    }
}

impl Layout {
    /// Lays out features of these types in order.
    pub fn new(types: impl IntoIterator<Item = FeatureType>) -> Self {
        let mut layout = Self::default();
        for feature_type in types {
            let slot = layout.slots.len();
            match layout.runs.last_mut() {
                Some(run) if run.feature_type == feature_type => run.slots.end += 1,
                _ => layout.runs.push(Run { feature_type, slots: slot..slot + 1 }),
            }
            let place = Place::new(feature_type, layout.fixed_bytes);
            layout.slots.push(place);
            layout.fixed_bytes += place.width;
        }
        layout
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The place of `slot`, if the view has it.
    pub fn place(&self, slot: Slot) -> Option<Place> {
        self.slots.get(usize::from(slot.0)).copied()
    }

    /// All places in slot order.
    pub fn places(&self) -> &[Place] {
        &self.slots
    }

    /// All slots in order, neighbours of one type together.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Bytes of the fixed part of a row with the first `slots` slots.
    pub fn fixed_bytes(&self, slots: usize) -> usize {
        match self.slots.get(slots) {
            Some(place) => place.offset,
            None => self.fixed_bytes,
        }
    }
}
