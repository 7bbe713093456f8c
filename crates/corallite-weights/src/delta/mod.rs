//! Deltas: a weight as its difference to a reference, in the form coral's files hold.
//!
//! Owns the record, its dictionary form and its settings; `difference` is what makes them lossless.

mod difference;

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::dict::{Dict, python_json_len};
use crate::dtype::{Dtype, ShapeText};
use crate::error::{Error, Result};
use crate::hash::WeightHash;

pub use difference::{Difference, Order};

/// How a delta's data encodes the difference.
///
/// ```
/// use corallite_weights::DeltaType;
/// assert_eq!("sparse".parse(), Ok(DeltaType::Sparse));
/// assert_eq!("from_the_future".parse::<DeltaType>().unwrap().as_str(), "from_the_future");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum DeltaType {
    /// Raw `float32` differences.
    #[default]
    Float32Raw,
    /// Differences quantized to `int8`, with scale and offset in the metadata.
    Int8Quantized,
    /// Differences quantized to `int16`, with scale and offset in the metadata.
    Int16Quantized,
    /// Pairs of index and value for the differences that are not about zero.
    Sparse,
    /// Raw `float32` differences, zlib-compressed.
    Compressed,
    /// A type this version does not know; loaded and stored unchanged.
    Other(String),
}

impl DeltaType {
    /// The name in files and dictionaries.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Float32Raw => "float32_raw",
            Self::Int8Quantized => "int8_quantized",
            Self::Int16Quantized => "int16_quantized",
            Self::Sparse => "sparse",
            Self::Compressed => "compressed",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for DeltaType {
    fn from(name: &str) -> Self {
        match name {
            "float32_raw" => Self::Float32Raw,
            "int8_quantized" => Self::Int8Quantized,
            "int16_quantized" => Self::Int16Quantized,
            "sparse" => Self::Sparse,
            "compressed" => Self::Compressed,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl FromStr for DeltaType {
    type Err = Infallible;
    fn from_str(name: &str) -> std::result::Result<Self, Infallible> {
        Ok(name.into())
    }
}

impl fmt::Display for DeltaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

/// Settings for making deltas, with coral's names and defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConfig {
    /// How differences are encoded.
    pub delta_type: DeltaType,
    /// Differences up to this size count as zero in a sparse delta.
    pub sparse_threshold: f64,
    /// Bits of a quantized difference, 8 or 16.
    pub quantization_bits: u64,
    /// zlib level of compressed deltas, 1 to 9.
    pub compression_level: u64,
    /// The largest size of a delta, as a share of the original.
    pub max_delta_ratio: f64,
    /// The least share of the original size that a delta must save.
    pub min_compression_ratio: f64,
    /// Weights below this many bytes are not made into deltas.
    pub min_weight_size: u64,
}

impl Default for DeltaConfig {
    fn default() -> Self {
        Self {
            delta_type: DeltaType::default(),
            sparse_threshold: 1e-6,
            quantization_bits: 8,
            compression_level: 6,
            max_delta_ratio: 1.0,
            min_compression_ratio: 0.0,
            min_weight_size: 512,
        }
    }
}

impl DeltaConfig {
    const FIELDS: [&'static str; 7] = [
        "delta_type",
        "sparse_threshold",
        "quantization_bits",
        "compression_level",
        "max_delta_ratio",
        "min_compression_ratio",
        "min_weight_size",
    ];

    /// The settings as a dictionary, in coral's form.
    pub fn to_dict(&self) -> Value {
        serde_json::json!({
            "delta_type": self.delta_type.as_str(),
            "sparse_threshold": self.sparse_threshold,
            "quantization_bits": self.quantization_bits,
            "compression_level": self.compression_level,
            "max_delta_ratio": self.max_delta_ratio,
            "min_compression_ratio": self.min_compression_ratio,
            "min_weight_size": self.min_weight_size,
        })
    }

    /// Settings from a dictionary; missing ones take their default, except `delta_type`.
    ///
    /// # Errors
    /// [`Error::InvalidDict`] naming the missing, wrong or unknown field.
    pub fn from_dict(dict: &Value) -> Result<Self> {
        let dict = Dict::new("DeltaConfig", dict)?;
        dict.only(&Self::FIELDS)?;
        let default = Self::default();
        Ok(Self {
            delta_type: dict.text("delta_type")?.into(),
            sparse_threshold: dict.number("sparse_threshold", default.sparse_threshold)?,
            quantization_bits: dict.count("quantization_bits", default.quantization_bits)?,
            compression_level: dict.count("compression_level", default.compression_level)?,
            max_delta_ratio: dict.number("max_delta_ratio", default.max_delta_ratio)?,
            min_compression_ratio: dict.number("min_compression_ratio", default.min_compression_ratio)?,
            min_weight_size: dict.count("min_weight_size", default.min_weight_size)?,
        })
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
            delta_type: DeltaType::Other("zigzag".into()),
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

    /// The dictionary that `DeltaConfig().to_dict()` gives in coral-ml 1.0.0.
    #[test]
    fn the_default_settings_are_corals() {
        let coral = serde_json::json!({
            "delta_type": "float32_raw", "sparse_threshold": 1e-06, "quantization_bits": 8, "compression_level": 6,
            "max_delta_ratio": 1.0, "min_compression_ratio": 0.0, "min_weight_size": 512
        });
        assert_eq!(DeltaConfig::default().to_dict(), coral);
        assert_eq!(DeltaConfig::from_dict(&coral).unwrap(), DeltaConfig::default());
        let changed = serde_json::json!({"delta_type": "sparse", "quantization_bits": 16});
        let config = DeltaConfig::from_dict(&changed).unwrap();
        assert_eq!((config.delta_type, config.quantization_bits, config.min_weight_size), (DeltaType::Sparse, 16, 512));
        assert!(DeltaConfig::from_dict(&serde_json::json!({})).is_err());
        assert!(DeltaConfig::from_dict(&serde_json::json!({"delta_type": "sparse", "x": 1})).is_err());
    }
}
