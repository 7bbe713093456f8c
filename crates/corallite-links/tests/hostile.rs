//! Hostile logs: the property of the fuzz target `links_log`, on its seeds and on the same inputs in every run.
//!
//! `make fuzz` looks further; this takes seconds.

#![allow(clippy::expect_used, clippy::panic)] // the workspace lints exempt test functions, but not their helpers
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the fuzz targets, which use more of it")]

mod common;
#[path = "../../../fuzz/src/input.rs"]
mod input;
#[path = "../../../fuzz/src/links_log.rs"]
mod links_log;

use common::{Outcome, Random};

fn check(input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| links_log::check(input));
    if let Err(panic) = outcome {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        panic!("{text} on this input of the fuzz target `links_log`: {hex}");
    }
}

#[test]
fn the_seeds_of_the_fuzz_target_keep_its_promises() -> Outcome {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/links_log");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus)? {
        let path = entry?.path();
        // What a fuzzer on this machine has found is in a folder of its own.
        if path.is_file() {
            check(&std::fs::read(path)?);
            count += 1;
        }
    }
    assert!(count >= 16, "{count} seeds");
    Ok(())
}

#[test]
fn a_hostile_log_is_refused_or_read_as_far_as_it_is_good() {
    use links_log::flags::{FORGED, HINT, MACS, SALVAGE, WRITE};
    let mut random = Random::new(1);
    for _ in 0..2000 {
        let mut input = vec![random.next() as u8 & (FORGED | MACS | WRITE | SALVAGE | HINT)];
        for _ in 0..1 + random.below(3) {
            if input[0] & FORGED != 0 && !random.one_in(4) {
                let value = random.pick(&[0, 1, 15, 0x1f, 63, 64, 1 << 40, 1 << 61, u64::MAX]);
                input.extend([0, random.next() as u8, random.next() as u8]);
                input.extend(value.to_le_bytes());
            } else {
                input.extend(std::iter::repeat_with(|| random.next() as u8).take(12));
                let at = input.len() - 12;
                input[at] |= 0x80;
                let [header, records] = links_log::places();
                let within = if random.one_in(4) { header } else { records };
                let place = (within.start as u64 + random.below(within.len() as u64)) as u32;
                input[at + 1..at + 5].copy_from_slice(&place.to_le_bytes());
            }
        }
        check(&input);
    }
}
