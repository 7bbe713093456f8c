//! Deflate blocks of literals only, each with the Huffman code that fits it.
//!
//! Float bytes repeat values, not sequences: a code for single bytes is both smaller and ten times
//! faster than looking for matches in them.

use super::bits::BitWriter;

/// The longest code, in bits. Decoders look 11 bits up in one step, and a longer code would be for
/// bytes so rare that it saves nothing measurable.
const MAX_BITS: usize = 11;
const MAX_HEADER_BITS: usize = 7;
const LITERALS: usize = 257;
const END_OF_BLOCK: usize = 256;

/// The order in which deflate writes the lengths of its header codes.
const HEADER_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// How often each byte occurs.
pub(super) type Histogram = [u32; 256];

/// Counts bytes. Four counters a byte value, because a run of one value would wait for its own counter.
pub(super) fn histogram(bytes: &[u8]) -> Histogram {
    let mut counts = [[0u32; 256]; 4];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let v = u64::from_le_bytes(*word);
        for (i, lane) in counts.iter_mut().enumerate() {
            lane[(v >> (8 * i) & 255) as usize] += 1;
            lane[(v >> (8 * i + 32) & 255) as usize] += 1;
        }
    }
    rest.iter().for_each(|&byte| counts[0][usize::from(byte)] += 1);
    let [mut sum, b, c, d] = counts;
    for i in 0..256 {
        sum[i] += b[i] + c[i] + d[i];
    }
    sum
}

/// About how many bits a Huffman block takes for bytes with this histogram, its header included.
pub(super) fn cost_in_bits(counts: &Histogram, len: usize) -> f32 {
    let total = len as f32;
    let mut symbols = 0;
    let entropy: f32 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            symbols += 1;
            let count = count as f32;
            count * (total / count).log2().max(if count == total { 1.0 } else { 0.0 })
        })
        .sum();
    entropy * 1.003 + 160.0 + 3.0 * symbols as f32
}

/// Writes `bytes` as one block, not the last of its stream.
pub(super) fn write_block(bytes: &[u8], counts: &Histogram, out: &mut BitWriter<'_>) {
    let mut weights = [1u32; LITERALS];
    weights[..END_OF_BLOCK].copy_from_slice(counts);
    let lengths: [u8; LITERALS] = code_lengths(&weights, MAX_BITS);
    let codes: [u32; LITERALS] = codes(&lengths);
    write_header(&lengths, out);
    let mut table = [0u32; 256];
    table.copy_from_slice(&codes[..256]);
    out.put_codes(bytes, &table);
    let end = codes[END_OF_BLOCK];
    out.put(u64::from(end & 0xffff), end >> 16);
}

/// Block header: kind, the sizes of the alphabets, and the code lengths, themselves Huffman-coded.
fn write_header(lengths: &[u8; LITERALS], out: &mut BitWriter<'_>) {
    // One distance code of one bit: no distance ever follows, and every inflater accepts that.
    let mut all = [1u8; LITERALS + 1];
    all[..LITERALS].copy_from_slice(lengths);
    let mut symbols: Vec<(u8, u8)> = Vec::with_capacity(LITERALS + 1);
    for run in all.chunk_by(|a, b| a == b) {
        run_lengths(run[0], run.len(), &mut symbols);
    }
    let mut weights = [0u32; 19];
    symbols.iter().for_each(|&(symbol, _)| weights[usize::from(symbol)] += 1);
    let header_lengths: [u8; 19] = code_lengths(&weights, MAX_HEADER_BITS);
    let header_codes: [u32; 19] = codes(&header_lengths);
    let used = HEADER_ORDER.iter().rposition(|&symbol| header_lengths[symbol] > 0).map_or(4, |i| (i + 1).max(4));

    out.put(0b100, 3); // not the last block; dynamic codes
    out.put(0, 5); // 257 literal codes
    out.put(0, 5); // 1 distance code
    out.put(used as u64 - 4, 4);
    for &symbol in &HEADER_ORDER[..used] {
        out.put(u64::from(header_lengths[symbol]), 3);
    }
    for (symbol, extra) in symbols {
        let code = header_codes[usize::from(symbol)];
        out.put(u64::from(code & 0xffff), code >> 16);
        let extra_bits = match symbol {
            16 => 2,
            17 => 3,
            18 => 7,
            _ => 0,
        };
        out.put(u64::from(extra), extra_bits);
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
/// Huffman's construction over sorted weights with two queues, then lengths above `max` are cut and
/// the code is made complete again at the cost of the rarest symbols that have room.
fn code_lengths<const N: usize>(weights: &[u32; N], max: usize) -> [u8; N] {
    let mut lengths = [0u8; N];
    let mut symbols: Vec<usize> = (0..N).filter(|&i| weights[i] > 0).collect();
    symbols.sort_unstable_by_key(|&i| (weights[i], i));
    let n = symbols.len();
    if n < 2 {
        symbols.iter().for_each(|&i| lengths[i] = 1);
        return lengths;
    }
    // Leaves 0..n by weight, then inner nodes in the order they are made, which is by weight too.
    let mut weight: Vec<u64> = symbols.iter().map(|&i| u64::from(weights[i])).collect();
    let mut parent = vec![0usize; 2 * n - 1];
    let (mut leaf, mut inner) = (0, n);
    for node in n..2 * n - 1 {
        let mut lightest = || {
            let take_leaf = leaf < n && (inner >= node || weight[leaf] <= weight[inner]);
            let queue = if take_leaf { &mut leaf } else { &mut inner };
            *queue += 1;
            *queue - 1
        };
        let (a, b) = (lightest(), lightest());
        (parent[a], parent[b]) = (node, node);
        weight.push(weight[a] + weight[b]);
    }
    let mut depth = vec![0usize; 2 * n - 1];
    let mut of_length = [0usize; 16];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[parent[node]] + 1;
        if node < n {
            of_length[depth[node].min(max)] += 1;
        }
    }
    // Kraft's sum in units of the longest code; above `full` no such code exists.
    let full = 1usize << max;
    let mut kraft: usize = (1..=max).map(|len| of_length[len] << (max - len)).sum();
    while kraft > full {
        // The longest code shorter than `max` becomes one longer, and a code of `max` its sibling.
        let Some(len) = (1..max).rev().find(|&len| of_length[len] > 0) else { break };
        of_length[len] -= 1;
        of_length[len + 1] += 2;
        of_length[max] -= 1;
        kraft -= 1;
    }
    // The lightest symbols take the longest codes.
    let mut lightest = symbols.iter();
    for len in (1..=max).rev() {
        for &symbol in lightest.by_ref().take(of_length[len]) {
            lengths[symbol] = len as u8;
        }
    }
    lengths
}

/// The canonical codes of these lengths, bits reversed as deflate writes them, the length from bit 16 on.
fn codes<const N: usize>(lengths: &[u8; N]) -> [u32; N] {
    let mut next = [0u32; 17];
    for len in 1..16 {
        let shorter = lengths.iter().filter(|&&l| usize::from(l) == len).count() as u32;
        next[len + 1] = (next[len] + shorter) << 1;
    }
    lengths.map(|len| {
        if len == 0 {
            return 0;
        }
        let code = next[usize::from(len)];
        next[usize::from(len)] += 1;
        code.reverse_bits() >> (32 - u32::from(len)) | u32::from(len) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
