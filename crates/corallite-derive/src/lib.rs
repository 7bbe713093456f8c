//! The derive macros of `corallite-objects`, which re-exports them and documents them where they are used: in its module
//! `typed`.
//!
//! What they make is an implementation of a trait of that crate, field by field, on its module `typed::made`. They look at
//! tokens only: what a field's Rust type means is decided by traits.

#![deny(unsafe_code)]

mod attributes;
mod property_type;
mod stored;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a struct with named fields the form of a class of objects: `corallite_objects::Stored`. Its fields are properties,
/// those of the types `One` and `Many` relations. See the module `typed` of `corallite-objects` for examples.
///
/// On the struct, `#[object(…)]` with
///
/// | | |
/// |---|---|
/// | `name = "Article"` | the class's name; the struct's if it is not given |
/// | `collection = "articles"` | its collection; the class's name if it is not given |
/// | `version = 2`, `migrate = function` | the version of this declaration, and what makes documents of older ones those of this one: `fn(u64, &mut Map<String, Value>) -> Result<(), String>` |
/// | `open` | objects may have properties that the struct does not; they are kept |
/// | `index_by(words = function, query = Keywords(3), version = 1, unique)` | an index over what a function finds in `&Self`; arguments of queries are treated as `query` treats them; all but the function may be left out |
/// | `crate = path` | where `corallite_objects` is |
///
/// On a field
///
/// | | |
/// |---|---|
/// | `type = Email` | what the property may hold: an expression of `Type`; `Type::` may be left out |
/// | `index`, `index = Normalize` | an index over it: an expression of `Indexing`; `Value` if it is not given |
/// | `unique` | each value of that index belongs to one object only |
/// | `on_remove = Drop` | of a relation: an expression of `OnRemove` |
/// | `default`, `default = 3` | what it is in an object that has no value; `Default::default()` if it is not given |
/// | `rename = "name"` | what it is called in the document |
/// | `skip` | it is not stored, and read as `Default::default()` |
#[proc_macro_derive(StoredObject, attributes(object))]
pub fn stored_object(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    stored::object(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Makes a struct the metadata of a class of files: `corallite_objects::StoredFile`. A struct without fields allows any
/// metadata.
///
/// On the struct, `#[object(…)]` with `name`, `collection` and `crate`, on a field with `type`, `default`, `rename` and
/// `skip`, as for `StoredObject`.
#[proc_macro_derive(StoredRaw, attributes(object))]
pub fn stored_raw(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    stored::file(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Says what properties of a Rust type may hold: `corallite_objects::PropertyType`. For enums of variants without values,
/// whose values are what serde makes of the variants, and for structs around one value.
#[proc_macro_derive(PropertyType, attributes(object))]
pub fn property_type(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    property_type::expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}
