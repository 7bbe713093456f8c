//! How long it takes until the first lookup after a clean close, and after `kill -9` in the middle of writing.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::compare::folder;
use super::writes::check_pairs;
use crate::Common;
use crate::engine::{Engine, Kind, Pair, Settings};
use crate::workload::{self, BATCH, Ids};

/// Batches that are durable before the process may be killed.
const BATCHES_BEFORE: u64 = 20;

/// How long it then goes on writing.
const TIME_BEFORE: Duration = Duration::from_millis(50);

/// Milliseconds to open and look up a key that is there.
pub(crate) fn clean(engine: Kind, folder: &Path, settings: &Settings, known: u128) -> Result<f64> {
    open_and_get(engine, folder, settings, known).map(|(time, _)| time)
}

/// The same after a process was killed while it wrote; what it acknowledged must be there.
pub(crate) fn killed(common: &Common, engine: Kind, folder: &Path, known: u128) -> Result<f64> {
    let mut child = Command::new(env::current_exe()?)
        .args(["write-until-killed", "--engine", engine.name()])
        .args(common.arguments())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("the child has no output")?;
    let mut acknowledged = BufReader::new(output).lines();
    for _ in 0..BATCHES_BEFORE {
        acknowledged.next().context("the writing process ended early")??;
    }
    thread::sleep(TIME_BEFORE);
    child.kill()?;
    child.wait()?;
    let mut batches = BATCHES_BEFORE;
    for line in acknowledged {
        line?;
        batches += 1;
    }

    let (time, database) = open_and_get(engine, folder, &common.settings(), known)?;
    check_pairs(&*database, (0..batches).flat_map(batch))
        .with_context(|| format!("{} lost what it had acknowledged", engine.name()))?;
    Ok(time)
}

/// The child: durable batches, each followed by a line, for ever.
pub(crate) fn write_until_killed(common: &Common, engine: Kind) -> Result<()> {
    // SAFETY: the call takes a signal number and touches no memory.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    ensure!(set == 0, "cannot ask to end with the parent: {}", io::Error::last_os_error());
    let database = engine.open(&folder(common, engine), &common.settings())?;
    let mut output = io::stdout();
    for number in 0.. {
        database.insert_batch(&batch(number).collect::<Vec<_>>())?;
        writeln!(output, "{number}")?;
    }
    Ok(())
}

fn batch(number: u64) -> impl Iterator<Item = Pair> {
    let first = number * BATCH as u64;
    (first..first + BATCH as u64).map(|number| (workload::id(Ids::Killed, number), workload::id(Ids::Value, number)))
}

fn open_and_get(engine: Kind, folder: &Path, settings: &Settings, known: u128) -> Result<(f64, Box<dyn Engine>)> {
    let start = Instant::now();
    let database = engine.open(folder, settings)?;
    let found = database.reader()?(known)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    ensure!(found.count == 1, "a key that was there is not after opening again");
    Ok((time, database))
}
