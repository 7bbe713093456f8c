//! `corallite restore`: a backup becomes the store again.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use corallite::file::{self, Mode};
use corallite::weights::Hdf5Options;
use corallite::{Error, Store};
use serde::Serialize;

use crate::copy::Copy;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::place;
use crate::text::{bytes, counted, printable};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite restore backup.h5 models.h5            where models.h5 is missing or damaged
  corallite restore backup.h5 models.h5 --force    in place of whatever is there";

/// Make a backup the store again
///
/// Any store serves as a backup, also one that was copied by hand together with its -journal and its -wal. It is copied
/// beside its place, with the links that are only in its log; every chunk, hash and link of the copy is checked; then it
/// is moved there. Until then what is at H5FILE stays. A store in good order is replaced only with --force, and so is a
/// file that is no store; one that another program is writing never is. The backup is not changed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The backup
    #[arg(value_name = "BACKUPFILE")]
    backup: PathBuf,

    /// The store to write, an HDF5 file
    #[arg(value_name = "H5FILE")]
    store: PathBuf,

    /// Replace even a store in good order, or a file that is no store
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    backup: String,
    store: String,
    /// Changes of links that were in the backup's log only.
    changes_from_log: u64,
    /// Weights whose hash was checked.
    verified: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut work = Work::begin()?;
    let target = place::target(&arguments.store)?;
    place::check_folder(&target)?;
    place::check_apart(&target, &arguments.backup)?;
    if !arguments.force {
        place::check_alone(&target)?;
        check_replaceable(&target, &work)?;
    }
    check_unused(&target)?;
    let copy = Copy::make(&arguments.backup, &target, output, &mut work)?;
    let verified = copy.verify(&arguments.backup, &work)?;
    let recovered = copy.recovered;
    copy.put()?;
    drop(work);
    let report = Report {
        backup: arguments.backup.display().to_string(),
        store: arguments.store.display().to_string(),
        changes_from_log: recovered,
        verified,
        bytes: std::fs::metadata(&target).map_or(0, |found| found.len()),
        seconds: started.elapsed().as_secs_f64(),
    };
    output.done(&report, |_| {
        format!(
            "{} is what {} holds, {} in {:.2} s; {} and all links, objects and files verified.\n",
            printable(&report.store),
            printable(&report.backup),
            bytes(report.bytes),
            report.seconds,
            counted(report.verified, "weight"),
        )
    })?;
    Ok(Exit::Ok)
}

/// Refuses to replace what somebody may still want.
fn check_replaceable(target: &Path, work: &Work) -> Result<(), Failure> {
    let refuse = |what: &str| {
        let sentence = format!("{} is {what}; give another path, or replace it with --force", target.display());
        Err(Failure::new(Exit::Usage, sentence))
    };
    let empty = std::fs::metadata(target).map_or(true, |found| found.len() == 0);
    if empty {
        return Ok(());
    }
    match Store::open_read_only(target) {
        Ok(store) => {
            let found = store.verify(work)?;
            store.close()?;
            if found.damaged.is_empty() { refuse("a store in good order") } else { Ok(()) }
        }
        Err(Error::File(file::Error::NotHdf5 { .. } | file::Error::ForeignFile { .. })) => refuse("no store"),
        Err(Error::File(file::Error::NewerFormat { .. })) => refuse("a store of a newer Corallite"),
        Err(error @ Error::File(file::Error::Io { .. } | file::Error::Locked { .. })) => Err(Failure::opening(error)),
        // Whatever else keeps it from being opened is a reason to restore it.
        Err(_) => Ok(()),
    }
}

/// Refuses to replace a store that another program is writing.
fn check_unused(target: &Path) -> Result<(), Failure> {
    if !target.exists() {
        return Ok(());
    }
    match Store::open_with(target, Hdf5Options::new().mode(Mode::ReadWrite)) {
        Ok(store) => Ok(store.abandon()?),
        Err(error @ Error::File(file::Error::Busy { .. } | file::Error::Locked { .. })) => Err(Failure::opening(error)),
        Err(_) => Ok(()),
    }
}
