//! The dbm backend: one file of [redb](https://www.redb.org).
//!
//! Values are in one table, streams in chunks in another ([`stream`]). Everything carries a checksum, since redb checks its
//! own only after a crash; and redb panics on some damaged files, which ends here ([`file::guarded`]).

mod file;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};

use self::file::{CHECKSUM, CHUNKS, Failure, STREAMS, UNFINISHED, VALUES, checksum, guarded, unsealed};
use self::stream::Place;
use super::{Backend, Change, Durability, Entries, EventKind, Expect, Keys, Range, ReadStream, Watchers, WriteStream};
use crate::error::{Error, Result};
use crate::key;

/// Values and streams in one file, for many small ones. A batch is atomic.
///
/// ```
/// use corallite_objects::backend::{Backend, BackendExt, DbmBackend};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("data.dbm");
/// let backend = DbmBackend::open(&path)?;
/// backend.add("Account.1", br#"{"name":"Ann"}"#)?;
/// assert!(DbmBackend::open(&path).is_err()); // one at a time
/// # Ok::<(), corallite_objects::Error>(())
/// ```
///
/// One process at a time can have it open. Whoever goes through keys, or reads a stream, sees what there was when they
/// began; as long as they do, the space of what is removed is not used again. Every write is durable, buffered ones
/// too. Damaged values are reported when they are
/// read; that a damaged file misses some is noticed by [`DbmBackend::open_checked`]. When the disk fails or is full, redb wants
/// the file to be opened again.
pub struct DbmBackend {
    path: PathBuf,
    database: RwLock<Option<Database>>,
    /// Held while something is written and told.
    writer: Mutex<()>,
    watchers: Watchers,
}

impl DbmBackend {
    /// Opens a file, and creates it where there is none. After a crash redb checks all of it first.
    ///
    /// # Errors
    ///
    /// A file that is open elsewhere, damaged, or of another program; and what the system reports.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_file(path.as_ref(), false)
    }

    /// Opens a file and checks all of it.
    ///
    /// # Errors
    ///
    /// As [`DbmBackend::open`].
    pub fn open_checked(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_file(path.as_ref(), true)
    }

    fn open_file(path: &Path, is_checked: bool) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| Error::io("open", path.display(), error))?;
        let database = RwLock::new(Some(file::open(&path, is_checked)?));
        let backend = Self { path, database, writer: Mutex::default(), watchers: Watchers::default() };
        let unfinished: Vec<u64> = backend.run("open", |database| {
            let unfinished = database.begin_read()?.open_table(UNFINISHED)?;
            let ids: std::result::Result<_, redb::StorageError> =
                unfinished.iter()?.map(|entry| Ok(entry?.0.value())).collect();
            Ok(ids?)
        })?;
        unfinished.into_iter().try_for_each(|id| stream::purge(&backend, id))?;
        Ok(backend)
    }

    fn run<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Database) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        // Recursive, as whoever goes through keys calls other methods meanwhile.
        let database = self.database.read_recursive();
        let Some(database) = &*database else { return Err(Error::Closed { location: self.location() }) };
        guarded(&self.path, action, || work(database))
    }

    /// Does something in one transaction; `done` is called when it is done, in the order of the transactions.
    fn commit<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&WriteTransaction) -> std::result::Result<T, Failure>,
        done: impl FnOnce(&T),
    ) -> Result<T> {
        self.run(action, |database| {
            let _writing = self.writer.lock();
            let transaction = database.begin_write()?;
            let value = match work(&transaction) {
                Ok(value) => value,
                Err(failure) => {
                    // Why it failed says more than that it cannot be undone, which it need not be on a failed disk.
                    let _ = transaction.abort();
                    return Err(failure);
                }
            };
            transaction.commit()?;
            done(&value);
            Ok(value)
        })
    }

    /// The error for what is not what was written.
    fn damaged(&self, key: &[u8]) -> Error {
        let key = String::from_utf8_lossy(key).into_owned();
        let problem = "it is not what was written; write it again, or restore the file from a copy".to_owned();
        Error::Malformed { location: self.location(), key, problem }
    }

    fn listing(
        &self,
        range: &Range,
        table: redb::TableDefinition<'static, &'static [u8], &'static [u8]>,
    ) -> Result<Listing<'_>> {
        let left = self.run("list", |database| {
            let table = database.begin_read()?.open_table(table)?;
            let from = Bound::Included(range.from.as_bytes());
            let to = range.to.as_deref().map_or(Bound::Unbounded, |to| Bound::Excluded(to.as_bytes()));
            // redb refuses ranges that end before they begin.
            Ok(if range.is_empty() { None } else { Some(table.range::<&[u8]>((from, to))?) })
        })?;
        Ok(Listing { backend: self, left, is_reversed: range.is_reversed })
    }
}

/// Goes through a table.
struct Listing<'a> {
    backend: &'a DbmBackend,
    left: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    is_reversed: bool,
}

impl Listing<'_> {
    /// The next key, and what `take` makes of its value.
    fn next_with<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<Result<(String, T)>> {
        let left = self.left.as_mut()?;
        let is_reversed = self.is_reversed;
        let backend = self.backend;
        let entry = guarded(&backend.path, "list", || {
            let Some((key, value)) = (if is_reversed { left.next_back() } else { left.next() }).transpose()? else {
                return Ok(None);
            };
            let key = key.value();
            let value = unsealed(key, value.value()).map(take);
            let whole = value.and_then(|value| Some((std::str::from_utf8(key).ok()?.to_owned(), value)));
            Ok(Some(whole.ok_or_else(|| backend.damaged(key))))
        });
        match entry {
            Ok(Some(entry)) => Some(entry),
            Ok(None) => None,
            Err(error) => {
                // It is not known what it would go on with.
                self.left = None;
                Some(Err(error))
            }
        }
    }
}

/// Stores a value with its checksum.
fn insert(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: &[u8],
) -> std::result::Result<(), Failure> {
    let mut place = table.insert_reserve(key, CHECKSUM + value.len())?;
    let place: &mut [u8] = place.as_mut();
    place[..CHECKSUM].copy_from_slice(&checksum(key, value));
    place[CHECKSUM..].copy_from_slice(value);
    Ok(())
}

impl Backend for DbmBackend {
    fn location(&self) -> String {
        file::location(&self.path)
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let key = key.as_bytes();
        self.run("read", |database| {
            let Some(found) = database.begin_read()?.open_table(VALUES)?.get(key)? else { return Ok(None) };
            let value = unsealed(key, found.value()).ok_or_else(|| self.damaged(key))?;
            Ok(Some(Bytes::copy_from_slice(value)))
        })
    }

    fn has(&self, key: &str) -> Result<bool> {
        self.run("read", |database| Ok(database.begin_read()?.open_table(VALUES)?.get(key.as_bytes())?.is_some()))
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        let mut listing = self.listing(range, VALUES)?;
        Ok(Box::new(std::iter::from_fn(move || Some(listing.next_with(|_| ())?.map(|(key, ())| key)))))
    }

    fn entries_in(&self, range: &Range) -> Result<Entries<'_>> {
        let mut listing = self.listing(range, VALUES)?;
        Ok(Box::new(std::iter::from_fn(move || listing.next_with(Bytes::copy_from_slice))))
    }

    fn write(&self, changes: &[Change<'_>], _durability: Durability) -> Result<()> {
        let work = |transaction: &WriteTransaction| {
            let mut values = transaction.open_table(VALUES)?;
            for change in changes {
                let key = change.key.as_bytes();
                match change.expect {
                    Expect::Anything => key::check(change.key)?,
                    Expect::Absent | Expect::Present => {
                        let found = values.get(key)?.map(|_| [].as_slice());
                        change.check(|| self.location(), found)?;
                    }
                    Expect::Value(_) => {
                        let found = values.get(key)?;
                        let found =
                            found.as_ref().map(|found| unsealed(key, found.value()).ok_or_else(|| self.damaged(key)));
                        change.check(|| self.location(), found.transpose()?)?;
                    }
                }
            }
            for change in changes {
                match change.value {
                    Some(value) => insert(&mut values, change.key.as_bytes(), value)?,
                    None => drop(values.remove(change.key.as_bytes())?),
                }
            }
            Ok(())
        };
        self.commit("write into", work, |()| self.watchers.changed(changes))
    }

    fn is_atomic(&self) -> bool {
        true
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        self.run("read", |database| {
            let transaction = database.begin_read()?;
            let Some(found) = transaction.open_table(STREAMS)?.get(key.as_bytes())? else { return Ok(None) };
            let place = Place::unseal(key.as_bytes(), found.value()).ok_or_else(|| self.damaged(key.as_bytes()))?;
            let chunks = transaction.open_table(CHUNKS)?;
            let (path, key) = (self.path.clone(), key.to_owned());
            Ok(Some(
                Box::new(stream::Reader { path, key, chunks, place, position: 0, chunk: None }) as Box<dyn ReadStream>
            ))
        })
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        key::check(key)?;
        self.run("write into", |_| Ok(()))?;
        Ok(Box::new(stream::Writer::new(self, key)))
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        let work = |transaction: &WriteTransaction| {
            let key = key.as_bytes();
            let mut streams = transaction.open_table(STREAMS)?;
            let Some(found) = streams.remove(key)? else { return Ok(None) };
            let place = Place::unseal(key, found.value());
            Ok(Some(place.map_or(Ok(None), |place| stream::release(transaction, place))?))
        };
        let removed = self.commit("write into", work, |removed| {
            if removed.is_some() {
                self.watchers.happened(key, EventKind::Stream);
            }
        })?;
        removed.flatten().map_or(Ok(()), |id| stream::purge(self, id))?;
        Ok(removed.is_some())
    }

    fn rename_stream(&self, from: &str, to: &str, _durability: Durability) -> Result<bool> {
        key::check(to)?;
        let work = |transaction: &WriteTransaction| {
            let mut streams = transaction.open_table(STREAMS)?;
            let Some(place) =
                streams.remove(from.as_bytes())?.map(|found| Place::unseal(from.as_bytes(), found.value()))
            else {
                return Ok(None);
            };
            let place = place.ok_or_else(|| self.damaged(from.as_bytes()))?;
            Ok(Some(stream::enter(transaction, &mut streams, to, place)?))
        };
        let renamed = self.commit("write into", work, |renamed| {
            if renamed.is_some() {
                self.watchers.happened(from, EventKind::Stream);
                self.watchers.happened(to, EventKind::Stream);
            }
        })?;
        renamed.flatten().map_or(Ok(()), |id| stream::purge(self, id))?;
        Ok(renamed.is_some())
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        let mut listing = self.listing(&Range::prefix(prefix), STREAMS)?;
        Ok(Box::new(std::iter::from_fn(move || Some(listing.next_with(|_| ())?.map(|(key, ())| key)))))
    }

    fn sync(&self) -> Result<()> {
        self.commit("sync", |_| Ok(()), |()| ())
    }

    fn clear(&self) -> Result<()> {
        let work = |transaction: &WriteTransaction| {
            let mut left = Vec::new();
            // Chunks of streams that are being written are not touched.
            for entry in transaction.open_table(STREAMS)?.iter()? {
                let (key, found) = entry?;
                if let Some(place) = Place::unseal(key.value(), found.value()) {
                    left.extend(stream::release(transaction, place)?);
                }
            }
            transaction.delete_table(VALUES)?;
            transaction.delete_table(STREAMS)?;
            file::create_tables(transaction)?;
            Ok(left)
        };
        let left = self.commit("clear", work, |_| {
            self.watchers.happened("", EventKind::Cleared);
        })?;
        left.into_iter().try_for_each(|id| stream::purge(self, id))
    }

    fn close(&self) -> Result<()> {
        // What was buffered has to be durable before; without it the file is as good as after a crash.
        let synced = match self.database.read().is_some() {
            true => self.sync(),
            false => return Ok(()),
        };
        let Some(database) = self.database.write().take() else { return Ok(()) };
        let closed = guarded(&self.path, "close", || Ok(database.close()?));
        synced.and(closed)
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }
}

impl fmt::Debug for DbmBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbmBackend").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for DbmBackend {
    fn drop(&mut self) {
        // Whoever wants to hear of errors calls it.
        let _ = self.close();
    }
}
