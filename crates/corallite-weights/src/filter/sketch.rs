//! About how often each byte occurs, for a quarter of what counting takes.
//!
//! A code made of a sample serves as well as one made of all bytes, as long as no byte lacks a code. So what is sampled is how
//! often a byte occurs, and never whether it does: a byte that occurs counts at least one.

use super::huffman::{Counter, Histogram};
use super::vector;

/// Bytes that are counted, of each stretch of so many.
const PART: usize = 64;
const STRIDE: usize = 256;
/// What a byte of the sample stands for.
pub(super) const SCALE: u32 = (STRIDE / PART) as u32;

/// Bytes that are looked through at a time for those that the sample lacks.
const PIECE: usize = 1024;

/// Fewer bytes than this are better counted.
pub(super) const LEAST: usize = 16 * 1024;

/// Some count for each byte that occurs, about how often it does, and zero for the others.
///
/// Parts of the sample begin at changing places, so that no period of the bytes hides anything.
pub(super) fn sketch(bytes: &[u8]) -> Histogram {
    let (strides, _) = bytes.as_chunks::<STRIDE>();
    let mut counter = Counter::default();
    for (i, stride) in strides.iter().enumerate() {
        // Of five strides in a row no two next to each other have the same place, nor do those four apart.
        let place = (i + i / 4) % (STRIDE / PART) * PART;
        counter.add(&stride[place..place + PART]);
    }
    let mut counts = counter.finish().map(|count| SCALE * count);
    add_others(bytes, &mut counts);
    counts
}

/// Counts one for each byte that occurs and has no count.
fn add_others(bytes: &[u8], counts: &mut Histogram) {
    let mut set = [[0u8; 16]; 2];
    let put = |set: &mut [[u8; 16]; 2], byte: usize| set[byte >> 7][byte & 15] |= 1 << (byte >> 4 & 7);
    (0..256).filter(|&byte| counts[byte] > 0).for_each(|byte| put(&mut set, byte));
    let (pieces, rest) = bytes.as_chunks::<PIECE>();
    let mut count = |piece: &[u8], set: &mut [[u8; 16]; 2]| {
        for &byte in piece {
            let count = &mut counts[usize::from(byte)];
            if *count == 0 {
                *count = 1;
                put(set, usize::from(byte));
            }
        }
    };
    for piece in pieces {
        if vector::has_others(piece, &set).unwrap_or(true) {
            count(piece, &mut set);
        }
    }
    count(rest, &mut set);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::huffman::histogram;

    proptest! {
        #[test]
        fn no_byte_that_occurs_is_missed_and_no_other_counted(
            common in any::<[u8; 4]>(), len in 0..70_000_usize,
            rare in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        ) {
            let mut bytes: Vec<u8> = common.into_iter().cycle().take(len).collect();
            for (at, byte) in rare {
                if len > 0 {
                    bytes[at.index(len)] = byte;
                }
            }
            let exact = histogram(&bytes);
            for (sketched, exact) in sketch(&bytes).into_iter().zip(exact) {
                prop_assert_eq!(sketched > 0, exact > 0);
            }
        }
    }
}
