//! Writing.

use super::CIDStore;
use crate::E;
use crate::change::Change;
use crate::error::Result;
use crate::wal::Durability;

/// What [`CIDStore::delete`] removes: a key with all its values, or one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion(Change);

impl From<E> for Deletion {
    fn from(key: E) -> Self {
        Self(Change::delete(key))
    }
}

impl From<(E, E)> for Deletion {
    fn from((key, value): (E, E)) -> Self {
        Self(Change::delete_value(key, value))
    }
}

impl Deletion {
    /// The key that loses something.
    pub fn key(self) -> E {
        self.0.key
    }

    pub(crate) fn change(self) -> Change {
        self.0
    }
}

impl CIDStore {
    /// Links a value to a key, durably. A pair that is there already stays where it is in the order.
    ///
    /// Calls of several threads at the same time share one sync.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`](crate::Error::Poisoned) after a failed write, [`Error::ReadOnly`](crate::Error::ReadOnly), and
    /// what the file layer reports when the log is full and a checkpoint fails.
    pub fn insert(&self, key: E, value: E) -> Result<()> {
        self.apply(&[Change::insert(key, value)], Durability::Durable).map(drop)
    }

    /// Removes a key with all its values, `delete(key)`, or one value of it, `delete((key, value))`, durably; whether there
    /// was anything.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::insert`], and [`Error::Damaged`](crate::Error::Damaged) when the file cannot tell whether the key is
    /// there; it is removed all the same.
    pub fn delete(&self, what: impl Into<Deletion>) -> Result<bool> {
        self.apply(&[what.into().0], Durability::Durable).map(|moved| moved > 0)
    }

    /// Removes one value of a key, durably; whether it was there.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::delete`].
    pub fn delete_value(&self, key: E, value: E) -> Result<bool> {
        self.delete((key, value))
    }

    /// Links many pairs, durably and all or none.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::insert`], and [`Error::TooLarge`](crate::Error::TooLarge) for more pairs than the log holds.
    pub fn batch_insert(&self, pairs: &[(E, E)]) -> Result<()> {
        let changes: Vec<Change> = pairs.iter().map(|(key, value)| Change::insert(*key, *value)).collect();
        self.apply(&changes, Durability::Durable).map(drop)
    }

    /// Removes many keys with all their values, durably and all or none; how many pairs that were.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::delete`], and [`Error::TooLarge`](crate::Error::TooLarge) for more keys than the log holds.
    pub fn batch_delete(&self, keys: &[E]) -> Result<u64> {
        let changes: Vec<Change> = keys.iter().map(|key| Change::delete(*key)).collect();
        self.apply(&changes, Durability::Durable)
    }

    /// Makes changes in order, all or none, with the durability asked for. Says how many pairs came or went; an insertion
    /// into a part of the store that is not loaded counts as one whether or not the pair was there.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::batch_insert`].
    pub fn apply(&self, changes: &[Change], durability: Durability) -> Result<u64> {
        self.shared.commit(changes, durability)
    }
}
