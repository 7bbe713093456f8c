//! A storage that is open for a scope.

use hdf5_metno::File;

use super::{Mode, Storage};
use crate::error::Result;

impl Storage {
    /// Opens the file for a scope: the guard derefs to the HDF5 file, and closing it commits.
    ///
    /// ```
    /// # use corallite_file::{Mode, Storage};
    /// let storage = Storage::new(corallite_file::Source::Memory);
    /// {
    ///     let file = storage.enter(Mode::Append, false)?;
    ///     file.create_group("inside")?;
    ///     file.close()?;
    /// }
    /// assert!(!storage.is_open());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn enter(&self, mode: Mode, swmr: bool) -> Result<StorageGuard<'_>> {
        if !self.is_open() {
            self.open(mode, swmr)?;
        }
        Ok(StorageGuard { storage: self, file: self.file()?, closed: false })
    }
}

/// An open storage that closes at the end of its scope; see [`Storage::enter`].
#[derive(Debug)]
pub struct StorageGuard<'a> {
    storage: &'a Storage,
    file: File,
    closed: bool,
}

impl StorageGuard<'_> {
    /// Commits and closes, and says whether that worked.
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        self.storage.close()
    }
}

impl std::ops::Deref for StorageGuard<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for StorageGuard<'_> {
    fn drop(&mut self) {
        if !self.closed {
            // A scope cannot return an error; `close` can.
            let _ = self.storage.close();
        }
    }
}
