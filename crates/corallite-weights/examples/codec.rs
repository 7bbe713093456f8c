//! Measures the chunk codec on a real model: size against plain zlib, and rates on one core.
//!
//! ```text
//! cargo run --release -p corallite-weights --example codec -- model.safetensors [gzip:4]
//! ```
//!
//! Every f32 tensor is cut into 1 MiB chunks, as the store does; the bf16 figures are for the same
//! values rounded to bf16.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use corallite_weights::filter::{Compression, Scratch, decode_chunk, encode_chunk, shuffle};
use corallite_weights::{Dtype, SafetensorsFile};

const CHUNK: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: codec model.safetensors [gzip:4]")?;
    let compression: Compression = args.next().as_deref().unwrap_or("gzip:4").parse()?;
    let file = SafetensorsFile::read(&path)?;
    let f32s: Vec<Vec<u8>> = file.tensors().filter(|t| t.dtype() == Dtype::F32).map(|t| t.data().to_vec()).collect();
    let to_bf16 = |bytes: &Vec<u8>| -> Vec<u8> {
        let (floats, _) = bytes.as_chunks::<4>();
        floats.iter().flat_map(|b| half::bf16::from_f32(f32::from_le_bytes(*b)).to_le_bytes()).collect()
    };
    let bf16s: Vec<Vec<u8>> = f32s.iter().map(to_bf16).collect();
    let mut out = std::io::stdout().lock();
    for (name, size, tensors) in [("f32", 4, f32s), ("bf16", 2, bf16s)] {
        let chunks: Vec<&[u8]> = tensors.iter().flat_map(|t| t.chunks(CHUNK)).collect();
        measure(&mut out, name, size, compression, &chunks)?;
    }
    Ok(())
}

fn measure(
    out: &mut impl Write,
    name: &str,
    size: usize,
    compression: Compression,
    chunks: &[&[u8]],
) -> Result<(), Box<dyn Error>> {
    let total: usize = chunks.iter().map(|c| c.len()).sum();
    let mut scratch = Scratch::new();
    let filters = compression.pipeline(size);
    let (mut encode, mut decode, mut shuffling) = (f64::MAX, f64::MAX, f64::MAX);
    let mut encoded: Vec<(u32, Vec<u8>)> = vec![(0, Vec::new()); chunks.len()];
    let mut raw = vec![0u8; CHUNK];
    for _ in 0..5 {
        let start = Instant::now();
        for (chunk, (mask, bytes)) in chunks.iter().zip(&mut encoded) {
            *mask = encode_chunk(compression, size, chunk, &mut scratch, bytes)?;
        }
        encode = encode.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for (chunk, (mask, bytes)) in chunks.iter().zip(&encoded) {
            decode_chunk(&filters, *mask, bytes, &mut raw[..chunk.len()], &mut scratch)?;
        }
        decode = decode.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        chunks.iter().for_each(|chunk| shuffle(size, chunk, &mut raw[..chunk.len()]));
        shuffling = shuffling.min(start.elapsed().as_secs_f64());
    }
    for (chunk, (mask, bytes)) in chunks.iter().zip(&encoded) {
        decode_chunk(&filters, *mask, bytes, &mut raw[..chunk.len()], &mut scratch)?;
        if raw[..chunk.len()] != **chunk {
            return Err("a chunk did not come back as it was".into());
        }
    }
    let small: usize = encoded.iter().map(|(_, bytes)| bytes.len()).sum();
    let start = Instant::now();
    let mut plain = 0;
    for chunk in chunks {
        shuffle(size, chunk, &mut raw[..chunk.len()]);
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(4));
        encoder.write_all(&raw[..chunk.len()])?;
        plain += encoder.finish()?.len();
    }
    let plain_seconds = start.elapsed().as_secs_f64();
    let (mb, share) = (total as f64 / 1e6, |len: usize| 100.0 * len as f64 / total as f64);
    writeln!(
        out,
        "{name:5} {compression}: {mb:.1} MB -> {:.2} %; encode {:.0} MB/s, decode {:.0} MB/s, shuffle {:.0} MB/s | shuffle+zlib-4: {:.2} %, {:.0} MB/s",
        share(small),
        mb / encode,
        mb / decode,
        mb / shuffling,
        share(plain),
        mb / plain_seconds
    )?;
    Ok(())
}
