//! Storing and deleting within one commit.

use std::collections::{HashMap, HashSet};

use corallite_file::Transaction;
use corallite_file::hdf5::File;

use super::attributes::{self, Description};
use super::stored::Stored;
use super::write::{self, Hashed, New, Unwatched, Watch, stop_if_cancelled};
use super::{Hdf5Store, WEIGHTS, library, lift};
use crate::error::{Error, Result};
use crate::filter::Compression;
use crate::hash::WeightHash;
use crate::tensor::{WeightMetadata, WeightTensor};

impl Hdf5Store {
    /// Runs `change` as one commit: everything it does through the [`WeightTransaction`] becomes durable together, or
    /// nothing does.
    ///
    /// # Errors
    ///
    /// That of `change`, or of the commit.
    pub fn transaction<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&WeightTransaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        struct Carrier<E>(E);
        impl<E: From<Error>> From<corallite_file::Error> for Carrier<E> {
            fn from(error: corallite_file::Error) -> Self {
                Self(lift(error).into())
            }
        }
        self.storage
            .transaction(|inner| change(&WeightTransaction { inner, compression: self.compression }).map_err(Carrier))
            .map_err(|carrier: Carrier<E>| carrier.0)
    }
}

/// Why a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For its own sake; only `delete` removes it.
    Kept,
    /// Because a checkpoint refers to it; `gc` removes it with the last one.
    ForCheckpoints,
}

/// Storing and deleting within one commit; see [`Hdf5Store::transaction`].
#[derive(Debug)]
pub struct WeightTransaction<'a> {
    pub(crate) inner: &'a Transaction<'a>,
    pub(super) compression: Compression,
}

impl WeightTransaction<'_> {
    /// The HDF5 transaction below.
    pub fn file(&self) -> &File {
        self.inner.file()
    }

    /// The same transaction, storing with another compression.
    #[must_use]
    pub fn with_compression(&self, compression: Compression) -> WeightTransaction<'_> {
        WeightTransaction { inner: self.inner, compression }
    }

    /// Stores a weight; see [`WeightStore::store`](crate::WeightStore::store).
    ///
    /// # Errors
    ///
    /// As [`WeightStore::store`](crate::WeightStore::store).
    pub fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        let mut keys = self.store_all(&[(weight, hash_key)], Purpose::Kept, &Unwatched)?;
        keys.pop().ok_or(Error::Closed)
    }

    /// Stores weights, each under its own key or its content hash; returns the keys in order.
    pub(crate) fn store_all(
        &self,
        weights: &[(&WeightTensor, Option<&WeightHash>)],
        purpose: Purpose,
        watch: &dyn Watch,
    ) -> Result<Vec<WeightHash>> {
        let file = self.inner.file();
        let group = file.group(WEIGHTS).map_err(|error| self.inner.explain("open /weights", &error))?;
        for (weight, _) in weights {
            check_text(weight.metadata())?;
        }
        // In an empty store every weight is new, so nothing is written in vain.
        let overlap = self.compression == Compression::None && group.is_empty();
        let tensors: Vec<&WeightTensor> = weights.iter().map(|(weight, _)| *weight).collect();
        let hashed = write::hash_all(self.inner, &tensors, overlap, watch)?;

        let mut keys = Vec::with_capacity(weights.len());
        let mut new: Vec<New> = Vec::new();
        let mut seen: HashMap<WeightHash, usize> = HashMap::new();
        let mut known: Vec<(WeightHash, usize)> = Vec::new();
        let mut present: HashSet<WeightHash> = HashSet::new();
        for (index, ((weight, hash_key), hashed)) in weights.iter().zip(hashed).enumerate() {
            let Hashed { data, hash, place } = hashed;
            let key = hash_key.cloned().unwrap_or_else(|| hash.clone());
            keys.push(key.clone());
            if let Some(&earlier) = seen.get(&key) {
                // Twice in one batch: the same rule as for what is stored already.
                let first = &new[earlier];
                if first.dtype != weight.dtype() || first.shape != weight.shape() || first.data != data {
                    return Err(Error::Conflict { key });
                }
                if let Some(place) = place {
                    self.inner.release(place, data.len() as u64)?;
                }
                continue;
            }
            if present.contains(&key) || group.link_exists(key.as_str()) {
                present.insert(key.clone());
                known.push((key, index));
                continue;
            }
            let mut metadata = weight.metadata().clone();
            metadata.hash = Some(key.clone());
            let description = Description {
                metadata,
                content_hash: (hash != key).then_some(hash),
                only_for_checkpoints: purpose == Purpose::ForCheckpoints,
            };
            seen.insert(key.clone(), new.len());
            let (dtype, shape) = (weight.dtype(), weight.shape().to_vec());
            new.push(New { key, dtype, shape, data, place, description: Box::new(description) });
        }
        for (key, index) in known {
            stop_if_cancelled(watch)?;
            self.check_same(&key, weights[index].0, purpose)?;
            watch.advance(weights[index].0.nbytes());
        }
        write::write_all(self.inner, &group, &new, self.compression, watch)?;
        Ok(keys)
    }

    /// Compares a weight with what its key holds already.
    fn check_same(&self, key: &WeightHash, weight: &WeightTensor, purpose: Purpose) -> Result<()> {
        let stored = Stored::find(self.inner, self.inner.file(), WEIGHTS, key)?
            .ok_or_else(|| Error::NotFound { what: format!("the weight `{key}`") })?;
        if !stored.equals(self.inner, weight.dtype(), weight.shape(), &weight.data()?)? {
            // Under a key computed from the content, what differs is not another tensor but a damaged one.
            stored.verify(self.inner)?;
            return Err(Error::Conflict { key: key.clone() });
        }
        if purpose == Purpose::Kept {
            let path = format!("{WEIGHTS}/{key}");
            library::open_dataset(self.inner.file(), &path)
                .and_then(|dataset| attributes::keep(&dataset))
                .map_err(|error| self.inner.explain(&format!("mark the weight {key}"), &error))?;
        }
        Ok(())
    }

    /// Removes a weight without asking who needs it; `false` when it was not there.
    pub(crate) fn unlink(&self, parent: &str, key: &str) -> Result<bool> {
        let file = self.inner.file();
        let path = format!("{parent}/{key}");
        if !file.link_exists(parent) || !file.link_exists(&path) {
            return Ok(false);
        }
        file.unlink(&path).map_err(|error| self.inner.explain(&format!("remove {path}"), &error))?;
        Ok(true)
    }

    /// Bytes that a weight's data takes; 0 when it cannot be looked at.
    pub(crate) fn stored_bytes(&self, key: &WeightHash) -> u64 {
        self.inner.file().dataset(&format!("{WEIGHTS}/{key}")).map_or(0, |dataset| library::stored_bytes(&dataset))
    }

    /// Whether a weight exists only because checkpoints refer to it.
    pub(crate) fn is_only_for_checkpoints(&self, key: &WeightHash) -> Result<bool> {
        let fail = |error: &_| self.inner.explain(&format!("read the weight {key}"), error);
        let dataset = self.inner.file().dataset(&format!("{WEIGHTS}/{key}")).map_err(|error| fail(&error))?;
        Ok(attributes::is_only_for_checkpoints(&dataset).map_err(|error| fail(&error))?)
    }
}

/// HDF5 texts end at a NUL character, so one inside would lose what follows.
fn check_text(metadata: &WeightMetadata) -> Result<()> {
    let texts = [Some(&metadata.name), metadata.layer_type.as_ref(), metadata.model_name.as_ref()];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        let name = metadata.name.escape_default();
        return Err(Error::Unsupported { what: format!("a NUL character in the name of tensor `{name}`") });
    }
    Ok(())
}
