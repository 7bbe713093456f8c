//! Keeping indexes in step with their objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::encode::{self, index_prefix};
use super::view::ObjectIndexes;
use super::{Index, ObjectView};
use crate::backend::{Backend, Change, Durability, Expect, Range};
use crate::class::Class;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::key;
use crate::storage::{ObjectStorage, Shared};

/// Where it is written whether the indexes are whole.
const STATE: &str = "@indexes";

/// Entries written at a time when an index is built.
const BUILD_BATCH: usize = 50_000;

/// Memory for entries that are sorted together when an index is built: the more, the less often a page of it is written.
const RUN_BYTES: usize = if cfg!(test) { 16 << 10 } else { 64 << 20 };
/// Values that several objects have of which a warning tells, for each time unique indexes are built.
const MOST_DUPLICATES: usize = 20;

/// What a crash can have left of indexes that are in another backend than their objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum State {
    /// Nothing: they are whole.
    Clean,
    /// Entries too many, which answers leave out.
    Extra,
    /// Entries too few: they are built again.
    Partial,
}

impl State {
    const ALL: [Self; 3] = [Self::Clean, Self::Extra, Self::Partial];

    fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Extra => "extra",
            Self::Partial => "partial",
        }
    }
}

/// The indexes of a storage's classes; see [the module](super).
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{Class, Indexes, Indexing, MemoryBackend, ObjectStorage, Type};
/// use serde_json::json;
///
/// let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
/// storage.register(Class::new("Run").property("name", Type::Line).index("name", Indexing::Normalize))?;
/// let indexes = Indexes::attach(&storage, Arc::new(MemoryBackend::new()))?;
/// storage.create("Run", json!({"name": "Base Line"}))?.save()?;
/// let by_name = indexes.of("Run")?.by("name")?;
/// assert_eq!(by_name.one("  base LINE", 0)?.map(|run| run.get("name")), Some(Some(json!("Base Line"))));
/// # Ok::<(), corallite_objects::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Indexes {
    storage: ObjectStorage,
    keeper: Arc<Keeper>,
}

impl Indexes {
    /// Keeps the indexes of all classes of a storage, those registered later included, in a backend: that of the storage
    /// itself, or another one. Builds what is not there, or not whole after a crash; [`Indexes::warnings`] says so.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the storage has indexes already, and what the backends report.
    pub fn attach(storage: &ObjectStorage, backend: Arc<dyn Backend>) -> Result<Self> {
        let is_shared = std::ptr::addr_eq(Arc::as_ptr(&backend), Arc::as_ptr(&storage.shared.backend));
        let keeper = Arc::new(Keeper {
            is_shared,
            state: AtomicU8::new(State::Clean as u8),
            verifies: AtomicBool::new(false),
            warnings: Mutex::default(),
            unbuilt: Mutex::default(),
            undefined: Mutex::default(),
            backend,
        });
        if storage.shared.keeper.get().is_some() {
            return Err(Error::Usage("the storage has indexes already; attach them once".to_owned()));
        }
        keeper.open()?;
        {
            let _alone = storage.shared.saving.shut();
            for class in storage.shared.classes() {
                keeper.register(&storage.shared, &class)?;
            }
            storage
                .shared
                .keeper
                .set(Arc::clone(&keeper))
                .map_err(|_| Error::Usage("the storage has indexes already; attach them once".to_owned()))?;
        }
        Ok(Self { storage: storage.clone(), keeper })
    }

    /// The indexes of a class.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn of(&self, class: &str) -> Result<ObjectIndexes> {
        let class = self.storage.shared.class(class)?;
        Ok(ObjectIndexes { shared: Arc::clone(&self.storage.shared), keeper: Arc::clone(&self.keeper), class })
    }

    /// What was found wrong when the indexes were opened, and what was done about it.
    pub fn warnings(&self) -> Vec<String> {
        self.keeper.warnings.lock().clone()
    }

    /// Builds all indexes again; with `sync`, they are on the disk when it returns. Saves wait meanwhile. Returns how many
    /// entries there are.
    ///
    /// # Errors
    ///
    /// What the backends report. A damaged object is left out, with a [warning](Indexes::warnings).
    pub fn rebuild(&self, sync: bool) -> Result<u64> {
        let shared = &self.storage.shared;
        let _alone = shared.saving.shut();
        let mut entries = 0;
        for class in shared.classes() {
            let all: Vec<(&String, &Index)> = class.indexes.iter().map(|(name, index)| (name, &**index)).collect();
            entries += self.keeper.build(shared, &class, &all)?.iter().sum::<u64>();
        }
        self.keeper.verifies.store(false, Ordering::Release);
        if sync {
            shared.backend.sync()?;
            self.keeper.backend.sync()?;
            self.keeper.settle(State::Clean)?;
        }
        Ok(entries)
    }

    /// Brings objects and indexes to the disk.
    ///
    /// # Errors
    ///
    /// What the backends report.
    pub fn sync(&self) -> Result<()> {
        self.storage.sync()
    }
}

/// One change of an index.
#[derive(Debug)]
struct Entry {
    key: String,
    value: Vec<u8>,
}

/// What the save or removal of an object changes.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    added: Vec<Entry>,
    removed: Vec<Entry>,
    /// Values of unique indexes: the index, the value's part, and the claim.
    claimed: Vec<(String, String, Entry)>,
    released: Vec<Entry>,
}

impl Difference {
    pub(crate) fn extend(&mut self, other: Self) {
        self.added.extend(other.added);
        self.removed.extend(other.removed);
        self.claimed.extend(other.claimed);
        self.released.extend(other.released);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.claimed.is_empty() && self.released.is_empty()
    }
}

/// Values of unique indexes that are being built.
#[derive(Default)]
struct Claims {
    /// The index, the value's part, and the claim.
    new: Vec<(String, String, Entry)>,
    are_written: bool,
    duplicates: usize,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    pub(super) backend: Arc<dyn Backend>,
    /// Whether the objects are in the same backend.
    pub(crate) is_shared: bool,
    /// What is written under [`STATE`].
    state: AtomicU8,
    /// Whether there may be entries of values that an object no longer has.
    verifies: AtomicBool,
    warnings: Mutex<Vec<String>>,
    /// The indexes that are not whole and could not be built, because nothing can be written.
    unbuilt: Mutex<HashSet<String>>,
    /// Indexes of classes without objects, which count as there once the first object is saved: their keys and definitions.
    undefined: Mutex<BTreeMap<String, Vec<u8>>>,
}

fn claim_key(collection: &str, index: &str, part: &str) -> String {
    format!("@unique\0{collection}\0{index}\0{part}")
}

pub(crate) fn definition_key(collection: &str, index: &str) -> String {
    format!("@indexed\0{collection}\0{index}")
}

impl Keeper {
    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Whether an index is whole, so that it can be looked things up in.
    pub(super) fn is_built(&self, class: &Class, index: &str) -> bool {
        let unbuilt = self.unbuilt.lock();
        unbuilt.is_empty() || !unbuilt.contains(&definition_key(class.collection(), index))
    }

    fn open(&self) -> Result<()> {
        if self.is_shared && self.backend.is_atomic() {
            return Ok(());
        }
        let found = self.backend.get(STATE)?;
        let name = found.as_deref().and_then(|value| serde_json::from_slice::<Value>(value).ok());
        let name = name.as_ref().and_then(|value| value["state"].as_str());
        let state = match &found {
            None => State::Clean,
            // What cannot be read says nothing good.
            Some(_) => State::ALL.into_iter().find(|state| name == Some(state.name())).unwrap_or(State::Partial),
        };
        self.state.store(state as u8, Ordering::Release);
        self.verifies.store(state != State::Clean, Ordering::Release);
        Ok(())
    }

    fn warn(&self, warning: String) {
        self.warnings.lock().push(warning);
    }

    /// Whether answers have to be compared with the objects.
    pub(super) fn verifies(&self) -> bool {
        self.verifies.load(Ordering::Acquire)
    }

    /// Builds the indexes of a class that are not there, were declared otherwise, or are not whole. Nobody saves meanwhile.
    pub(crate) fn register(&self, shared: &Shared, class: &Class) -> Result<()> {
        let state = self.state.load(Ordering::Acquire);
        let mut chosen: Vec<(&String, &Index)> = Vec::new();
        let mut reasons = Vec::new();
        let collection = class.collection();
        let prefixes = [key::prefix(collection), format!("@index\0{collection}\0"), format!("@unique\0{collection}\0")];
        let is_empty = |prefix: &String, backend: &dyn Backend| -> Result<bool> {
            Ok(backend.keys_in(&Range::prefix(prefix))?.next().transpose()?.is_none())
        };
        let is_new = is_empty(&prefixes[0], &*shared.backend)?
            && is_empty(&prefixes[1], &*self.backend)?
            && is_empty(&prefixes[2], &*self.backend)?;
        for (name, index) in &class.indexes {
            // A value too many in a unique index would keep others from having it.
            let is_partial = state == State::Partial as u8 || state == State::Extra as u8 && index.is_unique();
            let definition = index.definition(class.version());
            let found = self.backend.get(&definition_key(class.collection(), name))?;
            let found: Option<Value> = found.and_then(|value| serde_json::from_slice(&value).ok());
            let is_this = found.as_ref().is_some_and(|found| found["definition"] == definition.as_str());
            if is_this && !is_partial {
                continue;
            }
            if found.is_none() && is_new {
                let definition = json!({ "definition": definition }).to_string().into_bytes();
                self.undefined.lock().insert(definition_key(collection, name), definition);
                continue;
            }
            chosen.push((name, index));
            reasons.push(match found {
                Some(_) if is_this => Some("was not whole after a crash"),
                Some(_) => Some("was declared otherwise"),
                None => None,
            });
        }
        if !self.backend.is_writable() {
            let keys = chosen.iter().map(|(name, _)| definition_key(class.collection(), name));
            self.unbuilt.lock().extend(keys);
            return Ok(());
        }
        let counts = self.build(shared, class, &chosen)?;
        for (((name, _), count), reason) in chosen.iter().zip(counts).zip(reasons) {
            // A new index of a class without objects is nothing to speak of.
            if let Some(reason) = reason.or((count > 0).then_some("was not there")) {
                self.warn(format!(
                    "the index {}.by.{name} {reason} and was built again: {count} entries",
                    class.name()
                ));
            }
        }
        Ok(())
    }

    /// Builds indexes of a class from its objects, in one pass; says how many entries each has.
    fn build(&self, shared: &Shared, class: &Class, indexes: &[(&String, &Index)]) -> Result<Vec<u64>> {
        let mut counts = vec![0; indexes.len()];
        if indexes.is_empty() {
            return Ok(counts);
        }
        let collection = class.collection();
        let keys: Vec<String> = indexes.iter().map(|(name, _)| definition_key(collection, name)).collect();
        // They count as not there until they are.
        let removed: Vec<Change<'_>> =
            keys.iter().map(|key| Change { key, value: None, expect: Expect::Anything }).collect();
        self.backend.write(&removed, Durability::Durable)?;
        let prefixes: Vec<String> = indexes.iter().map(|(name, _)| index_prefix(collection, name)).collect();
        for (prefix, (name, _)) in prefixes.iter().zip(indexes) {
            self.remove_all(&Range::prefix(prefix))?;
            self.remove_all(&Range::prefix(&claim_key(collection, name, "")))?;
        }

        let (mut entries, mut bytes_held) = (Vec::new(), 0);
        let mut claims = Claims::default();
        for found in shared.backend.entries_in(&Range::prefix(&key::prefix(collection)))? {
            let (key, bytes) = found?;
            let Some((_, oid)) = key::split(&key) else { continue };
            // A damaged object is in no index; whoever asks for it is told.
            let document = match Document::from_bytes(class, oid, &bytes, &|| shared.backend.location()) {
                Ok(document) => document,
                Err(error) => {
                    self.warn(format!("left out of the indexes of {}: {error}", class.name()));
                    continue;
                }
            };
            for ((prefix, (name, index)), count) in prefixes.iter().zip(indexes).zip(&mut counts) {
                for part in index.keys(ObjectView { oid, document: &document }) {
                    let (entry, value) = encode::entry(prefix, &part, oid);
                    let entry = (entry, value.to_vec());
                    bytes_held += size_of_val(&entry) + entry.0.capacity() + entry.1.capacity();
                    entries.push(entry);
                    if index.is_unique() {
                        let claim = Entry { key: claim_key(collection, name, &part), value: oid.as_bytes().to_vec() };
                        bytes_held += size_of_val(&claim) + claim.key.capacity() + part.capacity() + name.len();
                        claims.new.push(((*name).clone(), part, claim));
                    }
                    *count += 1;
                }
            }
            if bytes_held >= RUN_BYTES {
                self.claim_all(class, &mut claims, &mut entries)?;
                self.put_all(&mut entries)?;
                bytes_held = 0;
            }
        }
        self.claim_all(class, &mut claims, &mut entries)?;
        self.put_all(&mut entries)?;
        if let Some(more) = claims.duplicates.checked_sub(MOST_DUPLICATES).filter(|more| *more > 0) {
            self.warn(format!("unique indexes of {} have {more} more values that several objects have", class.name()));
        }
        let definitions: Vec<String> = indexes
            .iter()
            .map(|(_, index)| json!({ "definition": index.definition(class.version()) }).to_string())
            .collect();
        let built: Vec<Change<'_>> = keys
            .iter()
            .zip(&definitions)
            .map(|(key, definition)| Change { key, value: Some(definition.as_bytes()), expect: Expect::Anything })
            .collect();
        self.backend.write(&built, Durability::Durable)?;
        self.defined(keys.iter().map(String::as_str));
        Ok(counts)
    }

    /// Adds claims to what is written. A value that another object has already is left to that one, with a warning.
    fn claim_all(&self, class: &Class, claims: &mut Claims, entries: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let mut owners: HashMap<String, Vec<u8>> = HashMap::with_capacity(claims.new.len());
        let is_first = !std::mem::replace(&mut claims.are_written, true);
        for (index, part, Entry { key, value }) in claims.new.drain(..) {
            let owner = match owners.get(&key) {
                Some(owner) => Some(owner.clone()),
                None if is_first => None,
                None => self.backend.get(&key)?.map(|owner| owner.to_vec()),
            };
            let Some(owner) = owner else {
                owners.insert(key, value);
                continue;
            };
            claims.duplicates += 1;
            if claims.duplicates <= MOST_DUPLICATES {
                let [owner, other] = [owner, value].map(|oid| class.key(&String::from_utf8_lossy(&oid)));
                let (name, value) = (class.name(), encode::decode(&part).unwrap_or_default());
                self.warn(format!(
                    "the unique index {name}.by.{index}: {value} belongs to {owner}, and {other} has it too; change one"
                ));
            }
        }
        entries.extend(owners);
        Ok(())
    }

    /// The indexes of a class that count as there from its first object on.
    pub(crate) fn undefined(&self, collection: &str) -> Vec<(String, Vec<u8>)> {
        let (from, undefined) = (definition_key(collection, ""), self.undefined.lock());
        let of = undefined.range(from.clone()..).take_while(|(key, _)| key.starts_with(&from));
        of.map(|(key, definition)| (key.clone(), definition.clone())).collect()
    }

    /// Notes that these count as there.
    pub(crate) fn defined<'k>(&self, keys: impl Iterator<Item = &'k str>) {
        let mut undefined = self.undefined.lock();
        keys.for_each(|key| drop(undefined.remove(key)));
    }

    fn put_all(&self, entries: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        // In order, a tree is filled page by page.
        entries.sort_unstable();
        for entries in entries.chunks(BUILD_BATCH) {
            let changes: Vec<Change<'_>> = entries
                .iter()
                .map(|(key, value)| Change { key, value: Some(value), expect: Expect::Anything })
                .collect();
            self.backend.write(&changes, Durability::Buffered)?;
        }
        entries.clear();
        Ok(())
    }

    fn remove_all(&self, range: &Range) -> Result<()> {
        loop {
            let keys: Vec<String> = self.backend.keys_in(range)?.take(BUILD_BATCH).collect::<Result<_>>()?;
            if keys.is_empty() {
                return Ok(());
            }
            let changes: Vec<Change<'_>> =
                keys.iter().map(|key| Change { key, value: None, expect: Expect::Anything }).collect();
            self.backend.write(&changes, Durability::Buffered)?;
        }
    }

    /// What becomes of the indexes of an object when one document takes the place of another.
    pub(crate) fn difference(
        &self,
        class: &Class,
        oid: &str,
        old: Option<&Document>,
        new: Option<&Document>,
    ) -> Difference {
        let mut difference = Difference::default();
        for (name, index) in &class.indexes {
            let keys = |document: Option<&Document>| -> BTreeSet<String> {
                document
                    .map(|document| index.keys(ObjectView { oid, document }).into_iter().collect())
                    .unwrap_or_default()
            };
            let (before, after) = (keys(old), keys(new));
            let prefix = index_prefix(class.collection(), name);
            let entry = |part: &String| {
                let (key, value) = encode::entry(&prefix, part, oid);
                Entry { key, value: value.to_vec() }
            };
            let claim = |part: &String| Entry {
                key: claim_key(class.collection(), name, part),
                value: oid.as_bytes().to_vec(),
            };
            difference.added.extend(after.difference(&before).map(entry));
            difference.removed.extend(before.difference(&after).map(entry));
            if index.is_unique() {
                let claims = after.difference(&before).map(|part| (name.clone(), part.clone(), claim(part)));
                difference.claimed.extend(claims);
                difference.released.extend(before.difference(&after).map(claim));
            }
        }
        difference
    }

    /// What is released of what belongs to whoever releases it: of a value that several objects had when the index was built,
    /// only one has the claim.
    fn owned<'a>(&self, difference: &'a Difference) -> Result<HashMap<&'a str, &'a Entry>> {
        let mut owned = HashMap::with_capacity(difference.released.len());
        for entry in &difference.released {
            if self.backend.get(&entry.key)?.is_some_and(|owner| *owner == *entry.value) {
                owned.insert(entry.key.as_str(), entry);
            }
        }
        Ok(owned)
    }

    /// The changes that come before that of the object, and those after it.
    fn changes<'a>(
        difference: &'a Difference,
        released: &HashMap<&'a str, &'a Entry>,
    ) -> (Vec<Change<'a>>, Vec<Change<'a>>) {
        let put = |entry: &'a Entry, expect| Change { key: &entry.key, value: Some(&entry.value), expect };
        let take = |entry: &'a Entry| Change { key: &entry.key, value: None, expect: Expect::Anything };
        let mut claimed = HashSet::with_capacity(difference.claimed.len());
        let mut before = Vec::with_capacity(difference.claimed.len() + difference.added.len());
        for (_, _, entry) in &difference.claimed {
            claimed.insert(entry.key.as_str());
            // A value may go from one object to another in one batch.
            let old = released.get(entry.key.as_str());
            before.push(put(entry, old.map_or(Expect::Absent, |old| Expect::Value(&old.value))));
        }
        before.extend(difference.added.iter().map(|entry| put(entry, Expect::Anything)));
        let released = released.values().copied().filter(|entry| !claimed.contains(entry.key.as_str()));
        let after = difference.removed.iter().chain(released).map(take);
        (before, after.collect())
    }

    /// Two objects of one batch that claim the same value of a unique index.
    fn twice(difference: &Difference) -> Option<(&str, &str, &Entry, &Entry)> {
        let mut seen: HashMap<&str, &Entry> = HashMap::with_capacity(difference.claimed.len());
        difference.claimed.iter().find_map(|(index, part, entry)| {
            seen.insert(&entry.key, entry).map(|other| (index.as_str(), part.as_str(), entry, other))
        })
    }

    /// Writes objects, and what that does to their indexes.
    pub(crate) fn write(
        &self,
        shared: &Shared,
        objects: &[Change<'_>],
        difference: &Difference,
        durability: Durability,
    ) -> Result<()> {
        if let Some((index, part, entry, other)) = Self::twice(difference) {
            let text = |entry: &Entry| String::from_utf8_lossy(&entry.value).into_owned();
            // The collection is the second part of the key.
            let collection = entry.key.split('\0').nth(1).unwrap_or_default();
            return Err(Error::NotUnique {
                class: collection.to_owned(),
                index: index.to_owned(),
                value: Box::new(encode::decode(part).unwrap_or_default()),
                key: key::of(collection, &text(entry)),
                other: key::of(collection, &text(other)),
            });
        }
        let released = self.owned(difference)?;
        let (before, after) = Self::changes(difference, &released);
        if self.is_shared {
            if !self.backend.is_atomic() && !difference.is_empty() {
                self.note(durability)?;
            }
            let all = [before.as_slice(), objects, after.as_slice()].concat();
            return self.backend.write(&all, durability);
        }
        if difference.is_empty() {
            return shared.backend.write(objects, durability);
        }
        self.note(durability)?;
        self.backend.write(&before, durability)?;
        if let Err(error) = shared.backend.write(objects, durability) {
            // What was added may be true of objects that were written in spite of the error, or by somebody else: it stays, and
            // answers are compared with the objects until the indexes are built again.
            self.verifies.store(true, Ordering::Release);
            if matches!(error, Error::Exists { .. } | Error::Absent { .. } | Error::Changed { .. }) {
                self.give_back(difference, &released)?;
            }
            return Err(error);
        }
        if let Err(error) = self.backend.write(&after, Durability::Buffered) {
            // The objects are stored; entries too many are left out of the answers.
            self.verifies.store(true, Ordering::Release);
            self.warn(format!("entries of values that objects no longer have could not be removed: {error}"));
        }
        Ok(())
    }

    /// Gives the values of unique indexes back to whom they belonged before a write that was refused.
    fn give_back(&self, difference: &Difference, released: &HashMap<&str, &Entry>) -> Result<()> {
        let back: Vec<Change<'_>> = difference
            .claimed
            .iter()
            .map(|(_, _, entry)| {
                let owner = released.get(entry.key.as_str()).map(|owner| owner.value.as_slice());
                Change { key: &entry.key, value: owner, expect: Expect::Anything }
            })
            .collect();
        self.backend.write(&back, Durability::Buffered)
    }

    /// Who has a value of a unique index that an object was refused.
    pub(crate) fn owner(&self, class: &Class, difference: &Difference, key: &str) -> Result<Option<Error>> {
        let Some((index, part, entry)) = difference.claimed.iter().find(|(_, _, entry)| entry.key == key) else {
            return Ok(None);
        };
        let other = self.backend.get(&entry.key)?.unwrap_or_default();
        let other = String::from_utf8_lossy(&other).into_owned();
        Ok(Some(Error::NotUnique {
            class: class.name().to_owned(),
            index: index.clone(),
            value: Box::new(encode::decode(part).unwrap_or_default()),
            key: class.key(&String::from_utf8_lossy(&entry.value)),
            other: class.key(&other),
        }))
    }

    /// Writes down, before the first write since they were whole, what a crash may leave.
    fn note(&self, durability: Durability) -> Result<()> {
        let wanted = match durability {
            Durability::Durable => State::Extra,
            Durability::Buffered => State::Partial,
        };
        if self.state.load(Ordering::Acquire) >= wanted as u8 { Ok(()) } else { self.settle(wanted) }
    }

    fn settle(&self, state: State) -> Result<()> {
        if self.is_shared && self.backend.is_atomic() || self.state.load(Ordering::Acquire) == state as u8 {
            return Ok(());
        }
        let value = json!({ "state": state.name() }).to_string();
        let change = Change { key: STATE, value: Some(value.as_bytes()), expect: Expect::Anything };
        self.backend.write(&[change], Durability::Durable)?;
        self.state.store(state as u8, Ordering::Release);
        Ok(())
    }

    /// Brings everything to the disk, indexes first. Afterwards they are whole, unless they were not before.
    pub(crate) fn sync(&self, shared: &Shared) -> Result<()> {
        let _alone = shared.saving.shut();
        self.backend.sync()?;
        shared.backend.sync()?;
        if self.verifies() { self.settle(State::Extra) } else { self.settle(State::Clean) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backend::MemoryBackend;
    use crate::index::Indexing;
    use crate::types::Type;

    #[test]
    fn a_rebuild_makes_the_entries_that_saves_made_however_many_runs_it_takes() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let storage = ObjectStorage::new(Arc::clone(&backend));
        let class = Class::new("Run").property("name", Type::Line).property("tags", Type::list(Type::Line));
        let unique = Index::of_property("name", Indexing::Normalize).unique();
        storage.register(class.with_index("name", unique).index("tags", Indexing::Value)).unwrap();
        let indexes = Indexes::attach(&storage, Arc::clone(&backend)).unwrap();
        let objects: Vec<_> = (0..500_u32)
            .map(|n| (format!("Run {}", n.wrapping_mul(2_654_435_761)), format!("{}", n % 3), format!("{}", n % 7)))
            .map(|(name, tag, other)| json!({ "name": name, "tags": [tag, other] }))
            .map(|properties| storage.create("Run", properties).unwrap())
            .collect();
        storage.save_all(&objects).unwrap();
        let entries =
            || backend.entries_in(&Range::prefix("@")).unwrap().collect::<Result<Vec<(String, Bytes)>>>().unwrap();
        let saved = entries();
        let bytes: usize = saved.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes > 3 * RUN_BYTES, "{bytes} bytes are not several runs");
        let key = format!("{}3x\0gone", index_prefix("Run", "tags"));
        let stale = Change { key: &key, value: Some(b""), expect: Expect::Absent };
        backend.write(&[stale], Durability::Durable).unwrap();
        indexes.rebuild(true).unwrap();
        assert_eq!(entries(), saved);
    }
}
