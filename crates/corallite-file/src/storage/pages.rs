//! One commit's bytes, held for reading without libhdf5.

use std::sync::Arc;

use super::Storage;
use crate::error::{Error, Result};
use crate::page::CommitNumber;
use crate::pager::View;

/// One commit's bytes, readable for as long as this lives, whatever is committed meanwhile; what it costs is a counter. For
/// those who know where in the file their bytes are. See [`Storage::pages`].
#[derive(Clone, Debug)]
pub struct CommitPages {
    view: Arc<View>,
}

impl CommitPages {
    /// The commit's number.
    pub fn version(&self) -> CommitNumber {
        self.view.commit()
    }

    /// The length of the HDF5 file at this commit, in bytes.
    pub fn bytes(&self) -> u64 {
        self.view.eoa()
    }

    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] past the end of the data, and what the disk reports.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.bytes()) {
            let problem = format!("{} bytes were asked for, past the end of the data", buffer.len());
            return Err(Error::damaged(self.view.pager().path(), offset, problem));
        }
        self.view.read(offset, buffer)
    }
}

impl Storage {
    /// The newest commit's bytes: what [`Storage::snapshot`] gives, without opening the file in libhdf5. While one is held,
    /// space that later commits free is not reused.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn pages(&self) -> Result<CommitPages> {
        self.with(|open| Ok(CommitPages { view: Arc::new(open.pager.view()) }))
    }
}
