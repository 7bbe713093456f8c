//! `corallite ls`: what a store holds.

use std::path::PathBuf;

use clap::Args;
use corallite::weights::{CheckpointInfo, WeightMetadata, WeightStore};
use corallite::{Error, FILE, Store};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::assign;
use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::text::{
    Paint, Side, Table, bytes, counted, one_line, printable, shape, short_key, shortened, table_time, time,
};

const EXAMPLES: &str = "\
Examples:
  corallite ls models.h5
  corallite ls models.h5 --weights
  corallite ls models.h5 --files
  corallite ls models.h5 --json | jq -r '.checkpoints[].name'";

/// List the checkpoints of a store
///
/// A weight that belongs to no checkpoint is called loose: it was stored by itself, through the library or by the
/// Python package coral-ml, or its checkpoint was removed and `gc` has not run yet. Of a file without checkpoints the
/// loose weights are listed. Times are in UTC.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// List the loose weights as well
    #[arg(short, long)]
    weights: bool,

    /// List the files that were put into the store as well
    #[arg(short, long)]
    files: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    tensors: u64,
    logical_bytes: u64,
    added_at: Option<String>,
    source: String,
    #[serde(skip)]
    added_nanoseconds: u64,
}

impl From<CheckpointInfo> for Listed {
    fn from(info: CheckpointInfo) -> Self {
        Self {
            name: info.name,
            tensors: info.tensors,
            logical_bytes: info.logical_bytes,
            added_at: time(info.added_at),
            source: info.source,
            added_nanoseconds: info.added_at,
        }
    }
}

#[derive(Debug, Serialize)]
struct Loose {
    key: String,
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Filed {
    name: String,
    bytes: u64,
    /// BLAKE3.
    hash: String,
    meta: Value,
}

#[derive(Debug, Serialize)]
struct Report {
    checkpoints: Vec<Listed>,
    weights: u64,
    loose_weights: u64,
    /// Where they are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    loose: Option<Vec<Loose>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<Filed>>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let mut report = gather(&store, arguments.weights)?;
    if arguments.files {
        report.files = Some(files(&store)?);
    }
    store.close()?;
    output.report(&report, |paint| render(&report, paint))?;
    Ok(Exit::Ok)
}

fn files(store: &Store) -> Result<Vec<Filed>, Failure> {
    let all = store.files()?.all(FILE).map_err(Error::from)?;
    all.map(|file| {
        let file = file.map_err(Error::from)?;
        let meta = Value::Object(file.all_meta());
        Ok(Filed { name: file.oid().to_owned(), bytes: file.size(), hash: file.hash(), meta })
    })
    .collect()
}

fn gather(store: &Store, with_weights: bool) -> Result<Report, Failure> {
    let checkpoints: Vec<Listed> = store.checkpoints().list()?.into_iter().map(Listed::from).collect();
    let weights = store.weights();
    let mut keys = weights.list_weights()?;
    let count = keys.len() as u64;
    let needed = weights.needed_by_checkpoints()?;
    keys.retain(|key| !needed.contains(key));
    let loose_weights = keys.len() as u64;
    let mut loose = None;
    if with_weights || checkpoints.is_empty() {
        let mut listed = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(metadata) = weights.get_metadata(&key)? else { continue };
            let WeightMetadata { name, shape, dtype, .. } = &metadata;
            listed.push(Loose {
                key: key.to_string(),
                name: name.clone(),
                dtype: dtype.to_string(),
                shape: shape.clone(),
                bytes: metadata.byte_len()?,
            });
        }
        loose = Some(listed);
    }
    Ok(Report { checkpoints, weights: count, loose_weights, loose, files: None })
}

fn render(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    if !report.checkpoints.is_empty() {
        let mut table = Table::new(&[
            ("CHECKPOINT", Side::Left),
            ("TENSORS", Side::Right),
            ("SIZE", Side::Right),
            ("ADDED", Side::Left),
            ("FROM", Side::Left),
        ]);
        for checkpoint in &report.checkpoints {
            table.row([
                printable(&checkpoint.name),
                checkpoint.tensors.to_string(),
                bytes(checkpoint.logical_bytes),
                table_time(checkpoint.added_nanoseconds),
                printable(&checkpoint.source),
            ]);
        }
        out += &table.render(paint);
    }
    if let Some(loose) = report.loose.as_ref().filter(|loose| !loose.is_empty()) {
        let mut table = Table::new(&[
            ("LOOSE WEIGHT", Side::Left),
            ("NAME", Side::Left),
            ("DTYPE", Side::Left),
            ("SHAPE", Side::Left),
            ("SIZE", Side::Right),
        ]);
        for weight in loose {
            table.row([
                short_key(&weight.key),
                printable(&shortened(&weight.name, 60)),
                weight.dtype.clone(),
                shape(&weight.shape),
                bytes(weight.bytes),
            ]);
        }
        out += &table.render(paint);
    }
    if let Some(files) = report.files.as_ref().filter(|files| !files.is_empty()) {
        let mut table = Table::new(&[("FILE", Side::Left), ("SIZE", Side::Right), ("META", Side::Left)]);
        for file in files {
            let meta = if file.meta.as_object().is_some_and(Map::is_empty) {
                String::new()
            } else {
                assign::shown(&file.meta)
            };
            table.row([printable(&file.name), bytes(file.bytes), one_line(&shortened(&meta, 60))]);
        }
        out += &table.render(paint);
    }
    let loose = match report.loose_weights {
        0 => "none loose".to_owned(),
        count => format!("{count} loose"),
    };
    let (checkpoints, weights) =
        (counted(report.checkpoints.len() as u64, "checkpoint"), counted(report.weights, "weight"));
    out + &paint.dim(&format!("{checkpoints}, {weights}, {loose}")) + "\n"
}
