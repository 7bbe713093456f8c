//! What is written and asked for: random ids, the same in every run. Of the keys 90 % have one value, 9 % two to four,
//! 1 % five to a hundred.

use std::ops::Range;

use crate::engine::{Found, Pair};

/// Pairs of one durable batch.
pub(crate) const BATCH: usize = 10_000;

/// Sets of ids that do not meet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ids {
    /// Keys that are inserted.
    Key = 1,
    /// Keys that never are.
    Absent = 2,
    /// Values.
    Value = 3,
    /// Keys inserted one at a time.
    Single = 4,
    /// Keys inserted by concurrent writers.
    Concurrent = 5,
    /// Keys inserted by the process that is killed.
    Killed = 6,
}

/// The id with this number; ids of one set differ from each other.
pub(crate) fn id(ids: Ids, number: u64) -> u128 {
    let salt = mix(ids as u64);
    let high = mix(number ^ salt);
    let low = mix(high ^ salt.rotate_left(32));
    u128::from(high) << 64 | u128::from(low)
}

/// How many values the key with this number has.
pub(crate) fn value_count(key: u64) -> u64 {
    let random = mix(key ^ 0x5eed);
    let spread = random >> 32;
    match random % 100 {
        0..90 => 1,
        90..99 => 2 + spread % 3,
        _ => 5 + spread % 96,
    }
}

/// What a lookup of the key with this number must find.
pub(crate) fn expected(key: u64) -> Found {
    let mut found = Found::default();
    values(key).for_each(|value| found.add(value));
    found
}

/// The pairs of a range of keys, in random order.
pub(crate) fn pairs(keys: Range<u64>) -> Vec<Pair> {
    let mut random = Random::new(keys.start);
    let mut pairs: Vec<Pair> =
        keys.flat_map(|number| values(number).map(move |value| (id(Ids::Key, number), value))).collect();
    for last in (1..pairs.len()).rev() {
        pairs.swap(last, random.below(last as u64 + 1) as usize);
    }
    pairs
}

fn values(key: u64) -> impl Iterator<Item = u128> {
    (0..value_count(key)).map(move |index| id(Ids::Value, key << 7 | index))
}

/// A stream of random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// A number from 0 to `limit`, without it.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        ((u128::from(mix(self.0)) * u128::from(limit)) >> 64) as u64
    }
}

/// The finalizer of SplitMix64: one-to-one, and each bit depends on all.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn a_key_has_the_values_its_number_promises() {
        let mut found: HashMap<u128, Found> = HashMap::new();
        for (key, value) in pairs(500..1500) {
            found.entry(key).or_default().add(value);
        }
        assert_eq!(found.len(), 1000);
        for number in 500..1500 {
            assert_eq!(found[&id(Ids::Key, number)], expected(number));
        }
    }

    #[test]
    fn most_keys_have_one_value_and_few_have_many() {
        let counts: Vec<u64> = (0..100_000).map(value_count).collect();
        let share = |range: std::ops::RangeInclusive<u64>| counts.iter().filter(|count| range.contains(count)).count();
        assert!((89_000..91_000).contains(&share(1..=1)));
        assert!((8_500..9_500).contains(&share(2..=4)));
        assert!((800..1_200).contains(&share(5..=100)));
    }

    #[test]
    fn the_sets_of_ids_do_not_meet() {
        let sets = [Ids::Key, Ids::Absent, Ids::Value, Ids::Single, Ids::Concurrent, Ids::Killed];
        let ids: HashSet<u128> = sets.iter().flat_map(|&set| (0..10_000).map(move |number| id(set, number))).collect();
        assert_eq!(ids.len(), 60_000);
    }
}
