//! [`StoredRaw`]: files of any size, with metadata.
//!
//! The data of equal files is kept once, in the stream `@data.<BLAKE3>`; the metadata of each is a document, as that of an
//! object is.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::backend::{Backend, BackendExt, Change, Durability, Expect, Range, ReadStream, WriteStream};
use crate::document::now;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::key;
use crate::object::check_may_write;
use crate::reference::Reference;
use crate::storage::{self, expectation, map_of};
use crate::types::Type;

/// Bytes of a chunk where the caller does not say.
pub const CHUNK: usize = 256 * 1024;

/// Bytes of a chunk for which memory is asked at once, whatever the caller says.
const MOST_RESERVED: usize = 16 << 20;

/// A class of files.
#[derive(Clone, Debug)]
pub struct RawClass {
    name: String,
    collection: String,
    fields: BTreeMap<String, Type>,
}

impl RawClass {
    /// A class whose metadata may be anything, in the collection of the same name.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { collection: name.clone(), name, fields: BTreeMap::new() }
    }

    /// Types a field of the metadata. Once there is one, there are no others than those.
    pub fn field(mut self, name: impl Into<String>, of: Type) -> Self {
        self.fields.insert(name.into(), of);
        self
    }

    /// Keeps its files in a collection of another name.
    pub fn in_collection(mut self, collection: impl Into<String>) -> Self {
        self.collection = collection.into();
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its collection.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    fn accept(&self, name: &str, value: Value) -> Result<Value> {
        if self.fields.is_empty() {
            let of = Type::Any;
            return of.accept(value).map_err(|violation| self.refused(name, violation));
        }
        let known = || self.fields.keys().map(String::as_str);
        let of = self.fields.get(name).ok_or_else(|| Error::unknown(&self.name, "field", name, known()))?;
        of.accept(value).map_err(|violation| self.refused(name, violation))
    }

    fn is_secret(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Type::is_secret)
    }

    fn refused(&self, name: &str, violation: crate::types::Violation) -> Error {
        Error::Type { class: self.name.clone(), property: name.to_owned(), violation }
    }
}

/// Where the data of a new file comes from.
pub enum Source {
    /// From memory.
    Bytes(Bytes),
    /// From a file, read when it is saved.
    Path(PathBuf),
    /// From anything, read once when it is saved.
    Reader(Box<dyn Read + Send>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Path(path) => path.fmt(f),
            Self::Reader(_) => f.write_str("a reader"),
        }
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Source {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// A reader that was read already.
struct Spent;

impl Read for Spent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the reader was read by a save that failed; give the file its data again"))
    }
}

/// Files of registered classes, kept in a backend. Cheap to clone; shared by threads.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{MemoryBackend, RawClass, RawStorage, Type};
/// use serde_json::json;
///
/// let storage = RawStorage::new(Arc::new(MemoryBackend::new()));
/// storage.register(RawClass::new("Image").field("format", Type::Line).field("width", Type::Positive))?;
/// let image = storage.create("Image", b"...".as_slice(), json!({"format": "jpeg", "width": 1920}))?;
/// image.save()?;
/// let found = storage.get("Image", image.oid())?.expect("was saved");
/// assert_eq!(found.meta("width"), Some(json!(1920)));
/// assert_eq!(found.load_data()?, b"...");
/// # Ok::<(), corallite_objects::Error>(())
/// ```
#[derive(Clone)]
pub struct RawStorage {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    classes: RwLock<BTreeMap<String, Arc<RawClass>>>,
    /// Held while data gets its first user or loses its last.
    using: Mutex<()>,
    /// Entered by every save and removal.
    saving: Gate,
    /// The storages whose objects' relations lead to the files here.
    referring: Mutex<Vec<Weak<storage::Shared>>>,
}

impl fmt::Debug for RawStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RawStorage");
        debug.field("backend", &self.shared.backend.location());
        if let Some(classes) = self.shared.classes.try_read() {
            debug.field("classes", &classes.keys().collect::<Vec<_>>());
        }
        debug.finish_non_exhaustive()
    }
}

/// The files of one class.
pub(crate) struct RawView {
    shared: Arc<Shared>,
    class: Arc<RawClass>,
}

impl RawView {
    pub(crate) fn load(&self, oid: &str) -> Result<Option<StoredRaw>> {
        let key = key::of(&self.class.collection, oid);
        let Some(bytes) = self.shared.backend.get(&key)? else { return Ok(None) };
        StoredRaw::read(&self.shared, &self.class, oid, bytes).map(Some)
    }
}

fn data_key(hash: &str) -> String {
    format!("@data.{hash}")
}

/// What the keys of uses begin with.
const USE: &str = "@use\0";

fn use_prefix(hash: &str) -> String {
    format!("{USE}{hash}\0")
}

fn use_key(hash: &str, key: &str) -> String {
    let whole = format!("{}{key}", use_prefix(hash));
    if whole.len() <= key::LONGEST {
        whole
    } else {
        format!("{}\0{}", use_prefix(hash), blake3::hash(key.as_bytes()).to_hex())
    }
}

impl RawStorage {
    /// A storage without classes.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let shared = Shared {
            backend,
            classes: RwLock::default(),
            using: Mutex::default(),
            saving: Gate::default(),
            referring: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Notes that relations of a storage's objects lead here.
    pub(crate) fn connected_by(&self, objects: &Arc<storage::Shared>) {
        let mut referring = self.shared.referring.lock();
        referring.retain(|storage| storage.strong_count() > 0);
        referring.push(Arc::downgrade(objects));
    }

    /// Makes a class known.
    ///
    /// # Errors
    ///
    /// [`Error::Declaration`] when its name or collection is none, or is taken.
    pub fn register(&self, class: RawClass) -> Result<()> {
        let wrong = |problem: String| Error::Declaration { class: class.name.clone(), problem };
        key::check_collection(&class.collection).map_err(|error| wrong(error.to_string()))?;
        let mut classes = self.shared.classes.write();
        if classes.values().any(|other| other.name == class.name || other.collection == class.collection) {
            return Err(wrong("its name or collection is registered already".to_owned()));
        }
        classes.insert(class.name.clone(), Arc::new(class));
        Ok(())
    }

    /// A class by its name.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn class(&self, name: &str) -> Result<Arc<RawClass>> {
        Ok(self.view(name)?.class)
    }

    fn view(&self, class: &str) -> Result<RawView> {
        let classes = self.shared.classes.read();
        let known = || classes.keys().map(String::as_str);
        let class =
            classes.get(class).ok_or_else(|| Error::unknown("the storage", "class of files", class, known()))?;
        Ok(RawView { shared: Arc::clone(&self.shared), class: Arc::clone(class) })
    }

    pub(crate) fn of_collection(&self, collection: &str) -> Option<RawView> {
        let classes = self.shared.classes.read();
        let class = classes.values().find(|class| class.collection == collection)?;
        Some(RawView { shared: Arc::clone(&self.shared), class: Arc::clone(class) })
    }

    /// A new file, which is stored when it is saved.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] for a class or field, [`Error::Type`].
    pub fn create(&self, class: &str, data: impl Into<Source>, meta: Value) -> Result<StoredRaw> {
        self.create_with_oid(class, &key::new_oid(), data, meta)
    }

    /// A new file with an id of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::create`], and [`Error::Key`].
    pub fn create_with_oid(&self, class: &str, oid: &str, data: impl Into<Source>, meta: Value) -> Result<StoredRaw> {
        let RawView { shared, class } = self.view(class)?;
        key::check(&key::of(&class.collection, oid))?;
        key::check(oid)?;
        let state = State { record: Record::default(), stored: None, pending: Some(data.into()), is_dirty: true };
        let raw = StoredRaw(Arc::new(Inner { shared, class, oid: oid.to_owned(), state: Mutex::new(state) }));
        raw.set_meta(meta)?;
        Ok(raw)
    }

    /// The file with an id.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`], [`Error::Malformed`], and what the backend reports; so all the others.
    pub fn get(&self, class: &str, oid: &str) -> Result<Option<StoredRaw>> {
        self.view(class)?.load(oid)
    }

    /// Whether there is a file with an id.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::get`].
    pub fn has(&self, class: &str, oid: &str) -> Result<bool> {
        self.shared.backend.has(&key::of(&self.view(class)?.class.collection, oid))
    }

    /// How many files a class has.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::get`].
    pub fn count(&self, class: &str) -> Result<u64> {
        self.shared.backend.count_in(&Range::prefix(&key::prefix(&self.view(class)?.class.collection)))
    }

    /// All files of a class, by their ids.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::get`].
    pub fn all(&self, class: &str) -> Result<impl Iterator<Item = Result<StoredRaw>>> {
        let view = self.view(class)?;
        let entries = self.shared.backend.entries_in(&Range::prefix(&key::prefix(&view.class.collection)))?;
        Ok(entries.filter_map(move |entry| {
            let (key, bytes) = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let (_, oid) = key::split(&key)?;
            Some(StoredRaw::read(&view.shared, &view.class, oid, bytes))
        }))
    }

    /// Brings everything that was saved to the disk.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn sync(&self) -> Result<()> {
        self.shared.backend.sync()
    }

    /// Runs `work` while no other thread saves or removes files of this storage; see
    /// [`ObjectStorage::alone`](crate::ObjectStorage::alone). A file whose data came from a reader has lost it when `work` fails.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn alone<T, E>(&self, work: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<T, E> {
        self.shared.saving.alone(work)
    }

    /// Removes data that no file has (any more), and notes of uses that are not true: what a crash can leave. Returns how many
    /// streams were removed. For when nobody else writes.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn collect(&self) -> Result<usize> {
        let _saving = self.shared.saving.enter();
        let _using = self.shared.using.lock();
        let backend = &self.shared.backend;
        self.shared.collect_uses()?;
        let mut removed = 0;
        for prefix in ["@part.", "@data."] {
            let streams: Vec<String> = backend.streams(prefix)?.collect::<Result<_>>()?;
            for stream in streams {
                let hash = stream.strip_prefix("@data.");
                let is_used = match hash {
                    Some(hash) => backend.keys(&use_prefix(hash))?.next().transpose()?.is_some(),
                    None => false,
                };
                if !is_used && backend.remove_stream(&stream)? {
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

impl Shared {
    /// Removes the uses of files that do not exist or have other data. Who cannot be read keeps his data.
    fn collect_uses(&self) -> Result<()> {
        let mut untrue = Vec::new();
        for entry in self.backend.entries_in(&Range::prefix(USE))? {
            let (used, key) = entry?;
            let (Some((hash, _)), Ok(key)) = (used[USE.len()..].split_once('\0'), std::str::from_utf8(&key)) else {
                continue;
            };
            let is_true = match self.backend.get(key)? {
                None => false,
                Some(bytes) => serde_json::from_slice::<Record>(&bytes).map_or(true, |record| record.hash == hash),
            };
            if !is_true {
                untrue.push(used);
            }
        }
        if untrue.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change<'_>> =
            untrue.iter().map(|key| Change { key, value: None, expect: Expect::Anything }).collect();
        self.backend.write(&changes, Durability::Durable)
    }
}

/// What is stored of a file beside its data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The data's BLAKE3, in hex.
    hash: String,
    /// Its length in bytes.
    size: u64,
    meta: Map<String, Value>,
    /// Seconds since 1970, by field; `oid` for the whole.
    updates: BTreeMap<String, f64>,
    #[serde(rename = "@revision")]
    revision: u64,
}

/// A file. Clones are the same one.
#[derive(Clone)]
pub struct StoredRaw(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    class: Arc<RawClass>,
    oid: String,
    state: Mutex<State>,
}

struct State {
    record: Record,
    stored: Option<Bytes>,
    pending: Option<Source>,
    is_dirty: bool,
}

impl StoredRaw {
    fn read(shared: &Arc<Shared>, class: &Arc<RawClass>, oid: &str, bytes: Bytes) -> Result<Self> {
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| Error::Malformed {
            location: shared.backend.location(),
            key: key::of(&class.collection, oid),
            problem: error.to_string(),
        })?;
        let state = State { record, stored: Some(bytes), pending: None, is_dirty: false };
        let (shared, class) = (Arc::clone(shared), Arc::clone(class));
        Ok(Self(Arc::new(Inner { shared, class, oid: oid.to_owned(), state: Mutex::new(state) })))
    }

    /// Its id.
    pub fn oid(&self) -> &str {
        &self.0.oid
    }

    /// Its class.
    pub fn class(&self) -> &RawClass {
        &self.0.class
    }

    /// Its key in the backend: `Collection.oid`.
    pub fn key(&self) -> String {
        key::of(&self.0.class.collection, &self.0.oid)
    }

    /// A reference to it.
    pub fn reference(&self) -> Reference {
        Reference::new(self.0.class.collection.clone(), self.oid())
    }

    /// The length of its data in bytes, as it is stored; 0 before it was saved.
    pub fn size(&self) -> u64 {
        self.0.state.lock().record.size
    }

    /// The BLAKE3 of its data in hex, as it is stored; empty before it was saved.
    pub fn hash(&self) -> String {
        self.0.state.lock().record.hash.clone()
    }

    /// A field of its metadata.
    pub fn meta(&self, name: &str) -> Option<Value> {
        self.0.state.lock().record.meta.get(name).cloned()
    }

    /// All its metadata.
    pub fn all_meta(&self) -> Map<String, Value> {
        self.0.state.lock().record.meta.clone()
    }

    /// Sets fields of its metadata, from a map of names to values; null clears one.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`], [`Error::Type`]; nothing is changed then.
    pub fn set_meta(&self, values: Value) -> Result<()> {
        let mut accepted = Vec::new();
        for (name, value) in map_of(values)? {
            let value = if value.is_null() { None } else { Some(self.0.class.accept(&name, value)?) };
            accepted.push((name, value));
        }
        let mut state = self.0.state.lock();
        let now = now();
        for (name, value) in accepted {
            if state.record.meta.get(&name) == value.as_ref() {
                continue;
            }
            for changed in [&name, "oid"] {
                state.record.updates.insert(changed.to_owned(), now);
            }
            match value {
                Some(value) => state.record.meta.insert(name, value),
                None => state.record.meta.remove(&name),
            };
            state.is_dirty = true;
        }
        Ok(())
    }

    /// Gives it other data, which is stored when it is saved.
    pub fn set_data(&self, data: impl Into<Source>) {
        let mut state = self.0.state.lock();
        state.pending = Some(data.into());
        state.is_dirty = true;
    }

    /// When a field was last changed, or with `oid` the file: seconds since 1970.
    pub fn get_update_time(&self, name: &str) -> Option<f64> {
        self.0.state.lock().record.updates.get(name).copied()
    }

    /// Stores it, durably, if it was changed; says whether it was. Its data is read in pieces of [`CHUNK`] bytes, and kept
    /// once where another file has the same.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody else saved it since it was loaded, [`Error::Usage`] within a function that changes an
    /// object, and what reading the data and the backend report. A reader that was read in vain is gone then.
    pub fn save(&self) -> Result<bool> {
        self.save_with(Durability::Durable)
    }

    /// [`StoredRaw::save`], durable or not.
    ///
    /// # Errors
    ///
    /// As [`StoredRaw::save`].
    pub fn save_with(&self, durability: Durability) -> Result<bool> {
        check_may_write()?;
        let Shared { backend, using, saving, .. } = &*self.0.shared;
        let _saving = saving.enter();
        let mut state = self.0.state.lock();
        if !state.is_dirty {
            return Ok(false);
        }
        let mut record = state.record.clone();
        record.revision = record.revision.saturating_add(1);
        let part = match state.pending.take() {
            None => None,
            Some(source) => {
                // What can be read again is kept for another attempt.
                state.pending = Some(match &source {
                    Source::Bytes(bytes) => Source::Bytes(bytes.clone()),
                    Source::Path(path) => Source::Path(path.clone()),
                    Source::Reader(_) => Source::Reader(Box::new(Spent)),
                });
                let part = self.upload(source, &mut record)?;
                record.updates.insert("oid".to_owned(), now());
                Some(part)
            }
        };
        if record.hash.is_empty() {
            return Err(Error::Usage(format!(
                "{key} has no data (any more); give it some before it is saved",
                key = self.key()
            )));
        }
        let key = self.key();
        let _using = using.lock();
        if let Some(part) = &part {
            let data = data_key(&record.hash);
            match backend.read_stream(&data)? {
                Some(_) => drop(backend.remove_stream(part)?),
                None if backend.rename_stream(part, &data, durability)? => {}
                None => return Err(self.damaged("its data was removed while it was saved; save it again".to_owned())),
            }
        }
        let bytes = Bytes::from(serde_json::to_vec(&record).map_err(|error| Error::Usage(error.to_string()))?);
        let (old_use, new_use) = (use_key(&state.record.hash, &key), use_key(&record.hash, &key));
        let is_moved = state.stored.is_some() && state.record.hash != record.hash;
        let mut changes = vec![
            Change { key: &new_use, value: Some(key.as_bytes()), expect: Expect::Anything },
            Change { key: &key, value: Some(&bytes), expect: expectation(state.stored.as_ref()) },
        ];
        if is_moved {
            changes.push(Change { key: &old_use, value: None, expect: Expect::Anything });
        }
        if let Err(error) = backend.write(&changes, durability) {
            self.release(&record.hash)?;
            return Err(self.conflict(error, &state, &bytes));
        }
        drop(changes);
        let old = std::mem::replace(&mut state.record, record);
        let old_hash = old.hash.clone();
        let before = state.stored.replace(bytes);
        let pending = state.pending.take();
        state.is_dirty = false;
        self.undo_with(old, before, pending, false);
        if is_moved {
            self.release(&old_hash)?;
        }
        Ok(true)
    }

    /// Notes what it was, should the transaction fail in which it was saved or removed: changes that were made to it are then
    /// unsaved.
    fn undo_with(&self, old: Record, before: Option<Bytes>, pending: Option<Source>, was_dirty: bool) {
        let raw = self.clone();
        self.0.shared.saving.undo_with(move || {
            let mut state = raw.0.state.lock();
            let Record { hash, size, revision, .. } = old;
            let is_removed = state.stored.is_none();
            state.record.hash = hash;
            state.record.size = size;
            state.record.revision = revision;
            state.stored = before;
            state.pending = state.pending.take().or(pending);
            state.is_dirty = !is_removed || was_dirty;
        });
    }

    /// Streams data to a part; notes its hash and size.
    fn upload(&self, source: Source, record: &mut Record) -> Result<String> {
        let backend = &self.0.shared.backend;
        let part = format!("@part.{}", key::new_oid());
        let (mut reader, name): (Box<dyn Read>, String) = match source {
            Source::Bytes(bytes) => (Box::new(io::Cursor::new(bytes)), "the data".to_owned()),
            Source::Reader(reader) => (reader, "the data".to_owned()),
            Source::Path(path) => {
                let name = path.display().to_string();
                (Box::new(File::open(path).map_err(|error| Error::io("open", &name, error))?), name)
            }
        };
        let mut writer = backend.write_stream(&part)?;
        let (mut hasher, mut size, mut chunk) = (blake3::Hasher::new(), 0, vec![0; CHUNK]);
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", name, error)),
            };
            hasher.update(&chunk[..count]);
            size += count as u64;
            let written = io::Write::write_all(&mut writer, &chunk[..count]);
            written.map_err(|error| Error::io("write to", backend.location(), error))?;
        }
        // It becomes durable with its name.
        WriteStream::finish(writer, Durability::Durable)?;
        (record.hash, record.size) = (hasher.finalize().to_hex().to_string(), size);
        Ok(part)
    }

    /// Removes data that nobody uses any more. The caller holds the lock of uses.
    fn release(&self, hash: &str) -> Result<()> {
        let backend = &self.0.shared.backend;
        if backend.keys(&use_prefix(hash))?.next().transpose()?.is_none() {
            backend.remove_stream(&data_key(hash))?;
        }
        Ok(())
    }

    fn conflict(&self, error: Error, state: &State, own: &[u8]) -> Error {
        let stored = match error {
            Error::Changed { found, .. } => found,
            Error::Exists { .. } => self.0.shared.backend.get(&self.key()).ok().flatten(),
            other => return other,
        };
        let value = |bytes: &[u8]| {
            let mut value: Value = serde_json::from_slice(bytes).unwrap_or_default();
            if let Some(meta) = value.get_mut("meta").and_then(Value::as_object_mut) {
                meta.retain(|name, _| !self.0.class.is_secret(name));
            }
            Box::new(value)
        };
        let stored = stored.as_deref().map(value);
        Error::Conflict { key: self.key(), ours: state.record.revision, own: value(own), stored }
    }

    /// Removes it, durably, and its data unless another file has the same. Relations that lead to it, of objects of
    /// [connected](crate::ObjectStorage::connect) storages, do what their declarations say.
    ///
    /// # Errors
    ///
    /// [`Error::Referred`], [`Error::Conflict`] when somebody else saved it since it was loaded, [`Error::Usage`] within a
    /// function that changes an object, and what the backends report.
    pub fn remove(&self) -> Result<()> {
        check_may_write()?;
        let target = self.reference();
        let is_stored = self.0.state.lock().stored.is_some();
        let storages: Vec<Arc<storage::Shared>> = match is_stored {
            true => self.0.shared.referring.lock().iter().filter_map(Weak::upgrade).collect(),
            false => Vec::new(),
        };
        let guards = || storages.iter().filter(|objects| objects.is_guarded(&target));
        // While nobody begins to refer to it. Objects come before files, as in `ObjectStorage::alone` around `RawStorage::alone`.
        let _alone: Vec<_> = guards().map(|objects| objects.saving.shut()).collect();
        let referrers = guards().map(|objects| objects.who_forgets(&target, None)).collect::<Result<Vec<_>>>()?;
        for (objects, referrers) in guards().zip(&referrers) {
            objects.forget_target(referrers, &target)?;
        }
        let _saving = self.0.shared.saving.enter();
        let mut state = self.0.state.lock();
        let key = self.key();
        let _using = self.0.shared.using.lock();
        if let Some(stored) = &state.stored {
            let used = use_key(&state.record.hash, &key);
            let changes = [
                Change { key: &key, value: None, expect: expectation(Some(stored)) },
                Change { key: &used, value: None, expect: Expect::Anything },
            ];
            if let Err(error) = self.0.shared.backend.write(&changes, Durability::Durable) {
                return Err(self.conflict(error, &state, stored));
            }
            self.release(&state.record.hash)?;
        }
        let (old, before) = (state.record.clone(), state.stored.take());
        self.undo_with(old, before, None, state.is_dirty);
        // Its data is gone: it takes other data to save it again.
        state.record.hash = String::new();
        state.record.size = 0;
        state.is_dirty = true;
        Ok(())
    }

    /// Opens its stored data for reading and seeking. Nothing is verified; see [`StoredRaw::data`].
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when its data is not there, and what the backend reports.
    pub fn open(&self) -> Result<Box<dyn ReadStream>> {
        let (hash, is_stored) = {
            let state = self.0.state.lock();
            (state.record.hash.clone(), state.stored.is_some())
        };
        if !is_stored {
            return Err(Error::Usage(format!("{} has no stored data; save it first", self.key())));
        }
        let stream = self.0.shared.backend.read_stream(&data_key(&hash))?;
        stream.ok_or_else(|| self.damaged(format!("its data {hash} is not there")))
    }

    fn damaged(&self, problem: String) -> Error {
        Error::Malformed { location: self.0.shared.backend.location(), key: self.key(), problem }
    }

    /// Its stored data in chunks of `size` bytes, the last one shorter; 0 for [`CHUNK`]. After the last chunk its hash is
    /// verified: data that is not what was stored ends with an error.
    ///
    /// # Errors
    ///
    /// As [`StoredRaw::open`], now or while going on.
    pub fn data(&self, size: usize) -> Result<impl Iterator<Item = Result<Bytes>> + use<>> {
        let mut stream = Some((self.open()?, blake3::Hasher::new()));
        let (raw, hash) = (self.clone(), self.hash());
        let size = if size == 0 { CHUNK } else { size };
        Ok(std::iter::from_fn(move || {
            let (reader, hasher) = stream.as_mut()?;
            let mut chunk = Vec::with_capacity(size.min(MOST_RESERVED));
            if let Err(error) = reader.by_ref().take(size as u64).read_to_end(&mut chunk) {
                stream = None;
                return Some(Err(Error::io("read", raw.key(), error)));
            }
            hasher.update(&chunk);
            if chunk.len() == size {
                return Some(Ok(chunk.into()));
            }
            let is_right = hasher.finalize().to_hex().as_str() == hash;
            stream = None;
            if !is_right {
                return Some(Err(raw.damaged("its data is not what was stored".to_owned())));
            }
            if chunk.is_empty() { None } else { Some(Ok(chunk.into())) }
        }))
    }

    /// Its stored data, whole and verified.
    ///
    /// # Errors
    ///
    /// As [`StoredRaw::data`].
    pub fn load_data(&self) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        for chunk in self.data(0)? {
            data.extend_from_slice(&chunk?);
        }
        Ok(data)
    }

    /// Part of its stored data, not verified; less where it ends.
    ///
    /// # Errors
    ///
    /// As [`StoredRaw::open`].
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut stream = self.open()?;
        let mut data = Vec::new();
        let read = stream.seek(SeekFrom::Start(offset)).and_then(|_| stream.take(length as u64).read_to_end(&mut data));
        read.map_err(|error| Error::io("read", self.key(), error))?;
        Ok(data)
    }

    /// The file that its data is in, where the backend keeps it as one. Only for reading: other files may share it.
    pub fn path(&self) -> Option<PathBuf> {
        let hash = { self.0.state.lock().stored.as_ref().map(|_| ()).and(Some(())) }.map(|()| self.hash())?;
        self.0.shared.backend.path(&data_key(&hash))
    }

    /// Its id, type, size, hash and metadata as JSON; with depth 0 its id and type.
    pub fn export(&self, depth: usize) -> Value {
        let mut value = json!({ "oid": self.oid(), "type": self.0.class.name });
        if depth > 0 {
            let state = self.0.state.lock();
            let shown = state.record.meta.iter().filter(|(name, _)| !self.0.class.is_secret(name));
            value["meta"] = shown.map(|(name, value)| (name.clone(), value.clone())).collect();
            value["size"] = state.record.size.into();
            value["hash"] = state.record.hash.clone().into();
            value["updates"] = json!(state.record.updates);
        }
        value
    }
}

impl PartialEq for StoredRaw {
    /// Whether they are one file of one storage.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.shared, &other.0.shared) && self.key() == other.key()
    }
}

impl Eq for StoredRaw {}

impl fmt::Debug for StoredRaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRaw").field("key", &self.key()).field("size", &self.size()).finish_non_exhaustive()
    }
}
