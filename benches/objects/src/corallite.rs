//! Corallite: the object layer over one of its backends.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use corallite::Store;
use corallite_objects::backend::{Backend, DbmBackend, DirectoryBackend};
use corallite_objects::{Class, Indexes, Indexing, ObjectStorage, RawClass, RawStorage, StoredObject, StoredRaw, Type};
use serde_json::Value;

use crate::engine::{Engine, Files, Kind};
use crate::workload::{CLASS, Found, INDEXED, Object};

pub(crate) struct Corallite {
    storage: ObjectStorage,
    indexes: Option<Indexes>,
    held: Vec<StoredObject>,
    /// Dropped last: it closes the backend in it.
    _store: Option<Store>,
}

fn backend(kind: Kind, folder: &Path) -> Result<(Arc<dyn Backend>, Option<Store>)> {
    Ok(match kind {
        Kind::Dbm => (Arc::new(DbmBackend::open(folder.join("objects.dbm"))?), None),
        Kind::Directory => (Arc::new(DirectoryBackend::open(folder.join("objects"))?), None),
        Kind::Store => {
            let store = Store::open(folder.join("objects.h5"))?;
            (store.objects_backend()?, Some(store))
        }
        Kind::Sqlite | Kind::Redb | Kind::Files => bail!("{} is a peer", kind.title()),
    })
}

impl Corallite {
    pub(crate) fn open(kind: Kind, folder: &Path) -> Result<Self> {
        let (backend, store) = backend(kind, folder)?;
        let storage = ObjectStorage::new(backend);
        let class = Class::new(CLASS)
            .property("name", Type::Line)
            .property("project", Type::Line)
            .property("loss", Type::Float)
            .property("steps", Type::Integer)
            .property("tags", Type::list(Type::Line))
            .property("notes", Type::String);
        storage.register(INDEXED.into_iter().fold(class, |class, name| class.index(name, Indexing::Value)))?;
        Ok(Self { storage, indexes: None, held: Vec::new(), _store: store })
    }

    /// With the indexes in the objects' backend.
    pub(crate) fn indexed(mut self) -> Result<Self> {
        self.indexes = Some(Indexes::attach(&self.storage, Arc::clone(self.storage.backend()))?);
        Ok(self)
    }

    fn indexes(&self) -> Result<&Indexes> {
        self.indexes.as_ref().context("it was opened without indexes")
    }

    fn object(&self, oid: &str) -> Result<StoredObject> {
        self.storage.get(CLASS, oid)?.with_context(|| format!("{oid} is not there"))
    }
}

fn steps(object: &StoredObject) -> Result<u64> {
    object.get("steps").as_ref().and_then(Value::as_u64).with_context(|| format!("{} has no steps", object.key()))
}

impl Engine for Corallite {
    fn save(&self, objects: Vec<Object>) -> Result<()> {
        let made: corallite_objects::Result<Vec<StoredObject>> = objects
            .into_iter()
            .map(|object| self.storage.create_with_oid(CLASS, &object.oid, Value::Object(object.properties)))
            .collect();
        self.storage.save_all(&made?)?;
        Ok(())
    }

    fn get(&self, oid: &str) -> Result<u64> {
        steps(&self.object(oid)?)
    }

    fn hold(&mut self, oids: &[String]) -> Result<()> {
        self.held = oids.iter().map(|oid| self.object(oid)).collect::<Result<_>>()?;
        Ok(())
    }

    fn find(&self, property: &str, value: &str) -> Result<Found> {
        let mut found = Found::default();
        for object in self.indexes()?.of(CLASS)?.by(property)?.get(value)? {
            found.add(steps(&object?)?);
        }
        Ok(found)
    }

    fn rebuild(&self) -> Result<u64> {
        Ok(self.indexes()?.rebuild(true)?)
    }
}

/// A [`RawStorage`] with one file.
pub(crate) struct RawFiles {
    storage: RawStorage,
    file: Option<StoredRaw>,
    /// Dropped last: it closes the backend in it.
    _store: Option<Store>,
}

impl RawFiles {
    pub(crate) fn open(kind: Kind, folder: &Path) -> Result<Self> {
        let (backend, store) = backend(kind, folder)?;
        let storage = RawStorage::new(backend);
        storage.register(RawClass::new("File"))?;
        Ok(Self { storage, file: None, _store: store })
    }
}

impl Files for RawFiles {
    fn put(&mut self, source: &Path) -> Result<()> {
        let file = self.storage.create("File", source.to_path_buf(), Value::Null)?;
        file.save()?;
        self.file = Some(file);
        Ok(())
    }

    fn take(&self) -> Result<u64> {
        let file = self.file.as_ref().context("nothing was stored")?;
        // The last chunk is followed by the hash's check.
        file.data(0)?.try_fold(0, |sum, chunk| Ok(sum + chunk?.len() as u64))
    }
}
