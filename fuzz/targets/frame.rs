//! Frames: any bytes, then the same as the payload of frames whose checksums are right.
#![no_main]

use larder::frame::{self, FrameHeader, FrameKind};
use larder::history::record::{self, Record};
use larder::ids::{Epoch, Sequence, StoreId};
use larder::time::ArrivalTime;
use larder_fuzz::{request, seed};

const STORE: StoreId = StoreId([7; 16]);

fn read(payload: &[u8], first: Sequence) -> Option<usize> {
    let mut rows = 0;
    for request in record::decode_payload(payload, first).ok()? {
        for record in request.ok()?.records() {
            if let (_, Record::Row(row)) = record.ok()? {
                rows += row.key.len().min(1) + row.archive.len().min(1);
            }
        }
    }
    Some(rows)
}

fn seeds() {
    let mut payload = vec![0; 20];
    record::encode_payload(&[&request(0..3), &request(3..4)], &mut payload);
    seed("payload", &payload);
    let mut whole = vec![0; frame::HEADER_BYTES];
    whole.extend_from_slice(&payload[20..]);
    frame::seal(&header(&[1; 20]), &mut whole);
    seed("frame", &whole);
}

fn header(said: &[u8; 20]) -> FrameHeader {
    let number = |at: usize| u64::from_le_bytes(*said[at..].first_chunk().expect("20 bytes"));
    FrameHeader {
        kind: if said[0] & 1 == 0 { FrameKind::Writes } else { FrameKind::Mark },
        store: STORE,
        epoch: Epoch(u32::from(said[1])),
        first: Sequence(number(2)),
        count: u32::from_le_bytes(*said[8..].first_chunk().expect("20 bytes")),
        arrival: ArrivalTime::from_micros(number(10) as i64),
        durable: Sequence(number(12)),
    }
}

libfuzzer_sys::fuzz_target!(init: seeds(), |data: &[u8]| {
    let _ = frame::decode(data, STORE);
    assert!(frame::find_valid_after(data, 0, STORE).count() <= data.len());
    let Some((said, payload)) = data.split_first_chunk::<20>() else { return };
    let header = header(said);
    let mut bytes = vec![0; frame::HEADER_BYTES];
    bytes.extend_from_slice(payload);
    frame::seal(&header, &mut bytes);
    let frame = frame::decode(&bytes, STORE).expect("what was sealed is read");
    assert_eq!((frame.header, frame.payload), (header, payload));
    let _ = frame.header.last();
    read(payload, header.first);
});
