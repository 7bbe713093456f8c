//! [`One`] and [`Many`]: relations as fields.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Related;
use crate::class::{OnRemove, RelationType, WEIGHT};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::storage::ObjectStorage;

/// The weights of the store that the objects are in, as what relations lead to. They are not loaded here: loading one gives
/// its [`Reference`].
#[derive(Clone, Copy, Debug)]
pub enum Weight {}

impl Related for Weight {
    const COLLECTION: &'static str = WEIGHT;
    type Handle = Reference;

    fn load(_storage: &ObjectStorage, oid: &str) -> Result<Option<Reference>> {
        Ok(Some(Reference::new(WEIGHT, oid)))
    }
}

/// A field that is a relation: [`One`] or [`Many`].
#[diagnostic::on_unimplemented(message = "`{Self}` is no relation", label = "relations are `One<…>` and `Many<…>`")]
pub trait RelationField {
    /// What the class declares.
    fn relation(on_remove: OnRemove) -> RelationType;
}

fn relation_to<T: Related>(is_many: bool, on_remove: OnRemove) -> RelationType {
    RelationType { targets: vec![T::COLLECTION.to_owned()], is_many, on_remove }
}

fn load<T: Related>(storage: &ObjectStorage, target: &Reference) -> Result<T::Handle> {
    let gone = || Error::Absent { location: storage.backend().location(), key: target.key() };
    T::load(storage, &target.oid)?.ok_or_else(gone)
}

/// Only references of the right collection become relations.
fn check<T: Related, E: serde::de::Error>(target: &Reference) -> Result<(), E> {
    match target.collection == T::COLLECTION {
        true => Ok(()),
        false => Err(E::custom(format_args!("{target} is not of {}", T::COLLECTION))),
    }
}

/// A relation to one target, or to none. It holds a reference; the target is loaded by [`One::load`].
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{MemoryBackend, ObjectStorage, One, StoredObject};
///
/// #[derive(StoredObject, Default)]
/// struct Node { parent: One<Node> }
///
/// let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
/// let nodes = storage.register_type::<Node>()?;
/// let root = nodes.insert(&Node::default())?;
/// let leaf = nodes.insert(&Node { parent: One::to(&root) })?;
/// assert_eq!(leaf.read()?.parent.load(&storage)?, Some(root.clone()));
/// root.remove()?;
/// assert!(leaf.read()?.parent.load(&storage).is_err()); // it leads to what is gone
/// # Ok::<(), corallite_objects::Error>(())
/// ```
pub struct One<T> {
    target: Option<Reference>,
    of: PhantomData<fn() -> T>,
}

impl<T: Related> One<T> {
    /// To nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// To an object or file.
    pub fn to<'a>(target: &'a T::Handle) -> Self
    where
        &'a T::Handle: Into<Reference>,
    {
        Self { target: Some(target.into()), of: PhantomData }
    }

    /// To the object or file with an id; to the weight with a key.
    pub fn to_oid(oid: impl Into<String>) -> Self {
        Self { target: Some(Reference::new(T::COLLECTION, oid)), of: PhantomData }
    }

    /// The target's id.
    pub fn oid(&self) -> Option<&str> {
        self.target.as_ref().map(|target| target.oid.as_str())
    }

    /// A reference to the target.
    pub fn reference(&self) -> Option<&Reference> {
        self.target.as_ref()
    }

    /// Whether it leads to nothing.
    pub fn is_none(&self) -> bool {
        self.target.is_none()
    }

    /// The target; `None` where it leads to nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`] when the target is not there (any more), and those of [`Related::load`].
    pub fn load(&self, storage: &ObjectStorage) -> Result<Option<T::Handle>> {
        self.target.as_ref().map(|target| load::<T>(storage, target)).transpose()
    }
}

/// A relation to any number of targets, in order, each once. It holds references; the targets are loaded by
/// [`Many::load`].
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{Many, MemoryBackend, ObjectStorage, RawStorage, StoredObject, StoredRaw};
///
/// #[derive(StoredRaw)]
/// struct File;
///
/// #[derive(StoredObject, Default)]
/// struct Article { attachments: Many<File> }
///
/// let backend = Arc::new(MemoryBackend::new());
/// let (storage, raw) = (ObjectStorage::new(backend.clone()), RawStorage::new(backend));
/// let (articles, files) = (storage.register_type::<Article>()?, raw.register_type::<File>()?);
/// storage.connect(&raw)?;
///
/// let file = files.insert(b"abc".as_slice(), &File)?;
/// let article = articles.insert(&Article::default())?;
/// article.edit(|article| article.attachments.add(&file))?;
/// for file in article.read()?.attachments.load(&storage) {
///     assert_eq!(file?.load_data()?, b"abc");
/// }
/// # Ok::<(), corallite_objects::Error>(())
/// ```
pub struct Many<T> {
    targets: Vec<Reference>,
    of: PhantomData<fn() -> T>,
}

impl<T: Related> Many<T> {
    /// To nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// To objects or files, in this order, each once.
    pub fn to<'a>(targets: impl IntoIterator<Item = &'a T::Handle>) -> Self
    where
        T::Handle: 'a,
        &'a T::Handle: Into<Reference>,
    {
        targets.into_iter().map(Into::into).collect()
    }

    /// Adds a target at the end; says whether it was not there.
    pub fn add<'a>(&mut self, target: &'a T::Handle) -> bool
    where
        &'a T::Handle: Into<Reference>,
    {
        self.push(target.into())
    }

    /// Adds the target with an id at the end; says whether it was not there.
    pub fn add_oid(&mut self, oid: impl Into<String>) -> bool {
        self.push(Reference::new(T::COLLECTION, oid))
    }

    fn push(&mut self, target: Reference) -> bool {
        let is_new = !self.targets.contains(&target);
        if is_new {
            self.targets.push(target);
        }
        is_new
    }

    /// Removes a target; says whether it was there.
    pub fn remove<'a>(&mut self, target: &'a T::Handle) -> bool
    where
        &'a T::Handle: Into<Reference>,
    {
        let target: Reference = target.into();
        self.remove_oid(&target.oid)
    }

    /// Removes the target with an id; says whether it was there.
    pub fn remove_oid(&mut self, oid: &str) -> bool {
        let before = self.targets.len();
        self.targets.retain(|target| target.oid != oid);
        self.targets.len() < before
    }

    /// Removes all targets.
    pub fn clear(&mut self) {
        self.targets.clear();
    }

    /// Whether it leads to a target.
    pub fn has<'a>(&self, target: &'a T::Handle) -> bool
    where
        &'a T::Handle: Into<Reference>,
    {
        self.targets.contains(&target.into())
    }

    /// Whether it leads to the target with an id.
    pub fn has_oid(&self, oid: &str) -> bool {
        self.targets.iter().any(|target| target.oid == oid)
    }

    /// References to the targets.
    pub fn references(&self) -> &[Reference] {
        &self.targets
    }

    /// How many targets it has.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// All targets, each loaded when it is come to. One that is not there (any more) is an [`Error::Absent`] in its place.
    pub fn load(&self, storage: &ObjectStorage) -> impl Iterator<Item = Result<T::Handle>> {
        self.targets.iter().map(|target| load::<T>(storage, target))
    }

    /// One target, the first being number 0; `None` where there are not so many.
    ///
    /// # Errors
    ///
    /// As [`One::load`].
    pub fn one(&self, number: usize, storage: &ObjectStorage) -> Result<Option<T::Handle>> {
        self.targets.get(number).map(|target| load::<T>(storage, target)).transpose()
    }
}

impl<T: Related> FromIterator<Reference> for Many<T> {
    /// The references, each once.
    fn from_iter<I: IntoIterator<Item = Reference>>(targets: I) -> Self {
        let mut seen = std::collections::HashSet::new();
        let targets = targets.into_iter().filter(|target| seen.insert(target.clone())).collect();
        Self { targets, of: PhantomData }
    }
}

impl<T: Related> RelationField for One<T> {
    fn relation(on_remove: OnRemove) -> RelationType {
        relation_to::<T>(false, on_remove)
    }
}

impl<T: Related> RelationField for Many<T> {
    fn relation(on_remove: OnRemove) -> RelationType {
        relation_to::<T>(true, on_remove)
    }
}

// In documents they are what the dynamic form's relations are: a reference or null, and a list of references.

impl<T> Serialize for One<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.target.serialize(serializer)
    }
}

impl<'de, T: Related> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let target = Option::<Reference>::deserialize(deserializer)?;
        target.iter().try_for_each(check::<T, D::Error>)?;
        Ok(Self { target, of: PhantomData })
    }
}

impl<T> Serialize for Many<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.targets.serialize(serializer)
    }
}

impl<'de, T: Related> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let targets = Option::<Vec<Reference>>::deserialize(deserializer)?.unwrap_or_default();
        targets.iter().try_for_each(check::<T, D::Error>)?;
        let count = targets.len();
        let many: Self = targets.into_iter().collect();
        if many.len() < count { Err(D::Error::custom("a relation leads to each target once")) } else { Ok(many) }
    }
}

// Not derived: what they lead to need not be any of this.
macro_rules! as_their_references {
    ($($name:ident $field:ident;)+) => {
        $(
            impl<T> Default for $name<T> {
                fn default() -> Self {
                    Self { $field: Default::default(), of: PhantomData }
                }
            }

            impl<T> Clone for $name<T> {
                fn clone(&self) -> Self {
                    Self { $field: self.$field.clone(), of: PhantomData }
                }
            }

            impl<T> PartialEq for $name<T> {
                fn eq(&self, other: &Self) -> bool {
                    self.$field == other.$field
                }
            }

            impl<T> Eq for $name<T> {}

            impl<T> Hash for $name<T> {
                fn hash<H: Hasher>(&self, state: &mut H) {
                    self.$field.hash(state);
                }
            }

            impl<T> fmt::Debug for $name<T> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_list().entries(self.$field.iter().map(Reference::key)).finish()
                }
            }
        )+
    };
}

as_their_references! {
    One target;
    Many targets;
}
