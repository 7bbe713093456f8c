//! The values of one key.

use super::AsyncCIDStore;
#[cfg(doc)]
use crate::CIDStore;
use crate::error::Result;
use crate::{E, Values};

impl AsyncCIDStore {
    /// The values of a key, to be worked on; see [`CIDStore::value_set`].
    pub fn value_set(&self, key: E) -> AsyncValueSet {
        AsyncValueSet { store: self.clone(), key }
    }
}

/// The values of one key; see [`ValueSet`](crate::ValueSet).
#[derive(Clone, Debug)]
pub struct AsyncValueSet {
    store: AsyncCIDStore,
    key: E,
}

impl AsyncValueSet {
    /// The key.
    pub fn key(&self) -> E {
        self.key
    }

    /// See [`ValueSet::add`](crate::ValueSet::add).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::add`](crate::ValueSet::add).
    pub async fn add(&self, value: E) -> Result<()> {
        self.store.insert(self.key, value).await
    }

    /// See [`ValueSet::remove`](crate::ValueSet::remove).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::remove`](crate::ValueSet::remove).
    pub async fn remove(&self, value: E) -> Result<bool> {
        self.store.delete_value(self.key, value).await
    }

    /// See [`ValueSet::promote`](crate::ValueSet::promote).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::promote`](crate::ValueSet::promote).
    pub async fn promote(&self) -> Result<bool> {
        let key = self.key;
        self.store.hand_over(move |store| store.promote(key)).await
    }

    /// See [`ValueSet::demote`](crate::ValueSet::demote).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::demote`](crate::ValueSet::demote).
    pub async fn demote(&self) -> Result<bool> {
        self.store.demote_if_possible(self.key).await
    }

    /// See [`ValueSet::compact`](crate::ValueSet::compact).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::compact`](crate::ValueSet::compact).
    pub async fn compact(&self) -> Result<u64> {
        self.store.compact_key(self.key).await
    }

    /// See [`ValueSet::values`](crate::ValueSet::values).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::values`](crate::ValueSet::values).
    pub async fn values(&self) -> Result<Values> {
        self.store.get(self.key).await
    }

    /// See [`ValueSet::is_spilled`](crate::ValueSet::is_spilled).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::is_spilled`](crate::ValueSet::is_spilled).
    pub async fn is_spilled(&self) -> Result<bool> {
        self.store.is_spilled(self.key).await
    }

    /// See [`ValueSet::tombstone_count`](crate::ValueSet::tombstone_count).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::tombstone_count`](crate::ValueSet::tombstone_count).
    pub async fn tombstone_count(&self) -> Result<u32> {
        self.store.get_tombstone_count(self.key).await
    }

    /// See [`ValueSet::valueset_exists`](crate::ValueSet::valueset_exists).
    ///
    /// # Errors
    ///
    /// As [`ValueSet::valueset_exists`](crate::ValueSet::valueset_exists).
    pub async fn valueset_exists(&self) -> Result<bool> {
        self.store.valueset_exists(self.key).await
    }
}
