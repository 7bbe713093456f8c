//! `corallite export`: a checkpoint's file again, byte for byte.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::place;
use crate::text::{bytes, printable, speed};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite export models.h5 base -o base.safetensors
  corallite export models.h5 base -o out.safetensors && cmp base.safetensors out.safetensors";

/// Write a checkpoint's file again, byte for byte
///
/// Every tensor is checked against its hash on the way. The file is written beside its place and moved there when it
/// is whole and on the disk; an older file of that name is replaced then, and is there untouched if anything goes
/// wrong before.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The checkpoint
    #[arg(value_name = "NAME")]
    name: String,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Replace even an HDF5 file, which may be a store
    ///
    /// The store that is being read is never replaced.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    file: String,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let mut work = Work::begin()?;
    let target = place::target(&arguments.output)?;
    let store = opened::to_read(&arguments.store)?;
    check_target(&target, &arguments.store, arguments.force)?;
    let checkpoint = store.checkpoints().get(&arguments.name)?;
    work.show(output, "exporting", checkpoint.map_or(0, |checkpoint| checkpoint.info().logical_bytes));
    let written = store.checkpoints().export_watched(&arguments.name, &target, &work)?;
    drop(work);
    store.close()?;
    let report = Report {
        name: arguments.name.clone(),
        file: arguments.output.display().to_string(),
        bytes: written,
        seconds: started.elapsed().as_secs_f64(),
    };
    output.done(&report, |_| {
        format!(
            "{} is {} again, {} in {:.2} s, {}, every hash checked.\n",
            printable(&report.file),
            printable(&report.name),
            bytes(report.bytes),
            report.seconds,
            speed(report.bytes, report.seconds),
        )
    })?;
    Ok(Exit::Ok)
}

/// Refuses to write over the store, what lies beside it, or any other HDF5 file.
fn check_target(target: &Path, store: &Path, force: bool) -> Result<(), Failure> {
    place::check_apart(target, store)?;
    let mut head = [0; 8];
    let is_hdf5 =
        File::open(target).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *b"\x89HDF\r\n\x1a\n";
    if is_hdf5 && !force {
        let sentence = format!(
            "{} is an HDF5 file, perhaps a store; give another file to write, or replace it with --force",
            target.display()
        );
        return Err(Failure::new(Exit::Usage, sentence));
    }
    Ok(())
}
