//! [`Files`] and [`Raw`]: files whose metadata is a struct.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde_json::Value;

use super::StoredFile;
use crate::error::Result;
use crate::raw::{RawStorage, Source, StoredRaw};
use crate::reference::Reference;

/// The files of the class whose metadata is `T`. Cheap to clone; shared by threads.
pub struct Files<T> {
    storage: RawStorage,
    of: PhantomData<fn() -> T>,
}

impl RawStorage {
    /// Makes the class of a struct known; see [`RawStorage::register`].
    ///
    /// # Errors
    ///
    /// As [`RawStorage::register`].
    pub fn register_type<T: StoredFile>(&self) -> Result<Files<T>> {
        self.register(T::class())?;
        self.of()
    }

    /// The files of a struct's class.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`](crate::Error::Unknown) when it is not registered.
    pub fn of<T: StoredFile>(&self) -> Result<Files<T>> {
        self.class(T::NAME)?;
        Ok(Files { storage: self.clone(), of: PhantomData })
    }
}

impl<T: StoredFile> Files<T> {
    /// A new file, which is stored when it is saved.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::create`].
    pub fn create(&self, data: impl Into<Source>, meta: &T) -> Result<Raw<T>> {
        Ok(Raw::new(self.storage.create(T::NAME, data, Value::Object(meta.to_values()?))?))
    }

    /// Stores a new file, durably.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::create`] and [`StoredRaw::save`].
    pub fn insert(&self, data: impl Into<Source>, meta: &T) -> Result<Raw<T>> {
        let raw = self.create(data, meta)?;
        raw.save()?;
        Ok(raw)
    }

    /// The file with an id.
    ///
    /// # Errors
    ///
    /// As [`RawStorage::get`]; so all the others.
    pub fn get(&self, oid: &str) -> Result<Option<Raw<T>>> {
        Ok(self.storage.get(T::NAME, oid)?.map(Raw::new))
    }

    /// Whether there is a file with an id.
    ///
    /// # Errors
    ///
    /// As [`Files::get`].
    pub fn has(&self, oid: &str) -> Result<bool> {
        self.storage.has(T::NAME, oid)
    }

    /// How many there are.
    ///
    /// # Errors
    ///
    /// As [`Files::get`].
    pub fn count(&self) -> Result<u64> {
        self.storage.count(T::NAME)
    }

    /// All of them, by their ids.
    ///
    /// # Errors
    ///
    /// As [`Files::get`].
    pub fn all(&self) -> Result<impl Iterator<Item = Result<Raw<T>>>> {
        Ok(self.storage.all(T::NAME)?.map(|raw| raw.map(Raw::new)))
    }
}

impl<T> Clone for Files<T> {
    fn clone(&self) -> Self {
        Self { storage: self.storage.clone(), of: PhantomData }
    }
}

impl<T: StoredFile> fmt::Debug for Files<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Files").field(&T::NAME).finish()
    }
}

/// A file of the class whose metadata is `T`. It is a [`StoredRaw`](struct@StoredRaw), which it derefs to: its data, `save`,
/// `remove` and so on are there.
pub struct Raw<T> {
    raw: StoredRaw,
    of: PhantomData<fn() -> T>,
}

impl<T: StoredFile> Raw<T> {
    pub(super) fn new(raw: StoredRaw) -> Self {
        Self { raw, of: PhantomData }
    }

    /// Its metadata, as it is now, saved or not.
    ///
    /// # Errors
    ///
    /// [`Error::Type`](crate::Error::Type) when the struct cannot hold it.
    pub fn read(&self) -> Result<T> {
        T::from_values(self.raw.all_meta())
    }

    /// Changes its metadata by changing its struct; gives what the function gives. Only what became another value is
    /// changed. It is kept when the file is saved.
    ///
    /// # Errors
    ///
    /// As [`Raw::read`], and [`Error::Type`](crate::Error::Type) for values that the class does not allow; nothing is
    /// changed then.
    pub fn edit<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        let mut meta = self.read()?;
        let before = meta.to_values()?;
        let result = change(&mut meta);
        let mut after = meta.to_values()?;
        after.retain(|name, value| before.get(name) != Some(value));
        self.raw.set_meta(Value::Object(after))?;
        Ok(result)
    }
}

impl<T> Deref for Raw<T> {
    type Target = StoredRaw;

    fn deref(&self) -> &StoredRaw {
        &self.raw
    }
}

impl<T> Clone for Raw<T> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Raw<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<T> fmt::Debug for Raw<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl<T> From<&Raw<T>> for Reference {
    fn from(raw: &Raw<T>) -> Self {
        raw.reference()
    }
}
