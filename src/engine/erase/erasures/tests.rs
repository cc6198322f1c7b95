//! Erasures as they are added, finished, remembered, written and read back.
//!
//! They do not look at what is hidden or removed.

use super::*;
use crate::ids::ViewId;

fn erase(key: &str) -> Erase {
    Erase {
        project: ProjectId(3),
        deadline: ArrivalTime::from_micros(700),
        whom: Some(Whom { entity: EntityTypeId(4), key: key.as_bytes().into() }),
        views: vec![ViewId(1), ViewId(9)],
    }
}

fn erase_views() -> Erase {
    Erase { whom: None, views: vec![ViewId(7)], ..erase("") }
}

#[test]
fn records_read_back_and_others_are_told_apart() {
    for erase in [erase("secret"), erase_views()] {
        let bytes = erase.encode();
        assert_eq!(Erase::decode(&bytes), Some(erase));
        for length in 0..bytes.len() {
            assert_eq!(Erase::decode(&bytes[..length]), None, "cut to {length}");
        }
        assert_eq!(Erase::decode(&[bytes, vec![0]].concat()), None);
    }
    assert_eq!(Erase::decode(b"\x01\x00{}"), None);
}

/// Earlier releases wrote these bytes and read them.
#[test]
fn what_is_of_entities_is_written_as_ever() {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let long = |word: i64| word.to_le_bytes().to_vec();
    let record =
        [vec![2, 0], words(&[3, 4]), long(700), words(&[6]), b"secret".to_vec(), words(&[2, 1, 9])]
            .concat();
    assert_eq!(erase("secret").encode(), record);
    let pending = [words(&[1]), long(10), long(100), words(&[record.len() as u32]), record];
    let done = [words(&[1]), long(5), words(&[3]), long(50), long(60), long(70), vec![8; 32]];
    let bytes = [vec![[9; 32].to_vec()], pending.into(), done.into()].concat().concat();
    for (dropped, bytes) in [(None, bytes.clone()), (Some(2), [bytes, long(2)].concat())] {
        let mut rest = bytes.as_slice();
        let read = Erasures::decode(&mut rest, dropped.is_some()).unwrap();
        assert_eq!((read.dropped(), rest.len()), (dropped.map(Sequence), 0));
        assert_eq!((read.pending[&Sequence(10)].erase.clone(), read.done()), (erase("secret"), 1));
        assert!(!read.has_views());
        let mut again = Vec::new();
        read.encode(&mut again);
        assert_eq!(again, bytes);
    }
}

#[test]
fn views_are_erased_whole_and_told_to_no_backup() {
    let time = ArrivalTime::from_micros;
    let mut erasures = Erasures::default();
    erasures.add(erase("secret"), Sequence(10), time(100));
    assert!(!erasures.has_views());
    erasures.add(erase_views(), Sequence(20), time(200));
    assert_eq!(erasures.erased()[&ViewId(7)].all_below, Some(Sequence(20)));
    let due: Vec<bool> = erasures.pending().map(|(_, one)| one.is_due(time(201))).collect();
    assert_eq!(due, [false, true], "the room is wanted now");
    for is_done in [false, true] {
        assert!(erasures.has_views());
        assert_eq!(erasures.has_pending_views(), !is_done);
        let mut bytes = Vec::new();
        erasures.encode(&mut bytes);
        let mut rest = bytes.as_slice();
        assert_eq!(Erasures::decode(&mut rest, true), Some(erasures.clone()), "{is_done}");
        assert_eq!(rest.len(), 0);
        assert_eq!(erasures.unheard_by(&Erasures::default()).last.len(), 1);
        erasures.finish(Sequence(20), time(800)).unwrap();
    }
    assert_eq!(erasures.get(ProjectId(3), Sequence(20)).unwrap().done, Some(time(800)));
    erasures.remember(1);
    assert_eq!(erasures.dropped(), Some(Sequence(10)));
    let mut bytes = Vec::new();
    erasures.encode(&mut bytes);
    assert_eq!(Erasures::decode(&mut bytes.as_slice(), true), Some(erasures));
}

#[test]
fn what_is_done_keeps_a_hash_and_no_key() {
    let time = ArrivalTime::from_micros;
    let mut erasures = Erasures::default();
    assert!(erasures.is_empty());
    erasures.add(erase("secret"), Sequence(10), time(100));
    erasures.add(erase("secret"), Sequence(20), time(200));
    erasures.add(erase("other"), Sequence(30), time(300));
    assert_eq!(erasures.erased()[&ViewId(9)].keys[&b"secret"[..]], Sequence(20));
    let due = |at| erasures.pending().map(|(_, one)| one.is_due(time(at))).collect::<Vec<_>>();
    assert_eq!(due(400), [true, false, false]);
    assert_eq!(due(500), [true; 3]);
    assert_eq!(erasures.clone().finish(Sequence(9), time(800)).unwrap(), 0);
    assert_eq!(erasures.finish(Sequence(20), time(800)).unwrap(), 2);
    let mut bytes = Vec::new();
    erasures.encode(&mut bytes);
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
    bytes.push(7);
    let mut rest = bytes.as_slice();
    assert_eq!(Erasures::decode(&mut rest, false), Some(erasures.clone()));
    assert_eq!(rest, [7]);
    for length in 0..bytes.len() - 1 {
        assert_eq!(Erasures::decode(&mut &bytes[..length], false), None, "cut to {length}");
    }
    let found = erasures.get(ProjectId(3), Sequence(10)).unwrap();
    assert_eq!((found.requested, found.done), (time(100), Some(time(800))));
    assert_eq!(erasures.get(ProjectId(3), Sequence(30)).unwrap().done, None);
    assert_eq!(erasures.get(ProjectId(0), Sequence(10)), None, "another project's");
    assert_eq!(erasures.get(ProjectId(0), Sequence(30)), None, "another project's");
    assert_eq!(erasures.erased().get(&ViewId(1)).unwrap().keys.len(), 1);
}
#[test]
fn those_that_are_done_are_remembered_up_to_a_number() {
    let time = ArrivalTime::from_micros;
    let mut erasures = Erasures::default();
    for number in 1..=5 {
        erasures.add(erase(&format!("key {number}")), Sequence(number), time(100));
    }
    erasures.finish(Sequence(4), time(800)).unwrap();
    assert_eq!(erasures.dropped(), None);
    erasures.remember(2);
    assert_eq!(erasures.dropped(), Some(Sequence(2)));
    let known = |number| erasures.get(ProjectId(3), Sequence(number)).is_some();
    assert_eq!([1, 2, 3, 4, 5].map(known), [false, false, true, true, true]);
    let mut bytes = Vec::new();
    erasures.encode(&mut bytes);
    assert_eq!(Erasures::decode(&mut bytes.as_slice(), true), Some(erasures.clone()));
    erasures.finish(Sequence(5), time(900)).unwrap();
    erasures.remember(0);
    assert!(!erasures.is_empty() && erasures.dropped() == Some(Sequence(5)));
}

#[test]
fn another_store_is_told_whom_it_does_not_know() {
    let time = ArrivalTime::from_micros;
    let mut earlier = Erasures::default();
    earlier.add(erase("known"), Sequence(10), time(100));
    let mut later = earlier.clone();
    later.add(erase("done"), Sequence(20), time(200));
    later.finish(Sequence(20), time(800)).unwrap();
    later.add(erase("pending"), Sequence(30), time(300));
    let unheard = later.unheard_by(&earlier);
    let of = |entity, key: &str| unheard.of(EntityTypeId(entity), key.as_bytes());
    for (key, number) in [("done", 20), ("pending", 30)] {
        let (sequence, requested) = (Sequence(number), time(number as i64 * 10));
        let request = Request { project: ProjectId(3), sequence, requested };
        assert_eq!((of(4, key), of(5, key)), (Some(request), None), "{key}");
    }
    assert_eq!((of(4, "known"), of(4, "other")), (None, None));
    assert!(later.unheard_by(&later).is_empty());
    // One that was restored and went another way gave the sequence again.
    let mut other = earlier.clone();
    other.add(erase("elsewhere"), Sequence(20), time(250));
    assert!(later.unheard_by(&other).of(EntityTypeId(4), b"done").is_some());
    // Of two of one entity the later one counts.
    later.add(erase("done"), Sequence(40), time(400));
    let last = later.by_entity(|_| true).of(EntityTypeId(4), b"done").unwrap();
    assert_eq!((last.sequence, last.requested), (Sequence(40), time(400)));
}
