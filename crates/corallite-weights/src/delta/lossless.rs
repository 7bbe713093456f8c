//! Differences of bits: `zigzag`, `zigzag_by_exponent`, `xor_float32` and `xor_bfloat16`. Lossless for every dtype, whatever
//! the bits mean.
//!
//! XOR is here because coral-ml after 1.0.0 names these two. Their layout for `float32` (and for bfloat16 under `xor_bfloat16`)
//! is coral's; for other dtypes coral would convert to `float32`, so the metadata then lacks `original_shape`, without which
//! coral refuses to decode.

use rayon::prelude::*;

use super::difference::{Difference, Order};
use super::exact::{put_word, word};
use super::fields::{Checked, Encoded, Fields, Wrong, wrong};
use super::raw::packed;
use super::streams::{Deflate, Inflate, cut, cut_len, len_bytes};
use super::{Delta, DeltaType};
use crate::dtype::{ByteOrder, Dtype, Kind};
use crate::error::{Error, Result};
use crate::zeroed;

/// Differences that are sorted together: a mebibyte's worth of 4 bytes each. Bounded, so that pieces decode on their own.
const RUN: usize = 1 << 18;

fn order(delta_type: &DeltaType) -> Order {
    match delta_type {
        DeltaType::ZigzagByExponent => Order::Exponent,
        _ => Order::Natural,
    }
}

/// Whether elements of this dtype can be sorted by exponent.
pub(super) fn has_exponent(dtype: Dtype) -> bool {
    Difference::new(dtype, Order::Exponent).is_some()
}

fn unsigned(width: usize) -> Dtype {
    match width {
        1 => Dtype::U8,
        2 => Dtype::U16,
        4 => Dtype::U32,
        _ => Dtype::U64,
    }
}

/// The shape of the differences: the weight's, with one more dimension for the two parts of complex elements, and none of it
/// for elements that share bytes.
fn shape_of_words(dtype: Dtype, shape: &[u64], bytes: usize) -> Vec<u64> {
    match dtype.item_size() {
        None => vec![bytes as u64],
        Some(size) if size == dtype.swap_size() => shape.to_vec(),
        Some(_) => shape.iter().copied().chain([2]).collect(),
    }
}

pub(super) fn encode_zigzag(
    delta_type: &DeltaType,
    dtype: Dtype,
    shape: &[u64],
    weight: &[u8],
    reference: &[u8],
) -> Result<Encoded> {
    let difference = Difference::new(dtype, order(delta_type)).ok_or_else(|| {
        Error::unsupported(format!("the delta type `{delta_type}` for {dtype}, which has no exponents; use `zigzag`"))
    })?;
    let (mut data, piece) = (vec![0; weight.len()], RUN * difference.width());
    data.par_chunks_mut(piece)
        .zip(weight.par_chunks(piece).zip(reference.par_chunks(piece)))
        .try_for_each(|(out, (weight, base))| difference.encode(weight, base, out))?;
    let encoded = Encoded {
        data,
        dtype: unsigned(difference.width()),
        shape: shape_of_words(dtype, shape, weight.len()),
        metadata: serde_json::Map::new(),
    };
    Ok(if *delta_type == DeltaType::ZigzagByExponent { encoded.with("run", RUN) } else { encoded })
}

pub(super) fn decode_zigzag(delta: &Delta, fields: Fields<'_>, reference: &[u8]) -> Checked<Vec<u8>> {
    let dtype = delta.original_dtype;
    let Some(difference) = Difference::new(dtype, order(&delta.delta_type)) else {
        return wrong("original_dtype", format!("is {dtype}, which has no exponents"));
    };
    let integers = matches!(delta.data_dtype.kind(), Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64);
    if !integers || delta.data_dtype.byte_order() == ByteOrder::Big {
        return wrong("data_dtype", format!("is {} and has to be a little-endian unsigned integer", delta.data_dtype));
    }
    if delta.data.len() != reference.len() {
        return wrong("data_shape", format!("makes {} bytes and the weight has {}", delta.data.len(), reference.len()));
    }
    let piece = match (&delta.delta_type, fields.optional_count("run")?) {
        (_, Some(0)) => return wrong("run", "is zero"),
        (DeltaType::ZigzagByExponent, Some(run)) => usize::try_from(run).unwrap_or(usize::MAX),
        // Sorted as a whole.
        (DeltaType::ZigzagByExponent, None) => usize::MAX,
        // In the natural order any piece decodes on its own.
        _ => RUN,
    };
    let piece = piece.saturating_mul(difference.width()).min(reference.len().max(1));
    let mut out = zeroed(reference.len());
    out.par_chunks_mut(piece)
        .zip(delta.data.par_chunks(piece).zip(reference.par_chunks(piece)))
        .try_for_each(|(out, (encoded, base))| difference.decode(encoded, base, out))
        .map_err(|error| Wrong { field: "data", problem: error.to_string() })?;
    Ok(out)
}

/// How a word is split over the two streams: `shift` low bits go to the second. Sizes are in bytes.
struct Split {
    width: usize,
    shift: u32,
    high: usize,
    low: usize,
    is_coral: bool,
}

impl Split {
    fn new(delta_type: &DeltaType, dtype: Dtype) -> Self {
        let width = dtype.swap_size();
        let bits = 8 * width as u32;
        if *delta_type == DeltaType::XorBfloat16 {
            return match dtype.kind() {
                // Coral widens to float32, whose lower half is then zero throughout.
                Kind::Bf16 => Self { width, shift: 16, high: 2, low: 2, is_coral: true },
                kind => {
                    let half = width.div_ceil(2);
                    Self { width, shift: bits / 2, high: half, low: half, is_coral: kind == Kind::F32 }
                }
            };
        }
        let shift = match dtype.kind() {
            Kind::F16 => 10,
            Kind::Bf16 => 7,
            Kind::F32 | Kind::C64 => 23,
            Kind::F64 | Kind::C128 => 52,
            // The upper half, or 16 bits of it.
            _ => (bits / 2).max(bits.saturating_sub(16)),
        };
        Self { width, shift, high: 2, low: width, is_coral: dtype.kind() == Kind::F32 }
    }

    /// A word of the XOR as it is split: bfloat16 is the upper half of what coral splits.
    fn widened(&self, word: u64) -> u64 {
        if self.shift as usize >= 8 * self.width { word << self.shift } else { word }
    }

    fn narrowed(&self, word: u64) -> u64 {
        if self.shift as usize >= 8 * self.width { word >> self.shift } else { word }
    }

    fn low_mask(&self) -> u64 {
        (1 << self.shift) - 1
    }
}

/// Words that are split in one go.
const PIECE: usize = 4096;

pub(super) fn encode_xor(
    delta_type: &DeltaType,
    dtype: Dtype,
    shape: &[u64],
    weight: &[u8],
    reference: &[u8],
) -> Result<Encoded> {
    let split = Split::new(delta_type, dtype);
    let (mut high, mut low) = (Deflate::new(9), Deflate::new(6));
    let (mut high_bytes, mut low_bytes) = (Vec::new(), Vec::new());
    let piece = PIECE * split.width;
    for (weight, base) in weight.chunks(piece).zip(reference.chunks(piece)) {
        high_bytes.clear();
        low_bytes.clear();
        for (element, base) in weight.chunks_exact(split.width).zip(base.chunks_exact(split.width)) {
            let order = dtype.byte_order();
            let xor = split.widened(word(element, order) ^ word(base, order));
            high_bytes.extend_from_slice(&(xor >> split.shift).to_le_bytes()[..split.high]);
            low_bytes.extend_from_slice(&(xor & split.low_mask()).to_le_bytes()[..split.low]);
        }
        high.put(&high_bytes)?;
        low.put(&low_bytes)?;
    }
    let (high, low) = (high.finish()?, low.finish()?);
    let encoded = Encoded::bytes([len_bytes(&high)?.as_slice(), &high, &low].concat());
    if !split.is_coral {
        return Ok(encoded);
    }
    let encoded = encoded.with("original_shape", shape);
    Ok(if *delta_type == DeltaType::XorBfloat16 {
        encoded.with("original_dtype", dtype.numpy_str()).with("xor_size", high.len()).with("lower_size", low.len())
    } else {
        encoded.with("sign_exp_size", high.len()).with("mantissa_size", low.len()).with("original_size", weight.len())
    })
}

pub(super) fn decode_xor(delta: &Delta, fields: Fields<'_>, reference: &[u8], is_ours: bool) -> Checked<Vec<u8>> {
    let dtype = delta.original_dtype;
    let split = Split::new(&delta.delta_type, dtype);
    if !is_ours && !split.is_coral {
        return wrong(
            "original_dtype",
            format!("is {dtype}, which coral converts before the XOR and so does not keep"),
        );
    }
    fields.same_shape(&delta.original_shape)?;
    let mut rest = packed(delta)?;
    let high = cut_len(&mut rest)?;
    let (mut high, mut low) = (Inflate::new(cut(&mut rest, high)?), Inflate::new(rest));
    let (mut high_bytes, mut low_bytes) = (Vec::new(), Vec::new());
    let mut out = Vec::with_capacity(reference.len());
    for base in reference.chunks(PIECE * split.width) {
        let count = base.len() / split.width;
        high_bytes.resize(count * split.high, 0);
        low_bytes.resize(count * split.low, 0);
        high.fill(&mut high_bytes)?;
        low.fill(&mut low_bytes)?;
        let parts = high_bytes.chunks_exact(split.high).zip(low_bytes.chunks_exact(split.low));
        for (base, (high, low)) in base.chunks_exact(split.width).zip(parts) {
            let (high, low) = (word(high, ByteOrder::Little), word(low, ByteOrder::Little));
            let bits = 8 * split.width as u32;
            let high_fits = split.shift >= bits || high >> (bits - split.shift) == 0;
            if !high_fits || low & !split.low_mask() != 0 || split.shift >= bits && low != 0 {
                return wrong("data", "holds more bits than an element has");
            }
            let xor = split.narrowed(high << split.shift | low);
            let order = dtype.byte_order();
            let start = out.len();
            out.resize(start + split.width, 0);
            put_word(word(base, order) ^ xor, order, &mut out[start..]);
        }
    }
    high.end()?;
    low.end()?;
    Ok(out)
}
