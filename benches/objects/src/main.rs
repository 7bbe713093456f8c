//! Objects and files, measured against SQLite, redb and the file system. See README.md.

mod compare;
mod corallite;
mod engine;
mod measure;
mod parts;
mod peers;
mod report;
mod workload;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::engine::Kind;
use crate::parts::Part;

/// Objects and files, compared.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All engines, round after round; medians and ratios against the peers.
    Compare {
        #[command(flatten)]
        common: Common,
        /// Everything that was measured, as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// What to measure, separated by commas [default: all].
        #[arg(long, value_delimiter = ',')]
        rows: Vec<Part>,
        /// How often each engine is measured.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// One round of one engine, as JSON. What it is filled with has to be there.
    #[command(hide = true)]
    One {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        engine: Kind,
        #[arg(long)]
        part: Part,
    },
    /// Fills a database for rounds to come.
    #[command(hide = true)]
    Fill {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        engine: Kind,
        #[arg(long)]
        count: u64,
    },
}

/// What every command needs to know.
#[derive(Args, Clone)]
struct Common {
    /// A folder on the disk to measure; each engine gets folders within, removed at the end.
    #[arg(long)]
    dir: PathBuf,
    /// Objects that are found in, and indexed again. A tenth of them is saved, but at least 100,000 if there are as many.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(4_000..))]
    objects: u64,
    /// Bytes of the file that is stored.
    #[arg(long, default_value_t = 1_000_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    raw_bytes: u64,
}

impl Common {
    /// Objects that are saved in batches.
    fn saves(&self) -> u64 {
        (self.objects / 10).max(100_000.min(self.objects))
    }

    /// The same for another process.
    fn arguments(&self) -> [OsString; 6] {
        let (objects, bytes) = (self.objects.to_string(), self.raw_bytes.to_string());
        let dir = self.dir.clone().into();
        ["--dir".into(), dir, "--objects".into(), objects.into(), "--raw-bytes".into(), bytes.into()]
    }
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare { common, json, rows, rounds } => {
            let rows = if rows.is_empty() { Part::value_variants() } else { &rows };
            compare::run(&common, rows, rounds, json.as_deref())
        }
        Command::One { common, engine, part } => {
            let sample = part.run(&common, engine)?;
            Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&sample)?)?)
        }
        Command::Fill { common, engine, count } => parts::fill(&common, engine, count),
    }
}
