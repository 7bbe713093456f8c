//! What lookups cost when nothing is in memory, neither the engine's nor the kernel's.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::compare::folder;
use super::gets::{self, Lookups};
use super::{progress, writes};
use crate::engine::{Kind, Settings};
use crate::measure::{PageCache, Scratch};
use crate::{Common, Output, report};

/// Lookups of each kind: few, so that they do not meet what those before brought into memory.
const LOOKUPS: usize = 2_000;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cold {
    pub(crate) keys: u64,
    pub(crate) absent: Pass,
    pub(crate) present: Pass,
}

/// Lookups of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pass {
    /// Milliseconds to open, without a lookup.
    pub(crate) open: f64,
    /// Nanoseconds for a lookup.
    pub(crate) wall: f64,
    pub(crate) p99: f64,
}

/// Fills the engine, measures, and reports.
pub(crate) fn run(common: &Common, output: &Output, engine: Kind, keys: u64) -> Result<()> {
    let cache = match PageCache::open() {
        Ok(cache) => cache,
        Err(error) => {
            progress(&format!("skipped: this process may not drop the page cache ({error})"));
            return Ok(());
        }
    };
    let (folder, settings) = (&folder(common, engine), &common.settings());
    let _scratch = Scratch::create(folder)?;
    progress(&format!("{}: {keys} keys", engine.name()));
    writes::fill(&*engine.open(folder, settings)?, 0..keys)?;

    let measure = |lookups: &Lookups| measure(&cache, engine, folder, settings, lookups);
    let absent = measure(&gets::absent(keys, LOOKUPS))?;
    let present = measure(&gets::present(keys, LOOKUPS, 1))?;
    report::cold(common, output, engine, &Cold { keys, absent, present })
}

fn measure(cache: &PageCache, engine: Kind, folder: &Path, settings: &Settings, lookups: &Lookups) -> Result<Pass> {
    // Once before: pages of the program itself that are mapped by then are not dropped.
    gets::once(&*engine.open(folder, settings)?, lookups)?;
    cache.drop_all()?;
    let start = Instant::now();
    let database = engine.open(folder, settings)?;
    let open = start.elapsed().as_secs_f64() * 1e3;
    let mut latencies = gets::once(&*database, lookups)?;
    Ok(Pass { open, wall: latencies.mean(), p99: latencies.percentile(0.99) })
}
