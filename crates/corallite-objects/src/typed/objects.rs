//! [`Objects`]: the objects of a class whose form is a struct.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Object, Stored};
use crate::error::{Error, Result};
use crate::index::{IndexView, Limits, ObjectIndexes};
use crate::query::{Plan, Query};
use crate::storage::ObjectStorage;

/// The objects of the class whose form is `T`. Cheap to clone; shared by threads.
pub struct Objects<T> {
    storage: ObjectStorage,
    of: PhantomData<fn() -> T>,
}

impl ObjectStorage {
    /// Makes the class of a struct known; see [`ObjectStorage::register`].
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::register`].
    pub fn register_type<T: Stored>(&self) -> Result<Objects<T>> {
        self.register(T::class())?;
        self.of()
    }

    /// The objects of a struct's class.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] when it is not registered.
    pub fn of<T: Stored>(&self) -> Result<Objects<T>> {
        self.class(T::NAME)?;
        Ok(Objects { storage: self.clone(), of: PhantomData })
    }

    /// Stores a new object, durably: [`Objects::insert`].
    ///
    /// # Errors
    ///
    /// As [`Objects::insert`].
    pub fn insert<T: Stored>(&self, value: &T) -> Result<Object<T>> {
        self.of()?.insert(value)
    }

    /// The object with an id: [`Objects::get`].
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`].
    pub fn get_typed<T: Stored>(&self, oid: &str) -> Result<Option<Object<T>>> {
        self.of()?.get(oid)
    }

    /// The objects that a condition is true of: [`Objects::find`].
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::find`].
    pub fn find_typed<T: Stored>(&self, condition: &str) -> Result<TypedQuery<T>> {
        self.of()?.find(condition)
    }
}

impl<T: Stored> Objects<T> {
    /// The storage they are in.
    pub fn storage(&self) -> &ObjectStorage {
        &self.storage
    }

    /// A new object, which is stored when it is saved.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::create`].
    pub fn create(&self, value: &T) -> Result<Object<T>> {
        Ok(Object::new(self.storage.create(T::NAME, Value::Object(value.to_values()?))?))
    }

    /// A new object with an id of the caller's choice, which is stored when it is saved.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::create_with_oid`].
    pub fn create_with_oid(&self, oid: &str, value: &T) -> Result<Object<T>> {
        Ok(Object::new(self.storage.create_with_oid(T::NAME, oid, Value::Object(value.to_values()?))?))
    }

    /// Stores a new object, durably. It is stored at once also within [`ObjectStorage::scope`], which saves what
    /// [`Objects::create`] makes.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::create`] and [`StoredObject::save`](crate::StoredObject::save).
    pub fn insert(&self, value: &T) -> Result<Object<T>> {
        let object = self.create(value)?;
        object.save()?;
        Ok(object)
    }

    /// Stores new objects, durably, in one batch; see [`ObjectStorage::save_all`].
    ///
    /// # Errors
    ///
    /// As [`Objects::insert`].
    pub fn insert_all<'a>(&self, values: impl IntoIterator<Item = &'a T>) -> Result<Vec<Object<T>>>
    where
        T: 'a,
    {
        let objects: Vec<Object<T>> = values.into_iter().map(|value| self.create(value)).collect::<Result<_>>()?;
        let dynamic: Vec<_> = objects.iter().map(|object| (**object).clone()).collect();
        self.storage.save_all(&dynamic)?;
        Ok(objects)
    }

    /// The object with an id. While somebody has it, everybody gets the same one.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`]; so all the others.
    pub fn get(&self, oid: &str) -> Result<Option<Object<T>>> {
        Ok(self.storage.get(T::NAME, oid)?.map(Object::new))
    }

    /// The object with an id; a new one with the struct's default values, not saved yet, if there is none.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::ensure`].
    pub fn ensure(&self, oid: &str) -> Result<Object<T>>
    where
        T: Default,
    {
        let values = || Ok(Value::Object(T::default().to_values()?));
        Ok(Object::new(self.storage.ensure_with(T::NAME, oid, values)?))
    }

    /// Whether there is an object with an id.
    ///
    /// # Errors
    ///
    /// As [`Objects::get`].
    pub fn has(&self, oid: &str) -> Result<bool> {
        self.storage.has(T::NAME, oid)
    }

    /// How many there are.
    ///
    /// # Errors
    ///
    /// As [`Objects::get`].
    pub fn count(&self) -> Result<u64> {
        self.storage.count(T::NAME)
    }

    /// All of them, by their ids; see [`ObjectStorage::all`].
    ///
    /// # Errors
    ///
    /// As [`Objects::get`].
    pub fn all(&self) -> Result<impl Iterator<Item = Result<Object<T>>>> {
        Ok(self.storage.all(T::NAME)?.map(|object| object.map(Object::new)))
    }

    /// Some of [`Objects::all`]: at most `count`, from number `start` on and before number `end`.
    ///
    /// # Errors
    ///
    /// As [`Objects::get`].
    pub fn list(
        &self,
        count: Option<usize>,
        start: usize,
        end: Option<usize>,
    ) -> Result<impl Iterator<Item = Result<Object<T>>>> {
        Ok(self.storage.list(T::NAME, count, start, end)?.map(|object| object.map(Object::new)))
    }

    /// An object of an export, or of a map of properties; see [`ObjectStorage::import`].
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::import`].
    pub fn import(&self, properties: Value) -> Result<Object<T>> {
        Ok(Object::new(self.storage.import(T::NAME, properties)?))
    }

    /// Those that a condition is true of; see [`crate::query`].
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::find`].
    pub fn find(&self, condition: &str) -> Result<TypedQuery<T>> {
        Ok(TypedQuery { query: self.storage.find(T::NAME, condition)?, of: PhantomData })
    }

    /// One of the indexes.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`]; [`Error::Usage`] when the storage has no indexes attached.
    pub fn by(&self, index: &str) -> Result<TypedIndex<T>> {
        let shared = &self.storage.shared;
        let none = || Error::Usage("the storage has no indexes; attach them with `Indexes::attach`".to_owned());
        let keeper = Arc::clone(shared.keeper.get().ok_or_else(none)?);
        let indexes = ObjectIndexes { shared: Arc::clone(shared), keeper, class: shared.class(T::NAME)? };
        Ok(TypedIndex { view: indexes.by(index)?, of: PhantomData })
    }
}

impl<T> Clone for Objects<T> {
    fn clone(&self) -> Self {
        Self { storage: self.storage.clone(), of: PhantomData }
    }
}

impl<T: Stored> fmt::Debug for Objects<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&T::NAME).finish()
    }
}

/// A [`Query`] for objects of the class whose form is `T`.
pub struct TypedQuery<T> {
    query: Query,
    of: PhantomData<fn() -> T>,
}

impl<T: Stored> TypedQuery<T> {
    /// [`Query::sort`].
    pub fn sort(self, by: &str) -> Self {
        Self { query: self.query.sort(by), of: PhantomData }
    }

    /// [`Query::limit`].
    pub fn limit(self, limit: usize) -> Self {
        Self { query: self.query.limit(limit), of: PhantomData }
    }

    /// [`Query::explain`].
    ///
    /// # Errors
    ///
    /// As [`Query::explain`].
    pub fn explain(&self) -> Result<Plan> {
        self.query.explain()
    }

    /// The objects, as they are stored.
    ///
    /// # Errors
    ///
    /// As [`Query::run`].
    pub fn run(&self) -> Result<Vec<Object<T>>> {
        Ok(self.query.run()?.into_iter().map(Object::new).collect())
    }

    /// The objects, and an error for each damaged one: [`Query::each`].
    ///
    /// # Errors
    ///
    /// As [`Query::each`].
    pub fn each(&self) -> Result<impl Iterator<Item = Result<Object<T>>> + use<T>> {
        Ok(self.query.each()?.map(|object| object.map(Object::new)))
    }

    /// How many there are.
    ///
    /// # Errors
    ///
    /// As [`Query::run`].
    pub fn count(&self) -> Result<usize> {
        self.query.count()
    }
}

impl<T> fmt::Debug for TypedQuery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.query.fmt(f)
    }
}

/// An [`IndexView`] of objects of the class whose form is `T`. It derefs to the view: `has`, `count` and `keys` are there.
/// Arguments are anything that serde makes JSON of.
pub struct TypedIndex<T> {
    view: IndexView,
    of: PhantomData<fn() -> T>,
}

impl<T: Stored> TypedIndex<T> {
    /// The objects that have a value, by their ids.
    ///
    /// # Errors
    ///
    /// As [`IndexView::get`]; so all the others.
    pub fn get(&self, value: impl serde::Serialize) -> Result<impl Iterator<Item = Result<Object<T>>>> {
        Ok(self.view.get(json!(value))?.map(|object| object.map(Object::new)))
    }

    /// One of the objects that have a value, the first being number 0.
    ///
    /// # Errors
    ///
    /// As [`TypedIndex::get`].
    pub fn one(&self, value: impl serde::Serialize, number: usize) -> Result<Option<Object<T>>> {
        self.get(value)?.nth(number).transpose()
    }

    /// Objects by their values, in order; see [`IndexView::list`].
    ///
    /// # Errors
    ///
    /// As [`TypedIndex::get`].
    pub fn list(&self, limits: &Limits) -> Result<impl Iterator<Item = Result<Object<T>>>> {
        Ok(self.view.list(limits)?.map(|object| object.map(Object::new)))
    }

    /// The objects that have a text that begins with this one.
    ///
    /// # Errors
    ///
    /// As [`TypedIndex::get`].
    pub fn prefix(&self, text: &str) -> Result<impl Iterator<Item = Result<Object<T>>>> {
        Ok(self.view.prefix(text)?.map(|object| object.map(Object::new)))
    }
}

impl<T> Deref for TypedIndex<T> {
    type Target = IndexView;

    fn deref(&self) -> &IndexView {
        &self.view
    }
}

impl<T> fmt::Debug for TypedIndex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}
