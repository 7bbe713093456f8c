//! What the next bits of a Huffman block stand for, several literals at a time.
//!
//! The bytes that are worth coding in a chunk of floats are exponents, at two or three bits each; with a part of the mantissa
//! it is six. A general inflater looks up one or two of them at a time. Of few bits, all that are complete in eleven are one
//! entry of [`Many`], up to six; of many bits, [`Two`] that fit into twelve. Both are 16 KiB, half of the fastest cache.

/// The longest code known here, in bits.
pub(super) const BITS: usize = 11;
pub(super) const SIZE: usize = 1 << BITS;

/// By the next eleven bits: a symbol, and from bit 16 on the bits of its code.
pub(super) type Symbols = [u32; SIZE];

/// A table that several literals are looked up in.
pub(super) trait Table {
    /// Most literals of an entry.
    const MOST: usize;

    /// Look-ups that the 56 bits suffice for that a refill leaves at least.
    const LOOK_UPS: usize;

    /// What is written of an entry: its literals, and what else is in the word.
    type Word: Copy;

    /// The entry for the next bits.
    fn entry(&self, bits: u64) -> u64;

    /// The literals of an entry, the first lowest.
    fn literals(entry: u64) -> Self::Word;

    /// How many they are, at most [`Table::MOST`]. 0 where another symbol comes next; such an entry takes no bits.
    fn count(entry: u64) -> usize;
}

/// All literals that are complete in eleven bits, up to six.
///
/// Bits 0 to 5 of an entry are the bits it takes, so that they can be shifted by without a mask; bits 8 to 55 the literals,
/// the first lowest; bits 56 to 63 their number.
///
/// An entry without literals takes no bits, so that looking it up again changes nothing and a loop needs to
/// look for such only now and then: bits 8 to 23 are its symbol, bits 24 to 31 the bits of its code.
pub(super) struct Many {
    entries: [u64; SIZE],
    /// The same of fewer bits, for building: entry `x` of `k` bits is at `2^k + x`.
    fewer: [u64; SIZE],
}

impl Default for Many {
    fn default() -> Self {
        Self { entries: [0; SIZE], fewer: [0; SIZE] }
    }
}

/// Where the number of an entry's literals is.
const COUNT: u32 = 56;

impl Table for Many {
    const MOST: usize = 6;
    const LOOK_UPS: usize = 5;
    type Word = u64;

    #[inline(always)]
    fn entry(&self, bits: u64) -> u64 {
        self.entries[(bits & (SIZE as u64 - 1)) as usize]
    }

    #[inline(always)]
    fn literals(entry: u64) -> u64 {
        entry >> 8
    }

    #[inline(always)]
    fn count(entry: u64) -> usize {
        (entry >> COUNT) as usize
    }
}

impl Many {
    /// Fills the entries: of `k` bits, one is the first symbol and then the entry of the bits that are left.
    pub(super) fn build(&mut self, symbols: &Symbols) {
        let Self { entries, fewer } = self;
        fewer[..2].fill(0);
        for k in 1..=BITS {
            let (shorter, this) = fewer.split_at_mut(1 << k);
            let this = if k == BITS { entries.as_mut_slice() } else { &mut this[..1 << k] };
            for (x, (slot, &symbol)) in this.iter_mut().zip(symbols.iter()).enumerate() {
                let (value, length) = (u64::from(symbol & 0xffff), (symbol >> 16) as usize);
                if value > 255 {
                    *slot = value << 8 | (length as u64) << 24;
                    continue;
                }
                if length > k {
                    *slot = 0;
                    continue;
                }
                let mut left = k - length;
                let mut rest = shorter[1 << left | x >> length & ((1 << left) - 1)];
                while Self::count(rest) >= Self::MOST {
                    left -= 1;
                    rest = shorter[1 << left | x >> length & ((1 << left) - 1)];
                }
                let one = 1 << COUNT | value << 8 | length as u64;
                *slot = if rest >> COUNT == 0 {
                    one
                } else {
                    // The literals move up by one; the numbers add up.
                    let literals = rest << 8 & ((1 << COUNT) - 1) & !0xffff;
                    one + literals + (rest >> COUNT << COUNT) + (rest & 63)
                };
            }
        }
    }
}

/// One or two literals that fit into twelve bits.
///
/// Bits 0 to 5 of an entry are the bits it takes; bits 8 to 23 the literals, the first lowest; bits 24 to 31 their number.
pub(super) struct Two([u32; 2 * SIZE]);

impl Default for Two {
    fn default() -> Self {
        Self([0; 2 * SIZE])
    }
}

impl Table for Two {
    const MOST: usize = 2;
    const LOOK_UPS: usize = 4;
    type Word = u16;

    #[inline(always)]
    fn entry(&self, bits: u64) -> u64 {
        u64::from(self.0[(bits & (2 * SIZE as u64 - 1)) as usize])
    }

    #[inline(always)]
    fn literals(entry: u64) -> u16 {
        (entry >> 8) as u16
    }

    #[inline(always)]
    fn count(entry: u64) -> usize {
        (entry >> 24) as usize
    }
}

impl Two {
    /// Fills the entries.
    pub(super) fn build(&mut self, symbols: &Symbols) {
        for (x, slot) in self.0.iter_mut().enumerate() {
            let (first, length) = split(symbols[x % SIZE]);
            let (second, second_length) = split(symbols[(x >> length) % SIZE]);
            *slot = if first > 255 {
                0
            } else if second > 255 || length + second_length > BITS as u32 + 1 {
                1 << 24 | first << 8 | length
            } else {
                2 << 24 | second << 16 | first << 8 | (length + second_length)
            };
        }
    }
}

/// A symbol and the bits of its code.
#[inline(always)]
pub(super) fn split(entry: u32) -> (u32, u32) {
    (entry & 0xffff, entry >> 16 & 15)
}
