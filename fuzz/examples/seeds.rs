//! Writes the seed corpora: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.
//!
//! A seed is named for what it is. What a fuzzer finds is not kept here: it goes into `corpus/<target>/auto`.

use std::io::Write;
use std::path::Path;

use corallite_fuzz::journal::flags::{APPLIED, FORGED, GUARDED, RAW, WRITE};
use corallite_fuzz::store::base;
use corallite_fuzz::tensors::file;
use corallite_weights::filter::{Compression, Scratch, encode_chunk};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("safetensors_header", safetensors()),
        ("filters", filters()?),
        ("journal", journal()),
        ("store_file", store()),
        ("links_log", links_log()),
        ("deltas", deltas()),
    ] {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn safetensors() -> Seeds {
    let one = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let two = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[1,3],"data_offsets":[8,14]},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}   "#;
    let packed = r#"{"f4":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"f6":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[2,5]},"none":{"dtype":"F64","shape":[0,18446744073709551615],"data_offsets":[2,2]}}"#;
    let overlap =
        r#"{"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    let twice = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0077":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    vec![
        ("no-tensors", file(b"{}", b"")),
        ("one-tensor", file(one.as_bytes(), &[1; 8])),
        ("data-in-another-order-and-metadata", file(two.as_bytes(), &[2; 14])),
        ("elements-that-share-bytes-and-an-empty-tensor", file(packed.as_bytes(), &[3; 5])),
        ("overlapping-tensors", file(overlap.as_bytes(), &[0; 3])),
        ("one-name-twice-in-two-spellings", file(twice.as_bytes(), &[0; 2])),
        ("data-cut-off", file(one.as_bytes(), &[1; 7])),
        ("header-longer-than-the-file", [0xff; 12].to_vec()),
        ("nested-too-deep", file(&[b"{\"w\":".as_slice(), &[b'['; 200]].concat(), b"")),
    ]
}

/// A filter of the `filters` target: see `filter` there.
const DEFLATE: u8 = 0;
const LZF: u8 = 1;
const ZSTD: u8 = 3 << 3 | 1 << 2 | 1;
const FLETCHER: u8 = 2;
const SHUFFLE_4: u8 = 4 << 2 | 3;

fn filters() -> std::io::Result<Seeds> {
    let decode = |filters: &[u8], mask: u32, raw_len: u32, fix: u8, chunk: &[u8]| {
        let head = [&[0, filters.len() as u8], mask.to_le_bytes().as_slice(), filters].concat();
        [head.as_slice(), &raw_len.to_le_bytes(), &[fix], chunk].concat()
    };
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(4));
    encoder.write_all(&(0..400u32).map(|i| (i % 7) as u8).collect::<Vec<_>>())?;
    let zlib = encoder.finish()?;
    let sparse: Vec<u8> = (0..4096_u32).map(|i| if i * i % 23 == 1 { (i % 5) as u8 } else { 0 }).collect();
    let mut run_lengths = Vec::new();
    encode_chunk(Compression::Planes, 1, &sparse, &mut Scratch::new(), &mut run_lengths).map_err(std::io::Error::other)?;
    // Kinds of `expand`: a run, noise, a count, a repetition.
    let mixture = [0, 0xff, 0x40, 5, 0xf1, 0, 0x80, 1, 2, 3, 4, 0x12, 0, 0x90, 3, 0xff, 0x7f, 0xff, 0x0f];
    Ok(vec![
        ("decode-zlib", decode(&[DEFLATE], 0, 400, 0, &zlib)),
        ("decode-shuffled-zlib-with-a-checksum", decode(&[SHUFFLE_4, DEFLATE, FLETCHER], 0, 400, 1, &zlib)),
        ("decode-checksum-before-zlib", decode(&[FLETCHER, DEFLATE], 0, 396, 0, &zlib)),
        ("decode-lzf", decode(&[LZF], 0, 9, 0, &[0, 7, 0xe0, 0, 0])),
        ("decode-lzf-copy-from-before-the-start", decode(&[LZF], 0, 40, 0, &[0, 7, 0x3f, 0xff])),
        ("decode-everything-masked", decode(&[SHUFFLE_4, LZF], 3, 5, 0, b"plain")),
        ("decode-two-compressions", decode(&[DEFLATE, LZF], 0, 8, 0, &zlib)),
        ("decode-33-filters", decode(&[FLETCHER; 33], 0, 8, 1, &[0; 12])),
        ("round-trip-gzip-4", [&[1, 5, 4], mixture.as_slice()].concat()),
        ("round-trip-gzip-9-of-odd-elements", [&[1, 10, 3], mixture.as_slice()].concat()),
        ("round-trip-planes", [&[1, 11, 4], mixture.as_slice()].concat()),
        ("round-trip-zstd", [&[1, 12, 4], mixture.as_slice()].concat()),
        // A block of one byte repeated, 400 times.
        ("decode-zstd", decode(&[ZSTD], 0, 400, 0, &[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x90, 0, 0x83, 0x0c, 0, 7])),
        // Bytes of which most are zero, as the encoder writes them.
        ("decode-run-lengths", decode(&[DEFLATE], 0, 4096, 0, &run_lengths)),
        ("round-trip-lzf", [&[1, 1, 2], mixture.as_slice()].concat()),
        ("round-trip-of-nothing", vec![1, 5, 4]),
    ])
}

fn journal() -> Seeds {
    // Operands of `edit` and `restructure`.
    let edit = |kind: u8, at: u32, rest: &[u8]| [&[kind], at.to_le_bytes().as_slice(), rest].concat();
    let field =
        |kind: u8, index: u8, field: u8, value: u64| [&[kind, index, field], value.to_le_bytes().as_slice()].concat();
    let with = |how: u8, edits: &[u8]| [&[how], edits].concat();
    let huge_page = [&[4, 5], (u64::MAX / 4096).to_le_bytes().as_slice(), b"page"].concat();
    let past_the_end = [&[4, 5], (1_u64 << 40).to_le_bytes().as_slice(), b"page"].concat();
    let mut free_everything = vec![6, 5];
    for value in [1_u64 << 16, 0, 1, 0, 0, 1 << 16] {
        free_everything.extend(value.to_le_bytes());
    }
    free_everything.extend([16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    vec![
        ("intact", with(0, &[])),
        ("intact-applied-and-written-on", with(APPLIED | WRITE, &[])),
        ("intact-half-applied", with(GUARDED | WRITE, &[])),
        ("cut-in-the-last-commit", with(WRITE, &edit(2, 0x9000, &[]))),
        ("cut-below-what-is-applied", with(APPLIED, &edit(2, 0x9000, &[]))),
        ("a-bit-flipped-in-a-page", with(0, &edit(1, 0x3456, &[0x10]))),
        ("a-bit-flipped-in-the-marks", with(APPLIED | WRITE, &edit(1, 520, &[1]))),
        ("the-header-overwritten", with(0, &edit(0, 0, &[4, 1, 2, 3, 4]))),
        ("empty", with(RAW, &[])),
        ("no-journal-at-all", with(RAW | WRITE, b"something else")),
        ("forged-page-number-at-the-end-of-time", with(FORGED | WRITE, &field(0, 0, 3, u64::MAX))),
        ("forged-page-number-while-half-applied", with(FORGED | APPLIED | WRITE | GUARDED, &field(0, 1, 3, u64::MAX))),
        ("forged-page-number-past-every-offset", with(FORGED, &field(0, 2, 3, u64::MAX >> 5))),
        ("forged-end-of-allocation", with(FORGED | WRITE, &field(1, 2, 0, 1 << 62))),
        ("forged-number-of-free-extents", with(FORGED, &field(1, 1, 2, u64::MAX / 16))),
        ("forged-direct-pages", with(FORGED | WRITE, &field(1, 1, 3, 7))),
        ("forged-commit-number", with(FORGED, &field(0, 1, 2, u64::MAX))),
        ("forged-marks", with(FORGED | APPLIED, &field(7, 3, 0, u64::MAX))),
        ("forged-page-before-overflow", with(FORGED | WRITE, &[huge_page, free_everything.clone()].concat())),
        ("forged-page-past-the-end", with(FORGED | WRITE, &[past_the_end, free_everything].concat())),
        ("a-frame-twice", with(FORGED, &[3, 1, 4])),
        ("a-frame-missing", with(FORGED | WRITE, &[2, 2])),
    ]
}

fn store() -> Seeds {
    let of = |base: u8, kind: u8, at: u32, rest: &[u8]| [&[base, kind], at.to_le_bytes().as_slice(), rest].concat();
    let edit = |kind: u8, at: u32, rest: &[u8]| of(base::VALID, kind, at, rest);
    let coral = |kind: u8, at: u32, rest: &[u8]| of(base::CORAL, kind, at, rest);
    vec![
        ("intact", vec![base::VALID]),
        ("coral-intact", vec![base::CORAL]),
        ("coral-cut", coral(2, 0x900, &[])),
        ("coral-root-entry-changed", coral(0, 64, &[4, 1, 0, 0, 0])),
        ("coral-object-header-changed", coral(0, 96, &[8, 1, 0, 0xff, 0xff, 1, 0, 0, 0])),
        ("coral-heap-changed", coral(1, 0x2b0, &[8])),
        ("not-hdf5", b"\0not an HDF5 file".to_vec()),
        ("only-a-signature", b"\0\x89HDF\r\n\x1a\n".to_vec()),
        ("cut-in-half", edit(2, 0x6000, &[])),
        ("superblock-end-of-file-changed", edit(1, 29, &[0x40])),
        ("object-header-changed", edit(0, 100, &[6, 0xff, 0xff, 0, 0, 1, 1])),
        ("a-page-copied-over-another", edit(3, 0x2000, &[0, 0x10, 0, 0, 0, 0x10])),
        ("bytes-inserted", edit(5, 0x1800, &[0, 8, 0])),
    ]
}

fn links_log() -> Seeds {
    use corallite_fuzz::links_log::flags::{FORGED, HINT, MACS, RAW, SALVAGE, WRITE};
    let edit = |kind: u8, at: u32, rest: &[u8]| [&[kind | 0x80], at.to_le_bytes().as_slice(), rest].concat();
    let field = |slot: u8, field: u8, value: u64| [&[0, slot, field], value.to_le_bytes().as_slice()].concat();
    let with = |how: u8, edits: &[u8]| [&[how], edits].concat();
    vec![
        ("intact", with(0, &[])),
        ("intact-from-its-hint", with(HINT, &[])),
        ("intact-and-written-on", with(WRITE, &[])),
        ("empty", with(RAW, &[])),
        ("not-hdf5", with(RAW, b"something else")),
        ("cut", with(WRITE, &edit(2, 0x3000, &[]))),
        ("a-bit-flipped", with(WRITE, &edit(1, 0x10c94, &[0x10]))),
        ("a-bit-flipped-and-given-up", with(WRITE | SALVAGE, &edit(1, 0x10c94, &[0x10]))),
        ("forged-capacity", with(FORGED, &field(0, 1, u64::MAX / 64))),
        ("forged-region", with(FORGED | WRITE, &field(0, 2, 4096))),
        ("forged-first-record", with(FORGED, &field(0, 3, u64::MAX))),
        ("forged-hint", with(FORGED | HINT | WRITE, &field(0, 4, 1 << 61))),
        ("forged-operation", with(FORGED | MACS | WRITE, &field(60, 5, 0x17))),
        ("forged-number", with(FORGED | MACS | WRITE, &field(60, 7, u64::MAX))),
        ("forged-count", with(FORGED | MACS, &field(2, 9, u64::MAX))),
        ("forged-content-without-the-key", with(FORGED | WRITE, &field(60, 8, 1))),
    ]
}

fn deltas() -> Seeds {
    const FORGED: u8 = 0;
    const DAMAGED: u8 = 1;
    const F16: u8 = 13;
    const F32: u8 = 17;
    // A type's place in `DeltaType::ALL`, a dtype's in `Dtype::ALL`, rows of four, and how alike the two are.
    let of = |how: u8, delta_type: u8, dtype: u8, rows: u8, likeness: u8, rest: &[u8]| {
        [&[how, delta_type, dtype, rows], 0x1234_5678_u64.to_le_bytes().as_slice(), &[likeness], rest].concat()
    };
    let damaged = |delta_type: u8, rest: &[u8]| of(DAMAGED, delta_type, F32, 8, 1, rest);
    let overwrite = [1, 0, 9, 0, 0, 0, 2, 0xff, 0xff];
    vec![
        ("zigzag-intact", damaged(0, &[])),
        ("zigzag-of-big-endian", of(DAMAGED, 0, F32 | 0x80, 8, 0xff, &[])),
        ("zigzag-by-exponent-with-another-run", damaged(1, &[0, 1, 3, 4, 3])),
        ("zigzag-overwritten", damaged(0, &overwrite)),
        ("raw-with-an-exact-list", damaged(2, &[0, 1, 2, 7, 1, 2, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1])),
        ("compressed-cut", damaged(3, &[1, 2, 9, 0, 0, 0, 0, 1])),
        ("xor-overwritten", damaged(4, &overwrite)),
        ("xor-of-halves-overwritten", of(DAMAGED, 5, F16, 8, 3, &overwrite)),
        ("exponents-and-mantissas-overwritten", damaged(6, &overwrite)),
        ("int8-with-another-scale", of(DAMAGED, 7, F16, 8, 3, &[0, 1, 4, 6, 80])),
        ("sparse-overwritten", of(DAMAGED, 9, F16, 8, 3, &overwrite)),
        ("per-axis-with-other-rows", of(DAMAGED, 10, F16, 8, 3, &[0, 1, 8, 4, 7])),
        ("many-elements", of(DAMAGED, 3, F16, 2, 1, &[])),
        ("forged-signs-of-coral", of(FORGED, 10, F32, 2, 0, &[2, 10, 4, 1, 11, 4, 4, 0, 4, 2])),
        ("forged-bomb", of(FORGED, 3, F32, 8, 0, &[1, 0, 0, 3, 2])),
        ("forged-type-of-the-future", of(FORGED, 11, F32, 8, 0, &[])),
    ]
}
