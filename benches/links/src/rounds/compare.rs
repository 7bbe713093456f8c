//! Round after round, one engine after the other. Each engine and round has a process of its own, so that no engine
//! inherits the heap or the threads of another.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::progress;
use crate::engine::Kind;
use crate::measure::{self, Scratch};
use crate::report::{self, Machine};
use crate::sample::Sample;
use crate::{Common, Output};

/// The samples of each engine, in the order of the rounds.
pub(crate) type Samples = BTreeMap<Kind, Vec<Sample>>;

/// Runs the comparison and reports it.
pub(crate) fn run(common: &Common, output: &Output, engines: &[Kind], keys: u64, rounds: u32) -> Result<()> {
    let machine = {
        let folder = common.dir.join("fsync");
        let _scratch = Scratch::create(&folder)?;
        Machine::look(measure::fsync_cost(&folder)?)
    };
    let mut samples = Samples::new();
    for round in 1..=rounds {
        for &engine in engines {
            progress(&format!("round {round} of {rounds}: {}", engine.name()));
            let sample = in_a_process(common, engine, keys).with_context(|| format!("measuring {}", engine.name()))?;
            samples.entry(engine).or_default().push(sample);
        }
    }
    report::comparison(&machine, common, output, keys, &samples)
}

fn in_a_process(common: &Common, engine: Kind, keys: u64) -> Result<Sample> {
    let output = Command::new(env::current_exe()?)
        .args(["one", "--engine", engine.name(), "--keys", &keys.to_string()])
        .args(common.arguments())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the process ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where one engine of this run keeps its files.
pub(crate) fn folder(common: &Common, engine: Kind) -> PathBuf {
    common.dir.join(engine.name())
}
