//! How a loaded partition grows and shrinks: splitting and merging buckets, doubling and halving the directory, dividing and
//! joining partitions.
//!
//! A bucket has the keys of a range of directory entries that lie together. While a partition grows, the ranges are halves of
//! halves, as extendible hashing has them; packing chooses them so that buckets are as full as wanted, and what is full is
//! split in the middle of its range.

use std::ops::Range;

use super::{Cell, Hot, Search};
use crate::arena::{Arena, DIRECTORY_BITS, Memory, OutOfMemory, Slot};
use crate::bucket::{self, CELLS, Hit, State};
use crate::hash::{Hash, Seed};
use crate::set::{self, SetHead};

use super::Events;

/// A directory may have this many entries for each bucket before full buckets overflow instead of being split.
const ENTRIES_PER_BUCKET: usize = 8;
/// Entries for each bucket that packing asks for: the more there are, the more evenly buckets are filled.
const ENTRIES_PER_PACKED_BUCKET: usize = 16;
/// How full merging leaves buckets: with room, so that the next insertions do not split them again.
const MERGED_CELLS: usize = CELLS * 3 / 4;

/// How many bits all numbers of a range of directory entries begin with, of `bits`.
pub(crate) fn shared_bits(range: &Range<usize>, bits: u32) -> u8 {
    let different = range.start ^ range.end.saturating_sub(1).max(range.start);
    bits.saturating_sub(usize::BITS - different.leading_zeros()) as u8
}

impl Hot {
    /// The cells of a bucket and its overflow buckets.
    fn gather(memory: &Memory, head: u32) -> Vec<Cell> {
        let mut cells = Vec::with_capacity(CELLS);
        let mut at = head;
        while at != 0 {
            let bucket = memory.bucket(at);
            bucket::for_each(bucket, |Hit { slot, inline }| {
                let state = State { spilled: !inline, order: bucket::order(bucket, slot) };
                cells.push(Cell { key: bucket::key(bucket, slot), value: bucket::value(bucket, slot), state });
            });
            at = bucket::next(bucket);
        }
        cells
    }

    /// Puts cells into an empty bucket, and into overflow buckets where it is full.
    fn scatter(
        &mut self,
        arena: &mut Arena<'_>,
        seed: Seed,
        head: u32,
        cells: impl IntoIterator<Item = Cell>,
    ) -> Result<(), OutOfMemory> {
        let mut at = head;
        for cell in cells {
            let hash = seed.hash(cell.key);
            if !arena.memory.bucket(at).place(hash, cell.key, cell.value, cell.state) {
                at = self.overflow(arena, at)?;
                arena.memory.bucket(at).place(hash, cell.key, cell.value, cell.state);
            }
        }
        Ok(())
    }

    fn overflow(&mut self, arena: &mut Arena<'_>, last: u32) -> Result<u32, OutOfMemory> {
        let depth = bucket::head(arena.memory.bucket(last)).depth;
        let next = arena.new_bucket(depth)?;
        arena.memory.bucket(last).set_next(next);
        self.buckets += 1;
        Ok(next)
    }

    fn may_double(&self) -> bool {
        let entries = 1_usize << self.bits;
        u32::from(self.bits) < DIRECTORY_BITS && 2 * entries <= ENTRIES_PER_BUCKET * self.buckets as usize + 8
    }

    /// The entries that name the same bucket as this one.
    fn range(&self, memory: &Memory, index: usize) -> Range<usize> {
        let entries = self.entries(memory);
        let bucket = entries.get(index);
        let mut range = index..index + 1;
        while range.start > 0 && entries.get(range.start - 1) == bucket {
            range.start -= 1;
        }
        while range.end < 1 << self.bits && entries.get(range.end) == bucket {
            range.end += 1;
        }
        range
    }

    /// Makes room where a search found none: by a split, or by an overflow bucket.
    pub(super) fn make_room(
        &mut self,
        arena: &mut Arena<'_>,
        slot: Option<Slot<'_>>,
        seed: Seed,
        hash: Hash,
        search: &Search,
        events: &mut Events,
    ) -> Result<(), OutOfMemory> {
        let changing = slot.map(Slot::change);
        let mut range = self.range(arena.memory, self.index(hash));
        if range.len() == 1 && self.may_double() {
            self.double(arena.memory);
            events.doublings += 1;
            range = 2 * range.start..2 * range.end;
        }
        let outcome = if range.len() > 1 {
            events.splits += 1;
            let middle = range.start.midpoint(range.end);
            self.split(arena, seed, range, middle)
        } else {
            events.overflows += 1;
            self.overflow(arena, search.last).map(drop)
        };
        if let Some(slot) = slot {
            slot.set_place(Some(self.place()));
        }
        drop(changing);
        outcome
    }

    fn double(&mut self, memory: &Memory) {
        let entries = self.entries(memory);
        for index in (0..1_usize << self.bits).rev() {
            let bucket = entries.get(index);
            entries.set(2 * index, bucket);
            entries.set(2 * index + 1, bucket);
        }
        self.bits += 1;
    }

    /// Splits the bucket of a range of entries: those from `middle` on get a new one.
    fn split(
        &mut self,
        arena: &mut Arena<'_>,
        seed: Seed,
        range: Range<usize>,
        middle: usize,
    ) -> Result<(), OutOfMemory> {
        let memory = arena.memory;
        let entries = self.entries(memory);
        let old = entries.get(range.start);
        let (lower, upper) = (range.start..middle, middle..range.end);
        let bits = u32::from(self.bits);
        let new = arena.new_bucket(shared_bits(&upper, bits))?;
        self.buckets += 1;
        let cells = Self::gather(memory, old);
        self.free_overflow(arena, old);
        let bucket = memory.bucket(old);
        bucket.begin();
        bucket.clear(shared_bits(&lower, bits));
        let (high, low): (Vec<Cell>, Vec<Cell>) =
            cells.into_iter().partition(|cell| self.index(seed.hash(cell.key)) >= middle);
        let outcome = self.scatter(arena, seed, old, low).and(self.scatter(arena, seed, new, high));
        bucket.end();
        for entry in upper {
            entries.set(entry, new);
        }
        outcome
    }

    /// Gives a bucket's overflow buckets back.
    fn free_overflow(&mut self, arena: &mut Arena<'_>, head: u32) {
        let mut at = bucket::next(arena.memory.bucket(head));
        while at != 0 {
            let next = bucket::next(arena.memory.bucket(at));
            arena.free_bucket(at);
            self.buckets -= 1;
            at = next;
        }
    }

    /// The same keys in buckets of up to `limit` cells, as few as that takes. Both then name the same value sets; one of
    /// them is to be given back with [`Hot::free_buckets`].
    pub(crate) fn pack(&self, arena: &mut Arena<'_>, seed: Seed, limit: usize) -> Result<Self, OutOfMemory> {
        let memory = arena.memory;
        let heads = self.heads(memory);
        let mut used = 0;
        self.for_each_bucket(memory, |index| used += usize::from(bucket::head(memory.bucket(index)).used));
        let wanted = (ENTRIES_PER_PACKED_BUCKET * used.div_ceil(limit)).next_power_of_two().ilog2();
        let bits = if used <= limit { 0 } else { wanted.min(DIRECTORY_BITS) };
        let skip = u32::from(self.skip);
        let directory = arena.new_directory()?;
        let mut packed = Self { directory, bits: bits as u8, buckets: 0, ..*self };
        let mut filling = Filling { start: 0, cells: Vec::with_capacity(limit) };
        // The cells of one entry, which may come from several buckets.
        let mut entry: Vec<Cell> = Vec::new();
        let mut current = 0;
        let outcome = heads.into_iter().try_for_each(|head| {
            let mut cells: Vec<(usize, Cell)> = Self::gather(memory, head)
                .into_iter()
                .map(|cell| (seed.hash(cell.key).index(skip, bits), cell))
                .collect();
            cells.sort_by_key(|(index, _)| *index);
            for (index, cell) in cells {
                if index != current {
                    packed.add_entry(arena, seed, limit, &mut filling, (current, &mut entry))?;
                    current = index;
                }
                entry.push(cell);
            }
            Ok(())
        });
        let outcome = outcome
            .and_then(|()| packed.add_entry(arena, seed, limit, &mut filling, (current, &mut entry)))
            .and_then(|()| packed.place_filling(arena, seed, &mut filling, 1 << bits));
        if outcome.is_ok() {
            return Ok(packed);
        }
        if filling.start == 0 {
            arena.free_directory(directory);
        } else {
            // Entries that have no bucket yet get the last one, so that all that there are can be given back.
            let entries = memory.directory(directory);
            (filling.start..1 << bits).for_each(|index| entries.set(index, entries.get(filling.start - 1)));
            packed.free_buckets(arena);
        }
        Err(OutOfMemory)
    }

    /// Adds the cells of one directory entry to the bucket that is being filled, or to the next one.
    fn add_entry(
        &mut self,
        arena: &mut Arena<'_>,
        seed: Seed,
        limit: usize,
        filling: &mut Filling,
        (index, entry): (usize, &mut Vec<Cell>),
    ) -> Result<(), OutOfMemory> {
        if !filling.cells.is_empty() && filling.cells.len() + entry.len() > limit {
            self.place_filling(arena, seed, filling, index)?;
        }
        filling.cells.append(entry);
        Ok(())
    }

    /// Puts what was gathered for one bucket into it, with all entries up to `end`.
    fn place_filling(
        &mut self,
        arena: &mut Arena<'_>,
        seed: Seed,
        filling: &mut Filling,
        end: usize,
    ) -> Result<(), OutOfMemory> {
        let range = filling.start..end;
        let bucket = arena.new_bucket(shared_bits(&range, u32::from(self.bits)))?;
        self.buckets += 1;
        for index in range.clone() {
            self.entries(arena.memory).set(index, bucket);
        }
        filling.start = end;
        self.scatter(arena, seed, bucket, filling.cells.drain(..))
    }

    /// Merges half-empty buckets and halves the directory, where that saves a good part of them; says how many were saved.
    pub(crate) fn merge(
        &mut self,
        arena: &mut Arena<'_>,
        slot: Option<Slot<'_>>,
        seed: Seed,
        events: &mut Events,
    ) -> Result<u64, OutOfMemory> {
        let mut used = 0;
        self.for_each_bucket(arena.memory, |index| {
            used += usize::from(bucket::head(arena.memory.bucket(index)).used);
        });
        let needed = used.div_ceil(MERGED_CELLS).max(1) as u32;
        if needed + needed / 4 >= self.buckets {
            return Ok(0);
        }
        let packed = self.pack(arena, seed, MERGED_CELLS)?;
        if packed.buckets >= self.buckets {
            packed.free_buckets(arena);
            return Ok(0);
        }
        let changing = slot.map(Slot::change);
        let before = std::mem::replace(self, packed);
        if let Some(slot) = slot {
            slot.set_place(Some(self.place()));
        }
        let merged = u64::from(before.buckets - self.buckets);
        events.halvings += u64::from(before.bits.saturating_sub(self.bits));
        events.merges += merged;
        before.free_buckets(arena);
        drop(changing);
        Ok(merged)
    }

    /// The buckets that directory entries name, each once, in the order of the directory.
    pub(super) fn heads(&self, memory: &Memory) -> Vec<u32> {
        let entries = self.entries(memory);
        let mut heads: Vec<u32> = Vec::with_capacity(self.buckets as usize);
        for index in 0..1_usize << self.bits {
            let bucket = entries.get(index);
            if heads.last() != Some(&bucket) {
                heads.push(bucket);
            }
        }
        heads
    }

    /// Calls `each` for every bucket, overflow buckets after their heads.
    pub(super) fn for_each_bucket(&self, memory: &Memory, mut each: impl FnMut(u32)) {
        for head in self.heads(memory) {
            let mut at = head;
            while at != 0 {
                each(at);
                at = bucket::next(memory.bucket(at));
            }
        }
    }

    /// Divides the partition by the next bit of its keys; what is returned has the upper half. The caller keeps readers
    /// out meanwhile.
    pub(crate) fn divide(&mut self, arena: &mut Arena<'_>, seed: Seed) -> Result<Self, OutOfMemory> {
        let memory = arena.memory;
        let directory = arena.new_directory()?;
        if self.bits == 0 {
            self.double(memory);
        }
        let half = 1_usize << (self.bits - 1);
        let middle = self.range(memory, half);
        if middle.start < half {
            self.split(arena, seed, middle, half)?;
        }
        self.bits -= 1;
        self.skip += 1;
        for index in 0..half {
            memory.directory(directory).set(index, self.entries(memory).get(half + index));
        }
        let mut upper =
            Self { directory, bits: self.bits, skip: self.skip, buckets: 0, keys: 0, pairs: 0, set_units: 0 };
        for part in [&mut *self, &mut upper] {
            let (mut buckets, mut keys, mut pairs, mut set_units) = (0, 0, 0, 0);
            part.for_each_bucket(memory, |index| {
                let bucket = memory.bucket(index);
                buckets += 1;
                bucket.set_depth(bucket::head(bucket).depth.saturating_sub(1));
                bucket::for_each(bucket, |Hit { slot, inline }| {
                    if inline {
                        pairs += 1;
                        keys += u64::from(bucket::order(bucket, slot) == 0);
                    } else {
                        let set = SetHead::of(memory.set(bucket::value(bucket, slot).low()));
                        keys += 1;
                        pairs += u64::from(set.live());
                        set_units += set::units(set.capacity);
                    }
                });
            });
            (part.buckets, part.keys, part.pairs, part.set_units) = (buckets, keys, pairs, set_units);
        }
        Ok(upper)
    }

    /// Takes in the partition with the other half of the keys, which is then gone; `false`, and nothing changed, when the
    /// directory would become too large. The caller keeps readers out of both.
    pub(crate) fn join(&mut self, arena: &mut Arena<'_>, upper: &mut Self) -> bool {
        let memory = arena.memory;
        let bits = self.bits.max(upper.bits);
        if u32::from(bits) + 1 > DIRECTORY_BITS {
            return false;
        }
        while self.bits < bits {
            self.double(memory);
        }
        while upper.bits < bits {
            upper.double(memory);
        }
        for part in [&*self, &*upper] {
            part.for_each_bucket(memory, |index| {
                let bucket = memory.bucket(index);
                bucket.set_depth(bucket::head(bucket).depth + 1);
            });
        }
        let half = 1_usize << bits;
        for index in 0..half {
            self.entries(memory).set(half + index, upper.entries(memory).get(index));
        }
        arena.free_directory(upper.directory);
        self.bits = bits + 1;
        self.skip -= 1;
        self.buckets += upper.buckets;
        self.keys += upper.keys;
        self.pairs += upper.pairs;
        self.set_units += upper.set_units;
        true
    }

    /// Gives directory and buckets back, but not the value sets that they name.
    pub(crate) fn free_buckets(self, arena: &mut Arena<'_>) {
        let mut buckets = Vec::with_capacity(self.buckets as usize);
        self.for_each_bucket(arena.memory, |index| buckets.push(index));
        buckets.into_iter().for_each(|index| arena.free_bucket(index));
        arena.free_directory(self.directory);
    }
}

/// What packing has gathered for the next bucket.
struct Filling {
    /// The first entry of which it is the bucket.
    start: usize,
    cells: Vec<Cell>,
}
