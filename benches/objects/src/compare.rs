//! Part after part, round after round, one engine after the other, each in a process of its own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::Common;
use crate::engine::Kind;
use crate::measure::{Scratch, fsync_cost};
use crate::parts::{self, Part, Sample};
use crate::report::{self, Run};

/// The samples of each engine by figure, in the order of the rounds.
pub(crate) type Samples = BTreeMap<Kind, BTreeMap<String, Vec<f64>>>;

/// Runs the comparison and reports it.
pub(crate) fn run(common: &Common, parts: &[Part], rounds: u32, json: Option<&Path>) -> Result<()> {
    fs::create_dir_all(&common.dir)?;
    let fsync = {
        let scratch = Scratch::create(common.dir.join("fsync"))?;
        fsync_cost(&scratch.0)?
    };
    let mut scratches = BTreeMap::new();
    let mut samples = Samples::new();
    for &part in parts {
        for &engine in part.engines() {
            for objects in part.filled(common.objects) {
                let folder = parts::filled(common, engine, objects);
                if !scratches.contains_key(&folder) {
                    progress(&format!("filling: {}, {objects} objects", engine.name()));
                    scratches.insert(folder.clone(), Scratch::create(folder)?);
                    in_a_process(common, engine, &["fill", "--count", &objects.to_string()])?;
                }
            }
        }
        if part == Part::Raw {
            parts::make_source(common)?;
        }
        for round in 1..=rounds {
            for &engine in part.engines() {
                progress(&format!("{}, round {round} of {rounds}: {}", part.name(), engine.name()));
                let output = in_a_process(common, engine, &["one", "--part", part.name()])?;
                let sample: Sample = serde_json::from_slice(&output)?;
                for (figure, value) in sample {
                    samples.entry(engine).or_default().entry(figure).or_default().push(value);
                }
            }
        }
        if part == Part::Raw {
            fs::remove_file(parts::source(common))?;
        }
    }
    report::write(&Run { common, rounds, fsync, samples: &samples }, json)
}

fn in_a_process(common: &Common, engine: Kind, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(env::current_exe()?)
        .args(arguments)
        .args(["--engine", engine.name()])
        .args(common.arguments())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "measuring {}: the process ended with {}", engine.name(), output.status);
    Ok(output.stdout)
}

/// Says on standard error what is being done; standard output is for the report.
fn progress(message: &str) {
    // Without somebody to tell, the figures are still worth having.
    let _ = writeln!(io::stderr(), "{message}");
}
