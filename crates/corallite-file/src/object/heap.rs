//! Global heap collections, in which texts of variable length lie (file format specification, III.E).

use crate::error::Result;
use crate::storage::Transaction;

/// `H5HG_MINSIZE`; a longer text gets a collection of its own.
const COLLECTION: usize = 4096;
const HEADER: usize = 16;
const OBJECT_HEADER: usize = 16;

/// Where a text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeapText {
    pub(super) length: u32,
    pub(super) collection: u64,
    pub(super) index: u32,
}

/// The collection that texts are being added to.
#[derive(Debug, Default)]
pub(super) struct Heap {
    offset: u64,
    bytes: Vec<u8>,
    used: usize,
    index: u16,
    /// What of it is in the file.
    written: usize,
}

impl Heap {
    /// Takes a text in. It is in the file after [`Heap::write`].
    pub(super) fn add(&mut self, transaction: &Transaction<'_>, text: &[u8]) -> Result<HeapText> {
        let needed = OBJECT_HEADER + text.len().next_multiple_of(8);
        if self.bytes.len() - self.used < needed || self.index == u16::MAX {
            self.write(transaction)?;
            let length = COLLECTION.max(HEADER + needed);
            self.offset = transaction.allocate_metadata(length as u64)?;
            self.bytes.clear();
            self.bytes.resize(length, 0);
            self.bytes[..4].copy_from_slice(b"GCOL");
            self.bytes[4] = 1;
            self.bytes[8..HEADER].copy_from_slice(&(length as u64).to_le_bytes());
            self.used = HEADER;
            self.index = 0;
            self.written = 0;
        }
        self.index += 1;
        let object = &mut self.bytes[self.used..self.used + needed];
        object[..2].copy_from_slice(&self.index.to_le_bytes());
        object[8..OBJECT_HEADER].copy_from_slice(&(text.len() as u64).to_le_bytes());
        object[OBJECT_HEADER..OBJECT_HEADER + text.len()].copy_from_slice(text);
        self.used += needed;
        Ok(HeapText { length: text.len() as u32, collection: self.offset, index: u32::from(self.index) })
    }

    /// Writes what was added since the last time, and after it the object that stands for the free space.
    pub(super) fn write(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        if self.used == self.written {
            return Ok(());
        }
        let free = self.bytes.len() - self.used;
        let mut end = self.used;
        if free >= OBJECT_HEADER {
            end += OBJECT_HEADER;
            let object = &mut self.bytes[self.used..end];
            object[8..].copy_from_slice(&(free as u64).to_le_bytes());
        }
        // A new collection is written whole: the place may hold anything.
        let (from, to) = if self.written == 0 { (0, self.bytes.len()) } else { (self.written, end) };
        transaction.write_at(self.offset + from as u64, &self.bytes[from..to])?;
        self.bytes[self.used..end].fill(0);
        self.written = self.used;
        Ok(())
    }
}
