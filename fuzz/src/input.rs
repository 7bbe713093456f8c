//! Reading a fuzz input as a list of decisions, and the byte-level edits that every damaged file shares.
//!
//! The encoding is plain on purpose: seeds are written by hand (`examples/seeds.rs`), and the smoke tests feed it from
//! a generator. An input that ends early reads as zeros.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or what is left.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes, little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes, little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Everything left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(self.0.len())
    }
}

/// How many kinds of byte edits there are; [`edit`] takes the kind modulo this.
pub const EDITS: u8 = 6;

/// Applies one edit of the given kind, with its operands from `input`, to `file`. Grows it by at most 64 KiB.
pub fn edit(kind: u8, input: &mut Input<'_>, file: &mut Vec<u8>) {
    let at = input.u32() as usize % (file.len() + 1);
    match kind % EDITS {
        // Overwrite with the bytes that follow.
        0 => {
            let count = usize::from(input.u8());
            let new = input.bytes(count);
            let end = (at + new.len()).min(file.len());
            file[at..end].copy_from_slice(&new[..end - at]);
        }
        // Flip bits.
        1 => {
            let mask = input.u8();
            if let Some(byte) = file.get_mut(at) {
                *byte ^= mask;
            }
        }
        // Cut.
        2 => file.truncate(at),
        // Copy a stretch over another.
        3 => {
            let (from, count) = (input.u32() as usize % (file.len() + 1), usize::from(input.u16()));
            let end = (from + count).min(file.len()).min(from + file.len() - at);
            file.copy_within(from..end, at);
        }
        // Remove a stretch.
        4 => {
            let end = (at + usize::from(input.u16())).min(file.len());
            file.drain(at..end);
        }
        // Insert a run of one byte.
        _ => {
            let (byte, count) = (input.u8(), usize::from(input.u16()));
            file.splice(at..at, std::iter::repeat_n(byte, count));
        }
    }
}
