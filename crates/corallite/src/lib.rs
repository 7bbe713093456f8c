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
//! use corallite::E;
//! use corallite::weights::WeightStore;
//!
//! let store = Store::open(&models)?;
//! let base = store.checkpoints().add("base", &model)?; // each weight once, durable when this returns
//! let key = base.weight("bias").expect("the model has it");
//! let bias = store.weights().load(key)?.expect("the checkpoint needs it");
//! println!("{} {:?}", bias.dtype(), bias.shape());
//! store.checkpoints().export("base", &out)?; // byte-identical
//! store.links()?.insert(E::from_str("base"), E::from_str("apache-2.0"))?; // durable when this returns
//! assert_eq!(store.links()?.get(E::from_str("base"))?, [E::from_str("apache-2.0")]);
//! assert!(store.verify(&corallite::weights::Unwatched)?.damaged.is_empty());
//! store.close()?;
//! # assert_eq!(std::fs::read(&model)?, std::fs::read(&out)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The parts are crates of their own: [`mod@file`] is the transactional HDF5 file, [`weights`] the tensors, [`links`] the
//! relations, [`objects`] typed objects and files.

mod described;
mod error;
mod store_backend;
mod transaction;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use corallite_file as file;
pub use corallite_links as links;
pub use corallite_links::E;
pub use corallite_objects as objects;
pub use corallite_weights as weights;
pub use described::{CHECKPOINT, FILE, FIXED};
pub use error::{Error, Result};
pub use store_backend::{Batch, Joined, OBJECTS_FORMAT_VERSION, StoreBackend};
pub use transaction::{Transaction, TransactionLinks};

use corallite_file::{Access, CommitNumber, Storage};
use corallite_links::{CIDStore, LinksOptions};
use corallite_objects::backend::Backend;
use corallite_weights::{Damage, GcReport, Hdf5Options, Hdf5Store, Unwatched, Verification, Watch, WeightStore};

use parking_lot::{Mutex, MutexGuard};

use described::Described;

/// The links' place in the file: there once there were any.
const LINKS: &str = "nodes/links";

/// The objects' place in the file: there once there were any.
const OBJECTS: &str = "objects/pages";

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
    /// The links; `None` in a store that never had any.
    pub links: Option<LinksInfo>,
    /// The objects and files; `None` in a store that never had any.
    pub objects: Option<ObjectsInfo>,
}

/// The objects and files of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectsInfo {
    /// Objects, of all classes.
    pub objects: u64,
    /// Files' contents: files with the same bytes are one.
    pub files: u64,
    /// Bytes of all objects, and indexes, in the file; with pages that are free for more.
    pub page_bytes: u64,
    /// Bytes of the files' contents.
    pub file_bytes: u64,
}

/// The links of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinksInfo {
    /// Keys that are linked to something.
    pub keys: u64,
    /// Pairs of a key and a value.
    pub pairs: u64,
}

impl Info {
    /// Logical bytes for each stored byte; `None` for an empty store.
    pub fn ratio(&self) -> Option<f64> {
        (self.stored_bytes > 0).then(|| self.logical_bytes as f64 / self.stored_bytes as f64)
    }
}

/// A store: one HDF5 file with weights, checkpoints and links in it.
///
/// Every changing call is one durable commit, unless it is made in a [`Store::transaction`]. Changes of links are durable
/// in a log beside the file, and come into the file in commits of their own. A store that is dropped without
/// [`Store::close`] is closed as well, but cannot say whether that worked.
#[derive(Debug)]
pub struct Store {
    // Dropped before the file below, into which the last links go.
    links: OnceLock<CIDStore>,
    links_options: LinksOptions,
    objects: OnceLock<Arc<StoreBackend>>,
    described: OnceLock<Described>,
    /// Held by a transaction until its changes of links are taken over.
    transacting: Mutex<()>,
    /// Held while the links, and the objects, are opened, which happens once.
    opening_links: Mutex<()>,
    opening_objects: Mutex<()>,
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
        Ok(Self::of(Hdf5Store::open(path, options)?, LinksOptions::default()))
    }

    /// Opens the store in a storage that is not open yet: one on another disk than the system's.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_storage(storage: Storage, options: &Hdf5Options) -> Result<Self> {
        Ok(Self::of(Hdf5Store::open_storage(storage, options)?, LinksOptions::default()))
    }

    /// A store in memory, which goes with the value.
    ///
    /// # Errors
    ///
    /// What libhdf5 reports.
    pub fn memory() -> Result<Self> {
        Ok(Self::of(Hdf5Store::memory(Hdf5Options::default())?, LinksOptions::new().log_bytes(1 << 20)))
    }

    fn of(weights: Hdf5Store, links_options: LinksOptions) -> Self {
        Self {
            links: OnceLock::new(),
            links_options,
            objects: OnceLock::new(),
            described: OnceLock::new(),
            transacting: Mutex::default(),
            opening_links: Mutex::default(),
            opening_objects: Mutex::default(),
            weights,
        }
    }

    /// How the links are opened when [`Store::links`] is called for the first time.
    #[must_use]
    pub fn links_options(mut self, options: LinksOptions) -> Self {
        self.links_options = options;
        self
    }

    /// The weights: storing, loading, listing.
    pub fn weights(&self) -> &Hdf5Store {
        &self.weights
    }

    /// The checkpoints: adding model files, exporting, removing.
    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints { store: self, inner: weights::Checkpoints::new(&self.weights) }
    }

    /// The links: ids to sets of ids. They are opened by the first call, which recovers what a crash left in their log;
    /// a store that is used only for weights never touches them.
    ///
    /// Their changes are durable by themselves and no part of a [`Store::transaction`], which has
    /// [`Transaction::links`] for that. In the closure of one, these may be read but not changed: room in their log is made by
    /// a commit, which would wait for the transaction.
    ///
    /// # Errors
    ///
    /// [`links::Error::Damaged`], [`links::Error::DamagedLog`], [`links::Error::MissingLog`], [`links::Error::ForeignLog`]: see
    /// [`CIDStore::with_storage`].
    pub fn links(&self) -> Result<&CIDStore> {
        if let Some(links) = self.links.get() {
            return Ok(links);
        }
        // What the lock guards is in `links`, and is whole there or absent.
        let _opening = self.alone_at(&self.opening_links)?;
        if let Some(links) = self.links.get() {
            return Ok(links);
        }
        let opened = CIDStore::with_storage(self.weights.storage().clone(), self.links_options.clone())?;
        Ok(self.links.get_or_init(|| opened))
    }

    /// Values and files in the store's own file, which objects can be kept in. The backend is opened by the first call and
    /// shared; a store that is used only for weights never has any of it. It is closed with the store.
    ///
    /// # Errors
    ///
    /// [`file::Error::Damaged`], and [`file::Error::NewerFormat`] when a newer program wrote them.
    pub fn objects_backend(&self) -> Result<Arc<StoreBackend>> {
        if let Some(objects) = self.objects.get() {
            return Ok(Arc::clone(objects));
        }
        let _opening = self.alone_at(&self.opening_objects)?;
        if let Some(objects) = self.objects.get() {
            return Ok(Arc::clone(objects));
        }
        let opened = Arc::new(StoreBackend::with_storage(self.weights.storage().clone())?);
        Ok(Arc::clone(self.objects.get_or_init(|| opened)))
    }

    /// The store's objects. They are opened by the first call, which gives every checkpoint that has none its object of the
    /// class [`CHECKPOINT`]; a store that cannot be written is read as it is. Other classes are registered by the program, or
    /// with [`objects::ObjectStorage::register_stored`] as others declared them.
    ///
    /// # Errors
    ///
    /// Those of [`Store::objects_backend`] and of reading what is there.
    pub fn objects(&self) -> Result<&objects::ObjectStorage> {
        Ok(&self.described()?.objects)
    }

    /// The indexes of the store's objects.
    ///
    /// # Errors
    ///
    /// As [`Store::objects`].
    pub fn indexes(&self) -> Result<&objects::Indexes> {
        Ok(&self.described()?.indexes)
    }

    /// The store's files, with a class [`FILE`] that every store has.
    ///
    /// # Errors
    ///
    /// As [`Store::objects`].
    pub fn files(&self) -> Result<&objects::RawStorage> {
        Ok(&self.described()?.files)
    }

    pub(crate) fn described(&self) -> Result<&Described> {
        if let Some(described) = self.described.get() {
            return Ok(described);
        }
        let backend = self.objects_backend()?;
        let _opening = self.alone_at(&self.opening_objects)?;
        if let Some(described) = self.described.get() {
            return Ok(described);
        }
        let opened = Described::open(backend, &self.weights)?;
        Ok(self.described.get_or_init(|| opened))
    }

    /// Takes a lock of opening something. Who has it may have to commit, and so wait for a transaction: within one it is not waited
    /// for without end.
    fn alone_at<'a>(&self, opening: &'a Mutex<()>) -> Result<MutexGuard<'a, ()>> {
        const PATIENCE: Duration = Duration::from_secs(5);
        if !self.storage().is_in_transaction() {
            return Ok(opening.lock());
        }
        opening.try_lock_for(PATIENCE).ok_or_else(|| {
            let problem =
                "another thread is opening what this transaction wants to open; open it before the transaction";
            let path = self.storage().path().to_owned();
            file::Error::Usage { path, problem: problem.to_owned() }.into()
        })
    }

    /// Whether the store has links, or had some.
    ///
    /// # Errors
    ///
    /// What the file layer reports.
    pub fn has_links(&self) -> Result<bool> {
        // A transaction may have brought the first ones, and nobody have opened them since.
        Ok(self.storage().contains(LINKS)? || links::has_pending(self.storage())?)
    }

    /// The file layer: commits, versions, the HDF5 file itself. To go back to a version use [`Store::rollback`], which
    /// knows of the links.
    pub fn storage(&self) -> &Storage {
        self.weights.storage()
    }

    /// Makes the state of an earlier commit the newest one, links and objects included; see [`Storage::rollback_to_version`]. Links
    /// that are only in the log come into the file first, as a commit that can be rolled back to. Returns the number of the
    /// new commit.
    ///
    /// # Errors
    ///
    /// [`file::Error::NoSuchCommit`] when `version` is not kept, and those of [`Store::links`] and
    /// [`CIDStore::close`]; the store is then as it was.
    pub fn rollback(&mut self, version: CommitNumber) -> Result<CommitNumber> {
        if self.links.get().is_none() && self.has_log()? {
            self.links()?;
        }
        if let Some(links) = self.links.take() {
            links.close()?;
        }
        if self.has_log()? {
            // With its records the state that is to come back would go on to the one that was rolled back.
            let problem = "its links' log is still in use; drop every `Wal` of it before a rollback".to_owned();
            return Err(file::Error::Usage { path: self.storage().path().to_owned(), problem }.into());
        }
        // Its objects in memory are not those of the state that comes back.
        self.described = OnceLock::new();
        let objects = self.objects.get();
        if let Some(objects) = objects {
            objects.sync()?;
        }
        let reached = self.storage().rollback_to_version(version)?;
        if let Some(objects) = objects {
            objects.reload()?;
        }
        if self.has_links()? {
            // A commit made while there was a log says that its links are not whole without it. That log is given up.
            let options = self.links_options.clone().salvage(true);
            CIDStore::with_storage(self.weights.storage().clone(), options)?.close()?;
        }
        Ok(reached)
    }

    /// Whether a log of links lies beside the file.
    fn has_log(&self) -> Result<bool> {
        let (disk, path) = (self.storage().disk(), self.storage().path());
        let failed = |source| file::Error::Io { action: "look for the log of", path: path.to_owned(), source };
        let mut name = disk.resolve(path).map_err(failed)?.into_os_string();
        name.push("-wal");
        match disk.open(name.as_ref(), Access::Read) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error).into()),
        }
    }

    /// What the store holds. Looks at every weight's metadata.
    ///
    /// # Errors
    ///
    /// [`weights::Error::Damaged`] or [`weights::Error::DamagedCheckpoint`] when a record is, and those of
    /// [`Store::links`].
    pub fn info(&self) -> Result<Info> {
        let links = match self.has_links()? {
            true => {
                let found = self.links()?.statistics()?;
                Some(LinksInfo { keys: found.keys, pairs: found.pairs })
            }
            false => None,
        };
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
            links,
            objects: if self.has_objects()? { Some(self.objects_backend()?.info()?) } else { None },
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
        found.damaged.extend(self.verify_links()?.into_iter().map(|problem| Damage {
            kind: "links",
            name: self.storage().path().display().to_string(),
            label: None,
            problem,
        }));
        found.damaged.extend(StoreBackend::verify(self.storage())?.into_iter().map(|problem| Damage {
            kind: "objects",
            name: self.storage().path().display().to_string(),
            label: None,
            problem,
        }));
        Ok(found)
    }

    fn verify_links(&self) -> Result<Vec<String>> {
        use links::Error as Bad;
        // A log without links in the file belongs to something else, which the opening says.
        if !self.has_links()? && !self.has_log()? {
            return Ok(Vec::new());
        }
        match self.links() {
            Ok(links) => Ok(links.verify()?),
            Err(Error::Links(
                error @ (Bad::Damaged { .. }
                | Bad::DamagedLog { .. }
                | Bad::MissingLog { .. }
                | Bad::ForeignLog { .. }
                | Bad::NotALog { .. }),
            )) => Ok(vec![error.to_string()]),
            Err(error) => Err(error),
        }
    }

    /// Frees the weights that only removed checkpoints needed; see [`Checkpoints::gc`].
    ///
    /// # Errors
    ///
    /// As [`Checkpoints::gc`].
    pub fn gc(&self) -> Result<GcReport> {
        self.checkpoints().gc(&Unwatched)
    }

    /// Whether the store has objects, or had some.
    ///
    /// # Errors
    ///
    /// What the file layer reports.
    pub fn has_objects(&self) -> Result<bool> {
        Ok(self.storage().contains(OBJECTS)?)
    }

    /// Closes the store: the file then stands alone. A log that a crash left beside it stays if [`Store::links`] was not
    /// called; nothing in it is lost.
    ///
    /// # Errors
    ///
    /// When what was pending could not be committed. Links that could not stay in their log.
    pub fn close(mut self) -> Result<()> {
        let objects = self.objects.take().map_or(Ok(()), |objects| objects.close());
        let links = self.links.take().map_or(Ok(()), CIDStore::close);
        let closed = self.weights.close();
        objects.map_err(Error::from).and(links.map_err(Error::from)).and(closed.map_err(Error::from))
    }

    /// Closes the store without committing what is pending of weights and objects; links that were written come into the file. A file
    /// that this opening created is removed if nothing was committed to it.
    ///
    /// # Errors
    ///
    /// As [`Store::close`].
    pub fn abandon(mut self) -> Result<()> {
        if let Some(objects) = self.objects.take() {
            objects.abandon();
        }
        let links = self.links.take().map_or(Ok(()), CIDStore::close);
        let closed = self.storage().abandon();
        links.map_err(Error::from).and(closed.map_err(Error::from))
    }
}

/// The checkpoints of a store: those of [`weights::Checkpoints`], to which it derefs, each with its object of the class
/// [`CHECKPOINT`]. What is added and removed here is added and removed with the object.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints<'a> {
    store: &'a Store,
    inner: weights::Checkpoints<'a>,
}

impl<'a> Checkpoints<'a> {
    /// The object of a checkpoint: its name, source, time of creation (`created`), `tags`, `metrics`, `parent`, and whatever else was
    /// set. `None` when there is no such checkpoint.
    ///
    /// # Errors
    ///
    /// As [`Store::objects`] and [`objects::ObjectStorage::get`].
    pub fn object(&self, name: &str) -> Result<Option<objects::StoredObject>> {
        Ok(self.store.objects()?.get(CHECKPOINT, name)?)
    }
}

impl<'a> std::ops::Deref for Checkpoints<'a> {
    type Target = weights::Checkpoints<'a>;

    fn deref(&self) -> &weights::Checkpoints<'a> {
        &self.inner
    }
}

/// The README's Rust, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
