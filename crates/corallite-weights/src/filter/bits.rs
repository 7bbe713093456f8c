//! Appends bits to bytes, least significant first, as deflate wants them.

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

    /// Appends each byte's code: in `codes`, the bits, and from bit 16 on their number, at most 11.
    pub(super) fn put_codes(&mut self, bytes: &[u8], codes: &[u32; 256]) {
        let start = self.out.len();
        // 11 bits a byte at most, and the eight bytes that each step stores.
        self.out.resize(start + bytes.len() * 11 / 8 + 16, 0);
        let (mut at, mut bits, mut count) = (start, self.bits, self.count);
        let (groups, rest) = bytes.as_chunks::<5>();
        let mut step = |group: &[u8]| {
            // At most 7 + 5 × 11 = 62 bits.
            for &byte in group {
                let code = codes[usize::from(byte)];
                bits |= u64::from(code & 0xffff) << count;
                count += code >> 16;
            }
            if let Some(room) = self.out.get_mut(at..at + 8) {
                room.copy_from_slice(&bits.to_le_bytes());
            }
            at += (count / 8) as usize;
            bits >>= count & !7;
            count &= 7;
        };
        groups.iter().for_each(|group| step(group));
        step(rest);
        self.out.truncate(at);
        (self.bits, self.count) = (bits, count);
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
