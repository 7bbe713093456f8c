//! `corallite verify`: every byte that is stored, looked at.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use corallite::weights::Damage;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{Paint, bytes, counted, one_line, printable, speed};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite verify models.h5
  corallite verify models.h5 --quiet || mail -s 'models.h5 is damaged' me";

/// Read everything and check every chunk and every hash
///
/// Prints each damaged weight, delta, checkpoint and part of the links on a line of its own and exits with 1 if there is
/// any. Nothing is changed or repaired. A weight without a hash of its content, as other programs may write them, can be decoded but
/// not checked, and is counted apart.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,
}

#[derive(Debug, Serialize)]
struct Damaged {
    /// `weight`, `delta`, `checkpoint`, `links` or `file`.
    kind: &'static str,
    /// The key or name.
    key: String,
    /// The tensor's name, where it could be read.
    name: Option<String>,
    problem: String,
}

impl From<Damage> for Damaged {
    fn from(damage: Damage) -> Self {
        Self { kind: damage.kind, key: damage.name, name: damage.label, problem: damage.problem }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    ok: bool,
    verified: u64,
    unverifiable: u64,
    bytes: u64,
    damaged: Vec<Damaged>,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut work = Work::begin()?;
    let store = opened::to_read(&arguments.store)?;
    if stderr().is_terminal() {
        // Only for the bar; what damage keeps it from being known is found below.
        let total = store.weights().sizes().map_or(0, |sizes| sizes.values().map(|(length, _)| length).sum());
        work.show(output, "verifying", total);
    }
    let found = store.verify(&work)?;
    drop(work);
    store.close()?;
    let report = Report {
        store: arguments.store.display().to_string(),
        ok: found.damaged.is_empty(),
        verified: found.verified,
        unverifiable: found.unverifiable,
        bytes: found.bytes,
        damaged: found.damaged.into_iter().map(Damaged::from).collect(),
        seconds: started.elapsed().as_secs_f64(),
    };
    let quiet = output.is_quiet();
    output.report(&report, |paint| render(&report, paint, quiet))?;
    Ok(if report.ok { Exit::Ok } else { Exit::Damaged })
}

fn render(report: &Report, paint: Paint, quiet: bool) -> String {
    let mut out = String::new();
    for damaged in &report.damaged {
        let name = damaged.name.as_ref().map_or_else(String::new, |name| format!(" ({})", printable(name)));
        let (kind, key, problem) = (damaged.kind, printable(&damaged.key), one_line(&damaged.problem));
        let _ = writeln!(out, "{} {kind} {key}{name}: {problem}", paint.red("damaged"));
    }
    if quiet {
        return out;
    }
    let checked = format!(
        "{} and all links, objects and files verified, {} of weights in {:.2} s, {}",
        counted(report.verified, "weight"),
        bytes(report.bytes),
        report.seconds,
        speed(report.bytes, report.seconds),
    );
    let unverifiable = match report.unverifiable {
        0 => String::new(),
        count => format!("; {count} without a hash to check them against"),
    };
    let _ = match report.damaged.len() {
        0 => writeln!(out, "{} {checked}{unverifiable}", paint.green("ok:")),
        count => writeln!(
            out,
            "{} {} found; {checked}{unverifiable}; restore the store from a backup, or remove the \
             checkpoints that have it, run `corallite gc` and add their files again",
            paint.red("damaged:"),
            counted(count as u64, "problem"),
        ),
    };
    out
}
