//! The types of deltas, and the settings for making them, under coral's names.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::dict::Dict;
use crate::error::Result;

/// How a delta's data encodes the difference. `docs/store-format.md` lists the bytes of each.
///
/// The lossy types are never chosen by Corallite itself. A delta says in its metadata which it is: `lossless`.
///
/// ```
/// use corallite_weights::DeltaType;
/// assert_eq!(DeltaType::default(), DeltaType::Zigzag);
/// assert_eq!("sparse".parse(), Ok(DeltaType::Sparse));
/// assert_eq!("from_the_future".parse::<DeltaType>().unwrap().as_str(), "from_the_future");
/// assert!(DeltaType::Compressed.is_lossless() && !DeltaType::Sparse.is_lossless());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum DeltaType {
    /// Folded differences of the elements' bits as integers. Lossless, for every dtype.
    #[default]
    Zigzag,
    /// The same, sorted by the exponent of the reference's element. Lossless, for floats of 16 bits and more.
    ZigzagByExponent,
    /// Raw `float32` differences of floats. Exact while few elements need to be listed apart.
    Float32Raw,
    /// Raw `float32` differences, zlib-compressed. Exact as [`Float32Raw`](Self::Float32Raw) is.
    Compressed,
    /// XOR of the bits; exponents and mantissas in two zlib streams. Lossless, for every dtype.
    XorFloat32,
    /// XOR of the bits; upper and lower halves in two zlib streams. Lossless, for every dtype.
    XorBfloat16,
    /// `float32` differences; signs, exponents and mantissas in three zlib streams. Exact as
    /// [`Float32Raw`](Self::Float32Raw) is.
    ExponentMantissa,
    /// Lossy: differences rounded to 256 levels. Off by at most half a level, which is 1/510 of their range.
    Int8Quantized,
    /// Lossy: differences rounded to 65,536 levels. Off by at most half a level, which is 1/131,070 of their range.
    Int16Quantized,
    /// Lossy: pairs of index and difference. Differences up to the threshold are dropped.
    Sparse,
    /// Lossy: differences rounded to 255 levels, with a scale for each row. Off by at most half of the row's scale, which is
    /// 1/254 of the row's largest difference.
    PerAxisScaled,
    /// A type this version does not know; loaded and stored unchanged.
    Other(String),
}

impl DeltaType {
    /// Every known type.
    pub const ALL: [Self; 11] = [
        Self::Zigzag,
        Self::ZigzagByExponent,
        Self::Float32Raw,
        Self::Compressed,
        Self::XorFloat32,
        Self::XorBfloat16,
        Self::ExponentMantissa,
        Self::Int8Quantized,
        Self::Int16Quantized,
        Self::Sparse,
        Self::PerAxisScaled,
    ];

    /// The name in files and dictionaries.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Zigzag => "zigzag",
            Self::ZigzagByExponent => "zigzag_by_exponent",
            Self::Float32Raw => "float32_raw",
            Self::Compressed => "compressed",
            Self::XorFloat32 => "xor_float32",
            Self::XorBfloat16 => "xor_bfloat16",
            Self::ExponentMantissa => "exponent_mantissa",
            Self::Int8Quantized => "int8_quantized",
            Self::Int16Quantized => "int16_quantized",
            Self::Sparse => "sparse",
            Self::PerAxisScaled => "per_axis_scaled",
            Self::Other(name) => name,
        }
    }

    /// Whether a delta of this type that [`DeltaEncoder`](super::DeltaEncoder) made gives back every bit. Nothing is known of
    /// an unknown type, so the answer for it is no.
    pub fn is_lossless(&self) -> bool {
        match self {
            Self::Zigzag
            | Self::ZigzagByExponent
            | Self::Float32Raw
            | Self::Compressed
            | Self::XorFloat32
            | Self::XorBfloat16
            | Self::ExponentMantissa => true,
            Self::Int8Quantized | Self::Int16Quantized | Self::Sparse | Self::PerAxisScaled | Self::Other(_) => false,
        }
    }
}

impl From<&str> for DeltaType {
    fn from(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|known| known.as_str() == name);
        known.unwrap_or_else(|| Self::Other(name.to_owned()))
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

/// Settings for making deltas. Names and defaults are coral's, but for `delta_type`: coral's default, `float32_raw`, cannot
/// give back every weight, so it is [`DeltaType::Zigzag`] here.
///
/// ```
/// use corallite_weights::{DeltaConfig, DeltaType};
/// let config = DeltaConfig { delta_type: DeltaType::Sparse, sparse_threshold: 1e-4, ..DeltaConfig::default() };
/// assert_eq!(DeltaConfig::from_dict(&config.to_dict())?, config);
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConfig {
    /// How differences are encoded.
    pub delta_type: DeltaType,
    /// Differences up to this size count as zero in a sparse delta.
    pub sparse_threshold: f64,
    /// Bits of a quantized difference, 8 or 16. Kept for coral's dictionaries: the type's name says it already.
    pub quantization_bits: u64,
    /// zlib level of compressed deltas, 0 to 9.
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
    const FIELDS: [&'static str; 8] = [
        "delta_type",
        "sparse_threshold",
        "quantization_bits",
        "compression_level",
        "max_delta_ratio",
        "min_compression_ratio",
        "min_weight_size",
        "strict_reconstruction",
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
    /// `strict_reconstruction`, which coral has after 1.0.0, may be there and changes nothing: decoding is always strict.
    ///
    /// # Errors
    /// [`Error::InvalidDict`](crate::Error::InvalidDict) naming the missing, wrong or unknown field.
    pub fn from_dict(dict: &Value) -> Result<Self> {
        let dict = Dict::new("DeltaConfig", dict)?;
        dict.only(&Self::FIELDS)?;
        if !dict.optional("strict_reconstruction").is_none_or(Value::is_boolean) {
            return Err(dict.wrong("strict_reconstruction", "true or false"));
        }
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

    /// The dictionary that `DeltaConfig().to_dict()` gives in coral-ml 1.0.0.
    fn coral() -> Value {
        serde_json::json!({
            "delta_type": "float32_raw", "sparse_threshold": 1e-06, "quantization_bits": 8, "compression_level": 6,
            "max_delta_ratio": 1.0, "min_compression_ratio": 0.0, "min_weight_size": 512
        })
    }

    #[test]
    fn the_default_settings_are_corals_but_for_the_type() {
        let mut wanted = coral();
        wanted["delta_type"] = "zigzag".into();
        assert_eq!(DeltaConfig::default().to_dict(), wanted);
        assert!(DeltaConfig::default().delta_type.is_lossless());
        let of_coral = DeltaConfig { delta_type: DeltaType::Float32Raw, ..DeltaConfig::default() };
        assert_eq!(of_coral.to_dict(), coral());
        assert_eq!(DeltaConfig::from_dict(&coral()).unwrap(), of_coral);
    }

    #[test]
    fn settings_are_read_by_name_and_unknown_or_wrong_ones_refused() {
        let changed =
            serde_json::json!({"delta_type": "sparse", "quantization_bits": 16, "strict_reconstruction": true});
        let config = DeltaConfig::from_dict(&changed).unwrap();
        assert_eq!((config.delta_type, config.quantization_bits, config.min_weight_size), (DeltaType::Sparse, 16, 512));
        for wrong in [
            serde_json::json!({}),
            serde_json::json!({"delta_type": "sparse", "x": 1}),
            serde_json::json!({"delta_type": "sparse", "strict_reconstruction": 1}),
            serde_json::json!({"delta_type": "sparse", "compression_level": -1}),
        ] {
            assert!(DeltaConfig::from_dict(&wrong).is_err(), "{wrong}");
        }
    }

    /// coral's names, of 1.0.0 and after.
    #[test]
    fn every_type_has_corals_name() {
        for name in [
            "float32_raw",
            "compressed",
            "xor_float32",
            "xor_bfloat16",
            "exponent_mantissa",
            "int8_quantized",
            "int16_quantized",
            "sparse",
            "per_axis_scaled",
            "zigzag",
            "zigzag_by_exponent",
        ] {
            let parsed = DeltaType::from(name);
            assert!(!matches!(parsed, DeltaType::Other(_)), "{name}");
            assert_eq!(parsed.as_str(), name);
        }
        assert!(!DeltaType::from("from_the_future").is_lossless());
    }
}
