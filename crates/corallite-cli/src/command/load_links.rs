//! `corallite load-links`: links from lines of text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use corallite::E;
use corallite::links::{CIDStore, LinksOptions};
use corallite::weights::{Hdf5Options, Watch};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{counted, printable};
use crate::work::Work;
use crate::{csv, opened, place};

const EXAMPLES: &str = "\
Examples:
  corallite load-links models.h5 links.csv
  zcat links.csv.gz | corallite load-links models.h5 -
  generate | corallite load-links models.h5 - --acknowledge    says what is durable";

/// Link pairs that a CSV file lists
///
/// Each line is `key,value`, without a head line: ids in hex or texts, in double quotes where they have commas. Blank
/// lines and lines that begin with # are skipped. Creates the store if there is none. Lines become durable in batches,
/// each as a whole; a line that cannot be read ends the command before anything of its batch is written, and the batches
/// before it stay. To go on after a failure load the whole file again: a pair that is linked already stays as it is.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file; created if it is missing
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The lines; - for standard input
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,

    /// How many pairs become durable together
    #[arg(long, value_name = "PAIRS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: u32,

    /// How large the log is made, if not by the file's size; a small one makes for many commits of the store
    #[arg(long, value_name = "BYTES", hide_short_help = true)]
    log_bytes: Option<u64>,

    /// After each batch print the number of the last line that is durable, on standard error
    #[arg(long)]
    acknowledge: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    file: String,
    /// Pairs read, also those that were linked already.
    loaded: u64,
    /// What the store holds now.
    keys: u64,
    pairs: u64,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut work = Work::begin()?;
    let (lines, length) = input(&arguments.file)?;
    place::check_folder(&arguments.store)?;
    if !arguments.acknowledge {
        match length {
            Some(length) => work.show(output, "loading", length),
            None => work.show_flow(output, "loading"),
        }
    }
    let links = LinksOptions::new().log_bytes(log_bytes(length, arguments));
    let (loaded, found) = opened::with_links(&arguments.store, Hdf5Options::new(), links, output, |store| {
        let links = store.links()?;
        let loaded = Load { arguments, output, work: &work, links, done: Done::default() }.run(lines)?;
        Ok((loaded, links.statistics()?))
    })?;
    drop(work);
    let report = Report {
        store: arguments.store.display().to_string(),
        file: arguments.file.display().to_string(),
        loaded,
        keys: found.keys,
        pairs: found.pairs,
        seconds: started.elapsed().as_secs_f64(),
    };
    output.done(&report, |_| {
        format!(
            "loaded {} in {:.2} s; {} has {} of {} now.\n",
            counted(report.loaded, "pair"),
            report.seconds,
            printable(&report.store),
            counted(report.pairs, "pair"),
            counted(report.keys, "key"),
        )
    })?;
    Ok(Exit::Ok)
}

/// Where the lines come from, and how many bytes they are where that is known.
fn input(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(stdin().lock()), None));
    }
    let bad = |error: std::io::Error| {
        let sentence =
            format!("{}: {error}; give a file of lines `key,value`, or - for standard input", path.display());
        Failure::new(Exit::BadInput, sentence)
    };
    let file = File::open(path).map_err(bad)?;
    let found = file.metadata().map_err(bad)?;
    if found.is_dir() {
        return Err(bad(std::io::ErrorKind::IsADirectory.into()));
    }
    let length = found.is_file().then_some(found.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), length))
}

/// A log that holds a few batches, and as much of the file as pays: making a large one takes longer than loading a few lines.
fn log_bytes(length: Option<u64>, arguments: &Arguments) -> u64 {
    /// `a,b` and the end of its line.
    const SHORTEST: u64 = 4;
    let least = (4 * opened::RECORD_BYTES * u64::from(arguments.batch + 1)).max(256 << 10);
    if let Some(bytes) = arguments.log_bytes {
        return least.max(bytes);
    }
    let whole = length.map_or(u64::MAX, |length| (length / SHORTEST).saturating_mul(opened::RECORD_BYTES));
    least.max(whole.min(64 << 20))
}

/// What is durable.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    pairs: u64,
    /// The last line.
    line: u64,
}

struct Load<'a> {
    arguments: &'a Arguments,
    output: &'a Output,
    work: &'a Work,
    links: &'a CIDStore,
    done: Done,
}

impl Load<'_> {
    fn run(mut self, mut lines: Box<dyn BufRead>) -> Result<u64, Failure> {
        let mut batch: Vec<(E, E)> = Vec::with_capacity(self.arguments.batch as usize);
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            // One more than is allowed tells that there is more.
            let mut limited = lines.by_ref().take(csv::LONGEST as u64 + 1);
            let length =
                limited.read_until(b'\n', &mut line).map_err(|error| self.bad(number + 1, &error.to_string()))?;
            if length > 0 {
                number += 1;
                if length > csv::LONGEST {
                    return Err(self.bad(number, "it is longer than 64 KiB"));
                }
                let pair = csv::pair(&line).map_err(|problem| self.bad(number, problem))?;
                batch.extend(pair.map(|(key, value)| (E::parse(&key), E::parse(&value))));
                self.work.advance(length as u64);
            }
            if batch.len() == self.arguments.batch as usize || length == 0 {
                if self.work.is_cancelled() {
                    return Err(Failure::new(Exit::Interrupted, "interrupted").and(&self.state()));
                }
                self.commit(&mut batch, number)?;
            }
            if length == 0 {
                return Ok(self.done.pairs);
            }
        }
    }

    fn commit(&mut self, batch: &mut Vec<(E, E)>, line: u64) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        self.links.batch_insert(batch).map_err(|error| Failure::from(error).and(&self.state()))?;
        self.done = Done { pairs: self.done.pairs + batch.len() as u64, line };
        batch.clear();
        self.work.on(&format!("{} durable", counted(self.done.pairs, "pair")));
        if self.arguments.acknowledge {
            self.output.progress(&line.to_string());
        }
        Ok(())
    }

    fn bad(&self, line: u64, problem: &str) -> Failure {
        let file = self.arguments.file.display();
        Failure::new(Exit::BadInput, format!("{file}, line {line}: {problem}")).and(&self.state())
    }

    /// What a command that did not get to the end leaves behind.
    fn state(&self) -> String {
        match self.done {
            Done { pairs: 0, .. } => "nothing was written".to_owned(),
            Done { pairs, line } => format!("{} up to line {line} are in the store", counted(pairs, "pair")),
        }
    }
}
