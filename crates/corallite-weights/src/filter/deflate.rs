//! The zlib encoder for shuffled chunks.
//!
//! After the shuffle a chunk of floats is byte planes of very different nature. Each 32 KiB block is
//! written in the cheapest of four ways, all of which any inflater reads:
//!
//! - *stored*, when its bytes are noise (most of the mantissa): costs nothing to write or read;
//! - *Huffman*, when single bytes are skewed (exponents);
//! - *run length*, when most bytes are the same (the upper planes of differences): Huffman codes and matches of distance 1;
//! - *matched*, by zlib at the asked level, when sequences repeat (integers, equal rows).
//!   Runs of such blocks go to zlib as one segment that ends in a sync flush.
//!
//! The matched form is taken only if it really is smaller, so the result is never noticeably larger
//! than zlib's own on the whole chunk, and on real weights it is much smaller. Neighbours of the second and third kind
//! share a block where one code fits both, because a code costs time on both sides.

use flate2::{Compress, FlushCompress, Status};

use super::GzipLevel;
use super::bits::{BitWriter, Literals};
use super::blocks::{BLOCK, Block, judge, merge, share_of_top};
use super::huffman::{Code, END_OF_BLOCK, Histogram, SYMBOLS, histogram};
use super::index::{self, Index, Quarters};
use super::packer::Packer;
use super::repeats::{Repeats, telling_length};
use super::runs::{Plan, Runs, length_symbol};
use crate::error::{Error, Result};

const MAX_STORED: usize = 65_535;

/// Below this size a block is looked at byte by byte: samples of it would say little.
const SMALL: usize = 4096;

/// The share of repeating windows from which on the match search is tried. Chance finds in exponent
/// planes of real weights stay around 0.02.
const REPEATING: f32 = 0.06;

/// The same for skewed blocks, whose runs are coded without a search. In planes of differences, sorted ones most of all, chance
/// finds are frequent, and of a hundred searches for fewer none paid.
const REPEATING_SKEWED: f32 = 0.5;

/// Blocks of a segment that are searched first: where a search of these does not come near, one of all would not pay.
const PROBE: usize = 2;

/// How near it has to come.
const NEAR: f32 = 1.05;

/// What each search in vain adds to the share of repeating windows that the next one in the chunk takes, and the most that is asked.
const DISCOURAGED: f32 = 0.12;
const CERTAIN: f32 = 0.5;

/// Runs are looked for when the most frequent value takes this share of a block.
const SKEWED: f32 = 0.4;

/// State kept from chunk to chunk.
#[derive(Default)]
pub(super) struct Deflater {
    repeats: Repeats,
    matcher: Option<(GzipLevel, Compress)>,
    matched: Vec<u8>,
    /// The share of repeating windows from which on the match search is tried in this chunk.
    repeating: f32,
    coder: Coder,
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
    state.repeating = REPEATING;
    state.coder.index.clear();
    let mut writer = BitWriter::new(out);
    let mut pending: Vec<Block> = Vec::new();
    // The last block that is not written yet, to be merged with the next.
    let mut open: Option<Block> = None;
    let mut plane_start = 0;
    while plane_start < src.len() {
        let plane_end = plane_start.saturating_add(plane_len.max(1)).min(src.len());
        for start in (plane_start..plane_end).step_by(BLOCK) {
            let end = (start + BLOCK).min(plane_end);
            let block = judge(src, start..end);
            let length = telling_length(block.chance());
            let share = if end - start < SMALL {
                state.repeats.dense_share(src, start, end, length)
            } else {
                state.repeats.share(src, start, end, length)
            };
            let is_skewed = block.counts.as_ref().is_some_and(|counts| share_of_top(counts, end - start) >= SKEWED);
            if share >= state.repeating.max(if is_skewed { REPEATING_SKEWED } else { 0.0 }) {
                open.take().into_iter().for_each(|block| state.coder.write(src, &block, &mut writer));
                pending.push(block);
                continue;
            }
            write_matched(src, &mut pending, level, state, &mut writer)?;
            if let Some(unmerged) = merge(&mut open, block) {
                state.coder.write(src, &unmerged, &mut writer);
            }
        }
        plane_start = plane_end;
    }
    write_matched(src, &mut pending, level, state, &mut writer)?;
    open.into_iter().for_each(|block| state.coder.write(src, &block, &mut writer));
    writer.put(0b011, 3); // the last block, fixed codes
    writer.put(0, 7); // which is empty
    writer.put_bytes(&libdeflater::adler32(src).to_be_bytes());
    state.coder.index.write(out);
    Ok(())
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
    let bits: Vec<f32> = pending.iter().map(|block| state.coder.bits(src, block)).collect();
    let mut is_near = true;
    if pending.len() > PROBE {
        deflate_segment(&src[whole.start..pending[PROBE - 1].range.end], level, state)?;
        is_near = (state.matched.len() * 8) as f32 <= bits[..PROBE].iter().sum::<f32>() * NEAR;
    }
    if is_near {
        deflate_segment(&src[whole], level, state)?;
    }
    if is_near && (state.matched.len() * 8) as f32 <= bits.iter().sum() {
        if !writer.is_aligned() {
            put_stored(&[], writer);
        }
        writer.put_bytes(&state.matched);
    } else {
        state.repeating = (state.repeating + DISCOURAGED).min(CERTAIN);
        pending.iter().for_each(|block| state.coder.write(src, block, writer));
    }
    pending.clear();
    Ok(())
}

/// Writes blocks without a match search.
#[derive(Default)]
struct Coder {
    runs: Runs,
    literals: Literals,
    index: Index,
}

impl Coder {
    /// About how many bits [`Coder::write`] takes.
    fn bits(&mut self, src: &[u8], block: &Block) -> f32 {
        let Some(counts) = &block.counts else { return block.bits };
        let header = 160.0 + 3.0 * counts.iter().filter(|count| **count > 0).count() as f32;
        let bytes = &src[block.range.clone()];
        let plan = if block.is_sketch { self.plan(bytes, &histogram(bytes)) } else { self.plan(bytes, counts) };
        plan.map_or(block.bits, |plan| plan.bits + header)
    }

    /// What to do with the runs, for exact counts.
    fn plan(&mut self, bytes: &[u8], counts: &Histogram) -> Option<Plan> {
        if share_of_top(counts, bytes.len()) >= SKEWED { self.runs.plan(bytes, counts) } else { None }
    }

    fn write(&mut self, src: &[u8], block: &Block, writer: &mut BitWriter<'_>) {
        let bytes = &src[block.range.clone()];
        let Some(counts) = &block.counts else {
            return bytes.chunks(MAX_STORED).for_each(|part| put_stored(part, writer));
        };
        if !block.is_sketch {
            if let Some(plan) = self.plan(bytes, counts) {
                self.write_runs(bytes, &plan, writer);
            } else {
                self.write_literals(block, bytes, counts, writer);
            }
            return;
        }
        let is_skewed = share_of_top(counts, bytes.len()) >= SKEWED;
        let start = writer.mark();
        if is_skewed || !self.write_literals(block, bytes, counts, writer) {
            writer.rewind(start);
            let block = Block::of(block.range.clone(), histogram(bytes), false);
            self.write(src, &block, writer);
        }
    }

    /// A code for single bytes only. Says whether it became about as short as the counts promise.
    fn write_literals(&mut self, block: &Block, bytes: &[u8], counts: &Histogram, writer: &mut BitWriter<'_>) -> bool {
        let mut weights = [0; SYMBOLS];
        weights[..256].copy_from_slice(counts.as_slice());
        weights[END_OF_BLOCK] = 1;
        let code = Code::new(&weights);
        code.write_header(writer);
        let packer = Packer::new(&code, &weights, bytes.len(), &mut self.literals);
        let start = writer.bits();
        let (mut quarters, mut rest) = ([0; 3], bytes);
        let is_indexed = bytes.len() >= index::SHORTEST && !self.index.is_full();
        if is_indexed {
            for bits in &mut quarters {
                let before = writer.bits();
                let (quarter, others) = rest.split_at(bytes.len() / 4);
                packer.pack(quarter, writer);
                (*bits, rest) = (writer.bits() - before, others);
            }
        }
        packer.pack(rest, writer);
        let is_promised = packer.is_promised(writer.bits() - start);
        writer.put_code(code.codes[END_OF_BLOCK]);
        // What was not promised is written again.
        if is_indexed && is_promised {
            self.index.add(&Quarters { start: block.range.start, len: bytes.len(), bits: quarters });
        }
        is_promised
    }

    fn write_runs(&mut self, bytes: &[u8], plan: &Plan, writer: &mut BitWriter<'_>) {
        let code = Code::new(&plan.weights);
        code.write_header(writer);
        self.literals.fill(&code, bytes.len());
        // The most that a length takes besides its code: five extra bits and the distance.
        let lengths = code.lengths.iter().enumerate();
        let bits = lengths.map(|(i, &length)| {
            plan.weights[i] as usize * (usize::from(length) + if i > END_OF_BLOCK { 6 } else { 0 })
        });
        writer.put_all(bits.sum(), |out| {
            self.runs.for_each(
                bytes,
                plan.threshold,
                out,
                |out, stretch| out.put_literals(stretch, &self.literals),
                |out, length| {
                    let (symbol, extra, extra_bits) = length_symbol(length);
                    let count = u32::from(code.lengths[symbol]);
                    // The distance is the code after the extra bits: a zero.
                    out.put(
                        u64::from(code.codes[symbol] & 0xff_ffff) | u64::from(extra) << count,
                        count + extra_bits + 1,
                    );
                },
            );
        });
        writer.put_code(code.codes[END_OF_BLOCK]);
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
