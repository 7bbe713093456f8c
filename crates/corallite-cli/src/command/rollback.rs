//! `corallite rollback`: an earlier commit becomes the newest.

use std::path::PathBuf;

use clap::Args;
use corallite::file::{CommitNumber, Mode, Options};
use corallite::weights::Hdf5Options;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::printable;

/// More commits than any command that changes a store keeps.
const KEPT: usize = 16;

const EXAMPLES: &str = "\
Examples:
  corallite log models.h5           the commits there are
  corallite rollback models.h5 7    the store is what it was after commit 7";

/// Make the store what it was after an earlier commit
///
/// That state becomes a new commit; the ones between stay in the log as long as they are kept, so a rollback can be
/// rolled back too. Links are those of that commit: ones that were made since are gone with it. Ones that a crash left in
/// their log become a commit first, to which the store can be rolled back.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The commit's number, as `corallite log` lists it
    #[arg(value_name = "VERSION")]
    version: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    /// The commit whose state the store has now.
    version: u64,
    /// The number of the commit that brought it back.
    commit: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let version = CommitNumber(arguments.version);
    // Links that a crash left in their log become a commit first; it must not push out the one that is asked for.
    let kept = Options::new().history(KEPT);
    let options = Hdf5Options::new().mode(Mode::ReadWrite).storage(kept);
    let commit = opened::with_options(&arguments.store, options, output, |store| Ok(store.rollback(version)?))?;
    let report = Report { store: arguments.store.display().to_string(), version: arguments.version, commit: commit.0 };
    output.done(&report, |_| {
        let store = printable(&report.store);
        if report.commit == report.version {
            format!("{store} is at commit {} already; nothing was changed.\n", report.version)
        } else {
            format!("{store} is what it was after commit {}; that is commit {} now.\n", report.version, report.commit)
        }
    })?;
    Ok(Exit::Ok)
}
