//! How long it takes until the first lookup after a clean close, and after `kill -9`: in the middle of writing, or
//! with as much to recover as there can be.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::compare::folder;
use super::gets::{self, check};
use super::writes::check_pairs;
use super::{progress, writes};
use crate::engine::{Engine, Found, Kind, Pair, Settings};
use crate::measure::Scratch;
use crate::workload::{self, BATCH, Ids};
use crate::{Common, Output, report};

/// Batches that are durable before the process may be killed.
const BATCHES_BEFORE: u64 = 20;

/// How long it then goes on writing.
const TIME_BEFORE: Duration = Duration::from_millis(50);

/// Batches that fill 95 % of Corallite's log. It has room for 1,048,576 records: the pairs, and one for each batch.
const BATCHES_IN_LOG: u64 = 100;

/// Keys looked up at the end, besides what the killed process wrote.
const CHECKED: u64 = 100_000;

/// A key, and what a lookup of it must find.
pub(crate) type Known = (u128, Found);

/// When the writing process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// While it writes.
    Writing,
    /// When its log is nearly full of what is nowhere else.
    LogFull,
}

/// What was measured at one size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reopened {
    pub(crate) keys: u64,
    /// Milliseconds of each opening after a clean close.
    pub(crate) clean: Vec<f64>,
    /// Milliseconds after the kill.
    pub(crate) killed: f64,
    /// Pairs that the killed process wrote.
    pub(crate) written: u64,
    /// How many of them came from the log, if the engine tells.
    pub(crate) replayed: Option<u64>,
}

/// Fills the engine, opens it so many times after a clean close and once after a kill with a full log, and reports.
pub(crate) fn run(common: &Common, output: &Output, engine: Kind, keys: u64, times: u64) -> Result<()> {
    let (folder, settings) = (&folder(common, engine), &common.settings());
    let _scratch = Scratch::create(folder)?;
    progress(&format!("{}: {keys} keys", engine.name()));
    writes::fill(&*engine.open(folder, settings)?, 0..keys)?;

    let known = |number| (workload::id(Ids::Key, number), workload::expected(number));
    let clean = (0..times).map(|time| clean(engine, folder, settings, known(time % keys))).collect::<Result<_>>()?;
    progress(&format!("{}: kill -9", engine.name()));
    let killed = killed(common, engine, folder, known(0), Kill::LogFull)?;
    gets::once(&*killed.database, &gets::present(keys, CHECKED.min(keys) as usize, 1))?;

    let replayed = killed.database.replayed();
    let reopened = Reopened { keys, clean, killed: killed.time, written: killed.written, replayed };
    report::reopen(common, output, engine, &reopened)
}

/// Milliseconds to open and look up a key that is there.
pub(crate) fn clean(engine: Kind, folder: &Path, settings: &Settings, known: Known) -> Result<f64> {
    open_and_get(engine, folder, settings, known).map(|(time, _)| time)
}

/// What was found after a kill.
pub(crate) struct Killed {
    /// Milliseconds to open and look up.
    pub(crate) time: f64,
    /// Pairs that the process acknowledged.
    written: u64,
    database: Box<dyn Engine>,
}

/// The same after a process was killed; what it acknowledged must be there.
pub(crate) fn killed(common: &Common, engine: Kind, folder: &Path, known: Known, kill: Kill) -> Result<Killed> {
    let mut child = Command::new(env::current_exe()?)
        .args(["write-until-killed", "--engine", engine.name()])
        .args(common.arguments())
        .args((kill == Kill::LogFull).then_some("--log-full"))
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("the child has no output")?;
    let mut acknowledged = BufReader::new(output).lines();
    let (batches_before, time_before) = match kill {
        Kill::Writing => (BATCHES_BEFORE, TIME_BEFORE),
        Kill::LogFull => (BATCHES_IN_LOG, Duration::ZERO),
    };
    for _ in 0..batches_before {
        acknowledged.next().context("the writing process ended early")??;
    }
    thread::sleep(time_before);
    child.kill()?;
    child.wait()?;
    let mut batches = batches_before;
    for line in acknowledged {
        line?;
        batches += 1;
    }

    let (time, database) = open_and_get(engine, folder, &common.settings(), known)?;
    check_pairs(&*database, (0..batches).flat_map(batch))
        .with_context(|| format!("{} lost what it had acknowledged", engine.name()))?;
    Ok(Killed { time, written: batches * BATCH as u64, database })
}

/// The child: durable batches, each followed by a line, for ever; or as many as the log holds.
pub(crate) fn write_until_killed(common: &Common, engine: Kind, kill: Kill) -> Result<()> {
    // SAFETY: the call takes a signal number and touches no memory.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    ensure!(set == 0, "cannot ask to end with the parent: {}", io::Error::last_os_error());
    let database = engine.open(&folder(common, engine), &common.settings())?;
    let write = |number| -> Result<()> {
        database.insert_batch(&batch(number).collect::<Vec<_>>())?;
        Ok(writeln!(io::stdout(), "{number}")?)
    };
    match kill {
        Kill::Writing => (0..).try_for_each(write),
        Kill::LogFull => {
            // To create the log may take a checkpoint.
            write(0)?;
            database.without_checkpoints(&|| {
                (1..BATCHES_IN_LOG).try_for_each(write)?;
                loop {
                    thread::park();
                }
            })
        }
    }
}

fn batch(number: u64) -> impl Iterator<Item = Pair> {
    let first = number * BATCH as u64;
    (first..first + BATCH as u64).map(|number| (workload::id(Ids::Killed, number), workload::id(Ids::Value, number)))
}

fn open_and_get(
    engine: Kind,
    folder: &Path,
    settings: &Settings,
    (key, expected): Known,
) -> Result<(f64, Box<dyn Engine>)> {
    let start = Instant::now();
    let database = engine.open(folder, settings)?;
    let found = database.reader()?(key)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    check(found, expected).context("looking up a key after opening again")?;
    Ok((time, database))
}
