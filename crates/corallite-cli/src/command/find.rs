//! `corallite find`: objects by what they hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use corallite::objects::StoredObject;
use corallite::{CHECKPOINT, Error, FIXED, Store};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{Side, Table, counted, one_line, printable, shortened};
use crate::{assign, opened};

const EXAMPLES: &str = "\
Examples:
  corallite find models.h5 Checkpoint
  corallite find models.h5 Checkpoint 'tags = \"best\" and loss < 2' --sort -created
  corallite find models.h5 Checkpoint 'metrics.accuracy >= 0.9 or parent = \"base\"' --limit 10
  corallite find models.h5 Run 'status in (\"done\", \"failed\") and not note is null' --json
  corallite find models.h5 Checkpoint 'tags = \"best\"' --explain";

/// What is to be done for a store of an older version.
pub(super) const MIGRATE: &str = "`corallite migrate` gives every checkpoint one";

/// Find checkpoints, and other objects, by their properties
///
/// CLASS is Checkpoint, or a class that a program has saved objects of. In a condition, = != < <= > >= compare, ~ looks
/// for a part of a text, `in (…)` for one of several values, `is null` for no value; `and`, `or`, `not` and brackets combine.
/// A list has a value if one of its items has. Any property can be asked for; an index only makes it faster.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The class of the objects
    #[arg(value_name = "CLASS")]
    class: String,

    /// What must be true of them; all, if nothing is given
    #[arg(value_name = "CONDITION", default_value = "")]
    condition: String,

    /// Sort by a property, with - before it from the greatest value down; again for what is equal
    #[arg(long, value_name = "PROPERTY", allow_hyphen_values = true)]
    sort: Vec<String>,

    /// Give so many at most
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,

    /// Say how it would be answered, and do no more
    #[arg(long)]
    explain: bool,
}

#[derive(Debug, Serialize)]
struct Explained {
    plan: String,
    scan: bool,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let objects = store.objects()?;
    objects.register_stored().map_err(Error::from)?;
    warn_of_missing(&store, arguments, output)?;
    let query = objects.find(&arguments.class, &arguments.condition).map_err(Error::from)?;
    let mut query = arguments.sort.iter().fold(query, |query, by| query.sort(by));
    if let Some(limit) = arguments.limit {
        query = query.limit(limit);
    }
    if arguments.explain {
        let plan = query.explain().map_err(Error::from)?;
        let report = Explained { plan: plan.to_string(), scan: plan.is_scan };
        output.report(&report, |_| format!("{}\n", printable(&report.plan)))?;
        return Ok(Exit::Ok);
    }
    let found = query.run().map_err(Error::from)?;
    let exported: Result<Vec<Value>, _> = found.iter().map(|object| object.export(1)).collect();
    let exported = exported.map_err(Error::from)?;
    output.report(&exported, |paint| render(&found, &exported).render(paint))?;
    store.close()?;
    Ok(Exit::Ok)
}

/// A store that was last written by an older version, or past the objects, and cannot be changed now.
fn warn_of_missing(store: &Store, arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    if arguments.class != CHECKPOINT {
        return Ok(());
    }
    let objects = store.objects()?;
    let mut missing = 0;
    for name in store.checkpoints().names()? {
        missing += u64::from(!objects.has(CHECKPOINT, &name).map_err(Error::from)?);
    }
    if missing > 0 {
        output.warning(&format!("{} of this store cannot be found yet; {MIGRATE}", counted(missing, "checkpoint")));
    }
    Ok(())
}

/// A row each: the id, and the properties, those that most have first.
fn render(found: &[StoredObject], exported: &[Value]) -> Table {
    let mut table = Table::new(&[("ID", Side::Left), ("CREATED", Side::Left), ("PROPERTIES", Side::Left)]);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let maps: Vec<&Map<String, Value>> = exported.iter().filter_map(Value::as_object).collect();
    for map in &maps {
        map.keys().for_each(|name| *counts.entry(name).or_default() += 1);
    }
    let mut names: Vec<(&str, usize)> = counts.into_iter().collect();
    names.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    for (object, map) in found.iter().zip(maps) {
        let created = map.get("created").and_then(Value::as_str).unwrap_or("-");
        let shown = names.iter().filter_map(|(name, _)| {
            let is_left_out = matches!(*name, "oid" | "type" | "updates") || FIXED.contains(name) || *name == "weights";
            let value = map.get(*name).filter(|value| !is_left_out && !is_nothing(value))?;
            Some(format!("{name}={}", one_line(&shortened(&assign::shown(value), 60))))
        });
        let created: String = created.chars().take(19).collect();
        table.row([
            printable(object.oid()),
            printable(&created.replace('T', " ")),
            printable(&shown.collect::<Vec<_>>().join("  ")),
        ]);
    }
    table
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}
