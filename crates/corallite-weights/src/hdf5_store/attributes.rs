//! The attributes of a weight's dataset: what the documents list, as h5py sees them, and a checksum over them.
//!
//! HDF5 checksums object headers but not the heap that texts of variable length lie in; `metadata_checksum` closes
//! that gap.

use std::ffi::CStr;
use std::hash::Hasher;

use corallite_file::hdf5::{Dataset, Location, Result as H5Result};
use corallite_file::{AttributeValue, DatasetDescription};
use serde_json::{Map, Value as Json};

use super::library::{self, OwnType, read_integers, read_text, read_unsigned};
use super::write::Describe;
use crate::delta::Order;
use crate::dtype::{ByteOrder, Dtype};
use crate::hash::WeightHash;
use crate::tensor::WeightMetadata;

const NAME: &CStr = c"name";
const SHAPE: &CStr = c"shape";
const DTYPE: &CStr = c"dtype";
const LAYER_TYPE: &CStr = c"layer_type";
const MODEL_NAME: &CStr = c"model_name";
const COMPRESSION_INFO: &CStr = c"compression_info";
pub(super) const HASH: &CStr = c"hash";
const CHECKSUM: &CStr = c"metadata_checksum";
/// The content hash of a weight stored under a key of the caller's.
const CONTENT_HASH: &CStr = c"content_hash";
/// Marks a weight that exists only because checkpoints refer to it.
const ONLY_FOR_CHECKPOINTS: &CStr = c"only_for_checkpoints";

const ZIGZAG: &str = "zigzag";
const ZIGZAG_BY_EXPONENT: &str = "zigzag_by_exponent";

/// What is written of a delta, coral's and those that weights are stored as.
pub(super) const DELTA_TYPE: &CStr = c"delta_type";
pub(super) const ORIGINAL_SHAPE: &CStr = c"original_shape";
pub(super) const ORIGINAL_DTYPE: &CStr = c"original_dtype";
pub(super) const REFERENCE_HASH: &CStr = c"reference_hash";
pub(super) const METADATA: &CStr = c"metadata";
/// The chunks within which sorted differences are sorted, whatever chunks the dataset has.
const SORTED_WITHIN: &CStr = c"sorted_within";

/// What a weight is stored as a difference to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeltaOf {
    pub(crate) reference: WeightHash,
    pub(crate) order: Order,
    /// Dimensions of a chunk.
    pub(crate) chunk: Vec<u64>,
}

impl DeltaOf {
    pub(super) fn delta_type(&self) -> &'static str {
        match self.order {
            Order::Natural => ZIGZAG,
            Order::Exponent => ZIGZAG_BY_EXPONENT,
        }
    }
}

/// What a weight's attributes say.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) metadata: WeightMetadata,
    /// For a weight that is stored as a delta.
    pub(crate) delta: Option<DeltaOf>,
    /// For keys that are not the content hash.
    pub(crate) content_hash: Option<WeightHash>,
    pub(crate) only_for_checkpoints: bool,
}

/// Why a weight's attributes cannot be used.
pub(crate) enum Unreadable {
    Library(corallite_file::hdf5::Error),
    Damaged(String),
}

impl From<corallite_file::hdf5::Error> for Unreadable {
    fn from(error: corallite_file::hdf5::Error) -> Self {
        Self::Library(error)
    }
}

/// XXH3-64 over the fields, each text preceded by its length, so that no two descriptions share a sum by shifting.
pub(crate) fn checksum(texts: &[&str], numbers: &[i64]) -> u64 {
    let mut hasher = twox_hash::XxHash3_64::new();
    for text in texts {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    }
    hasher.write(&(numbers.len() as u64).to_le_bytes());
    numbers.iter().for_each(|number| hasher.write(&number.to_le_bytes()));
    hasher.finish()
}

impl Describe for Description {
    fn attributes(&self, key: &WeightHash) -> Vec<(&'static CStr, AttributeValue)> {
        let metadata = &self.metadata;
        let shape: Vec<i64> = metadata.shape.iter().map(|&dim| dim as i64).collect();
        let info = Json::Object(metadata.compression_info.clone()).to_string();
        let layer_type = metadata.layer_type.as_deref().unwrap_or_default();
        let model_name = metadata.model_name.as_deref().unwrap_or_default();
        let content = self.content_hash.as_ref().map(WeightHash::as_str).unwrap_or_default();
        let dtype = metadata.dtype.numpy_name();
        let original_dtype = dtype_text(metadata.dtype);
        let mut texts = vec![metadata.name.as_str(), dtype, layer_type, model_name, &info, key.as_str(), content];
        let mut numbers = shape.clone();
        let chunk: Vec<i64> = self.delta.iter().flat_map(|delta| &delta.chunk).map(|&dim| dim as i64).collect();
        if let Some(delta) = &self.delta {
            texts.extend([delta.delta_type(), &original_dtype, delta.reference.as_str()]);
            numbers.extend(&chunk);
        }
        let sum = checksum(&texts, &numbers);
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        let mut attributes = vec![
            (NAME, text(&metadata.name)),
            (SHAPE, AttributeValue::Integers(shape.clone())),
            (DTYPE, text(dtype)),
            (LAYER_TYPE, text(layer_type)),
            (MODEL_NAME, text(model_name)),
            (COMPRESSION_INFO, AttributeValue::Text(info)),
            (HASH, text(key.as_str())),
            (CHECKSUM, AttributeValue::Unsigned(sum)),
        ];
        if let Some(delta) = &self.delta {
            attributes.extend([
                (DELTA_TYPE, text(delta.delta_type())),
                (ORIGINAL_SHAPE, AttributeValue::Integers(shape)),
                (ORIGINAL_DTYPE, AttributeValue::Text(original_dtype)),
                (REFERENCE_HASH, text(delta.reference.as_str())),
                (METADATA, text("{}")),
                (SORTED_WITHIN, AttributeValue::Integers(chunk)),
            ]);
        }
        if self.content_hash.is_some() {
            attributes.push((CONTENT_HASH, text(content)));
        }
        if self.only_for_checkpoints {
            attributes.push((ONLY_FOR_CHECKPOINTS, AttributeValue::Unsigned(1)));
        }
        attributes
    }
}

/// A dtype as numpy parses it: its name, or with the sign for big-endian.
pub(super) fn dtype_text(dtype: Dtype) -> String {
    match dtype.byte_order() {
        ByteOrder::Little => dtype.numpy_name().to_owned(),
        ByteOrder::Big => dtype.numpy_str(),
    }
}

/// Whether a dataset below `/deltas` is a weight, rather than a delta for its own sake.
pub(crate) fn is_weight<A: Attributes + ?Sized>(source: &A) -> Result<bool, Unreadable> {
    Ok(source.has(HASH)?)
}

/// Where attributes are read from.
pub(crate) trait Attributes {
    fn text(&self, name: &CStr) -> H5Result<Option<String>>;
    fn integers(&self, name: &CStr) -> H5Result<Option<Vec<i64>>>;
    fn unsigned(&self, name: &CStr) -> H5Result<Option<u64>>;
    fn has(&self, name: &CStr) -> H5Result<bool>;
    fn dims(&self) -> Vec<u64>;
}

impl Attributes for Dataset {
    fn text(&self, name: &CStr) -> H5Result<Option<String>> {
        read_text(self, name)
    }

    fn integers(&self, name: &CStr) -> H5Result<Option<Vec<i64>>> {
        read_integers(self, name)
    }

    fn unsigned(&self, name: &CStr) -> H5Result<Option<u64>> {
        read_unsigned(self, name)
    }

    fn has(&self, name: &CStr) -> H5Result<bool> {
        library::has_attribute(self, name)
    }

    fn dims(&self) -> Vec<u64> {
        self.shape().iter().map(|&dim| dim as u64).collect()
    }
}

impl Attributes for DatasetDescription {
    fn text(&self, name: &CStr) -> H5Result<Option<String>> {
        find(self, name, |value| match value {
            AttributeValue::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    fn integers(&self, name: &CStr) -> H5Result<Option<Vec<i64>>> {
        find(self, name, |value| match value {
            AttributeValue::Integers(values) => Some(values.clone()),
            _ => None,
        })
    }

    fn unsigned(&self, name: &CStr) -> H5Result<Option<u64>> {
        find(self, name, |value| match value {
            AttributeValue::Unsigned(value) => Some(*value),
            _ => None,
        })
    }

    fn has(&self, name: &CStr) -> H5Result<bool> {
        Ok(self.attributes.iter().any(|(found, _)| found.as_c_str() == name))
    }

    fn dims(&self) -> Vec<u64> {
        self.dims.clone()
    }
}

fn find<T>(
    described: &DatasetDescription,
    name: &CStr,
    pick: impl FnOnce(&AttributeValue) -> Option<T>,
) -> H5Result<Option<T>> {
    let Some((_, value)) = described.attributes.iter().find(|(found, _)| found.as_c_str() == name) else {
        return Ok(None);
    };
    let wrong = || corallite_file::hdf5::Error::Internal(format!("the attribute {name:?} is of another type"));
    pick(value).map(Some).ok_or_else(wrong)
}

/// Reads the attributes of a weight, written here or by coral. `own` is what its HDF5 type says.
pub(crate) fn read<A: Attributes + ?Sized>(
    source: &A,
    own: OwnType,
    key: &WeightHash,
) -> Result<Description, Unreadable> {
    let damaged = |text: String| Unreadable::Damaged(text);
    let text = |name: &CStr| source.text(name).map(Option::unwrap_or_default);
    let name = text(NAME)?;
    let dtype_name = source.text(DTYPE)?;
    let (layer_type, model_name) = (text(LAYER_TYPE)?, text(MODEL_NAME)?);
    let info_text = source.text(COMPRESSION_INFO)?;
    let hash = text(HASH)?;
    let content = text(CONTENT_HASH)?;
    let shape = match source.integers(SHAPE)? {
        Some(shape) => shape,
        None => source.dims().iter().map(|&dim| dim as i64).collect(),
    };
    let delta_type = text(DELTA_TYPE)?;
    let (original_dtype, reference) = (text(ORIGINAL_DTYPE)?, text(REFERENCE_HASH)?);
    let chunk = source.integers(SORTED_WITHIN)?.unwrap_or_default();
    if let Some(expected) = source.unsigned(CHECKSUM)? {
        let info = info_text.as_deref().unwrap_or_default();
        let dtype = dtype_name.as_deref().unwrap_or_default();
        let mut texts = vec![&*name, dtype, &layer_type, &model_name, info, &hash, &content];
        let mut numbers = shape.clone();
        if !delta_type.is_empty() {
            texts.extend([&*delta_type, &original_dtype, &reference]);
            numbers.extend(&chunk);
        }
        if expected != checksum(&texts, &numbers) {
            return Err(damaged("its attributes do not match their checksum".to_owned()));
        }
        if hash != key.as_str() {
            return Err(damaged(format!("it is the weight `{}` under another key", hash.escape_default())));
        }
    }
    // The elements of a delta are whole numbers, whatever the weight's are.
    let dtype_name = if delta_type.is_empty() { dtype_name } else { Some(original_dtype) };
    let own = if delta_type.is_empty() { own } else { OwnType { order: ByteOrder::Little, ..own } };
    let dtype = match (&dtype_name, own.dtype) {
        (Some(text), _) if !delta_type.is_empty() => match Dtype::from_numpy_name(text) {
            Ok(dtype) => dtype,
            Err(_) => return Err(damaged(format!("its dtype `{}` is not one of weights", text.escape_default()))),
        },
        (Some(text), _) => match Dtype::from_numpy_name(text) {
            Ok(dtype) => dtype.with_byte_order(own.order),
            Err(_) => return Err(damaged(format!("its dtype `{}` is not one of weights", text.escape_default()))),
        },
        (None, Some(own)) => own,
        (None, None) => return Err(damaged("its type is not one of weights".to_owned())),
    };
    if dtype.item_size().unwrap_or(1) != own.size {
        let (size, name) = (own.size, dtype.numpy_name());
        return Err(damaged(format!("its elements have {size} bytes, but its dtype is {name}")));
    }
    let shape: Option<Vec<u64>> = shape.into_iter().map(|dim| u64::try_from(dim).ok()).collect();
    let shape = shape.ok_or_else(|| damaged("its shape has a negative dimension".to_owned()))?;
    let delta = match delta_type.as_str() {
        "" => None,
        ZIGZAG | ZIGZAG_BY_EXPONENT => {
            let order = if delta_type == ZIGZAG { Order::Natural } else { Order::Exponent };
            let chunk: Option<Vec<u64>> = chunk.into_iter().map(|dim| u64::try_from(dim).ok()).collect();
            let reference = WeightHash::new(reference).ok();
            let (Some(chunk), Some(reference)) = (chunk, reference) else {
                return Err(damaged("what it is a delta of cannot be read".to_owned()));
            };
            Some(DeltaOf { reference, order, chunk })
        }
        other => {
            let other = other.escape_default();
            return Err(damaged(format!("it is a delta of the type `{other}`, which weights are not stored as")));
        }
    };
    let compression_info = match info_text.as_deref() {
        None | Some("") => Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Json::Object(map)) => map,
            _ => return Err(damaged("its compression_info is not a JSON object".to_owned())),
        },
    };
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    let mut metadata = WeightMetadata::new(name, shape, dtype);
    metadata.layer_type = filled(layer_type);
    metadata.model_name = filled(model_name);
    metadata.compression_info = compression_info;
    metadata.hash = match filled(hash) {
        Some(text) => WeightHash::new(text).ok(),
        None => Some(key.clone()),
    };
    let content_hash = filled(content).and_then(|text| WeightHash::new(text).ok());
    let only_for_checkpoints = source.has(ONLY_FOR_CHECKPOINTS)?;
    Ok(Description { metadata, delta, content_hash, only_for_checkpoints })
}

/// From now on the weight is kept for its own sake.
pub(crate) fn keep(dataset: &Location) -> H5Result<()> {
    if library::has_attribute(dataset, ONLY_FOR_CHECKPOINTS)? {
        library::delete_attribute(dataset, ONLY_FOR_CHECKPOINTS)?;
    }
    Ok(())
}

/// Whether the weight exists only because checkpoints refer to it.
pub(crate) fn is_only_for_checkpoints(dataset: &Location) -> H5Result<bool> {
    library::has_attribute(dataset, ONLY_FOR_CHECKPOINTS)
}
