//! What one engine is measured at in one round, in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::Common;
use crate::engine::{Engine, Kind};
use crate::measure::{Scratch, memory, seconds, warm};
use crate::workload::{self, INDEXED, Object, PROJECT, expected};

/// Objects of one durable batch.
const BATCH: u64 = 1_000;

/// The same while a database is filled, which is not measured.
const FILL_BATCH: u64 = 10_000;

/// Objects saved one at a time.
const SINGLES: u64 = 500;

/// Objects read once each.
const COLD: u64 = 20_000;

/// Objects read again and again, and how often.
const HOT: u64 = 1_000;
const PASSES: u64 = 50;

/// Names and projects looked up, and how many before that are not counted.
const NAMES: u64 = 5_000;
const PROJECTS: u64 = 40;
const UNCOUNTED: u64 = 10;

/// Figures by their names.
pub(crate) type Sample = BTreeMap<String, f64>;

/// A group of rows that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    Save,
    Single,
    Get,
    Query,
    Rebuild,
    Raw,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Single => "single",
            Self::Get => "get",
            Self::Query => "query",
            Self::Rebuild => "rebuild",
            Self::Raw => "raw",
        }
    }

    /// Who takes part.
    pub(crate) fn engines(self) -> &'static [Kind] {
        match self {
            Self::Save | Self::Get | Self::Query => &[Kind::Dbm, Kind::Store, Kind::Sqlite, Kind::Redb],
            Self::Single => &[Kind::Directory, Kind::Files],
            Self::Rebuild => &[Kind::Dbm, Kind::Store, Kind::Sqlite],
            Self::Raw => &[Kind::Directory, Kind::Store, Kind::Files],
        }
    }

    /// The sizes of the databases that have to be there.
    pub(crate) fn filled(self, objects: u64) -> Vec<u64> {
        match self {
            Self::Save | Self::Single | Self::Raw => Vec::new(),
            Self::Get | Self::Query => vec![objects],
            Self::Rebuild => vec![objects / 4, objects],
        }
    }

    /// Measures.
    pub(crate) fn run(self, common: &Common, engine: Kind) -> Result<Sample> {
        let figures = match self {
            Self::Save => save(common, engine)?,
            Self::Single => single(common, engine)?,
            Self::Get => get(common, engine)?,
            Self::Query => query(common, engine)?,
            Self::Rebuild => rebuild(common, engine)?,
            Self::Raw => raw(common, engine)?,
        };
        Ok(figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect())
    }
}

type Figures = Vec<(&'static str, f64)>;

/// Where a database of this size is.
pub(crate) fn filled(common: &Common, engine: Kind, objects: u64) -> PathBuf {
    common.dir.join(format!("filled-{}-{objects}", engine.name()))
}

/// The file that is stored by the part `raw`.
pub(crate) fn source(common: &Common) -> PathBuf {
    common.dir.join("source")
}

/// Makes that file: bytes of which no two are alike for long.
pub(crate) fn make_source(common: &Common) -> Result<()> {
    let mut bytes = blake3::Hasher::new().finalize_xof().take(common.raw_bytes);
    Ok(io::copy(&mut bytes, &mut File::create_new(source(common))?).map(drop)?)
}

/// Fills a database.
pub(crate) fn fill(common: &Common, engine: Kind, objects: u64) -> Result<()> {
    let database = engine.open(&filled(common, engine, objects))?;
    for first in (0..objects).step_by(FILL_BATCH as usize) {
        let numbers = first..objects.min(first + FILL_BATCH);
        database.save(numbers.map(|number| workload::object(number, objects)).collect())?;
    }
    Ok(())
}

fn scratch(common: &Common, engine: Kind) -> Result<Scratch> {
    Scratch::create(common.dir.join(engine.name()))
}

/// Seconds to save objects in batches; they are made before the clock runs.
fn saving(database: &dyn Engine, objects: u64, batch: u64) -> Result<f64> {
    let mut time = 0.0;
    for first in (0..objects).step_by(batch as usize) {
        let numbers = first..objects.min(first + batch);
        let batch: Vec<Object> = numbers.map(|number| workload::object(number, objects)).collect();
        time += seconds(|| database.save(batch))?;
    }
    check(database, objects)?;
    Ok(time)
}

/// A broken engine is no fast engine.
fn check(database: &dyn Engine, objects: u64) -> Result<()> {
    for number in workload::sample(objects, 100, 1) {
        ensure!(database.get(&workload::oid(number))? == workload::steps(number), "another object was found");
    }
    Ok(())
}

fn save(common: &Common, engine: Kind) -> Result<Figures> {
    let scratch = scratch(common, engine)?;
    let objects = common.saves();
    let time = saving(&*engine.open(&scratch.0)?, objects, BATCH)?;
    Ok(vec![("save", objects as f64 / time)])
}

fn single(common: &Common, engine: Kind) -> Result<Figures> {
    let scratch = scratch(common, engine)?;
    let objects = SINGLES.min(common.objects);
    let time = saving(&*engine.open(&scratch.0)?, objects, 1)?;
    Ok(vec![("single", objects as f64 / time)])
}

/// Microseconds for each of these objects.
fn getting(database: &dyn Engine, numbers: &[u64], passes: u64) -> Result<f64> {
    let oids: Vec<String> = numbers.iter().map(|&number| workload::oid(number)).collect();
    let mut sum = 0;
    let time = seconds(|| {
        for _ in 0..passes {
            for oid in &oids {
                sum += database.get(oid)?;
            }
        }
        Ok(())
    })?;
    ensure!(sum == expected(numbers.iter().copied()).steps * passes, "other objects were found");
    Ok(time * 1e6 / (numbers.len() as u64 * passes) as f64)
}

fn get(common: &Common, engine: Kind) -> Result<Figures> {
    let folder = filled(common, engine, common.objects);
    warm(&folder)?;
    let mut database = engine.open(&folder)?;
    let numbers = workload::sample(common.objects, COLD, 2);
    let cold = getting(&*database, &numbers, 1)?;
    let hot = &numbers[..numbers.len().min(HOT as usize)];
    getting(&*database, hot, 1)?;
    let again = getting(&*database, hot, PASSES)?;
    database.hold(&hot.iter().map(|&number| workload::oid(number)).collect::<Vec<_>>())?;
    let held = getting(&*database, hot, PASSES)?;
    Ok(vec![("get_cold", cold), ("get_again", again), ("get_cached", held)])
}

/// Microseconds for a look-up of each of these values.
fn finding(database: &dyn Engine, property: &str, values: &[(String, Vec<u64>)]) -> Result<f64> {
    let mut found = Vec::with_capacity(values.len());
    let (counted, uncounted) = values.split_at(values.len() - values.len().min(UNCOUNTED as usize) / 2);
    for (value, _) in uncounted {
        database.find(property, value)?;
    }
    let time = seconds(|| {
        for (value, _) in counted {
            found.push(database.find(property, value)?);
        }
        Ok(())
    })?;
    for ((value, numbers), found) in counted.iter().zip(found) {
        ensure!(found == expected(numbers.iter().copied()), "of {value} there is something else");
    }
    Ok(time * 1e6 / counted.len() as f64)
}

fn query(common: &Common, engine: Kind) -> Result<Figures> {
    let folder = filled(common, engine, common.objects);
    warm(&folder)?;
    let database = engine.open(&folder)?;
    let names: Vec<_> = workload::sample(common.objects, NAMES + UNCOUNTED, 4)
        .into_iter()
        .map(|number| (workload::name(number), vec![number]))
        .collect();
    let one = finding(&*database, INDEXED[0], &names)?;
    let all = workload::projects(common.objects);
    let projects: Vec<_> = workload::sample(all, PROJECTS + UNCOUNTED, 5)
        .into_iter()
        .map(|project| (workload::project(project), (project..common.objects).step_by(all as usize).collect()))
        .collect();
    let many = finding(&*database, INDEXED[1], &projects)?;
    Ok(vec![("query_one", one), ("query_many", many)])
}

/// Index entries in a second.
fn rebuilding(folder: &Path, engine: Kind, objects: u64) -> Result<f64> {
    warm(folder)?;
    let database = engine.open(folder)?;
    let mut entries = 0;
    let time = seconds(|| {
        entries = database.rebuild()?;
        Ok(())
    })?;
    ensure!(entries == objects * INDEXED.len() as u64, "{entries} entries were made");
    let found = database.find(INDEXED[1], &workload::project(0))?;
    ensure!(found.count >= objects.min(PROJECT), "the rebuilt index finds {}", found.count);
    Ok(entries as f64 / time)
}

fn rebuild(common: &Common, engine: Kind) -> Result<Figures> {
    let rate = |objects| rebuilding(&filled(common, engine, objects), engine, objects);
    let (quarter, whole) = (rate(common.objects / 4)?, rate(common.objects)?);
    Ok(vec![("rebuild_quarter", quarter), ("rebuild", whole), ("rebuild_linear", whole / quarter)])
}

fn raw(common: &Common, engine: Kind) -> Result<Figures> {
    let scratch = scratch(common, engine)?;
    let source = source(common);
    io::copy(&mut File::open(&source)?, &mut io::sink())?;
    let megabytes = common.raw_bytes as f64 / 1e6;
    let before = memory("VmRSS")?;
    let mut files = engine.open_files(&scratch.0)?;
    let put = seconds(|| files.put(&source))?;
    let mut length = 0;
    let take = seconds(|| {
        length = files.take()?;
        Ok(())
    })?;
    ensure!(length == common.raw_bytes, "{length} bytes came back");
    let grown = memory("VmHWM")?.saturating_sub(before);
    Ok(vec![("raw_in", megabytes / put), ("raw_out", megabytes / take), ("raw_memory", grown as f64 / 1e6)])
}
