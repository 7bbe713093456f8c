//! A plain model of a store, and random numbers. The unit tests of the crate use this file too, where ids and changes are
//! theirs and not those of the crate that it makes: so they come from the module around it.

use std::collections::BTreeMap;

use super::{Change, E, Operation};

/// What a store must hold.
pub type Model = BTreeMap<E, Vec<E>>;

/// Random numbers that replay from their seed (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Does to the model what a change does to a store; says how many pairs came or went.
pub fn expect(model: &mut Model, change: &Change) -> u64 {
    let values = model.entry(change.key).or_default();
    let before = values.len() as u64;
    match change.operation {
        Operation::Insert if values.contains(&change.value) => {}
        Operation::Insert => values.push(change.value),
        Operation::DeleteValue => values.retain(|value| *value != change.value),
        Operation::DeleteKey => values.clear(),
    }
    let after = values.len() as u64;
    if values.is_empty() {
        model.remove(&change.key);
    }
    before.abs_diff(after)
}
