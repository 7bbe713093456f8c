//! `int8_quantized` and `int16_quantized`: differences rounded to the levels between the least and the largest.
//!
//! Coral's encoder cuts off the upper half of the range. Its format is not to blame: a level is `quantized × scale + offset`,
//! and with the offset in the middle all levels are used, so coral decodes what is written here to the same values.

use super::fields::{Checked, Encoded, Fields, wrong};
use super::float::{self, Precision, Sum};
use super::streams::cut;
use super::{Delta, DeltaType};
use crate::dtype::{Dtype, Kind};
use crate::error::Result;

/// Rounds `difference` to a whole number of scales, within the levels that there are.
pub(super) fn level(difference: f64, offset: f32, scale: f32, least: f64, most: f64) -> f64 {
    ((difference - f64::from(offset)) / f64::from(scale)).round_ties_even().clamp(least, most)
}

/// The scale that spreads `range` over `levels` steps. Never zero: the smallest number there is serves for ranges below it.
pub(super) fn scale(range: f64, levels: f64) -> f32 {
    ((range / levels) as f32).max(f32::from_bits(1))
}

pub(super) fn encode(
    delta_type: &DeltaType,
    dtype: Dtype,
    shape: &[u64],
    weight: &[u8],
    reference: &[u8],
) -> Result<Encoded> {
    float::check(dtype, delta_type.as_str())?;
    let (data_dtype, bits) = match delta_type {
        DeltaType::Int16Quantized => (Dtype::I16, 16_u32),
        _ => (Dtype::I8, 8),
    };
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    float::finite_differences(dtype, weight, reference, |differences| {
        least = differences.iter().copied().fold(least, f64::min);
        most = differences.iter().copied().fold(most, f64::max);
        Ok(())
    })?;
    let half = f64::from(1_u32 << (bits - 1));
    let (scale, offset) = if least < most {
        let scale = scale(most - least, 2.0 * half - 1.0);
        // The lowest level, -half, is the least difference.
        (scale, (least + half * f64::from(scale)) as f32)
    } else if least == most {
        (1.0, least as f32)
    } else {
        (1.0, 0.0) // no elements
    };
    let mut data = Vec::with_capacity(weight.len() / dtype.shuffle_size() * (bits / 8) as usize);
    float::finite_differences(dtype, weight, reference, |differences| {
        let levels = differences.iter().map(|&difference| level(difference, offset, scale, -half, half - 1.0));
        match bits {
            8 => data.extend(levels.map(|level| level as i8 as u8)),
            _ => data.extend(levels.flat_map(|level| (level as i16).to_le_bytes())),
        }
        Ok(())
    })?;
    let encoded = Encoded { data, dtype: data_dtype, shape: shape.to_vec(), metadata: serde_json::Map::new() };
    Ok(encoded.with("scale", f64::from(scale)).with("offset", f64::from(offset)).with("bits", bits))
}

pub(super) fn decode(delta: &Delta, fields: Fields<'_>, reference: &[u8]) -> Checked<Vec<u8>> {
    let kind = if delta.delta_type == DeltaType::Int16Quantized { Kind::I16 } else { Kind::I8 };
    if delta.data_dtype.kind() != kind {
        return wrong("data_dtype", "is not the integer that the delta's type says");
    }
    if delta.data_shape != delta.original_shape {
        return wrong("data_shape", "has to be that of the weight");
    }
    let (scale, offset) = (fields.single("scale")?, fields.single("offset")?);
    let mut rest = &*delta.data;
    Sum::new(delta.original_dtype, Precision::Promoted)?.all(reference, |differences| {
        let bytes = cut(&mut rest, differences.len() * delta.data_dtype.shuffle_size())?;
        let mut levels = Vec::with_capacity(differences.len());
        crate::values::decode(delta.data_dtype, bytes, &mut levels);
        for (difference, level) in differences.iter_mut().zip(levels) {
            *difference = level as f32 * scale + offset;
        }
        Ok(())
    })
}
