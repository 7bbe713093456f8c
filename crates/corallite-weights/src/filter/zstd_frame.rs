//! The zstd encoder for full tensors: frames of literals only, with no search for anything.
//!
//! Noise goes into raw blocks. Everything else goes into blocks without sequences, whose literals have a code; blocks that
//! share one refer to the first of them. RFC 8878 describes all of it, and any zstd reads it.

use super::bits::{BitWriter, Literals};
use super::blocks::{BLOCK, Block, judge, merge};
use super::huffman::{CODE_LENGTH, Code, Histogram, SYMBOLS, histogram};
use super::packer::Packer;

/// The most bytes of a block, and the window, of which nothing is needed.
const MOST: usize = 128 * 1024;

/// Fewer are left to the library.
pub(super) const LEAST: usize = 32 * 1024;

/// Fewer bytes than this are not worth a code.
const SMALLEST: usize = 256;

/// Weights of a code that fit a description without compression.
const MOST_DIRECT: usize = 128;

/// Kinds of blocks.
const RAW: usize = 0;
const REPEATED: usize = 1;
const COMPRESSED: usize = 2;

/// Kinds of literals.
const WITH_CODE: u64 = 2;
const SAME_CODE: u64 = 3;

/// Replaces `out` by a frame, with its content size, of `src`, which consists of planes of `plane_len` bytes and a shorter
/// rest.
pub(super) fn compress(src: &[u8], plane_len: usize, literals: &mut Literals, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&0xfd2f_b528_u32.to_le_bytes());
    // The content size in four bytes; a window of 128 KiB.
    out.extend_from_slice(&[0b1000_0000, 7 << 3]);
    out.extend_from_slice(&(src.len() as u32).to_le_bytes());
    let mut open = None;
    let mut plane_start = 0;
    while plane_start < src.len() {
        let plane_end = plane_start.saturating_add(plane_len.max(1)).min(src.len());
        for start in (plane_start..plane_end).step_by(BLOCK) {
            if let Some(block) = merge(&mut open, judge(src, start..(start + BLOCK).min(plane_end))) {
                write(&src[block.range.clone()], &block, literals, out);
            }
        }
        plane_start = plane_end;
    }
    if let Some(block) = open {
        write(&src[block.range.clone()], &block, literals, out);
    }
    // The last block, an empty one.
    out.extend_from_slice(&[1, 0, 0]);
}

fn write(bytes: &[u8], block: &Block, literals: &mut Literals, out: &mut Vec<u8>) {
    let Some(counts) = &block.counts else { return write_raw(bytes, out) };
    if let [first, rest @ ..] = bytes
        && counts[usize::from(*first)] as usize >= bytes.len()
        && rest.iter().all(|byte| byte == first)
    {
        for part in bytes.chunks(MOST) {
            out.extend_from_slice(&block_header(REPEATED, part.len()));
            out.push(*first);
        }
        return;
    }
    let start = out.len();
    let mut is_written = write_coded(bytes, counts, literals, out);
    if !is_written && block.is_sketch {
        out.truncate(start);
        is_written = write_coded(bytes, &histogram(bytes), literals, out);
    }
    // Nor is a code any use that makes it longer.
    if !is_written || out.len() - start >= bytes.len() {
        out.truncate(start);
        write_raw(bytes, out);
    }
}

fn write_raw(bytes: &[u8], out: &mut Vec<u8>) {
    for part in bytes.chunks(MOST) {
        out.extend_from_slice(&block_header(RAW, part.len()));
        out.extend_from_slice(part);
    }
}

fn block_header(kind: usize, len: usize) -> [u8; 3] {
    let [a, b, c, ..] = (kind << 1 | len << 3).to_le_bytes();
    [a, b, c]
}

/// Says whether it was possible, and what it takes is what the counts promise.
fn write_coded(bytes: &[u8], counts: &Histogram, literals: &mut Literals, out: &mut Vec<u8>) -> bool {
    if bytes.len() < SMALLEST {
        return false;
    }
    let mut weights = [0; SYMBOLS];
    weights[..256].copy_from_slice(counts.as_slice());
    let mut code = Code::new(&weights);
    let Some(description) = describe(&code) else { return false };
    renumber(&mut code);
    let packer = Packer::new(&code, &weights, bytes.len(), literals);
    let (mut bits, parts) = (0, bytes.len().div_ceil(MOST));
    for (i, part) in bytes.chunks(bytes.len().div_ceil(parts)).enumerate() {
        let start = out.len();
        // The headers of the block and its literals, and where the second to fourth streams begin; filled in below.
        let with_code = i == 0;
        out.extend_from_slice(&[0; 8]);
        if with_code {
            out.extend_from_slice(&description);
        }
        let streams_start = out.len();
        out.extend_from_slice(&[0; 6]);
        for (stream, bytes) in part.chunks(part.len().div_ceil(4)).enumerate() {
            let stream_start = out.len();
            let mut writer = BitWriter::new(out);
            packer.pack_reversed(bytes, &mut writer);
            writer.put(1, 1); // marks the end
            writer.align();
            bits += (out.len() - stream_start) * 8;
            if stream < 3 {
                let len = (out.len() - stream_start) as u16;
                out[streams_start + 2 * stream..][..2].copy_from_slice(&len.to_le_bytes());
            }
        }
        let kind = if with_code { WITH_CODE } else { SAME_CODE };
        // Four streams; both sizes in 18 bits.
        let sizes = (part.len() as u64) << 4 | ((out.len() - start - 8) as u64) << 22;
        out[start + 3..start + 8].copy_from_slice(&(kind | 3 << 2 | sizes).to_le_bytes()[..5]);
        out.push(0); // no sequences
        let len = out.len() - start - 3;
        if len >= part.len() {
            // A block must be shorter than its content: readers of libzstd before 1.5.3 refuse one of 128 KiB.
            return false;
        }
        out[start..start + 3].copy_from_slice(&block_header(COMPRESSED, len));
    }
    // Each stream ends within a byte.
    packer.is_promised(bits.saturating_sub(parts * 4 * 8))
}

/// Numbers the codes as zstd does: the longest first, each as it is read from its highest bit on.
fn renumber(code: &mut Code) {
    let mut of_length = [0_u32; 16];
    code.lengths.iter().for_each(|&length| of_length[usize::from(length)] += 1);
    let mut next = [0_u32; 16];
    let mut first = 0;
    for length in (1..16).rev() {
        next[length] = first;
        first = (first + of_length[length]) >> 1;
    }
    for (code, &length) in code.codes.iter_mut().zip(&code.lengths).filter(|(_, length)| **length > 0) {
        let next = &mut next[usize::from(length)];
        *code = *next | u32::from(length) << CODE_LENGTH;
        *next += 1;
    }
}

/// The description of a code; `None` if there is none, as for a single symbol.
fn describe(code: &Code) -> Option<Vec<u8>> {
    let longest = code.lengths.iter().max().copied()?;
    let last = code.lengths[..256].iter().rposition(|&length| length > 0)?;
    // That of the last symbol follows from the others.
    let weight = |length: u8| if length == 0 { 0 } else { longest + 1 - length };
    let weights: Vec<u8> = code.lengths[..last].iter().map(|&length| weight(length)).collect();
    if weights.iter().all(|&weight| weight == 0) {
        return None;
    }
    if let Some(packed) = pack_weights(&weights)
        && (weights.len() > MOST_DIRECT || packed.len() < weights.len().div_ceil(2))
    {
        return Some([&[packed.len() as u8], packed.as_slice()].concat());
    }
    if weights.len() > MOST_DIRECT {
        return None;
    }
    let mut direct = vec![127 + weights.len() as u8];
    direct.extend(weights.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)));
    Some(direct)
}

/// The accuracy of the table by which weights are packed, and its size.
const LOG: u32 = 6;
const SIZE: usize = 1 << LOG;
/// The weights of codes of at most 11 bits.
const WEIGHTS: usize = 12;

/// Weights as an FSE stream of two states. `None` where all are the same, or they take too much.
fn pack_weights(weights: &[u8]) -> Option<Vec<u8>> {
    let mut counts = [0_usize; WEIGHTS];
    weights.iter().for_each(|&weight| counts[usize::from(weight)] += 1);
    if weights.len() < 2 || counts.contains(&weights.len()) {
        return None;
    }
    let mut shares = counts.map(|count| if count > 0 { (count * SIZE / weights.len()).max(1) } else { 0 });
    loop {
        let sum: usize = shares.iter().sum();
        let largest = shares.iter_mut().max()?;
        match sum.cmp(&SIZE) {
            std::cmp::Ordering::Less => *largest += SIZE - sum,
            std::cmp::Ordering::Greater => *largest -= 1,
            std::cmp::Ordering::Equal => break,
        }
    }
    let mut out = Vec::new();
    write_shares(&shares, &mut BitWriter::new(&mut out));

    // Where each symbol is in the table, in order: as a state it comes after the symbol that has left it.
    let mut places = [const { Vec::new() }; WEIGHTS];
    let mut table = [0; SIZE];
    let mut at = 0;
    for (symbol, &share) in shares.iter().enumerate() {
        for _ in 0..share {
            table[at] = symbol;
            at = (at + SIZE / 2 + SIZE / 8 + 3) % SIZE;
        }
    }
    table.iter().enumerate().for_each(|(at, &symbol)| places[symbol].push(at));
    let mut writer = BitWriter::new(&mut out);
    let mut states = [None; 2];
    for (i, &weight) in weights.iter().enumerate().rev() {
        let symbol = usize::from(weight);
        let share = shares[symbol];
        let state = &mut states[i % 2];
        *state = Some(match *state {
            // That of which the reader would need the most bits to go on, and so finds that there are none.
            None => SIZE + places[symbol][0],
            Some(mut from) => {
                let mut bits = 0;
                while from >= 2 * share {
                    from >>= 1;
                    bits += 1;
                }
                writer.put((*state)? as u64 & ((1 << bits) - 1), bits);
                SIZE + places[symbol][from - share]
            }
        });
    }
    for state in states.into_iter().rev() {
        writer.put((state? - SIZE) as u64, LOG);
    }
    writer.put(1, 1);
    writer.align();
    (out.len() < 128).then_some(out)
}

/// The header of an FSE stream.
fn write_shares(shares: &[usize; WEIGHTS], writer: &mut BitWriter<'_>) {
    writer.put(u64::from(LOG) - 5, 4);
    let (mut left, mut threshold, mut bits) = (SIZE + 1, SIZE, LOG + 1);
    let mut symbol = 0;
    let mut after_zero = false;
    while symbol < WEIGHTS && left > 1 {
        if after_zero {
            let start = symbol;
            while shares[symbol] == 0 {
                symbol += 1;
            }
            let mut zeros = symbol - start;
            while zeros >= 3 {
                writer.put(3, 2);
                zeros -= 3;
            }
            writer.put(zeros as u64, 2);
        }
        let share = shares[symbol];
        symbol += 1;
        let most = 2 * threshold - 1 - left;
        left -= share;
        let mut value = share + 1;
        if value >= threshold {
            value += most;
        }
        writer.put(value as u64, bits - u32::from(value < most));
        after_zero = share == 0;
        while left < threshold {
            bits -= 1;
            threshold >>= 1;
        }
    }
    writer.align();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the library makes of a frame.
    fn decompressed(frame: &[u8], len: usize) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        zstd_safe::DCtx::create().decompress(&mut out, frame).ok()?;
        Some(out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn the_library_reads_every_frame(
            parts in proptest::collection::vec((1..256_u32, 0..256_u32, 0..4_u32, 0..80_000_usize), 1..5),
            plane_len in prop_oneof![Just(0_usize), 1..300_000_usize],
            rare in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        ) {
            let mut state = 1_u32;
            let mut bytes = Vec::new();
            for (values, first, skew, len) in parts {
                bytes.extend((0..len).map(|_| {
                    let mut value = values;
                    for _ in 0..=skew {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        value = (state >> 16) % value.max(1);
                    }
                    (first + value) as u8
                }));
            }
            for (at, byte) in rare {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let mut frame = Vec::new();
            compress(&bytes, plane_len.max(bytes.len() / 20), &mut Literals::default(), &mut frame);
            prop_assert!(decompressed(&frame, bytes.len()).as_ref() == Some(&bytes));
        }
    }
}
