//! One commit, held for reading.

use std::path::Path;
use std::sync::Arc;

use hdf5_metno::File;

use super::explain;
use crate::error::{Error, Result};
use crate::object::{self, DatasetDescription};
use crate::page::CommitNumber;
use crate::pager::{Pager, Pinned, View};
use crate::vfd::{self, Target};

/// One commit, readable for as long as this lives, whatever is committed meanwhile.
#[derive(Debug)]
pub struct Snapshot {
    // Fields are dropped in this order: libhdf5 closes its file before the pages behind it go.
    file: File,
    view: Arc<View>,
}

impl Snapshot {
    pub(super) fn of(pager: &Arc<Pager>) -> Result<Self> {
        let view = Arc::new(pager.view());
        let file =
            vfd::open(Target::Snapshot(Arc::clone(&view))).map_err(|error| explain(pager, "open the file", &error))?;
        Ok(Self { file, view })
    }

    /// The HDF5 file as of this commit, read-only.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path of the file, or a name for what has none.
    pub fn path(&self) -> &Path {
        self.view.pager().path()
    }

    /// The commit's number.
    pub fn version(&self) -> CommitNumber {
        self.view.commit()
    }

    /// The length of the HDF5 file at this commit, in bytes.
    pub fn bytes(&self) -> u64 {
        self.view.eoa()
    }

    /// Reads bytes at an offset that libhdf5 named (see [`chunk_locations`](crate::chunk_locations)), without its lock.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.bytes()) {
            let problem = format!("{} bytes were asked for, past the end of the data", buffer.len());
            return Err(Error::damaged(self.view.pager().path(), offset, problem));
        }
        self.view.read(offset, buffer)
    }

    /// Maps bytes of the file, when the file itself holds them as this commit has them; else `None`, and
    /// [`Snapshot::read_at`] reads them. The bytes' place is not reused while the map lives.
    pub fn map(&self, offset: u64, length: u64) -> Result<Option<Mapped>> {
        Ok(self.view.map(offset, length)?.map(Mapped))
    }

    /// Describes the dataset whose object header begins at `offset` (see [`object_offset`](crate::object_offset)),
    /// without libhdf5 and its lock. `None` when the header is not of the form that [`DatasetWriter`] writes, or was
    /// changed since: libhdf5 then reads it.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`](crate::Error::Damaged) when a checksum does not agree.
    ///
    /// [`DatasetWriter`]: crate::DatasetWriter
    pub fn describe_dataset(&self, offset: u64) -> Result<Option<DatasetDescription>> {
        object::describe(self.view.as_ref(), offset)
    }

    /// What an error of libhdf5 on this snapshot really was.
    pub fn explain(&self, action: &str, error: &hdf5_metno::Error) -> Error {
        explain(self.view.pager(), action, error)
    }
}

/// Bytes of a file mapped into memory; see [`Snapshot::map`].
#[derive(Debug)]
pub struct Mapped(Pinned);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl object::Bytes for View {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        View::read(self, offset, buffer)
    }

    fn end(&self) -> u64 {
        self.eoa()
    }

    fn damaged(&self, offset: u64, problem: &str) -> Error {
        Error::damaged(self.pager().path(), offset, problem)
    }
}
