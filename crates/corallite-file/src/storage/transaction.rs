//! One transaction: changes that become durable together.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ThreadId;

use hdf5_metno::File;
use parking_lot::Mutex;

use super::{Storage, explain, layout};
use crate::error::{Error, Result};
use crate::object::{DatasetWriter, superblock};
use crate::page::PAGE_SIZE;
use crate::pager::Pager;
use crate::space::Use;

impl Storage {
    /// Runs `change` as one transaction: committed durably when it returns `Ok`, rolled back when it returns `Err`.
    /// Transactions of several threads take turns; readers are not kept waiting. Changes pending from
    /// [`Storage::file`] join the first transaction that follows.
    ///
    /// # Errors
    ///
    /// Those of `change` and of the commit; [`Error::Usage`] within a transaction of the same thread, which it would wait
    /// for without end.
    pub fn transaction<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.is_in_transaction() {
            let problem = "a transaction cannot begin within another one of the same thread".to_owned();
            return Err(Error::Usage { path: self.path().to_owned(), problem }.into());
        }
        let _turn = self.turn.lock();
        let allocated = Allocated::default();
        let _holder = Holder::new(self, &allocated);
        let (pager, file) = self.with(|open| {
            if !open.pager.is_writable() {
                return Err(Error::ReadOnly { path: self.path().to_owned() });
            }
            Ok((Arc::clone(&open.pager), open.file.clone()))
        })?;
        // Should `change` panic, what it did must not slip into the next transaction.
        let undo = RollBackOnDrop { storage: self, armed: true };
        let transaction = Transaction { storage: self, pager, file, allocated };
        let outcome = change(&transaction);
        match outcome {
            Ok(value) => {
                for (offset, length) in std::mem::take(&mut *transaction.allocated.lock()) {
                    transaction.pager.release(offset, length)?;
                }
                undo.disarm();
                self.commit()?;
                Ok(value)
            }
            Err(error) => Err(error),
        }
    }
}

impl Storage {
    /// Whether this thread is within a [`Storage::transaction`] of this storage.
    pub fn is_in_transaction(&self) -> bool {
        self.allocated_here().is_some()
    }

    /// Runs `work` with the [`Storage::transaction`] that this thread is within: for what is called in one and is not handed it.
    /// `None`, and nothing done, outside of one.
    ///
    /// ```
    /// # use corallite_file::{Mode, Source, Storage};
    /// let storage = Storage::new(Source::Memory);
    /// storage.open(Mode::Append, false)?;
    /// assert!(storage.within(|_| ()).is_none());
    /// storage.transaction(|_| {
    ///     let created = storage.within(|transaction| transaction.file().create_group("inside"));
    ///     assert!(created.is_some_and(|outcome| outcome.is_ok()));
    ///     Ok::<(), corallite_file::Error>(())
    /// })?;
    /// assert!(storage.contains("inside")?);
    /// # Ok::<(), corallite_file::Error>(())
    /// ```
    pub fn within<T>(&self, work: impl FnOnce(&Transaction<'_>) -> T) -> Option<T> {
        let allocated = self.allocated_here()?;
        let (pager, file) = self.with(|open| Ok((Arc::clone(&open.pager), open.file.clone()))).ok()?;
        Some(work(&Transaction { storage: self, pager, file, allocated }))
    }

    fn allocated_here(&self) -> Option<Allocated> {
        let holder = self.holder.lock();
        holder
            .as_ref()
            .filter(|held| held.thread == std::thread::current().id())
            .map(|held| Arc::clone(&held.allocated))
    }
}

/// Room for array data that no dataset names yet, of a transaction.
type Allocated = Arc<Mutex<HashMap<u64, u64>>>;

/// Whose transaction it is.
#[derive(Debug)]
pub(super) struct Held {
    thread: ThreadId,
    allocated: Allocated,
}

/// Says whose transaction it is while it lives.
struct Holder<'a>(&'a Storage);

impl<'a> Holder<'a> {
    fn new(storage: &'a Storage, allocated: &Allocated) -> Self {
        let held = Held { thread: std::thread::current().id(), allocated: Arc::clone(allocated) };
        *storage.holder.lock() = Some(held);
        Self(storage)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        *self.0.holder.lock() = None;
    }
}

struct RollBackOnDrop<'a> {
    storage: &'a Storage,
    armed: bool,
}

impl RollBackOnDrop<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for RollBackOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            // If this fails the storage is closed, and the next call says so.
            let _ = self.storage.roll_back();
        }
    }
}

/// A running transaction; see [`Storage::transaction`].
#[derive(Debug)]
pub struct Transaction<'a> {
    storage: &'a Storage,
    pager: Arc<Pager>,
    file: File,
    allocated: Allocated,
}

impl Transaction<'_> {
    /// The HDF5 file as this transaction sees it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The storage.
    pub fn storage(&self) -> &Storage {
        self.storage
    }

    /// Marks the store as one that only programs of at least this [`FORMAT_VERSION`](crate::FORMAT_VERSION) may open, for what
    /// older ones would misread or damage. Does nothing where it is marked so already.
    pub fn require_format(&self, version: i64) -> Result<()> {
        layout::require(&self.pager, &self.file, version)
    }

    /// Writes the bytes of a contiguous dataset in place; see [`contiguous_offset`](crate::contiguous_offset). Whole
    /// pages of new space go straight to the file, without a copy in memory and without libhdf5's lock.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.pager.write(self.pager.epoch(), offset, bytes)
    }

    /// Finds room for `length` bytes of array data, of which a [`NewDataset`](crate::NewDataset) will say where they
    /// are. Room that no dataset names is given back when the transaction ends, or with [`Transaction::release`].
    pub fn allocate(&self, length: u64) -> Result<u64> {
        self.allocate_for(Use::Raw, length)
    }

    /// As [`Transaction::allocate`], for bytes that are decoded before they are used and so need no alignment.
    pub fn allocate_encoded(&self, length: u64) -> Result<u64> {
        self.allocate_for(Use::Encoded, length)
    }

    fn allocate_for(&self, purpose: Use, length: u64) -> Result<u64> {
        let offset = self.pager.allocate(self.pager.epoch(), purpose, length)?;
        self.allocated.lock().insert(offset, length);
        Ok(offset)
    }

    /// A dataset names this room now; it cannot be given back any more.
    pub(crate) fn named(&self, offset: u64) {
        self.allocated.lock().remove(&offset);
    }

    /// Gives back room that [`Transaction::allocate`] found in this transaction and that no dataset names.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for anything else.
    pub fn release(&self, offset: u64, length: u64) -> Result<()> {
        let mut allocated = self.allocated.lock();
        if allocated.get(&offset) != Some(&length) {
            return Err(self.not_held(offset, length));
        }
        allocated.remove(&offset);
        self.pager.release(offset, length)
    }

    /// Keeps room that [`Transaction::allocate`] found in this transaction although no dataset names it: what is written there
    /// stays until [`Transaction::give_back`], or until a later transaction creates a dataset that names it. Whoever keeps it
    /// must have it written down in this same commit, or it is lost for good.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for anything else.
    pub fn keep(&self, offset: u64, length: u64) -> Result<()> {
        let mut allocated = self.allocated.lock();
        if allocated.get(&offset) != Some(&length) {
            return Err(self.not_held(offset, length));
        }
        allocated.remove(&offset);
        Ok(())
    }

    /// Gives back room that an earlier transaction kept (see [`Transaction::keep`]) and that no dataset names.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what lies outside the file.
    pub fn give_back(&self, offset: u64, length: u64) -> Result<()> {
        if offset < PAGE_SIZE || offset.checked_add(length).is_none_or(|end| end > self.pager.eoa()) {
            return Err(self.not_held(offset, length));
        }
        // Nothing may have been written in this transaction so far, and only a running one can free.
        self.pager.begin_transaction()?;
        self.pager.release(offset, length)
    }

    fn not_held(&self, offset: u64, length: u64) -> Error {
        let problem = format!("{length} bytes at {offset} are not room that this transaction holds");
        Error::Usage { path: self.pager.path().to_owned(), problem }
    }

    pub(crate) fn release_metadata(&self, offset: u64, length: u64) -> Result<()> {
        self.pager.release(offset, length)
    }

    pub(crate) fn allocate_metadata(&self, length: u64) -> Result<u64> {
        self.pager.allocate(self.pager.epoch(), Use::Metadata, length)
    }

    /// Creates datasets whose bytes are known, at a fraction of what libhdf5 needs for each.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a file of another program whose addresses are not of eight bytes or do not count from its
    /// beginning.
    pub fn create_datasets(&self) -> Result<DatasetWriter<'_>> {
        let mut superblock = [0; superblock::LENGTH];
        self.read_at(0, &mut superblock)?;
        if superblock::is_usual(&superblock) {
            return Ok(DatasetWriter::new(self));
        }
        let problem = "its addresses are not of eight bytes, or it begins with a user block; rewrite it with h5repack";
        Err(Error::Usage { path: self.pager.path().to_owned(), problem: problem.to_owned() })
    }

    /// Reads bytes as this transaction sees them.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.pager.eoa()) {
            let problem = format!("{} bytes were asked for, past the end of the data", buffer.len());
            return Err(Error::damaged(self.pager.path(), offset, problem));
        }
        self.pager.read_as_writer(offset, buffer)
    }

    /// What an error of libhdf5 in this transaction really was.
    pub fn explain(&self, action: &str, error: &hdf5_metno::Error) -> Error {
        explain(&self.pager, action, error)
    }
}
