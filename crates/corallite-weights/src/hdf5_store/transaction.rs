//! Storing and deleting within one commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use corallite_file::Transaction;
use corallite_file::hdf5::{Dataset, File};
use rayon::prelude::*;

use super::attributes::{self, DeltaOf, Description};
use super::base::{Bases, Chosen, Workspace};
use super::options::MOST_IN_CHAIN;
use super::stored::{Pages, Stored};
use super::write::{self, Groups, Hashed, New, Unwatched, Watch, stop_if_cancelled};
use super::{DELTAS, Hdf5Store, WEIGHTS, deltas, library, lift};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::filter::Compression;
use crate::hash::WeightHash;
use crate::tensor::{WeightMetadata, WeightTensor};

/// The group of weights that are being replaced; in no commit.
const ASIDE: &str = "aside";

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
            .transaction(|inner| {
                // A failed transaction takes them back, if it was to be the file's first.
                super::ensure(&self.storage).map_err(|error| Carrier(error.into()))?;
                let (compression, longest_chain) = (self.compression, self.longest_chain);
                change(&WeightTransaction { inner, compression, longest_chain, without: HashSet::new() })
                    .map_err(Carrier)
            })
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
    pub(crate) compression: Compression,
    longest_chain: usize,
    /// Weights that are not to be bases.
    without: HashSet<WeightHash>,
}

/// What storing came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Weights that were not there before.
    pub(crate) new: u64,
    /// Those of them that are stored as deltas.
    pub(crate) deltas: u64,
    /// Bytes that their data takes.
    pub(crate) bytes: u64,
}

impl WeightTransaction<'_> {
    /// The version of a store in which weights may be stored as deltas.
    const FORMAT_WITH_DELTAS: i64 = 2;

    /// The HDF5 transaction below.
    pub fn file(&self) -> &File {
        self.inner.file()
    }

    /// The file layer's transaction below, for what else is to be in the same commit.
    pub fn storage_transaction(&self) -> &Transaction<'_> {
        self.inner
    }

    /// The same transaction, storing with another compression.
    #[must_use]
    pub fn with_compression(&self, compression: Compression) -> WeightTransaction<'_> {
        WeightTransaction {
            inner: self.inner,
            compression,
            longest_chain: self.longest_chain,
            without: self.without.clone(),
        }
    }

    /// The same transaction, with at most so many deltas one on another; 0 stores every weight whole, more than 32 are taken
    /// for 32.
    #[must_use]
    pub fn with_longest_chain(&self, longest_chain: usize) -> WeightTransaction<'_> {
        let longest_chain = longest_chain.min(MOST_IN_CHAIN);
        WeightTransaction { longest_chain, ..self.with_compression(self.compression) }
    }

    /// The same transaction, storing no weight as the difference to one of these.
    pub(crate) fn without(&self, without: HashSet<WeightHash>) -> WeightTransaction<'_> {
        WeightTransaction { without, ..self.with_compression(self.compression) }
    }

    /// Stores a weight; see [`WeightStore::store`](crate::WeightStore::store).
    ///
    /// # Errors
    ///
    /// As [`WeightStore::store`](crate::WeightStore::store).
    pub fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        let (mut keys, _) = self.store_all(&[(weight, hash_key)], Purpose::Kept, &Unwatched)?;
        keys.pop().ok_or(Error::Closed)
    }

    /// Stores weights, each under its own key or its content hash; returns the keys in order.
    pub(crate) fn store_all(
        &self,
        weights: &[(&WeightTensor, Option<&WeightHash>)],
        purpose: Purpose,
        watch: &dyn Watch,
    ) -> Result<(Vec<WeightHash>, Tally)> {
        let file = self.inner.file();
        let group = file.group(WEIGHTS).map_err(|error| self.inner.explain("open /weights", &error))?;
        for (weight, _) in weights {
            check_text(weight.metadata())?;
        }
        let weights_in_deltas = deltas::count_weights(self.inner, file)?;
        // In an empty store every weight is new, so nothing is written in vain.
        let overlap = self.compression == Compression::None && group.is_empty();
        let tensors: Vec<&WeightTensor> = weights.iter().map(|(weight, _)| *weight).collect();
        let hashed = write::hash_all(self.inner, &tensors, overlap, watch)?;

        let mut keys = Vec::with_capacity(weights.len());
        let mut new: Vec<New> = Vec::new();
        let mut descriptions: Vec<Description> = Vec::new();
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
            if present.contains(&key)
                || group.link_exists(key.as_str())
                || weights_in_deltas > 0 && self.place_of(&key)?.is_some()
            {
                present.insert(key.clone());
                known.push((key, index));
                continue;
            }
            let mut metadata = weight.metadata().clone();
            metadata.hash = Some(key.clone());
            let description = Description {
                metadata,
                delta: None,
                content_hash: (hash != key).then_some(hash),
                only_for_checkpoints: purpose == Purpose::ForCheckpoints,
            };
            seen.insert(key.clone(), new.len());
            let (dtype, shape) = (weight.dtype(), weight.shape().to_vec());
            new.push(New { key, dtype, shape, data, place, base: None, description: Arc::new(description.clone()) });
            descriptions.push(description);
        }
        let mut chosen: Vec<Option<Chosen>> = new.iter().map(|_| None).collect();
        if purpose == Purpose::ForCheckpoints {
            let bases = self.bases(&crate::checkpoint::latest(self.inner, file, Bases::RECENT)?);
            chosen = self.choose(&bases, &new, &descriptions, watch)?;
        }
        for (key, index) in known {
            stop_if_cancelled(watch)?;
            self.check_same(&key, weights[index].0, purpose)?;
            watch.advance(weights[index].0.nbytes());
        }
        Ok((keys, self.write(new, descriptions, chosen, watch)?))
    }

    /// What weights may be stored as differences to: those of these checkpoints, the first ones first.
    pub(crate) fn bases(&self, checkpoints: &[Checkpoint]) -> Bases<'_> {
        Bases::new(self.inner, self.compression, self.longest_chain, checkpoints, &self.without)
    }

    /// What each weight is best stored as the difference to, if anything.
    pub(crate) fn choose(
        &self,
        bases: &Bases<'_>,
        new: &[New],
        descriptions: &[Description],
        watch: &dyn Watch,
    ) -> Result<Vec<Option<Chosen>>> {
        new.par_iter()
            .zip(descriptions)
            .map_init(Workspace::default, |workspace, (new, description)| {
                stop_if_cancelled(watch)?;
                bases.choose(&description.metadata.name, new.dtype, &new.shape, &new.data, workspace)
            })
            .collect()
    }

    /// Writes weights that are not in the file, each as what was chosen for it.
    pub(crate) fn write(
        &self,
        mut new: Vec<New>,
        descriptions: Vec<Description>,
        chosen: Vec<Option<Chosen>>,
        watch: &dyn Watch,
    ) -> Result<Tally> {
        let file = self.inner.file();
        let open = |name: &str| file.group(name).map_err(|error| self.inner.explain(&format!("open /{name}"), &error));
        let (group, delta_group) = (open(WEIGHTS)?, open(DELTAS)?);
        let mut tally = Tally { new: new.len() as u64, ..Tally::default() };
        for ((new, description), chosen) in new.iter_mut().zip(descriptions).zip(chosen) {
            // The name may be taken by a delta that somebody keeps for its own sake.
            let is_taken = delta_group.link_exists(new.key.as_str());
            let Some(chosen) = chosen.filter(|chosen| !is_taken && !chosen.base.is_read_whole()) else { continue };
            // What has no chunks is stored whole; and those that it is given need not be those that it had.
            let Some(chunks) = write::chunks(new, self.compression)? else { continue };
            let Chosen { difference, delta, base } = chosen;
            let delta = DeltaOf { chunk: chunks.dims().to_vec(), ..delta };
            new.base = Some((difference, base));
            new.description = Arc::new(Description { delta: Some(delta), ..description });
            tally.deltas += 1;
        }
        if tally.deltas > 0 {
            self.inner.require_format(Self::FORMAT_WITH_DELTAS)?;
        }
        let others = delta_group.len().saturating_sub(deltas::count_weights(self.inner, file)?);
        let groups = Groups { whole: &group, deltas: &delta_group };
        let written = write::write_all(self.inner, groups, &new, self.compression, watch);
        // Also when something went wrong: what was written before that is there.
        deltas::set_count(self.inner, delta_group.len().saturating_sub(others))?;
        tally.bytes = written?;
        Ok(tally)
    }

    /// Compares a weight with what its key holds already.
    fn check_same(&self, key: &WeightHash, weight: &WeightTensor, purpose: Purpose) -> Result<()> {
        let stored = Stored::find(self.inner, self.inner.file(), key)?
            .ok_or_else(|| Error::NotFound { what: format!("the weight `{key}`") })?;
        if !stored.equals(self.inner, weight.dtype(), weight.shape(), &weight.data()?)? {
            // Under a key computed from the content, what differs is not another tensor but a damaged one.
            stored.verify(self.inner)?;
            return Err(Error::Conflict { key: key.clone() });
        }
        if purpose == Purpose::Kept {
            let path = format!("{}/{key}", if stored.base().is_some() { DELTAS } else { WEIGHTS });
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

    /// Removes a weight without asking who needs it; `false` when it was not there.
    pub(crate) fn unlink_weight(&self, key: &WeightHash) -> Result<bool> {
        if self.unlink(WEIGHTS, key.as_str())? {
            return Ok(true);
        }
        if self.place_of(key)? != Some(DELTAS) {
            return Ok(false);
        }
        deltas::set_count(self.inner, deltas::count_weights(self.inner, self.inner.file())?.saturating_sub(1))?;
        self.unlink(DELTAS, key.as_str())
    }

    /// Whether a weight that is there could be a delta: not when a delta for its own sake has its key.
    pub(crate) fn may_be_delta(&self, key: &WeightHash) -> bool {
        let file = self.inner.file();
        !(file.link_exists(&format!("{WEIGHTS}/{key}")) && file.link_exists(&format!("{DELTAS}/{key}")))
    }

    /// Puts weights out of the way of others of the same keys. Until [`Self::drop_aside`] their bytes stay readable: what is
    /// unlinked may lie behind the end of the file at once.
    pub(crate) fn put_aside<'k>(&self, keys: impl IntoIterator<Item = &'k WeightHash>) -> Result<()> {
        let file = self.inner.file();
        let fail = |error: corallite_file::hdf5::Error| self.inner.explain("put weights aside", &error);
        file.create_group(ASIDE).map_err(fail)?;
        let mut deltas = 0;
        for (key, number) in keys.into_iter().zip(0_u64..) {
            let Some(parent) = self.place_of(key)? else { continue };
            deltas += u64::from(parent == DELTAS);
            file.relink(&format!("{parent}/{key}"), &format!("{ASIDE}/{number}")).map_err(fail)?;
        }
        deltas::set_count(self.inner, deltas::count_weights(self.inner, file)?.saturating_sub(deltas))
    }

    /// Removes what was put aside.
    pub(crate) fn drop_aside(&self) -> Result<()> {
        Ok(self.inner.file().unlink(ASIDE).map_err(|error| self.inner.explain("drop what was put aside", &error))?)
    }

    /// The group that a weight lies in.
    fn place_of(&self, key: &WeightHash) -> Result<Option<&'static str>> {
        place_of(self.inner, self.inner.file(), key)
    }

    fn dataset(&self, key: &WeightHash) -> Result<Option<Dataset>> {
        let Some(parent) = self.place_of(key)? else { return Ok(None) };
        let opened = self.inner.file().dataset(&format!("{parent}/{key}"));
        Ok(Some(opened.map_err(|error| self.inner.explain(&format!("read the weight {key}"), &error))?))
    }

    /// Bytes that a weight's data takes; 0 when it cannot be looked at.
    pub fn stored_bytes(&self, key: &WeightHash) -> u64 {
        self.dataset(key).ok().flatten().map_or(0, |dataset| library::stored_bytes(&dataset))
    }

    /// Whether a weight exists only because checkpoints refer to it.
    pub(crate) fn is_only_for_checkpoints(&self, key: &WeightHash) -> Result<bool> {
        let Some(dataset) = self.dataset(key)? else { return Ok(false) };
        let fail = |error: &_| self.inner.explain(&format!("read the weight {key}"), error);
        Ok(attributes::is_only_for_checkpoints(&dataset).map_err(|error| fail(&error))?)
    }
}

/// The group that a weight lies in.
pub(super) fn place_of(pages: &dyn Pages, file: &File, key: &WeightHash) -> Result<Option<&'static str>> {
    let exists = |parent: &str| file.link_exists(parent) && file.link_exists(&format!("{parent}/{key}"));
    if exists(WEIGHTS) {
        return Ok(Some(WEIGHTS));
    }
    if !exists(DELTAS) {
        return Ok(None);
    }
    let is_weight = || {
        let dataset = file.dataset(&format!("{DELTAS}/{key}"))?;
        library::has_attribute(&dataset, attributes::HASH)
    };
    let is_weight = is_weight().map_err(|error| pages.explain(&format!("read the weight {key}"), &error))?;
    Ok(is_weight.then_some(DELTAS))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::{Difference, Order};
    use crate::dtype::Dtype;
    use crate::hdf5_store::Hdf5Options;
    use crate::store::WeightStore;

    /// Weights that are each the difference to the one before, and the first to the last: no store makes that.
    #[test]
    fn a_circle_of_bases_is_damage_and_no_hang() {
        let store = Hdf5Store::memory(Hdf5Options::new()).unwrap();
        let weights: Vec<WeightTensor> = (0..3_u8)
            .map(|first| {
                let data: Vec<u8> = (0..8192_u32).map(|index| if index == 0 { first } else { index as u8 }).collect();
                WeightTensor::new("w", vec![2048], Dtype::F32, data).unwrap()
            })
            .collect();
        let keys: Vec<WeightHash> = weights.iter().map(|weight| store.store(weight, None).unwrap()).collect();
        for index in [1, 2, 0] {
            let base = &keys[(index + 2) % 3];
            store
                .transaction::<_, Error>(|transaction| {
                    let find = |key| Stored::find(transaction.inner, transaction.file(), key);
                    let (stored, base) = (find(&keys[index])?.unwrap(), find(base)?.unwrap());
                    let description = stored.description.clone();
                    let new = New {
                        key: keys[index].clone(),
                        dtype: Dtype::F32,
                        shape: vec![2048],
                        data: weights[index].data()?,
                        place: None,
                        base: None,
                        description: Arc::new(description.clone()),
                    };
                    let delta = DeltaOf { reference: base.key.clone(), order: Order::Natural, chunk: vec![2048] };
                    let difference = Difference::new(Dtype::F32, Order::Natural).unwrap();
                    let chosen = Chosen { difference, delta, base: Arc::new(base) };
                    transaction.unlink_weight(&keys[index])?;
                    transaction.write(vec![new], vec![description], vec![Some(chosen)], &Unwatched)?;
                    Ok(())
                })
                .unwrap();
        }
        let Err(Error::Damaged { problem, .. }) = store.load(&keys[0]) else { panic!("a circle was read") };
        assert!(problem.contains("a circle"), "{problem}");
        assert_eq!(store.verify(&Unwatched).unwrap().damaged.len(), 3);
        assert!(matches!(store.delete(&keys[0]), Err(Error::InUse { .. })));
    }
}
