//! One batch of changes: made in memory, written by a transaction of the file, and then shown to everybody.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use corallite_file::{CommitPages, Error, Transaction};
use corallite_objects::backend::{Change, EventKind, Expect};
use parking_lot::Mutex;

use super::backend::{Result, StoreBackend};
use super::files::{Extent, FileChange};
use super::joined::Joined;
use super::shared::Base;
use super::tree::{Flaw, Meta, PAGE, PageBuf, PageNo, Pages, Segments, Workspace, get, has};
use super::turn::Held;

/// The first byte of a document's key in the tree.
pub(super) const VALUES: u8 = b'v';

/// The most bytes that are written to the file at once.
const RUN: usize = 256 << 10;

/// The key that a key of a backend has in the tree.
pub(super) fn tree_key(map: u8, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(map);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// Changes of objects that become durable with a transaction of the file which the caller runs; see
/// [`StoreBackend::begin`]. While it lives, no other change of objects is made. Dropped before [`Batch::publish`], it leaves
/// nothing.
#[derive(Debug)]
pub struct Batch<'a> {
    pub(super) draft: Draft<'a>,
    _held: Held<'a>,
}

/// The changes of a batch: what its owner and the thread that joined it work on.
#[derive(Clone, Debug)]
pub(super) struct Draft<'a> {
    pub(super) backend: &'a StoreBackend,
    pub(super) inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) work: Workspace<Base>,
    /// Whom to tell of what, once it is done.
    pub(super) events: Vec<(String, EventKind)>,
    pub(super) files: Vec<FileChange>,
    /// Nothing of what was there before is to stay.
    is_cleared: bool,
    /// A change failed half-way, and with what; or the batch is over.
    broken: Option<String>,
    staged: Option<Staged>,
}

/// What was written into a transaction that is not committed yet.
#[derive(Debug)]
struct Staged {
    meta: Meta,
    segments: Segments,
    /// Room that was given back.
    freed: usize,
    /// Where the pieces of files were put.
    placed: Vec<Extent>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(backend: &'a StoreBackend, held: Held<'a>) -> Self {
        let inner = Inner {
            work: Workspace::new(Base::new(&backend.shared)),
            events: Vec::new(),
            files: Vec::new(),
            is_cleared: false,
            broken: None,
            staged: None,
        };
        Self { draft: Draft { backend, inner: Arc::new(Mutex::new(inner)) }, _held: held }
    }

    /// Makes what this thread does to objects part of the batch, through the backend and all that is kept in it, until the guard
    /// is dropped. What it changes it sees, and others when the batch is published. Files are written into the transaction of
    /// the file that the thread is within then.
    #[must_use]
    pub fn join(&self) -> Joined<'_> {
        Joined::new(&self.draft)
    }

    /// Writes the changes into a transaction of the file, as the last thing done to objects in it. After that has been committed,
    /// [`Batch::publish`] shows them.
    ///
    /// # Errors
    ///
    /// What the file layer reports; the transaction must then not be committed.
    pub fn write_out(&self, transaction: &Transaction<'_>) -> corallite_file::Result<()> {
        self.draft.write_out(transaction)
    }

    /// Shows the changes, now that the transaction that they were written into by [`Batch::write_out`] has been committed.
    pub fn publish(self) {
        self.draft.show();
    }
}

impl StoreBackend {
    /// Whether a batch can still be worked on.
    pub(super) fn check_sound(&self, inner: &Inner) -> Result<()> {
        let Some(cause) = inner.broken.clone() else { return Ok(()) };
        let path = self.shared.storage.path().to_owned();
        Err(self.lift("use", Error::Poisoned { path, cause }))
    }
}

impl Draft<'_> {
    /// What this does fails for good once it failed half-way.
    pub(super) fn guarded<T>(&self, work: impl FnOnce(&mut Inner) -> corallite_file::Result<T>) -> Result<T> {
        let mut inner = self.inner.lock();
        self.backend.check_sound(&inner)?;
        let outcome = work(&mut inner);
        if let Err(error) = &outcome {
            inner.broken = Some(format!("an earlier change of this transaction failed ({error})"));
        }
        outcome.map_err(|error| self.backend.lift("change", error))
    }

    pub(super) fn get(&self, map: u8, key: &str) -> Result<Option<Bytes>> {
        let inner = self.inner.lock();
        get(&inner.work, &tree_key(map, key)).map_err(|error| self.backend.lift("read", error))
    }

    /// Makes changes, if for each of them there is what it expects.
    pub(super) fn apply(&self, changes: &[Change<'_>]) -> Result<()> {
        {
            let inner = self.inner.lock();
            let lift = |error| self.backend.lift("read", error);
            for change in changes {
                let location = || self.backend.place();
                match change.expect {
                    Expect::Anything => change.check(location, None)?,
                    Expect::Value(_) => {
                        corallite_objects::key::check(change.key)?;
                        let found = get(&inner.work, &tree_key(VALUES, change.key)).map_err(lift)?;
                        change.check(location, found.as_deref())?;
                    }
                    Expect::Absent | Expect::Present => {
                        corallite_objects::key::check(change.key)?;
                        let is_there = has(&inner.work, &tree_key(VALUES, change.key)).map_err(lift)?;
                        change.check(location, is_there.then_some(&[][..]))?;
                    }
                }
            }
        }
        // In the order of their keys, so that neighbours are changed one after the other; of one key, in the order given.
        let mut order: Vec<&Change<'_>> = changes.iter().collect();
        order.sort_by_key(|change| change.key);
        let mut key = Vec::new();
        self.guarded(|inner| -> corallite_file::Result<()> {
            for change in order {
                key.clear();
                key.push(VALUES);
                key.extend_from_slice(change.key.as_bytes());
                match change.value {
                    Some(value) => inner.work.put(&key, value)?,
                    None => {
                        inner.work.remove(&key)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Whether a change failed half-way, so that nothing of the batch can be committed.
    pub(super) fn is_broken(&self) -> bool {
        self.inner.lock().broken.is_some()
    }

    /// Tells of changes once they are published.
    pub(super) fn note(&self, changes: &[Change<'_>]) {
        self.inner.lock().events.extend(changes.iter().map(|change| {
            let kind = match (change.value, change.expect) {
                (None, _) => EventKind::Removed,
                (Some(_), Expect::Absent) => EventKind::Added,
                _ => EventKind::Updated,
            };
            (change.key.to_owned(), kind)
        }));
    }

    /// Removes everything; room of files that are being written stays theirs.
    pub(super) fn clear(&self) -> Result<()> {
        let begun = self.backend.begun_files(&self.inner.lock().work)?;
        self.guarded(|inner| {
            inner.work.clear();
            begun.iter().try_for_each(|(key, value)| inner.work.put(key, value))?;
            inner.files.retain(|change| matches!(change, FileChange::Piece { .. }));
            inner.files.insert(0, FileChange::RemoveAll);
            inner.is_cleared = true;
            inner.events.push((String::new(), EventKind::Cleared));
            Ok(())
        })
    }

    pub(super) fn push_file(&self, change: FileChange, event: Option<(&str, EventKind)>) {
        let mut inner = self.inner.lock();
        inner.files.push(change);
        inner.events.extend(event.map(|(key, kind)| (key.to_owned(), kind)));
    }

    /// Pages that would wait if the batch were kept in memory.
    pub(super) fn waiting(&self) -> usize {
        self.inner.lock().work.changed.len() + self.backend.shared.pending.lock().pages.len()
    }

    pub(super) fn write_out(&self, transaction: &Transaction<'_>) -> corallite_file::Result<()> {
        let shared = &self.backend.shared;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(cause) = inner.broken.clone() {
            return Err(Error::Poisoned { path: shared.storage.path().to_owned(), cause });
        }
        let pending = shared.pending.lock();
        let is_idle = inner.work.changed.is_empty() && inner.files.is_empty();
        if is_idle && pending.given_up.is_empty() && !pending.has_changes {
            return Ok(());
        }
        let segments = {
            let mut state = shared.state.write();
            state.held = Some(shared.storage.pages()?);
            state.segments.clone()
        };
        self.check_unmoved(transaction, &segments, inner.work.meta.generation)?;
        for (key, Extent { offset, length }) in &pending.given_up {
            if inner.work.remove(key)? {
                transaction.give_back(*offset, *length)?;
            }
        }
        let mut placed = Vec::new();
        for change in std::mem::take(&mut inner.files) {
            change.run(transaction, &mut inner.work, &mut placed)?;
        }
        let meta = Meta { generation: inner.work.meta.generation + 1, ..inner.work.meta };
        let segments = segments.grown(meta.pages, transaction)?;
        let mut numbers: BTreeSet<PageNo> = inner.work.changed.keys().copied().collect();
        if !inner.is_cleared {
            numbers.extend(&pending.pages);
        }
        let mut run = Run { transaction, start: 0, bytes: Vec::new() };
        let place = |number: PageNo| segments.offset(number).ok_or_else(|| no_place(number, &inner.work));
        run.add(place(PageNo(0))?, sealed(meta.page(), PageNo(0), &meta))?;
        for number in numbers {
            let page = match inner.work.changed.get(&number) {
                Some(page) => Arc::clone(page),
                None => shared.cache.get(number).ok_or_else(|| no_place(number, &inner.work))?,
            };
            run.add(place(number)?, sealed(*page, number, &meta))?;
        }
        run.flush()?;
        inner.staged = Some(Staged { meta, segments, freed: pending.given_up.len(), placed });
        Ok(())
    }

    /// The file's tree must be the one that the changes were made to.
    fn check_unmoved(
        &self,
        transaction: &Transaction<'_>,
        segments: &Segments,
        generation: u64,
    ) -> corallite_file::Result<()> {
        let is_same = match segments.offset(PageNo(0)) {
            None => !transaction.file().link_exists(super::tree::OBJECTS),
            Some(offset) => {
                let mut page = PageBuf([0; PAGE]);
                transaction.read_at(offset, &mut page.0)?;
                Meta::read(&page).is_ok_and(|meta| meta.generation == generation)
            }
        };
        if is_same {
            return Ok(());
        }
        let problem = "its objects are not as they were when they were last read (was it rolled back?); \
                       close it and open it again, or roll back with `Store::rollback`";
        let path = self.backend.shared.storage.path().to_owned();
        Err(Error::Usage { path, problem: problem.to_owned() })
    }

    /// Shows everybody what was committed. Returns where the pieces of files are.
    pub(super) fn show(&self) -> Vec<Extent> {
        let mut inner = self.inner.lock();
        let mut placed = Vec::new();
        if let Some(staged) = inner.staged.take() {
            let shared = &self.backend.shared;
            let mut pending = shared.pending.lock();
            let mut state = shared.state.write();
            for (number, page) in inner.work.changed.drain() {
                shared.cache.keep(number, page);
                pending.pages.remove(&number);
            }
            std::mem::take(&mut pending.pages).into_iter().for_each(|number| shared.cache.settle(number));
            pending.given_up.drain(..staged.freed);
            pending.has_changes = false;
            *state = super::shared::State { meta: staged.meta, segments: staged.segments, held: None, ..*state };
            placed = staged.placed;
            drop((state, pending));
            self.tell(&mut inner);
        }
        placed
    }

    /// Shows the changes, which the next commit will write.
    pub(super) fn keep(&self) {
        let mut inner = self.inner.lock();
        let shared = &self.backend.shared;
        {
            let mut pending = shared.pending.lock();
            let mut state = shared.state.write();
            let meta = inner.work.meta;
            for (number, page) in inner.work.changed.drain() {
                shared.cache.hold(number, page);
                pending.pages.insert(number);
            }
            state.meta = meta;
            pending.has_changes = true;
        }
    }

    fn tell(&self, inner: &mut Inner) {
        for (key, kind) in inner.events.drain(..) {
            self.backend.watchers.happened(&key, kind);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // For who still has a stream of it.
        self.draft.inner.lock().broken.get_or_insert_with(|| "the transaction is over".to_owned());
        let held: Option<CommitPages> = self.draft.backend.shared.state.write().held.take();
        drop(held);
    }
}

fn no_place(number: PageNo, pages: &dyn Pages) -> Error {
    pages.damaged(number, Flaw("it has no place in the file"))
}

fn sealed(mut page: PageBuf, number: PageNo, meta: &Meta) -> PageBuf {
    page.seal(number, meta.generation);
    page
}

/// Neighbouring pages, written together.
struct Run<'a> {
    transaction: &'a Transaction<'a>,
    start: u64,
    bytes: Vec<u8>,
}

impl Run<'_> {
    fn add(&mut self, offset: u64, page: PageBuf) -> corallite_file::Result<()> {
        if self.start + self.bytes.len() as u64 != offset || self.bytes.len() >= RUN {
            self.flush()?;
            self.start = offset;
        }
        self.bytes.extend_from_slice(&page.0);
        Ok(())
    }

    fn flush(&mut self) -> corallite_file::Result<()> {
        if !self.bytes.is_empty() {
            self.transaction.write_at(self.start, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}
