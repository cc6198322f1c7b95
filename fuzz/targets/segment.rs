//! A segment as recovery meets it: a right header, frames with right checksums that say anything of
//! themselves, and any bytes behind them. It is opened, read, and written on.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use larder::disk::fake::FakeDisk;
use larder::disk::{Disk, read_whole};
use larder::frame::{self, FrameHeader, FrameKind};
use larder::history::open::open;
use larder::history::segment::{self, SegmentHeader};
use larder::history::writer::Options;
use larder::history::{History, ReadError};
use larder::ids::{Epoch, Sequence, StoreId};
use larder::time::ArrivalTime;
use larder_fuzz::{ROOT, read_all, request, seed};

const OPTIONS: Options = Options { segment_bytes: 4096, block_cache_bytes: 1 << 20 };

/// An empty store, and its identity.
fn base() -> &'static (FakeDisk, StoreId) {
    static BASE: OnceLock<(FakeDisk, StoreId)> = OnceLock::new();
    BASE.get_or_init(|| {
        let disk = FakeDisk::new();
        let opened = open(Arc::new(disk.clone()), Path::new(ROOT), OPTIONS).expect("a new store");
        let store = opened.store;
        drop(opened);
        (disk, store)
    })
}

fn seeds() {
    let mut payload = Vec::new();
    larder::history::record::encode_payload(&[&request(0..2)], &mut payload);
    let length = payload.len() as u8;
    let frame = |first: u8| [&[0, 1, first, 3, length][..], &payload].concat();
    seed("frames", &[frame(1), frame(4)].concat());
    seed("mark", &[frame(1), vec![1, 1, 4, 0, 0], vec![9; 70]].concat());
}

/// Five bytes say what a frame says, then comes its payload.
fn segment(mut data: &[u8], store: StoreId, first: Sequence) -> Vec<u8> {
    let mut bytes = SegmentHeader { store, epoch: Epoch(1), first }.encode().to_vec();
    while let Some((&[kind, epoch, first, count, length], rest)) = data.split_first_chunk::<5>()
        && kind < 4
    {
        let (payload, rest) = rest.split_at(usize::from(length).min(rest.len()));
        let number = |byte: u8| if byte == 255 { u64::MAX } else { u64::from(byte) };
        let header = FrameHeader {
            kind: if kind & 1 == 0 { FrameKind::Writes } else { FrameKind::Mark },
            store,
            epoch: Epoch(u32::from(epoch)),
            first: Sequence(number(first)),
            count: u32::from(count),
            arrival: ArrivalTime::from_micros(i64::from(first)),
            durable: Sequence(number(first).saturating_sub(u64::from(kind >> 1))),
        };
        let at = bytes.len();
        bytes.resize(at + frame::HEADER_BYTES, 0);
        bytes.extend_from_slice(payload);
        frame::seal(&header, &mut bytes[at..]);
        data = rest;
    }
    bytes.extend_from_slice(data);
    bytes
}

fn read(history: &History) {
    let _ = history.replay(Sequence::ZERO, |frame| {
        for request in frame.requests().map_err(|error| frame.unreadable(&error))? {
            let request = request.map_err(|error| frame.unreadable(&error))?;
            for record in request.records() {
                record.map_err(|error| frame.unreadable(&error))?;
            }
        }
        Ok::<(), ReadError>(())
    });
    read_all(history);
}

libfuzzer_sys::fuzz_target!(init: seeds(), |data: &[u8]| {
    let (base, store) = base();
    let disk = base.crash();
    let path = segment::path(&Path::new(ROOT).join("history"), Sequence(1));
    let bytes = segment(data, *store, Sequence(1));
    let header = SegmentHeader::decode(&bytes).expect("what was encoded is read");
    let found = segment::examine(&bytes, &header, |_, _| {});
    assert!(found.end <= bytes.len() && found.last >= Sequence::ZERO);
    disk.damage(&path, |file| *file = bytes);
    let Ok(mut opened) = open(Arc::new(disk.clone()), Path::new(ROOT), OPTIONS) else { return };
    assert_eq!(opened.last_sequence, found.last);
    read(&opened.reader);
    if found.last < Sequence(1 << 40) {
        let more = request(0..1);
        if opened.writer.needs_roll(more.length()) {
            opened.writer.roll(None, more.length()).expect("there is space");
        }
        opened.writer.append(&[&more], ArrivalTime::from_micros(1)).expect("there is space");
        opened.writer.sync().expect("a good disk");
        let last = opened.writer.last();
        drop(opened);
        let again = open(Arc::new(disk.crash()), Path::new(ROOT), OPTIONS);
        assert_eq!(again.expect("what was recovered is whole").last_sequence, last);
    }
    assert!(read_whole(&disk, &path).is_ok() && disk.list(Path::new(ROOT)).is_ok());
});
