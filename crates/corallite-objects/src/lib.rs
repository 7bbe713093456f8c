//! Typed objects, files, relations and indexes over interchangeable backends.
//!
//! ```
//! use std::sync::Arc;
//! use corallite_objects::{Class, Indexes, Indexing, MemoryBackend, ObjectStorage, Type};
//! use serde_json::json;
//!
//! let storage = ObjectStorage::new(Arc::new(MemoryBackend::new()));
//! storage.register(Class::new("Account").property("email", Type::Email).property("name", Type::Line))?;
//! storage.register(
//!     Class::new("Article")
//!         .property("title", Type::String)
//!         .property("status", Type::enumeration(["draft", "published"]))
//!         .one("author", "Account")
//!         .index("status", Indexing::Normalize),
//! )?;
//! let indexes = Indexes::attach(&storage, Arc::clone(storage.backend()))?;
//!
//! let ann = storage.create("Account", json!({"email": "ann@example.org", "name": "Ann"}))?;
//! let article = storage.create("Article", json!({"title": "Hello", "status": "draft"}))?;
//! article.relation("author")?.add(&ann)?;
//! storage.save_all(&[ann, article])?;
//!
//! for found in indexes.of("Article")?.by("status")?.get("Draft")? {
//!     assert_eq!(found?.get("title"), Some(json!("Hello")));
//! }
//! # Ok::<(), corallite_objects::Error>(())
//! ```
//!
//! An [`ObjectStorage`] keeps the [`StoredObject`](struct@StoredObject)s of registered [`Class`]es as JSON documents in a
//! [`Backend`]; a [`RawStorage`] keeps files of any size ([`StoredRaw`](struct@StoredRaw)); [`Indexes`] find objects by what
//! they hold. Values are checked by [`Type`]s. HDF5 is not needed: the backend within a store's file is in the crate
//! `corallite`.
//!
//! Here classes are declared at run time. In [`typed`] they are Rust structs: `#[derive(StoredObject)]`.

#![deny(unsafe_code)]

pub mod backend;
pub mod class;
pub mod conformance;
mod declaration;
mod document;
pub mod error;
mod gate;
pub mod index;
pub mod key;
pub mod object;
pub mod query;
pub mod raw;
pub mod reference;
mod referrers;
pub mod relation;
mod save;
pub mod storage;
pub mod typed;
pub mod types;

#[cfg(feature = "dbm")]
pub use backend::DbmBackend;
pub use backend::{Backend, BackendExt, DirectoryBackend, Durability, MemoryBackend, MultiBackend};
pub use class::{Class, OnRemove, Property, RelationType};
#[cfg(feature = "derive")]
pub use corallite_derive::{PropertyType, StoredObject, StoredRaw};
pub use error::{Error, Result};
pub use index::{Index, IndexView, Indexes, Indexing, Limits, ObjectIndexes, ObjectView, Order};
pub use object::StoredObject;
pub use query::{Plan, Query};
pub use raw::{RawClass, RawStorage, Source, StoredRaw};
pub use reference::Reference;
pub use relation::{Relation, Target};
pub use storage::ObjectStorage;
pub use typed::{Files, Many, Object, Objects, One, PropertyType, Raw, Related, Stored, StoredFile, Weight};
pub use types::Type;
