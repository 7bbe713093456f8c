//! Decodes the literals of a Huffman block in four chains at once, where an index says where its quarters begin.
//!
//! Each look-up waits for the one before, and a processor could do several in that time. What the index says is
//! believed only when each quarter ends at the bit where the next was begun: the block's bits then were read one after the other,
//! as without an index, only not in that order.
//!
//! The loop that takes most of the time is `unsafe`, because how far it may go is found out for many rounds at once.

use super::cpu::for_this_processor;
use super::index::Quarters;
use super::tables::{Symbols, Table, split};

const CHAINS: usize = 4;

/// One place in a block that is being decoded.
#[derive(Debug, Clone, Copy)]
struct Chain {
    /// The byte of the input that `bits` begin in.
    at: usize,
    /// The bits from there on, shifted by those of the byte that are done with. The highest one is no bit of the
    /// input: above it there are as many zeros as were shifted out.
    bits: u64,
    /// Where the next literal goes.
    to: usize,
    /// Where the chain ends.
    end: usize,
}

impl Chain {
    fn new(bit: usize, to: usize, end: usize) -> Self {
        Self { at: bit / 8, bits: TOP >> (bit % 8), to, end }
    }

    fn bit(&self) -> usize {
        self.at * 8 + self.bits.leading_zeros() as usize
    }
}

const TOP: u64 = 1 << 63;

/// Bytes of the input that a round moves on by at most: 7 bits left over from the last, and 56.
const STEP: usize = 7;

/// Decodes `out`, which is quartered as `quarters` says, from the bit `from` of `input` on. Returns the bit at which it ends,
/// or nothing when that is not what the input says.
pub(super) fn decode<T: Table>(
    input: &[u8],
    from: usize,
    quarters: &Quarters,
    table: &T,
    symbols: &Symbols,
    out: &mut [u8],
) -> Option<usize> {
    let quarter = out.len() / CHAINS;
    let mut starts = [from; CHAINS + 1];
    for (i, bits) in quarters.bits.into_iter().enumerate() {
        starts[i + 1] = starts[i].checked_add(bits)?;
    }
    if starts[CHAINS - 1] / 8 >= input.len() {
        return None;
    }
    let ends = [quarter, 2 * quarter, 3 * quarter, out.len()];
    let mut chains: [Chain; CHAINS] = std::array::from_fn(|i| Chain::new(starts[i], i * quarter, ends[i]));
    run(input, table, &mut chains, out);
    for (i, chain) in chains.into_iter().enumerate() {
        let mut rest = [chain];
        run(input, table, &mut rest, out);
        let end = finish(input, symbols, &rest[0], out)?;
        if i + 1 < CHAINS && end != starts[i + 1] {
            return None;
        }
        starts[i + 1] = end;
    }
    Some(starts[CHAINS])
}

/// Decodes the last literals of a chain one by one, and says at which bit they end.
fn finish(input: &[u8], symbols: &Symbols, chain: &Chain, out: &mut [u8]) -> Option<usize> {
    let mut bit = chain.bit();
    for slot in out.get_mut(chain.to..chain.end)? {
        let bytes = input.get(bit / 8..)?;
        let word = match bytes.first_chunk::<4>() {
            Some(word) => u32::from_le_bytes(*word),
            None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)),
        };
        let (symbol, length) = split(symbols[(word >> (bit % 8)) as usize % symbols.len()]);
        *slot = u8::try_from(symbol).ok()?;
        bit += length as usize;
    }
    (bit <= input.len() * 8).then_some(bit)
}

/// Takes all chains as far as no end is near: of the input, of a chain, or of the literals.
fn run<T: Table, const N: usize>(input: &[u8], table: &T, chains: &mut [Chain; N], out: &mut [u8]) {
    for_this_processor(
        #[inline(always)]
        || run_here(input, table, chains, out),
    );
}

#[inline(always)]
fn run_here<T: Table, const N: usize>(input: &[u8], table: &T, chains: &mut [Chain; N], out: &mut [u8]) {
    let word = size_of::<T::Word>();
    loop {
        // How many rounds are safe for all chains, whatever they find.
        let rounds = chains.iter().map(|chain| {
            let end = chain.end.min(out.len());
            let room = end.saturating_sub(chain.to).saturating_sub(word) / (T::LOOK_UPS * T::MOST);
            let left = input.len().saturating_sub(chain.at).saturating_sub(8) / STEP;
            room.min(left)
        });
        let rounds = rounds.min().unwrap_or(0);
        let before = chains.each_ref().map(|chain| chain.to);
        if rounds == 0 {
            return;
        }
        // SAFETY: for each chain and the number of rounds, `at + rounds * STEP + 8` is within the input and
        // `to + rounds * LOOK_UPS * MOST` and the size of a word within the output, as has just been found.
        unsafe { many_rounds(input.as_ptr(), table, chains, out.as_mut_ptr(), rounds) };
        // Something that is no literal stops a chain for good; with all of them stopped there is no end to wait for.
        if chains.iter().zip(before).all(|(chain, before)| chain.to == before) {
            return;
        }
    }
}

/// Takes each chain `rounds` refills and their look-ups further.
///
/// # Safety
/// For each chain, `input` is valid for reads up to `at + rounds * STEP + 8` and `out` for writes up to
/// `to + rounds * LOOK_UPS * MOST` and a word more.
#[inline(always)]
unsafe fn many_rounds<T: Table, const N: usize>(
    input: *const u8,
    table: &T,
    chains: &mut [Chain; N],
    out: *mut u8,
    rounds: usize,
) {
    // SAFETY: within the input and the output, as the caller says.
    let mut at: [*const u8; N] = std::array::from_fn(|i| unsafe { input.add(chains[i].at) });
    // SAFETY: as above.
    let mut to: [*mut u8; N] = std::array::from_fn(|i| unsafe { out.add(chains[i].to) });
    let mut bits: [u64; N] = std::array::from_fn(|i| chains[i].bits);
    for _ in 0..rounds {
        for i in 0..N {
            let done = bits[i].leading_zeros() as usize;
            // SAFETY: at most 63 bits are done with: 7 from the start, and those of the look-ups, 11 or 12 each. So a round
            // moves by STEP bytes or less, and the caller says that a word follows.
            let word = unsafe {
                at[i] = at[i].add(done / 8);
                at[i].cast::<u64>().read_unaligned()
            };
            bits[i] = (u64::from_le(word) | TOP) >> (done % 8);
        }
        for _ in 0..T::LOOK_UPS {
            for i in 0..N {
                let entry = table.entry(bits[i]);
                // SAFETY: an entry has at most MOST literals; with a word, the caller says that there is room for those of all look-ups.
                unsafe {
                    to[i].cast::<T::Word>().write_unaligned(T::literals(entry));
                    to[i] = to[i].add(T::count(entry));
                }
                bits[i] >>= entry & 63;
            }
        }
    }
    for i in 0..N {
        // SAFETY: both are in what the pointers are in that they come from.
        unsafe {
            chains[i].at = at[i].offset_from(input) as usize;
            chains[i].to = to[i].offset_from(out) as usize;
        }
        chains[i].bits = bits[i];
    }
}
