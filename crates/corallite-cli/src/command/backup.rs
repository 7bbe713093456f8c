//! `corallite backup`: a copy of a store while it is used.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::copy::Copy;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::place;
use crate::text::{bytes, counted, printable};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite backup models.h5 backups/monday.h5
  corallite backup models.h5 backup.h5 --force    in place of the backup before";

/// Copy a store, also while another program writes it
///
/// The backup is a store of its own, in one file: the newest commit, and the links that were acknowledged since, which are
/// still in the log beside the store. What was acknowledged before the command began is in it, and of what comes
/// meanwhile whole batches or nothing. It is written beside its place and moved there when it is whole and on the disk; a copy
/// that takes the place of a backup is verified before. The
/// earlier commits that the store could be rolled back to are not in it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "H5FILE")]
    store: PathBuf,

    /// The file to write
    #[arg(value_name = "BACKUPFILE")]
    backup: PathBuf,

    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    backup: String,
    /// The commit of the store that was copied.
    commit: u64,
    /// Changes of links that were in the log only.
    changes_from_log: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut work = Work::begin()?;
    let target = place::target(&arguments.backup)?;
    place::check_folder(&target)?;
    place::check_apart(&target, &arguments.store)?;
    if target.exists() && !arguments.force {
        let sentence =
            format!("{} exists; give another file to write, or replace it with --force", arguments.backup.display());
        return Err(Failure::new(Exit::Usage, sentence));
    }
    if !arguments.force {
        place::check_alone(&target)?;
    }
    let copy = Copy::make(&arguments.store, &target, output, &mut work)?;
    if target.exists() {
        // It may be the only good one.
        copy.verify(&arguments.store, &work)?;
    }
    let (commit, recovered) = (copy.commit.0, copy.recovered);
    copy.put()?;
    drop(work);
    let report = Report {
        store: arguments.store.display().to_string(),
        backup: arguments.backup.display().to_string(),
        commit,
        changes_from_log: recovered,
        bytes: std::fs::metadata(&target).map_or(0, |found| found.len()),
        seconds: started.elapsed().as_secs_f64(),
    };
    output.done(&report, |_| {
        let from_log = match report.changes_from_log {
            0 => String::new(),
            count => format!(" and {} of links from its log", counted(count, "change")),
        };
        format!(
            "{} is commit {} of {}{from_log}, {} in {:.2} s.\n",
            printable(&report.backup),
            report.commit,
            printable(&report.store),
            bytes(report.bytes),
            report.seconds,
        )
    })?;
    Ok(Exit::Ok)
}
