//! Elements as numbers: decodes any dtype to `f64`, for comparing tensors, never for storing them.
//!
//! Works on a bounded piece at a time; it never holds a decoded tensor.

use crate::dtype::{ByteOrder, Dtype, Kind};

/// How many bytes of a tensor are decoded at a time. A multiple of every element's size and of
/// three (6-bit elements come four to three bytes).
pub(crate) const PIECE: usize = 48 * 256;

/// Calls `each` with every element's value in order, decoding a few kilobytes at a time; a complex element gives two. A
/// trailing part of an element is ignored.
///
/// ```
/// use corallite_weights::{Dtype, values};
/// let mut sum = 0.0;
/// values::for_each(Dtype::BF16, &[0x80, 0x3f, 0x00, 0x40], |value| sum += value);
/// assert_eq!(sum, 1.0 + 2.0);
/// ```
pub fn for_each(dtype: Dtype, bytes: &[u8], mut each: impl FnMut(f64)) {
    let mut out = Vec::new();
    for piece in bytes.chunks(PIECE) {
        decode(dtype, piece, &mut out);
        out.iter().copied().for_each(&mut each);
    }
}

/// As [`for_each`], over two tensors of one dtype at once; where one is longer, its rest is ignored.
///
/// ```
/// use corallite_weights::{Dtype, values};
/// let mut largest: f64 = 0.0;
/// values::for_each_pair(Dtype::I8, &[1, 2, 3], &[1, 0, 4], |a, b| largest = largest.max((b - a).abs()));
/// assert_eq!(largest, 2.0);
/// ```
pub fn for_each_pair(dtype: Dtype, a: &[u8], b: &[u8], mut each: impl FnMut(f64, f64)) {
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for (a, b) in a.chunks(PIECE).zip(b.chunks(PIECE)) {
        decode(dtype, a, &mut of_a);
        decode(dtype, b, &mut of_b);
        of_a.iter().zip(&of_b).for_each(|(&a, &b)| each(a, b));
    }
}

/// Replaces `out` with the values of `bytes`; a complex element gives two. A trailing part of an
/// element is ignored.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<f64>) {
    out.clear();
    let big = dtype.byte_order() == ByteOrder::Big;
    match dtype.kind() {
        Kind::Bool => out.extend(bytes.iter().map(|&b| f64::from(u8::from(b != 0)))),
        Kind::U8 => out.extend(bytes.iter().map(|&b| f64::from(b))),
        Kind::I8 => out.extend(bytes.iter().map(|&b| f64::from(b as i8))),
        Kind::I16 => numbers(bytes, big, out, |b: [u8; 2]| f64::from(i16::from_le_bytes(b))),
        Kind::U16 => numbers(bytes, big, out, |b: [u8; 2]| f64::from(u16::from_le_bytes(b))),
        Kind::F16 => numbers(bytes, big, out, |b: [u8; 2]| half::f16::from_le_bytes(b).to_f64()),
        Kind::Bf16 => numbers(bytes, big, out, |b: [u8; 2]| half::bf16::from_le_bytes(b).to_f64()),
        Kind::I32 => numbers(bytes, big, out, |b: [u8; 4]| f64::from(i32::from_le_bytes(b))),
        Kind::U32 => numbers(bytes, big, out, |b: [u8; 4]| f64::from(u32::from_le_bytes(b))),
        Kind::F32 | Kind::C64 => numbers(bytes, big, out, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
        Kind::I64 => numbers(bytes, big, out, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
        Kind::U64 => numbers(bytes, big, out, |b: [u8; 8]| u64::from_le_bytes(b) as f64),
        Kind::F64 | Kind::C128 => numbers(bytes, big, out, f64::from_le_bytes),
        Kind::F8E5M2 => out.extend(bytes.iter().map(|&b| MiniFloat::E5M2.value(b))),
        Kind::F8E4M3 => out.extend(bytes.iter().map(|&b| MiniFloat::E4M3FN.value(b))),
        Kind::F8E4M3Fnuz => out.extend(bytes.iter().map(|&b| MiniFloat::E4M3FNUZ.value(b))),
        Kind::F8E5M2Fnuz => out.extend(bytes.iter().map(|&b| MiniFloat::E5M2FNUZ.value(b))),
        Kind::F8E8M0 => out.extend(bytes.iter().map(|&b| match b {
            255 => f64::NAN,
            b => f64::powi(2.0, i32::from(b) - 127),
        })),
        Kind::F4 => {
            for &b in bytes {
                out.push(MiniFloat::E2M1FN.value(b & 15));
                out.push(MiniFloat::E2M1FN.value(b >> 4));
            }
        }
        Kind::F6E2M3 => six_bit(bytes, MiniFloat::E2M3FN, out),
        Kind::F6E3M2 => six_bit(bytes, MiniFloat::E3M2FN, out),
    }
}

fn numbers<const N: usize>(bytes: &[u8], big: bool, out: &mut Vec<f64>, value: impl Fn([u8; N]) -> f64) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|&(mut number)| {
        if big {
            number.reverse();
        }
        value(number)
    }));
}

fn six_bit(bytes: &[u8], format: MiniFloat, out: &mut Vec<f64>) {
    for &[a, b, c] in bytes.as_chunks::<3>().0 {
        let bits = u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16;
        out.extend((0..4).map(|i| format.value((bits >> (6 * i) & 63) as u8)));
    }
}

/// What the all-ones and negative-zero patterns of a small float mean.
#[derive(Clone, Copy, PartialEq)]
enum Special {
    /// As IEEE 754: all-ones exponent is infinity or NaN.
    Ieee,
    /// All ones in exponent and mantissa is NaN; no infinity.
    AllOnesNan,
    /// Negative zero is NaN; no infinity.
    NegativeZeroNan,
    /// Every pattern is a number.
    None,
}

/// A float of at most 8 bits: sign, exponent, mantissa.
#[derive(Clone, Copy)]
struct MiniFloat {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

impl MiniFloat {
    const E5M2: Self = Self { exponent_bits: 5, mantissa_bits: 2, bias: 15, special: Special::Ieee };
    const E4M3FN: Self = Self { exponent_bits: 4, mantissa_bits: 3, bias: 7, special: Special::AllOnesNan };
    const E4M3FNUZ: Self = Self { exponent_bits: 4, mantissa_bits: 3, bias: 8, special: Special::NegativeZeroNan };
    const E5M2FNUZ: Self = Self { exponent_bits: 5, mantissa_bits: 2, bias: 16, special: Special::NegativeZeroNan };
    const E2M1FN: Self = Self { exponent_bits: 2, mantissa_bits: 1, bias: 1, special: Special::None };
    const E2M3FN: Self = Self { exponent_bits: 2, mantissa_bits: 3, bias: 1, special: Special::None };
    const E3M2FN: Self = Self { exponent_bits: 3, mantissa_bits: 2, bias: 3, special: Special::None };

    fn value(self, bits: u8) -> f64 {
        let sign_bit = 1u8 << (self.exponent_bits + self.mantissa_bits);
        let ones = (1u8 << self.exponent_bits) - 1;
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        let exponent = bits >> self.mantissa_bits & ones;
        let negative = bits & sign_bit != 0;
        let all_ones = bits & (sign_bit - 1) == sign_bit - 1;
        let magnitude = match self.special {
            Special::Ieee if exponent == ones && mantissa == 0 => f64::INFINITY,
            Special::Ieee if exponent == ones => return f64::NAN,
            Special::AllOnesNan if all_ones => return f64::NAN,
            Special::NegativeZeroNan if bits == sign_bit => return f64::NAN,
            _ => {
                let fraction = f64::from(mantissa) / f64::from(1u8 << self.mantissa_bits);
                match exponent {
                    0 => fraction * f64::powi(2.0, 1 - self.bias),
                    e => (1.0 + fraction) * f64::powi(2.0, i32::from(e) - self.bias),
                }
            }
        };
        if negative { -magnitude } else { magnitude }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
        let mut out = vec![];
        decode(dtype, bytes, &mut out);
        out
    }

    /// Largest finite values, smallest subnormals and NaNs as the OCP and FNUZ papers list them.
    #[test]
    fn small_floats_decode_to_the_published_values() {
        assert_eq!(one(Dtype::F8_E4M3, &[0x7e, 0x01, 0xb8]), [448.0, f64::powi(2.0, -9), -1.0]);
        assert!(one(Dtype::F8_E4M3, &[0xff])[0].is_nan());
        assert_eq!(one(Dtype::F8_E5M2, &[0x7b, 0x7c, 0x01]), [57344.0, f64::INFINITY, f64::powi(2.0, -16)]);
        assert!(one(Dtype::F8_E5M2, &[0x7d])[0].is_nan());
        assert_eq!(one(Dtype::F8_E4M3FNUZ, &[0x7f, 0x01]), [240.0, f64::powi(2.0, -10)]);
        assert!(one(Dtype::F8_E4M3FNUZ, &[0x80])[0].is_nan());
        assert_eq!(one(Dtype::F8_E5M2FNUZ, &[0x7f, 0x01]), [57344.0, f64::powi(2.0, -17)]);
        assert_eq!(one(Dtype::F8_E8M0, &[127, 130]), [1.0, 8.0]);
        assert_eq!(one(Dtype::F4, &[0x71, 0x9f]), [0.5, 6.0, -6.0, -0.5]);
        assert_eq!(one(Dtype::F6_E2M3, &[0b0001_1111, 0, 0])[0], 7.5);
        assert_eq!(one(Dtype::F6_E3M2, &[0b0001_1111, 0, 0])[0], 28.0);
        assert_eq!(one(Dtype::F6_E3M2, &[0, 0, 0b1111_1100])[3], -28.0);
    }

    #[test]
    fn numbers_decode_in_either_byte_order() {
        let big = |d: Dtype| d.with_byte_order(ByteOrder::Big);
        assert_eq!(one(big(Dtype::I16), &[0xff, 0xfe]), [-2.0]);
        assert_eq!(one(Dtype::I16, &[0xfe, 0xff]), [-2.0]);
        assert_eq!(one(big(Dtype::C64), &[0x3f, 0x80, 0, 0, 0x40, 0, 0, 0]), [1.0, 2.0]);
        assert_eq!(one(Dtype::BF16, &[0x80, 0x3f]), [1.0]);
        assert_eq!(one(Dtype::F16, &[0x00, 0xc0]), [-2.0]);
        assert_eq!(one(Dtype::BOOL, &[0, 1]), [0.0, 1.0]);
        assert_eq!(one(Dtype::U64, &[0, 0, 0, 0, 0, 0, 0, 0x80]), [f64::powi(2.0, 63)]);
    }

    #[test]
    fn a_piece_holds_whole_elements_of_every_dtype() {
        for dtype in Dtype::ALL {
            assert_eq!(PIECE * 8 % dtype.bit_size() as usize, 0, "{dtype}");
        }
        assert_eq!(PIECE % 3, 0);
    }
}
