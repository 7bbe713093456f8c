//! `sparse`: pairs of index and difference, for differences above a threshold.
//!
//! Coral keeps both as `float32`, which counts to 2²⁴ and no further. Larger weights get pairs of `float64`, which coral's
//! decoder takes as well.

use super::fields::{Checked, Encoded, Fields, wrong};
use super::float::{self, Precision, Sum};
use super::{Delta, DeltaConfig};
use crate::dtype::{Dtype, Kind};
use crate::error::{Error, Result};
use crate::values;

/// From here on `float32` leaves out numbers.
const END_OF_SINGLES: usize = 1 << 24;

/// How many differences are above the threshold.
pub(super) fn count(dtype: Dtype, weight: &[u8], reference: &[u8], threshold: f64) -> Result<u64> {
    let mut count = 0;
    float::pairs(dtype, weight, reference, |values, base| {
        count += values.iter().zip(base).filter(|(value, base)| (*value - *base).abs() > threshold).count() as u64;
        Ok(())
    })?;
    Ok(count)
}

pub(super) fn encode(
    config: &DeltaConfig,
    dtype: Dtype,
    shape: &[u64],
    weight: &[u8],
    reference: &[u8],
) -> Result<Encoded> {
    float::check(dtype, config.delta_type.as_str())?;
    let threshold = config.sparse_threshold;
    if !(threshold >= 0.0 && threshold.is_finite()) {
        return Err(Error::unsupported(format!("a sparse_threshold of {threshold}; give a number from 0 on")));
    }
    let elements = weight.len() / dtype.shuffle_size();
    let pair_dtype = if elements <= END_OF_SINGLES { Dtype::F32 } else { Dtype::F64 };
    let (mut data, mut index, mut kept) = (Vec::new(), 0_u64, 0_u64);
    float::finite_differences(dtype, weight, reference, |differences| {
        for &difference in differences {
            if difference.abs() > threshold {
                kept += 1;
                if pair_dtype == Dtype::F32 {
                    data.extend((index as f32).to_le_bytes());
                    data.extend((difference as f32).to_le_bytes());
                } else {
                    data.extend((index as f64).to_le_bytes());
                    data.extend(f64::from(difference as f32).to_le_bytes());
                }
            }
            index += 1;
        }
        Ok(())
    })?;
    let encoded = Encoded { data, dtype: pair_dtype, shape: vec![kept, 2], metadata: serde_json::Map::new() };
    Ok(encoded.with("original_shape", shape).with("num_nonzero", kept).with("sparse_threshold", threshold))
}

pub(super) fn decode(delta: &Delta, fields: Fields<'_>, reference: &[u8], is_ours: bool) -> Checked<Vec<u8>> {
    fields.same_shape(&delta.original_shape)?;
    let dtype = delta.original_dtype;
    let pair_dtype = delta.data_dtype;
    if !matches!(pair_dtype.kind(), Kind::F32 | Kind::F64) {
        return wrong("data_dtype", "has to be float32 or float64");
    }
    if !matches!(*delta.data_shape, [_, 2]) {
        return wrong("data_shape", "has to be that of pairs");
    }
    let pair = 2 * pair_dtype.shuffle_size();
    let elements = (reference.len() / dtype.shuffle_size()) as f64;
    // Coral's indices above 2^24 are rounded, so several may have become one; the last of them counts.
    let ascends = |last: f64, next: f64| if is_ours { next > last } else { next >= last };
    let mut pairs = delta.data.chunks(pair);
    let mut last = None;
    let mut next_pair = move || -> Checked<Option<(f64, f32)>> {
        let Some(bytes) = pairs.next() else { return Ok(None) };
        let mut values = Vec::with_capacity(2);
        values::decode(pair_dtype, bytes, &mut values);
        let [index, difference] = *values else { return wrong("data", "ends within a pair") };
        if !(index >= 0.0 && index < elements && index.fract() == 0.0) {
            return wrong("data", format!("holds the index {index}, which no element has"));
        }
        if last.is_some_and(|last| !ascends(last, index)) {
            return wrong("data", "holds indices that do not ascend");
        }
        last = Some(index);
        Ok(Some((index, difference as f32)))
    };
    let mut waiting = next_pair()?;
    let mut start = 0.0;
    let decoded = Sum::new(dtype, Precision::Promoted)?.all(reference, |differences| {
        differences.fill(0.0);
        let end = start + differences.len() as f64;
        while let Some((index, difference)) = waiting.filter(|(index, _)| *index < end) {
            differences[(index - start) as usize] = difference;
            waiting = next_pair()?;
        }
        start = end;
        Ok(())
    })?;
    Ok(decoded)
}
