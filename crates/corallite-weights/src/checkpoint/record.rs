//! A checkpoint's record in the file: a group with the header and the keys.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use corallite_file::AttributeValue;
use corallite_file::hdf5::types::FixedAscii;
use corallite_file::hdf5::{File, Group};

use super::{Checkpoint, CheckpointInfo, CheckpointTensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::hash::{WeightHash, content_hash};
use crate::hdf5_store::library::{Value, read_text, read_unsigned, write_attributes};
use crate::hdf5_store::stored::Body;
use crate::hdf5_store::write::{Describe, Groups, New, Unwatched, write_all};
use crate::hdf5_store::{CHECKPOINTS, Pages, WeightTransaction, checksum};
use crate::safetensors::{Header, MAX_HEADER_LEN};

const HEADER: &str = "header";
const WEIGHTS: &str = "weights";

const FORMAT: &CStr = c"format";
const TENSORS: &CStr = c"tensors";
const BYTES: &CStr = c"bytes";
const ADDED_AT: &CStr = c"added_at";
const SOURCE: &CStr = c"source";
const HEADER_BYTES: &CStr = c"header_bytes";
const HEADER_HASH: &CStr = c"header_hash";
const WEIGHTS_HASH: &CStr = c"weights_hash";
const CHECKSUM: &CStr = c"metadata_checksum";

/// What the header came from.
const SAFETENSORS: &str = "safetensors";
/// Hexadecimal digits of a content hash.
const KEY: usize = 64;

/// A record as read and checked.
pub(super) struct Record {
    pub(super) checkpoint: Checkpoint,
    pub(super) raw_header: Bytes,
}

struct Fields {
    info: CheckpointInfo,
    header_bytes: u64,
    header_hash: String,
    weights_hash: String,
}

impl Fields {
    fn checksum(&self) -> u64 {
        let info = &self.info;
        let numbers = [info.tensors, info.logical_bytes, info.added_at, self.header_bytes].map(|number| number as i64);
        checksum(&[SAFETENSORS, &info.name, &info.source, &self.header_hash, &self.weights_hash], &numbers)
    }
}

struct Plain;

impl Describe for Plain {
    fn attributes(&self, _key: &WeightHash) -> Vec<(&'static CStr, AttributeValue)> {
        Vec::new()
    }
}

/// Writes the record of a new checkpoint.
pub(super) fn write(transaction: &WeightTransaction<'_>, checkpoint: &Checkpoint, raw_header: &Bytes) -> Result<()> {
    let info = &checkpoint.info;
    let fail = |error: corallite_file::hdf5::Error| {
        transaction.inner.explain(&format!("record the checkpoint {}", info.name), &error)
    };
    let group = transaction.file().create_group(&format!("{CHECKPOINTS}/{}", info.name)).map_err(fail)?;
    let shape = vec![raw_header.len() as u64];
    let header_hash = content_hash(Dtype::U8, &shape, raw_header).to_string();
    let header = New {
        key: WeightHash::new(HEADER)?,
        dtype: Dtype::U8,
        shape,
        data: raw_header.clone(),
        place: None,
        base: None,
        description: Arc::new(Plain),
    };
    let groups = Groups { whole: &group, deltas: &group };
    write_all(transaction.inner, groups, &[header], crate::Compression::default(), &Unwatched)?;
    let keys = checkpoint
        .tensors
        .iter()
        .map(|tensor| FixedAscii::<KEY>::from_ascii(tensor.key.as_str()))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| Error::Unsupported {
            what: format!("a checkpoint of weights without content hashes ({error})"),
        })?;
    let dataset = group.new_dataset::<FixedAscii<KEY>>().shape([keys.len()]).create(WEIGHTS).map_err(fail)?;
    dataset.write_raw(&keys).map_err(fail)?;
    let fields = Fields {
        info: info.clone(),
        header_bytes: raw_header.len() as u64,
        header_hash,
        weights_hash: keys_hash(checkpoint.tensors.iter().map(|tensor| tensor.key.as_str())),
    };
    write_attributes(
        &group,
        &[
            (FORMAT, Value::Text(SAFETENSORS)),
            (TENSORS, Value::Unsigned(info.tensors)),
            (BYTES, Value::Unsigned(info.logical_bytes)),
            (ADDED_AT, Value::Unsigned(info.added_at)),
            (SOURCE, Value::Text(&info.source)),
            (HEADER_BYTES, Value::Unsigned(fields.header_bytes)),
            (HEADER_HASH, Value::Text(&fields.header_hash)),
            (WEIGHTS_HASH, Value::Text(&fields.weights_hash)),
            (CHECKSUM, Value::Unsigned(fields.checksum())),
        ],
    )
    .map_err(fail)?;
    Ok(())
}

fn keys_hash<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for key in keys {
        hasher.update(key.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}

/// The names of all checkpoints, sorted.
pub(super) fn names(pages: &dyn Pages, file: &File) -> Result<Vec<String>> {
    if !file.link_exists(CHECKPOINTS) {
        return Ok(Vec::new());
    }
    let list = || file.group(CHECKPOINTS)?.member_names();
    let mut names = list().map_err(|error| pages.explain("list /checkpoints", &error))?;
    names.sort_unstable();
    Ok(names)
}

fn open(pages: &dyn Pages, file: &File, name: &str) -> Result<Option<Group>> {
    let path = format!("{CHECKPOINTS}/{name}");
    if super::check_name(name).is_err() || !file.link_exists(CHECKPOINTS) || !file.link_exists(&path) {
        return Ok(None);
    }
    Ok(Some(file.group(&path).map_err(|error| pages.explain(&format!("open the checkpoint {name}"), &error))?))
}

pub(super) fn damaged(name: &str, problem: impl Into<String>) -> Error {
    Error::DamagedCheckpoint { name: name.to_owned(), problem: problem.into() }
}

fn fields(pages: &dyn Pages, group: &Group, name: &str) -> Result<Fields> {
    let fail = |error: corallite_file::hdf5::Error| pages.explain(&format!("read the checkpoint {name}"), &error);
    let text = |attribute: &CStr| -> Result<String> {
        read_text(group, attribute)
            .map_err(fail)?
            .ok_or_else(|| damaged(name, format!("it has no attribute {attribute:?}")))
    };
    let number = |attribute: &CStr| -> Result<u64> {
        read_unsigned(group, attribute)
            .map_err(fail)?
            .ok_or_else(|| damaged(name, format!("it has no attribute {attribute:?}")))
    };
    let format = text(FORMAT)?;
    if format != SAFETENSORS {
        return Err(damaged(
            name,
            format!("its format is `{}`, where `{SAFETENSORS}` is known", format.escape_default()),
        ));
    }
    let fields = Fields {
        info: CheckpointInfo {
            name: name.to_owned(),
            tensors: number(TENSORS)?,
            logical_bytes: number(BYTES)?,
            added_at: number(ADDED_AT)?,
            source: text(SOURCE)?,
        },
        header_bytes: number(HEADER_BYTES)?,
        header_hash: text(HEADER_HASH)?,
        weights_hash: text(WEIGHTS_HASH)?,
    };
    if number(CHECKSUM)? != fields.checksum() {
        return Err(damaged(name, "its attributes do not match their checksum"));
    }
    Ok(fields)
}

/// What a listing shows.
pub(super) fn read_info(pages: &dyn Pages, file: &File, name: &str) -> Result<CheckpointInfo> {
    let group = open(pages, file, name)?.ok_or_else(|| super::missing(name))?;
    Ok(fields(pages, &group, name)?.info)
}

/// Reads a record and checks that its parts belong together.
pub(super) fn read(pages: &dyn Pages, file: &File, name: &str) -> Result<Option<Record>> {
    let Some(group) = open(pages, file, name)? else { return Ok(None) };
    let fail = |error: corallite_file::hdf5::Error| pages.explain(&format!("read the checkpoint {name}"), &error);
    let fields = fields(pages, &group, name)?;
    if fields.header_bytes > MAX_HEADER_LEN {
        return Err(damaged(name, "its header is larger than any safetensors file may have"));
    }
    let dataset = group.dataset(HEADER).map_err(fail)?;
    let key = WeightHash::new(HEADER)?;
    let body = Body::open(pages, dataset, &key, Dtype::U8, fields.header_bytes)
        .and_then(|body| body.read(pages, 0..body.length));
    let raw_header: Bytes = match body {
        Ok(bytes) => bytes.into(),
        Err(Error::Damaged { problem, .. }) => return Err(damaged(name, format!("header: {problem}"))),
        Err(error) => return Err(error),
    };
    if content_hash(Dtype::U8, &[fields.header_bytes], &raw_header).as_str() != fields.header_hash {
        return Err(damaged(name, "its header does not match its hash"));
    }
    let dataset = group.dataset(WEIGHTS).map_err(fail)?;
    if dataset.size() as u64 != fields.info.tensors {
        return Err(damaged(name, "its list of weights has another length than its record says"));
    }
    let keys = dataset.read_raw::<FixedAscii<KEY>>().map_err(fail)?;
    if keys_hash(keys.iter().map(FixedAscii::as_str)) != fields.weights_hash {
        return Err(damaged(name, "its list of weights does not match its hash"));
    }
    let header = Header::parse(raw_header.clone(), Path::new(name))
        .map_err(|error| damaged(name, format!("its header cannot be read ({error})")))?;
    if header.tensors().len() != keys.len() {
        return Err(damaged(name, "its header names another number of tensors"));
    }
    let tensors = header
        .tensors_in_data_order()
        .zip(&keys)
        .map(|(tensor, key)| {
            Ok(CheckpointTensor {
                name: tensor.name.clone(),
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                key: WeightHash::new(key.as_str())?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let checkpoint = Checkpoint { info: fields.info, metadata: header.metadata().to_vec(), tensors };
    Ok(Some(Record { checkpoint, raw_header }))
}
