//! HDF5's shuffle: the first bytes of all elements, then all second bytes, and so on.
//!
//! Bytes after the last whole element follow unchanged. Written so that the compiler turns the
//! inner loops into vector code: blocks of 64 elements of a size it knows, each element an integer that is halved until
//! bytes are left, for which every processor has instructions. It is compiled for several kinds of processors, and the one at
//! hand chooses when the program runs; all give the same bytes.

use super::cpu::for_this_processor;
use super::vector;

const BLOCK: usize = 64;

/// Shuffles `src` into `dst`, which has the same length (the shorter one decides otherwise).
/// An `element_size` of 0 or 1 copies.
pub fn shuffle(element_size: usize, src: &[u8], dst: &mut [u8]) {
    if !vector::shuffle(element_size, src, dst) {
        shuffle_portably(element_size, src, dst);
    }
}

/// To be compiled for several kinds of processors.
#[inline(always)]
pub(super) fn shuffle_portably(element_size: usize, src: &[u8], dst: &mut [u8]) {
    let len = src.len().min(dst.len());
    let (src, dst) = (&src[..len], &mut dst[..len]);
    match element_size {
        0 | 1 => dst.copy_from_slice(src),
        2 => shuffle_sized::<2>(src, dst),
        4 => shuffle_sized::<4>(src, dst),
        8 => shuffle_sized::<8>(src, dst),
        16 => shuffle_sized::<16>(src, dst),
        size => {
            let count = len / size;
            for (p, plane) in dst[..count * size].chunks_exact_mut(count.max(1)).enumerate() {
                plane.iter_mut().zip(src.chunks_exact(size)).for_each(|(to, element)| *to = element[p]);
            }
            dst[count * size..].copy_from_slice(&src[count * size..]);
        }
    }
}

/// Undoes [`shuffle`].
pub fn unshuffle(element_size: usize, src: &[u8], dst: &mut [u8]) {
    let len = src.len().min(dst.len());
    let (src, dst) = (&src[..len], &mut dst[..len]);
    match element_size {
        0 | 1 => dst.copy_from_slice(src),
        2 => unshuffle_sized::<2>(src, dst),
        4 => unshuffle_sized::<4>(src, dst),
        8 => unshuffle_sized::<8>(src, dst),
        16 => unshuffle_sized::<16>(src, dst),
        size => {
            let count = len / size;
            for (p, plane) in src[..count * size].chunks_exact(count.max(1)).enumerate() {
                dst.chunks_exact_mut(size).zip(plane).for_each(|(element, &from)| element[p] = from);
            }
            dst[count * size..].copy_from_slice(&src[count * size..]);
        }
    }
}

/// Undoes [`shuffle`] for bytes that are in pieces: `piece` gives those from a place on up to the next border, which are more
/// than none.
pub(super) fn unshuffle_pieces<'a>(element_size: usize, piece: impl Fn(usize) -> &'a [u8], dst: &mut [u8]) {
    match element_size {
        2 => unshuffle_pieces_sized::<2>(piece, dst),
        4 => unshuffle_pieces_sized::<4>(piece, dst),
        8 => unshuffle_pieces_sized::<8>(piece, dst),
        16 => unshuffle_pieces_sized::<16>(piece, dst),
        size => {
            let count = dst.len().checked_div(size).unwrap_or(0);
            let mut at = 0;
            while at < dst.len() {
                let bytes = piece(at);
                for &byte in &bytes[..bytes.len().min(dst.len() - at)] {
                    let to = if at < count * size { at % count * size + at / count } else { at };
                    dst[to] = byte;
                    at += 1;
                }
            }
        }
    }
}

fn unshuffle_pieces_sized<'a, const N: usize>(piece: impl Fn(usize) -> &'a [u8], dst: &mut [u8]) {
    let (mut elements, tail) = dst.as_chunks_mut::<N>();
    let plane_len = elements.len();
    for (i, to) in tail.iter_mut().enumerate() {
        *to = piece(plane_len * N + i)[0];
    }
    let mut at = 0;
    while !elements.is_empty() {
        let planes: [&[u8]; N] = std::array::from_fn(|p| piece(p * plane_len + at));
        let len = planes.iter().map(|plane| plane.len()).min().unwrap_or(0).clamp(1, elements.len());
        let (now, later) = elements.split_at_mut(len);
        join_planes(planes.map(|plane| &plane[..len]), now);
        elements = later;
        at += len;
    }
}

/// Puts elements together from their planes, which are as long as there are elements.
fn join_planes<const N: usize>(planes: [&[u8]; N], elements: &mut [[u8; N]]) {
    for_this_processor(
        #[inline(always)]
        || join_planes_here(planes, elements),
    );
}

#[inline(always)]
fn join_planes_here<const N: usize>(planes: [&[u8]; N], elements: &mut [[u8; N]]) {
    let (blocks, rest) = elements.as_chunks_mut::<BLOCK>();
    let done = blocks.len() * BLOCK;
    for (b, block) in blocks.iter_mut().enumerate() {
        let mut rows = [[0; BLOCK]; N];
        for (row, plane) in rows.iter_mut().zip(&planes) {
            row.copy_from_slice(&plane[b * BLOCK..(b + 1) * BLOCK]);
        }
        join(&rows, block);
    }
    for (i, element) in rest.iter_mut().enumerate() {
        for (byte, plane) in element.iter_mut().zip(&planes) {
            *byte = plane[done + i];
        }
    }
}

#[inline(always)]
fn shuffle_sized<const N: usize>(src: &[u8], dst: &mut [u8]) {
    let (elements, rest) = src.as_chunks::<N>();
    let (planes, tail) = dst.split_at_mut(elements.len() * N);
    tail.copy_from_slice(rest);
    let plane_len = elements.len();
    let (blocks, _) = elements.as_chunks::<BLOCK>();
    for (b, block) in blocks.iter().enumerate() {
        let mut rows = [[0u8; BLOCK]; N];
        split(block, &mut rows);
        for (p, row) in rows.iter().enumerate() {
            let at = p * plane_len + b * BLOCK;
            planes[at..at + BLOCK].copy_from_slice(row);
        }
    }
    for (i, element) in elements.iter().enumerate().skip(blocks.len() * BLOCK) {
        for (p, &byte) in element.iter().enumerate() {
            planes[p * plane_len + i] = byte;
        }
    }
}

fn unshuffle_sized<const N: usize>(src: &[u8], dst: &mut [u8]) {
    let (elements, tail) = dst.as_chunks_mut::<N>();
    let (planes, rest) = src.split_at(elements.len() * N);
    tail.copy_from_slice(rest);
    let plane_len = elements.len();
    join_planes(std::array::from_fn(|p| &planes[p * plane_len..][..plane_len]), elements);
}

/// The bytes of each place in the elements of a block.
#[inline(always)]
fn split<const N: usize>(block: &[[u8; N]; BLOCK], rows: &mut [[u8; BLOCK]; N]) {
    // Four bytes at a time where there are so many: first to halves, then to bytes.
    let (fours, rest) = rows.as_chunks_mut::<4>();
    for (i, [a, b, c, d]) in fours.iter_mut().enumerate() {
        let (mut low, mut high) = ([0u16; BLOCK], [0u16; BLOCK]);
        for (j, element) in block.iter().enumerate() {
            let value = element[4 * i..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            (low[j], high[j]) = (value as u16, (value >> 16) as u16);
        }
        halve(&low, a, b);
        halve(&high, c, d);
    }
    if let [a, b] = rest {
        let mut halves = [0u16; BLOCK];
        for (half, element) in halves.iter_mut().zip(block) {
            *half = element[N - 2..].first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
        }
        halve(&halves, a, b);
    }
}

#[inline(always)]
fn halve(values: &[u16; BLOCK], low: &mut [u8; BLOCK], high: &mut [u8; BLOCK]) {
    for (j, value) in values.iter().enumerate() {
        low[j] = *value as u8;
        high[j] = (value >> 8) as u8;
    }
}

/// Undoes [`split`].
#[inline(always)]
fn join<const N: usize>(rows: &[[u8; BLOCK]; N], block: &mut [[u8; N]; BLOCK]) {
    let (fours, rest) = rows.as_chunks::<4>();
    for (i, [a, b, c, d]) in fours.iter().enumerate() {
        let (low, high) = (pair(a, b), pair(c, d));
        for (j, element) in block.iter_mut().enumerate() {
            let value = u32::from(low[j]) | u32::from(high[j]) << 16;
            element[4 * i..4 * i + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    if let [a, b] = rest {
        for (element, half) in block.iter_mut().zip(pair(a, b)) {
            element[N - 2..].copy_from_slice(&half.to_le_bytes());
        }
    }
}

#[inline(always)]
fn pair(low: &[u8; BLOCK], high: &[u8; BLOCK]) -> [u16; BLOCK] {
    std::array::from_fn(|j| u16::from(low[j]) | u16::from(high[j]) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The order that h5py's `shuffle=True` gives for the same array.
    #[test]
    fn the_order_is_that_of_hdf5() {
        let src: Vec<u8> = (0..11).collect();
        let mut dst = vec![0; 11];
        shuffle(4, &src, &mut dst);
        assert_eq!(dst, [0, 4, 1, 5, 2, 6, 3, 7, 8, 9, 10]);
        shuffle(3, &src, &mut dst);
        assert_eq!(dst, [0, 3, 6, 1, 4, 7, 2, 5, 8, 9, 10]);
    }

    proptest! {
        #[test]
        fn unshuffle_undoes_shuffle(size in 0usize..20, src in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let (mut mid, mut back) = (vec![0; src.len()], vec![0; src.len()]);
            shuffle_portably(size, &src, &mut back);
            shuffle(size, &src, &mut mid);
            prop_assert_eq!(&mid, &back);
            unshuffle(size, &mid, &mut back);
            prop_assert_eq!(&back, &src);
            let count = src.len() / size.max(1);
            for (i, byte) in src.iter().enumerate().take(count * size.max(1)) {
                let (element, part) = (i / size.max(1), i % size.max(1));
                prop_assert_eq!(mid[part * count + element], *byte);
            }
        }
    }
}
