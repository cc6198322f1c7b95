//! Requests and records, byte for byte.

use super::*;

fn row<'a>(time: i64, key: &'a [u8], archive: &'a [u8]) -> Row<'a> {
    Row { view: ViewId(3), event_time: EventTime::from_micros(time), key, archive }
}

#[test]
fn a_source_set_late_reads_as_one_set_first() {
    let source = Source { kind: SourceKind::Idempotency, id: b"key", position: b"hash" };
    let build = |source| {
        let mut builder = RequestBuilder::new(source).unwrap();
        builder.row(&row(5, b"key", b"archive"));
        builder.row(&row(i64::MAX, b"k", b"a"));
        builder.finish().unwrap()
    };
    let (first, mut late) = (build(Some(source)), build(None));
    late.set_source(source).unwrap();
    assert_eq!(late.bytes, first.bytes);
    assert_eq!(late.times, first.times);
}

fn example() -> [EncodedRequest; 2] {
    let source = Source { kind: SourceKind::Kafka, id: b"topic/0", position: b"12" };
    let mut first = RequestBuilder::new(Some(source)).unwrap();
    first.row(&row(-5, b"key", b"archive"));
    first.control(b"control");
    let mut second = RequestBuilder::new(None).unwrap();
    second.row(&row(i64::MAX, b"", b""));
    [first.finish().unwrap(), second.finish().unwrap()]
}

fn payload() -> Vec<u8> {
    let [first, second] = example();
    let mut payload = Vec::new();
    encode_payload(&[&first, &second], &mut payload);
    assert_eq!(payload.len(), payload_length(first.length() + second.length()));
    payload
}

fn read_all(payload: &[u8]) -> Result<Vec<(u64, Record<'_>)>, RecordError> {
    let mut records = Vec::new();
    for request in decode_payload(payload, Sequence(10))? {
        for record in request?.records() {
            let (sequence, record) = record?;
            records.push((sequence.0, record));
        }
    }
    Ok(records)
}

#[test]
fn reads_back_what_was_built() {
    let payload = payload();
    let expected = [
        (10, Record::Row(row(-5, b"key", b"archive"))),
        (11, Record::Control(b"control")),
        (12, Record::Row(row(i64::MAX, b"", b""))),
    ];
    assert_eq!(read_all(&payload).unwrap(), expected);
    let mut requests = decode_payload(&payload, Sequence(10)).unwrap();
    let first = requests.next().unwrap().unwrap();
    let source = first.source.unwrap();
    assert_eq!((source.kind, source.id), (SourceKind::Kafka, &b"topic/0"[..]));
    assert_eq!((first.first, first.last()), (Sequence(10), Sequence(11)));
    assert_eq!(requests.next().unwrap().unwrap().source, None);
    assert!(requests.next().is_none());
}

#[test]
fn the_bytes_are_what_they_always_were() {
    let hex: String = payload().iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = concat!(
        "0100000002000000",   // format, reserved, requests
        "3d000000",           // length of the first request
        "02",                 // source kind
        "0700746f7069632f30", // source id
        "02003132",           // source position
        "02000000",           // records
        "0103000000",         // row, view
        "fbffffffffffffff",   // event time
        "0300000007000000",   // lengths of key and archive
        "6b6579",             // key
        "61726368697665",     // archive
        "0207000000636f6e74726f6c",
        "1a000000",
        "00",
        "01000000",
        "0103000000ffffffffffffff7f0000000000000000",
    );
    assert_eq!(hex, golden);
}

#[test]
fn event_times_are_capped_in_place() {
    let check = |times: &[i64], arrival: i64, expected: &[i64]| {
        let mut builder = RequestBuilder::new(None).unwrap();
        times.iter().for_each(|&time| builder.row(&row(time, b"k", b"abc")));
        let mut request = builder.finish().unwrap();
        let given = times.iter().copied().filter(|time| *time != i64::MAX).max();
        assert_eq!(request.latest_given().micros(), given.unwrap_or(i64::MIN));
        request.cap_event_times(ArrivalTime::from_micros(arrival));
        let decoded = request.decode(Sequence(1)).unwrap();
        let found: Vec<i64> = decoded
            .records()
            .map(|record| match record.unwrap().1 {
                Record::Row(row) => row.event_time.micros(),
                Record::Control(_) => panic!("no control record was added"),
            })
            .collect();
        assert_eq!(found, expected);
    };
    check(&[1, 2, 3], 5, &[1, 2, 3]);
    check(&[1, 9, i64::MAX], 5, &[1, 5, 5]);
    check(&[5], 5, &[5]);
    check(&[i64::MAX], 5, &[5]);
    check(&[i64::MIN, 6], 5, &[i64::MIN, 5]);
}

#[test]
fn odd_bytes_are_errors_and_never_panics() {
    let good = payload();
    for length in 0..good.len() {
        assert!(read_all(&good[..length]).is_err(), "{length}");
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(read_all(&long), Err(RecordError::LeftOver));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Most flips are another valid payload, which the frame's checksum tells apart.
        let _ = read_all(&bad);
    }
    let mut newer = good;
    newer[0] = 2;
    assert_eq!(read_all(&newer), Err(RecordError::Newer { format: 2 }));
}

#[test]
fn an_empty_request_is_refused() {
    let builder = RequestBuilder::new(None).unwrap();
    assert_eq!(builder.finish().err(), Some(RecordError::Empty));
    let id = vec![0; 65_536];
    let source = Source { kind: SourceKind::Load, id: &id, position: b"" };
    assert_eq!(
        RequestBuilder::new(Some(source)).err(),
        Some(RecordError::SourceTooLong { length: 65_536 })
    );
}
