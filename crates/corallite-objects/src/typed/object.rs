//! [`Object`]: an object whose form is a struct.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde_json::{Map, Value};

use super::Stored;
use crate::class::Class;
use crate::document::{Document, reference};
use crate::error::Result;
use crate::object::{Changes, StoredObject};
use crate::reference::Reference;
use crate::storage::ObjectStorage;

/// An object of the class whose form is `T`. It is a [`StoredObject`](struct@StoredObject), which it derefs to: its id,
/// `save`, `remove`, `export` and so on are there.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{MemoryBackend, ObjectStorage, StoredObject};
///
/// #[derive(StoredObject)]
/// struct Run { name: String, steps: u64 }
///
/// let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
/// storage.register_type::<Run>()?;
/// let run = storage.insert(&Run { name: "base".into(), steps: 0 })?;
/// let steps = run.edit(|run| { run.steps += 10; run.steps })?;
/// assert!(run.save()? && steps == 10);
/// assert_eq!((run.read()?.steps, run.revision()), (10, 2));
/// # Ok::<(), corallite_objects::Error>(())
/// ```
pub struct Object<T> {
    object: StoredObject,
    of: PhantomData<fn() -> T>,
}

/// The properties and relations of a document, as a struct is made of them.
pub(super) fn values_of(class: &Class, document: &Document) -> Map<String, Value> {
    let mut values = document.properties.clone();
    for (name, targets) in &document.relations {
        let is_many = class.relations().get(name).is_none_or(|relation| relation.is_many);
        let value = match is_many {
            true => targets.iter().map(reference).collect(),
            false => targets.first().map_or(Value::Null, reference),
        };
        values.insert(name.clone(), value);
    }
    values
}

impl<T: Stored> Object<T> {
    pub(super) fn new(object: StoredObject) -> Self {
        Self { object, of: PhantomData }
    }

    /// The object as the dynamic form has it.
    pub fn into_dynamic(self) -> StoredObject {
        self.object
    }

    /// The storage it is of.
    pub fn storage(&self) -> ObjectStorage {
        ObjectStorage { shared: self.object.0.shared.clone() }
    }

    /// Its properties and relations, as they are now, saved or not.
    ///
    /// # Errors
    ///
    /// [`Error::Type`](crate::Error::Type) when the struct cannot hold them: a property without a value needs an `Option`, a
    /// default, or a migration.
    pub fn read(&self) -> Result<T> {
        let document = self.object.0.state.lock().document.clone();
        T::from_values(values_of(self.object.class(), &document))
    }

    /// Changes it by changing its struct, with nobody else changing it meanwhile; gives what the function gives. Only what
    /// became another value is changed. It is kept when the object is saved. The function must not use this object, which is
    /// locked; and no others either, for two threads that each change one and use the other wait for ever. Saving and removing,
    /// of anything, is refused within it with [`Error::Usage`](crate::Error::Usage).
    ///
    /// # Errors
    ///
    /// As [`Object::read`], and [`Error::Type`](crate::Error::Type) for values that the class does not allow; nothing is
    /// changed then.
    pub fn edit<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.change(|value| {
            let result = change(value);
            Ok((value.to_values()?, result))
        })
    }

    /// Makes it what a struct says. Only what has another value is changed.
    ///
    /// # Errors
    ///
    /// As [`Object::edit`].
    pub fn write(&self, value: &T) -> Result<()> {
        self.change(|_| Ok((value.to_values()?, ())))
    }

    fn change<R>(&self, change: impl FnOnce(&mut T) -> Result<(Map<String, Value>, R)>) -> Result<R> {
        let class = self.object.class();
        self.object.change(|document| {
            let edited = || -> Result<(Changes, R)> {
                let mut value = T::from_values(values_of(class, document))?;
                let before = value.to_values()?;
                let (mut after, result) = change(&mut value)?;
                // A password is a hash by now, and must not be hashed again; what is not in the struct stays.
                after.retain(|name, value| before.get(name) != Some(value));
                Ok((Changes::checked(class, after)?, result))
            };
            match edited() {
                Ok((changes, result)) => (changes.apply(document), Ok(result)),
                Err(error) => (Vec::new(), Err(error)),
            }
        })
    }
}

impl<T> Deref for Object<T> {
    type Target = StoredObject;

    fn deref(&self) -> &StoredObject {
        &self.object
    }
}

impl<T> Clone for Object<T> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Object<T> {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

impl<T> fmt::Debug for Object<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

impl<T> From<&Object<T>> for Reference {
    fn from(object: &Object<T>) -> Self {
        object.reference()
    }
}

impl<T> From<Object<T>> for StoredObject {
    fn from(object: Object<T>) -> Self {
        object.object
    }
}
