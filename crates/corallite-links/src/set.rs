//! A value set: the values of a key that has more than four.
//!
//! It is one run of 64-bit words, the same in memory and in the file:
//!
//! | words | what |
//! |---|---|
//! | 0–1 | in a file, the XXH3-128 of the words that follow; in memory 0 once changed |
//! | 2 | values and tombstones (32 bits), room for values (32) |
//! | 3 | values that the sorted region covers (32), tombstones (32) |
//! | 4 | with room for up to 64: which values are tombstones, a bit each |
//! | 5 | 0 |
//! | then two a value | the values in the order of their insertion, high and low half |
//! | with room for more than 64: | |
//! | half a word a value | the sorted region: numbers of values, ordered by value |
//! | a bit a value | which values are tombstones |
//!
//! The run is filled up to whole units of 16 bytes. Values behind the sorted region are the unsorted region; a search
//! bisects the one and scans the other, whose length stays within about twice the square root of the set's.

use std::cmp::Ordering as Compared;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use twox_hash::XxHash3_128;

use crate::E;

/// Bytes of a unit, in which places and sizes of value sets are counted.
pub(crate) const UNIT: usize = 16;
const WORDS_PER_UNIT: usize = UNIT / 8;
const HEADER: usize = 6;
/// Cache lines of a set that are loaded ahead.
const PREFETCHED_LINES: usize = 10;
/// The largest room whose tombstones fit the header; without a sorted region.
const SMALL: usize = 64;

/// Words somewhere that a value set is read from. Beyond the end they are 0.
pub(crate) trait SetWords: Copy {
    fn word(self, index: usize) -> u64;

    /// The first value of a range of numbers that is `wanted`, dead or alive.
    fn find(self, range: Range<usize>, wanted: E) -> Option<usize> {
        let mut range = range;
        range.find(|&index| value(self, index) == wanted)
    }
}

/// A value set in memory, beginning with its first word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveSet<'a>(pub(crate) &'a [AtomicU64]);

/// A value set in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredSet<'a>(pub(crate) &'a [u8]);

impl SetWords for LiveSet<'_> {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// One check of the bounds for all of them.
    #[inline]
    fn find(self, range: Range<usize>, wanted: E) -> Option<usize> {
        let values = self.0.get(HEADER + 2 * range.start..HEADER + 2 * range.end)?.as_chunks().0;
        let is_wanted = |[high, low]: &[AtomicU64; 2]| {
            low.load(Ordering::Relaxed) == wanted.low() && high.load(Ordering::Relaxed) == wanted.high()
        };
        values.iter().position(is_wanted).map(|index| range.start + index)
    }
}

impl SetWords for StoredSet<'_> {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        self.0.get(index * 8..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// The first words, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetHead {
    /// Values and tombstones.
    pub(crate) len: u32,
    pub(crate) capacity: u32,
    /// Values of the sorted region.
    pub(crate) sorted: u32,
    pub(crate) tombstones: u32,
}

impl SetHead {
    #[inline(always)]
    pub(crate) fn of(set: impl SetWords) -> Self {
        let (sizes, regions) = (set.word(2), set.word(3));
        Self {
            len: sizes as u32,
            capacity: (sizes >> 32) as u32,
            sorted: regions as u32,
            tombstones: (regions >> 32) as u32,
        }
    }

    /// Whether these numbers can be those of a set; anything may be in a file.
    pub(crate) const fn is_possible(self) -> bool {
        self.len <= self.capacity && self.sorted <= self.len && self.tombstones <= self.len
    }

    /// Values that are there.
    pub(crate) const fn live(self) -> u32 {
        self.len.saturating_sub(self.tombstones)
    }

    const fn permutation(self) -> usize {
        HEADER + 2 * self.capacity as usize
    }

    const fn bitmap(self) -> usize {
        if self.capacity as usize <= SMALL { 4 } else { self.permutation() + (self.capacity as usize).div_ceil(2) }
    }

    #[inline(always)]
    fn is_dead(self, set: impl SetWords, index: usize) -> bool {
        self.tombstones > 0 && set.word(self.bitmap() + index / 64) >> (index % 64) & 1 == 1
    }
}

/// Units that a set with room for `capacity` values takes.
pub(crate) const fn units(capacity: u32) -> u64 {
    let capacity = capacity as u64;
    let mut words = HEADER as u64 + 2 * capacity;
    if capacity > SMALL as u64 {
        words += capacity.div_ceil(2) + capacity.div_ceil(64);
    }
    words.div_ceil(WORDS_PER_UNIT as u64)
}

/// The room to give a set that is to hold `count` values: an eighth to a quarter more, in few different sizes.
pub(crate) fn capacity_for(count: u32) -> u32 {
    match count {
        0..=16 => (count + 1).next_multiple_of(2).max(6),
        17..=32 => (count + 1).next_multiple_of(4),
        33..=64 => (count + 1).next_multiple_of(8).min(64),
        _ => {
            let step = (count.next_power_of_two() / 16).max(16);
            count.saturating_add(step).next_multiple_of(step)
        }
    }
}

/// The value with this number.
#[inline(always)]
pub(crate) fn value(set: impl SetWords, index: usize) -> E {
    E::from_parts(set.word(HEADER + 2 * index), set.word(HEADER + 2 * index + 1))
}

/// Calls `each` for every value, in the order of insertion.
#[inline]
pub(crate) fn for_each<S: SetWords>(set: S, head: SetHead, mut each: impl FnMut(E)) {
    for index in 0..head.len as usize {
        if !head.is_dead(set, index) {
            each(value(set, index));
        }
    }
}

fn permuted<S: SetWords>(set: S, head: SetHead, rank: usize) -> usize {
    (set.word(head.permutation() + rank / 2) >> (rank % 2 * 32)) as u32 as usize
}

/// The number of a value that is there.
pub(crate) fn position<S: SetWords>(set: S, head: SetHead, wanted: E) -> Option<usize> {
    let (mut low, mut high) = (0, head.sorted as usize);
    while low < high {
        let middle = low.midpoint(high);
        if value(set, permuted(set, head, middle)) < wanted { low = middle + 1 } else { high = middle }
    }
    // A value that was removed and added again is there twice, once as a tombstone.
    for rank in low..head.sorted as usize {
        let index = permuted(set, head, rank);
        if index >= head.len as usize || value(set, index) != wanted {
            break;
        }
        if !head.is_dead(set, index) {
            return Some(index);
        }
    }
    let mut from = head.sorted as usize;
    loop {
        let index = set.find(from..head.len as usize, wanted)?;
        if !head.is_dead(set, index) {
            return Some(index);
        }
        from = index + 1;
    }
}

impl LiveSet<'_> {
    /// Loads the header and the first values.
    #[inline]
    pub(crate) fn prefetch(self) {
        for line in 0..PREFETCHED_LINES {
            if let Some(word) = self.0.get(line * 8) {
                crate::memory::prefetch(word);
            }
        }
    }

    fn set(self, index: usize, word: u64) {
        if let Some(at) = self.0.get(index) {
            at.store(word, Ordering::Relaxed);
        }
    }

    fn set_head(self, head: SetHead) {
        // What was stored of it is no longer so.
        self.set(0, 0);
        self.set(1, 0);
        self.set(2, u64::from(head.len) | u64::from(head.capacity) << 32);
        self.set(3, u64::from(head.sorted) | u64::from(head.tombstones) << 32);
    }

    fn set_value(self, index: usize, value: E) {
        self.set(HEADER + 2 * index, value.high());
        self.set(HEADER + 2 * index + 1, value.low());
    }

    /// Makes these words a set with room for `capacity` values.
    pub(crate) fn fill(self, capacity: u32, values: impl IntoIterator<Item = E>) {
        let mut head = SetHead { capacity, ..SetHead::default() };
        for (index, value) in values.into_iter().take(capacity as usize).enumerate() {
            self.set_value(index, value);
            head.len += 1;
        }
        self.set(4, 0);
        self.set(5, 0);
        if capacity as usize > SMALL {
            for word in 0..(capacity as usize).div_ceil(64) {
                self.set(head.bitmap() + word, 0);
            }
        }
        self.set_head(head);
        if head.len as usize > SMALL {
            self.sort();
        }
    }

    /// Makes these words a copy of a stored set, which has no tombstones, with room for `capacity` values.
    pub(crate) fn load(self, stored: StoredSet<'_>, from: SetHead, capacity: u32) {
        if from.live() as usize <= SMALL || from.sorted != from.len || from.tombstones > 0 {
            let mut values = Vec::with_capacity(from.live() as usize);
            for_each(stored, from, |value| values.push(value));
            return self.fill(capacity, values);
        }
        let head = SetHead { capacity, ..from };
        for index in HEADER..HEADER + 2 * from.len as usize {
            self.set(index, stored.word(index));
        }
        for pair in 0..(from.len as usize).div_ceil(2) {
            self.set(head.permutation() + pair, stored.word(from.permutation() + pair));
        }
        for word in 0..(capacity as usize).div_ceil(64) {
            self.set(head.bitmap() + word, 0);
        }
        self.set(4, 0);
        self.set(5, 0);
        self.set_head(head);
    }

    /// Adds a value that is not there; `false` when there is no room.
    pub(crate) fn push(self, value: E) -> bool {
        let mut head = SetHead::of(self);
        if head.len >= head.capacity {
            return false;
        }
        self.set_value(head.len as usize, value);
        head.len += 1;
        self.set_head(head);
        let unsorted = head.len - head.sorted;
        if head.capacity as usize > SMALL && unsorted as usize > SMALL.max(2 * head.len.isqrt() as usize) {
            self.sort();
        }
        true
    }

    /// Leaves a tombstone in the place of a value.
    pub(crate) fn bury(self, index: usize) {
        let mut head = SetHead::of(self);
        let word = head.bitmap() + index / 64;
        self.set(word, self.word(word) | 1 << (index % 64));
        head.tombstones += 1;
        self.set_head(head);
    }

    /// Merges the unsorted region into the sorted one.
    pub(crate) fn sort(self) {
        let mut head = SetHead::of(self);
        if head.capacity as usize <= SMALL || head.sorted == head.len {
            return;
        }
        let by_value = |left: &u32, right: &u32| -> Compared {
            value(self, *left as usize).cmp(&value(self, *right as usize)).then(left.cmp(right))
        };
        let mut added: Vec<u32> = (head.sorted..head.len).collect();
        added.sort_unstable_by(by_value);
        let old: Vec<u32> = (0..head.sorted as usize).map(|rank| permuted(self, head, rank) as u32).collect();
        let (mut old, mut added) = (old.into_iter().peekable(), added.into_iter().peekable());
        let mut pair = 0;
        for rank in 0..head.len as usize {
            let take_old = match (old.peek(), added.peek()) {
                (Some(left), Some(right)) => by_value(left, right) == Compared::Less,
                (left, _) => left.is_some(),
            };
            let index = if take_old { old.next() } else { added.next() };
            pair |= u64::from(index.unwrap_or(0)) << (rank % 2 * 32);
            if rank % 2 == 1 || rank + 1 == head.len as usize {
                self.set(head.permutation() + rank / 2, pair);
                pair = 0;
            }
        }
        head.sorted = head.len;
        self.set_head(head);
    }
}

/// Encodes values as a set in a file, without tombstones and spare room; returns the low half of its checksum.
pub(crate) fn encode(values: &[E], out: &mut Vec<u8>) -> u64 {
    let capacity = values.len() as u32;
    let start = out.len();
    let words = (units(capacity) as usize * WORDS_PER_UNIT).max(HEADER);
    let sorted = if values.len() > SMALL { capacity } else { 0 };
    out.resize(start + words * 8, 0);
    let body = &mut out[start..];
    let mut put = |index: usize, word: u64| body[index * 8..index * 8 + 8].copy_from_slice(&word.to_le_bytes());
    put(2, u64::from(capacity) | u64::from(capacity) << 32);
    put(3, u64::from(sorted));
    for (index, value) in values.iter().enumerate() {
        put(HEADER + 2 * index, value.high());
        put(HEADER + 2 * index + 1, value.low());
    }
    if sorted > 0 {
        let mut ranks: Vec<u32> = (0..capacity).collect();
        ranks.sort_unstable_by_key(|index| values[*index as usize]);
        let head = SetHead { len: capacity, capacity, sorted, tombstones: 0 };
        for (word, pair) in ranks.chunks(2).enumerate() {
            let packed = u64::from(pair[0]) | pair.get(1).map_or(0, |second| u64::from(*second) << 32);
            put(head.permutation() + word, packed);
        }
    }
    let checksum = XxHash3_128::oneshot(&body[UNIT..]);
    body[..UNIT].copy_from_slice(&checksum.to_le_bytes());
    checksum as u64
}

/// The words of the set that begins at `unit` of stored value sets, if its checksum agrees and is the one expected.
pub(crate) fn stored(sets: &[u8], unit: u64, checksum: u64) -> Result<(StoredSet<'_>, SetHead), &'static str> {
    let start =
        usize::try_from(unit).ok().and_then(|unit| unit.checked_mul(UNIT)).ok_or("it lies outside the dataset")?;
    let rest = sets.get(start..).ok_or("it lies outside the dataset")?;
    let head = SetHead::of(StoredSet(rest));
    if !head.is_possible() {
        return Err("its sizes contradict each other");
    }
    let length = usize::try_from(units(head.capacity) * UNIT as u64).unwrap_or(usize::MAX);
    let set = rest.get(..length).ok_or("it is larger than its dataset")?;
    let found = XxHash3_128::oneshot(&set[UNIT..]);
    if set[..UNIT] != found.to_le_bytes() || found as u64 != checksum {
        return Err("its checksum does not agree");
    }
    Ok((StoredSet(set), head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(capacity: u32) -> Vec<AtomicU64> {
        (0..units(capacity) * 2).map(|_| AtomicU64::new(u64::MAX)).collect()
    }

    fn all(set: impl SetWords) -> Vec<E> {
        let mut values = Vec::new();
        for_each(set, SetHead::of(set), |value| values.push(value));
        values
    }

    #[test]
    fn values_come_back_in_the_order_of_their_insertion_and_are_found() {
        for count in [1_u32, 5, 64, 65, 300, 5000] {
            let capacity = capacity_for(count);
            assert!(capacity > count || (count == 64 && capacity == 64));
            let memory = memory(capacity);
            let set = LiveSet(&memory);
            set.fill(capacity, []);
            let value = |number: u32| E::new(u128::from(number.wrapping_mul(0x9e37_79b9)) << 64 | 7);
            for number in 0..count {
                assert_eq!(position(set, SetHead::of(set), value(number)), None);
                assert!(set.push(value(number)));
            }
            assert_eq!(all(set), (0..count).map(value).collect::<Vec<_>>());
            for number in 0..count {
                assert_eq!(position(set, SetHead::of(set), value(number)), Some(number as usize));
            }
            for number in (0..count).step_by(3) {
                set.bury(number as usize);
                assert_eq!(position(set, SetHead::of(set), value(number)), None);
            }
            set.sort();
            assert_eq!(all(set), (0..count).filter(|number| number % 3 != 0).map(value).collect::<Vec<_>>());
            assert_eq!(SetHead::of(set).tombstones, count.div_ceil(3));
        }
    }

    #[test]
    fn a_value_that_was_removed_and_added_again_is_found_once() {
        let memory = memory(200);
        let set = LiveSet(&memory);
        set.fill(200, (0..100).map(E::new));
        set.bury(7);
        assert_eq!(position(set, SetHead::of(set), E::new(7)), None);
        assert!(set.push(E::new(7)));
        set.sort();
        assert_eq!(position(set, SetHead::of(set), E::new(7)), Some(100));
        assert_eq!(all(set).iter().filter(|value| **value == E::new(7)).count(), 1);
    }

    #[test]
    fn a_flipped_bit_in_a_stored_set_is_noticed() -> Result<(), &'static str> {
        for count in [5, 70] {
            let values: Vec<E> = (0..count).map(|number| E::new(number * 77)).collect();
            let mut bytes = vec![0xee; 2 * UNIT];
            let checksum = encode(&values, &mut bytes);
            let (set, head) = stored(&bytes, 2, checksum)?;
            assert_eq!(all(set), values);
            assert!(values.iter().all(|value| position(set, head, *value).is_some()));
            for bit in 2 * UNIT * 8..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(stored(&bytes, 2, checksum).is_err(), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }
}
