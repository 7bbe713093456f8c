//! A fast inflater for the streams that [`super::deflate`] makes, which leaves every other stream to a general one.
//!
//! It looks up several literals at a time ([`super::tables`]), and where an index says how ([`super::index`]), in four chains at
//! once ([`super::chains`]).
//!
//! Known are stored blocks, dynamic codes of at most eleven bits whose matches, if any, repeat the last byte, and an empty block
//! of fixed codes. [`zlib`] answers `false` for anything else, damage included, and whoever asks goes to the
//! general inflater, which then decides what is wrong.

use std::ops::Range;

use super::chains;
use super::cpu::for_this_processor;
use super::huffman::{HEADER_ORDER, LENGTH_BASE, LENGTH_EXTRA};
use super::index::{self, Entries, Quarters};
use super::tables::{BITS, Many, SIZE, Symbols, Table, Two, split};

/// Bytes that one round of look-ups may write over: the literals, and the rest of the last word.
const ROOM: usize = Many::LOOK_UPS * Many::MOST + 8;

const END_OF_BLOCK: u64 = 256;

/// Where literals have more bits than this, looking two of them up in twelve bits is faster than all that are in eleven.
const BITS_OF_TWO: f32 = 3.9;

/// The tables of a block. Kept from block to block for their room only.
pub(super) struct Tables {
    many: Box<Many>,
    two: Box<Two>,
    symbols: Box<Symbols>,
    /// Blocks that were decoded by an index.
    #[cfg(test)]
    pub(super) quartered: usize,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            many: Box::default(),
            two: Box::default(),
            symbols: Box::new([0; SIZE]),
            #[cfg(test)]
            quartered: 0,
        }
    }
}

/// Inflates the zlib stream `input` to exactly `out`. `false` when the stream is not of the kind known here, is
/// damaged, or has another length; `out` is unspecified then.
pub(super) fn zlib(input: &[u8], out: &mut [u8], tables: &mut Tables) -> bool {
    inflate(input, out, tables, None).is_some()
}

/// As [`zlib`], except that long stored blocks stay where they are: `stored` tells which parts of `out` are in `input`, and
/// those are unspecified in `out`.
pub(super) fn zlib_in_parts(input: &[u8], out: &mut [u8], tables: &mut Tables, stored: &mut Vec<Stored>) -> bool {
    stored.clear();
    inflate(input, out, tables, Some(stored)).is_some()
}

/// A part of the output that is in the input as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Where it begins in the output.
    pub(super) start: usize,
    /// Where it begins in the input.
    pub(super) from: usize,
    /// Its bytes.
    pub(super) len: usize,
}

/// Shorter stored blocks are copied: a part takes longer than that.
const SHORTEST_PART: usize = 4096;

fn inflate(input: &[u8], out: &mut [u8], tables: &mut Tables, mut parts: Option<&mut Vec<Stored>>) -> Option<()> {
    let (&[method, flags], _) = input.split_first_chunk::<2>()?;
    let is_zlib = method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31);
    if !is_zlib || flags & 0x20 != 0 {
        return None;
    }
    let mut reader = BitReader { input, at: 2, bits: 0, count: 0 };
    let mut at = 0;
    let mut index = index::read(input).peekable();
    loop {
        let is_last = reader.take(1)? == 1;
        match reader.take(2)? {
            0 => {
                let part = stored(&mut reader)?;
                let from = part.start;
                let (part, start) = (input.get(part)?, at);
                at += part.len();
                let room = out.get_mut(start..at)?;
                match &mut parts {
                    Some(parts) if part.len() >= SHORTEST_PART => {
                        parts.push(Stored { start, from, len: part.len() });
                        // The byte that a match may repeat.
                        room.last_mut().zip(part.last()).into_iter().for_each(|(to, last)| *to = *last);
                    }
                    _ => room.copy_from_slice(part),
                }
            }
            // Nothing but the end of the block, seven zeros.
            1 if reader.take(7)? == 0 => {}
            2 => {
                let codes = dynamic_codes(&mut reader, &mut tables.symbols)?;
                while index.next_if(|quarters| quarters.start < at).is_some() {}
                if let Some(quarters) = index.next_if(|quarters| quarters.start == at) {
                    match quartered(&mut reader, &quarters, codes.bits, tables, out, at) {
                        Some(end) => at = end,
                        // It belongs to something else, and is not asked again.
                        None => index = Entries::default().peekable(),
                    }
                }
                if !at_end_of_block(&mut reader, &tables.symbols) {
                    tables.many.build(&tables.symbols);
                    at = block(&mut reader, &tables.many, codes.repeats, out, at)?;
                }
            }
            _ => return None,
        }
        if is_last {
            break;
        }
    }
    let sum = reader.after_alignment()?.first_chunk::<4>()?;
    let mut found = libdeflater::Adler32::new();
    let mut done = 0;
    for part in parts.into_iter().flatten() {
        found.update(out.get(done..part.start)?);
        found.update(input.get(part.from..part.from + part.len)?);
        done = part.start + part.len;
    }
    found.update(out.get(done..)?);
    (at == out.len() && u32::from_be_bytes(*sum) == found.sum()).then_some(())
}

/// Takes a stored block, and says where in the input its bytes are.
fn stored(reader: &mut BitReader<'_>) -> Option<Range<usize>> {
    let rest = reader.after_alignment()?;
    let (&[a, b, c, d], rest) = rest.split_first_chunk::<4>()?;
    let (len, check) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    if len != !check {
        return None;
    }
    let start = reader.input.len() - rest.len();
    let end = start + usize::from(len);
    reader.skip_to(end.min(reader.input.len()));
    Some(start..end)
}

/// Decodes the literals of a block from `at` on in the way that an index says, and tells where they end. `None` when the
/// index is wrong; the reader is where it was then.
fn quartered(
    reader: &mut BitReader<'_>,
    quarters: &Quarters,
    bits: f32,
    tables: &mut Tables,
    out: &mut [u8],
    at: usize,
) -> Option<usize> {
    let end = at.checked_add(quarters.len)?;
    let out = out.get_mut(at..end)?;
    let Tables { many, two, symbols, .. } = &mut *tables;
    let (input, from) = (reader.input, reader.bit());
    let bit = if bits > BITS_OF_TWO {
        two.build(symbols);
        chains::decode(input, from, quarters, two.as_ref(), symbols, out)?
    } else {
        many.build(symbols);
        chains::decode(input, from, quarters, many.as_ref(), symbols, out)?
    };
    reader.skip_to(bit / 8);
    reader.take((bit % 8) as u32)?;
    #[cfg(test)]
    {
        tables.quartered += 1;
    }
    Some(end)
}

/// Takes the end of a block if it is next.
fn at_end_of_block(reader: &mut BitReader<'_>, symbols: &Symbols) -> bool {
    let (symbol, length) = split(symbols[reader.peek() as usize % SIZE]);
    u64::from(symbol) == END_OF_BLOCK && reader.take(length).is_some()
}

/// What is known of the codes of a block, besides their table.
struct Codes {
    /// Whether there may be matches.
    repeats: bool,
    /// Bits of a literal, in the mean that the code is made for.
    bits: f32,
}

/// Reads the codes of a block into `symbols`.
fn dynamic_codes(reader: &mut BitReader<'_>, symbols: &mut Symbols) -> Option<Codes> {
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
    fill(lengths, BITS, symbols)?;
    // A code of so many bits stands for this share of the symbols.
    let share = |length: u8| if length == 0 { 0.0 } else { 0.5f32.powi(i32::from(length)) };
    let bits = lengths.iter().map(|&length| share(length) * f32::from(length)).sum();
    Some(Codes { repeats, bits })
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

/// Decodes the symbols of a block to `out` from `at` on, and says where they end.
fn block(reader: &mut BitReader<'_>, table: &Many, repeats: bool, out: &mut [u8], at: usize) -> Option<usize> {
    for_this_processor(
        #[inline(always)]
        || block_here(reader, table, repeats, out, at),
    )
}

#[inline(always)]
fn block_here(reader: &mut BitReader<'_>, table: &Many, repeats: bool, out: &mut [u8], mut at: usize) -> Option<usize> {
    loop {
        // Far from both ends nothing has to be checked but that.
        let mut is_literal = true;
        let mut entry = 0;
        while let (Some(room), Some(word)) = (out.get_mut(at..at + ROOM), reader.next_word()) {
            reader.bits |= word << reader.count;
            reader.at += ((63 - reader.count) >> 3) as usize;
            reader.count |= 56;
            let (mut bits, mut written) = (reader.bits, 0);
            let mut taken = 0;
            for _ in 0..Many::LOOK_UPS {
                entry = table.entry(bits);
                if let Some(word) = room.get_mut(written..written + 8) {
                    word.copy_from_slice(&Many::literals(entry).to_le_bytes());
                }
                bits >>= entry & 63;
                taken += entry & 63;
                written += Many::count(entry);
            }
            reader.bits = bits;
            reader.count -= taken as u32;
            at += written;
            is_literal = Many::count(entry) > 0;
            if !is_literal {
                break;
            }
        }
        if is_literal {
            entry = table.entry(reader.peek());
        }
        let count = Many::count(entry);
        if count > 0 {
            reader.take((entry & 63) as u32)?;
            let literals = Many::literals(entry).to_le_bytes();
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
#[inline(always)]
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
    #[inline(always)]
    fn next_word(&self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.input.get(self.at..)?.first_chunk::<8>()?))
    }

    /// Makes 56 bits valid, or all there are.
    #[inline(always)]
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
    #[inline(always)]
    fn peek(&mut self) -> u64 {
        self.refill();
        self.bits
    }

    /// Takes at most 32 bits. `None` when there are not so many.
    #[inline(always)]
    fn take(&mut self, count: u32) -> Option<u64> {
        if self.count < count {
            self.refill();
        }
        self.count = self.count.checked_sub(count)?;
        let value = self.bits & ((1 << count) - 1);
        self.bits >>= count;
        Some(value)
    }

    /// The next bit.
    fn bit(&self) -> usize {
        self.at * 8 - self.count as usize
    }

    /// What follows the byte of the last bit taken.
    fn after_alignment(&self) -> Option<&[u8]> {
        self.input.get(self.at - (self.count / 8) as usize..)
    }

    fn skip_to(&mut self, at: usize) {
        (self.at, self.bits, self.count) = (at, 0, 0);
    }
}
