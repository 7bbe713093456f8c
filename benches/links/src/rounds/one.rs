//! One round of one engine: everything the comparison measures, in the life of one database; deletions from a store in
//! use in that of another.

use std::sync::Arc;

use anyhow::Result;

use super::compare::folder;
use super::reopen::Kill;
use super::{concurrent, gets, reopen, writes};
use crate::Common;
use crate::engine::{Found, Kind};
use crate::measure::{Scratch, disk_bytes, fsync_cost};
use crate::sample::Sample;
use crate::workload::{self, Ids};

/// Lookups of each kind, at most.
const GETS: u64 = 1_000_000;

/// Pairs deleted each time, at most.
const DELETES: usize = 500_000;

/// Inserts one at a time.
const SINGLES: usize = 1_000;

/// Measures one engine.
pub(crate) fn run(common: &Common, engine: Kind, keys: u64) -> Result<Sample> {
    let (folder, settings) = (&folder(common, engine), &common.settings());
    let scratch = Scratch::create(folder)?;
    let mut sample = Sample::default();
    let pairs = workload::pairs(0..keys);
    let database = engine.open(folder, settings)?;

    let insert = writes::insert(&*database, &pairs)?;
    sample.insert_rate = insert.rate();
    sample.insert_cpu = insert.cpu_each();
    sample.settled_bytes = disk_bytes(folder)? as f64 / keys as f64;

    let count = GETS.min(keys) as usize;
    let present = gets::measure(&*database, &gets::present(keys, count, 1), count)?;
    sample.get_cpu = present.cpu;
    sample.get_wall = present.wall;
    sample.get_p99 = present.p99;
    sample.get_p999 = present.p999;
    sample.get_rate_two_threads = gets::two_threads(&*database, keys, count)?;
    sample.absent_cpu = gets::measure(&*database, &gets::absent(keys, count), count)?.cpu;

    database.compact()?;
    sample.compacted_bytes = disk_bytes(folder)? as f64 / keys as f64;

    let database = engine.open(folder, settings)?;
    let deletes = DELETES.min(pairs.len() / 2);
    sample.delete_rate = writes::delete(&*database, &pairs, deletes)?.rate();
    sample.fsync = fsync_cost(folder)? * 1e3;
    let mut singles = writes::singles(&*database, SINGLES)?;
    sample.single_rate = singles.rate;
    sample.single_p99 = singles.latencies.percentile(0.99);

    let database = Arc::from(database);
    let mut concurrent = concurrent::best(&database)?;
    sample.concurrent_rate = concurrent.rate;
    sample.concurrent_p99 = concurrent.latencies.percentile(0.99);
    database.settle()?;
    drop(database);

    let known = (workload::id(Ids::Single, 0), Found { count: 1, xor: workload::id(Ids::Value, 0) });
    sample.reopen_clean = reopen::clean(engine, folder, settings, known)?;
    sample.reopen_killed = reopen::killed(common, engine, folder, known, Kill::Writing)?.time;

    // In a database of its own: what deletions leave behind would be in the figures of the first one.
    drop(scratch);
    let _scratch = Scratch::create(folder)?;
    let database = engine.open(folder, settings)?;
    writes::insert(&*database, &pairs)?;
    gets::once(&*database, &gets::present(keys, count, 1))?;
    sample.delete_in_use_rate = writes::delete(&*database, &pairs, deletes)?.rate();
    Ok(sample)
}
