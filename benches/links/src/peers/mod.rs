//! The engines of others, set up as their users would for this work.

pub(crate) mod fjall;
pub(crate) mod lmdb;
pub(crate) mod redb;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocksdb;

use anyhow::{Context, Result};

use crate::engine::{Pair, Settings};

/// The batch in key order: trees and memtables take it faster that way, the sorting included.
fn sorted(pairs: &[Pair]) -> Vec<Pair> {
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    pairs
}

/// Key and value in one, for engines whose keys have one value: the values of a key are then a prefix scan.
fn composite((key, value): Pair) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&key.to_be_bytes());
    bytes[16..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// The value of a composite key.
fn value_of(composite: &[u8]) -> Result<u128> {
    id(composite.get(16..).context("a composite key is too short")?)
}

fn id(bytes: &[u8]) -> Result<u128> {
    Ok(u128::from_be_bytes(bytes.try_into().context("an id has 16 bytes")?))
}

/// The size of one memtable: large where memory allows, a small part of the cache where it does not.
fn memtable_bytes(settings: &Settings) -> u64 {
    (settings.cache_bytes / 16).clamp(4 << 20, 128 << 20)
}
