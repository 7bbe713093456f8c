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
use crate::dtype::Dtype;
use crate::hash::WeightHash;
use crate::tensor::WeightMetadata;

const NAME: &CStr = c"name";
const SHAPE: &CStr = c"shape";
const DTYPE: &CStr = c"dtype";
const LAYER_TYPE: &CStr = c"layer_type";
const MODEL_NAME: &CStr = c"model_name";
const COMPRESSION_INFO: &CStr = c"compression_info";
const HASH: &CStr = c"hash";
const CHECKSUM: &CStr = c"metadata_checksum";
/// The content hash of a weight stored under a key of the caller's.
const CONTENT_HASH: &CStr = c"content_hash";
/// Marks a weight that exists only because checkpoints refer to it.
const ONLY_FOR_CHECKPOINTS: &CStr = c"only_for_checkpoints";

/// What a weight's attributes say.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) metadata: WeightMetadata,
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
        let sum = checksum(&[&metadata.name, dtype, layer_type, model_name, &info, key.as_str(), content], &shape);
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        let mut attributes = vec![
            (NAME, text(&metadata.name)),
            (SHAPE, AttributeValue::Integers(shape)),
            (DTYPE, text(dtype)),
            (LAYER_TYPE, text(layer_type)),
            (MODEL_NAME, text(model_name)),
            (COMPRESSION_INFO, AttributeValue::Text(info)),
            (HASH, text(key.as_str())),
            (CHECKSUM, AttributeValue::Unsigned(sum)),
        ];
        if self.content_hash.is_some() {
            attributes.push((CONTENT_HASH, text(content)));
        }
        if self.only_for_checkpoints {
            attributes.push((ONLY_FOR_CHECKPOINTS, AttributeValue::Unsigned(1)));
        }
        attributes
    }
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
pub(crate) fn read(source: &impl Attributes, own: OwnType, key: &WeightHash) -> Result<Description, Unreadable> {
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
    if let Some(expected) = source.unsigned(CHECKSUM)? {
        let info = info_text.as_deref().unwrap_or_default();
        let dtype = dtype_name.as_deref().unwrap_or_default();
        if expected != checksum(&[&name, dtype, &layer_type, &model_name, info, &hash, &content], &shape) {
            return Err(damaged("its attributes do not match their checksum".to_owned()));
        }
        if hash != key.as_str() {
            return Err(damaged(format!("it is the weight `{}` under another key", hash.escape_default())));
        }
    }
    let dtype = match (&dtype_name, own.dtype) {
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
    Ok(Description { metadata, content_hash, only_for_checkpoints })
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
