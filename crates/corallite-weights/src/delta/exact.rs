//! The elements that a float difference does not bring back, listed with their bits in the metadata.
//!
//! Float subtraction rounds, and NaNs and infinities do not survive it. Between near checkpoints nearly every element comes
//! back exactly all the same, so the rest is listed under `exact`: coral, which ignores the list, decodes the delta as it
//! always did, and here every bit returns. A long list is refused instead: an attribute of an HDF5 file holds 64 KiB.

use serde_json::json;

use super::fields::{Checked, Encoded, Fields, wrong};
use crate::dict::python_json_len;
use crate::dtype::{ByteOrder, Dtype};
use crate::error::{Error, Result};

const FIELD: &str = "exact";

/// The longest list, in elements and as text.
const MOST: usize = 4096;
const MOST_TEXT: usize = 40_000;

/// Elements that have to be listed.
pub(super) struct Exact {
    dtype: Dtype,
    at: Vec<u64>,
    bits: Vec<u64>,
    seen: u64,
}

impl Exact {
    pub(super) fn new(dtype: Dtype) -> Self {
        Self { dtype, at: Vec::new(), bits: Vec::new(), seen: 0 }
    }

    /// Compares the next elements with what was decoded. A NaN is always listed: processors disagree on the bits of the
    /// NaN that a sum gives.
    pub(super) fn compare(&mut self, weight: &[u8], values: &[f64], decoded: &[u8]) -> Result<()> {
        let size = self.dtype.shuffle_size();
        for ((element, value), decoded) in weight.chunks_exact(size).zip(values).zip(decoded.chunks_exact(size)) {
            if element != decoded || value.is_nan() {
                if self.at.len() == MOST {
                    return Err(Self::too_many());
                }
                self.at.push(self.seen);
                self.bits.push(word(element, self.dtype.byte_order()));
            }
            self.seen += 1;
        }
        Ok(())
    }

    fn too_many() -> Error {
        Error::unsupported(
            "a delta of float differences for these two, because too many elements would not come back exactly; \
             use the delta type `zigzag`, which keeps every bit of any two",
        )
    }

    /// Puts the list into the metadata, if there is any.
    pub(super) fn put(self, encoded: Encoded) -> Result<Encoded> {
        if self.at.is_empty() {
            return Ok(encoded);
        }
        let list = json!({"at": self.at, "bits": self.bits});
        if python_json_len(&list) > MOST_TEXT {
            return Err(Self::too_many());
        }
        Ok(encoded.with(FIELD, list))
    }
}

/// Writes the listed elements over what was decoded.
pub(super) fn apply(fields: Fields<'_>, dtype: Dtype, decoded: &mut [u8]) -> Checked<()> {
    let Some(list) = fields.get(FIELD) else { return Ok(()) };
    let lists = list.get("at").and_then(Fields::counts).zip(list.get("bits").and_then(Fields::counts));
    let Some((at, bits)) = lists else { return wrong(FIELD, "has to hold the lists `at` and `bits`") };
    if at.len() != bits.len() {
        return wrong(FIELD, "holds lists of different lengths");
    }
    let size = dtype.shuffle_size();
    if size > 8 {
        return wrong(FIELD, format!("is not for elements of {dtype}"));
    }
    let mut next = 0;
    for (at, bits) in at.zip(bits) {
        let (Some(at), Some(bits)) = (at, bits) else { return wrong(FIELD, "has to hold whole numbers") };
        if at < next {
            return wrong(FIELD, "holds positions that do not ascend");
        }
        // Positions ascend from 0, so `at` is below u64::MAX whenever the element is there.
        let element = usize::try_from(at).ok().and_then(|at| decoded.chunks_exact_mut(size).nth(at));
        let Some(element) = element else { return wrong(FIELD, format!("names the element {at}, which is not there")) };
        if size < 8 && bits >> (8 * size) != 0 {
            return wrong(FIELD, "holds more bits than an element has");
        }
        put_word(bits, dtype.byte_order(), element);
        next = at + 1;
    }
    Ok(())
}

/// An element of at most 8 bytes as a number.
pub(super) fn word(element: &[u8], order: ByteOrder) -> u64 {
    let add = |word: u64, byte: &u8| word << 8 | u64::from(*byte);
    match order {
        ByteOrder::Big => element.iter().fold(0, add),
        ByteOrder::Little => element.iter().rev().fold(0, add),
    }
}

/// The reverse of [`word`]; bits that do not fit are cut off.
pub(super) fn put_word(word: u64, order: ByteOrder, element: &mut [u8]) {
    let size = element.len();
    for (place, byte) in element.iter_mut().enumerate() {
        let shift = match order {
            ByteOrder::Little => place,
            ByteOrder::Big => size - 1 - place,
        };
        *byte = (word >> (8 * shift)) as u8;
    }
}
