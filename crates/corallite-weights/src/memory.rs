//! A store in memory: for tests, for small tools, and as the plainest reading of the contract.
//!
//! Keeps the tensors' [`Bytes`](bytes::Bytes) as they are given, so storing copies nothing. A mapped
//! tensor keeps its file mapped.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use crate::delta::Delta;
use crate::error::{Error, Result};
use crate::hash::WeightHash;
use crate::store::{DeltaStorageInfo, DeltaStore, StorageInfo, WeightStore};
use crate::tensor::{WeightMetadata, WeightTensor};

/// Weights and deltas in memory, gone when the last reference is.
#[derive(Debug)]
pub struct MemoryStore {
    /// `None` once closed.
    shelves: RwLock<Option<Shelves>>,
}

#[derive(Debug, Default)]
struct Shelves {
    weights: BTreeMap<WeightHash, WeightTensor>,
    deltas: BTreeMap<WeightHash, Delta>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self { shelves: RwLock::new(Some(Shelves::default())) }
    }

    fn read<T>(&self, look: impl FnOnce(&Shelves) -> T) -> Result<T> {
        self.shelves.read().as_ref().map(look).ok_or(Error::Closed)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Shelves) -> Result<T>) -> Result<T> {
        self.shelves.write().as_mut().ok_or(Error::Closed).and_then(change)
    }

    /// Everything that may take long or fail, done before the lock: a tensor with its data and its key.
    fn prepare(weight: &WeightTensor, key: Option<&WeightHash>) -> Result<(WeightHash, WeightTensor)> {
        let mut weight = weight.clone();
        weight.materialize()?;
        let key = match key {
            Some(key) => key.clone(),
            None => weight.content_hash()?,
        };
        Ok((key.clone(), weight.stored_as(key)))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shelves {
    /// Whether the weight has to be added (`true`) or is there already; a different one there is a conflict.
    fn is_new(&self, key: &WeightHash, weight: &WeightTensor) -> Result<bool> {
        match self.weights.get(key) {
            None => Ok(true),
            Some(present) if present.same_content(weight)? => Ok(false),
            Some(_) => Err(Error::Conflict { key: key.clone() }),
        }
    }
}

impl WeightStore for MemoryStore {
    fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        self.read(|_| ())?;
        let (key, weight) = Self::prepare(weight, hash_key)?;
        self.write(|shelves| {
            if shelves.is_new(&key, &weight)? {
                shelves.weights.insert(key.clone(), weight);
            }
            Ok(key)
        })
    }

    fn load(&self, hash_key: &WeightHash) -> Result<Option<WeightTensor>> {
        self.read(|shelves| shelves.weights.get(hash_key).cloned())
    }

    fn exists(&self, hash_key: &WeightHash) -> Result<bool> {
        self.read(|shelves| shelves.weights.contains_key(hash_key))
    }

    fn delete(&self, hash_key: &WeightHash) -> Result<bool> {
        self.write(|shelves| Ok(shelves.weights.remove(hash_key).is_some()))
    }

    fn list_weights(&self) -> Result<Vec<WeightHash>> {
        self.read(|shelves| shelves.weights.keys().cloned().collect())
    }

    fn get_metadata(&self, hash_key: &WeightHash) -> Result<Option<WeightMetadata>> {
        self.read(|shelves| shelves.weights.get(hash_key).map(|weight| weight.metadata().clone()))
    }

    fn store_batch(&self, weights: &[(String, WeightTensor)]) -> Result<Vec<(String, WeightHash)>> {
        self.read(|_| ())?;
        let prepared = weights.iter().map(|(_, weight)| Self::prepare(weight, None)).collect::<Result<Vec<_>>>()?;
        self.write(|shelves| {
            // Keys within the batch are content hashes, so only what is stored already can conflict.
            let new =
                prepared.iter().map(|(key, weight)| shelves.is_new(key, weight)).collect::<Result<Vec<bool>>>()?;
            let mut keys = Vec::with_capacity(prepared.len());
            for (((key, weight), new), (name, _)) in prepared.into_iter().zip(new).zip(weights) {
                keys.push((name.clone(), key.clone()));
                if new {
                    shelves.weights.entry(key).or_insert(weight);
                }
            }
            Ok(keys)
        })
    }

    fn load_batch(&self, hash_keys: &[WeightHash]) -> Result<BTreeMap<WeightHash, WeightTensor>> {
        self.read(|shelves| {
            let pair = |key: &WeightHash| shelves.weights.get(key).map(|weight| (key.clone(), weight.clone()));
            hash_keys.iter().filter_map(pair).collect()
        })
    }

    fn get_storage_info(&self) -> Result<StorageInfo> {
        self.read(|shelves| {
            let total_bytes = shelves.weights.values().map(WeightTensor::nbytes).sum();
            StorageInfo {
                total_weights: shelves.weights.len() as u64,
                total_bytes,
                compressed_bytes: total_bytes,
                ..StorageInfo::default()
            }
        })
    }

    fn close(&self) -> Result<()> {
        *self.shelves.write() = None;
        Ok(())
    }
}

impl DeltaStore for MemoryStore {
    fn store_delta(&self, delta: &Delta, delta_hash: &WeightHash) -> Result<WeightHash> {
        self.read(|_| ())?;
        delta.check()?;
        self.write(|shelves| match shelves.deltas.get(delta_hash) {
            Some(present) if present == delta => Ok(delta_hash.clone()),
            Some(_) => Err(Error::Conflict { key: delta_hash.clone() }),
            None => {
                shelves.deltas.insert(delta_hash.clone(), delta.clone());
                Ok(delta_hash.clone())
            }
        })
    }

    fn load_delta(&self, delta_hash: &WeightHash) -> Result<Option<Delta>> {
        self.read(|shelves| shelves.deltas.get(delta_hash).cloned())
    }

    fn delta_exists(&self, delta_hash: &WeightHash) -> Result<bool> {
        self.read(|shelves| shelves.deltas.contains_key(delta_hash))
    }

    fn delete_delta(&self, delta_hash: &WeightHash) -> Result<bool> {
        self.write(|shelves| Ok(shelves.deltas.remove(delta_hash).is_some()))
    }

    fn list_deltas(&self) -> Result<Vec<WeightHash>> {
        self.read(|shelves| shelves.deltas.keys().cloned().collect())
    }

    fn get_delta_storage_info(&self) -> Result<DeltaStorageInfo> {
        self.read(|shelves| DeltaStorageInfo {
            total_deltas: shelves.deltas.len() as u64,
            total_delta_bytes: shelves.deltas.values().map(|delta| delta.data.len() as u64).sum(),
        })
    }
}
