//! The links in memory and in the file, without the log: partitions, and which of them is whose.
//!
//! A partition holds the keys whose hashes begin with its prefix. It is *hot*, loaded into memory where it is changed in
//! place, or *cold*: an image in the file, mapped, with the changes since in an overlay. Readers take no lock for a hot
//! partition, and a shared one for a cold partition. There is one writer, who owns the [`Writer`].

mod ahead;
mod apply;
mod freeze;
mod inspect;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::RwLock;

use crate::arena::{Memory, TABLE_BITS};
use crate::error::{Error, Result};
use crate::format::PartitionRecord;
use crate::hash::{Hash, Seed};
use crate::image::StoredImage;
use crate::overlay::Overlay;
use crate::source::Source;

pub(crate) use ahead::Ahead;
pub(crate) use apply::{DELETIONS, Replayed, Share};
pub(crate) use freeze::{Content, Frozen, Kept};
pub(crate) use inspect::Looked;
use read::entry;
use writer::PARTITION_BUCKETS;
pub(crate) use writer::{Owned, Writer};

/// What readers share with the writer.
#[derive(Debug)]
pub(crate) struct Engine {
    path: PathBuf,
    pub(crate) memory: Memory,
    pub(crate) seed: Seed,
    /// The bits of the table in the lowest byte; above them a version that is odd while the table grows or shrinks.
    table: AtomicU64,
    /// By id; `None` for numbers that were never used.
    partitions: RwLock<Vec<Option<Arc<Partition>>>>,
    /// The commit that cold partitions are read from; `None` while nothing was stored. Held shared while one is read.
    pub(crate) source: RwLock<Option<Source>>,
    /// States in which a flipped bit was corrected.
    pub(crate) corrections: Arc<AtomicU64>,
    /// Bytes of the overlays.
    overlay_bytes: AtomicU64,
    /// How many bytes of partitions may be loaded.
    pub(crate) limit: u64,
    /// Buckets from which on a partition is divided.
    pub(crate) partition_buckets: u32,
}

/// What is needed of a partition that is not loaded.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) cold: RwLock<Cold>,
}

/// A partition in the file, and what changed since.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// What the file says of it; `None` for one that was never stored.
    pub(crate) record: Option<PartitionRecord>,
    /// Whether image and overlay are complete.
    pub(crate) is_read: bool,
    pub(crate) image: Option<Arc<StoredImage>>,
    pub(crate) overlay: Overlay,
}

impl Engine {
    pub(crate) fn new(path: &Path, seed: Seed, limit: u64, corrections: Arc<AtomicU64>) -> io::Result<Self> {
        let memory = Memory::new()?;
        // Where less could be reserved, partitions are unloaded before it is used up.
        let limit = limit.min(memory.bucket_bytes() / 2);
        Ok(Self {
            path: path.to_owned(),
            memory,
            seed,
            table: AtomicU64::new(0),
            partitions: RwLock::default(),
            source: RwLock::default(),
            corrections,
            overlay_bytes: AtomicU64::new(0),
            limit,
            partition_buckets: PARTITION_BUCKETS,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn partition(&self, id: u32) -> Arc<Partition> {
        let known = self.partitions.read().get(id as usize).cloned().flatten();
        known.unwrap_or_default()
    }

    /// Makes room for partitions up to `id`.
    pub(crate) fn add_partition(&self, id: u32) {
        let mut partitions = self.partitions.write();
        if partitions.len() <= id as usize {
            partitions.resize(id as usize + 1, None);
        }
        partitions[id as usize].get_or_insert_default();
    }

    /// Bits of the table, and its version.
    #[inline(always)]
    fn table_word(&self) -> u64 {
        self.table.load(Ordering::Acquire)
    }

    pub(crate) fn table_bits(&self) -> u32 {
        self.table_word() as u32 & 0xff
    }

    /// The partition of a hash, for the writer, to whom nothing happens meanwhile.
    #[inline]
    pub(crate) fn route(&self, hash: Hash) -> u32 {
        self.memory.table().get(hash.prefix(self.table_bits()) as usize)
    }

    /// Changes the table as a whole, keeping readers out.
    fn change_table(&self, bits: u32, change: impl FnOnce()) {
        let word = self.table.load(Ordering::Relaxed);
        let version = word >> 8 | 1;
        self.table.store(version << 8 | (word & 0xff), Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.table.store((version + 1) << 8 | u64::from(bits), Ordering::Release);
    }

    /// Enters partition `id` for all hashes that begin with `prefix`, the table being made large enough.
    pub(crate) fn enter(&self, id: u32, skip: u8, prefix: u64) {
        let table = self.memory.table();
        let mut bits = self.table_bits();
        while u32::from(skip) > bits && bits < TABLE_BITS {
            self.change_table(bits + 1, || {
                for index in (0..1_usize << bits).rev() {
                    let partition = table.get(index);
                    table.set(2 * index, partition);
                    table.set(2 * index + 1, partition);
                }
            });
            bits += 1;
        }
        let span = 1_usize << (bits - u32::from(skip).min(bits));
        let first = prefix as usize * span;
        for index in first..first + span {
            table.set(index, id);
        }
    }

    /// Makes the table as small as the partitions allow.
    pub(crate) fn shrink_table(&self) {
        let table = self.memory.table();
        let mut bits = self.table_bits();
        while bits > 0 && (0..1_usize << (bits - 1)).all(|pair| table.get(2 * pair) == table.get(2 * pair + 1)) {
            self.change_table(bits - 1, || {
                for pair in 0..1_usize << (bits - 1) {
                    table.set(pair, table.get(2 * pair));
                }
            });
            bits -= 1;
        }
    }

    /// Reads image and overlay of a cold partition, unless that was done.
    pub(crate) fn read_cold(&self, partition: &Partition) -> Result<()> {
        let source = self.source.read();
        let mut cold = partition.cold.write();
        if cold.is_read {
            return Ok(());
        }
        let record = cold.record;
        if let (Some(record), Some(source)) = (record, &*source) {
            let changes = source.slices(&record)?;
            if record.buckets.get() > 0 {
                cold.image = Some(Arc::new(source.image(&record)?));
            }
            let before = cold.overlay.bytes();
            cold.overlay.put_before(changes, self.seed);
            self.count_overlay(before, cold.overlay.bytes());
        }
        cold.is_read = true;
        Ok(())
    }

    /// Bytes of the overlays.
    pub(crate) fn overlay_bytes(&self) -> u64 {
        self.overlay_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of memory in use.
    pub(crate) fn bytes(&self, writer: &Writer) -> u64 {
        writer.allocator.bytes() + self.overlay_bytes()
    }

    /// An overlay, or several together, had so many bytes and has so many now.
    pub(crate) fn count_overlay(&self, before: u64, after: u64) {
        self.overlay_bytes.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    pub(crate) fn flawed(&self, flaw: crate::image::Flaw) -> Error {
        Error::damaged(&self.path, flaw.place, flaw.problem)
    }

    pub(crate) fn out_of_memory(&self) -> Error {
        Error::Io {
            action: "get memory for the links of",
            path: self.path.clone(),
            source: io::ErrorKind::OutOfMemory.into(),
        }
    }
}
