//! Finding objects by what they hold.
//!
//! A class declares its indexes ([`Class::index`](crate::Class::index)); [`Indexes`] keeps them, in a backend of their own or
//! in the one that the objects are in. Each save and removal changes the indexes with it. Where objects and indexes are in
//! one backend with transactions, both are in one; otherwise new entries are written before the object and old ones removed
//! after it, so that after a crash no entry is missing, and what is too much is left out of the answers.

mod encode;
mod functions;
mod keeper;
mod view;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::Document;
use crate::reference::Reference;

pub use functions::{keyword, keywords, no_accents, normalize, paths};
pub use keeper::Indexes;
pub(crate) use keeper::{Difference, Keeper, definition_key};
pub use view::{Hits, IndexView, Limits, ObjectIndexes, Order};

/// How values become index keys, and arguments of queries with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Indexing {
    /// As they are.
    Value,
    /// Texts as [`normalize`] makes them.
    Normalize,
    /// Texts as [`normalize`] and [`no_accents`] make them.
    NoAccents,
    /// Texts as [`keyword`] makes them.
    Keyword,
    /// The words of texts, as [`keywords`] finds them, of at least so many characters. A look-up of several words finds what
    /// has all of them; those that are too short are left out of it.
    Keywords(usize),
    /// When the object was last changed, in seconds since 1970, whatever the index is called.
    UpdateTime,
    /// Paths and what they lie in, as [`paths`] splits them at a separator.
    Paths(String),
    /// The values of several properties together, as a list, whatever the index is called.
    Properties(Vec<String>),
}

impl Indexing {
    /// [`Indexing::Keywords`] of three characters or more.
    pub const KEYWORDS: Self = Self::Keywords(3);

    /// [`Indexing::Properties`].
    pub fn properties<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::Properties(names.into_iter().map(Into::into).collect())
    }

    /// The index keys of a value: of a list those of its items, of null none.
    pub fn keys(&self, value: &Value) -> Vec<Value> {
        let text = |make: fn(&str) -> String| match value {
            Value::String(text) => vec![Value::String(make(text))],
            Value::Null => Vec::new(),
            other => vec![other.clone()],
        };
        if let (Value::Array(items), true) = (value, !matches!(self, Self::Properties(_))) {
            return items.iter().flat_map(|item| self.keys(item)).collect();
        }
        match self {
            Self::Value | Self::UpdateTime | Self::Properties(_) if value.is_null() => Vec::new(),
            Self::Value | Self::UpdateTime | Self::Properties(_) => vec![value.clone()],
            Self::Normalize => text(normalize),
            Self::NoAccents => text(|text| normalize(&no_accents(text))),
            Self::Keyword => text(keyword),
            Self::Keywords(min_length) => match value {
                Value::String(text) => keywords([text], *min_length).into_iter().map(Value::from).collect(),
                _ => Vec::new(),
            },
            Self::Paths(separator) => match value {
                Value::String(text) => paths(text, separator).into_iter().map(Value::from).collect(),
                _ => Vec::new(),
            },
        }
    }

    /// The keys that something has all of which has a value.
    pub(crate) fn look_up(&self, value: &Value) -> Vec<Value> {
        let words = match (self, value) {
            // Words that are all too short are looked up nevertheless: a function of an index may find such.
            (Self::Keywords(min_length), Value::String(text)) => match keywords([text], *min_length) {
                words if words.is_empty() => keywords([text], 1),
                words => words,
            },
            _ => Vec::new(),
        };
        if words.is_empty() { vec![self.query(value)] } else { words.into_iter().map(Value::from).collect() }
    }

    /// The key that a query for a value looks up, as one.
    pub(crate) fn query(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::Normalize, Value::String(text)) => normalize(text).into(),
            (Self::NoAccents, Value::String(text)) => normalize(&no_accents(text)).into(),
            (Self::Keyword | Self::Keywords(_), Value::String(text)) => keyword(text).into(),
            (Self::Paths(separator), Value::String(text)) => paths(text, separator).pop().unwrap_or_default().into(),
            _ => value.clone(),
        }
    }
}

/// What a function of an index sees of an object.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'a> {
    pub(crate) oid: &'a str,
    pub(crate) document: &'a Document,
}

impl<'a> ObjectView<'a> {
    /// The object's id.
    pub fn oid(&self) -> &'a str {
        self.oid
    }

    /// A property's value, if it has one.
    pub fn get(&self, property: &str) -> Option<&'a Value> {
        self.document.properties.get(property)
    }

    /// A property's text; empty if it has none.
    pub fn text(&self, property: &str) -> &'a str {
        self.get(property).and_then(Value::as_str).unwrap_or_default()
    }

    /// The targets of a relation.
    pub fn targets(&self, relation: &str) -> &'a [Reference] {
        self.document.relations.get(relation).map(Vec::as_slice).unwrap_or_default()
    }

    /// When a property or relation, or with `oid` the object, was last changed: seconds since 1970.
    pub fn update_time(&self, name: &str) -> Option<f64> {
        self.document.updates.get(name).copied()
    }
}

type Function = Arc<dyn Fn(ObjectView<'_>) -> Vec<Value> + Send + Sync>;

/// An index of a class.
#[derive(Clone)]
pub struct Index {
    source: Source,
    by: Indexing,
    is_unique: bool,
    version: u64,
}

#[derive(Clone)]
enum Source {
    /// A property, or a relation, whose targets are the keys `Collection.oid`.
    Property(String),
    Properties(Vec<String>),
    UpdateTime,
    Function(Function),
}

impl Index {
    /// An index over a property or relation.
    ///
    /// ```
    /// use corallite_objects::{Class, Index, Indexing, Type};
    ///
    /// let class = Class::new("Account")
    ///     .property("email", Type::Email)
    ///     .with_index("login", Index::of_property("email", Indexing::Normalize).unique());
    /// class.check()?;
    /// # Ok::<(), corallite_objects::Error>(())
    /// ```
    pub fn of_property(name: &str, by: Indexing) -> Self {
        let source = match &by {
            Indexing::UpdateTime => Source::UpdateTime,
            Indexing::Properties(names) => Source::Properties(names.clone()),
            _ => Source::Property(name.to_owned()),
        };
        Self { source, by, is_unique: false, version: 0 }
    }

    /// An index over what a function finds in an object. Arguments of queries are treated as `query` treats them. When the
    /// function changes, give it another version: it is not seen otherwise, and the index then has what the old one found.
    pub fn by(
        query: Indexing,
        version: u64,
        function: impl Fn(ObjectView<'_>) -> Vec<Value> + Send + Sync + 'static,
    ) -> Self {
        Self { source: Source::Function(Arc::new(function)), by: query, is_unique: false, version }
    }

    /// Lets each value belong to one object only.
    pub fn unique(mut self) -> Self {
        self.is_unique = true;
        self
    }

    /// Whether each value belongs to one object only.
    pub fn is_unique(&self) -> bool {
        self.is_unique
    }

    /// The property or relation it is over, if it is one whose values are its keys as they are treated by
    /// [`Index::indexing`].
    pub(crate) fn property(&self) -> Option<&str> {
        match &self.source {
            Source::Property(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it is by a function, which only a program has.
    pub(crate) fn is_function(&self) -> bool {
        matches!(self.source, Source::Function(_))
    }

    pub(crate) fn indexing(&self) -> &Indexing {
        &self.by
    }

    pub(crate) fn properties(&self) -> &[String] {
        match &self.source {
            Source::Property(name) => std::slice::from_ref(name),
            Source::Properties(names) => names,
            Source::UpdateTime | Source::Function(_) => &[],
        }
    }

    /// What tells an index that was built another way from this one.
    fn definition(&self, class_version: u64) -> String {
        let source = match &self.source {
            Source::Property(name) => format!("property {name}"),
            Source::Properties(names) => format!("properties {}", names.join(" ")),
            Source::UpdateTime => "update time".to_owned(),
            Source::Function(_) => format!("function, version {}", self.version),
        };
        let unique = if self.is_unique { ", unique" } else { "" };
        format!("{source}, {:?}{unique}, class version {class_version}", self.by)
    }

    /// The encoded keys of an object, in order, each once.
    pub(crate) fn keys(&self, view: ObjectView<'_>) -> Vec<String> {
        let mut keys: Vec<String> = self.wholes(view).map(encode::cut).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The same, as they would be in keys of any length.
    fn wholes(&self, view: ObjectView<'_>) -> impl Iterator<Item = String> {
        let values = match &self.source {
            Source::Property(name) => match view.get(name) {
                Some(value) => self.by.keys(value),
                None => view.targets(name).iter().map(|target| Value::String(target.key())).collect(),
            },
            Source::Properties(names) => {
                let values: Vec<Value> = names.iter().map(|name| view.get(name).cloned().unwrap_or_default()).collect();
                if values.iter().all(Value::is_null) { Vec::new() } else { vec![Value::Array(values)] }
            }
            Source::UpdateTime => view.update_time("oid").map(Value::from).into_iter().collect(),
            Source::Function(function) => function(view),
        };
        values.into_iter().map(|value| encode::whole(&value))
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Index").field(&self.definition(0)).finish()
    }
}
