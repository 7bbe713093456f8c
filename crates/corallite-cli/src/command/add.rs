//! `corallite add`: model files become checkpoints of a store.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use corallite::weights::{AddOptions, Compression, Error, Hdf5Options, SafetensorsFile};
use corallite::{Store, Transaction};
use serde::Serialize;
use serde_json::{Value, json};

use crate::assign;
use crate::exit::{Exit, Failure};
use crate::opened;
use crate::output::Output;
use crate::place;
use crate::text::{Paint, Side, Table, bytes, counted, printable, speed};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  corallite add models.h5 base.safetensors                 as the checkpoint `base`
  corallite add models.h5 model.safetensors --name run-17  under another name
  corallite add models.h5 checkpoints/*.safetensors        all in one commit
  corallite add models.h5 run-17.safetensors --parent run-16 --tag best --set metrics.loss=1.93
  corallite add models.h5 big.safetensors --compression none   stored as it is, to be mapped into memory";

/// Deltas that may lie one on another, where nothing else is asked for.
pub(super) const CHAIN: u8 = 8;

/// Add safetensors files as checkpoints
///
/// Creates the store if there is none. A weight that is stored already, by whatever checkpoint and under whatever name,
/// is compared and not stored again. All files of one command are one commit: when it returns they are on the disk, and
/// when anything goes wrong, or it is interrupted, the store is what it was before. A file must not be changed while
/// it is being added.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file; created if it is missing
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The model files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// The checkpoint's name, if it is not to be the file's name without its extension; for one file
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How new weights are compressed: planes, zstd, gzip:1 (fast) to gzip:9 (small), lzf or none
    ///
    /// Every HDF5 reader understands planes and gzip; h5py understands lzf too, and zstd with the package hdf5plugin;
    /// none can be mapped into memory as it lies.
    #[arg(long, value_name = "HOW", default_value = "planes")]
    compression: Compression,

    /// Tag them; again for more tags
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,

    /// Set a property, as `corallite set` does; again for more
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// The checkpoint that they were made from
    #[arg(long, value_name = "NAME")]
    parent: Option<String>,

    /// How many deltas may lie one on another; 0 stores every weight whole
    ///
    /// A weight is stored as the difference to one of an earlier checkpoint where that is smaller. Reading it reads the
    /// weights it is a difference to.
    #[arg(long, value_name = "DELTAS", default_value_t = CHAIN, value_parser = clap::value_parser!(u8).range(..=32))]
    chain: u8,
}

#[derive(Debug, Serialize)]
struct Added {
    name: String,
    file: String,
    tensors: u64,
    new_weights: u64,
    /// Those of the new weights that are stored as deltas.
    deltas: u64,
    bytes: u64,
    stored_bytes: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    files: Vec<Added>,
    /// With opening the store and making everything durable.
    seconds: f64,
}

pub(crate) fn run(arguments: Arguments, output: &Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    let names = names(&arguments)?;
    let described = described(&arguments)?;
    let mut work = Work::begin()?;
    // All input is looked at before the store is, so that bad input does not even make one.
    let mut files = Vec::with_capacity(names.len());
    for (name, path) in names.iter().zip(&arguments.files) {
        files.push((name.as_str(), SafetensorsFile::open(path).map_err(Failure::input)?));
    }
    place::check_folder(&arguments.store)?;
    work.show(output, "adding", files.iter().map(|(_, file)| file.header().data_len()).sum());

    let options = Hdf5Options::new().compression(arguments.compression);
    let added = opened::with_options(&arguments.store, options, output, |store| {
        add_all(store, &files, (usize::from(arguments.chain), described), &work)
    })?;
    drop(work);
    let store = arguments.store.display().to_string();
    let report = Report { store, files: added, seconds: started.elapsed().as_secs_f64() };
    output.done(&report, |paint| render(&report, paint))?;
    Ok(Exit::Ok)
}

/// What is said of them.
fn described(arguments: &Arguments) -> Result<Vec<(String, Value)>, Failure> {
    let mut described = assign::parse(&arguments.set)?;
    if !arguments.tag.is_empty() {
        described.push(("tags".to_owned(), json!(arguments.tag)));
    }
    described.extend(arguments.parent.iter().map(|parent| ("parent".to_owned(), json!(parent))));
    Ok(described)
}

/// The names the files get.
fn names(arguments: &Arguments) -> Result<Vec<String>, Failure> {
    if let Some(name) = &arguments.name {
        if arguments.files.len() > 1 {
            let sentence = "--name names one checkpoint and several files were given; add them one at a time";
            return Err(Failure::new(Exit::Usage, sentence));
        }
        return Ok(vec![name.clone()]);
    }
    let mut names = Vec::with_capacity(arguments.files.len());
    let mut seen = BTreeSet::new();
    for path in &arguments.files {
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
            let sentence = format!("no name can be made of {}; give one with --name", path.display());
            // What has no file name at all is a folder, and no model whatever it is called.
            let exit = if path.file_name().is_some() { Exit::Usage } else { Exit::BadInput };
            return Err(Failure::new(exit, sentence));
        };
        if !seen.insert(name) {
            let sentence = format!("two of the files would be named `{name}`; add them one at a time with --name");
            return Err(Failure::new(Exit::Usage, sentence));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn add_all(
    store: &Store,
    files: &[(&str, SafetensorsFile)],
    (longest_chain, described): (usize, Vec<(String, Value)>),
    work: &Work,
) -> Result<Vec<Added>, Failure> {
    let properties = match described.as_slice() {
        [] => json!({}),
        _ => assign::of_checkpoint(store, None, assign::apply(described, |_| None)?)?,
    };
    store.transaction(|transaction| {
        let file = transaction.weights().file();
        for (name, _) in files {
            // Before minutes are spent on the files that come first.
            if file.link_exists("checkpoints") && file.link_exists(&format!("checkpoints/{name}")) {
                return Err(Error::AlreadyExists { name: (*name).to_owned() }.into());
            }
        }
        let options = AddOptions::new().longest_chain(longest_chain).watch(work);
        files.iter().map(|(name, file)| add_one(transaction, name, file, &properties, options, work)).collect()
    })
}

fn add_one(
    transaction: &Transaction<'_>,
    name: &str,
    file: &SafetensorsFile,
    properties: &Value,
    options: AddOptions<'_>,
    work: &Work,
) -> Result<Added, Failure> {
    work.on(&printable(name));
    let added = transaction.add_checkpoint_with(name, file, properties.clone(), options)?;
    let info = added.checkpoint.info();
    Ok(Added {
        name: name.to_owned(),
        file: file.path().display().to_string(),
        tensors: info.tensors,
        new_weights: added.new_weights,
        deltas: added.deltas,
        bytes: info.logical_bytes,
        stored_bytes: added.stored_bytes,
        seconds: added.seconds,
    })
}

fn render(report: &Report, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("ADDED", Side::Left),
        ("TENSORS", Side::Right),
        ("NEW", Side::Right),
        ("DELTAS", Side::Right),
        ("SIZE", Side::Right),
        ("STORED", Side::Right),
        ("SPEED", Side::Right),
    ]);
    for added in &report.files {
        table.row([
            printable(&added.name),
            added.tensors.to_string(),
            added.new_weights.to_string(),
            added.deltas.to_string(),
            bytes(added.bytes),
            bytes(added.stored_bytes),
            speed(added.bytes, added.seconds),
        ]);
    }
    let total: u64 = report.files.iter().map(|added| added.bytes).sum();
    table.render(paint)
        + &format!(
            "{} durable in {} after {:.2} s, {} overall.\n",
            counted(report.files.len() as u64, "checkpoint"),
            printable(&report.store),
            report.seconds,
            speed(total, report.seconds),
        )
}
