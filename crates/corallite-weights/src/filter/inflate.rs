//! A fast inflater for the streams that [`super::deflate`] makes, which leaves every other stream to a general one.
//!
//! The bytes that are worth coding in a chunk of floats are exponents, at two or three bits each. A general inflater looks up
//! one or two of them at a time; the table here holds for every eleven bits all the literals that are complete in
//! them, up to six, and a look-up costs the same for each number of them.
//!
//! Known are stored blocks, dynamic codes of at most eleven bits whose matches, if any, repeat the last byte, and an empty block
//! of fixed codes. [`zlib`] answers `false` for anything else, damage included, and whoever asks goes to the
//! general inflater, which then decides what is wrong.

use super::huffman::{HEADER_ORDER, LENGTH_BASE, LENGTH_EXTRA};

/// The longest code known here, in bits.
const BITS: usize = 11;
const SIZE: usize = 1 << BITS;
const MASK: u64 = SIZE as u64 - 1;

/// Most literals of one entry.
const MOST_LITERALS: u64 = 6;

/// Look-ups between two refills: 5 × 11 bits of the 56 that a refill leaves at least.
const LOOK_UPS: usize = 5;

/// Bytes that one round of look-ups may write over: the literals, and the rest of the last word.
const ROOM: usize = LOOK_UPS * MOST_LITERALS as usize + 8;

const END_OF_BLOCK: u64 = 256;

/// Where an entry's number of literals is. Bits 0 to 5 are the bits it takes, so that they can be shifted by
/// without a mask; bits 8 to 55 the literals, the first lowest.
///
/// An entry without literals takes no bits, so that looking it up again changes nothing and the loop needs to
/// look for such only once a round: bits 8 to 23 are its symbol, bits 24 to 31 the bits of its code.
const COUNT: u32 = 56;

/// The tables of a block. Kept from block to block for their room only.
pub(super) struct Tables {
    /// By the next eleven bits.
    entries: Box<[u64; SIZE]>,
    /// The same of fewer bits, for building: entry `x` of `k` bits is at `2^k + x`.
    fewer: Box<[u64; SIZE]>,
    /// By the next eleven bits: a symbol, and from bit 16 on the bits of its code.
    symbols: Box<[u32; SIZE]>,
}

impl Default for Tables {
    fn default() -> Self {
        Self { entries: Box::new([0; SIZE]), fewer: Box::new([0; SIZE]), symbols: Box::new([0; SIZE]) }
    }
}

/// Inflates the zlib stream `input` to exactly `out`. `false` when the stream is not of the kind known here, is
/// damaged, or has another length; `out` is unspecified then.
pub(super) fn zlib(input: &[u8], out: &mut [u8], tables: &mut Tables) -> bool {
    inflate(input, out, tables).is_some()
}

fn inflate(input: &[u8], out: &mut [u8], tables: &mut Tables) -> Option<()> {
    let (&[method, flags], _) = input.split_first_chunk::<2>()?;
    let is_zlib = method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31);
    if !is_zlib || flags & 0x20 != 0 {
        return None;
    }
    let mut reader = BitReader { input, at: 2, bits: 0, count: 0 };
    let mut at = 0;
    loop {
        let is_last = reader.take(1)? == 1;
        match reader.take(2)? {
            0 => at = stored(&mut reader, out, at)?,
            // Nothing but the end of the block, seven zeros.
            1 if reader.take(7)? == 0 => {}
            2 => {
                let repeats = dynamic_codes(&mut reader, tables)?;
                at = block(&mut reader, &tables.entries, repeats, out, at)?;
            }
            _ => return None,
        }
        if is_last {
            break;
        }
    }
    let sum = reader.after_alignment()?.first_chunk::<4>()?;
    (at == out.len() && u32::from_be_bytes(*sum) == libdeflater::adler32(out)).then_some(())
}

/// Copies a stored block to `out` from `at` on, and says where it ends.
fn stored(reader: &mut BitReader<'_>, out: &mut [u8], at: usize) -> Option<usize> {
    let rest = reader.after_alignment()?;
    let (&[a, b, c, d], rest) = rest.split_first_chunk::<4>()?;
    let (len, check) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    if len != !check {
        return None;
    }
    let end = at + usize::from(len);
    out.get_mut(at..end)?.copy_from_slice(rest.get(..usize::from(len))?);
    reader.skip_to(reader.input.len() - rest.len() + usize::from(len));
    Some(end)
}

/// Reads the codes of a block into `tables`, and says whether it may have matches.
fn dynamic_codes(reader: &mut BitReader<'_>, tables: &mut Tables) -> Option<bool> {
    let literals = reader.take(5)? as usize + 257;
    let distances = reader.take(5)? as usize + 1;
    let used = reader.take(4)? as usize + 4;
    let mut header_lengths = [0u8; 19];
    for &symbol in &HEADER_ORDER[..used] {
        header_lengths[symbol] = reader.take(3)? as u8;
    }
    let mut header = [0u32; 128];
    fill(&header_lengths, 7, &mut header)?;

    let mut lengths = [0u8; 288 + 32];
    let total = literals + distances;
    if literals > 286 {
        return None;
    }
    let mut at = 0;
    while at < total {
        let entry = header[(reader.peek() & 127) as usize];
        reader.take(entry >> 16)?;
        let (value, count) = match entry & 0xffff {
            16 => (*lengths.get(at.checked_sub(1)?)?, 3 + reader.take(2)?),
            17 => (0, 3 + reader.take(3)?),
            18 => (0, 11 + reader.take(7)?),
            length => (length as u8, 1),
        };
        let end = at + count as usize;
        if end > total {
            return None;
        }
        lengths[at..end].fill(value);
        at = end;
    }
    let (lengths, distances) = lengths[..total].split_at(literals);
    let repeats = match distances {
        [1, rest @ ..] if rest.iter().all(|&length| length == 0) => true,
        all if all.iter().all(|&length| length == 0) => false,
        _ => return None,
    };
    fill(lengths, BITS, tables.symbols.as_mut_slice())?;
    tables.build();
    Some(repeats)
}

/// Fills `table`, of `2^bits` entries, from the code lengths of all symbols. `None` unless the code is complete and no
/// longer than `bits`.
fn fill(lengths: &[u8], bits: usize, table: &mut [u32]) -> Option<()> {
    let mut of_length = [0u32; 16];
    for &length in lengths {
        *of_length.get_mut(usize::from(length))? += 1;
    }
    of_length[0] = 0;
    let mut next = [0u32; 17];
    for length in 1..16 {
        next[length + 1] = (next[length] + of_length[length]) << 1;
    }
    let space: u32 = (1..=bits).map(|length| of_length[length] << (bits - length)).sum();
    if space != 1 << bits || of_length[bits + 1..].iter().any(|&count| count > 0) {
        return None;
    }
    for (symbol, &length) in (0u32..).zip(lengths).filter(|(_, length)| **length > 0) {
        let code = next[usize::from(length)];
        next[usize::from(length)] += 1;
        let first = (code.reverse_bits() >> (32 - u32::from(length))) as usize;
        let entry = symbol | u32::from(length) << 16;
        table.iter_mut().skip(first).step_by(1 << length).for_each(|slot| *slot = entry);
    }
    Some(())
}

impl Tables {
    /// Fills `entries` from `symbols`: of `k` bits, the entry is the first symbol and then the entry of the bits that
    /// are left.
    fn build(&mut self) {
        let Self { entries, fewer, symbols } = self;
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
                while rest >> COUNT >= MOST_LITERALS {
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

/// Decodes the symbols of a block to `out` from `at` on, and says where they end.
fn block(
    reader: &mut BitReader<'_>,
    entries: &[u64; SIZE],
    repeats: bool,
    out: &mut [u8],
    mut at: usize,
) -> Option<usize> {
    loop {
        // Far from both ends nothing has to be checked but that.
        let mut entry = 1 << COUNT;
        while let (Some(room), Some(word)) = (out.get_mut(at..at + ROOM), reader.next_word()) {
            reader.bits |= word << reader.count;
            reader.at += ((63 - reader.count) >> 3) as usize;
            reader.count |= 56;
            let (mut bits, mut written) = (reader.bits, 0);
            let mut taken = 0;
            for _ in 0..LOOK_UPS {
                entry = entries[(bits & MASK) as usize];
                if let Some(word) = room.get_mut(written..written + 8) {
                    word.copy_from_slice(&(entry >> 8).to_le_bytes());
                }
                bits >>= entry & 63;
                taken += entry & 63;
                written += (entry >> COUNT) as usize;
            }
            reader.bits = bits;
            reader.count -= taken as u32;
            at += written;
            if entry >> COUNT == 0 {
                break;
            }
        }
        if entry >> COUNT != 0 {
            reader.refill();
            entry = entries[(reader.bits & MASK) as usize];
        }
        let count = (entry >> COUNT) as usize;
        if count > 0 {
            reader.take((entry & 63) as u32)?;
            let literals = (entry >> 8).to_le_bytes();
            out.get_mut(at..at + count)?.copy_from_slice(&literals[..count]);
            at += count;
            continue;
        }
        reader.take((entry >> 24) as u32 & 15)?;
        let symbol = entry >> 8 & 0xffff;
        if symbol == END_OF_BLOCK {
            return Some(at);
        }
        let class = (symbol - END_OF_BLOCK - 1) as usize;
        let base = usize::from(*LENGTH_BASE.get(class)?);
        let length = base + reader.take(u32::from(*LENGTH_EXTRA.get(class)?))? as usize;
        // The only distance there is: the last byte again.
        if !repeats || reader.take(1)? != 0 {
            return None;
        }
        let byte = *out.get(at.checked_sub(1)?)?;
        repeat(out, at, length, byte)?;
        at += length;
    }
}

/// Writes `byte` `length` times at `at`. Most runs are short, and not worth a call.
#[inline]
fn repeat(out: &mut [u8], at: usize, length: usize, byte: u8) -> Option<()> {
    if let (0..=32, Some(room)) = (length, out.get_mut(at..at + 32)) {
        room.fill(byte);
    } else {
        out.get_mut(at..at + length)?.fill(byte);
    }
    Some(())
}

/// Bits of a byte string, least significant first.
struct BitReader<'a> {
    input: &'a [u8],
    /// The next byte that is not in `bits`; except that some bits of it may be already, above `count`.
    at: usize,
    bits: u64,
    /// Valid bits in `bits`. Those above are zeros or the right ones.
    count: u32,
}

impl BitReader<'_> {
    fn next_word(&self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.input.get(self.at..)?.first_chunk::<8>()?))
    }

    /// Makes 56 bits valid, or all there are.
    fn refill(&mut self) {
        if let Some(word) = self.next_word() {
            self.bits |= word << self.count;
            self.at += ((63 - self.count) >> 3) as usize;
            self.count |= 56;
            return;
        }
        while self.count < 56 {
            let Some(&byte) = self.input.get(self.at) else { return };
            self.bits |= u64::from(byte) << self.count;
            self.count += 8;
            self.at += 1;
        }
    }

    /// The next bits, zeros after the end.
    fn peek(&mut self) -> u64 {
        self.refill();
        self.bits
    }

    /// Takes at most 32 bits. `None` when there are not so many.
    fn take(&mut self, count: u32) -> Option<u64> {
        if self.count < count {
            self.refill();
        }
        self.count = self.count.checked_sub(count)?;
        let value = self.bits & ((1 << count) - 1);
        self.bits >>= count;
        Some(value)
    }

    /// What follows the byte of the last bit taken.
    fn after_alignment(&self) -> Option<&[u8]> {
        self.input.get(self.at - (self.count / 8) as usize..)
    }

    fn skip_to(&mut self, at: usize) {
        (self.at, self.bits, self.count) = (at, 0, 0);
    }
}
