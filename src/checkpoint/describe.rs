//! Says in words what is in the small files beside sled's.
//!
//! It does not know sled's own files, which only sled reads.

use super::sled_tier::{self, Mark};
use super::watermark::{self, Watermark};

/// Describes the watermark of a checkpoint or the mark of the disk tier, a line for each thing in
/// it; none if the bytes begin like neither. Damage is described, not refused.
pub fn describe(bytes: &[u8]) -> Option<Vec<String>> {
    match *bytes.first_chunk()? {
        watermark::MAGIC => Some(match Watermark::decode(bytes) {
            Ok(watermark) => describe_watermark(&watermark),
            Err(error) => vec![format!("watermark of a checkpoint, unreadable: {error}")],
        }),
        sled_tier::MAGIC => Some(match Mark::decode(bytes) {
            Ok(mark) => describe_mark(&mark),
            Err(error) => vec![format!("mark of the disk tier, unreadable: {error}")],
        }),
        _ => None,
    }
}

fn describe_watermark(watermark: &Watermark) -> Vec<String> {
    let Watermark { store, generation, covered, highest, rows, blocks, views, .. } = watermark;
    let mut lines = vec![
        format!("watermark of checkpoint generation {generation} of store {store}"),
        format!("every row up to sequence {covered} is in it, none is newer than {highest}"),
        format!("{rows} rows in {blocks} blocks"),
    ];
    lines.extend(views.iter().map(|(view, rows)| format!("view {view}: {rows} rows")));
    lines
}

fn describe_mark(mark: &Mark) -> Vec<String> {
    let Mark { store, number, moved, highest, batch, .. } = mark;
    vec![
        format!("mark of the disk tier of store {store}; its rows are in cold-{number}"),
        format!("every row up to sequence {moved} is there, none is newer than {highest}"),
        format!("batch {batch} was made durable"),
    ]
}
