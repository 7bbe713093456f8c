//! [`Ring`]: where records lie in the file.
//!
//! Record n lies in slot n modulo the capacity. Runs that go past the last slot continue in the first.

use std::io;
use std::sync::Arc;

use corallite_file::{DiskFile, Mapping};
use zerocopy::{FromBytes, IntoBytes};

use super::Lsn;
use super::format::{RECORD, Record};

/// Records read at once where the file cannot be mapped.
const BLOCK: u64 = 16 * 1024;

/// The records' part of the file.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub(super) file: Arc<dyn DiskFile>,
    /// Byte offset of slot 0.
    pub(super) region: u64,
    /// Slots.
    pub(super) capacity: u64,
}

impl Ring {
    fn slot(&self, lsn: Lsn) -> u64 {
        lsn.0 % self.capacity
    }

    /// The byte offset of a record.
    pub(super) fn offset(&self, lsn: Lsn) -> u64 {
        self.region + self.slot(lsn) * RECORD
    }

    /// Writes records that belong to `lsn` and the numbers after it: once, or twice when they wrap around.
    pub(super) fn write(&self, lsn: Lsn, bytes: &[u8]) -> io::Result<()> {
        let before_end = (self.capacity - self.slot(lsn)) * RECORD;
        let (first, second) = bytes.split_at(bytes.len().min(before_end as usize));
        self.file.write_at(self.offset(lsn), first)?;
        if !second.is_empty() {
            self.file.write_at(self.region, second)?;
        }
        Ok(())
    }

    /// Writes zeros over `count` records from `lsn` on, in pieces.
    pub(super) fn zero(&self, lsn: Lsn, count: u64) -> io::Result<()> {
        let zeros = vec![0; (count.min(BLOCK) * RECORD) as usize];
        let mut done = 0;
        while done < count {
            let piece = (count - done).min(BLOCK);
            self.write(Lsn(lsn.0 + done), &zeros[..(piece * RECORD) as usize])?;
            done += piece;
        }
        Ok(())
    }

    /// Writes the records from `from` to `to` over themselves.
    pub(super) fn rewrite(&self, from: Lsn, to: Lsn) -> io::Result<()> {
        let mut view = View::copying(self);
        let mut at = from;
        while at < to {
            let run = view.run(at, to)?;
            self.write(at, run.as_bytes())?;
            at.0 += run.len() as u64;
        }
        Ok(())
    }
}

/// Reads records: from a map of the file where there is one, otherwise block by block.
pub(super) struct View<'a> {
    ring: &'a Ring,
    map: Option<Mapping>,
    block: Vec<u8>,
    /// The slot of the block's first record.
    block_at: u64,
}

impl<'a> View<'a> {
    /// Maps the file where the disk can. Only for records that nobody writes while the view is there.
    pub(super) fn mapped(ring: &'a Ring) -> Self {
        let length = usize::try_from(ring.capacity * RECORD).ok();
        // A disk that cannot map is read instead; if that fails as well, it says why.
        let map = length.and_then(|length| ring.file.map(ring.region, length).ok().flatten());
        Self { map, ..Self::copying(ring) }
    }

    /// Reads copies.
    pub(super) fn copying(ring: &'a Ring) -> Self {
        Self { ring, map: None, block: Vec::new(), block_at: 0 }
    }

    /// The records from `from` on, as many as lie together, at least one and none from `to` on. `from` must be less
    /// than `to`.
    pub(super) fn run(&mut self, from: Lsn, to: Lsn) -> io::Result<&[Record]> {
        let slot = self.ring.slot(from);
        let want = (to.0 - from.0).min(self.ring.capacity - slot);
        let (bytes, first) = match &self.map {
            Some(map) => (map.as_ref(), slot),
            None => {
                let held = self.block.len() as u64 / RECORD;
                if slot < self.block_at || slot >= self.block_at + held {
                    let count = want.min(BLOCK);
                    self.block.resize((count * RECORD) as usize, 0);
                    self.block_at = slot;
                    let found = self.ring.file.read_at(self.ring.region + slot * RECORD, &mut self.block)?;
                    // A file cut short meanwhile: what is missing reads as never written.
                    self.block[found..].fill(0);
                }
                (self.block.as_slice(), slot - self.block_at)
            }
        };
        let records = <[Record]>::ref_from_bytes(bytes)
            .map_err(|_| io::Error::other("the records are not a whole number of records"))?;
        let records = &records[first as usize..];
        Ok(&records[..records.len().min(want as usize)])
    }
}
