//! Lets the Parquet reader read files through the disk door.
//!
//! It does not know Parquet.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::disk::DiskFile;

/// An open file, as the Parquet reader wants it.
#[derive(Clone)]
pub(super) struct ParquetFile {
    file: Arc<dyn DiskFile>,
    length: u64,
}

/// Reads a file from some offset on.
pub(super) struct FromOffset {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl ParquetFile {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Result<Self, crate::disk::DiskError> {
        let length = file.length()?;
        Ok(Self { file, length })
    }
}

impl FromOffset {
    pub(super) fn start(file: Arc<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for FromOffset {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset).map_err(io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Length for ParquetFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for ParquetFile {
    type T = BufReader<FromOffset>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(FromOffset { file: self.file.clone(), offset: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.saturating_add(length as u64) > self.length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at offset {start} wanted, the file has {}",
                self.length
            )));
        }
        let mut bytes = vec![0; length];
        let read =
            self.file.read_at(&mut bytes, start).map_err(|e| ParquetError::External(e.into()))?;
        if read < length {
            return Err(ParquetError::EOF(format!(
                "the file ended at byte {}",
                start + read as u64
            )));
        }
        Ok(bytes.into())
    }
}
