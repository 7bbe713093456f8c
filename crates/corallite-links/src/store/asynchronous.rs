//! [`AsyncCIDStore`]: the store for tasks of a tokio runtime.
//!
//! Writes are handed to the store's committer, a thread of its own, and their futures sleep until they are durable. Reads of
//! what is loaded are made where they are called: they take less than a microsecond, handing them over takes more. What may
//! wait for the disk, or for the writer, goes to the runtime's blocking threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use corallite_file::{Mode, Storage};

use super::{CIDStore, Deletion, Maintenance, Snapshot, Statistics, Transaction, Tuning};
use crate::change::Change;
use crate::checkpoint::CheckpointReport;
use crate::deletion_log::DeletionEntry;
use crate::engine::Kept;
use crate::entry::HashEntry;
use crate::error::{Error, Result};
use crate::format::DirectoryForm;
use crate::hash::Hash;
use crate::metrics::{Event, LinksMetrics};
use crate::options::LinksOptions;
use crate::wal::{Durability, Recovered, Wal};
use crate::{E, Values};

/// Keys that are read at once without handing the work over: about 50 microseconds.
const INLINE_KEYS: usize = 128;

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

async fn opened(path: PathBuf, open: impl FnOnce(&Path) -> Result<CIDStore> + Send + 'static) -> Result<AsyncCIDStore> {
    let there = path.clone();
    blocking(&path, move || open(&there)).await?.map(AsyncCIDStore::from)
}

impl AsyncCIDStore {
    /// See [`CIDStore::open`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        opened(path.as_ref().to_owned(), |path| CIDStore::open(path)).await
    }

    /// See [`CIDStore::open_read_only`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        opened(path.as_ref().to_owned(), |path| CIDStore::open_read_only(path)).await
    }

    /// See [`CIDStore::open_with`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn open_with(path: impl AsRef<Path>, mode: Mode, options: LinksOptions) -> Result<Self> {
        opened(path.as_ref().to_owned(), move |path| CIDStore::open_with(path, mode, options)).await
    }

    /// See [`CIDStore::on_storage`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::open`].
    pub async fn on_storage(storage: Storage, mode: Mode, options: LinksOptions) -> Result<Self> {
        opened(storage.path().to_owned(), move |_| CIDStore::on_storage(storage, mode, options)).await
    }

    /// See [`CIDStore::with_storage`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::with_storage`].
    pub async fn with_storage(storage: Arc<Storage>, options: LinksOptions) -> Result<Self> {
        opened(storage.path().to_owned(), move |_| CIDStore::with_storage(storage, options)).await
    }

    /// See [`CIDStore::memory`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::memory`].
    pub async fn memory() -> Result<Self> {
        opened(PathBuf::from("a store in memory"), |_| CIDStore::memory()).await
    }

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

    /// Whether reading a key needs no disk.
    fn is_loaded(&self, key: E) -> bool {
        let engine = &self.store.shared.engine;
        engine.memory.slot(engine.route(engine.seed.hash(key))).place().is_some()
    }

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

    /// See [`CIDStore::compact_key`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::compact_key`].
    pub async fn compact_key(&self, key: E) -> Result<u64> {
        self.hand_over(move |store| store.compact_key(key)).await
    }

    /// See [`CIDStore::demote_if_possible`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::demote_if_possible`].
    pub async fn demote_if_possible(&self, key: E) -> Result<bool> {
        self.hand_over(move |store| store.demote_if_possible(key)).await
    }

    /// See [`CIDStore::compact`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::compact`].
    pub async fn compact(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.compact()).await
    }

    /// See [`CIDStore::merge`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::merge`].
    pub async fn merge(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.merge()).await
    }

    /// See [`CIDStore::gc`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::gc`].
    pub async fn gc(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.gc()).await
    }

    /// See [`CIDStore::run_gc_once`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::run_gc_once`].
    pub async fn run_gc_once(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.run_gc_once()).await
    }

    /// See [`CIDStore::background_maintenance`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::background_maintenance`].
    pub async fn background_maintenance(&self) -> Result<Maintenance> {
        self.hand_over(|store| store.background_maintenance()).await
    }

    /// See [`CIDStore::migrate_directory`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::migrate_directory`].
    pub async fn migrate_directory(&self) -> Result<DirectoryForm> {
        self.hand_over(|store| store.migrate_directory()).await
    }

    /// See [`CIDStore::statistics`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::statistics`].
    pub async fn statistics(&self) -> Result<Statistics> {
        self.hand_over(|store| store.statistics()).await
    }

    /// See [`CIDStore::count`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::count`].
    pub async fn count(&self) -> Result<u64> {
        self.hand_over(|store| store.count()).await
    }

    /// See [`CIDStore::verify`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::verify`].
    pub async fn verify(&self) -> Result<Vec<String>> {
        self.hand_over(|store| store.verify()).await
    }

    /// See [`CIDStore::debug_dump`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::debug_dump`].
    pub async fn debug_dump(&self) -> Result<String> {
        self.hand_over(|store| store.debug_dump()).await
    }

    /// See [`CIDStore::checkpoint`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::checkpoint`].
    pub async fn checkpoint(&self) -> Result<CheckpointReport> {
        self.hand_over(|store| store.checkpoint()).await
    }

    /// See [`CIDStore::flush`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.hand_over(|store| store.flush()).await
    }

    /// See [`CIDStore::expose_metrics`].
    ///
    /// # Errors
    ///
    /// As [`CIDStore::expose_metrics`].
    pub async fn expose_metrics(&self) -> Result<String> {
        self.hand_over(|store| store.expose_metrics()).await
    }

    /// See [`CIDStore::get_metrics`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn get_metrics(&self) -> Result<LinksMetrics> {
        self.hand_over(|store| Ok(store.get_metrics())).await
    }

    /// See [`CIDStore::auto_tune`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn auto_tune(&self) -> Result<Tuning> {
        self.hand_over(|store| Ok(store.auto_tune())).await
    }

    /// What the deletion log holds; see [`DeletionLog::scan`](crate::DeletionLog::scan).
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn scan_deletions(&self) -> Result<Vec<DeletionEntry>> {
        self.hand_over(|store| Ok(store.deletion_log().scan())).await
    }

    /// Empties the deletion log; see [`DeletionLog::clear`](crate::DeletionLog::clear).
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the runtime shuts down.
    pub async fn clear_deletions(&self) -> Result<()> {
        self.hand_over(|store| {
            store.deletion_log().clear();
            Ok(())
        })
        .await
    }

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

    /// The values of a key, to be worked on; see [`CIDStore::value_set`].
    pub fn value_set(&self, key: E) -> AsyncValueSet {
        AsyncValueSet { store: self.clone(), key }
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
