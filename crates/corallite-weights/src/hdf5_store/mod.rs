//! [`Hdf5Store`]: weights in one crash-safe HDF5 file that every HDF5 reader opens.
//!
//! ```text
//! /weights/<key>     a dataset of the tensor's shape and type; attributes name, shape, dtype, layer_type,
//!                    model_name, compression_info (JSON), hash, metadata_checksum
//! /deltas/<key>      a delta's data; attributes delta_type, original_shape, original_dtype, reference_hash,
//!                    compression_ratio, metadata (JSON)
//! /metadata          kept for coral's sake
//! /checkpoints/<name> see `checkpoint`
//! ```
//!
//! Every storing or deleting call is one durable commit. Reading works on the last commit and never waits for a
//! writer longer than a commit takes.

mod attributes;
mod base;
mod deltas;
mod encoding;
mod geometry;
pub(crate) mod library;
mod options;
mod pieces;
pub(crate) mod stored;
mod transaction;
mod verify;
pub(crate) mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use corallite_file::hdf5::{File, Group};
use corallite_file::{CommitNumber, Mode, Snapshot, Source, Storage};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::filter::Compression;
use crate::hash::WeightHash;
use crate::store::{StorageInfo, WeightStore};
use crate::tensor::{WeightMetadata, WeightTensor};

use stored::Stored;

pub use encoding::Encoding;
pub use options::Hdf5Options;
pub use pieces::Pieces;
pub use transaction::WeightTransaction;
pub use verify::{Damage, Verification};
pub use write::{Unwatched, Watch};

pub(crate) use attributes::{Description, checksum};
pub(crate) use base::Bases;
pub(crate) use deltas::{Reference, references};
pub(crate) use stored::Pages;
pub(crate) use transaction::{Purpose, Tally};
pub(crate) use write::stop_if_cancelled;

pub(crate) const WEIGHTS: &str = "weights";
pub(crate) const DELTAS: &str = "deltas";
pub(crate) const METADATA: &str = "metadata";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// Weights that something refers to, each with one that does.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    by: HashMap<WeightHash, String>,
    /// What is damaged so that it could refer to any, and how.
    unknown: Vec<(WeightHash, String)>,
}

impl Needed {
    /// Refuses to take a weight away that something refers to, or may refer to.
    fn check(&self, key: &WeightHash) -> Result<()> {
        if let Some(by) = self.by.get(key) {
            return Err(Error::InUse { key: key.clone(), by: by.clone() });
        }
        match self.unknown.iter().find(|(name, _)| name != key) {
            Some((name, problem)) => Err(unknown_base(name, problem)),
            None => Ok(()),
        }
    }
}

/// A damaged delta keeps everything that it may need.
pub(crate) fn unknown_base(key: &WeightHash, problem: &str) -> Error {
    let problem = format!("{problem}, so that what it is a delta of is unknown, and nothing can be removed");
    Error::Damaged { key: key.clone(), problem }
}

/// A content-addressed store of weights in one HDF5 file.
///
/// ```
/// use corallite_weights::{Compression, Dtype, Hdf5Options, Hdf5Store, WeightStore, WeightTensor};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("weights.h5");
/// let store = Hdf5Store::open(&path, Hdf5Options::new().compression(Compression::default()))?;
/// let bytes: Vec<u8> = (0..1024).flat_map(|i| (i as f32).to_le_bytes()).collect();
/// let key = store.store(&WeightTensor::new("w", vec![32, 32], Dtype::F32, bytes)?, None)?;
/// let rows = store.load_rows(&key, 3..5)?.expect("stored above"); // reads two rows, not the tensor
/// assert_eq!(rows.shape(), [2, 32]);
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Hdf5Store {
    storage: Arc<Storage>,
    compression: Compression,
    longest_chain: usize,
    mode: Mode,
    /// What needs each weight, as of a commit.
    needed: Mutex<Option<(CommitNumber, Arc<Needed>)>>,
}

impl Hdf5Store {
    /// Opens or creates the store at `path`, making its directory if that is missing.
    ///
    /// Files written by the PyPI package `coral-ml` open as they are; the first commit makes them Corallite stores,
    /// which that package goes on reading.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the file cannot be opened or is no such store; it is then unchanged.
    pub fn open(path: impl AsRef<Path>, options: Hdf5Options) -> Result<Self> {
        let path = path.as_ref();
        if !matches!(options.mode, Mode::Read | Mode::ReadWrite)
            && let Some(parent) = path.parent()
            && !parent.as_os_str().is_empty()
        {
            std::fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))?;
        }
        Self::open_source(path, options)
    }

    /// A store in memory, which goes with the value.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when libhdf5 fails.
    pub fn memory(options: Hdf5Options) -> Result<Self> {
        Self::open_source(Source::Memory, options)
    }

    /// Opens the store in `source`.
    ///
    /// # Errors
    ///
    /// As [`Hdf5Store::open`].
    pub fn open_source(source: impl Into<Source>, options: Hdf5Options) -> Result<Self> {
        let storage = Storage::with_options(source, options.storage.clone().adopt(Self::is_coral));
        Self::open_storage(storage, &options)
    }

    /// Opens the store in a storage that is not open yet. Its settings decide whether coral's files are taken: see
    /// [`Hdf5Store::is_coral`].
    ///
    /// # Errors
    ///
    /// As [`Hdf5Store::open`].
    pub fn open_storage(storage: Storage, options: &Hdf5Options) -> Result<Self> {
        let Hdf5Options { mode, compression, longest_chain, .. } = *options;
        storage.open(mode, false)?;
        if mode != Mode::Read
            && let Err(error) = ensure(&storage)
        {
            storage.abandon()?;
            return Err(error);
        }
        Ok(Self { storage: Arc::new(storage), compression, longest_chain, mode, needed: Mutex::new(None) })
    }

    /// Whether an HDF5 file has the layout of the PyPI package `coral-ml`: for
    /// [`Options::adopt`](corallite_file::Options::adopt).
    pub fn is_coral(file: &File) -> bool {
        file.group(WEIGHTS).is_ok()
    }

    /// The path of the file, or a name for what has none.
    pub fn filepath(&self) -> &Path {
        self.storage.path()
    }

    /// How new weights are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The level of gzip compression, 1 to 9.
    pub fn compression_opts(&self) -> Option<u8> {
        match self.compression {
            Compression::Gzip(level) => Some(level.get()),
            _ => None,
        }
    }

    /// The mode the file was opened in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The HDF5 file, as of the last commit.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn file(&self) -> Result<File> {
        Ok(self.snapshot()?.file().clone())
    }

    /// The file layer below: commits, versions, rolling back.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        self.storage.snapshot().map_err(lift)
    }

    pub(crate) fn find(&self, key: &WeightHash) -> Result<Option<(Arc<Snapshot>, Stored)>> {
        let snapshot = self.snapshot()?;
        Ok(Stored::find(snapshot.as_ref(), snapshot.file(), key)?.map(|stored| (snapshot, stored)))
    }

    /// A weight whose metadata is read now and whose data when it is asked for, from the same commit even if the weight
    /// is deleted meanwhile. Whole reads are verified.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when its attributes are.
    pub fn load_lazy(&self, key: &WeightHash) -> Result<Option<WeightTensor>> {
        let Some((snapshot, stored)) = self.find(key)? else { return Ok(None) };
        let metadata = stored.metadata().clone();
        let tensor = WeightTensor::lazy(metadata, Arc::new(stored::Source { stored, snapshot }))?;
        Ok(Some(tensor.stored_as(key.clone())))
    }

    /// Rows of a weight (indices of its first dimension), reading only the chunks that hold them. The chunks' own
    /// checksums are checked; the content hash covers only whole tensors.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] when the rows are not there, [`Error::Damaged`] when a chunk is.
    pub fn load_rows(&self, key: &WeightHash, rows: std::ops::Range<u64>) -> Result<Option<WeightTensor>> {
        self.load_lazy(key)?.map(|tensor| tensor.rows(rows)).transpose()
    }

    /// A weight whose data is the file's own memory: no byte is copied or read before it is touched, and none is
    /// verified ([`Hdf5Store::verify`] does that). Compressed weights, and those still in the journal, are loaded and
    /// verified as by `load`.
    ///
    /// # Errors
    ///
    /// As `load`.
    pub fn load_mapped(&self, key: &WeightHash) -> Result<Option<WeightTensor>> {
        let Some((snapshot, stored)) = self.find(key)? else { return Ok(None) };
        if let Some(offset) = stored.contiguous()
            && let Some(mapped) = snapshot.map(offset, stored.length)?
        {
            let tensor = WeightTensor::from_metadata(stored.metadata().clone(), Bytes::from_owner(mapped))?;
            return Ok(Some(tensor.stored_as(key.clone())));
        }
        read_verified(&snapshot, &stored).map(Some)
    }

    /// Stores weights under their content hashes in one commit, watched. Returns each name with its key, in order.
    ///
    /// # Errors
    ///
    /// As [`WeightStore::store_batch`], and [`Error::Cancelled`].
    pub fn store_batch_watched(
        &self,
        weights: &[(String, WeightTensor)],
        watch: &dyn Watch,
    ) -> Result<Vec<(String, WeightHash)>> {
        self.transaction(|transaction| {
            let tensors: Vec<(&WeightTensor, Option<&WeightHash>)> =
                weights.iter().map(|(_, tensor)| (tensor, None)).collect();
            let (keys, _) = transaction.store_all(&tensors, Purpose::Kept, watch)?;
            Ok(weights.iter().map(|(name, _)| name.clone()).zip(keys).collect())
        })
    }

    /// Bytes of every weight's tensor and of its stored data, by key.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when a weight's attributes are.
    pub fn sizes(&self) -> Result<BTreeMap<WeightHash, (u64, u64)>> {
        let snapshot = self.snapshot()?;
        self.list_weights()?
            .into_iter()
            .filter_map(|key| match Stored::find(snapshot.as_ref(), snapshot.file(), &key) {
                Ok(stored) => stored.map(|stored| Ok((key, (stored.length, stored.stored_bytes())))),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    /// The weights that some checkpoint refers to.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedCheckpoint`] when a record is damaged.
    pub fn needed_by_checkpoints(&self) -> Result<HashSet<WeightHash>> {
        let snapshot = self.snapshot()?;
        Ok(crate::checkpoint::needed(snapshot.as_ref(), snapshot.file())?.into_keys().collect())
    }

    /// The length of the file, in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn file_bytes(&self) -> Result<u64> {
        let snapshot = self.snapshot()?;
        Ok(match self.storage.buffer() {
            Some(buffer) => buffer.len() as u64,
            None => std::fs::metadata(self.filepath()).map_or(snapshot.bytes(), |found| found.len()),
        })
    }

    /// How many weights there are, without looking at any.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], or what libhdf5 reports.
    pub fn count(&self) -> Result<u64> {
        let snapshot = self.snapshot()?;
        let whole = match snapshot.file().link_exists(WEIGHTS) {
            true => open_group(&snapshot, WEIGHTS)?.len(),
            false => 0,
        };
        Ok(whole + deltas::count_weights(snapshot.as_ref(), snapshot.file())?)
    }

    /// What needs each weight, as of the last commit.
    fn needed(&self) -> Result<Arc<Needed>> {
        let snapshot = self.snapshot()?;
        let mut cache = self.needed.lock();
        if let Some((commit, needed)) = &*cache
            && *commit == snapshot.version()
        {
            return Ok(Arc::clone(needed));
        }
        let needed = Arc::new(needed(snapshot.as_ref(), snapshot.file())?);
        *cache = Some((snapshot.version(), Arc::clone(&needed)));
        Ok(needed)
    }
}

/// What needs each weight: checkpoints, and deltas whose reference it is.
pub(crate) fn needed(pages: &dyn Pages, file: &File) -> Result<Needed> {
    let mut by = crate::checkpoint::needed(pages, file)?;
    let mut unknown = Vec::new();
    for deltas::Reference { name, reference, is_weight } in deltas::references(pages, file)? {
        let kind = if is_weight { "weight" } else { "delta" };
        match reference {
            Ok(reference) => {
                by.entry(reference)
                    .or_insert_with(|| format!("{kind} `{name}`, which is stored as the difference to it"));
            }
            Err(problem) => unknown.push((WeightHash::new(name)?, problem)),
        }
    }
    Ok(Needed { by, unknown })
}

/// The file layer's error; a closed storage is a closed store.
fn lift(error: corallite_file::Error) -> Error {
    match error {
        corallite_file::Error::Closed { .. } => Error::Closed,
        other => Error::File(other),
    }
}

fn ensure(storage: &Storage) -> Result<()> {
    for group in [WEIGHTS, METADATA, DELTAS] {
        if !storage.contains(group)? {
            storage.create_group(group)?;
        }
    }
    Ok(())
}

fn open_group(snapshot: &Snapshot, name: &str) -> Result<Group> {
    snapshot.file().group(name).map_err(|error| snapshot.explain(&format!("open /{name}"), &error).into())
}

/// The keys below a group, sorted.
fn keys(snapshot: &Snapshot, parent: &str) -> Result<Vec<WeightHash>> {
    if !snapshot.file().link_exists(parent) {
        return Ok(Vec::new());
    }
    let names = open_group(snapshot, parent)?
        .member_names()
        .map_err(|error| snapshot.explain(&format!("list /{parent}"), &error))?;
    let mut keys = names.into_iter().map(WeightHash::new).collect::<Result<Vec<_>>>()?;
    keys.sort_unstable();
    Ok(keys)
}

fn read_verified(snapshot: &Snapshot, stored: &Stored) -> Result<WeightTensor> {
    let bytes = stored.read(snapshot, 0..stored.length)?;
    stored.verify_bytes(&bytes)?;
    Ok(WeightTensor::from_metadata(stored.metadata().clone(), bytes)?.stored_as(stored.key.clone()))
}

impl WeightStore for Hdf5Store {
    fn store(&self, weight: &WeightTensor, hash_key: Option<&WeightHash>) -> Result<WeightHash> {
        self.transaction(|transaction| transaction.store(weight, hash_key))
    }

    fn load(&self, hash_key: &WeightHash) -> Result<Option<WeightTensor>> {
        let Some((snapshot, stored)) = self.find(hash_key)? else { return Ok(None) };
        read_verified(&snapshot, &stored).map(Some)
    }

    fn exists(&self, hash_key: &WeightHash) -> Result<bool> {
        let snapshot = self.snapshot()?;
        Ok(transaction::place_of(snapshot.as_ref(), snapshot.file(), hash_key)?.is_some())
    }

    fn delete(&self, hash_key: &WeightHash) -> Result<bool> {
        self.transaction(|transaction| {
            // Within the transaction: nobody can come to need it in between.
            self.needed()?.check(hash_key)?;
            transaction.unlink_weight(hash_key)
        })
    }

    fn list_weights(&self) -> Result<Vec<WeightHash>> {
        let snapshot = self.snapshot()?;
        let mut all = keys(&snapshot, WEIGHTS)?;
        all.extend(deltas::weights(&snapshot)?);
        all.sort_unstable();
        Ok(all)
    }

    fn get_metadata(&self, hash_key: &WeightHash) -> Result<Option<WeightMetadata>> {
        Ok(self.find(hash_key)?.map(|(_, stored)| stored.description.metadata))
    }

    fn store_batch(&self, weights: &[(String, WeightTensor)]) -> Result<Vec<(String, WeightHash)>> {
        self.store_batch_watched(weights, &Unwatched)
    }

    fn load_batch(&self, hash_keys: &[WeightHash]) -> Result<BTreeMap<WeightHash, WeightTensor>> {
        let snapshot = self.snapshot()?;
        let mut loaded = BTreeMap::new();
        for key in hash_keys {
            if let Some(stored) = Stored::find(snapshot.as_ref(), snapshot.file(), key)? {
                loaded.insert(key.clone(), read_verified(&snapshot, &stored)?);
            }
        }
        Ok(loaded)
    }

    fn get_storage_info(&self) -> Result<StorageInfo> {
        let sizes = self.sizes()?;
        let (total_bytes, compressed_bytes) =
            sizes.values().fold((0, 0), |(total, stored), (length, bytes)| (total + length, stored + bytes));
        Ok(StorageInfo {
            filepath: Some(self.filepath().to_owned()),
            file_size: self.file_bytes()?,
            total_weights: sizes.len() as u64,
            total_bytes,
            compressed_bytes,
            compression_ratio: StorageInfo::ratio(compressed_bytes, total_bytes),
            compression: Some(self.compression).filter(|c| *c != Compression::None).map(|c| c.to_string()),
        })
    }

    fn close(&self) -> Result<()> {
        Ok(self.storage.close()?)
    }
}
