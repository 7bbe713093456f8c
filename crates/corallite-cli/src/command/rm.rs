//! `corallite rm`: checkpoints go.

use std::path::PathBuf;

use clap::Args;
use corallite::weights::Error;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{Paint, counted, printable};

const EXAMPLES: &str = "\
Examples:
  corallite rm models.h5 old
  corallite rm models.h5 step-100 step-200 && corallite gc models.h5
  corallite log models.h5                      the commit before, to roll back to";

/// Remove checkpoints
///
/// All of them or none, in one commit. Their weights stay until `corallite gc`, so that the removal can be rolled back
/// and weights that other checkpoints have are not touched.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The checkpoints
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    removed: Vec<String>,
}

pub(crate) fn run(mut arguments: Arguments, output: &Output) -> Result<Exit, Failure> {
    arguments.names.sort_unstable();
    arguments.names.dedup();
    opened::to_change(&arguments.store, output, |store| {
        // What others refer to by a relation that refuses it stays.
        store.objects()?.register_stored().map_err(corallite::Error::from)?;
        store.transaction(|transaction| {
            for name in &arguments.names {
                if !transaction.remove_checkpoint(name)? {
                    return Err(Failure::from(Error::NotFound { what: format!("the checkpoint `{name}`") }));
                }
            }
            Ok(())
        })
    })?;
    let report = Report { removed: arguments.names };
    output.done(&report, |paint| render(&report, paint))?;
    Ok(Exit::Ok)
}

fn render(report: &Report, paint: Paint) -> String {
    let names: Vec<String> = report.removed.iter().map(|name| printable(name)).collect();
    let hint = "`corallite gc` frees the weights that no checkpoint has any more.";
    format!("removed {}: {}\n{}\n", counted(names.len() as u64, "checkpoint"), names.join(", "), paint.dim(hint))
}
