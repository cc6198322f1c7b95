//! Says in words what is in a file of the store, for whoever has to look into one.
//!
//! It does not know what rows and control records mean, and never changes a file.

use std::path::Path;

use super::bulk;
use super::manifest::{self, Manifest};
use super::sealed::{self, SealedEntry};
use super::segment::{self, SegmentHeader};
use crate::disk::{self, Disk, DiskError};
use crate::frame::{FrameHeader, FrameKind};
use crate::time::ArrivalTime;

/// Describes a segment, a sealed file, a manifest or the ledger of a load, a line for each thing in
/// it. Damage is described, not refused.
///
/// # Errors
/// The file cannot be read, or is none of them.
pub fn describe(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, InspectError> {
    let bytes = disk::read_whole(disk, path)?;
    match bytes.first_chunk() {
        Some(&segment::MAGIC) => Ok(match SegmentHeader::decode(&bytes) {
            Ok(header) => describe_segment(&bytes, &header),
            Err(error) => vec![format!("segment, unreadable: {error}")],
        }),
        Some(&sealed::MAGIC) => Ok(match sealed::describe(&bytes) {
            Ok(lines) => lines,
            Err(reason) => vec![format!("sealed file, unreadable: {reason}")],
        }),
        Some(&manifest::MAGIC) => Ok(match Manifest::decode(&bytes) {
            Ok(manifest) => describe_manifest(&manifest),
            Err(error) => vec![format!("manifest, unreadable: {error}")],
        }),
        Some(&bulk::MAGIC) => Ok(bulk::describe(&bytes)),
        _ => Err(InspectError::Unknown),
    }
}

fn describe_segment(bytes: &[u8], header: &SegmentHeader) -> Vec<String> {
    let SegmentHeader { store, epoch, first } = header;
    let mut lines = vec![
        format!("segment of store {store}, created in epoch {epoch}"),
        format!("first sequence {first}, {} bytes", bytes.len()),
    ];
    let found = segment::examine(bytes, header, |offset, frame| {
        lines.push(format!("byte {offset}: {}", describe_frame(frame)));
    });
    match found.fault {
        None => lines.push(format!("byte {}: end, zeros from here on", found.end)),
        Some(fault) => {
            lines.push(format!("byte {}: no whole frame: {}", found.end, fault.reason));
            lines.push(match fault.durable_by {
                _ if fault.newer => "written by a newer release".to_owned(),
                None => "no later frame says it was durable: a torn write".to_owned(),
                Some(later) => {
                    format!("damage: the frame at byte {later} shows that it was durable")
                }
            });
        }
    }
    lines
}

fn describe_frame(frame: &FrameHeader) -> String {
    let FrameHeader { epoch, arrival, durable, .. } = frame;
    let what = match frame.kind {
        FrameKind::Mark => "mark".to_owned(),
        FrameKind::Writes => {
            format!("{} records, sequences {} to {}", frame.count, frame.first, frame.last())
        }
    };
    format!("{what}, arrived {arrival}, epoch {epoch}, durable up to {durable}")
}

fn describe_manifest(manifest: &Manifest) -> Vec<String> {
    let Manifest { store, epoch, past, last_arrival, .. } = manifest;
    let mut lines = vec![
        format!("manifest of store {store}, epoch {epoch}, past {past}"),
        match *last_arrival {
            ArrivalTime::MIN => "nothing had arrived".to_owned(),
            last => format!("last arrival {last}"),
        },
    ];
    for entry in &manifest.segments {
        let until = entry.last.map_or("open".to_owned(), |last| format!("to {last}"));
        lines.push(format!(
            "segment {:020}.log: sequences from {} {until}",
            entry.first.0, entry.first
        ));
    }
    for entry in &manifest.sealed {
        let SealedEntry { number, first, last, bytes, lift } = entry;
        let name = sealed::name_of(*number);
        let mut line = format!("sealed {name}: sequences from {first} to {last}, {bytes} bytes");
        if lift.sequences > 0 {
            line += &format!(", loaded: {} is added to the sequences in it", lift.sequences);
        }
        if let Some(arrival) = lift.arrival {
            line += &format!(", arrived {arrival}");
        }
        lines.push(line);
    }
    for entry in &manifest.floors {
        lines.push(format!("view {}: rows kept from {} on", entry.view, entry.floor));
    }
    lines.push(match &manifest.control {
        None => "no control snapshot".to_owned(),
        Some(control) => {
            format!("control snapshot up to {}, {} bytes", control.covers, control.bytes.len())
        }
    });
    lines
}

/// Why a file cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another kind of file.
    #[error("not a file of Larder")]
    Unknown,
}
