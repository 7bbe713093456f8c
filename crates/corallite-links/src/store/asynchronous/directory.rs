//! The directory and its buckets.

use super::AsyncCIDStore;
use crate::directory::{Bucket, Directory, Figures};
use crate::error::Result;
use crate::format::DirectoryForm;
use crate::{CIDStore, E};

impl AsyncCIDStore {
    /// The directory: which bucket has which keys; see [`CIDStore::directory`].
    ///
    /// ```
    /// # use corallite_links::{AsyncCIDStore, E, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// let store = AsyncCIDStore::memory().await?;
    /// store.batch_insert(&[(E::new(1), E::new(10)), (E::new(2), E::new(20))]).await?;
    /// let directory = store.directory().await?;
    /// let mut keys = 0;
    /// let mut buckets = directory.buckets();
    /// while let Some(bucket) = buckets.next().await {
    ///     keys += bucket?.entries().len();
    /// }
    /// assert_eq!((keys, directory.num_buckets().await?), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`CIDStore::directory`].
    pub async fn directory(&self) -> Result<AsyncDirectory> {
        let figures = self.hand_over(|store| Ok(store.directory()?.figures)).await?;
        Ok(AsyncDirectory { store: self.clone(), figures })
    }
}

/// Which bucket has which keys; see [`Directory`]. It keeps the store open.
#[derive(Clone, Debug)]
pub struct AsyncDirectory {
    store: AsyncCIDStore,
    figures: Figures,
}

/// The buckets of an [`AsyncDirectory`], in the order of [`Buckets`](crate::Buckets).
#[derive(Debug)]
pub struct AsyncBuckets {
    directory: AsyncDirectory,
    /// The smallest hash of the buckets to be read next; `None` when there are none.
    next: Option<u64>,
    current: std::vec::IntoIter<Result<Bucket>>,
}

impl AsyncDirectory {
    fn view(&self) -> Directory<'_> {
        Directory::new(self.store.store(), self.figures)
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(Directory<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let figures = self.figures;
        self.store.hand_over(move |store: &CIDStore| look(Directory::new(store, figures))).await
    }

    /// See [`Directory::partitions`].
    pub fn partitions(&self) -> usize {
        self.view().partitions()
    }

    /// See [`Directory::global_depth`].
    pub fn global_depth(&self) -> u32 {
        self.view().global_depth()
    }

    /// See [`Directory::form`].
    pub fn form(&self) -> Option<DirectoryForm> {
        self.view().form()
    }

    /// See [`Directory::num_buckets`].
    ///
    /// # Errors
    ///
    /// As [`Directory::num_buckets`].
    pub async fn num_buckets(&self) -> Result<u64> {
        self.look(|directory| directory.num_buckets()).await
    }

    /// See [`Directory::bucket_of`].
    ///
    /// # Errors
    ///
    /// As [`Directory::bucket_of`].
    pub async fn bucket_of(&self, key: E) -> Result<Bucket> {
        self.look(move |directory| directory.bucket_of(key)).await
    }

    /// See [`Directory::buckets`].
    pub fn buckets(&self) -> AsyncBuckets {
        AsyncBuckets { directory: self.clone(), next: Some(0), current: Vec::new().into_iter() }
    }
}

impl AsyncBuckets {
    /// The next bucket, or why it cannot be read; `None` at the end. A call that was dropped can be made again.
    pub async fn next(&mut self) -> Option<Result<Bucket>> {
        loop {
            if let Some(bucket) = self.current.next() {
                return Some(bucket);
            }
            let hash = self.next?;
            let found = self.directory.look(move |directory| Ok(directory.read(hash))).await;
            self.next = None;
            match found {
                Ok((found, next)) => {
                    self.current = found.into_iter();
                    self.next = next;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
