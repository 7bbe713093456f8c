//! `corallite export-objects`: all objects, a line each.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use corallite::objects::ObjectStorage;
use corallite::{Error, Store};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{counted, printable};
use crate::{opened, place};

const EXAMPLES: &str = "\
Examples:
  corallite export-objects models.h5 > objects.jsonl
  corallite export-objects models.h5 --class Run | jq -c 'select(.loss < 2)'
  corallite export-objects models.h5 -o objects.jsonl && corallite import-objects other.h5 objects.jsonl";

/// Write all objects as JSON, one a line
///
/// Each line has an object's id, type, properties, and relations as references; passwords are left out. Before the objects of
/// a class, a line with `@class` has its declaration. Objects that cannot be read are named on standard error, and the exit code
/// is 1; the others follow.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// Only the objects of this class; again for more
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,

    /// The file to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    objects: u64,
    classes: u64,
    damaged: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let report = match &arguments.output {
        None => export(&store, arguments, output, |line| output.raw(line))?,
        Some(path) => {
            let target = place::target(path)?;
            place::check_apart(&target, &arguments.store)?;
            place::write_whole(&target, |out| {
                export(&store, arguments, output, |line| {
                    out.write_all(line).map_err(|error| Failure::io("cannot write the file", &error))
                })
            })?
        }
    };
    store.close()?;
    if let Some(path) = &arguments.output {
        output.done(&report, |_| {
            format!("{} in {}.\n", counted(report.objects, "object"), printable(&path.display().to_string()))
        })?;
    }
    Ok(if report.damaged > 0 { Exit::Damaged } else { Exit::Ok })
}

fn export(
    store: &Store,
    arguments: &Arguments,
    output: &Output,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    let objects: &ObjectStorage = store.objects()?;
    objects.register_stored().map_err(Error::from)?;
    for class in &arguments.class {
        objects.class(class).map_err(Error::from)?;
    }
    let mut report = Report::default();
    let mut line = |value: &Value| write(format!("{value}\n").as_bytes());
    for class in objects.classes() {
        let name = class.name();
        if !arguments.class.is_empty() && !arguments.class.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut is_declared = false;
        for object in objects.all(name).map_err(Error::from)? {
            let exported = match object.and_then(|object| object.export(1)) {
                Ok(exported) => exported,
                Err(error) => {
                    report.damaged += 1;
                    output.warning(&error.to_string());
                    continue;
                }
            };
            if !is_declared {
                is_declared = true;
                report.classes += 1;
                line(&json!({"@class": name, "collection": class.collection(), "declaration": class.declaration()}))?;
            }
            report.objects += 1;
            line(&exported)?;
        }
    }
    Ok(report)
}
