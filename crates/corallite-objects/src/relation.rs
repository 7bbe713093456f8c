//! Relations: where an object leads to.

use crate::class::{Class, RelationType};
use crate::error::{Error, Result};
use crate::object::StoredObject;
use crate::raw::StoredRaw;
use crate::reference::Reference;

/// A relation of an object: its targets, in order, each once. Changes are kept when the object is saved; targets are loaded
/// when they are asked for.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{Class, MemoryBackend, ObjectStorage, Type};
/// use serde_json::json;
///
/// let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
/// storage.register(Class::new("Comment").property("message", Type::String).many("replies", "Comment"))?;
/// let (comment, reply) = (storage.create("Comment", json!({}))?, storage.create("Comment", json!({}))?);
/// let replies = comment.relation("replies")?;
/// assert!(replies.add(&reply)? && !replies.add(&reply)?);
/// storage.save_all(&[comment.clone(), reply.clone()])?;
/// assert!(replies.has(&reply));
/// assert_eq!(replies.one(0)?.and_then(|target| target.object().cloned()), Some(reply));
/// # Ok::<(), corallite_objects::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Relation {
    pub(crate) object: StoredObject,
    pub(crate) name: String,
    pub(crate) relation: RelationType,
}

/// What a relation leads to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// An object of the same storage.
    Object(StoredObject),
    /// A file.
    Raw(StoredRaw),
    /// Something that this storage does not load: a weight, or an object of a class it does not know.
    Reference(Reference),
}

impl Target {
    /// The object, if it is one.
    pub fn object(&self) -> Option<&StoredObject> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// The file, if it is one.
    pub fn raw(&self) -> Option<&StoredRaw> {
        if let Self::Raw(raw) = self { Some(raw) } else { None }
    }

    /// A reference to it.
    pub fn reference(&self) -> Reference {
        match self {
            Self::Object(object) => object.reference(),
            Self::Raw(raw) => raw.reference(),
            Self::Reference(reference) => reference.clone(),
        }
    }
}

impl From<&StoredObject> for Reference {
    fn from(object: &StoredObject) -> Self {
        object.reference()
    }
}

impl From<&StoredRaw> for Reference {
    fn from(raw: &StoredRaw) -> Self {
        raw.reference()
    }
}

impl From<&Reference> for Reference {
    fn from(reference: &Reference) -> Self {
        reference.clone()
    }
}

/// Checks where a relation is to lead; gives it without duplicates.
pub(crate) fn checked(
    class: &Class,
    name: &str,
    relation: &RelationType,
    targets: Vec<Reference>,
) -> Result<Vec<Reference>> {
    let mut unique: Vec<Reference> = Vec::with_capacity(targets.len());
    let mut seen = std::collections::HashSet::with_capacity(targets.len());
    for target in targets {
        if !relation.targets.is_empty() && !relation.targets.contains(&target.collection) {
            let may = relation.targets.join(" or ");
            return Err(Error::Usage(format!("{}.{name} leads to {may}, not to {target}", class.name())));
        }
        crate::key::check(&target.oid)?;
        if seen.insert(target.clone()) {
            unique.push(target);
        }
    }
    if !relation.is_many && unique.len() > 1 {
        return Err(Error::Usage(format!("{}.{name} leads to one target, not to {}", class.name(), unique.len())));
    }
    Ok(unique)
}

impl Relation {
    fn targets(&self) -> Vec<Reference> {
        self.object.0.state.lock().document.relations.get(&self.name).cloned().unwrap_or_default()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Reference>) -> (bool, T)) -> T {
        self.object.change(|document| {
            let (is_changed, value) = change(document.relations.entry(self.name.clone()).or_default());
            (if is_changed { vec![self.name.clone()] } else { Vec::new() }, value)
        })
    }

    /// Adds a target at the end, unless it is there; of a relation to one, puts it in the place of the other. Says whether
    /// that changed anything. Nobody looks whether the target exists.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a target of another class.
    pub fn add(&self, target: impl Into<Reference>) -> Result<bool> {
        let mut added = checked(self.object.class(), &self.name, &self.relation, vec![target.into()])?;
        let is_many = self.relation.is_many;
        Ok(self.change(|targets| {
            let is_new = added.iter().any(|target| !targets.contains(target));
            if is_new {
                if !is_many {
                    targets.clear();
                }
                targets.append(&mut added);
            }
            (is_new, is_new)
        }))
    }

    /// [`Relation::add`].
    ///
    /// # Errors
    ///
    /// As [`Relation::add`].
    pub fn append(&self, target: impl Into<Reference>) -> Result<bool> {
        self.add(target)
    }

    /// Leads to these targets and no others.
    ///
    /// # Errors
    ///
    /// As [`Relation::add`].
    pub fn set<T: Into<Reference>>(&self, targets: impl IntoIterator<Item = T>) -> Result<()> {
        let targets = targets.into_iter().map(Into::into).collect();
        let new = checked(self.object.class(), &self.name, &self.relation, targets)?;
        self.change(|targets| {
            let is_changed = *targets != new;
            *targets = new;
            (is_changed, ())
        });
        Ok(())
    }

    /// Takes a target out; says whether it was there.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn remove(&self, target: impl Into<Reference>) -> Result<bool> {
        let target = target.into();
        Ok(self.change(|targets| {
            let before = targets.len();
            targets.retain(|other| *other != target);
            let is_changed = targets.len() != before;
            (is_changed, is_changed)
        }))
    }

    /// Takes all targets out.
    pub fn clear(&self) {
        self.change(|targets| {
            let is_changed = !targets.is_empty();
            targets.clear();
            (is_changed, ())
        });
    }

    /// References to the targets.
    pub fn references(&self) -> Vec<Reference> {
        self.targets()
    }

    /// At most `limit` targets from number `start` on: loaded, or with `resolve` false as references.
    ///
    /// # Errors
    ///
    /// [`Error::Dangling`] for a target that does not exist, and those of loading it.
    pub fn get(&self, start: usize, limit: Option<usize>, resolve: bool) -> Result<Vec<Target>> {
        let targets = self.targets().into_iter().skip(start).take(limit.unwrap_or(usize::MAX));
        match resolve {
            true => targets.map(|target| self.resolve(target)).collect(),
            false => Ok(targets.map(Target::Reference).collect()),
        }
    }

    /// One target, the first being number 0; `None` where there are not so many.
    ///
    /// # Errors
    ///
    /// As [`Relation::get`].
    pub fn one(&self, number: usize) -> Result<Option<Target>> {
        self.targets().into_iter().nth(number).map(|target| self.resolve(target)).transpose()
    }

    /// Whether it leads to a target.
    pub fn has(&self, target: impl Into<Reference>) -> bool {
        self.targets().contains(&target.into())
    }

    /// Whether it leads to a target with this id.
    pub fn has_oid(&self, oid: &str) -> bool {
        self.targets().iter().any(|target| target.oid == oid)
    }

    /// All targets, each loaded when it is come to. One that does not exist is an error in its place. Also
    /// [`Relation::all`].
    pub fn list(&self) -> impl Iterator<Item = Result<Target>> {
        let relation = self.clone();
        self.targets().into_iter().map(move |target| relation.resolve(target))
    }

    /// [`Relation::list`].
    pub fn all(&self) -> impl Iterator<Item = Result<Target>> {
        self.list()
    }

    /// How many targets it has.
    pub fn len(&self) -> usize {
        self.object.0.state.lock().document.relations.get(&self.name).map_or(0, Vec::len)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn resolve(&self, target: Reference) -> Result<Target> {
        let shared = &self.object.0.shared;
        let dangling = || Error::Dangling { key: self.object.key(), relation: self.name.clone(), target: target.key() };
        if let Some(class) = shared.of_collection(&target.collection) {
            return Ok(Target::Object(shared.load(&class, &target.oid)?.ok_or_else(dangling)?));
        }
        if let Some(raw) = shared.raw_of(&target.collection) {
            return Ok(Target::Raw(raw.load(&target.oid)?.ok_or_else(dangling)?));
        }
        Ok(Target::Reference(target))
    }
}
