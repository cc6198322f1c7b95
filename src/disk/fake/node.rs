//! A file of the fake disk: what was written, and what the disk holds of it.
//!
//! It does not know names; it models sectors.

use std::collections::BTreeMap;

use super::{Doubt, Fate};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(super) struct Node {
    pub(super) data: Vec<u8>,
    pub(super) durable_length: usize,
    /// What the disk holds of each sector written since the last sync.
    pub(super) unsynced: BTreeMap<usize, Vec<u8>>,
    /// The same for sectors whose sync failed: clean to the kernel, never on the disk.
    pub(super) lost: BTreeMap<usize, Vec<u8>>,
}

impl Node {
    pub(super) fn is_settled(&self) -> bool {
        self.unsynced.is_empty() && self.lost.is_empty() && self.durable_length == self.data.len()
    }

    /// Remembers what the disk holds of the sectors that `from..to` is about to change.
    pub(super) fn dirty(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let before = self.lost.remove(&sector).unwrap_or_else(|| self.sector(sector));
            self.unsynced.entry(sector).or_insert(before);
        }
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let start = (sector * SECTOR).min(self.data.len());
        let end = ((sector + 1) * SECTOR).min(self.data.len());
        let mut bytes = self.data[start..end].to_vec();
        bytes.resize(SECTOR, 0);
        bytes
    }

    pub(super) fn resize(&mut self, length: usize) {
        self.dirty(self.data.len().min(length), self.data.len().max(length));
        self.data.resize(length, 0);
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_length = self.data.len();
    }

    pub(super) fn put_back(data: &mut [u8], sectors: &BTreeMap<usize, Vec<u8>>) {
        for (&sector, bytes) in sectors {
            let start = (sector * SECTOR).min(data.len());
            let end = ((sector + 1) * SECTOR).min(data.len());
            data[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }

    pub(super) fn crashed(&self, number: u64, fate: &mut impl FnMut(Doubt) -> Fate) -> Self {
        let mut data = self.data.clone();
        if self.durable_length != data.len() && fate(Doubt::Length(number)) == Fate::Lost {
            data.resize(self.durable_length, 0);
        }
        Self::put_back(&mut data, &self.lost);
        for (&sector, before) in &self.unsynced {
            let start = (sector * SECTOR).min(data.len());
            let end = ((sector + 1) * SECTOR).min(data.len());
            let written = &mut data[start..end];
            fate(Doubt::Sector(number, sector)).befalls(written, &before[..end - start]);
        }
        Self { durable_length: data.len(), data, ..Self::default() }
    }
}

impl Fate {
    /// Makes of a sector as written what is left of it; `before` is what it was.
    fn befalls(self, written: &mut [u8], before: &[u8]) {
        let differs = |at: &usize| written[*at] != before[*at];
        let Some(first) = (0..written.len()).find(differs) else { return };
        let end = (0..written.len()).rfind(differs).map_or(first, |last| last + 1);
        match self {
            Self::Kept => {}
            Self::Lost => written.copy_from_slice(before),
            Self::Zeroed => written[first..end].fill(0),
            Self::Torn(number) => {
                let at = first + (number >> 1) as usize % (end - first);
                let old = if number & 1 == 0 { first..at } else { at..end };
                written[old.clone()].copy_from_slice(&before[old]);
            }
        }
    }
}
