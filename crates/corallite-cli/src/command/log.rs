//! `corallite log`: the commits that can be rolled back to.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{Paint, Side, Table, bytes, table_time, time};

const EXAMPLES: &str = "\
Examples:
  corallite log models.h5
  corallite rollback models.h5 7";

/// List the commits that are kept, the newest last
///
/// Each command that changes a store makes one commit; the first is the empty store. A store keeps the last few, so that they can be rolled back to;
/// `corallite gc` gives them up. Times are in UTC.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,
}

#[derive(Debug, Serialize)]
struct Commit {
    number: u64,
    time: Option<String>,
    bytes: u64,
    #[serde(skip)]
    nanoseconds: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    /// The newest commit's number.
    current: u64,
    commits: Vec<Commit>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let commits = store.storage().versions()?;
    let current = store.storage().version()?.0;
    store.close()?;
    let commits = commits
        .into_iter()
        .map(|commit| Commit {
            number: commit.number.0,
            time: time(commit.time),
            bytes: commit.bytes,
            nanoseconds: commit.time,
        })
        .collect();
    let report = Report { current, commits };
    output.report(&report, |paint| render(&report, paint))?;
    Ok(Exit::Ok)
}

fn render(report: &Report, paint: Paint) -> String {
    let mut table =
        Table::new(&[("COMMIT", Side::Right), ("MADE", Side::Left), ("FILE", Side::Right), ("", Side::Left)]);
    for commit in &report.commits {
        let mark = if commit.number == report.current { "current" } else { "" };
        table.row([commit.number.to_string(), table_time(commit.nanoseconds), bytes(commit.bytes), mark.to_owned()]);
    }
    table.render(paint)
}
