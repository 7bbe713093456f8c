//! The zlib encoder for shuffled chunks.
//!
//! After the shuffle a chunk of floats is byte planes of very different nature. Each 32 KiB block is
//! written in the cheapest of three ways, all of which any inflater reads:
//!
//! - *stored*, when its bytes are noise (most of the mantissa): costs nothing to write or read;
//! - *Huffman*, when single bytes are skewed (exponents);
//! - *matched*, by zlib at the asked level, when sequences repeat (integers, zeros, equal rows).
//!   Runs of such blocks go to zlib as one segment that ends in a sync flush.
//!
//! The matched form is taken only if it really is smaller, so the result is never noticeably larger
//! than zlib's own on the whole chunk, and on real weights it is much smaller.

use std::ops::Range;

use flate2::{Compress, FlushCompress, Status};

use super::GzipLevel;
use super::bits::BitWriter;
use super::huffman::{Histogram, cost_in_bits, histogram, write_block};
use super::repeats::Repeats;
use crate::error::{Error, Result};

const BLOCK: usize = 32 * 1024;
const MAX_STORED: usize = 65_535;

/// A Huffman block has to save this share of its bits to be worth decoding.
const MIN_SAVING: f32 = 0.02;

/// Below this size a block is looked at byte by byte: samples of it would say little.
const SMALL: usize = 4096;

/// The share of repeating windows from which on the match search is tried. Chance finds in exponent
/// planes of real weights stay around 0.02.
const REPEATING: f32 = 0.06;

/// State kept from chunk to chunk.
#[derive(Default)]
pub(super) struct Deflater {
    repeats: Repeats,
    matcher: Option<(GzipLevel, Compress)>,
    matched: Vec<u8>,
}

/// A stretch of the chunk and the cheapest way found for it without a match search.
struct Block {
    range: Range<usize>,
    counts: Option<Histogram>,
    bits: f32,
}

/// Appends `src` as a zlib stream to `out`. `src` consists of planes of `plane_len` bytes, and a shorter rest.
pub(super) fn zlib(
    src: &[u8],
    plane_len: usize,
    level: GzipLevel,
    state: &mut Deflater,
    out: &mut Vec<u8>,
) -> Result<()> {
    // 32 KiB window, deflate; then the level's class, chosen so that the two bytes divide by 31.
    out.extend_from_slice(match level.get() {
        1 => &[0x78, 0x01],
        2..=5 => &[0x78, 0x5e],
        6 => &[0x78, 0x9c],
        _ => &[0x78, 0xda],
    });
    state.repeats.reset();
    let mut writer = BitWriter::new(out);
    let mut pending: Vec<Block> = Vec::new();
    let mut plane_start = 0;
    while plane_start < src.len() {
        let plane_end = plane_start.saturating_add(plane_len.max(1)).min(src.len());
        for start in (plane_start..plane_end).step_by(BLOCK) {
            let end = (start + BLOCK).min(plane_end);
            let block = judge(src, start..end);
            let share = if end - start < SMALL {
                state.repeats.dense_share(src, start, end)
            } else {
                state.repeats.share(src, start, end)
            };
            let repeating = share >= REPEATING;
            if repeating {
                pending.push(block);
            } else {
                write_matched(src, &mut pending, level, state, &mut writer)?;
                write_plain(src, &[block], &mut writer);
            }
        }
        plane_start = plane_end;
    }
    write_matched(src, &mut pending, level, state, &mut writer)?;
    writer.put(0b011, 3); // the last block, fixed codes
    writer.put(0, 7); // which is empty
    writer.put_bytes(&libdeflater::adler32(src).to_be_bytes());
    Ok(())
}

fn judge(src: &[u8], range: Range<usize>) -> Block {
    let bytes = &src[range.clone()];
    let counts = histogram(bytes);
    let stored = bytes.len() as f32 * 8.0;
    let huffman = cost_in_bits(&counts, bytes.len());
    if huffman < stored * (1.0 - MIN_SAVING) {
        Block { range, counts: Some(counts), bits: huffman }
    } else {
        Block { range, counts: None, bits: stored }
    }
}

/// Writes and empties `pending`: matched if that is smaller, else each block its own way.
fn write_matched(
    src: &[u8],
    pending: &mut Vec<Block>,
    level: GzipLevel,
    state: &mut Deflater,
    writer: &mut BitWriter<'_>,
) -> Result<()> {
    let (Some(first), Some(last)) = (pending.first(), pending.last()) else { return Ok(()) };
    let whole = first.range.start..last.range.end;
    let plain_bits: f32 = pending.iter().map(|block| block.bits).sum();
    deflate_segment(&src[whole], level, state)?;
    if (state.matched.len() * 8) as f32 <= plain_bits {
        if !writer.is_aligned() {
            put_stored(&[], writer);
        }
        writer.put_bytes(&state.matched);
    } else {
        write_plain(src, pending, writer);
    }
    pending.clear();
    Ok(())
}

fn write_plain(src: &[u8], blocks: &[Block], writer: &mut BitWriter<'_>) {
    for block in blocks {
        let bytes = &src[block.range.clone()];
        match &block.counts {
            Some(counts) => write_block(bytes, counts, writer),
            None => bytes.chunks(MAX_STORED).for_each(|part| put_stored(part, writer)),
        }
    }
}

fn put_stored(part: &[u8], writer: &mut BitWriter<'_>) {
    let len = part.len() as u16;
    writer.put(0, 3); // not the last block; stored
    writer.put_bytes(&len.to_le_bytes());
    writer.put_bytes(&(!len).to_le_bytes());
    writer.put_bytes(part);
}

/// Fills `state.matched` with raw deflate blocks for `segment`, ending at a byte boundary.
fn deflate_segment(segment: &[u8], level: GzipLevel, state: &mut Deflater) -> Result<()> {
    let fail = |what: String| Error::filter("deflate", what);
    let zlib_level = flate2::Compression::new(u32::from(level.get()));
    let matcher = match &mut state.matcher {
        Some((at, matcher)) if *at == level => {
            matcher.reset();
            matcher
        }
        slot => &mut slot.insert((level, Compress::new(zlib_level, false))).1,
    };
    let out = &mut state.matched;
    out.clear();
    out.reserve(segment.len() + segment.len() / 1000 + 128);
    loop {
        let done = matcher.total_in() as usize;
        let rest = segment.get(done..).unwrap_or_default();
        let status = matcher.compress_vec(rest, out, FlushCompress::Sync).map_err(|e| fail(e.to_string()))?;
        // Room left over means that the flush is complete; a full buffer may hide more output.
        if out.len() < out.capacity() && matcher.total_in() as usize == segment.len() {
            return Ok(());
        }
        if status == Status::StreamEnd {
            return Err(fail("the encoder stopped early".into()));
        }
        out.reserve(out.capacity().max(4096));
    }
}
