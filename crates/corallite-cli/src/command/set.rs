//! `corallite set`: a checkpoint gets properties.

use std::path::PathBuf;

use clap::Args;
use corallite::objects::StoredObject;
use corallite::{Error, Store};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{one_line, printable};
use crate::{assign, opened};

const EXAMPLES: &str = "\
Examples:
  corallite set models.h5 run-17 loss=1.93 optimizer=adamw
  corallite set models.h5 run-17 metrics.accuracy=0.91 parent=run-16
  corallite set models.h5 run-17 note=                      takes it away
  corallite find models.h5 Checkpoint 'loss < 2' --sort loss";

/// Set properties of a checkpoint
///
/// A value that is JSON is kept as such, any other as text; KEY= takes the property away. A key is letters, digits and `_`, and
/// with dots leads into a map: metrics.loss. `parent` is the name of another checkpoint. All are set, or none.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The checkpoint
    #[arg(value_name = "NAME")]
    name: String,

    /// What to set
    #[arg(value_name = "KEY=VALUE", required = true)]
    assignments: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    /// What was set, as it is now.
    set: Map<String, Value>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let assignments = assign::parse(&arguments.assignments)?;
    let set = opened::to_change(&arguments.store, output, |store| {
        let object = checkpoint(store, &arguments.name)?;
        let properties =
            assign::of_checkpoint(store, Some(&arguments.name), assign::apply(assignments, |name| object.get(name))?)?;
        object.update(properties.clone()).and_then(|()| object.save()).map_err(Error::from)?;
        Ok(properties.as_object().cloned().unwrap_or_default())
    })?;
    let report = Report { name: arguments.name.clone(), set };
    output.done(&report, |_| {
        let set = report.set.iter().map(|(name, value)| match value {
            Value::Null => format!("{name} taken away"),
            value => format!("{name} = {}", one_line(&assign::shown(value))),
        });
        format!("{}: {}\n", printable(&report.name), set.collect::<Vec<_>>().join(", "))
    })?;
    Ok(Exit::Ok)
}

/// The object of a checkpoint.
pub(super) fn checkpoint(store: &Store, name: &str) -> Result<StoredObject, Failure> {
    if let Some(object) = store.checkpoints().object(name)? {
        return Ok(object);
    }
    if store.checkpoints().get(name)?.is_some() {
        return Err(Failure::new(
            Exit::BadStore,
            format!("the checkpoint `{name}` has no object yet; {}", super::find::MIGRATE),
        ));
    }
    Err(corallite::weights::Error::NotFound { what: format!("the checkpoint `{name}`") }.into())
}
