//! What can go wrong.

use std::io;

use serde_json::Value;

use crate::types::Violation;

/// An error of the object layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that a property's type does not allow.
    #[error("{class}.{property}: {violation}")]
    Type {
        /// The object's class.
        class: String,
        /// The property.
        property: String,
        /// The value and the rule.
        violation: Violation,
    },

    /// A class declaration that makes no sense.
    #[error("the declaration of {class} is wrong: {problem}")]
    Declaration {
        /// The class.
        class: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },

    /// A name that an object's class does not declare.
    #[error("{class} has no {kind} `{name}`; it has {known}")]
    Unknown {
        /// The class, or what stands in its place.
        class: String,
        /// Property, relation, index or class.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },

    /// A key that already has a value.
    #[error("{location} already has `{key}`; update it instead")]
    Exists {
        /// The backend.
        location: String,
        /// The key.
        key: String,
    },

    /// A key that has no value.
    #[error("{location} has no `{key}`; add it first")]
    Absent {
        /// The backend.
        location: String,
        /// The key.
        key: String,
    },

    /// A value that is not the one that was expected; nothing was written.
    #[error("`{key}` of {location} was changed by someone else")]
    Changed {
        /// The backend.
        location: String,
        /// The key.
        key: String,
        /// What is there now; `None` when it was removed.
        found: Option<bytes::Bytes>,
    },

    /// Somebody saved a newer revision of an object; nothing was written.
    #[error(
        "{key} was saved by someone else meanwhile: this one comes from revision {ours}, stored is {}; load it again, or merge the two",
        stored.as_ref().map_or("nothing".to_owned(), |stored| format!("revision {}", stored["@revision"]))
    )]
    Conflict {
        /// The object's key.
        key: String,
        /// The revision this object was loaded from; 0 for a new one.
        ours: u64,
        /// This object's document, as it would have been saved.
        own: Box<Value>,
        /// The stored document; `None` when the object was removed.
        stored: Option<Box<Value>>,
    },

    /// Another object has this value in a unique index.
    #[error("{class}.by.{index}: {value} belongs to {other}, and {key} cannot have it too")]
    NotUnique {
        /// The class.
        class: String,
        /// The index.
        index: String,
        /// The value.
        value: Box<Value>,
        /// The key of the object that was not saved.
        key: String,
        /// The key of the object that has the value.
        other: String,
    },

    /// An object that others refer to, by a relation declared to refuse that.
    #[error("{key} cannot be removed: {} refers to it by `{relation}`; clear that relation first", referrer)]
    Referred {
        /// The object that was to be removed.
        key: String,
        /// An object that refers to it.
        referrer: String,
        /// The relation.
        relation: String,
    },

    /// A relation's target that is not there.
    #[error("{key}: its relation `{relation}` leads to {target}, which does not exist (any more)")]
    Dangling {
        /// The object with the relation.
        key: String,
        /// The relation.
        relation: String,
        /// The target's key.
        target: String,
    },

    /// A stored document that is no object.
    #[error("`{key}` of {location} is damaged: {problem}; nothing was changed")]
    Malformed {
        /// The backend.
        location: String,
        /// The key, or the file.
        key: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A key or collection name that cannot be one.
    #[error("`{key}` cannot be a key: {problem}")]
    Key {
        /// The key.
        key: String,
        /// Why not.
        problem: &'static str,
    },

    /// A stored object whose type changed, and for which no migration is declared.
    #[error(
        "{key} was stored by version {found} of {class}, this program has version {version}: {problem}; declare a migration"
    )]
    Migration {
        /// The object's key.
        key: String,
        /// Its class.
        class: String,
        /// The version it was stored by.
        found: u64,
        /// The version of the class here.
        version: u64,
        /// What does not fit.
        problem: String,
    },

    /// A query that cannot be read.
    #[error("the query `{query}` is not understood at character {at}: {problem}")]
    Query {
        /// The query.
        query: String,
        /// Where, in characters from 0 on.
        at: usize,
        /// What was expected.
        problem: String,
    },

    /// Something was used in a way it does not permit.
    #[error("{0}")]
    Usage(String),

    /// The backend is closed.
    #[error("{location} is closed; open it again")]
    Closed {
        /// The backend.
        location: String,
    },

    /// The system refused something.
    #[error("cannot {action} {location}: {source}")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or backend.
        location: String,
        /// The system's own error.
        source: io::Error,
    },

    /// A backend's own error.
    #[error("cannot {action} {location}: {source}")]
    Backend {
        /// What was being done, as a verb.
        action: &'static str,
        /// The backend.
        location: String,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, location: impl ToString, source: io::Error) -> Self {
        Self::Io { action, location: location.to_string(), source }
    }

    /// An error of a library behind a backend.
    pub fn backend(
        action: &'static str,
        location: impl ToString,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Backend { action, location: location.to_string(), source: source.into() }
    }

    pub(crate) fn unknown<'a>(
        class: &str,
        kind: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Self::Unknown { class: class.to_owned(), kind, name: name.to_owned(), known }
    }
}

/// The result of something that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
