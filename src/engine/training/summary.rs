//! What a training set is said to hold when it is done: read from its own footer, which also shows
//! that it is whole.
//!
//! It does not know how it was made.

use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::disk::DiskFile;
use crate::engine::error::Problem;
use crate::engine::parquet_file::ParquetFile;
use crate::metrics::Code;

/// A finished training set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Its rows.
    pub rows: u64,
    /// The columns it has beyond those of the labels, and how many of the rows are null in each.
    pub features: Vec<(String, u64)>,
}

/// Reads the footers of labels and of the training set made of them.
///
/// # Errors
/// The training set is not whole.
pub fn summarize(
    labels: &Arc<dyn DiskFile>,
    training_set: &Arc<dyn DiskFile>,
) -> Result<Summary, Problem> {
    let (labels, made) = (open(labels)?, open(training_set)?);
    let metadata = made.metadata();
    let before = labels.metadata().file_metadata().schema_descr().root_schema().get_fields().len();
    let mut features = Vec::new();
    let columns = metadata.file_metadata().schema_descr().columns();
    for (index, column) in columns.iter().enumerate() {
        let root = metadata.file_metadata().schema_descr().get_column_root_idx(index);
        if root < before {
            continue;
        }
        let of_group = |group: &parquet::file::metadata::RowGroupMetaData| {
            let statistics = group.column(index).statistics();
            statistics.and_then(|statistics| statistics.null_count_opt()).unwrap_or(0)
        };
        let name = column.path().parts().first().cloned().unwrap_or_default();
        features.push((name, metadata.row_groups().iter().map(of_group).sum()));
    }
    let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    Ok(Summary { rows, features })
}

fn open(file: &Arc<dyn DiskFile>) -> Result<SerializedFileReader<ParquetFile>, Problem> {
    let broken = |error: &dyn std::error::Error| {
        let path = file.path().display();
        Problem::new(Code::Internal, format!("{path} is not a whole Parquet file: {error}"))
    };
    let parquet = ParquetFile::new(file.clone()).map_err(|error| broken(&error))?;
    SerializedFileReader::new(parquet).map_err(|error| broken(&error))
}
