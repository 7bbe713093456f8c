//! `corallite gc`: the space of weights that no checkpoint needs.

use std::path::PathBuf;

use clap::Args;
use corallite::file::Mode;
use corallite::weights::Hdf5Options;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::place::length;
use crate::text::{bytes, counted, printable};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite rm models.h5 old && corallite gc models.h5
  corallite gc models.h5 --compact    as small as its links can be";

/// Free the weights that no checkpoint needs any more
///
/// Weights that were stored by themselves stay, and so do those that a delta builds on. The earlier commits that could
/// be rolled back to are given up, since they would keep the space. The file becomes shorter where its end is free;
/// what is free inside it is used by what is added next. Links take what they take, until --compact writes them anew.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// Write all links anew, with full buckets and close together
    #[arg(long)]
    compact: bool,
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
    let options = Hdf5Options::new().mode(Mode::ReadWrite);
    let links = opened::few_links(0).expires_versions(true);
    let freed = opened::with_links(&arguments.store, options, links, output, |store| {
        let freed = store.checkpoints().gc(&work)?;
        if arguments.compact && store.has_links()? {
            work.on("compacting links");
            store.links()?.compact()?;
        }
        Ok(freed)
    })?;
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
