//! `per_axis_scaled`: differences rounded to a byte each, with a scale for each row.
//!
//! coral-ml after 1.0.0 has a type of this name that keeps one sign a difference and scales of rows and columns. Its error has no
//! bound, so it is read here and not written. Its metadata has `num_rows`; that of ours has `rows`, without which coral
//! refuses to decode.

use super::fields::{Checked, Encoded, Fields, wrong};
use super::float::{self, Precision, Sum};
use super::quantized::{level, scale};
use super::raw::packed;
use super::streams::cut;
use super::{Delta, DeltaType};
use crate::dtype::{ByteOrder, Dtype};
use crate::error::Result;

/// The largest level, of either sign.
const LEVELS: f64 = 127.0;

/// The rows of a shape, and the elements of one: those of its first dimension, or one row for fewer than two dimensions.
pub(super) fn rows(shape: &[u64], elements: usize) -> (usize, usize) {
    let rows = match shape {
        [] | [_] => 1,
        [rows, ..] => *rows as usize,
    };
    (rows, elements.checked_div(rows).unwrap_or(0))
}

pub(super) fn encode(dtype: Dtype, shape: &[u64], weight: &[u8], reference: &[u8]) -> Result<Encoded> {
    float::check(dtype, DeltaType::PerAxisScaled.as_str())?;
    let elements = weight.len() / dtype.shuffle_size();
    let (rows, columns) = if elements == 0 { (0, 0) } else { rows(shape, elements) };
    let mut largest = vec![0.0_f64; rows];
    let mut index = 0;
    float::finite_differences(dtype, weight, reference, |differences| {
        for difference in differences {
            let largest = &mut largest[index / columns];
            *largest = largest.max(difference.abs());
            index += 1;
        }
        Ok(())
    })?;
    let scales: Vec<f32> = largest.into_iter().map(|largest| scale(largest, LEVELS)).collect();
    let mut data: Vec<u8> = Vec::with_capacity(4 * rows + elements);
    data.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
    index = 0;
    float::finite_differences(dtype, weight, reference, |differences| {
        for &difference in differences {
            data.push(level(difference, 0.0, scales[index / columns], -LEVELS, LEVELS) as i8 as u8);
            index += 1;
        }
        Ok(())
    })?;
    Ok(Encoded::bytes(data).with("rows", rows).with("columns", columns).with("bits", 8))
}

pub(super) fn decode(delta: &Delta, fields: Fields<'_>, reference: &[u8]) -> Checked<Vec<u8>> {
    let elements = reference.len() / delta.original_dtype.shuffle_size();
    let sum = Sum::new(delta.original_dtype, Precision::Promoted)?;
    let mut data = packed(delta)?;
    if fields.get("num_rows").is_some() {
        return decode_signs(fields, sum, elements, data, reference);
    }
    let (_, columns) = sides(fields, ("rows", "columns"), elements)?;
    let rows = elements.checked_div(columns).unwrap_or(0);
    let mut scales = vec![0.0; rows];
    float::singles(cut(&mut data, 4 * rows)?, ByteOrder::Little, &mut scales);
    if !scales.iter().all(|scale| scale.is_finite() && *scale >= 0.0) {
        return wrong("data", "holds a scale that is no number from 0 on");
    }
    if data.len() != elements {
        return wrong("data", format!("has {} differences for {elements} elements", data.len()));
    }
    let mut index = 0;
    sum.all(reference, |differences| {
        let levels = cut(&mut data, differences.len())?;
        for (difference, level) in differences.iter_mut().zip(levels) {
            *difference = f32::from(*level as i8) * scales[index / columns];
            index += 1;
        }
        Ok(())
    })
}

/// Reads rows and columns, whose product has to be the number of elements.
fn sides(fields: Fields<'_>, names: (&'static str, &'static str), elements: usize) -> Checked<(usize, usize)> {
    let (rows, columns) = (fields.count(names.0)?, fields.count(names.1)?);
    if rows.checked_mul(columns) != Some(elements as u64) {
        return wrong(names.0, format!("and `{}` do not make {elements} elements", names.1));
    }
    // One of the two may be anything when the other is zero; then nothing is there to decode.
    if elements == 0 { Ok((0, 0)) } else { Ok((rows as usize, columns as usize)) }
}

/// coral's layout: halves for rows and columns, then signs, eight to a byte.
fn decode_signs(fields: Fields<'_>, sum: Sum, elements: usize, mut data: &[u8], reference: &[u8]) -> Checked<Vec<u8>> {
    let (rows, columns) = sides(fields, ("num_rows", "num_cols"), elements)?;
    let mut halves = |count: usize| -> Checked<Vec<f32>> {
        let bytes = cut(&mut data, 2 * count)?;
        let scales: Vec<f32> =
            bytes.as_chunks::<2>().0.iter().map(|half| half::f16::from_le_bytes(*half).to_f32()).collect();
        if scales.iter().any(|scale| scale.is_nan()) {
            return wrong("data", "holds a scale that is no number");
        }
        Ok(scales)
    };
    let (of_rows, of_columns) = (halves(rows)?, halves(columns)?);
    if data.len() != elements.div_ceil(8) {
        return wrong("data", format!("has {} bytes of signs for {elements} elements", data.len()));
    }
    let mut index = 0;
    sum.all(reference, |differences| {
        for difference in differences.iter_mut() {
            let sign = if data[index / 8] >> (7 - index % 8) & 1 == 1 { 1.0 } else { -1.0 };
            *difference = sign * of_rows[index / columns] * of_columns[index % columns];
            index += 1;
        }
        Ok(())
    })
}
