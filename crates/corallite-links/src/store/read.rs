//! Reading.

use super::CIDStore;
use crate::engine::Ahead;
use crate::entry::HashEntry;
use crate::error::Result;
use crate::hash::Hash;
use crate::{E, Values};

impl CIDStore {
    /// All values of a key, in the order of their insertion; none for a key that is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`](crate::Error::Damaged) when what the file holds of the key is not what was written.
    #[inline]
    pub fn get(&self, key: E) -> Result<Values> {
        let mut values = Values::default();
        self.get_into(key, &mut values)?;
        Ok(values)
    }

    /// The same, into what the caller keeps from call to call.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    #[inline]
    pub fn get_into(&self, key: E, values: &mut Values) -> Result<()> {
        self.shared.check_open()?;
        self.shared.metrics.read();
        self.shared.engine.values(key, values)
    }

    /// Another name of [`CIDStore::get`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn lookup(&self, key: E) -> Result<Values> {
        self.get(key)
    }

    /// The values of many keys, in the order of the keys. Faster than one by one: what the next keys need is loaded
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn get_many(&self, keys: &[E]) -> Result<Vec<Values>> {
        self.shared.check_open()?;
        let engine = &self.shared.engine;
        let hashes: Vec<Hash> = keys.iter().map(|key| engine.seed.hash(*key)).collect();
        let mut all = Vec::with_capacity(keys.len());
        let mut ahead = Ahead::new(engine, &hashes);
        for (index, (key, hash)) in keys.iter().zip(&hashes).enumerate() {
            ahead.step(index);
            self.shared.metrics.read();
            let mut values = Values::default();
            engine.values_of(*hash, *key, &mut values)?;
            all.push(values);
        }
        Ok(all)
    }

    /// Whether a value is linked to a key. In a large value set this is a bisection.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn contains(&self, key: E, value: E) -> Result<bool> {
        self.shared.check_open()?;
        self.shared.metrics.read();
        self.shared.engine.contains(key, value)
    }

    /// Whether a key has any value.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn contains_key(&self, key: E) -> Result<bool> {
        Ok(!self.get(key)?.is_empty())
    }

    /// What is stored of a key, in the documents' form; `None` for a key that is absent.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn get_entry(&self, key: E) -> Result<Option<HashEntry>> {
        self.shared.check_open()?;
        let writer = self.shared.writer.lock();
        self.shared.engine.entry_of(&writer, key)
    }

    /// Whether a key's values lie in a value set.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn is_spilled(&self, key: E) -> Result<bool> {
        Ok(self.get_entry(key)?.is_some_and(|entry| entry.spill.is_some()))
    }

    /// The same as [`CIDStore::is_spilled`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn valueset_exists(&self, key: E) -> Result<bool> {
        self.is_spilled(key)
    }

    /// Tombstones in a key's value set: values removed whose room was not reused yet. In the file there are none, as folding
    /// leaves them out.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub fn get_tombstone_count(&self, key: E) -> Result<u32> {
        self.shared.check_open()?;
        let engine = &self.shared.engine;
        let hash = engine.seed.hash(key);
        let writer = self.shared.writer.lock();
        let owned = writer.partitions.get(engine.route(hash) as usize).and_then(Option::as_ref);
        let spill = owned.and_then(|owned| owned.hot.as_ref()?.entry(&engine.memory, hash, key).1);
        Ok(spill.map_or(0, |(_, head)| head.tombstones))
    }
}
