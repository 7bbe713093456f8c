//! Reading.

use super::AsyncCIDStore;
#[cfg(doc)]
use crate::CIDStore;
use crate::entry::HashEntry;
use crate::error::Result;
use crate::{E, Values};

/// Keys that are read at once without handing the work over: about 50 microseconds.
const INLINE_KEYS: usize = 128;

impl AsyncCIDStore {
    /// Whether reading a key needs no disk.
    fn is_loaded(&self, key: E) -> bool {
        let engine = &self.store.shared.engine;
        engine.memory.slot(engine.route(engine.seed.hash(key))).place().is_some()
    }

    /// All values of a key, in the order of their insertion; see [`CIDStore::get`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn get(&self, key: E) -> Result<Values> {
        if self.is_loaded(key) {
            return self.store.get(key);
        }
        self.hand_over(move |store| store.get(key)).await
    }

    /// The same, into what the caller keeps from call to call.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn get_into(&self, key: E, values: &mut Values) -> Result<()> {
        if self.is_loaded(key) {
            return self.store.get_into(key, values);
        }
        *values = self.hand_over(move |store| store.get(key)).await?;
        Ok(())
    }

    /// Another name of [`AsyncCIDStore::get`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn lookup(&self, key: E) -> Result<Values> {
        self.get(key).await
    }

    /// The values of many keys, in the order of the keys; see [`CIDStore::get_many`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn get_many(&self, keys: &[E]) -> Result<Vec<Values>> {
        if keys.len() <= INLINE_KEYS && keys.iter().all(|key| self.is_loaded(*key)) {
            return self.store.get_many(keys);
        }
        let keys = keys.to_vec();
        self.hand_over(move |store| store.get_many(&keys)).await
    }

    /// Whether a value is linked to a key.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn contains(&self, key: E, value: E) -> Result<bool> {
        if self.is_loaded(key) {
            return self.store.contains(key, value);
        }
        self.hand_over(move |store| store.contains(key, value)).await
    }

    /// Whether a key has any value.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn contains_key(&self, key: E) -> Result<bool> {
        if self.is_loaded(key) {
            return self.store.contains_key(key);
        }
        self.hand_over(move |store| store.contains_key(key)).await
    }

    /// See [`CIDStore::get_entry`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get_entry`].
    pub async fn get_entry(&self, key: E) -> Result<Option<HashEntry>> {
        self.hand_over(move |store| store.get_entry(key)).await
    }

    /// See [`CIDStore::is_spilled`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::is_spilled`].
    pub async fn is_spilled(&self, key: E) -> Result<bool> {
        self.hand_over(move |store| store.is_spilled(key)).await
    }

    /// See [`CIDStore::valueset_exists`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::valueset_exists`].
    pub async fn valueset_exists(&self, key: E) -> Result<bool> {
        self.hand_over(move |store| store.valueset_exists(key)).await
    }

    /// See [`CIDStore::get_tombstone_count`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get_tombstone_count`].
    pub async fn get_tombstone_count(&self, key: E) -> Result<u32> {
        self.hand_over(move |store| store.get_tombstone_count(key)).await
    }
}
