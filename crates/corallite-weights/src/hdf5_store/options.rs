//! Settings of an [`Hdf5Store`](super::Hdf5Store).

use corallite_file::{Mode, Options};

use crate::filter::Compression;

/// Settings of an [`Hdf5Store`](super::Hdf5Store).
#[derive(Clone, Debug)]
pub struct Hdf5Options {
    pub(super) compression: Compression,
    pub(super) mode: Mode,
    pub(super) storage: Options,
}

impl Default for Hdf5Options {
    fn default() -> Self {
        Self { compression: Compression::default(), mode: Mode::Append, storage: Options::default() }
    }
}

impl Hdf5Options {
    /// Compression `planes`, mode `a`.
    pub fn new() -> Self {
        Self::default()
    }

    /// How new weights are compressed.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How the file is opened: h5py's modes.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Settings of the file layer.
    #[must_use]
    pub fn storage(mut self, storage: Options) -> Self {
        self.storage = storage;
        self
    }
}
