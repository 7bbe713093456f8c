//! What is known about the weights: the store's objects and files, and its checkpoints among them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use corallite_objects::backend::{Backend, BackendExt, Range};
use corallite_objects::class::WEIGHT;
use corallite_objects::types::date_time;
use corallite_objects::{
    Class, Indexes, Indexing, ObjectStorage, OnRemove, RawClass, RawStorage, Reference, StoredObject, Type,
};
use corallite_weights::{Checkpoint, Checkpoints, Hdf5Store, WeightHash};
use serde_json::{Value, json};

use crate::StoreBackend;
use crate::error::Result;

/// The class of checkpoints.
pub const CHECKPOINT: &str = "Checkpoint";

/// The class of files without another one.
pub const FILE: &str = "File";

/// Properties that say what a checkpoint is, and that only adding it sets.
pub const FIXED: [&str; 5] = ["name", "source", "created", "tensors", "bytes"];

/// The objects and files of an open store.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) backend: Arc<StoreBackend>,
    pub(crate) objects: ObjectStorage,
    pub(crate) indexes: Indexes,
    pub(crate) files: RawStorage,
}

fn checkpoint_class() -> Class {
    Class::new(CHECKPOINT)
        .open()
        .property("name", Type::String)
        .property("source", Type::String)
        .property("created", Type::DateTime)
        .property("tensors", Type::Positive)
        .property("bytes", Type::Positive)
        .property("tags", Type::list(Type::Line))
        .property("metrics", Type::Any)
        .one("parent", CHECKPOINT)
        .many("weights", WEIGHT)
        .on_remove("parent", OnRemove::Drop)
        .index("tags", Indexing::Value)
}

impl Described {
    /// Opens them. Checkpoints that have no object yet, of older stores and of whoever uses only the weights, get one.
    pub(crate) fn open(backend: Arc<StoreBackend>, weights: &Hdf5Store) -> Result<Self> {
        let shared: Arc<dyn Backend> = backend.clone();
        let objects = ObjectStorage::new(Arc::clone(&shared));
        objects.register(checkpoint_class())?;
        let indexes = Indexes::attach(&objects, Arc::clone(&shared))?;
        let files = RawStorage::new(shared);
        files.register(RawClass::new(FILE))?;
        objects.connect(&files)?;
        let described = Self { backend, objects, indexes, files };
        if weights.storage().is_writable() {
            described.follow(weights)?;
        }
        Ok(described)
    }

    /// Makes the objects of checkpoints those of the checkpoints that there are.
    fn follow(&self, weights: &Hdf5Store) -> Result<()> {
        let checkpoints = Checkpoints::new(weights);
        let stored: HashSet<String> = checkpoints.names()?.into_iter().collect();
        let prefix = format!("{CHECKPOINT}.");
        let keys: HashSet<String> = self.backend.keys(&prefix)?.collect::<corallite_objects::Result<_>>()?;
        let described: HashSet<&str> = keys.iter().map(|key| &key[prefix.len()..]).collect();
        let mut new = Vec::new();
        for name in stored.iter().filter(|name| !described.contains(name.as_str())) {
            // One that is damaged has no object; whoever asks for it is told why.
            if let Ok(Some(checkpoint)) = checkpoints.get(name) {
                new.push(self.describe(&checkpoint, json!({}))?);
            }
        }
        self.objects.save_all(&new)?;
        for name in described.into_iter().filter(|name| !stored.contains(*name)) {
            // One that was never a checkpoint's is somebody's own.
            if let Some(object) = self.objects.get(CHECKPOINT, name)?.filter(|object| object.get("tensors").is_some()) {
                object.remove()?;
            }
        }
        Ok(())
    }

    /// The object of a checkpoint, which is not saved yet.
    pub(crate) fn describe(&self, checkpoint: &Checkpoint, properties: Value) -> Result<StoredObject> {
        let info = checkpoint.info();
        let object = self.objects.create_with_oid(CHECKPOINT, &info.name, properties)?;
        object.update(json!({
            "name": info.name,
            "source": info.source,
            "created": date_time(info.added_at),
            "tensors": info.tensors,
            "bytes": info.logical_bytes,
        }))?;
        let weights = checkpoint.tensors().iter().map(|tensor| Reference::new(WEIGHT, tensor.key.as_str()));
        object.relation("weights")?.set(weights)?;
        Ok(object)
    }

    /// The weights that objects lead to, each with the key of one that does.
    pub(crate) fn needed_weights(&self) -> Result<BTreeMap<WeightHash, String>> {
        let mut needed = BTreeMap::new();
        for entry in self.backend.entries_in(&Range::default())? {
            let (key, bytes) = entry?;
            // Keys that begin with an @ are no objects; and most objects lead to no weight.
            if key.starts_with('@') || !is_within(&bytes, br#""type":"weight""#) {
                continue;
            }
            // What cannot be read may need any of them.
            let document: Value = serde_json::from_slice(&bytes).map_err(|error| {
                let problem = format!("{error}, so that the weights it needs are unknown, and none can be freed");
                corallite_objects::Error::Malformed { location: self.backend.location(), key: key.clone(), problem }
            })?;
            each_weight(&document, &mut |hash| {
                if let Ok(hash) = WeightHash::new(hash) {
                    needed.entry(hash).or_insert_with(|| key.clone());
                }
            });
        }
        Ok(needed)
    }
}

fn is_within(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

/// Calls `each` with every weight that a document refers to.
fn each_weight(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_weight(item, each)),
        Value::Object(map) => match (map.get("type").and_then(Value::as_str), map.get("oid").and_then(Value::as_str)) {
            (Some(WEIGHT), Some(hash)) => each(hash),
            _ => map.values().for_each(|value| each_weight(value, each)),
        },
        _ => {}
    }
}
