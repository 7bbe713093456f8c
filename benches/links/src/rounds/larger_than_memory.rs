//! One engine with four times the data that it may keep in memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::compare::folder;
use super::{gets, progress};
use crate::engine::Kind;
use crate::measure::{Memory, Scratch, disk_bytes, rate};
use crate::workload::BATCH;
use crate::{Common, Output, report, workload};

/// Bytes of a pair, without what an engine adds.
const PAIR_BYTES: u64 = 32;

/// Data for each byte of memory.
const TIMES_MEMORY: u64 = 4;

/// Keys whose pairs are shuffled with each other; few, because they take memory too.
const CHUNK: u64 = 100_000;

/// Lookups at the end.
const GETS: usize = 200_000;

/// Lookups before those, to fill the caches.
const WARM_UP: usize = 50_000;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outgrown {
    pub(crate) memory_bytes: u64,
    pub(crate) keys: u64,
    pub(crate) pairs: u64,
    /// Pairs in a second, settled, over all of them.
    pub(crate) insert_rate: f64,
    /// Pairs in a second, settled, over the last quarter.
    pub(crate) last_quarter_rate: f64,
    pub(crate) get_wall: f64,
    pub(crate) get_p99: f64,
    pub(crate) get_p999: f64,
    /// The most that was resident, mapped files included.
    pub(crate) peak_bytes: u64,
    /// The most that was resident and no file's, seen between batches.
    pub(crate) peak_anonymous_bytes: u64,
    pub(crate) bytes_per_key: f64,
}

/// Fills the engine, measures, and reports.
pub(crate) fn run(common: &Common, output: &Output, engine: Kind, memory: u64) -> Result<()> {
    let folder = folder(common, engine);
    let _scratch = Scratch::create(&folder)?;
    let database = engine.open(&folder, &common.settings())?;
    let target = (memory * TIMES_MEMORY).div_ceil(PAIR_BYTES);
    progress(&format!("{}: {target} pairs", engine.name()));

    let mut anonymous = 0;
    let (mut keys, mut pairs) = (0, 0);
    // Of each chunk: pairs, and time in the engine.
    let mut chunks: Vec<(u64, Duration)> = Vec::new();
    while pairs < target {
        let chunk = workload::pairs(keys..keys + CHUNK);
        let mut time = Duration::ZERO;
        for batch in chunk.chunks(BATCH) {
            let start = Instant::now();
            database.insert_batch(batch)?;
            time += start.elapsed();
            anonymous = anonymous.max(Memory::now()?.anonymous);
        }
        keys += CHUNK;
        pairs += chunk.len() as u64;
        chunks.push((chunk.len() as u64, time));
    }
    let start = Instant::now();
    database.settle()?;
    if let Some((_, last)) = chunks.last_mut() {
        *last += start.elapsed();
    }

    let gets = gets::measure(&*database, &gets::present(keys, GETS, 1), WARM_UP)?;
    let memory_now = Memory::now()?;
    let outgrown = Outgrown {
        memory_bytes: memory,
        keys,
        pairs,
        insert_rate: chunk_rate(&chunks),
        last_quarter_rate: chunk_rate(&chunks[chunks.len() * 3 / 4..]),
        get_wall: gets.wall,
        get_p99: gets.p99,
        get_p999: gets.p999,
        peak_bytes: memory_now.peak,
        peak_anonymous_bytes: anonymous.max(memory_now.anonymous),
        bytes_per_key: disk_bytes(&folder)? as f64 / keys as f64,
    };
    drop(database);
    report::larger_than_memory(common, output, engine, &outgrown)
}

fn chunk_rate(chunks: &[(u64, Duration)]) -> f64 {
    rate(chunks.iter().map(|(pairs, _)| *pairs as usize).sum(), chunks.iter().map(|(_, time)| *time).sum())
}
