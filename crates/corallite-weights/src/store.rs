//! The contract of a weight store, and the figures it reports.
//!
//! # What every store promises
//!
//! - **Weights are immutable.** A key, once given, means the same content until it is deleted.
//! - **Storing is idempotent.** Storing content that the key already holds changes nothing, metadata
//!   included, and returns the key. Storing *other* content under a taken key is [`Error::Conflict`]. Content
//!   (dtype with byte order, shape, bytes) is compared; equal keys are never taken for equal content.
//! - **A key is the [content hash](crate::content_hash)** unless the caller brings one, which then works like any other.
//! - **Bit for bit.** Loaded bytes are the stored bytes; damaged ones are [`Error::Damaged`], never returned.
//! - **A batch is one commit:** all of it is stored or, on any error, none.
//! - **Bytes already handed out stay valid** after the weight is deleted or the store closed.
//! - **After [`close`](WeightStore::close)** every other call is [`Error::Closed`].
//!
//! [`conformance`](crate::conformance) checks these promises on any implementation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::delta::Delta;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::hash::WeightHash;
use crate::tensor::{WeightMetadata, WeightTensor};

/// A place that keeps weights. See the [module](self) for what every implementation promises.
pub trait WeightStore: Send + Sync {
    /// Stores a weight under `hash_key`, or under its content hash, and returns the key.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the key holds other content, and what keeps the data from being read or written.
    fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash>;

    /// The weight under this key, or `None`. Its `store_ref` and `metadata.hash` are the key.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the content does not verify; a store that loads lazily may report that from
    /// [`WeightTensor::data`] instead.
    fn load(&self, hash_key: &WeightHash) -> Result<Option<WeightTensor>>;

    /// Whether there is a weight under this key.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn exists(&self, hash_key: &WeightHash) -> Result<bool>;

    /// Deletes the weight; `false` if there was none.
    ///
    /// # Errors
    /// What keeps the store from deleting.
    fn delete(&self, hash_key: &WeightHash) -> Result<bool>;

    /// Every key, sorted.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn list_weights(&self) -> Result<Vec<WeightHash>>;

    /// The metadata of the weight under this key, without reading its data, or `None`.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn get_metadata(&self, hash_key: &WeightHash) -> Result<Option<WeightMetadata>>;

    /// Stores all weights in one commit, each under its content hash. The result pairs the given names
    /// with the keys, in the order given.
    ///
    /// # Errors
    /// As [`store`](Self::store); then nothing of the batch is stored.
    fn store_batch(&self, weights: &[(String, WeightTensor)]) -> Result<Vec<(String, WeightHash)>>;

    /// The weights under these keys; absent ones are left out.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn load_batch(&self, hash_keys: &[WeightHash]) -> Result<BTreeMap<WeightHash, WeightTensor>>;

    /// How much the store holds.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn get_storage_info(&self) -> Result<StorageInfo>;

    /// Ends the use of the store: everything acknowledged is durable, resources are released. Closing a closed
    /// store does nothing.
    ///
    /// # Errors
    /// What keeps the last changes from being written.
    fn close(&self) -> Result<()>;
}

/// A place that keeps deltas, with the promises of the [module](self): a delta is immutable too.
pub trait DeltaStore: Send + Sync {
    /// Stores a delta under `delta_hash` and returns the key.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the key holds another delta, [`Error::ShapeMismatch`] when the delta's parts do not
    /// belong together.
    fn store_delta(&self, delta: &Delta, delta_hash: &WeightHash) -> Result<WeightHash>;

    /// The delta under this key, or `None`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the content does not verify.
    fn load_delta(&self, delta_hash: &WeightHash) -> Result<Option<Delta>>;

    /// Whether there is a delta under this key.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn delta_exists(&self, delta_hash: &WeightHash) -> Result<bool>;

    /// Deletes the delta; `false` if there was none.
    ///
    /// # Errors
    /// What keeps the store from deleting.
    fn delete_delta(&self, delta_hash: &WeightHash) -> Result<bool>;

    /// Every delta's key, sorted.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn list_deltas(&self) -> Result<Vec<WeightHash>>;

    /// How much the deltas take.
    ///
    /// # Errors
    /// What keeps the store from answering.
    fn get_delta_storage_info(&self) -> Result<DeltaStorageInfo>;
}

/// How much a store holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StorageInfo {
    /// The store's file, if it has one.
    pub filepath: Option<PathBuf>,
    /// The size of the file, in bytes; 0 without one.
    pub file_size: u64,
    /// The number of weights.
    pub total_weights: u64,
    /// The size of all weights as tensors, in bytes.
    pub total_bytes: u64,
    /// The size of all weights as stored, in bytes.
    pub compressed_bytes: u64,
    /// The share saved: 1 − compressed / total; 0 when there is nothing.
    pub compression_ratio: f64,
    /// How new weights are compressed, e.g. `gzip`; `None` for not at all.
    pub compression: Option<String>,
}

impl StorageInfo {
    /// [`compression_ratio`](Self::compression_ratio) for these two sizes.
    pub fn ratio(compressed_bytes: u64, total_bytes: u64) -> f64 {
        if total_bytes == 0 { 0.0 } else { 1.0 - compressed_bytes as f64 / total_bytes as f64 }
    }

    /// The figures as a dictionary, in coral's form.
    pub fn to_dict(&self) -> Value {
        serde_json::json!({
            "filepath": self.filepath.as_ref().map(|path| path.to_string_lossy()),
            "file_size": self.file_size,
            "total_weights": self.total_weights,
            "total_bytes": self.total_bytes,
            "compressed_bytes": self.compressed_bytes,
            "compression_ratio": self.compression_ratio,
            "compression": self.compression,
        })
    }
}

/// How much the deltas of a store take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeltaStorageInfo {
    /// The number of deltas.
    pub total_deltas: u64,
    /// The size of their data, in bytes, before compression.
    pub total_delta_bytes: u64,
}

impl DeltaStorageInfo {
    /// The figures as a dictionary.
    pub fn to_dict(&self) -> Value {
        serde_json::json!({
            "total_deltas": self.total_deltas,
            "total_delta_bytes": self.total_delta_bytes,
        })
    }
}
