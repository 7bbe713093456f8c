//! What the tests share: a plain model of a store, and random work on both.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod model;
pub mod scene;

use std::error::Error;

use corallite_links::{CIDStore, Change, E, Operation};

pub use model::{Model, Random, expect};

/// What tests and helpers return.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The key with this number, far from its neighbours.
pub fn key(number: u64) -> E {
    let mut random = Random::new(number);
    E::from_parts(random.next(), random.next())
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
