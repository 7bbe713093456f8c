//! Making deltas and applying them.
//!
//! Owns what all types share: which pairs make a delta, the label `lossless` and the hash that a lossless delta is checked by,
//! and that a delta is applied to the reference it names and to no other.

use bytes::Bytes;

use super::fields::{Checked, Encoded, Fields, Wrong, wrong};
use super::{Delta, DeltaConfig, DeltaType, OBJECT_OVERHEAD};
use super::{float, lossless, per_axis, quantized, raw, sparse};
use crate::dtype::{Dtype, ShapeText};
use crate::error::{Error, Result};
use crate::hash::{content_hash, coral_hash};
use crate::tensor::{WeightMetadata, WeightTensor};

/// The metadata that every delta made here carries; coral's lack them.
const LOSSLESS: &str = "lossless";
/// The content hash of the weight, for lossless types.
const CONTENT_HASH: &str = "content_hash";
/// How far the decoded weight is from the original at most, for lossy types.
const MAX_ERROR: &str = "max_error";

/// What coral's estimate adds for the metadata.
const METADATA_OVERHEAD: u64 = 200;

/// Makes deltas as its settings say, and applies deltas of any known type.
///
/// Only [lossless types](DeltaType::is_lossless) are used unless the settings name a lossy one. A lossless delta that this
/// encoder makes gives back every bit, and is checked when it is decoded; a lossy one says in its metadata how far it is
/// off, `max_error`.
///
/// ```
/// use corallite_weights::{DeltaConfig, DeltaEncoder, DeltaType, Dtype, WeightTensor};
/// let bytes = |step: f32| -> Vec<u8> { (0..300).flat_map(|i| (i as f32 * 0.01 + step).to_le_bytes()).collect() };
/// let before = WeightTensor::new("w", vec![300], Dtype::F32, bytes(0.0))?;
/// let after = WeightTensor::new("w", vec![300], Dtype::F32, bytes(1e-4))?;
///
/// let encoder = DeltaEncoder::default();
/// assert!(encoder.can_encode_as_delta(&after, &before)?);
/// let delta = encoder.encode_delta(&after, &before)?;
/// assert_eq!(encoder.decode_delta(&delta, &before)?.data()?, after.data()?); // bit for bit
///
/// let small = DeltaEncoder::new(DeltaConfig { delta_type: DeltaType::Int8Quantized, ..DeltaConfig::default() });
/// let delta = small.encode_delta(&after, &before)?;
/// assert_eq!((delta.data.len(), delta.metadata["lossless"].as_bool()), (300, Some(false)));
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeltaEncoder {
    /// The settings.
    pub config: DeltaConfig,
}

impl DeltaEncoder {
    /// An encoder with these settings. [`DeltaEncoder::default`] is lossless.
    pub fn new(config: DeltaConfig) -> Self {
        Self { config }
    }

    /// Whether a delta of these two is worth making, by coral's rules.
    ///
    /// Shape and dtype have to be the same, and the weight at least `min_weight_size` bytes. Lossless types then always are:
    /// how small they become is known after the filters only. Lossy ones are if the estimated size meets
    /// `min_compression_ratio` and `max_delta_ratio`. Types that do not take the dtype, and unknown ones, never are.
    ///
    /// # Errors
    /// As [`WeightTensor::data`], which a sparse estimate reads.
    pub fn can_encode_as_delta(&self, weight: &WeightTensor, reference: &WeightTensor) -> Result<bool> {
        let delta_type = &self.config.delta_type;
        let takes_dtype = match delta_type {
            DeltaType::Zigzag | DeltaType::XorFloat32 | DeltaType::XorBfloat16 => true,
            DeltaType::ZigzagByExponent => lossless::has_exponent(weight.dtype()),
            DeltaType::Other(_) => false,
            _ => float::is_float(weight.dtype()),
        };
        if !takes_dtype || !is_alike(weight, reference) || weight.nbytes() < self.config.min_weight_size {
            return Ok(false);
        }
        if delta_type.is_lossless() {
            return Ok(true);
        }
        let data = match delta_type {
            // Coral counts four bytes for an index and an element here.
            DeltaType::Sparse => self.kept(weight, reference)? * (weight.dtype().shuffle_size() as u64 + 4),
            _ => self.estimate_delta_size(weight, reference)?,
        };
        let ratio = (data + METADATA_OVERHEAD + OBJECT_OVERHEAD) as f64 / weight.nbytes() as f64;
        Ok(1.0 - ratio >= self.config.min_compression_ratio && ratio <= self.config.max_delta_ratio)
    }

    /// The size of a delta's data in bytes, before any filter and without encoding it, as coral estimates it.
    ///
    /// # Errors
    /// As [`WeightTensor::data`].
    pub fn estimate_delta_size(&self, weight: &WeightTensor, reference: &WeightTensor) -> Result<u64> {
        if !is_alike(weight, reference) {
            return Ok(weight.nbytes());
        }
        Ok(match self.config.delta_type {
            DeltaType::Sparse if float::is_float(weight.dtype()) => self.kept(weight, reference)? * 8,
            DeltaType::Int8Quantized => weight.size(),
            DeltaType::Int16Quantized => weight.size().saturating_mul(2),
            DeltaType::PerAxisScaled => {
                let (rows, _) = per_axis::rows(weight.shape(), weight.size() as usize);
                weight.size().saturating_add(4 * rows as u64)
            }
            _ => weight.nbytes(),
        })
    }

    fn kept(&self, weight: &WeightTensor, reference: &WeightTensor) -> Result<u64> {
        sparse::count(weight.dtype(), &weight.data()?, &reference.data()?, self.config.sparse_threshold)
    }

    /// Encodes `weight` as its delta to `reference`, whose key is its `store_ref`, or else its content hash.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the two differ in shape or dtype. [`Error::Unsupported`] for an unknown type or a setting
    /// out of range, for a dtype that the type does not take, for a NaN or an infinity in a lossy delta, and for float
    /// differences that would change more elements than the metadata can list; it names the type that serves. Otherwise as
    /// [`WeightTensor::data`].
    pub fn encode_delta(&self, weight: &WeightTensor, reference: &WeightTensor) -> Result<Delta> {
        if !is_alike(weight, reference) {
            let problem = format!(
                "it is {} of {} and its reference is {} of {}",
                ShapeText(weight.shape()),
                weight.dtype(),
                ShapeText(reference.shape()),
                reference.dtype()
            );
            return Err(Error::ShapeMismatch { name: weight.name().to_owned(), problem });
        }
        let (dtype, shape, delta_type) = (weight.dtype(), weight.shape(), &self.config.delta_type);
        let (bytes, base) = (weight.data()?, reference.data()?);
        let encoded = match delta_type {
            DeltaType::Zigzag | DeltaType::ZigzagByExponent => {
                lossless::encode_zigzag(delta_type, dtype, shape, &bytes, &base)?
            }
            DeltaType::XorFloat32 | DeltaType::XorBfloat16 => {
                lossless::encode_xor(delta_type, dtype, shape, &bytes, &base)?
            }
            DeltaType::Float32Raw => raw::encode_raw(dtype, shape, &bytes, &base)?,
            DeltaType::Compressed => {
                raw::encode_compressed(dtype, shape, &bytes, &base, self.config.compression_level)?
            }
            DeltaType::ExponentMantissa => raw::encode_exponent_mantissa(dtype, shape, &bytes, &base)?,
            DeltaType::Int8Quantized | DeltaType::Int16Quantized => {
                quantized::encode(delta_type, dtype, shape, &bytes, &base)?
            }
            DeltaType::Sparse => sparse::encode(&self.config, dtype, shape, &bytes, &base)?,
            DeltaType::PerAxisScaled => per_axis::encode(dtype, shape, &bytes, &base)?,
            DeltaType::Other(name) => {
                return Err(Error::unsupported(format!("the delta type `{name}`; `zigzag` is the usual one")));
            }
        };
        let is_lossless = delta_type.is_lossless();
        let Encoded { data, dtype: data_dtype, shape: data_shape, metadata } = encoded.with(LOSSLESS, is_lossless);
        let mut delta = Delta {
            delta_type: delta_type.clone(),
            data: data.into(),
            data_dtype,
            data_shape,
            metadata,
            original_shape: shape.to_vec(),
            original_dtype: dtype,
            reference_hash: match reference.store_ref() {
                Some(key) => key.clone(),
                None => reference.content_hash()?,
            },
            compression_ratio: 0.0,
        };
        let (label, value) = if is_lossless {
            (CONTENT_HASH, weight.content_hash()?.as_str().into())
        } else {
            (MAX_ERROR, max_error(&delta, &bytes, &base)?.into())
        };
        delta.metadata.insert(label.to_owned(), value);
        if weight.nbytes() > 0 {
            delta.compression_ratio = (weight.nbytes() as f64 - delta.nbytes() as f64) / weight.nbytes() as f64;
        }
        Ok(delta)
    }

    /// Gives back the weight that `delta` was made of, with the name and the other metadata of `reference`.
    ///
    /// A delta of a lossless type that carries a `content_hash` is checked by it. Deltas that coral has written decode as coral
    /// decodes them.
    ///
    /// # Errors
    /// [`Error::Delta`] naming the field that is wrong: `reference_hash` when `reference` has neither that key nor that
    /// content, `original_shape` and `original_dtype` when it has others, `delta_type` when it is unknown, `content_hash`
    /// when the result is not the weight, and whatever else is damaged. [`Error::ShapeMismatch`] when data and shape do not
    /// belong together. Otherwise as [`WeightTensor::data`].
    pub fn decode_delta(&self, delta: &Delta, reference: &WeightTensor) -> Result<WeightTensor> {
        delta.check()?;
        let base = reference.data()?;
        let explain = |wrong: Wrong| Error::Delta {
            reference: delta.reference_hash.clone(),
            field: wrong.field,
            problem: wrong.problem,
        };
        check_reference(delta, reference, &base).map_err(explain)?;
        let dtype = delta.original_dtype;
        let base = if dtype == reference.dtype() { base } else { swapped(dtype, &base) };
        let decoded = decode(delta, &base).map_err(explain)?;
        let metadata = WeightMetadata { hash: None, dtype, ..reference.metadata().clone() };
        WeightTensor::from_metadata(metadata, decoded)
    }
}

fn is_alike(weight: &WeightTensor, reference: &WeightTensor) -> bool {
    weight.shape() == reference.shape() && weight.dtype() == reference.dtype()
}

/// A delta applied to another weight would give a third that nobody ever had. (coral warns and goes on.)
fn check_reference(delta: &Delta, reference: &WeightTensor, base: &[u8]) -> Checked<()> {
    let (dtype, shape) = (reference.dtype(), reference.shape());
    if delta.original_shape != shape {
        return wrong(
            "original_shape",
            format!("is {} and the reference's is {}", ShapeText(&delta.original_shape), ShapeText(shape)),
        );
    }
    let is_other_order = delta.original_dtype.with_byte_order(dtype.byte_order()) == dtype;
    // Coral's files do not say that a delta is big-endian; what it decodes is little-endian then.
    let is_turned = is_other_order && !delta.metadata.contains_key(LOSSLESS);
    if delta.original_dtype != dtype && !is_turned {
        return wrong("original_dtype", format!("is {} and the reference's is {dtype}", delta.original_dtype));
    }
    let wanted = &delta.reference_hash;
    let is_it = reference.store_ref() == Some(wanted)
        || *wanted == if wanted.is_content_hash() { content_hash } else { coral_hash }(dtype, shape, base);
    if is_it {
        return Ok(());
    }
    wrong("reference_hash", "names another weight than the one given")
}

/// The same numbers in the other byte order.
fn swapped(dtype: Dtype, bytes: &Bytes) -> Bytes {
    let mut swapped = bytes.to_vec();
    swapped.chunks_exact_mut(dtype.swap_size()).for_each(<[u8]>::reverse);
    swapped.into()
}

/// The bytes of the weight.
fn decode(delta: &Delta, base: &[u8]) -> Checked<Vec<u8>> {
    let fields = Fields(&delta.metadata);
    let is_lossless = delta.delta_type.is_lossless();
    let label = fields.flag(LOSSLESS)?;
    if label == Some(!is_lossless) {
        return wrong(LOSSLESS, format!("contradicts the type `{}`", delta.delta_type));
    }
    let is_ours = label.is_some();
    let decoded = match &delta.delta_type {
        DeltaType::Zigzag | DeltaType::ZigzagByExponent => lossless::decode_zigzag(delta, fields, base)?,
        DeltaType::XorFloat32 | DeltaType::XorBfloat16 => lossless::decode_xor(delta, fields, base, is_ours)?,
        DeltaType::Float32Raw | DeltaType::Compressed | DeltaType::ExponentMantissa => {
            raw::decode(delta, fields, base)?
        }
        DeltaType::Int8Quantized | DeltaType::Int16Quantized => quantized::decode(delta, fields, base)?,
        DeltaType::Sparse => sparse::decode(delta, fields, base, is_ours)?,
        DeltaType::PerAxisScaled => per_axis::decode(delta, fields, base)?,
        DeltaType::Other(name) => {
            return wrong("delta_type", format!("is `{}`, which this version does not know", name.escape_debug()));
        }
    };
    if let Some(wanted) = fields.text(CONTENT_HASH)?.filter(|_| is_lossless)
        && content_hash(delta.original_dtype, &delta.original_shape, &decoded).as_str() != wanted
    {
        return wrong(CONTENT_HASH, "is not that of the result, so the data or the reference is damaged");
    }
    Ok(decoded)
}

/// How far the elements of a delta just made are off at most. Looking is the only way to know: sums in a narrow float round,
/// and may end at infinity.
fn max_error(delta: &Delta, weight: &[u8], base: &[u8]) -> Result<f64> {
    let dtype = delta.original_dtype;
    let decoded = decode(delta, base).map_err(|wrong| Error::unsupported(wrong.problem))?;
    let mut most = 0.0_f64;
    float::pairs(dtype, weight, &decoded, |values, found| {
        most = values.iter().zip(found).map(|(value, found)| (value - found).abs()).fold(most, f64::max);
        Ok(())
    })?;
    if most.is_finite() {
        return Ok(most);
    }
    Err(Error::unsupported(format!(
        "a `{}` delta of values so near the largest of {dtype} that rounding makes them infinite; use `zigzag`",
        delta.delta_type
    )))
}
