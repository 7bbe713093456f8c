//! `corallite import-objects`: objects from lines of JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;
use corallite::objects::class::WEIGHT;
use corallite::objects::{Class, StoredObject};
use corallite::weights::Watch;
use corallite::{CHECKPOINT, Error, FILE, FIXED, Store};
use serde::Serialize;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{counted, printable};
use crate::work::Work;
use crate::{opened, place};

const EXAMPLES: &str = "\
Examples:
  corallite export-objects models.h5 -o objects.jsonl
  corallite import-objects other.h5 objects.jsonl
  printf '%s\\n' '{\"type\": \"Run\", \"loss\": 1.5}' > runs.jsonl && corallite import-objects models.h5 runs.jsonl";

/// Objects saved at once, and the length of their lines from which on it is fewer.
const BATCH: usize = 10_000;
const BATCH_BYTES: u64 = 16 << 20;

/// The longest line, in bytes: what one makes of a mistake must not fill the memory.
const LONGEST: u64 = 256 << 20;

/// Save objects from a file of JSON, one a line
///
/// Creates the store if there is none. An object with the `oid` of a stored one changes that; one without is new. What
/// `export-objects` writes can be read here; of a checkpoint, only what was said about it is, and only where the store has it. A
/// class that nobody has declared may have any properties. Objects are saved 10,000 or 16 MiB at a time; where a line
/// is wrong, those of earlier batches are saved.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The store, an HDF5 file; created if it is missing
    #[arg(value_name = "STORE")]
    store: PathBuf,

    /// The file, a JSON object a line
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    /// Objects that were saved, by class.
    saved: BTreeMap<String, u64>,
    /// Objects that were stored like that already.
    unchanged: u64,
    /// Checkpoints that the store does not have.
    skipped: u64,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<Exit, Failure> {
    place::check_folder(&arguments.store)?;
    let path = arguments.file.display().to_string();
    let refused = |error: std::io::Error| Failure::new(Exit::BadInput, format!("{path} cannot be read: {error}"));
    let file = File::open(&arguments.file).map_err(refused)?;
    let length = file.metadata().map_err(refused)?.len();
    let mut work = Work::begin()?;
    work.show(output, "importing", length);
    let report = opened::with_options(&arguments.store, Default::default(), output, |store| {
        let mut import = Import { store, batch: Vec::new(), bytes: 0, report: Report::default() };
        store.objects()?.register_stored().map_err(Error::from)?;
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        for number in 1_u64.. {
            line.clear();
            let read = std::io::Read::take(&mut reader, LONGEST).read_until(b'\n', &mut line).map_err(refused)?;
            if read == 0 {
                break;
            }
            if work.is_cancelled() {
                return Err(Failure::new(Exit::Interrupted, "interrupted; what was saved until now stays"));
            }
            let place = |problem: String| Failure::new(Exit::BadInput, format!("{path}, line {number}: {problem}"));
            if read as u64 == LONGEST && line.last() != Some(&b'\n') {
                return Err(place("it is longer than 256 MiB".to_owned()));
            }
            import.line(&line).map_err(place)?;
            work.advance(read as u64);
            import.bytes += read as u64;
            if import.batch.len() >= BATCH || import.bytes >= BATCH_BYTES {
                import.save()?;
            }
        }
        import.save()?;
        Ok(import.report)
    })?;
    drop(work);
    output.done(&report, |_| {
        let saved: u64 = report.saved.values().sum();
        let classes: Vec<String> =
            report.saved.iter().map(|(class, count)| format!("{} {count}", printable(class))).collect();
        let mut text = format!("saved {}", counted(saved, "object"));
        if !classes.is_empty() {
            text += &format!(" ({})", classes.join(", "));
        }
        if report.unchanged > 0 {
            text += &format!("; {} unchanged", report.unchanged);
        }
        if report.skipped > 0 {
            text += &format!("; {} left out that the store does not have", counted(report.skipped, "checkpoint"));
        }
        text + ".\n"
    })?;
    Ok(Exit::Ok)
}

struct Import<'a> {
    store: &'a Store,
    batch: Vec<StoredObject>,
    /// The length of their lines.
    bytes: u64,
    report: Report,
}

impl Import<'_> {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let mut value: Value = serde_json::from_slice(line).map_err(|error| {
            let problem = error.to_string();
            format!("it is no JSON: {}", problem.split(" at line ").next().unwrap_or_default())
        })?;
        let objects = self.store.objects().map_err(|error| error.to_string())?;
        let Some(map) = value.as_object_mut() else { return Err("it is no JSON object".to_owned()) };
        if let Some(name) = map.get("@class") {
            let name = name.as_str().unwrap_or_default();
            let collection = map.get("collection").and_then(Value::as_str).unwrap_or(name);
            if objects.class(name).is_ok() {
                return Ok(());
            }
            let declaration = map.get("declaration").cloned().unwrap_or_default();
            let class = Class::from_declaration(collection, &declaration).map_err(|error| error.to_string())?;
            return objects.register(class).map(drop).map_err(|error| error.to_string());
        }
        let Some(class) = map.get("type").and_then(Value::as_str).map(str::to_owned) else {
            return Err("it has no `type`, the name of its class".to_owned());
        };
        if class == CHECKPOINT {
            let name = map.get("oid").and_then(Value::as_str).unwrap_or_default();
            if !objects.has(CHECKPOINT, name).map_err(|error| error.to_string())? {
                self.report.skipped += 1;
                return Ok(());
            }
            map.retain(|name, _| !FIXED.contains(&name.as_str()) && name != "weights" && name != "updates");
        } else if class == FILE || class == WEIGHT {
            return Err(format!("`{class}` is no class of objects"));
        } else if objects.class(&class).is_err() {
            objects.register(Class::new(&class).open()).map_err(|error| error.to_string())?;
        }
        let object = objects.import(&class, value).map_err(|error| error.to_string())?;
        self.batch.push(object);
        Ok(())
    }

    fn save(&mut self) -> Result<(), Failure> {
        let changed: Vec<&StoredObject> = self.batch.iter().filter(|object| object.is_changed()).collect();
        for object in &changed {
            *self.report.saved.entry(object.class().name().to_owned()).or_default() += 1;
        }
        self.report.unchanged += (self.batch.len() - changed.len()) as u64;
        self.store.objects()?.save_all(&self.batch).map_err(Error::from)?;
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }
}
