//! Copying a loaded partition for the file: first as it is, while writers wait, then into the file's form, while they do not.

use std::collections::HashMap;

use super::Hot;
use crate::E;
use crate::arena::Memory;
use crate::bucket;
use crate::image::Image;
use crate::set::{self, SetHead};

/// A partition as it was at one moment.
#[derive(Debug)]
pub(crate) struct Copy {
    /// The numbers that its buckets had in memory. Overflow buckets come after all others, so that a bucket's overflow
    /// bucket always has a larger number in the file.
    order: Vec<u32>,
    /// Numbers in memory, for each entry.
    directory: Vec<u32>,
    buckets: Vec<u8>,
    sets: Vec<SetCopy>,
    /// The values of all sets, one after the other.
    values: Vec<E>,
    keys: u64,
    pairs: u64,
}

/// A value set: the cell that names it, and how many values it has.
#[derive(Clone, Copy, Debug)]
struct SetCopy {
    bucket: u32,
    slot: u8,
    length: u32,
}

impl Hot {
    /// Copies the partition.
    pub(crate) fn copy(&self, memory: &Memory) -> Copy {
        let heads = self.heads(memory);
        let mut order = heads.clone();
        for head in heads {
            let mut at = bucket::next(memory.bucket(head));
            while at != 0 {
                order.push(at);
                at = bucket::next(memory.bucket(at));
            }
        }
        let entries = self.entries(memory);
        let directory = (0..1_usize << self.bits).map(|index| entries.get(index)).collect();
        let mut buckets = vec![0; order.len() * bucket::BYTES];
        let mut sets = Vec::new();
        let mut values = Vec::with_capacity(self.set_units as usize);
        for ((index, out), number) in order.iter().zip(buckets.as_chunks_mut().0).zip(0..) {
            let live = memory.bucket(*index);
            live.copy(out);
            bucket::for_each_spilled(live, |slot| {
                let set = memory.set(bucket::value(live, slot).low());
                let before = values.len();
                set::for_each(set, SetHead::of(set), |value| values.push(value));
                sets.push(SetCopy { bucket: number, slot: slot as u8, length: (values.len() - before) as u32 });
            });
        }
        Copy { order, directory, buckets, sets, values, keys: self.keys, pairs: self.pairs }
    }
}

impl Copy {
    /// The partition as it goes into the file, its buckets still to be sealed.
    pub(crate) fn into_image(mut self) -> Image {
        let numbers: HashMap<u32, u32> = self.order.iter().copied().zip(0..).collect();
        let number_of = |index: u32| numbers.get(&index).copied().unwrap_or(0);
        self.directory.iter_mut().for_each(|entry| *entry = number_of(*entry));
        let buckets = self.buckets.as_chunks_mut().0;
        for out in &mut *buckets {
            let next = bucket::next(bucket::Stored(out));
            bucket::tidy(out, if next == 0 { 0 } else { number_of(next) });
        }
        let mut sets = Vec::new();
        let mut values = self.values.as_slice();
        for SetCopy { bucket, slot, length } in self.sets {
            let (own, others) = values.split_at(length as usize);
            values = others;
            let unit = (sets.len() / set::UNIT) as u64;
            let checksum = set::encode(own, &mut sets);
            bucket::set_stored_value(&mut buckets[bucket as usize], slot.into(), E::from_parts(checksum, unit));
        }
        Image { directory: self.directory, buckets: self.buckets, sets, keys: self.keys, pairs: self.pairs }
    }
}
