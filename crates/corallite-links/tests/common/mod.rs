//! What the tests share: a plain model of a store, and random work on both.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod scene;

use std::collections::BTreeMap;
use std::error::Error;

use corallite_links::{CIDStore, Change, E, Operation};

/// What tests and helpers return.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

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

/// The key with this number, far from its neighbours.
pub fn key(number: u64) -> E {
    let mut random = Random::new(number);
    E::from_parts(random.next(), random.next())
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

/// A random change of one of `keys` keys.
pub fn change(random: &mut Random, keys: u64) -> Change {
    let key = key(random.below(keys));
    let variety = if random.one_in(20) { 500 } else { 7 };
    let value = E::new(u128::from(random.below(variety)));
    match random.below(20) {
        0 => Change::delete(key),
        1..5 => Change::delete_value(key, value),
        _ => Change::insert(key, value),
    }
}

/// What differs between a store and its model; `None` when nothing does.
pub fn difference(store: &CIDStore, model: &Model) -> Outcome<Option<String>> {
    let mut found = Model::new();
    for entry in store.snapshot()?.iter() {
        let (key, values) = entry?;
        if found.insert(key, values.into()).is_some() {
            return Ok(Some(format!("{key} comes twice")));
        }
    }
    for (key, wanted) in model {
        let values = store.get(*key)?;
        if values.as_slice() != wanted {
            return Ok(Some(format!("{key} has {values:?}, not {wanted:?}")));
        }
        if found.get(key) != Some(wanted) {
            return Ok(Some(format!("iterating, {key} has {:?}, not {wanted:?}", found.get(key))));
        }
    }
    if found.len() != model.len() {
        let more = found.keys().find(|key| !model.contains_key(key));
        return Ok(Some(format!("{} keys and not {}; {more:?} should not be there", found.len(), model.len())));
    }
    let statistics = store.statistics()?;
    let pairs: u64 = model.values().map(|values| values.len() as u64).sum();
    if (statistics.keys, statistics.pairs) != (model.len() as u64, pairs) {
        return Ok(Some(format!("{statistics:?}, not {} keys and {pairs} pairs", model.len())));
    }
    Ok(None)
}

/// Fails when the store is not as the model says.
pub fn assert_same(store: &CIDStore, model: &Model) -> Outcome {
    match difference(store, model)? {
        Some(what) => Err(what.into()),
        None => Ok(()),
    }
}
