//! Where documents and files are kept, by key.
//!
//! A [`Backend`] maps keys (any text of 1 to 1,024 bytes) to two kinds of things that do not know of each other: values, which
//! are bytes (the object layer's are JSON documents), and streams, which are files of any length. Keys are ordered by their
//! bytes. [`crate::conformance`] checks all of this on any implementation.
//!
//! ```
//! use corallite_objects::backend::{Backend, BackendExt, MemoryBackend};
//!
//! let backend = MemoryBackend::new();
//! backend.add("Account.1", br#"{"name":"Ann"}"#)?;
//! assert!(backend.add("Account.1", b"{}").is_err());      // it is there already
//! assert!(backend.update("Account.2", b"{}").is_err());   // and this one is not
//! assert_eq!(backend.keys("Account.")?.count(), 1);
//! # Ok::<(), corallite_objects::Error>(())
//! ```

#[cfg(feature = "dbm")]
mod dbm;
mod directory;
mod memory;
mod multi;
mod watch;

use std::fmt;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{Error, Result};

#[cfg(feature = "dbm")]
pub use dbm::DbmBackend;
pub use directory::DirectoryBackend;
pub use memory::MemoryBackend;
pub use multi::MultiBackend;
pub use watch::{Event, EventKind, Subscription, Watchers};

/// Keys, in order.
pub type Keys<'a> = Box<dyn Iterator<Item = Result<String>> + 'a>;

/// Keys and their values, in the order of the keys.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<(String, Bytes)>> + 'a>;

/// Where documents and files are kept, by key. Shared by threads; each call is atomic.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What errors call it: its kind and place.
    fn location(&self) -> String;

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], and what the system reports; so all the others.
    fn get(&self, key: &str) -> Result<Option<Bytes>>;

    /// Whether a key has a value.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`].
    fn has(&self, key: &str) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The keys of a range. What is changed meanwhile may show or not; everything else shows once.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`], now or while going on.
    fn keys_in(&self, range: &Range) -> Result<Keys<'_>>;

    /// The keys of a range with their values. A key that is removed meanwhile is left out.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`], now or while going on.
    fn entries_in(&self, range: &Range) -> Result<Entries<'_>>;

    /// How many keys a range has.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`].
    fn count_in(&self, range: &Range) -> Result<u64> {
        self.keys_in(range)?.try_fold(0, |count, key| key.map(|_| count + 1))
    }

    /// Makes changes in order, if for each of them there is what it expects; none if not. Where [`Backend::is_atomic`],
    /// after a crash all are there or none; elsewhere the first ones may be. With [`Durability::Durable`] they are on the
    /// disk when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::Absent`] and [`Error::Changed`] for what is not as expected; [`Error::Key`]; and as
    /// [`Backend::get`].
    fn write(&self, changes: &[Change<'_>], durability: Durability) -> Result<()>;

    /// Whether the changes of one [`Backend::write`] survive a crash together or not at all.
    fn is_atomic(&self) -> bool;

    /// Whether anything can be written to it.
    fn is_writable(&self) -> bool {
        true
    }

    /// Opens the stream of a key.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`].
    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>>;

    /// Begins a stream, which replaces that of its key when it is finished; dropped before, it leaves nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Key`], and as [`Backend::get`].
    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>>;

    /// Removes the stream of a key; says whether there was one.
    ///
    /// # Errors
    ///
    /// As [`Backend::get`].
    fn remove_stream(&self, key: &str) -> Result<bool>;

    /// Gives the stream of one key to another, in the place of that one's; says whether there was one. With
    /// [`Durability::Durable`] it is on the disk there when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Key`], and as [`Backend::get`].
    fn rename_stream(&self, from: &str, to: &str, durability: Durability) -> Result<bool> {
        let Some(mut old) = self.read_stream(from)? else { return Ok(false) };
        if from == to {
            return Ok(true);
        }
        let mut new = self.write_stream(to)?;
        std::io::copy(&mut old, &mut new).map_err(|error| Error::io("copy a stream in", self.location(), error))?;
        new.finish(durability)?;
        self.remove_stream(from)
    }

    /// The keys that begin with a prefix and have a stream.
    ///
    /// # Errors
    ///
    /// As [`Backend::keys_in`].
    fn streams(&self, prefix: &str) -> Result<Keys<'_>>;

    /// The file that holds the stream of a key, and nothing else, where there is such a file. For reading.
    fn path(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    /// Brings everything written to the disk.
    ///
    /// # Errors
    ///
    /// What the system reports.
    fn sync(&self) -> Result<()>;

    /// Removes everything, streams included, for good.
    ///
    /// # Errors
    ///
    /// As [`Backend::write`].
    fn clear(&self) -> Result<()>;

    /// Syncs and closes. Whoever uses it afterwards is told that it is closed; closing it again does nothing.
    ///
    /// # Errors
    ///
    /// As [`Backend::sync`].
    fn close(&self) -> Result<()>;

    /// Who is told of changes. An implementation tells them after each successful write.
    fn watchers(&self) -> &Watchers;
}

/// A stream that is read.
pub trait ReadStream: Read + Seek + Send + fmt::Debug {
    /// Its length in bytes.
    fn length(&self) -> u64;
}

/// A stream that is written.
pub trait WriteStream: Write + Send {
    /// Puts it in the place of its key's stream.
    ///
    /// # Errors
    ///
    /// As [`Backend::write`].
    fn finish(self: Box<Self>, durability: Durability) -> Result<()>;
}

/// When something written is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// When the call returns.
    #[default]
    Durable,
    /// After the next durable write or [`Backend::sync`]; it may be lost before, whole.
    Buffered,
}

/// One change of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Whose value.
    pub key: &'a str,
    /// The new value; `None` removes the key.
    pub value: Option<&'a [u8]>,
    /// What there must be before.
    pub expect: Expect<'a>,
}

/// What a change expects of its key, before any change of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// Anything.
    Anything,
    /// No value.
    Absent,
    /// A value.
    Present,
    /// This value.
    Value(&'a [u8]),
}

impl Change<'_> {
    /// Checks the key, and that `found` is what is expected of it. For implementations.
    ///
    /// # Errors
    ///
    /// [`Error::Key`], [`Error::Exists`], [`Error::Absent`], [`Error::Changed`].
    pub fn check(&self, location: impl FnOnce() -> String, found: Option<&[u8]>) -> Result<()> {
        crate::key::check(self.key)?;
        let key = self.key.to_owned();
        match (self.expect, found) {
            (Expect::Anything, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
            (Expect::Absent, Some(_)) => Err(Error::Exists { location: location(), key }),
            (Expect::Present, None) => Err(Error::Absent { location: location(), key }),
            (Expect::Value(value), Some(found)) if found == value => Ok(()),
            (Expect::Value(_), found) => {
                Err(Error::Changed { location: location(), key, found: found.map(Bytes::copy_from_slice) })
            }
        }
    }
}

/// A range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first key that may be in it; empty for the very first.
    pub from: String,
    /// The first key after it; `None` for no end.
    pub to: Option<String>,
    /// From the last key to the first.
    pub is_reversed: bool,
}

impl Range {
    /// All keys that begin with a prefix.
    pub fn prefix(prefix: &str) -> Self {
        Self { from: prefix.to_owned(), to: after(prefix), is_reversed: false }
    }

    /// The same keys in reverse order.
    pub fn reversed(self) -> Self {
        Self { is_reversed: !self.is_reversed, ..self }
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &str) -> bool {
        key >= self.from.as_str() && self.to.as_deref().is_none_or(|to| key < to)
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.to.as_deref().is_some_and(|to| to <= self.from.as_str())
    }
}

/// The smallest text that is greater than all that begin with `prefix`.
fn after(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last {
            // There is no character between these.
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// What can be done with every backend.
pub trait BackendExt: Backend {
    /// Gives a value to a key that has none, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], and as [`Backend::write`].
    fn add(&self, key: &str, value: &[u8]) -> Result<()> {
        self.write(&[Change { key, value: Some(value), expect: Expect::Absent }], Durability::Durable)
    }

    /// Gives another value to a key that has one, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`], and as [`Backend::write`].
    fn update(&self, key: &str, value: &[u8]) -> Result<()> {
        self.write(&[Change { key, value: Some(value), expect: Expect::Present }], Durability::Durable)
    }

    /// Removes a key, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`], and as [`Backend::write`].
    fn remove(&self, key: &str) -> Result<()> {
        self.write(&[Change { key, value: None, expect: Expect::Present }], Durability::Durable)
    }

    /// The keys that begin with a prefix.
    ///
    /// # Errors
    ///
    /// As [`Backend::keys_in`].
    fn keys(&self, prefix: &str) -> Result<Keys<'_>> {
        self.keys_in(&Range::prefix(prefix))
    }

    /// Tells of changes to keys that begin with a prefix, from now on.
    fn watch(&self, prefix: &str) -> Subscription {
        self.watchers().subscribe(prefix)
    }

    /// Tells of changes to one key, from now on.
    fn watch_key(&self, key: &str) -> Subscription {
        self.watchers().subscribe_key(key)
    }
}

impl<B: Backend + ?Sized> BackendExt for B {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_of_all_that_begins_with_it_and_of_nothing_else() {
        for prefix in ["A.", "\u{d7ff}", "a\u{10ffff}", "\u{10ffff}", ""] {
            let range = Range::prefix(prefix);
            let last = format!("{prefix}\u{10ffff}\u{10ffff}");
            assert!(range.contains(prefix) || prefix.is_empty());
            assert!(range.contains(&last), "{prefix:?}");
            assert!(!range.to.is_some_and(|to| to.starts_with(prefix)), "{prefix:?}");
        }
        assert!(!Range::prefix("A.").contains("Ab.1"));
    }
}
