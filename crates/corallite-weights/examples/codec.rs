//! Measures the chunk codec on a real model, in memory: sizes, and the rates of encoding and decoding.
//!
//! ```text
//! cargo run --release -p corallite-weights --example codec -- [OPTIONS] model.safetensors [base.safetensors]
//!
//! --json               one line of JSON with every sample
//! --dtype T            f32 (default), bf16 or f16: tensors of float32 are rounded to it, others are left out
//! --compression NAME   the default is the store's; may be repeated
//! --delta NAME         with a base: zigzag, zigzag_by_exponent, or smaller (for each tensor, as the
//!                      store chooses); may be repeated; all three by default
//! --rounds N           5; one more comes first that is not counted
//! --threads N          1
//! ```
//!
//! Tensors are cut as the store cuts them. An encoded chunk goes into the memory of the round before; a decoded tensor gets
//! new memory, within what is timed, as one that is loaded does. Every tensor is compared with what went in. What counts
//! is processor time, and the time of the clock with several threads.

use std::cell::RefCell;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use corallite_weights::delta::{Difference, Order, OrderChoice};
use corallite_weights::filter::{Compression, Filter, Scratch, decode_chunk, encode_chunk, with_scratch};
use corallite_weights::{Dtype, SafetensorsFile, zeroed};
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
    dtype: Dtype,
    differences: &'a [Difference],
}

#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    difference: Vec<u8>,
    whole: Vec<u8>,
}

thread_local! {
    /// Kept by each thread, as the store keeps them.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl Way<'_> {
    /// Encodes the tensor as one of the differences (or as it is) into its place in `kept`, and returns which: the one that
    /// some of the tensor says to be smaller.
    fn encode(&self, tensor: &Tensor, kept: &mut [Vec<Encoded>]) -> Result<usize> {
        let which = self.choose(tensor)?;
        kept[which].par_iter_mut().enumerate().try_for_each(|(index, chunk)| {
            BUFFERS.with_borrow_mut(|buffers| {
                self.encode_one(tensor, which, index, buffers, chunk).map_err(|error| error.to_string())
            })
        })?;
        Ok(which)
    }

    fn choose(&self, tensor: &Tensor) -> Result<usize> {
        let (Some(base), [_, _, ..]) = (&tensor.base, self.differences) else { return Ok(0) };
        let mut choice = OrderChoice::new(self.dtype);
        for place in OrderChoice::places(tensor.raw.len().div_ceil(tensor.chunk) as u64) {
            let start = place as usize * tensor.chunk;
            let run = start..(start + tensor.chunk).min(tensor.raw.len());
            choice.look_at(&tensor.raw[run.clone()], &base[run])?;
        }
        Ok(self.differences.iter().position(|it| it.is_sorted() == (choice.order() == Order::Exponent)).unwrap_or(0))
    }

    fn encode_one(
        &self,
        tensor: &Tensor,
        which: usize,
        index: usize,
        buffers: &mut Buffers,
        (mask, bytes): &mut Encoded,
    ) -> Result<()> {
        let range = index * tensor.chunk..((index + 1) * tensor.chunk).min(tensor.raw.len());
        let mut raw = &tensor.raw[range.clone()];
        if let (Some(difference), Some(base)) = (self.differences.get(which), &tensor.base) {
            buffers.difference.resize(raw.len(), 0);
            difference.encode(raw, &base[range], &mut buffers.difference)?;
            raw = &buffers.difference;
        }
        if raw.len() < tensor.chunk {
            // HDF5 stores the last chunk whole.
            buffers.whole.clear();
            buffers.whole.extend_from_slice(raw);
            buffers.whole.resize(tensor.chunk, 0);
            raw = &buffers.whole;
        }
        *mask = encode_chunk(self.compression, self.item, raw, &mut buffers.scratch, bytes)?;
        Ok(())
    }

    fn decode(&self, tensor: &Tensor, which: usize, chunks: &[Encoded]) -> Result<Vec<u8>> {
        let mut out = zeroed(tensor.raw.len());
        out.par_chunks_mut(tensor.chunk).zip(chunks).enumerate().try_for_each_init(
            Vec::new,
            |whole, (index, (out, (mask, bytes)))| {
                let delta = self.differences.get(which).zip(tensor.base.as_ref());
                if delta.is_none() && out.len() == tensor.chunk {
                    return with_scratch(|scratch| decode_chunk(&self.filters, *mask, bytes, out, scratch));
                }
                whole.resize(tensor.chunk, 0);
                with_scratch(|scratch| decode_chunk(&self.filters, *mask, bytes, whole, scratch))?;
                let (len, from) = (out.len(), index * tensor.chunk);
                match delta {
                    Some((difference, base)) => difference.decode(&whole[..len], &base[from..from + len], out),
                    None => {
                        out.copy_from_slice(&whole[..len]);
                        Ok(())
                    }
                }
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

/// Seconds that count: of the processor for one thread, of the clock for several.
struct Clock {
    is_processor: bool,
}

impl Clock {
    fn now(&self) -> Result<f64> {
        let clock = if self.is_processor { libc::CLOCK_PROCESS_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a timespec to write to.
        if unsafe { libc::clock_gettime(clock, &mut now) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(now.tv_sec as f64 + now.tv_nsec as f64 / 1e9)
    }
}

fn measure(way: &Way<'_>, tensors: &[Tensor], rounds: usize, clock: &Clock) -> Result<Measured> {
    let mut measured = Measured { bytes: 0, encode: Vec::new(), decode: Vec::new() };
    let empty = |tensor: &Tensor| {
        let chunks = vec![(0, Vec::new()); tensor.raw.len().div_ceil(tensor.chunk)];
        vec![chunks; way.differences.len().max(1)]
    };
    let mut kept: Vec<Vec<Vec<Encoded>>> = tensors.iter().map(empty).collect();
    for round in 0..=rounds {
        let start = clock.now()?;
        let pairs = tensors.iter().zip(&mut kept);
        let smallest = pairs.map(|(tensor, kept)| way.encode(tensor, kept)).collect::<Result<Vec<_>>>()?;
        let encode = clock.now()? - start;
        let encoded: Vec<&[Encoded]> =
            kept.iter().zip(&smallest).map(|(kept, &which)| kept[which].as_slice()).collect();
        let start = clock.now()?;
        let triples = tensors.iter().zip(&encoded).zip(&smallest);
        let decoded =
            triples.map(|((tensor, chunks), &which)| way.decode(tensor, which, chunks)).collect::<Result<Vec<_>>>()?;
        let decode = clock.now()? - start;
        if round == 0 {
            measured.bytes = encoded.iter().map(|chunks| len(chunks)).sum();
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
    let clock = Clock { is_processor: options.threads == 1 };
    let mut results = Vec::new();
    let mut out = std::io::stdout().lock();
    for &compression in &options.compressions {
        for (kind, orders) in kinds {
            let differences: Option<Vec<_>> =
                orders.iter().map(|&order| Difference::new(options.dtype, order)).collect();
            let differences = differences.ok_or("this dtype has no such difference")?;
            let way = Way {
                compression,
                filters: compression.pipeline(item),
                item,
                dtype: options.dtype,
                differences: &differences,
            };
            let measured = measure(&way, &tensors, options.rounds, &clock)?;
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

fn main() -> ExitCode {
    let done = Options::parse().and_then(|options| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
        Ok(pool.install(|| run(&options).map_err(|error| error.to_string()))?)
    });
    let Err(error) = done else { return ExitCode::SUCCESS };
    // There is nobody to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}
