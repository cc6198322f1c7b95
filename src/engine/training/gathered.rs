//! Features as they were gathered, in parts by key and time, and read in the order of the labels.
//!
//! It does not know how they were gathered, nor where they go.

use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;

use crate::engine::error::Problem;
use crate::metrics::Code;

/// The features of some labels.
pub(super) struct Features {
    sources: Vec<OfSource>,
    /// For each column of the plan its source, and which of the columns there are its.
    columns: Vec<(usize, Range<usize>)>,
}

/// The columns of one source, in the order they were looked up.
pub(super) struct OfSource {
    /// For each column its arrays, one of each part.
    columns: Vec<Vec<ArrayRef>>,
    /// Rows of each part but the last.
    part: usize,
    /// Where the row of each label stands.
    places: Vec<u32>,
}

impl Features {
    /// Of a plan with so many columns.
    pub(super) fn new(columns: usize) -> Self {
        Self { sources: Vec::new(), columns: vec![(0, 0..0); columns] }
    }

    /// Adds a source, which answers the columns of the plan at `places`.
    pub(super) fn add(&mut self, places: &[usize], source: OfSource) {
        let each = source.columns.len() / places.len().max(1);
        for (index, place) in places.iter().enumerate() {
            self.columns[*place] = (self.sources.len(), index * each..(index + 1) * each);
        }
        self.sources.push(source);
    }

    /// Bytes they take.
    pub(super) fn bytes(&self) -> usize {
        let arrays = self.sources.iter().flat_map(|source| source.columns.iter().flatten());
        arrays.map(|array| array.get_array_memory_size()).sum()
    }

    /// The columns of the plan for these labels, each with what is included of it behind.
    pub(super) fn of(&self, labels: Range<usize>) -> Result<Vec<ArrayRef>, Problem> {
        let rows: Vec<_> = self.sources.iter().map(|source| source.rows(labels.clone())).collect();
        let columns = self
            .columns
            .iter()
            .flat_map(|(source, columns)| columns.clone().map(|column| (*source, column)));
        let array = |(source, column): (usize, usize)| {
            let parts = self.sources[source].columns[column].iter();
            let parts: Vec<&dyn Array> = parts.map(AsRef::as_ref).collect();
            interleave(&parts, &rows[source])
        };
        let arrays: Result<Vec<ArrayRef>, _> = columns.map(array).collect();
        arrays.map_err(|error| {
            Problem::new(Code::Internal, format!("features cannot be joined: {error}"))
        })
    }
}

impl OfSource {
    /// Of parts of `part` rows, which follow `order`.
    pub(super) fn new(parts: Vec<Vec<ArrayRef>>, order: &[u32], part: usize) -> Self {
        let mut columns = vec![Vec::with_capacity(parts.len()); parts.first().map_or(0, Vec::len)];
        for arrays in parts {
            for (column, array) in columns.iter_mut().zip(arrays) {
                column.push(array);
            }
        }
        let mut places = vec![0; order.len()];
        for (at, label) in order.iter().enumerate() {
            places[*label as usize] = at as u32;
        }
        Self { columns, part, places }
    }

    /// The part and the row in it of each of these labels.
    fn rows(&self, labels: Range<usize>) -> Vec<(usize, usize)> {
        let rows = self.places[labels].iter();
        rows.map(|at| (*at as usize / self.part, *at as usize % self.part)).collect()
    }
}
