//! What the derive macros' code calls. Not for others: it changes with them.

use std::marker::PhantomData;
use std::sync::OnceLock;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use serde_json::{Map, Value};

use super::{Object, PropertyType, Raw, RelationField, Stored, StoredFile};
use crate::class::{Class, OnRemove};
use crate::error::{Error, Result};
use crate::index::{Index, Indexing, ObjectView};
use crate::key;
use crate::storage::ObjectStorage;
use crate::types::{Type, Violation};

fn refused(class: &str, property: &str, value: String, rule: String) -> Error {
    let violation = Violation { place: String::new(), value, rule };
    Error::Type { class: class.to_owned(), property: property.to_owned(), violation }
}

/// Adds a field to the values of its struct.
pub fn put<F: Serialize + DeserializeOwned>(
    values: &mut Map<String, Value>,
    class: &str,
    name: &str,
    field: &F,
) -> Result<()> {
    let value = serde_json::to_value(field)
        .map_err(|error| refused(class, name, "what it is".to_owned(), format!("no JSON: {error}")))?;
    // A float that is no number becomes null, which would not become a float again.
    if value.is_null()
        && let Err(error) = serde_json::from_value::<F>(Value::Null)
    {
        return Err(refused(class, name, "null".to_owned(), format!("not what its field could be read from: {error}")));
    }
    values.insert(name.to_owned(), value);
    Ok(())
}

/// Takes a field from the values of its struct; what has no value is null.
pub fn take<F: DeserializeOwned>(values: &mut Map<String, Value>, class: &str, name: &str) -> Result<F> {
    let value = values.remove(name).unwrap_or_default();
    let text = key::shorten(&value.to_string());
    serde_json::from_value(value)
        .map_err(|error| refused(class, name, text, format!("not what its field holds: {error}")))
}

/// [`take`], of what has a default.
pub fn take_or<F: DeserializeOwned>(
    values: &mut Map<String, Value>,
    class: &str,
    name: &str,
    default: impl FnOnce() -> F,
) -> Result<F> {
    match values.get(name) {
        None | Some(Value::Null) => Ok(default()),
        Some(_) => take(values, class, name),
    }
}

/// The JSON of a value, if it has one.
pub fn value_of<V: Serialize>(value: &V) -> Option<Value> {
    serde_json::to_value(value).ok()
}

/// The default of a property.
pub fn default_of<F: Serialize>(default: F) -> Option<Value> {
    value_of(&default).filter(|value| !value.is_null())
}

/// Declares a property.
pub fn property(class: Class, name: &str, of: Type, default: Option<Value>) -> Class {
    match default {
        Some(default) => class.property_or(name, of, default),
        None => class.property(name, of),
    }
}

/// Declares a relation.
pub fn relation<F: RelationField>(class: Class, name: &str, on_remove: OnRemove) -> Class {
    class.relation(name, F::relation(on_remove))
}

/// What a field is: asked by methods of the same name on ever fewer references, of which the compiler takes the first one
/// whose bounds hold.
#[derive(Debug)]
pub struct Probe<F>(PhantomData<F>);

impl<F> Probe<F> {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

/// A relation.
pub trait OfRelation {
    fn declare(&self, class: Class, name: &str, default: Option<Value>) -> Class;
}

impl<F: RelationField> OfRelation for &&Probe<F> {
    fn declare(&self, class: Class, name: &str, _default: Option<Value>) -> Class {
        relation::<F>(class, name, OnRemove::Keep)
    }
}

/// A property of a type that is known.
pub trait OfKnownType {
    fn of(&self) -> Type;

    fn declare(&self, class: Class, name: &str, default: Option<Value>) -> Class {
        property(class, name, self.of(), default)
    }
}

impl<F: PropertyType> OfKnownType for &Probe<F> {
    fn of(&self) -> Type {
        F::field_type()
    }
}

/// A property of any other type.
pub trait OfAnyType {
    fn of(&self) -> Type {
        Type::Any
    }

    fn declare(&self, class: Class, name: &str, default: Option<Value>) -> Class {
        property(class, name, Type::Any, default)
    }
}

impl<F> OfAnyType for Probe<F> {}

/// An index by a function of the struct. An object that its struct cannot hold is not in it.
pub fn index_by<T, I, V>(query: Indexing, version: u64, function: fn(&T) -> I) -> Index
where
    T: Stored + 'static,
    I: IntoIterator<Item = V> + 'static,
    V: Into<Value>,
{
    // Made when it is needed: the class is not, yet, that this index is for.
    let class = OnceLock::new();
    Index::by(query, version, move |view: ObjectView<'_>| {
        let values = super::object::values_of(class.get_or_init(T::class), view.document);
        let value = T::from_values(values);
        value.map(|value| function(&value).into_iter().map(Into::into).collect()).unwrap_or_default()
    })
}

/// [`Related::load`](super::Related::load) of objects.
pub fn load_object<T: Stored>(storage: &ObjectStorage, oid: &str) -> Result<Option<Object<T>>> {
    Ok(storage.get(T::NAME, oid)?.map(Object::new))
}

/// [`Related::load`](super::Related::load) of files.
pub fn load_file<T: StoredFile>(storage: &ObjectStorage, oid: &str) -> Result<Option<Raw<T>>> {
    let raw = storage.shared.raw_of(T::COLLECTION).ok_or_else(|| {
        Error::Usage(format!("it is not known where the files of {} are; connect the storage of files", T::NAME))
    })?;
    Ok(raw.load(oid)?.map(Raw::new))
}
