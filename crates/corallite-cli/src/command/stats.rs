//! `corallite stats`: where the bytes of a store went.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use corallite::Store;
use corallite::weights::{Checkpoint, DeltaStore, Encoding, Error, WeightHash, WeightStore};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::opened::{self, beside};
use crate::output::Output;
use crate::text::{
    Paint, Side, Table, bar, bytes, counted, one_line, percent, printable, shape, short_key, shortened, stored_as,
};

/// Characters a bar is wide.
const WIDTH: usize = 24;
/// Where links are kept; see docs/links.md.
const LINKS: [&str; 4] = ["nodes", "buckets", "values", "dir"];

const EXAMPLES: &str = "\
Examples:
  corallite stats models.h5
  corallite stats models.h5 --top 50
  corallite stats models.h5 --json | jq '.checkpoints[] | {name, added_stored_bytes}'";

/// Show where the bytes of a store went
///
/// Weights by how they are stored, by dtype and by filters; how many deltas lie one on another; checkpoints in the order
/// in which they were added; links; and the largest weights. A checkpoint's own is what no other checkpoint has, though
/// deltas of others may build on it; what it added is what none had before. Stored is the data as it lies in the file.
/// What the file has beyond that is called the rest: headers, attributes, indexes, earlier commits that can be rolled
/// back to, and free space, which cannot be told apart. No data is read. What is damaged is named, and left out of the
/// sums; the exit code is then 1.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// How many of the largest weights to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
}

/// Some weights together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Tally {
    weights: u64,
    /// As tensors.
    bytes: u64,
    /// In the file.
    stored_bytes: u64,
}

impl Tally {
    fn add(&mut self, encoding: &Encoding) {
        self.weights += 1;
        self.bytes += encoding.length;
        self.stored_bytes += encoding.stored_bytes;
    }

    fn of<'a>(encodings: impl IntoIterator<Item = &'a Encoding>) -> Self {
        let mut tally = Self::default();
        encodings.into_iter().for_each(|encoding| tally.add(encoding));
        tally
    }
}

#[derive(Debug, Serialize)]
struct ByDtype {
    dtype: String,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Debug, Serialize)]
struct ByFilters {
    /// In the order in which they were applied; none for what is stored as it is.
    filters: Vec<String>,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Debug, Serialize)]
struct ByChain {
    /// So many deltas lie one on another; 0 for whole weights.
    length: usize,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Debug, Serialize)]
struct OfCheckpoint {
    name: String,
    tensors: u64,
    /// The model file.
    logical_bytes: u64,
    /// Its weights, each counted once.
    stored_bytes: u64,
    /// Those that no other checkpoint has.
    unique_stored_bytes: u64,
    /// Those that no checkpoint had that was added before.
    added_stored_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Largest {
    key: String,
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    stored_bytes: u64,
    /// The weight that it is stored as the difference to.
    base: Option<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    count: u64,
    stored_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Damaged {
    /// `weight`, `delta`, `checkpoint` or `links`.
    kind: &'static str,
    key: String,
    problem: String,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    file_bytes: u64,
    /// What is committed and not in the file yet; `null` when there is no journal.
    journal_bytes: Option<u64>,
    /// The links' log; `null` when there is none.
    log_bytes: Option<u64>,
    whole: Tally,
    deltas: Tally,
    /// Deltas that are no weights: those of coral-ml, and stored by a program.
    other_deltas: Part,
    /// The records of checkpoints: headers and lists of weights.
    checkpoint_records: Part,
    links_stored_bytes: u64,
    /// Objects and their indexes, with pages that are free for more.
    objects_stored_bytes: u64,
    files_stored_bytes: u64,
    /// What the file has beyond all of these.
    rest_bytes: u64,
    dtypes: Vec<ByDtype>,
    filters: Vec<ByFilters>,
    chains: Vec<ByChain>,
    checkpoints: Vec<OfCheckpoint>,
    in_no_checkpoint: Tally,
    largest: Vec<Largest>,
    damaged: Vec<Damaged>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let store = opened::to_read(&arguments.store)?;
    let report = Report::of(arguments, &store)?;
    store.close()?;
    output.report(&report, |paint| report.render(paint))?;
    Ok(if report.damaged.is_empty() { Exit::Ok } else { Exit::Damaged })
}

/// The value, or another in its place when it is damaged, which is noted.
fn or_damaged<T: Default>(
    found: Result<T, Error>,
    kind: &'static str,
    key: &str,
    damaged: &mut Vec<Damaged>,
) -> Result<T, Failure> {
    match found {
        Ok(value) => Ok(value),
        Err(error) => {
            let (key, problem) = match &error {
                Error::Damaged { key, problem } => (key.to_string(), problem.clone()),
                Error::DamagedCheckpoint { name, problem } => (name.clone(), problem.clone()),
                other => (key.to_owned(), other.to_string()),
            };
            let failure = Failure::from(error);
            if failure.exit() != Exit::Damaged {
                return Err(failure);
            }
            damaged.push(Damaged { kind, key, problem });
            Ok(T::default())
        }
    }
}

impl Report {
    fn of(arguments: &Arguments, store: &Store) -> Result<Self, Failure> {
        let weights = store.weights();
        let mut damaged = Vec::new();
        let mut known: BTreeMap<WeightHash, Encoding> = BTreeMap::new();
        let mut unknown: BTreeSet<WeightHash> = BTreeSet::new();
        for (key, found) in weights.encodings()? {
            match or_damaged(found.map(Some), "weight", key.as_str(), &mut damaged)? {
                Some(encoding) => drop(known.insert(key, encoding)),
                None => drop(unknown.insert(key)),
            }
        }
        let data =
            |path: &str, kind, damaged: &mut Vec<Damaged>| or_damaged(weights.data_bytes(path), kind, path, damaged);
        let mut other_deltas = Part { count: 0, stored_bytes: 0 };
        for key in weights.list_deltas()? {
            if !known.contains_key(&key) && !unknown.contains(&key) {
                other_deltas.count += 1;
                other_deltas.stored_bytes += data(&format!("deltas/{key}"), "delta", &mut damaged)?;
            }
        }
        let mut links_stored_bytes = 0;
        for path in LINKS {
            links_stored_bytes += data(path, "links", &mut damaged)?;
        }
        let objects_stored_bytes = data("objects", "objects", &mut damaged)?;
        let files_stored_bytes = data("files", "files", &mut damaged)?;
        let records = data("checkpoints", "checkpoint", &mut damaged)?;
        let (checkpoints, users) = of_checkpoints(store, &known, &unknown, &mut damaged)?;
        let checkpoint_records = Part { count: checkpoints.len() as u64, stored_bytes: records };

        let (whole, deltas): (Vec<&Encoding>, Vec<&Encoding>) =
            known.values().partition(|encoding| encoding.base.is_none());
        let (whole, deltas) = (Tally::of(whole), Tally::of(deltas));
        let file_bytes = weights.file_bytes()?;
        let accounted = whole.stored_bytes
            + deltas.stored_bytes
            + other_deltas.stored_bytes
            + checkpoint_records.stored_bytes
            + links_stored_bytes
            + objects_stored_bytes
            + files_stored_bytes;
        let length = |suffix| std::fs::metadata(beside(&arguments.store, suffix)).ok().map(|found| found.len());
        Ok(Self {
            store: arguments.store.display().to_string(),
            file_bytes,
            journal_bytes: length("-journal"),
            log_bytes: length("-wal"),
            whole,
            deltas,
            other_deltas,
            checkpoint_records,
            links_stored_bytes,
            objects_stored_bytes,
            files_stored_bytes,
            rest_bytes: file_bytes.saturating_sub(accounted),
            dtypes: tallied(&known, |encoding| encoding.dtype.to_string())
                .map(|(dtype, tally)| ByDtype { dtype, tally })
                .collect(),
            filters: tallied(&known, |encoding| encoding.filters.clone())
                .map(|(filters, tally)| ByFilters { filters, tally })
                .collect(),
            chains: chains(&known),
            checkpoints,
            in_no_checkpoint: Tally::of(
                known.iter().filter(|(key, _)| !users.contains_key(*key)).map(|(_, encoding)| encoding),
            ),
            largest: largest(store, &known, arguments.top)?,
            damaged,
        })
    }
}

/// The weights by what `by` says of them, those that take most first.
fn tallied<K: Ord>(
    known: &BTreeMap<WeightHash, Encoding>,
    by: impl Fn(&Encoding) -> K,
) -> impl Iterator<Item = (K, Tally)> {
    let mut tallies: BTreeMap<K, Tally> = BTreeMap::new();
    for encoding in known.values() {
        tallies.entry(by(encoding)).or_default().add(encoding);
    }
    let mut tallies: Vec<(K, Tally)> = tallies.into_iter().collect();
    tallies.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.stored_bytes));
    tallies.into_iter()
}

/// Every length of a chain up to the longest.
fn chains(known: &BTreeMap<WeightHash, Encoding>) -> Vec<ByChain> {
    let mut chains: Vec<ByChain> = Vec::new();
    for encoding in known.values() {
        while chains.len() <= encoding.chain {
            chains.push(ByChain { length: chains.len(), tally: Tally::default() });
        }
        chains[encoding.chain].tally.add(encoding);
    }
    chains
}

/// The checkpoints in the order in which they were added, and how many of them have each weight. Weights that they need and
/// that are neither known nor damaged are missing, which is noted.
fn of_checkpoints(
    store: &Store,
    known: &BTreeMap<WeightHash, Encoding>,
    unknown: &BTreeSet<WeightHash>,
    damaged: &mut Vec<Damaged>,
) -> Result<(Vec<OfCheckpoint>, HashMap<WeightHash, u64>), Failure> {
    let mut listed = or_damaged(store.checkpoints().list(), "checkpoint", "", damaged)?;
    listed.sort_by_key(|info| info.added_at);
    let mut found: Vec<(Checkpoint, HashSet<WeightHash>)> = Vec::with_capacity(listed.len());
    let mut users: HashMap<WeightHash, u64> = HashMap::new();
    for info in listed {
        let checkpoint = or_damaged(store.checkpoints().get(&info.name), "checkpoint", &info.name, damaged)?;
        let Some(checkpoint) = checkpoint else { continue };
        let keys: HashSet<WeightHash> = checkpoint.tensors().iter().map(|tensor| tensor.key.clone()).collect();
        for key in &keys {
            let count = users.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 && !known.contains_key(key) && !unknown.contains(key) {
                let problem = format!("it is missing, and the checkpoint `{}` needs it", checkpoint.name());
                damaged.push(Damaged { kind: "weight", key: key.to_string(), problem });
            }
        }
        found.push((checkpoint, keys));
    }
    let mut before: HashSet<&WeightHash> = HashSet::new();
    let mut reports = Vec::with_capacity(found.len());
    for (checkpoint, keys) in &found {
        let stored = |which: &dyn Fn(&WeightHash) -> bool| {
            let keys = keys.iter().filter(|key| which(key));
            keys.filter_map(|key| known.get(key)).map(|encoding| encoding.stored_bytes).sum()
        };
        reports.push(OfCheckpoint {
            name: checkpoint.name().to_owned(),
            tensors: checkpoint.info().tensors,
            logical_bytes: checkpoint.info().logical_bytes,
            stored_bytes: stored(&|_| true),
            unique_stored_bytes: stored(&|key| users.get(key) == Some(&1)),
            added_stored_bytes: stored(&|key| !before.contains(key)),
        });
        before.extend(keys);
    }
    Ok((reports, users))
}

/// The weights that take most.
fn largest(store: &Store, known: &BTreeMap<WeightHash, Encoding>, top: usize) -> Result<Vec<Largest>, Failure> {
    let mut sorted: Vec<(&WeightHash, &Encoding)> = known.iter().collect();
    sorted.sort_by_key(|(_, encoding)| std::cmp::Reverse(encoding.stored_bytes));
    let mut largest = Vec::new();
    for (key, encoding) in sorted.into_iter().take(top) {
        let Some(metadata) = store.weights().get_metadata(key)? else { continue };
        largest.push(Largest {
            key: key.to_string(),
            name: metadata.name,
            dtype: metadata.dtype.to_string(),
            shape: metadata.shape,
            bytes: encoding.length,
            stored_bytes: encoding.stored_bytes,
            base: encoding.base.as_ref().map(ToString::to_string),
        });
    }
    Ok(largest)
}

impl Report {
    fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        for Damaged { kind, key, problem } in &self.damaged {
            let _ = writeln!(out, "{} {kind} {}: {}", paint.red("damaged"), printable(key), one_line(problem));
        }
        let _ = writeln!(out, "{}: {}", paint.bold(&printable(&self.store)), bytes(self.file_bytes));
        let weights = self.whole.weights + self.deltas.weights;
        let mut sections = vec![self.parts()];
        if weights > 0 {
            sections.push(kinds("DTYPE", self.dtypes.iter().map(|row| (row.dtype.clone(), row.tally))));
            sections.push(kinds(
                "FILTERS",
                self.filters.iter().map(|row| {
                    let filters = if row.filters.is_empty() { "none".to_owned() } else { row.filters.join(", ") };
                    (filters, row.tally)
                }),
            ));
        }
        if self.deltas.weights > 0 {
            sections.push(self.chains());
        }
        if !self.checkpoints.is_empty() {
            sections.push(self.checkpoints());
        }
        if !self.largest.is_empty() {
            sections.push(self.largest());
        }
        let sections: Vec<String> = sections.iter().map(|table| table.render(paint)).collect();
        out + &sections.join("\n") + &self.closing(paint)
    }

    /// What takes the bytes of the file.
    fn parts(&self) -> Table {
        let mut table = Table::new(&[
            ("WHAT", Side::Left),
            ("COUNT", Side::Right),
            ("SIZE", Side::Right),
            ("STORED", Side::Right),
            ("OF FILE", Side::Right),
            ("", Side::Left),
        ]);
        let tally = |tally: &Tally| (Some(tally.weights), Some(tally.bytes), tally.stored_bytes);
        let part = |part: &Part| (Some(part.count), None, part.stored_bytes);
        let rows = [
            ("whole weights", tally(&self.whole)),
            ("weights as deltas", tally(&self.deltas)),
            ("other deltas", part(&self.other_deltas)),
            ("records of checkpoints", part(&self.checkpoint_records)),
            ("links", (None, None, self.links_stored_bytes)),
            ("objects", (None, None, self.objects_stored_bytes)),
            ("files", (None, None, self.files_stored_bytes)),
            ("the rest", (None, None, self.rest_bytes)),
        ];
        for (what, (count, size, stored)) in rows {
            if count == Some(0) || (count.is_none() && stored == 0) {
                continue;
            }
            table.row([
                what.to_owned(),
                count.map_or_else(String::new, |count| count.to_string()),
                size.map_or_else(String::new, bytes),
                bytes(stored),
                percent(stored, self.file_bytes),
                bar(stored, self.file_bytes, WIDTH),
            ]);
        }
        table
    }

    fn chains(&self) -> Table {
        let mut table = Table::new(&[
            ("DELTAS IN A CHAIN", Side::Left),
            ("WEIGHTS", Side::Right),
            ("STORED", Side::Right),
            ("", Side::Left),
        ]);
        let most = self.chains.iter().map(|row| row.tally.weights).max().unwrap_or(0);
        for ByChain { length, tally } in &self.chains {
            let length = if *length == 0 { "0 (whole)".to_owned() } else { length.to_string() };
            let picture = bar(tally.weights, most, WIDTH);
            table.row([length, tally.weights.to_string(), bytes(tally.stored_bytes), picture]);
        }
        table
    }

    fn checkpoints(&self) -> Table {
        let mut table = Table::new(&[
            ("CHECKPOINT", Side::Left),
            ("SIZE", Side::Right),
            ("STORED", Side::Right),
            ("ITS OWN", Side::Right),
            ("ADDED", Side::Right),
            ("", Side::Left),
        ]);
        let most = self.checkpoints.iter().map(|row| row.added_stored_bytes).max().unwrap_or(0);
        for row in &self.checkpoints {
            table.row([
                printable(&shortened(&row.name, 60)),
                bytes(row.logical_bytes),
                bytes(row.stored_bytes),
                bytes(row.unique_stored_bytes),
                bytes(row.added_stored_bytes),
                bar(row.added_stored_bytes, most, WIDTH),
            ]);
        }
        table
    }

    fn largest(&self) -> Table {
        let mut table = Table::new(&[
            ("LARGEST WEIGHT", Side::Left),
            ("DTYPE", Side::Left),
            ("SHAPE", Side::Left),
            ("SIZE", Side::Right),
            ("STORED", Side::Right),
            ("AS", Side::Left),
            ("KEY", Side::Left),
        ]);
        for row in &self.largest {
            table.row([
                printable(&shortened(&row.name, 60)),
                row.dtype.clone(),
                shape(&row.shape),
                bytes(row.bytes),
                bytes(row.stored_bytes),
                stored_as(row.base.as_deref()),
                short_key(&row.key),
            ]);
        }
        table
    }

    /// What is said below the tables.
    fn closing(&self, paint: Paint) -> String {
        let mut lines = Vec::new();
        if self.in_no_checkpoint.weights > 0 && !self.checkpoints.is_empty() {
            let Tally { weights, stored_bytes, .. } = self.in_no_checkpoint;
            lines.push(format!("in no checkpoint: {}, {} stored", counted(weights, "weight"), bytes(stored_bytes)));
        }
        for (suffix, length) in [("-journal", self.journal_bytes), ("-wal", self.log_bytes)] {
            lines.extend(
                length.map(|length| format!("beside it: {}{suffix}, {}", printable(&self.store), bytes(length))),
            );
        }
        if !self.damaged.is_empty() {
            let count = counted(self.damaged.len() as u64, "problem");
            lines.push(format!("{count} found, and what is damaged left out; `corallite verify` looks at every byte"));
        }
        lines.iter().map(|line| paint.dim(line) + "\n").collect()
    }
}

/// Weights of several kinds.
fn kinds(head: &'static str, rows: impl Iterator<Item = (String, Tally)>) -> Table {
    let mut table = Table::new(&[
        (head, Side::Left),
        ("WEIGHTS", Side::Right),
        ("SIZE", Side::Right),
        ("STORED", Side::Right),
        ("OF SIZE", Side::Right),
    ]);
    for (kind, tally) in rows {
        let Tally { weights, bytes: size, stored_bytes } = tally;
        table.row([kind, weights.to_string(), bytes(size), bytes(stored_bytes), percent(stored_bytes, size)]);
    }
    table
}
