//! [`ValueSet`]: one key's values, as the documents' users handle them.

use crate::{CIDStore, E, Result, Values};

/// The values of one key: a handle that reads and writes them through the store. Up to four values lie in the key's bucket;
/// more spill to a value set.
///
/// ```
/// use corallite_links::{CIDStore, E};
///
/// let store = CIDStore::memory()?;
/// let tags = store.value_set(E::from_str("base"));
/// for tag in 0..6 {
///     tags.add(E::new(tag))?;
/// }
/// assert!(tags.is_spilled()?);
/// tags.remove(E::new(0))?;
/// tags.remove(E::new(1))?;
/// assert_eq!(tags.tombstone_count()?, 2);
/// assert!(tags.demote()?); // four values fit into the bucket again
/// assert_eq!(tags.values()?, [E::new(2), E::new(3), E::new(4), E::new(5)]);
/// # Ok::<(), corallite_links::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ValueSet<'a> {
    store: &'a CIDStore,
    key: E,
}

impl CIDStore {
    /// The values of a key, to be worked on.
    pub fn value_set(&self, key: E) -> ValueSet<'_> {
        ValueSet { store: self, key }
    }
}

impl ValueSet<'_> {
    /// The key.
    pub fn key(&self) -> E {
        self.key
    }

    /// Adds a value; see [`CIDStore::insert`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::insert`].
    pub fn add(&self, value: E) -> Result<()> {
        self.store.insert(self.key, value)
    }

    /// Removes a value, leaving a tombstone where it is spilled; whether it was there.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::delete`].
    pub fn remove(&self, value: E) -> Result<bool> {
        self.store.delete_value(self.key, value)
    }

    /// Moves inline values to a value set, before there are more than four; whether there were any.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn promote(&self) -> Result<bool> {
        self.store.promote(self.key)
    }

    /// Moves the values back into the bucket if they fit; see [`CIDStore::demote_if_possible`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::demote_if_possible`].
    pub fn demote(&self) -> Result<bool> {
        self.store.demote_if_possible(self.key)
    }

    /// Removes the tombstones and merges the regions; see [`CIDStore::compact_key`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::compact_key`].
    pub fn compact(&self) -> Result<u64> {
        self.store.compact_key(self.key)
    }

    /// All values, in the order of their insertion.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn values(&self) -> Result<Values> {
        self.store.get(self.key)
    }

    /// Whether the values lie in a value set.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn is_spilled(&self) -> Result<bool> {
        self.store.is_spilled(self.key)
    }

    /// Values removed whose room was not reused yet.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn tombstone_count(&self) -> Result<u32> {
        self.store.get_tombstone_count(self.key)
    }

    /// Whether there is a value set.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn valueset_exists(&self) -> Result<bool> {
        self.store.valueset_exists(self.key)
    }
}
