//! `corallite tag`: a checkpoint gets tags, or loses them.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use corallite::Error;
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::printable;

const EXAMPLES: &str = "\
Examples:
  corallite tag models.h5 run-17 best published
  corallite tag models.h5 run-17 --remove best
  corallite find models.h5 Checkpoint 'tags = \"best\"'";

/// Tag a checkpoint
///
/// A tag is a line of text; a checkpoint has each once, in the order in which they were given. Without any, prints those that
/// it has.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The checkpoint
    #[arg(value_name = "NAME")]
    name: String,

    /// The tags
    #[arg(value_name = "TAG", value_parser = NonEmptyStringValueParser::new())]
    tags: Vec<String>,

    /// Take the tags away instead
    #[arg(long, requires = "tags")]
    remove: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    /// Those that it has now.
    tags: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let tags = if arguments.tags.is_empty() {
        let store = opened::to_read(&arguments.store)?;
        let tags = tags_of(&super::set::checkpoint(&store, &arguments.name)?.get("tags").unwrap_or_default());
        store.close()?;
        tags
    } else {
        opened::to_change(&arguments.store, output, |store| {
            let object = super::set::checkpoint(store, &arguments.name)?;
            let change = |old: Option<&Value>| json!(changed(tags_of(old.unwrap_or(&Value::Null)), arguments));
            object.change_property("tags", change).and_then(|()| object.save()).map_err(Error::from)?;
            Ok(tags_of(&object.get("tags").unwrap_or_default()))
        })?
    };
    let report = Report { name: arguments.name.clone(), tags };
    let render = |report: &Report| match report.tags.as_slice() {
        [] => format!("{} has no tags.\n", printable(&report.name)),
        tags => {
            let tags: Vec<String> = tags.iter().map(|tag| printable(tag)).collect();
            format!("{}: {}\n", printable(&report.name), tags.join(", "))
        }
    };
    match arguments.tags.is_empty() {
        true => output.report(&report, |_| render(&report))?,
        false => output.done(&report, |_| render(&report))?,
    }
    Ok(Exit::Ok)
}

fn tags_of(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn changed(mut tags: Vec<String>, arguments: &Arguments) -> Vec<String> {
    if arguments.remove {
        tags.retain(|tag| !arguments.tags.contains(tag));
        return tags;
    }
    for tag in &arguments.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    tags
}
