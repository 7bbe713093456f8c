//! Runs of one byte value, and which of them are worth a match of distance 1.
//!
//! Where most bytes are the same, as in the upper planes of differences, a Huffman code alone spends a bit on each of
//! them. A run takes a symbol for its length instead. Nothing has to be searched for.

use super::huffman::{Histogram, LENGTH_BASE, LENGTH_EXTRA, SYMBOLS, log2};
use super::vector;

/// The shortest run looked at, in bytes that repeat the one before them. Three are never worth their match.
const SHORTEST: u32 = 4;

/// The longest match.
const LONGEST: u32 = 258;

/// The largest threshold tried. Longer runs are always worth it.
const LAST_THRESHOLD: u32 = 12;

/// The symbol of each length of a match, from 257 on; 0 for lengths that no match has.
const SYMBOL_OF_LENGTH: [u16; LONGEST as usize + 1] = symbols_of_lengths();

const fn symbols_of_lengths() -> [u16; LONGEST as usize + 1] {
    let mut symbols = [0; LONGEST as usize + 1];
    let (mut length, mut class) = (3, 0);
    while length < symbols.len() {
        if class + 1 < LENGTH_BASE.len() && LENGTH_BASE[class + 1] as usize <= length {
            class += 1;
        }
        symbols[length] = 257 + class as u16;
        length += 1;
    }
    symbols
}

/// The symbol of a length from 3 to 258, and the value and number of its extra bits.
pub(super) fn length_symbol(length: u32) -> (usize, u32, u32) {
    let symbol = usize::from(SYMBOL_OF_LENGTH[length as usize]);
    let class = symbol - 257;
    (symbol, length - u32::from(LENGTH_BASE[class]), u32::from(LENGTH_EXTRA[class]))
}

/// The runs of a block. Kept from block to block for its room.
#[derive(Default)]
pub(super) struct Runs {
    /// Where in the block bytes begin to repeat the one before them, and how many do.
    found: Vec<(u32, u32)>,
    /// Of each 64 bytes, which repeat the one before them.
    masks: Vec<u64>,
}

/// What is gained by matches for all runs of a length and more.
pub(super) struct Plan {
    /// The shortest run that becomes a match.
    pub(super) threshold: u32,
    /// How often each symbol occurs then.
    pub(super) weights: [u32; SYMBOLS],
    /// About how many bits the block takes, without its header.
    pub(super) bits: f32,
}

impl Runs {
    /// Finds the runs of a block with this histogram, and what to do with them. `None` if they are worth nothing.
    pub(super) fn plan(&mut self, bytes: &[u8], counts: &Histogram) -> Option<Plan> {
        self.find(bytes);
        let mut of_length = [0u32; LONGEST as usize + 1];
        for &(_, length) in &self.found {
            of_length[LONGEST as usize] += length / LONGEST;
            of_length[(length % LONGEST) as usize] += 1;
        }
        of_length[..SHORTEST as usize].fill(0);
        // Nearly all runs are of the value that occurs most; for the choice it is taken for all of them.
        let (top, &top_count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
        let others: f32 =
            counts.iter().enumerate().filter(|(value, _)| *value != top).map(|(_, count)| times_log(*count)).sum();
        let (mut classes, mut extra) = ([0u32; 29], 0u32);
        let (mut matches, mut matched) = (0u32, 0u32);
        for length in SHORTEST..=LONGEST {
            let count = of_length[length as usize];
            let (symbol, _, extra_bits) = length_symbol(length);
            classes[symbol - 257] += count;
            extra += count * extra_bits;
            matches += count;
            matched += count * length;
        }
        let cost = |symbols: u32, top_count: u32, classes: &[u32; 29], extra: u32, matches: u32| {
            let ideal = times_log(symbols) - others - times_log(top_count);
            let classes: f32 = classes.iter().map(|count| times_log(*count)).sum();
            // No code is shorter than a bit.
            let forced = top_count as f32 * (1.0 - (log2(symbols) - log2(top_count.max(1)))).max(0.0);
            // Where many runs are of other values, too much was taken from the one that occurs most; but nothing is shorter than
            // a bit for each symbol.
            (ideal - classes + forced).max(symbols as f32) + (extra + matches) as f32
        };
        let total = bytes.len() as u32;
        let mut best = (cost(total + 1, top_count, &[0; 29], 0, 0), LONGEST + 1);
        for threshold in SHORTEST..=LAST_THRESHOLD {
            let literals = top_count.saturating_sub(matched);
            let bits = cost(total + 1 + matches - matched.min(total), literals, &classes, extra, matches);
            // A match must save a bit or so, for the time it takes.
            if bits + (matches as f32) * 0.25 < best.0 {
                best = (bits, threshold);
            }
            let count = of_length[threshold as usize];
            let (symbol, _, extra_bits) = length_symbol(threshold);
            classes[symbol - 257] -= count;
            extra -= count * extra_bits;
            matches -= count;
            matched -= count * threshold;
        }
        let (bits, threshold) = best;
        if threshold > LONGEST {
            return None;
        }
        let mut weights = [0; SYMBOLS];
        weights[..256].copy_from_slice(counts);
        weights[256] = 1;
        for &(start, length) in &self.found {
            let mut literals = length;
            for_each_match(length, threshold, |length| {
                literals -= length;
                weights[length_symbol(length).0] += 1;
            });
            let value = bytes.get(start as usize).map_or(0, |byte| usize::from(*byte));
            weights[value] -= length - literals;
        }
        Some(Plan { threshold, weights, bits })
    }

    /// Calls `on_literals` for each stretch of bytes without matches and `on_match` for each match, in order.
    pub(super) fn for_each<S>(
        &self,
        bytes: &[u8],
        threshold: u32,
        state: &mut S,
        on_literals: impl Fn(&mut S, &[u8]),
        on_match: impl Fn(&mut S, u32),
    ) {
        let mut done = 0;
        for &(start, length) in self.found.iter().filter(|run| run.1 >= threshold) {
            on_literals(state, bytes.get(done..start as usize).unwrap_or_default());
            done = start as usize;
            for_each_match(length, threshold, |length| {
                on_match(state, length);
                done += length as usize;
            });
        }
        on_literals(state, bytes.get(done..).unwrap_or_default());
    }

    /// Fills `found`.
    fn find(&mut self, bytes: &[u8]) {
        self.found.clear();
        self.masks.clear();
        let pairs = bytes.get(1..).unwrap_or_default();
        // Bit i of the masks belongs to byte i + 1.
        let (after, after_rest) = pairs.as_chunks::<64>();
        let (before, before_rest) = bytes[..pairs.len()].as_chunks::<64>();
        if !vector::equal_bytes(after, before, &mut self.masks) {
            self.masks.extend(after.iter().zip(before).map(|(after, before)| equal_bytes(after, before)));
        }
        let rest = after_rest.iter().zip(before_rest).enumerate();
        self.masks.push(rest.fold(0, |mask, (i, (after, before))| mask | u64::from(after == before) << i));
        // Where a run began that goes on beyond the mask. It ends in the last one, which is not full.
        let mut open = None;
        for (i, &mask) in self.masks.iter().enumerate() {
            // Bits that are the first of at least four in a row: a run of n has n - 3 of them.
            let next = self.masks.get(i + 1).copied().unwrap_or(0);
            let wide = u128::from(mask) | u128::from(next) << 64;
            let wide = wide & wide >> 1;
            let mut starts = (wide & wide >> 2) as u64;
            let base = i as u32 * 64 + 1;
            if let Some(start) = open {
                let more = starts.trailing_ones();
                if more == 64 {
                    continue;
                }
                self.found.push((start, base + more + SHORTEST - 1 - start));
                starts &= u64::MAX << more;
                open = None;
            }
            while starts != 0 {
                let first = starts.trailing_zeros();
                let count = (starts >> first).trailing_ones();
                if first + count == 64 {
                    open = Some(base + first);
                    break;
                }
                self.found.push((base + first, count + SHORTEST - 1));
                starts &= u64::MAX << (first + count);
            }
        }
    }
}

/// Cuts a run into matches; what is left after them is shorter than `threshold`.
#[inline(always)]
fn for_each_match(mut length: u32, threshold: u32, mut on_match: impl FnMut(u32)) {
    while length >= threshold {
        let now = length.min(LONGEST);
        on_match(now);
        length -= now;
    }
}

/// Bit i says whether byte i of both is the same.
#[inline(always)]
fn equal_bytes(a: &[u8; 64], b: &[u8; 64]) -> u64 {
    let mut mask = 0;
    for (i, (a, b)) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0).enumerate() {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        let differs = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        // The top bit of each byte that is zero; then those bits side by side.
        let zero = !(((differs & LOW) + LOW) | differs | LOW);
        mask |= ((zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
    }
    mask
}

fn times_log(count: u32) -> f32 {
    if count == 0 { 0.0 } else { count as f32 * log2(count) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::huffman::histogram;

    proptest! {
        #[test]
        fn literals_and_matches_together_are_the_bytes(
            stretches in proptest::collection::vec((0..3u8, prop_oneof![1..12usize, 1..600usize]), 0..60),
        ) {
            let bytes: Vec<u8> = stretches.iter().flat_map(|&(value, length)| vec![value; length]).collect();
            let mut runs = Runs::default();
            let Some(plan) = runs.plan(&bytes, &histogram(&bytes)) else { return Ok(()) };
            let mut found = (Vec::new(), [0u32; SYMBOLS]);
            found.1[256] = 1;
            runs.for_each(
                &bytes,
                plan.threshold,
                &mut found,
                |(out, weights), literals| {
                    out.extend_from_slice(literals);
                    literals.iter().for_each(|&byte| weights[usize::from(byte)] += 1);
                },
                |(out, weights), length| {
                    weights[length_symbol(length).0] += 1;
                    let last = out.last().copied().unwrap_or(0xff);
                    out.extend(std::iter::repeat_n(last, length as usize));
                },
            );
            prop_assert_eq!(found.0, bytes);
            prop_assert!(found.1 == plan.weights);
        }
    }

    proptest! {
        #[test]
        fn vector_instructions_find_the_same_bytes_equal(pairs in proptest::collection::vec((0..3u8, 0..3u8), 0..1000)) {
            let (a, b): (Vec<u8>, Vec<u8>) = pairs.into_iter().unzip();
            let (a, b) = (a.as_chunks().0, b.as_chunks().0);
            let mut masks = Vec::new();
            if vector::equal_bytes(a, b, &mut masks) {
                let wanted: Vec<u64> = a.iter().zip(b).map(|(a, b)| equal_bytes(a, b)).collect();
                prop_assert_eq!(masks, wanted);
            }
        }
    }

    #[test]
    fn lengths_have_the_symbols_of_the_standard() {
        for (length, symbol) in
            [(3, (257, 0, 0)), (11, (265, 0, 1)), (12, (265, 1, 1)), (257, (284, 30, 5)), (258, (285, 0, 0))]
        {
            assert_eq!(length_symbol(length), symbol);
        }
    }
}
