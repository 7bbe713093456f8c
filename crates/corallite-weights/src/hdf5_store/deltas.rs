//! Deltas as datasets below `/deltas`, with coral's attributes.

use std::ffi::CStr;
use std::sync::Arc;

use corallite_file::hdf5::{Dataset, File, Group, Result as H5Result};
use corallite_file::{AttributeValue, Snapshot, Transaction};
use serde_json::Value as Json;

use super::attributes::{
    self, DELTA_TYPE, Description, HASH, METADATA, ORIGINAL_DTYPE, ORIGINAL_SHAPE, REFERENCE_HASH, Unreadable,
    checksum, dtype_text,
};
use super::library::{self, Value, read_integers, read_real, read_text, read_unsigned, write_attributes};
use super::stored::{Body, Pages, Stored, dataset_dims};
use super::write::{Describe, Groups, New, Unwatched, unsigned, write_all};
use super::{DELTAS, Hdf5Store, keys};
use crate::delta::{Delta, DeltaType, Difference, Order};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::hash::{WeightHash, content_hash};
use crate::store::{DeltaStorageInfo, DeltaStore, StorageInfo, WeightStore};
use crate::tensor::WeightMetadata;

/// How many of the datasets in the group are weights.
const WEIGHTS_WITHIN: &CStr = c"weights";
const COMPRESSION_RATIO: &CStr = c"compression_ratio";
/// The type of the data where HDF5 has none of its own.
const DATA_DTYPE: &CStr = c"data_dtype";
const DATA_SHAPE: &CStr = c"data_shape";
const DATA_HASH: &CStr = c"data_hash";
const CHECKSUM: &CStr = c"metadata_checksum";

/// What a delta's attributes say.
struct DeltaDescription {
    delta_type: String,
    original_shape: Vec<i64>,
    original_dtype: String,
    reference_hash: WeightHash,
    compression_ratio: f64,
    metadata: String,
    data_dtype: &'static str,
    data_shape: Vec<i64>,
    data_hash: WeightHash,
}

impl DeltaDescription {
    fn of(delta: &Delta) -> Self {
        let signed = |shape: &[u64]| shape.iter().map(|&dim| dim as i64).collect();
        Self {
            delta_type: delta.delta_type.as_str().to_owned(),
            original_shape: signed(&delta.original_shape),
            original_dtype: dtype_text(delta.original_dtype),
            reference_hash: delta.reference_hash.clone(),
            compression_ratio: delta.compression_ratio,
            metadata: Json::Object(delta.metadata.clone()).to_string(),
            data_dtype: delta.data_dtype.numpy_name(),
            data_shape: signed(&delta.data_shape),
            data_hash: content_hash(delta.data_dtype, &delta.data_shape, &delta.data),
        }
    }
}

impl Describe for DeltaDescription {
    fn attributes(&self, _key: &WeightHash) -> Vec<(&'static CStr, AttributeValue)> {
        let sum = checksum(
            &[
                &self.delta_type,
                &self.original_dtype,
                self.reference_hash.as_str(),
                &self.metadata,
                self.data_dtype,
                self.data_hash.as_str(),
            ],
            &numbers(&self.original_shape, &self.data_shape, self.compression_ratio),
        );
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        vec![
            (DELTA_TYPE, text(&self.delta_type)),
            (ORIGINAL_SHAPE, AttributeValue::Integers(self.original_shape.clone())),
            (ORIGINAL_DTYPE, text(&self.original_dtype)),
            (REFERENCE_HASH, text(self.reference_hash.as_str())),
            (COMPRESSION_RATIO, AttributeValue::Real(self.compression_ratio)),
            (METADATA, text(&self.metadata)),
            (DATA_DTYPE, text(self.data_dtype)),
            (DATA_SHAPE, AttributeValue::Integers(self.data_shape.clone())),
            (DATA_HASH, text(self.data_hash.as_str())),
            (CHECKSUM, AttributeValue::Unsigned(sum)),
        ]
    }
}

/// The numbers that the checksum covers.
fn numbers(original: &[i64], data: &[i64], ratio: f64) -> Vec<i64> {
    let mut all = vec![original.len() as i64];
    all.extend_from_slice(original);
    all.extend_from_slice(data);
    all.push(ratio.to_bits() as i64);
    all
}

/// What a dataset below `/deltas` refers to.
pub(crate) struct Reference {
    /// The name of the dataset; its key, if it is a weight.
    pub(crate) name: String,
    /// What is wrong with its attributes, when they cannot be trusted to say it.
    pub(crate) reference: std::result::Result<WeightHash, String>,
    /// Whether it is a weight, rather than a delta for its own sake.
    pub(crate) is_weight: bool,
}

/// What the datasets below `/deltas` refer to.
pub(crate) fn references(pages: &dyn Pages, file: &File) -> Result<Vec<Reference>> {
    let fail = |error: corallite_file::hdf5::Error| pages.explain("list /deltas", &error);
    let mut references = Vec::new();
    if !file.link_exists(DELTAS) {
        return Ok(references);
    }
    let group = file.group(DELTAS).map_err(fail)?;
    for name in group.member_names().map_err(fail)? {
        // What cannot even be opened may be a weight.
        let (is_weight, reference) = look(&group, &name).unwrap_or_else(|error| (true, Err(error.to_string())));
        references.push(Reference { name, reference, is_weight });
    }
    Ok(references)
}

/// Whether a dataset below `/deltas` is a weight, and what it refers to, or what is wrong with its attributes.
fn look(group: &Group, name: &str) -> H5Result<(bool, std::result::Result<WeightHash, String>)> {
    let dataset = group.dataset(name)?;
    if library::has_attribute(&dataset, HASH)? {
        return Ok((true, reference_of_weight(&dataset, name)?));
    }
    let found = Texts::read(&dataset)?;
    let reference = match found.is_as_written {
        true => WeightHash::new(found.reference).map_err(|error| error.to_string()),
        false => Err(OTHER_CHECKSUM.to_owned()),
    };
    Ok((false, reference))
}

/// What a weight is stored as the difference to, or what is wrong with its attributes.
fn reference_of_weight(dataset: &Dataset, name: &str) -> H5Result<std::result::Result<WeightHash, String>> {
    let Ok(key) = WeightHash::new(name) else { return Ok(Err("its name is no key".to_owned())) };
    match attributes::read(dataset, library::own_type(dataset)?, &key) {
        Ok(Description { delta: Some(delta), .. }) => Ok(Ok(delta.reference)),
        Ok(_) => Ok(Err("it does not say what it is a delta of".to_owned())),
        Err(Unreadable::Damaged(problem)) => Ok(Err(problem)),
        Err(Unreadable::Library(error)) => Err(error),
    }
}

const OTHER_CHECKSUM: &str = "its attributes do not match their checksum";

/// What the attributes of a delta for its own sake say.
struct Texts {
    delta_type: String,
    original_dtype: String,
    reference: String,
    metadata: String,
    data_dtype: String,
    data_hash: String,
    original_shape: Option<Vec<i64>>,
    data_shape: Vec<i64>,
    compression_ratio: f64,
    /// Whether they match their checksum, if they have one.
    is_as_written: bool,
}

impl Texts {
    fn read(dataset: &Dataset) -> H5Result<Self> {
        let text = |name: &CStr| read_text(dataset, name).map(Option::unwrap_or_default);
        let mut found = Self {
            delta_type: text(DELTA_TYPE)?,
            original_dtype: text(ORIGINAL_DTYPE)?,
            reference: text(REFERENCE_HASH)?,
            metadata: text(METADATA)?,
            data_dtype: text(DATA_DTYPE)?,
            data_hash: text(DATA_HASH)?,
            original_shape: read_integers(dataset, ORIGINAL_SHAPE)?,
            data_shape: match read_integers(dataset, DATA_SHAPE)? {
                Some(shape) => shape,
                None => dataset.shape().iter().map(|&dim| dim as i64).collect(),
            },
            compression_ratio: read_real(dataset, COMPRESSION_RATIO)?.unwrap_or(0.0),
            is_as_written: true,
        };
        if let Some(expected) = read_unsigned(dataset, CHECKSUM)? {
            let Self { delta_type, original_dtype, reference, metadata, data_dtype, data_hash, .. } = &found;
            let texts = [delta_type, original_dtype, reference, metadata, data_dtype, data_hash];
            let original_shape = found.original_shape.as_deref().unwrap_or_default();
            let numbers = numbers(original_shape, &found.data_shape, found.compression_ratio);
            found.is_as_written = checksum(&texts.map(String::as_str), &numbers) == expected;
        }
        Ok(found)
    }
}

/// How many of the datasets below `/deltas` are weights, as the group notes it.
pub(crate) fn count_weights(pages: &dyn Pages, file: &File) -> Result<u64> {
    if !file.link_exists(DELTAS) {
        return Ok(0);
    }
    let read = || {
        let group = file.group(DELTAS)?;
        // Another program may have removed some, or written anything.
        Ok(read_unsigned(&group, WEIGHTS_WITHIN)?.map_or(0, |count| count.min(group.len())))
    };
    Ok(read().map_err(|error| pages.explain("read /deltas", &error))?)
}

/// Notes how many of them are weights.
pub(crate) fn set_count(transaction: &Transaction<'_>, count: u64) -> Result<()> {
    if count == count_weights(transaction, transaction.file())? {
        return Ok(());
    }
    let write = || {
        let group = transaction.file().group(DELTAS)?;
        if library::has_attribute(&group, WEIGHTS_WITHIN)? {
            library::delete_attribute(&group, WEIGHTS_WITHIN)?;
        }
        write_attributes(&group, &[(WEIGHTS_WITHIN, Value::Unsigned(count))])
    };
    Ok(write().map_err(|error| transaction.explain("count the weights in /deltas", &error))?)
}

/// The keys of the weights below `/deltas`.
pub(crate) fn weights(snapshot: &Snapshot) -> Result<Vec<WeightHash>> {
    let count = count_weights(snapshot, snapshot.file())?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let all = keys(snapshot, DELTAS)?;
    if all.len() as u64 == count {
        return Ok(all);
    }
    let weights = references(snapshot, snapshot.file())?.into_iter().filter(|reference| reference.is_weight);
    weights.map(|reference| WeightHash::new(reference.name)).collect()
}

/// A weight that is stored as a delta, as the difference of all its elements in their order.
fn of_weight(snapshot: &Snapshot, stored: &Stored) -> Result<Option<Delta>> {
    let Some(base) = stored.base() else { return Ok(None) };
    let WeightMetadata { shape, dtype, .. } = stored.metadata().clone();
    let Some(difference) = Difference::new(dtype, Order::Natural) else { return Ok(None) };
    let weight = stored.read(snapshot, 0..stored.length)?;
    stored.verify_bytes(&weight)?;
    let elements = base.read(snapshot, 0..base.length)?;
    let mut data = vec![0; weight.len()];
    difference.encode(&weight, &elements, &mut data)?;
    let (dims, item) = dataset_dims(dtype, &shape)?;
    Ok(Some(Delta {
        delta_type: DeltaType::from("zigzag"),
        data: data.into(),
        data_dtype: unsigned(item),
        data_shape: dims,
        metadata: serde_json::Map::new(),
        original_shape: shape,
        original_dtype: dtype,
        reference_hash: base.key.clone(),
        compression_ratio: StorageInfo::ratio(stored.stored_bytes(), stored.length),
    }))
}

/// Finds a delta and reads its data; checks what was written here, reads what coral wrote.
pub(crate) fn load(snapshot: &Snapshot, key: &WeightHash) -> Result<Option<Delta>> {
    let file = snapshot.file();
    let path = format!("{DELTAS}/{key}");
    if !file.link_exists(DELTAS) || !file.link_exists(&path) {
        return Ok(None);
    }
    let fail = |error: corallite_file::hdf5::Error| -> Error {
        snapshot.explain(&format!("read the delta {key}"), &error).into()
    };
    let damaged = |problem: &str| Error::Damaged { key: key.clone(), problem: problem.to_owned() };
    let dataset = file.dataset(&path).map_err(fail)?;
    if library::has_attribute(&dataset, HASH).map_err(fail)? {
        let stored = Stored::find(snapshot, file, key)?;
        return stored.map_or(Ok(None), |stored| of_weight(snapshot, &stored));
    }
    let Texts {
        delta_type,
        original_dtype,
        reference,
        metadata: metadata_text,
        data_dtype: data_dtype_text,
        data_hash,
        original_shape,
        data_shape,
        compression_ratio,
        is_as_written,
    } = Texts::read(&dataset).map_err(fail)?;
    let original_shape = original_shape.ok_or_else(|| damaged("it has no original_shape"))?;
    if !is_as_written {
        return Err(damaged(OTHER_CHECKSUM));
    }
    let library::OwnType { dtype: own, order, .. } = library::own_type(&dataset).map_err(fail)?;
    let data_dtype = match (data_dtype_text.as_str(), own) {
        ("", Some(own)) => own,
        ("", None) => return Err(damaged("the type of its data is not one of weights")),
        (name, _) => Dtype::from_numpy_name(name)
            .map_err(|_| damaged("the dtype of its data is unknown"))?
            .with_byte_order(order),
    };
    let unsigned = |shape: Vec<i64>| -> Result<Vec<u64>> {
        shape
            .into_iter()
            .map(|dim| u64::try_from(dim).map_err(|_| damaged("a shape has a negative dimension")))
            .collect()
    };
    let (original_shape, data_shape) = (unsigned(original_shape)?, unsigned(data_shape)?);
    let metadata = match serde_json::from_str(if metadata_text.is_empty() { "{}" } else { &metadata_text }) {
        Ok(Json::Object(map)) => map,
        _ => return Err(damaged("its metadata is not a JSON object")),
    };
    let body = Body::open(snapshot, dataset, key, data_dtype, data_dtype.byte_len(&data_shape)?)?;
    let data = body.read(snapshot, 0..body.length)?;
    if !data_hash.is_empty() && content_hash(data_dtype, &data_shape, &data).as_str() != data_hash {
        return Err(damaged("its data does not match its hash"));
    }
    let delta = Delta {
        delta_type: DeltaType::from(delta_type.as_str()),
        data: data.into(),
        data_dtype,
        data_shape,
        metadata,
        original_shape,
        original_dtype: Dtype::from_numpy_name(&original_dtype)
            .map_err(|_| damaged("its original dtype is unknown"))?,
        reference_hash: WeightHash::new(&reference).map_err(|_| damaged("its reference_hash is no key"))?,
        compression_ratio,
    };
    delta.check()?;
    Ok(Some(delta))
}

impl DeltaStore for Hdf5Store {
    fn store_delta(&self, delta: &Delta, delta_hash: &WeightHash) -> Result<WeightHash> {
        delta.check()?;
        if let Some(stored) = load(self.snapshot()?.as_ref(), delta_hash)? {
            let same = stored == *delta
                || (stored.data == delta.data
                    && stored.compression_ratio.to_bits() == delta.compression_ratio.to_bits()
                    && stored.to_dict().0 == delta.to_dict().0);
            return if same { Ok(delta_hash.clone()) } else { Err(Error::Conflict { key: delta_hash.clone() }) };
        }
        self.transaction(|transaction| {
            let group =
                transaction.file().group(DELTAS).map_err(|error| transaction.inner.explain("open /deltas", &error))?;
            let new = New {
                key: delta_hash.clone(),
                dtype: delta.data_dtype,
                shape: delta.data_shape.clone(),
                data: delta.data.clone(),
                place: None,
                base: None,
                description: Arc::new(DeltaDescription::of(delta)),
            };
            write_all(
                transaction.inner,
                Groups { whole: &group, deltas: &group },
                &[new],
                transaction.compression,
                &Unwatched,
            )
            .map(drop)
        })?;
        Ok(delta_hash.clone())
    }

    fn load_delta(&self, delta_hash: &WeightHash) -> Result<Option<Delta>> {
        load(self.snapshot()?.as_ref(), delta_hash)
    }

    fn delta_exists(&self, delta_hash: &WeightHash) -> Result<bool> {
        let file = self.file()?;
        Ok(file.link_exists(DELTAS) && file.link_exists(&format!("{DELTAS}/{delta_hash}")))
    }

    fn delete_delta(&self, delta_hash: &WeightHash) -> Result<bool> {
        if self.find(delta_hash)?.is_some_and(|(_, stored)| stored.base().is_some()) {
            // It is the weight itself.
            return self.delete(delta_hash);
        }
        self.transaction(|transaction| transaction.unlink(DELTAS, delta_hash.as_str()))
    }

    fn list_deltas(&self) -> Result<Vec<WeightHash>> {
        keys(self.snapshot()?.as_ref(), DELTAS)
    }

    fn get_delta_storage_info(&self) -> Result<DeltaStorageInfo> {
        let snapshot = self.snapshot()?;
        let mut info = DeltaStorageInfo::default();
        for key in keys(&snapshot, DELTAS)? {
            let dataset = snapshot
                .file()
                .dataset(&format!("{DELTAS}/{key}"))
                .map_err(|error| snapshot.explain(&format!("read the delta {key}"), &error))?;
            info.total_deltas += 1;
            info.total_delta_bytes +=
                library::extent_bytes(&dataset).map_err(|error| snapshot.explain("read a delta", &error))?;
        }
        Ok(info)
    }
}
