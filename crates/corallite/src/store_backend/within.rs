//! A batch within the transaction of the file that it becomes durable with.

use std::io::{self, Write};

use bytes::Bytes;
use corallite_file::Transaction;
use corallite_objects::Error;
use corallite_objects::backend::{
    Backend, Change, Durability, Entries as BackendEntries, Keys, Range, ReadStream, Watchers, WriteStream,
};

use super::backend::Result;
use super::batch::{Batch, VALUES};
use super::entries::Entries;
use super::files::{Extent, FILE, FileChange, Pieces, write_piece};
use super::tree::Pages;

/// The objects within a transaction, as a backend: what is changed through it is seen through it, and by others when the
/// transaction has been committed and its [`Batch`] published. Files that were written in the same transaction can be read only
/// then.
#[derive(Debug)]
pub struct Within<'a> {
    batch: &'a Batch<'a>,
    transaction: &'a Transaction<'a>,
}

impl<'a> Within<'a> {
    pub(super) fn new(batch: &'a Batch<'a>, transaction: &'a Transaction<'a>) -> Self {
        Self { batch, transaction }
    }

    /// Writes the changes into the transaction, as the last thing done to objects in it.
    ///
    /// # Errors
    ///
    /// What the file layer reports; the transaction must then not be committed.
    pub fn write_out(&self) -> corallite_file::Result<()> {
        self.batch.write_out(self.transaction)
    }

    fn entries(&self, map: u8, range: &Range, with_values: bool) -> Entries<'_> {
        let source =
            Box::new(move |read: &mut dyn FnMut(&dyn Pages) -> Result<()>| read(&self.batch.inner.lock().work));
        Entries::new(self.batch.backend, source, map, range, with_values)
    }
}

impl Backend for Within<'_> {
    fn location(&self) -> String {
        self.batch.backend.place()
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.batch.get(key)
    }

    fn keys_in(&self, range: &Range) -> Result<Keys<'_>> {
        Ok(Box::new(self.entries(VALUES, range, false).map(|entry| entry.map(|(key, _)| key))))
    }

    fn entries_in(&self, range: &Range) -> Result<BackendEntries<'_>> {
        Ok(Box::new(self.entries(VALUES, range, true)))
    }

    fn write(&self, changes: &[Change<'_>], _durability: Durability) -> Result<()> {
        self.batch.apply(changes)?;
        self.batch.note(changes);
        Ok(())
    }

    fn is_atomic(&self) -> bool {
        true
    }

    fn read_stream(&self, key: &str) -> Result<Option<Box<dyn ReadStream>>> {
        let changed = self.batch.inner.lock().files.iter().rev().find_map(|change| match change {
            FileChange::Create { key: found, .. } if found == key => Some(true),
            FileChange::Remove { key: found } if found == key => Some(false),
            FileChange::RemoveAll => Some(false),
            _ => None,
        });
        match changed {
            None => self.batch.backend.read_stream(key),
            Some(false) => Ok(None),
            Some(true) => {
                let problem =
                    format!("the file `{key}` was written in this transaction; read it when that is committed");
                Err(Error::Usage(problem))
            }
        }
    }

    fn write_stream<'a>(&'a self, key: &str) -> Result<Box<dyn WriteStream + 'a>> {
        corallite_objects::key::check(key)?;
        Ok(Box::new(Stream { within: self, key: key.to_owned(), pieces: Pieces::default(), extents: Vec::new() }))
    }

    fn remove_stream(&self, key: &str) -> Result<bool> {
        self.batch.remove_file(key)
    }

    fn streams(&self, prefix: &str) -> Result<Keys<'_>> {
        let entries = self.entries(FILE, &Range::prefix(prefix), false);
        Ok(Box::new(entries.map(|entry| entry.map(|(key, _)| key))))
    }

    /// Does nothing: the transaction's commit does it.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.batch.clear()
    }

    /// Refused: the store is closed when the transaction is over.
    fn close(&self) -> Result<()> {
        Err(Error::Usage("a store cannot be closed within a transaction".to_owned()))
    }

    fn watchers(&self) -> &Watchers {
        &self.batch.backend.watchers
    }
}

/// A file that is written in the transaction.
struct Stream<'a> {
    within: &'a Within<'a>,
    key: String,
    pieces: Pieces,
    extents: Vec<Extent>,
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { within, pieces, extents, .. } = self;
        pieces.write(bytes, |piece| {
            extents.push(write_piece(within.transaction, &piece).map_err(io::Error::other)?);
            Ok(())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteStream for Stream<'_> {
    fn finish(mut self: Box<Self>, _durability: Durability) -> Result<()> {
        let (tail, record) = std::mem::take(&mut self.pieces).finish(|| self.within.location())?;
        let extents = self.extents.clone();
        self.within.batch.finish_file(&self.key, &record, extents, tail, Vec::new())?;
        self.extents.clear();
        Ok(())
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        for Extent { offset, length } in self.extents.drain(..) {
            // What is not given back here is when the transaction ends.
            let _ = self.within.transaction.release(offset, length);
        }
    }
}
