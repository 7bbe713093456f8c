//! Writing safetensors files: one that existed before, byte for byte, or a new one in the layout of
//! the official library.
//!
//! Streams: holds one tensor at a time. What is written is checked against the header, so a file
//! that was written without error is well formed.

use std::collections::HashSet;
use std::io::Write;

use bytes::Bytes;

use super::header::{Header, MAX_HEADER_LEN, in_memory, too_long};
use crate::dtype::{ByteOrder, Dtype};
use crate::error::{Error, Result};
use crate::tensor::WeightTensor;

/// Writes the file that `raw_header` (without the length field) came from; `tensors` are the bytes in the
/// order of the data. Returns the file's length in bytes. On an error, what was written is incomplete.
///
/// ```
/// use corallite_weights::safetensors::{SafetensorsFile, write_exact};
/// # use corallite_weights::{Dtype, WeightTensor, safetensors::write};
/// # let mut original = Vec::new();
/// # write(&mut original, &[WeightTensor::new("w", vec![2], Dtype::U8, vec![1, 2])?], &[])?;
/// let file = SafetensorsFile::from_bytes(original.clone())?;
/// let mut copy = Vec::new();
/// write_exact(&mut copy, file.header().raw(), file.tensors_in_data_order().map(|t| Ok(t.data())))?;
/// assert_eq!(copy, original);
/// # Ok::<(), corallite_weights::Error>(())
/// ```
///
/// # Errors
/// [`Error::Safetensors`] when the header is not well formed, [`Error::ShapeMismatch`] when a tensor has another
/// length than the header says or their number differs, [`Error::Io`], and what the iterator reports.
pub fn write_exact(
    out: impl Write,
    raw_header: &[u8],
    tensors: impl IntoIterator<Item = Result<Bytes>>,
) -> Result<u64> {
    let header = Header::parse(Bytes::copy_from_slice(raw_header), &in_memory())?;
    write_body(out, &header, tensors)
}

/// Writes a new file, laid out as the official library does: by dtype, widest first, then by name.
/// Returns the file's length in bytes.
///
/// # Errors
/// As [`header_for`] and [`write_exact`], and what reading a lazy tensor reports.
pub fn write(out: impl Write, tensors: &[WeightTensor], metadata: &[(String, String)]) -> Result<u64> {
    let describe = |tensor: &WeightTensor| (tensor.name().to_owned(), tensor.dtype(), tensor.shape().to_vec());
    let described: Vec<_> = tensors.iter().map(describe).collect();
    let header = header_for(&described, metadata)?;
    let mut sorted: Vec<&WeightTensor> = tensors.iter().collect();
    sorted.sort_by(|a, b| b.dtype().kind().cmp(&a.dtype().kind()).then_with(|| a.name().cmp(b.name())));
    write_body(out, &header, sorted.into_iter().map(WeightTensor::data))
}

/// The header that the official library writes for these tensors (name, dtype, shape) and metadata.
///
/// # Errors
/// [`Error::DuplicateName`], [`Error::Unsupported`] for big-endian tensors and dtypes safetensors lacks, more
/// than 64 dimensions, a tensor called `__metadata__` or a header beyond 100 MB, [`Error::ShapeMismatch`].
pub fn header_for(tensors: &[(String, Dtype, Vec<u64>)], metadata: &[(String, String)]) -> Result<Header> {
    let mut sorted: Vec<&(String, Dtype, Vec<u64>)> = tensors.iter().collect();
    sorted.sort_by(|a, b| b.1.kind().cmp(&a.1.kind()).then_with(|| a.0.cmp(&b.0)));
    unique(metadata.iter().map(|(key, _)| key))?;
    unique(sorted.iter().map(|(name, ..)| name))?;

    let mut json = Vec::from(b"{");
    if !metadata.is_empty() {
        json.extend_from_slice(b"\"__metadata__\":{");
        for (i, (key, value)) in metadata.iter().enumerate() {
            separate(&mut json, i);
            put(&mut json, key)?;
            json.push(b':');
            put(&mut json, value)?;
        }
        json.push(b'}');
    }
    let mut offset = 0u64;
    for (i, (name, dtype, shape)) in sorted.into_iter().enumerate() {
        if name == "__metadata__" {
            return Err(Error::unsupported("safetensors reserves the name `__metadata__`; rename the tensor"));
        }
        let label = dtype.safetensors_name().filter(|_| dtype.byte_order() == ByteOrder::Little).ok_or_else(|| {
            Error::unsupported(format!("safetensors cannot hold `{name}` of type {dtype}; convert it first"))
        })?;
        let len = dtype.byte_len(shape)?;
        let end = offset
            .checked_add(len)
            .ok_or_else(|| Error::unsupported("more than 2^64 bytes of tensors in one file; split them"))?;
        separate(&mut json, i + usize::from(!metadata.is_empty()));
        put(&mut json, name)?;
        json.extend_from_slice(b":{\"dtype\":");
        put(&mut json, label)?;
        json.extend_from_slice(b",\"shape\":");
        put(&mut json, shape)?;
        json.extend_from_slice(b",\"data_offsets\":");
        put(&mut json, &[offset, end])?;
        json.push(b'}');
        offset = end;
    }
    json.push(b'}');
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() as u64 > MAX_HEADER_LEN {
        return Err(Error::unsupported(too_long(json.len() as u64)));
    }
    Header::parse(json.into(), &in_memory()).map_err(|error| match error {
        Error::Safetensors { problem, .. } => Error::unsupported(problem),
        other => other,
    })
}

fn separate(json: &mut Vec<u8>, index: usize) {
    if index > 0 {
        json.push(b',');
    }
}

fn put<T: serde::Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(json, value).map_err(|e| Error::unsupported(format!("a header that is not JSON: {e}")))
}

fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::DuplicateName { name: name.clone() });
        }
    }
    Ok(())
}

fn write_body(mut out: impl Write, header: &Header, tensors: impl IntoIterator<Item = Result<Bytes>>) -> Result<u64> {
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("<output>", e));
    put(&(header.raw().len() as u64).to_le_bytes())?;
    put(header.raw())?;
    let mut tensors = tensors.into_iter();
    for info in header.tensors_in_data_order() {
        let mismatch = |problem: String| Error::ShapeMismatch { name: info.name.clone(), problem };
        let bytes = tensors.next().ok_or_else(|| mismatch("the header lists it and no data was given".into()))??;
        if bytes.len() as u64 != info.byte_len() {
            return Err(mismatch(format!(
                "the header says {} bytes and its data has {}",
                info.byte_len(),
                bytes.len()
            )));
        }
        put(&bytes)?;
    }
    if tensors.next().is_some() {
        let problem = format!("more data was given than the {} tensors of the header", header.tensors().len());
        return Err(Error::ShapeMismatch { name: "(after the last)".into(), problem });
    }
    out.flush().map_err(|e| Error::io("<output>", e))?;
    Ok(header.file_len())
}
