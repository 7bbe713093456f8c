//! Writes bytes by a code, as fast as the processor can.

use super::bits::{BitWriter, Literals};
use super::huffman::{Code, SYMBOLS};
use super::vector;

/// Bytes that are coded at a time.
const PIECE: usize = 16 * 1024;

/// Eight codes of this many bits on average rarely have more than 56.
const SHORT: f32 = 6.0;

/// How much longer than a sketch promised the codes may become; else the bytes are better counted.
const MISLED: f32 = 1.02;

/// A code, ready to be used for many bytes.
pub(super) struct Packer<'a> {
    /// `None` on a processor without the instructions for it.
    table: Option<Box<vector::Table>>,
    literals: &'a Literals,
    are_short: bool,
    longest: usize,
    promised: usize,
}

impl<'a> Packer<'a> {
    /// For `len` bytes that are about as frequent as `weights` say. `literals` lends its room.
    pub(super) fn new(code: &Code, weights: &[u32; SYMBOLS], len: usize, literals: &'a mut Literals) -> Self {
        let bits = weights.iter().zip(code.lengths).map(|(&weight, length)| weight as usize * usize::from(length));
        let promised = bits.sum();
        let longest = code.lengths.iter().max().copied().map_or(0, usize::from);
        let table = vector::packs().then(|| Box::new(vector::Table::new(code)));
        if table.is_some() {
            literals.fill_singles(code);
        } else {
            literals.fill(code, len);
        }
        Self { table, literals, are_short: (promised as f32) < len as f32 * SHORT, longest, promised }
    }

    /// Appends the codes of `bytes`, all of which have one.
    pub(super) fn pack(&self, bytes: &[u8], writer: &mut BitWriter<'_>) {
        for piece in bytes.chunks(PIECE) {
            writer.put_all(piece.len() * self.longest, |out| {
                let done =
                    self.table.as_ref().map_or(0, |table| vector::pack::<false>(piece, table, self.are_short, out));
                out.put_literals(&piece[done..], self.literals);
            });
        }
    }

    /// The same, the last byte first.
    pub(super) fn pack_reversed(&self, bytes: &[u8], writer: &mut BitWriter<'_>) {
        let mut reversed = [0; PIECE];
        for piece in bytes.rchunks(PIECE) {
            writer.put_all(piece.len() * self.longest, |out| {
                let done =
                    self.table.as_ref().map_or(0, |table| vector::pack::<true>(piece, table, self.are_short, out));
                let rest = &piece[..piece.len() - done];
                let reversed = &mut reversed[..rest.len()];
                reversed.iter_mut().zip(rest.iter().rev()).for_each(|(to, from)| *to = *from);
                out.put_literals(reversed, self.literals);
            });
        }
    }

    /// Whether all bytes together took about as many bits as the weights promise.
    pub(super) fn is_promised(&self, bits: usize) -> bool {
        bits as f32 <= self.promised as f32 * MISLED
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::huffman::histogram;

    fn packed(packer: &Packer<'_>, bytes: &[u8], is_reversed: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = BitWriter::new(&mut out);
        writer.put(5, 3);
        if is_reversed {
            packer.pack_reversed(bytes, &mut writer);
        } else {
            packer.pack(bytes, &mut writer);
        }
        writer.align();
        out
    }

    proptest! {
        #[test]
        fn vector_instructions_give_the_bits_that_the_portable_form_gives(
            len in 1..40_000_usize, shift in 0..8_u32, offset in any::<u8>(), seed in any::<u32>(), is_reversed in any::<bool>(),
        ) {
            let mut state = seed;
            let bytes: Vec<u8> = (0..len).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Small values by far more often than large ones, so that codes have all lengths.
                ((state >> 24) >> ((state >> 8) % (shift + 1)).min(7)) as u8
            }).map(|byte| byte.wrapping_add(offset)).collect();
            let mut weights = [0; SYMBOLS];
            weights[..256].copy_from_slice(&histogram(&bytes));
            let code = Code::new(&weights);
            let (mut first, mut second) = (Literals::default(), Literals::default());
            let packer = Packer::new(&code, &weights, len, &mut first);
            let mut portable = Packer::new(&code, &weights, len, &mut second);
            portable.table = None;
            let wanted = packed(&portable, &bytes, is_reversed);
            prop_assert!(packed(&packer, &bytes, is_reversed) == wanted);
            let backwards: Vec<u8> = bytes.iter().rev().copied().collect();
            prop_assert!(packed(&portable, &backwards, !is_reversed) == wanted);
        }
    }
}
