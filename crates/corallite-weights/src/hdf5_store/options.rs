//! Settings of an [`Hdf5Store`](super::Hdf5Store).

use corallite_file::{Mode, Options};

use crate::filter::Compression;

/// So many deltas one on another, where nothing else is asked for.
const LONGEST_CHAIN: usize = 8;
/// So many are written at most, whatever is asked for: half of what can be read, since repacking lengthens chains for a while.
pub(super) const MOST_IN_CHAIN: usize = 32;

/// Settings of an [`Hdf5Store`](super::Hdf5Store).
#[derive(Clone, Debug)]
pub struct Hdf5Options {
    pub(super) compression: Compression,
    pub(super) longest_chain: usize,
    pub(super) mode: Mode,
    pub(super) storage: Options,
}

impl Default for Hdf5Options {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            longest_chain: LONGEST_CHAIN,
            mode: Mode::Append,
            storage: Options::default(),
        }
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

    /// How many deltas may lie one on another, at most, when a checkpoint's weight is stored as the difference to one of an
    /// earlier checkpoint: 8 if nothing is said; 0 stores every weight whole; more than 32 are taken for 32. Reading a weight
    /// reads all of its chain.
    #[must_use]
    pub fn longest_chain(mut self, deltas: usize) -> Self {
        self.longest_chain = deltas.min(MOST_IN_CHAIN);
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
