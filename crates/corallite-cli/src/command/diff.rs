//! `corallite diff`: what changed between two checkpoints, or two weights.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use corallite::Store;
use corallite::weights::{Checkpoint, Dtype, Error, Watch, WeightHash, WeightStore};
use serde::Serialize;

use crate::difference::{Difference, Figures};
use crate::exit::{Exit, Failure};
use crate::find::{Found, find};
use crate::opened;
use crate::output::Output;
use crate::text::{
    Paint, Side, Table, bar, bytes, counted, one_line, percent, printable, rough_number, shape, shortened, stored_as,
};
use crate::work::Work;

/// Characters a bar is wide.
const WIDTH: usize = 16;
/// The same in parts that a bar can show.
const PARTS: f64 = 1e6;

const EXAMPLES: &str = "\
Examples:
  corallite diff models.h5 base tuned                 the tensors that changed
  corallite diff models.h5 base tuned --all           the others too
  corallite diff models.h5 base/head.bias tuned/head.bias
  corallite diff models.h5 base tuned --exit-code >/dev/null; echo $?     0 when they are the same
  corallite diff models.h5 base tuned --json | jq '.tensors[] | select(.change.relative_norm > 0.01).name'";

/// Show what changed between two checkpoints, or two weights
///
/// Tensors are compared by name. Those that changed are listed with |B-A|/|A|, the norm of the change as a share of that
/// of A, and a bar that is longest where that is largest; the cosine of the angle between A and B; the largest change of
/// one value; the share of elements whose bits changed; and what the weight of B takes, whole or as a delta. Values are
/// compared as 64-bit floats. Pairs with a NaN or an infinity are counted and left out. What is the same weight in both
/// is not read.
///
/// Ends with 0 also when they differ, unless --exit-code is given: then with 8. A weight that is damaged is listed as such,
/// and the exit code is 1.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// A checkpoint's name; or a weight's key, its first 6 or more digits, or CHECKPOINT/TENSOR
    #[arg(value_name = "A")]
    a: String,

    /// Another of the same kind
    #[arg(value_name = "B")]
    b: String,

    /// List also the tensors that are the same
    #[arg(short, long)]
    all: bool,

    /// End with 8 when anything differs
    #[arg(long)]
    exit_code: bool,
}

/// How a tensor of A compares with that of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Same,
    Changed,
    OnlyInA,
    OnlyInB,
    OtherDtype,
    OtherShape,
    Damaged,
}

/// A tensor on one side.
#[derive(Clone, Debug, Serialize)]
struct Tensor {
    name: String,
    key: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    /// What its weight takes; `null` when that cannot be read.
    stored_bytes: Option<u64>,
    /// How it is stored as the difference to another weight; `null` when it is not.
    delta_type: Option<&'static str>,
    /// The key of that weight.
    base: Option<String>,
    /// How many deltas lie one on another; 0 for a weight that is stored whole.
    chain: Option<usize>,
    #[serde(skip)]
    weight: WeightHash,
    #[serde(skip)]
    element: Dtype,
}

impl Tensor {
    fn of(store: &Store, name: &str, dtype: Dtype, shape: &[u64], key: &WeightHash) -> Result<Self, Failure> {
        // What keeps it from being read is found, and said, when its values are.
        let encoding = store.weights().encoding(key).ok().flatten();
        Ok(Self {
            name: name.to_owned(),
            key: key.to_string(),
            dtype: dtype.to_string(),
            shape: shape.to_vec(),
            bytes: dtype.byte_len(shape)?,
            stored_bytes: encoding.as_ref().map(|encoding| encoding.stored_bytes),
            delta_type: encoding.as_ref().and_then(|encoding| encoding.delta_type),
            base: encoding.as_ref().and_then(|encoding| encoding.base.as_ref()).map(ToString::to_string),
            chain: encoding.map(|encoding| encoding.chain),
            weight: key.clone(),
            element: dtype,
        })
    }

    /// The tensors of a checkpoint, in its order.
    fn all(store: &Store, checkpoint: &Checkpoint) -> Result<Vec<Self>, Failure> {
        let tensors = checkpoint.tensors().iter();
        tensors.map(|tensor| Self::of(store, &tensor.name, tensor.dtype, &tensor.shape, &tensor.key)).collect()
    }

    /// A weight by itself.
    fn alone(store: &Store, key: &WeightHash) -> Result<Self, Failure> {
        let found = store.weights().get_metadata(key)?;
        let found = found.ok_or_else(|| Error::NotFound { what: format!("the weight `{key}`") })?;
        Self::of(store, &found.name, found.dtype, &found.shape, key)
    }
}

/// A tensor on both sides, or on the one that has it.
#[derive(Debug, Serialize)]
struct Pair {
    name: String,
    status: Status,
    a: Option<Tensor>,
    b: Option<Tensor>,
    /// Of a tensor that changed.
    change: Option<Figures>,
    /// Of a damaged one.
    problem: Option<String>,
    #[serde(skip)]
    found: Difference,
}

impl Pair {
    fn of(a: Option<Tensor>, b: Option<Tensor>) -> Self {
        let status = match (&a, &b) {
            (Some(_), None) => Status::OnlyInA,
            (None, _) => Status::OnlyInB,
            (Some(a), Some(b)) if a.element != b.element => Status::OtherDtype,
            (Some(a), Some(b)) if a.shape != b.shape => Status::OtherShape,
            (Some(a), Some(b)) if a.weight == b.weight => Status::Same,
            // Until they have been read.
            _ => Status::Changed,
        };
        let name = a.as_ref().or(b.as_ref()).map(|tensor| tensor.name.clone()).unwrap_or_default();
        Self { name, status, a, b, change: None, problem: None, found: Difference::default() }
    }

    /// Bytes that have to be read of each side.
    fn to_read(&self) -> u64 {
        if self.status == Status::Changed { self.a.as_ref().map_or(0, |tensor| tensor.bytes) } else { 0 }
    }

    /// Reads both and compares them.
    fn compare(&mut self, store: &Store, work: &Work) -> Result<(), Failure> {
        let (Some(a), Some(b)) = (&self.a, &self.b) else { return Ok(()) };
        match difference(store, a, b, work) {
            Ok(found) if found.changed == 0 => self.status = Status::Same,
            Ok(found) => {
                self.change = Some(found.figures());
                self.found = found;
            }
            Err(error @ (Error::Damaged { .. } | Error::Filter { .. } | Error::NotFound { .. })) => {
                self.status = Status::Damaged;
                self.problem = Some(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn difference(store: &Store, a: &Tensor, b: &Tensor, work: &Work) -> Result<Difference, Error> {
    let pieces = |tensor: &Tensor| {
        let key = &tensor.weight;
        let damaged = |problem: &str| Error::Damaged { key: key.clone(), problem: problem.to_owned() };
        let pieces = store.weights().pieces(key)?.ok_or_else(|| damaged("it is missing"))?;
        let found = pieces.metadata();
        match found.dtype == tensor.element && found.shape == tensor.shape {
            true => Ok(pieces),
            false => Err(damaged("it has another dtype or shape than its checkpoint says")),
        }
    };
    Difference::between(a.element, pieces(a)?, pieces(b)?, |bytes| {
        work.advance(bytes);
        if work.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    })
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    a: String,
    b: String,
    identical: bool,
    same: u64,
    changed: u64,
    only_in_a: u64,
    only_in_b: u64,
    other_dtype: u64,
    other_shape: u64,
    damaged: u64,
    /// Of all tensors that changed, together.
    change: Option<Figures>,
    /// Bytes of the tensors of B that are not the same in A.
    differing_bytes: u64,
    /// What their weights take, each counted once.
    differing_stored_bytes: u64,
    tensors: Vec<Pair>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    let mut work = Work::begin()?;
    let store = opened::to_read(&arguments.store)?;
    let (a, b) = (find(&store, &arguments.a)?, find(&store, &arguments.b)?);
    let mut pairs = match (&a, &b) {
        (Found::Checkpoint(a), Found::Checkpoint(b)) => paired(Tensor::all(&store, a)?, Tensor::all(&store, b)?),
        (Found::Weight(a), Found::Weight(b)) => {
            vec![Pair::of(Some(Tensor::alone(&store, a)?), Some(Tensor::alone(&store, b)?))]
        }
        _ => {
            let sentence = "a checkpoint and a weight cannot be compared; give two checkpoints or two weights, such as \
                            CHECKPOINT/TENSOR";
            return Err(Failure::new(Exit::Usage, sentence));
        }
    };
    work.show(output, "comparing", pairs.iter().map(Pair::to_read).sum());
    for pair in pairs.iter_mut().filter(|pair| pair.status == Status::Changed) {
        pair.compare(&store, &work)?;
    }
    drop(work);
    store.close()?;
    let report = Report::of(arguments, pairs);
    output.report(&report, |paint| report.render(paint))?;
    Ok(match &report {
        Report { damaged: 1.., .. } => Exit::Damaged,
        Report { identical: false, .. } if arguments.exit_code => Exit::Differs,
        _ => Exit::Ok,
    })
}

/// The tensors of both by name: in the order of A, and then those that only B has.
fn paired(a: Vec<Tensor>, b: Vec<Tensor>) -> Vec<Pair> {
    let names: Vec<String> = b.iter().map(|tensor| tensor.name.clone()).collect();
    let mut of_b: HashMap<String, Tensor> = b.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let mut pairs: Vec<Pair> = Vec::with_capacity(a.len());
    for tensor in a {
        let other = of_b.remove(&tensor.name);
        pairs.push(Pair::of(Some(tensor), other));
    }
    pairs.extend(names.iter().filter_map(|name| of_b.remove(name)).map(|tensor| Pair::of(None, Some(tensor))));
    pairs
}

impl Report {
    fn of(arguments: &Arguments, mut pairs: Vec<Pair>) -> Self {
        let count = |status: Status| pairs.iter().filter(|pair| pair.status == status).count() as u64;
        let mut together = Difference::default();
        for pair in &pairs {
            together.add(&pair.found);
        }
        let differing = || pairs.iter().filter(|pair| pair.status != Status::Same).filter_map(|pair| pair.b.as_ref());
        let mut counted = HashSet::new();
        let stored = differing().filter(|tensor| counted.insert(&tensor.key)).filter_map(|tensor| tensor.stored_bytes);
        let mut report = Self {
            store: arguments.store.display().to_string(),
            a: arguments.a.clone(),
            b: arguments.b.clone(),
            identical: pairs.iter().all(|pair| pair.status == Status::Same),
            same: count(Status::Same),
            changed: count(Status::Changed),
            only_in_a: count(Status::OnlyInA),
            only_in_b: count(Status::OnlyInB),
            other_dtype: count(Status::OtherDtype),
            other_shape: count(Status::OtherShape),
            damaged: count(Status::Damaged),
            change: Some(together.figures()).filter(|figures| figures.changed_elements > 0),
            differing_bytes: differing().map(|tensor| tensor.bytes).sum(),
            differing_stored_bytes: stored.sum(),
            tensors: Vec::new(),
        };
        if !arguments.all {
            pairs.retain(|pair| pair.status != Status::Same);
        }
        report.tensors = pairs;
        report
    }

    fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        if !self.tensors.is_empty() {
            out += &self.table().render(paint);
        }
        for pair in &self.tensors {
            if let Some(problem) = &pair.problem {
                let name = printable(&pair.name);
                let _ = writeln!(out, "{} {name}: {}", paint.red("damaged"), one_line(problem));
            }
        }
        out + &self.summary(paint)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("TENSOR", Side::Left),
            ("|B-A|/|A|", Side::Right),
            ("", Side::Left),
            ("COSINE", Side::Right),
            ("LARGEST", Side::Right),
            ("CHANGED", Side::Right),
            ("SIZE", Side::Right),
            ("STORED", Side::Right),
            ("AS", Side::Left),
        ]);
        let changes = self.tensors.iter().filter_map(|pair| pair.change?.relative_norm);
        let largest = changes.fold(0.0, f64::max);
        for pair in &self.tensors {
            let name = match (&pair.a, &pair.b) {
                (Some(a), Some(b)) if a.name != b.name => format!("{} / {}", a.name, b.name),
                _ => pair.name.clone(),
            };
            let [norm, picture, cosine, most, share] = self.figures(pair, largest);
            let b = pair.b.as_ref();
            let stored = b.and_then(|tensor| tensor.stored_bytes);
            table.row([
                printable(&shortened(&name, 60)),
                norm,
                picture,
                cosine,
                most,
                share,
                b.map_or_else(String::new, |tensor| bytes(tensor.bytes)),
                stored.map_or_else(String::new, bytes),
                match (b, &pair.a) {
                    (Some(b), Some(a)) if b.base.as_ref() == Some(&a.key) => "delta of A".to_owned(),
                    (Some(b), _) if stored.is_some() => stored_as(b.base.as_deref()),
                    _ => String::new(),
                },
            ]);
        }
        table
    }

    /// How much a tensor changed: the norm, its bar, the cosine, the largest change and the share of elements.
    fn figures(&self, pair: &Pair, largest: f64) -> [String; 5] {
        let words = |text: String| [String::new(), text, String::new(), String::new(), String::new()];
        match (pair.status, &pair.change, &pair.a, &pair.b) {
            (Status::Same, ..) => words("same".to_owned()),
            (Status::OnlyInA, ..) => words(format!("only in {}", printable(&self.a))),
            (Status::OnlyInB, ..) => words(format!("only in {}", printable(&self.b))),
            (Status::OtherDtype, _, Some(a), Some(b)) => words(format!("{} is now {}", a.dtype, b.dtype)),
            (Status::OtherShape, _, Some(a), Some(b)) => {
                words(format!("{} is now {}", shape(&a.shape), shape(&b.shape)))
            }
            (Status::Changed, Some(change), ..) => {
                let unknown = || "-".to_owned();
                let picture = match change.relative_norm {
                    Some(norm) if largest > 0.0 => bar((norm / largest * PARTS).ceil() as u64, PARTS as u64, WIDTH),
                    _ if pair.found.is_from_zero() => "was all zeros".to_owned(),
                    _ => String::new(),
                };
                [
                    change.relative_norm.map_or_else(unknown, rough_number),
                    picture,
                    change.cosine.map_or_else(unknown, |cosine| format!("{cosine:.6}")),
                    change.largest_change.map_or_else(unknown, rough_number),
                    percent(change.changed_elements, change.elements),
                ]
            }
            _ => words("damaged".to_owned()),
        }
    }

    fn summary(&self, paint: Paint) -> String {
        let mut out = String::new();
        let tensors = |count| counted(count, "tensor");
        let (a, b) = (printable(&self.a), printable(&self.b));
        if self.identical {
            let _ = writeln!(out, "{} {} the same in {a} and {b}", paint.green("identical:"), tensors(self.same));
            return out;
        }
        let mut parts = vec![format!("{} same", self.same), format!("{} changed", self.changed)];
        let others = [
            (self.only_in_a, format!("only in {a}")),
            (self.only_in_b, format!("only in {b}")),
            (self.other_dtype, "of another dtype".to_owned()),
            (self.other_shape, "of another shape".to_owned()),
            (self.damaged, "damaged".to_owned()),
        ];
        parts.extend(others.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        let _ = write!(out, "{} {}", paint.yellow("different:"), parts.join(", "));
        if let Some(norm) = self.change.and_then(|change| change.relative_norm) {
            let _ = write!(out, "; |B-A|/|A| of what changed {}", rough_number(norm));
        }
        if self.differing_bytes > 0 {
            let (size, stored) = (self.differing_bytes, self.differing_stored_bytes);
            let share = percent(stored, size);
            let _ = write!(out, "; what differs in {b} is {}, stored in {} ({share})", bytes(size), bytes(stored));
        }
        out.push('\n');
        if let Some(change) = self.change.filter(|change| change.nan + change.infinite > 0) {
            let left_out = [(change.nan, "with a NaN"), (change.infinite, "with an infinity")]
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", counted(*count, "pair")))
                .collect::<Vec<_>>();
            let line = format!("left out of norms, cosines and largest changes: {}", left_out.join(", "));
            let _ = writeln!(out, "{}", paint.dim(&line));
        }
        out
    }
}
