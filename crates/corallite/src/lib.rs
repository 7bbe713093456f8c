//! One store for neural-network weights and what describes them, in one HDF5 file that survives a crash.
//!
//! ```
//! use corallite::Store;
//!
//! # let directory = tempfile::tempdir()?;
//! # let model = directory.path().join("model.safetensors");
//! # let weight = corallite::weights::WeightTensor::new("bias", vec![4], corallite::weights::Dtype::F32, vec![0_u8; 16])?;
//! # corallite::weights::safetensors::write(std::fs::File::create(&model)?, &[weight], &[])?;
//! # let models = directory.path().join("models.h5");
//! # let out = directory.path().join("out.safetensors");
//! use corallite::weights::WeightStore;
//!
//! let store = Store::open(&models)?;
//! let base = store.checkpoints().add("base", &model)?; // each weight once, durable when this returns
//! let key = base.weight("bias").expect("the model has it");
//! let bias = store.weights().load(key)?.expect("the checkpoint needs it");
//! println!("{} {:?}", bias.dtype(), bias.shape());
//! store.checkpoints().export("base", &out)?; // byte-identical
//! assert!(store.verify(&corallite::weights::Unwatched)?.damaged.is_empty());
//! store.close()?;
//! # assert_eq!(std::fs::read(&model)?, std::fs::read(&out)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The parts are crates of their own: [`mod@file`] is the transactional HDF5 file, [`weights`] the tensors.

use std::path::Path;

pub use corallite_file as file;
pub use corallite_weights as weights;
pub use corallite_weights::{Error, Result};

use corallite_file::Storage;
use corallite_weights::{
    Checkpoints, GcReport, Hdf5Options, Hdf5Store, SafetensorsFile, Unwatched, Verification, Watch, WeightHash,
    WeightStore, WeightTensor, WeightTransaction,
};

/// What a store holds; see [`Store::info`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Weights stored.
    pub weights: u64,
    /// Checkpoints recorded.
    pub checkpoints: u64,
    /// Bytes of all checkpoints' files, and of the tensors that no checkpoint has.
    pub logical_bytes: u64,
    /// Bytes that the weights' data takes in the file.
    pub stored_bytes: u64,
    /// The length of the file.
    pub file_bytes: u64,
}

impl Info {
    /// Logical bytes for each stored byte; `None` for an empty store.
    pub fn ratio(&self) -> Option<f64> {
        (self.stored_bytes > 0).then(|| self.logical_bytes as f64 / self.stored_bytes as f64)
    }
}

/// A store: one HDF5 file with weights and checkpoints in it.
///
/// Every changing call is one durable commit, unless it is made in a [`Store::transaction`]. A store that is dropped
/// without [`Store::close`] is closed as well, but cannot say whether that worked.
#[derive(Debug)]
pub struct Store {
    weights: Hdf5Store,
}

impl Store {
    /// Opens the store at `path` for reading and writing; creates it when absent.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the file cannot be opened or is no store; it is then unchanged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Hdf5Options::default())
    }

    /// Opens the store at `path` for reading; the commit that is the newest now stays what is read.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Hdf5Options::default().mode(corallite_file::Mode::Read))
    }

    /// Opens the store at `path` with a mode, a compression and settings of the file layer.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_with(path: impl AsRef<Path>, options: Hdf5Options) -> Result<Self> {
        Ok(Self { weights: Hdf5Store::open(path, options)? })
    }

    /// A store in memory, which goes with the value.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn memory() -> Result<Self> {
        Ok(Self { weights: Hdf5Store::memory(Hdf5Options::default())? })
    }

    /// The weights: storing, loading, listing.
    pub fn weights(&self) -> &Hdf5Store {
        &self.weights
    }

    /// The checkpoints: adding model files, exporting, removing.
    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints::new(&self.weights)
    }

    /// The file layer: commits, versions, rolling back, the HDF5 file itself.
    pub fn storage(&self) -> &Storage {
        self.weights.storage()
    }

    /// Runs `change` as one commit: all of what it does through the [`Transaction`] becomes durable together, or none.
    ///
    /// ```
    /// # use corallite::Store;
    /// # use corallite::weights::{Dtype, WeightTensor, WeightStore};
    /// let store = Store::memory()?;
    /// let failed = store.transaction(|tx| {
    ///     tx.store(&WeightTensor::new("w", vec![2], Dtype::U8, vec![1, 2])?, None)?;
    ///     Err::<(), corallite::Error>(corallite::Error::Cancelled)
    /// });
    /// assert!(failed.is_err() && store.weights().list_weights()?.is_empty());
    /// # Ok::<(), corallite::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// That of `change`, or of the commit.
    pub fn transaction<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.weights.transaction(|weights| change(&Transaction { weights }))
    }

    /// What the store holds. Looks at every weight's metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] or [`Error::DamagedCheckpoint`] when a record is.
    pub fn info(&self) -> Result<Info> {
        let sizes = self.weights.sizes()?;
        let checkpoints = self.checkpoints().list()?;
        let needed = self.weights.needed_by_checkpoints()?;
        let loose: u64 = sizes.iter().filter(|(key, _)| !needed.contains(*key)).map(|(_, (length, _))| length).sum();
        Ok(Info {
            weights: sizes.len() as u64,
            checkpoints: checkpoints.len() as u64,
            logical_bytes: loose + checkpoints.iter().map(|checkpoint| checkpoint.logical_bytes).sum::<u64>(),
            stored_bytes: sizes.values().map(|(_, stored)| stored).sum(),
            file_bytes: self.weights.file_bytes()?,
        })
    }

    /// Reads everything: every chunk is decoded, every hash compared, every record checked.
    ///
    /// # Errors
    ///
    /// Only what keeps it from going on; damage is in the result.
    pub fn verify(&self, watch: &dyn Watch) -> Result<Verification> {
        let mut found = self.weights.verify(watch)?;
        found.damaged.extend(self.checkpoints().verify()?);
        Ok(found)
    }

    /// Frees the weights that only removed checkpoints needed; see [`Checkpoints::gc`].
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::gc`].
    pub fn gc(&self) -> Result<GcReport> {
        self.checkpoints().gc(&Unwatched)
    }

    /// Closes the store: the file then stands alone.
    ///
    /// # Errors
    ///
    /// When what was pending could not be committed.
    pub fn close(self) -> Result<()> {
        self.weights.close()
    }
}

/// Changes that become durable together; see [`Store::transaction`].
#[derive(Debug)]
pub struct Transaction<'a> {
    weights: &'a WeightTransaction<'a>,
}

impl Transaction<'_> {
    /// Stores a weight; see [`WeightStore::store`].
    ///
    /// # Errors
    ///
    /// As [`WeightStore::store`].
    pub fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        self.weights.store(weight, hash_key)
    }

    /// Adds a model file; see [`Checkpoints::add`].
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`].
    pub fn add_checkpoint(&self, name: &str, path: impl AsRef<Path>) -> Result<weights::Checkpoint> {
        self.weights.add_checkpoint(name, &SafetensorsFile::open(path)?, &Unwatched)
    }

    /// Removes a checkpoint; `false` when there was none of that name.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn remove_checkpoint(&self, name: &str) -> Result<bool> {
        self.weights.remove_checkpoint(name)
    }
}

/// The README's Rust, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
