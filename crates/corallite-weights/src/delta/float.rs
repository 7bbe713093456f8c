//! Differences and sums of floats. Sums are exactly those of numpy, because coral decodes with them.

use super::fields::{Checked, wrong};
use crate::dtype::{ByteOrder, Dtype, Kind};
use crate::error::{Error, Result};
use crate::values;

/// Refuses dtypes of which no float differences are taken.
///
/// Integers and small floats would need sums that leave their range, and 64-bit ones bits that `float32` lacks.
pub(super) fn check(dtype: Dtype, delta_type: &str) -> Result<()> {
    if is_float(dtype) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "the delta type `{delta_type}` for {dtype}; it takes float16, bfloat16, float32 and float64, and `zigzag` takes every dtype"
    )))
}

/// Whether float differences are taken of elements of this dtype.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype.kind(), Kind::F16 | Kind::Bf16 | Kind::F32 | Kind::F64)
}

/// Calls `each` with the values of the weight and of the reference, a few thousand at a time, always a multiple of eight but
/// for the last.
pub(super) fn pairs(
    dtype: Dtype,
    weight: &[u8],
    reference: &[u8],
    mut each: impl FnMut(&[f64], &[f64]) -> Result<()>,
) -> Result<()> {
    let (mut values, mut base) = (Vec::new(), Vec::new());
    for (piece, base_piece) in weight.chunks(values::PIECE).zip(reference.chunks(values::PIECE)) {
        values::decode(dtype, piece, &mut values);
        values::decode(dtype, base_piece, &mut base);
        each(&values, &base)?;
    }
    Ok(())
}

/// As [`pairs`], with the differences, all of which have to be numbers: a lossy type would turn a NaN or an infinity into
/// something else.
pub(super) fn finite_differences(
    dtype: Dtype,
    weight: &[u8],
    reference: &[u8],
    mut each: impl FnMut(&[f64]) -> Result<()>,
) -> Result<()> {
    let mut differences = Vec::new();
    pairs(dtype, weight, reference, |values, base| {
        differences.clear();
        differences.extend(values.iter().zip(base).map(|(value, base)| value - base));
        if !differences.iter().all(|difference| difference.abs() <= f64::from(f32::MAX)) {
            return Err(Error::unsupported(
                "a lossy delta where the weight or the reference holds a NaN or an infinity, or where they differ by \
                 more than float32 holds; use the delta type `zigzag`",
            ));
        }
        each(&differences)
    })
}

/// In what a difference is added.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Precision {
    /// In what numpy promotes the dtype and `float32` to.
    Promoted,
    /// In `float32`, whatever the dtype.
    Single,
}

/// The sum of a reference and `float32` differences, in the reference's dtype.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    dtype: Dtype,
    precision: Precision,
}

impl Sum {
    /// # Errors
    /// `original_dtype`, when numpy has no such sum, or coral no such deltas.
    pub(super) fn new(dtype: Dtype, precision: Precision) -> Checked<Self> {
        let has_sum = match dtype.kind() {
            Kind::F16 | Kind::Bf16 | Kind::F32 | Kind::F64 => true,
            Kind::I8 | Kind::U8 | Kind::I16 | Kind::U16 | Kind::I32 | Kind::U32 | Kind::I64 | Kind::U64 => true,
            Kind::C64 | Kind::C128 => precision == Precision::Promoted,
            _ => false,
        };
        if has_sum {
            return Ok(Self { dtype, precision });
        }
        wrong("original_dtype", format!("is {dtype}, to which float differences are not added"))
    }

    /// Appends the sums, one for each difference, which are as many as `reference` has elements.
    ///
    /// # Errors
    /// `data`, when a sum is outside the range of an integer dtype: numpy's result is then whatever the processor makes of it.
    pub(super) fn add(&self, reference: &[u8], differences: &[f32], out: &mut Vec<u8>) -> Checked<()> {
        let kind = self.dtype.kind();
        if matches!(kind, Kind::C64 | Kind::C128) {
            // A real difference is added to the real part, and a zero to the imaginary one.
            let parts: Vec<f32> = differences.iter().flat_map(|&difference| [difference, 0.0]).collect();
            let part = if kind == Kind::C64 { Dtype::F32 } else { Dtype::F64 };
            let parts_sum = Self { dtype: part.with_byte_order(self.dtype.byte_order()), ..*self };
            return parts_sum.add(reference, &parts, out);
        }
        macro_rules! floats {
            ($width:literal, $sum:expr) => {
                self.each::<$width>(reference, differences, out, |bytes, difference| Some($sum(bytes, difference)))
            };
        }
        // Integers of up to 16 bits are added in float32, others in float64, and the sum cut to a whole number. It has to
        // be in the range of `$cut`. Small ones are then cut to their low bits, as every common processor does and as
        // coral needs, whose differences of them wrap around; for wide ones processors disagree.
        macro_rules! integers {
            ($integer:ty, $wide:ty, $cut:ty) => {
                self.each(reference, differences, out, |bytes, difference| {
                    let value = <$integer>::from_le_bytes(bytes);
                    let sum = match self.precision {
                        Precision::Promoted => (value as $wide + <$wide>::from(difference)) as f64,
                        Precision::Single => f64::from(value as f32 + difference),
                    };
                    let whole = sum.trunc();
                    // The end of the range is a power of two and so exact, unlike its largest number.
                    let end = (<$cut>::MAX / 2 + 1) as f64 * 2.0;
                    (whole >= <$cut>::MIN as f64 && whole < end).then(|| (whole as $cut as $integer).to_le_bytes())
                })
            };
        }
        let done = match kind {
            Kind::F16 => floats!(2, |bytes, difference| {
                half::f16::from_f32(half::f16::from_le_bytes(bytes).to_f32() + difference).to_le_bytes()
            }),
            Kind::Bf16 => floats!(2, |bytes, difference| {
                half::bf16::from_f32(half::bf16::from_le_bytes(bytes).to_f32() + difference).to_le_bytes()
            }),
            Kind::F32 => floats!(4, |bytes, difference: f32| (f32::from_le_bytes(bytes) + difference).to_le_bytes()),
            Kind::F64 if self.precision == Precision::Promoted => {
                floats!(8, |bytes, difference: f32| (f64::from_le_bytes(bytes) + f64::from(difference)).to_le_bytes())
            }
            Kind::F64 => floats!(8, |bytes, difference: f32| {
                f64::from(f64::from_le_bytes(bytes) as f32 + difference).to_le_bytes()
            }),
            Kind::I8 => integers!(i8, f32, i32),
            Kind::U8 => integers!(u8, f32, i32),
            Kind::I16 => integers!(i16, f32, i32),
            Kind::U16 => integers!(u16, f32, i32),
            Kind::I32 => integers!(i32, f64, i32),
            Kind::U32 => integers!(u32, f64, u32),
            Kind::I64 => integers!(i64, f64, i64),
            Kind::U64 => integers!(u64, f64, u64),
            // `new` lets no other pass.
            _ => false,
        };
        if done { Ok(()) } else { wrong("data", format!("gives a value outside the range of {}", self.dtype)) }
    }

    fn each<const N: usize>(
        &self,
        reference: &[u8],
        differences: &[f32],
        out: &mut Vec<u8>,
        sum: impl Fn([u8; N], f32) -> Option<[u8; N]>,
    ) -> bool {
        let is_big = self.dtype.byte_order() == ByteOrder::Big;
        for (element, &difference) in reference.as_chunks::<N>().0.iter().zip(differences) {
            let mut bytes = *element;
            if is_big {
                bytes.reverse();
            }
            let Some(mut bytes) = sum(bytes, difference) else { return false };
            if is_big {
                bytes.reverse();
            }
            out.extend_from_slice(&bytes);
        }
        true
    }

    /// The sums for a whole tensor. `next` fills in the differences of the next elements, a multiple of eight but for the last.
    pub(super) fn all(&self, reference: &[u8], mut next: impl FnMut(&mut [f32]) -> Checked<()>) -> Checked<Vec<u8>> {
        let mut out = Vec::with_capacity(reference.len());
        let size = self.dtype.shuffle_size();
        let mut differences = vec![0.0; values::PIECE / size];
        for piece in reference.chunks(values::PIECE / size * size) {
            let differences = &mut differences[..piece.len() / size];
            next(differences)?;
            self.add(piece, differences, &mut out)?;
        }
        Ok(out)
    }
}

/// Reads `float32` numbers of either byte order.
pub(super) fn singles(bytes: &[u8], order: ByteOrder, out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = match order {
            ByteOrder::Little => f32::from_le_bytes(*bytes),
            ByteOrder::Big => f32::from_be_bytes(*bytes),
        };
    }
}
