//! Checks every byte of a store at rest and says what is damaged, and what of it is affected.
//!
//! It does not know what views are called nor what control records mean, and never changes a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Damage;
use super::bulk;
use super::manifest::{self, LoadError, Manifest, ManifestError, SegmentEntry};
use super::open::{OpenError, check_chain, check_header};
use super::pace::Pace;
use super::record::{self, Record};
use super::sealed::{self, Blocks, OpenSealedError, SealedEntry, SealedFault, SealedFile};
use super::segment::{self, Examined};
use crate::archive::RowRef;
use crate::disk::{self, Disk, DiskError, DiskErrorKind, DiskFile};
use crate::frame::{self, FrameHeader, FrameKind};
use crate::ids::{Sequence, ViewId};

/// How often the manifest is read again because a server replaced it meanwhile.
const TRIES: usize = 100;

/// What was found somewhere in a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it means.
    pub kind: FindingKind,
    /// Where, and what.
    pub damage: Damage,
    /// The view whose rows are affected; none if it may be any.
    pub view: Option<ViewId>,
    /// The sequences that may be affected, the first and the last; none if none are.
    pub sequences: Option<(Sequence, Sequence)>,
}

/// What a finding means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingKind {
    /// What was acknowledged is not what was written, or gone.
    Damage,
    /// Only a newer release can read it.
    Newer,
    /// An unfinished write, never acknowledged; the next start cuts it off.
    Torn,
    /// A file of ours that the manifest does not name; the next start removes it.
    Rubbish,
}

impl FindingKind {
    /// Whether the store is not whole for this release.
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::Damage | Self::Newer)
    }
}

/// Who else may have the store open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InUse {
    /// Nobody.
    No,
    /// A server: what it is writing is not looked at.
    ByServer,
}

/// What was checked, and what was found.
#[derive(Debug)]
pub struct Verified {
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// The manifest, if it could be read.
    pub manifest: Option<Manifest>,
    /// Files read, the manifest included.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The last sequence found.
    pub last: Sequence,
    /// The control records after the control snapshot, in order.
    pub controls: Vec<(Sequence, Vec<u8>)>,
}

/// Reads all that belongs to the store in `root`. `progress` hears the bytes done and those there
/// are.
pub fn verify(
    disk: &dyn Disk,
    root: &Path,
    in_use: InUse,
    progress: &mut dyn FnMut(u64, u64),
) -> Verified {
    verify_only(disk, root, in_use, None, progress)
}

/// As [`verify`], but reads only the files in `only`; of others it looks whether they are there.
pub(super) fn verify_only(
    disk: &dyn Disk,
    root: &Path,
    in_use: InUse,
    only: Option<&BTreeSet<PathBuf>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Verified {
    let verified = Verified {
        findings: Vec::new(),
        manifest: None,
        files: 0,
        bytes: 0,
        last: Sequence::ZERO,
        controls: Vec::new(),
    };
    let directory = root.join("history");
    let pace = Told { progress, done: 0, of: 0 };
    let mut verify = Verify { disk, root, directory, only, verified, pace };
    verify.run(in_use);
    verify.verified
}

/// Hands on how far the work is; it is never given up.
struct Told<'a> {
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    of: u64,
}

impl Pace for Told<'_> {
    fn worked(&mut self, bytes: u64) -> bool {
        self.done = (self.done + bytes).min(self.of);
        (self.progress)(self.done, self.of);
        true
    }
}

struct Verify<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    directory: PathBuf,
    only: Option<&'a BTreeSet<PathBuf>>,
    verified: Verified,
    pace: Told<'a>,
}

/// A file the manifest names, opened before anybody can remove it.
type Named = Result<Arc<dyn DiskFile>, DiskError>;

impl Verify<'_> {
    fn run(&mut self, in_use: InUse) {
        let Some((manifest, segments, sealed)) = self.open_all(in_use) else { return };
        self.verified.files += 1;
        self.verified.bytes += manifest.encode().len() as u64;
        if let Err(OpenError::Damaged(damage)) = check_chain(&manifest, self.root) {
            self.find(FindingKind::Damage, damage, None, None);
        }
        let length = |file: &Named| file.as_ref().ok().and_then(|file| file.length().ok());
        self.pace.of = segments.iter().chain(&sealed).filter_map(length).sum();
        for (entry, file) in manifest.sealed.iter().zip(sealed) {
            self.verified.last = self.verified.last.max(entry.last);
            let sequences = Some((entry.first, entry.last));
            if let Some(file) = self.opened(file, sequences) {
                self.sealed(file, entry, &manifest);
            }
        }
        for (entry, file) in manifest.segments.iter().zip(segments) {
            if entry.last.is_none() && in_use == InUse::ByServer {
                continue;
            }
            let sequences = Some((entry.first, entry.last.unwrap_or(Sequence::MAX)));
            if let Some(file) = self.opened(file, sequences) {
                self.segment(&file, entry, &manifest);
            }
        }
        if in_use == InUse::No {
            self.strangers(&manifest);
        }
        let covers = manifest.control.as_ref().map_or(Sequence::ZERO, |control| control.covers);
        self.verified.controls.retain(|(sequence, _)| *sequence > covers);
        self.verified.manifest = Some(manifest);
    }

    /// Opens every file of the manifest. A server beside may replace the manifest and remove files
    /// meanwhile; then it is begun again.
    fn open_all(&mut self, in_use: InUse) -> Option<(Manifest, Vec<Named>, Vec<Named>)> {
        let mut manifest = self.manifest()?;
        for _ in 0..TRIES {
            let open = |path: PathBuf| self.disk.open_read(&path);
            let log = manifest.segments.iter();
            let log = log.map(|entry| open(segment::path(&self.directory, entry.first)));
            let log: Vec<Named> = log.collect();
            let sealed = manifest.sealed.iter();
            let sealed = sealed.map(|entry| open(sealed::path(&self.directory, entry.number)));
            let sealed: Vec<Named> = sealed.collect();
            if in_use == InUse::ByServer && log.iter().chain(&sealed).any(Result::is_err) {
                let again = self.manifest()?;
                if again != manifest {
                    manifest = again;
                    continue;
                }
            }
            return Some((manifest, log, sealed));
        }
        let reason = format!("was replaced {TRIES} times while its files were opened; try again");
        let damage = Damage { path: manifest::path(self.root), offset: 0, reason };
        self.find(FindingKind::Damage, damage, None, None);
        None
    }

    fn manifest(&mut self) -> Option<Manifest> {
        let (kind, reason) = match Manifest::load(self.disk, self.root) {
            Ok(Some(manifest)) => return Some(manifest),
            Ok(None) => (FindingKind::Damage, "is missing".to_owned()),
            Err(LoadError::Bytes(error @ ManifestError::Newer { .. })) => {
                (FindingKind::Newer, error.to_string())
            }
            Err(error) => (FindingKind::Damage, error.to_string()),
        };
        let damage = Damage { path: manifest::path(self.root), offset: 0, reason };
        self.find(kind, damage, None, Some((Sequence(1), Sequence::MAX)));
        None
    }

    fn find(
        &mut self,
        kind: FindingKind,
        damage: Damage,
        view: Option<ViewId>,
        sequences: Option<(Sequence, Sequence)>,
    ) {
        self.verified.findings.push(Finding { kind, damage, view, sequences });
    }

    /// The file, or what it means that it cannot be opened.
    fn opened(
        &mut self,
        file: Named,
        sequences: Option<(Sequence, Sequence)>,
    ) -> Option<Arc<dyn DiskFile>> {
        let error = match file {
            Ok(file) if self.only.is_some_and(|only| !only.contains(file.path())) => return None,
            Ok(file) => {
                self.verified.files += 1;
                self.verified.bytes += file.length().unwrap_or(0);
                return Some(file);
            }
            Err(error) => error,
        };
        let reason = match error.kind() {
            DiskErrorKind::NotFound => "is missing, the manifest names it".to_owned(),
            _ => error.to_string(),
        };
        let damage = Damage { path: error.path().to_owned(), offset: 0, reason };
        self.find(FindingKind::Damage, damage, None, sequences);
        None
    }

    fn sealed(&mut self, file: Arc<dyn DiskFile>, entry: &SealedEntry, manifest: &Manifest) {
        // What the memory holds says nothing of the disk; where it cannot be dropped it is read.
        let _ = file.drop_cache();
        let path = file.path().to_owned();
        let sequences = Some((entry.first, entry.last));
        let blocks = Arc::new(Blocks::new(1 << 20));
        let (kind, damage) = match SealedFile::open(file, manifest.store, *entry, blocks) {
            Ok(file) => {
                let mut faults = Vec::new();
                sealed::check(&file, &mut self.pace, &mut faults);
                for SealedFault { damage, view } in faults {
                    self.find(FindingKind::Damage, damage, view, sequences);
                }
                return;
            }
            Err(OpenSealedError::Damaged(damage)) => (FindingKind::Damage, damage),
            Err(OpenSealedError::Newer(reason)) => {
                (FindingKind::Newer, Damage { path, offset: 0, reason })
            }
            Err(OpenSealedError::Disk(error)) => {
                (FindingKind::Damage, Damage { path, offset: 0, reason: error.to_string() })
            }
        };
        self.find(kind, damage, None, sequences);
    }

    fn segment(&mut self, file: &Arc<dyn DiskFile>, entry: &SegmentEntry, manifest: &Manifest) {
        let path = file.path().to_owned();
        let all = Some((entry.first, entry.last.unwrap_or(Sequence::MAX)));
        let _ = file.drop_cache();
        let bytes = match disk::read_all(file.as_ref()) {
            Ok(bytes) => bytes,
            Err(error) => {
                let damage = Damage { path, offset: 0, reason: error.to_string() };
                return self.find(FindingKind::Damage, damage, None, all);
            }
        };
        self.pace.worked(bytes.len() as u64);
        let header = match check_header(&path, &bytes, entry.first, manifest.store) {
            Ok(header) => header,
            Err(OpenError::Newer { path, reason }) => {
                let damage = Damage { path, offset: 0, reason };
                return self.find(FindingKind::Newer, damage, None, all);
            }
            Err(OpenError::Damaged(damage)) => {
                return self.find(FindingKind::Damage, damage, None, all);
            }
            Err(error) => {
                let damage = Damage { path, offset: 0, reason: error.to_string() };
                return self.find(FindingKind::Damage, damage, None, all);
            }
        };
        let mut frames: Vec<(usize, FrameHeader)> = Vec::new();
        let found = segment::examine(&bytes, &header, |at, frame| frames.push((at, *frame)));
        let log = Log { path, bytes, found };
        for (index, (at, frame)) in frames.iter().enumerate() {
            let end = frames.get(index + 1).map_or(log.found.end, |next| next.0);
            self.records(&log, *at..end, frame);
        }
        self.verified.last = self.verified.last.max(log.found.last);
        match entry.last {
            Some(last) => self.closed(&log, last, manifest),
            None => self.open_end(&log, manifest),
        }
    }

    /// Decodes what is in one frame.
    fn records(&mut self, log: &Log, place: std::ops::Range<usize>, header: &FrameHeader) {
        if header.kind != FrameKind::Writes {
            return;
        }
        let payload = &log.bytes[place.start + frame::HEADER_BYTES..place.end];
        if let Err(reason) = self.each_record(payload, header) {
            let damage = log.damage(place.start, reason);
            let sequences = Some((header.first, header.last()));
            self.find(FindingKind::Damage, damage, None, sequences);
        }
    }

    fn each_record(&mut self, payload: &[u8], header: &FrameHeader) -> Result<(), String> {
        let mut next = header.first;
        let requests = record::decode_payload(payload, header.first);
        for request in requests.map_err(|error| error.to_string())? {
            for found in request.map_err(|error| error.to_string())?.records() {
                let (sequence, found) = found.map_err(|error| error.to_string())?;
                match found {
                    Record::Row(row) => {
                        RowRef::access(row.archive)
                            .map_err(|error| format!("row of sequence {sequence}: {error}"))?;
                    }
                    Record::Control(bytes) => {
                        self.verified.controls.push((sequence, bytes.to_vec()));
                    }
                }
                next = sequence.next();
            }
        }
        if next != header.last().next() {
            let count = next.0 - header.first.0;
            return Err(format!("the frame holds {count} records, not {}", header.count));
        }
        Ok(())
    }

    /// A segment that is closed holds everything up to `last`, and nothing behind it.
    fn closed(&mut self, log: &Log, last: Sequence, manifest: &Manifest) {
        let Examined { end, last: reached, fault, .. } = &log.found;
        match fault {
            None if *reached == last => {}
            None => {
                let reason = format!("ends at sequence {reached}, the manifest says {last}");
                let sequences = (*reached < last).then_some((reached.next(), last));
                self.find(FindingKind::Damage, log.damage(*end, reason), None, sequences);
            }
            Some(fault) if fault.newer => {
                let damage = log.damage(*end, fault.reason.clone());
                self.find(FindingKind::Newer, damage, None, Some((reached.next(), last)));
            }
            Some(fault) => self.holes(log, &fault.reason, Some(last), manifest),
        }
    }

    /// The segment that is written to may end with a torn write.
    fn open_end(&mut self, log: &Log, manifest: &Manifest) {
        let Examined { end, last, fault, epoch, .. } = &log.found;
        match fault {
            None => {}
            Some(fault) if fault.newer => {
                let damage = log.damage(*end, fault.reason.clone());
                self.find(FindingKind::Newer, damage, None, Some((last.next(), Sequence::MAX)));
            }
            Some(fault) if fault.durable_by.is_some() => {
                self.holes(log, &fault.reason, None, manifest);
            }
            Some(fault) => {
                let damage = log.damage(*end, fault.reason.clone());
                self.find(FindingKind::Torn, damage, None, None);
            }
        }
        let covers = manifest.control.as_ref().map_or(Sequence::ZERO, |control| control.covers);
        let is_read = fault.as_ref().is_none_or(|f| !f.newer && f.durable_by.is_none());
        if is_read && *last < covers {
            let reason = format!("ends at sequence {last}, {covers} was durable");
            self.find(
                FindingKind::Damage,
                log.damage(*end, reason),
                None,
                Some((last.next(), covers)),
            );
        }
        if *epoch > manifest.epoch {
            let reason =
                format!("is of epoch {epoch}, later than the manifest's {}", manifest.epoch);
            self.find(FindingKind::Damage, log.damage(0, reason), None, None);
        }
    }

    /// Says which sequences are lost between the whole frames of a damaged segment.
    fn holes(&mut self, log: &Log, reason: &str, last: Option<Sequence>, manifest: &Manifest) {
        let (mut at, mut next) = (log.found.end, log.found.last.next());
        for (offset, later) in frame::find_valid_after(&log.bytes, at, manifest.store) {
            if later.header.first < next {
                continue;
            }
            if offset != at {
                let before = Sequence(later.header.first.0 - 1);
                let sequences = (before >= next).then_some((next, before));
                self.find(FindingKind::Damage, log.damage(at, reason), None, sequences);
            }
            self.records(log, offset..offset + later.length(), &later.header);
            next = later.header.last().next();
            at = offset + later.length();
        }
        self.verified.last = self.verified.last.max(Sequence(next.0 - 1));
        if let Some(last) = last
            && (next <= last || at == log.found.end)
        {
            let sequences = (next <= last).then_some((next, last));
            self.find(FindingKind::Damage, log.damage(at, reason), None, sequences);
        }
    }

    /// Files that the manifest does not name.
    fn strangers(&mut self, manifest: &Manifest) {
        let Ok(entries) = self.disk.list(&self.directory) else { return };
        let newest = manifest.segments.last().map_or(Sequence::ZERO, |entry| entry.first);
        let staged = bulk::staged(self.disk, &self.directory, manifest).unwrap_or_default();
        for entry in entries {
            let path = self.directory.join(&entry.name);
            let whole = entry.name.strip_suffix(".tmp").unwrap_or(&entry.name);
            let (number, first) = (sealed::number_of_name(whole), segment::first_of_name(whole));
            if number.is_none() && first.is_none() {
                continue;
            }
            let is_named = whole == entry.name
                && (manifest.sealed.iter().any(|named| Some(named.number) == number)
                    || staged.iter().any(|staged| Some(*staged) == number)
                    || manifest.segments.iter().any(|named| Some(named.first) == first));
            if is_named {
                continue;
            }
            let unnamed = first.filter(|first| whole == entry.name && *first > newest);
            let holds_frames = unnamed.is_some() && self.holds_frames(&path, manifest);
            let (kind, reason) = match holds_frames {
                true => (FindingKind::Damage, "holds frames, but the manifest does not name it"),
                false => (FindingKind::Rubbish, "the manifest does not name it"),
            };
            let damage = Damage { path, offset: 0, reason: reason.to_owned() };
            let sequences = unnamed.filter(|_| holds_frames).map(|first| (first, Sequence::MAX));
            self.find(kind, damage, None, sequences);
        }
    }

    fn holds_frames(&self, path: &Path, manifest: &Manifest) -> bool {
        let bytes = disk::read_whole(self.disk, path).unwrap_or_default();
        frame::find_valid_after(&bytes, segment::HEADER_BYTES, manifest.store).next().is_some()
    }
}

/// A segment in memory.
struct Log {
    path: PathBuf,
    bytes: Vec<u8>,
    found: Examined,
}

impl Log {
    fn damage(&self, offset: usize, reason: impl Into<String>) -> Damage {
        Damage { path: self.path.clone(), offset: offset as u64, reason: reason.into() }
    }
}
