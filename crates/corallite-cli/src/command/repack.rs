//! `corallite repack`: every weight stored anew, as small as it gets.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use corallite::file::Mode;
use corallite::weights::{Compression, Hdf5Options, RepackOptions};
use serde::Serialize;

use super::add;
use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::place::length;
use crate::text::{Paint, bytes, counted, one_line, printable};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite repack models.h5                      codecs and deltas chosen anew
  corallite repack models.h5 --chain 0            every weight whole, none a delta
  corallite repack models.h5 --compression none   to be mapped into memory";

/// Store every weight anew: other codecs, other deltas
///
/// Chooses for every weight what it is best stored as the difference to, and compresses it. Useful after many checkpoints
/// were added or removed, or for stores of an older version. The store stays usable: the work is done in many commits, of
/// which each leaves everything readable, and when it is interrupted what was done stays done. The earlier commits that
/// could be rolled back to are given up, since they would keep the space. Damaged weights stay as they are and are named.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// How weights are compressed; see `add`
    #[arg(long, value_name = "HOW", default_value_t)]
    compression: Compression,

    /// How many deltas may lie one on another; 0 stores every weight whole
    #[arg(long, value_name = "DELTAS", default_value_t = add::CHAIN, value_parser = clap::value_parser!(u8).range(..=32))]
    chain: u8,
}

#[derive(Debug, Serialize)]
struct Damaged {
    key: String,
    problem: String,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    weights: u64,
    rewritten: u64,
    deltas: u64,
    stored_bytes_before: u64,
    stored_bytes: u64,
    file_bytes_before: u64,
    file_bytes: u64,
    damaged: Vec<Damaged>,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut work = Work::begin()?;
    let file_bytes_before = length(&arguments.store);
    let options = Hdf5Options::new().mode(Mode::ReadWrite);
    let repacked = opened::with_options(&arguments.store, options, output, |store| {
        let total = store.weights().sizes().map_or(0, |sizes| sizes.values().map(|(length, _)| length).sum());
        work.show(output, "repacking", total);
        let options = RepackOptions::new().compression(arguments.compression).longest_chain(arguments.chain.into());
        Ok(store.checkpoints().repack(options.watch(&work))?)
    })?;
    drop(work);
    let report = Report {
        store: arguments.store.display().to_string(),
        weights: repacked.weights,
        rewritten: repacked.rewritten,
        deltas: repacked.deltas,
        stored_bytes_before: repacked.bytes_before,
        stored_bytes: repacked.bytes_after,
        file_bytes_before,
        file_bytes: length(&arguments.store),
        damaged: repacked
            .damaged
            .into_iter()
            .map(|damage| Damaged { key: damage.name, problem: damage.problem })
            .collect(),
        seconds: started.elapsed().as_secs_f64(),
    };
    let exit = if report.damaged.is_empty() { Exit::Ok } else { Exit::Damaged };
    if report.damaged.is_empty() {
        output.done(&report, |paint| render(&report, paint))?;
    } else {
        output.report(&report, |paint| render(&report, paint))?;
    }
    Ok(exit)
}

fn render(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    for Damaged { key, problem } in &report.damaged {
        let _ = writeln!(out, "{} weight {}: {}", paint.red("damaged"), printable(key), one_line(problem));
    }
    let _ = writeln!(
        out,
        "{} of {} stored anew, {} of them as deltas; weights take {} (before: {}), {} has {} (before: {}), in {:.2} s.",
        report.rewritten,
        counted(report.weights, "weight"),
        report.deltas,
        bytes(report.stored_bytes),
        bytes(report.stored_bytes_before),
        printable(&report.store),
        bytes(report.file_bytes),
        bytes(report.file_bytes_before),
        report.seconds,
    );
    out
}
