//! What the fuzz targets share: seeds made by code, and a small store to take them from.
//!
//! Checksums keep random bytes from the code behind them, so each target computes them anew.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use larder::archive::Encoder;
use larder::disk::fake::FakeDisk;
use larder::history::open::open;
use larder::history::pace::Pace;
use larder::history::record::{EncodedRequest, RequestBuilder, Row, Source, SourceKind};
use larder::history::writer::Options;
use larder::ids::{Sequence, Slot, StoreId, ViewId};
use larder::time::{ArrivalTime, EventTime};
use larder::value::cell::{CellRef, ValueRef};
use larder::value::layout::Layout;
use larder::value::types::FeatureType;

/// Writes a seed where `fuzz/run` says; libFuzzer reads them after this.
pub fn seed(name: &str, bytes: &[u8]) {
    if let Some(directory) = std::env::var_os("FUZZ_SEEDS") {
        let path = Path::new(&directory).join(name);
        std::fs::write(path, bytes).expect("fuzz/run made the directory of the seeds");
    }
}

/// Layouts that rows are read with.
pub fn layouts() -> Vec<Layout> {
    let layout = |types: &[&str]| Layout::new(types.iter().map(|name| feature_type(name)));
    vec![
        layout(&["int64"]),
        layout(&["float64", "float32", "int32", "bool", "timestamp"]),
        layout(&["string", "bytes", "string[]", "float32[3]", "bool[]", "int64"]),
    ]
}

/// The type with this name.
pub fn feature_type(name: &str) -> FeatureType {
    FeatureType::parse(name).expect("the name of a type")
}

/// A row of the first layout.
pub fn archive(value: i64) -> Vec<u8> {
    let (layout, mut encoder, mut bytes) = (&layouts()[0], Encoder::default(), Vec::new());
    encoder.start(layout);
    encoder.set(layout, Slot(0), CellRef::Value(ValueRef::Int64(value)));
    encoder.finish_row(&mut bytes);
    bytes
}

/// Rows of one request, with a source.
pub fn request(rows: std::ops::Range<i64>) -> EncodedRequest {
    let source = Source { kind: SourceKind::Kafka, id: b"topic", position: b"17" };
    let mut builder = RequestBuilder::new(Some(source)).expect("a short source");
    for number in rows {
        let (key, archive) = ([(number % 7) as u8], archive(number));
        let event_time = EventTime::from_micros(number * 3 % 50);
        builder.row(&Row { view: ViewId(1), event_time, key: &key, archive: &archive });
    }
    builder.control(b"definition");
    builder.finish().expect("a request with rows")
}

struct Unhurried;

impl Pace for Unhurried {
    fn worked(&mut self, _: u64) -> bool {
        true
    }
}

/// A disk with a store on it, of which one segment is sealed.
pub struct Store {
    pub disk: FakeDisk,
    pub id: StoreId,
    pub entry: larder::history::sealed::SealedEntry,
}

/// Where its data directory is.
pub const ROOT: &str = "/data";

/// Makes a store with 200 rows.
pub fn store() -> Store {
    let disk = FakeDisk::new();
    let options = Options { segment_bytes: 64 << 10, block_cache_bytes: 1 << 20 };
    let mut opened = open(Arc::new(disk.clone()), Path::new(ROOT), options).expect("a new store");
    let rows = request(0..200);
    opened.writer.append(&[&rows], ArrivalTime::from_micros(100)).expect("there is space");
    opened.writer.roll(None, 0).expect("there is space");
    let task = opened.sealer.next_to_seal().expect("a closed segment");
    let file = opened.sealer.make(&task, &mut Unhurried).expect("a good segment").file;
    Store { entry: file.entry(), id: opened.store, disk }
}

/// Sees every row there is.
pub fn read_all(history: &larder::history::History) {
    let Ok(as_of) = history.as_of(Sequence::MAX, None) else { return };
    for key in 0..7 {
        let mut visit = |_: larder::history::as_of::RowAt<'_>| ControlFlow::Continue(());
        drop(as_of.rows_before(ViewId(1), &[key], EventTime::MAX, &mut visit));
    }
}
