//! Objects of registered classes in a backend.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value};

use crate::backend::{Backend, BackendExt, Change, Durability, Expect, Range, Subscription};
use crate::class::Class;
use crate::document::{Document, now};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::index::Keeper;
use crate::key;
use crate::object::{Changes, Inner, State, StoredObject};
use crate::raw::{RawStorage, RawView};

/// Parts of the keys that saves are counted for.
const PARTS: usize = 64;

/// Instances kept track of before those that nobody uses any more are forgotten.
const FORGET_FROM: usize = 1024;

/// Objects of registered classes, kept in a backend. Cheap to clone; shared by threads.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{Class, MemoryBackend, ObjectStorage, Type};
/// use serde_json::json;
///
/// let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
/// storage.register(Class::new("Account").property("email", Type::Email).property("name", Type::Line))?;
///
/// let account = storage.create("Account", json!({"email": "ann@example.org", "name": "Ann"}))?;
/// account.save()?;
/// let found = storage.get("Account", account.oid())?.expect("was saved");
/// assert_eq!(found.get("name"), Some(json!("Ann")));
/// assert!(account.set("email", "nobody").is_err());
/// assert_eq!(storage.count("Account")?, 1);
/// # Ok::<(), corallite_objects::Error>(())
/// ```
#[derive(Clone)]
pub struct ObjectStorage {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    classes: RwLock<BTreeMap<String, Arc<Class>>>,
    /// The instances that somebody uses, by key: one for each object.
    live: Mutex<Live>,
    /// How many saves and removals there were, by part of the keys.
    saves: [AtomicU64; PARTS],
    /// Shut by what must not be overtaken by a save: rebuilding, and removing what others refer to.
    pub(crate) saving: Gate,
    pub(crate) keeper: OnceLock<Arc<Keeper>>,
    /// The collections whose declaration is stored.
    pub(crate) declared: RwLock<HashSet<String>>,
    /// Where relations to files lead.
    raw: OnceLock<RawStorage>,
    /// The objects made or changed in the innermost scope of each thread.
    scopes: Mutex<HashMap<std::thread::ThreadId, Vec<Scope>>>,
}

/// The objects made or changed in a scope, each once.
#[derive(Default)]
struct Scope {
    objects: Vec<StoredObject>,
    /// Where they are in memory.
    noted: HashSet<usize>,
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl fmt::Debug for Shared {
    /// Its backend and classes, by name: not what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ObjectStorage");
        debug.field("backend", &self.backend.location());
        if let Some(classes) = self.classes.try_read() {
            debug.field("classes", &classes.keys().collect::<Vec<_>>());
        }
        debug.finish_non_exhaustive()
    }
}

struct Live {
    by_key: HashMap<String, Weak<Inner>>,
    forget_at: usize,
}

impl ObjectStorage {
    /// A storage without classes.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let live = Mutex::new(Live { by_key: HashMap::new(), forget_at: FORGET_FROM });
        let shared = Shared {
            backend,
            classes: RwLock::default(),
            live,
            saves: std::array::from_fn(|_| AtomicU64::new(0)),
            saving: Gate::default(),
            keeper: OnceLock::new(),
            declared: RwLock::default(),
            raw: OnceLock::new(),
            scopes: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes a class known, and builds its indexes where they are missing.
    ///
    /// # Errors
    ///
    /// [`Error::Declaration`] when the class makes no sense, or its name or collection is taken; what the backends report.
    pub fn register(&self, mut class: Class) -> Result<Arc<Class>> {
        class.check()?;
        let wrong = |problem: String| Error::Declaration { class: class.name().to_owned(), problem };
        if self.shared.raw_of(class.collection()).is_some() {
            return Err(wrong(format!("files are kept in the collection {}; take another one", class.collection())));
        }
        if self.shared.saving.is_alone() {
            // Its failure could not take the class and its indexes back.
            return Err(Error::Usage("classes are registered before a transaction, not within it".to_owned()));
        }
        class.index_referrers();
        let class = Arc::new(class);
        let _alone = self.shared.saving.shut();
        {
            let mut classes = self.shared.classes.write();
            let taken =
                classes.values().find(|other| other.name() == class.name() || other.collection() == class.collection());
            if let Some(other) = taken {
                let problem =
                    format!("{} is registered already, in the collection {}", other.name(), other.collection());
                return Err(Error::Declaration { class: class.name().to_owned(), problem });
            }
            classes.insert(class.name().to_owned(), Arc::clone(&class));
        }
        if let Some(keeper) = self.shared.keeper.get() {
            keeper.register(&self.shared, &class)?;
        }
        Ok(class)
    }

    /// Lets relations lead to the files of a storage. When one of those files is removed, relations to it do what their
    /// declarations say, as long as this storage is there.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when they lead to another one already.
    pub fn connect(&self, raw: &RawStorage) -> Result<()> {
        let taken = |_| Error::Usage("the storage's relations lead to other files already".to_owned());
        self.shared.raw.set(raw.clone()).map_err(taken)?;
        raw.connected_by(&self.shared);
        Ok(())
    }

    /// The classes, by name.
    pub fn classes(&self) -> Vec<Arc<Class>> {
        self.shared.classes()
    }

    /// A class by its name.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn class(&self, name: &str) -> Result<Arc<Class>> {
        self.shared.class(name)
    }

    /// The backend that the objects are in.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    /// A new object, which is stored when it is saved. `properties` is a JSON object of properties and relations; null for
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] for a class, property or relation, [`Error::Type`].
    pub fn create(&self, class: &str, properties: Value) -> Result<StoredObject> {
        self.create_with_oid(class, &key::new_oid(), properties)
    }

    /// A new object with an id of the caller's choice. If there is one with that id, saving this one is refused.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::create`], and [`Error::Key`].
    pub fn create_with_oid(&self, class: &str, oid: &str, properties: Value) -> Result<StoredObject> {
        let object = self.make(&self.shared.class(class)?, oid, properties)?;
        self.shared.live.lock().enter(&object.key(), &object);
        self.shared.note_in_scope(&object);
        Ok(object)
    }

    /// A new object that nobody knows of yet.
    fn make(&self, class: &Arc<Class>, oid: &str, properties: Value) -> Result<StoredObject> {
        key::check(&class.key(oid))?;
        if oid.is_empty() {
            return Err(Error::Key { key: oid.to_owned(), problem: "it is empty" });
        }
        let mut document = Document::default();
        for (name, property) in &class.properties {
            if let Some(default) = &property.default {
                let value =
                    property.of.accept(default.clone()).map_err(|violation| type_error(class, name, violation))?;
                document.properties.insert(name.clone(), value);
            }
        }
        let changed = Changes::checked(class, map_of(properties)?)?.apply(&mut document);
        let now = now();
        document.updates = changed.into_iter().chain(["oid".to_owned()]).map(|name| (name, now)).collect();
        Ok(StoredObject::new(&self.shared, class, oid, State { document, stored: None, is_dirty: true }))
    }

    /// The object with an id. While somebody has it, everybody gets the same one. One that was made with that id here and not
    /// saved, when somebody else saved his, is another: saving it is an [`Error::Conflict`].
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`], [`Error::Malformed`], [`Error::Migration`], and what the backend reports; so all the others.
    pub fn get(&self, class: &str, oid: &str) -> Result<Option<StoredObject>> {
        let class = self.shared.class(class)?;
        self.shared.load(&class, oid)
    }

    /// The object with an id; a new one, not saved yet, if there is none. It is the same for all who ask meanwhile.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`] and [`ObjectStorage::create_with_oid`].
    pub fn ensure(&self, class: &str, oid: &str) -> Result<StoredObject> {
        self.ensure_with(class, oid, || Ok(Value::Null))
    }

    /// [`ObjectStorage::ensure`], with the properties of a new one.
    pub(crate) fn ensure_with(
        &self,
        class: &str,
        oid: &str,
        properties: impl Fn() -> Result<Value>,
    ) -> Result<StoredObject> {
        let class = self.shared.class(class)?;
        let key = class.key(oid);
        loop {
            let saves = self.shared.saves_of(&key).load(Ordering::Acquire);
            if let Some(object) = self.shared.load(&class, oid)? {
                return Ok(object);
            }
            let new = self.make(&class, oid, properties()?)?;
            let mut live = self.shared.live.lock();
            // Somebody may have saved one since, which nobody has any more.
            if self.shared.saves_of(&key).load(Ordering::Acquire) != saves {
                continue;
            }
            // Or made one, and not saved it yet.
            let object = live.enter(&key, &new);
            drop(live);
            if Arc::ptr_eq(&object.0, &new.0) {
                self.shared.note_in_scope(&object);
            }
            return Ok(object);
        }
    }

    /// Whether there is an object with an id.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`].
    pub fn has(&self, class: &str, oid: &str) -> Result<bool> {
        self.shared.backend.has(&self.shared.class(class)?.key(oid))
    }

    /// How many objects a class has.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`].
    pub fn count(&self, class: &str) -> Result<u64> {
        self.shared.backend.count_in(&Range::prefix(&key::prefix(self.shared.class(class)?.collection())))
    }

    /// All objects of a class, by their ids: those of ids made here in the order in which they were made. One that is
    /// damaged is an error in its place, and the others follow.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`].
    pub fn all(&self, class: &str) -> Result<impl Iterator<Item = Result<StoredObject>>> {
        let class = self.shared.class(class)?;
        let saves = self.shared.all_saves();
        let entries = self.shared.backend.entries_in(&Range::prefix(&key::prefix(class.collection())))?;
        Ok(entries.filter_map(move |entry| {
            let (key, bytes) = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let (_, oid) = key::split(&key)?;
            let before = self.shared.saves_of(&key).load(Ordering::Acquire);
            if self.shared.all_saves() != saves {
                return self.shared.load(&class, oid).transpose();
            }
            match self.shared.enter_stored(&class, oid, &key, bytes, before) {
                Ok(None) => self.shared.load(&class, oid).transpose(),
                found => found.transpose(),
            }
        }))
    }

    /// Some of the objects of [`ObjectStorage::all`]: from number `start` on and before number `end`, at most `count`.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`].
    pub fn list(
        &self,
        class: &str,
        count: Option<usize>,
        start: usize,
        end: Option<usize>,
    ) -> Result<impl Iterator<Item = Result<StoredObject>>> {
        let most = end.map_or(usize::MAX, |end| end.saturating_sub(start));
        let class = self.shared.class(class)?;
        let keys = self.shared.backend.keys(&key::prefix(class.collection()))?;
        let keys = keys.skip(start).take(most.min(count.unwrap_or(usize::MAX)));
        Ok(keys.filter_map(move |found| {
            let key = match found {
                Ok(key) => key,
                Err(error) => return Some(Err(error)),
            };
            let (_, oid) = key::split(&key)?;
            self.shared.load(&class, oid).transpose()
        }))
    }

    /// An object of an export or of a map of properties. With an `oid` that is stored it is that object, changed; nothing is
    /// saved. Of an export that is [deeper](StoredObject::export) the targets of relations are taken as references, and not
    /// imported with it.
    ///
    /// Update times come as they are in `updates`; an object whose times become others is changed by that. What the import
    /// changes and has no time for was changed now.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::create`], and [`Error::Usage`] when the export is of another class.
    pub fn import(&self, class: &str, properties: Value) -> Result<StoredObject> {
        let Value::Object(mut map) = properties else {
            return Err(Error::Usage(format!("an import of {class} is a map of names to values")));
        };
        if let Some(name) = map.remove("type")
            && name != class
        {
            return Err(Error::Usage(format!("this is an export of {name}, not of {class}")));
        }
        let updates = map.remove("updates");
        map.retain(|name, _| !name.starts_with('@'));
        let object = match map.remove("oid") {
            Some(Value::String(oid)) => self.ensure(class, &oid)?,
            None => self.create(class, Value::Null)?,
            Some(other) => return Err(Error::Usage(format!("the `oid` of an object is a text, not {other}"))),
        };
        for name in object.class().relations.keys() {
            match map.get_mut(name) {
                Some(Value::Array(targets)) => targets.iter_mut().for_each(|target| self.cut_export(target)),
                Some(target) => self.cut_export(target),
                None => {}
            }
        }
        object.update(Value::Object(map))?;
        if let Some(Value::Object(updates)) = updates {
            object.adopt_updates(&updates);
        }
        Ok(object)
    }

    /// Makes an export, which has more than a reference and names a class, the reference to what was exported.
    fn cut_export(&self, target: &mut Value) {
        let Some(map) = target.as_object_mut().filter(|map| map.keys().any(|name| name != "oid" && name != "type"))
        else {
            return;
        };
        map.retain(|name, _| name == "oid" || name == "type");
        let Some(name) = map.get("type").and_then(Value::as_str) else { return };
        let of_object = || self.shared.class(name).ok().map(|class| class.collection().to_owned());
        let of_file = || self.shared.raw.get()?.class(name).ok().map(|class| class.collection().to_owned());
        if let Some(collection) = of_object().or_else(of_file) {
            map.insert("type".to_owned(), collection.into());
        }
    }

    /// Runs `work`; when it succeeds, the objects that it made or changed are saved, all in one batch. When it fails
    /// nothing is saved, and the objects keep their changes.
    ///
    /// # Errors
    ///
    /// Those of `work` and of [`StoredObject::save`].
    pub fn scope<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let thread = std::thread::current().id();
        self.shared.scopes.lock().entry(thread).or_default().push(Scope::default());
        let leave = Leave { shared: &self.shared };
        let value = work(self)?;
        let mut objects = leave.take();
        objects.retain(|object| !object.is_removed());
        drop(leave);
        self.save_all(&objects)?;
        Ok(value)
    }

    /// Saves objects in one batch, durably; those that were not changed are left out. With a backend that has transactions
    /// all are saved or none.
    ///
    /// # Errors
    ///
    /// As [`StoredObject::save`].
    pub fn save_all(&self, objects: &[StoredObject]) -> Result<usize> {
        self.save_all_with(objects, Durability::Durable)
    }

    /// [`ObjectStorage::save_all`], durable or not.
    ///
    /// # Errors
    ///
    /// As [`StoredObject::save`].
    pub fn save_all_with(&self, objects: &[StoredObject], durability: Durability) -> Result<usize> {
        crate::save::save(&self.shared, objects, durability)
    }

    /// Runs `work` while no other thread saves or removes objects of this storage: for a transaction of the backend that is
    /// `work`'s to begin and to end. When `work` fails, what it saved counts as changed and not saved, and what it removed as
    /// there. Within `work`, it does nothing more.
    ///
    /// Objects that are in memory are the same for all threads, also while `work` changes them.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn alone<T, E>(&self, work: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<T, E> {
        self.shared.saving.alone(work)
    }

    /// Tells of changes to the objects of a class, made through this storage's backend, from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn watch(&self, class: &str) -> Result<Subscription> {
        Ok(self.shared.backend.watch(&key::prefix(self.shared.class(class)?.collection())))
    }

    /// Brings everything that was saved to the disk, indexes included.
    ///
    /// # Errors
    ///
    /// What the backends report.
    pub fn sync(&self) -> Result<()> {
        match self.shared.keeper.get() {
            Some(keeper) => keeper.sync(&self.shared),
            None => self.shared.backend.sync(),
        }
    }
}

/// Ends a scope, however it is left.
struct Leave<'a> {
    shared: &'a Shared,
}

impl Leave<'_> {
    fn take(&self) -> Vec<StoredObject> {
        let mut scopes = self.shared.scopes.lock();
        let open = scopes.get_mut(&std::thread::current().id());
        open.and_then(|open| open.last_mut()).map(std::mem::take).unwrap_or_default().objects
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut scopes = self.shared.scopes.lock();
        let thread = std::thread::current().id();
        if let Some(open) = scopes.get_mut(&thread) {
            open.pop();
            if open.is_empty() {
                scopes.remove(&thread);
            }
        }
    }
}

impl Live {
    fn get(&self, key: &str) -> Option<StoredObject> {
        self.by_key.get(key).and_then(Weak::upgrade).map(StoredObject)
    }

    /// Makes an object the one of its key, unless somebody has another one.
    fn enter(&mut self, key: &str, object: &StoredObject) -> StoredObject {
        if let Some(other) = self.get(key).filter(|other| !other.is_removed()) {
            return other;
        }
        if self.by_key.len() >= self.forget_at {
            self.by_key.retain(|_, object| object.strong_count() > 0);
            self.forget_at = (self.by_key.len() * 2).max(FORGET_FROM);
        }
        self.by_key.insert(key.to_owned(), Arc::downgrade(&object.0));
        object.clone()
    }
}

impl Shared {
    pub(crate) fn classes(&self) -> Vec<Arc<Class>> {
        self.classes.read().values().cloned().collect()
    }

    pub(crate) fn class(&self, name: &str) -> Result<Arc<Class>> {
        let classes = self.classes.read();
        let known = || classes.keys().map(String::as_str);
        classes.get(name).cloned().ok_or_else(|| Error::unknown("the storage", "class", name, known()))
    }

    /// The class of a collection.
    pub(crate) fn of_collection(&self, collection: &str) -> Option<Arc<Class>> {
        self.classes.read().values().find(|class| class.collection() == collection).cloned()
    }

    /// The files of a collection.
    pub(crate) fn raw_of(&self, collection: &str) -> Option<RawView> {
        self.raw.get().and_then(|raw| raw.of_collection(collection))
    }

    /// The one instance of an object; `None` when it is not stored.
    pub(crate) fn load(self: &Arc<Self>, class: &Arc<Class>, oid: &str) -> Result<Option<StoredObject>> {
        let key = class.key(oid);
        let live = self.live.lock().get(&key);
        if let Some(object) = live.filter(StoredObject::is_stored) {
            return Ok(Some(object));
        }
        loop {
            let saves = self.saves_of(&key).load(Ordering::Acquire);
            let Some(bytes) = self.backend.get(&key)? else { return Ok(None) };
            if let Some(object) = self.enter_stored(class, oid, &key, bytes, saves)? {
                return Ok(Some(object));
            }
        }
    }

    /// Counts what makes documents old that were read before.
    fn saves_of(&self, key: &str) -> &AtomicU64 {
        let hash = key.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        &self.saves[hash % PARTS]
    }

    /// Notes that an object was saved or removed. Its instance is still there.
    pub(crate) fn saved(&self, key: &str) {
        self.saves_of(key).fetch_add(1, Ordering::AcqRel);
    }

    fn all_saves(&self) -> u64 {
        self.saves.iter().map(|saves| saves.load(Ordering::Acquire)).sum()
    }

    /// The instance of a stored document, which was read when there had been so many saves of its part of the keys. `None`
    /// when there were more since, and nobody has an instance: the document may be old.
    fn enter_stored(
        self: &Arc<Self>,
        class: &Arc<Class>,
        oid: &str,
        key: &str,
        bytes: bytes::Bytes,
        saves: u64,
    ) -> Result<Option<StoredObject>> {
        let live = self.live.lock().get(key);
        if let Some(object) = live.filter(StoredObject::is_stored) {
            return Ok(Some(object));
        }
        let document = Document::from_bytes(class, oid, &bytes, &|| self.backend.location())?;
        let state = State { document, stored: Some(bytes), is_dirty: false };
        let object = StoredObject::new(self, class, oid, state);
        let mut live = self.live.lock();
        if self.saves_of(key).load(Ordering::Acquire) != saves {
            return Ok(live.get(key).filter(StoredObject::is_stored));
        }
        if let Some(other) = live.get(key) {
            if other.0.is_saving.load(Ordering::Acquire) {
                // The document may be of this very save: once it is over, that is known.
                drop(live);
                drop(other.0.state.lock());
                return Ok(None);
            }
            // An instance that was made and never saved gives way to the stored one; a save of it will be a conflict.
            if !other.is_stored() {
                live.by_key.remove(key);
            }
        }
        Ok(Some(live.enter(key, &object)))
    }

    /// Forgets an object that was removed, unless somebody has another one of its key.
    pub(crate) fn forget(&self, key: &str, object: &StoredObject) {
        let by_key = &mut self.live.lock().by_key;
        if by_key.get(key).is_some_and(|live| Weak::as_ptr(live) == Arc::as_ptr(&object.0)) {
            by_key.remove(key);
        }
    }

    /// Makes an object that was forgotten the one of its key again.
    pub(crate) fn remember(&self, key: &str, object: &StoredObject) {
        self.live.lock().enter(key, object);
    }

    /// Notes an object that was made or changed, if this thread is in a scope.
    pub(crate) fn note_in_scope(&self, object: &StoredObject) {
        let mut scopes = self.scopes.lock();
        if scopes.is_empty() {
            return;
        }
        if let Some(scope) = scopes.get_mut(&std::thread::current().id()).and_then(|open| open.last_mut())
            && scope.noted.insert(Arc::as_ptr(&object.0) as usize)
        {
            scope.objects.push(object.clone());
        }
    }

    /// Writes changes of objects, and what they do to indexes.
    pub(crate) fn write_object(
        self: &Arc<Self>,
        class: &Class,
        oid: &str,
        change: Change<'_>,
        (old, new): (Option<&Document>, Option<&Document>),
        durability: Durability,
    ) -> Result<()> {
        crate::save::write_one(self, class, oid, change, (old, new), durability)
    }
}

pub(crate) fn type_error(class: &Class, property: &str, violation: crate::types::Violation) -> Error {
    Error::Type { class: class.name().to_owned(), property: property.to_owned(), violation }
}

/// What a change of an object expects of the backend.
pub(crate) fn expectation(stored: Option<&bytes::Bytes>) -> Expect<'_> {
    stored.map_or(Expect::Absent, |bytes| Expect::Value(bytes))
}

/// The properties of an update: a map, or nothing.
pub(crate) fn map_of(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => {
            Err(Error::Usage(format!("properties are a map of names to values, not {}", crate::types::kind(&other))))
        }
    }
}
