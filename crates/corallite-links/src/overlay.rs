//! Changes of a partition that is not loaded: kept in their order, found by key.

use std::collections::HashSet;

use crate::E;
use crate::change::{Change, Operation};
use crate::hash::{Hash, Seed};

const NONE: u32 = u32::MAX;

/// Changes in order, with a list of them for each hash.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    changes: Vec<Change>,
    /// For each change, the lower half of its key's hash, and the one before it in its list.
    links: Vec<(u32, u32)>,
    /// A power of two of lists, chosen by the lower half of the hash: the newest change of each.
    lists: Vec<u32>,
    /// How many of the changes, from the first on, the file holds already.
    pub(crate) stored: usize,
}

impl Overlay {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// All changes, in order.
    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        (self.changes.capacity() * size_of::<Change>() + self.links.capacity() * 8 + self.lists.capacity() * 4) as u64
    }

    pub(crate) fn push(&mut self, hash: Hash, change: Change) {
        if self.changes.len() == self.lists.len() {
            self.grow();
        }
        let low = hash.0 as u32;
        let list = low as usize & (self.lists.len() - 1);
        self.links.push((low, self.lists[list]));
        self.lists[list] = self.changes.len() as u32;
        self.changes.push(change);
    }

    fn grow(&mut self) {
        let count = (self.lists.len() * 2).max(16);
        self.lists.clear();
        self.lists.resize(count, NONE);
        for (index, (low, previous)) in self.links.iter_mut().enumerate() {
            let list = *low as usize & (count - 1);
            *previous = self.lists[list];
            self.lists[list] = index as u32;
        }
    }

    /// Changes that come before all that are here, and that the file holds.
    pub(crate) fn put_before(&mut self, stored: Vec<Change>, seed: Seed) {
        let later = std::mem::take(self);
        for change in stored {
            self.push(seed.hash(change.key), change);
        }
        let already = self.len() + later.stored;
        for change in later.changes {
            self.push(seed.hash(change.key), change);
        }
        self.stored = already;
    }

    /// Forgets the first `count` changes, which a new image of the partition holds.
    pub(crate) fn forget(&mut self, count: usize, seed: Seed, keep: impl Fn(Hash) -> bool) {
        let old = std::mem::take(self);
        for change in old.changes.into_iter().skip(count) {
            let hash = seed.hash(change.key);
            if keep(hash) {
                self.push(hash, change);
            }
        }
    }

    /// Whether nothing here concerns this key, at a glance.
    pub(crate) fn lacks(&self, hash: Hash) -> bool {
        self.lists.is_empty() || self.lists[hash.0 as usize & (self.lists.len() - 1)] == NONE
    }

    /// Whether something here concerns this key.
    pub(crate) fn changes_key(&self, hash: Hash, key: E) -> bool {
        if self.lacks(hash) {
            return false;
        }
        let mut at = self.lists[hash.0 as usize & (self.lists.len() - 1)];
        while at != NONE && self.changes[at as usize].key != key {
            at = self.links[at as usize].1;
        }
        at != NONE
    }

    /// Does to a key's values what the changes do, in order.
    pub(crate) fn apply(&self, hash: Hash, key: E, values: &mut Vec<E>) {
        if self.lacks(hash) {
            return;
        }
        let mut indices = Vec::new();
        let mut at = self.lists[hash.0 as usize & (self.lists.len() - 1)];
        while at != NONE {
            let change = &self.changes[at as usize];
            if change.key == key {
                indices.push(at);
                if change.operation == Operation::DeleteKey {
                    break;
                }
            }
            at = self.links[at as usize].1;
        }
        // Membership by hash once there is much to compare, so that a large set stays linear.
        let many = values.len() + indices.len() > 64;
        let mut present: HashSet<E> = if many { values.iter().copied().collect() } else { HashSet::new() };
        let mut removed = false;
        let mut gone: HashSet<E> = HashSet::new();
        for index in indices.into_iter().rev() {
            let Change { operation, value, .. } = self.changes[index as usize];
            match operation {
                Operation::Insert => {
                    let is_new = if many { present.insert(value) } else { !values.contains(&value) };
                    if is_new {
                        if gone.remove(&value) {
                            values.retain(|other| *other != value);
                        }
                        values.push(value);
                    }
                }
                Operation::DeleteValue if many => {
                    if present.remove(&value) {
                        gone.insert(value);
                        removed = true;
                    }
                }
                Operation::DeleteValue => values.retain(|other| *other != value),
                Operation::DeleteKey => {
                    values.clear();
                    present.clear();
                    gone.clear();
                }
            }
        }
        if removed && !gone.is_empty() {
            values.retain(|value| !gone.contains(value));
        }
    }

    /// Every key that is changed here, once.
    pub(crate) fn keys(&self) -> Vec<E> {
        let mut seen = HashSet::with_capacity(self.changes.len());
        self.changes.iter().map(|change| change.key).filter(|key| seen.insert(*key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_do_the_same_to_few_and_to_many_values() {
        let seed = Seed([5, 6]);
        let key = E::new(1);
        let mut overlay = Overlay::default();
        let (mut few, mut state) = (Vec::new(), 7_u64);
        for step in 0..3000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            let value = E::new(u128::from(state >> 33) % 90);
            let change = match (state >> 20) % 1000 {
                0 => Change::delete(key),
                1..500 => Change::delete_value(key, value),
                _ => Change::insert(key, value),
            };
            match change.operation {
                Operation::Insert if few.contains(&value) => {}
                Operation::Insert => few.push(value),
                Operation::DeleteValue => few.retain(|other| *other != value),
                Operation::DeleteKey => few.clear(),
            }
            overlay.push(seed.hash(key), change);
            if step % 97 == 0 {
                let mut values = Vec::new();
                overlay.apply(seed.hash(key), key, &mut values);
                assert_eq!(values, few, "step {step}");
            }
        }
    }
}
