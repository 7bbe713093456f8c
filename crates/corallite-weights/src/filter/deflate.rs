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

use std::ops::Range;

use flate2::{Compress, FlushCompress, Status};

use super::GzipLevel;
use super::bits::{BitWriter, Literals};
use super::huffman::{Code, END_OF_BLOCK, Histogram, SYMBOLS, cost_in_bits, entropy_in_bits, histogram, ideal_bits};
use super::repeats::{Repeats, telling_length};
use super::runs::{Plan, Runs, length_symbol};
use super::sketch::{self, sketch};
use super::vector;
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

/// Blocks of a segment that are searched first: where a search of these does not come near, one of all would not pay.
const PROBE: usize = 2;

/// How near it has to come.
const NEAR: f32 = 1.05;

/// What each search in vain adds to the share of repeating windows that the next one in the chunk takes, and the most that is asked.
const DISCOURAGED: f32 = 0.12;
const CERTAIN: f32 = 0.5;

/// Bytes that are counted first, of each stretch of so many: enough to know noise.
const SAMPLE: usize = 64;
const SAMPLE_STRIDE: usize = 1024;

/// What the sample of a block must save at least, else it is noise. Lower than [`MIN_SAVING`] would ask for, by
/// the 0.09 bits that 2048 bytes of noise seem to save.
const MIN_SAMPLE_SAVING: f32 = 0.025;

/// Runs are looked for when the most frequent value takes this share of a block.
const SKEWED: f32 = 0.4;

/// What the most frequent value takes of a block that is counted, not sketched: near [`SKEWED`] the counts have to be right.
const NEARLY_SKEWED: f32 = 0.3;

/// From this share of the most frequent value on, the others are counted only.
const MOSTLY: f32 = 0.75;

/// How much longer than a sketch promised a block may become; else it is counted and written again.
const MISLED: f32 = 1.02;

/// Bytes that are coded at a time.
const PIECE: usize = 16 * 1024;

/// Eight codes of this many bits on average rarely have more than 56.
const SHORT: f32 = 6.0;

/// What a block in common may cost more than two, as a share. A code takes as long to make as some thousand symbols.
const MERGE_COST: f32 = 0.0005;

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

/// A stretch of the chunk and what is known of it without a match search.
struct Block {
    range: Range<usize>,
    /// `None` for noise.
    counts: Option<Box<Histogram>>,
    /// Whether the counts are about right only.
    is_sketch: bool,
    /// What it takes without runs.
    bits: f32,
    /// Its information and the header of a code: what it would take if runs cost nothing, to compare with that of others.
    ideal: f32,
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
            if share >= state.repeating {
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
    Ok(())
}

fn judge(src: &[u8], range: Range<usize>) -> Block {
    let bytes = &src[range.clone()];
    let stored = bytes.len() as f32 * 8.0;
    let noise = |range| Block { range, counts: None, is_sketch: false, bits: stored, ideal: stored };
    let is_sketch = bytes.len() >= sketch::LEAST;
    if bytes.len() == BLOCK {
        let (sample, len) = sample(bytes);
        if entropy_in_bits(&sample, len) > len as f32 * 8.0 * (1.0 - MIN_SAMPLE_SAVING) {
            return noise(range);
        }
        if share_of_top(&sample, len) >= NEARLY_SKEWED {
            return Block::of(range, count_skewed(bytes, &sample, len), false);
        }
    }
    let counts = if is_sketch { sketch(bytes) } else { histogram(bytes) };
    let block = Block::of(range, counts, is_sketch);
    if block.bits >= stored * (1.0 - MIN_SAVING) {
        return noise(block.range);
    }
    if is_sketch && share_of_top(&counts, bytes.len()) >= NEARLY_SKEWED {
        return Block::of(block.range, count_skewed(bytes, &counts, bytes.len()), false);
    }
    block
}

/// The share of the most frequent value.
fn share_of_top(counts: &Histogram, len: usize) -> f32 {
    counts.iter().max().copied().unwrap_or(0) as f32 / len as f32
}

/// Counts the bytes of a block that a sample of `len` bytes says to be skewed.
fn count_skewed(bytes: &[u8], sample: &Histogram, len: usize) -> Histogram {
    if share_of_top(sample, len) < MOSTLY {
        return histogram(bytes);
    }
    let top = (0..=255).zip(sample).max_by_key(|(_, count)| **count).map_or(0, |(value, _)| value);
    vector::histogram_of_mostly(top, bytes)
}

/// Counts some bytes of a block; says how many. They are enough to know noise.
fn sample(bytes: &[u8]) -> (Histogram, usize) {
    let mut sample = [0u8; SAMPLE * (BLOCK / SAMPLE_STRIDE)];
    for (to, from) in sample.as_chunks_mut::<SAMPLE>().0.iter_mut().zip(bytes.as_chunks::<SAMPLE_STRIDE>().0) {
        to.copy_from_slice(&from[..SAMPLE]);
    }
    (histogram(&sample), sample.len())
}

impl Block {
    fn of(range: Range<usize>, counts: Histogram, is_sketch: bool) -> Self {
        let (bits, ideal) = (cost_in_bits(&counts, range.len()), ideal_bits(&counts, range.len(), is_sketch));
        Self { range, counts: Some(Box::new(counts)), is_sketch, bits, ideal }
    }

    /// The probability that two of its bytes, chosen at random, are the same.
    fn chance(&self) -> f32 {
        let len = self.range.len() as f32;
        let Some(counts) = &self.counts else { return 0.0 };
        counts.iter().map(|&count| count as f32 * count as f32).sum::<f32>() / (len * len)
    }
}

/// Puts `block` after the one in `open`, into it if that costs next to nothing. Returns what has to be written now.
fn merge(open: &mut Option<Block>, block: Block) -> Option<Block> {
    let Some(last) = open else {
        *open = Some(block);
        return None;
    };
    if last.range.end != block.range.start {
        return open.replace(block);
    }
    match (&mut last.counts, &block.counts) {
        (None, None) => {}
        (Some(counts), Some(more)) => {
            let mut sum = **counts;
            sum.iter_mut().zip(more.iter()).for_each(|(sum, more)| *sum += more);
            let len = last.range.len() + block.range.len();
            let is_sketch = last.is_sketch || block.is_sketch;
            let ideal = ideal_bits(&sum, len, is_sketch);
            if ideal > (last.ideal + block.ideal) * (1.0 + MERGE_COST) {
                return open.replace(block);
            }
            **counts = sum;
            *last = Block {
                range: last.range.start..block.range.end,
                counts: last.counts.take(),
                is_sketch,
                bits: cost_in_bits(&sum, len),
                ideal,
            };
            return None;
        }
        _ => return open.replace(block),
    }
    last.bits += block.bits;
    last.ideal += block.ideal;
    last.range.end = block.range.end;
    None
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
                self.write_literals(bytes, counts, writer);
            }
            return;
        }
        let is_skewed = share_of_top(counts, bytes.len()) >= SKEWED;
        let start = writer.mark();
        if is_skewed || !self.write_literals(bytes, counts, writer) {
            writer.rewind(start);
            let block = Block::of(block.range.clone(), histogram(bytes), false);
            self.write(src, &block, writer);
        }
    }

    /// A code for single bytes only. Says whether it became about as short as the counts promise.
    fn write_literals(&mut self, bytes: &[u8], counts: &Histogram, writer: &mut BitWriter<'_>) -> bool {
        let mut weights = [0; SYMBOLS];
        weights[..256].copy_from_slice(counts.as_slice());
        weights[END_OF_BLOCK] = 1;
        let code = Code::new(&weights);
        code.write_header(writer);
        let start = writer.bits();
        let promised = weights.iter().zip(code.lengths).map(|(&weight, length)| weight as usize * usize::from(length));
        let promised = promised.sum::<usize>() as f32;
        let longest = code.lengths.iter().max().copied().map_or(0, usize::from);
        if vector::packs() {
            let table = vector::Table::new(&code);
            let are_short = promised < bytes.len() as f32 * SHORT;
            self.literals.fill_singles(&code);
            for piece in bytes.chunks(PIECE) {
                writer.put_all(piece.len() * longest, |out| {
                    let done = vector::pack(piece, &table, are_short, out);
                    out.put_literals(&piece[done..], &self.literals);
                });
            }
        } else {
            self.literals.fill(&code, bytes.len());
            for piece in bytes.chunks(PIECE) {
                writer.put_all(piece.len() * longest, |out| out.put_literals(piece, &self.literals));
            }
        }
        let taken = (writer.bits() - start) as f32;
        writer.put_code(code.codes[END_OF_BLOCK]);
        taken <= promised * MISLED
    }

    fn write_runs(&mut self, bytes: &[u8], plan: &Plan, writer: &mut BitWriter<'_>) {
        let code = Code::new(&plan.weights);
        code.write_header(writer);
        self.literals.fill(&code, bytes.len());
        // The most that a length takes besides its code: five extra bits and the distance.
        let lengths = code.lengths.iter().enumerate();
        let bits = lengths
            .map(|(i, &length)| plan.weights[i] as usize * (usize::from(length) + if i > END_OF_BLOCK { 6 } else { 0 }));
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
