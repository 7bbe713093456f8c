//! `corallite migrate`: the links' structure in the form that fits its size.

use std::path::PathBuf;

use clap::Args;
use corallite::file::Mode;
use corallite::links::DirectoryForm;
use corallite::weights::Hdf5Options;
use corallite::{CHECKPOINT, Error};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{counted, printable};

const EXAMPLES: &str = "\
Examples:
  corallite migrate models.h5
  corallite migrate models.h5 --json | jq -r .directory
  corallite migrate models.h5 --salvage           where the log is damaged or missing, and there is no backup";

/// Bring an older store up to date, and the links into their canonical layout
///
/// Every checkpoint gets its object, which `tag`, `set` and `find` work on.
/// Changes that were appended since the buckets were written are folded into them, what is in the log comes into the file,
/// and the directory is stored in the form that fits its size: an attribute of /config, the dataset /dir, or a dataset
/// below /dir for each partition. It happens by itself as a store grows; this command makes it so now, for a program that
/// reads the buckets with h5py.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "H5FILE")]
    store: PathBuf,

    /// Give up what a damaged log held behind the damage, or a missing log altogether
    #[arg(long)]
    salvage: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    /// `attribute`, `dataset` or `sharded`; `null` in a store that never had links.
    directory: Option<&'static str>,
    partitions: u64,
    /// Checkpoints that have an object.
    checkpoints: u64,
    keys: u64,
    pairs: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let options = Hdf5Options::new().mode(Mode::ReadWrite);
    let links = opened::few_links(0).salvage(arguments.salvage);
    let report = opened::with_links(&arguments.store, options, links, output, |store| {
        let checkpoints = store.objects()?.count(CHECKPOINT).map_err(Error::from)?;
        let links = store.links()?;
        // Without links there is nothing to lay out, and nothing to begin either.
        let directory = match store.has_links()? {
            true => Some(name(links.migrate_directory()?)),
            false => None,
        };
        let found = links.statistics()?;
        let partitions = directory.map_or(0, |_| found.partitions);
        let store = arguments.store.display().to_string();
        Ok(Report { store, directory, partitions, checkpoints, keys: found.keys, pairs: found.pairs })
    })?;
    output.done(&report, |_| {
        let store = printable(&report.store);
        let described = format!("{store}: {} can be found;", counted(report.checkpoints, "checkpoint"));
        let Some(directory) = report.directory else { return format!("{described} it has no links.\n") };
        format!(
            "{described} {} of {} in {}; the directory is stored as {directory}.\n",
            counted(report.pairs, "pair"),
            counted(report.keys, "key"),
            counted(report.partitions, "partition"),
        )
    })?;
    Ok(Exit::Ok)
}

fn name(form: DirectoryForm) -> &'static str {
    match form {
        DirectoryForm::Attribute => "attribute",
        DirectoryForm::Dataset => "dataset",
        DirectoryForm::Sharded => "sharded",
    }
}
