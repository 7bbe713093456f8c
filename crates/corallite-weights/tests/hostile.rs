//! Hostile input: the properties of the fuzz targets, on the same few thousand inputs in every run.
//!
//! `make fuzz` looks further; this takes seconds. The properties are in `fuzz/src`, shared with the targets; each
//! panics when a promise does not hold, with the input at hand.

#![allow(clippy::expect_used, clippy::panic)] // the workspace lints exempt test functions, but not their helpers
#![allow(missing_docs, unreachable_pub)] // the shared files are public where they come from

#[path = "../../../fuzz/src/deltas.rs"]
mod deltas;
#[path = "../../../fuzz/src/filters.rs"]
mod filters;
#[path = "../../../fuzz/src/input.rs"]
mod input;
#[path = "../../../fuzz/src/journal.rs"]
mod journal;
#[path = "../../../fuzz/src/store.rs"]
mod store;
#[path = "../../../fuzz/src/tensors.rs"]
mod tensors;

/// Numbers that are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A number as structures have them: small, at a border, or any.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => u64::MAX >> self.below(64),
            2 => (1_u64 << self.below(63)).wrapping_add_signed(self.below(3) as i64 - 1),
            _ => self.below(20) as u64,
        }
    }

    /// Bytes that are often such numbers.
    fn operands(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        (0..count)
            .flat_map(|_| if self.below(2) == 0 { self.number().to_le_bytes().to_vec() } else { self.bytes(3) })
            .collect()
    }
}

/// Runs a property on one input; when it panics, the input is shown, as the fuzz target of that name takes it.
fn each(target: &str, bytes: &[u8], property: impl Fn(&[u8])) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| property(bytes))) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        panic!("{} on this input of the fuzz target `{target}`: {hex}", text.unwrap_or("a panic"));
    }
}

const HEADERS: [&str; 4] = [
    "{}",
    r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
    r#"{"__metadata__":{"format":"pt","a":"\u00e9"},"b":{"dtype":"BF16","shape":[1,3],"data_offsets":[8,14]},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}  "#,
    r#"{"f":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"n":{"dtype":"F64","shape":[0,9],"data_offsets":[2,2]},"u":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}}"#,
];

#[test]
fn whatever_safetensors_file_is_accepted_the_official_library_reads_the_same() {
    const TOKENS: [&str; 28] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0077",
        "\\ud800",
        "null",
        "true",
        "-1",
        "1.0",
        "1e2",
        "00",
        "0",
        "8",
        " ",
        "\n",
        "18446744073709551615",
        "18446744073709551616",
        "\"w\"",
        "\"dtype\"",
        "\"F6_E3M2\"",
        "\"C128\"",
        "\"__metadata__\"",
        "{}",
    ];
    let mut numbers = Numbers(1);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut header = numbers.pick(&HEADERS).as_bytes().to_vec();
        for _ in 0..numbers.below(4) {
            let at = numbers.below(header.len() + 1);
            let end = (at + numbers.below(4)).min(header.len());
            let new = match numbers.below(4) {
                0 => numbers.bytes(1),
                1 => numbers.number().to_string().into_bytes(),
                _ => numbers.pick(&TOKENS).as_bytes().to_vec(),
            };
            header.splice(at..end, new);
        }
        let length = numbers.pick(&[0, 5, 8, 14]);
        let mut file = tensors::file(&header, &numbers.bytes(length));
        match numbers.below(8) {
            0 => file.truncate(numbers.below(file.len() + 1)),
            1 => file[..8].copy_from_slice(&numbers.number().to_le_bytes()),
            _ => {}
        }
        let ok = std::cell::Cell::new(false);
        each("safetensors_header", &file, |file| ok.set(tensors::check(file)));
        *if ok.get() { &mut accepted } else { &mut refused } += 1;
    }
    assert!(accepted > 500 && refused > 5000, "{accepted} accepted and {refused} refused: the inputs test nothing");
}

#[test]
fn hostile_chunks_give_an_error_or_the_right_bytes_and_chunks_of_ours_come_back() {
    let mut numbers = Numbers(2);
    for round in 0..6_000 {
        let mut input = vec![0, numbers.pick(&[0, 1, 1, 2, 2, 3, 4, 33])];
        input.extend((numbers.number() as u32).to_le_bytes());
        input.extend(numbers.bytes(usize::from(input[1])));
        input.extend((numbers.below(5000) as u32).to_le_bytes());
        let count = numbers.below(300);
        let mut chunk = numbers.bytes(count);
        if round % 3 == 0 && chunk.len() > 2 {
            chunk[..2].copy_from_slice(&[0x78, 0x01]);
        }
        input.push(numbers.below(2) as u8);
        input.extend(chunk);
        each("filters", &input, filters::check);
    }
    for _ in 0..400 {
        let mut input = vec![1, numbers.next() as u8, numbers.pick(&[1, 2, 4, 8, 16, 0, 3, 255])];
        input.extend(numbers.operands(8));
        each("filters", &input, filters::check);
    }
}

#[test]
fn beside_a_damaged_journal_a_store_opens_as_one_of_its_commits_or_not_at_all() {
    use journal::flags::{APPLIED, WRITE};
    let mut numbers = Numbers(3);
    for _ in 0..1000 {
        let mut input = vec![numbers.pick(&[0, APPLIED]) | numbers.pick(&[0, WRITE])];
        for _ in 0..=numbers.below(3) {
            input.push(numbers.next() as u8);
            input.extend((numbers.next() as u32).to_le_bytes());
            input.extend(numbers.operands(2));
        }
        each("journal", &input, journal::check);
    }
}

/// One change of a journal's structures, as `restructure` in `fuzz/src/journal.rs` reads it.
fn restructuring(numbers: &mut Numbers) -> Vec<u8> {
    let kind = numbers.below(8) as u8;
    let mut change = vec![kind];
    match kind {
        // A field of a frame, of a commit's record.
        0 | 1 => {
            change.extend([numbers.below(40) as u8, numbers.below(8) as u8]);
            change.extend(numbers.number().to_le_bytes());
        }
        // A frame taken out, or repeated.
        2 => change.extend(numbers.bytes(1)),
        3 => change.extend(numbers.bytes(2)),
        // A new page, or the state before one.
        4 | 5 => {
            change.push(numbers.below(8) as u8);
            change.extend(numbers.number().to_le_bytes());
            change.extend(numbers.bytes(4));
        }
        // A new commit: its record, then extents and runs.
        6 => {
            change.push(numbers.below(8) as u8);
            (0..6).for_each(|_| change.extend(numbers.number().to_le_bytes()));
            let pairs = numbers.below(4);
            change.push(16 * pairs as u8);
            (0..2 * pairs).for_each(|_| change.extend(numbers.number().to_le_bytes()));
        }
        // The header or the marks.
        _ => {
            change.push(numbers.below(4) as u8);
            change.extend(numbers.number().to_le_bytes());
        }
    }
    change
}

#[test]
fn a_forged_journal_does_no_harm() {
    use journal::flags::{APPLIED, FORGED, GUARDED, WRITE};
    let mut numbers = Numbers(4);
    for _ in 0..1500 {
        let how = numbers.pick(&[0, APPLIED]) | numbers.pick(&[0, WRITE]) | numbers.pick(&[0, 0, GUARDED]);
        let mut input = vec![how | FORGED];
        (0..=numbers.below(3)).for_each(|_| input.extend(restructuring(&mut numbers)));
        each("journal", &input, journal::check);
    }
}

#[test]
fn a_damaged_store_is_read_or_refused() {
    let mut numbers = Numbers(5);
    assert_eq!(store::read_all(store::VALID.clone()), 7, "all weights of the undamaged store can be read");
    assert_eq!(store::read_all(store::CORAL.clone()), 3, "and of coral's");
    for _ in 0..1000 {
        let (base, length) =
            numbers.pick(&[(store::base::VALID, store::VALID.len()), (store::base::CORAL, store::CORAL.len())]);
        let mut input = vec![base];
        for _ in 0..=numbers.below(3) {
            input.push(numbers.next() as u8);
            input.extend((numbers.below(length) as u32).to_le_bytes());
            input.extend(numbers.operands(2));
        }
        each("store_file", &input, store::check);
    }
}

/// The seeds of the fuzz targets, among them every input that once found a mistake.
#[test]
fn the_seeds_of_the_fuzz_targets_keep_their_promises() -> std::io::Result<()> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    type Property = fn(&[u8]);
    let targets: [(&str, Property); 4] = [
        ("safetensors_header", |file| {
            tensors::check(file);
        }),
        ("filters", filters::check),
        ("journal", journal::check),
        ("store_file", store::check),
    ];
    for (target, property) in targets {
        for entry in std::fs::read_dir(corpus.join(target))? {
            let path = entry?.path();
            // What a fuzzer on this machine has found is in a folder of its own.
            if path.is_file() {
                each(target, &std::fs::read(&path)?, property);
            }
        }
    }
    Ok(())
}

#[test]
fn hostile_deltas_give_an_error_or_a_weight_and_deltas_of_ours_come_back() {
    let mut numbers = Numbers(6);
    let mut seen = [0; 3];
    for _ in 0..6000 {
        // Mostly floats, a few rows, and two weights that are alike.
        let dtype = if numbers.below(2) == 0 { numbers.pick(&[13, 14, 17, 19]) } else { numbers.below(23) as u8 };
        let order = if numbers.below(8) == 0 { 0x80 } else { 0 };
        let likeness = numbers.pick(&[0, 1, 3, 0xff]);
        let rows = if numbers.below(200) == 0 { 2 } else { numbers.below(16) as u8 };
        let mut input = vec![numbers.below(2) as u8, numbers.below(12) as u8, dtype | order, rows];
        input.extend(numbers.next().to_le_bytes());
        input.push(likeness);
        let operands = numbers.operands(12);
        input.extend(numbers.bytes(4).into_iter().map(|byte| byte % 8).chain(operands));
        let outcome = std::cell::Cell::new(deltas::Outcome::NotEncoded);
        each("deltas", &input, |input| outcome.set(deltas::check(input)));
        seen[outcome.get() as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}: the inputs test nothing");
}
