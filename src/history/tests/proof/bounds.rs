//! Retention, erasure and backup: floors that move, files that are thinned out, keys and whole
//! views that are erased and their bytes removed, backups taken at any moment and restored.
//!
//! It does not know what a start must find of them; `found` does.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::found::Found;
use super::{Tally, Truth};
use crate::disk::DiskErrorKind;
use crate::disk::fake::Fate;
use crate::history::backup::{Pinned, backups, take};
use crate::history::restore::{find, restore};
use crate::history::seal::{Task, holds_erased};
use crate::history::tests::bounds::{Whole, floor_of, random_rows, request, set_floor, thin_one};
use crate::history::tests::sealing::{make, merge_one, seal_one};
use crate::history::tests::*;

const BACKUPS: &str = "/backups";
const RESTORED: &str = "/restored";
pub(super) const KEYS: u64 = 5;

/// What was written, a sequence each.
#[derive(Clone)]
pub(super) enum Item {
    /// With its archive, which takes longer to make than to compare.
    Row(Whole, Arc<[u8]>),
    /// Everything of this before it goes.
    Erase(Gone),
}

/// What an erasure is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Gone {
    /// A key of the view that stays.
    Key(u8),
    /// A view that is dropped; another takes its place.
    View(u8),
}

impl Gone {
    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Key(key) => [b'k', key],
            Self::View(view) => [b'v', view],
        }
    }

    fn of(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [b'k', key] => Some(Self::Key(key)),
            [b'v', view] => Some(Self::View(view)),
            _ => None,
        }
    }

    pub(super) fn covers(self, row: &Whole) -> bool {
        match self {
            Self::Key(key) => (row.view, row.key) == (VIEW, key),
            Self::View(view) => row.view == ViewId(view.into()),
        }
    }

    fn hide(self, history: &History, below: u64) {
        match self {
            Self::Key(key) => history.erase(&[VIEW], &[key], Sequence(below)),
            Self::View(view) => history.erase_views(&[ViewId(view.into())], Sequence(below)),
        }
    }
}

/// What is erased by the sequence of the erasure, each with whether no byte of it is left.
pub(super) type Erasures = BTreeMap<u64, (Gone, bool)>;

/// The views that are dropped, one after another, begin here.
pub(super) const DROPPED: u8 = 10;

/// What a control snapshot says here.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
struct Control {
    covers: u64,
    erasures: Erasures,
}

impl Control {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.covers.to_le_bytes().to_vec();
        for (sequence, (gone, done)) in &self.erasures {
            bytes.extend_from_slice(&sequence.to_le_bytes());
            bytes.extend_from_slice(&gone.bytes());
            bytes.push(u8::from(*done));
        }
        bytes
    }

    fn of(snapshot: Option<&ControlSnapshot>) -> Result<Self, String> {
        let Some(snapshot) = snapshot else { return Ok(Self::default()) };
        let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let (head, rest) = snapshot.bytes.split_at_checked(8).ok_or("a short snapshot")?;
        let erasure =
            |part: &[u8]| Some((number(part)?, (Gone::of([part[8], part[9]])?, part[10] == 1)));
        let erasures = rest.chunks_exact(11).filter_map(erasure).collect();
        match number(head) {
            Some(covers) if covers == snapshot.covers.0 => Ok(Self { covers, erasures }),
            other => Err(format!("the snapshot of {} says {other:?}", snapshot.covers)),
        }
    }
}

/// What the manifest says: what was acknowledged last, or what was tried since.
#[derive(Clone)]
struct Said<T> {
    tried: Vec<T>,
    acknowledged: usize,
}

impl<T: PartialEq> Said<T> {
    fn new(value: T) -> Self {
        Self { tried: vec![value], acknowledged: 0 }
    }

    fn say(&mut self, value: T, acknowledged: bool) {
        self.tried.push(value);
        if acknowledged {
            self.acknowledged = self.tried.len() - 1;
        }
    }

    /// What was said before is gone.
    fn settle(&mut self) {
        self.tried.drain(..std::mem::take(&mut self.acknowledged));
    }
}

#[derive(Clone)]
struct Backup {
    taken: i64,
    acknowledged: bool,
    holds: Arc<Bounded>,
}

/// What must be found after a crash.
#[derive(Clone)]
pub(super) struct Bounded {
    root: &'static str,
    items: Vec<Item>,
    /// The sequences at which frames end.
    ends: BTreeSet<u64>,
    durable: u64,
    epoch: u32,
    segment_bytes: u64,
    floor: Said<i64>,
    control: Said<Control>,
    /// As they stand in memory.
    erasures: Erasures,
    backups: Vec<Backup>,
    now: i64,
}

impl Truth for Bounded {
    fn new(segment_bytes: u64) -> Self {
        Self {
            root: ROOT,
            items: Vec::new(),
            ends: BTreeSet::new(),
            durable: 0,
            epoch: 0,
            segment_bytes,
            floor: Said::new(i64::MIN),
            control: Said::new(Control::default()),
            erasures: Erasures::new(),
            backups: Vec::new(),
            now: 0,
        }
    }

    fn durable(&self) -> u64 {
        self.durable
    }

    fn acknowledged(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let backups = self.backups.iter().filter(|backup| backup.acknowledged).count();
        (self.durable, &self.floor.tried, &self.control.tried, backups).hash(&mut hasher);
        hasher.finish()
    }

    /// Takes up what is erased, as the engine does at a start.
    fn open(&self, disk: &FakeDisk) -> Result<Opened, String> {
        let options = Options { segment_bytes: self.segment_bytes, ..options() };
        let opened = open(Arc::new(disk.clone()), Path::new(self.root), options);
        let opened = opened.map_err(|error| format!("not opened: {error}"))?;
        hide(&opened.reader, &erasures_of(&opened)?);
        Ok(opened)
    }

    fn recovered(&mut self, opened: &Opened) {
        let last = opened.last_sequence.0;
        self.items.truncate(last as usize);
        self.ends.retain(|end| *end <= last);
        self.durable = last;
        self.epoch = opened.epoch.0;
        self.floor = Said::new(floor_of(&opened.reader));
        self.control = Said::new(Control::of(opened.control.as_ref()).unwrap_or_default());
        self.erasures = erasures_of(opened).unwrap_or_default();
    }

    fn check(
        &self,
        disk: &FakeDisk,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<Opened, String> {
        let opened = self.open(disk)?;
        let last = opened.last_sequence.0;
        super::check_end(last, self.durable, &self.ends)?;
        if opened.epoch.0 <= self.epoch {
            return Err(format!("epoch {} again", opened.epoch.0));
        }
        let (floor, control) = (floor_of(&opened.reader), Control::of(opened.control.as_ref())?);
        if !self.floor.tried.contains(&floor) {
            return Err(format!("the floor is {floor}, not one of {:?}", self.floor.tried));
        }
        if control.covers > last || !self.control.tried.contains(&control) {
            return Err(format!("{control:?} is not one of {:?}", self.control.tried));
        }
        let found = Found {
            root: self.root,
            items: &self.items[..last as usize],
            floor,
            erasures: self.erased(last, &opened)?,
            now: self.now,
        };
        found.check_rows(&opened.reader)?;
        for _ in 0..3 {
            found.ask(&opened.reader, random)?;
        }
        if found.has_done() && random.below(3) == 0 {
            found.check_bytes(disk)?;
            tally.add("searched", 1);
        }
        if self.root == ROOT && random.below(30) == 0 {
            self.check_backups(&disk.crash_by(|_| Fate::Kept), random, tally)?;
        }
        Ok(opened)
    }

    fn go_on(&mut self, opened: &mut Opened, random: &mut Random) -> Result<(), WriteError> {
        self.append(&mut opened.writer, random)?;
        opened.writer.sync()?;
        while seal_one(opened) || merge_one(opened) || thin_one(opened).is_some() {}
        self.forget(opened);
        self.durable = opened.reader.durable().0;
        self.settle();
        Ok(())
    }

    fn step(
        &mut self,
        opened: &mut Opened,
        disk: &FakeDisk,
        random: &mut Random,
        tally: &mut Tally,
    ) {
        match random.below(24) {
            0 => drop(opened.writer.mark()),
            1 => drop(opened.writer.roll(None, 0)),
            2 => drop(self.save_control(opened, self.erasures.clone())),
            3 | 4 => tally.add("sealed", usize::from(seal_one(opened))),
            5 => {
                while seal_one(opened) {
                    tally.add("sealed", 1);
                    tally.add("merged", usize::from(merge_one(opened)));
                }
            }
            6 => self.strike(opened),
            7 | 8 => tally.add("floors", usize::from(self.move_floor(opened, random))),
            9 | 10 => {
                while seal_one(opened) {
                    tally.add("sealed", 1);
                }
                tally.add("floors", usize::from(self.move_floor(opened, random)));
                while let Some(dropped) = thin_one(opened) {
                    tally.add("thinned", 1);
                    tally.add("dropped", dropped as usize);
                }
            }
            11 => {
                let key = Gone::Key(random.below(KEYS) as u8);
                tally.add("erased", usize::from(self.erase(opened, key)));
            }
            15 => {
                let view = Gone::View(self.passing(opened.writer.last().0));
                tally.add("views", usize::from(self.erase(opened, view)));
            }
            12 | 13 => tally.add("finished", usize::from(self.forget(opened))),
            14 => tally.add("backups", usize::from(self.back_up(opened, disk, random))),
            _ => drop(self.append(&mut opened.writer, random)),
        }
        if random.below(4) > 0 {
            drop(opened.writer.sync());
        }
        self.durable = opened.reader.durable().0;
    }

    fn during(&self, before: &Self) -> Self {
        let mut backups = self.backups.clone();
        for (index, backup) in backups.iter_mut().enumerate() {
            backup.acknowledged = before.backups.get(index).is_some_and(|of| of.acknowledged);
        }
        Self { durable: before.durable, backups, ..self.clone() }
    }

    fn settle(&mut self) {
        self.floor.settle();
        self.control.settle();
    }
}

/// Hides the rows of which bytes may be left; of the others there are none.
fn hide(history: &History, erasures: &Erasures) {
    for (sequence, (gone, _)) in erasures.iter().filter(|(_, (_, done))| !done) {
        gone.hide(history, *sequence);
    }
}

/// The erasures that a start finds, in the control snapshot and in the log.
fn erasures_of(opened: &Opened) -> Result<Erasures, String> {
    let mut erasures = Control::of(opened.control.as_ref())?.erasures;
    let read = opened.reader.replay(Sequence::ZERO, |frame| {
        for request in frame.requests().map_err(|error| frame.unreadable(&error))? {
            let request = request.map_err(|error| frame.unreadable(&error))?;
            for record in request.records() {
                if let (sequence, Record::Control(&[kind, of])) =
                    record.map_err(|error| frame.unreadable(&error))?
                    && let Some(gone) = Gone::of([kind, of])
                {
                    erasures.entry(sequence.0).or_insert((gone, false));
                }
            }
        }
        Ok::<(), ReadError>(())
    });
    read.map_err(|error| error.to_string())?;
    Ok(erasures)
}

impl Bounded {
    fn append(&mut self, writer: &mut Writer, random: &mut Random) -> Result<(), WriteError> {
        self.now = (self.now + 1).max(writer.last_arrival.micros());
        let mut rows = random_rows(random, writer.last().0 + 1, self.now);
        let passing = ViewId(self.passing(writer.last().0).into());
        for row in rows.iter_mut().filter(|_| random.below(3) == 0) {
            row.view = passing;
        }
        let request = request(&rows);
        self.write(
            writer,
            rows.into_iter().map(|row| {
                let archive = row.archive().into();
                Item::Row(row, archive)
            }),
            &request,
        )
    }

    fn write(
        &mut self,
        writer: &mut Writer,
        items: impl Iterator<Item = Item>,
        request: &EncodedRequest,
    ) -> Result<(), WriteError> {
        let last = writer.last().0;
        // What a failed frame left behind is not in the way of the next.
        self.items.truncate(last as usize);
        self.ends.retain(|end| *end <= last);
        self.items.extend(items);
        self.ends.insert(self.items.len() as u64);
        append(writer, request, self.now).map(drop)
    }

    fn save_control(
        &mut self,
        opened: &mut Opened,
        mut erasures: Erasures,
    ) -> Result<(), WriteError> {
        let covers = opened.reader.durable();
        erasures.retain(|sequence, _| *sequence <= covers.0);
        let control = Control { covers: covers.0, erasures };
        let bytes = control.encode().as_slice().into();
        let saved = opened.writer.save_control(ControlSnapshot { covers, bytes });
        self.control.say(control, saved.is_ok());
        saved
    }

    fn strike(&mut self, opened: &mut Opened) {
        if self.save_control(opened, self.erasures.clone()).is_ok()
            && let Ok(struck) = opened.writer.strike_segments(opened.reader.sealed_upto())
            && let Some(last) = struck.last()
        {
            opened.reader.forget_segments(*last);
            struck.iter().for_each(|first| opened.sealer.remove_segment(*first));
        }
    }

    /// The view that is dropped next, as it stood at a sequence.
    fn passing(&self, last: u64) -> u8 {
        let dropped = |item: &&Item| matches!(item, Item::Erase(Gone::View(_)));
        DROPPED + self.items.iter().take(last as usize).filter(dropped).count() as u8
    }

    fn move_floor(&mut self, opened: &mut Opened, random: &mut Random) -> bool {
        let floor = self.now - random.below(12) as i64;
        if floor <= floor_of(&opened.reader) {
            return false;
        }
        let saved = set_floor(opened, floor);
        self.floor.say(floor, saved);
        saved
    }

    /// Is not durable by itself: no file that goes by it may count before it is.
    fn erase(&mut self, opened: &mut Opened, gone: Gone) -> bool {
        let mut builder = RequestBuilder::new(None).unwrap();
        builder.control(&gone.bytes());
        let request = builder.finish().unwrap();
        let erase = std::iter::once(Item::Erase(gone));
        if self.write(&mut opened.writer, erase, &request).is_err() {
            return false;
        }
        let sequence = opened.writer.last();
        self.erasures.insert(sequence.0, (gone, false));
        gone.hide(&opened.reader, sequence.0);
        true
    }

    /// Removes the bytes of what is erased, as the engine does. Whether none is left.
    fn forget(&mut self, opened: &mut Opened) -> bool {
        let mut pending = self.erasures.iter().filter(|(_, (_, done))| !done);
        let Some((&upto, _)) = pending.next_back() else { return false };
        if opened.reader.open_begins().0 <= upto && opened.writer.roll(None, 0).is_err() {
            return false;
        }
        while seal_one(opened) {}
        self.strike(opened);
        if opened.reader.log_begins().0 <= upto {
            return false;
        }
        for file in opened.reader.sealed().iter() {
            let is_clean = match holds_erased(file, &opened.reader.bounds()) {
                Ok(true) => make(opened, Some(Task::Rewrite([file.clone()].into()))).is_some(),
                Ok(false) => true,
                Err(_) => false,
            };
            if !is_clean {
                return false;
            }
        }
        let mut erasures = self.erasures.clone();
        erasures.range_mut(..=upto).for_each(|(_, (_, done))| *done = true);
        if !opened.sealer.all_removed() || self.save_control(opened, erasures.clone()).is_err() {
            return false;
        }
        self.erasures = erasures;
        opened.reader.set_erased(crate::history::bounds::Erased::default());
        hide(&opened.reader, &self.erasures);
        true
    }

    /// Holds the store, goes on, and backs up what is held.
    fn back_up(&mut self, opened: &mut Opened, disk: &FakeDisk, random: &mut Random) -> bool {
        let Ok(pinned) = opened.writer.pin() else { return false };
        let holds = Arc::new(self.held(&pinned));
        let _ = self.append(&mut opened.writer, random);
        seal_one(opened);
        self.strike(opened);
        let taken = self.now;
        self.backups.push(Backup { taken, acknowledged: false, holds });
        let made = take(disk, &pinned, Path::new(BACKUPS), at(taken), &mut |_, _| {}).is_ok();
        self.backups.last_mut().unwrap().acknowledged = made;
        made
    }

    /// What a backup of what is held must hold.
    fn held(&self, pinned: &Pinned) -> Self {
        let mut held = Self { root: RESTORED, backups: Vec::new(), ..self.clone() };
        let last = pinned.sequence.0;
        held.items.truncate(last as usize);
        held.ends.retain(|end| *end <= last);
        held.durable = last;
        let floor = pinned.manifest.floors.first().map_or(i64::MIN, |entry| entry.floor.micros());
        held.floor = Said::new(floor);
        let control = Control::of(pinned.manifest.control.as_ref());
        held.control = Said::new(control.expect("a snapshot that was saved"));
        held
    }

    /// Whatever says that it is a backup is one, and none that was acknowledged is lost. Restores
    /// one of them.
    fn check_backups(
        &self,
        disk: &FakeDisk,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let found = match backups(disk, Path::new(BACKUPS)) {
            Err(error) if error.kind() == DiskErrorKind::NotFound => Vec::new(),
            found => found.map_err(|error| error.to_string())?.whole,
        };
        let is_found = |backup: &&Backup| {
            found.iter().any(|(_, marker)| marker.taken.micros() == backup.taken)
        };
        if let Some(lost) = self.backups.iter().find(|of| of.acknowledged && !is_found(of)) {
            return Err(format!("the backup taken at {} is lost", lost.taken));
        }
        if found.is_empty() {
            return Ok(());
        }
        let (path, marker) = &found[random.below(found.len() as u64) as usize];
        let taken = marker.taken.micros();
        let backup = self.backups.iter().rfind(|backup| backup.taken == taken);
        let backup = backup.ok_or_else(|| format!("a backup of {taken} that nobody took"))?;
        let told = |why: String| format!("backup of {taken}: {why}");
        let restored = find(disk, path)
            .and_then(|chosen| restore(disk, &chosen, Path::new(RESTORED), None, &mut |_, _| {}));
        let restored = restored.map_err(|error| told(error.to_string()))?;
        if restored.sequence.0 != backup.holds.durable {
            return Err(told(format!("ends at {}", restored.sequence)));
        }
        backup.holds.check(&disk.crash(), random, tally).map_err(told)?;
        tally.add("restored", 1);
        Ok(())
    }

    /// The erasures up to `last`, of which a start must know all.
    fn erased(&self, last: u64, opened: &Opened) -> Result<Erasures, String> {
        let found = erasures_of(opened)?;
        let written = (1..).zip(&self.items[..last as usize]).filter_map(|(at, item)| match item {
            Item::Erase(gone) => Some((at, *gone)),
            Item::Row(..) => None,
        });
        let known = found.iter().map(|(sequence, (gone, _))| (*sequence, *gone));
        match written.clone().eq(known) {
            true => Ok(found),
            false => Err(format!("{found:?} erased, not {:?}", written.collect::<Vec<_>>())),
        }
    }
}
