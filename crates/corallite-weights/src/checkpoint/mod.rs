//! Checkpoints: model files, kept as the weights they hold and what else it takes to give back the same bytes.
//!
//! ```
//! use corallite_weights::{Checkpoints, Dtype, Hdf5Options, Hdf5Store, WeightTensor, safetensors};
//!
//! # let directory = tempfile::tempdir()?;
//! # let file = directory.path().join("model.safetensors");
//! # let weight = WeightTensor::new("bias", vec![4], Dtype::F32, vec![0_u8; 16])?;
//! # safetensors::write(std::fs::File::create(&file)?, &[weight], &[])?;
//! let store = Hdf5Store::open(directory.path().join("models.h5"), Hdf5Options::new())?;
//! let checkpoints = Checkpoints::new(&store);
//! let base = checkpoints.add("base", &file)?;          // each weight once, however many checkpoints have it
//! assert!(base.weight("bias").is_some());
//! checkpoints.export("base", &directory.path().join("out.safetensors"))?; // the same file, byte for byte
//! # assert_eq!(std::fs::read(&file)?, std::fs::read(directory.path().join("out.safetensors"))?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A checkpoint is a group `/checkpoints/<name>` with two datasets: `header`, the safetensors header as it was, byte for
//! byte, and `weights`, the keys of its tensors in the order of their data. `docs/store-format.md` has the rest.

mod export;
mod record;
mod repack;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use corallite_file::hdf5::File;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::filter::Compression;
use crate::hash::WeightHash;
use crate::hdf5_store::{
    CHECKPOINTS, Damage, Hdf5Store, Pages, Purpose, Reference, Tally, Unwatched, Watch, WeightTransaction, references,
    stop_if_cancelled, unknown_base,
};
use crate::safetensors::SafetensorsFile;
use crate::store::WeightStore;
use crate::tensor::WeightTensor;

pub use repack::{RepackOptions, RepackReport};

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointTensor {
    /// Its name in the file.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// The weight that holds its bytes.
    pub key: WeightHash,
}

/// What a listing shows of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointInfo {
    /// Its name.
    pub name: String,
    /// How many tensors it has.
    pub tensors: u64,
    /// The size of the model file, in bytes.
    pub logical_bytes: u64,
    /// When it was added, in nanoseconds since 1970.
    pub added_at: u64,
    /// The name of the file it was added from.
    pub source: String,
}

/// A checkpoint: its tensors, in the order of their data in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    info: CheckpointInfo,
    metadata: Vec<(String, String)>,
    tensors: Vec<CheckpointTensor>,
}

impl Checkpoint {
    /// What a listing shows of it.
    pub fn info(&self) -> &CheckpointInfo {
        &self.info
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The file's own metadata, in its order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Its tensors, in the order of their data in the file.
    pub fn tensors(&self) -> &[CheckpointTensor] {
        &self.tensors
    }

    /// The key of the tensor called `name`.
    pub fn weight(&self, name: &str) -> Option<&WeightHash> {
        self.tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.key)
    }
}

/// How files are added.
#[derive(Clone, Copy)]
pub struct AddOptions<'a> {
    compression: Option<Compression>,
    longest_chain: Option<usize>,
    watch: &'a dyn Watch,
}

impl std::fmt::Debug for AddOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddOptions").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Default for AddOptions<'_> {
    fn default() -> Self {
        Self { compression: None, longest_chain: None, watch: &Unwatched }
    }
}

impl<'a> AddOptions<'a> {
    /// The store's compression, unwatched.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compresses new weights this way instead of the store's.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Lets so many deltas lie one on another, instead of as many as the store does; see
    /// [`Hdf5Options::longest_chain`](crate::Hdf5Options::longest_chain).
    #[must_use]
    pub fn longest_chain(mut self, deltas: usize) -> Self {
        self.longest_chain = Some(deltas);
        self
    }

    /// Reports to `watch` and stops when it says so.
    #[must_use]
    pub fn watch(mut self, watch: &'a dyn Watch) -> Self {
        self.watch = watch;
        self
    }
}

/// A checkpoint that was added, and what that took.
#[derive(Clone, Debug, PartialEq)]
pub struct Added {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Weights that the store did not have before.
    pub new_weights: u64,
    /// Those of them that are stored as deltas.
    pub deltas: u64,
    /// Bytes that the new weights' data takes.
    pub stored_bytes: u64,
    /// How long it took, in seconds, without making it durable.
    pub seconds: f64,
}

/// What [`Checkpoints::gc`] freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Weights removed.
    pub weights: u64,
    /// Bytes their data took.
    pub bytes: u64,
}

/// The checkpoints of a store.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints<'a> {
    store: &'a Hdf5Store,
}

impl<'a> Checkpoints<'a> {
    /// The checkpoints of `store`.
    pub fn new(store: &'a Hdf5Store) -> Self {
        Self { store }
    }

    /// Adds a safetensors file under a name, in one commit. Weights that are stored already cost nothing but a
    /// comparison; memory use does not grow with the file.
    ///
    /// The file is mapped: nobody may change it in place meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] for a taken name, [`Error::Safetensors`] and its like for a bad file, and whatever
    /// keeps the commit from happening. The store is then what it was before.
    pub fn add(&self, name: &str, path: impl AsRef<Path>) -> Result<Checkpoint> {
        let mut added = self.add_all(&[(name.to_owned(), path.as_ref().to_owned())], AddOptions::new())?;
        added.pop().map(|added| added.checkpoint).ok_or_else(|| missing(name))
    }

    /// Adds several files in one commit: all or none.
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`].
    pub fn add_all(&self, files: &[(String, PathBuf)], options: AddOptions<'_>) -> Result<Vec<Added>> {
        // All input is looked at before the store is.
        let mut opened = Vec::with_capacity(files.len());
        let mut names = BTreeSet::new();
        for (name, path) in files {
            check_name(name)?;
            if !names.insert(name) {
                return Err(Error::AlreadyExists { name: name.clone() });
            }
            opened.push((name.as_str(), SafetensorsFile::open(path)?));
        }
        self.store.transaction(|transaction| {
            opened.iter().map(|(name, file)| transaction.add_checkpoint_with(name, file, options)).collect()
        })
    }

    /// The checkpoint called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedCheckpoint`] when its record does not fit together.
    pub fn get(&self, name: &str) -> Result<Option<Checkpoint>> {
        let snapshot = self.store.snapshot()?;
        Ok(record::read(snapshot.as_ref(), snapshot.file(), name)?.map(|record| record.checkpoint))
    }

    /// All checkpoints, by name.
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::get`].
    pub fn list(&self) -> Result<Vec<CheckpointInfo>> {
        let snapshot = self.store.snapshot()?;
        record::names(snapshot.as_ref(), snapshot.file())?
            .into_iter()
            .map(|name| record::read_info(snapshot.as_ref(), snapshot.file(), &name))
            .collect()
    }

    /// The names of all checkpoints, sorted, damaged ones included.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn names(&self) -> Result<Vec<String>> {
        let snapshot = self.store.snapshot()?;
        record::names(snapshot.as_ref(), snapshot.file())
    }

    /// Removes a checkpoint; `false` when there was none of that name. Its weights stay until [`Checkpoints::gc`].
    ///
    /// # Errors
    ///
    /// Whatever keeps the commit from happening.
    pub fn remove(&self, name: &str) -> Result<bool> {
        if check_name(name).is_err() {
            return Ok(false);
        }
        self.store.transaction(|transaction| transaction.unlink(CHECKPOINTS, name))
    }

    /// Writes the checkpoint's file again, byte for byte, to `path`. The file appears there whole or not at all; an
    /// existing one is replaced. Every tensor is verified.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Damaged`], or [`Error::Io`] when the file cannot be written.
    pub fn export(&self, name: &str, path: impl AsRef<Path>) -> Result<u64> {
        self.export_watched(name, path, &Unwatched)
    }

    /// As [`Checkpoints::export`], watched.
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::export`], and [`Error::Cancelled`].
    pub fn export_watched(&self, name: &str, path: impl AsRef<Path>, watch: &dyn Watch) -> Result<u64> {
        let snapshot = self.store.snapshot()?;
        let record = record::read(snapshot.as_ref(), snapshot.file(), name)?.ok_or_else(|| missing(name))?;
        export::to_path(&snapshot, &record, path.as_ref(), watch)
    }

    /// Frees the weights that were stored for checkpoints and that none needs any more, in one commit, then gives up
    /// the earlier commits that could still be rolled back to, since they would keep the space.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedCheckpoint`], or [`Error::Damaged`] for a weight that is needed and does not say what it is a delta of,
    /// when it cannot be known what is needed; nothing is freed then.
    pub fn gc(&self, watch: &dyn Watch) -> Result<GcReport> {
        self.gc_but(&HashSet::new(), watch)
    }

    /// As [`Checkpoints::gc`], but for some weights that something else needs.
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::gc`].
    pub fn gc_but(&self, needed: &HashSet<WeightHash>, watch: &dyn Watch) -> Result<GcReport> {
        let report = self.store.transaction::<_, Error>(|transaction| {
            let mut report = GcReport::default();
            for (key, bytes) in self.garbage(transaction, needed, watch)? {
                if transaction.unlink_weight(&key)? {
                    report.weights += 1;
                    report.bytes += bytes;
                }
            }
            Ok(report)
        })?;
        self.give_up_versions()?;
        Ok(report)
    }

    /// Makes the space of what is no longer needed reusable, and gives it back where it is at the file's end.
    fn give_up_versions(&self) -> Result<()> {
        let storage = self.store.storage();
        storage.expire_versions()?;
        Ok(storage.reclaim()?)
    }

    /// The weights that nothing needs, and the bytes of each.
    fn garbage(
        &self,
        transaction: &WeightTransaction<'_>,
        also: &HashSet<WeightHash>,
        watch: &dyn Watch,
    ) -> Result<Vec<(WeightHash, u64)>> {
        let (pages, file) = (transaction.inner, transaction.file());
        let mut needed: HashSet<WeightHash> =
            self::needed(pages, file)?.into_keys().chain(also.iter().cloned()).collect();
        let mut bases = HashMap::new();
        for Reference { name, reference, is_weight } in references(pages, file)? {
            let name = WeightHash::new(name)?;
            match reference {
                reference if is_weight => drop(bases.insert(name, reference)),
                Ok(reference) => drop(needed.insert(reference)),
                Err(problem) => return Err(unknown_base(&name, &problem)),
            }
        }
        let mut candidates = Vec::new();
        for key in self.store.list_weights()? {
            stop_if_cancelled(watch)?;
            if needed.contains(&key) {
                continue;
            }
            let (freed, bytes) = match self.store.find(&key) {
                Ok(found) => found
                    .map_or((false, 0), |(_, stored)| (stored.description.only_for_checkpoints, stored.stored_bytes())),
                // A damaged weight that nobody needs is freed like any other; one that cannot even be looked at stays.
                Err(_) => {
                    let freed = transaction.is_only_for_checkpoints(&key).unwrap_or(false);
                    (freed, transaction.stored_bytes(&key))
                }
            };
            if freed {
                candidates.push((key, bytes));
            } else {
                needed.insert(key);
            }
        }
        // Whatever is needed needs its base.
        let mut open: Vec<WeightHash> = needed.iter().cloned().collect();
        while let Some(key) = open.pop() {
            match bases.get(&key) {
                Some(Ok(base)) if needed.insert(base.clone()) => open.push(base.clone()),
                Some(Err(problem)) => return Err(unknown_base(&key, problem)),
                Some(Ok(_)) | None => {}
            }
        }
        candidates.retain(|(key, _)| !needed.contains(key));
        Ok(candidates)
    }

    /// Checks every checkpoint's record and that all its weights are there; the weights' own bytes are
    /// [`Hdf5Store::verify`]'s business.
    ///
    /// # Errors
    ///
    /// Only what keeps it from going on.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        let snapshot = self.store.snapshot()?;
        let mut damaged = Vec::new();
        let names = match record::names(snapshot.as_ref(), snapshot.file()) {
            Ok(names) => names,
            Err(error) => {
                let name = format!("/{CHECKPOINTS}");
                return Ok(vec![Damage { kind: "file", name, label: None, problem: error.to_string() }]);
            }
        };
        for name in names {
            let problem = match record::read(snapshot.as_ref(), snapshot.file(), &name) {
                Ok(Some(record)) => {
                    let tensors = &record.checkpoint.tensors;
                    let absent = tensors.iter().find(|tensor| !self.store.exists(&tensor.key).unwrap_or(true));
                    absent.map(|tensor| format!("the weight `{}` of tensor `{}` is missing", tensor.key, tensor.name))
                }
                Ok(None) => None,
                Err(Error::DamagedCheckpoint { problem, .. }) => Some(problem),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                damaged.push(Damage { kind: "checkpoint", name, label: None, problem });
            }
        }
        Ok(damaged)
    }
}

impl WeightTransaction<'_> {
    /// Adds a safetensors file as the checkpoint `name`, stored as the options say.
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`].
    pub fn add_checkpoint_with(&self, name: &str, file: &SafetensorsFile, options: AddOptions<'_>) -> Result<Added> {
        let transaction = self.with_compression(options.compression.unwrap_or(self.compression));
        let transaction = match options.longest_chain {
            Some(deltas) => transaction.with_longest_chain(deltas),
            None => transaction,
        };
        transaction.add_checkpoint(name, file, options.watch)
    }

    /// Adds a safetensors file as the checkpoint `name`; see [`Checkpoints::add`].
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::add`].
    pub fn add_checkpoint(&self, name: &str, file: &SafetensorsFile, watch: &dyn Watch) -> Result<Added> {
        let started = Instant::now();
        check_name(name)?;
        if self.file().link_exists(CHECKPOINTS) && self.file().link_exists(&format!("{CHECKPOINTS}/{name}")) {
            return Err(Error::AlreadyExists { name: name.to_owned() });
        }
        let model_name = Some(name.to_owned());
        let weights = file
            .tensors_in_data_order()
            .map(|view| {
                let mut weight = view.to_weight()?;
                weight.set_model_name(model_name.clone());
                Ok(weight)
            })
            .collect::<Result<Vec<_>>>()?;
        let by_hash: Vec<_> = weights.iter().map(|weight| (weight, None)).collect();
        let watch = Forgetful { watch, file, touched: AtomicU64::new(0) };
        let (keys, tally) = self.store_for_checkpoint(&by_hash, &watch)?;
        let tensors = file
            .tensors_in_data_order()
            .zip(keys)
            .map(|(view, key)| CheckpointTensor {
                name: view.name().to_owned(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                key,
            })
            .collect::<Vec<_>>();
        let info = CheckpointInfo {
            name: name.to_owned(),
            tensors: tensors.len() as u64,
            logical_bytes: file.header().file_len(),
            added_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as u64),
            source: file.path().file_name().unwrap_or(OsStr::new("")).to_string_lossy().replace('\0', ""),
        };
        let checkpoint = Checkpoint { info, metadata: file.metadata().to_vec(), tensors };
        record::write(self, &checkpoint, file.header().raw())?;
        let seconds = started.elapsed().as_secs_f64();
        let Tally { new, deltas, bytes } = tally;
        Ok(Added { checkpoint, new_weights: new, deltas, stored_bytes: bytes, seconds })
    }

    /// Stores weights as deltas where that is smaller. A base that turns out to be damaged is left alone.
    fn store_for_checkpoint(
        &self,
        weights: &[(&WeightTensor, Option<&WeightHash>)],
        watch: &dyn Watch,
    ) -> Result<(Vec<WeightHash>, Tally)> {
        let mut without = HashSet::new();
        loop {
            match self.without(without.clone()).store_all(weights, Purpose::ForCheckpoints, watch) {
                Err(Error::Damaged { key, .. }) if without.insert(key.clone()) => {}
                outcome => return outcome,
            }
        }
    }

    /// Removes a checkpoint; `false` when there was none of that name.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn remove_checkpoint(&self, name: &str) -> Result<bool> {
        if check_name(name).is_err() { Ok(false) } else { self.unlink(CHECKPOINTS, name) }
    }
}

/// Passes on what it is told, and gives memory of a mapped file back whenever much of it was touched.
struct Forgetful<'a> {
    watch: &'a dyn Watch,
    file: &'a SafetensorsFile,
    touched: AtomicU64,
}

impl Watch for Forgetful<'_> {
    fn advance(&self, bytes: u64) {
        self.watch.advance(bytes);
    }

    fn touched(&self, bytes: u64) {
        const MUCH: u64 = 128 << 20;
        self.watch.touched(bytes);
        let before = self.touched.fetch_add(bytes, Ordering::Relaxed);
        if before / MUCH != (before + bytes) / MUCH {
            self.file.forget_touched();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }
}

/// The checkpoints that were added last, the newest first; damaged ones are left out.
pub(crate) fn latest(pages: &dyn Pages, file: &File, count: usize) -> Result<Vec<Checkpoint>> {
    let mut infos: Vec<CheckpointInfo> =
        record::names(pages, file)?.iter().filter_map(|name| record::read_info(pages, file, name).ok()).collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.added_at));
    let records = infos.iter().take(count).filter_map(|info| record::read(pages, file, &info.name).ok().flatten());
    Ok(records.map(|record| record.checkpoint).collect())
}

/// The weights that checkpoints need, each with one of them.
pub(crate) fn needed(pages: &dyn Pages, file: &File) -> Result<HashMap<WeightHash, String>> {
    let mut needed = HashMap::new();
    for name in record::names(pages, file)? {
        let Some(record) = record::read(pages, file, &name)? else { continue };
        for tensor in record.checkpoint.tensors {
            needed.entry(tensor.key).or_insert_with(|| format!("checkpoint `{name}`"));
        }
    }
    Ok(needed)
}

fn missing(name: &str) -> Error {
    Error::NotFound { what: format!("the checkpoint `{name}`") }
}

/// Checkpoint names are links of HDF5, as keys are.
fn check_name(name: &str) -> Result<()> {
    match WeightHash::new(name) {
        Ok(_) => Ok(()),
        Err(Error::InvalidKey { key, problem }) => Err(Error::InvalidName { name: key, problem }),
        Err(error) => Err(error),
    }
}
