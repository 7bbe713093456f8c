//! A power loss at any moment, in any way, leaves the last acknowledged commit or the one in flight.
//!
//! Each test does random work on a simulated disk and then cuts the record of what was done to that disk at many
//! points. What a failure prints (`seed`, change) replays it: `CORALLITE_FAULT_SEED=<seed> cargo test -p corallite-file
//! --test crash one_seed -- --ignored --nocapture`.

mod common;

use std::sync::Arc;

use common::crash::Recorded;
use common::disks::{FilteredDisk, Step, Verdict};
use common::{Outcome, Random, setting, store};
use corallite_file::SimulatedDisk;

const STEPS: usize = 60;

fn sound(disk: SimulatedDisk) -> Arc<dyn corallite_file::Disk> {
    Arc::new(disk)
}

/// Checks `cuts` cut points, `each` of every piece of work, and says which fail.
fn violations(seeds: impl Iterator<Item = u64>, cuts: usize, each: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut done = 0;
    for seed in seeds {
        if done >= cuts || found.len() >= 10 {
            break;
        }
        match Recorded::new(seed, STEPS, sound) {
            Err(error) => found.push(error.to_string()),
            Ok(work) => {
                let mut random = Random::new(seed);
                for _ in 0..each.min(cuts - done) {
                    let cut = random.below(work.disk.changes() + 1);
                    found.extend(work.check_cut(cut).err().map(|error| error.to_string()));
                    done += 1;
                }
            }
        }
    }
    found
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn an_acknowledged_commit_survives_a_power_loss_first_thousand() {
    assert_none(&violations(0.., 1000, 50));
}

#[test]
fn an_acknowledged_commit_survives_a_power_loss_second_thousand() {
    assert_none(&violations(1_000_000.., 1000, 50));
}

#[test]
#[ignore = "long; CORALLITE_FAULT_CUTS says how long"]
fn an_acknowledged_commit_survives_a_power_loss_long() {
    let first = setting("CORALLITE_FAULT_SEED", 2_000_000) as u64;
    assert_none(&violations(first.., setting("CORALLITE_FAULT_CUTS", 20_000), 100));
}

#[test]
#[ignore = "replays CORALLITE_FAULT_SEED at every cut point"]
fn one_seed() -> Outcome {
    let work = Recorded::new(setting("CORALLITE_FAULT_SEED", 0) as u64, STEPS, sound)?;
    eprintln!("{} changes, {} commits", work.disk.changes(), work.commits.len());
    for cut in 0..=work.disk.changes() {
        work.check_cut(cut)?;
    }
    Ok(())
}

/// Whether the harness notices a disk on which `pretended` steps are not done.
fn is_noticed(pretended: fn(Step, &std::path::Path) -> bool) -> bool {
    (0..40).any(|seed| {
        let broken = |disk| -> Arc<dyn corallite_file::Disk> {
            Arc::new(FilteredDisk::new(
                disk,
                move |step, path| {
                    if pretended(step, path) { Verdict::Pretend } else { Verdict::Do }
                },
            ))
        };
        match Recorded::new(seed, STEPS, broken) {
            // Not syncing is no error as long as the power stays on.
            Err(_) => false,
            Ok(work) => {
                let mut random = Random::new(seed);
                (0..20).any(|_| work.check_cut(random.below(work.disk.changes() + 1)).is_err())
            }
        }
    })
}

#[test]
fn the_harness_notices_a_journal_that_is_not_synced() {
    assert!(is_noticed(|step, path| step == Step::Sync && path != store()));
}

#[test]
fn the_harness_notices_a_file_that_is_not_synced() {
    assert!(is_noticed(|step, path| step == Step::Sync && path == store()));
}

#[test]
fn the_harness_notices_a_directory_that_is_not_synced() {
    assert!(is_noticed(|step, _| step == Step::SyncDirectory));
}
