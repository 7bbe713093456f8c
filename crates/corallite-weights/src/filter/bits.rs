//! Appends bits to bytes, least significant first, as deflate wants them.

use super::huffman::{CODE_LENGTH, Code};

/// A writer of bits at the end of a vector.
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    /// Valid bits in `bits`; below 8 between calls.
    count: u32,
}

impl<'a> BitWriter<'a> {
    /// Starts at a byte boundary, after what `out` holds.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, bits: 0, count: 0 }
    }

    /// Appends the low `count` bits of `value`, which has no others; at most 48.
    pub(super) fn put(&mut self, value: u64, count: u32) {
        self.bits |= value << self.count;
        self.count += count;
        let whole = (self.count / 8) as usize;
        self.out.extend_from_slice(&self.bits.to_le_bytes()[..whole]);
        self.bits >>= 8 * whole;
        self.count %= 8;
    }

    /// Appends a code as [`Code`] holds it.
    pub(super) fn put_code(&mut self, code: u32) {
        self.put(u64::from(code & CODE_MASK), code >> CODE_LENGTH);
    }

    /// Appends many codes, `bits` bits at most together.
    pub(super) fn put_all(&mut self, bits: usize, write: impl FnOnce(&mut Codes<'_>)) {
        let start = self.out.len();
        // The bits of the last byte, and what a step stores beyond them.
        self.out.resize(start + bits / 8 + 1 + BEYOND, 0);
        let mut codes = Codes { room: &mut self.out[start..], at: 0, bits: self.bits, count: self.count };
        write(&mut codes);
        let Codes { at, bits, count, .. } = codes;
        self.out.truncate(start + at);
        (self.bits, self.count) = (bits, count);
    }

    /// Where the writer is, to go back there.
    pub(super) fn mark(&self) -> Mark {
        Mark { len: self.out.len(), bits: self.bits, count: self.count }
    }

    /// Forgets what was written since.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.out.truncate(mark.len);
        (self.bits, self.count) = (mark.bits, mark.count);
    }

    /// Bits written, with those of what was there before.
    pub(super) fn bits(&self) -> usize {
        self.out.len() * 8 + self.count as usize
    }

    /// Appends zero bits up to the next byte boundary.
    pub(super) fn align(&mut self) {
        if self.count > 0 {
            self.put(0, 8 - self.count);
        }
    }

    /// Whether the next bit starts a byte.
    pub(super) fn is_aligned(&self) -> bool {
        self.count == 0
    }

    /// Appends whole bytes at a byte boundary.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        self.align();
        self.out.extend_from_slice(bytes);
    }
}

/// A place in the output of a [`BitWriter`].
pub(super) struct Mark {
    len: usize,
    bits: u64,
    count: u32,
}

/// Bytes that a step may write to beyond those it fills, at most.
const BEYOND: usize = 128;

const CODE_MASK: u32 = (1 << CODE_LENGTH) - 1;

/// Room for the codes of a block, which [`BitWriter::put_all`] provides.
pub(super) struct Codes<'a> {
    pub(super) room: &'a mut [u8],
    pub(super) at: usize,
    pub(super) bits: u64,
    /// Below 8 between calls.
    pub(super) count: u32,
}

impl Codes<'_> {
    /// Appends `count` bits, at most 56.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, count: u32) {
        self.bits |= value << self.count;
        self.count += count;
        if let Some(room) = self.room.get_mut(self.at..self.at + 8) {
            room.copy_from_slice(&self.bits.to_le_bytes());
        }
        self.at += (self.count / 8) as usize;
        self.bits >>= self.count & !7;
        self.count &= 7;
    }
    /// Appends the codes of `bytes`.
    #[inline(always)]
    pub(super) fn put_literals(&mut self, bytes: &[u8], literals: &Literals) {
        if literals.is_paired {
            let (fours, rest) = bytes.as_chunks::<4>();
            for &[a, b, c, d] in fours {
                let first = literals.pairs[usize::from(u16::from_le_bytes([a, b]))];
                let second = literals.pairs[usize::from(u16::from_le_bytes([c, d]))];
                self.put_two(first, second);
            }
            rest.iter().for_each(|&byte| self.put_two(literals.singles[usize::from(byte)], 0));
        } else {
            let (pairs, rest) = bytes.as_chunks::<2>();
            for &[a, b] in pairs {
                self.put_two(literals.singles[usize::from(a)], literals.singles[usize::from(b)]);
            }
            rest.iter().for_each(|&byte| self.put_two(literals.singles[usize::from(byte)], 0));
        }
    }

    #[inline(always)]
    fn put_two(&mut self, first: u32, second: u32) {
        let first_count = first >> CODE_LENGTH;
        let value = u64::from(first & CODE_MASK) | u64::from(second & CODE_MASK) << first_count;
        self.put(value, first_count + (second >> CODE_LENGTH));
    }
}

/// The codes of single bytes, and of two in a row where a block has few enough values to make that worth while.
pub(super) struct Literals {
    singles: [u32; 256],
    /// By two bytes as a little-endian number. Entries of bytes that do not occur are left over from other blocks.
    pairs: Box<[u32; 1 << 16]>,
    is_paired: bool,
}

impl Default for Literals {
    fn default() -> Self {
        let pairs = vec![0; 1 << 16].into_boxed_slice().try_into();
        Self { singles: [0; 256], pairs: pairs.unwrap_or_else(|_| Box::new([0; 1 << 16])), is_paired: false }
    }
}

/// A table of pairs has to be used so many times, for each of its entries, to pay for itself.
const USES: usize = 8;

impl Literals {
    /// Those of `code`, for few bytes.
    pub(super) fn fill_singles(&mut self, code: &Code) {
        self.singles.copy_from_slice(&code.codes[..256]);
        self.is_paired = false;
    }

    /// Those of `code`, for about `len` bytes.
    pub(super) fn fill(&mut self, code: &Code, len: usize) {
        self.fill_singles(code);
        let mut values = [0u8; 256];
        let mut used = 0;
        for (value, _) in (0..=255).zip(self.singles).filter(|(_, code)| *code > 0) {
            values[used] = value;
            used += 1;
        }
        let values = &values[..used];
        self.is_paired = used * used * USES <= len;
        if self.is_paired {
            for &second in values {
                let high = self.singles[usize::from(second)];
                let row = &mut self.pairs[usize::from(second) << 8..][..256];
                for &first in values {
                    let low = self.singles[usize::from(first)];
                    let bits = low & CODE_MASK | (high & CODE_MASK) << (low >> CODE_LENGTH);
                    row[usize::from(first)] = bits | ((low >> CODE_LENGTH) + (high >> CODE_LENGTH)) << CODE_LENGTH;
                }
            }
        }
    }
}
