//! Keys: `Collection.oid`, and what may be one.

use crate::class::WEIGHT;
use crate::error::{Error, Result};

/// The longest key, in bytes.
pub const LONGEST: usize = 1024;

/// Checks a backend's key: any text of at least one byte and at most [`LONGEST`].
///
/// # Errors
///
/// [`Error::Key`].
pub fn check(key: &str) -> Result<()> {
    let problem = match key.len() {
        0 => "it is empty",
        1..=LONGEST => return Ok(()),
        _ => "it is longer than 1,024 bytes",
    };
    Err(Error::Key { key: shorten(key), problem })
}

/// Checks the name of a collection: letters, digits, `_` and `-`. A dot ends it in a key, so that no collection's keys begin
/// like another's. [`WEIGHT`] is none: references to weights have it.
///
/// # Errors
///
/// [`Error::Key`].
pub fn check_collection(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 200 || !name.chars().all(allowed) {
        let problem = "a collection is named with 1 to 200 letters, digits, `_` and `-`";
        return Err(Error::Key { key: shorten(name), problem });
    }
    if name == WEIGHT {
        let problem = "references to weights have that name; take another one for a collection";
        return Err(Error::Key { key: name.to_owned(), problem });
    }
    Ok(())
}

/// The key of an object.
pub fn of(collection: &str, oid: &str) -> String {
    format!("{collection}.{oid}")
}

/// What all keys of a collection begin with.
pub fn prefix(collection: &str) -> String {
    format!("{collection}.")
}

/// A collection and an id, if the key is one of an object.
pub fn split(key: &str) -> Option<(&str, &str)> {
    key.split_once('.').filter(|(collection, oid)| !collection.is_empty() && !oid.is_empty())
}

/// A new object id: a UUIDv7 in hex, 32 digits. Ids of one process are in the order in which they were made.
pub fn new_oid() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// A text short enough for an error.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain("…".chars()).collect()
}
