//! Bodies in Arrow IPC or Parquet as record batches.
//!
//! It does not know what the columns mean.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::engine::error::Problem;
use crate::engine::parquet_file::reader_of;
use crate::http::body::malformed;
use crate::http::call::Format;

/// The schema of a body and its batches, decoded one by one.
pub(super) struct Batches {
    pub(super) schema: SchemaRef,
    reader: Box<dyn RecordBatchReader>,
    what: &'static str,
}

impl Batches {
    /// Opens a body that is Arrow, or else Parquet.
    ///
    /// # Errors
    /// `MALFORMED_REQUEST`: it is not that.
    pub(super) fn open(format: Format, body: Bytes) -> Result<Self, Problem> {
        if format == Format::Arrow {
            let what = "an Arrow IPC stream";
            let reader = guarded(what, || {
                StreamReader::try_new(std::io::Cursor::new(body), None)
                    .map_err(|error| unreadable(what, &error))
            })?;
            return Ok(Self { schema: reader.schema(), reader: Box::new(reader), what });
        }
        let what = "a Parquet file";
        let reader = guarded(what, || {
            reader_of(body)
                .and_then(ParquetRecordBatchReaderBuilder::build)
                .map_err(|error| unreadable(what, &error))
        })?;
        Ok(Self { schema: reader.schema(), reader: Box::new(reader), what })
    }

    /// What cannot be read after all.
    pub(super) fn unreadable(&self, error: &ArrowError) -> Problem {
        unreadable(self.what, error)
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        match guarded(self.what, || Ok(self.reader.next())) {
            Ok(batch) => batch.map(|batch| batch.map_err(|error| unreadable(self.what, &error))),
            Err(problem) => Some(Err(problem)),
        }
    }
}

/// Damaged bytes make the decoders panic in places; to the caller they are damaged bytes.
fn guarded<T>(what: &str, decode: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(malformed(format!("the body is not {what} that can be read: it is damaged")))
    })
}

fn unreadable(what: &str, error: &dyn std::error::Error) -> Problem {
    malformed(format!("the body is not {what} that can be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_are_something_else_are_refused() {
        for format in [Format::Arrow, Format::Parquet] {
            for body in [&b""[..], b"PAR1", b"{\"rows\":[]}", &[0xff; 100]] {
                let found = Batches::open(format, Bytes::copy_from_slice(body));
                let problem = found.map(|batches| batches.schema).unwrap_err();
                assert!(problem.detail.contains("that can be read"), "{}", problem.detail);
            }
        }
    }
}
