//! LZF streams, as h5py's filter 32000 writes and reads them.
//!
//! A stream is literal runs (control byte 0 to 31: that many plus one bytes follow) and copies
//! (control byte 32 and up: three bits of length, thirteen of distance).

use crate::error::{Error, Result};

const HASH_BITS: u32 = 14;
const MAX_LITERALS: usize = 32;
const MAX_DISTANCE: usize = 1 << 13;
const MIN_MATCH: usize = 3;
const MAX_MATCH: usize = 264;

/// Where each three-byte sequence was seen last, plus one; 0 for never.
#[derive(Default)]
pub(super) struct Table(Vec<u32>);

/// Compresses `src` into `out`; `false`, with `out` unspecified, when that makes it no smaller.
/// `src` is shorter than 4 GiB.
pub(super) fn compress(src: &[u8], table: &mut Table, out: &mut Vec<u8>) -> bool {
    out.clear();
    table.0.clear();
    table.0.resize(1 << HASH_BITS, 0);
    let (mut at, mut literals) = (0, 0);
    while let Some(&[a, b, c]) = src.get(at..).and_then(|rest| rest.first_chunk::<3>()) {
        let sequence = u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16;
        let slot = &mut table.0[(sequence.wrapping_mul(2_654_435_761) >> (32 - HASH_BITS)) as usize];
        let candidate = std::mem::replace(slot, at as u32 + 1) as usize;
        let found = candidate
            .checked_sub(1)
            .filter(|&from| at - from <= MAX_DISTANCE && src[from..from + MIN_MATCH] == src[at..at + MIN_MATCH]);
        let Some(from) = found else {
            at += 1;
            continue;
        };
        let limit = MAX_MATCH.min(src.len() - at);
        let longer = src[from..].iter().zip(&src[at..at + limit]).take_while(|(x, y)| x == y).count();
        put_literals(&src[literals..at], out);
        let (distance, len) = (at - from - 1, longer - 2);
        let high = (distance >> 8) as u8;
        if len < 7 {
            out.push((len as u8) << 5 | high);
        } else {
            out.extend_from_slice(&[7 << 5 | high, (len - 7) as u8]);
        }
        out.push(distance as u8);
        at += longer;
        literals = at;
        if out.len() >= src.len() {
            return false;
        }
    }
    put_literals(&src[literals..], out);
    out.len() < src.len()
}

fn put_literals(literals: &[u8], out: &mut Vec<u8>) {
    for run in literals.chunks(MAX_LITERALS) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

/// Decompresses `src` to exactly `out.len()` bytes.
pub(super) fn decompress(src: &[u8], out: &mut [u8]) -> Result<()> {
    let fail = |problem: &str, at: usize| Error::filter("lzf", format!("{problem} at byte {at} of {}", src.len()));
    let (mut at, mut done) = (0, 0);
    while let Some(&control) = src.get(at) {
        at += 1;
        let control = usize::from(control);
        if control < MAX_LITERALS {
            let len = control + 1;
            let from = src.get(at..at + len).ok_or_else(|| fail("a literal run is cut off", at))?;
            let to = out.get_mut(done..done + len).ok_or_else(|| fail("more data than the chunk holds", at))?;
            to.copy_from_slice(from);
            at += len;
            done += len;
            continue;
        }
        let mut next = || {
            let byte = src.get(at).copied().map(usize::from).ok_or_else(|| fail("a copy is cut off", at));
            at += 1;
            byte
        };
        let mut len = (control >> 5) + 2;
        if len == 9 {
            len += next()?;
        }
        let distance = ((control & 31) << 8 | next()?) + 1;
        let from = done.checked_sub(distance).ok_or_else(|| fail("a copy from before the start", at))?;
        if len > out.len() - done {
            return Err(fail("more data than the chunk holds", at));
        }
        if distance >= len {
            out.copy_within(from..from + len, done);
        } else {
            // The copy overlaps what it writes: it repeats the last `distance` bytes.
            for i in 0..len {
                out[done + i] = out[from + i];
            }
        }
        done += len;
    }
    if done == out.len() {
        return Ok(());
    }
    Err(fail(&format!("only {done} of {} bytes", out.len()), at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_reach_outside_the_chunk_are_refused() {
        for (src, len) in [
            (&[0x20, 0][..], 3),          // copies from before the start
            (&[0, 7, 0x20, 1], 4),        // from one byte too early
            (&[0, 7, 0xe0, 255, 0], 100), // beyond the end
            (&[1, 7, 7], 1),              // literals beyond the end
            (&[5, 7], 6),                 // literals cut off
            (&[0, 7, 0x20], 4),           // a copy cut off
            (&[0, 7], 2),                 // too few bytes
        ] {
            assert!(decompress(src, &mut vec![0; len]).is_err(), "{src:?}");
        }
        let mut out = [0; 4];
        decompress(&[0, 7, 0x20, 0], &mut out).unwrap();
        assert_eq!(out, [7; 4]);
    }
}
