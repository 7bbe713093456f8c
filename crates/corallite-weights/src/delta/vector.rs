//! Sorting by exponent with vector instructions.
//!
//! A few exponents are those of nearly all elements. The elements of each of these are moved out of a register in one go
//! (*compress*), and into it (*expand*); the others one by one. It gives what the loops of [`super::difference`] give.
//!
//! This file is `unsafe` because a function may be called only after its instructions were found to be there, and because
//! memory is read and written a register at a time.

#![allow(unsafe_code)]

use super::difference::BUCKETS;

/// Exponents that are moved a register at a time.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
const TOP: usize = 7;

/// What [`encode`] and [`decode`] take: where an exponent lies in an element, and where the elements of each begin.
pub(super) struct Sorting {
    pub(super) shift: u32,
    pub(super) mask: u32,
    pub(super) starts: [u32; BUCKETS],
    /// Exponents, the most frequent first.
    top: [u8; TOP],
}

impl Sorting {
    /// For so many elements of each exponent.
    pub(super) fn new((shift, mask): (u32, u64), counts: &[u32; BUCKETS]) -> Self {
        let top = most_frequent(counts);
        let mut sum = 0;
        let starts = counts.map(|count| {
            sum += count;
            sum - count
        });
        Self { shift, mask: mask as u32, starts, top }
    }
}

/// The exponents with the highest counts; where there are fewer than asked for, one that has none, perhaps repeatedly.
fn most_frequent<const N: usize>(counts: &[u32; BUCKETS]) -> [u8; N] {
    let mut left = *counts;
    std::array::from_fn(|_| {
        let most = (0..BUCKETS).max_by_key(|&bucket| left[bucket]).unwrap_or(0);
        left[most] = 0;
        most as u8
    })
}

/// Whether this processor has the instructions.
pub(super) fn sorts() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("bmi1")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

macro_rules! whole {
    ($count:ident, $encode:ident, $decode:ident, $wide:ty, $width:literal) => {
        /// Counts the elements of each exponent; `None` on a processor that has not the instructions.
        pub(super) fn $count(base: &[[u8; $width]], field: (u32, u64)) -> Option<[u32; BUCKETS]> {
            #[cfg(target_arch = "x86_64")]
            if sorts() {
                // SAFETY: the processor has the features that the function asks for, as `sorts` just found.
                return Some(unsafe { x86::$count(base, field) });
            }
            let _ = (base, field);
            None
        }

        /// Writes the differences in order. All have one length, and `sorting` is for the counts of `base`.
        pub(super) fn $encode(
            weight: &[[u8; $width]],
            base: &[[u8; $width]],
            out: &mut [[u8; $width]],
            sorting: Sorting,
        ) -> bool {
            #[cfg(target_arch = "x86_64")]
            if sorts() && weight.len() == base.len() && out.len() == base.len() {
                // SAFETY: the processor has the features that the function asks for, as `sorts` just found.
                unsafe { x86::$encode(weight, base, out, sorting) };
                return true;
            }
            let _ = (weight, base, out, sorting);
            false
        }

        /// Undoes the above.
        pub(super) fn $decode(
            encoded: &[[u8; $width]],
            base: &[[u8; $width]],
            out: &mut [[u8; $width]],
            sorting: Sorting,
        ) -> bool {
            #[cfg(target_arch = "x86_64")]
            if sorts() && encoded.len() == base.len() && out.len() == base.len() {
                // SAFETY: the processor has the features that the function asks for, as `sorts` just found.
                unsafe { x86::$decode(encoded, base, out, sorting) };
                return true;
            }
            let _ = (encoded, base, out, sorting);
            false
        }
    };
}

whole!(count_16, encode_16, decode_16, u16, 2);
whole!(count_32, encode_32, decode_32, u32, 4);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Sorting, TOP, most_frequent};
    use crate::delta::difference::{BUCKETS, Bits};

    /// Elements whose exponents choose those that are counted a register at a time.
    const SAMPLE: usize = 512;

    /// So many of those.
    const COUNTED: usize = 12;

    /// The sum of lanes that are not negative.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn sum_16(lanes: __m512i) -> u32 {
        sum_32(_mm512_madd_epi16(lanes, _mm512_set1_epi16(1)))
    }

    #[target_feature(enable = "avx512f")]
    fn sum_32(lanes: __m512i) -> u32 {
        _mm512_reduce_add_epi32(lanes) as u32
    }

    macro_rules! sort {
        (
            $count:ident, $encode:ident, $decode:ident, $wide:ty, $half:ty, $width:literal, $lanes:literal, $mask:ty,
            $set1:ident, $add:ident, $sub:ident, $srl:ident, $slli:ident, $srli:ident, $srai:ident, $cmpeq:ident,
            $compress:ident, $expand:ident, $store_masked:ident, $load_masked:ident, $add_masked:ident, $sum:ident
        ) => {
            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt,bmi1")]
            pub(super) fn $count(base: &[[u8; $width]], field: (u32, u64)) -> [u32; BUCKETS] {
                let of = |element: &[u8; $width]| Bits::field(<$wide>::from_le_bytes(*element), field);
                let mut counts = [0_u32; BUCKETS];
                let step = (base.len() / SAMPLE).max(1);
                base.iter().step_by(step).for_each(|element| counts[of(element)] += 1);
                let top: [u8; COUNTED] = most_frequent(&counts);
                let tops = top.map(|exponent| $set1(<$half>::from(exponent)));
                counts.fill(0);
                let mut of_top = [0_u32; COUNTED];
                let (shift, mask) = (_mm_cvtsi32_si128(field.0 as i32), $set1(field.1 as $half));
                let (groups, rest) = base.as_chunks::<$lanes>();
                let one = $set1(1);
                // As many as lanes can count.
                for groups in groups.chunks(i16::MAX as usize) {
                    let mut sums = [_mm512_setzero_si512(); COUNTED];
                    for group in groups {
                        // SAFETY: the reference is to as many bytes as are read, aligned or not.
                        let elements = unsafe { _mm512_loadu_si512(group.as_ptr().cast()) };
                        let exponents = _mm512_and_si512($srl(elements, shift), mask);
                        let mut found: $mask = 0;
                        for i in 0..COUNTED {
                            let is_it = $cmpeq(exponents, tops[i]);
                            sums[i] = $add_masked(sums[i], is_it, sums[i], one);
                            found |= is_it;
                        }
                        let mut left = !found;
                        while left != 0 {
                            counts[of(&group[left.trailing_zeros() as usize % $lanes])] += 1;
                            left &= left - 1;
                        }
                    }
                    for (count, sum) in of_top.iter_mut().zip(sums) {
                        *count += $sum(sum);
                    }
                }
                rest.iter().for_each(|element| counts[of(element)] += 1);
                for i in 0..COUNTED {
                    // One that the sample has not is there twice, and counted once: the first time.
                    if !top[..i].contains(&top[i]) {
                        counts[usize::from(top[i])] += of_top[i];
                    }
                }
                counts
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt,bmi1")]
            pub(super) fn $encode(
                weight: &[[u8; $width]],
                base: &[[u8; $width]],
                out: &mut [[u8; $width]],
                sorting: Sorting,
            ) {
                let Sorting { shift, mask, starts: mut next, top } = sorting;
                let field = (shift, u64::from(mask));
                let ends =
                    top.map(|exponent| next.get(usize::from(exponent) + 1).copied().unwrap_or(base.len() as u32));
                let tops = top.map(|exponent| $set1(<$half>::from(exponent)));
                let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), $set1(mask as $half));
                let (weights, weight_rest) = weight.as_chunks::<$lanes>();
                let (bases, base_rest) = base.as_chunks::<$lanes>();
                for (weights, bases) in weights.iter().zip(bases) {
                    // SAFETY: the references are to as many bytes as are read, aligned or not.
                    let (weight, base) = unsafe {
                        (_mm512_loadu_si512(weights.as_ptr().cast()), _mm512_loadu_si512(bases.as_ptr().cast()))
                    };
                    let difference = $sub(weight, base);
                    let folded = _mm512_xor_si512($slli::<1>(difference), $srai::<{ $width * 8 - 1 }>(difference));
                    let exponents = _mm512_and_si512($srl(base, shift), mask);
                    let mut left: $mask = !0;
                    for i in 0..TOP {
                        let is_it = $cmpeq(exponents, tops[i]) & left;
                        left &= !is_it;
                        let count = is_it.count_ones();
                        let place = &mut next[usize::from(top[i])];
                        let is_room = *place + $lanes <= ends[i];
                        if is_room && let Some(out) = out.get_mut(*place as usize..).and_then(<[_]>::first_chunk_mut) {
                            let out: &mut [[u8; $width]; $lanes] = out;
                            // SAFETY: the reference is to as many bytes as are written. What is written beyond `count` elements
                            // is where others of this exponent will be.
                            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), $compress(is_it, folded)) };
                        } else if let Some(out) = out.get_mut(*place as usize..(*place + count) as usize) {
                            // SAFETY: the mask has the lowest bits, as many as `out` has elements; no others are written.
                            unsafe {
                                let first = ((1_u64 << count) - 1) as $mask;
                                $store_masked(out.as_mut_ptr().cast(), first, $compress(is_it, folded));
                            }
                        }
                        *place += count;
                    }
                    while left != 0 {
                        let lane = left.trailing_zeros() as usize % $lanes;
                        let (weight, base) =
                            (<$wide>::from_le_bytes(weights[lane]), <$wide>::from_le_bytes(bases[lane]));
                        let place = &mut next[Bits::field(base, field)];
                        if let Some(out) = out.get_mut(*place as usize) {
                            *out = Bits::minus(weight, base).to_le_bytes();
                        }
                        *place += 1;
                        left &= left - 1;
                    }
                }
                for (weight, base) in weight_rest.iter().zip(base_rest) {
                    let (weight, base) = (<$wide>::from_le_bytes(*weight), <$wide>::from_le_bytes(*base));
                    let place = &mut next[Bits::field(base, field)];
                    if let Some(out) = out.get_mut(*place as usize) {
                        *out = Bits::minus(weight, base).to_le_bytes();
                    }
                    *place += 1;
                }
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt,bmi1")]
            pub(super) fn $decode(
                encoded: &[[u8; $width]],
                base: &[[u8; $width]],
                out: &mut [[u8; $width]],
                sorting: Sorting,
            ) {
                let Sorting { shift, mask, starts: mut next, top } = sorting;
                let field = (shift, u64::from(mask));
                let tops = top.map(|exponent| $set1(<$half>::from(exponent)));
                let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), $set1(mask as $half));
                let (outs, out_rest) = out.as_chunks_mut::<$lanes>();
                let (bases, base_rest) = base.as_chunks::<$lanes>();
                for (outs, bases) in outs.iter_mut().zip(bases) {
                    // SAFETY: the reference is to as many bytes as are read, aligned or not.
                    let base = unsafe { _mm512_loadu_si512(bases.as_ptr().cast()) };
                    let exponents = _mm512_and_si512($srl(base, shift), mask);
                    let mut left: $mask = !0;
                    let mut folded = _mm512_setzero_si512();
                    for i in 0..TOP {
                        let is_it = $cmpeq(exponents, tops[i]) & left;
                        left &= !is_it;
                        let count = is_it.count_ones();
                        let place = &mut next[usize::from(top[i])];
                        if let Some(from) = encoded.get(*place as usize..).and_then(<[_]>::first_chunk) {
                            let from: &[[u8; $width]; $lanes] = from;
                            // SAFETY: the reference is to as many bytes as are read.
                            let from = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
                            folded = $expand(folded, is_it, from);
                        } else if let Some(from) = encoded.get(*place as usize..(*place + count) as usize) {
                            // SAFETY: the mask has the lowest bits, as many as `from` has elements; no others are read.
                            let from = unsafe {
                                let first = ((1_u64 << count) - 1) as $mask;
                                $load_masked(first, from.as_ptr().cast())
                            };
                            folded = $expand(folded, is_it, from);
                        }
                        *place += count;
                    }
                    let one = $set1(1);
                    let sign = $sub(_mm512_setzero_si512(), _mm512_and_si512(folded, one));
                    let weight = $add(base, _mm512_xor_si512($srli::<1>(folded), sign));
                    // SAFETY: the reference is to as many bytes as are written, aligned or not.
                    unsafe { _mm512_storeu_si512(outs.as_mut_ptr().cast(), weight) };
                    while left != 0 {
                        let lane = left.trailing_zeros() as usize % $lanes;
                        let base = <$wide>::from_le_bytes(bases[lane]);
                        let place = &mut next[Bits::field(base, field)];
                        if let Some(encoded) = encoded.get(*place as usize) {
                            outs[lane] = Bits::plus(base, <$wide>::from_le_bytes(*encoded)).to_le_bytes();
                        }
                        *place += 1;
                        left &= left - 1;
                    }
                }
                for (out, base) in out_rest.iter_mut().zip(base_rest) {
                    let base = <$wide>::from_le_bytes(*base);
                    let place = &mut next[Bits::field(base, field)];
                    if let Some(encoded) = encoded.get(*place as usize) {
                        *out = Bits::plus(base, <$wide>::from_le_bytes(*encoded)).to_le_bytes();
                    }
                    *place += 1;
                }
            }
        };
    }

    sort!(
        count_16,
        encode_16,
        decode_16,
        u16,
        i16,
        2,
        32,
        u32,
        _mm512_set1_epi16,
        _mm512_add_epi16,
        _mm512_sub_epi16,
        _mm512_srl_epi16,
        _mm512_slli_epi16,
        _mm512_srli_epi16,
        _mm512_srai_epi16,
        _mm512_cmpeq_epi16_mask,
        _mm512_maskz_compress_epi16,
        _mm512_mask_expand_epi16,
        _mm512_mask_storeu_epi16,
        _mm512_maskz_loadu_epi16,
        _mm512_mask_add_epi16,
        sum_16
    );
    sort!(
        count_32,
        encode_32,
        decode_32,
        u32,
        i32,
        4,
        16,
        u16,
        _mm512_set1_epi32,
        _mm512_add_epi32,
        _mm512_sub_epi32,
        _mm512_srl_epi32,
        _mm512_slli_epi32,
        _mm512_srli_epi32,
        _mm512_srai_epi32,
        _mm512_cmpeq_epi32_mask,
        _mm512_maskz_compress_epi32,
        _mm512_mask_expand_epi32,
        _mm512_mask_storeu_epi32,
        _mm512_maskz_loadu_epi32,
        _mm512_mask_add_epi32,
        sum_32
    );
}
