//! `corallite links`: what a key is linked to.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use corallite::E;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  corallite links models.h5 base                          one id a line
  corallite links models.h5 base --json | jq -r .values[]
  corallite links models.h5 b84ed8eda7b1502f83f690132e68adef";

/// Print what a key is linked to
///
/// One value a line, 32 hexadecimal digits, in the order in which they were linked; nothing for a key that is linked to
/// nothing. Links that are only in the log beside the store, because of a crash or because another program is writing
/// them, are among them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The key: an id, or a text
    #[arg(value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    key: String,
}

#[derive(Debug, Serialize)]
struct Report {
    key: String,
    values: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let key = E::parse(&arguments.key);
    let store = opened::to_read(&arguments.store)?;
    let values = store.links()?.get(key)?;
    store.close()?;
    let report = Report { key: key.to_string(), values: values.iter().map(E::to_string).collect() };
    output.report(&report, |_| {
        report.values.iter().fold(String::new(), |mut out, value| {
            let _ = writeln!(out, "{value}");
            out
        })
    })?;
    Ok(Exit::Ok)
}
