//! Objects as Rust structs.
//!
//! ```
//! use std::sync::Arc;
//! use corallite_objects::{Indexes, MemoryBackend, Many, ObjectStorage, One, PropertyType, StoredObject};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(StoredObject, Clone, Debug, Default)]
//! struct Account {
//!     #[object(type = Email, index = Normalize, unique)]
//!     email: Option<String>,
//!     name: String,
//! }
//!
//! #[derive(StoredObject, Clone, Debug, Default)]
//! #[object(collection = "articles", version = 1)]
//! #[object(index_by(keywords = keywords_of, query = Keywords(3), version = 1))]
//! struct Article {
//!     title: String,
//!     #[object(index = Normalize)]
//!     status: Status,
//!     #[object(index)]
//!     votes: i64,
//!     #[object(on_remove = Refuse)]
//!     author: One<Account>,
//!     related: Many<Article>,
//! }
//!
//! #[derive(PropertyType, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
//! #[serde(rename_all = "lowercase")]
//! enum Status {
//!     #[default]
//!     Draft,
//!     Published,
//! }
//!
//! fn keywords_of(article: &Article) -> Vec<String> {
//!     corallite_objects::index::keywords([&article.title], 3)
//! }
//!
//! let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
//! let accounts = storage.register_type::<Account>()?;
//! let articles = storage.register_type::<Article>()?;
//! Indexes::attach(&storage, Arc::clone(storage.backend()))?;
//!
//! let ann = accounts.insert(&Account { email: Some("ann@example.org".into()), name: "Ann".into() })?;
//! let hello = Article { title: "Hello, world".into(), author: One::to(&ann), ..Article::default() };
//! let article = articles.insert(&hello)?;
//! article.edit(|article| article.votes += 4)?;
//! article.save()?;
//!
//! let found = articles.find("votes > 3 and status = 'draft'")?.run()?;
//! assert_eq!(found[0].read()?.title, "Hello, world");
//! let author = found[0].read()?.author.load(&storage)?.expect("there is one");
//! assert_eq!(author.read()?.name, "Ann");
//! assert_eq!(articles.by("keywords")?.count("WORLD")?, 1);
//! # Ok::<(), corallite_objects::Error>(())
//! ```
//!
//! [`Stored`] is the form of a class: what `#[derive(StoredObject)]` makes of a struct. [`Objects`] are the objects of such
//! a class, [`Object`] is one of them. Each is a [`StoredObject`](struct@crate::StoredObject) with another way to look at it,
//! so both ways can be mixed. Structs are copies: [`Object::read`] makes one, [`Object::edit`] and [`Object::write`] bring
//! one back. The same is there for files: [`StoredFile`], [`Files`], [`Raw`].
//!
//! What a property may hold follows from the field's Rust type ([`PropertyType`]), unless `#[object(type = …)]` says
//! otherwise. Fields of any serde type can be stored; where nothing is known about it, the property may hold any JSON. The
//! attributes are listed at the macro. Attributes of serde on the fields of the struct itself do nothing here: the document's
//! names are those of the fields, or `rename`'s.

mod file;
#[doc(hidden)]
pub mod made;
mod object;
mod objects;
mod property_type;
mod relation;

use serde_json::{Map, Value};

use crate::class::Class;
use crate::error::Result;
use crate::raw::RawClass;
use crate::storage::ObjectStorage;

pub use file::{Files, Raw};
pub use object::Object;
pub use objects::{Objects, TypedIndex, TypedQuery};
pub use property_type::PropertyType;
pub use relation::{Many, One, RelationField, Weight};

/// The form of a class of objects. `#[derive(StoredObject)]` implements it.
pub trait Stored: Related<Handle = Object<Self>> {
    /// The name of the class.
    const NAME: &'static str;

    /// The class.
    fn class() -> Class;

    /// Its properties and relations as JSON, by name; null for those without a value.
    ///
    /// # Errors
    ///
    /// [`Error::Type`](crate::Error::Type) for what serde cannot write, or would not read again.
    fn to_values(&self) -> Result<Map<String, Value>>;

    /// The struct of properties and relations. Names that it does not have are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Type`](crate::Error::Type) for what the field's type cannot hold.
    fn from_values(values: Map<String, Value>) -> Result<Self>;
}

/// The metadata of a class of files. `#[derive(StoredRaw)]` implements it.
///
/// ```
/// use std::sync::Arc;
/// use corallite_objects::{MemoryBackend, RawStorage, StoredRaw};
///
/// #[derive(StoredRaw)]
/// struct Image {
///     #[object(type = Line)]
///     format: String,
///     width: Option<u32>,
/// }
///
/// let storage = RawStorage::new(Arc::new(MemoryBackend::new()));
/// let images = storage.register_type::<Image>()?;
/// let image = images.insert(b"...".as_slice(), &Image { format: "jpeg".into(), width: None })?;
/// image.edit(|meta| meta.width = Some(1920))?;
/// image.save()?;
/// let found = images.get(image.oid())?.expect("was saved");
/// assert_eq!((found.read()?.width, found.load_data()?), (Some(1920), b"...".to_vec()));
/// # Ok::<(), corallite_objects::Error>(())
/// ```
pub trait StoredFile: Related<Handle = Raw<Self>> {
    /// The name of the class.
    const NAME: &'static str;

    /// The class.
    fn class() -> RawClass;

    /// The metadata as JSON, by name; null for what has no value.
    ///
    /// # Errors
    ///
    /// As [`Stored::to_values`].
    fn to_values(&self) -> Result<Map<String, Value>>;

    /// The struct of metadata. Names that it does not have are ignored.
    ///
    /// # Errors
    ///
    /// As [`Stored::from_values`].
    fn from_values(values: Map<String, Value>) -> Result<Self>;
}

/// What [`One`] and [`Many`] can lead to: objects, files, and [`Weight`]s.
#[diagnostic::on_unimplemented(
    message = "nothing can lead to `{Self}`",
    label = "relations lead to what derives `StoredObject` or `StoredRaw`, and to `Weight`"
)]
pub trait Related: Sized {
    /// The collection that references to it name.
    const COLLECTION: &'static str;

    /// What it is loaded as.
    type Handle;

    /// Loads the one with an id; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// As [`ObjectStorage::get`]; for files [`Error::Usage`](crate::Error::Usage) when no [`ObjectStorage::connect`] said
    /// where they are.
    fn load(storage: &ObjectStorage, oid: &str) -> Result<Option<Self::Handle>>;
}
