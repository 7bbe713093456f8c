//! Writing, through the store's committer.

use std::sync::Arc;

use super::{AsyncCIDStore, blocking};
#[cfg(doc)]
use crate::CIDStore;
use crate::E;
use crate::change::Change;
use crate::error::{Error, Result};
use crate::store::{Deletion, Transaction};
use crate::wal::Durability;

impl AsyncCIDStore {
    /// Links a value to a key, durably; see [`CIDStore::insert`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::insert`].
    pub async fn insert(&self, key: E, value: E) -> Result<()> {
        self.apply_owned(vec![Change::insert(key, value)], Durability::Durable).await.map(drop)
    }

    /// Removes a key or one value of it, durably; whether there was anything. See [`CIDStore::delete`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::delete`].
    pub async fn delete(&self, what: impl Into<Deletion>) -> Result<bool> {
        let change = what.into().change();
        self.apply_owned(vec![change], Durability::Durable).await.map(|moved| moved > 0)
    }

    /// Removes one value of a key, durably; whether it was there.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::delete`].
    pub async fn delete_value(&self, key: E, value: E) -> Result<bool> {
        self.delete((key, value)).await
    }

    /// Links many pairs, durably and all or none.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::batch_insert`].
    pub async fn batch_insert(&self, pairs: &[(E, E)]) -> Result<()> {
        let changes = pairs.iter().map(|(key, value)| Change::insert(*key, *value)).collect();
        self.apply_owned(changes, Durability::Durable).await.map(drop)
    }

    /// Removes many keys with all their values, durably and all or none; how many pairs that were.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::batch_delete`].
    pub async fn batch_delete(&self, keys: &[E]) -> Result<u64> {
        let changes = keys.iter().map(|key| Change::delete(*key)).collect();
        self.apply_owned(changes, Durability::Durable).await
    }

    /// Makes changes in order, all or none; see [`CIDStore::apply`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::apply`].
    pub async fn apply(&self, changes: &[Change], durability: Durability) -> Result<u64> {
        self.apply_owned(changes.to_vec(), durability).await
    }

    async fn apply_owned(&self, changes: Vec<Change>, durability: Durability) -> Result<u64> {
        self.store.shared.commit_later(changes, durability).await
    }

    /// Runs `change` as one transaction on a blocking thread: committed durably when it returns `Ok`, dropped when it returns
    /// `Err`. No other write happens meanwhile. See [`CIDStore::transaction`].
    ///
    /// ```
    /// # use corallite_links::{AsyncCIDStore, E, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// let store = AsyncCIDStore::memory().await?;
    /// let (a, b, value) = (E::new(1), E::new(2), E::new(3));
    /// store.insert(a, value).await?;
    /// store
    ///     .transaction(move |tx| {
    ///         if tx.delete((a, value))? {
    ///             tx.insert(b, value)?;
    ///         }
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await?;
    /// assert_eq!(store.get(b).await?, [value]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// That of `change`, or of the commit.
    pub async fn transaction<T, F>(
        &self,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, F> + Send + 'static,
    ) -> Result<T, F>
    where
        T: Send + 'static,
        F: From<Error> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        blocking(self.path(), move || store.transaction(change)).await?
    }
}
