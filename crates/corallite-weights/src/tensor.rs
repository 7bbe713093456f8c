//! A weight tensor: bytes with a shape and a dtype, in memory, mapped, or still in a store.
//!
//! Owns the rule that data, shape and dtype belong together: no [`WeightTensor`] exists whose data
//! has another length than shape × dtype, and data that a source delivers late is checked before it
//! is handed out. Cloning copies no tensor data.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::dict::Dict;
use crate::dtype::{ByteOrder, Dtype, ShapeText, element_count};
use crate::error::{Error, Result};
use crate::hash::{WeightHash, content_hash};
use crate::values;

/// What is known about a weight besides its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightMetadata {
    /// The name in its model, e.g. `encoder.layer.0.attention.self.query.weight`; any text.
    pub name: String,
    /// The dimensions, outermost first; empty for a single number.
    pub shape: Vec<u64>,
    /// The element type.
    pub dtype: Dtype,
    /// The kind of layer it belongs to, where known.
    pub layer_type: Option<String>,
    /// The model it belongs to, where known.
    pub model_name: Option<String>,
    /// Free-form notes of whoever compressed it.
    pub compression_info: Map<String, Value>,
    /// The key it is stored under, once it has one.
    pub hash: Option<WeightHash>,
}

impl WeightMetadata {
    /// Metadata with a name, shape and dtype, and nothing else.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<u64>>, dtype: Dtype) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            dtype,
            layer_type: None,
            model_name: None,
            compression_info: Map::new(),
            hash: None,
        }
    }

    /// The length of the data, in bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] with the weight's name, when shape and dtype make no whole number of bytes.
    pub fn byte_len(&self) -> Result<u64> {
        self.dtype.byte_len(&self.shape).map_err(|error| match error {
            Error::ShapeMismatch { problem, .. } => Error::ShapeMismatch { name: self.name.clone(), problem },
            other => other,
        })
    }
}

/// Where the bytes of a lazily loaded tensor come from.
pub trait WeightSource: Send + Sync {
    /// All bytes of the tensor.
    ///
    /// # Errors
    /// Whatever keeps the source from delivering exactly the bytes that were stored.
    fn read(&self) -> Result<Bytes>;

    /// The bytes of the rows (indices of the first dimension) in `rows`, which the caller has checked
    /// to lie within the shape.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_rows(&self, rows: Range<u64>) -> Result<Bytes>;
}

#[derive(Clone)]
enum Data {
    Held(Bytes),
    Lazy(Arc<dyn WeightSource>),
    Absent,
}

/// A weight: metadata, and data that is held, lazy or absent.
///
/// ```
/// use corallite_weights::{Dtype, WeightTensor};
/// let bytes: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
/// let w = WeightTensor::new("w", vec![2, 3], Dtype::F32, bytes)?;
/// assert_eq!((w.size(), w.nbytes()), (6, 24));
/// assert_eq!(w.rows(1..2)?.data()?, w.data()?.slice(12..));
/// # Ok::<(), corallite_weights::Error>(())
/// ```
#[derive(Clone)]
pub struct WeightTensor {
    metadata: WeightMetadata,
    data: Data,
    store_ref: Option<WeightHash>,
    content: OnceLock<WeightHash>,
}

impl WeightTensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when `data` is not exactly as long as shape and dtype say.
    pub fn new(
        name: impl Into<String>,
        shape: impl Into<Vec<u64>>,
        dtype: Dtype,
        data: impl Into<Bytes>,
    ) -> Result<Self> {
        Self::from_metadata(WeightMetadata::new(name, shape, dtype), data)
    }

    /// A tensor with full metadata.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when `data` is not exactly as long as shape and dtype say.
    pub fn from_metadata(metadata: WeightMetadata, data: impl Into<Bytes>) -> Result<Self> {
        let data = data.into();
        check_len(&metadata, data.len())?;
        Ok(Self::with(metadata, Data::Held(data)))
    }

    /// A tensor whose data is read from `source` whenever it is needed, and not kept.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when shape and dtype make no whole number of bytes.
    pub fn lazy(metadata: WeightMetadata, source: Arc<dyn WeightSource>) -> Result<Self> {
        metadata.byte_len()?;
        Ok(Self::with(metadata, Data::Lazy(source)))
    }

    /// A description without data, as [`from_dict`](Self::from_dict) gives one.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when shape and dtype make no whole number of bytes.
    pub fn without_data(metadata: WeightMetadata) -> Result<Self> {
        metadata.byte_len()?;
        Ok(Self::with(metadata, Data::Absent))
    }

    fn with(metadata: WeightMetadata, data: Data) -> Self {
        Self { metadata, data, store_ref: None, content: OnceLock::new() }
    }

    /// The same tensor, marked as being stored under `key`: both `store_ref` and `metadata.hash` become it.
    #[must_use]
    pub fn stored_as(mut self, key: WeightHash) -> Self {
        self.metadata.hash = Some(key.clone());
        self.store_ref = Some(key);
        self
    }

    /// The bytes, read from the source if they are not in memory. Neither copies nor caches.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a description without data, [`Error::Damaged`] or
    /// [`Error::ShapeMismatch`] when a source delivers the wrong length, and whatever the source reports.
    pub fn data(&self) -> Result<Bytes> {
        match &self.data {
            Data::Held(bytes) => Ok(bytes.clone()),
            Data::Lazy(source) => {
                let bytes = source.read()?;
                self.check_delivered(bytes.len(), self.nbytes())?;
                Ok(bytes)
            }
            Data::Absent => Err(Error::NotFound { what: format!("data for weight `{}`", self.metadata.name) }),
        }
    }

    fn check_delivered(&self, got: usize, want: u64) -> Result<()> {
        if got as u64 == want {
            return Ok(());
        }
        let problem = format!("{want} bytes were expected and its source delivered {got}");
        Err(match &self.store_ref {
            Some(key) => Error::Damaged { key: key.clone(), problem },
            None => Error::ShapeMismatch { name: self.metadata.name.clone(), problem },
        })
    }

    /// Whether the bytes are in memory (or mapped) already.
    pub fn has_data(&self) -> bool {
        matches!(self.data, Data::Held(_))
    }

    /// Reads the bytes of a lazy tensor and keeps them.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn materialize(&mut self) -> Result<()> {
        self.data = Data::Held(self.data()?);
        Ok(())
    }

    /// Replaces data, shape and dtype, and forgets every hash.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when they do not belong together; then nothing has changed.
    pub fn set_data(&mut self, shape: impl Into<Vec<u64>>, dtype: Dtype, data: impl Into<Bytes>) -> Result<()> {
        let data = data.into();
        let metadata = WeightMetadata { shape: shape.into(), dtype, hash: None, ..self.metadata.clone() };
        check_len(&metadata, data.len())?;
        *self = Self::with(metadata, Data::Held(data));
        Ok(())
    }

    /// The metadata.
    pub fn metadata(&self) -> &WeightMetadata {
        &self.metadata
    }

    /// Says which model it belongs to.
    pub fn set_model_name(&mut self, model_name: Option<String>) {
        self.metadata.model_name = model_name;
    }

    /// Renames the weight. The name is not part of its identity.
    pub fn set_name(&mut self, name: impl Into<String>) {
        self.metadata.name = name.into();
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.metadata.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.metadata.dtype
    }

    /// The name in its model.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The key under which a store holds it, if it came from one.
    pub fn store_ref(&self) -> Option<&WeightHash> {
        self.store_ref.as_ref()
    }

    /// The number of elements.
    pub fn size(&self) -> u64 {
        // Every constructor has checked that the product exists.
        element_count(&self.metadata.shape).unwrap_or(0)
    }

    /// The length of the data, in bytes.
    pub fn nbytes(&self) -> u64 {
        self.metadata.byte_len().unwrap_or(0)
    }

    /// The [content hash](content_hash), computed at the first call and remembered.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn content_hash(&self) -> Result<WeightHash> {
        if let Some(hash) = self.content.get() {
            return Ok(hash.clone());
        }
        let hash = content_hash(self.metadata.dtype, &self.metadata.shape, &self.data()?);
        Ok(self.content.get_or_init(|| hash).clone())
    }

    /// The content hash, which also becomes `metadata.hash`; `force` computes it anew.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn compute_hash(&mut self, force: bool) -> Result<WeightHash> {
        if force {
            self.content = OnceLock::new();
        }
        let hash = self.content_hash()?;
        self.metadata.hash = Some(hash.clone());
        Ok(hash)
    }

    /// Whether both have the same dtype, shape and bytes. Names do not count.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn same_content(&self, other: &Self) -> Result<bool> {
        Ok(self.dtype() == other.dtype() && self.shape() == other.shape() && self.data()? == other.data()?)
    }

    /// Whether the cosine similarity of the two reaches `threshold` (coral's default is 0.99).
    ///
    /// Tensors of different shape or dtype are not similar; neither is anything with a NaN. If either
    /// is all zeros (or empty), both must be. A complex element counts as two numbers.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn is_similar_to(&self, other: &Self, threshold: f64) -> Result<bool> {
        if self.shape() != other.shape() || self.dtype() != other.dtype() {
            return Ok(false);
        }
        let (a, b) = (self.data()?, other.data()?);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let (mut dot, mut norm_a, mut norm_b) = (0.0f64, 0.0f64, 0.0f64);
        for (piece_a, piece_b) in a.chunks(values::PIECE).zip(b.chunks(values::PIECE)) {
            values::decode(self.dtype(), piece_a, &mut x);
            values::decode(self.dtype(), piece_b, &mut y);
            for (&p, &q) in x.iter().zip(&y) {
                dot += p * q;
                norm_a += p * p;
                norm_b += q * q;
            }
        }
        if norm_a == 0.0 || norm_b == 0.0 {
            return Ok(norm_a == norm_b);
        }
        Ok(dot / (norm_a.sqrt() * norm_b.sqrt()) >= threshold)
    }

    /// The rows (indices of the first dimension) in `rows`, as a tensor of the same rank and name.
    ///
    /// Held data is sliced without a copy; a lazy tensor reads just these rows.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a 0-d tensor, rows outside the shape, and 4- or 6-bit rows that do not
    /// start at a whole byte; otherwise as [`data`](Self::data).
    pub fn rows(&self, rows: Range<u64>) -> Result<WeightTensor> {
        let refuse = |why: &str| {
            Error::unsupported(format!(
                "rows {}..{} of weight `{}` of shape {}: {why}",
                rows.start,
                rows.end,
                self.name(),
                ShapeText(self.shape())
            ))
        };
        let (&count, row_shape) = self.shape().split_first().ok_or_else(|| refuse("a 0-d tensor has no rows"))?;
        if rows.start > rows.end || rows.end > count {
            return Err(refuse("they lie outside the first dimension"));
        }
        let mut shape = vec![rows.end - rows.start];
        shape.extend_from_slice(row_shape);
        // A shape with a zero in it may overflow without that zero, so an empty result is settled first.
        let bytes = if self.nbytes() == 0 || rows.is_empty() {
            Bytes::new()
        } else {
            let row = self.dtype().byte_len(row_shape).map_err(|_| refuse("its rows do not fill whole bytes"))?;
            let (start, end) = (rows.start * row, rows.end * row);
            match &self.data {
                Data::Lazy(source) => {
                    let bytes = source.read_rows(rows.clone())?;
                    self.check_delivered(bytes.len(), end - start)?;
                    bytes
                }
                _ => self.data()?.slice(start as usize..end as usize),
            }
        };
        let metadata = WeightMetadata { shape, hash: None, ..self.metadata.clone() };
        Self::from_metadata(metadata, bytes)
    }

    /// The description as a dictionary, in coral's form; the data itself is not in it.
    ///
    /// `byte_order: "big"` is added for big-endian tensors, which coral cannot express.
    ///
    /// # Errors
    /// As [`data`](Self::data), because the hash is computed; a description without data keeps the hash it has.
    pub fn to_dict(&self) -> Result<Value> {
        let hash = match self.data {
            Data::Absent => self.metadata.hash.clone(),
            _ => Some(self.content_hash()?),
        };
        let mut metadata = serde_json::json!({
            "name": self.metadata.name,
            "shape": self.metadata.shape,
            "dtype": self.metadata.dtype.numpy_name(),
            "layer_type": self.metadata.layer_type,
            "model_name": self.metadata.model_name,
            "compression_info": self.metadata.compression_info,
            "hash": hash.as_ref().map(WeightHash::as_str),
        });
        if self.metadata.dtype.byte_order() == ByteOrder::Big {
            metadata["byte_order"] = "big".into();
        }
        Ok(serde_json::json!({
            "metadata": metadata,
            "store_ref": self.store_ref.as_ref().map(WeightHash::as_str),
            "has_data": self.has_data(),
        }))
    }

    /// A tensor from [`to_dict`](Self::to_dict)'s dictionary, with its data if given.
    ///
    /// # Errors
    /// [`Error::InvalidDict`] naming the wrong field, [`Error::UnknownDtype`], [`Error::InvalidKey`], and
    /// [`Error::ShapeMismatch`] when the data does not fit the description.
    pub fn from_dict(dict: &Value, data: Option<Bytes>) -> Result<Self> {
        let outer = Dict::new("WeightTensor", dict)?;
        let inner = Dict::new("WeightTensor", outer.field("metadata")?)?;
        let order = match inner.optional_text("byte_order")? {
            Some("big") => ByteOrder::Big,
            _ => ByteOrder::Little,
        };
        let metadata = WeightMetadata {
            name: inner.text("name")?.to_owned(),
            shape: inner.shape("shape")?,
            dtype: Dtype::from_numpy_name(inner.text("dtype")?)?,
            layer_type: inner.optional_text("layer_type")?.map(str::to_owned),
            model_name: inner.optional_text("model_name")?.map(str::to_owned),
            compression_info: inner.optional_map("compression_info")?.unwrap_or_default(),
            hash: inner.optional_text("hash")?.map(WeightHash::new).transpose()?,
        };
        let metadata = match order {
            ByteOrder::Big => WeightMetadata { dtype: metadata.dtype.with_byte_order(order), ..metadata },
            ByteOrder::Little => metadata,
        };
        let mut tensor = match data {
            Some(data) => Self::from_metadata(metadata, data)?,
            None => Self::without_data(metadata)?,
        };
        tensor.store_ref = outer.optional_text("store_ref")?.map(WeightHash::new).transpose()?;
        Ok(tensor)
    }
}

fn check_len(metadata: &WeightMetadata, got: usize) -> Result<()> {
    let want = metadata.byte_len()?;
    if got as u64 == want {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        name: metadata.name.clone(),
        problem: format!(
            "{} elements of {} take {want} bytes and the data has {got}",
            ShapeText(&metadata.shape),
            metadata.dtype
        ),
    })
}

impl fmt::Display for WeightTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "WeightTensor(name='{}', shape={}, dtype={}, size={}, nbytes={})",
            self.name(),
            ShapeText(self.shape()),
            self.dtype(),
            self.size(),
            self.nbytes()
        )
    }
}

impl fmt::Debug for WeightTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
