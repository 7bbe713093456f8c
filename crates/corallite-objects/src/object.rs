//! [`StoredObject`]: an object of a class, with its properties and relations.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::backend::{BackendExt, Change, Durability, Subscription};
use crate::class::Class;
use crate::document::{Document, now, reference, references};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::relation::Relation;
use crate::save;
use crate::storage::{Shared, expectation, map_of, type_error};

/// How deep an export may go.
const DEEPEST_EXPORT: usize = 64;

/// An object. Clones are the same object; the storage gives everybody who asks for one id the same one. What is changed is
/// kept when it is saved.
#[derive(Clone)]
pub struct StoredObject(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    class: Arc<Class>,
    oid: String,
    pub(crate) state: Mutex<State>,
    /// Whether it is stored, as `state` says: known without waiting for a save that is under way.
    pub(crate) is_stored: AtomicBool,
    /// Whether a first save of it is under way, which holds `state`.
    pub(crate) is_saving: AtomicBool,
    pub(crate) is_removed: AtomicBool,
}

pub(crate) struct State {
    pub(crate) document: Document,
    /// The document as it is stored, as far as this instance knows.
    pub(crate) stored: Option<Bytes>,
    pub(crate) is_dirty: bool,
}

thread_local! {
    /// How many functions that change an object this thread is within.
    static CHANGING: Cell<usize> = const { Cell::new(0) };
}

/// A function that changes an object, which is locked meanwhile.
struct Changing;

impl Changing {
    fn begin() -> Self {
        CHANGING.set(CHANGING.get() + 1);
        Self
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        CHANGING.set(CHANGING.get() - 1);
    }
}

/// Refuses to save and to remove within a function that changes an object. It would wait for others, who may be waiting for
/// that object.
pub(crate) fn check_may_write() -> Result<()> {
    match CHANGING.get() {
        0 => Ok(()),
        _ => Err(Error::Usage(
            "nothing can be saved or removed within a function that changes an object; do it after that".to_owned(),
        )),
    }
}

/// Values for properties and relations that their class allows.
pub(crate) struct Changes {
    properties: Vec<(String, Option<Value>)>,
    relations: Vec<(String, Vec<Reference>)>,
}

impl Changes {
    pub(crate) fn checked(class: &Class, values: Map<String, Value>) -> Result<Self> {
        let (mut properties, mut relations) = (Vec::new(), Vec::new());
        for (name, value) in values {
            if let Some(relation) = class.relations.get(&name) {
                let targets =
                    references(value).map_err(|problem| Error::Usage(format!("{}.{name} {problem}", class.name())))?;
                relations.push((name.clone(), crate::relation::checked(class, &name, relation, targets)?));
            } else if value.is_null() {
                class.type_of(&name)?;
                properties.push((name, None));
            } else {
                let value = class.type_of(&name)?.accept(value);
                properties.push((name.clone(), Some(value.map_err(|violation| type_error(class, &name, violation))?)));
            }
        }
        Ok(Self { properties, relations })
    }

    /// Puts them into a document; gives the names of what has another value now.
    pub(crate) fn apply(self, document: &mut Document) -> Vec<String> {
        let mut changed = Vec::new();
        for (name, value) in self.properties {
            if document.properties.get(&name) != value.as_ref() {
                changed.push(name.clone());
            }
            match value {
                Some(value) => document.properties.insert(name, value),
                None => document.properties.remove(&name),
            };
        }
        for (name, targets) in self.relations {
            if document.relations.get(&name).map_or(&[][..], Vec::as_slice) != targets.as_slice() {
                changed.push(name.clone());
            }
            document.relations.insert(name, targets);
        }
        changed
    }
}

impl StoredObject {
    pub(crate) fn new(shared: &Arc<Shared>, class: &Arc<Class>, oid: &str, state: State) -> Self {
        let (shared, class) = (Arc::clone(shared), Arc::clone(class));
        let is_stored = AtomicBool::new(state.stored.is_some());
        let (is_saving, is_removed) = (AtomicBool::new(false), AtomicBool::new(false));
        let (oid, state) = (oid.to_owned(), Mutex::new(state));
        Self(Arc::new(Inner { shared, class, oid, state, is_stored, is_saving, is_removed }))
    }

    /// Its id.
    pub fn oid(&self) -> &str {
        &self.0.oid
    }

    /// Its class.
    pub fn class(&self) -> &Arc<Class> {
        &self.0.class
    }

    /// Its key in the backend: `Collection.oid`.
    pub fn key(&self) -> String {
        self.0.class.key(&self.0.oid)
    }

    /// A reference to it.
    pub fn reference(&self) -> Reference {
        Reference::new(self.0.class.collection(), self.oid())
    }

    /// How often it was saved; 0 for one that never was.
    pub fn revision(&self) -> u64 {
        self.0.state.lock().document.revision
    }

    /// Whether it has changes that are not saved.
    pub fn is_changed(&self) -> bool {
        self.0.state.lock().is_dirty
    }

    /// Whether it is stored, in this form or an older one.
    pub fn is_stored(&self) -> bool {
        self.0.is_stored.load(Ordering::Acquire)
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.0.is_removed.load(Ordering::Acquire)
    }

    /// A property's value; `None` where none is set, or there is no such property. Also [`StoredObject::get_property`].
    pub fn get(&self, property: &str) -> Option<Value> {
        self.0.state.lock().document.properties.get(property).cloned()
    }

    /// A property's value.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn get_property(&self, property: &str) -> Result<Option<Value>> {
        self.0.class.type_of(property)?;
        Ok(self.get(property))
    }

    /// Sets a property; null clears it. Also [`StoredObject::set_property`].
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`], [`Error::Type`]; nothing is changed then.
    pub fn set(&self, property: &str, value: impl Into<Value>) -> Result<()> {
        let value = match value.into() {
            Value::Null => None,
            value => {
                let accepted = self.0.class.type_of(property)?.accept(value);
                Some(accepted.map_err(|violation| type_error(&self.0.class, property, violation))?)
            }
        };
        self.0.class.type_of(property)?; // also of a property that is cleared
        self.change(|document| {
            let is_new = document.properties.get(property) != value.as_ref();
            match value {
                Some(value) => document.properties.insert(property.to_owned(), value),
                None => document.properties.remove(property),
            };
            (if is_new { vec![property.to_owned()] } else { Vec::new() }, ())
        });
        Ok(())
    }

    /// [`StoredObject::set`].
    ///
    /// # Errors
    ///
    /// As [`StoredObject::set`].
    pub fn set_property(&self, property: &str, value: impl Into<Value>) -> Result<()> {
        self.set(property, value)
    }

    /// Sets a property to what a function makes of its value, with nobody changing it meanwhile. The function must not use
    /// this object, which is locked; and no others either, for two threads that each change one and use the other wait for ever.
    /// Saving and removing, of anything, is refused within it with [`Error::Usage`].
    ///
    /// # Errors
    ///
    /// As [`StoredObject::set`].
    pub fn change_property(&self, property: &str, change: impl FnOnce(Option<&Value>) -> Value) -> Result<()> {
        let of = self.0.class.type_of(property)?.clone();
        self.change(|document| {
            let old = document.properties.get(property);
            let new = match change(old) {
                Value::Null => None,
                value => match of.accept(value) {
                    Ok(value) => Some(value),
                    Err(violation) => return (Vec::new(), Err(type_error(&self.0.class, property, violation))),
                },
            };
            let is_new = old != new.as_ref();
            match new {
                Some(value) => document.properties.insert(property.to_owned(), value),
                None => document.properties.remove(property),
            };
            (if is_new { vec![property.to_owned()] } else { Vec::new() }, Ok(()))
        })
    }

    /// Sets properties and relations from a map of names to values, all or none of them.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`], [`Error::Type`], [`Error::Usage`].
    pub fn update(&self, values: Value) -> Result<()> {
        let changes = Changes::checked(&self.0.class, map_of(values)?)?;
        self.change(|document| (changes.apply(document), ()));
        Ok(())
    }

    /// Changes the document; `change` says which names have other values now, and what to return.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Document) -> (Vec<String>, T)) -> T {
        let mut state = self.0.state.lock();
        let changing = Changing::begin();
        let (changed, value) = change(&mut state.document);
        drop(changing);
        if changed.is_empty() {
            return value;
        }
        let now = now();
        for name in changed.into_iter().chain(["oid".to_owned()]) {
            state.document.updates.insert(name, now);
        }
        state.is_dirty = true;
        drop(state);
        self.0.shared.note_in_scope(self);
        value
    }

    /// Takes over update times. Where one is another than before, the object is changed, and by nothing but that.
    pub(crate) fn adopt_updates(&self, updates: &Map<String, Value>) {
        let mut state = self.0.state.lock();
        let mut is_changed = false;
        for (name, time) in updates {
            if let Some(time) = time.as_f64().filter(|_| name == "oid" || self.0.class.has(name)) {
                is_changed |= state.document.updates.insert(name.clone(), time) != Some(time);
            }
        }
        state.is_dirty |= is_changed;
        drop(state);
        if is_changed {
            self.0.shared.note_in_scope(self);
        }
    }

    /// When a property or relation was last changed, or with `oid` the object: seconds since 1970.
    pub fn get_update_time(&self, name: &str) -> Option<f64> {
        self.0.state.lock().document.updates.get(name).copied()
    }

    /// Tells of changes to it, made through the backend of this storage, from now on.
    pub fn watch(&self) -> Subscription {
        self.0.shared.backend.watch_key(&self.key())
    }

    /// One of its relations.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn relation(&self, name: &str) -> Result<Relation> {
        let relation = self.0.class.known_relation(name)?.clone();
        Ok(Relation { object: self.clone(), name: name.to_owned(), relation })
    }

    /// Stores it, durably, if it was changed; says whether it was.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when somebody else saved it since it was loaded, [`Error::NotUnique`], [`Error::Usage`] within a
    /// function that changes an object, and what the backends report. Nothing is stored then.
    pub fn save(&self) -> Result<bool> {
        self.save_with(Durability::Durable)
    }

    /// [`StoredObject::save`], durable or not.
    ///
    /// # Errors
    ///
    /// As [`StoredObject::save`].
    pub fn save_with(&self, durability: Durability) -> Result<bool> {
        Ok(save::save(&self.0.shared, std::slice::from_ref(self), durability)? > 0)
    }

    /// Removes it from the storage, durably. Relations that lead to it do what their declarations say.
    ///
    /// # Errors
    ///
    /// [`Error::Referred`], [`Error::Conflict`] when somebody else saved it since it was loaded, [`Error::Usage`] within a
    /// function that changes an object, and what the backends report.
    pub fn remove(&self) -> Result<()> {
        check_may_write()?;
        let shared = &self.0.shared;
        let target = self.reference();
        // While nobody begins to refer to it.
        let is_guarded = self.is_stored() && shared.is_guarded(&target);
        let _alone = is_guarded.then(|| shared.saving.shut());
        let _saving = (!is_guarded).then(|| shared.saving.enter());
        if is_guarded {
            let referrers = shared.who_forgets(&target, Some(self))?;
            shared.forget_target(&referrers, &target)?;
        }
        let mut state = self.0.state.lock();
        if self.is_removed() {
            return Ok(());
        }
        if let Some(stored) = &state.stored {
            let key = self.key();
            let old = save::stored_document(shared, &self.0.class, &self.0.oid, Some(stored))?;
            let change = Change { key: &key, value: None, expect: expectation(Some(stored)) };
            let written =
                shared.write_object(&self.0.class, &self.0.oid, change, (old.as_ref(), None), Durability::Durable);
            match written {
                Ok(()) => {}
                Err(Error::Changed { found, .. }) => {
                    let ours = state.document.revision;
                    return Err(save::conflict(self, &state.document, ours, found.as_deref()));
                }
                Err(error) => return Err(error),
            }
        }
        let stored = state.stored.take();
        self.undo_remove(stored);
        self.0.is_removed.store(true, Ordering::Release);
        self.0.is_stored.store(false, Ordering::Release);
        drop(state);
        shared.saved(&self.key());
        shared.forget(&self.key(), self);
        Ok(())
    }

    /// Notes what a save that now follows was, should the transaction that it is in fail.
    pub(crate) fn undo_save(&self, revision: u64, before: Option<Bytes>, saved: &Bytes) {
        let (object, saved) = (self.clone(), saved.clone());
        self.0.shared.saving.undo_with(move || {
            let mut state = object.0.state.lock();
            if state.stored.as_ref() != Some(&saved) {
                return;
            }
            object.0.is_stored.store(before.is_some(), Ordering::Release);
            state.stored = before;
            state.document.revision = revision;
            state.is_dirty = true;
            object.0.shared.saved(&object.key());
        });
    }

    /// The same of a removal.
    fn undo_remove(&self, stored: Option<Bytes>) {
        let object = self.clone();
        self.0.shared.saving.undo_with(move || {
            let mut state = object.0.state.lock();
            object.0.is_stored.store(stored.is_some(), Ordering::Release);
            state.stored = stored;
            object.0.is_removed.store(false, Ordering::Release);
            drop(state);
            let key = object.key();
            object.0.shared.saved(&key);
            object.0.shared.remember(&key, &object);
        });
    }

    /// Loads what is stored now, and forgets changes that were not saved.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`](crate::ObjectStorage::get); [`Error::Absent`] when it is not stored (any more).
    pub fn reload(&self) -> Result<()> {
        let (shared, key) = (&self.0.shared, self.key());
        let mut state = self.0.state.lock();
        let location = || shared.backend.location();
        let Some(bytes) = shared.backend.get(&key)? else { return Err(Error::Absent { location: location(), key }) };
        state.document = Document::from_bytes(&self.0.class, &self.0.oid, &bytes, &location)?;
        state.stored = Some(bytes);
        self.0.is_stored.store(true, Ordering::Release);
        state.is_dirty = false;
        Ok(())
    }

    /// Itself as JSON: with depth 0 its id and type; with 1 its properties and update times too, and its relations as
    /// references; with more, the targets of relations, objects and files, as exports of one depth less. Where that comes back to an object it
    /// is within, and 64 levels down, there is a reference. Passwords are left out. Targets that do not exist stay references.
    ///
    /// # Errors
    ///
    /// Those of loading the targets.
    pub fn export(&self, depth: usize) -> Result<Value> {
        self.export_within(depth.min(DEEPEST_EXPORT), &mut Vec::new())
    }

    fn export_within(&self, depth: usize, within: &mut Vec<Reference>) -> Result<Value> {
        let mut map = Map::new();
        map.insert("oid".to_owned(), self.oid().into());
        map.insert("type".to_owned(), self.0.class.name().into());
        if depth == 0 {
            return Ok(Value::Object(map));
        }
        let document = self.0.state.lock().document.clone();
        for (name, value) in document.properties {
            let is_secret = self.0.class.properties.get(&name).is_some_and(|property| property.of.is_secret());
            if !is_secret {
                map.insert(name, value);
            }
        }
        map.insert("updates".to_owned(), serde_json::to_value(document.updates).unwrap_or_default());
        within.push(self.reference());
        for (name, relation) in &self.0.class.relations {
            let targets = document.relations.get(name).map(Vec::as_slice).unwrap_or_default();
            let mut exported = Vec::with_capacity(targets.len());
            for target in targets {
                let is_cut = depth == 1 || within.contains(target);
                let shared = &self.0.shared;
                let expanded = if is_cut {
                    None
                } else if let Some(class) = shared.of_collection(&target.collection) {
                    let object = shared.load(&class, &target.oid)?;
                    object.map(|object| object.export_within(depth - 1, within)).transpose()?
                } else if let Some(files) = shared.raw_of(&target.collection) {
                    files.load(&target.oid)?.map(|file| file.export(depth - 1))
                } else {
                    None
                };
                exported.push(expanded.unwrap_or_else(|| reference(target)));
            }
            let value = match relation.is_many {
                true => Value::Array(exported),
                false => exported.pop().unwrap_or_default(),
            };
            map.insert(name.clone(), value);
        }
        within.pop();
        Ok(Value::Object(map))
    }
}

impl PartialEq for StoredObject {
    /// Whether they are one object.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.shared, &other.0.shared)
            && self.0.oid == other.0.oid
            && self.0.class.collection() == other.0.class.collection()
    }
}

impl Eq for StoredObject {}

impl fmt::Debug for StoredObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("StoredObject");
        debug.field("key", &self.key());
        if let Some(state) = self.0.state.try_lock() {
            let shown = |name: &str| !self.0.class.properties.get(name).is_some_and(|property| property.of.is_secret());
            let properties = state.document.properties.iter().filter(|(name, _)| shown(name));
            debug.field("properties", &properties.collect::<Vec<_>>()).field("relations", &state.document.relations);
        }
        debug.finish_non_exhaustive()
    }
}
