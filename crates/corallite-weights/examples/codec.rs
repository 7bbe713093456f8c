//! Measures the chunk codec on a real model, in memory: sizes, and the rates of encoding and decoding.
//!
//! ```text
//! cargo run --release -p corallite-weights --example codec -- [OPTIONS] model.safetensors [base.safetensors]
//!
//! --json               one line of JSON with every sample
//! --dtype T            f32 (default), bf16 or f16: tensors of float32 are rounded to it, others are left out
//! --compression NAME   the default is the store's; may be repeated
//! --delta NAME         with a base: zigzag, zigzag_by_exponent, or smaller (both are made, for each tensor the smaller
//!                      is kept, as the store does); may be repeated; all three by default
//! --rounds N           5; one more comes first that is not counted
//! --threads N          1
//! ```
//!
//! Tensors are cut as the store cuts them. An encoded chunk gets memory of its own and a decoded tensor too, inside what
//! is timed, because that is what storing and loading do. Every chunk is compared with what went in.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use corallite_weights::delta::{Difference, Order};
use corallite_weights::filter::{Compression, Filter, Scratch, decode_chunk, encode_chunk};
use corallite_weights::{Dtype, SafetensorsFile};
use rayon::prelude::*;
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// A chunk's filter mask and bytes.
type Encoded = (u32, Vec<u8>);

/// What the store aims at for a chunk.
const CHUNK: usize = 1 << 20;

const DELTAS: [(&str, &[Order]); 3] = [
    ("zigzag", &[Order::Natural]),
    ("zigzag_by_exponent", &[Order::Exponent]),
    ("smaller", &[Order::Natural, Order::Exponent]),
];

struct Options {
    is_json: bool,
    dtype: Dtype,
    compressions: Vec<Compression>,
    deltas: Vec<(&'static str, &'static [Order])>,
    rounds: usize,
    threads: usize,
    model: String,
    base: Option<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            is_json: false,
            dtype: Dtype::F32,
            compressions: Vec::new(),
            deltas: Vec::new(),
            rounds: 5,
            threads: 1,
            model: String::new(),
            base: None,
        };
        let mut files = Vec::new();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            if arg == "--json" {
                options.is_json = true;
                continue;
            }
            if !arg.starts_with("--") {
                files.push(arg);
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} wants a value"))?;
            match arg.as_str() {
                "--dtype" => options.dtype = dtype(&value)?,
                "--compression" => options.compressions.push(value.parse()?),
                "--delta" => options.deltas.push(delta(&value)?),
                "--rounds" => options.rounds = value.parse().map_err(|_| "--rounds wants a number")?,
                "--threads" => options.threads = value.parse().map_err(|_| "--threads wants a number")?,
                _ => return Err(format!("unknown option {arg}").into()),
            }
        }
        let mut files = files.into_iter();
        options.model = files.next().ok_or("name a safetensors file to measure, and a second one as the base")?;
        options.base = files.next();
        if options.compressions.is_empty() {
            options.compressions.push(Compression::default());
        }
        if options.deltas.is_empty() {
            options.deltas.extend(DELTAS);
        }
        options.rounds = options.rounds.max(1);
        Ok(options)
    }
}

fn dtype(name: &str) -> Result<Dtype> {
    match name {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::BF16),
        "f16" => Ok(Dtype::F16),
        _ => Err(format!("dtype `{name}`; use f32, bf16 or f16").into()),
    }
}

fn delta(name: &str) -> Result<(&'static str, &'static [Order])> {
    let known = DELTAS.into_iter().find(|(known, _)| *known == name);
    known.ok_or_else(|| format!("delta `{name}`; use zigzag, zigzag_by_exponent or smaller").into())
}

/// A tensor's bytes, how it is cut, and the base's bytes.
struct Tensor {
    raw: Vec<u8>,
    chunk: usize,
    base: Option<Vec<u8>>,
}

/// The tensors of `options.model` that are of its dtype or can be rounded to it, and, with a base, are in it too.
fn tensors(options: &Options) -> Result<Vec<Tensor>> {
    let model = SafetensorsFile::read(&options.model)?;
    let base = options.base.as_ref().map(SafetensorsFile::read).transpose()?;
    let mut tensors = Vec::new();
    for tensor in model.tensors().filter(|tensor| !tensor.data().is_empty()) {
        let Some(raw) = cast(tensor.dtype(), &tensor.data(), options.dtype) else { continue };
        let item = options.dtype.byte_len(&[1])? as usize;
        let mut entry = Tensor { chunk: chunk_len(tensor.shape(), item), raw, base: None };
        if let Some(base) = &base {
            let Some(same) = base.tensors().find(|other| other.name() == tensor.name()) else { continue };
            entry.base = cast(same.dtype(), &same.data(), options.dtype).filter(|base| base.len() == entry.raw.len());
            if entry.base.is_none() {
                return Err(format!("{} has another shape or dtype in the base", tensor.name()).into());
            }
        }
        tensors.push(entry);
    }
    if tensors.is_empty() {
        return Err("there is no tensor of that dtype, or of float32, in both files".into());
    }
    Ok(tensors)
}

fn cast(from: Dtype, bytes: &[u8], to: Dtype) -> Option<Vec<u8>> {
    if from == to {
        return Some(bytes.to_vec());
    }
    let floats = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    match (from, to) {
        (Dtype::F32, Dtype::BF16) => Some(floats.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect()),
        (Dtype::F32, Dtype::F16) => Some(floats.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect()),
        _ => None,
    }
}

/// Bytes of a chunk of the store: whole inner dimensions, and equal ranges of the axis that is cut.
fn chunk_len(shape: &[u64], item: usize) -> usize {
    let (mut inner, mut axes) = (item, shape.to_vec());
    while let Some(axis) = axes.pop().map(|axis| axis as usize) {
        if axes.is_empty() || inner * axis > CHUNK {
            let most = (CHUNK / inner).clamp(1, axis);
            return inner * axis.div_ceil(axis.div_ceil(most));
        }
        inner *= axis;
    }
    inner
}

/// One way to encode tensors.
struct Way<'a> {
    compression: Compression,
    filters: Vec<Filter>,
    item: usize,
    differences: &'a [Difference],
}

#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    difference: Vec<u8>,
}

impl Way<'_> {
    /// Which of the differences was kept (0 without), and the chunks.
    fn encode(&self, tensor: &Tensor) -> Result<(usize, Vec<Encoded>)> {
        let mut best: Option<(usize, Vec<Encoded>)> = None;
        for which in 0..self.differences.len().max(1) {
            let chunks: Vec<Encoded> = (0..tensor.raw.len().div_ceil(tensor.chunk))
                .into_par_iter()
                .map_init(Buffers::default, |buffers, index| {
                    self.encode_one(tensor, which, index, buffers).map_err(|error| error.to_string())
                })
                .collect::<std::result::Result<_, String>>()?;
            if best.as_ref().is_none_or(|(_, best)| len(&chunks) < len(best)) {
                best = Some((which, chunks));
            }
        }
        best.ok_or_else(|| "there was nothing to encode".into())
    }

    fn encode_one(&self, tensor: &Tensor, which: usize, index: usize, buffers: &mut Buffers) -> Result<Encoded> {
        let range = index * tensor.chunk..((index + 1) * tensor.chunk).min(tensor.raw.len());
        let mut raw = &tensor.raw[range.clone()];
        if let (Some(difference), Some(base)) = (self.differences.get(which), &tensor.base) {
            buffers.difference.resize(raw.len(), 0);
            difference.encode(raw, &base[range], &mut buffers.difference)?;
            raw = &buffers.difference;
        }
        let mut bytes = Vec::new();
        let mask = encode_chunk(self.compression, self.item, raw, &mut buffers.scratch, &mut bytes)?;
        Ok((mask, bytes))
    }

    fn decode(&self, tensor: &Tensor, which: usize, chunks: &[Encoded]) -> Result<Vec<u8>> {
        let mut out = vec![0; tensor.raw.len()];
        out.par_chunks_mut(tensor.chunk).zip(chunks).enumerate().try_for_each_init(
            Buffers::default,
            |buffers, (index, (out, (mask, bytes)))| {
                let (Some(difference), Some(base)) = (self.differences.get(which), &tensor.base) else {
                    return decode_chunk(&self.filters, *mask, bytes, out, &mut buffers.scratch);
                };
                buffers.difference.resize(out.len(), 0);
                decode_chunk(&self.filters, *mask, bytes, &mut buffers.difference, &mut buffers.scratch)?;
                let from = index * tensor.chunk;
                difference.decode(&buffers.difference, &base[from..from + out.len()], out)
            },
        )?;
        Ok(out)
    }
}

fn len(chunks: &[Encoded]) -> usize {
    chunks.iter().map(|(_, bytes)| bytes.len()).sum()
}

struct Measured {
    bytes: usize,
    encode: Vec<f64>,
    decode: Vec<f64>,
}

fn measure(way: &Way<'_>, tensors: &[Tensor], rounds: usize) -> Result<Measured> {
    let mut measured = Measured { bytes: 0, encode: Vec::new(), decode: Vec::new() };
    for round in 0..=rounds {
        let start = Instant::now();
        let encoded = tensors.iter().map(|tensor| way.encode(tensor)).collect::<Result<Vec<_>>>()?;
        let encode = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let decoded = tensors
            .iter()
            .zip(&encoded)
            .map(|(tensor, (which, chunks))| way.decode(tensor, *which, chunks))
            .collect::<Result<Vec<_>>>()?;
        let decode = start.elapsed().as_secs_f64();
        if round == 0 {
            measured.bytes = encoded.iter().map(|(_, chunks)| len(chunks)).sum();
            if tensors.iter().zip(&decoded).any(|(tensor, decoded)| tensor.raw != *decoded) {
                return Err("a tensor did not come back as it was".into());
            }
        } else {
            measured.encode.push(encode);
            measured.decode.push(decode);
        }
    }
    Ok(measured)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

fn run(options: &Options) -> Result<()> {
    let tensors = tensors(options)?;
    let item = options.dtype.byte_len(&[1])? as usize;
    let raw: usize = tensors.iter().map(|tensor| tensor.raw.len()).sum();
    let full: [(&str, &[Order]); 1] = [("", &[])];
    let kinds = if options.base.is_some() { options.deltas.as_slice() } else { &full };
    let mut results = Vec::new();
    let mut out = std::io::stdout().lock();
    for &compression in &options.compressions {
        for (kind, orders) in kinds {
            let differences: Option<Vec<_>> =
                orders.iter().map(|&order| Difference::new(options.dtype, order)).collect();
            let differences = differences.ok_or("this dtype has no such difference")?;
            let way = Way { compression, filters: compression.pipeline(item), item, differences: &differences };
            let measured = measure(&way, &tensors, options.rounds)?;
            let (size, rate) =
                (100.0 * measured.bytes as f64 / raw as f64, |seconds: &[f64]| raw as f64 / 1e6 / median(seconds));
            if !options.is_json {
                writeln!(
                    out,
                    "{compression} {kind}: {:.1} MB -> {size:.2} %; encode {:.0} MB/s, decode {:.0} MB/s",
                    raw as f64 / 1e6,
                    rate(&measured.encode),
                    rate(&measured.decode)
                )?;
            }
            results.push(json!({
                "compression": compression.to_string(), "delta": kind, "bytes": measured.bytes,
                "encode_seconds": measured.encode, "decode_seconds": measured.decode,
            }));
        }
    }
    if options.is_json {
        writeln!(out, "{}", json!({"raw_bytes": raw, "tensors": tensors.len(), "results": results}))?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    pool.install(|| run(&options).map_err(|error| error.to_string()))?;
    Ok(())
}
