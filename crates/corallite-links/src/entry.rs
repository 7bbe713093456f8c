//! [`HashEntry`]: what is stored of one key, in the form of the documents.

use crate::E;

/// How many values of a key lie in its bucket; more go to a value set.
pub const MULTI_VALUE_THRESHOLD: usize = 4;

/// A state of four bits in a byte that survives a flipped bit: an extended Hamming code (8, 4).
///
/// One flipped bit is corrected, two are noticed (SECDED; Hamming, "Error detecting and error correcting codes", 1950).
/// From the lowest bit: parity of all others, parities p1, p2 and p4 of the Hamming code (7, 4) interleaved with the data
/// as positions 1 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateMask(pub u8);

/// What became of a [`StateMask`] that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It is as it was written.
    Intact(u8),
    /// One bit had flipped; this is what was written.
    Corrected(u8),
    /// Two bits have flipped; what was written is lost.
    Damaged,
}

const CODES: [u8; 16] = codes();
const DECODED: [u8; 256] = decoded();
const CORRECTED: u8 = 0x10;
const LOST: u8 = 0x20;

const fn codes() -> [u8; 16] {
    let mut codes = [0; 16];
    let mut state = 0_u8;
    while state < 16 {
        let (d1, d2, d3, d4) = (state & 1, state >> 1 & 1, state >> 2 & 1, state >> 3 & 1);
        let (p1, p2, p4) = (d1 ^ d2 ^ d4, d1 ^ d3 ^ d4, d2 ^ d3 ^ d4);
        let word = p1 << 1 | p2 << 2 | d1 << 3 | p4 << 4 | d2 << 5 | d3 << 6 | d4 << 7;
        codes[state as usize] = word | (word.count_ones() as u8 & 1);
        state += 1;
    }
    codes
}

const fn decoded() -> [u8; 256] {
    let mut table = [LOST; 256];
    let mut state = 0;
    while state < 16 {
        let code = CODES[state];
        table[code as usize] = state as u8;
        let mut bit = 0;
        while bit < 8 {
            table[(code ^ 1 << bit) as usize] = state as u8 | CORRECTED;
            bit += 1;
        }
        state += 1;
    }
    table
}

impl StateMask {
    /// Encodes the low four bits of `state`.
    pub const fn encode(state: u8) -> Self {
        Self(CODES[(state & 15) as usize])
    }

    /// The state, with what had to be done to read it.
    ///
    /// ```
    /// use corallite_links::{Decoded, StateMask};
    ///
    /// let mask = StateMask::encode(0b0101);
    /// assert_eq!(mask.decode(), Decoded::Intact(0b0101));
    /// assert_eq!(StateMask(mask.0 ^ 0b1000).decode(), Decoded::Corrected(0b0101));
    /// assert_eq!(StateMask(mask.0 ^ 0b1001).decode(), Decoded::Damaged);
    /// ```
    pub const fn decode(self) -> Decoded {
        match DECODED[self.0 as usize] {
            LOST => Decoded::Damaged,
            state if state & CORRECTED != 0 => Decoded::Corrected(state & 15),
            state => Decoded::Intact(state),
        }
    }

    /// The state, corrected where need be; `None` when it is lost.
    pub const fn state(self) -> Option<u8> {
        match self.decode() {
            Decoded::Intact(state) | Decoded::Corrected(state) => Some(state),
            Decoded::Damaged => None,
        }
    }
}

/// Where the values of a key with more than [`MULTI_VALUE_THRESHOLD`] of them lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillPointer {
    /// Where the value set begins, in units of 16 bytes: in the dataset `/values/<partition>` for a key read from the
    /// file, in memory for one that is loaded. `u64::MAX` where values that changed in memory become a value set only with
    /// the next image of a partition that is not loaded.
    pub reference: u64,
    /// How many of its values the sorted region covers.
    pub sorted_count: u32,
    /// XXH3-128 of the value set as it was stored; 0 for one that changed since it was loaded.
    pub checksum: u128,
}

/// What is stored of a key, in the documents' form: up to four values inline, or a pointer to its value set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashEntry {
    /// The key.
    pub key: E,
    /// Its values in the order of their insertion; those that `state_mask` does not name are zero.
    pub slots: [E; MULTI_VALUE_THRESHOLD],
    /// Bit `i` of the state says whether slot `i` holds a value; all clear for a key with a value set.
    pub state_mask: StateMask,
    /// Changes whenever something in the key's bucket changes.
    pub version: u32,
    /// The value set of a key with more values.
    pub spill: Option<SpillPointer>,
}

impl HashEntry {
    /// The upper half of the key.
    pub const fn key_high(&self) -> u64 {
        self.key.high()
    }

    /// The lower half of the key.
    pub const fn key_low(&self) -> u64 {
        self.key.low()
    }

    /// The values that lie in the entry.
    pub fn inline(&self) -> &[E] {
        let count = self.state_mask.state().unwrap_or(0).count_ones() as usize;
        &self.slots[..count.min(MULTI_VALUE_THRESHOLD)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_is_corrected_and_two_are_noticed() {
        for state in 0..16 {
            let code = StateMask::encode(state).0;
            assert_eq!(StateMask(code).decode(), Decoded::Intact(state));
            for first in 0..8 {
                let flipped = code ^ 1 << first;
                assert_eq!(StateMask(flipped).decode(), Decoded::Corrected(state));
                for second in (0..8).filter(|second| *second != first) {
                    assert_eq!(StateMask(flipped ^ 1 << second).decode(), Decoded::Damaged);
                }
            }
        }
    }
}
