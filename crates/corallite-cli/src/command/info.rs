//! `corallite info`: how much a store holds, and how much that takes.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{Paint, bar, bytes, counted, printable};

/// Characters a bar is wide.
const WIDTH: usize = 40;

const EXAMPLES: &str = "\
Examples:
  corallite info models.h5
  corallite info models.h5 --json | jq .ratio";

/// Show how much a store holds and how much it saves
///
/// Logical is what the model files take together, and the loose weights; stored is what the weights' data takes in
/// the file, each once and compressed; file is the length of the store. Links and objects are counted where there are any.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,
}

#[derive(Debug, Serialize)]
struct Links {
    keys: u64,
    pairs: u64,
}

#[derive(Debug, Serialize)]
struct Objects {
    objects: u64,
    /// Contents of files, each once.
    files: u64,
    /// What objects and indexes take.
    page_bytes: u64,
    file_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    weights: u64,
    checkpoints: u64,
    logical_bytes: u64,
    stored_bytes: u64,
    file_bytes: u64,
    /// `null` in a store that never had any.
    links: Option<Links>,
    /// `null` in a store that never had any.
    objects: Option<Objects>,
    ratio: Option<f64>,
    commit: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let info = store.info()?;
    let commit = store.storage().version()?.0;
    store.close()?;
    let report = Report {
        store: arguments.store.display().to_string(),
        weights: info.weights,
        checkpoints: info.checkpoints,
        logical_bytes: info.logical_bytes,
        stored_bytes: info.stored_bytes,
        file_bytes: info.file_bytes,
        links: info.links.map(|links| Links { keys: links.keys, pairs: links.pairs }),
        objects: info.objects.map(|found| Objects {
            objects: found.objects,
            files: found.files,
            page_bytes: found.page_bytes,
            file_bytes: found.file_bytes,
        }),
        ratio: info.ratio(),
        commit,
    };
    output.report(&report, |paint| render(&report, paint))?;
    Ok(Exit::Ok)
}

fn render(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let (weights, checkpoints) = (counted(report.weights, "weight"), counted(report.checkpoints, "checkpoint"));
    let _ =
        writeln!(out, "{}: {checkpoints}, {weights}, commit {}", paint.bold(&printable(&report.store)), report.commit);
    let whole = report.logical_bytes.max(report.stored_bytes).max(report.file_bytes);
    for (label, count) in
        [("logical", report.logical_bytes), ("stored", report.stored_bytes), ("file", report.file_bytes)]
    {
        let bar = bar(count, whole, WIDTH);
        let coloured = if label == "logical" { paint.yellow(&bar) } else { paint.green(&bar) };
        let _ = writeln!(out, "  {label:8}{:>10}  {coloured}", bytes(count));
    }
    if let Some(ratio) = report.ratio {
        let share = 100.0 * report.stored_bytes as f64 / report.logical_bytes.max(1) as f64;
        let _ = writeln!(out, "  ratio   {ratio:>10.2}  {}", paint.dim(&format!("stored in {share:.1} % of the size")));
    }
    if let Some(links) = &report.links {
        let what = if links.pairs == 1 { "pair" } else { "pairs" };
        let _ = writeln!(out, "  links   {:>10}  {what} of {}", links.pairs, counted(links.keys, "key"));
    }
    if let Some(objects) = &report.objects {
        let what = if objects.objects == 1 { "object" } else { "objects" };
        let files = match objects.files {
            0 => String::new(),
            count => format!(", {} of {}", counted(count, "file"), bytes(objects.file_bytes)),
        };
        let _ = writeln!(out, "  objects {:>10}  {what} in {}{files}", objects.objects, bytes(objects.page_bytes));
    }
    out
}
