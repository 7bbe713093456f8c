//! Durable writes of one thread: batches of inserts and deletes, and inserts one at a time.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::gets::check;
use crate::engine::{Engine, Found, Pair};
use crate::measure::{Latencies, nanoseconds_each, process_cpu, rate};
use crate::workload::{self, BATCH, Ids};

/// Keys whose pairs are shuffled with each other where there are too many for all of them.
const CHUNK: u64 = 1_000_000;

/// What batches took.
pub(crate) struct Batches {
    pub(crate) pairs: usize,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Batches {
    /// Pairs in a second.
    pub(crate) fn rate(&self) -> f64 {
        rate(self.pairs, self.wall)
    }

    /// Nanoseconds of processor time for each pair, of all threads.
    pub(crate) fn cpu_each(&self) -> f64 {
        nanoseconds_each(self.cpu, self.pairs)
    }
}

/// Inserts all pairs and settles.
pub(crate) fn insert(engine: &dyn Engine, pairs: &[Pair]) -> Result<Batches> {
    timed(pairs.len(), || {
        pairs.chunks(BATCH).try_for_each(|batch| engine.insert_batch(batch))?;
        engine.settle()
    })
}

/// Inserts all pairs of a range of keys, chunk after chunk, each of them settled.
pub(crate) fn fill(engine: &dyn Engine, keys: Range<u64>) -> Result<Vec<Batches>> {
    let mut chunks = Vec::new();
    let mut first = keys.start;
    while first < keys.end {
        let next = keys.end.min(first + CHUNK);
        chunks.push(insert(engine, &workload::pairs(first..next))?);
        first = next;
    }
    Ok(chunks)
}

/// Deletes the first `count` of the pairs and settles, then looks that they are gone and the others of their keys not.
pub(crate) fn delete(engine: &dyn Engine, pairs: &[Pair], count: usize) -> Result<Batches> {
    let (deleted, kept) = pairs.split_at(count);
    let batches = timed(count, || {
        deleted.chunks(BATCH).try_for_each(|batch| engine.delete_batch(batch))?;
        engine.settle()
    })?;

    let mut expected: HashMap<u128, Found> = deleted.iter().map(|&(key, _)| (key, Found::default())).collect();
    for &(key, value) in kept {
        if let Some(found) = expected.get_mut(&key) {
            found.add(value);
        }
    }
    let mut reader = engine.reader()?;
    expected.into_iter().try_for_each(|(key, expected)| check(reader(key)?, expected))?;
    Ok(batches)
}

/// What inserts one at a time took.
pub(crate) struct Singles {
    /// Inserts in a second.
    pub(crate) rate: f64,
    pub(crate) latencies: Latencies,
}

/// Inserts so many pairs, each durable before the next, and looks that they are there.
pub(crate) fn singles(engine: &dyn Engine, count: usize) -> Result<Singles> {
    let pair = |number| (workload::id(Ids::Single, number), workload::id(Ids::Value, number));
    let mut latencies = Latencies::with_capacity(count);
    let start = Instant::now();
    for number in 0..count as u64 {
        let start = Instant::now();
        engine.insert_batch(&[pair(number)])?;
        latencies.add(start.elapsed());
    }
    let rate = rate(count, start.elapsed());
    check_pairs(engine, (0..count as u64).map(pair))?;
    Ok(Singles { rate, latencies })
}

/// Looks that each of these keys has its value and no other.
pub(crate) fn check_pairs(engine: &dyn Engine, pairs: impl Iterator<Item = Pair>) -> Result<()> {
    let mut reader = engine.reader()?;
    for (key, value) in pairs {
        check(reader(key)?, Found { count: 1, xor: value })?;
    }
    Ok(())
}

fn timed(pairs: usize, work: impl FnOnce() -> Result<()>) -> Result<Batches> {
    let (cpu, start) = (process_cpu(), Instant::now());
    work()?;
    Ok(Batches { pairs, wall: start.elapsed(), cpu: process_cpu() - cpu })
}
