//! [`StoreBackend`]: a backend in the store's own file.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use corallite_file::{Storage, Transaction};
use corallite_objects::Error;
use corallite_objects::backend::{
    Backend, Change, Durability, Entries as BackendEntries, EventKind, Keys, Range, ReadStream, Watchers, WriteStream,
};

use crate::ObjectsInfo;

use super::batch::{Batch, Draft, VALUES, tree_key};
use super::entries::Entries;
use super::files::{BEGUN, Extent, FILE, FileChange, FileReader, FileRecord, Pieces, begun_key};
use super::group::{Queue, shared_error};
use super::joined::Slot;
use super::shared::Shared;
use super::tree::{PAGE, Pages, Span, Value, get, has, scan};
use super::turn::Held;
use super::verify::Frozen;

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of pages kept in memory, if nothing is said.
const CACHE: usize = 64 << 20;

/// Pages of buffered changes from which on they are committed: 16 MiB.
const MOST_WAITING: usize = 4096;

/// Values and files in the file of a store, beside its weights and links.
///
/// Every durable write is one commit of the file, which survives a crash whole or not at all. Buffered ones are kept in memory
/// until the next durable one, [`Backend::sync`], or until they take 16 MiB. Readers never wait for a commit. A value may
/// have 4 GiB; what is larger than memory belongs into a file ([`Backend::write_stream`]), which h5py finds as the dataset of
/// bytes `/files/<key>`.
///
/// ```
/// use corallite::Store;
/// use corallite::objects::backend::{Backend, BackendExt};
///
/// let store = Store::memory()?;
/// let objects = store.objects_backend()?;
/// objects.add("Run.1", br#"{"loss":0.25}"#)?; // durable when this returns
/// assert_eq!(objects.get("Run.1")?.as_deref(), Some(&br#"{"loss":0.25}"#[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StoreBackend {
    pub(super) shared: Arc<Shared>,
    pub(super) watchers: Watchers,
    queue: Queue,
    pub(super) slot: Slot,
}

impl StoreBackend {
    /// The backend in an open storage. There must be only one.
    ///
    /// # Errors
    ///
    /// [`corallite_file::Error::Damaged`], [`corallite_file::Error::NewerFormat`], and what the file layer reports.
    pub fn with_storage(storage: Arc<Storage>) -> corallite_file::Result<Self> {
        Self::with_cache(storage, CACHE)
    }

    /// The same, keeping so many bytes of pages in memory beside those that wait to be committed.
    ///
    /// # Errors
    ///
    /// As [`StoreBackend::with_storage`].
    pub fn with_cache(storage: Arc<Storage>, bytes: usize) -> corallite_file::Result<Self> {
        let backend = Self {
            shared: Arc::new(Shared::open(storage, bytes)?),
            watchers: Watchers::default(),
            queue: Queue::default(),
            slot: Slot::default(),
        };
        backend.give_up_begun()?;
        Ok(backend)
    }

    /// The storage that it is in.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.shared.storage
    }

    /// What errors call it.
    pub(super) fn place(&self) -> String {
        format!("the objects of {}", self.shared.storage.path().display())
    }

    /// The file layer's error as one of a backend.
    pub(super) fn lift(&self, action: &'static str, error: corallite_file::Error) -> Error {
        match error {
            corallite_file::Error::Closed { .. } => Error::Closed { location: self.place() },
            error => Error::backend(action, self.place(), error),
        }
    }

    /// Files that an earlier session began and did not finish: the next commit gives their room back.
    fn give_up_begun(&self) -> corallite_file::Result<()> {
        let mut found = Vec::new();
        let reader = self.shared.read()?;
        each_begun(&reader, |key, extent| found.push((key.to_vec(), extent)))?;
        drop(reader);
        self.shared.pending.lock().given_up = found;
        Ok(())
    }

    /// The tree's entries of files that are being written.
    pub(super) fn begun_files(&self, pages: &dyn Pages) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        each_begun(pages, |key, extent| found.push((key.to_vec(), zerocopy::IntoBytes::as_bytes(&extent).to_vec())))
            .map_err(|error| self.lift("read", error))?;
        Ok(found)
    }

    /// Begins changes that become durable with a transaction of the file, together with what else that does. To be called
    /// before that transaction begins, which other changes of objects otherwise could wait for:
    ///
    /// ```
    /// # use corallite::Store;
    /// # use corallite::objects::backend::{Backend, BackendExt};
    /// # let store = Store::memory()?;
    /// # let objects = store.objects_backend()?;
    /// let batch = objects.begin()?;
    /// store.storage().transaction(|transaction| {
    ///     let _joined = batch.join(); // what this thread does to objects is part of it
    ///     objects.add("Run.1", b"{}")?;
    ///     Ok::<_, Box<dyn std::error::Error>>(batch.write_out(transaction)?)
    /// })?;
    /// batch.publish();
    /// assert!(objects.has("Run.1")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] within a transaction or batch of the same thread; [`Error::Closed`]; [`Error::Backend`] of
    /// [`corallite_file::Error::ReadOnly`] when the store cannot be written.
    pub fn begin(&self) -> Result<Batch<'_>> {
        self.check_no_transaction()?;
        self.batch(self.shared.turn.take().ok_or_else(waits_for_itself)?)
    }

    fn check_no_transaction(&self) -> Result<()> {
        if !self.shared.storage.is_in_transaction() {
            return Ok(());
        }
        let problem = "objects cannot be changed past the transaction that this thread is in; change them through it";
        Err(Error::Usage(problem.to_owned()))
    }

    fn batch<'a>(&'a self, held: Held<'a>) -> Result<Batch<'a>> {
        let storage = &self.shared.storage;
        drop(self.shared.read().map_err(|error| self.lift("write to", error))?);
        if !storage.is_writable() {
            let path = storage.path().to_owned();
            let error = match storage.is_open() {
                true => corallite_file::Error::ReadOnly { path },
                false => corallite_file::Error::Closed { path },
            };
            return Err(self.lift("write to", error));
        }
        Ok(Batch::new(self, held))
    }

    /// Makes changes durable, together with those of other threads that wait at the same time.
    fn write_durably(&self, changes: &[Change<'_>]) -> Result<()> {
        self.check_no_transaction()?;
        if let Some(held) = self.shared.turn.try_take() {
            let batch = self.batch(held)?;
            batch.draft.apply(changes)?;
            return self.commit_with(batch, changes);
        }
        let own = self.queue.push(changes);
        let held = match self.shared.turn.take_unless(|| own.outcome()) {
            Some(Ok(held)) => held,
            // Somebody took it along.
            Some(Err(outcome)) => return outcome,
            None => {
                self.queue.withdraw(&own);
                return Err(waits_for_itself());
            }
        };
        // Who has the turn is the only one who takes requests out.
        self.queue.withdraw(&own);
        let batch = self.batch(held)?;
        batch.draft.apply(changes)?;
        self.commit_with(batch, changes)
    }

    /// Commits a batch that has these changes, and takes along what waits.
    fn commit_with<'a>(&'a self, mut batch: Batch<'a>, changes: &[Change<'_>]) -> Result<()> {
        let mut along = Vec::new();
        for request in self.queue.take() {
            match batch.draft.apply(&request.changes()) {
                Ok(()) => along.push(request),
                Err(error) => {
                    request.settle(Err(error));
                    if batch.draft.is_broken() {
                        // By damage that is no business of the others: each goes alone.
                        drop(batch);
                        batch = self.begin()?;
                        batch.draft.apply(changes)?;
                        along.clear();
                        break;
                    }
                }
            }
        }
        let committed = self.commit(&batch).map(drop);
        if committed.is_ok() {
            // While it has the turn, so that they are told of in the order in which they were made.
            self.watchers.changed(changes);
        }
        for request in along {
            request.settle(match &committed {
                Ok(()) => {
                    self.watchers.changed(&request.changes());
                    Ok(())
                }
                Err(error) => Err(shared_error(self.place(), error)),
            });
        }
        committed
    }

    /// Commits a batch by itself.
    pub(super) fn commit(&self, batch: &Batch<'_>) -> Result<Vec<Extent>> {
        let written =
            self.shared.storage.transaction(|transaction: &Transaction<'_>| batch.draft.write_out(transaction));
        written.map_err(|error| self.lift("write to", error))?;
        Ok(batch.draft.show())
    }

    /// Forgets what is in memory, buffered changes included, and goes on with what the file has: for who has rolled it back.
    ///
    /// # Errors
    ///
    /// As [`StoreBackend::with_storage`].
    pub fn reload(&self) -> corallite_file::Result<()> {
        let _held = self.shared.turn.take();
        self.shared.reload()?;
        self.give_up_begun()
    }

    /// Reads every page and every file of the last commit from the disk, and says what is wrong with them; nothing if they are
    /// sound.
    ///
    /// # Errors
    ///
    /// Only what keeps it from going on.
    pub fn verify(storage: &Storage) -> corallite_file::Result<Vec<String>> {
        Frozen::verify(storage)
    }

    /// How many pieces of files that are not finished the last commit has: none, once something was written after a crash.
    ///
    /// # Errors
    ///
    /// As [`StoreBackend::with_storage`].
    pub fn begun(storage: &Storage) -> corallite_file::Result<usize> {
        Frozen::begun(storage)
    }

    /// What it holds. Looks at all keys.
    pub(crate) fn info(&self) -> Result<ObjectsInfo> {
        let mut info = ObjectsInfo::default();
        let reader = self.shared.read().map_err(|error| self.lift("read", error))?;
        info.page_bytes = u64::from(reader.state.meta.pages) * PAGE as u64;
        drop(reader);
        let files = format!("{}.", crate::FILE);
        for key in self.keys_in(&Range::default())? {
            let key = key?;
            info.objects += u64::from(!key.starts_with('@') && !key.starts_with(&files));
        }
        for entry in self.entries(FILE, &Range::default(), true)? {
            let (_, record) = entry?;
            info.files += 1;
            info.file_bytes += FileRecord::read(&record).map_or(0, |record| record.length);
        }
        Ok(info)
    }

    /// Closes it without committing what is buffered.
    pub(crate) fn abandon(&self) {
        self.shared.state.write().is_closed = true;
    }

    /// A file of the last commit.
    pub(super) fn read_committed(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        let lift = |error| self.lift("read", error);
        loop {
            let reader = self.shared.read().map_err(lift)?;
            if reader.state.held.is_some() {
                // A commit is under way: what the file has may be newer than what the tree says of it.
                drop(reader);
                self.shared.turn.take().ok_or_else(waits_for_itself)?;
                continue;
            }
            let Some(record) = get(&reader, &tree_key(FILE, key)).map_err(lift)? else { return Ok(None) };
            let snapshot = self.shared.storage.snapshot().map_err(lift)?;
            drop(reader);
            let record = FileRecord::read(&record).ok_or_else(|| {
                let problem = "what is noted of the file makes no sense".to_owned();
                Error::Malformed { location: self.place(), key: key.to_owned(), problem }
            })?;
            return Ok(Some(Box::new(FileReader::open(snapshot, key, record).map_err(lift)?)));
        }
    }

    fn entries(&self, map: u8, range: &Range, with_values: bool) -> Result<Entries<'_>> {
        if let Some(draft) = self.slot.of(self) {
            return Ok(draft.entries(map, range, with_values));
        }
        drop(self.shared.read().map_err(|error| self.lift("read", error))?);
        let source = Box::new(move |read: &mut dyn FnMut(&dyn Pages) -> Result<()>| {
            let reader = self.shared.read().map_err(|error| self.lift("read", error))?;
            read(&reader)
        });
        Ok(Entries::new(self, source, map, range, with_values))
    }
}

fn waits_for_itself() -> Error {
    Error::Usage("this would wait for a batch of the same thread; publish or drop that first".to_owned())
}

pub(super) fn each_begun(pages: &dyn Pages, mut each: impl FnMut(&[u8], Extent)) -> corallite_file::Result<()> {
    let span = Span { from: &[BEGUN], to: Some(&[BEGUN + 1]), is_reversed: false };
    scan(pages, span, |key, value| {
        if let Value::Inline(bytes) = value
            && let Ok(extent) = zerocopy::FromBytes::read_from_bytes(bytes)
        {
            each(key, extent);
        }
        Ok(ControlFlow::Continue(()))
    })
}

impl Drop for StoreBackend {
    fn drop(&mut self) {
        // A scope cannot return an error; `close` can.
        let _ = self.close();
    }
}

impl Backend for StoreBackend {
    fn location(&self) -> String {
        self.place()
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        if let Some(draft) = self.slot.of(self) {
            return draft.get(VALUES, key);
        }
        let found = self.shared.read().and_then(|reader| get(&reader, &tree_key(VALUES, key)));
        found.map_err(|error| self.lift("read", error))
    }

    fn has(&self, key: &str) -> Result<bool> {
        if let Some(draft) = self.slot.of(self) {
            return Ok(draft.get(VALUES, key)?.is_some());
        }
        let found = self.shared.read().and_then(|reader| has(&reader, &tree_key(VALUES, key)));
        found.map_err(|error| self.lift("read", error))
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        Ok(Box::new(self.entries(VALUES, range, false)?.map(|entry| entry.map(|(key, _)| key))))
    }

    fn entries_in(&self, range: &Range) -> Result<BackendEntries<'_>> {
        Ok(Box::new(self.entries(VALUES, range, true)?))
    }

    fn write(&self, changes: &[Change<'_>], durability: Durability) -> Result<()> {
        if let Some(draft) = self.slot.of(self) {
            draft.apply(changes)?;
            draft.note(changes);
            return Ok(());
        }
        if durability == Durability::Durable {
            return self.write_durably(changes);
        }
        let batch = self.begin()?;
        batch.draft.apply(changes)?;
        if batch.draft.waiting() >= MOST_WAITING {
            return self.commit_with(batch, changes);
        }
        batch.draft.keep();
        self.watchers.changed(changes);
        Ok(())
    }

    fn is_atomic(&self) -> bool {
        true
    }

    fn is_writable(&self) -> bool {
        self.shared.storage.is_writable()
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        match self.slot.of(self) {
            Some(draft) => draft.read_stream(key),
            None => self.read_committed(key),
        }
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        corallite_objects::key::check(key)?;
        if let Some(draft) = self.slot.of(self) {
            return Ok(draft.write_stream(key));
        }
        drop(self.begin()?);
        Ok(Box::new(Stream {
            backend: self,
            key: key.to_owned(),
            pieces: Pieces::default(),
            file: None,
            extents: Vec::new(),
        }))
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        if let Some(draft) = self.slot.of(self) {
            return draft.remove_file(key);
        }
        let batch = self.begin()?;
        let is_there = batch.draft.remove_file(key)?;
        if is_there {
            self.commit(&batch)?;
        }
        Ok(is_there)
    }

    fn rename_stream(&self, from: &str, to: &str, _durability: Durability) -> Result<bool> {
        corallite_objects::key::check(to)?;
        if let Some(draft) = self.slot.of(self) {
            return draft.rename_file(from, to);
        }
        let batch = self.begin()?;
        let is_there = batch.draft.rename_file(from, to)?;
        if is_there && from != to {
            self.commit(&batch)?;
        }
        Ok(is_there)
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        let entries = self.entries(FILE, &Range::prefix(prefix), false)?;
        Ok(Box::new(entries.map(|entry| entry.map(|(key, _)| key))))
    }

    fn sync(&self) -> Result<()> {
        if self.slot.of(self).is_some() {
            // The transaction's commit does it.
            return Ok(());
        }
        if !self.shared.storage.is_writable() {
            return self.shared.read().map(drop).map_err(|error| self.lift("sync", error));
        }
        self.commit(&self.begin()?).map(drop)
    }

    fn clear(&self) -> Result<()> {
        if let Some(draft) = self.slot.of(self) {
            return draft.clear();
        }
        let batch = self.begin()?;
        batch.draft.clear()?;
        self.commit(&batch).map(drop)
    }

    fn close(&self) -> Result<()> {
        if self.slot.of(self).is_some() {
            return Err(Error::Usage("a store cannot be closed within a transaction".to_owned()));
        }
        if self.shared.state.read().is_closed {
            return Ok(());
        }
        let has_changes = self.shared.pending.lock().has_changes;
        let synced = if has_changes && self.shared.storage.is_open() { self.sync() } else { Ok(()) };
        self.shared.state.write().is_closed = true;
        synced
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }
}

/// A file that is being written.
struct Stream<'a> {
    backend: &'a StoreBackend,
    key: String,
    pieces: Pieces,
    /// Its number, from its first piece on.
    file: Option<u64>,
    extents: Vec<Extent>,
}

impl Stream<'_> {
    fn put(backend: &StoreBackend, file: &mut Option<u64>, extents: &mut Vec<Extent>, bytes: Vec<u8>) -> Result<()> {
        let batch = backend.begin()?;
        let number = batch.draft.file_number(*file);
        batch.draft.push_file(FileChange::Piece { file: number, piece: extents.len() as u32, bytes }, None);
        extents.extend(backend.commit(&batch)?);
        *file = Some(number);
        Ok(())
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { backend, pieces, file, extents, .. } = self;
        pieces.write(bytes, |piece| Self::put(backend, file, extents, piece).map_err(io::Error::other))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteStream for Stream<'_> {
    fn finish(mut self: Box<Self>, _durability: Durability) -> Result<()> {
        let (tail, record) = std::mem::take(&mut self.pieces).finish(|| self.backend.place())?;
        let batch = self.backend.begin()?;
        let begun = (0..self.extents.len() as u32).filter_map(|piece| Some(begun_key(self.file?, piece))).collect();
        batch.draft.finish_file(&self.key, &record, self.extents.clone(), tail, begun)?;
        self.backend.commit(&batch)?;
        // From here on it is the dataset's room.
        self.extents.clear();
        Ok(())
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let Some(file) = self.file else { return };
        let given_up = self.extents.iter().zip(0..).map(|(&extent, piece)| (begun_key(file, piece), extent));
        self.backend.shared.pending.lock().given_up.extend(given_up);
    }
}

impl Draft<'_> {
    /// The number of a file, or of a new one.
    fn file_number(&self, file: Option<u64>) -> u64 {
        file.unwrap_or_else(|| {
            let meta = &mut self.inner.lock().work.meta;
            meta.next_file += 1;
            meta.next_file - 1
        })
    }

    /// Puts a file in the place of its key's.
    pub(super) fn finish_file(
        &self,
        key: &str,
        record: &FileRecord,
        extents: Vec<Extent>,
        tail: Vec<u8>,
        begun: Vec<Vec<u8>>,
    ) -> Result<()> {
        self.guarded(|inner| {
            for key in begun {
                inner.work.remove(&key)?;
            }
            inner.work.put(&tree_key(FILE, key), &record.to_bytes())
        })?;
        self.push_file(FileChange::Create { key: key.to_owned(), extents, tail }, Some((key, EventKind::Stream)));
        Ok(())
    }

    /// Removes a file; whether there was one.
    pub(super) fn remove_file(&self, key: &str) -> Result<bool> {
        let is_there = self.guarded(|inner| inner.work.remove(&tree_key(FILE, key)))?;
        if is_there {
            self.push_file(FileChange::Remove { key: key.to_owned() }, Some((key, EventKind::Stream)));
        }
        Ok(is_there)
    }
}
