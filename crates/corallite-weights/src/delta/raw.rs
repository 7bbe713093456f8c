//! `float32_raw`, `compressed` and `exponent_mantissa`: differences of floats as `float32`, in coral's three layouts.
//!
//! What rounding would change is kept by `exact`. Coral writes no such list; its deltas decode as coral decodes them.

use super::exact::{self, Exact};
use super::fields::{Checked, Encoded, Fields, wrong};
use super::float::{self, Precision, Sum};
use super::streams::{Deflate, Inflate, cut, cut_len, len_bytes};
use super::{Delta, DeltaType};
use crate::dtype::{Dtype, Kind};
use crate::error::{Error, Result};

/// The levels that coral gives zlib for signs and exponents, and for mantissas.
const SMALL_LEVEL: u32 = 9;
const MANTISSA_LEVEL: u32 = 6;

/// How coral adds differences of this type.
fn precision(delta_type: &DeltaType) -> Precision {
    match delta_type {
        DeltaType::ExponentMantissa => Precision::Single,
        _ => Precision::Promoted,
    }
}

/// The difference that added to `base` gives `value`, if there is any.
fn difference(value: f64, base: f64) -> f32 {
    if value == 0.0 && base == 0.0 && value.is_sign_negative() && base.is_sign_negative() {
        // A positive zero would make the sum positive.
        return -0.0;
    }
    (value - base) as f32
}

/// Takes the differences, hands them to `take`, and lists what they do not bring back.
fn differences(
    delta_type: &DeltaType,
    dtype: Dtype,
    weight: &[u8],
    reference: &[u8],
    mut take: impl FnMut(&[f32]) -> Result<()>,
) -> Result<Exact> {
    float::check(dtype, delta_type.as_str())?;
    let sum = Sum::new(dtype, precision(delta_type)).map_err(|wrong| Error::unsupported(wrong.problem))?;
    let (mut exact, mut singles, mut decoded) = (Exact::new(dtype), Vec::new(), Vec::new());
    let mut start = 0;
    float::pairs(dtype, weight, reference, |values, base| {
        let end = start + values.len() * dtype.shuffle_size();
        singles.clear();
        singles.extend(values.iter().zip(base).map(|(value, base)| difference(*value, *base)));
        decoded.clear();
        sum.add(&reference[start..end], &singles, &mut decoded).map_err(|wrong| Error::unsupported(wrong.problem))?;
        exact.compare(&weight[start..end], values, &decoded)?;
        start = end;
        take(&singles)
    })?;
    Ok(exact)
}

fn bytes_of(singles: &[f32]) -> impl Iterator<Item = u8> {
    singles.iter().flat_map(|single| single.to_le_bytes())
}

/// `float32_raw`: the differences, in the weight's shape.
pub(super) fn encode_raw(dtype: Dtype, shape: &[u64], weight: &[u8], reference: &[u8]) -> Result<Encoded> {
    let mut data = Vec::with_capacity(weight.len() / dtype.shuffle_size() * 4);
    let exact = differences(&DeltaType::Float32Raw, dtype, weight, reference, |singles| {
        data.extend(bytes_of(singles));
        Ok(())
    })?;
    let metadata = serde_json::Map::new();
    exact.put(Encoded { data, dtype: Dtype::F32, shape: shape.to_vec(), metadata })
}

/// `compressed`: the same as one zlib stream.
pub(super) fn encode_compressed(
    dtype: Dtype,
    shape: &[u64],
    weight: &[u8],
    reference: &[u8],
    level: u64,
) -> Result<Encoded> {
    let level = u32::try_from(level).ok().filter(|level| *level <= 9);
    let level = level.ok_or_else(|| Error::unsupported("a compression_level above 9; zlib has the levels 0 to 9"))?;
    let (mut stream, mut piece, mut original_size) = (Deflate::new(level), Vec::new(), 0);
    let exact = differences(&DeltaType::Compressed, dtype, weight, reference, |singles| {
        piece.clear();
        piece.extend(bytes_of(singles));
        original_size += piece.len();
        stream.put(&piece)
    })?;
    let data = stream.finish()?;
    let compressed_size = data.len();
    exact.put(
        Encoded::bytes(data)
            .with("original_shape", shape)
            .with("compression_level", level)
            .with("original_size", original_size)
            .with("compressed_size", compressed_size),
    )
}

/// `exponent_mantissa`: the same as three zlib streams, of signs (eight to a byte, the first in the highest bit), exponents
/// and mantissas.
pub(super) fn encode_exponent_mantissa(
    dtype: Dtype,
    shape: &[u64],
    weight: &[u8],
    reference: &[u8],
) -> Result<Encoded> {
    let (mut signs, mut exponents) = (Deflate::new(SMALL_LEVEL), Deflate::new(SMALL_LEVEL));
    let mut mantissas = Deflate::new(MANTISSA_LEVEL);
    let (mut piece, mut count) = (Vec::new(), 0);
    let mut put = |stream: &mut Deflate, bytes: &mut dyn Iterator<Item = u8>| {
        piece.clear();
        piece.extend(bytes);
        stream.put(&piece)
    };
    let exact = differences(&DeltaType::ExponentMantissa, dtype, weight, reference, |singles| {
        count += singles.len();
        let bits = || singles.iter().map(|single| single.to_bits());
        put(
            &mut signs,
            &mut singles.chunks(8).map(|eight| {
                eight
                    .iter()
                    .enumerate()
                    .fold(0, |byte, (place, single)| byte | u8::from(single.is_sign_negative()) << (7 - place))
            }),
        )?;
        put(&mut exponents, &mut bits().map(|bits| (bits >> 23) as u8))?;
        put(&mut mantissas, &mut bits().flat_map(|bits| (bits & MANTISSA).to_le_bytes()))
    })?;
    let (signs, exponents, mantissas) = (signs.finish()?, exponents.finish()?, mantissas.finish()?);
    let header = [len_bytes(&signs)?, len_bytes(&exponents)?].concat();
    exact.put(
        Encoded::bytes([header.as_slice(), &signs, &exponents, &mantissas].concat())
            .with("original_shape", shape)
            .with("num_elements", count)
            .with("signs_size", signs.len())
            .with("exponents_size", exponents.len())
            .with("mantissas_size", mantissas.len()),
    )
}

const MANTISSA: u32 = 0x7f_ffff;

/// Decodes any of the three.
pub(super) fn decode(delta: &Delta, fields: Fields<'_>, reference: &[u8]) -> Checked<Vec<u8>> {
    let dtype = delta.original_dtype;
    let sum = Sum::new(dtype, precision(&delta.delta_type))?;
    fields.same_shape(&delta.original_shape)?;
    let mut decoded = match delta.delta_type {
        DeltaType::Compressed => {
            let mut stream = Inflate::new(packed(delta)?);
            let mut bytes = Vec::new();
            let decoded = sum.all(reference, |differences| {
                bytes.resize(differences.len() * 4, 0);
                stream.fill(&mut bytes)?;
                float::singles(&bytes, crate::ByteOrder::Little, differences);
                Ok(())
            })?;
            stream.end()?;
            decoded
        }
        DeltaType::ExponentMantissa => decode_exponent_mantissa(delta, sum, reference)?,
        _ => {
            if delta.data_dtype.kind() != Kind::F32 {
                return wrong("data_dtype", "has to be float32");
            }
            if delta.data_shape != delta.original_shape {
                return wrong("data_shape", "has to be that of the weight");
            }
            let mut rest = &*delta.data;
            sum.all(reference, |differences| {
                let bytes = cut(&mut rest, differences.len() * 4)?;
                float::singles(bytes, delta.data_dtype.byte_order(), differences);
                Ok(())
            })?
        }
    };
    exact::apply(fields, dtype, &mut decoded)?;
    Ok(decoded)
}

fn decode_exponent_mantissa(delta: &Delta, sum: Sum, reference: &[u8]) -> Checked<Vec<u8>> {
    let mut rest = packed(delta)?;
    let (signs, exponents) = (cut_len(&mut rest)?, cut_len(&mut rest)?);
    let mut signs = Inflate::new(cut(&mut rest, signs)?);
    let mut exponents = Inflate::new(cut(&mut rest, exponents)?);
    let mut mantissas = Inflate::new(rest);
    let (mut sign_bytes, mut exponent_bytes, mut mantissa_bytes) = (Vec::new(), Vec::new(), Vec::new());
    let decoded = sum.all(reference, |differences| {
        sign_bytes.resize(differences.len().div_ceil(8), 0);
        exponent_bytes.resize(differences.len(), 0);
        mantissa_bytes.resize(differences.len() * 4, 0);
        signs.fill(&mut sign_bytes)?;
        exponents.fill(&mut exponent_bytes)?;
        mantissas.fill(&mut mantissa_bytes)?;
        let parts = exponent_bytes.iter().zip(mantissa_bytes.as_chunks::<4>().0);
        for (place, (difference, (exponent, mantissa))) in differences.iter_mut().zip(parts).enumerate() {
            let sign = u32::from(sign_bytes[place / 8]) >> (7 - place % 8) & 1;
            let mantissa = u32::from_le_bytes(*mantissa);
            if mantissa > MANTISSA {
                return wrong("data", "holds a mantissa of more than 23 bits");
            }
            *difference = f32::from_bits(sign << 31 | u32::from(*exponent) << 23 | mantissa);
        }
        Ok(())
    })?;
    signs.end()?;
    exponents.end()?;
    mantissas.end()?;
    Ok(decoded)
}

/// The data of a delta that is bytes, not numbers.
pub(super) fn packed(delta: &Delta) -> Checked<&[u8]> {
    match delta.data_dtype {
        Dtype::U8 => Ok(&delta.data),
        other => wrong("data_dtype", format!("is {other} and has to be uint8")),
    }
}
