//! `corallite link`: a key gets values.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use corallite::E;
use corallite::weights::Hdf5Options;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{counted, printable};
use crate::{opened, place};

const EXAMPLES: &str = "\
Examples:
  corallite link models.h5 base apache-2.0 english         texts
  corallite link models.h5 base 00000000000000000000000000000007   an id
  corallite links models.h5 base                           what it is linked to now";

/// Link values to a key
///
/// Creates the store if there is none. Keys and values are 128-bit ids: 32 hexadecimal digits, a UUID, or any other text,
/// whose id is its UUIDv5 in the DNS namespace. A key has each value once, in the order in which they were linked. All
/// values of one command are linked or none, and are on the disk when it returns.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file; created if it is missing
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// What is linked: an id, or a text
    #[arg(value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    key: String,

    /// What it is linked to: ids, or texts
    #[arg(value_name = "VALUE", required = true, value_parser = NonEmptyStringValueParser::new())]
    values: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    key: String,
    /// Values that were not linked before.
    added: u64,
    /// Values that the key has now.
    values: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    place::check_folder(&arguments.store)?;
    let key = E::parse(&arguments.key);
    let links = opened::few_links(arguments.values.len());
    let (added, values) = opened::with_links(&arguments.store, Hdf5Options::new(), links, output, |store| {
        store.links()?.transaction(|change| {
            let mut added = 0;
            for value in &arguments.values {
                added += u64::from(change.insert(key, E::parse(value))?);
            }
            Ok::<_, Failure>((added, change.get(key)?.len() as u64))
        })
    })?;
    let report = Report { store: arguments.store.display().to_string(), key: key.to_string(), added, values };
    output.done(&report, |_| {
        let (key, linked) = (printable(&arguments.key), counted(report.values, "value"));
        format!("linked {} to {key}, which has {linked} now.\n", counted(report.added, "new value"))
    })?;
    Ok(Exit::Ok)
}
