//! The memory of loaded partitions: shared regions for the readers, and who owns what of them for the writer.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bucket::{self, Live};
use crate::memory::Region;
use crate::set::{self, LiveSet};

/// Most bits of a partition's own directory.
pub(crate) const DIRECTORY_BITS: u32 = 13;
const DIRECTORY_WORDS: usize = (1 << DIRECTORY_BITS) / 2;
/// Words of a partition's slot; a cache line, so that partitions do not disturb each other.
const SLOT_WORDS: usize = 8;
/// Most bits of the table of partitions, and with it the most partitions.
pub(crate) const TABLE_BITS: u32 = 22;

/// What readers look at.
#[derive(Debug)]
pub(crate) struct Memory {
    buckets: Region,
    directories: Region,
    sets: Region,
    slots: Region,
    table: Region,
}

/// One directory of a partition: bucket numbers, two in a word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries<'a>(&'a [AtomicU64]);

impl Entries<'_> {
    #[inline(always)]
    pub(crate) fn get(self, index: usize) -> u32 {
        self.0.get(index / 2).map_or(0, |word| (word.load(Ordering::Acquire) >> (index % 2 * 32)) as u32)
    }

    pub(crate) fn set(self, index: usize, value: u32) {
        if let Some(word) = self.0.get(index / 2) {
            let shift = index % 2 * 32;
            let kept = word.load(Ordering::Relaxed) & !(0xffff_ffff << shift);
            word.store(kept | u64::from(value) << shift, Ordering::Release);
        }
    }

    #[inline]
    pub(crate) fn prefetch(self, index: usize) {
        if let Some(word) = self.0.get(index / 2) {
            crate::memory::prefetch(word);
        }
    }
}

/// Bytes reserved, not used, for each kind; what is not granted is asked for by halves.
const RESERVE: u64 = 256 << 30;

impl Memory {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            buckets: Region::reserve(RESERVE, 64 << 20)?,
            directories: Region::reserve(RESERVE / 64, 16 << 20)?,
            sets: Region::reserve(RESERVE / 4, 64 << 20)?,
            slots: Region::reserve((SLOT_WORDS as u64 * 8) << TABLE_BITS, 1 << 20)?,
            table: Region::reserve(4 << TABLE_BITS, 1 << 20)?,
        })
    }

    /// A bucket. Numbers out of range, which only an overtaken reader has, give the first.
    #[inline(always)]
    pub(crate) fn bucket(&self, index: u32) -> Live<'_> {
        let words = self.buckets.words();
        let start = index as usize * bucket::WORDS;
        let found = words.get(start..).and_then(<[AtomicU64]>::first_chunk);
        Live(match found {
            Some(bucket) => bucket,
            // The region holds at least one bucket.
            None => words.first_chunk().unwrap_or(&EMPTY),
        })
    }

    #[inline(always)]
    pub(crate) fn directory(&self, block: u32) -> Entries<'_> {
        let start = block as usize * DIRECTORY_WORDS;
        Entries(self.directories.words().get(start..start + DIRECTORY_WORDS).unwrap_or(&[]))
    }

    /// The words from a unit on, to the end of the region.
    #[inline(always)]
    pub(crate) fn set(&self, unit: u64) -> LiveSet<'_> {
        let start = usize::try_from(unit).unwrap_or(usize::MAX).saturating_mul(2);
        LiveSet(self.sets.words().get(start..).unwrap_or(&[]))
    }

    /// The table of partitions: the partition of each prefix.
    #[inline(always)]
    pub(crate) fn table(&self) -> Entries<'_> {
        Entries(self.table.words())
    }

    /// Version and place of a partition.
    #[inline(always)]
    pub(crate) fn slot(&self, partition: u32) -> Slot<'_> {
        let words = self.slots.words();
        let start = partition as usize * SLOT_WORDS;
        Slot(words.get(start..).and_then(<[AtomicU64]>::first_chunk).unwrap_or(&EMPTY_SLOT))
    }

    /// Bytes that buckets can take at most.
    pub(crate) fn bucket_bytes(&self) -> u64 {
        self.buckets.words().len() as u64 * 8
    }

    /// How many partitions there may be.
    pub(crate) fn most_partitions(&self) -> u32 {
        (self.slots.words().len() / SLOT_WORDS).min(self.table.words().len() * 2) as u32
    }
}

static EMPTY: [AtomicU64; bucket::WORDS] = [const { AtomicU64::new(0) }; bucket::WORDS];
static EMPTY_SLOT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What a reader needs of a partition: a version that is odd while its directory is being changed, and where that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a>(&'a [AtomicU64; 2]);

/// Where a loaded partition's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: u32,
    pub(crate) bits: u8,
    /// Bits of the hash that all keys of the partition share.
    pub(crate) skip: u8,
}

const LOADED: u64 = 1 << 63;

impl<'a> Slot<'a> {
    #[inline(always)]
    pub(crate) fn version(self) -> u64 {
        self.0[0].load(Ordering::Acquire)
    }

    /// Whether nothing changed since [`Slot::version`] gave `version`.
    #[inline(always)]
    pub(crate) fn is_at(self, version: u64) -> bool {
        self.0[0].load(Ordering::Relaxed) == version
    }

    /// `None` for a partition that is not loaded.
    #[inline(always)]
    pub(crate) fn place(self) -> Option<Place> {
        let word = self.0[1].load(Ordering::Relaxed);
        let place = Place { directory: word as u32, bits: (word >> 32) as u8 & 31, skip: (word >> 40) as u8 & 63 };
        (word & LOADED != 0).then_some(place)
    }

    /// Keeps readers out until the guard is dropped.
    pub(crate) fn change(self) -> Changing<'a> {
        let version = self.0[0].load(Ordering::Relaxed);
        self.0[0].store(version | 1, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
        Changing(self)
    }

    pub(crate) fn set_place(self, place: Option<Place>) {
        let word = place.map_or(0, |place| {
            LOADED | u64::from(place.directory) | u64::from(place.bits) << 32 | u64::from(place.skip) << 40
        });
        self.0[1].store(word, Ordering::Relaxed);
    }
}

/// Readers wait while this lives.
#[derive(Debug)]
pub(crate) struct Changing<'a>(Slot<'a>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let words = self.0.0;
        let version = words[0].load(Ordering::Relaxed);
        words[0].store((version | 1).wrapping_add(1), Ordering::Release);
    }
}

/// What of the memory is in use. The writer's alone.
#[derive(Debug)]
pub(crate) struct Allocator {
    next_bucket: u32,
    free_buckets: Vec<u32>,
    next_directory: u32,
    free_directories: Vec<u32>,
    next_unit: u64,
    free_sets: HashMap<u64, Vec<u64>>,
    set_units: u64,
}

impl Default for Allocator {
    fn default() -> Self {
        Self {
            // 0 says "none" where buckets refer to buckets.
            next_bucket: 1,
            free_buckets: Vec::new(),
            next_directory: 0,
            free_directories: Vec::new(),
            next_unit: 0,
            free_sets: HashMap::new(),
            set_units: 0,
        }
    }
}

/// The reserved memory, or the address space, is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// Memory and who may change it.
#[derive(Debug)]
pub(crate) struct Arena<'a> {
    pub(crate) memory: &'a Memory,
    pub(crate) allocator: &'a mut Allocator,
}

impl Arena<'_> {
    /// An empty bucket.
    pub(crate) fn new_bucket(&mut self, depth: u8) -> Result<u32, OutOfMemory> {
        let index = match self.allocator.free_buckets.pop() {
            Some(index) => index,
            None => {
                let index = self.allocator.next_bucket;
                if (index as usize + 1) * bucket::WORDS > self.memory.buckets.words().len() {
                    return Err(OutOfMemory);
                }
                self.allocator.next_bucket += 1;
                index
            }
        };
        let bucket = self.memory.bucket(index);
        bucket.begin();
        bucket.clear(depth);
        bucket.end();
        Ok(index)
    }

    pub(crate) fn free_bucket(&mut self, index: u32) {
        self.allocator.free_buckets.push(index);
    }

    pub(crate) fn new_directory(&mut self) -> Result<u32, OutOfMemory> {
        if let Some(block) = self.allocator.free_directories.pop() {
            return Ok(block);
        }
        let block = self.allocator.next_directory;
        if (block as usize + 1) * DIRECTORY_WORDS > self.memory.directories.words().len() {
            return Err(OutOfMemory);
        }
        self.allocator.next_directory += 1;
        Ok(block)
    }

    pub(crate) fn free_directory(&mut self, block: u32) {
        self.allocator.free_directories.push(block);
    }

    /// Room for a value set of `capacity`; its content is anything.
    pub(crate) fn new_set(&mut self, capacity: u32) -> Result<u64, OutOfMemory> {
        let units = set::units(capacity);
        self.allocator.set_units += units;
        if let Some(unit) = self.allocator.free_sets.get_mut(&units).and_then(Vec::pop) {
            return Ok(unit);
        }
        let unit = self.allocator.next_unit;
        if (unit + units) * 2 > self.memory.sets.words().len() as u64 {
            self.allocator.set_units -= units;
            return Err(OutOfMemory);
        }
        self.allocator.next_unit += units;
        Ok(unit)
    }

    pub(crate) fn free_set(&mut self, unit: u64, capacity: u32) {
        let units = set::units(capacity);
        self.allocator.set_units -= units;
        self.allocator.free_sets.entry(units).or_default().push(unit);
    }
}

impl Allocator {
    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        let buckets = u64::from(self.next_bucket - 1) - self.free_buckets.len() as u64;
        buckets * bucket::BYTES as u64 + self.set_units * set::UNIT as u64
    }
}
