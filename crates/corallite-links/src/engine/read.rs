//! Reading, from any thread, beside the writer.

use std::sync::atomic::{Ordering, fence};

use super::Engine;
use crate::bucket;
use crate::entry::{HashEntry, MULTI_VALUE_THRESHOLD, SpillPointer, StateMask};
use crate::error::Result;
use crate::hash::Hash;
use crate::set::{self, SetHead};
use crate::{E, Values};

/// Attempts after which a reader that the writer keeps overtaking lets others run first.
const SPINS: u32 = 64;

/// What a reader found without a lock.
enum Seen {
    Done,
    /// The writer changed something meanwhile.
    Overtaken,
    Cold(u32),
}

impl Engine {
    /// Replaces `values` by those of a key.
    #[inline]
    pub(crate) fn values(&self, key: E, values: &mut Values) -> Result<()> {
        self.values_of(self.seed.hash(key), key, values)
    }

    #[inline]
    pub(crate) fn values_of(&self, hash: Hash, key: E, values: &mut Values) -> Result<()> {
        let mut attempts = 0;
        loop {
            values.clear();
            match self.read_hot(hash, key, values) {
                Seen::Done => return Ok(()),
                Seen::Overtaken => wait(&mut attempts),
                Seen::Cold(id) => {
                    if let Some(cold) = self.with_cold(id, hash, |partition| self.cold_values(partition, hash, key))? {
                        *values = Values::from_vec(cold);
                        return Ok(());
                    }
                    wait(&mut attempts);
                }
            }
        }
    }

    #[inline(always)]
    fn read_hot(&self, hash: Hash, key: E, values: &mut Values) -> Seen {
        let memory = &self.memory;
        let table = self.table_word();
        let index = hash.prefix(table as u32 & 0xff) as usize;
        let id = memory.table().get(index);
        let slot = memory.slot(id);
        let version = slot.version();
        if (table >> 8 | version) & 1 != 0 {
            return Seen::Overtaken;
        }
        let Some(place) = slot.place() else { return Seen::Cold(id) };
        let entry = hash.index(u32::from(place.skip), u32::from(place.bits));
        let head = memory.bucket(memory.directory(place.directory).get(entry));
        // The cells are asked for together with the tags that say which of them it will be: one wait instead of two.
        bucket::prefetch_cells(head, hash);
        let at = head.version();
        if at & 1 != 0 {
            return Seen::Overtaken;
        }
        let unchanged = || {
            fence(Ordering::Acquire);
            bucket::head(head).version == at
                && slot.is_at(version)
                && memory.table().get(index) == id
                && self.table.load(Ordering::Relaxed) == table
        };
        let mut orders = [0_u8; MULTI_VALUE_THRESHOLD];
        let mut inline = [(0_usize, 0_u32); MULTI_VALUE_THRESHOLD];
        let mut count = 0;
        let mut spilled = None;
        let mut number = 0_u32;
        let mut bucket = head;
        loop {
            bucket::find(bucket, hash, key, |hit| {
                if !hit.inline {
                    spilled = Some(bucket::value(bucket, hit.slot).low());
                } else if count < MULTI_VALUE_THRESHOLD {
                    inline[count] = (hit.slot, number);
                    count += 1;
                }
            });
            number = bucket::next(bucket);
            if number == 0 {
                break;
            }
            // What is read may be changing, and then lead anywhere, in a circle too.
            if !unchanged() {
                return Seen::Overtaken;
            }
            bucket = memory.bucket(number);
        }
        if let Some(unit) = spilled {
            let set = memory.set(unit);
            let sizes = SetHead::of(set);
            if !unchanged() {
                return Seen::Overtaken;
            }
            values.reserve(sizes.live() as usize);
            set::for_each(set, sizes, |value| values.push(value));
        } else if count == 1 {
            let (cell, number) = inline[0];
            values.push(bucket::value(if number == 0 { head } else { memory.bucket(number) }, cell));
        } else if count > 1 {
            let bucket_of = |number: u32| if number == 0 { head } else { memory.bucket(number) };
            for (order, (cell, number)) in orders.iter_mut().zip(&inline[..count]) {
                *order = bucket::order(bucket_of(*number), *cell);
            }
            for place in 0..MULTI_VALUE_THRESHOLD as u8 {
                for index in 0..count {
                    if orders[index] == place {
                        let (cell, number) = inline[index];
                        values.push(bucket::value(bucket_of(number), cell));
                    }
                }
            }
        }
        if unchanged() { Seen::Done } else { Seen::Overtaken }
    }

    /// Looks at a cold partition; `None` when it is not what the hash belongs to any more.
    pub(crate) fn with_cold<T>(
        &self,
        id: u32,
        hash: Hash,
        look: impl FnOnce(&super::Cold) -> Result<T>,
    ) -> Result<Option<T>> {
        let partition = self.partition(id);
        loop {
            let cold = partition.cold.read();
            // The writer loads, divides and joins only with the lock; the table is not under it.
            if self.memory.slot(id).place().is_some() || !self.belongs(hash, id) {
                return Ok(None);
            }
            if cold.is_read {
                return look(&cold).map(Some);
            }
            drop(cold);
            self.read_cold(&partition)?;
        }
    }

    /// Whether a hash belongs to a partition, for readers: not known, and denied, while the table is being changed.
    fn belongs(&self, hash: Hash, id: u32) -> bool {
        let table = self.table_word();
        let found = self.memory.table().get(hash.prefix(table as u32 & 0xff) as usize);
        fence(Ordering::Acquire);
        table >> 8 & 1 == 0 && found == id && self.table.load(Ordering::Relaxed) == table
    }

    pub(crate) fn cold_values(&self, cold: &super::Cold, hash: Hash, key: E) -> Result<Vec<E>> {
        let mut values = Vec::new();
        if let Some(image) = &cold.image {
            image.values(hash, key, &mut values).map_err(|flaw| self.flawed(flaw))?;
        }
        cold.overlay.apply(hash, key, &mut values);
        Ok(values)
    }

    pub(crate) fn cold_contains(&self, cold: &super::Cold, hash: Hash, key: E, value: E) -> Result<bool> {
        match &cold.image {
            Some(image) if cold.overlay.lacks(hash) => {
                image.contains(hash, key, value).map_err(|flaw| self.flawed(flaw))
            }
            _ => Ok(self.cold_values(cold, hash, key)?.contains(&value)),
        }
    }

    /// Whether a pair is there.
    pub(crate) fn contains(&self, key: E, value: E) -> Result<bool> {
        let hash = self.seed.hash(key);
        let mut attempts = 0;
        loop {
            match self.find_pair(hash, key, value) {
                Ok(found) => return Ok(found),
                Err(Seen::Cold(id)) => {
                    let found = self.with_cold(id, hash, |cold| self.cold_contains(cold, hash, key, value))?;
                    if let Some(found) = found {
                        return Ok(found);
                    }
                    wait(&mut attempts);
                }
                Err(_) => wait(&mut attempts),
            }
        }
    }

    /// The same in a hot partition, where a large set is bisected and not read.
    fn find_pair(&self, hash: Hash, key: E, value: E) -> Result<bool, Seen> {
        let memory = &self.memory;
        let table = self.table_word();
        let index = hash.prefix(table as u32 & 0xff) as usize;
        let id = memory.table().get(index);
        let slot = memory.slot(id);
        let version = slot.version();
        if (table >> 8 | version) & 1 != 0 {
            return Err(Seen::Overtaken);
        }
        let Some(place) = slot.place() else { return Err(Seen::Cold(id)) };
        let entry = hash.index(u32::from(place.skip), u32::from(place.bits));
        let head = memory.bucket(memory.directory(place.directory).get(entry));
        let at = head.version();
        let unchanged = || {
            fence(Ordering::Acquire);
            at & 1 == 0
                && bucket::head(head).version == at
                && slot.is_at(version)
                && memory.table().get(index) == id
                && self.table.load(Ordering::Relaxed) == table
        };
        let mut found = false;
        let mut bucket = head;
        loop {
            let mut spilled = None;
            bucket::find(bucket, hash, key, |hit| {
                let content = bucket::value(bucket, hit.slot);
                if hit.inline { found |= content == value } else { spilled = Some(content.low()) }
            });
            if let Some(unit) = spilled {
                let set = memory.set(unit);
                let sizes = SetHead::of(set);
                if !unchanged() {
                    return Err(Seen::Overtaken);
                }
                found |= set::position(set, sizes, value).is_some();
            }
            let number = bucket::next(bucket);
            if !unchanged() {
                return Err(Seen::Overtaken);
            }
            if number == 0 {
                return Ok(found);
            }
            bucket = memory.bucket(number);
        }
    }

    /// The canonical entry of a key in the image of a cold partition.
    pub(crate) fn stored_entry(&self, cold: &super::Cold, hash: Hash, key: E) -> Result<Option<HashEntry>> {
        let Some(image) = &cold.image else { return Ok(None) };
        let (inline, spill, version) = image.entry(hash, key).map_err(|flaw| self.flawed(flaw))?;
        let spill = spill.map(|(cell, head)| SpillPointer {
            reference: cell.low(),
            sorted_count: head.sorted,
            checksum: u128::from(cell.high()),
        });
        Ok(entry(key, &inline, spill, version))
    }
}

/// The canonical form of what is stored of a key; `None` when that is nothing.
pub(crate) fn entry(key: E, inline: &[E], spill: Option<SpillPointer>, version: u32) -> Option<HashEntry> {
    if inline.is_empty() && spill.is_none() {
        return None;
    }
    let mut slots = [E::MIN; MULTI_VALUE_THRESHOLD];
    let mut state = 0;
    for (index, value) in inline.iter().take(MULTI_VALUE_THRESHOLD).enumerate() {
        slots[index] = *value;
        state |= 1 << index;
    }
    Some(HashEntry { key, slots, state_mask: StateMask::encode(state), version, spill })
}

fn wait(attempts: &mut u32) {
    *attempts += 1;
    if attempts.is_multiple_of(SPINS) { std::thread::yield_now() } else { std::hint::spin_loop() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use corallite_file::Mode;

    use crate::{CIDStore, Change, Durability, E, LinksOptions};

    /// Cold partitions are read while the table of partitions doubles and halves, as it does when others are divided and joined.
    #[test]
    fn readers_find_cold_partitions_while_the_table_changes() -> Result<(), Box<dyn std::error::Error>> {
        const KEYS: u64 = 100_000;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("links.h5");
        let options = |memory| LinksOptions::new().memory(memory).partition_bytes(16 << 10).background(false);
        let key = |number: u64| E::from_parts(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number);
        let store = CIDStore::open_with(&path, Mode::Append, options(1 << 30))?;
        let all: Vec<Change> = (0..KEYS).map(|number| Change::insert(key(number), E::new(7))).collect();
        store.apply(&all, Durability::Durable)?;
        store.close()?;
        let store = CIDStore::open_with(&path, Mode::Append, options(1 << 20))?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2_u64)
                .map(|reader| {
                    let (store, done) = (&store, &done);
                    scope.spawn(move || {
                        let mut number = reader * 77;
                        while !done.load(Ordering::Relaxed) {
                            number = (number * 6_364_136 + 12_345) % KEYS;
                            assert_eq!(store.get(key(number)).ok().as_deref(), Some(&[E::new(7)][..]), "key {number}");
                        }
                    })
                })
                .collect();
            let engine = &store.shared().engine;
            for _ in 0..8000 {
                if readers.iter().any(|reader| reader.is_finished()) {
                    break;
                }
                let writer = store.shared().writer.lock();
                let bits = engine.table_bits();
                // The deepest partition is entered as its first half would be: no hash gets another partition.
                if let Some(deepest) = writer.partitions.iter().flatten().find(|owned| u32::from(owned.skip) == bits) {
                    engine.enter(deepest.id, deepest.skip + 1, deepest.prefix << 1);
                    engine.shrink_table();
                }
                drop(writer);
                // Readers are to be in the middle of something.
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
            done.store(true, Ordering::Relaxed);
        });
        Ok(())
    }
}
