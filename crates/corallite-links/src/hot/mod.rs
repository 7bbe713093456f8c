//! A loaded partition: extendible hashing over buckets in memory.
//!
//! The partition's directory has a power of two of entries, chosen by the hash bits below the partition's prefix. A full
//! bucket is split ([`shape`]), the directory doubled where need be. When the directory has grown far beyond its buckets, the
//! keys share their hash bits, by chance or by malice, and splitting would not help: the bucket gets an overflow bucket.
//!
//! Changes of one bucket's content are announced by the bucket's version, all others by the partition's [`Slot`].

mod copy;
mod shape;

use crate::E;
use crate::arena::{Arena, Entries, Memory, OutOfMemory, Place, Slot};
use crate::bucket::{self, CELLS, Hit, State};
use crate::entry::MULTI_VALUE_THRESHOLD;
use crate::hash::{Hash, Seed};
use crate::set::{self, SetHead};

pub(crate) use copy::Copy;
pub(crate) use shape::shared_bits;

/// What the writer knows of a loaded partition.
#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) directory: u32,
    pub(crate) bits: u8,
    pub(crate) skip: u8,
    pub(crate) buckets: u32,
    /// Counted from what the cells of the file say of themselves, which may be forged; so it never goes below zero.
    pub(crate) keys: u64,
    pub(crate) pairs: u64,
    pub(crate) set_units: u64,
}

/// Splits, merges and so on, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Events {
    pub(crate) splits: u64,
    pub(crate) merges: u64,
    pub(crate) doublings: u64,
    pub(crate) halvings: u64,
    pub(crate) overflows: u64,
    pub(crate) promotions: u64,
    pub(crate) demotions: u64,
}

/// One cell of a key, as the writer finds it.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    bucket: u32,
    slot: usize,
}

/// All of a key, as the writer finds it.
#[derive(Debug, Default)]
struct Search {
    head: u32,
    /// Inline values by their order.
    inline: [Found; MULTI_VALUE_THRESHOLD],
    count: usize,
    spilled: Option<Found>,
    /// The first bucket of the chain with an empty cell.
    room: Option<u32>,
    last: u32,
}

/// What lies in a cell, while it is moved.
#[derive(Clone, Copy, Debug)]
struct Cell {
    key: E,
    value: E,
    state: State,
}

impl Hot {
    /// An empty partition.
    pub(crate) fn new(arena: &mut Arena<'_>, skip: u8) -> Result<Self, OutOfMemory> {
        let directory = arena.new_directory()?;
        let bucket = arena.new_bucket(0)?;
        arena.memory.directory(directory).set(0, bucket);
        Ok(Self { directory, bits: 0, skip, buckets: 1, keys: 0, pairs: 0, set_units: 0 })
    }

    pub(crate) fn place(&self) -> Place {
        Place { directory: self.directory, bits: self.bits, skip: self.skip }
    }

    fn entries<'a>(&self, memory: &'a Memory) -> Entries<'a> {
        memory.directory(self.directory)
    }

    fn index(&self, hash: Hash) -> usize {
        hash.index(u32::from(self.skip), u32::from(self.bits))
    }

    fn search(&self, memory: &Memory, hash: Hash, key: E) -> Search {
        let head = self.entries(memory).get(self.index(hash));
        let mut search = Search { head, last: head, ..Search::default() };
        let mut at = head;
        loop {
            let bucket = memory.bucket(at);
            bucket::find(bucket, hash, key, |hit| {
                let found = Found { bucket: at, slot: hit.slot };
                if !hit.inline {
                    search.spilled = Some(found);
                } else if search.count < MULTI_VALUE_THRESHOLD {
                    search.inline[search.count] = found;
                    search.count += 1;
                }
            });
            if search.room.is_none() && usize::from(bucket::head(bucket).used) < CELLS {
                search.room = Some(at);
            }
            search.last = at;
            at = bucket::next(bucket);
            if at == 0 {
                break;
            }
        }
        if search.count > 1 {
            search.inline[..search.count]
                .sort_unstable_by_key(|found| bucket::order(memory.bucket(found.bucket), found.slot));
        }
        search
    }

    /// The values of a key, in the order of their insertion.
    pub(crate) fn values(&self, memory: &Memory, hash: Hash, key: E, out: &mut Vec<E>) {
        let search = self.search(memory, hash, key);
        if let Some(found) = search.spilled {
            let set = memory.set(bucket::value(memory.bucket(found.bucket), found.slot).low());
            set::for_each(set, SetHead::of(set), |value| out.push(value));
        }
        for found in &search.inline[..search.count] {
            out.push(bucket::value(memory.bucket(found.bucket), found.slot));
        }
    }

    /// Adds a value; `false` when it is there already.
    pub(crate) fn insert(
        &mut self,
        arena: &mut Arena<'_>,
        slot: Option<Slot<'_>>,
        seed: Seed,
        (hash, key, value): (Hash, E, E),
        events: &mut Events,
    ) -> Result<bool, OutOfMemory> {
        loop {
            let search = self.search(arena.memory, hash, key);
            if let Some(found) = search.spilled {
                return self.insert_spilled(arena, &search, found, value);
            }
            let inline = &search.inline[..search.count];
            let memory = arena.memory;
            let held = |found: &Found| bucket::value(memory.bucket(found.bucket), found.slot) == value;
            if inline.iter().any(held) {
                return Ok(false);
            }
            if search.count == MULTI_VALUE_THRESHOLD {
                self.promote(arena, &search, hash, Some(value))?;
                events.promotions += 1;
                self.pairs += 1;
                return Ok(true);
            }
            if let Some(room) = search.room {
                let head = memory.bucket(search.head);
                head.begin();
                if room != search.head {
                    memory.bucket(room).begin();
                }
                let state = State { spilled: false, order: search.count as u8 };
                memory.bucket(room).place(hash, key, value, state);
                if room != search.head {
                    memory.bucket(room).end();
                }
                head.end();
                self.keys += u64::from(search.count == 0);
                self.pairs += 1;
                return Ok(true);
            }
            self.make_room(arena, slot, seed, hash, &search, events)?;
        }
    }

    fn insert_spilled(
        &mut self,
        arena: &mut Arena<'_>,
        search: &Search,
        found: Found,
        value: E,
    ) -> Result<bool, OutOfMemory> {
        let memory = arena.memory;
        let cell = memory.bucket(found.bucket);
        let unit = bucket::value(cell, found.slot).low();
        let set = memory.set(unit);
        let old = SetHead::of(set);
        if set::position(set, old, value).is_some() {
            return Ok(false);
        }
        let head = memory.bucket(search.head);
        if old.len < old.capacity {
            head.begin();
            set.push(value);
            head.end();
        } else {
            let capacity = set::capacity_for(old.live() + 1);
            let grown = arena.new_set(capacity)?;
            let mut values = Vec::with_capacity(old.live() as usize + 1);
            set::for_each(set, old, |value| values.push(value));
            values.push(value);
            memory.set(grown).fill(capacity, values);
            head.begin();
            cell.set_value(found.slot, E::from_parts(0, grown));
            head.end();
            arena.free_set(unit, old.capacity);
            self.set_units = self.set_units + set::units(capacity) - set::units(old.capacity);
        }
        self.pairs += 1;
        Ok(true)
    }

    /// Moves the inline values of a key, and another one, to a value set.
    fn promote(
        &mut self,
        arena: &mut Arena<'_>,
        search: &Search,
        hash: Hash,
        more: Option<E>,
    ) -> Result<(), OutOfMemory> {
        let memory = arena.memory;
        let inline = &search.inline[..search.count];
        let values = inline.iter().map(|found| bucket::value(memory.bucket(found.bucket), found.slot)).chain(more);
        let capacity = set::capacity_for(inline.len() as u32 + 1);
        let unit = arena.new_set(capacity)?;
        memory.set(unit).fill(capacity, values);
        self.set_units += set::units(capacity);
        let head = memory.bucket(search.head);
        head.begin();
        for (number, found) in inline.iter().enumerate() {
            let cell = memory.bucket(found.bucket);
            if number == 0 {
                cell.set_value(found.slot, E::from_parts(0, unit));
                cell.set_state(found.slot, hash, State { spilled: true, order: 0 });
            } else {
                cell.remove(found.slot);
            }
        }
        head.end();
        Ok(())
    }

    /// Moves the inline values of a key to a value set; `false` when there are none.
    pub(crate) fn promote_key(&mut self, arena: &mut Arena<'_>, hash: Hash, key: E) -> Result<bool, OutOfMemory> {
        let search = self.search(arena.memory, hash, key);
        if search.count == 0 {
            return Ok(false);
        }
        self.promote(arena, &search, hash, None)?;
        Ok(true)
    }

    /// Removes a value; `false` when it is not there.
    pub(crate) fn remove_value(&mut self, arena: &mut Arena<'_>, hash: Hash, key: E, value: E) -> bool {
        let memory = arena.memory;
        let search = self.search(memory, hash, key);
        let head = memory.bucket(search.head);
        if let Some(found) = search.spilled {
            let set = memory.set(bucket::value(memory.bucket(found.bucket), found.slot).low());
            let old = SetHead::of(set);
            let Some(index) = set::position(set, old, value) else { return false };
            if old.live() == 1 {
                self.remove(arena, hash, key);
                return true;
            }
            head.begin();
            set.bury(index);
            head.end();
            self.pairs = self.pairs.saturating_sub(1);
            if old.tombstones > old.len / 2 {
                // A set that cannot be made smaller for want of memory is still right.
                let _ = self.compact_set(arena, &search, found);
            }
            return true;
        }
        let inline = &search.inline[..search.count];
        let held = |found: &Found| bucket::value(memory.bucket(found.bucket), found.slot) == value;
        let Some(number) = inline.iter().position(held) else { return false };
        head.begin();
        memory.bucket(inline[number].bucket).remove(inline[number].slot);
        for (order, found) in inline.iter().enumerate().skip(number + 1) {
            let state = State { spilled: false, order: order as u8 - 1 };
            memory.bucket(found.bucket).set_state(found.slot, hash, state);
        }
        head.end();
        self.pairs = self.pairs.saturating_sub(1);
        self.keys = self.keys.saturating_sub((search.count == 1).into());
        true
    }

    /// Removes a key with all its values; says how many.
    pub(crate) fn remove(&mut self, arena: &mut Arena<'_>, hash: Hash, key: E) -> u64 {
        let memory = arena.memory;
        let search = self.search(memory, hash, key);
        let head = memory.bucket(search.head);
        let mut removed = 0;
        if let Some(found) = search.spilled {
            let cell = memory.bucket(found.bucket);
            let unit = bucket::value(cell, found.slot).low();
            let set = SetHead::of(memory.set(unit));
            removed += u64::from(set.live());
            head.begin();
            cell.remove(found.slot);
            head.end();
            arena.free_set(unit, set.capacity);
            self.set_units -= set::units(set.capacity);
        }
        if search.count > 0 {
            head.begin();
            for found in &search.inline[..search.count] {
                memory.bucket(found.bucket).remove(found.slot);
            }
            head.end();
            removed += search.count as u64;
        }
        self.pairs = self.pairs.saturating_sub(removed);
        self.keys = self.keys.saturating_sub((removed > 0).into());
        removed
    }

    /// Rewrites a value set without its tombstones.
    fn compact_set(&mut self, arena: &mut Arena<'_>, search: &Search, found: Found) -> Result<(), OutOfMemory> {
        let memory = arena.memory;
        let cell = memory.bucket(found.bucket);
        let unit = bucket::value(cell, found.slot).low();
        let set = memory.set(unit);
        let old = SetHead::of(set);
        let capacity = set::capacity_for(old.live());
        let compacted = arena.new_set(capacity)?;
        let mut values = Vec::with_capacity(old.live() as usize);
        set::for_each(set, old, |value| values.push(value));
        memory.set(compacted).fill(capacity, values);
        let head = memory.bucket(search.head);
        head.begin();
        cell.set_value(found.slot, E::from_parts(0, compacted));
        head.end();
        arena.free_set(unit, old.capacity);
        self.set_units = self.set_units + set::units(capacity) - set::units(old.capacity);
        Ok(())
    }

    /// Removes a key's tombstones and merges its regions; says how many tombstones there were.
    pub(crate) fn compact_key(&mut self, arena: &mut Arena<'_>, hash: Hash, key: E) -> Result<u32, OutOfMemory> {
        let search = self.search(arena.memory, hash, key);
        let Some(found) = search.spilled else { return Ok(0) };
        let set = arena.memory.set(bucket::value(arena.memory.bucket(found.bucket), found.slot).low());
        let old = SetHead::of(set);
        if old.tombstones > 0 {
            self.compact_set(arena, &search, found)?;
        } else if old.sorted < old.len {
            let head = arena.memory.bucket(search.head);
            head.begin();
            set.sort();
            head.end();
        }
        Ok(old.tombstones)
    }

    /// Moves a key's values from its value set back into the bucket, if they fit.
    pub(crate) fn demote_key(
        &mut self,
        arena: &mut Arena<'_>,
        slot: Option<Slot<'_>>,
        seed: Seed,
        (hash, key): (Hash, E),
        events: &mut Events,
    ) -> Result<bool, OutOfMemory> {
        let memory = arena.memory;
        let search = self.search(memory, hash, key);
        let Some(found) = search.spilled else { return Ok(false) };
        let set = memory.set(bucket::value(memory.bucket(found.bucket), found.slot).low());
        if SetHead::of(set).live() as usize > MULTI_VALUE_THRESHOLD {
            return Ok(false);
        }
        let mut values = Vec::new();
        set::for_each(set, SetHead::of(set), |value| values.push(value));
        // For a reader the key must be there throughout.
        let changing = slot.map(Slot::change);
        self.remove(arena, hash, key);
        for value in values {
            self.insert(arena, None, seed, (hash, key, value), events)?;
        }
        if let Some(slot) = slot {
            slot.set_place(Some(self.place()));
        }
        drop(changing);
        events.demotions += 1;
        Ok(true)
    }

    /// Gives all memory back. The caller keeps readers out before and after.
    pub(crate) fn free(self, arena: &mut Arena<'_>) {
        self.for_each_bucket(arena.memory, |index| {
            let bucket = arena.memory.bucket(index);
            bucket::for_each(bucket, |Hit { slot, inline }| {
                if !inline {
                    let unit = bucket::value(bucket, slot).low();
                    arena.free_set(unit, SetHead::of(arena.memory.set(unit)).capacity);
                }
            });
        });
        self.free_buckets(arena);
    }

    /// Calls `each` with every key and its values.
    pub(crate) fn for_each(&self, memory: &Memory, seed: Seed, mut each: impl FnMut(E, &[E])) {
        let mut values = Vec::new();
        self.for_each_bucket(memory, |index| {
            let bucket = memory.bucket(index);
            bucket::for_each(bucket, |Hit { slot, inline }| {
                if inline && bucket::order(bucket, slot) != 0 {
                    return;
                }
                let key = bucket::key(bucket, slot);
                values.clear();
                self.values(memory, seed.hash(key), key, &mut values);
                each(key, &values);
            });
        });
    }

    /// What of a key is stored where: its inline values, or the place of its value set; and the bucket's version.
    pub(crate) fn entry(&self, memory: &Memory, hash: Hash, key: E) -> (Vec<E>, Option<(u64, SetHead)>, u32) {
        let search = self.search(memory, hash, key);
        let spill = search.spilled.map(|found| {
            let unit = bucket::value(memory.bucket(found.bucket), found.slot).low();
            (unit, SetHead::of(memory.set(unit)))
        });
        let inline = search.inline[..search.count].iter();
        let values = inline.map(|found| bucket::value(memory.bucket(found.bucket), found.slot)).collect();
        (values, spill, bucket::head(memory.bucket(search.head)).version)
    }

    /// Every key with a value set, and the set's sizes.
    pub(crate) fn spilled_keys(&self, memory: &Memory) -> Vec<(E, SetHead)> {
        let mut keys = Vec::new();
        self.for_each_bucket(memory, |index| {
            let bucket = memory.bucket(index);
            bucket::for_each(bucket, |Hit { slot, inline }| {
                if !inline {
                    let set = memory.set(bucket::value(bucket, slot).low());
                    keys.push((bucket::key(bucket, slot), SetHead::of(set)));
                }
            });
        });
        keys
    }
}
