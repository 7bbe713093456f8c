//! Declarations of classes as they are stored beside the objects, under `@class NUL collection`: so that who does not declare a
//! class can still read its objects, ask for them, and say which of their properties hold passwords.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::{Backend, BackendExt, Change, Durability, Expect};
use crate::class::{Class, OnRemove, Property, RelationType};
use crate::error::{Error, Result};
use crate::index::{Index, Indexing};
use crate::key;
use crate::storage::{ObjectStorage, Shared};
use crate::types::Type;

/// What the keys of declarations begin with.
const DECLARED: &str = "@class\0";

fn declaration_key(collection: &str) -> String {
    format!("{DECLARED}{collection}")
}

/// A class, without what only a program has: its migration, and functions of indexes.
#[derive(Serialize, Deserialize)]
struct Declaration {
    name: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    version: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    open: bool,
    properties: BTreeMap<String, DeclaredProperty>,
    relations: BTreeMap<String, DeclaredRelation>,
    indexes: BTreeMap<String, DeclaredIndex>,
}

#[derive(Serialize, Deserialize)]
struct DeclaredProperty {
    #[serde(rename = "type")]
    of: Type,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct DeclaredRelation {
    targets: Vec<String>,
    many: bool,
    on_remove: OnRemove,
}

#[derive(Serialize, Deserialize)]
struct DeclaredIndex {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    property: Option<String>,
    by: Indexing,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unique: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Class {
    /// The declaration as JSON: all but its migration and the indexes by functions.
    ///
    /// ```
    /// use corallite_objects::{Class, Indexing, Type};
    ///
    /// let class = Class::new("Run").property("loss", Type::Float).index("loss", Indexing::Value);
    /// let again = Class::from_declaration("Run", &class.declaration())?;
    /// assert_eq!(again.declaration(), class.declaration());
    /// # Ok::<(), corallite_objects::Error>(())
    /// ```
    pub fn declaration(&self) -> Value {
        let property =
            |property: &Property| DeclaredProperty { of: property.of.clone(), default: property.default.clone() };
        let relation = |relation: &RelationType| DeclaredRelation {
            targets: relation.targets.clone(),
            many: relation.is_many,
            on_remove: relation.on_remove,
        };
        let indexes = self.indexes.iter().filter(|(name, index)| !name.starts_with('@') && !index.is_function());
        let index = |index: &Index| DeclaredIndex {
            property: index.property().map(str::to_owned),
            by: index.indexing().clone(),
            unique: index.is_unique(),
        };
        let declaration = Declaration {
            name: self.name().to_owned(),
            version: self.version(),
            open: self.is_open,
            properties: self.properties.iter().map(|(name, of)| (name.clone(), property(of))).collect(),
            relations: self.relations.iter().map(|(name, of)| (name.clone(), relation(of))).collect(),
            indexes: indexes.map(|(name, of)| (name.clone(), index(of))).collect(),
        };
        serde_json::to_value(declaration).unwrap_or_default()
    }

    /// The class of a declaration.
    ///
    /// # Errors
    ///
    /// [`Error::Declaration`] when it is none, or not one that this version understands.
    pub fn from_declaration(collection: &str, declaration: &Value) -> Result<Self> {
        let declared: Declaration = serde_json::from_value(declaration.clone()).map_err(|error| {
            let problem = format!("what is stored of it is not understood ({error}); declare it in the program");
            Error::Declaration { class: collection.to_owned(), problem }
        })?;
        let mut class = Self::new(declared.name).in_collection(collection);
        if declared.open {
            class = class.open();
        }
        for (name, DeclaredProperty { of, default }) in declared.properties {
            class = match default {
                Some(default) => class.property_or(name, of, default),
                None => class.property(name, of),
            };
        }
        for (name, DeclaredRelation { targets, many, on_remove }) in declared.relations {
            class = class.relation(name, RelationType { targets, is_many: many, on_remove });
        }
        for (name, DeclaredIndex { property, by, unique }) in declared.indexes {
            let index = Index::of_property(property.as_deref().unwrap_or(&name), by);
            class = class.with_index(name, if unique { index.unique() } else { index });
        }
        class.set_version(declared.version);
        class.check()?;
        Ok(class)
    }
}

impl ObjectStorage {
    /// Makes the classes known that others have saved objects of and that are not registered, as they were declared; gives
    /// their names. Their indexes by functions are not known here: a save of such an object gives them up, and the program that
    /// declares them builds them again.
    ///
    /// # Errors
    ///
    /// [`Error::Declaration`] for one that is not understood, and as [`ObjectStorage::register`].
    pub fn register_stored(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in self.backend().entries_in(&crate::backend::Range::prefix(DECLARED))? {
            let (key, declaration) = entry?;
            let collection = key[DECLARED.len()..].to_owned();
            if self.shared.of_collection(&collection).is_some() {
                continue;
            }
            let declaration: Value = serde_json::from_slice(&declaration).map_err(|error| Error::Malformed {
                location: self.backend().location(),
                key: key.clone(),
                problem: error.to_string(),
            })?;
            found.push(Class::from_declaration(&collection, &declaration)?);
        }
        found
            .into_iter()
            .filter(|class| self.shared.class(class.name()).is_err())
            .map(|class| Ok(self.register(class)?.name().to_owned()))
            .collect()
    }
}

/// What is written with the first save of a class: its declaration, and that indexes of it which are not declared here do not
/// know of the save.
#[derive(Debug, Default)]
pub(crate) struct FirstSave {
    collections: Vec<String>,
    puts: Vec<(String, Vec<u8>)>,
    removals: Vec<String>,
}

impl FirstSave {
    /// What there is to do before objects of these classes are saved or removed; mostly nothing.
    pub(crate) fn of<'c>(shared: &Shared, classes: impl Iterator<Item = &'c Class>) -> Result<Self> {
        let mut first = Self::default();
        for class in classes {
            let collection = class.collection();
            if shared.declared.read().contains(collection) || first.collections.iter().any(|other| other == collection)
            {
                continue;
            }
            first.collections.push(collection.to_owned());
            let (key, declaration) = (declaration_key(collection), class.declaration().to_string().into_bytes());
            if shared.backend.get(&key)?.as_deref() != Some(&declaration[..]) {
                first.puts.push((key, declaration));
            }
            let keeper = shared.keeper.get();
            let index_backend: &dyn Backend = keeper.map_or(&*shared.backend, |keeper| keeper.backend());
            let prefix = crate::index::definition_key(collection, "");
            let mut foreign = Vec::new();
            for key in index_backend.keys(&prefix)? {
                let key = key?;
                if keeper.is_none() || !class.indexes.contains_key(&key[prefix.len()..]) {
                    foreign.push(key);
                }
            }
            let mut undefined = keeper.map(|keeper| keeper.undefined(collection)).unwrap_or_default();
            if !undefined.is_empty() && shared.backend.keys(&key::prefix(collection))?.next().transpose()?.is_some() {
                // Somebody else saved objects meanwhile that are in none of them: the next opening builds them.
                undefined.clear();
            }
            if keeper.is_some_and(|keeper| !keeper.is_shared) {
                let puts = undefined.iter().map(|(key, value)| put(key, value));
                let changes: Vec<Change<'_>> = foreign.iter().map(|key| removal(key)).chain(puts).collect();
                if !changes.is_empty() {
                    index_backend.write(&changes, Durability::Durable)?;
                }
            } else {
                first.removals.extend(foreign);
                first.puts.append(&mut undefined);
            }
        }
        Ok(first)
    }

    /// What is written with the objects.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let puts = self.puts.iter().map(|(key, value)| put(key, value));
        puts.chain(self.removals.iter().map(|key| removal(key)))
    }

    /// Notes that it was written.
    pub(crate) fn done(self, shared: &std::sync::Arc<Shared>) {
        if self.collections.is_empty() {
            return;
        }
        shared.declared.write().extend(self.collections.iter().cloned());
        let (undone, collections) = (std::sync::Arc::downgrade(shared), self.collections);
        shared.saving.undo_with(move || {
            if let Some(shared) = undone.upgrade() {
                shared.declared.write().retain(|declared| !collections.contains(declared));
            }
        });
    }
}

fn put<'c>(key: &'c str, value: &'c [u8]) -> Change<'c> {
    Change { key, value: Some(value), expect: Expect::Anything }
}

fn removal(key: &str) -> Change<'_> {
    Change { key, value: None, expect: Expect::Anything }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_declared_comes_back() {
        let class = Class::new("Run")
            .in_collection("runs")
            .open()
            .property("loss", Type::range(0, 10, Type::Float))
            .property_or("status", Type::enumeration(["draft", "done"]), "draft")
            .property("login", Type::map([("name", Type::Line), ("secret", Type::Password)]))
            .one("parent", "runs")
            .many("files", "File")
            .on_remove("parent", OnRemove::Refuse)
            .index("status", Indexing::Normalize)
            .with_index("by_loss", Index::of_property("loss", Indexing::Value).unique())
            .with_index("both", Index::of_property("both", Indexing::properties(["loss", "status"])))
            .with_index("words", Index::by(Indexing::Value, 1, |_| vec![json!(1)]))
            .migrate(3, |_, _| Ok(()));
        let declaration = class.declaration();
        let again = Class::from_declaration("runs", &declaration).unwrap();
        assert_eq!(again.declaration(), declaration);
        assert_eq!((again.name(), again.version(), again.is_open), ("Run", 3, true));
        assert_eq!(again.properties, class.properties);
        assert_eq!(again.relations, class.relations);
        assert_eq!(again.indexes().collect::<Vec<_>>(), ["both", "by_loss", "status"]);
        assert!(again.properties["login"].of.is_secret());
        assert!(matches!(Class::from_declaration("runs", &json!({"name": 1})), Err(Error::Declaration { .. })));
    }
}
