//! The marker of a backup, written last: what was taken, when, and every file with its checksum.
//!
//! It does not know how the files came there.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::is_file_name;
use super::pinned::{Pinned, PinnedFile};
use crate::disk::{self, Disk, DiskError};
use crate::ids::{Epoch, Sequence};
use crate::time::ArrivalTime;

/// The first line of one of a store that was never restored,
const FIRST: &str = "larder backup 1";
/// and of one that was: it says of which restore.
const FIRST_OF_RESTORED: &str = "larder backup 2";

/// How far a restored store's epoch is ahead of the backup's, at least: so far that the store it
/// was taken from does not get there by being started again.
pub const EPOCH_JUMP: u32 = 1 << 16;

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker {
    /// The store, in words.
    pub store: String,
    /// The start of the server that was running, or the last one.
    pub epoch: Epoch,
    /// Which restore the store came from; 0 if it never was restored.
    pub past: u16,
    /// Everything up to here is in it.
    pub sequence: Sequence,
    /// When it was taken.
    pub taken: ArrivalTime,
    /// The files of history.
    pub files: Vec<MarkerFile>,
}

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkerFile {
    /// Its name in `history/`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32C of all of it.
    pub crc: u32,
}

impl MarkerFile {
    pub(super) fn of(file: &PinnedFile, crc: u32) -> Self {
        Self { name: file.name.clone(), bytes: file.bytes, crc }
    }
}

/// Why a directory is not a whole backup.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// There is no marker, or it cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The marker is not what was written.
    #[error("{} is not what was written: {reason}", path.display())]
    Damaged {
        /// The marker.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the marker of a backup is.
pub fn marker_path(backup: &Path) -> PathBuf {
    backup.join("BACKUP")
}

impl Marker {
    pub(super) fn of(pinned: &Pinned, taken: ArrivalTime) -> Self {
        Self {
            store: pinned.manifest.store.to_string(),
            epoch: pinned.manifest.epoch,
            past: pinned.manifest.past,
            sequence: pinned.sequence,
            taken,
            files: Vec::new(),
        }
    }

    /// Whether `later` can be of the store that this one was taken of, further on, with no restore
    /// in between: a restored store gives numbers of files again.
    pub fn is_of_the_same_past(&self, later: &Self) -> bool {
        let starts = later.epoch.0.checked_sub(self.epoch.0);
        (&self.store, self.past) == (&later.store, later.past)
            && starts.is_some_and(|starts| starts < EPOCH_JUMP)
    }

    /// Reads the marker of a backup.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn load(disk: &dyn Disk, backup: &Path) -> Result<Self, MarkerError> {
        let path = marker_path(backup);
        let bytes = disk::read_whole(disk, &path)?;
        Self::decode(&bytes).map_err(|reason| MarkerError::Damaged { path, reason })
    }

    pub(super) fn save(&self, disk: &dyn Disk, backup: &Path) -> Result<(), DiskError> {
        disk::replace(disk, &marker_path(backup), self.encode().as_bytes())
    }

    /// Says in words what a marker says; none if the bytes begin like none. Damage is described,
    /// not refused.
    pub fn describe(bytes: &[u8]) -> Option<Vec<String>> {
        if !bytes.starts_with(b"larder backup ") {
            return None;
        }
        Some(match Self::decode(bytes) {
            Err(error) => vec![format!("marker of a backup, unreadable: {error}")],
            Ok(Self { store, epoch, past, sequence, taken, files }) => {
                let bytes: u64 = files.iter().map(|file| file.bytes).sum();
                let mut lines = vec![
                    format!("marker of a backup of store {store}, epoch {epoch}, past {past}"),
                    format!("taken {taken}, up to sequence {sequence}, {bytes} bytes of history"),
                ];
                lines.extend(files.iter().map(|MarkerFile { name, bytes, crc }| {
                    format!("{name}: {bytes} bytes, checksum {crc:08x}")
                }));
                lines
            }
        })
    }

    fn encode(&self) -> String {
        let Self { store, epoch, past, sequence, taken, files } = self;
        let micros = taken.micros();
        let (first, past) = match past {
            0 => (FIRST, String::new()),
            past => (FIRST_OF_RESTORED, format!("past {past}\n")),
        };
        let mut text = format!(
            "{first}\nstore {store}\nepoch {epoch}\n{past}sequence {sequence}\n\
             taken {micros} {taken}\n"
        );
        for MarkerFile { name, bytes, crc } in files {
            let _ = writeln!(text, "file {crc:08x} {bytes} {name}");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "end {crc:08x}");
        text
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let (body, end) = text.rsplit_once("end ").ok_or("it does not end with its checksum")?;
        let crc = crc32c::crc32c(body.as_bytes());
        if end != format!("{crc:08x}\n") {
            return Err(format!("its checksum is {}, its bytes give {crc:08x}", end.trim_end()));
        }
        let mut lines = body.lines();
        let is_restored = match lines.next() {
            Some(FIRST) => false,
            Some(FIRST_OF_RESTORED) => true,
            _ => return Err(format!("it begins neither with \"{FIRST}\" nor as a later one")),
        };
        let mut field = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| format!("it has no {name}"))
        };
        let store = field("store")?.to_owned();
        let epoch = Epoch(number(field("epoch")?)?);
        let past = if is_restored { number(field("past")?)? } else { 0 };
        let sequence = Sequence(number(field("sequence")?)?);
        let taken = field("taken")?;
        let taken = number(taken.split(' ').next().unwrap_or(taken))?;
        let files: Result<Vec<MarkerFile>, String> = lines.map(file).collect();
        let taken = ArrivalTime::from_micros(taken);
        Ok(Self { store, epoch, past, sequence, taken, files: files? })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no number"))
}

fn file(line: &str) -> Result<MarkerFile, String> {
    let parts: Vec<&str> = line.splitn(4, ' ').collect();
    let ["file", crc, bytes, name] = parts[..] else {
        return Err(format!("\"{line}\" says of no file what it is"));
    };
    let crc = u32::from_str_radix(crc, 16).map_err(|_| format!("\"{crc}\" is no checksum"))?;
    if !is_file_name(name) {
        // A path would lead a restore out of its directory.
        return Err(format!("\"{name}\" is no name of a file of history"));
    }
    Ok(MarkerFile { name: name.to_owned(), bytes: number(bytes)?, crc })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Marker {
        let file = |name: &str| MarkerFile { name: name.to_owned(), bytes: 700, crc: 0xAB };
        Marker {
            store: "00ff".to_owned(),
            epoch: Epoch(5),
            past: 0,
            sequence: Sequence(4711),
            taken: ArrivalTime::from_micros(1_795_273_445_123_456),
            files: vec![file("00000000000000000001.log"), file("00000000000000000003.sealed")],
        }
    }

    #[test]
    fn reads_back_and_every_change_is_noticed() {
        let text = example().encode();
        assert_eq!(Marker::decode(text.as_bytes()), Ok(example()));
        let bare = Marker { files: Vec::new(), ..example() };
        assert_eq!(Marker::decode(bare.encode().as_bytes()), Ok(bare));
        let restored = Marker { past: 77, ..example() };
        assert!(!text.contains("past") && restored.encode().contains("\npast 77\n"));
        assert_eq!(Marker::decode(restored.encode().as_bytes()), Ok(restored));
        for bit in 0..text.len() * 8 {
            let mut bad = text.clone().into_bytes();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Marker::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..text.len() {
            assert!(Marker::decode(&text.as_bytes()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["../../x", "/etc/x", "x.log", "", "00000000000000000001.log/../../x"] {
            let files = vec![MarkerFile { name: name.to_owned(), bytes: 1, crc: 1 }];
            let text = Marker { files, ..example() }.encode();
            let refused = Marker::decode(text.as_bytes()).unwrap_err();
            assert!(refused.contains("is no name of a file of history"), "{refused}");
        }
    }

    #[test]
    fn a_restored_store_has_another_past() {
        let at = |epoch: u32| Marker { epoch: Epoch(epoch), ..example() };
        assert!(at(5).is_of_the_same_past(&at(5)));
        assert!(at(5).is_of_the_same_past(&at(900)));
        assert!(!at(5).is_of_the_same_past(&at(5 + EPOCH_JUMP)));
        assert!(!at(5 + EPOCH_JUMP).is_of_the_same_past(&at(6)));
        let other = Marker { store: "01".to_owned(), ..example() };
        assert!(!other.is_of_the_same_past(&example()));
        // Two of one backup may have been given epochs that are near each other.
        let other = Marker { past: 9, ..example() };
        assert!(!other.is_of_the_same_past(&example()) && other.is_of_the_same_past(&other));
    }
}
