//! Where a key belongs: a hash under the store's own seed.

use crate::E;

/// The secret of a store's hash, so that keys chosen against one store do not collide in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) [u64; 2]);

/// A key's hash. From the top: the bits that choose the partition, then those that choose the bucket; from the bottom:
/// seven for the tag, and the 32 above them for the home group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hash(pub(crate) u64);

/// Tag groups of a bucket, of eight cells each.
pub(crate) const GROUPS: usize = 15;

impl Seed {
    /// Two rounds of folded multiplication, as in wyhash: every output bit depends on every bit of key and seed.
    #[inline]
    pub(crate) fn hash(self, key: E) -> Hash {
        const ROUND: u64 = 0x9e37_79b9_7f4a_7c15;
        let first = fold(key.high() ^ self.0[0], key.low() ^ self.0[1] ^ ROUND);
        Hash(fold(first ^ self.0[1], key.low().rotate_left(32) ^ key.high() ^ ROUND) ^ first.rotate_left(23))
    }
}

#[inline]
const fn fold(left: u64, right: u64) -> u64 {
    let product = left as u128 * right as u128;
    product as u64 ^ (product >> 64) as u64
}

impl Hash {
    /// The top `bits` bits.
    #[inline]
    pub(crate) const fn prefix(self, bits: u32) -> u64 {
        if bits == 0 { 0 } else { self.0 >> (64 - bits) }
    }

    /// The `bits` bits below the top `skip` ones.
    #[inline]
    pub(crate) const fn index(self, skip: u32, bits: u32) -> usize {
        if bits == 0 { 0 } else { ((self.0 << skip) >> (64 - bits)) as usize }
    }

    /// The fingerprint kept beside the cells, 1 to 127.
    #[inline]
    pub(crate) const fn tag(self) -> u8 {
        let low = self.0 as u8 & 0x7f;
        if low == 0 { 1 } else { low }
    }

    /// The group where a search begins.
    #[inline]
    pub(crate) const fn group(self) -> usize {
        ((((self.0 >> 7) & 0xffff_ffff) * GROUPS as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_key_moves_about_half_the_bits_of_its_hash() {
        let seed = Seed([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
        for bit in 0..128 {
            let moved: u32 = (0..256_u128)
                .map(|number| {
                    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                    (seed.hash(E::new(key)).0 ^ seed.hash(E::new(key ^ 1 << bit)).0).count_ones()
                })
                .sum();
            assert!((28.0..36.0).contains(&(f64::from(moved) / 256.0)), "bit {bit}: {moved}");
        }
    }
}
