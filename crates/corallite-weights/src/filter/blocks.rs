//! What single-byte codes make of a chunk: which of its blocks are noise, which code each of the others should have, and which
//! neighbours share one.

use std::ops::Range;

use super::huffman::{Counter, Histogram, cost_in_bits, entropy_in_bits, histogram, ideal_bits};
use super::sketch::{self, sketch};
use super::vector;

/// Bytes that are looked at together.
pub(super) const BLOCK: usize = 32 * 1024;
/// A Huffman block has to save this share of its bits to be worth decoding.
const MIN_SAVING: f32 = 0.02;

/// Bytes that are counted first, of each stretch of so many: enough to know noise.
const SAMPLE: usize = 64;
const SAMPLE_STRIDE: usize = 1024;

/// What the sample of a block must save at least, else it is noise. Lower than [`MIN_SAVING`] would ask for, by
/// the 0.09 bits that 2048 bytes of noise seem to save.
const MIN_SAMPLE_SAVING: f32 = 0.025;

/// What the most frequent value takes of a block that is counted, not sketched: near [`SKEWED`] the counts have to be right.
const NEARLY_SKEWED: f32 = 0.3;

/// From this share of the most frequent value on, the others are counted only.
const MOSTLY: f32 = 0.75;

/// What a block in common may cost more than two, as a share. A code takes as long to make as some thousand symbols.
const MERGE_COST: f32 = 0.0005;

/// A stretch of the chunk and what is known of it without a match search.
pub(super) struct Block {
    pub(super) range: Range<usize>,
    /// `None` for noise.
    pub(super) counts: Option<Box<Histogram>>,
    /// Whether the counts are about right only.
    pub(super) is_sketch: bool,
    /// What it takes without runs.
    pub(super) bits: f32,
    /// Its information and the header of a code: what it would take if runs cost nothing, to compare with that of others.
    pub(super) ideal: f32,
}

/// Looks at a block of at most [`BLOCK`] bytes.
pub(super) fn judge(src: &[u8], range: Range<usize>) -> Block {
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
pub(super) fn share_of_top(counts: &Histogram, len: usize) -> f32 {
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
    let mut counter = Counter::default();
    let (stretches, _) = bytes.as_chunks::<SAMPLE_STRIDE>();
    stretches.iter().for_each(|stretch| counter.add(&stretch[..SAMPLE]));
    (counter.finish(), stretches.len() * SAMPLE)
}

impl Block {
    /// One that is coded.
    pub(super) fn of(range: Range<usize>, counts: Histogram, is_sketch: bool) -> Self {
        let (bits, ideal) = (cost_in_bits(&counts, range.len()), ideal_bits(&counts, range.len(), is_sketch));
        Self { range, counts: Some(Box::new(counts)), is_sketch, bits, ideal }
    }

    /// The probability that two of its bytes, chosen at random, are the same.
    pub(super) fn chance(&self) -> f32 {
        let len = self.range.len() as f32;
        let Some(counts) = &self.counts else { return 0.0 };
        counts.iter().map(|&count| count as f32 * count as f32).sum::<f32>() / (len * len)
    }
}

/// Puts `block` after the one in `open`, into it if that costs next to nothing. Returns what has to be written now.
pub(super) fn merge(open: &mut Option<Block>, block: Block) -> Option<Block> {
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
