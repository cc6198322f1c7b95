//! The one binary shape of a row and of an entity's state: checked when it enters, read without
//! copying afterwards. The only home of rkyv.
//!
//! It does not know files, maps or feature names; a row means something only with its [`Layout`].
//!
//! A row is flat: a fixed part with one place per slot, then a heap for strings, bytes and arrays;
//! two bitmaps beside it tell absent from null from present, and are left out of the common row
//! that has a value everywhere. See `docs/on-disk-format.md`.

use rkyv::rancor::Error as RkyvError;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::ids::{Sequence, Slot};
use crate::recency::Origin;
use crate::time::EventTime;
use crate::value::cell::{ArrayRef, CellRef, ValueRef, read_scalar, write_bytes};
use crate::value::layout::{Layout, Place, Run};
use crate::value::types::{FeatureType, ScalarType};

#[derive(Archive, Serialize)]
struct RowV1<'a> {
    /// Number of slots the view had when the row was written.
    slots: u16,
    /// Empty where every slot is present and not null; else presence bits, then null bits.
    #[rkyv(with = InlineAsBox)]
    bits: &'a [u8],
    /// The fixed part of the layout for that many slots, then the heap.
    #[rkyv(with = InlineAsBox)]
    cells: &'a [u8],
}

#[derive(Archive, Serialize)]
struct OriginV1 {
    event_time: i64,
    sequence: u64,
}

#[derive(Archive, Serialize)]
enum TimesV1<'a> {
    /// Every feature came with one row.
    Same { event_time: i64, sequence: u64 },
    /// One origin per slot; an absent slot's is never read.
    PerFeature(#[rkyv(with = InlineAsBox)] &'a [OriginV1]),
}

#[derive(Archive, Serialize)]
struct StateV1<'a> {
    times: TimesV1<'a>,
    row: RowV1<'a>,
}

/// Bytes that are no such archive.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// rkyv's own check refused them.
    #[error("archive of {bytes} bytes is malformed: {reason}")]
    Malformed {
        /// How many bytes there are.
        bytes: usize,
        /// What rkyv says.
        reason: String,
    },
    /// The archive does not fit the view's layout.
    #[error("archived row does not fit its view: {reason}")]
    Unfit {
        /// What does not fit.
        reason: &'static str,
    },
}

fn malformed(bytes: &[u8], error: &RkyvError) -> ArchiveError {
    ArchiveError::Malformed { bytes: bytes.len(), reason: error.to_string() }
}

/// An archived row, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RowRef<'a> {
    slots: usize,
    bits: &'a [u8],
    cells: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// Reads a row in place.
    ///
    /// # Errors
    /// The bytes are no archived row. Whether it fits its view, [`Self::check`] tells.
    pub fn access(bytes: &'a [u8]) -> Result<Self, ArchiveError> {
        let row = rkyv::access::<ArchivedRowV1<'_>, RkyvError>(bytes)
            .map_err(|error| malformed(bytes, &error))?;
        Ok(Self::from_archived(row))
    }

    fn from_archived(row: &'a ArchivedRowV1<'a>) -> Self {
        Self { slots: usize::from(row.slots.to_native()), bits: &row.bits, cells: &row.cells }
    }

    /// Checks that the row fits `layout`: lengths, types, UTF-8, finite floats. Done once, where
    /// bytes enter the process; afterwards cells are read without errors.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(self, layout: &Layout) -> Result<(), ArchiveError> {
        let unfit = |reason| Err(ArchiveError::Unfit { reason });
        if self.slots > layout.len() {
            return unfit("more slots than the view has features");
        }
        if !self.bits.is_empty() && self.bits.len() != 2 * bitmap_bytes(self.slots) {
            return unfit("bitmaps of the wrong length");
        }
        if self.cells.len() < layout.fixed_bytes(self.slots) {
            return unfit("fixed part too short");
        }
        let fits = match self.bits.is_empty() {
            true => layout.runs().iter().all(|run| self.fit(layout, run)),
            false => layout.places().iter().enumerate().take(self.slots).all(|(slot, place)| {
                !self.is_present(slot) || self.is_null(slot) || self.read(*place).is_some()
            }),
        };
        if fits { Ok(()) } else { unfit("a value that is not of its feature's type") }
    }

    /// What the row says of `slot`; absent where the row is older than the feature.
    pub fn cell(self, layout: &Layout, slot: Slot) -> CellRef<'a> {
        match layout.place(slot) {
            Some(place) => self.cell_at(place, slot),
            // A row that was checked has no slot that its layout lacks.
            None => CellRef::Absent,
        }
    }

    /// The same, for who knows the slot's place already, in the layout the row was checked with or
    /// one that has grown out of it.
    #[inline]
    pub fn cell_at(self, place: Place, slot: Slot) -> CellRef<'a> {
        let index = usize::from(slot.0);
        if !self.is_present(index) {
            return CellRef::Absent;
        }
        if self.is_null(index) {
            return CellRef::Null;
        }
        match self.read(place) {
            Some(value) => CellRef::Value(value),
            None => unreachable!("row was checked when it entered"),
        }
    }

    /// Number of features the view had when the row was written.
    pub fn slots(self) -> usize {
        self.slots
    }

    /// Whether the row says something of the slot at `index`, a value or null. Needs no check
    /// against a layout.
    pub fn has(self, index: usize) -> bool {
        let bits = self.bits.get(index / 8);
        let said = bits.is_some_and(|bits| bits >> (index % 8) & 1 == 1);
        index < self.slots && (self.bits.is_empty() || said)
    }

    fn is_present(self, index: usize) -> bool {
        index < self.slots && (self.bits.is_empty() || bit(self.bits, index))
    }

    fn is_null(self, index: usize) -> bool {
        let nulls = bitmap_bytes(self.slots);
        !self.bits.is_empty() && bit(&self.bits[nulls..], index)
    }

    /// Whether values of their features' type are in `run`, of a row that has a value everywhere
    /// and a whole fixed part. A restart asks this of every row, so numbers are looked at together.
    fn fit(self, layout: &Layout, run: &Run) -> bool {
        let slots = run.slots.start..run.slots.end.min(self.slots);
        if slots.is_empty() {
            return true;
        }
        let fixed = &self.cells[layout.fixed_bytes(slots.start)..layout.fixed_bytes(slots.end)];
        match run.feature_type {
            FeatureType::Scalar(ScalarType::Int32 | ScalarType::Int64 | ScalarType::Timestamp) => {
                true
            }
            FeatureType::Scalar(ScalarType::Float32) => {
                let values = fixed.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                // Without an early end the compiler looks at several at once.
                values.fold(true, |finite, value| finite & value.is_finite())
            }
            FeatureType::Scalar(ScalarType::Float64) => {
                let values = fixed.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
                values.fold(true, |finite, value| finite & value.is_finite())
            }
            _ => layout.places()[slots].iter().all(|place| self.read(*place).is_some()),
        }
    }

    #[inline]
    fn read(self, place: Place) -> Option<ValueRef<'a>> {
        let fixed = self.cells.get(place.offset..place.offset + place.width)?;
        match place.feature_type {
            FeatureType::Scalar(ScalarType::String | ScalarType::Bytes)
            | FeatureType::Array { .. } => self.read_heaped(place.feature_type, fixed),
            FeatureType::Scalar(scalar) => read_scalar(scalar, fixed),
        }
    }

    fn read_heaped(self, feature_type: FeatureType, fixed: &[u8]) -> Option<ValueRef<'a>> {
        let heaped = self.heap(fixed)?;
        match feature_type {
            FeatureType::Scalar(scalar) => read_scalar(scalar, heaped),
            FeatureType::Array { element, length } => {
                let array = ArrayRef::read(element, heaped)?;
                length
                    .is_none_or(|length| length == array.count())
                    .then_some(ValueRef::Array(array))
            }
        }
    }

    fn heap(self, reference: &[u8]) -> Option<&'a [u8]> {
        let (offset, length) = reference.split_first_chunk::<4>()?;
        let offset = usize::try_from(u32::from_le_bytes(*offset)).ok()?;
        let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
        // Counted from the start of the cells, so that a layout with fewer slots finds it too.
        self.cells.get(offset..offset.checked_add(length)?)
    }

    /// Whether every slot up to `slots` is present, so that older values cannot show through.
    fn covers(self, slots: usize) -> bool {
        slots <= self.slots && (0..slots).all(|slot| self.is_present(slot))
    }
}

fn bitmap_bytes(slots: usize) -> usize {
    slots.div_ceil(8)
}

fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] >> (index % 8) & 1 == 1
}

fn set_bit(bitmap: &mut [u8], index: usize) {
    bitmap[index / 8] |= 1 << (index % 8);
}

/// An archived state, borrowed: the newest cell of every feature of one view for one entity, and
/// where each came from.
#[derive(Clone, Copy, Debug)]
pub struct StateRef<'a> {
    times: TimesRef<'a>,
    row: RowRef<'a>,
}

#[derive(Clone, Copy, Debug)]
enum TimesRef<'a> {
    Same(Origin),
    PerFeature(&'a [ArchivedOriginV1]),
}

impl ArchivedOriginV1 {
    fn origin(&self) -> Origin {
        origin(self.event_time.to_native(), self.sequence.to_native())
    }
}

impl std::fmt::Debug for ArchivedOriginV1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.origin().fmt(f)
    }
}

fn origin(event_time: i64, sequence: u64) -> Origin {
    Origin { event_time: EventTime::from_micros(event_time), sequence: Sequence(sequence) }
}

impl<'a> StateRef<'a> {
    /// Reads a state in place.
    ///
    /// # Errors
    /// The bytes are no archived state. Whether it fits its view, [`Self::check`] tells.
    pub fn access(bytes: &'a [u8]) -> Result<Self, ArchiveError> {
        let state = rkyv::access::<ArchivedStateV1<'_>, RkyvError>(bytes)
            .map_err(|error| malformed(bytes, &error))?;
        let times = match &state.times {
            ArchivedTimesV1::Same { event_time, sequence } => {
                TimesRef::Same(origin(event_time.to_native(), sequence.to_native()))
            }
            ArchivedTimesV1::PerFeature(origins) => TimesRef::PerFeature(origins),
        };
        Ok(Self { times, row: RowRef::from_archived(&state.row) })
    }

    /// As [`RowRef::check`], and that there is an origin for every slot.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(self, layout: &Layout) -> Result<(), ArchiveError> {
        match self.times {
            TimesRef::PerFeature(origins) if origins.len() != self.row.slots => {
                Err(ArchiveError::Unfit { reason: "not one origin per slot" })
            }
            _ => self.row.check(layout),
        }
    }

    /// Features the view had when this was last merged.
    pub fn slots(self) -> usize {
        self.row.slots
    }

    /// The newest cell of `slot`, which lies at `place` in the view's layout.
    #[inline]
    pub fn cell_at(self, place: Place, slot: Slot) -> CellRef<'a> {
        self.row.cell_at(place, slot)
    }

    /// Where the cell of `slot` came from; none where it is absent.
    #[inline]
    pub fn origin(self, slot: Slot) -> Option<Origin> {
        let index = usize::from(slot.0);
        if !self.row.is_present(index) {
            return None;
        }
        match self.times {
            TimesRef::Same(origin) => Some(origin),
            TimesRef::PerFeature(origins) => origins.get(index).map(ArchivedOriginV1::origin),
        }
    }

    /// The last row that changed this state. What is at or below it has been applied.
    pub fn sequence(self) -> Sequence {
        self.origins().map(|origin| origin.sequence).max().unwrap_or(Sequence::ZERO)
    }

    /// The oldest row that a feature in it came with.
    pub fn oldest_sequence(self) -> Sequence {
        self.origins().map(|origin| origin.sequence).min().unwrap_or(Sequence::ZERO)
    }

    /// The newest event time of any feature in it.
    pub fn event_time(self) -> EventTime {
        self.origins().map(|origin| origin.event_time).max().unwrap_or(EventTime::MIN)
    }

    fn origins(self) -> impl Iterator<Item = Origin> {
        let (same, each) = match self.times {
            TimesRef::Same(origin) => (Some(origin), 0),
            TimesRef::PerFeature(_) => (None, self.row.slots),
        };
        let slots = (0..each).filter_map(move |slot| self.origin(slot_at(slot)));
        same.into_iter().chain(slots)
    }
}

fn slot_at(index: usize) -> Slot {
    Slot(u16::try_from(index).expect("slots are counted in 16 bits"))
}

/// Builds archived rows and states, one after another, reusing its buffers.
#[derive(Default)]
pub struct Encoder {
    slots: usize,
    present: Vec<u8>,
    nulls: Vec<u8>,
    cells: Vec<u8>,
    heap: Vec<u8>,
}

impl Encoder {
    /// Begins a row of `layout` in which everything is absent.
    ///
    /// # Panics
    /// If the layout has 65,536 slots or more.
    pub fn start(&mut self, layout: &Layout) {
        self.slots = layout.len();
        for (buffer, length) in [
            (&mut self.present, bitmap_bytes(self.slots)),
            (&mut self.nulls, bitmap_bytes(self.slots)),
            (&mut self.cells, layout.fixed_bytes(self.slots)),
            (&mut self.heap, 0),
        ] {
            buffer.clear();
            buffer.resize(length, 0);
        }
    }

    /// Sets the cell of `slot`. Each slot is set at most once; the caller has checked the type.
    ///
    /// # Panics
    /// If the layout has no such slot.
    pub fn set(&mut self, layout: &Layout, slot: Slot, cell: CellRef<'_>) {
        let index = usize::from(slot.0);
        let place = layout.place(slot).expect("slot of this layout");
        match cell {
            CellRef::Absent => {}
            CellRef::Null => {
                set_bit(&mut self.present, index);
                set_bit(&mut self.nulls, index);
            }
            CellRef::Value(value) => {
                set_bit(&mut self.present, index);
                self.write(place, value);
            }
        }
    }

    fn write(&mut self, place: Place, value: ValueRef<'_>) {
        let fixed_bytes = self.cells.len();
        let fixed = &mut self.cells[place.offset..place.offset + place.width];
        match value {
            ValueRef::Bool(value) => fixed[0] = u8::from(value),
            ValueRef::Int32(value) => fixed.copy_from_slice(&value.to_le_bytes()),
            ValueRef::Int64(value) => fixed.copy_from_slice(&value.to_le_bytes()),
            ValueRef::Float32(value) => fixed.copy_from_slice(&value.to_le_bytes()),
            ValueRef::Float64(value) => fixed.copy_from_slice(&value.to_le_bytes()),
            ValueRef::Timestamp(value) => fixed.copy_from_slice(&value.micros().to_le_bytes()),
            ValueRef::String(_) | ValueRef::Bytes(_) | ValueRef::Array(_) => {
                let start = self.heap.len();
                write_bytes(value, &mut self.heap);
                let (offset, length) = (fixed_bytes + start, self.heap.len() - start);
                let [offset, length] = [offset, length]
                    .map(|n| u32::try_from(n).expect("a row is far smaller than 4 GiB"));
                fixed[..4].copy_from_slice(&offset.to_le_bytes());
                fixed[4..].copy_from_slice(&length.to_le_bytes());
            }
        }
    }

    /// Appends the finished row to `out`.
    pub fn finish_row(&mut self, out: &mut Vec<u8>) {
        let row = self.finish();
        append(&row, out);
    }

    fn finish(&mut self) -> RowV1<'_> {
        self.cells.append(&mut self.heap);
        let all_present = (0..self.slots).all(|slot| bit(&self.present, slot));
        let plain = all_present && self.nulls.iter().all(|byte| *byte == 0);
        if !plain {
            self.present.extend_from_slice(&self.nulls);
        }
        RowV1 {
            slots: u16::try_from(self.slots).expect("slots are counted in 16 bits"),
            bits: if plain { &[] } else { &self.present },
            cells: &self.cells,
        }
    }

    /// The state of an entity after `row`: `old` where it stands, the row where it wins. None where
    /// the row changes nothing, because newer values are there (or it was applied before).
    pub fn merge(
        &mut self,
        layout: &Layout,
        old: Option<StateRef<'_>>,
        row: RowRef<'_>,
        from: Origin,
    ) -> Option<Vec<u8>> {
        let Some(old) = old else {
            return Some(state_of_row(row, from));
        };
        if let TimesRef::Same(before) = old.times
            && from > before
            && row.covers(old.row.slots)
        {
            return Some(state_of_row(row, from));
        }
        self.merge_cells(layout, old, row, from)
    }

    /// The state of an entity without the features that came with rows below a sequence; none if
    /// no feature is left.
    pub fn without(
        &mut self,
        layout: &Layout,
        old: StateRef<'_>,
        below: Sequence,
    ) -> Option<Vec<u8>> {
        self.start(layout);
        let mut origins = vec![None; layout.len()];
        for (slot, origin) in (0..layout.len()).map(slot_at).zip(&mut origins) {
            *origin = old.origin(slot).filter(|origin| origin.sequence >= below);
            if origin.is_some() {
                self.set(layout, slot, old.row.cell(layout, slot));
            }
        }
        origins.iter().any(Option::is_some).then(|| self.finish_state(&origins))
    }

    fn merge_cells(
        &mut self,
        layout: &Layout,
        old: StateRef<'_>,
        row: RowRef<'_>,
        from: Origin,
    ) -> Option<Vec<u8>> {
        self.start(layout);
        let mut origins = Vec::with_capacity(layout.len());
        let mut changed = false;
        for slot in (0..layout.len()).map(slot_at) {
            let new = row.cell(layout, slot);
            let before = old.origin(slot);
            let wins = new != CellRef::Absent && before.is_none_or(|before| from > before);
            changed |= wins;
            let (cell, origin) =
                if wins { (new, Some(from)) } else { (old.row.cell(layout, slot), before) };
            self.set(layout, slot, cell);
            origins.push(origin);
        }
        changed.then(|| self.finish_state(&origins))
    }

    fn finish_state(&mut self, origins: &[Option<Origin>]) -> Vec<u8> {
        let mut known = origins.iter().flatten();
        let first = known.next().copied();
        let each: Vec<OriginV1>;
        let times = match first {
            Some(first) if known.all(|origin| *origin == first) => {
                TimesV1::Same { event_time: first.event_time.micros(), sequence: first.sequence.0 }
            }
            _ => {
                let nowhere = origin(i64::MIN, 0);
                each = origins
                    .iter()
                    .map(|origin| origin.unwrap_or(nowhere))
                    .map(|origin| OriginV1 {
                        event_time: origin.event_time.micros(),
                        sequence: origin.sequence.0,
                    })
                    .collect();
                TimesV1::PerFeature(&each)
            }
        };
        let mut out = Vec::new();
        append(&StateV1 { times, row: self.finish() }, &mut out);
        out
    }
}

fn state_of_row(row: RowRef<'_>, from: Origin) -> Vec<u8> {
    let slots = u16::try_from(row.slots).expect("slots are counted in 16 bits");
    let times = TimesV1::Same { event_time: from.event_time.micros(), sequence: from.sequence.0 };
    let mut out = Vec::with_capacity(row.bits.len() + row.cells.len() + 64);
    append(&StateV1 { times, row: RowV1 { slots, bits: row.bits, cells: row.cells } }, &mut out);
    out
}

fn append<'a, T>(value: &T, out: &mut Vec<u8>)
where
    T: Archive
        + for<'s> Serialize<
            rkyv::api::high::HighSerializer<
                Vec<u8>,
                rkyv::ser::allocator::ArenaHandle<'s>,
                RkyvError,
            >,
        > + 'a,
{
    *out = rkyv::api::high::to_bytes_in::<_, RkyvError>(value, std::mem::take(out))
        .expect("writing to memory cannot fail");
}

// The bytes on disk depend on rkyv's format features, which any dependency could flip: a build
// with others does not compile.
const _: fn(rkyv::primitive::ArchivedU64) -> rkyv::rend::unaligned::u64_ule = |value| value;
const _: () = assert!(size_of::<ArchivedRowV1<'_>>() == 2 + 8 + 8);
const _: () = assert!(size_of::<ArchivedStateV1<'_>>() == 17 + size_of::<ArchivedRowV1<'_>>());
const _: () = assert!(align_of::<ArchivedStateV1<'_>>() == 1);

#[cfg(test)]
mod tests;
