//! One engine as it grows: does an insert or a lookup cost more when there are more keys?

use anyhow::{Result, ensure};
use serde::Serialize;

use super::compare::folder;
use super::writes::Batches;
use super::{gets, progress, writes};
use crate::engine::Kind;
use crate::measure::{Scratch, disk_bytes};
use crate::{Common, Output, report};

/// Lookups at each size.
const GETS: usize = 1_000_000;

/// The figures at one size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) keys: u64,
    /// Pairs in a second, since the size before.
    pub(crate) insert_rate: f64,
    /// Pairs in a second, over the last chunk before this size.
    pub(crate) last_insert_rate: f64,
    /// Nanoseconds of processor time for a pair of that chunk.
    pub(crate) last_insert_cpu: f64,
    pub(crate) get_cpu: f64,
    pub(crate) get_wall: f64,
    pub(crate) get_p99: f64,
    pub(crate) bytes_per_key: f64,
}

/// Grows the engine from size to size, measures at each, and reports.
pub(crate) fn run(common: &Common, output: &Output, engine: Kind, sizes: &[u64]) -> Result<()> {
    let growing = sizes.first().is_some_and(|&first| first > 0) && sizes.is_sorted_by(|one, next| one < next);
    ensure!(growing, "--keys must grow");
    let folder = folder(common, engine);
    let _scratch = Scratch::create(&folder)?;
    let database = engine.open(&folder, &common.settings())?;
    let mut stages = Vec::new();
    let mut keys = 0;
    for &size in sizes {
        progress(&format!("{}: {size} keys", engine.name()));
        let chunks = writes::fill(&*database, keys..size)?;
        keys = size;
        let count = GETS.min(size as usize);
        let gets = gets::measure(&*database, &gets::present(size, count, 1), count)?;
        let all = total(&chunks);
        let last = chunks.last().unwrap_or(&all);
        stages.push(Stage {
            keys: size,
            insert_rate: all.rate(),
            last_insert_rate: last.rate(),
            last_insert_cpu: last.cpu_each(),
            get_cpu: gets.cpu,
            get_wall: gets.wall,
            get_p99: gets.p99,
            bytes_per_key: disk_bytes(&folder)? as f64 / size as f64,
        });
    }
    drop(database);
    report::growth(common, output, engine, &stages)
}

fn total(chunks: &[Batches]) -> Batches {
    Batches {
        pairs: chunks.iter().map(|chunk| chunk.pairs).sum(),
        wall: chunks.iter().map(|chunk| chunk.wall).sum(),
        cpu: chunks.iter().map(|chunk| chunk.cpu).sum(),
    }
}
