//! A thread that is within a batch: what it does to objects is done there.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use corallite_file::Storage;
use corallite_objects::Error;
use corallite_objects::backend::{Durability, EventKind, Range, ReadStream, WriteStream};
use parking_lot::Mutex;

use super::backend::{Result, StoreBackend};
use super::batch::{Draft, Inner, tree_key};
use super::entries::Entries;
use super::files::{Extent, FILE, FileChange, Pieces, write_piece};
use super::tree::Pages;

/// Which thread has joined which batch.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Whether any has: so that those who have not need not lock.
    is_taken: AtomicBool,
    joined: Mutex<Option<(ThreadId, Arc<Mutex<Inner>>)>>,
}

impl Slot {
    /// The batch that this thread has joined.
    pub(super) fn of<'a>(&self, backend: &'a StoreBackend) -> Option<Draft<'a>> {
        if !self.is_taken.load(Ordering::Acquire) {
            return None;
        }
        let joined = self.joined.lock();
        let (_, inner) = joined.as_ref().filter(|(thread, _)| *thread == thread::current().id())?;
        Some(Draft { backend, inner: Arc::clone(inner) })
    }
}

/// A thread that has joined a batch; see [`Batch::join`](super::Batch::join).
#[derive(Debug)]
pub struct Joined<'a> {
    slot: &'a Slot,
}

impl<'a> Joined<'a> {
    pub(super) fn new(draft: &Draft<'a>) -> Self {
        let slot = &draft.backend.slot;
        *slot.joined.lock() = Some((thread::current().id(), Arc::clone(&draft.inner)));
        slot.is_taken.store(true, Ordering::Release);
        Self { slot }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.slot.is_taken.store(false, Ordering::Release);
        *self.slot.joined.lock() = None;
    }
}

/// Where the file of a key is, as a batch sees it.
enum Place {
    /// Nowhere.
    Absent,
    /// In the last commit, under this key.
    Committed(String),
    /// In the batch.
    Written(WrittenFile),
}

impl<'a> Draft<'a> {
    pub(super) fn entries(&self, map: u8, range: &Range, with_values: bool) -> Entries<'a> {
        let inner = Arc::clone(&self.inner);
        let backend = self.backend;
        let source = Box::new(move |read: &mut dyn FnMut(&dyn Pages) -> Result<()>| {
            let inner = inner.lock();
            // What is gone through outlives the transaction it belongs to.
            backend.check_sound(&inner)?;
            read(&inner.work)
        });
        Entries::new(backend, source, map, range, with_values)
    }

    fn place_of(&self, key: &str) -> Place {
        let inner = self.inner.lock();
        let mut key = key;
        for change in inner.files.iter().rev() {
            match change {
                FileChange::Create { key: found, extents, tail } if found == key => {
                    let storage = Arc::clone(&self.backend.shared.storage);
                    let length = extents.iter().map(|extent| extent.length).sum::<u64>() + tail.len() as u64;
                    let (extents, tail) = (extents.clone(), tail.clone());
                    return Place::Written(WrittenFile { storage, extents, tail, length, position: 0 });
                }
                FileChange::Rename { from, to } if to == key => key = from,
                FileChange::Rename { from: found, .. } | FileChange::Remove { key: found } if found == key => {
                    return Place::Absent;
                }
                FileChange::RemoveAll => return Place::Absent,
                _ => {}
            }
        }
        Place::Committed(key.to_owned())
    }

    pub(super) fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        match self.place_of(key) {
            Place::Absent => Ok(None),
            Place::Committed(key) => self.backend.read_committed(&key),
            Place::Written(file) => Ok(Some(Box::new(file))),
        }
    }

    pub(super) fn write_stream(&self, key: &str) -> Box<dyn WriteStream + 'a> {
        let draft = self.clone();
        Box::new(Stream { draft, key: key.to_owned(), pieces: Pieces::default(), extents: Vec::new() })
    }

    /// Gives a file another key; whether there was one.
    pub(super) fn rename_file(&self, from: &str, to: &str) -> Result<bool> {
        let Some(record) = self.get(FILE, from)? else { return Ok(false) };
        if from == to {
            return Ok(true);
        }
        self.guarded(|inner| {
            inner.work.remove(&tree_key(FILE, from))?;
            inner.work.put(&tree_key(FILE, to), &record)?;
            // One of this same batch is created under its last key at once.
            let is_its = |change: &FileChange| matches!(change, FileChange::Create { key, .. } if key == from);
            let change = match inner.files.iter().rposition(is_its).map(|index| inner.files.remove(index)) {
                Some(FileChange::Create { extents, tail, .. }) => {
                    FileChange::Create { key: to.to_owned(), extents, tail }
                }
                _ => FileChange::Rename { from: from.to_owned(), to: to.to_owned() },
            };
            inner.files.push(change);
            inner.events.extend([from, to].map(|key| (key.to_owned(), EventKind::Stream)));
            Ok(())
        })?;
        Ok(true)
    }
}

/// A file that the batch has and the last commit has not.
#[derive(Debug)]
struct WrittenFile {
    storage: Arc<Storage>,
    extents: Vec<Extent>,
    tail: Vec<u8>,
    length: u64,
    position: u64,
}

impl Read for WrittenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = self.position;
        for extent in &self.extents {
            if at < extent.length {
                let count = buffer.len().min(usize::try_from(extent.length - at).unwrap_or(usize::MAX));
                let read =
                    self.storage.within(|transaction| transaction.read_at(extent.offset + at, &mut buffer[..count]));
                read.ok_or_else(is_over)?.map_err(io::Error::other)?;
                self.position += count as u64;
                return Ok(count);
            }
            at -= extent.length;
        }
        let rest = usize::try_from(at).ok().and_then(|at| self.tail.get(at..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for WrittenFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = super::files::seek(to, self.position, self.length)?;
        Ok(self.position)
    }
}

impl ReadStream for WrittenFile {
    fn length(&self) -> u64 {
        self.length
    }
}

fn is_over() -> io::Error {
    io::Error::other("the transaction that this file belongs to is over, or another thread's")
}

/// A file that is written in the batch.
struct Stream<'a> {
    draft: Draft<'a>,
    key: String,
    pieces: Pieces,
    extents: Vec<Extent>,
}

impl Stream<'_> {
    fn storage(&self) -> &Storage {
        &self.draft.backend.shared.storage
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { draft, pieces, extents, .. } = self;
        let storage = &draft.backend.shared.storage;
        pieces.write(bytes, |piece| {
            let written = storage.within(|transaction| write_piece(transaction, &piece));
            extents.push(written.ok_or_else(is_over)?.map_err(io::Error::other)?);
            Ok(())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteStream for Stream<'_> {
    fn finish(mut self: Box<Self>, _durability: Durability) -> Result<()> {
        if !self.storage().is_in_transaction() {
            return Err(Error::Usage(format!("{}; finish the file in it", is_over())));
        }
        let (tail, record) = std::mem::take(&mut self.pieces).finish(|| self.draft.backend.place())?;
        let extents = self.extents.clone();
        self.draft.finish_file(&self.key, &record, extents, tail, Vec::new())?;
        self.extents.clear();
        Ok(())
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let extents = std::mem::take(&mut self.extents);
        self.storage().within(|transaction| {
            for Extent { offset, length } in extents {
                // What is not given back here is when the transaction ends.
                let _ = transaction.release(offset, length);
            }
        });
    }
}
