//! Lookups: what they cost, how long the slow ones take, and whether they find what they must.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::engine::{Engine, Found, Reader};
use crate::measure::{Latencies, nanoseconds_each, rate, thread_cpu};
use crate::workload::{self, Ids, Random};

/// Keys to look up, and what all of them together must find.
pub(crate) struct Lookups {
    keys: Vec<u128>,
    expected: Found,
}

/// Keys that are there, at random out of the first `keys`.
pub(crate) fn present(keys: u64, count: usize, seed: u64) -> Lookups {
    let mut random = Random::new(seed);
    let mut expected = Found::default();
    let keys = (0..count)
        .map(|_| {
            let number = random.below(keys);
            expected.merge(workload::expected(number));
            workload::id(Ids::Key, number)
        })
        .collect();
    Lookups { keys, expected }
}

/// Keys that are not.
pub(crate) fn absent(keys: u64, count: usize) -> Lookups {
    let mut random = Random::new(3);
    let keys = (0..count).map(|_| workload::id(Ids::Absent, random.below(keys))).collect();
    Lookups { keys, expected: Found::default() }
}

/// Nanoseconds for a lookup.
pub(crate) struct Gets {
    pub(crate) cpu: f64,
    pub(crate) wall: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// Looks up from one thread: once to fill the caches with at most `warm_up` lookups, once for the averages, and once
/// with a clock around each lookup.
pub(crate) fn measure(engine: &dyn Engine, lookups: &Lookups, warm_up: usize) -> Result<Gets> {
    let mut reader = engine.reader()?;
    for &key in lookups.keys.iter().take(warm_up) {
        black_box(reader(key)?);
    }

    let mut found = Found::default();
    let (cpu, start) = (thread_cpu(), Instant::now());
    for &key in &lookups.keys {
        found.merge(reader(key)?);
    }
    let (wall, cpu) = (start.elapsed(), thread_cpu() - cpu);
    check(found, lookups.expected)?;

    let mut latencies = clocked(&mut reader, lookups)?;
    let count = lookups.keys.len();
    Ok(Gets {
        cpu: nanoseconds_each(cpu, count),
        wall: nanoseconds_each(wall, count),
        p99: latencies.percentile(0.99),
        p999: latencies.percentile(0.999),
    })
}

/// Looks up from one thread, every key once, with nothing looked up before.
pub(crate) fn once(engine: &dyn Engine, lookups: &Lookups) -> Result<Latencies> {
    clocked(&mut engine.reader()?, lookups)
}

/// Looks up with a clock around each lookup.
fn clocked(reader: &mut Reader<'_>, lookups: &Lookups) -> Result<Latencies> {
    let mut found = Found::default();
    let mut latencies = Latencies::with_capacity(lookups.keys.len());
    for &key in &lookups.keys {
        let start = Instant::now();
        let one = reader(key)?;
        latencies.add(start.elapsed());
        found.merge(one);
    }
    check(found, lookups.expected)?;
    Ok(latencies)
}

/// Lookups in a second by two threads at once, each doing `count`.
pub(crate) fn two_threads(engine: &dyn Engine, keys: u64, count: usize) -> Result<f64> {
    let lookups = [present(keys, count, 11), present(keys, count, 12)];
    let start = Barrier::new(lookups.len());
    let work = |lookups: &Lookups| -> Result<Duration> {
        let mut reader = engine.reader();
        // Both wait for each other, also when one of them cannot begin.
        start.wait();
        let begin = Instant::now();
        let mut found = Found::default();
        if let Ok(reader) = &mut reader {
            for &key in &lookups.keys {
                found.merge(reader(key)?);
            }
        }
        let time = begin.elapsed();
        reader.map(drop)?;
        check(found, lookups.expected)?;
        Ok(time)
    };
    let times = thread::scope(|scope| {
        let threads: Vec<_> = lookups.iter().map(|lookups| scope.spawn(|| work(lookups))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Duration>>| {
            thread.join().map_err(|_| anyhow!("a reading thread panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    Ok(times.into_iter().map(|time| rate(count, time)).sum())
}

/// A broken engine is no fast engine.
pub(crate) fn check(found: Found, expected: Found) -> Result<()> {
    ensure!(
        found == expected,
        "the engine found {} values where {} were written, or others than those",
        found.count,
        expected.count
    );
    Ok(())
}
