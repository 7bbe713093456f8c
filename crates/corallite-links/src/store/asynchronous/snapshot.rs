//! Snapshots, and iterating over them.

use std::sync::Arc;

use super::AsyncCIDStore;
#[cfg(doc)]
use crate::CIDStore;
use crate::engine::Kept;
use crate::error::Result;
use crate::hash::Hash;
use crate::store::Snapshot;
use crate::{E, Values};

impl AsyncCIDStore {
    /// The store as it is now, however it changes afterwards. All of a transaction or a batch is in it, or nothing.
    ///
    /// ```
    /// # use corallite_links::{AsyncCIDStore, E, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// let store = AsyncCIDStore::memory().await?;
    /// store.batch_insert(&[(E::new(1), E::new(10)), (E::new(1), E::new(11)), (E::new(2), E::new(20))]).await?;
    /// let snapshot = store.snapshot().await?;
    /// store.delete(E::new(1)).await?;
    /// let mut pairs = 0;
    /// let mut keys = snapshot.iter();
    /// while let Some((_key, values)) = keys.next().await? {
    ///     pairs += values.len();
    /// }
    /// assert_eq!(pairs, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`CIDStore::snapshot`].
    pub async fn snapshot(&self) -> Result<AsyncSnapshot> {
        let kept = self.hand_over(|store| Ok(store.snapshot()?.kept)).await?;
        Ok(AsyncSnapshot { store: self.clone(), kept })
    }
}

/// A store as it was when the snapshot was made; see [`Snapshot`]. It keeps the store open.
#[derive(Clone, Debug)]
pub struct AsyncSnapshot {
    store: AsyncCIDStore,
    kept: Arc<Kept>,
}

/// Keys with their values, in the order of [`Pairs`](crate::Pairs).
#[derive(Debug)]
pub struct AsyncPairs {
    snapshot: AsyncSnapshot,
    /// The smallest hash of the next partition; `None` when there is none.
    next: Option<u64>,
    current: std::vec::IntoIter<(E, Values)>,
}

impl AsyncSnapshot {
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let kept = Arc::clone(&self.kept);
        self.store.hand_over(move |store| look(&Snapshot { store, kept })).await
    }

    /// The values that a key had.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`].
    pub async fn get(&self, key: E) -> Result<Values> {
        self.look(move |snapshot| snapshot.get(key)).await
    }

    /// Every key with its values.
    pub fn iter(&self) -> AsyncPairs {
        AsyncPairs { snapshot: self.clone(), next: Some(0), current: Vec::new().into_iter() }
    }
}

impl AsyncPairs {
    /// The next key with its values; `None` at the end. A call that was dropped can be made again.
    ///
    /// # Errors
    ///
    /// As [`CIDStore::get`]; the iteration is over then.
    pub async fn next(&mut self) -> Result<Option<(E, Values)>> {
        loop {
            if let Some(entry) = self.current.next() {
                return Ok(Some(entry));
            }
            let Some(hash) = self.next else { return Ok(None) };
            let found = self.snapshot.look(move |snapshot| snapshot.partition(Hash(hash))).await;
            self.next = None;
            let (content, next) = found?;
            self.current = content.into_iter();
            self.next = next;
        }
    }
}
