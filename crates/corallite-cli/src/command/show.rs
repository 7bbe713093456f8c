//! `corallite show`: what is in a checkpoint, or in a weight.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use corallite::weights::{Checkpoint, Encoding, Error, WeightHash, WeightStore, WeightTensor};
use corallite::{FIXED, Store};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::assign;
use crate::exit::{Exit, Failure};
use crate::find::{Found, find};
use crate::histogram::{Histogram, Statistics, histogram, statistics};
use crate::opened;
use crate::output::Output;
use crate::text::{
    Paint, Side, Table, bytes, counted, number, one_line, printable, shape, short_key, shortened, stored_as,
    table_time, time,
};
use crate::values::is_complex;

const EXAMPLES: &str = "\
Examples:
  corallite show models.h5 base                        the tensors of a checkpoint
  corallite show models.h5 9f86d081                    a weight, by the first digits of its key
  corallite show models.h5 base/embeddings.weight      a weight, by its name in a checkpoint
  corallite show models.h5 base --json | jq .metadata";

/// Show a checkpoint's tensors, or a weight and its values
///
/// A weight is shown with what is known of it, figures about its values, and a picture of how they are distributed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// A checkpoint's name; or a weight's key, its first 6 or more digits, or CHECKPOINT/TENSOR
    #[arg(value_name = "NAME|HASH")]
    what: String,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    match find(&store, &arguments.what)? {
        Found::Checkpoint(checkpoint) => {
            let report = CheckpointReport::of(&store, &checkpoint)?;
            store.close()?;
            output.report(&report, |paint| report.render(paint))?;
        }
        Found::Weight(key) => {
            let report = WeightReport::of(&store, &key)?;
            store.close()?;
            output.report(&report, |paint| report.render(paint))?;
        }
    }
    Ok(Exit::Ok)
}

/// How a weight is stored; `None` when that cannot be read, which is for `verify` to explain.
fn encoding(store: &Store, key: &WeightHash) -> Option<Encoding> {
    store.weights().encoding(key).ok()?
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    /// What its weight takes; `null` when that weight is missing.
    stored_bytes: Option<u64>,
    /// How it is stored as the difference to another weight; `null` when it is not.
    delta_type: Option<&'static str>,
    /// The key of that weight.
    base: Option<String>,
    /// How many deltas lie one on another; 0 for a weight that is stored whole.
    chain: Option<usize>,
    key: String,
}

#[derive(Debug, Serialize)]
struct CheckpointReport {
    kind: &'static str,
    name: String,
    source: String,
    added_at: Option<String>,
    logical_bytes: u64,
    /// What its weights take, each counted once.
    stored_bytes: u64,
    metadata: Map<String, Value>,
    /// Tags, metrics, parent, and whatever else was said of it.
    properties: Map<String, Value>,
    tensors: Vec<Tensor>,
    #[serde(skip)]
    added_nanoseconds: u64,
}

impl CheckpointReport {
    fn of(store: &Store, checkpoint: &Checkpoint) -> Result<Self, Failure> {
        let mut encodings: HashMap<&WeightHash, Option<Encoding>> = HashMap::new();
        for tensor in checkpoint.tensors() {
            encodings.entry(&tensor.key).or_insert_with(|| encoding(store, &tensor.key));
        }
        let tensors = checkpoint
            .tensors()
            .iter()
            .map(|tensor| {
                let encoding = encodings.get(&tensor.key).and_then(Option::as_ref);
                Ok(Tensor {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype.to_string(),
                    shape: tensor.shape.clone(),
                    bytes: tensor.dtype.byte_len(&tensor.shape)?,
                    stored_bytes: encoding.map(|encoding| encoding.stored_bytes),
                    delta_type: encoding.and_then(|encoding| encoding.delta_type),
                    base: encoding.and_then(|encoding| encoding.base.as_ref()).map(ToString::to_string),
                    chain: encoding.map(|encoding| encoding.chain),
                    key: tensor.key.to_string(),
                })
            })
            .collect::<Result<_, Failure>>()?;
        let metadata = checkpoint.metadata().iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let info = checkpoint.info();
        Ok(Self {
            kind: "checkpoint",
            name: info.name.clone(),
            source: info.source.clone(),
            added_at: time(info.added_at),
            logical_bytes: info.logical_bytes,
            stored_bytes: encodings.values().flatten().map(|encoding| encoding.stored_bytes).sum(),
            metadata,
            properties: properties(store, &info.name)?,
            tensors,
            added_nanoseconds: info.added_at,
        })
    }

    fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        let source = if self.source.is_empty() { String::new() } else { format!(" from {}", printable(&self.source)) };
        let _ = writeln!(
            out,
            "{}: {}, {}, {} stored, added {}{source}",
            paint.bold(&printable(&self.name)),
            counted(self.tensors.len() as u64, "tensor"),
            bytes(self.logical_bytes),
            bytes(self.stored_bytes),
            table_time(self.added_nanoseconds),
        );
        for (key, value) in &self.metadata {
            let value = value.as_str().unwrap_or_default();
            let _ = writeln!(out, "  {} = {}", printable(key), shortened(&one_line(value), 100));
        }
        for (key, value) in &self.properties {
            let value = shortened(&one_line(&assign::shown(value)), 100);
            let _ = writeln!(out, "  {}: {value}", printable(key));
        }
        if self.tensors.is_empty() {
            return out;
        }
        let mut table = Table::new(&[
            ("TENSOR", Side::Left),
            ("DTYPE", Side::Left),
            ("SHAPE", Side::Left),
            ("SIZE", Side::Right),
            ("STORED", Side::Right),
            ("AS", Side::Left),
            ("KEY", Side::Left),
        ]);
        for tensor in &self.tensors {
            table.row([
                printable(&shortened(&tensor.name, 80)),
                tensor.dtype.clone(),
                shape(&tensor.shape),
                bytes(tensor.bytes),
                tensor.stored_bytes.map_or_else(|| "missing".to_owned(), bytes),
                tensor.stored_bytes.map_or_else(String::new, |_| stored_as(tensor.base.as_deref())),
                short_key(&tensor.key),
            ]);
        }
        out + &table.render(paint)
    }
}

/// What was said of a checkpoint.
fn properties(store: &Store, name: &str) -> Result<Map<String, Value>, Failure> {
    let Some(object) = store.checkpoints().object(name)? else { return Ok(Map::new()) };
    let exported = object.export(1).map_err(corallite::Error::from)?;
    let mut properties = exported.as_object().cloned().unwrap_or_default();
    let is_known = |name: &str| FIXED.contains(&name) || matches!(name, "oid" | "type" | "updates" | "weights");
    properties.retain(|name, value| {
        !is_known(name) && !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty())
    });
    Ok(properties)
}

#[derive(Debug, Serialize)]
struct WeightReport {
    kind: &'static str,
    key: String,
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    stored_bytes: Option<u64>,
    layer_type: Option<String>,
    model_name: Option<String>,
    compression_info: Map<String, Value>,
    /// How it is stored as the difference to another weight; `null` when it is not.
    delta_type: Option<&'static str>,
    /// The key of that weight.
    base: Option<String>,
    /// How many deltas lie one on another.
    chain: Option<usize>,
    /// How its chunks are encoded, in order.
    filters: Vec<String>,
    chunks: Option<u64>,
    /// The checkpoints that have it.
    checkpoints: Vec<String>,
    statistics: Statistics,
    histogram: Option<Histogram>,
    #[serde(skip)]
    is_complex: bool,
}

impl WeightReport {
    fn of(store: &Store, key: &WeightHash) -> Result<Self, Failure> {
        let weight: WeightTensor =
            store.weights().load(key)?.ok_or_else(|| Error::NotFound { what: format!("the weight `{key}`") })?;
        let data = weight.data()?;
        let statistics = statistics(weight.dtype(), &data);
        let histogram = histogram(weight.dtype(), &data, &statistics);
        let encoding = encoding(store, key);
        let metadata = weight.metadata();
        Ok(Self {
            kind: "weight",
            key: key.to_string(),
            name: weight.name().to_owned(),
            dtype: weight.dtype().to_string(),
            shape: weight.shape().to_vec(),
            bytes: weight.nbytes(),
            stored_bytes: encoding.as_ref().map(|encoding| encoding.stored_bytes),
            delta_type: encoding.as_ref().and_then(|encoding| encoding.delta_type),
            base: encoding.as_ref().and_then(|encoding| encoding.base.as_ref()).map(ToString::to_string),
            chain: encoding.as_ref().map(|encoding| encoding.chain),
            layer_type: metadata.layer_type.clone(),
            model_name: metadata.model_name.clone(),
            compression_info: metadata.compression_info.clone(),
            chunks: encoding.as_ref().and_then(|encoding| encoding.chunks),
            filters: encoding.map(|encoding| encoding.filters).unwrap_or_default(),
            checkpoints: owners(store, key),
            statistics,
            histogram,
            is_complex: is_complex(weight.dtype()),
        })
    }

    fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}", paint.bold(&printable(&self.name)));
        let mut line = |label: &str, text: &str| {
            if !text.is_empty() {
                let _ = writeln!(out, "  {} {text}", paint.dim(&format!("{label:12}")));
            }
        };
        line("key", &printable(&self.key));
        line("dtype", &self.dtype);
        line("shape", &shape(&self.shape));
        let stored = match self.stored_bytes {
            Some(stored) if stored < self.bytes => {
                format!(", {} stored ({:.1} %)", bytes(stored), 100.0 * stored as f64 / self.bytes as f64)
            }
            Some(stored) => format!(", {} stored", bytes(stored)),
            None => String::new(),
        };
        line("size", &format!("{}{stored}", bytes(self.bytes)));
        let chunks = self.chunks.map_or_else(String::new, |count| format!("{}: ", counted(count, "chunk")));
        match self.filters.as_slice() {
            [] => line("filters", "none"),
            filters => line("filters", &format!("{chunks}{}", filters.join(", "))),
        }
        if let (Some(base), Some(chain)) = (&self.base, self.chain) {
            let chain = if chain > 1 { format!(", the last of a chain of {chain}") } else { String::new() };
            line("delta of", &format!("{}{chain}", short_key(base)));
        }
        line("layer type", &printable(self.layer_type.as_deref().unwrap_or_default()));
        line("model", &printable(self.model_name.as_deref().unwrap_or_default()));
        if !self.compression_info.is_empty() {
            line("compression", &printable(&Value::Object(self.compression_info.clone()).to_string()));
        }
        let owners: Vec<String> = self.checkpoints.iter().map(|name| printable(name)).collect();
        line("in", &shortened(&owners.join(", "), 100));
        out + &self.render_values(paint)
    }

    fn render_values(&self, paint: Paint) -> String {
        let found = &self.statistics;
        let mut out = String::new();
        let what = if self.is_complex { "real and imaginary part" } else { "value" };
        let mut figures = vec![counted(found.count, what)];
        let numbers = [("min", found.min), ("max", found.max), ("mean", found.mean), ("std", found.std)];
        figures.extend(numbers.iter().filter_map(|(label, value)| Some(format!("{label} {}", number((*value)?)))));
        let counts = [("zero", found.zeros), ("NaN", found.nan), ("infinite", found.infinite)];
        figures.extend(counts.iter().filter(|(_, count)| *count > 0).map(|(label, count)| format!("{count} {label}")));
        let _ = writeln!(out, "\n  {}", figures.join("  "));
        if let Some(histogram) = &self.histogram {
            let _ = write!(out, "\n{}", histogram.render(paint));
        }
        out
    }
}

/// The checkpoints that have a weight; one whose record is damaged is left out, since `verify` names it.
fn owners(store: &Store, key: &WeightHash) -> Vec<String> {
    let checkpoints = store.checkpoints();
    let listed = checkpoints.list().unwrap_or_default();
    let has = |name: &str| {
        let checkpoint = checkpoints.get(name).ok().flatten();
        checkpoint.is_some_and(|checkpoint| checkpoint.tensors().iter().any(|tensor| tensor.key == *key))
    };
    listed.into_iter().map(|info| info.name).filter(|name| has(name)).collect()
}
