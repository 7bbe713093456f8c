//! `corallite unlink`: a key loses values, or all of them.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use corallite::E;
use corallite::file::Mode;
use corallite::weights::Hdf5Options;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{counted, printable};

const EXAMPLES: &str = "\
Examples:
  corallite unlink models.h5 base english    one value of the key
  corallite unlink models.h5 base            the key with all its values";

/// Remove values of a key, or the key with all its values
///
/// What is not linked is no error: the report says how many values were. All of one command happens or nothing, and is on
/// the disk when it returns.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The key: an id, or a text
    #[arg(value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    key: String,

    /// The values to remove: ids, or texts; without any, all
    #[arg(value_name = "VALUE", value_parser = NonEmptyStringValueParser::new())]
    values: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    key: String,
    /// Values that were linked and are not any more.
    removed: u64,
    /// Values that the key still has.
    values: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let key = E::parse(&arguments.key);
    let links = opened::few_links(arguments.values.len());
    let options = Hdf5Options::new().mode(Mode::ReadWrite);
    let (removed, values) = opened::with_links(&arguments.store, options, links, output, |store| {
        store.links()?.transaction(|change| {
            let before = change.get(key)?.len();
            if arguments.values.is_empty() {
                change.delete(key)?;
            }
            for value in &arguments.values {
                change.delete((key, E::parse(value)))?;
            }
            let after = change.get(key)?.len();
            Ok::<_, Failure>(((before - after) as u64, after as u64))
        })
    })?;
    let report = Report { store: arguments.store.display().to_string(), key: key.to_string(), removed, values };
    output.done(&report, |_| {
        let (key, left) = (printable(&arguments.key), counted(report.values, "value"));
        format!("removed {} of {key}, which has {left} now.\n", counted(report.removed, "value"))
    })?;
    Ok(Exit::Ok)
}
