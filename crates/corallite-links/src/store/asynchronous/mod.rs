//! [`AsyncCIDStore`]: the store for tasks of a tokio runtime.
//!
//! Writes are handed to the store's committer, a thread of its own, and their futures sleep until they are durable. Reads of
//! what is loaded are made where they are called: they take less than a microsecond, handing them over takes more. What may
//! wait for the disk, or for the writer, goes to the runtime's blocking threads.

mod directory;
mod maintain;
mod open;
mod read;
mod snapshot;
mod value_set;
mod write;

use std::path::Path;
use std::sync::Arc;

use corallite_file::Storage;

use super::CIDStore;
use crate::E;
use crate::error::{Error, Result};
use crate::metrics::Event;
use crate::wal::{Recovered, Wal};

pub use directory::{AsyncBuckets, AsyncDirectory};
pub use snapshot::{AsyncPairs, AsyncSnapshot};
pub use value_set::AsyncValueSet;

/// A [`CIDStore`] for tasks of a tokio runtime; cheap to clone.
///
/// ```
/// use corallite_links::{AsyncCIDStore, E};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// let store = AsyncCIDStore::open(directory.path().join("links.h5")).await?;
/// let model = E::from_str("base");
/// let tags = ["apache-2.0", "english", "small"].map(E::from_str);
/// // Writes under way at the same time share one sync; each is durable when its future says so.
/// let (a, b, c) =
///     tokio::join!(store.insert(model, tags[0]), store.insert(model, tags[1]), store.insert(model, tags[2]));
/// (a?, b?, c?);
/// assert_eq!(store.get(model).await?, tags);
/// store.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// **A future that is dropped** before its write was taken leaves nothing; afterwards the write happens all the same. A batch
/// is never torn. Writes of one task that awaits each happen in that order; so do writes of futures in the order in which
/// they were first polled, as long as there is room for what they write. Where 65,536 changes wait, futures wait for room.
///
/// **Closing** needs the disk: [`AsyncCIDStore::close`] leaves that to another thread. When the last clone is dropped instead,
/// the store is closed there and then, and the task waits for the disk.
#[derive(Clone, Debug)]
pub struct AsyncCIDStore {
    store: Arc<CIDStore>,
}

impl From<Arc<CIDStore>> for AsyncCIDStore {
    fn from(store: Arc<CIDStore>) -> Self {
        Self { store }
    }
}

impl From<CIDStore> for AsyncCIDStore {
    fn from(store: CIDStore) -> Self {
        Arc::new(store).into()
    }
}

/// Runs what may wait for the disk on a blocking thread.
async fn blocking<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Usage {
                path: path.to_owned(),
                problem: "the runtime shuts down, so this was not done".to_owned(),
            }),
        },
    }
}

impl AsyncCIDStore {
    /// The store itself, for threads that may wait.
    pub fn store(&self) -> &Arc<CIDStore> {
        &self.store
    }

    /// The store's path.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// See [`CIDStore::storage`].
    pub fn storage(&self) -> &Arc<Storage> {
        self.store.storage()
    }

    /// See [`CIDStore::id`].
    pub fn id(&self) -> E {
        self.store.id()
    }

    /// See [`CIDStore::recovered`].
    pub fn recovered(&self) -> Option<Recovered> {
        self.store.recovered()
    }

    /// See [`CIDStore::wal`].
    pub fn wal(&self) -> Option<Arc<Wal>> {
        self.store.wal()
    }

    /// See [`CIDStore::log_event`].
    pub fn log_event(&self, name: &str, fields: &[(&str, u64)]) {
        self.store.log_event(name, fields);
    }

    /// See [`CIDStore::events`].
    pub fn events(&self) -> Vec<Event> {
        self.store.events()
    }

    /// Closes the store, once the writes under way are durable; every clone then says that it is closed. See
    /// [`CIDStore::close`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::close`].
    pub async fn close(self) -> Result<()> {
        let Self { store } = self;
        let path = store.path().to_owned();
        blocking(&path, move || store.end()).await?
    }

    async fn hand_over<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CIDStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        blocking(self.path(), move || work(&store)).await?
    }
}
