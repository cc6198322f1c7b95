//! Sealed files whose checksums are right and whose numbers are not, as only a bug would write
//! them: reading ends all the same, with an error.
//!
//! They do not know how a reader goes through a file, only how the bytes are laid out.

use super::*;
use crate::history::sealed::fences::{Fence, Fences, FencesBuilder, Place};
use crate::history::sealed::footer::{checksum, encode_footer_head, encode_section, encode_tail};
use crate::history::sealed::rows::{Rows, RowsBuilder};

const VIEW: ViewId = ViewId(1);
const ROWS: u64 = 6;

/// A file of single blocks, each where it is put.
struct Layout {
    bytes: Vec<u8>,
}

impl Layout {
    fn new() -> Self {
        Self { bytes: head().encode().to_vec() }
    }

    fn push(&mut self, mut block: Vec<u8>) -> Place {
        let place = Place { offset: self.bytes.len() as u64, length: block.len() };
        let crc = checksum(STORE, 3, place.offset, &block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        self.bytes.append(&mut block);
        place
    }

    /// Two rows of key `k`, the first of which is said to have this number.
    fn rows(&mut self, first: u64) -> Place {
        let mut builder = RowsBuilder::new(1);
        for number in 0..first + 2 {
            if number == first {
                builder.finish(&mut Vec::new());
            }
            let row = stored(vec![true], 1, 1);
            let cells = crate::archive::RowRef::access(&row.archive).unwrap();
            let (event_time, sequence) = order(number);
            let (arrival, archive) = (row.arrival, &row.archive);
            builder.push(&RowIn { key: b"k", event_time, sequence, arrival, archive }, cells);
        }
        let mut block = Vec::new();
        builder.finish(&mut block);
        self.push(block)
    }

    fn fences(&mut self, of: &[(u64, Place)]) -> Place {
        self.push(fences(of))
    }

    /// Ends the file with a root of these fences and opens it.
    fn open(mut self, root: &[(u64, Place)]) -> Result<Arc<SealedFile>, OpenSealedError> {
        let facts = SectionFacts {
            view: VIEW,
            slots: 1,
            rows: ROWS,
            keys: 1,
            oldest: order(0).0,
            newest: order(ROWS - 1).0,
            first: Sequence(1),
            last: Sequence(ROWS),
            first_arrival: ArrivalTime::from_micros(1),
            last_arrival: ArrivalTime::from_micros(1),
            floor: None,
            settled: 0,
        };
        let mut footer = Vec::new();
        encode_footer_head(1, &mut footer);
        encode_section(&facts, &fences(root), &mut footer);
        let place = self.push(footer);
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&encode_tail(&head(), at, place.offset));
        let disk = FakeDisk::new();
        disk.create_dir_all(Path::new("/data")).unwrap();
        disk.create(Path::new(PATH)).unwrap().write_at(&self.bytes, 0).unwrap();
        let Head { number, first, last, .. } = head();
        let bytes = self.bytes.len() as u64;
        open(&disk, SealedEntry { number, first, last, bytes, lift: Lift::default() })
    }
}

fn head() -> Head {
    Head { store: STORE, number: 3, first: Sequence(1), last: Sequence(100_000) }
}

fn order(row: u64) -> Order {
    (EventTime::from_micros(row as i64), Sequence(row + 1))
}

fn fences(of: &[(u64, Place)]) -> Vec<u8> {
    let mut builder = FencesBuilder::default();
    for &(row, place) in of {
        builder.push(Fence { key: b"k".to_vec(), order: order(row), row, place });
    }
    let mut block = Vec::new();
    builder.finish(&mut block);
    block
}

/// Reads all there is in each way; the number of rows, if nothing was odd.
fn read(file: &Arc<SealedFile>) -> Result<usize, ReadError> {
    let mut rows = 0;
    let mut scan = Scan::start(file, VIEW)?.expect("the view is there");
    while scan.current().is_some() {
        rows += 1;
        scan.advance()?;
    }
    let newest = (EventTime::MAX, Sequence::MAX);
    let walked = walk(file, VIEW, b"k", newest, None)?.len();
    let mut lane = Lane::open(file, VIEW).expect("the view is there");
    lane.seek(b"k", newest, false)?;
    let (mut walk, mut swept) = (lane.walk().expect("the key is there"), 1);
    while lane.back(&mut walk, b"k", None)? {
        swept += 1;
    }
    assert_eq!((walked, swept), (rows, rows));
    Ok(rows)
}

fn refused(read: Result<usize, ReadError>, why: &str) {
    match read {
        Err(ReadError::Damaged(damage)) => assert!(damage.reason.contains(why), "{damage}"),
        other => panic!("{why}: {other:?}"),
    }
}

#[test]
fn blocks_one_after_another_are_read() {
    let mut file = Layout::new();
    let (first, second) = (file.rows(0), file.rows(2));
    let one = file.fences(&[(0, first), (2, second)]);
    let third = file.rows(4);
    let other = file.fences(&[(4, third)]);
    let file = file.open(&[(0, one), (4, other)]).unwrap();
    assert_eq!(read(&file).unwrap(), ROWS as usize);
    assert_eq!(file.sizes().map(|(_, bytes)| bytes).sum::<u64>(), other.end().unwrap() - 64);
}

#[test]
fn fences_that_lead_to_a_block_twice_back_or_into_another_are_damage() {
    let with = |change: &dyn Fn([Place; 3]) -> [Place; 3]| {
        let mut file = Layout::new();
        let places = change([file.rows(0), file.rows(2), file.rows(4)]);
        let fences = file.fences(&[(0, places[0]), (2, places[1]), (4, places[2])]);
        read(&file.open(&[(0, fences)]).unwrap())
    };
    assert_eq!(with(&|places| places).unwrap(), ROWS as usize);
    let contradicts = "the block contradicts itself";
    refused(with(&|[first, second, _]| [first, second, second]), contradicts);
    refused(with(&|[first, second, third]| [first, third, second]), contradicts);
    let longer = |place: Place| Place { length: place.length + 1, ..place };
    refused(with(&|[first, second, third]| [first, longer(second), third]), contradicts);
    let empty = |place: Place| Place { length: 0, ..place };
    refused(with(&|[first, second, third]| [first, empty(second), third]), contradicts);
    let far = Place { offset: u64::MAX, length: 9 };
    refused(with(&|[first, second, _]| [first, second, far]), "the fences lead to");
}

#[test]
fn numbers_of_rows_that_do_not_rise_are_damage() {
    let mut file = Layout::new();
    let places = [file.rows(0), file.rows(2)];
    let fences = file.fences(&[(2, places[0]), (2, places[1])]);
    refused(read(&file.open(&[(0, fences)]).unwrap()), "the block contradicts itself");
    // The fence and the block say different numbers.
    let mut file = Layout::new();
    let places = [file.rows(0), file.rows(1)];
    let fences = file.fences(&[(0, places[0]), (2, places[1])]);
    let file = file.open(&[(0, fences)]).unwrap();
    refused(read(&file), "the block begins with row 1, its fence says 2");
}

#[test]
fn a_block_belongs_to_one_block_of_fences() {
    let mut file = Layout::new();
    let (first, second) = (file.rows(0), file.rows(2));
    let one = file.fences(&[(0, first)]);
    let other = file.fences(&[(2, second)]);
    let file = file.open(&[(0, one), (2, other)]).unwrap();
    refused(read(&file), "the fences lead to blocks not between bytes");
    // Nor may a root lead to fences twice, back, or to where the footer is.
    for twice in [true, false] {
        let mut file = Layout::new();
        let (first, second) = (file.rows(0), file.rows(2));
        let fences = file.fences(&[(0, first), (2, second)]);
        let after = Place { offset: fences.end().unwrap(), length: 8 };
        let opened = file.open(&[(0, fences), (2, if twice { fences } else { after })]);
        let Err(OpenSealedError::Damaged(damage)) = opened else { panic!("opened") };
        assert_eq!(damage.reason, "the footer contradicts itself");
    }
}

#[test]
fn counts_that_no_bytes_stand_for_are_refused() {
    for count in [2, 1000, u32::MAX] {
        // All columns of one number each, which takes no bytes.
        let mut block = vec![0; 8];
        block.extend_from_slice(&count.to_le_bytes());
        (0..6).for_each(|_| block.extend_from_slice(&[0; 9]));
        assert!(Fences::read(block.into(), Lift::default()).is_none(), "{count} fences");
        for (keys, rows) in [(count, count), (1, count), (count, 1), (0, 0)] {
            let mut block = vec![0; 8];
            block.extend_from_slice(&rows.to_le_bytes());
            block.extend_from_slice(&keys.to_le_bytes());
            block.extend_from_slice(&[0; 8]);
            for column in 0..6 {
                let ends_of_rows = if column == 1 { u64::from(rows) } else { 0 };
                block.extend_from_slice(&ends_of_rows.to_le_bytes());
                block.push(0);
            }
            assert!(
                Rows::read(block.into(), Lift::default()).is_none(),
                "{keys} keys, {rows} rows"
            );
        }
    }
}

#[test]
fn a_jump_to_where_the_key_has_no_row_is_damage() {
    let mut model = Model::new();
    let rows = [(5, 1, vec![true, true]), (5, 3, vec![true, false]), (9, 4, vec![true, false])];
    let keyed = rows.map(|(time, sequence, has)| {
        ((EventTime::from_micros(time), Sequence(sequence)), stored(has, 7, 100))
    });
    let before = (EventTime::from_micros(5), Sequence(9));
    let other = [(before, stored(vec![true, true], 7, 100))];
    model.insert(
        VIEW,
        [(b"aa".to_vec(), other.into()), (b"bb".to_vec(), keyed.into_iter().collect())].into(),
    );
    let disk = FakeDisk::new();
    let entry = write(&disk, &model);
    let whole = crate::disk::read_whole(&disk, Path::new(PATH)).unwrap();
    let lines = describe(&whole).unwrap();
    let fences = lines.iter().find(|line| line.ends_with("fences of 1 blocks")).unwrap();
    let end: usize = fences[5..].split(':').next().unwrap().parse().unwrap();
    // The distances of the two gaps: the least is 1, then a byte for each.
    let distances = [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
    let at = whole.windows(11).position(|bytes| bytes == distances).unwrap() + 10;
    let jump = |rows: u8| {
        let mut bytes = whole.clone();
        bytes[at] = rows - 1;
        let crc = checksum(STORE, 3, 64, &bytes[68..end]);
        bytes[64..68].copy_from_slice(&crc.to_le_bytes());
        disk.damage(Path::new(PATH), |data| *data = bytes);
        let newest = (EventTime::MAX, Sequence::MAX);
        let found = walk(&open(&disk, entry).unwrap(), VIEW, b"bb", newest, Some(&[Slot(1)]));
        found.map(|rows| rows.len())
    };
    assert_eq!(jump(2).unwrap(), 2);
    refused(jump(3), "row 3 says that its key has one 3 rows before");
    refused(jump(9), "row 3 says that its key has one 9 rows before");
}
