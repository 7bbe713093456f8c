//! Saving: objects and their indexes, in one batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde_json::Value;

use crate::backend::{Change, Durability};
use crate::class::Class;
use crate::declaration::FirstSave;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::index::Difference;
use crate::object::{State, StoredObject, check_may_write};
use crate::storage::{Shared, expectation};

/// What is written for one object.
struct Prepared<'a> {
    object: &'a StoredObject,
    state: parking_lot::MutexGuard<'a, State>,
    key: String,
    document: Document,
    bytes: Bytes,
}

/// A first save that is under way: whoever finds the document before the object counts as stored waits for that.
struct UnderWay<'a>(&'a AtomicBool);

impl<'a> UnderWay<'a> {
    fn of(object: &'a StoredObject) -> Option<Self> {
        if object.is_stored() {
            return None;
        }
        object.0.is_saving.store(true, Ordering::Release);
        Some(Self(&object.0.is_saving))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Saves those of the objects that were changed; says how many. Nobody else saves one of them meanwhile.
pub(crate) fn save(shared: &Arc<Shared>, objects: &[StoredObject], durability: Durability) -> Result<usize> {
    check_may_write()?;
    let _saving = shared.saving.enter();
    save_held(shared, objects, durability)
}

/// The same for who holds `saving` already.
pub(crate) fn save_held(shared: &Arc<Shared>, objects: &[StoredObject], durability: Durability) -> Result<usize> {
    // In one order, so that two threads that save the same objects do not wait for each other.
    let mut objects: Vec<&StoredObject> = objects.iter().collect();
    objects.sort_by_key(|object| Arc::as_ptr(&object.0) as usize);
    objects.dedup_by_key(|object| Arc::as_ptr(&object.0) as usize);
    let mut prepared = Vec::with_capacity(objects.len());
    for object in objects {
        let state = object.0.state.lock();
        if object.is_removed() {
            return Err(Error::Usage(format!("{} was removed, and cannot be saved", object.key())));
        }
        if !state.is_dirty {
            continue;
        }
        let mut document = state.document.clone();
        document.revision = document.revision.saturating_add(1);
        let bytes = document.to_bytes(object.class(), object.oid());
        prepared.push(Prepared { object, state, key: object.key(), document, bytes });
    }
    if prepared.is_empty() {
        return Ok(0);
    }
    let mut keys = HashSet::with_capacity(prepared.len());
    if let Some(twice) = prepared.iter().find(|one| !keys.insert(one.key.as_str())) {
        let key = &twice.key;
        return Err(Error::Usage(format!("{key} is there twice in what is saved; only one object can have that id")));
    }
    let mut difference = Difference::default();
    if let Some(keeper) = shared.keeper.get() {
        for one in &prepared {
            let (class, oid) = (one.object.class(), one.object.oid());
            if class.indexes.is_empty() {
                continue;
            }
            let old = stored_document(shared, class, oid, one.state.stored.as_ref())?;
            difference.extend(keeper.difference(class, oid, old.as_ref(), Some(&one.document)));
        }
    }
    let first = FirstSave::of(shared, prepared.iter().map(|one| &**one.object.class()))?;
    let saves = prepared.iter().map(|one| Change {
        key: &one.key,
        value: Some(&one.bytes),
        expect: expectation(one.state.stored.as_ref()),
    });
    let changes: Vec<Change<'_>> = saves.chain(first.changes()).collect();
    let _under_way: Vec<UnderWay<'_>> = prepared.iter().filter_map(|one| UnderWay::of(one.object)).collect();
    if let Err(error) = write(shared, &changes, &difference, durability) {
        return Err(explain(shared, error, &prepared, &difference));
    }
    drop(changes);
    first.done(shared);
    let count = prepared.len();
    for mut one in prepared {
        shared.saved(&one.key);
        one.object.undo_save(one.state.document.revision, one.state.stored.take(), &one.bytes);
        one.state.document.revision = one.document.revision;
        one.state.stored = Some(one.bytes);
        one.object.0.is_stored.store(true, Ordering::Release);
        one.state.is_dirty = false;
    }
    Ok(count)
}

fn write(shared: &Shared, changes: &[Change<'_>], difference: &Difference, durability: Durability) -> Result<()> {
    match shared.keeper.get() {
        Some(keeper) => keeper.write(shared, changes, difference, durability),
        None => shared.backend.write(changes, durability),
    }
}

/// The document that is stored, as far as this instance knows.
pub(crate) fn stored_document(
    shared: &Shared,
    class: &Class,
    oid: &str,
    stored: Option<&Bytes>,
) -> Result<Option<Document>> {
    stored.map(|bytes| Document::from_bytes(class, oid, bytes, &|| shared.backend.location())).transpose()
}

/// What a refused expectation means for the objects.
fn explain(shared: &Shared, error: Error, prepared: &[Prepared<'_>], difference: &Difference) -> Error {
    let (key, found) = match &error {
        Error::Changed { key, found, .. } => (key.clone(), Some(found.clone())),
        Error::Exists { key, .. } => (key.clone(), None),
        Error::NotUnique { .. } => (String::new(), None),
        _ => return error,
    };
    if let Some(one) = prepared.iter().find(|one| one.key == key) {
        let stored = match found {
            Some(found) => found,
            None => shared.backend.get(&key).ok().flatten(),
        };
        return conflict(one.object, &one.document, one.state.document.revision, stored.as_deref());
    }
    // A value belongs to another one: perhaps to a newer form of this very object, whose values are not known here.
    for one in prepared {
        match shared.backend.get(&one.key) {
            Ok(stored) if stored == one.state.stored => {}
            Ok(stored) => return conflict(one.object, &one.document, one.state.document.revision, stored.as_deref()),
            Err(other) => return other,
        }
    }
    let owner = shared.keeper.get().and_then(|keeper| {
        prepared.iter().find_map(|one| keeper.owner(one.object.class(), difference, &key).transpose())
    });
    match owner {
        Some(Ok(owner)) => owner,
        Some(Err(other)) => other,
        None => error,
    }
}

pub(crate) fn conflict(object: &StoredObject, own: &Document, ours: u64, stored: Option<&[u8]>) -> Error {
    let stored = stored.map(|bytes| {
        // What cannot be read is shown as it is.
        let text = || Value::String(String::from_utf8_lossy(bytes).into_owned());
        Box::new(without_secrets(object.class(), serde_json::from_slice(bytes).unwrap_or_else(|_| text())))
    });
    let own = Box::new(without_secrets(object.class(), own.to_json(object.class(), object.oid())));
    Error::Conflict { key: object.key(), ours, own, stored }
}

/// A document as it may be shown.
fn without_secrets(class: &Class, mut document: Value) -> Value {
    if let Value::Object(map) = &mut document {
        map.retain(|name, _| !class.properties.get(name).is_some_and(|property| property.of.is_secret()));
    }
    document
}

/// Writes one change of an object whose state the caller has.
pub(crate) fn write_one(
    shared: &Arc<Shared>,
    class: &Class,
    oid: &str,
    change: Change<'_>,
    (old, new): (Option<&Document>, Option<&Document>),
    durability: Durability,
) -> Result<()> {
    let difference = match shared.keeper.get() {
        Some(keeper) => keeper.difference(class, oid, old, new),
        None => Difference::default(),
    };
    let first = FirstSave::of(shared, std::iter::once(class))?;
    let changes: Vec<Change<'_>> = std::iter::once(change).chain(first.changes()).collect();
    write(shared, &changes, &difference, durability)?;
    drop(changes);
    first.done(shared);
    Ok(())
}
