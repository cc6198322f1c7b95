//! Rows and states against a naive twin, and their bytes on disk.

use proptest::prelude::*;

use super::*;
use crate::value::cell::{Cell, Value};

fn layout() -> Layout {
    Layout::new(
        ["int32", "string", "float64", "float32[2]", "bool", "string[]", "timestamp"]
            .map(|text| FeatureType::parse(text).unwrap()),
    )
}

fn row(layout: &Layout, cells: &[Cell]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.start(layout);
    for (index, cell) in cells.iter().enumerate() {
        encoder.set(layout, slot_at(index), cell.borrowed());
    }
    let mut out = Vec::new();
    encoder.finish_row(&mut out);
    out
}

fn array(element: ScalarType, values: Vec<Value>) -> Value {
    let mut builder = crate::value::cell::ArrayBuilder::new(element);
    values.iter().for_each(|value| builder.push(value.borrowed()));
    Value::Array(builder.finish())
}

#[test]
fn a_state_without_what_was_erased() {
    let layout = layout();
    let mut encoder = Encoder::default();
    let cells = |ints: [Option<i32>; 2]| {
        let mut cells = vec![Cell::Absent; layout.len()];
        cells[0] = ints[0].map_or(Cell::Absent, |int| Cell::Value(Value::Int32(int)));
        cells[1] =
            ints[1].map_or(Cell::Null, |int| Cell::Value(Value::String(int.to_string().into())));
        row(&layout, &cells)
    };
    let (first, second) = (cells([Some(1), Some(1)]), cells([None, Some(2)]));
    let access = |bytes| RowRef::access(bytes).unwrap();
    let old = encoder.merge(&layout, None, access(&first), origin(50, 5)).unwrap();
    let old = StateRef::access(&old).unwrap();
    let state = encoder.merge(&layout, Some(old), access(&second), origin(60, 9)).unwrap();
    let state = StateRef::access(&state).unwrap();
    assert_eq!(state.oldest_sequence(), Sequence(5));
    let left = encoder.without(&layout, state, Sequence(6)).unwrap();
    let left = StateRef::access(&left).unwrap();
    left.check(&layout).unwrap();
    assert_eq!((left.origin(Slot(0)), left.origin(Slot(1))), (None, Some(origin(60, 9))));
    assert_eq!(left.row.cell(&layout, Slot(0)), CellRef::Absent);
    assert_eq!(left.row.cell(&layout, Slot(1)), CellRef::Value(ValueRef::String("2")));
    assert_eq!(encoder.without(&layout, state, Sequence(10)), None);
}

fn value_of(feature_type: FeatureType) -> BoxedStrategy<Value> {
    let finite32 = any::<f32>().prop_filter("finite", |v| v.is_finite());
    let finite64 = any::<f64>().prop_filter("finite", |v| v.is_finite());
    match feature_type {
        FeatureType::Scalar(ScalarType::Bool) => any::<bool>().prop_map(Value::Bool).boxed(),
        FeatureType::Scalar(ScalarType::Int32) => any::<i32>().prop_map(Value::Int32).boxed(),
        FeatureType::Scalar(ScalarType::Int64) => any::<i64>().prop_map(Value::Int64).boxed(),
        FeatureType::Scalar(ScalarType::Float32) => finite32.prop_map(Value::Float32).boxed(),
        FeatureType::Scalar(ScalarType::Float64) => finite64.prop_map(Value::Float64).boxed(),
        FeatureType::Scalar(ScalarType::Timestamp) => {
            any::<i64>().prop_map(|micros| Value::Timestamp(EventTime::from_micros(micros))).boxed()
        }
        FeatureType::Scalar(ScalarType::Bytes) => proptest::collection::vec(any::<u8>(), 0..9)
            .prop_map(|bytes| Value::Bytes(bytes.into()))
            .boxed(),
        FeatureType::Scalar(ScalarType::String) => {
            ".{0,9}".prop_map(|text| Value::String(text.into())).boxed()
        }
        FeatureType::Array { element, length } => {
            let (least, most) = length.map_or((0, 4), |n| (n as usize, n as usize));
            let elements = value_of(FeatureType::Scalar(element));
            proptest::collection::vec(elements, least..=most)
                .prop_map(move |values| array(element, values))
                .boxed()
        }
    }
}

fn cells() -> BoxedStrategy<Vec<Cell>> {
    let cell = |place: &Place| {
        prop_oneof![
            1 => Just(Cell::Absent),
            1 => Just(Cell::Null),
            3 => value_of(place.feature_type).prop_map(Cell::Value),
        ]
    };
    layout().places().iter().map(cell).collect::<Vec<_>>().boxed()
}

fn read_back(layout: &Layout, state: StateRef<'_>) -> Vec<(Cell, Option<Origin>)> {
    let owned = |cell| match cell {
        CellRef::Absent => Cell::Absent,
        CellRef::Null => Cell::Null,
        CellRef::Value(value) => Cell::Value(value.to_owned()),
    };
    (0..layout.len())
        .map(slot_at)
        .map(|slot| (owned(state.row.cell(layout, slot)), state.origin(slot)))
        .collect()
}

proptest! {
    #[test]
    fn rows_read_back_as_written(cells in cells()) {
        let layout = layout();
        let bytes = row(&layout, &cells);
        let row = RowRef::access(&bytes).unwrap();
        row.check(&layout).unwrap();
        for (index, cell) in cells.iter().enumerate() {
            prop_assert_eq!(row.cell(&layout, slot_at(index)), cell.borrowed());
        }
    }

    /// The naive twin of `merge`: per slot the cell of the greatest origin that is not absent.
    #[test]
    fn merging_keeps_the_newest_cell_of_every_slot(
        rows in proptest::collection::vec((cells(), 0_i64..5), 1..8)
    ) {
        let layout = layout();
        let mut encoder = Encoder::default();
        let mut state: Option<Vec<u8>> = None;
        let mut naive = vec![(Cell::Absent, None); layout.len()];
        for (index, (cells, time)) in rows.iter().enumerate() {
            let from = origin(*time, index as u64 + 1);
            let bytes = row(&layout, cells);
            let row = RowRef::access(&bytes).unwrap();
            let old = state.as_deref().map(|old| StateRef::access(old).unwrap());
            let mut changes = old.is_none();
            for (kept, cell) in naive.iter_mut().zip(cells) {
                if *cell != Cell::Absent && kept.1.is_none_or(|before| from > before) {
                    *kept = (cell.clone(), Some(from));
                    changes = true;
                }
            }
            let merged = encoder.merge(&layout, old, row, from);
            prop_assert_eq!(merged.is_some(), changes);
            state = merged.or(state);
            let read = StateRef::access(state.as_deref().unwrap()).unwrap();
            read.check(&layout).unwrap();
            prop_assert_eq!(read_back(&layout, read), naive.clone());
            prop_assert!(encoder.merge(&layout, Some(read), row, from).is_none());
        }
    }

    #[test]
    fn damaged_bytes_never_panic(cells in cells(), flip in any::<prop::sample::Index>()) {
        let layout = layout();
        let mut bytes = row(&layout, &cells);
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(row) = RowRef::access(&bytes) && row.check(&layout).is_ok() {
            for index in 0..layout.len() {
                let _ = row.cell(&layout, slot_at(index));
            }
        }
    }
}

/// Rows without bitmaps are checked in runs of one type, the last of which may be cut short by
/// a row that is older than the feature.
#[test]
fn a_value_that_is_not_finite_is_found_wherever_it_is() {
    let types = |count| {
        let kinds = ["float64", "float32", "int64"];
        let types = kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, 9));
        Layout::new(types.take(count).map(|text| FeatureType::parse(text).unwrap()))
    };
    let layout = types(27);
    for slots in 1..=27 {
        let written = types(slots);
        let value = |place: &Place| match place.feature_type {
            FeatureType::Scalar(ScalarType::Float64) => Cell::Value(Value::Float64(1.5)),
            FeatureType::Scalar(ScalarType::Float32) => Cell::Value(Value::Float32(1.5)),
            _ => Cell::Value(Value::Int64(-1)),
        };
        let cells: Vec<Cell> = written.places().iter().map(value).collect();
        let good = row(&written, &cells);
        let read = RowRef::access(&good).unwrap();
        assert_eq!((read.bits.len(), read.check(&layout)), (0, Ok(())));
        for place in written.places() {
            let mut cells = read.cells.to_vec();
            cells[place.offset..place.offset + place.width].fill(0xff);
            let odd = RowRef { cells: &cells, ..read };
            let number = matches!(place.feature_type, FeatureType::Scalar(ScalarType::Int64));
            assert_eq!(odd.check(&layout).is_ok(), number, "{slots} slots, {place:?}");
        }
    }
}

#[test]
fn a_plan_of_fewer_features_reads_newer_rows() {
    let old = Layout::new(["int32", "string"].map(|text| FeatureType::parse(text).unwrap()));
    let cells = [Cell::Value(Value::Int32(7)), Cell::Value(Value::String("ab".into()))];
    let bytes = row(&layout(), &cells);
    let row = RowRef::access(&bytes).unwrap();
    assert_eq!(row.cell(&old, Slot(0)), CellRef::Value(ValueRef::Int32(7)));
    assert_eq!(row.cell(&old, Slot(1)), CellRef::Value(ValueRef::String("ab")));
}

#[test]
fn a_view_that_gains_features_reads_its_old_rows() {
    let old = Layout::new([FeatureType::Scalar(ScalarType::Int32)]);
    let bytes = row(&old, &[Cell::Value(Value::Int32(7))]);
    let new = layout();
    let row = RowRef::access(&bytes).unwrap();
    row.check(&new).unwrap();
    assert_eq!(row.cell(&new, Slot(0)), CellRef::Value(ValueRef::Int32(7)));
    assert_eq!(row.cell(&new, Slot(1)), CellRef::Absent);
}

/// The bytes on disk. If this fails, the format moved: that takes a new version, not a new
/// golden.
#[test]
fn golden_bytes() {
    let layout = Layout::new(["int32", "string"].map(|text| FeatureType::parse(text).unwrap()));
    let cells = [Cell::Value(Value::Int32(1)), Cell::Value(Value::String("ab".into()))];
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let full = row(&layout, &cells);
    assert_eq!(hex(&full), GOLDEN_FULL);
    let partial = row(&layout, &[Cell::Absent, Cell::Null]);
    assert_eq!(hex(&partial), GOLDEN_PARTIAL);
    let row = RowRef::access(&full).unwrap();
    let state = Encoder::default().merge(&layout, None, row, origin(2, 3)).unwrap();
    assert_eq!(hex(&state), GOLDEN_STATE);
}

const GOLDEN_FULL: &str = "010000000c0000000200000061620200f0ffffff00000000e8ffffff0e000000";
const GOLDEN_PARTIAL: &str = "02020000000000000000000000000200f0ffffff02000000eaffffff0c000000";
const GOLDEN_STATE: &str = "010000000c00000002000000616200020000000000000003000000000000000200dfffffff00000000d7ffffff0e000000";
