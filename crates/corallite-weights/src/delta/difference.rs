//! Lossless differences: what is left of a run of elements when the elements of another are known.
//!
//! Elements are taken as integers of their bits. Their wrapping difference is folded (*zigzag*: 0, -1, 1, -2 … become 0, 1, 2,
//! 3 …), so that small differences of either sign have zeros in the upper bytes; the filters do the rest. Subtracting floats
//! would lose bits, and XOR turns a small step over a power of two into many ones.
//!
//! With [`Order::Exponent`] the differences are sorted by the exponent of the base's element, equal ones staying in their order.
//! Differences of one exponent are of one size, so neighbours become alike. Nothing has to be stored for it: who decodes
//! knows the base.

use super::vector::{self, Sorting};
use crate::dtype::{ByteOrder, Dtype, Kind};
use crate::error::{Error, Result};

/// In which order differences are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// That of the elements.
    Natural,
    /// By the exponent of the base's element.
    Exponent,
}

/// How the elements of one dtype become differences and come back.
///
/// ```
/// use corallite_weights::Dtype;
/// use corallite_weights::delta::{Difference, Order};
/// let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
/// let (weight, base) = (bytes(&[1.0, 2.5, -3.0]), bytes(&[1.0, 2.4999998, -3.0000002]));
/// let difference = Difference::new(Dtype::F32, Order::Natural).expect("float32 has an order of bits");
/// let mut encoded = vec![0; 12];
/// difference.encode(&weight, &base, &mut encoded)?;
/// assert_eq!(encoded, [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
/// let mut back = vec![0; 12];
/// difference.decode(&encoded, &base, &mut back)?;
/// assert_eq!(back, weight);
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Difference {
    width: usize,
    is_big: bool,
    /// Where a float's exponent lies in its bits, at most 8 of them, when elements are ordered by it.
    exponent: Option<(u32, u64)>,
}

/// Values that an exponent can take, at most.
pub(super) const BUCKETS: usize = 256;

impl Difference {
    /// For this dtype. `None` for an order that it does not have: only floats of 16 bits and more have exponents to sort by.
    pub fn new(dtype: Dtype, order: Order) -> Option<Self> {
        let exponent = match (order, dtype.kind()) {
            (Order::Natural, _) => None,
            (_, Kind::F16) => Some((10, 0x1f)),
            (_, Kind::Bf16) => Some((7, 0xff)),
            (_, Kind::F32 | Kind::C64) => Some((23, 0xff)),
            // The upper eight of eleven bits.
            (_, Kind::F64 | Kind::C128) => Some((55, 0xff)),
            _ => return None,
        };
        Some(Self { width: dtype.swap_size(), is_big: dtype.byte_order() == ByteOrder::Big, exponent })
    }

    /// Bytes of one difference: 1, 2, 4 or 8; those of an element, or of one part of a complex one.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether differences are in another order than the elements.
    pub fn is_sorted(&self) -> bool {
        self.exponent.is_some()
    }

    /// Writes the differences of `weight` to `base` to `out`, as little-endian integers. All have one length.
    ///
    /// # Errors
    ///
    /// [`Error::Filter`] when the lengths differ or hold no whole number of elements.
    pub fn encode(&self, weight: &[u8], base: &[u8], out: &mut [u8]) -> Result<()> {
        self.check(weight.len(), base.len(), out.len())?;
        match self.width {
            2 => self.encode_wide::<u16, 2>(weight, base, out),
            4 => self.encode_wide::<u32, 4>(weight, base, out),
            8 => self.encode_wide::<u64, 8>(weight, base, out),
            _ => self.encode_wide::<u8, 1>(weight, base, out),
        }
        Ok(())
    }

    /// Writes to `out` the elements whose differences to `base` are `encoded`. All have one length.
    ///
    /// # Errors
    ///
    /// As [`Difference::encode`].
    pub fn decode(&self, encoded: &[u8], base: &[u8], out: &mut [u8]) -> Result<()> {
        self.check(encoded.len(), base.len(), out.len())?;
        match self.width {
            2 => self.decode_wide::<u16, 2>(encoded, base, out),
            4 => self.decode_wide::<u32, 4>(encoded, base, out),
            8 => self.decode_wide::<u64, 8>(encoded, base, out),
            _ => self.decode_wide::<u8, 1>(encoded, base, out),
        }
        Ok(())
    }

    fn check(&self, first: usize, base: usize, out: usize) -> Result<()> {
        if first == base && base == out && first.is_multiple_of(self.width) {
            return Ok(());
        }
        let problem = format!("{first} bytes, a base of {base}, and room for {out}, in elements of {}", self.width);
        Err(Error::Filter { filter: "difference", problem })
    }

    fn encode_wide<T: Bits<N>, const N: usize>(&self, weight: &[u8], base: &[u8], out: &mut [u8]) {
        let (weight, base, out) = (weight.as_chunks::<N>().0, base.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
        let pairs =
            weight.iter().zip(base).map(|(weight, base)| (T::read(*weight, self.is_big), T::read(*base, self.is_big)));
        let Some(field) = self.exponent else {
            for (out, (weight, base)) in out.iter_mut().zip(pairs) {
                *out = weight.minus(base).to_bytes();
            }
            return;
        };
        if !self.is_big && T::encode_sorted(weight, base, out, field) {
            return;
        }
        let (is_big, mut next) = (self.is_big, starts::<T, N>(base, self.is_big, field));
        let mut put = |next: &mut [usize; BUCKETS], weight: &[u8; N], base: &[u8; N]| {
            let (weight, base) = (T::read(*weight, is_big), T::read(*base, is_big));
            let place = &mut next[base.field(field)];
            if let Some(out) = out.get_mut(*place) {
                *out = weight.minus(base).to_bytes();
            }
            *place += 1;
        };
        let ((weights, weights_rest), (bases, bases_rest)) = (lanes(weight), lanes(base));
        for i in 0..base.len() / LANES {
            for (next, (weights, bases)) in next.iter_mut().zip(weights.iter().zip(&bases)) {
                put(next, &weights[i], &bases[i]);
            }
        }
        weights_rest.iter().zip(bases_rest).for_each(|(weight, base)| put(&mut next[LANES - 1], weight, base));
    }

    fn decode_wide<T: Bits<N>, const N: usize>(&self, encoded: &[u8], base: &[u8], out: &mut [u8]) {
        let (encoded, base, out) = (encoded.as_chunks::<N>().0, base.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
        let Some(field) = self.exponent else {
            for ((out, encoded), base) in out.iter_mut().zip(encoded).zip(base) {
                *out = T::read(*base, self.is_big).plus(T::read(*encoded, false)).write(self.is_big);
            }
            return;
        };
        if !self.is_big && T::decode_sorted(encoded, base, out, field) {
            return;
        }
        let mut next = starts::<T, N>(base, self.is_big, field);
        for_each_lane(base.len(), |lane, i| {
            let base = T::read(base[i], self.is_big);
            let place = &mut next[lane][base.field(field)];
            if let Some(encoded) = encoded.get(*place) {
                out[i] = base.plus(T::read(*encoded, false)).write(self.is_big);
            }
            *place += 1;
        });
    }
}

/// A run of elements is sorted in so many parts at once: neighbours often have one exponent, and each would wait for the place
/// that the one before it leaves.
const LANES: usize = 4;

/// The parts, and what is left when all have one length, which belongs to the last of them.
#[inline(always)]
fn lanes<T>(all: &[T]) -> ([&[T]; LANES], &[T]) {
    let part = all.len() / LANES;
    (std::array::from_fn(|lane| &all[lane * part..][..part]), &all[LANES * part..])
}

/// Calls `each` with every index below `len` and the part it is in, those of a part in order.
#[inline(always)]
fn for_each_lane(len: usize, mut each: impl FnMut(usize, usize)) {
    let part = len / LANES;
    for i in 0..part {
        for lane in 0..LANES {
            each(lane, lane * part + i);
        }
    }
    (LANES * part..len).for_each(|i| each(LANES - 1, i));
}

/// Where the elements of each exponent begin, for each part.
fn starts<T: Bits<N>, const N: usize>(base: &[[u8; N]], is_big: bool, field: (u32, u64)) -> [[usize; BUCKETS]; LANES] {
    let mut starts = [[0; BUCKETS]; LANES];
    for_each_lane(base.len(), |lane, i| starts[lane][T::read(base[i], is_big).field(field)] += 1);
    let mut sum = 0;
    for bucket in 0..BUCKETS {
        for lane in &mut starts {
            sum += std::mem::replace(&mut lane[bucket], sum);
        }
    }
    starts
}

/// The bits of an element as an integer.
pub(super) trait Bits<const N: usize>: Copy {
    fn read(bytes: [u8; N], is_big: bool) -> Self;
    fn write(self, is_big: bool) -> [u8; N];
    fn to_bytes(self) -> [u8; N];
    /// The folded difference to `base`.
    fn minus(self, base: Self) -> Self;
    /// What the folded difference was taken of, with `self` as the base.
    fn plus(self, folded: Self) -> Self;
    fn field(self, place: (u32, u64)) -> usize;

    /// Does what [`Difference::encode`] does with elements in little-endian order that are sorted, if this processor can do it
    /// faster than the loop there.
    fn encode_sorted(weight: &[[u8; N]], base: &[[u8; N]], out: &mut [[u8; N]], field: (u32, u64)) -> bool {
        let _ = (weight, base, out, field);
        false
    }

    /// The same for [`Difference::decode`].
    fn decode_sorted(encoded: &[[u8; N]], base: &[[u8; N]], out: &mut [[u8; N]], field: (u32, u64)) -> bool {
        let _ = (encoded, base, out, field);
        false
    }
}

/// Whether the elements are few enough for the counters of [`super::vector`].
fn countable<T>(elements: &[T]) -> bool {
    u32::try_from(elements.len()).is_ok()
}

macro_rules! bits {
    ($($unsigned:ty, $signed:ty, $width:literal $(, $count:ident, $encode:ident, $decode:ident)?;)*) => {$(
        impl Bits<$width> for $unsigned {
            #[inline(always)]
            fn read(bytes: [u8; $width], is_big: bool) -> Self {
                if is_big { Self::from_be_bytes(bytes) } else { Self::from_le_bytes(bytes) }
            }

            #[inline(always)]
            fn write(self, is_big: bool) -> [u8; $width] {
                if is_big { self.to_be_bytes() } else { self.to_le_bytes() }
            }

            #[inline(always)]
            fn to_bytes(self) -> [u8; $width] {
                self.to_le_bytes()
            }

            #[inline(always)]
            fn minus(self, base: Self) -> Self {
                let difference = self.wrapping_sub(base) as $signed;
                ((difference << 1) ^ (difference >> (<$unsigned>::BITS - 1))) as Self
            }

            #[inline(always)]
            fn plus(self, folded: Self) -> Self {
                self.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg())
            }

            #[inline(always)]
            fn field(self, (shift, mask): (u32, u64)) -> usize {
                (u64::from(self) >> shift & mask) as usize
            }

            $(
                fn encode_sorted(
                    weight: &[[u8; $width]],
                    base: &[[u8; $width]],
                    out: &mut [[u8; $width]],
                    field: (u32, u64),
                ) -> bool {
                    let counts = countable(base).then(|| vector::$count(base, field)).flatten();
                    counts.is_some_and(|counts| vector::$encode(weight, base, out, Sorting::new(field, &counts)))
                }

                fn decode_sorted(
                    encoded: &[[u8; $width]],
                    base: &[[u8; $width]],
                    out: &mut [[u8; $width]],
                    field: (u32, u64),
                ) -> bool {
                    let counts = countable(base).then(|| vector::$count(base, field)).flatten();
                    counts.is_some_and(|counts| vector::$decode(encoded, base, out, Sorting::new(field, &counts)))
                }
            )?
        }
    )*};
}

bits! {
    u8, i8, 1;
    u16, i16, 2, count_16, encode_16, decode_16;
    u32, i32, 4, count_32, encode_32, decode_32;
    u64, i64, 8;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dtypes() -> Vec<Dtype> {
        Dtype::ALL.into_iter().flat_map(|dtype| [dtype, dtype.with_byte_order(ByteOrder::Big)]).collect()
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(
            dtype in prop::sample::select(dtypes()),
            order in prop::sample::select(vec![Order::Natural, Order::Exponent]),
            pairs in prop::collection::vec((any::<[u8; 16]>(), any::<[u8; 16]>()), 0..300),
        ) {
            let Some(difference) = Difference::new(dtype, order) else { return Ok(()) };
            let weight: Vec<u8> = pairs.iter().flat_map(|(weight, _)| *weight).collect();
            let base: Vec<u8> = pairs.iter().flat_map(|(_, base)| *base).collect();
            let (mut encoded, mut back) = (vec![0; weight.len()], vec![0; weight.len()]);
            difference.encode(&weight, &base, &mut encoded).unwrap();
            difference.decode(&encoded, &base, &mut back).unwrap();
            prop_assert_eq!(back, weight);
        }
    }

    /// What [`Difference`] promises, said plainly.
    fn plainly<const N: usize>(difference: &Difference, weight: &[u8], base: &[u8]) -> Vec<u8> {
        let word = |bytes: &[u8; N]| {
            let mut word = [0; 8];
            word[..N].copy_from_slice(bytes);
            if difference.is_big {
                word[..N].reverse();
            }
            u64::from_le_bytes(word)
        };
        let pairs = weight.as_chunks::<N>().0.iter().zip(base.as_chunks::<N>().0);
        let mut pairs: Vec<(u64, u64)> = pairs.map(|(weight, base)| (word(weight), word(base))).collect();
        if let Some((shift, mask)) = difference.exponent {
            pairs.sort_by_key(|(_, base)| base >> shift & mask);
        }
        let unused = 64 - 8 * N as u32;
        let folded = pairs.iter().map(|(weight, base)| {
            let step = ((weight.wrapping_sub(*base) << unused) as i64) >> unused;
            (step << 1 ^ step >> 63) as u64
        });
        folded.flat_map(|folded| folded.to_le_bytes()[..N].to_vec()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_bytes_are_those_of_the_plain_form_whatever_the_processor(
            dtype in prop::sample::select(dtypes()), len in 0..5000_usize, exponents in 1..300_u64, seed in any::<u64>(),
        ) {
            let Some(difference) = Difference::new(dtype, Order::Exponent) else { return Ok(()) };
            let (width, (shift, mask)) = (difference.width(), difference.exponent.unwrap());
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let bytes = |word: u64| {
                let mut word = word.to_le_bytes();
                if difference.is_big {
                    word[..width].reverse();
                }
                word[..width].to_vec()
            };
            let (mut weight, mut base) = (Vec::new(), Vec::new());
            for _ in 0..len {
                // As in weights, each exponent is about half as frequent as the next; or all are alike.
                let exponent = if exponents < 30 { u64::from(next().trailing_zeros()) + exponents } else { next() % exponents };
                let word = next() & !(mask << shift) | (exponent & mask) << shift;
                base.extend(bytes(word));
                weight.extend(bytes(word.wrapping_add(next() % 64)));
            }
            let mut encoded = vec![0; weight.len()];
            difference.encode(&weight, &base, &mut encoded).unwrap();
            let plain = match width {
                2 => plainly::<2>(&difference, &weight, &base),
                4 => plainly::<4>(&difference, &weight, &base),
                _ => plainly::<8>(&difference, &weight, &base),
            };
            prop_assert!(encoded == plain);
            let mut back = vec![0; weight.len()];
            difference.decode(&encoded, &base, &mut back).unwrap();
            prop_assert!(back == weight);
        }
    }

    #[test]
    fn small_steps_have_small_differences_in_either_byte_order() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let dtype = Dtype::F32.with_byte_order(order);
            let bytes = |bits: u32| if order == ByteOrder::Big { bits.to_be_bytes() } else { bits.to_le_bytes() };
            let base = 0x3f80_0000_u32;
            for (step, folded) in [(0_i32, 0_u8), (-1, 1), (1, 2), (-2, 3), (2, 4)] {
                let mut out = [0; 4];
                let weight = bytes(base.wrapping_add_signed(step));
                Difference::new(dtype, Order::Natural).unwrap().encode(&weight, &bytes(base), &mut out).unwrap();
                assert_eq!(out, [folded, 0, 0, 0], "{step}");
            }
        }
    }

    #[test]
    fn the_order_is_that_of_the_bases_exponents_and_stable() {
        let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
        let base = bytes(&[4.0, 1.0, -5.0, 0.5, 1.5]);
        let weight: Vec<u8> = base
            .as_chunks::<4>()
            .0
            .iter()
            .zip(1..)
            .flat_map(|(element, step)| (u32::from_le_bytes(*element) + step).to_le_bytes())
            .collect();
        let mut out = vec![0; 20];
        Difference::new(Dtype::F32, Order::Exponent).unwrap().encode(&weight, &base, &mut out).unwrap();
        let differences: Vec<u8> = out.as_chunks::<4>().0.iter().map(|bytes| bytes[0] / 2).collect();
        assert_eq!(differences, [4, 2, 5, 1, 3]);
    }

    #[test]
    fn lengths_that_do_not_belong_together_are_refused() {
        let difference = Difference::new(Dtype::F32, Order::Natural).unwrap();
        for (weight, base, out) in [(4, 8, 4), (4, 4, 8), (6, 6, 6)] {
            assert!(difference.encode(&vec![0; weight], &vec![0; base], &mut vec![0; out]).is_err());
            assert!(difference.decode(&vec![0; weight], &vec![0; base], &mut vec![0; out]).is_err());
        }
        assert!(Difference::new(Dtype::I32, Order::Exponent).is_none());
    }
}
