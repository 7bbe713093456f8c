//! A durable multi-map of 128-bit ids, measured against LMDB, redb, fjall and RocksDB. See README.md.

mod corallite;
mod engine;
mod measure;
mod peers;
mod report;
mod rounds;
mod sample;
mod workload;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::engine::{Kind, Settings};
use crate::rounds::reopen::Kill;
use crate::rounds::{cold, compare, growth, larger_than_memory, one, reopen};

/// Durable multi-maps of 128-bit ids, compared.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All engines, round after round; medians and ratios against the best peer.
    Compare {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        output: Output,
        /// Engines, separated by commas [default: all].
        #[arg(long, value_delimiter = ',')]
        engines: Vec<Kind>,
        /// Keys; there are about 1.7 times as many pairs.
        #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
        keys: u64,
        /// How often each engine is measured.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// What inserts and lookups cost one engine as it grows.
    Growth {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        output: Output,
        /// The engine.
        #[arg(long)]
        engine: Kind,
        /// The sizes at which it is measured.
        #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000, 50_000_000])]
        keys: Vec<u64>,
    },
    /// One engine with four times as much data as memory.
    LargerThanMemory {
        #[command(flatten)]
        output: Output,
        /// A folder on the disk to measure, as for the others.
        #[arg(long)]
        dir: PathBuf,
        /// The engine.
        #[arg(long)]
        engine: Kind,
        /// The memory, in bytes; half of it becomes the engine's cache.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1 << 24..))]
        memory: u64,
    },
    /// How long opening takes one engine: after a clean close, and after a kill with all that can be left to recover.
    Reopen {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        output: Output,
        /// The engine.
        #[arg(long)]
        engine: Kind,
        /// Keys that are there.
        #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
        keys: u64,
        /// How often it is opened after a clean close.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        times: u64,
    },
    /// What lookups cost one engine with nothing in memory. Drops the page cache of the machine, as root.
    Cold {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        output: Output,
        /// The engine.
        #[arg(long)]
        engine: Kind,
        /// Keys that are there.
        #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
        keys: u64,
    },
    /// One round of one engine, as JSON.
    #[command(hide = true)]
    One {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        engine: Kind,
        #[arg(long)]
        keys: u64,
    },
    /// Durable batches until it is killed, in the folder of a round.
    #[command(hide = true)]
    WriteUntilKilled {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        engine: Kind,
        /// Only as many as fill the log, which no checkpoint then empties.
        #[arg(long)]
        log_full: bool,
    },
}

/// What every command needs to know.
#[derive(Args, Clone)]
struct Common {
    /// A folder on the disk to measure; each engine gets a folder within, removed at the end.
    #[arg(long)]
    dir: PathBuf,
    /// Memory for each engine's cache of pages or blocks.
    #[arg(long, default_value_t = 2 << 30)]
    cache_bytes: u64,
}

impl Common {
    fn settings(&self) -> Settings {
        Settings { cache_bytes: self.cache_bytes }
    }

    /// The same for another process.
    fn arguments(&self) -> [OsString; 4] {
        let cache = self.cache_bytes.to_string();
        ["--dir".into(), self.dir.clone().into(), "--cache-bytes".into(), cache.into()]
    }
}

/// Where the report goes besides standard output.
#[derive(Args)]
struct Output {
    /// Everything that was measured, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Compare { common, output, engines, keys, rounds } => {
            let engines = if engines.is_empty() { Kind::value_variants() } else { &engines };
            compare::run(&common, &output, engines, keys, rounds)
        }
        Command::Growth { common, output, engine, keys } => growth::run(&common, &output, engine, &keys),
        Command::LargerThanMemory { output, dir, engine, memory } => {
            let common = Common { dir, cache_bytes: memory / 2 };
            larger_than_memory::run(&common, &output, engine, memory)
        }
        Command::Reopen { common, output, engine, keys, times } => reopen::run(&common, &output, engine, keys, times),
        Command::Cold { common, output, engine, keys } => cold::run(&common, &output, engine, keys),
        Command::One { common, engine, keys } => {
            let sample = one::run(&common, engine, keys)?;
            Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&sample)?)?)
        }
        Command::WriteUntilKilled { common, engine, log_full } => {
            let kill = if log_full { Kill::LogFull } else { Kill::Writing };
            reopen::write_until_killed(&common, engine, kill)
        }
    }
}
