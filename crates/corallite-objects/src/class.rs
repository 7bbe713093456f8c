//! What the objects of a class have: properties, relations, indexes.
//!
//! ```
//! use corallite_objects::{Class, Indexing, OnRemove, Type};
//!
//! let article = Class::new("Article")
//!     .property("title", Type::String)
//!     .property("status", Type::enumeration(["draft", "published"]))
//!     .one("author", "Account")
//!     .many("attachments", "File")
//!     .on_remove("author", OnRemove::Refuse)
//!     .index("status", Indexing::Normalize);
//! assert_eq!(article.collection(), "Article");
//! assert!(Class::new("Article").property("oid", Type::String).check().is_err()); // reserved
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::index::{Index, Indexing};
use crate::key;
use crate::reference::Reference;
use crate::types::Type;

/// Names that no property, relation or index can have.
pub const RESERVED: [&str; 3] = ["type", "oid", "updates"];

/// The type of targets that are weights, of the store the objects are in.
pub const WEIGHT: &str = "weight";

/// A class of objects.
#[derive(Clone)]
pub struct Class {
    name: String,
    collection: String,
    version: u64,
    pub(crate) properties: BTreeMap<String, Property>,
    pub(crate) relations: BTreeMap<String, RelationType>,
    pub(crate) indexes: BTreeMap<String, Arc<Index>>,
    /// Whether objects may have properties that are not declared.
    pub(crate) is_open: bool,
    migration: Option<Migration>,
    problem: Option<String>,
}

/// A property of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// What it may hold.
    pub of: Type,
    /// What it is where nothing was set.
    pub default: Option<Value>,
}

/// A relation of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationType {
    /// The collections it may lead to; none for any.
    pub targets: Vec<String>,
    /// Whether it may lead to more than one target.
    pub is_many: bool,
    /// What happens when a target is removed.
    pub on_remove: OnRemove,
}

impl RelationType {
    /// Whether it has a say when a target is removed.
    pub(crate) fn guards(&self, target: &Reference) -> bool {
        self.on_remove != OnRemove::Keep && (self.targets.is_empty() || self.targets.contains(&target.collection))
    }
}

/// What happens to a relation when a target of it is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnRemove {
    /// It keeps leading there; whoever follows it is told.
    #[default]
    Keep,
    /// It forgets the target, and its object is saved.
    Drop,
    /// The target is not removed.
    Refuse,
}

/// Makes a document of an older version of a class one of this version. It gets that version and the properties and
/// relations as they were stored, and changes them.
pub type Migration = Arc<dyn Fn(u64, &mut Map<String, Value>) -> Result<(), String> + Send + Sync>;

impl Class {
    /// A class without properties. Its collection has the same name.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            collection: name.clone(),
            name,
            version: 0,
            properties: BTreeMap::new(),
            relations: BTreeMap::new(),
            indexes: BTreeMap::new(),
            is_open: false,
            migration: None,
            problem: None,
        }
    }

    /// Its name, which objects have as their type.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the keys of its objects begin with, before the dot.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The version of its declaration.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its properties, by name.
    pub fn properties(&self) -> &BTreeMap<String, Property> {
        &self.properties
    }

    /// Its relations, by name.
    pub fn relations(&self) -> &BTreeMap<String, RelationType> {
        &self.relations
    }

    /// The names of its indexes.
    pub fn indexes(&self) -> impl Iterator<Item = &str> {
        self.indexes.keys().map(String::as_str).filter(|name| !name.starts_with('@'))
    }

    /// Adds the indexes by which those are found who refer to a target that is removed.
    pub(crate) fn index_referrers(&mut self) {
        for (name, relation) in &self.relations {
            if relation.on_remove != OnRemove::Keep {
                let index = Arc::new(Index::of_property(name, Indexing::Value));
                self.indexes.insert(Self::referrers(name), index);
            }
        }
    }

    /// The name of the index by which those are found who refer to a target by a relation.
    pub(crate) fn referrers(relation: &str) -> String {
        format!("@{relation}")
    }

    /// Keeps its objects in a collection of another name.
    pub fn in_collection(mut self, collection: impl Into<String>) -> Self {
        self.collection = collection.into();
        self
    }

    /// Adds a property.
    pub fn property(self, name: impl Into<String>, of: Type) -> Self {
        self.with_property(name.into(), Property { of, default: None })
    }

    /// Adds a property that has a value where none was set.
    pub fn property_or(self, name: impl Into<String>, of: Type, default: impl Into<Value>) -> Self {
        self.with_property(name.into(), Property { of, default: Some(default.into()) })
    }

    fn with_property(mut self, name: String, property: Property) -> Self {
        self.take_name(&name);
        self.properties.insert(name, property);
        self
    }

    /// Lets objects have properties that are not declared, of any type.
    pub fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// Adds a relation to one object of a collection, to a file, or to a [`WEIGHT`].
    pub fn one(self, name: impl Into<String>, target: impl Into<String>) -> Self {
        self.relation(name, RelationType { targets: vec![target.into()], is_many: false, on_remove: OnRemove::Keep })
    }

    /// Adds a relation to any number of objects of a collection, files, or [`WEIGHT`]s.
    pub fn many(self, name: impl Into<String>, target: impl Into<String>) -> Self {
        self.relation(name, RelationType { targets: vec![target.into()], is_many: true, on_remove: OnRemove::Keep })
    }

    /// Adds a relation.
    pub fn relation(mut self, name: impl Into<String>, relation: RelationType) -> Self {
        let name = name.into();
        self.take_name(&name);
        self.relations.insert(name, relation);
        self
    }

    /// Says what happens to a relation when its target is removed.
    pub fn on_remove(mut self, relation: &str, on_remove: OnRemove) -> Self {
        match self.relations.get_mut(relation) {
            Some(relation) => relation.on_remove = on_remove,
            None => self.note(format!("it has no relation `{relation}` to say on_remove of; declare it before")),
        }
        self
    }

    /// Adds an index over the property of the same name.
    pub fn index(self, name: impl Into<String>, by: Indexing) -> Self {
        let name = name.into();
        let index = Index::of_property(&name, by);
        self.with_index(name, index)
    }

    /// Adds an index of any kind.
    pub fn with_index(mut self, name: impl Into<String>, index: Index) -> Self {
        let name = name.into();
        if !is_name(&name) {
            self.note(format!("`{name}` is no name of an index; names are letters, digits and `_`"));
        }
        if self.indexes.insert(name.clone(), Arc::new(index)).is_some() {
            self.note(format!("it has two indexes `{name}`"));
        }
        self
    }

    /// Says that its declaration is of this version, and how documents of older ones become those of this one. Without, the
    /// version is 0.
    pub fn migrate(
        mut self,
        version: u64,
        migration: impl Fn(u64, &mut Map<String, Value>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.version = version;
        self.migration = Some(Arc::new(migration));
        self
    }

    /// Says which version it is, where nothing is known of a migration.
    pub(crate) fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    pub(crate) fn migration(&self) -> Option<&Migration> {
        self.migration.as_ref()
    }

    fn take_name(&mut self, name: &str) {
        if RESERVED.contains(&name) {
            self.note(format!("`{name}` is reserved, as {} are; take another name", RESERVED.join(", ")));
        } else if !is_name(name) {
            self.note(format!("`{name}` is no name; names are letters, digits and `_`"));
        } else if self.properties.contains_key(name) || self.relations.contains_key(name) {
            self.note(format!("`{name}` is there twice"));
        }
    }

    fn note(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// Whether the declaration makes sense. A storage asks when the class is registered.
    ///
    /// # Errors
    ///
    /// [`Error::Declaration`]: a reserved name, a name that is there twice, a default that its own type refuses, an index
    /// over a property that is not there.
    pub fn check(&self) -> Result<()> {
        let wrong = |problem: String| Error::Declaration { class: self.name.clone(), problem };
        if let Some(problem) = &self.problem {
            return Err(wrong(problem.clone()));
        }
        key::check_collection(&self.collection).map_err(|error| wrong(error.to_string()))?;
        for (name, property) in &self.properties {
            if let Some(default) = &property.default
                && let Err(violation) = property.of.accept(default.clone())
            {
                return Err(wrong(format!("the default of `{name}`: {violation}")));
            }
        }
        for (name, index) in &self.indexes {
            let missing = index.properties().iter().find(|property| !self.has(property));
            if let Some(property) = missing {
                return Err(wrong(format!("its index `{name}` is over `{property}`, which it does not have")));
            }
            let is_secret = |name: &String| self.properties.get(name).is_some_and(|property| property.of.is_secret());
            if let Some(property) = index.properties().iter().find(|property| is_secret(property)) {
                return Err(wrong(format!("its index `{name}` is over `{property}`, which holds passwords")));
            }
        }
        Ok(())
    }

    /// Whether it has a property or relation of this name.
    pub fn has(&self, name: &str) -> bool {
        self.properties.contains_key(name) || self.relations.contains_key(name)
    }

    /// What a property may hold.
    pub(crate) fn type_of(&self, name: &str) -> Result<&Type> {
        if let Some(property) = self.properties.get(name) {
            return Ok(&property.of);
        }
        let known = self.properties.keys().map(String::as_str);
        if !self.is_open || self.relations.contains_key(name) {
            return Err(Error::unknown(&self.name, "property", name, known));
        }
        if RESERVED.contains(&name) || !is_name(name) {
            let problem =
                format!("`{name}` cannot be a property; names are letters, digits and `_`, and some are reserved");
            return Err(Error::Declaration { class: self.name.clone(), problem });
        }
        Ok(&Type::Any)
    }

    pub(crate) fn known_relation(&self, name: &str) -> Result<&RelationType> {
        let known = || self.relations.keys().map(String::as_str);
        self.relations.get(name).ok_or_else(|| Error::unknown(&self.name, "relation", name, known()))
    }

    pub(crate) fn known_index(&self, name: &str) -> Result<&Arc<Index>> {
        self.indexes.get(name).ok_or_else(|| Error::unknown(&self.name, "index", name, self.indexes()))
    }

    pub(crate) fn key(&self, oid: &str) -> String {
        key::of(&self.collection, oid)
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 200 && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Class")
            .field("name", &self.name)
            .field("collection", &self.collection)
            .field("version", &self.version)
            .field("properties", &self.properties)
            .field("relations", &self.relations)
            .field("indexes", &self.indexes.keys())
            .finish_non_exhaustive()
    }
}
