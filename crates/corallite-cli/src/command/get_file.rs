//! `corallite get-file`: a file of the store again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use corallite::objects::StoredRaw;
use corallite::{Error, FILE};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{bytes, printable};
use crate::{opened, place};

const EXAMPLES: &str = "\
Examples:
  corallite get-file models.h5 tokenizer.json -o tokenizer.json
  corallite get-file models.h5 base/README.md -o - | less
  corallite ls models.h5 --files                       what there is";

/// Write a file that was put into a store
///
/// Its hash is checked on the way. It is written beside its place and moved there when it is whole and on the disk.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The file's name in the store
    #[arg(value_name = "NAME")]
    name: String,

    /// The file to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    file: String,
    bytes: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let found = store.files()?.get(FILE, &arguments.name).map_err(Error::from)?;
    let missing = || {
        let sentence = format!(
            "{} has no file `{}`; `corallite ls --files` lists them",
            arguments.store.display(),
            arguments.name
        );
        Failure::new(Exit::Name, sentence)
    };
    let file = found.ok_or_else(missing)?;
    if arguments.output == Path::new("-") {
        for chunk in file.data(0).map_err(Error::from)? {
            output.raw(&chunk.map_err(Error::from)?)?;
        }
        return Ok(Exit::Ok);
    }
    let target = place::target(&arguments.output)?;
    place::check_apart(&target, &arguments.store)?;
    place::write_whole(&target, |out| copy(&file, out))?;
    let report =
        Report { name: arguments.name.clone(), file: arguments.output.display().to_string(), bytes: file.size() };
    store.close()?;
    output.done(&report, |_| {
        format!("{} is {}, {}.\n", printable(&report.file), printable(&report.name), bytes(report.bytes))
    })?;
    Ok(Exit::Ok)
}

fn copy(file: &StoredRaw, out: &mut BufWriter<&File>) -> Result<(), Failure> {
    for chunk in file.data(1 << 20).map_err(Error::from)? {
        out.write_all(&chunk.map_err(Error::from)?).map_err(|error| Failure::io("cannot write the file", &error))?;
    }
    Ok(())
}
