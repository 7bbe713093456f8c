//! `corallite put-file`: a file goes into the store.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use corallite::objects::{self, Source};
use corallite::weights::Watch;
use corallite::{Error, FILE};
use serde::Serialize;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{bytes, printable};
use crate::work::Work;
use crate::{assign, opened, place};

const EXAMPLES: &str = "\
Examples:
  corallite put-file models.h5 tokenizer.json
  corallite put-file models.h5 README.md --name base/README.md --set license=apache-2.0
  corallite get-file models.h5 tokenizer.json -o tokenizer.json";

/// Put a file of any kind into a store
///
/// Creates the store if there is none. The file is kept under its name, or another one, byte for byte; a file of that name is
/// replaced. Files with the same bytes are kept once. h5py finds the bytes below /files.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file; created if it is missing
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What it is called in the store, if not by its own name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Say something of it; again for more
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    bytes: u64,
    /// BLAKE3.
    hash: String,
    /// Whether a file of that name was replaced.
    replaced: bool,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    place::check_folder(&arguments.store)?;
    let assignments = assign::parse(&arguments.set)?;
    let path = &arguments.file;
    let refused = |problem: String| Failure::new(Exit::BadInput, format!("{} {problem}", path.display()));
    let found = std::fs::metadata(path).map_err(|error| refused(format!("cannot be read: {error}; give a file")))?;
    if !found.is_file() {
        // What has no end would fill the disk, or never come while the store is held.
        let kind = if found.is_dir() { "a folder" } else { "no regular file" };
        return Err(refused(format!("is {kind}; give a file")));
    }
    place::check_apart(path, &arguments.store)?;
    let mut work = Work::begin()?;
    work.show(output, "putting", found.len());
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => path.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("no name can be made of {}; give one with --name", path.display()))
        })?,
    };
    let opened = File::open(path).map_err(|error| refused(format!("cannot be read: {error}; give a file")))?;
    let data = Source::Reader(Box::new(work.reader(opened)));
    let report = opened::with_options(&arguments.store, Default::default(), output, |store| {
        let put = |transaction: &corallite::Transaction<'_>| -> Result<Report, Failure> {
            let files = transaction.files();
            let (file, replaced) = match files.get(FILE, &name).map_err(Error::from)? {
                Some(file) => {
                    file.set_data(data);
                    (file, true)
                }
                None => {
                    let file = files.create_with_oid(FILE, &name, data, Value::Null);
                    (file.map_err(Error::from)?, false)
                }
            };
            let meta = assign::apply(assignments, |name| file.meta(name))?;
            file.set_meta(Value::Object(meta)).and_then(|()| file.save()).map_err(|error| input(path, &work, error))?;
            Ok(Report { name: name.clone(), bytes: file.size(), hash: file.hash(), replaced })
        };
        store.transaction(put)
    })?;
    output.done(&report, |_| {
        let done = if report.replaced { "replaced" } else { "put" };
        format!("{done} {} ({}) in {}.\n", printable(&report.name), bytes(report.bytes), arguments.store.display())
    })?;
    Ok(Exit::Ok)
}

/// What cannot be read is an input, whatever else went wrong is not.
fn input(path: &Path, work: &Work, error: objects::Error) -> Failure {
    if work.is_cancelled() {
        return Failure::new(Exit::Interrupted, "interrupted; the store is as it was before");
    }
    match error {
        objects::Error::Io { action: "read", source, .. } => {
            Failure::new(Exit::BadInput, format!("{} cannot be read: {source}", path.display()))
        }
        error => Error::from(error).into(),
    }
}
