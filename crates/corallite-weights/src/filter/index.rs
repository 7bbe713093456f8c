//! An index of the Huffman blocks of a chunk, behind its zlib stream, where no inflater looks.
//!
//! A Huffman block is one chain of look-ups, each of which waits for the one before. For a block of literals the index says
//! how many bits each quarter of it takes, so that [`super::chains`] decodes four parts at once. It is a hint, and
//! trusted in nothing: whoever uses it has to find that each part ends where the next begins, and goes on without it
//! otherwise. Bytes that are no index are taken for none.
//!
//! Entries, one for each indexed block in their order: five numbers in LEB128, which are the bytes between the end of the
//! last indexed block and the start of this one, its bytes, and the bits of its first three quarters. A quarter is a fourth of
//! the bytes, rounded down; the rest is the last one's. Then the number of bytes of the entries, 16 bits little-endian,
//! and the four bytes of [`END`].

/// What the index ends with: its version, and three letters to know it by.
const END: [u8; 4] = [1, b'C', b'Q', b'I'];

/// The length of what follows the entries.
const TAIL: usize = END.len() + 2;

/// Shorter blocks are not indexed. Four chains have to be begun and ended, and an entry takes some 14 bytes.
pub(super) const SHORTEST: usize = 16 * 1024;

/// The quarters of one block of literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quarters {
    /// Where the block begins in the output.
    pub(super) start: usize,
    /// Its bytes.
    pub(super) len: usize,
    /// The bits of the first three quarters.
    pub(super) bits: [usize; 3],
}

/// Collects the index of a chunk.
#[derive(Default)]
pub(super) struct Index {
    entries: Vec<u8>,
    /// Where the last indexed block ends.
    end: usize,
}

impl Index {
    /// Begins a chunk.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.end = 0;
    }

    /// Adds a block, which begins behind all that were added before.
    pub(super) fn add(&mut self, block: &Quarters) {
        let before = self.entries.len();
        let [a, b, c] = block.bits;
        for number in [block.start - self.end, block.len, a, b, c] {
            let mut number = number as u64;
            while number > 0x7f {
                self.entries.push(number as u8 | 0x80);
                number >>= 7;
            }
            self.entries.push(number as u8);
        }
        self.end = block.start + block.len;
        if self.entries.len() > usize::from(u16::MAX) {
            // Those in it are of use without the rest.
            self.entries.truncate(before);
            self.end = usize::MAX;
        }
    }

    /// Whether nothing can be added any more.
    pub(super) fn is_full(&self) -> bool {
        self.end == usize::MAX
    }

    /// Appends the index to `out`; nothing if it is empty.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if !self.entries.is_empty() {
            out.extend_from_slice(&self.entries);
            out.extend_from_slice(&(self.entries.len() as u16).to_le_bytes());
            out.extend_from_slice(&END);
        }
    }
}

/// What `encoded` has of an index, whatever it says.
pub(super) fn read(encoded: &[u8]) -> Entries<'_> {
    let entries = encoded.split_last_chunk::<TAIL>().and_then(|(rest, &[low, high, end @ ..])| {
        let len = usize::from(u16::from_le_bytes([low, high]));
        if end == END { rest.get(rest.len().checked_sub(len)?..) } else { None }
    });
    Entries { bytes: entries.unwrap_or_default(), end: 0 }
}

/// The entries of an index, up to the first that is none.
#[derive(Default)]
pub(super) struct Entries<'a> {
    bytes: &'a [u8],
    end: usize,
}

impl Entries<'_> {
    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in (0..35).step_by(7) {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(number).ok();
            }
        }
        None
    }
}

impl Iterator for Entries<'_> {
    type Item = Quarters;

    fn next(&mut self) -> Option<Quarters> {
        let mut entry = || {
            let [gap, len] = [self.number()?, self.number()?];
            let bits = [self.number()?, self.number()?, self.number()?];
            let start = self.end.checked_add(gap)?;
            self.end = start.checked_add(len)?;
            Some(Quarters { start, len, bits })
        };
        let found = entry();
        if found.is_none() {
            self.bytes = &[];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_and_what_is_none_is_empty() {
        let blocks = [
            Quarters { start: 0, len: 1 << 20, bits: [1, 1 << 23, 0] },
            Quarters { start: 1 << 20, len: 4, bits: [127, 128, 300] },
            Quarters { start: 3 << 30, len: 1 << 30, bits: [u32::MAX as usize, 0, 7] },
        ];
        let mut index = Index::default();
        let mut out = b"stream".to_vec();
        index.write(&mut out);
        assert_eq!((out.len(), read(&out).count()), (6, 0));
        blocks.iter().for_each(|block| index.add(block));
        index.write(&mut out);
        assert!(read(&out).eq(blocks));
        for cut in 1..=out.len() {
            // Without its end it is none; and a start of something else in front of the end neither breaks nor lasts.
            assert_eq!(read(&out[..out.len() - cut]).count(), 0);
            assert!(read(&out[cut..]).count() <= blocks.len());
        }
        assert_eq!(read(&[0xff; 100]).count(), 0);
        assert_eq!(read(&[[0xff; 100].as_slice(), &[100, 0], &END].concat()).count(), 0);
    }

    #[test]
    fn a_full_index_keeps_what_it_has() {
        let mut index = Index::default();
        let mut blocks = (0..9000).map(|i| Quarters { start: i * 70_000, len: 65_000, bits: [130_000; 3] });
        let added: Vec<_> = blocks
            .by_ref()
            .take_while(|block| {
                if !index.is_full() {
                    index.add(block);
                }
                !index.is_full()
            })
            .collect();
        let mut out = Vec::new();
        index.write(&mut out);
        assert!(added.len() > 4000 && out.len() <= usize::from(u16::MAX) + TAIL);
        assert!(read(&out).eq(added));
    }
}
