//! What can happen to a store, as random values. A pick is taken modulo what there is to choose
//! from when the step is played, so that a shorter history still makes sense.
//!
//! It does not know what any of it does.

use larder::engine::writes::Durability;
use proptest::collection::vec;
use proptest::prelude::*;

/// One life of a store.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) durability: Durability,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write {
        rows: Vec<NewRow>,
        key: Option<u8>,
    },
    /// Sends a write that had an idempotency key once more.
    Repeat {
        pick: usize,
        same_content: bool,
    },
    /// A definition changes between the check of a write and the writing.
    Overtaken {
        rows: Vec<NewRow>,
        by: Definition,
    },
    Define(Definition),
    /// Erases an entity of one of the types.
    Erase {
        kind: usize,
        entity: usize,
    },
    Restart {
        how: Restart,
        loss: Loss,
    },
    /// Turns the clock by so many seconds.
    Clock(i64),
}

#[derive(Clone, Debug)]
pub(super) struct NewRow {
    pub(super) view: usize,
    pub(super) entity: usize,
    pub(super) time: RowTime,
    pub(super) cells: Vec<NewCell>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RowTime {
    /// No event time: it happens when it arrives.
    Arrival,
    /// Seconds from now.
    Offset(i64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum NewCell {
    Absent,
    Null,
    /// A value made from this number.
    Value(u8),
}

#[derive(Clone, Debug)]
pub(super) enum Definition {
    AddFeature {
        view: usize,
        kind: usize,
    },
    AddVersion {
        view: usize,
        kind: usize,
    },
    DefaultVersion {
        view: usize,
    },
    DropView {
        view: usize,
        /// With its rows.
        data: bool,
    },
    /// Defines a view again that was dropped, with one feature.
    Recreate {
        kind: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Restart {
    /// Closed as by SIGTERM.
    Close,
    /// As after SIGKILL: what is on disk while the engine runs.
    Crash,
}

/// What is derived from history and can be lost or damaged between two runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    Nothing,
    Checkpoint,
    DiskTier,
    Both,
    CheckpointDamaged,
    DiskTierDamaged,
}

pub(super) fn history() -> impl Strategy<Value = History> {
    let durability =
        prop_oneof![Just(Durability::Sync), Just(Durability::Interval), Just(Durability::Os)];
    (durability, vec(step(), 1..40)).prop_map(|(durability, steps)| History { durability, steps })
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop_oneof![2 => Just(None), 1 => (0..6u8).prop_map(Some)];
    prop_oneof![
        24 => (rows(), key).prop_map(|(rows, key)| Step::Write { rows, key }),
        4 => (pick(), prop::bool::weighted(0.8))
            .prop_map(|(pick, same_content)| Step::Repeat { pick, same_content }),
        2 => (rows(), definition()).prop_map(|(rows, by)| Step::Overtaken { rows, by }),
        6 => definition().prop_map(Step::Define),
        3 => (pick(), pick()).prop_map(|(kind, entity)| Step::Erase { kind, entity }),
        4 => (restart(), loss()).prop_map(|(how, loss)| Step::Restart { how, loss }),
        6 => clock().prop_map(Step::Clock),
    ]
}

fn rows() -> impl Strategy<Value = Vec<NewRow>> {
    let cells = vec(cell(), 6);
    let row = (pick(), pick(), row_time(), cells).prop_map(|(view, entity, time, cells)| NewRow {
        view,
        entity,
        time,
        cells,
    });
    vec(row, 1..8)
}

/// In steps of five seconds, so that equal event times are common.
fn row_time() -> impl Strategy<Value = RowTime> {
    prop_oneof![
        20 => Just(RowTime::Arrival),
        60 => (-40..=0i64).prop_map(|fives| RowTime::Offset(fives * 5)),
        10 => (-4000..=0i64).prop_map(|fives| RowTime::Offset(fives * 5)),
        // Up to `max_future`, which counts as the arrival.
        10 => (1..=60i64).prop_map(|fives| RowTime::Offset(fives * 5)),
        // Further than that; refuses the whole write.
        1 => (61..70i64).prop_map(|fives| RowTime::Offset(fives * 5)),
    ]
}

fn cell() -> impl Strategy<Value = NewCell> {
    prop_oneof![
        3 => Just(NewCell::Absent),
        1 => Just(NewCell::Null),
        5 => any::<u8>().prop_map(NewCell::Value),
    ]
}

fn definition() -> impl Strategy<Value = Definition> {
    prop_oneof![
        3 => (pick(), pick()).prop_map(|(view, kind)| Definition::AddFeature { view, kind }),
        2 => (pick(), pick()).prop_map(|(view, kind)| Definition::AddVersion { view, kind }),
        2 => pick().prop_map(|view| Definition::DefaultVersion { view }),
        2 => (pick(), any::<bool>())
            .prop_map(|(view, data)| Definition::DropView { view, data }),
        2 => pick().prop_map(|kind| Definition::Recreate { kind }),
    ]
}

fn restart() -> impl Strategy<Value = Restart> {
    prop_oneof![Just(Restart::Close), Just(Restart::Crash)]
}

fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        4 => Just(Loss::Nothing),
        2 => Just(Loss::Checkpoint),
        1 => Just(Loss::DiskTier),
        1 => Just(Loss::Both),
        1 => Just(Loss::CheckpointDamaged),
        1 => Just(Loss::DiskTierDamaged),
    ]
}

fn clock() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0..60i64,
        3 => 60..1000i64,
        // Idempotency keys are forgotten.
        1 => 86_000..87_000i64,
        2 => -200..0i64,
        // Past `max_future`: writes stop until it is turned on again.
        1 => -900..-300i64,
    ]
}

fn pick() -> std::ops::Range<usize> {
    0..60
}
