//! Deltas: a weight as its difference to a reference, in the form coral's files hold.
//!
//! Owns the record and its dictionary form; [`DeltaEncoder`] makes them and applies them, one file for each family of types:
//!
//! - `lossless`: differences of bits, `difference` among them, which stored deltas use chunk by chunk, in the order that
//!   `choice` says;
//! - `raw`: differences of floats, made exact by `exact`, the list of the elements that subtraction would change;
//! - `quantized`, `sparse`, `per_axis`: the lossy ones, used only when asked for by name.
//!
//! A delta may come from a damaged or hostile file: decoding believes no length, shape or number in it, and allocates no more
//! than a small multiple of the reference.

mod choice;
mod config;
mod difference;
mod encoder;
mod exact;
mod fields;
mod float;
mod lossless;
mod per_axis;
mod quantized;
mod raw;
mod sparse;
mod streams;
mod vector;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::dict::{Dict, python_json_len};
use crate::dtype::{Dtype, ShapeText};
use crate::error::{Error, Result};
use crate::hash::WeightHash;

pub use choice::OrderChoice;
pub use config::{DeltaConfig, DeltaType};
pub use difference::{Difference, Order};
pub use encoder::DeltaEncoder;

/// A weight encoded as its difference to a reference weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// How `data` encodes the difference.
    pub delta_type: DeltaType,
    /// The encoded difference.
    pub data: Bytes,
    /// The element type of `data`.
    pub data_dtype: Dtype,
    /// The shape of `data`.
    pub data_shape: Vec<u64>,
    /// What the decoder needs, such as `scale` and `offset`.
    pub metadata: Map<String, Value>,
    /// The shape of the weight.
    pub original_shape: Vec<u64>,
    /// The element type of the weight.
    pub original_dtype: Dtype,
    /// The key of the reference weight.
    pub reference_hash: WeightHash,
    /// The share of the original size that was saved; negative if the delta is larger.
    pub compression_ratio: f64,
}

/// What coral counts for a delta's fixed fields, in bytes.
const OBJECT_OVERHEAD: u64 = 200;

impl Delta {
    /// Checks that data and its shape, and the original's shape and dtype, belong together.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn check(&self) -> Result<()> {
        let want = self.data_dtype.byte_len(&self.data_shape)?;
        self.original_dtype.byte_len(&self.original_shape)?;
        if self.data.len() as u64 == want {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            name: format!("delta to {}", self.reference_hash),
            problem: format!(
                "{} elements of {} take {want} bytes and the data has {}",
                ShapeText(&self.data_shape),
                self.data_dtype,
                self.data.len()
            ),
        })
    }

    /// The size as coral counts it: data, metadata as JSON text, and 200 bytes for the rest.
    pub fn nbytes(&self) -> u64 {
        let fields: usize = self
            .metadata
            .iter()
            .map(|(key, value)| python_json_len(&key.as_str().into()) + 2 + python_json_len(value))
            .sum();
        let separators = 2 + 2 * self.metadata.len().saturating_sub(1);
        self.data.len() as u64 + (fields + separators) as u64 + OBJECT_OVERHEAD
    }

    /// The dictionary in coral's form, and apart from it the `data_bytes`, which JSON cannot hold.
    pub fn to_dict(&self) -> (Map<String, Value>, Bytes) {
        let mut dict = Map::new();
        let mut put = |key: &str, value: Value| dict.insert(key.to_owned(), value);
        put("delta_type", self.delta_type.as_str().into());
        put("data_dtype", self.data_dtype.numpy_str().into());
        put("data_shape", self.data_shape.clone().into());
        put("metadata", self.metadata.clone().into());
        put("original_shape", self.original_shape.clone().into());
        put("original_dtype", self.original_dtype.numpy_str().into());
        put("reference_hash", self.reference_hash.as_str().into());
        put("compression_ratio", self.compression_ratio.into());
        (dict, self.data.clone())
    }

    /// A delta from [`to_dict`](Self::to_dict)'s dictionary and its `data_bytes`.
    ///
    /// # Errors
    /// [`Error::InvalidDict`] naming the wrong field, [`Error::UnknownDtype`], [`Error::InvalidKey`], and
    /// [`Error::ShapeMismatch`] when the data does not fit the description.
    pub fn from_dict(dict: &Map<String, Value>, data_bytes: Bytes) -> Result<Self> {
        let dict = Dict::from_map("Delta", dict);
        let delta = Self {
            delta_type: dict.text("delta_type")?.into(),
            data: data_bytes,
            data_dtype: Dtype::from_numpy_name(dict.text("data_dtype")?)?,
            data_shape: dict.shape("data_shape")?,
            metadata: dict.optional_map("metadata")?.ok_or_else(|| dict.wrong("metadata", "present"))?,
            original_shape: dict.shape("original_shape")?,
            original_dtype: Dtype::from_numpy_name(dict.text("original_dtype")?)?,
            reference_hash: WeightHash::new(dict.text("reference_hash")?)?,
            compression_ratio: dict.number("compression_ratio", 0.0)?,
        };
        delta.check()?;
        Ok(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> Delta {
        let metadata =
            r#"{"scale": 1e-06, "offset": 0.5, "bits": 8, "s": [1, 2], "é": "ü\n", "big": 1e16, "t": true, "n": null}"#;
        Delta {
            delta_type: DeltaType::Sparse,
            data: Bytes::from(vec![0; 16]),
            data_dtype: Dtype::F32,
            data_shape: vec![2, 2],
            metadata: serde_json::from_str(metadata).unwrap(),
            original_shape: vec![2, 2],
            original_dtype: Dtype::F32,
            reference_hash: WeightHash::new("abc").unwrap(),
            compression_ratio: 0.25,
        }
    }

    /// 329 is `Delta.nbytes` of the same record in coral-ml 1.0.0.
    #[test]
    fn nbytes_agrees_with_the_python_package() {
        assert_eq!(delta().nbytes(), 329);
    }

    #[test]
    fn a_delta_survives_its_dictionary() {
        let mut all = vec![delta()];
        let big = Dtype::F32.with_byte_order(crate::ByteOrder::Big);
        all.push(Delta {
            data_dtype: big,
            original_dtype: big,
            delta_type: DeltaType::Other("from_the_future".into()),
            ..delta()
        });
        for delta in all {
            let (dict, bytes) = delta.to_dict();
            assert_eq!(Delta::from_dict(&dict, bytes).unwrap(), delta);
        }
    }

    #[test]
    fn a_dictionary_that_describes_no_delta_is_refused_by_field() {
        let (dict, bytes) = delta().to_dict();
        for key in dict.keys().filter(|key| *key != "compression_ratio") {
            let mut broken = dict.clone();
            broken.insert(key.clone(), Value::Bool(true));
            let error = Delta::from_dict(&broken, bytes.clone()).unwrap_err().to_string();
            assert!(error.contains(key.as_str()), "{key}: {error}");
            broken.remove(key);
            assert!(Delta::from_dict(&broken, bytes.clone()).is_err(), "{key}");
        }
        assert!(matches!(Delta::from_dict(&dict, bytes.slice(1..)), Err(Error::ShapeMismatch { .. })));
    }
}
