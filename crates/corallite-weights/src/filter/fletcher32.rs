//! HDF5's Fletcher-32 checksum, which follows the data of a chunk.

use crate::error::{Error, Result};

/// The words that can be added before the sums must be folded to stay within 32 bits.
const WORDS_PER_FOLD: usize = 360;

/// The checksum of `data`: two sums over big-endian 16-bit words, an odd last byte counting as the upper half of one.
pub fn fletcher32(data: &[u8]) -> u32 {
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (words, odd) = data.as_chunks::<2>();
    let (mut sum1, mut sum2) = (0u32, 0u32);
    for group in words.chunks(WORDS_PER_FOLD) {
        for &word in group {
            sum1 += u32::from(u16::from_be_bytes(word));
            sum2 += sum1;
        }
        (sum1, sum2) = (fold(sum1), fold(sum2));
    }
    if let [last] = odd {
        sum1 += u32::from(*last) << 8;
        sum2 += sum1;
        (sum1, sum2) = (fold(sum1), fold(sum2));
    }
    fold(sum2) << 16 | fold(sum1)
}

/// The data of a chunk without its checksum, which has to be right.
pub(super) fn verify(chunk: &[u8]) -> Result<&[u8]> {
    let Some((data, &stored)) = chunk.split_last_chunk::<4>() else {
        return Err(Error::filter("fletcher32", format!("{} bytes have no room for a checksum", chunk.len())));
    };
    let (stored, computed) = (u32::from_le_bytes(stored), fletcher32(data));
    // HDF5 before 1.6.3 swapped the bytes of each half; its successors accept that, so do we.
    let swapped = (computed & 0x00ff_00ff) << 8 | (computed & 0xff00_ff00) >> 8;
    if stored == computed || stored == swapped {
        return Ok(data);
    }
    Err(Error::filter("fletcher32", format!("the checksum is {stored:08x} and the data gives {computed:08x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks as h5py 3 wrote them with `fletcher32=True` (`read_direct_chunk`).
    #[test]
    fn checksums_agree_with_hdf5() {
        let words: Vec<u8> = (0..10u16).flat_map(u16::to_le_bytes).collect();
        assert_eq!(fletcher32(&words).to_le_bytes(), [0x00, 0x2d, 0x00, 0xa5]);
        assert_eq!(fletcher32(b"abc\xff\xfe").to_le_bytes(), [0x62, 0xc3, 0x26, 0xea]);
    }

    #[test]
    fn a_changed_byte_is_noticed_anywhere() {
        let mut chunk: Vec<u8> = (0..2000u32).map(|i| (i * 7 + i / 256) as u8).collect();
        chunk.extend(fletcher32(&chunk).to_le_bytes());
        assert_eq!(verify(&chunk).unwrap().len(), 2000);
        for at in 0..chunk.len() {
            let mut broken = chunk.clone();
            broken[at] ^= 0x10;
            assert!(verify(&broken).is_err(), "byte {at}");
        }
        assert!(verify(&[1, 2, 3]).is_err());
    }

    #[test]
    fn the_longest_run_of_the_largest_words_does_not_overflow() {
        assert_eq!(fletcher32(&vec![0xff; 100_001]) >> 16 & 0xffff, fletcher32(&vec![0xff; 100_001]) >> 16);
    }
}
