//! Says in words what is in a sealed file.
//!
//! It does not know features, and trusts nothing: each block is checked before a word is said of
//! it.

use std::ops::Range;

use super::fences::{self, Fences, Place};
use super::footer::{self, HeadError, Section, SectionFacts, TAIL_BYTES};
use super::rows::{self, Rows};
use super::{Head, Lift};
use crate::ids::{Sequence, StoreId};
use crate::time::EventTime;

/// The file alone does not say where its sequences begin; the manifest does.
const UNLIFTED: Lift = Lift { sequences: 0, arrival: None };

/// Describes the bytes of a sealed file, a line for each thing in it. Damage of a block is
/// described where it is met.
///
/// # Errors
/// Head, tail or footer cannot be read.
pub fn describe(bytes: &[u8]) -> Result<Vec<String>, String> {
    let head = Head::decode(bytes).map_err(|error: HeadError| error.to_string())?;
    let Head { store, number, first, last } = head;
    let mut lines = vec![
        format!("sealed file {number} of store {store}"),
        format!("sequences {first} to {last}, {} bytes", bytes.len()),
    ];
    let at = bytes.len().saturating_sub(TAIL_BYTES);
    let (offset, length) = footer::decode_tail(&head, at as u64, &bytes[at..])
        .ok_or_else(|| format!("the tail at byte {at} is not what was written"))?;
    let file = Bytes { bytes, store, number };
    let footer = file.block(Place { offset, length });
    let sections = footer.and_then(|footer| footer::decode_footer(footer, offset, UNLIFTED));
    let sections =
        sections.ok_or_else(|| format!("the footer at byte {offset} is not what was written"))?;
    for section in &sections {
        lines.push(describe_section(&section.facts));
        file.describe_blocks(section, &mut lines);
    }
    lines.push(format!("byte {offset}: footer of {length} bytes"));
    Ok(lines)
}

fn describe_section(facts: &SectionFacts) -> String {
    let SectionFacts { view, slots, rows, keys, oldest, newest, first, last, .. } = facts;
    let thinned = match facts.floor {
        Some(floor) => format!(", only the base below {floor}"),
        None => String::new(),
    };
    format!(
        "view {view}: {rows} rows of {keys} entity keys, up to {slots} features, event times from \
         {oldest} to {newest}, sequences from {first} to {last}{thinned}"
    )
}

/// A sealed file in memory.
struct Bytes<'a> {
    bytes: &'a [u8],
    store: StoreId,
    number: u64,
}

impl<'a> Bytes<'a> {
    fn block(&self, place: Place) -> Option<&'a [u8]> {
        let start = usize::try_from(place.offset).ok()?;
        let block = self.bytes.get(start..start.checked_add(place.length)?)?;
        let (found, rest) = block.split_first_chunk::<4>()?;
        let crc = footer::checksum(self.store, self.number, place.offset, rest);
        (*found == crc.to_le_bytes()).then_some(block)
    }

    fn describe_blocks(&self, section: &Section, lines: &mut Vec<String>) {
        for index in 0..section.root.len() {
            let place = section.root.place(index);
            let is_fences = |block: &&[u8]| block.get(4) == Some(&fences::KIND);
            let fences = self.block(place).filter(is_fences);
            let fences = fences.and_then(|block| Fences::read(block.to_vec().into(), UNLIFTED));
            let Range { start, end } = section.range(index);
            let Some(fences) = fences.filter(|fences| fences.lie_within(start, end)) else {
                lines.push(damaged(place));
                continue;
            };
            for index in 0..fences.len() {
                lines.push(self.describe_rows(fences.place(index)));
            }
            lines.push(format!("byte {}: fences of {} blocks", place.offset, fences.len()));
        }
    }

    fn describe_rows(&self, place: Place) -> String {
        let block = self.block(place).filter(|block| block.get(4) == Some(&rows::KIND));
        let rows = block.and_then(|block| Rows::read(block.to_vec().into(), UNLIFTED));
        let Some(rows) = rows else { return damaged(place) };
        let (from, to): ((EventTime, Sequence), _) = (rows.order(0), rows.order(rows.len() - 1));
        format!(
            "byte {}: rows {} to {}, from {} of sequence {} to {} of sequence {}",
            place.offset,
            rows.first_row(),
            rows.first_row() + rows.len() as u64 - 1,
            from.0,
            from.1,
            to.0,
            to.1
        )
    }
}

fn damaged(place: Place) -> String {
    format!("byte {}: damage: the block is not what was written", place.offset)
}
