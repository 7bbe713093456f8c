//! Huffman codes as deflate writes them.
//!
//! Float bytes repeat values, not sequences: a code for single bytes is both smaller and ten times
//! faster than looking for matches in them.

use super::bits::BitWriter;
use super::sketch::SCALE;

/// The longest code, in bits. Decoders look 11 bits up in one step, and a longer code would be for
/// bytes so rare that it saves nothing measurable.
const MAX_BITS: usize = 11;
const MAX_HEADER_BITS: usize = 7;

/// Bytes, the end of the block, and the lengths of matches.
pub(super) const SYMBOLS: usize = 286;
pub(super) const END_OF_BLOCK: usize = 256;

/// The order in which deflate writes the lengths of its header codes.
pub(super) const HEADER_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The shortest match of each symbol from 257 on.
pub(super) const LENGTH_BASE: [u16; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];

/// The bits that follow each of these symbols, to be added to its shortest match.
pub(super) const LENGTH_EXTRA: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];

/// The bits of a code, and from this bit on their number.
pub(super) const CODE_LENGTH: u32 = 24;

/// How often each byte occurs.
pub(super) type Histogram = [u32; 256];

/// Counts bytes.
pub(super) fn histogram(bytes: &[u8]) -> Histogram {
    let mut counter = Counter::default();
    counter.add(bytes);
    counter.finish()
}

/// Four counters a byte value, because a run of one value would wait for its own counter.
pub(super) struct Counter([Histogram; 4]);

impl Default for Counter {
    fn default() -> Self {
        Self([[0; 256]; 4])
    }
}

impl Counter {
    #[inline(always)]
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let v = u64::from_le_bytes(*word);
            for (i, lane) in self.0.iter_mut().enumerate() {
                lane[(v >> (8 * i) & 255) as usize] += 1;
                lane[(v >> (8 * i + 32) & 255) as usize] += 1;
            }
        }
        rest.iter().for_each(|&byte| self.0[0][usize::from(byte)] += 1);
    }

    pub(super) fn finish(self) -> Histogram {
        let [mut sum, b, c, d] = self.0;
        for i in 0..256 {
            sum[i] += b[i] + c[i] + d[i];
        }
        sum
    }
}

/// The binary logarithm, to a thousandth; of 0, some finite number. The compiler makes vector code of a loop over it.
#[inline(always)]
pub(super) fn log2(count: u32) -> f32 {
    let bits = (count as f32).to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let m = f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000);
    // The polynomial of degree 3 that is nearest on 1..2.
    exponent as f32 + (((0.155_449 * m - 1.039_276) * m + 3.029_512) * m - 2.144_961)
}

/// About what a header takes: for itself, and for each symbol.
const HEADER_BITS: f32 = 160.0;
const BITS_PER_SYMBOL: f32 = 3.0;

/// About how many bits a Huffman block takes for bytes with this histogram, its header included.
pub(super) fn cost_in_bits(counts: &Histogram, len: usize) -> f32 {
    // No code is shorter than a bit.
    let (bits, symbols) = information(counts, len, 1.0);
    bits * 1.003 + HEADER_BITS + BITS_PER_SYMBOL * symbols as f32
}

/// By how many bits for each symbol a sample of so many bytes, one in [`SCALE`], seems to have less information than all of
/// them: half a natural bit.
const BITS_LACKING: f32 = 0.72 * SCALE as f32;

/// The information in bytes with this histogram, which may be a sketch, and the header of their code.
pub(super) fn ideal_bits(counts: &Histogram, len: usize, is_sketch: bool) -> f32 {
    let (bits, symbols) = information(counts, len, 0.0);
    let lacking = if is_sketch { BITS_LACKING } else { 0.0 };
    bits + HEADER_BITS + (BITS_PER_SYMBOL + lacking) * symbols as f32
}

/// The information in bytes with this histogram.
pub(super) fn entropy_in_bits(counts: &Histogram, len: usize) -> f32 {
    information(counts, len, 0.0).0
}

/// About how many bits bytes would take of which these are a sample.
pub(crate) fn information_in_bits(sample: &[u8]) -> f32 {
    let (bits, symbols) = information(&histogram(sample), sample.len(), 0.0);
    // What a sample lacks: half a natural bit for each symbol but one.
    (bits + 0.72 * symbols.saturating_sub(1) as f32).min(sample.len() as f32 * 8.0)
}

/// The bits of all bytes, of each at least `least`, and the number of different ones.
fn information(counts: &Histogram, len: usize, least: f32) -> (f32, u32) {
    let total = log2(len as u32);
    // Sums side by side, so that it becomes vector code.
    let (mut sums, mut symbols) = ([0f32; 8], [0u32; 8]);
    for eight in counts.as_chunks::<8>().0 {
        for i in 0..8 {
            sums[i] += eight[i] as f32 * (total - log2(eight[i])).max(least);
            symbols[i] += u32::from(eight[i] > 0);
        }
    }
    (sums.iter().sum(), symbols.iter().sum())
}

/// A code for the symbols of a block.
pub(super) struct Code {
    /// Bits of each symbol's code; 0 for symbols that do not occur.
    pub(super) lengths: [u8; SYMBOLS],
    /// The codes as they are written, with their lengths from bit [`CODE_LENGTH`] on.
    pub(super) codes: [u32; SYMBOLS],
}

impl Code {
    /// The code that fits these weights best.
    pub(super) fn new(weights: &[u32; SYMBOLS]) -> Self {
        let lengths = code_lengths(weights, MAX_BITS);
        Self { lengths, codes: codes(&lengths) }
    }

    /// Writes the header of a block, not the last of its stream: kind, the sizes of the alphabets, and the code lengths,
    /// themselves Huffman-coded.
    pub(super) fn write_header(&self, out: &mut BitWriter<'_>) {
        let used = self.lengths.iter().rposition(|&length| length > 0).map_or(0, |last| last + 1).max(257);
        // One distance code of one bit, which says: the last byte. Where no match follows, it is accepted as well.
        let mut all = [1u8; SYMBOLS + 1];
        all[..used].copy_from_slice(&self.lengths[..used]);
        let mut symbols: Vec<(u8, u8)> = Vec::with_capacity(used + 1);
        for run in all[..=used].chunk_by(|a, b| a == b) {
            run_lengths(run[0], run.len(), &mut symbols);
        }
        let mut weights = [0u32; 19];
        symbols.iter().for_each(|&(symbol, _)| weights[usize::from(symbol)] += 1);
        let header_lengths: [u8; 19] = code_lengths(&weights, MAX_HEADER_BITS);
        let header_codes: [u32; 19] = codes(&header_lengths);
        let sent = HEADER_ORDER.iter().rposition(|&symbol| header_lengths[symbol] > 0).map_or(4, |i| (i + 1).max(4));

        out.put(0b100, 3); // not the last block; dynamic codes
        out.put(used as u64 - 257, 5);
        out.put(0, 5); // 1 distance code
        out.put(sent as u64 - 4, 4);
        for &symbol in &HEADER_ORDER[..sent] {
            out.put(u64::from(header_lengths[symbol]), 3);
        }
        for (symbol, extra) in symbols {
            out.put_code(header_codes[usize::from(symbol)]);
            let extra_bits = match symbol {
                16 => 2,
                17 => 3,
                18 => 7,
                _ => 0,
            };
            out.put(u64::from(extra), extra_bits);
        }
    }
}

/// `count` times the code length `value`, in deflate's run-length symbols with their extra bits.
fn run_lengths(value: u8, mut count: usize, symbols: &mut Vec<(u8, u8)>) {
    if value != 0 {
        symbols.push((value, 0));
        count -= 1;
    }
    while count > 0 {
        let (symbol, first, most) = match (value, count) {
            (0, 11..) => (18, 11, 138),
            (0, 3..) => (17, 3, 10),
            (1.., 3..) => (16, 3, 6),
            _ => {
                symbols.push((value, 0));
                count -= 1;
                continue;
            }
        };
        let now = count.min(most);
        symbols.push((symbol, (now - first) as u8));
        count -= now;
    }
}

/// Lengths of a complete prefix code for these weights, none above `max`; 0 for weight 0.
///
/// Huffman's construction over sorted weights with two queues. While its codes are too long, it is repeated with the least
/// weights raised, which comes near the best code of limited length; cutting codes off does not, where many symbols are
/// rare, as the values of differences are.
fn code_lengths<const N: usize>(weights: &[u32; N], max: usize) -> [u8; N] {
    let mut lengths = [0u8; N];
    // The weight, and its symbol in the lower bits.
    let mut sorted = [0u64; N];
    let (mut n, mut total) = (0, 0);
    for (symbol, &weight) in (0u64..).zip(weights).filter(|(_, weight)| **weight > 0) {
        sorted[n] = u64::from(weight) << 16 | symbol;
        total += u64::from(weight);
        n += 1;
    }
    let sorted = &mut sorted[..n];
    sorted.sort_unstable();
    let mut of_length = [0usize; DEEPEST + 1];
    match n {
        0 => return lengths,
        1 => of_length[1] = 1,
        _ => {
            let mut least = 0;
            let mut step = (total >> max >> 1).max(1);
            while !lengths_at_least::<N>(sorted, least, max, &mut of_length) {
                // Once all weights are the same, the code is as short as can be.
                least += step;
                step += step / 4;
            }
        }
    }
    // The lightest symbols take the longest codes.
    let mut lightest = sorted.iter().map(|entry| (entry & 0xffff) as usize);
    for len in (1..=max).rev() {
        for symbol in lightest.by_ref().take(of_length[len]) {
            lengths[symbol] = len as u8;
        }
    }
    lengths
}

/// Counts of longer codes are not kept apart.
const DEEPEST: usize = 15;

/// Counts the code lengths of Huffman's code for two or more sorted weights, none taken for less than `least`. Says whether
/// all are at most `max`.
fn lengths_at_least<const N: usize>(
    sorted: &[u64],
    least: u64,
    max: usize,
    of_length: &mut [usize; DEEPEST + 1],
) -> bool {
    let n = sorted.len();
    let weight = |leaf: usize| (sorted[leaf] >> 16).max(least);
    // Inner nodes in the order they are made, which is by weight too. Parents are inner nodes.
    let (mut inner_weight, mut leaf_parent, mut inner_parent) = ([0u64; N], [0u16; N], [0u16; N]);
    let (mut leaf, mut inner) = (0, 0);
    for node in 0..n - 1 {
        let mut lightest = || {
            if leaf < n && (inner >= node || weight(leaf) <= inner_weight[inner]) {
                leaf_parent[leaf] = node as u16;
                leaf += 1;
                weight(leaf - 1)
            } else {
                inner_parent[inner] = node as u16;
                inner += 1;
                inner_weight[inner - 1]
            }
        };
        let sum = lightest() + lightest();
        inner_weight[node] = sum;
    }
    let mut depth = [0u16; N];
    for node in (0..n - 2).rev() {
        depth[node] = depth[usize::from(inner_parent[node])] + 1;
    }
    // The lightest leaf is the deepest.
    if usize::from(depth[usize::from(leaf_parent[0])]) >= max {
        return false;
    }
    of_length.fill(0);
    for &parent in &leaf_parent[..n] {
        of_length[usize::from(depth[usize::from(parent)]) + 1] += 1;
    }
    true
}

/// The canonical codes of these lengths, bits reversed as deflate writes them.
fn codes<const N: usize>(lengths: &[u8; N]) -> [u32; N] {
    let mut of_length = [0u32; 16];
    lengths.iter().filter(|&&len| len > 0).for_each(|&len| of_length[usize::from(len)] += 1);
    let mut next = [0u32; 17];
    for len in 1..16 {
        next[len + 1] = (next[len] + of_length[len]) << 1;
    }
    lengths.map(|len| {
        if len == 0 {
            return 0;
        }
        let code = next[usize::from(len)];
        next[usize::from(len)] += 1;
        code.reverse_bits() >> (32 - u32::from(len)) | u32::from(len) << CODE_LENGTH
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::vector;
    use proptest::prelude::*;

    fn kraft(lengths: &[u8], max: usize) -> usize {
        lengths.iter().filter(|&&l| l > 0).map(|&l| 1 << (max - usize::from(l))).sum()
    }

    /// Weights that double make the deepest tree there is.
    #[test]
    fn codes_stay_within_the_limit_and_complete() {
        let fibonacci = |n: usize| {
            let mut weights = [0u32; 40];
            let (mut a, mut b) = (1u32, 1u32);
            for weight in &mut weights[..n] {
                *weight = a;
                (a, b) = (b, a.saturating_add(b));
            }
            weights
        };
        for n in 2..40 {
            for max in [7, 11] {
                let lengths = code_lengths(&fibonacci(n), max);
                assert!(lengths.iter().all(|&l| usize::from(l) <= max));
                assert_eq!(kraft(&lengths, max), 1 << max, "{n} symbols, at most {max} bits: {lengths:?}");
                assert_eq!(lengths.iter().filter(|&&l| l > 0).count(), n);
            }
        }
    }

    proptest! {
        #[test]
        fn bytes_of_mostly_one_value_are_counted_as_others_are(
            value in any::<u8>(), bytes in proptest::collection::vec(prop_oneof![8 => Just(None), 1 => any::<u8>().prop_map(Some)], 0..3000),
        ) {
            let bytes: Vec<u8> = bytes.into_iter().map(|byte| byte.unwrap_or(value)).collect();
            prop_assert_eq!(vector::histogram_of_mostly(value, &bytes), histogram(&bytes));
        }

        #[test]
        fn any_weights_give_a_complete_code(raw in proptest::collection::vec(prop_oneof![Just(0u32), 1..9u32, any::<u32>()], 257)) {
            let weights: [u32; 257] = raw.try_into().unwrap();
            let lengths = code_lengths(&weights, 11);
            if weights.iter().filter(|&&w| w > 0).count() > 1 {
                prop_assert_eq!(kraft(&lengths, 11), 1 << 11);
            }
            for (weight, length) in weights.iter().zip(lengths) {
                prop_assert_eq!(*weight > 0, length > 0);
            }
        }
    }
}
