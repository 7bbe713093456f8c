//! Vector instructions by hand, where a processor has them and the compiler makes none. Each has a portable form beside its
//! caller, which gives the same bytes.
//!
//! This file is `unsafe` for two reasons: a function may be called only after its instructions were found to be there, and
//! memory is read and written a register at a time, through references to arrays of just that size.

#![allow(unsafe_code)]

use super::bits::Codes;
use super::huffman::{CODE_LENGTH, Code, Histogram, histogram};

/// The bytes that are packed at a time.
const GROUP: usize = 64;

/// A Huffman code's bytes, laid out for [`pack`]: lengths, and the lower and the upper bits of the codes.
pub(super) struct Table {
    lengths: [[u8; GROUP]; 4],
    low: [[u8; GROUP]; 4],
    high: [[u8; GROUP]; 4],
}

impl Table {
    pub(super) fn new(code: &Code) -> Self {
        let mut table = Self { lengths: [[0; GROUP]; 4], low: [[0; GROUP]; 4], high: [[0; GROUP]; 4] };
        for (i, &code) in code.codes[..256].iter().enumerate() {
            let (row, column) = (i / GROUP, i % GROUP);
            table.lengths[row][column] = (code >> CODE_LENGTH) as u8;
            [table.low[row][column], table.high[row][column], ..] = code.to_le_bytes();
        }
        table
    }
}

/// Whether [`pack`] does anything on this processor.
pub(super) fn packs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("bmi2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Appends the codes of the first bytes, and returns how many those are: all but the last few, or none on a processor that
/// has not the instructions. If `IS_REVERSED`, begins with the last byte, and all but the first few are done. `are_short` says
/// that eight codes rarely have more than 56 bits.
pub(super) fn pack<const IS_REVERSED: bool>(
    bytes: &[u8],
    table: &Table,
    are_short: bool,
    out: &mut Codes<'_>,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if packs() {
        let groups = if IS_REVERSED { bytes.as_rchunks::<GROUP>().1 } else { bytes.as_chunks::<GROUP>().0 };
        // SAFETY: the processor has the features that the functions ask for, as `packs` just found.
        let done = unsafe {
            if are_short {
                x86::pack::<true, IS_REVERSED>(groups, table, out)
            } else {
                x86::pack::<false, IS_REVERSED>(groups, table, out)
            }
        };
        return done * GROUP;
    }
    let _ = (bytes, table, are_short, out);
    0
}

/// Does what [`super::shuffle::shuffle`] does, by code compiled for this processor. `false`, with nothing done, where there is
/// none but the one that every processor runs.
pub(super) fn shuffle(element_size: usize, src: &[u8], dst: &mut [u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has the features that the function asks for.
            unsafe { x86::shuffle_512(element_size, src, dst) }
            return true;
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature that the function asks for.
            unsafe { x86::shuffle_256(element_size, src, dst) }
            return true;
        }
    }
    let _ = (element_size, src, dst);
    false
}

/// Bit i of word k says whether byte i of the two arrays k is the same. Fills `masks`; `false`, with nothing done, on a
/// processor that has not the instructions.
pub(super) fn equal_bytes(a: &[[u8; 64]], b: &[[u8; 64]], masks: &mut Vec<u64>) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature that the function asks for.
        unsafe { x86::equal_bytes(a, b, masks) }
        return true;
    }
    let _ = (a, b, masks);
    false
}

/// Counts the bytes of which most have this value.
pub(super) fn histogram_of_mostly(value: u8, bytes: &[u8]) -> Histogram {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") {
        // SAFETY: the processor has the features that the function asks for.
        return unsafe { x86::histogram_of_mostly(value, bytes) };
    }
    let _ = value;
    histogram(bytes)
}

/// Whether a byte occurs that is not in the set, which has bit `b / 16 % 8` of row `b / 128`, column `b % 16`, for each
/// byte `b` in it. `None` on a processor that has not the instructions.
pub(super) fn has_others(bytes: &[u8; 1024], set: &[[u8; 16]; 2]) -> Option<bool> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature that the function asks for.
        return Some(unsafe { x86::has_others(bytes, set) });
    }
    let _ = (bytes, set);
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUP, Table};
    use crate::filter::bits::Codes;
    use crate::filter::huffman::Histogram;
    use crate::filter::shuffle::shuffle_portably;

    /// What [`super::pack`] does, with groups of four or eight codes made side by side. Returns the number of groups done,
    /// which is lower only if there is no more room.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
    pub(super) fn pack<const ARE_SHORT: bool, const IS_REVERSED: bool>(
        groups: &[[u8; GROUP]],
        table: &Table,
        out: &mut Codes<'_>,
    ) -> usize {
        let [l0, l1, l2, l3] = table.lengths.each_ref().map(|row| load(row));
        let [a0, a1, a2, a3] = table.low.each_ref().map(|row| load(row));
        let [b0, b1, b2, b3] = table.high.each_ref().map(|row| load(row));
        let zero = _mm512_setzero_si512();
        let (low16, low32) = (_mm512_set1_epi32(0xffff), _mm512_set1_epi64(0xffff_ffff));
        let ones = _mm512_set1_epi16(1);
        // Four codes in each part of 64 bits, of eight, and their lengths.
        let fours = |codes: __m512i, lengths: __m512i| {
            let (first, second) = (_mm512_and_si512(codes, low16), _mm512_srli_epi32::<16>(codes));
            let two = _mm512_or_si512(first, _mm512_sllv_epi32(second, _mm512_and_si512(lengths, low16)));
            let bits = _mm512_madd_epi16(lengths, ones);
            let (first, second) = (_mm512_and_si512(two, low32), _mm512_srli_epi64::<32>(two));
            let first_bits = _mm512_and_si512(bits, low32);
            let four = _mm512_or_si512(first, _mm512_sllv_epi64(second, first_bits));
            (four, _mm512_add_epi64(first_bits, _mm512_srli_epi64::<32>(bits)))
        };
        let Codes { room, at, bits, count } = out;
        let (mut pending, mut pending_bits) = (*bits, *count);
        let mut done = 0;
        let backwards = load(&std::array::from_fn(|i| (GROUP - 1 - i) as u8));
        for i in 0..groups.len() {
            let group = &groups[if IS_REVERSED { groups.len() - 1 - i } else { i }];
            let Some(mut writer) = room.get_mut(*at..).and_then(<[u8]>::first_chunk_mut).map(|room| Writer {
                room,
                at: 0,
                bits: pending,
                count: pending_bits,
            }) else {
                break;
            };
            let mut bytes = load(group);
            if IS_REVERSED {
                bytes = _mm512_permutexvar_epi8(backwards, bytes);
            }
            let upper = _mm512_movepi8_mask(bytes);
            let find = |t0, t1, t2, t3| {
                let (below, above) = (_mm512_permutex2var_epi8(t0, bytes, t1), _mm512_permutex2var_epi8(t2, bytes, t3));
                _mm512_mask_blend_epi8(upper, below, above)
            };
            let (lengths, low, high) = (find(l0, l1, l2, l3), find(a0, a1, a2, a3), find(b0, b1, b2, b3));
            let (x, x_bits) = fours(_mm512_unpacklo_epi8(low, high), _mm512_unpacklo_epi8(lengths, zero));
            let (y, y_bits) = fours(_mm512_unpackhi_epi8(low, high), _mm512_unpackhi_epi8(lengths, zero));
            // The unpacking left fours of x and y by turns, two at a time; here in pairs that follow each other.
            let (first, second) = (_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
            let (first_bits, second_bits) =
                (_mm512_unpacklo_epi64(x_bits, y_bits), _mm512_unpackhi_epi64(x_bits, y_bits));
            let bits = _mm512_sad_epu8(lengths, zero);
            if ARE_SHORT && _mm512_cmpgt_epu64_mask(bits, _mm512_set1_epi64(56)) == 0 {
                let eight = words(_mm512_or_si512(first, _mm512_sllv_epi64(second, first_bits)));
                let bits = small(bits);
                for i in 0..8 {
                    writer.put(eight[i], bits[i]);
                }
            } else {
                let (first, first_bits) = (words(first), small(first_bits));
                let (second, second_bits) = (words(second), small(second_bits));
                for i in 0..8 {
                    writer.put(first[i], first_bits[i]);
                    writer.put(second[i], second_bits[i]);
                }
            }
            *at += writer.at;
            (pending, pending_bits) = (writer.bits, writer.count);
            done += 1;
        }
        (*bits, *count) = (pending, pending_bits);
        done
    }

    /// Bytes that the codes of a group may be written to: 16 times at most 7, and what the last store writes beyond.
    const ROOM: usize = 128;

    /// As [`Codes`], for the codes of one group.
    struct Writer<'a> {
        room: &'a mut [u8; ROOM],
        at: usize,
        bits: u64,
        /// Below 8.
        count: u32,
    }

    impl Writer<'_> {
        /// Appends at most 56 bits, at most 16 times.
        #[inline(always)]
        fn put(&mut self, value: u64, count: u8) {
            self.bits |= value << self.count;
            self.count += u32::from(count);
            // The compiler sees that this index is in the array.
            let at = self.at & (ROOM - 1);
            if let Some(room) = self.room.get_mut(at..at + 8) {
                room.copy_from_slice(&self.bits.to_le_bytes());
            }
            self.at += (self.count / 8) as usize;
            self.bits >>= self.count & !7;
            self.count &= 7;
        }
    }

    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; GROUP]) -> __m512i {
        // SAFETY: the reference is to as many bytes as are read, aligned or not.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    fn words(value: __m512i) -> [u64; 8] {
        let mut words = [0; 8];
        // SAFETY: the array has as many bytes as are written, aligned or not.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) };
        words
    }

    /// The lowest byte of each word.
    #[target_feature(enable = "avx512f")]
    fn small(value: __m512i) -> [u8; 8] {
        (_mm_cvtsi128_si64(_mm512_cvtepi64_epi8(value)) as u64).to_le_bytes()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn shuffle_512(element_size: usize, src: &[u8], dst: &mut [u8]) {
        shuffle_portably(element_size, src, dst);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn shuffle_256(element_size: usize, src: &[u8], dst: &mut [u8]) {
        shuffle_portably(element_size, src, dst);
    }

    /// What [`super::equal_bytes`] does.
    #[target_feature(enable = "avx2")]
    pub(super) fn equal_bytes(a: &[[u8; 64]], b: &[[u8; 64]], masks: &mut Vec<u64>) {
        masks.extend(a.iter().zip(b).map(|(a, b)| {
            let [a0, a1] = halves(a);
            let [b0, b1] = halves(b);
            mask(_mm256_cmpeq_epi8(a0, b0), _mm256_cmpeq_epi8(a1, b1))
        }));
    }

    /// What [`super::histogram_of_mostly`] does.
    #[target_feature(enable = "avx2,bmi1")]
    pub(super) fn histogram_of_mostly(value: u8, bytes: &[u8]) -> Histogram {
        let mut counts = [[0_u32; 256]; 2];
        let same = _mm256_set1_epi8(value as i8);
        let (groups, rest) = bytes.as_chunks::<64>();
        for group in groups {
            let [low, high] = halves(group);
            let mut others = !mask(_mm256_cmpeq_epi8(low, same), _mm256_cmpeq_epi8(high, same));
            while others != 0 {
                // Two at a time: equal ones in a row would wait for each other.
                counts[0][usize::from(group[others.trailing_zeros() as usize % 64])] += 1;
                others &= others - 1;
                if others != 0 {
                    counts[1][usize::from(group[others.trailing_zeros() as usize % 64])] += 1;
                    others &= others - 1;
                }
            }
        }
        let [mut sum, more] = counts;
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        rest.iter().for_each(|&byte| sum[usize::from(byte)] += 1);
        let others: u32 = sum.iter().sum::<u32>() - sum[usize::from(value)];
        sum[usize::from(value)] = bytes.len() as u32 - others;
        sum
    }

    #[target_feature(enable = "avx2")]
    fn halves(bytes: &[u8; 64]) -> [__m256i; 2] {
        // SAFETY: the reference is to as many bytes as are read, aligned or not.
        unsafe { [_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(bytes.as_ptr().add(32).cast())] }
    }

    /// The top bits of all bytes.
    #[target_feature(enable = "avx2")]
    fn mask(low: __m256i, high: __m256i) -> u64 {
        u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
    }

    /// What [`super::has_others`] does.
    #[target_feature(enable = "avx2")]
    pub(super) fn has_others(bytes: &[u8; 1024], set: &[[u8; 16]; 2]) -> bool {
        let [lower, upper] = set.each_ref().map(|row| {
            // SAFETY: the reference is to as many bytes as are read, aligned or not.
            let row = unsafe { _mm_loadu_si128(row.as_ptr().cast()) };
            _mm256_broadcastsi128_si256(row)
        });
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let top = _mm256_set1_epi8(-128);
        let seven = _mm256_set1_epi8(7);
        let mut others = _mm256_setzero_si256();
        for part in bytes.as_chunks::<32>().0 {
            // SAFETY: the reference is to as many bytes as are read, aligned or not.
            let part = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
            // A row whose half the byte is not in gives zero, by the byte's top bit.
            let rows = _mm256_or_si256(
                _mm256_shuffle_epi8(lower, part),
                _mm256_shuffle_epi8(upper, _mm256_xor_si256(part, top)),
            );
            let bits = _mm256_shuffle_epi8(bit, _mm256_and_si256(_mm256_srli_epi16::<4>(part), seven));
            let is_other = _mm256_cmpeq_epi8(_mm256_and_si256(rows, bits), _mm256_setzero_si256());
            others = _mm256_or_si256(others, is_other);
        }
        _mm256_movemask_epi8(others) != 0
    }
}
