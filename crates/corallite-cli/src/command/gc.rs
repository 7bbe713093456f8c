//! `corallite gc`: the space of weights that no checkpoint needs.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{bytes, counted, printable};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite rm models.h5 old && corallite gc models.h5";

/// Free the weights that no checkpoint needs any more
///
/// Weights that were stored by themselves stay, and so do those that a delta builds on. The earlier commits that could
/// be rolled back to are given up, since they would keep the space. The file becomes shorter where its end is free;
/// what is free inside it is used by what is added next.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    weights: u64,
    stored_bytes: u64,
    file_bytes_before: u64,
    file_bytes: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let work = Work::begin()?;
    let file_bytes_before = length(&arguments.store);
    let freed = opened::to_change(&arguments.store, output, |store| Ok(store.checkpoints().gc(&work)?))?;
    let report = Report {
        store: arguments.store.display().to_string(),
        weights: freed.weights,
        stored_bytes: freed.bytes,
        file_bytes_before,
        file_bytes: length(&arguments.store),
    };
    output.done(&report, |_| {
        format!(
            "freed {}, {}; {} has {} (before: {}).\n",
            counted(report.weights, "weight"),
            bytes(report.stored_bytes),
            printable(&report.store),
            bytes(report.file_bytes),
            bytes(report.file_bytes_before),
        )
    })?;
    Ok(Exit::Ok)
}

/// The file's length; what is wrong with a file that has none is for the opening to say.
fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}
